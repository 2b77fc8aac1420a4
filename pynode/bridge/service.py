"""The process `snakebridge`: takes requests, watches owners, keeps the registry."""

from __future__ import annotations

import functools
import heapq
import logging
import platform
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from pynode import config, posix
from pynode._version import __version__
from pynode.bridge import views
from pynode.bridge.call import Call
from pynode.bridge.underway import Underway
from pynode.bridge.views import NodeInfo, RefInfo, SessionInfo, Top, TypeInfo
from pynode.calls import RemoteFun
from pynode.destination import Destination
from pynode.dist.task import AWAITED
from pynode.errors import InvalidRequestError, NodeUnavailableError
from pynode.objects import OWNER_DOWN, Census, Registry, Session, Tally, Unwinding
from pynode.signals import NOCONNECTION
from pynode.terms import Fun, Pid, Reference

if TYPE_CHECKING:
    from pynode.dist.connection import Connection
    from pynode.dist.task import Task

log = logging.getLogger(__name__)

#: Seconds between two looks at what has expired, and for lost nodes.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class _Watch:
    """That an owner is monitored: by this reference, unless its node was lost just then."""

    reference: Reference | None = None


class _Callback(RemoteFun):
    """A function that came with a request: objects go to it as refs of the session that calls."""

    def __call__(self, *args: Any) -> Any:
        """Call the function with `args`."""
        call = self._here.engine.current_task() or AWAITED.get()
        return call.call_back(self, args) if isinstance(call, Call) else super().__call__(*args)


