"""What the contenders are asked to do in Python."""

from __future__ import annotations

import functools
import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def echo(value: object) -> object:
    """Return what is given."""
    return value


class Thing:
    """An object that cannot travel."""

    __slots__ = ()

    def child(self) -> Thing:
        """Return a new one."""
        return Thing()


_things: list[Thing] = []


def make(count: int) -> None:
    """Have so many things, to be taken later: refs are to be measured without their objects."""
    _things.extend(Thing() for _ in range(count))


def take(start: int, stop: int) -> list[Thing]:
    """Return some of them."""
    return _things[start:stop]


def spin(seconds: float) -> None:
    """Run pure Python without a pause."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def sleep(seconds: float) -> None:
    """Wait without the interpreter's lock."""
    time.sleep(seconds)


def numbers(count: int) -> Iterator[int]:
    """Return an iterator over so many integers."""
    return iter(range(count))


@functools.cache
def function(module: str, name: str) -> Callable[..., Any]:
    """Return a function by its names: what a server of one's own would do, at the least."""
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
