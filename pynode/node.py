"""A node of a BEAM cluster: a name, a creation, connections, and what can be reached by them.

`Node` is what a Python developer starts. It ties the connection table to the local
*destinations* (what has a pid and takes messages), and keeps the monitors of both directions:
those that peers have on our destinations live with their connection, those that we have on
their processes are in `Node._monitors`, and a lost connection fires the latter with
``noconnection``.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Self, TypeVar

from pynode import config, gen
from pynode.cookie import find_cookie
from pynode.destination import Destination
from pynode.dist.engine import Engine
from pynode.dist.epmd import ALL_INTERFACES, LOOPBACK, EpmdClient, EpmdServer, Registration
from pynode.dist.table import ConnectionTable
from pynode.errors import (
    CallTimeoutError,
    EpmdError,
    EpmdUnavailableError,
    ExitError,
    NodeUnavailableError,
)
from pynode.otp.net_kernel import NetKernel
from pynode.protocol import control as cm
from pynode.protocol.flags import DEFAULT, DFlag
from pynode.protocol.names import is_node_name
from pynode.show import short
from pynode.terms import Atom, Fun, Pid, Reference
from pynode.values import decode, encode, no_objects

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.dist.connection import Connection
    from pynode.dist.task import Task
    from pynode.protocol.channel import Message

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_MONITOR = Atom("monitor")
_NOPROC = Atom("noproc")
_NOCONNECTION = Atom("noconnection")
_NOTSUP = Atom("notsup")
_ERPC = (Atom("erpc"), Atom("execute_call"), 4)

#: Seconds between attempts to register again with an EPMD that has gone.
_EPMD_RETRY = 1.0

#: A process to send to: its pid, or its registered name and its node's name.
Address = Pid | tuple[str, str]


class _Monitor(NamedTuple):
    connection: Connection
    reference: Reference
    #: None for a process that is being spawned.
    target: Pid | Atom | None
    callback: Callable[[Any], None]


class _Callers(Destination):
    """Whoever calls from this node: answers that were sent to the pid instead of the alias.

    Some of OTP's own servers do that (`net_kernel` for ``is_auth``, up to OTP 25 at least).
    """

    def deliver(self, _connection: Connection, payload: bytes) -> None:
        """See `Destination.deliver`."""
        match self.node.decode(payload):
            case (tag, reply) if (alias := gen.alias_of(tag)) is not None:
                self.node.answered(alias, (tag, reply))


class RemoteFun(Fun):
    """A function of another node: called like any other, it runs there and its value comes back.

    Waits as long as it takes. Raises NodeUnavailableError and ExitError as `Node.erpc` does.
    """

    _here: Node

    @classmethod
    def bind(cls, fun: Fun, node: Node) -> Self:
        """Return `fun` as something that can be called from `node`."""
        bound = cls(**vars(fun))
        object.__setattr__(bound, "_here", node)
        return bound

    def __call__(self, *args: Any) -> Any:
        """Call the function with `args`."""
        return self.apply(args, no_objects)

    def apply(self, args: tuple[Any, ...], default: Callable[[Any], Any]) -> Any:
        """Call the function; `default` is the codec's, for what has no Erlang form."""
        apply = [self, list(args)]
        return self._here.erpc(
            self.pid.node, "erlang", "apply", apply, timeout=None, default=default
        )


def _shielded(method: Callable[P, T]) -> Callable[P, T]:
    """Keep a call from Elixir that uses this method from being interrupted half-way through it."""

    @functools.wraps(method)
    def shielded(*args: P.args, **kwargs: P.kwargs) -> T:
        node: Any = args[0]
        with node.engine.shield():
            return method(*args, **kwargs)

    return shielded