class Bridge(Destination):
    """Answers the request protocol, until `stop`: add it to a node under its `NAME`."""

    NAME: ClassVar = "snakebridge"
    registry: Registry

    def __init__(self) -> None:
        #: What was asked for and is not answered yet.
        self.underway = Underway(self, self._callable)
        self.started = time.monotonic()
        self._watches: dict[Pid, _Watch] = {}  # under the registry's lock
        self._watching = threading.Lock()
        #: Lost nodes with absent owners that are being connected to.
        self._calling: set[str] = set()

    def attached(self) -> Task | None:
        """See `Destination.attached`."""
        self.registry = Registry(
            new_reference=self.node.new_reference,
            monitor=self._monitor,
            demonitor=self._demonitor,
            defer=self._unwind_later,
            ended=self._ended,
        )
        self.node.subscribe(self, self._node_event)
        self._look_again_later()
        return None

    def stop(self, timeout: float) -> bool:
        """Refuse new calls, wait for those that run, and end all sessions.

        False if some calls still run after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        idle = self.underway.stop(timeout)
        for session in self.registry.sessions():
            self.registry.release_session(session.id)
        # What was deferred before has begun when this has; what is slow is not waited for.
        unwound = threading.Event()
        self.node.engine.submit(unwound.set)
        unwound.wait(max(0.0, deadline - time.monotonic()))
        self.node.engine.join_own_threads(deadline)
        return idle

    # --- what there is

    def node_info(self) -> NodeInfo:
        """Describe the node."""
        counts = self.registry.counts()
        return NodeInfo(
            node=self.node.name,
            creation=self.node.creation,
            uptime=int(time.monotonic() - self.started),
            time=int(time.time()),
            sessions=counts.sessions,
            refs=counts.refs,
            owners=counts.owners,
            running_calls=sum(call.is_running for call in list(self.underway.calls.values())),
            calls=self.underway.begun,
            memory=posix.resident_bytes(),
            version=__version__,
            python=platform.python_version(),
        )

    def sessions(self) -> list[SessionInfo]:
        """Describe all sessions, in the order in which they were opened."""
        return [views.session_info(self.registry, one) for one in self.registry.sessions()]

    def session(self, session_id: str | Pid) -> SessionInfo:
        """Describe one session: that of a name, or the implicit one of a process.

        Raises SessionNotFoundError.
        """
        return views.session_info(self.registry, self._session(session_id))

    def refs(self, session_id: str | Pid) -> list[RefInfo]:
        """Describe the refs of a session, the newest last. Raises SessionNotFoundError."""
        found: list[RefInfo] = []
        self.registry.visit(
            lambda entries: found.extend(map(views.ref_info, entries)), self._session(session_id)
        )
        return found

    def types(self, session_id: str | Pid | None = None) -> list[TypeInfo]:
        """Count the objects by type, in one session or in all; the most numerous come first.

        Raises SessionNotFoundError.
        """
        session = None if session_id is None else self._session(session_id)
        census = Census(self.registry, session, seconds=config.CENSUS_SECONDS)
        return views.type_infos(census.types, by_bytes=False)

    def top(self, order: str = "refs", count: int = 20) -> Top:
        """Describe the node with the first `count` sessions and types.

        `order` is that of the sessions: "refs", "memory", "calls" (the most come first) or "age"
        (the oldest do). With "memory" it is that of the types, too, which else are by number.
        """
        census = Census(self.registry, seconds=config.CENSUS_SECONDS)
        rank, nothing = views.ORDERS[order], Tally()
        uses = [(one, census.sessions.get(one.id, nothing)) for one in self.registry.sessions()]
        first = heapq.nlargest(count, uses, key=lambda use: rank(*use))
        types = views.type_infos(census.types, by_bytes=order == "memory")
        return Top(
            self.node_info(),
            [views.session_use(self.registry, *use) for use in first],
            types[:count],
        )

    def _session(self, session_id: str | Pid) -> Session:
        if isinstance(session_id, Pid):
            session = self.registry.implicit_session(session_id)
            if session is not None:
                return session
            session_id = f"auto_{session_id}"
        return self.registry.session(session_id)

    # --- owners

    def _monitor(self, owner: Pid) -> None:
        watch = self._watches[owner] = _Watch()
        gone = functools.partial(self._owner_gone, owner, watch)
        # Whoever wants a new owner has connected to its node before; if that is lost again, the
        # owner is as good as dead. This runs under the registry's lock, so it is told later.
        connection = self.node.connection(owner.node)
        if connection is None:
            self.node.engine.submit(functools.partial(gone, NOCONNECTION))
        else:
            watch.reference = self.node.monitor_over(connection, owner, gone)

    def _demonitor(self, owner: Pid) -> None:
        reference = self._watches.pop(owner).reference
        if reference is not None:
            self.node.demonitor(reference)

    def _owner_gone(self, owner: Pid, watch: _Watch, reason: Any) -> None:
        log.debug("owner %s is DOWN: %s", owner, reason)

        def confirm() -> bool:
            if self._watches.get(owner) is not watch:
                return False
            del self._watches[owner]
            return True

        if reason == NOCONNECTION:
            self.registry.owner_lost(owner, confirm)
            # A new connection may have been there before the old one was known to be lost.
            self._node_up(owner.node)
        else:
            self.registry.owner_down(owner, confirm)

    def _node_event(self, up: bool, peer: str) -> None:  # noqa: FBT001
        if up:
            self._node_up(peer)

    def _node_up(self, peer: str) -> None:
        connection = self.node.connection(peer)
        if connection is not None:
            self.registry.node_up(peer, connection.creation)

    def _call_lost_nodes(self) -> None:
        """Connect to the nodes of absent owners: they may have nothing to say to us."""
        for peer in {owner.node for owner in self.registry.absent()} - self._calling:
            self._calling.add(peer)
            self.node.engine.submit(functools.partial(self._call_lost_node, peer))

    def _call_lost_node(self, peer: str) -> None:
        try:
            with suppress(NodeUnavailableError):
                self.node.connect(peer)
        finally:
            self._calling.discard(peer)

    def reach(self, owner: Pid) -> None:
        """Connect to the node of a process that is to be an owner, so that it can be monitored.

        Raises NodeUnavailableError, and InvalidRequestError for a process of this very node. May
        block: not for the thread that reads.
        """
        if owner.node == self.node.name:
            raise InvalidRequestError(
                f"{owner} is a process of the Python node itself, which keeps nothing alive: name "
                "a process of another node as the owner.",
                reason="invalid_owner",
            )
        try:
            self.node.connect(owner.node)
        except NodeUnavailableError as error:
            raise NodeUnavailableError(
                f"{owner} cannot own a session, because its node cannot be reached: {error}",
                node=owner.node,
                reason="owner_unreachable",
            ) from error

    def _ended(self, session: Session, reason: str) -> None:
        """Stop the calls of a session that has ended."""
        for call in self.node.engine.tasks(session.lane):
            # A lane may have calls of other sessions: its process may have given this one away.
            # And when an implicit session is released, its owner may go on and make a new one.
            if (
                isinstance(call, Call)
                and (call.within is session or call.names(session))
                and (call.is_running or reason == OWNER_DOWN or call.session_id is not None)
            ):
                self.interrupt(call)

    def _unwind_later(self, unwinding: Unwinding) -> None:
        """Unwind objects, on the own thread of their session if it has one."""
        engine, session = self.node.engine, unwinding.session
        unwinding.run_async = self.node.run_async
        if not (
            session.settings.own_thread and engine.submit_to_own_thread(session.lane, unwinding)
        ):
            engine.submit(unwinding)
        if unwinding.last and session.settings.own_thread:
            engine.end_own_thread(session.lane, session)

    def interrupt(self, call: Call) -> None:
        """Stop a call; if its code goes on all the same, do so again and again."""
        if not call.interrupted:
            self.node.engine.interrupt(call)
            self._interrupt_again_later(call.key)

    def _interrupt_again_later(self, key: Any) -> None:
        def look() -> None:
            call = self.underway.calls.get(key)
            if call is not None and call.interrupted:
                self.node.engine.interrupt(call, again=True)
                self._interrupt_again_later(key)

        self.node.engine.after(config.INTERRUPT_SECONDS, look)

    def _look_again_later(self) -> None:
        def look() -> None:
            if not self.underway.stopping:
                self._call_lost_nodes()
                self.node.engine.submit(expire)

        def expire() -> None:
            self.registry.expire()
            self._look_again_later()

        seconds = self.registry.next_expiry()
        pause = _LONGEST_PAUSE if seconds is None else min(_LONGEST_PAUSE, seconds)
        self.node.engine.after(max(_SHORTEST_PAUSE, pause), look)

    # --- messages

    def deliver(self, connection: Connection, payload: bytes) -> Task | None:
        """See `Destination.deliver`."""
        return self.underway.receive(connection, payload)

    def _callable(self, fun: Fun) -> _Callback:
        return _Callback.bind(fun, self.node)

    def watch_caller(self, call: Call, session: Session) -> None:
        """See to it that a call is stopped if its caller dies, where its session wants that.

        Who calls as GenServer does has a monitor on us that ends with the call, which tells it.
        Who calls without one (docs/PROTOCOL.md) is monitored by us, until the call is over.
        """
        if not session.settings.cancel_on_timeout or call.watch is not None:
            return
        caller, connection = call.caller, call.connection
        if caller is None or caller.node != connection.peer or call.key in connection.monitors:
            return
        with self._watching:  # its session may be opened while it is entered
            if call.watch is None:
                call.watch = self.node.monitor_over(
                    connection, caller, lambda _reason: self.demonitored(call.key)
                )
        if self.underway.calls.get(call.key) is not call:  # it has just been answered
            self.node.demonitor(call.watch)

    def watch_callers(self, session: Session) -> None:
        """Do the same for calls that named a session before it was opened."""
        if session.settings.cancel_on_timeout:
            for call in self.node.engine.tasks(session.lane):
                if isinstance(call, Call) and call.names(session):
                    self.watch_caller(call, session)

    def demonitored(self, reference: Reference) -> None:
        """See `Destination.demonitored`: the caller has its answer, or has given up."""
        call = self.underway.calls.get(reference)
        if call is not None:
            session = call.home()
            if session is not None and session.settings.cancel_on_timeout:
                self.interrupt(call)
