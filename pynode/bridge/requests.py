"""The requests, one function each, and the table of them (docs/PROTOCOL.md)."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pynode._version import __version__
from pynode.errors import InvalidRefError, InvalidRequestError
from pynode.modules import text
from pynode.objects import Entry, Session, SessionSettings
from pynode.show import short
from pynode.terms import Atom, Pid, Reference
from pynode.values import Ref

if TYPE_CHECKING:
    from pynode.bridge.call import Call

OK = Atom("ok")
ERROR = Atom("error")
MORE = Atom("more")
DONE = Atom("done")


def reference_of(ref: Any) -> Reference:
    """Return the reference of a ref. Raises InvalidRefError if it is none."""
    if type(ref) is Ref:
        return ref.id
    if isinstance(ref, Reference):
        return ref
    raise InvalidRefError(
        f"{short(ref)} is no ref: pass on the %SnakeBridge.Ref{{}} that a call returned.",
        reason="not_a_ref",
    )


def ref_to(entry: Entry) -> Ref:
    """Return the handle that stands for an entry."""
    kind = type(entry.obj)
    module = getattr(kind, "__module__", None)
    if not isinstance(module, str):  # a class may put anything there, or take it away
        module = "builtins"
    return Ref(
        entry.reference,
        entry.session.id,
        module,
        module.partition(".")[0],
        kind.__name__,
        stream=entry.kind == "stream",
    )


def invalid(what: str) -> InvalidRequestError:
    """Return the error for something that is no request, after the words that say what is."""
    return InvalidRequestError(
        f"{what}: the requests are described in docs/PROTOCOL.md; the common one is "
        "{:call, module, function, args, kwargs}.",
        reason="invalid_request",
    )


def _do_call(call: Call, module: Any, function: Any, args: Any, kwargs: Any) -> Any:
    args, kwargs = call.arguments(args, kwargs)
    return (
        OK,
        call.awaited(call.interruptible(call.modules.call, module, function, args, kwargs)),
    )


def _do_get(call: Call, module: Any, attribute: Any) -> Any:
    return (OK, call.interruptible(call.modules.find, module, attribute))


def _do_method(call: Call, ref: Any, name: Any, args: Any, kwargs: Any) -> Any:
    target = call.target(ref)
    args, kwargs = call.arguments(args, kwargs)
    value = call.awaited(call.interruptible(call.modules.method, target, name, args, kwargs))
    if name in _ENTERED:
        call.count_entered(_ENTERED[name])
    return (OK, value)


#: What these methods do to the number of times that a context manager is entered.
_ENTERED = {"__enter__": 1, "__exit__": -1}


def _do_getattr(call: Call, ref: Any, name: Any) -> Any:
    return (OK, call.interruptible(call.modules.attribute, call.target(ref), name))


def _do_setattr(call: Call, ref: Any, name: Any, value: Any) -> Any:
    target, value = call.target(ref), call.objects(value)
    path, _, last = text(name, "attribute").rpartition(".")
    if path:
        target = call.interruptible(call.modules.attribute, target, path)
    call.interruptible(setattr, target, last, value)
    return OK


def _do_put(call: Call, value: Any) -> Any:
    return (OK, call.new_ref(call.objects(value), "ref"))


def _do_next(call: Call, ref: Any, count: Any) -> Any:
    iterator = call.target(ref)
    if not isinstance(iterator, Iterator):
        raise InvalidRefError(
            f"A {type(iterator).__name__} is no iterator: make one of it with builtins.iter.",
            reason="not_an_iterator",
        )
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count < 2**31:
        raise invalid(f"The number of items to fetch is {short(count)}")
    items: list[Any] = []
    try:
        call.interruptible(items.extend, itertools.islice(iterator, count))
    except Exception as error:
        if not items:
            raise
        # What was made before it failed is not lost, and the error comes with the next request.
        call.resolve(ref).obj = _Failed(iterator, error)
        return (OK, items, MORE)
    return (OK, items, MORE if len(items) == count else DONE)


class _Failed:
    """An iterator that has raised, but whose user has not been told yet."""

    def __init__(self, iterator: Iterator[Any], error: Exception | None) -> None:
        self._iterator = iterator
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return next(self._iterator)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def _do_release(call: Call, refs: Any) -> Any:
    references = [reference_of(ref) for ref in (refs if type(refs) is list else [refs])]
    return (OK, call.bridge.registry.release(*references, session_id=call.session_id))


def _do_open_session(call: Call, session_id: Any, owner: Any, settings: Any) -> Any:
    name = text(session_id, "session id")
    checked = SessionSettings.from_mapping({} if settings is None else settings)
    call.bridge.reach(_pid(owner))
    session = call.bridge.registry.open_session(name, owner, checked)
    if session.settings.own_thread:
        engine = call.bridge.node.engine
        engine.own_thread(session.lane)
        if session.ended is not None:
            engine.end_own_thread(session.lane)
    return OK


def _do_give_session(call: Call, session_id: Any, giver: Any, receiver: Any) -> Any:
    call.bridge.reach(_pid(receiver))
    call.bridge.registry.give_session(text(session_id, "session id"), _pid(giver), receiver)
    return OK


def _do_add_owner(call: Call, session_id: Any, owner: Any) -> Any:
    call.bridge.reach(_pid(owner))
    call.bridge.registry.add_owner(text(session_id, "session id"), owner)
    return OK


def _do_remove_owner(call: Call, session_id: Any, owner: Any) -> Any:
    call.bridge.registry.remove_owner(text(session_id, "session id"), _pid(owner))
    return OK


def _do_release_session(call: Call, session_id: Any) -> Any:
    if isinstance(session_id, Pid):
        session = call.bridge.registry.implicit_session(session_id)
        name = None if session is None else session.id
    else:
        name = text(session_id, "session id")
    return (OK, 0 if name is None else call.bridge.registry.release_session(name))


def _do_sessions(call: Call) -> Any:
    registry = call.bridge.registry
    return (OK, {session.id: _describe(call, session) for session in registry.sessions()})


def _do_session(call: Call, session_id: Any) -> Any:
    return (OK, _describe(call, _session(call, session_id)))


def _do_refs(call: Call, session_id: Any) -> Any:
    session = _session(call, session_id)
    return (OK, [_describe_ref(entry) for entry in call.bridge.registry.refs(session.id)])


def _do_info(call: Call) -> Any:
    bridge = call.bridge
    counts = bridge.registry.counts()
    return (
        OK,
        _atoms(
            node=bridge.node.name,
            creation=bridge.node.creation,
            uptime=int(time.monotonic() - bridge.started),
            sessions=counts.sessions,
            refs=counts.refs,
            running_calls=sum(other.is_running for other in list(bridge.calls.values())),
            version=__version__,
            python=platform.python_version(),
        ),
    )


def _do_cancel(call: Call, caller: Any) -> Any:
    _pid(caller)
    for other in list(call.bridge.calls.values()):
        if other.caller == caller and other is not call:
            other.interrupt()
    return OK


def _session(call: Call, session_id: Any) -> Session:
    if isinstance(session_id, Pid):
        session = call.bridge.registry.implicit_session(session_id)
        if session is not None:
            return session
        session_id = f"auto_{session_id}"
    return call.bridge.registry.session(text(session_id, "session id"))


def _describe(call: Call, session: Session) -> dict[Atom, Any]:
    owners = list(session.owners)
    return _atoms(
        id=session.id,
        owners=owners,
        absent=list(filter(call.bridge.registry.is_absent, owners)),
        refs=session.refs,
        created_at=session.created_at,
        last_used=session.last_used,
        ttl_seconds=session.ttl_seconds,
        grace_seconds=session.grace_seconds,
        max_refs=session.max_refs,
        on_full=Atom(session.on_full),
        tags=session.tags,
        running=session.running,
    )


def _describe_ref(entry: Entry) -> dict[Atom, Any]:
    ref = ref_to(entry)
    return _atoms(
        ref=ref.to_term(),
        type_name=ref.type_name,
        created_at=entry.created_at,
        last_used=entry.last_used,
    )


def _atoms(**fields: Any) -> dict[Atom, Any]:
    return {Atom(name): value for name, value in fields.items()}


def _pid(value: Any) -> Pid:
    if not isinstance(value, Pid):
        raise invalid(f"A process is given as {short(value)}, which is no pid")
    return value


class _Request(NamedTuple):
    handler: Callable[..., Any]
    #: How many parts follow the name; a map of options may follow them.
    params: int
    #: Whether it waits for its turn in a session.
    lane: bool
    #: Whether it is answered even when no thread is free for calls.
    urgent: bool = False


REQUESTS: dict[str, _Request] = {
    "call": _Request(_do_call, 4, lane=True),
    "get": _Request(_do_get, 2, lane=True),
    "method": _Request(_do_method, 4, lane=True),
    "getattr": _Request(_do_getattr, 2, lane=True),
    "setattr": _Request(_do_setattr, 3, lane=True),
    "next": _Request(_do_next, 2, lane=True),
    "put": _Request(_do_put, 1, lane=True),
    "release": _Request(_do_release, 1, lane=True),
    "open_session": _Request(_do_open_session, 3, lane=False),
    "give_session": _Request(_do_give_session, 3, lane=False),
    "add_owner": _Request(_do_add_owner, 2, lane=False),
    "remove_owner": _Request(_do_remove_owner, 2, lane=False, urgent=True),
    "release_session": _Request(_do_release_session, 1, lane=False, urgent=True),
    "sessions": _Request(_do_sessions, 0, lane=False, urgent=True),
    "session": _Request(_do_session, 1, lane=False, urgent=True),
    "refs": _Request(_do_refs, 1, lane=False, urgent=True),
    "info": _Request(_do_info, 0, lane=False, urgent=True),
    "cancel": _Request(_do_cancel, 1, lane=False, urgent=True),
}
