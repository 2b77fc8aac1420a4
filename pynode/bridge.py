"""The request protocol: `GenServer.call({:snakebridge, node}, request)` from any BEAM language.

Theory of operation. The bridge is a destination, registered as ``snakebridge``. `deliver`, on the
thread that reads, decodes a message, finds out which lane it belongs to (the session of the ref
that it is about, or the one that it names, or its caller's own), and hands a `Call` to the engine,
which runs it in turn. The call looks up, runs and encodes; whatever has no Erlang form becomes a
ref while the reply is encoded, and the session that will hold it comes into being just then, with
its owner's monitor sent ahead of the reply on the same connection. If the reply cannot be encoded
after all, the refs made for it are taken back.

The registry (`pynode.objects`) decides what lives; the bridge tells it about owners that are DOWN
and hears from it about sessions that have ended, whose calls it then stops.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import platform
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from reprlib import repr  # noqa: A004 (what is shown in errors must stay short)
from types import CoroutineType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from pynode import etf, gen
from pynode._version import __version__
from pynode.destination import Destination
from pynode.dist.task import CallInterrupted, Task
from pynode.errors import (
    BridgeError,
    InvalidRefError,
    InvalidRequestError,
    NodeUnavailableError,
    SessionNotFoundError,
)
from pynode.failures import bridge_error, python_error, without_frames
from pynode.invoke import Modules, arguments, text
from pynode.objects import OWNER_DOWN, UNKNOWN, Entry, Registry, Session, SessionSettings
from pynode.terms import Atom, Map, Pid, Reference
from pynode.values import UNREPRESENTABLE, Ref, from_struct, to_term

if TYPE_CHECKING:
    from pynode.dist.connection import Connection

log = logging.getLogger(__name__)

_OK = Atom("ok")
_ERROR = Atom("error")
_MORE = Atom("more")
_DONE = Atom("done")


class Bridge(Destination):
    """Answers the request protocol, until `stop`: add it to a node under its `NAME`.

    `allow` limits what may be called to these modules; see `Modules`.
    """

    NAME = "snakebridge"
    registry: Registry

    def __init__(self, *, allow: Iterable[str] | None = None) -> None:
        self.modules = Modules(allow)
        self.guarded = allow is not None
        self.calls: dict[Any, Call] = {}
        self.started = time.monotonic()
        self._monitors: dict[Pid, Reference] = {}
        self._first_ref: Ref | None = None
        self._idle = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_lock = threading.Lock()
        self._stopping = False

    def attached(self) -> None:
        """See `Destination.attached`."""
        self.registry = Registry(
            new_reference=self.node.new_reference,
            monitor=self._monitor,
            demonitor=self._demonitor,
            defer=self.node.engine.submit,
            ended=self._ended,
        )
        self._expire_later()

    def stop(self, timeout: float) -> bool:
        """Refuse new calls and wait for those that run; False if some still do after `timeout`."""
        self._stopping = True
        with self._idle:
            return self._idle.wait_for(lambda: not self.calls, timeout)

    # --- owners

    def _monitor(self, owner: Pid) -> None:
        # Whoever wants a new owner has connected to its node before; if that is lost again, the
        # owner is as good as dead. This runs under the registry's lock, so it is told later.
        gone = functools.partial(self._owner_gone, owner)
        if self.node.connection(owner.node) is None:
            self.node.engine.submit(lambda: gone(None))
        else:
            self._monitors[owner] = self.node.monitor(owner, gone)

    def _demonitor(self, owner: Pid) -> None:
        reference = self._monitors.pop(owner, None)
        if reference is not None:
            self.node.demonitor(reference)

    def _owner_gone(self, owner: Pid, reason: Any) -> None:
        self._monitors.pop(owner, None)
        log.debug("owner %s is DOWN: %s", owner, reason)
        self.registry.owner_down(owner)

    def reach(self, owner: Pid) -> None:
        """Connect to the node of a process that is to be an owner, so that it can be monitored.

        Raises NodeUnavailableError. May block: not for the thread that reads.
        """
        self.node.connect(owner.node)

    def _ended(self, session: Session, reason: str) -> None:
        """Stop the calls of a session that has ended."""
        for task in self.node.engine.tasks(session.lane):
            # When an implicit session is released, its owner may go on and make a new one: what
            # has not begun is not about the old one.
            if task.is_running or reason == OWNER_DOWN or session.lane == session.id:
                task.interrupt()
        self.node.engine.end_own_thread(session.lane)

    def _expire_later(self) -> None:
        def expire() -> None:
            if not self._stopping:
                self.node.engine.submit(self.registry.expire)
                self._expire_later()

        seconds = self.registry.next_expiry()
        self.node.engine.after(min(1.0, seconds) if seconds is not None else 1.0, expire)

    # --- messages

    def deliver(self, connection: Connection, payload: bytes) -> Task | None:
        """See `Destination.deliver`."""
        self._first_ref = None
        message = etf.decode_at(payload, 0, struct=self._from_struct, fun=self.node.callable)[0]
        match message:
            case (Atom("$gen_call"), (Pid() as caller, tag), request):
                return self._call(connection, caller, tag, request)
            case (Atom("$gen_cast"), request):
                return self._call(connection, None, None, request)
        log.debug("ignored a message that is no request: %s", repr(message))
        return None

    def _from_struct(self, fields: dict[Any, Any]) -> Any:
        value = from_struct(fields)
        if self._first_ref is None and type(value) is Ref:
            self._first_ref = value
        return value

    def _call(self, connection: Connection, caller: Pid | None, tag: Any, request: Any) -> Call:
        call = Call(self, connection, caller, tag, self._first_ref)
        if self._stopping:
            message = f"{self.node.name} is shutting down: call it again when it is back."
            call.fail_with(NodeUnavailableError(message, node=self.node.name))
        else:
            try:
                call.parse(request)
            except BridgeError as error:
                call.fail_with(error)
        self.calls[call.key] = call
        return call

    def demonitored(self, reference: Reference) -> None:
        """See `Destination.demonitored`: the caller has its answer, or has given up."""
        call = self.calls.get(reference)
        if call is not None:
            session = call.known_session()
            if session is not None and session.settings.cancel_on_timeout:
                call.interrupt()

    def done(self, call: Call) -> None:
        """Forget a call that has been answered."""
        self.calls.pop(call.key, None)
        if self._stopping:
            with self._idle:
                self._idle.notify_all()

    def run_async(self, coroutine: CoroutineType[Any, Any, Any]) -> Any:
        """Await `coroutine` on the node's event loop and return its result."""
        with self._loop_lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="pynode-asyncio", daemon=True
                ).start()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        inbox: SimpleQueue[Any] = SimpleQueue()
        future.add_done_callback(inbox.put)
        try:
            return self.node.engine.wait(inbox, None).result()
        except CallInterrupted:
            future.cancel()
            raise


