"""How exceptions travel."""

from __future__ import annotations

import gc
import weakref
from typing import NoReturn

import pytest

from pynode.bridge.failures import without_frames
from pynode.errors import NodeUnavailableError, RefNotFoundError
from pynode.exits import bridge_error, python_error
from pynode.terms import Atom


def test_our_own_errors_keep_their_fields() -> None:
    error = RefNotFoundError("Gone.", ref_id=1, session_id="s", reason="expired")
    assert bridge_error(error) == {
        "__struct__": "Elixir.SnakeBridge.RefNotFoundError",
        "__exception__": True,
        "message": "Gone.",
        "ref_id": 1,
        "session_id": "s",
        "reason": "expired",
    }
    assert type(bridge_error(error)[Atom("reason")]) is Atom
    assert type(bridge_error(NodeUnavailableError("x", node="a@b"))[Atom("node")]) is Atom


class NastyError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class OddError(Exception):
    """Its text cannot be encoded."""

    def __str__(self) -> str:
        return "\ud800"


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (ValueError("no"), "ValueError", "no"),
        (ValueError(), "ValueError", "ValueError"),
        (NastyError(), "NastyError", f"{__name__}.NastyError"),
        (OddError(), "OddError", "\\ud800"),
        (SystemExit(3), "SystemExit", "3"),
    ],
)
def test_python_errors(error: BaseException, name: str, message: str) -> None:
    error.add_note("a note")
    term = python_error(error, None)
    assert term[Atom("type")].rpartition(".")[2] == name
    assert term[Atom("message")] == message
    assert term[Atom("notes")] == ["a note"]
    assert name in term[Atom("traceback")]


class Property:
    def __get__(self, *_: object) -> NoReturn:
        raise SystemExit


class StrangeError(Exception):
    """Whatever is asked of it raises."""

    __notes__ = Property()
    exceptions = Property()

    def __str__(self) -> str:
        raise KeyboardInterrupt


def test_an_exception_that_raises_whatever_is_asked_of_it() -> None:
    error = StrangeError()
    term = python_error(error, None)
    assert term[Atom("type")].endswith("StrangeError")
    assert term[Atom("notes")] == []
    assert without_frames(error) is error


@pytest.mark.parametrize("notes", [5, [5], "ab"])
def test_odd_notes(notes: object) -> None:
    error = ValueError("x")
    error.__notes__ = notes  # type: ignore[assignment]
    assert python_error(error, None)[Atom("message")] == "x"


def test_a_class_without_a_module() -> None:
    strange = type("Strange", (Exception,), {"__module__": None})
    assert python_error(strange("x"), None)[Atom("type")] == "Strange"


class Big:
    pass


def test_a_kept_exception_keeps_nothing_else_alive() -> None:
    def fail(depth: int, big: Big) -> NoReturn:
        try:
            if depth:
                fail(depth - 1, big)
            raise ValueError(depth)  # noqa: TRY301 (with frames to forget)
        except ValueError as error:
            raise ExceptionGroup("group", [error, KeyError()]) from error

    big = Big()
    alive = weakref.ref(big)
    kept = []
    try:
        fail(3, big)
    except ExceptionGroup as error:
        kept.append(without_frames(error))
    del big
    gc.collect()
    assert alive() is None
    assert isinstance(kept[0], ExceptionGroup)
