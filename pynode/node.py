"""A node of a BEAM cluster: a name, a creation, connections, and what can be reached by them.

`Node` is what a Python developer starts, and the face of what is behind it: the connection table
(`pynode.dist.table`), the signals between processes (`pynode.signals`), requests and their answers
(`pynode.calls`), the threads (`pynode.dist.engine`).
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from contextlib import ExitStack
from types import CoroutineType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeAlias, TypeVar

from pynode import calls, config, gen, posix
from pynode.calls import Callers, RemoteFun, Request
from pynode.cookie import find_cookie
from pynode.coroutines import Awaited, EventLoop
from pynode.destination import Destination, node_of
from pynode.dist.engine import Engine
from pynode.dist.loopback import Loopback
from pynode.dist.naming import EpmdNaming, Naming, StaticNaming
from pynode.dist.table import ConnectionTable
from pynode.errors import NodeUnavailableError
from pynode.gen_server import GenServer, process_of
from pynode.modules import Modules
from pynode.otp import global_names
from pynode.otp.global_names import GlobalNameServer
from pynode.otp.net_kernel import NetKernel
from pynode.otp.rex import Rex
from pynode.otp.spawn import spawn_for
from pynode.process import Process, Spawned, current_process
from pynode.protocol.flags import DEFAULT, DFlag
from pynode.protocol.names import is_node_name
from pynode.show import short
from pynode.signals import Signals, post_exit
from pynode.terms import Atom, Fun, Pid, Reference
from pynode.values import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence

    from pynode.dist.connection import Connection
    from pynode.dist.task import Task
    from pynode.dist.tls import Tls

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Characters of a name, as of any atom.
_LONGEST_NAME = 255

#: A process: its pid, its registered name if it is of this node, or that and its node's name.
Address: TypeAlias = Pid | str | tuple[str, str]


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
    `published`. `allow` limits what peers may call to these modules and those inside them.

    Without `epmd`, neither is EPMD told of the node nor asked for others: then `peers` has their
    ports, by their names, or the one port at which each of them listens on its host.

    A peer from which nothing has come for `net_ticktime` seconds is taken for lost.

    With `tls`, all connections use it, and both sides check each other's certificates. `limits`
    are what peers may ask of it.

    Raises ValueError for a name, port or time that is none, CookieError, and TlsError.

    >>> with Node("example@127.0.0.1", cookie="secret") as example:
    ...     example.erpc("app@127.0.0.1", "lists", "reverse", [[1, 2, 3]])
    [3, 2, 1]
    """

    def __init__(
        self,
        name: str,
        *,
        cookie: str | None = None,
        listen: str = "127.0.0.1",
        port: int = 0,
        epmd: bool = True,
        peers: Mapping[str, int] | int | None = None,
        published: bool = False,
        allow: Iterable[str] | None = None,
        net_ticktime: float = config.NET_TICKTIME,
        tls: Tls | None = None,
        max_threads: int = config.MAX_THREADS,
        limits: config.Limits = config.LIMITS,
    ) -> None:
        if not is_node_name(name):
            raise ValueError(f"{name!r} is no node name: use the form name@host.")
        if epmd and peers is not None:
            raise ValueError("peers are for a node that asks no EPMD: pass epmd=False, too.")
        self.name = Atom(name)
        self.creation = 0
        self.engine = Engine(max_threads=max_threads)
        self.limits = limits
        self.modules = Modules(allow)
        self.signals = Signals(self)
        self._loop = EventLoop(self.engine)
        self._address, self._port = listen, port
        self._naming: Naming
        if epmd:
            self._naming = EpmdNaming(
                name,
                listen=listen,
                hidden=not published,
                submit=self.engine.submit,
                after=self.engine.after,
            )
        else:
            self._naming = StaticNaming(name, peers)
        self._table = ConnectionTable(
            name=self.name,
            cookie=find_cookie(value=cookie),
            flags=DEFAULT | DFlag.PUBLISHED if published else DEFAULT,
            engine=self.engine,
            resolve=self._naming.resolve,
            up=self._up,
            down=self._down,
            deliver=self.signals.deliver,
            net_ticktime=net_ticktime,
            tls=tls,
            limits=limits,
        )
        self._numbers = itertools.count(1)
        self._ids = itertools.count(1)
        #: What was added before the start: only then are there pids, which need the creation.
        self._waiting: list[Destination] = []
        self._subscribers: dict[object, Callable[[bool, Atom], Task | None]] = {}
        self._loopback = Loopback(self.name, self.signals.deliver)
        self._callers = Callers()
        self.add(self._callers)
        self.add(NetKernel(), name=NetKernel.NAME)
        self.add(Rex(), name=Rex.NAME)
        #: What makes this node a part of ``global``, if it is published.
        self.global_names = GlobalNameServer() if published else None
        if self.global_names is not None:
            self.add(self.global_names, name=GlobalNameServer.NAME)
        self._stopping = False
        self._ended = threading.Event()

    # --- life

    def start(self) -> None:
        """Listen, register with EPMD (or be one, where there is none), and accept peers.

        Raises NameTakenError, other EpmdErrors, and ListenError when the port is not free;
        RuntimeError for a node that was started before.
        """
        if self.creation or self._stopping:
            raise RuntimeError(f"{self.name} was started before: make a new Node for it.")
        self._port = self._table.listen(self._address, self._port)
        self.engine.start()
        try:
            self.creation = self._naming.register(self._port)
            for destination in self._waiting:
                self._give_pid(destination)
            # Only now: what is started may send to all the others.
            self._loopback.open()
            self.engine.add(self._loopback)
            for destination in self._waiting:
                self.engine.run(destination.attached())
            for destination in self._waiting:
                destination.ready()
        except BaseException:
            self.stop()
            raise
        self._table.start(self.creation)

    @_shielded
    def stop(self) -> None:
        """End all processes, close all connections and free the name. Peers see ``nodedown``.

        The processes exit with ``shutdown``, of which links and monitors elsewhere are still told.
        """
        if self._stopping:
            return
        self._stopping = True
        self._ended.set()
        deadline = time.monotonic() + config.SHUTDOWN_SECONDS
        with ExitStack() as at_last:  # whatever happens, and be it an interrupt
            at_last.callback(self.engine.stop)
            at_last.callback(self._loop.stop)
            # Who still waits for a process of this node hears that there is none.
            at_last.callback(self.signals.lost, self._loopback)
            at_last.callback(self._loopback.close, "node_stopped")
            at_last.callback(self._table.stop)
            at_last.callback(self._naming.close)
            # Those that came later may need the others for their end.
            for destination in reversed(list(self.signals.destinations.values())):
                destination.stopped()
                destination.join(deadline)

    def run_forever(self) -> None:
        """Wait until SIGTERM or SIGINT comes, or the node is stopped. For the main thread alone.

        What follows decides how the program ends: leave the ``with``, or `stop` the node.
        """
        restore = posix.end_on_signals(self._ended)
        try:
            self._ended.wait()
        finally:
            restore()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Node {self.name}>"

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

    def add(self, destination: Destination | GenServer, *, name: str | None = None) -> None:
        """Let `destination` be reached by its pid, and by `name` if there is one.

        It may be added before the start, and then no peer comes too early for it. Raises
        ValueError for a name that is registered already, and what the start of a GenServer raises.
        """
        if isinstance(destination, GenServer):
            destination = process_of(destination)
            destination.check_new()
        if not isinstance(destination, Destination):
            raise TypeError(f"{short(destination)} is no process: give an object of its class.")
        if self.creation:
            self.check_running()
            self.engine.run(self.attach(destination, name))
            destination.ready()
        else:
            if name is not None:
                self.register(name, destination)
            self._waiting.append(destination)

    def attach(self, destination: Destination, name: str | None = None) -> Task | None:
        """Give `destination` its pid; return the task that it is to be started with, if any."""
        self._give_pid(destination)
        if name is not None:
            # Not before it has a pid: messages to the name may come at once.
            try:
                self.register(name, destination)
            except (TypeError, ValueError):
                self.signals.destinations.pop(destination.pid)
                raise
        return destination.attached()

    def _give_pid(self, destination: Destination) -> None:
        destination.node = self
        destination.pid = self.new_pid()
        self.signals.destinations[destination.pid] = destination

    def remove(self, destination: Destination) -> None:
        """Let `destination` be reached no more."""
        self.signals.destinations.pop(destination.pid, None)
        self._subscribers.pop(destination, None)
        name = destination.name
        if name is not None and self.signals.names.get(name) is destination:
            del self.signals.names[name]

    def register(self, name: str, process: Destination | GenServer | Pid) -> None:
        """Let a process of this node be reached by `name` (`erlang:register/2`).

        Raises ValueError for a name that is registered already, for a second name, and for a
        process that has exited.
        """
        if not isinstance(name, str):
            raise TypeError(f"{short(name)} is no name: give a string.")
        if not 0 < len(name) <= _LONGEST_NAME or name == "undefined":
            raise ValueError(f"{short(name)} is no name: give 1 to 255 characters.")
        if isinstance(process, GenServer):
            process = process_of(process)
        destination = self.signals.find(process) if isinstance(process, Pid) else process
        if destination is None or (self.creation and self.signals.find(destination.pid) is None):
            raise ValueError(f"{process} is no living process of this node: give one that is.")
        if destination.name is not None:
            raise ValueError(
                f"{destination!r} is registered as {destination.name!r}: unregister that first."
            )
        if self.signals.names.setdefault(name, destination) is not destination:
            raise ValueError(f"{name!r} is registered already: choose another name.")
        destination.name = name
        if self.creation and self.signals.find(destination.pid) is None:
            self.remove(destination)  # it has exited meanwhile

    def unregister(self, name: str) -> None:
        """Free a name (`erlang:unregister/1`). Raises ValueError if nothing has it."""
        destination = self.signals.names.pop(name, None)
        if destination is None:
            raise ValueError(f"Nothing is registered as {name!r}: check the spelling.")
        destination.name = None

    def whereis(self, name: str) -> Pid | None:
        """Return the pid that is registered as `name` on this node (`erlang:whereis/1`)."""
        destination = self.signals.names.get(name)
        return None if destination is None else destination.pid

    def register_global(self, name: Any, pid: Pid) -> bool:
        """Register a process on all published nodes (`global:register_name/2`).

        False if the name is taken. Waits until the nodes agree; if two processes got the name on
        nodes that did not know each other yet, one of the two is killed when they meet. Raises
        ValueError unless this node is published, and EncodeError.
        """
        return global_names.register(self._global_server(), name, pid)

    def unregister_global(self, name: Any) -> None:
        """Free a name on all published nodes (`global:unregister_name/1`)."""
        global_names.unregister(self._global_server(), name)

    def whereis_global(self, name: Any) -> Pid | None:
        """Return the pid that is registered on all published nodes (`global:whereis_name/1`).

        Raises ValueError unless this node is published.
        """
        found = self._global_server().tables.find(name)
        return None if found is None else found.pid

    def _global_server(self) -> GlobalNameServer:
        if self.global_names is None:
            raise ValueError(
                "Global names are agreed upon by published nodes, and this one is hidden: start it "
                "with published=True, or ask one by erpc(peer, 'global', 'whereis_name', [name])."
            )
        return self.global_names

    # --- processes of this node

    def process(self, *, name: str | None = None) -> Process:
        """Start a process whose code is that of the caller: it can receive, link and monitor.

        Use it in a ``with``, or end it with `Process.exit`.
        """
        self.check_running()
        process = Process()
        self.add(process, name=name)
        return process

    def spawn(self, function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Pid:
        """Start a process that runs ``function(*args, **kwargs)``, and exits when that returns.

        Inside, `current_process` is the process. An exception is its exit reason.

        >>> with node.process() as parent:
        ...     child = node.spawn(lambda: node.send(parent.pid, current_process().pid))
        ...     parent.receive() == child
        True
        """
        self.check_running()
        process = Spawned(function, args, kwargs)
        self.add(process)
        return process.pid

    def spawn_for(self, connection: Connection, request: Any, payload: bytes) -> Task | None:
        """Spawn a process that another node asks for."""
        return spawn_for(self, connection, request, payload)

    def self(self) -> Pid:
        """Return the pid that what is sent from here comes from (`erlang:self/0`).

        It is that of `current_process`; where there is none, one for all such code.
        """
        process = current_process()
        if process is not None and process.alive and process.node is self:
            return process.pid
        return self._callers.pid

    def run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await `coroutine` on the node's event loop and return its result."""
        return self._loop.run(coroutine)

    def run_in(self, task: Task, function: Callable[..., Any], *args: Any) -> Any:
        """Return what a function of the user's does, awaited if that is a coroutine.

        See `Task.interruptible`.
        """
        value = task.interruptible(function, *args)
        if type(value) is CoroutineType:
            value = task.interruptible(self.run_async, value)
        return value

    def awaited(self, coroutine: Coroutine[Any, Any, Any], task: Task) -> Awaited:
        """Return `coroutine`, to be awaited on the node's event loop for a suspended task."""
        return self._loop.awaited(coroutine, task)

    # --- connections

    @_shielded
    def connect(self, peer: str) -> Connection:
        """Return the connection with node `peer`, made now if need be.

        Raises NodeUnavailableError.
        """
        # What exits because the node stops may still use the connections that there are.
        connection = self.connection(peer)
        if connection is None or connection.ended is not None:
            self.check_running()
            connection = self._table.connect(peer)
        return connection

    def check_running(self) -> None:
        """Raise NodeUnavailableError unless the node runs."""
        if not self.creation:
            raise NodeUnavailableError(
                f"{self.name} was not started: use it in a with statement, or call start().",
                node=self.name,
            )
        if self._stopping:
            raise NodeUnavailableError(
                f"{self.name} was stopped: start a new Node.", node=self.name
            )

    def connection(self, peer: str) -> Connection | None:
        """Return the connection with node `peer`, None if there is none."""
        return self._loopback if peer == self.name else self._table.get(peer)

    def ready(self, peer: str, sender: Hashable = None) -> Connection:
        """Return the connection with node `peer`, made now if need be, once it takes more.

        `sender` is that of `Connection.throttle`. Raises NodeUnavailableError.
        """
        connection = self.connect(peer)
        connection.throttle(sender)
        return connection

    def disconnect(self, peer: str) -> bool:
        """Close the connection with node `peer`; False if there was none."""
        connection = self._table.get(peer)
        if connection is not None:
            connection.close("disconnect")
        return connection is not None

    def nodes(self) -> list[Atom]:
        """Return the names of the nodes that this one is connected with."""
        return [connection.peer for connection in self._table.connections()]

    def monitor_nodes(self, callback: Callable[[str, str], object]) -> Callable[[], None]:
        """Have ``callback("nodeup" | "nodedown", name)`` called as nodes come and go.

        It comes on a thread of the node's, one call at a time, in order; it may block. Returns a
        function that ends the subscription. See `net_kernel:monitor_nodes/1`, which tells of
        visible nodes alone, this of hidden ones as well.
        """
        key = object()

        def event(up: bool, peer: Atom) -> None:  # noqa: FBT001
            self.engine.submit(
                functools.partial(callback, "nodeup" if up else "nodedown", peer), lane=key
            )

        self.subscribe(key, event)
        return functools.partial(self.subscribe, key, None)

    def subscribe(
        self, key: object, subscriber: Callable[[bool, Atom], Task | None] | None
    ) -> None:
        """Tell `subscriber` whether which node is up; it must not block. None ends that."""
        if subscriber is None:
            self._subscribers.pop(key, None)
        else:
            self._subscribers[key] = subscriber

    def _up(self, connection: Connection) -> None:
        log.info("%s is connected", connection.peer)
        self._tell(connection.peer, up=True)

    def _down(self, connection: Connection, reason: str) -> None:
        log.info("%s is no longer connected: %s", connection.peer, reason)
        self.signals.lost(connection)
        self._tell(connection.peer, up=False)

    def _tell(self, peer: Atom, *, up: bool) -> None:
        for subscriber in list(self._subscribers.values()):
            self.engine.run(subscriber(up, peer))

    # --- signals from here to there

    def reach(self, to: Address) -> tuple[Connection, Pid | Atom]:
        """Return the connection that leads to a process, and what it is called there.

        Raises NodeUnavailableError.
        """
        peer, target = self.locate(to)
        return self.ready(peer), target

    def locate(self, to: Address | Reference, *, alias: bool = False) -> tuple[str, Any]:
        """Return the node of a process, or of an alias if it may be one, and its name there."""
        match to:
            case Pid():
                return to.node, to
            case Reference():
                if alias:
                    return to.node, to
                raise TypeError(f"{to} is an alias, to which messages can be sent, and no process.")
            case str(name):
                return self.name, Atom(name)
            case (str(name), str(peer)):
                return peer, Atom(name)
        raise TypeError(f"{short(to)} is no process: give a pid, a name, or a name and a node.")

    @_shielded
    def send(self, to: Address | Reference, term: Any) -> None:
        """Send a message, as `erlang:send/2` does, also to an alias; connects if need be.

        Raises EncodeError, and NodeUnavailableError where Erlang would be silent.
        """
        payload = encode(term)
        peer, target = self.locate(to, alias=True)
        self.send_over(self.ready(peer), target, payload)

    def send_over(
        self, connection: Connection, target: Pid | Atom | Reference, payload: bytes
    ) -> None:
        """Send an encoded message to a process that `connection` leads to. Never blocks."""
        connection.send(calls.message_to(self.self(), target), payload)

    @_shielded
    def exit(self, pid: Pid, reason: Any) -> None:
        """Send an exit signal to a process (`erlang:exit/2`).

        Raises EncodeError and NodeUnavailableError.
        """
        peer = node_of(pid)
        payload = encode(reason)
        self.exit_over(self.ready(peer), pid, payload)

    def exit_over(self, connection: Connection, pid: Pid, payload: bytes) -> None:
        """Send an exit signal with an encoded reason over `connection`. Never blocks."""
        post_exit(connection, self.self(), pid, payload, link=False)
        connection.flush()

    @_shielded
    def monitor(self, to: Address, callback: Callable[[Any], object]) -> Reference:
        """Monitor a process: `callback(reason)` is called once, when it is ``DOWN``.

        >>> reasons = queue.SimpleQueue()
        >>> reference = node.monitor(("nobody", "app@127.0.0.1"), reasons.put)
        >>> reasons.get()
        Atom('noproc')

        The reason is an Erlang term: what the process exited with, ``noproc`` if there is no
        such process, ``noconnection`` if its node is lost. The callback comes on the thread
        that reads from the node and must not block. Raises NodeUnavailableError.
        """
        connection, target = self.reach(to)
        return self.monitor_over(connection, target, callback)

    def monitor_over(
        self, connection: Connection, target: Pid | Atom, callback: Callable[[Any], object]
    ) -> Reference:
        """Monitor a process of the node that `connection` leads to; as `monitor`, never blocks."""
        reference = self.new_reference()
        self.signals.monitor(connection, self._callers.pid, target, reference, callback)
        return reference

    @_shielded
    def demonitor(self, reference: Reference) -> bool:
        """Remove a monitor; False if it had fired already."""
        return self.signals.demonitor(reference)

    def linked(self, connection: Connection, pid: Pid, other: Pid) -> None:
        """Note that `other` was spawned with a link to the process `pid` of this node."""
        destination = self.signals.find(pid)
        if destination is None or not destination.linked(connection, other):
            post_exit(connection, pid, other, encode(Atom("noproc")), link=True)
            connection.flush()

    # --- requests

    @_shielded
    def call(
        self, to: Address, request: Any, *, timeout: float | None = config.CALL_TIMEOUT
    ) -> Any:
        """Call a GenServer and return its reply (`gen_server:call/3`). `timeout` in seconds.

        Raises CallTimeoutError, ExitError with the reason if the process exits before it has
        answered or does not exist, NodeUnavailableError, EncodeError.

        >>> node.call(("net_kernel", "app@127.0.0.1"), (Atom("is_auth"), node.name))
        Atom('yes')
        """
        return calls.send_request(self, *self.reach(to), request).result(timeout)

    @_shielded
    def send_request(self, to: Address, request: Any) -> Request[Any]:
        """Send a request to a GenServer, to get its reply later (`gen_server:send_request/2`).

        Raises NodeUnavailableError and EncodeError; what else `call` raises, the reply does.
        """
        return calls.send_request(self, *self.reach(to), request)

    def cast(self, to: Address, request: Any) -> None:
        """Send a request to a GenServer that has no reply (`gen_server:cast/2`).

        Raises EncodeError and NodeUnavailableError.
        """
        self.send(to, (gen.CAST, request))

    @_shielded
    def erpc(
        self,
        peer: str,
        module: str,
        function: str,
        args: list[Any],
        *,
        timeout: float | None = config.CALL_TIMEOUT,
    ) -> Any:
        """Call a function on another node and return its value (`erpc:call/5`).

        Elixir's modules are written as there: ``node.erpc(peer, "Enum", "sum", [[1, 2]])``.
        Raises RemoteError with Erlang's reason if the function raises, throws or exits, ExitError
        if its process is killed, CallTimeoutError, NodeUnavailableError, EncodeError.
        """
        return self.erpc_request(peer, module, function, args).result(timeout)

    rpc = erpc

    @_shielded
    def erpc_request(self, peer: str, module: str, function: str, args: list[Any]) -> Request[Any]:
        """Begin what `erpc` does, to get the value later (`erpc:send_request/4`)."""
        return calls.erpc(self, self.ready(peer), module, function, args)

    @_shielded
    def multicall(
        self,
        peers: Sequence[str],
        module: str,
        function: str,
        args: list[Any],
        *,
        timeout: float | None = config.CALL_TIMEOUT,
    ) -> list[Any]:
        """Call a function on several nodes at once (`erpc:multicall/5`).

        Returns what it has returned on each of them, in their order. Where `erpc` would raise a
        PynodeError, that is in its place. Raises EncodeError.

        >>> node.multicall(["app@127.0.0.1", node.name], "erlang", "node", [])
        [Atom('app@127.0.0.1'), Atom('docs@127.0.0.1')]
        """
        return calls.multicall(self, peers, (module, function, args), timeout)

    @_shielded
    def spawn_at(
        self,
        peer: str,
        module: str,
        function: str,
        args: list[Any],
        *,
        link: bool = False,
        timeout: float | None = config.CALL_TIMEOUT,
    ) -> Pid:
        """Start a process on another node, and return its pid (``Node.spawn/4`` in Elixir).

        With `link`, it is linked to `current_process`, atomically. Raises ExitError if the node
        refuses, CallTimeoutError, NodeUnavailableError, EncodeError.
        """
        connection = self.ready(peer)
        return calls.spawn_at(self, connection, module, function, args, link=link).result(timeout)

    def ping(self, peer: str, *, timeout: float = config.CALL_TIMEOUT) -> bool:
        """Whether `peer` answers (`net_adm:ping/1`). Raises NodeUnavailableError and others."""
        answer = self.call(("net_kernel", peer), (Atom("is_auth"), self.name), timeout=timeout)
        return bool(answer == "yes")

    # --- messages

    def decode(self, payload: bytes) -> Any:
        """Return the Python value of an encoded message. Raises DecodeError."""
        return decode(payload, fun=self.callable, limits=self.limits)

    def callable(self, fun: Fun) -> RemoteFun:
        """Return `fun` as something that can be called from here."""
        return RemoteFun.bind(fun, self)

    def is_answer(self, message: Any) -> bool:
        """Whether a message ``{Tag, Reply}`` is an answer that somebody waits for, who gets it.

        It should go to the alias that is in the tag, but may have been sent to the pid.
        """
        if type(message) is tuple and len(message) == 2:
            alias = gen.alias_of(message[0])
            answered = None if alias is None else self.signals.aliases.get(alias)
            if answered is not None:
                answered(message)
                return True
        return False
