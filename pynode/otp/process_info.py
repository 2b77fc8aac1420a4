"""`erlang:process_info/1,2` for the processes of this node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pynode.terms import Atom

if TYPE_CHECKING:
    from pynode.destination import Destination

_UNDEFINED = Atom("undefined")
#: What is the same for all processes here. What a BEAM measures is 0: the shell's `c:ni/0` and
#: others ask for it together with the rest, and would get nothing at all.
_USUAL: Final[dict[str, Any]] = {
    "current_function": _UNDEFINED,
    "dictionary": [],
    "heap_size": 0,
    "links": [],
    "memory": 0,
    "message_queue_len": 0,
    "monitored_by": [],
    "monitors": [],
    "priority": Atom("normal"),
    "reductions": 0,
    "stack_size": 0,
    "status": Atom("waiting"),
    "total_heap_size": 0,
    "trap_exit": False,
}
#: What `process_info/1` tells, in this order; a registered name comes before.
_COMMON = (
    *("current_function", "initial_call", "status", "message_queue_len", "links", "dictionary"),
    *("trap_exit", "priority", "group_leader", "total_heap_size", "heap_size", "stack_size"),
    "reductions",
)


def process_info(process: Destination, *items: Any) -> Any:
    """Return what Erlang returns for a process that is alive, without `items` the common ones.

    Raises KeyError for an item that there is not.
    """
    facts = _USUAL | process.info()
    facts["group_leader"] = process.group_leader or process.pid
    facts["registered_name"] = [] if process.name is None else Atom(process.name)
    if not items:
        named = () if process.name is None else ("registered_name",)
        return [(Atom(item), facts[item]) for item in (*named, *_COMMON)]
    if type(items[0]) is list:
        return [_item(facts, item) for item in items[0]]
    if items[0] == "registered_name" and process.name is None:
        return []  # In a list it is there.
    return _item(facts, items[0])


def _item(facts: dict[str, Any], item: Any) -> tuple[Any, Any]:
    match item:
        case Atom():
            return item, facts[item]
        case (Atom("dictionary"), _):
            return item, _UNDEFINED
    raise KeyError(item)
