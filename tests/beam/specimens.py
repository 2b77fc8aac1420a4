"""What tests have a Python node make and call: things that note what becomes of them.

Each test has a `key` of its own, under which events are noted and gates are opened.
"""

from __future__ import annotations

import asyncio
import importlib
import sqlite3
import threading
import time
import weakref
from collections import defaultdict
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

_EVENTS: defaultdict[str, list[Any]] = defaultdict(list)
_GATES: defaultdict[str, threading.Event] = defaultdict(threading.Event)
_ASYNC_GATES: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
_INBOXES: defaultdict[str, SimpleQueue[Any]] = defaultdict(SimpleQueue)
#: What tests may raise, by name.
_EXCEPTIONS: dict[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (ValueError, SystemExit, KeyboardInterrupt, BaseException, GeneratorExit)
}


def events(key: str) -> list[Any]:
    """Return what was noted."""
    return list(_EVENTS[key])


def note(key: str, event: Any) -> None:
    """Note something."""
    _EVENTS[key].append(event)


def open_gate(key: str) -> None:
    """Let go on who waits at the gate, now and later."""
    _GATES[key].set()


def thread() -> int:
    """Return the thread that this call runs on."""
    return threading.get_ident()


def threads() -> int:
    """Return how many threads there are."""
    return threading.active_count()


def threads_of(session: str) -> int:
    """Return how many threads a session has for itself."""
    return sum(session in thread.name for thread in threading.enumerate())


def leaving(path: str) -> Iterator[int]:
    """Leave a file behind when that is closed."""
    try:
        yield 1
    finally:
        Path(path).touch()


def hold(key: str, name: str = "held") -> Any:
    """Wait at the gate, inside C code, and return something."""
    note(key, "holding")
    _GATES[key].wait()
    return Thing(key, name)


def large(key: str, size: int) -> bytes:
    """Wait at the gate, and return so many bytes that are no text."""
    note(key, "holding")
    _GATES[key].wait()
    return b"\xff" * size


def nap(key: str, seconds: float) -> None:
    """Sleep, inside C code."""
    note(key, "napping")
    time.sleep(seconds)


def spin(key: str, *_: Any) -> None:
    """Run until interrupted."""
    note(key, "spinning")
    try:
        while True:
            pass
    except BaseException as error:
        note(key, type(error).__name__)
        raise


def import_and_spin(key: str, package: str) -> None:
    """Import something, and run until interrupted."""
    importlib.import_module(package)
    spin(key)


def first_object(key: str, function: Callable[[Any], Any]) -> None:
    """Give an Elixir function an object, which makes a session, and do not come to an end."""
    note(key, "given")
    swallow(key, function, object())
    spin(key)


def stubborn(key: str, times: int) -> Any:
    """Run on, though interrupted, until that has happened so many times."""
    note(key, "running")
    while times:
        try:
            while True:
                pass
        except BaseException:  # noqa: BLE001
            times -= 1
            note(key, "caught")
    return Thing(key, "of the stubborn")


def inbox(key: str) -> SimpleQueue[Any]:
    """Return a queue whose `get` waits inside C code."""
    return _INBOXES[key]


def put_thing(key: str) -> None:
    """Put something into the queue, and keep it not."""
    _INBOXES[key].put(Thing(key, "late"))


class Thing:
    """Notes that it is freed."""

    def __init__(self, key: str, name: str = "thing") -> None:
        self.key = key
        self.name = name
        weakref.finalize(self, note, key, f"freed {name}")


def things(key: str, count: int) -> list[Thing]:
    """Return many of them."""
    return [Thing(key, str(number)) for number in range(count)]


class Manager:
    """A context manager that notes what happens; it fails at its exit if `failure` names how."""

    def __init__(self, key: str, name: str, failure: str = "") -> None:
        self.key = key
        self.name = name
        self.failure = failure

    def __enter__(self) -> str:
        note(self.key, f"enter {self.name}")
        return self.name

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        note(self.key, f"exit {self.name}")
        note(f"{self.key} threads", threading.get_ident())
        if self.failure:
            raise _EXCEPTIONS[self.failure]("on purpose")


class HeldManager(Manager):
    """It takes until the gate is open to enter it."""

    def __enter__(self) -> str:
        note(self.key, "entering")
        _GATES[self.key].wait()
        return super().__enter__()


class AsyncManager:
    """The same, asynchronous."""

    def __init__(self, key: str, name: str, failure: str = "") -> None:
        self.key = key
        self.name = name
        self.failure = failure

    async def __aenter__(self) -> str:
        note(self.key, f"enter {self.name}")
        return self.name

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await asyncio.sleep(0)
        note(self.key, f"exit {self.name}")
        note(f"{self.key} threads", threading.current_thread().name)
        if self.failure:
            raise _EXCEPTIONS[self.failure]("on purpose")


def counting(key: str, name: str, failure: str = "") -> Iterator[int]:
    """Count for ever, and note when that is closed."""
    number = 0
    try:
        while True:
            yield (number := number + 1)
    finally:
        note(key, f"close {name}")
        note(f"{key} threads", threading.get_ident())
        if failure:
            raise _EXCEPTIONS[failure]("on purpose")