class Call(Task):
    """One request, from its arrival to its answer."""

    __slots__ = (
        "bridge",
        "caller",
        "connection",
        "entry",
        "first_ref",
        "handler",
        "key",
        "made",
        "modules",
        "params",
        "session_id",
        "tag",
    )

    def __init__(
        self,
        bridge: Bridge,
        connection: Connection,
        caller: Pid | None,
        tag: Any,
        first_ref: Ref | None,
    ) -> None:
        super().__init__()
        self.bridge = bridge
        self.connection = connection
        self.caller = caller
        self.tag = tag
        #: The first ref in the request; without one, no arguments need to be looked through.
        self.first_ref = first_ref
        self.modules = bridge.modules
        #: The reference in the tag: the caller's monitor on us has the same one.
        self.key: Any = gen.alias_of(tag) or (tag if isinstance(tag, Reference) else id(self))
        self.handler: Callable[..., Any]
        self.params: tuple[Any, ...] = ()
        #: The session that the request names; None for the implicit one.
        self.session_id: str | None = None
        #: What the request is about, once it is resolved.
        self.entry: Entry | None = None
        #: Refs made for the answer.
        self.made: list[Entry] = []

    # --- on the thread that reads

    def parse(self, request: Any) -> None:
        """Find the handler, the options and the lane. Raises InvalidRequestError."""
        no_params: tuple[Any, ...] = ()
        if isinstance(request, str):
            kind, params = request, no_params
        elif type(request) is tuple and request and isinstance(request[0], str):
            kind, params = request[0], request[1:]
        else:
            raise _invalid(f"The request is {repr(request)}")
        spec = _REQUESTS.get(kind)
        if spec is None:
            raise _invalid(f"There is no request {repr(kind)}")
        if len(params) == spec.params + 1 and type(params[-1]) in (dict, Map):
            self._options(params[-1])
            params = params[:-1]
        if len(params) != spec.params:
            raise _invalid(f"The request {kind} has {len(params)} parts after its name")
        self.handler = spec.handler
        self.params = params
        if spec.lane:
            self.lane = self._lane()

    def fail_with(self, error: Exception) -> None:
        """Answer with `error`, and do nothing else."""

        def fail(_: Call) -> NoReturn:
            raise error

        self.handler, self.params, self.lane = fail, (), None

    def _options(self, options: Any) -> None:
        for name, value in options.items():
            if name not in ("session_id", "session"):
                raise InvalidRequestError(
                    f"There is no option {repr(name)}: the option is session_id.",
                    reason="unknown_option",
                )
            if value is not None:
                self.session_id = text(value, "session_id")

    def _lane(self) -> Hashable:
        if self.session_id is not None:
            return self.session_id
        if self.first_ref is not None:
            session = self.bridge.registry.session_of(self.first_ref.id)
            if session is not None:
                return session.lane
        return self.caller

    # --- on the thread that runs it

    def run(self) -> None:
        """See `Task.run`."""
        session = self.known_session()
        if session is not None:
            session.running += 1
        try:
            try:
                answer = self.handler(self, *self.params)
            except CallInterrupted:
                answer = self._interrupted_answer()
            except BaseException as error:  # noqa: BLE001 (sys.exit() included: it is an answer)
                answer = self.failure(error)
            if self.tag is not None:
                self.reply(answer)
        except Exception:
            log.exception("internal error in the answer to %s; please report it", self.caller)
        finally:
            if session is not None:
                session.running -= 1
            self.entry = None
            self.bridge.done(self)

    def _interrupted_answer(self) -> Any:
        session = self.known_session()
        if session is None and self.session_id is not None:
            try:
                self.bridge.registry.session(self.session_id)
            except BridgeError as error:
                return (_ERROR, bridge_error(error))
        return self.failure(
            CallInterrupted("The call was stopped, because its session ended or it was cancelled.")
        )

    def flush(self) -> None:
        """See `Task.flush`."""
        self.connection.flush()

    def failure(self, error: BaseException) -> Any:
        """Return the answer for a call that raised."""
        if isinstance(error, BridgeError):
            return (_ERROR, bridge_error(error))
        term = python_error(error, None)
        # Where its session is gone, the text of the error is what remains.
        if not isinstance(error, CallInterrupted):
            with suppress(BridgeError):
                term[Atom("ref")] = self._new_ref(without_frames(error), "exception")
        return (_ERROR, term)

    # --- the answer

    def reply(self, answer: Any) -> None:
        """Encode `answer` and queue it; what cannot be encoded becomes an error."""
        try:
            payload = self._encode(answer)
        except Exception as error:  # noqa: BLE001 (a user's converter may raise anything)
            self.bridge.registry.discard(self.made)
            self.made = []
            payload = self._encode(self.failure(error))
        caller, connection = self.owner(), self.connection
        if caller.node != connection.peer:
            # Passed on by a process of another node: the answer goes to the caller's own.
            try:
                connection = self.connection = self.bridge.node.connect(caller.node)
            except NodeUnavailableError as error:
                log.debug("no answer for %s: %s", caller, error)
                return
        control = gen.reply_to(self.bridge.pid, caller, self.tag)
        connection.post(connection.encode(control, payload))
        connection.throttle()

    def _encode(self, answer: Any) -> bytes:
        buffer = bytearray()
        etf.encode_into(buffer, (self.tag, answer), self._default)
        return bytes(buffer)

    def _default(self, value: Any) -> Any:
        term = to_term(value)
        if term is not UNREPRESENTABLE:
            return term
        return self._new_ref(value, "stream" if isinstance(value, Iterator) else "ref")

    def _new_ref(self, value: Any, kind: Any) -> Any:
        if self.bridge.guarded and isinstance(value, ModuleType):
            self.bridge.modules.check(value.__name__)
        entry = self.bridge.registry.add(self.session(), value, kind)
        self.made.append(entry)
        return ref_to(entry).to_term()

    # --- sessions and refs

    def known_session(self) -> Session | None:
        """Return the session that this call belongs to, if it has come into being."""
        if self.session_id is not None:
            return self.bridge.registry.find(self.session_id)
        if self.entry is not None:
            return self.entry.session
        return None if self.caller is None else self.bridge.registry.implicit_session(self.caller)

    def session(self) -> Session:
        """Return the session for what this call makes; open it if need be.

        Raises SessionNotFoundError if it has ended.
        """
        registry = self.bridge.registry
        if self.session_id is None and self.entry is not None:
            return self.entry.session
        if self.session_id is not None:
            try:
                return registry.session(self.session_id)
            except SessionNotFoundError as error:
                if error.reason != UNKNOWN:
                    raise
        caller = self.owner()
        self.bridge.reach(caller)
        if self.session_id is not None:
            return registry.open_session(self.session_id, caller)
        return registry.ensure_implicit(caller)

    def owner(self) -> Pid:
        """Return the caller. Raises InvalidRequestError for a cast, which has none."""
        if self.caller is None:
            raise InvalidRequestError(
                "A cast has no caller who could own what it makes: use a call, or name a session.",
                reason="no_caller",
            )
        return self.caller

    def resolve(self, ref: Any) -> Entry:
        """Return the entry that `ref` stands for."""
        return self.bridge.registry.resolve(_reference(ref), session_id=self.session_id)

    def target(self, ref: Any) -> Any:
        """Return the object that the request is about; what it makes will live where it does."""
        self.entry = self.resolve(ref)
        return self.entry.obj

    def objects(self, value: Any) -> Any:
        """Return `value` with the objects in the places of the refs in it."""
        return value if self.first_ref is None else self._objects(value)

    def _objects(self, value: Any) -> Any:
        kind = type(value)
        if kind is Ref:
            return self.resolve(value).obj if self.is_ours(value) else value
        if kind is list:
            return [self._objects(item) for item in value]
        if kind is tuple:
            return tuple([self._objects(item) for item in value])
        if kind is dict:
            return {key: self._objects(item) for key, item in value.items()}
        return value

    def is_ours(self, ref: Ref) -> bool:
        """Whether this node made `ref`; a handle on another node's object is just a value."""
        return ref.id.node == self.bridge.node.name

    def arguments(self, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a request, checked, and with objects in the places of refs."""
        args, kwargs = arguments(args, kwargs)
        return self.objects(args), self.objects(kwargs)

    def awaited(self, value: Any) -> Any:
        """Return what a Python call returned, awaited if it is a coroutine."""
        return self.bridge.run_async(value) if type(value) is CoroutineType else value


def _reference(ref: Any) -> Reference:
    """Return the reference of a ref. Raises InvalidRefError if it is none."""
    if type(ref) is Ref:
        return ref.id
    if isinstance(ref, Reference):
        return ref
    raise InvalidRefError(
        f"{repr(ref)} is no ref: pass on the %SnakeBridge.Ref{{}} that a call returned.",
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


def _invalid(what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{what}: the requests are described in docs/PROTOCOL.md; the common one is "
        "{:call, module, function, args, kwargs}.",
        reason="invalid_request",
    )


# --- the requests, one function each


def _do_call(call: Call, module: Any, function: Any, args: Any, kwargs: Any) -> Any:
    args, kwargs = call.arguments(args, kwargs)
    return (
        _OK,
        call.awaited(call.interruptible(call.modules.call, module, function, args, kwargs)),
    )


def _do_get(call: Call, module: Any, attribute: Any) -> Any:
    return (_OK, call.interruptible(call.modules.find, module, attribute))


def _do_method(call: Call, ref: Any, name: Any, args: Any, kwargs: Any) -> Any:
    target = call.target(ref)
    args, kwargs = call.arguments(args, kwargs)
    return (_OK, call.awaited(call.interruptible(call.modules.method, target, name, args, kwargs)))


def _do_getattr(call: Call, ref: Any, name: Any) -> Any:
    return (_OK, call.interruptible(call.modules.attribute, call.target(ref), name))


def _do_setattr(call: Call, ref: Any, name: Any, value: Any) -> Any:
    target = call.target(ref)
    call.interruptible(setattr, target, text(name, "attribute"), call.objects(value))
    return _OK


def _do_put(call: Call, value: Any) -> Any:
    return (_OK, call._new_ref(call.objects(value), "ref"))


def _do_next(call: Call, ref: Any, count: Any) -> Any:
    iterator = call.target(ref)
    if not isinstance(iterator, Iterator):
        raise InvalidRefError(
            f"A {type(iterator).__name__} is no iterator: make one of it with builtins.iter.",
            reason="not_an_iterator",
        )
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise _invalid(f"The number of items to fetch is {repr(count)}")
    items: list[Any] = []
    try:
        call.interruptible(items.extend, itertools.islice(iterator, count))
    except Exception as error:
        if not items:
            raise
        # What was made before it failed is not lost, and the error comes with the next request.
        call.resolve(ref).obj = _Failed(iterator, error)
        return (_OK, items, _MORE)
    return (_OK, items, _MORE if len(items) == count else _DONE)


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
    references = [_reference(ref) for ref in (refs if type(refs) is list else [refs])]
    return (_OK, call.bridge.registry.release(*references, session_id=call.session_id))


def _do_open_session(call: Call, session_id: Any, owner: Any, settings: Any) -> Any:
    name = text(session_id, "session id")
    checked = SessionSettings.from_mapping({} if settings is None else settings)
    call.bridge.reach(_pid(owner))
    session = call.bridge.registry.open_session(name, owner, checked)
    if session.settings.own_thread:
        call.bridge.node.engine.own_thread(session.lane)
    return _OK


def _do_give_session(call: Call, session_id: Any, giver: Any, receiver: Any) -> Any:
    call.bridge.reach(_pid(receiver))
    call.bridge.registry.give_session(text(session_id, "session id"), _pid(giver), receiver)
    return _OK


def _do_release_session(call: Call, session_id: Any) -> Any:
    if isinstance(session_id, Pid):
        session = call.bridge.registry.implicit_session(session_id)
        name = None if session is None else session.id
    else:
        name = text(session_id, "session id")
    return (_OK, 0 if name is None else call.bridge.registry.release_session(name))


def _do_sessions(call: Call) -> Any:
    registry = call.bridge.registry
    return (_OK, {session.id: _describe(session) for session in registry.sessions()})


def _do_session(call: Call, session_id: Any) -> Any:
    return (_OK, _describe(_session(call, session_id)))


def _do_refs(call: Call, session_id: Any) -> Any:
    session = _session(call, session_id)
    return (
        _OK,
        [
            {
                Atom("ref"): ref_to(entry).to_term(),
                Atom("type_name"): type(entry.obj).__name__,
                Atom("created_at"): entry.created_at,
                Atom("last_used"): entry.last_used,
            }
            for entry in call.bridge.registry.refs(session.id)
        ],
    )


def _do_info(call: Call) -> Any:
    bridge = call.bridge
    counts = bridge.registry.counts()
    return (
        _OK,
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
    return _OK


def _session(call: Call, session_id: Any) -> Session:
    if isinstance(session_id, Pid):
        session = call.bridge.registry.implicit_session(session_id)
        if session is not None:
            return session
        session_id = f"auto_{session_id}"
    return call.bridge.registry.session(text(session_id, "session id"))


def _describe(session: Session) -> dict[Atom, Any]:
    return _atoms(
        id=session.id,
        owners=list(session.owners),
        refs=session.refs,
        created_at=session.created_at,
        last_used=session.last_used,
        ttl_seconds=session.ttl_seconds,
        max_refs=session.max_refs,
        on_full=Atom(session.on_full),
        tags=session.tags,
        running=session.running,
    )


def _atoms(**fields: Any) -> dict[Atom, Any]:
    return {Atom(name): value for name, value in fields.items()}


def _pid(value: Any) -> Pid:
    if not isinstance(value, Pid):
        raise _invalid(f"A process is given as {repr(value)}, which is no pid")
    return value


class _Request(NamedTuple):
    handler: Callable[..., Any]
    #: How many parts follow the name; a map of options may follow them.
    params: int
    #: Whether it waits for its turn in a session.
    lane: bool


_REQUESTS: dict[str, _Request] = {
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
    "release_session": _Request(_do_release_session, 1, lane=False),
    "sessions": _Request(_do_sessions, 0, lane=False),
    "session": _Request(_do_session, 1, lane=False),
    "refs": _Request(_do_refs, 1, lane=False),
    "info": _Request(_do_info, 0, lane=False),
    "cancel": _Request(_do_cancel, 1, lane=False),
}
