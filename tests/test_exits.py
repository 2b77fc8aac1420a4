"""What Python exceptions are for Erlang; `tests/beam/test_exits.py` shows how they are printed."""

from __future__ import annotations

import asyncio
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pynode.errors import (
    CallInterrupted,
    ErlangError,
    ExitError,
    PynodeError,
    RefNotFoundError,
    RemoteError,
)
from pynode.exits import Failure, class_and_reason, exit_reason
from pynode.inspection import format_banner, format_exit
from pynode.terms import Atom
from pynode.values import encode, no_objects

if TYPE_CHECKING:
    from collections.abc import Callable

A = Atom
THERE = [(A("Elixir.Enum"), A("fetch!"), 2, [(A("file"), [*b"lib/enum.ex"]), (A("line"), 1)])]


def caught(error: BaseException) -> BaseException:
    """Return the exception as it is when it was raised."""
    try:
        raise error  # noqa: TRY301
    except BaseException as raised:  # noqa: BLE001
        return raised


def fields(term: Any) -> dict[str, Any]:
    return {str(name): value for name, value in term.items()}


# --- exits


def test_the_reason_of_an_exit_is_its_own() -> None:
    reason = (A("noproc"), [1, "a"])
    error = caught(ExitError("gone", reason=reason))
    assert exit_reason(error) is reason
    assert class_and_reason(error)[:2] == ("exit", reason)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, A("normal")),
        (0, A("normal")),
        (False, A("normal")),
        (A("normal"), A("normal")),
        (A("oops"), A("oops")),
        (1, (A("shutdown"), 1)),
        (True, (A("shutdown"), True)),
        (0.0, (A("shutdown"), 0.0)),
        ("no such file", (A("shutdown"), "no such file")),
        ((1, "a"), (A("shutdown"), (1, "a"))),
        (object, (A("shutdown"), "#Python<<class 'object'>>")),
        ("\ud800", (A("shutdown"), '"\\x{D800}"')),
    ],
)
def test_sys_exit(code: Any, reason: Any) -> None:
    error = caught(SystemExit(code))
    assert exit_reason(error) == reason
    assert encode(exit_reason(error)) == encode(reason)
    assert class_and_reason(error).error_class == "exit"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyboardInterrupt(), "shutdown"),
        (GeneratorExit(), "shutdown"),
        (asyncio.CancelledError(), "shutdown"),
        (CallInterrupted(), "killed"),
    ],
)
def test_what_tells_the_code_to_stop(error: BaseException, reason: str) -> None:
    assert exit_reason(caught(error)) == A(reason)
    assert class_and_reason(caught(error))[:2] == ("exit", A(reason))


def test_a_reason_that_cannot_travel_is_shown() -> None:
    error = caught(ExitError("gone", reason=[object]))
    assert exit_reason(error) == "[#Python<<class 'object'>>]"


# --- errors


def test_an_exception_is_a_crash() -> None:
    def divide(number: int, *, by: int) -> float:
        return number / by

    line = divide.__code__.co_firstlineno + 1
    try:
        divide(1, by=0)
    except ZeroDivisionError as raised:
        error = raised
    error.add_note("a note")
    exception, stacktrace = exit_reason(error)
    assert class_and_reason(error) == ("error", exception, stacktrace)
    assert exception["__struct__"] == "Elixir.SnakeBridge.PythonError"
    text = fields(exception)
    assert (text["type"], text["message"], text["notes"]) == (
        "ZeroDivisionError",
        "division by zero",
        ["a note"],
    )
    assert text["traceback"] == "".join(traceback.format_exception(error))
    assert text["ref"] is None
    name = f"test_an_exception_is_a_crash.<locals>.{divide.__name__}"
    file = [*map(ord, __file__)]
    assert stacktrace[0] == (A(__name__), A(name), 1, [(A("file"), file), (A("line"), line)])
    assert [entry[1] for entry in stacktrace] == [name, "test_an_exception_is_a_crash"]


