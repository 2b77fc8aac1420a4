"""Setting locks on several nodes at once, by asking the server of each (`global:set_lock/3`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pynode.errors import ExitError, NodeUnavailableError
from pynode.terms import Atom

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pynode.node import Node
    from pynode.otp.global_names.tables import Tables

#: The name of the server, on every node.
SERVER = Atom("global_name_server")

_SET_LOCK, _DEL_LOCK = Atom("set_lock"), Atom("del_lock")


def multi_call(node: Node, peers: Iterable[str], request: Any) -> dict[str, Any]:
    """Ask the servers of `peers`, and return the answers; nodes that are gone have none.

    As `gen_server:multi_call/3`: waits as long as it takes.
    """
    requests = []
    for peer in peers:
        try:
            requests.append((peer, node.send_request((SERVER, peer), request)))
        except NodeUnavailableError:
            continue
    replies = {}
    for peer, pending in requests:
        try:
            replies[peer] = pending.result()
        except ExitError:
            continue
    return replies


def set_lock(node: Node, tables: Tables, lock: tuple[Any, Any], peers: list[str]) -> bool:
    """Set a lock on `peers`, or on none of them: False if a node has it set for another."""
    if not peers:
        return True
    # Whether this node has it set is known without asking, and spares asking the others.
    if len(peers) > 1 and node.name in peers and not tables.can_lock(*lock):
        return False
    replies = multi_call(node, peers, (_SET_LOCK, lock))
    if all(replies.values()):
        return True
    del_lock(node, lock, [peer for peer, reply in replies.items() if reply])
    return False


def del_lock(node: Node, lock: tuple[Any, Any], peers: Iterable[str]) -> None:
    """Remove a lock from `peers`."""
    multi_call(node, peers, (_DEL_LOCK, lock))


def delete_global_lock(node: Node, lock: tuple[Any, Any], peers: Iterable[str]) -> None:
    """Remove a lock from `peers`, from the boss at last, on which all others set it first."""
    boss = max(peers)
    del_lock(node, lock, [peer for peer in peers if peer != boss])
    del_lock(node, lock, [boss])
