"""One request, from its arrival to its answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from pynode import gen
from pynode.bridge.failures import without_frames
from pynode.bridge.requests import ERROR, OK, REQUESTS, Pending, invalid, reference_of
from pynode.bridge.views import ref_to
from pynode.dist.task import Task
from pynode.errors import (
    BridgeError,
    CallInterrupted,
    InvalidRefError,
    InvalidRequestError,
    NodeUnavailableError,
    PynodeError,
    RefNotFoundError,
    SessionNotFoundError,
)
from pynode.exits import bridge_error, python_error
from pynode.modules import arguments, text
from pynode.objects import ENTERED, NODE_RESTARTED, OWNER_DOWN, UNKNOWN, Entry, Session
from pynode.objects.departed import session_not_found
from pynode.show import current_traceback, short
from pynode.terms import Atom, Map, Pid, Reference
from pynode.values import UNREPRESENTABLE, Ref, encode_parts, to_term

if TYPE_CHECKING:
    from pynode.bridge.service import Bridge
    from pynode.calls import RemoteFun
    from pynode.coroutines import Awaited
    from pynode.dist.connection import Connection
    from pynode.etf import Part

log = logging.getLogger(__name__)

#: Levels of lists and maps in which refs are looked for. Where this is compiled, Python's recursion
#: limit does not hold, and the 10,000 levels that a peer may send take more than 512 KiB of stack.
_DEEPEST: Final = 900


class Call(Task):
    """One request, from its arrival to its answer."""

    __slots__ = (
        "alias",
        "awaited",
        "bridge",
        "caller",
        "connection",
        "entry",
        "first_ref",
        "handler",
        "key",
        "made",
        "modules",
        "must_exist",
        "params",
        "pending",
        "session_id",
        "tag",
        "used",
        "watch",
        "within",
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
        self.connection = self.source = connection
        self.caller = caller
        self.tag = tag
        #: The first ref in the request; without one, no arguments need to be looked through.
        self.first_ref = first_ref
        self.modules = bridge.node.modules
        #: The reference in the tag: the caller's monitor on us has the same one.
        self.alias = gen.alias_of(tag)
        self.key: Any = self.alias or (tag if type(tag) is Reference else id(self))
        self.handler: Callable[..., Any]
        self.params: tuple[Any, ...] = ()
        #: The session that the request names; None for the implicit one.
        self.session_id: str | None = None
        #: Whether it must be open already.
        self.must_exist = False
        #: The session that it was found to run in, if that had come into being.
        self.within: Session | None = None
        #: Our monitor on the caller, where one is needed: see `Bridge.watch_caller`.
        self.watch: Reference | None = None
        #: What the request is about, once it is resolved.
        self.entry: Entry | None = None
        #: Refs that count as used until the call ends, where refs may expire.
        self.used: list[Entry] = []
        #: Refs made for the answer.
        self.made: list[Entry] = []
        #: The coroutine that it waits for, suspended, and that as it is awaited.
        self.pending: Pending | None = None
        self.awaited: Awaited | None = None

    # --- on the thread that reads

    def parse(self, request: Any) -> None:
        """Find the handler, the options and the lane. Raises InvalidRequestError."""
        no_params: tuple[Any, ...] = ()
        if isinstance(request, str):
            kind, params = request, no_params
        elif type(request) is tuple and request and isinstance(request[0], str):
            kind, params = request[0], request[1:]
        else:
            raise invalid(f"The request is {short(request)}")
        spec = REQUESTS.get(kind)
        if spec is None:
            raise invalid(f"There is no request {short(kind)}")
        if len(params) > spec.params and type(params[-1]) in (dict, Map):
            self._options(params[-1])
            params = params[:-1]
        if not spec.params <= len(params) <= spec.params + spec.optional:
            raise invalid(f"The request {kind} has {len(params)} parts after its name")
        self.handler = spec.handler
        self.params = params
        self.urgent = spec.urgent
        if spec.lane:
            self.lane = self._lane()

    def fail_with(self, error: Exception) -> None:
        """Answer with `error`, and do nothing else."""

        def fail(_: Call) -> NoReturn:
            raise error

        self.handler, self.params, self.lane, self.must_exist = fail, (), None, False

    def _options(self, options: Any) -> None:
        creation = self.bridge.node.creation
        opened_on: Any = creation  # of whatever type the caller gives it
        for name, value in options.items():
            if name in ("session_id", "session"):
                if value is not None:
                    self.session_id = text(value, "session_id")
            elif name == "must_exist":
                self.must_exist = value is True
            elif name == "opened_on":
                opened_on = value
            else:
                raise InvalidRequestError(
                    f"There is no option {short(name)}: the options are session_id, must_exist and "
                    "opened_on.",
                    reason="unknown_option",
                )
        if opened_on not in (None, creation):
            if type(opened_on) is not int:
                raise invalid(f"The option opened_on is {short(opened_on)}, which is no creation")
            if self.session_id is not None:
                raise session_not_found(self.session_id, NODE_RESTARTED)

    def _lane(self) -> Hashable:
        self.within = self.home()
        if self.within is not None:
            return self.within.lane
        return self.caller if self.session_id is None else self.session_id

    # --- on the thread that runs it

    def run(self) -> None:
        """See `Task.run`."""
        again, self.suspended = self.suspended, False
        if not again:
            self._begin()
        try:
            self._answer()
        except BaseException:  # noqa: BLE001
            # Nobody waits in vain, whatever went wrong on the way to an answer.
            log.error("no answer could be made; please report it:\n%s", current_traceback())
            self._reply_to_failure()
        finally:
            if not self.suspended:
                self._end()
                if again:
                    self.flush()  # who runs a task again does not

    def _begin(self) -> None:
        # What has no lane is about sessions, not in one; and only in its lane may a call count.
        planned = self.within
        if planned is not None and planned.ended == OWNER_DOWN:
            self.interrupt()  # it waited where nobody stops what waits
        self.within = None
        if self.lane is not None:
            self.bridge.underway.count()
            within = self.home()
            if within is not None:
                self._enter(within)

    def _enter(self, session: Session) -> None:
        """Be in a session from here on, until the end."""
        self.within = session
        self.bridge.watch_caller(self, session)
        session.running += 1
        session.calls += 1

    def names(self, session: Session) -> bool:
        """Whether it names a session that has been opened since it began."""
        return self.within is None and self.session_id == session.id

    def _end(self) -> None:
        for entry in self.used:
            self.bridge.registry.touch(entry)
        if self.within is not None:
            self.within.running -= 1
        self.bridge.underway.done(self)
        # If its session has ended, these are the last to hold the objects: they go here, where a
        # slow destructor delays no more than the rest of this session, and not with the call.
        self.params, self.entry = (), None
        self.used, self.made = [], []

    def begin_wait(self) -> None:
        """See `Task.begin_wait`."""
        if self.pending is not None:
            awaited = self.awaited = self.bridge.node.awaited(self.pending.coroutine, self)
            awaited.begin()

    def _reply_to_failure(self) -> None:
        if self.tag is not None:
            error = PynodeError("The answer could not be made: the log of the node says why.")
            with suppress(Exception):
                self._send(self._encode((ERROR, python_error(error, None))))

    def _answer(self) -> None:
        try:
            answer = self._outcome()
        except CallInterrupted:
            self.close_window()  # before it is interrupted again
            answer = self._interrupted_answer()
        except BaseException as error:  # noqa: BLE001 (sys.exit() included: it is an answer)
            answer = self.failure(error)
        self.close_window()
        if type(answer) is Pending:
            self.pending = answer
            self.suspended = True
        elif self.tag is not None:
            self.reply(answer)

    def _outcome(self) -> Any:
        """Return the answer, or what it waits for."""
        pending, awaited = self.pending, self.awaited
        # These know this call: without the garbage collector nothing of it would be freed.
        self.pending = self.awaited = None
        if pending is None or awaited is None:
            if self.within is None and (self.must_exist or self.lane is not None):
                self._named()  # what has ended runs nothing: nobody would stop it
            answer = self.handler(self, *self.params)
            if type(answer) is not Pending or self.bridge.node.engine.can_suspend():
                return answer
            pending = answer
            value = self.interruptible(self.bridge.node.run_async, pending.coroutine)
        else:
            value = awaited.result()
        pending.done()
        return (OK, value)

    def _interrupted_answer(self) -> Any:
        if self.session_id is not None:
            try:
                self.bridge.registry.session(self.session_id)
            except BridgeError as error:
                return (ERROR, bridge_error(error))
        return self.failure(
            CallInterrupted("The call was stopped, because its session ended or it was cancelled.")
        )

    def make_room(self) -> None:
        """See `Task.make_room`."""
        self.connection.throttle()

    def flush(self) -> None:
        """See `Task.flush`."""
        self.connection.flush()

    def failure(self, error: BaseException) -> Any:
        """Return the answer for a call that raised."""
        kind = type(error)  # isinstance() would ask the object, which may raise
        if issubclass(kind, BridgeError):
            return (ERROR, bridge_error(cast("BridgeError", error)))
        term = python_error(error, None)
        # Where its session is gone, the text of the error is what remains.
        if not issubclass(kind, CallInterrupted):
            try:
                term[Atom("ref")] = self.new_ref(without_frames(error), "exception")
            except BaseException as other:  # noqa: BLE001 (its class may not let us look at it)
                log.debug(
                    "an exception of type %s is not kept: %s", term[Atom("type")], type(other)
                )
        return (ERROR, term)

    # --- the answer

    def reply(self, answer: Any) -> None:
        """Encode `answer` and queue it; what cannot be encoded becomes an error."""
        try:
            payload = self._encode(answer)
        except BaseException as error:  # noqa: BLE001 (a user's converter may raise anything)
            self.bridge.registry.discard(self.made)
            self.made = []
            payload = self._encode(self.failure(error))
        self._send(payload)

    def _send(self, payload: bytes | list[Part]) -> None:
        caller, connection = self.owner(), self.connection
        if caller.node != connection.peer:
            # Passed on by a process of another node: the answer goes to the caller's own.
            try:
                connection = self.connection = self.bridge.node.connect(caller.node)
            except NodeUnavailableError as error:
                log.debug("no answer for %s: %s", caller, error)
                return
        control = gen.reply_by(self.bridge.pid, caller, self.alias)
        connection.post(connection.encode(control, payload))

    def _encode(self, answer: Any) -> bytes | list[Part]:
        return encode_parts((self.tag, answer), self._default)

    def _default(self, value: Any) -> Any:
        term = to_term(value)
        if term is not UNREPRESENTABLE:
            return term
        return self.new_ref(value, "stream" if isinstance(value, Iterator) else "ref")

    def new_ref(self, value: Any, kind: Any) -> Any:
        """Keep `value` in this call's session; return the struct that stands for it.

        Raises SessionNotFoundError, SessionFullError, NotAllowedError and NodeUnavailableError.
        """
        if self.modules.guarded and isinstance(value, ModuleType):
            self.modules.check(value.__name__)
        entry = self.bridge.registry.add(self.session(), value, kind)
        self.made.append(entry)
        return ref_to(entry).to_term()

    # --- sessions and refs

    def home(self) -> Session | None:
        """Return the session that this call runs in, if it has come into being."""
        registry = self.bridge.registry
        if self.session_id is not None:
            return registry.find(self.session_id)
        if self.first_ref is not None:
            session = registry.session_of(self.first_ref.id)
            if session is not None:
                return session
        return None if self.caller is None else registry.implicit_session(self.caller)

    def session(self) -> Session:
        """Return the session for what this call makes; open it if need be.

        Raises SessionNotFoundError if it has ended.
        """
        if self.within is None:
            session = self._named() or self._opened()
            # Those around this one, if it is a callback, are in it as well.
            for call in (self, *self.bridge.node.engine.tasks(self.lane)):
                if (
                    isinstance(call, Call)
                    and call.within is None
                    and (call is self or (call.is_running and call.is_like(self)))
                ):
                    call._enter(session)
                    if session.ended is not None:  # meanwhile, when nobody knew that this is in it
                        self.bridge.interrupt(call)
            return session
        return self.within  # if it has ended meanwhile, nothing can be put into it

    def _opened(self) -> Session:
        """Open the session that the call names, or the implicit one of its caller."""
        caller = self.owner()
        self.bridge.reach(caller)
        if self.session_id is not None:
            return self.bridge.registry.open_session(self.session_id, caller)
        return self.bridge.registry.ensure_implicit(caller)

    def is_like(self, other: Call) -> bool:
        """Whether what it makes goes where that of `other` does."""
        return (self.caller, self.session_id) == (other.caller, other.session_id)

    def _named(self) -> Session | None:
        """Return the session that the call names, or None if it names none, or a new one.

        Raises SessionNotFoundError if it has ended, or must exist and does not.
        """
        if self.session_id is None:
            return None
        try:
            return self.bridge.registry.session(self.session_id)
        except SessionNotFoundError as error:
            if error.reason != UNKNOWN or self.must_exist:
                raise
        return None

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
        reference = reference_of(ref)
        if reference.node != self.bridge.node.name:
            raise InvalidRefError(
                f"This ref stands for an object on {reference.node}, and the call came to "
                f"{self.bridge.node.name}: call the node that has the object.",
                reason="other_node",
            )
        try:
            entry = self.bridge.registry.resolve(reference, session_id=self.session_id)
        except RefNotFoundError as error:
            if error.session_id is None and type(ref) is Ref:  # it knows what we do not
                error.session_id = ref.session_id
            raise
        if entry.session.ttl_seconds:
            self.used.append(entry)
        return entry

    def target(self, ref: Any) -> Any:
        """Return the object that the request is about; what it makes will live where it does."""
        self.entry = self.resolve(ref)
        return self.entry.obj

    def call_back(self, fun: RemoteFun, args: tuple[Any, ...]) -> Any:
        """Call a function of the other side, which may get objects and return them, as refs."""
        with self.bridge.node.engine.shield():
            # What it is sent is its own to keep, whatever becomes of the answer.
            made, self.made = self.made, []
            try:
                return self._objects(fun.apply(args, self._default))
            finally:
                self.made = made

    def count_entered(self, name: Any) -> None:
        """Note that a method of the target was called: it may have been entered or exited by it."""
        if self.entry is not None and name in ENTERED:
            self.bridge.registry.count_entered(self.entry, ENTERED[name])

    def objects(self, value: Any) -> Any:
        """Return `value` with the objects in the places of the refs in it.

        Raises RecursionError for what is nested too deeply.
        """
        return value if self.first_ref is None else self._objects(value)

    def _objects(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if kind is Ref:
            return self.resolve(value).obj
        if depth > _DEEPEST:
            raise RecursionError("The arguments are nested too deeply to look for refs in them.")
        inner = depth + 1
        if kind is list:
            return [self._objects(item, inner) for item in value]
        if kind is tuple:
            return tuple([self._objects(item, inner) for item in value])
        if kind is dict:
            return {
                self._objects(key, inner): self._objects(item, inner) for key, item in value.items()
            }
        if kind is set:
            return {self._objects(item, inner) for item in value}
        if kind is Map:
            return Map(
                (self._objects(key, inner), self._objects(item, inner)) for key, item in value.pairs
            )
        return value

    def arguments(self, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a request, checked, and with objects in the places of refs."""
        args, kwargs = arguments(args, kwargs)
        return self.objects(args), self.objects(kwargs)
