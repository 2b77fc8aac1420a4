"""What the tests of the Elixir library call in Python."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

closed: list[str] = []


def spin() -> None:
    """Run until interrupted."""
    while True:
        time.sleep(0.001)


def counting(name: str) -> Iterator[int]:
    """Count from 1, and leave a note in `closed` when closed."""
    number = 0
    try:
        while True:
            number += 1
            yield number
    finally:
        closed.append(name)


def failing(count: int) -> Iterator[int]:
    """Yield `count` numbers, then raise."""
    yield from range(count)
    raise ValueError("no more")


def failing_with_note() -> None:
    """Raise an exception that has a note and a cause."""
    error = ValueError("bad value")
    error.add_note("Try another one.")
    raise error from KeyError("cause")


def describe(value: Any) -> str:
    """Return the name of the type of `value`, and `value` as Python writes it."""
    return f"{type(value).__name__} {value!r}"


def apply(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function`, which may be Elixir's."""
    return function(*args)


def mixed() -> dict[str, Any]:
    """Return a container in which only some leaves can travel."""
    return {"number": 1, "items": [object(), "text", (object(),)]}


def cycle() -> list[Any]:
    """Return a list that holds itself."""
    ring: list[Any] = [1]
    ring.append(ring)
    return ring


async def later(value: Any) -> Any:
    """Return `value`, but not at once."""
    await asyncio.sleep(0)
    return value
