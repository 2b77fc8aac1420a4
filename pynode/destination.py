"""What can be sent to: a process of this node, as its peers see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from pynode.show import short
from pynode.terms import Atom, Pid

if TYPE_CHECKING:
    from pynode.dist.connection import Connection
    from pynode.dist.task import Task
    from pynode.node import Node
    from pynode.protocol.control import MonitorP
    from pynode.terms import Reference


def node_of(pid: Pid) -> Atom:
    """Return the node of a process. Raises TypeError for what is no pid."""
    if not isinstance(pid, Pid):
        raise TypeError(f"{short(pid)} is no pid: give that of a process.")
    return pid.node


class Destination(ABC):
    """What has a pid on a node and takes signals. `Node.add` gives it both.

    A destination as such never exits: it can be monitored and linked to, and nothing comes of it;
    exit signals do not concern it. `pynode.process.Process` is one that can.

    All methods are called by the thread that reads from a connection: they must be quick and
    never block. Where one may return a task, that is run for it.
    """

    node: Node
    pid: Pid
    #: The name that it is registered under, if there is one.
    name: str | None = None
    #: Where its output would go, in Erlang. It is kept, and not used.
    group_leader: Pid | None = None

    def attached(self) -> Task | None:
        """Set up what needs `node` and `pid`; called once, before the first signal comes."""
        return None

    def ready(self) -> None:  # noqa: B027
        """Wait until what `attached` has begun is done; raises what that has raised."""

    @abstractmethod
    def deliver(self, connection: Connection, payload: bytes) -> Task | None:
        """Take a message, still encoded.

        Raises DecodeError for a payload that is no term, which ends the connection.
        """

    def monitored(self, connection: Connection, signal: MonitorP) -> bool:  # noqa: ARG002
        """A remote process monitors this one; False if that comes too late."""
        return True

    def demonitored(self, reference: Reference) -> None:  # noqa: B027 (most do not care)
        """The monitor `reference` is gone: removed by who had it, or with its connection."""

    def linked(self, connection: Connection, other: Pid) -> bool:  # noqa: ARG002
        """A remote process has linked itself to this one; False if that comes too late."""
        return True

    def unlinked(self, connection: Connection, other: Pid) -> None:  # noqa: B027
        """The process `other` has removed its link to this one."""

    def unlink_acknowledged(self, connection: Connection, other: Pid, unlink_id: int) -> None:  # noqa: B027
        """The process `other` has seen the end of the link that this one had to it."""

    def exit_signal(self, sender: Pid, reason: Any, *, link: bool) -> Task | None:  # noqa: ARG002
        """An exit signal of the process `sender`: because of a `link` to it, or of an exit/2."""
        return None

    def info(self) -> dict[str, Any]:
        """Return what there is to tell of it, by the items of `erlang:process_info/2`."""
        kind = type(self)
        return {"initial_call": (Atom(kind.__module__), Atom(kind.__qualname__), 0)}

    def stopped(self) -> None:  # noqa: B027
        """The node stops."""

    def join(self, deadline: float) -> None:  # noqa: B027
        """Wait until what `stopped` has begun is over, or the `deadline` of `time.monotonic`."""
