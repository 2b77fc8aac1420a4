"""Who keeps a name that was registered on both sides before two nodes knew of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pynode.terms import Atom, ExternalFun, Fun, Pid

if TYPE_CHECKING:
    from pynode.node import Node

_CONFLICT, _NONE = Atom("global_name_conflict"), Atom("none")


def resolve_conflict(node: Node, method: Any, name: Any, one: Pid, other: Pid) -> Any:
    """Return the pid that keeps `name`, or ``none`` (`global:resolve_it/4`).

    `method` is the fun that the name was registered with: one of those that `global.erl` has, or
    one whose code is on another node, where it is run. Any other keeps neither.
    """
    low, high = (one, other) if one.node < other.node else (other, one)
    match method:
        case ExternalFun("global", "random_exit_name"):
            node.exit(high, Atom("kill"))
            return low
        case ExternalFun("global", "random_notify_name"):
            node.send(high, (_CONFLICT, name))
            return low
        case ExternalFun("global", "notify_all_name"):
            node.send(one, (_CONFLICT, name, other))
            node.send(other, (_CONFLICT, name, one))
        case Fun():
            return node.callable(method)(name, one, other)
    return _NONE