def test_elixir_prints_it_as_a_crash() -> None:
    shown = format_exit(exit_reason(caught(ValueError("no"))))
    assert shown.startswith(
        "an exception was raised:\n    ** (SnakeBridge.PythonError) ValueError: no\n\nTraceback"
    )
    assert shown.splitlines()[-1].endswith("caught/1")


def test_an_error_of_erlang_is_that_error() -> None:
    error = caught(ErlangError("odd", reason=(A("badmatch"), 1)))
    reason, stacktrace = exit_reason(error)
    assert reason == (A("badmatch"), 1)
    assert class_and_reason(error) == ("error", reason, stacktrace)
    assert format_exit((reason, stacktrace)).startswith(
        "an exception was raised:\n    ** (MatchError) no match of right hand side value: 1\n"
    )


def test_an_error_of_the_bridge_is_its_struct() -> None:
    error = caught(RefNotFoundError("Gone.", ref_id=1, session_id="s", reason="expired"))
    exception, stacktrace = exit_reason(error)
    assert fields(exception)["__struct__"] == "Elixir.SnakeBridge.RefNotFoundError"
    assert format_banner("error", exception) == "** (SnakeBridge.RefNotFoundError) Gone."
    assert stacktrace[0][1] == "caught"
    odd = caught(RefNotFoundError("\ud800", ref_id=object(), session_id=None, reason="x"))
    assert "RefNotFoundError" in exit_reason(odd)[0]
    encode(exit_reason(odd))


@pytest.mark.parametrize("error_class", ["error", "exit", "throw"])
def test_a_remote_error_is_what_it_was_there(error_class: str) -> None:
    error = caught(
        RemoteError("failed", error_class=error_class, reason=A("oops"), stacktrace=THERE)
    )
    assert class_and_reason(error) == (error_class, A("oops"), THERE)
    assert (
        exit_reason(error)
        == {
            "error": (A("oops"), THERE),
            "exit": A("oops"),
            "throw": ((A("nocatch"), A("oops")), THERE),
        }[error_class]
    )


def test_a_remote_error_without_a_stacktrace() -> None:
    error = caught(RemoteError("failed", error_class="throw", reason=1))
    assert class_and_reason(error).stacktrace[0][1] == "caught"
    odd: Any = {"error_class": "other", "reason": object, "stacktrace": [object]}
    failure = class_and_reason(caught(RemoteError("failed", **odd)))
    assert failure[:2] == ("error", "#Python<<class 'object'>>")
    assert failure.stacktrace[0][1] == "caught"


def test_remote_errors_say_what_happened() -> None:
    exception = {
        A("__struct__"): A("Elixir.Enum.OutOfBoundsError"),
        A("__exception__"): True,
        A("message"): "out of bounds error",
    }
    banner = format_banner("error", exception, THERE)
    error = RemoteError(
        f"Enum.fetch!([], 0) on iex@host failed: {banner}",
        error_class="error",
        reason=exception,
        stacktrace=THERE,
    )
    assert str(error) == (
        "Enum.fetch!([], 0) on iex@host failed: ** (Enum.OutOfBoundsError) out of bounds error"
    )
    assert isinstance(error, ExitError | PynodeError)
    assert (error.error_class, error.reason, error.stacktrace) == ("error", exception, THERE)


def test_an_exception_of_a_function_in_c_has_the_frames_of_who_called_it() -> None:
    try:
        no_objects(object())  # ours, and all that there is
    except Exception as raised:  # noqa: BLE001
        error = raised
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next
    ((module, function, arity, _),) = class_and_reason(error).stacktrace
    assert (module, function, arity) == ("pynode.values", "no_objects", 1)


def test_an_exception_that_was_never_raised() -> None:
    assert class_and_reason(ValueError()).stacktrace == []


# --- whatever it is


class NastyError(Exception):
    """Whatever is asked of it raises."""

    def __str__(self) -> NoReturn:
        raise KeyboardInterrupt

    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError


class NastyExitError(ExitError):
    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError


class NastySystemExitError(SystemExit):
    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError


class NastyRemoteError(RemoteError):
    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError


class OddStr(str):
    __slots__ = ()

    def __str__(self) -> NoReturn:
        raise RuntimeError

    def encode(self, *_: Any) -> NoReturn:
        raise RuntimeError


