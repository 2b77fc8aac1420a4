"""The connection of a node with itself: what its processes send to each other goes this way.

Signals take the same path as those from other nodes, encoded and in order, so a process cannot
tell, and nobody shares an object by accident.
"""

from __future__ import annotations

import logging
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pynode.dist.connection import Connection
from pynode.dist.engine import Source
from pynode.protocol.channel import Message
from pynode.protocol.flags import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from pynode.dist.task import Task
    from pynode.etf import Part
    from pynode.protocol.control import ControlMessage
    from pynode.terms import Atom

log = logging.getLogger(__name__)


class Loopback(Connection):
    """Hands what is sent over it to `deliver`, on the thread that reads from it."""

    def __init__(self, name: Atom, deliver: Callable[[Connection, Message], Task | None]) -> None:
        Source.__init__(self)
        self.peer = name
        self.flags = DEFAULT
        self.creation = 0
        self.monitors = {}
        self.links = set()
        self.ended = "not_started"
        self._deliver = deliver
        self._queue: SimpleQueue[Message | None] = SimpleQueue()

    def next_task(self) -> Task | None:
        """See `Source.next_task`."""
        while (message := self._queue.get()) is not None:
            try:
                task = self._deliver(self, message)
            except BaseException:
                log.exception("internal error with %s; please report it", message.control)
                continue
            if task is not None:
                return task
        return None

    def encode(
        self, control: ControlMessage, payload: bytes | list[Part] | None = None
    ) -> list[Any]:
        """Return what `post` takes."""
        if isinstance(payload, list):
            payload = b"".join(payload)
        return [Message(control, payload)]

    def post(self, frames: list[Any]) -> None:
        """Queue what `encode` has returned."""
        for message in frames:
            self._queue.put(message)

    def send(self, control: ControlMessage, payload: bytes | None = None) -> None:
        """Queue a message. Never blocks."""
        self._queue.put(Message(control, payload))

    def throttle(self, sender: Hashable = None) -> None:
        """Do nothing: what is queued here is in memory anyway."""

    def is_full(self, sender: Hashable) -> bool:  # noqa: ARG002
        """See `Connection.is_full`."""
        return False

    def flush(self) -> None:
        """Do nothing: what is queued is read at once."""

    def open(self) -> None:
        """Let it be used."""
        self.ended = None

    def close(self, reason: str) -> None:
        """End it, after what is queued."""
        self.ended = reason
        self._queue.put(None)
