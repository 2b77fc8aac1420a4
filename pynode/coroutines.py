"""The event loop of a node, on which the coroutines are awaited that its callers ask for.

asyncio is imported when the first one comes: it takes 6 MB and 40 ms, and many nodes never need it.
"""

from __future__ import annotations

import concurrent.futures
import inspect
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pynode.dist.task import AWAITED, Task
from pynode.errors import CallInterrupted

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from pynode.dist.engine import Engine

#: Seconds that coroutines have to end when the node stops.
_PATIENCE = 1.0


class EventLoop:
    """An event loop on a thread of its own, which is started when it is first wanted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._thread: _Thread | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await `coroutine` on the loop and return its result; the calling thread waits.

        Raises what the coroutine raises, and CallInterrupted if the task of this thread is
        interrupted: then the coroutine is cancelled.
        """
        import asyncio  # noqa: PLC0415 (see the top of this module)

        with self._engine.shield():
            future = asyncio.run_coroutine_threadsafe(_outcome(coroutine), self.started())
            inbox: SimpleQueue[Any] = SimpleQueue()
            future.add_done_callback(inbox.put)
            try:
                value, error = self._engine.wait(inbox, None).result()
            except CallInterrupted:
                future.cancel()
                raise
            except concurrent.futures.CancelledError:
                # The coroutine's own doing; this is what it would be without a thread in between.
                raise asyncio.CancelledError from None
        if error is not None:
            raise error
        return value

    def awaited(self, coroutine: Coroutine[Any, Any, Any], task: Task) -> Awaited:
        """Return `coroutine` as something to be awaited for a suspended task."""
        return Awaited(coroutine, task, self._engine, self)

    def started(self) -> asyncio.AbstractEventLoop:
        """Return the loop, which runs. Raises RuntimeError if there is no thread for it."""
        with self._lock:
            if self._thread is None:
                thread = _Thread()
                thread.start()
                self._thread = thread
            return self._thread.loop

    def stop(self) -> None:
        """End the loop, if it was started, with what runs on it."""
        with self._lock:
            if self._thread is not None:
                self._thread.end()


class Awaited:
    """A coroutine that is awaited on an event loop for a suspended task.

    When the task is interrupted it is cancelled. When it has ended, the task is run again.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], task: Task, engine: Engine, loop: EventLoop
    ) -> None:
        self._coroutine = coroutine
        self._task = task
        self._engine = engine
        self._event_loop = loop
        self._outcome: tuple[Any, BaseException | None] = (None, None)

    def begin(self) -> None:
        """Begin, on any thread; from here on, another one may run the task."""
        try:
            loop = self._event_loop.started()
            loop.call_soon_threadsafe(self._begin, loop)
        except RuntimeError as error:  # there is no thread for the loop, or it is closed
            self._end(None, error)

    def result(self) -> Any:
        """Return what the coroutine has returned, or raise what it has raised."""
        value, error = self._outcome
        if error is not None:
            raise error
        return value

    # --- on the loop

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        AWAITED.set(self._task)  # in the context of this callback, which the coroutine gets
        future = loop.create_task(_outcome(self._coroutine))
        future.add_done_callback(self._done)

        def cancel() -> None:
            with suppress(RuntimeError):  # the loop is closed, and has cancelled it
                loop.call_soon_threadsafe(future.cancel)

        if not self._task.cancel_with(cancel):
            future.cancel()

    def _done(self, future: asyncio.Task[tuple[Any, BaseException | None]]) -> None:
        import asyncio  # noqa: PLC0415 (see the top of this module)

        if not future.cancelled():
            self._end(*future.result())
        elif self._task.interrupted:
            self._end(None, CallInterrupted())
        else:
            self._end(None, asyncio.CancelledError())

    def _end(self, value: Any, error: BaseException | None) -> None:
        self._task.cancel_with(None)
        if inspect.getcoroutinestate(self._coroutine) == inspect.CORO_CREATED:
            self._coroutine.close()
        self._outcome = (value, error)
        self._engine.again(self._task)


class _Thread(threading.Thread):
    """Runs an event loop until `end`, whatever the user's code does to it."""

    #: See `Engine.check_nesting`.
    runs_event_loop = True

    def __init__(self) -> None:
        import asyncio  # noqa: PLC0415 (see the top of this module)

        super().__init__(name="pynode-asyncio", daemon=True)
        self.loop = asyncio.new_event_loop()
        self._ended = False

    def run(self) -> None:
        import asyncio  # noqa: PLC0415 (see the top of this module)

        loop = self.loop
        while not self._ended:
            loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=_PATIENCE))
        loop.close()

    def end(self) -> None:
        """End the loop soon, with what runs on it; more than once does nothing more."""
        self._ended = True
        with suppress(RuntimeError):  # it is closed
            self.loop.call_soon_threadsafe(self.loop.stop)


async def _outcome(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """Return what a coroutine returns or raises: sys.exit() would end the event loop."""
    import asyncio  # noqa: PLC0415 (see the top of this module)

    try:
        return await coroutine, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001
        return None, error