def recursion() -> BaseException:
    def forever() -> NoReturn:
        forever()

    try:
        forever()
    except RecursionError as error:
        return error


def frames(count: int) -> BaseException:
    """An exception with frames of two functions in turn, which Python does not print as one."""

    def even(left: int) -> None:
        odd(left - 1)

    def odd(left: int) -> None:
        if left > 0:
            even(left - 1)
        else:
            raise ValueError("x" * 100)

    try:
        even(count)
    except ValueError as error:
        return error
    raise AssertionError


def chain(length: int) -> BaseException:
    error: BaseException | None = None
    for number in range(length):
        current = caught(ValueError(number))
        current.__cause__ = error
        error = current
    assert error is not None
    return error


def group() -> BaseException:
    error: Exception = ValueError("inner")
    for _ in range(200):
        error = ExceptionGroup("group", [error, *(ValueError(n) for n in range(50))])
    return caught(error)


def strange_names() -> BaseException:
    namespace: dict[str, Any] = {"__name__": "m" * 300 + "\ud800"}
    source = "class E(Exception): pass\ndef f(): raise E('\\ud800')\nf.__qualname__ = 'x'"
    exec(compile(source, "\udcff" + "d/" * 1_000 + "file.py", "exec"), namespace)
    namespace["E"].__qualname__ = "E\ud800" * 1_000
    namespace["E"].__module__ = 5
    try:
        namespace["f"]()
    except Exception as error:  # noqa: BLE001
        return error
    raise AssertionError


def no_name() -> BaseException:
    try:
        exec("raise ValueError", {"__name__": 5})
    except ValueError as error:
        return error
    raise AssertionError


def with_notes(notes: Any) -> BaseException:
    error = ValueError("x")
    error.__notes__ = notes
    return caught(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: caught(NastyError()),
        lambda: caught(NastyExitError("x", reason=1)),
        lambda: caught(NastySystemExitError(1)),
        lambda: caught(NastyRemoteError("x", error_class="exit", reason=1)),
        lambda: caught(ValueError("x" * 10_000_000)),
        lambda: caught(SystemExit("x" * 10_000_000)),
        lambda: caught(ValueError(OddStr("x"))),
        lambda: caught(ValueError("\ud800")),
        lambda: caught(ExitError("x", reason="\ud800")),
        lambda: caught(ExitError("x", reason={"a": 1, b"a": 2})),
        lambda: caught(ErlangError("x", reason=object())),
        lambda: caught(BaseException("a crash, too")),
        recursion,
        lambda: frames(900),
        lambda: chain(2_000),
        group,
        strange_names,
        no_name,
        lambda: with_notes(5),
        lambda: with_notes([5]),
        lambda: with_notes(["x" * 1_000_000] * 50),
    ],
)
def test_whatever_it_is(make: Callable[[], BaseException]) -> None:
    error = make()
    start = time.process_time()
    failure = class_and_reason(error)
    reason = exit_reason(error)
    assert time.process_time() - start < 5
    assert type(failure) is Failure
    assert failure.error_class in {"error", "exit"}
    assert len(failure.stacktrace) <= 32
    assert len(encode(tuple(failure))) < 400_000
    assert len(encode(reason)) < 400_000
    format_exit(reason).encode()


def test_the_innermost_frames_are_there() -> None:
    stacktrace = class_and_reason(frames(900)).stacktrace
    assert len(stacktrace) == 32
    assert [str(entry[1]).rpartition(".")[2] for entry in stacktrace[:3]] == ["odd", "even", "odd"]
    assert all(len(entry[1]) <= 255 for entry in class_and_reason(strange_names()).stacktrace)


def test_long_texts_keep_their_beginning_and_their_end() -> None:
    error = caught(ValueError("begin" + "x" * 10_000_000 + "end"))
    text = fields(class_and_reason(error).reason)
    assert text["message"].startswith("beginx")
    assert text["message"].endswith("xend")
    assert text["traceback"].startswith("Traceback (most recent call last):\n")
    assert text["traceback"].endswith("xend\n")