class Node:
    """A node, from `start` to `stop`; also a context manager.

    `name` is ``name@host``. `cookie` is found by `find_cookie` unless it is given. The node
    listens on `listen` at `port` (0: any free one). It is hidden, as C-nodes are, unless it is
    `published`. With `epmd` off, it neither registers with EPMD nor asks it for others.

    Raises ValueError for a name that is none, and CookieError.
    """

    def __init__(
        self,
        name: str,
        *,
        cookie: str | None = None,
        listen: str = "127.0.0.1",
        port: int = 0,
        published: bool = False,
        net_ticktime: float = config.NET_TICKTIME,
        max_threads: int = config.MAX_THREADS,
    ) -> None:
        if not is_node_name(name):
            raise ValueError(f"{name!r} is no node name: use the form name@host.")
        self.name = Atom(name)
        self.creation = 0
        self.engine = Engine(max_threads=max_threads)
        self._alive = name.partition("@")[0]
        self._address, self._port = listen, port
        self._published = published
        self._table = ConnectionTable(
            name=self.name,
            cookie=find_cookie(value=cookie),
            flags=DEFAULT | DFlag.PUBLISHED if published else DEFAULT,
            engine=self.engine,
            resolve=self._resolve,
            up=self._up,
            down=self._down,
            deliver=self._deliver,
            net_ticktime=net_ticktime,
        )
        self._numbers = itertools.count(1)
        self._ids = itertools.count(1)
        self._epmd_server: EpmdServer | None = None
        self._registration: Registration | None = None
        self._destinations: dict[Pid, Destination] = {}
        self._names: dict[str, Destination] = {}
        #: What was added before the start: only then are there pids, which need the creation.
        self._waiting: list[Destination] = []
        self._callers = _Callers()
        self.add(self._callers)
        self.add(NetKernel(), name=NetKernel.NAME)
        self._monitors: dict[Reference, _Monitor] = {}
        #: Requests to spawn that nobody waits for any more, and that were not answered yet.
        self._abandoned: dict[Reference, Connection] = {}
        self._spawns = threading.RLock()
        #: Who waits for an answer to the request that this reference stands for.
        self._inboxes: dict[Reference, SimpleQueue[Any]] = {}
        self._stopping = False

    # --- life

    def start(self) -> None:
        """Listen, register with EPMD (or be one, where there is none), and accept peers.

        Raises NameTakenError, other EpmdErrors, and ListenError when the port is not free.
        """
        self._port = self._table.listen(self._address, self._port)
        self.engine.start()
        try:
            self.creation = self._register()
            for destination in self._waiting:
                self._attach(destination)
        except BaseException:
            self.stop()
            raise
        self._self = self._callers.pid
        self._table.start(self.creation)

    def stop(self) -> None:
        """Close all connections and free the name. Peers see ``nodedown``."""
        self._stopping = True
        if self._registration is not None:
            self._registration.close()
        self._table.stop()
        if self._epmd_server is not None:
            self._epmd_server.close()
        self.engine.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Node {self.name}>"

    def _register(self) -> int:
        client = EpmdClient()
        try:
            registration = self._register_with(client)
        except EpmdUnavailableError:
            # No Erlang on this machine, or none that runs: be the port mapper ourselves.
            # Peers elsewhere must reach it if they are to reach this node. It lets nodes of this
            # machine alone register.
            far = not ipaddress.ip_address(self._address).is_loopback
            self._epmd_server = EpmdServer.start_or_none(ALL_INTERFACES if far else LOOPBACK)
            registration = self._register_with(client)
        self._registration = registration
        return registration.creation

    def _register_with(self, client: EpmdClient) -> Registration:
        return client.register(
            self._alive, self._port, hidden=not self._published, on_lost=self._epmd_gone
        )

    def _epmd_gone(self) -> None:
        if not self._stopping:
            self.engine.submit(self._register_again)

    def _register_again(self) -> None:
        if self._stopping:
            return
        try:
            self._register()
            log.info("%s is registered with EPMD again", self.name)
        except EpmdError as error:
            log.debug("%s", error)
            self.engine.after(_EPMD_RETRY, lambda: self.engine.submit(self._register_again))

    def _resolve(self, peer: str) -> tuple[str, int]:
        alive, _, host = peer.partition("@")
        if not is_node_name(peer):
            raise NodeUnavailableError(
                f"{peer!r} is no node name: use the form name@host.", node=peer
            )
        try:
            port = EpmdClient(host).lookup(alive)
        except EpmdError as error:
            raise NodeUnavailableError(str(error), node=peer) from error
        if port is None:
            raise NodeUnavailableError(
                f"No node {alive} is registered at {host}: start it, or check the spelling.",
                node=peer,
            )
        return host, port

    # --- what others can reach

    def new_pid(self) -> Pid:
        """Return a pid that this node has not used before."""
        number = next(self._ids)
        return Pid(self.name, number & 0xFFFFFFF, number >> 28, self.creation)

    def new_reference(self) -> Reference:
        """Return a reference that this node has not used before."""
        number = next(self._numbers)
        # A BEAM takes the first word for 18 bits wide.
        words = (number & 0x3FFFF, number >> 18 & 0xFFFFFFFF, number >> 50 & 0xFFFFFFFF)
        return Reference(self.name, self.creation, words)

    def add(self, destination: Destination, *, name: str | None = None) -> None:
        """Let `destination` be reached by its pid, and by `name` if there is one.

        It may be added before the start, and then no peer comes too early for it.
        Raises ValueError for a name that is registered already.
        """
        if name is not None and name in self._names:
            raise ValueError(f"{name!r} is registered already: choose another name.")
        if self.creation:
            self._attach(destination)
        else:
            self._waiting.append(destination)
        if name is not None:
            self._names[name] = destination

    def _attach(self, destination: Destination) -> None:
        destination.node = self
        destination.pid = self.new_pid()
        destination.attached()
        self._destinations[destination.pid] = destination

    # --- connections

    @_shielded
    def connect(self, peer: str) -> Connection:
        """Return the connection with node `peer`, made now if need be.

        Raises NodeUnavailableError.
        """
        if self._stopping:
            raise NodeUnavailableError(f"{self.name} is stopping; start it again.", node=peer)
        return self._table.connect(peer)

    def connection(self, peer: str) -> Connection | None:
        """Return the connection with node `peer`, None if there is none."""
        return self._table.get(peer)

    def nodes(self) -> list[Atom]:
        """Return the names of the nodes that this one is connected with."""
        return [connection.peer for connection in self._table.connections()]

    def _up(self, connection: Connection) -> None:
        log.info("%s is connected", connection.peer)

    def _down(self, connection: Connection, reason: str) -> None:
        log.info("%s is no longer connected: %s", connection.peer, reason)
        for reference, monitor in list(self._monitors.items()):
            if monitor.connection is connection and self._forget(reference):
                _fire(monitor, _NOCONNECTION)
        for reference, peer in list(self._abandoned.items()):
            if peer is connection:
                self._abandoned.pop(reference, None)

    # --- signals from here to there

    @_shielded
    def send(self, to: Address, term: Any) -> None:
        """Send a message, as `erlang:send/2` does; connects if need be.

        Raises EncodeError, and NodeUnavailableError where Erlang would be silent.
        """
        payload = encode(term)
        control: cm.ControlMessage
        if isinstance(to, Pid):
            peer, control = str(to.node), cm.SendSender(self._self, to)
        else:
            peer, control = to[1], cm.RegSend(self._self, Atom(to[0]))
        connection = self.connect(peer)
        connection.throttle()
        connection.send(control, payload)

    @_shielded
    def monitor(self, to: Address, callback: Callable[[Any], None]) -> Reference:
        """Monitor a process: `callback(reason)` is called once, when it is ``DOWN``.

        The reason is an Erlang term: what the process exited with, ``noproc`` if there is no
        such process, ``noconnection`` if its node is lost. The callback comes on the thread
        that reads from the node and must not block. Raises NodeUnavailableError.
        """
        target: Pid | Atom
        if isinstance(to, Pid):
            peer, target = str(to.node), to
        else:
            peer, target = to[1], Atom(to[0])
        return self.monitor_over(self.connect(peer), target, callback)

    def monitor_over(
        self, connection: Connection, target: Pid | Atom, callback: Callable[[Any], None]
    ) -> Reference:
        """Monitor a process of the node that `connection` leads to; as `monitor`, never blocks."""
        reference = self.new_reference()
        self._monitors[reference] = _Monitor(connection, reference, target, callback)
        connection.send(cm.MonitorP(self._self, target, reference))
        if connection.ended is not None and self._forget(reference):
            # Lost in between, and `_down` may not have seen it. The caller may hold a lock that
            # the callback takes.
            self.engine.submit(functools.partial(callback, _NOCONNECTION))
        return reference

    def _forget(self, reference: Reference) -> bool:
        return self._monitors.pop(reference, None) is not None

    @_shielded
    def demonitor(self, reference: Reference) -> bool:
        """Remove a monitor; False if it had fired already."""
        with self._spawns:
            monitor = self._monitors.pop(reference, None)
            if monitor is None:
                return False
            if monitor.target is None and monitor.connection.ended is None:
                # What is to be demonitored is not known before the peer has answered.
                self._abandoned[reference] = monitor.connection
        if monitor.target is not None:
            monitor.connection.send(cm.DemonitorP(self._self, monitor.target, reference))
        return True

    @_shielded
    def call(
        self, to: Address, request: Any, *, timeout: float | None = config.CALL_TIMEOUT
    ) -> Any:
        """Call a GenServer and return its reply (`gen_server:call/3`). `timeout` in seconds.

        Raises CallTimeoutError, ExitError with the reason if the process exits before it has
        answered or does not exist, NodeUnavailableError, EncodeError.
        """
        self.engine.check_nesting()
        inbox: SimpleQueue[Any] = SimpleQueue()
        reference = self.monitor(to, lambda reason: inbox.put((False, reason)))
        self._inboxes[reference] = inbox
        try:
            # The alias in the tag makes the other side answer to this reference, so an answer
            # that comes too late finds nobody and is dropped (gen.erl, do_call).
            self.send(to, (gen.CALL, (self._self, gen.tag_of(reference)), request))
            answered, answer = self._wait(inbox, to, timeout)
        finally:
            self._inboxes.pop(reference, None)
            self.demonitor(reference)
        if answered:
            return answer[1]
        raise ExitError(f"{_show(to)} did not answer, it exited: {_explain(answer)}", reason=answer)

    @_shielded
    def erpc(
        self,
        peer: str,
        module: str,
        function: str,
        args: list[Any],
        *,
        timeout: float | None = config.CALL_TIMEOUT,
        default: Callable[[Any], Any] = no_objects,
    ) -> Any:
        """Call a function on a BEAM node and return its value (`erpc:call/5`).

        Raises ExitError with Erlang's reason if the function raises, throws or exits,
        CallTimeoutError, NodeUnavailableError, EncodeError.
        """
        self.engine.check_nesting()
        inbox: SimpleQueue[Any] = SimpleQueue()
        result, request = self.new_reference(), self.new_reference()
        mfa = (result, Atom(module), Atom(function), args)
        payload = encode(list(mfa), default)
        connection = self.connect(peer)
        self._monitors[request] = _Monitor(
            connection, request, None, lambda reason: inbox.put((False, reason))
        )
        self._inboxes[request] = inbox
        try:
            connection.throttle()
            connection.send(
                cm.SpawnRequest(request, self._self, self._self, _ERPC, [_MONITOR]), payload
            )
            if connection.ended is not None:
                inbox.put((False, _NOCONNECTION))
            _, reason = self._wait(inbox, (f"{module}:{function}/{len(args)}", peer), timeout)
        finally:
            self._inboxes.pop(request, None)
            self.demonitor(request)
        match reason:
            case (tag, Atom("return"), value) if tag == result:
                return value
            case (tag, *details) if tag == result:
                reason = tuple(details)
        raise ExitError(
            f"{module}:{function}/{len(args)} failed on {peer}: {_explain(reason)}", reason=reason
        )

    def ping(self, peer: str, *, timeout: float = config.CALL_TIMEOUT) -> bool:
        """Whether `peer` answers (`net_adm:ping/1`). Raises NodeUnavailableError and others."""
        answer = self.call(("net_kernel", peer), (Atom("is_auth"), self.name), timeout=timeout)
        return bool(answer == "yes")

    def _wait(self, inbox: SimpleQueue[Any], to: Address, timeout: float | None) -> Any:
        try:
            return self.engine.wait(inbox, timeout)
        except Empty:
            raise CallTimeoutError(
                f"{_show(to)} did not answer within {timeout:g} seconds: "
                "give it more with timeout=."
            ) from None

    # --- signals from there to here

    def decode(self, payload: bytes) -> Any:
        """Return the Python value of an encoded message. Raises DecodeError."""
        return decode(payload, fun=self.callable)

    def callable(self, fun: Fun) -> RemoteFun:
        """Return `fun` as something that can be called from here."""
        return RemoteFun.bind(fun, self)

    def answered(self, alias: Reference, message: tuple[Any, Any]) -> None:
        """Hand the answer ``{Tag, Reply}`` to who waits for it, if somebody still does."""
        inbox = self._inboxes.get(alias)
        if inbox is not None:
            inbox.put((True, message))

    def _deliver(self, connection: Connection, message: Message) -> Task | None:
        handler = _HANDLERS.get(type(message.control))
        if handler is None:
            log.debug("%s from %s is not for us", message.control, connection.peer)
            return None
        return handler(self, connection, message.control, message.payload)

    def _find(self, to: Pid | Atom) -> Destination | None:
        return self._destinations.get(to) if isinstance(to, Pid) else self._names.get(to)

    def _on_reg_send(self, connection: Connection, m: Any, payload: Any) -> Task | None:
        destination = self._names.get(m.to_name)
        return None if destination is None else destination.deliver(connection, payload)

    def _on_send(self, connection: Connection, m: Any, payload: Any) -> Task | None:
        destination = self._destinations.get(m.to_pid)
        return None if destination is None else destination.deliver(connection, payload)

    def _on_alias_send(self, _connection: Connection, m: Any, payload: Any) -> None:
        if m.alias in self._inboxes:
            self.answered(m.alias, self.decode(payload))

    def _on_monitor(self, connection: Connection, m: Any, _payload: Any) -> None:
        destination = self._find(m.to_proc)
        if destination is None:
            connection.post(
                connection.encode(cm.MonitorPExit(m.to_proc, m.from_pid, m.ref, _NOPROC))
            )
        else:
            connection.monitors[m.ref] = (m.from_pid, destination)

    def _on_demonitor(self, connection: Connection, m: Any, _payload: Any) -> None:
        monitor = connection.monitors.pop(m.ref, None)
        if monitor is not None:
            monitor[1].demonitored(m.ref)

    def _on_monitor_exit(self, _connection: Connection, m: Any, payload: Any) -> None:
        monitor = self._monitors.pop(m.ref, None)
        if monitor is not None:
            _fire(monitor, m.reason if payload is None else self.decode(payload))

    def _on_link(self, connection: Connection, m: Any, _payload: Any) -> None:
        if m.to_pid not in self._destinations:
            connection.post(
                connection.encode(cm.PayloadExit(m.to_pid, m.from_pid), encode(_NOPROC))
            )

    def _on_unlink(self, connection: Connection, m: Any, _payload: Any) -> None:
        connection.post(connection.encode(cm.UnlinkIdAck(m.id, m.to_pid, m.from_pid)))

    def _on_spawn_request(self, connection: Connection, m: Any, _payload: Any) -> None:
        reply = cm.SpawnReply(m.req_id, m.from_pid, 0, _NOTSUP)
        connection.post(connection.encode(reply))

    def _on_spawn_reply(self, _connection: Connection, m: Any, _payload: Any) -> None:
        with self._spawns:
            connection = self._abandoned.pop(m.req_id, None)
            monitor = self._monitors.get(m.req_id)
            if monitor is not None and isinstance(m.result, Pid):
                self._monitors[m.req_id] = monitor._replace(target=m.result)
        if not isinstance(m.result, Pid):
            if monitor is not None and self._forget(m.req_id):
                _fire(monitor, m.result)
        elif connection is not None:
            control = cm.DemonitorP(self._self, m.result, m.req_id)
            connection.post(connection.encode(control))


