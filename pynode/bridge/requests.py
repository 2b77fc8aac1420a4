"""The requests, one function each, and the table of them (docs/PROTOCOL.md)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pynode.bridge.views import ORDERS
from pynode.errors import InvalidRefError, InvalidRequestError
from pynode.modules import text
from pynode.objects import SessionSettings
from pynode.show import short
from pynode.terms import Atom, Pid, Reference
from pynode.values import Ref

if TYPE_CHECKING:
    from pynode.bridge.call import Call

OK: Final = Atom("ok")
ERROR: Final = Atom("error")
MORE: Final = Atom("more")
DONE: Final = Atom("done")


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


def invalid(what: str) -> InvalidRequestError:
    """Return the error for something that is no request, after the words that say what is."""
    return InvalidRequestError(
        f"{what}: the requests are described in docs/PROTOCOL.md; the common one is "
        "{:call, module, function, args, kwargs}.",
        reason="invalid_request",
    )


class Pending:
    """In the place of an answer: a coroutine to be awaited first, and what to do after that."""

    __slots__ = ("coroutine", "done")

    def __init__(
        self, coroutine: CoroutineType[Any, Any, Any], done: Callable[[], object] = lambda: None
    ) -> None:
        self.coroutine = coroutine
        self.done = done


def _do_call(call: Call, module: Any, function: Any, args: Any, kwargs: Any) -> Any:
    args, kwargs = call.arguments(args, kwargs)
    value = call.interruptible(call.modules.call, module, function, args, kwargs)
    return Pending(value) if type(value) is CoroutineType else (OK, value)


def _do_get(call: Call, module: Any, attribute: Any) -> Any:
    return (OK, call.interruptible(call.modules.find, module, attribute))


def _do_method(call: Call, ref: Any, name: Any, args: Any, kwargs: Any) -> Any:
    target = call.target(ref)
    args, kwargs = call.arguments(args, kwargs)
    value = call.interruptible(call.modules.method, target, name, args, kwargs)
    if type(value) is CoroutineType:
        return Pending(value, lambda: call.count_entered(name))
    call.count_entered(name)
    return (OK, value)


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
    _check_count(count, "items to fetch")
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
    call.bridge.watch_callers(session)
    if session.settings.own_thread:
        engine = call.bridge.node.engine
        engine.own_thread(session.lane, session)
        if session.ended is not None:
            engine.end_own_thread(session.lane, session)
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
    return (OK, {view.id: view.to_term() for view in call.bridge.sessions()})


def _do_session(call: Call, session_id: Any) -> Any:
    return (OK, call.bridge.session(_session_id(session_id)).to_term())


def _do_refs(call: Call, session_id: Any) -> Any:
    return (OK, [view.to_term() for view in call.bridge.refs(_session_id(session_id))])


def _do_types(call: Call, session_id: Any = None) -> Any:
    within = None if session_id is None else _session_id(session_id)
    return (OK, [view.to_term() for view in call.bridge.types(within)])


def _do_top(call: Call, order: Any, count: Any) -> Any:
    if not isinstance(order, str) or order not in ORDERS:
        raise invalid(f"The order is {short(order)}, which is none of {', '.join(ORDERS)}")
    _check_count(count, "sessions and types")
    return (OK, call.bridge.top(order, count).to_term())


def _do_info(call: Call) -> Any:
    return (OK, call.bridge.node_info().to_term())


def _do_cancel(call: Call, caller: Any) -> Any:
    _pid(caller)
    for other in list(call.bridge.underway.calls.values()):
        if other.caller == caller and other is not call:
            call.bridge.interrupt(other)
    return OK


def _do_given_up(call: Call, reference: Any) -> Any:
    if not isinstance(reference, Reference):
        raise invalid(f"A call is given up by {short(reference)}, which is no reference")
    call.bridge.demonitored(reference)
    return OK


def _session_id(value: Any) -> str | Pid:
    """Return what names a session: its id, or the pid whose implicit one it is."""
    return value if isinstance(value, Pid) else text(value, "session id")


def _check_count(value: Any, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise invalid(f"The number of {what} is {short(value)}")


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
    #: How many more parts there may be.
    optional: int = 0


REQUESTS: Final[dict[str, _Request]] = {
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
    "types": _Request(_do_types, 0, lane=False, urgent=True, optional=1),
    "top": _Request(_do_top, 2, lane=False, urgent=True),
    "info": _Request(_do_info, 0, lane=False, urgent=True),
    "cancel": _Request(_do_cancel, 1, lane=False, urgent=True),
    "given_up": _Request(_do_given_up, 1, lane=False, urgent=True),
}
