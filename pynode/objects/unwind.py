"""What ends is unwound, not just dropped, as Python does it when it closes a generator.

This runs code of the user's: it may take long, block, raise, or call back into the node. So it
never runs under a lock, and nobody waits for it.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pynode.objects.session import Entry, Session

RunAsync: TypeAlias = "Callable[[Coroutine[Any, Any, None]], object]"

_log = logging.getLogger(__name__)


class Unwinding:
    """What is left to do for objects of one session that have left: a function, to be called once.

    It is the `last` one of its session when that has ended. `run_async`, if whoever calls it has
    an event loop, awaits a coroutine, waits for it, and returns its result.
    """

    __slots__ = ("_entries", "last", "run_async", "session")

    def __init__(self, session: Session, entries: list[Entry], *, last: bool = False) -> None:
        self.session = session
        self.last = last
        self.run_async: RunAsync | None = None
        self._entries = entries

    def __call__(self) -> None:
        """Unwind and drop the objects."""
        unwind(self._entries, self.run_async)


class Dropping(Unwinding):
    """What is left to do for objects that somebody has looked at while they were unwound."""

    __slots__ = ()

    def __call__(self) -> None:
        """Drop the objects."""
        self._entries.clear()


def unwind(entries: list[Entry], run_async: RunAsync | None = None) -> None:
    """Unwind and drop the objects of these entries, newest first, and empty the list.

    Context managers that were entered are exited as if their block had been left by a
    GeneratorExit, which is what Python raises in a block that will not be finished: a transaction
    rolls back. Generators are closed. An exception is logged and does not stop the rest. What is
    asynchronous is exited and closed by `run_async`, and only dropped without.
    """
    entries.sort(key=_created)
    while entries:
        entry = entries.pop()
        obj = entry.obj
        steps: list[Callable[[Any], object]] = [_exit] * entry.entered
        if isinstance(obj, GeneratorType) and not obj.gi_running:
            # One that is running is in a call that is being interrupted: it ends with that.
            steps.append(GeneratorType.close)
        if run_async is not None:
            steps += [partial(_run, run_async, _exit_async)] * entry.entered_async
            if isinstance(obj, AsyncGeneratorType) and not obj.ag_running:
                steps.append(partial(_run, run_async, _close_async))
        for step in steps:
            try:
                step(obj)
            except BaseException as error:  # noqa: BLE001  A SystemExit of the object's is not ours.
                # As text: a log handler that keeps its records would keep the object, too.
                _log.error(
                    "An object of session %s failed to unwind:\n%s",
                    entry.session.id,
                    traceback.format_exc(),
                )
                # What was raised again on its way here is in a frame of its own traceback.
                error.__traceback__ = None


def _run(run_async: RunAsync, step: Callable[[Any], Coroutine[Any, Any, None]], obj: Any) -> None:
    run_async(step(obj))


async def _exit_async(obj: Any) -> None:
    reason = GeneratorExit()
    try:
        with suppress(GeneratorExit):
            await type(obj).__aexit__(obj, GeneratorExit, reason, None)
    finally:
        reason.__traceback__ = None  # see _exit


async def _close_async(obj: AsyncGeneratorType[Any, Any]) -> None:
    await obj.aclose()


def _created(entry: Entry) -> float:
    return entry.created


def _exit(obj: Any) -> None:
    reason = GeneratorExit()
    try:
        with suppress(GeneratorExit):
            type(obj).__exit__(obj, GeneratorExit, reason, None)
    finally:
        # Its traceback leads back here, and to the object: a cycle, if it were raised again.
        reason.__traceback__ = None
