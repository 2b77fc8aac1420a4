"""Functions to be called later, by whoever asks what is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Timers:
    """A heap of functions by the moment at which they are due."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def add(self, seconds: float, function: Callable[[], None]) -> None:
        """Have `function` called in `seconds`."""
        with self._lock:
            entry = (time.monotonic() + seconds, next(self._numbers), function)
            heapq.heappush(self._heap, entry)

    def run(self) -> float | None:
        """Call what is due; return the seconds until the next one is, None if there is none.

        What one of them adds is called the next time at the earliest.
        """
        now = time.monotonic()
        while True:
            with self._lock:
                if not self._heap:
                    return None
                if self._heap[0][0] > now:
                    return max(0.0, self._heap[0][0] - time.monotonic())
                function = heapq.heappop(self._heap)[2]
            try:
                function()
            except Exception:
                log.exception("internal error in a timer; please report it")
