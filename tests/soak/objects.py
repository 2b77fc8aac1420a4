"""What the owners of the endurance tests own: part of the Python node, which has it by --setup."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pynode import Node

_node: Node
#: Weak references to all objects that there are.
_alive: set[weakref.ref[Any]] = set()
#: The context managers that were entered and not exited, the generators that were not closed.
_open: set[int] = set()
_last_end = 0.0


def setup(node: Node) -> None:
    """Remember the node, for `census`."""
    global _node
    _node = node


class Resource:
    """A context manager that tells whether it is entered."""

    def __enter__(self) -> int:
        _open.add(id(self))
        return 0

    def __exit__(self, *_: object) -> None:
        _open.remove(id(self))


def _numbers() -> Iterator[int]:
    token = object()
    _open.add(id(token))
    try:
        yield 0
        yield 1
    finally:
        _open.remove(id(token))


def few() -> list[Any]:
    """Return a few objects, which become refs."""
    objects = [Resource(), Resource(), _numbers()]
    _alive.update(weakref.ref(obj, _died) for obj in objects)
    return objects


def _died(reference: weakref.ref[Any]) -> None:
    global _last_end
    _alive.discard(reference)
    _last_end = time.time()


def census() -> dict[str, int]:
    """Return how many there are of everything that an owner leaves a trace in."""
    bridge: Any = _node.signals.names["snakebridge"]
    sessions, refs, owners = bridge.registry.counts()[:3]
    return {
        "alive": len(_alive),
        "open": len(_open),
        "sessions": sessions,
        "refs": refs,
        "owners": owners,
        "monitors": len(_node.signals._monitors),
        # Less this very call.
        "calls": len(bridge.underway.calls) - 1,
        "threads": threading.active_count(),
    }


def last_end() -> int:
    """Return when the last object was freed, in microseconds of the system's clock."""
    return round(_last_end * 1e6)
