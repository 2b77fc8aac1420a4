"""The registry's lock."""

from __future__ import annotations

import gc
import threading


class Guard:
    """A lock under which no code of the user's runs, destructors of garbage included.

    A garbage collection starts wherever an allocation happens to be one too many, and runs the
    destructors and weakref callbacks of whatever it finds, on that thread. Under a plain lock one
    that calls the node would wait for the lock that its own thread holds, and under a re-entrant
    one it would find things half changed. So collections wait until the lock is free again, a few
    microseconds later. (Switching them off is for the whole process, and so is switching them on:
    another thread's `gc.disable()` that falls into these microseconds is undone.)

    The lock is re-entrant for the moment after it is taken and the one before it is given back,
    when collections are on and nothing is half changed.
    """

    __slots__ = ("_collects", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._collects = False

    def __enter__(self) -> None:
        self._lock.acquire()
        self._collects = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._collects:
            gc.enable()
        self._lock.release()
