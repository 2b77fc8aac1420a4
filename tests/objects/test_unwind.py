from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

from pynode.objects import Entry, SessionSettings
from pynode.objects.session import Session
from pynode.objects.unwind import unwind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pynode.objects.origin import Origin

SESSION = Session("jobs", SessionSettings(), cast("Origin", None), 0.0)


def entries_of(*objects: Any) -> list[Entry]:
    return [Entry(obj, SESSION, n, "ref", float(n)) for n, obj in enumerate(objects)]


class Recorder:
    """Appends its name to the log when it is exited and when it is destroyed."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, reason: object, trace: object) -> None:
        assert kind is GeneratorExit
        assert isinstance(reason, GeneratorExit)
        self.log.append(f"exit {self.name}")

    def __del__(self) -> None:
        self.log.append(f"del {self.name}")


def counting(name: str, log: list[str]) -> Iterator[int]:
    try:
        yield 1
        yield 2
    finally:
        log.append(f"close {name}")


def test_newest_first_and_the_list_is_emptied() -> None:
    log: list[str] = []
    entries = entries_of(*(Recorder(name, log) for name in "abc"))
    entries[0].entered = 1
    entries[2].entered = 2
    entries.reverse()
    unwind(entries)
    assert log == ["exit c", "exit c", "del c", "del b", "exit a", "del a"]
    assert entries == []


def test_generators_are_closed() -> None:
    log: list[str] = []
    started, fresh = counting("started", log), counting("fresh", log)
    assert next(started) == 1
    unwind(entries_of(started, fresh))
    assert log == ["close started"]
    assert list(started) == list(fresh) == []


def test_a_generator_that_runs_is_left_to_its_call(caplog: pytest.LogCaptureFixture) -> None:
    def running() -> Iterator[int]:
        unwind(entries)
        yield 1

    generator = running()
    entries = entries_of(generator)
    assert next(generator) == 1
    assert not caplog.records


def test_a_context_manager_is_left_as_by_a_closed_generator() -> None:
    left_with: list[BaseException] = []

    @contextmanager
    def transaction() -> Iterator[None]:
        try:
            yield
        except BaseException as reason:
            left_with.append(reason)
            raise

    manager = transaction()
    manager.__enter__()
    entries = entries_of(manager)
    entries[0].entered = 1
    unwind(entries)
    assert [type(reason) for reason in left_with] == [GeneratorExit]


def test_a_context_manager_that_raises_needs_no_garbage_collector() -> None:
    class Raising(Recorder):
        def __exit__(self, kind: object, reason: object, trace: object) -> None:
            super().__exit__(kind, reason, trace)
            assert isinstance(reason, GeneratorExit)
            raise reason

    log: list[str] = []
    entries = entries_of(Raising("a", log))
    entries[0].entered = 1
    gc.disable()
    try:
        unwind(entries)
        assert log == ["exit a", "del a"]
    finally:
        gc.enable()


@pytest.mark.parametrize("failure", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_raises_is_logged_and_stops_nothing(
    failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    class Failing(Recorder):
        def __exit__(self, kind: object, reason: object, trace: object) -> None:
            super().__exit__(kind, reason, trace)
            raise failure("on purpose")

    def stubborn() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise failure("on purpose")

    generator = stubborn()
    next(generator)
    entries = entries_of(Recorder("a", log), generator, Failing("c", log))
    del generator
    entries[0].entered = 1
    entries[2].entered = 2
    unwind(entries)
    assert log == ["exit c", "exit c", "del c", "exit a", "del a"]
    assert len(caplog.records) == 3
    assert all(record.levelno == logging.ERROR for record in caplog.records)
    assert "session jobs" in caplog.text


def test_an_object_that_claims_to_be_entered_but_cannot_be_exited(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entries = entries_of(object())
    entries[0].entered = 1
    unwind(entries)
    assert "__exit__" in caplog.text


def test_asynchronous_things_are_only_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async def numbers() -> Any:
        yield 1

    unwind(entries_of(numbers()))
    assert not caplog.records


def test_asynchronous_things_are_unwound_where_there_is_an_event_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []

    class Asynchronous(Recorder):
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, kind: object, reason: object, trace: object) -> None:
            self.__exit__(kind, reason, trace)
            raise ValueError("on purpose")

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            log.append("close b")

    generator = numbers()
    with asyncio.Runner() as runner:
        assert runner.run(anext(generator)) == 1
        entries = entries_of(Recorder("a", log), generator, Asynchronous("c", log))
        del generator
        entries[0].entered = entries[2].entered_async = 1
        unwind(entries, runner.run)
    assert log == ["exit c", "del c", "close b", "exit a", "del a"]
    assert len(caplog.records) == 1