def spinning_generator(key: str) -> Iterator[int]:
    """Do not come to the first item."""
    try:
        spin(key)
        yield 1
    finally:
        note(key, "closed")


async def async_counting(key: str, name: str) -> AsyncIterator[int]:
    """Count for ever, and note when that is closed."""
    number = 0
    try:
        while True:
            yield (number := number + 1)
    finally:
        await asyncio.sleep(0)
        note(key, f"close {name}")


async def first(numbers: AsyncIterator[int]) -> int:
    """Return the next item."""
    return await anext(numbers)


class Destroyed:
    """Notes its destruction and the thread that does it; waits at the gate first, or fails."""

    def __init__(self, key: str, name: str, *, slow: bool = False, failure: str = "") -> None:
        self.key = key
        self.name = name
        self.slow = slow
        self.failure = failure

    def __del__(self) -> None:
        if self.slow:
            note(self.key, "destroying")
            _GATES[self.key].wait()
        note(self.key, f"destroy {self.name}")
        note(f"{self.key} threads", threading.get_ident())
        if self.failure:
            raise _EXCEPTIONS[self.failure]("on purpose")


def failing(key: str, failure: str) -> Destroyed:
    """Return something that fails when it is destroyed."""
    return Destroyed(key, failure, failure=failure)


def slow_ones(key: str, count: int) -> list[Destroyed]:
    """Return many whose destruction waits at the gate."""
    return [Destroyed(key, str(number), slow=True) for number in range(count)]


def database() -> sqlite3.Connection:
    """Return a connection, which may be used by the thread alone that has made it."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("create table t (who text, n integer)")
    return connection


class Table:
    """A database that notes its rows, and what becomes of its transaction."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.connection = database()

    def insert(self, who: str, number: int) -> None:
        """Insert a row."""
        self.connection.execute("insert into t values (?, ?)", (who, number))

    def rows(self, who: str) -> list[int]:
        """Return the numbers, in the order in which they came."""
        query = "select n from t where who = ? order by rowid"
        return [number for (number,) in self.connection.execute(query, (who,))]

    def __enter__(self) -> None:
        self.connection.execute("begin")

    def __exit__(self, *_: object) -> None:
        self.connection.execute("rollback")
        note(self.key, "rolled back")

    def __del__(self) -> None:
        self.connection.close()
        note(self.key, "closed")


async def sleeping(key: str, name: str = "sleeper") -> Any:
    """Sleep until woken or cancelled; return something."""
    note(key, f"{name} sleeps")
    try:
        await _ASYNC_GATES[key].wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0)  # what it does at its end takes a moment
        note(key, f"{name} cancelled")
        raise
    note(key, f"{name} wakes")
    return Thing(key, name)


async def stubborn_sleeping(key: str, times: int) -> Any:
    """Sleep on, though cancelled, until that has happened so many times."""
    note(key, "running")
    while times:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            times -= 1
            note(key, "caught")
    return Thing(key, "of the stubborn")


async def resting(seconds: float, value: Any = None) -> Any:
    """Sleep, and return `value`."""
    await asyncio.sleep(seconds)
    return value


async def asleep(key: str, value: Any) -> Any:
    """Sleep until woken, and return `value`."""
    await _ASYNC_GATES[key].wait()
    return value


async def wake(key: str) -> None:
    """Wake the coroutines that sleep, now and later."""
    _ASYNC_GATES[key].set()


async def asking(key: str, function: Callable[[Any], Any], argument: Any) -> Any:
    """Call an Elixir function from within a coroutine."""
    return await asyncio.to_thread(swallow, key, function, argument)


async def blocking(function: Callable[[Any], Any], argument: Any) -> Any:
    """Call an Elixir function as a coroutine must not."""
    return function(argument)


async def stopping(key: str) -> None:
    """Stop the event loop, as no coroutine should."""
    asyncio.get_running_loop().stop()
    note(key, "stopped")


#: Coroutines by key, for `same`.
_SAME: dict[str, Any] = {}


def same(key: str) -> Any:
    """Return the same coroutine each time."""
    if key not in _SAME:
        _SAME[key] = sleeping(key)
    return _SAME[key]


def apply(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function; an Elixir one runs in Elixir."""
    return function(*args)


def swallow(key: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call an Elixir function, and note what that raises."""
    try:
        note(key, "asking")
        return function(*args)
    except BaseException as error:
        note(key, type(error).__name__)
        raise


class Counter:
    """Not safe for use by several threads: a lost update shows that two calls ran at once."""

    def __init__(self) -> None:
        self.value = 0
        self.inside = 0
        self.overlaps = 0

    def step(self) -> int:
        """Count, with every opportunity for another thread to come in between."""
        self.inside += 1
        if self.inside > 1:
            self.overlaps += 1
        before = self.value
        for _ in range(50):
            threading.Event().wait(0)  # lets go of the global lock
        self.value = before + 1
        self.inside -= 1
        return self.value

    def seen(self) -> Self:
        """Return itself."""
        return self
