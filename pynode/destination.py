"""What can be sent to: a process of this node, as its peers see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pynode.dist.connection import Connection
    from pynode.dist.task import Task
    from pynode.node import Node
    from pynode.terms import Pid, Reference


class Destination(ABC):
    """What has a pid on a node and takes messages. `Node.add` gives it both."""

    node: Node
    pid: Pid

    def attached(self) -> None:  # noqa: B027 (most have nothing to do then)
        """Set up what needs `node` and `pid`; called once, before the first message comes."""

    @abstractmethod
    def deliver(self, connection: Connection, payload: bytes) -> Task | None:
        """Take a message, still encoded; return what is to be run for it, if anything.

        Called by the thread that reads from `connection`: it must be quick and never block.
        Raises DecodeError for a payload that is no term, which ends the connection.
        """

    def demonitored(self, reference: Reference) -> None:  # noqa: B027 (most do not care)
        """A remote process has removed the monitor `reference` that it had on this one."""
