"""What there is on a node, as it was at one moment: for Python, and for the protocol's answers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from pynode.objects import size_of, type_names
from pynode.terms import Atom
from pynode.values import Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pynode.objects import Entry, Registry, Session, Tally
    from pynode.terms import Pid


class View:
    """Base of the views, all dataclasses: their fields are the keys of the protocol's maps."""

    __slots__ = ()

    def to_term(self) -> dict[Atom, Any]:
        """Return the map that the protocol has for it (docs/PROTOCOL.md)."""
        kind: Any = type(self)
        return {key: _term(getattr(self, name)) for key, name in _keys(kind)}


@cache
def _keys(kind: Any) -> list[tuple[Atom, str]]:
    return [(Atom(field.name), field.name) for field in fields(kind)]


def _term(value: Any) -> Any:
    if isinstance(value, (View, Ref)):
        return value.to_term()
    return [_term(item) for item in value] if type(value) is list else value


@dataclass(frozen=True, slots=True)
class NodeInfo(View):
    """A node. Times are in seconds, `time` is in Unix seconds, `memory` in bytes."""

    node: Atom
    creation: int
    uptime: int
    time: int
    sessions: int
    refs: int
    owners: int
    #: Calls that are running, and all that have begun since the node was started.
    running_calls: int
    calls: int
    #: What the process has in the machine's memory (resident set); None where that is not known.
    memory: int | None
    version: str
    python: str


@dataclass(frozen=True, slots=True)
class SessionInfo(View):
    """A session. Moments are in Unix seconds, durations in seconds."""

    id: str
    owners: list[Pid]
    #: Those of the owners whose node is lost, for as long as `grace_seconds` allow.
    absent: list[Pid]
    refs: int
    created_at: int
    last_used: int
    ttl_seconds: int | float
    grace_seconds: int | float
    max_refs: int
    on_full: Atom
    tags: Mapping[Any, Any]
    #: Calls that are running in it, and all that have begun in it.
    running: int
    calls: int


@dataclass(frozen=True, slots=True)
class SessionUse(SessionInfo):
    """A session with the bytes that its objects take: those `measured` of its `refs`."""

    bytes: int
    measured: int


@dataclass(frozen=True, slots=True)
class RefInfo(View):
    """A ref. Moments are in Unix seconds; `bytes` is None where that is not known."""

    ref: Ref
    type_name: str
    created_at: int
    last_used: int
    bytes: int | None


@dataclass(frozen=True, slots=True)
class TypeInfo(View):
    """How many objects of one type there are, and what `measured` of them take."""

    python_module: str
    type_name: str
    count: int
    bytes: int
    measured: int


@dataclass(frozen=True, slots=True)
class Top(View):
    """A node with the sessions and types that come first in some order."""

    info: NodeInfo
    sessions: list[SessionUse]
    types: list[TypeInfo]


#: The orders of `Bridge.top`: the greatest of these come first.
ORDERS: dict[str, Callable[[Session, Tally], float]] = {
    "refs": lambda session, _: session.refs,
    "memory": lambda _, tally: tally.bytes,
    "calls": lambda session, _: session.calls,
    "age": lambda session, _: -session.created,
}


def ref_to(entry: Entry) -> Ref:
    """Return the handle that stands for an entry."""
    module, name = type_names(type(entry.obj))
    library = module.partition(".")[0]
    stream = entry.kind == "stream"
    return Ref(entry.reference, entry.session.id, module, library, name, stream=stream)


def session_info(registry: Registry, session: Session) -> SessionInfo:
    """Describe a session."""
    return SessionInfo(**_of_session(registry, session))


def session_use(registry: Registry, session: Session, tally: Tally) -> SessionUse:
    """Describe a session, with what its objects take."""
    described = _of_session(registry, session)
    return SessionUse(**described, bytes=tally.bytes, measured=tally.measured)


def _of_session(registry: Registry, session: Session) -> dict[str, Any]:
    owners = list(session.owners)
    return {
        "id": session.id,
        "owners": owners,
        "absent": list(filter(registry.is_absent, owners)),
        "refs": session.refs,
        "created_at": session.created_at,
        "last_used": session.last_used,
        "ttl_seconds": session.ttl_seconds,
        "grace_seconds": session.grace_seconds,
        "max_refs": session.max_refs,
        "on_full": Atom(session.on_full),
        "tags": session.tags,
        "running": session.running,
        "calls": session.calls,
    }


def ref_info(entry: Entry) -> RefInfo:
    """Describe a ref."""
    ref = ref_to(entry)
    size = size_of(entry.obj)
    return RefInfo(ref, str(ref.type_name), entry.created_at, entry.last_used, size)


def type_infos(tallies: Mapping[tuple[str, str], Tally], *, by_bytes: bool) -> list[TypeInfo]:
    """Describe the types, with the most objects or bytes first."""
    found = [
        TypeInfo(module, name, tally.count, tally.bytes, tally.measured)
        for (module, name), tally in tallies.items()
    ]
    return sorted(found, key=_bytes if by_bytes else _count, reverse=True)


def _bytes(info: TypeInfo) -> int:
    return info.bytes


def _count(info: TypeInfo) -> int:
    return info.count