_HANDLERS: dict[type, Callable[[Node, Connection, Any, Any], Task | None]] = {
    cm.RegSend: Node._on_reg_send,
    cm.RegSendTT: Node._on_reg_send,
    cm.Send: Node._on_send,
    cm.SendTT: Node._on_send,
    cm.SendSender: Node._on_send,
    cm.SendSenderTT: Node._on_send,
    cm.AliasSend: Node._on_alias_send,
    cm.AliasSendTT: Node._on_alias_send,
    cm.MonitorP: Node._on_monitor,
    cm.DemonitorP: Node._on_demonitor,
    cm.MonitorPExit: Node._on_monitor_exit,
    cm.PayloadMonitorPExit: Node._on_monitor_exit,
    cm.Link: Node._on_link,
    cm.UnlinkId: Node._on_unlink,
    cm.SpawnRequest: Node._on_spawn_request,
    cm.SpawnRequestTT: Node._on_spawn_request,
    cm.SpawnReply: Node._on_spawn_reply,
    cm.SpawnReplyTT: Node._on_spawn_reply,
}


def _fire(monitor: _Monitor, reason: Any) -> None:
    """Tell who has asked; whatever that does, the connection goes on."""
    try:
        monitor.callback(reason)
    except Exception:
        log.exception("internal error when a monitor fired; please report it")


def _explain(reason: Any) -> str:
    """Return an exit reason in short: without the stack trace, and an Elixir exception by name."""
    match reason:
        case (kind, {"__exception__": True, "__struct__": struct} as fields, *_):
            return f"{kind} {struct.removeprefix('Elixir.')}: {fields.get('message', '')}"
        case (kind, term, [*_]):
            return f"{kind} {short(term)}"
    return short(reason)


def _show(to: Address) -> str:
    return str(to) if isinstance(to, Pid) else f"{to[0]} on {to[1]}"
