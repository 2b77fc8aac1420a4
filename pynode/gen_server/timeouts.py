"""The timeouts of a server: there is one at a time, and each message ends it."""

from __future__ import annotations

import functools
import math
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.dist.engine import Engine


class Timeout:
    """Calls `expire()`, a method, after some time in which it was neither cleared nor restarted.

    The engine's timers cannot be taken back. So one that is there already is made use of, and what
    it does is decided when it fires: whatever a server does, only few of them are ever pending.
    """

    def __init__(self, expire: Callable[[], None]) -> None:
        # A timer may outlive the server.
        self._expire = weakref.WeakMethod(expire)
        self._seconds: float | None = None
        self._deadline = math.inf
        self._lock = threading.Lock()
        #: When the pending timers fire: the next one is the last.
        self._timers: list[float] = []

    def clear(self) -> None:
        """End it."""
        self._seconds, self._deadline = None, math.inf

    def set(self, engine: Engine, seconds: float | None) -> None:
        """Begin to wait; None waits for ever."""
        self._seconds = seconds
        self.restart(engine)

    def restart(self, engine: Engine) -> None:
        """Begin to wait anew, for as long as before."""
        if self._seconds is not None:
            self._deadline = time.monotonic() + self._seconds
            if self._seconds:
                self._wake(engine, self._deadline)
            else:
                self._call()

    def is_over(self) -> bool:
        """Whether that time is over."""
        return self._deadline <= time.monotonic()

    def _wake(self, engine: Engine, deadline: float) -> None:
        """Have a timer fire at `deadline`, unless one does so before that."""
        with self._lock:
            if self._timers and self._timers[-1] <= deadline:
                return
            self._timers.append(deadline)
        seconds = max(0.0, deadline - time.monotonic())
        engine.after(seconds, functools.partial(self._fired, engine))

    def _fired(self, engine: Engine) -> None:
        with self._lock:
            self._timers.pop()
        deadline = self._deadline
        if deadline <= time.monotonic():
            self._call()
        elif deadline < math.inf:
            self._wake(engine, deadline)

    def _call(self) -> None:
        expire = self._expire()
        if expire is not None:
            expire()
