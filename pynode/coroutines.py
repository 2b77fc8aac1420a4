"""The event loop of a node, on which the coroutines are awaited that its callers ask for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pynode.dist.task import CallInterrupted

if TYPE_CHECKING:
    from types import CoroutineType

    from pynode.dist.engine import Engine


class EventLoop:
    """An event loop on a thread of its own, which is started when it is first wanted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: CoroutineType[Any, Any, Any]) -> Any:
        """Await `coroutine` on the loop and return its result; the calling thread waits.

        Raises what the coroutine raises, and CallInterrupted if the task of this thread is
        interrupted: then the coroutine is cancelled.
        """
        with self._engine.shield():
            future = asyncio.run_coroutine_threadsafe(_outcome(coroutine), self._started())
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

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_run, args=(loop,), name="pynode-asyncio", daemon=True
                ).start()
                self._loop = loop
            return self._loop

    def stop(self) -> None:
        """End the loop, if it was started, with what runs on it."""
        with self._lock:
            loop = self._loop
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(loop.stop)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        # One round more, in which they are cancelled.
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()


async def _outcome(coroutine: CoroutineType[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """Return what a coroutine returns or raises: sys.exit() would end the event loop."""
    try:
        return await coroutine, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001
        return None, error
