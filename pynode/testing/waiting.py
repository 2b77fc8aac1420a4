"""Waiting for a condition that sends no event."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout: float = 10.0) -> T:
    """Call `predicate` until its result is true, and return that.

    `timeout` is in seconds. Raises TimeoutError, with the last result, when they have passed.
    Only for what has no event to wait for.
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not (result := predicate()):
        left = deadline - time.monotonic()
        if left <= 0:
            name = getattr(predicate, "__qualname__", repr(predicate))
            raise TimeoutError(f"{name} was still {result!r} after {timeout} seconds.")
        time.sleep(min(pause, left))
        pause = min(pause * 2, 0.05)
    return result
