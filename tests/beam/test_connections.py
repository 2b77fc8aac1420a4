"""How connections with real BEAM nodes come about, last, and end."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self

import pytest

from pynode import Atom, NameTakenError, Node, NodeUnavailableError, Pid, config, etf
from pynode.bridge import Bridge
from pynode.dist.epmd import EpmdClient
from pynode.errors import EpmdUnavailableError, HandshakeError
from pynode.protocol import control as cm
from pynode.protocol.channel import NEED_DATA as CHANNEL_NEEDS_DATA
from pynode.protocol.channel import TICK, Channel, Message, Tick
from pynode.protocol.flags import DEFAULT
from pynode.protocol.handshake import NEED_DATA, Established, Handshake, StatusAlive
from pynode.testing import Epmd, run_pynode, wait_until
from pynode.testing.children import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pynode.testing import BeamNode, BeamProcess, Network, PynodeProcess

PATIENCE = 10.0
CALL = "gen_server:call({snakebridge, N}, R, infinity)"


def some_name(alive: str = "py", host: str = "127.0.0.1") -> str:
    return f"{alive}{secrets.token_hex(5)}@{host}"


@pytest.fixture
def node(epmd: Epmd, cookie: str) -> Iterator[Node]:
    with Node(some_name(), cookie=cookie) as node:
        yield node


@pytest.fixture
def start(any_beam: BeamNode, start_beam: Callable[..., BeamNode]) -> Callable[..., BeamNode]:
    """`start_beam` with each runtime in turn."""

    def start(name: str | None = None, **options: Any) -> BeamNode:
        return start_beam(name, runtime=any_beam.runtime, **options)

    return start


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def free_port() -> int:
    return unused_port()


@pytest.fixture
def no_epmd(monkeypatch: pytest.MonkeyPatch) -> int:
    """The port where the environment says that an EPMD is, and none is."""
    port = unused_port()
    monkeypatch.setenv("ERL_EPMD_PORT", str(port))
    return port


@pytest.fixture
def ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")


def call_of(function: str, *args: Any, module: str = "math") -> Any:
    return (Atom("call"), module, function, list(args), {})


def port_of(name: str) -> int:
    port = EpmdClient().lookup(name.partition("@")[0])
    assert port is not None
    return port


def is_registered(name: str) -> bool:
    with contextlib.suppress(Exception):
        return EpmdClient().lookup(name.partition("@")[0]) is not None
    return False


def is_together(beam: BeamNode, name: str) -> bool:
    return name in beam.eval("nodes(connected)")


def is_apart(beam: BeamNode, name: str) -> bool:
    return name not in beam.eval("nodes(connected)")


def has_no_name(beam: BeamNode) -> bool:
    return bool(beam.eval("node()") == "nonode@nohost")


def monitored(node: Node, process: BeamProcess) -> SimpleQueue[Any]:
    """Monitor a process; from here on it does not die too early for that."""
    reasons: SimpleQueue[Any] = SimpleQueue()
    node.monitor(process.pid, reasons.put)
    assert node.ping(process.pid.node)
    return reasons


class Watcher:
    """A process of a BEAM that is told when one node comes up and goes down."""

    def __init__(self, beam: BeamNode, name: str) -> None:
        self._name = Atom(name)
        self._process = beam.process()
        self._process.eval("ok = net_kernel:monitor_nodes(true, #{node_type => all})")

    def next(self) -> str:
        source = "receive {What, N, _} -> What after 30000 -> timeout end"
        return str(self._process.eval(source, N=self._name))

    def has_heard(self) -> bool:
        return bool(
            self._process.eval("receive {_, N, _} -> true after 0 -> false end", N=self._name)
        )


class Gate:
    """A way to a port that can be shut: what connects waits there until the gate is opened.

    `arrived` is set when something has; `said` is what the port has answered through the gate.
    """

    def __init__(self, port: int, *, is_open: bool = False) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.arrived = threading.Event()
        self.said = bytearray()
        self._opened = threading.Event()
        if is_open:
            self.open()
        self._sockets = contextlib.ExitStack()
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(PATIENCE)
        self._sockets.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def open(self) -> None:
        self._opened.set()

    def _begin(self, function: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=function, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                outer = self._keep(self._listener.accept()[0])
                self.arrived.set()
                self._opened.wait()
                inner = self._keep(socket.create_connection(("127.0.0.1", self._target)))
                self._begin(self._pass_on, outer, inner, bytearray())
                self._begin(self._pass_on, inner, outer, self.said)

    def _keep(self, sock: socket.socket) -> socket.socket:
        self._sockets.enter_context(sock)
        self._sockets.callback(self._shut_down, sock)
        return sock

    @staticmethod
    def _shut_down(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                seen += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)


class Ghost:
    """A peer that is there as far as the handshake goes, and then says what a test makes it say."""

    def __init__(self, node: Node, name: str, cookie: str, *, go_on: bool = True) -> None:
        self.sock = socket.create_connection(("127.0.0.1", node._port), timeout=PATIENCE)
        handshake = Handshake.initiator(name, node.name, cookie, DEFAULT, 77)
        try:
            self._channel = self._shake_hands(handshake, go_on=go_on)
        except HandshakeError:
            self.sock.sendall(handshake.data_to_send())
            self.sock.close()
            raise
        self.pid = Pid(Atom(name), 1, 0, 77)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def _shake_hands(self, handshake: Handshake, *, go_on: bool) -> Channel:
        while True:
            event = handshake.next_event()
            if event is NEED_DATA:
                self.sock.sendall(handshake.data_to_send())
                handshake.receive_data(self.sock.recv(4096))
            elif isinstance(event, StatusAlive):
                handshake.answer_alive(go_on=go_on)
            elif isinstance(event, Established):
                channel = Channel(event.flags)
                channel.receive_data(handshake.trailing_data)
                return channel

    def send(self, control: cm.ControlMessage) -> None:
        message = self._channel.encode(control, None)
        assert isinstance(message, bytes)
        self.sock.sendall(message)

    def ticks_before_message(self) -> int:
        """Return how many ticks come before the next message."""
        ticks = 0
        while True:
            event = self._channel.next_event()
            if event is CHANNEL_NEEDS_DATA:
                data = self.sock.recv(65536)
                assert data
                self._channel.receive_data(data)
            elif isinstance(event, Tick):
                ticks += 1
            elif isinstance(event, Message):
                return ticks

    def wait_until_closed(self) -> None:
        with contextlib.suppress(ConnectionResetError):
            while self.sock.recv(65536):
                pass


# --- making connections


def test_a_beam_connects_and_pings(any_beam: BeamNode, node: Node) -> None:
    assert any_beam.eval("net_kernel:connect_node(N)", N=node.name) is True
    assert any_beam.eval("net_adm:ping(N)", N=node.name) == "pong"
    assert node.nodes() == [any_beam.name]


def test_python_connects_and_pings(any_beam: BeamNode, node: Node) -> None:
    assert node.ping(any_beam.name)
    assert node.name in any_beam.eval("nodes(hidden)")


def test_two_python_nodes(node: Node, cookie: str) -> None:
    with Node(some_name(), cookie=cookie) as other:
        assert other.ping(node.name)
        wait_until(lambda: node.nodes() == [other.name])
    wait_until(lambda: node.nodes() == [])


def test_a_node_that_stops_is_down(any_beam: BeamNode, cookie: str) -> None:
    with Node(some_name(), cookie=cookie) as node:
        watcher = Watcher(any_beam, node.name)
        assert node.ping(any_beam.name)
        assert watcher.next() == "nodeup"
    assert watcher.next() == "nodedown"


def test_hidden_and_published(any_beam: BeamNode, cookie: str) -> None:
    lists = "{nodes(), nodes(hidden), nodes(connected)}"
    for published in (False, True):
        with Node(some_name(), cookie=cookie, published=published) as node:
            assert any_beam.eval("net_kernel:connect_node(N)", N=node.name) is True
            visible, hidden, connected = any_beam.eval(lists)
            assert (node.name in visible) == published
            assert (node.name in hidden) != published
            assert node.name in connected
            # The BEAM is done a moment before we are.
            wait_until(lambda: node.nodes() == [any_beam.name])
        wait_until(partial(is_apart, any_beam, node.name))


def test_a_hidden_beam(start: Callable[..., BeamNode], node: Node) -> None:
    beam = start(hidden=True)
    assert node.ping(beam.name)
    assert node.nodes() == [beam.name]
    assert beam.eval("{nodes(), nodes(hidden)}") == ([], [node.name])


def test_no_node_of_that_name(node: Node) -> None:
    with pytest.raises(NodeUnavailableError, match=r"No node nobody is registered at 127\.0\.0\.1"):
        node.ping("nobody@127.0.0.1")


@pytest.mark.parametrize("name", ["", "nohost", "@host", "name@", "a@b@c", "with space@h"])
def test_names_that_are_none(name: str, node: Node) -> None:
    with pytest.raises(ValueError, match="node name"):
        Node(name, cookie="abc")
    with pytest.raises(NodeUnavailableError):
        node.ping(name)


def test_a_wrong_cookie_on_either_side(
    any_beam: BeamNode, caplog: pytest.LogCaptureFixture
) -> None:
    with Node(some_name(), cookie="wrong") as node:
        assert any_beam.eval("net_kernel:connect_node(N)", N=node.name) is False
        assert "cookie" in caplog.text
        assert "wrong" not in caplog.text.replace("wrong cookie", "")
        with pytest.raises(NodeUnavailableError, match="cookie"):
            node.ping(any_beam.name)
        assert node.nodes() == []


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00",
        b"\xff" * 70_000,
        b"\x00\x01N",
        b"\x00\x15n" + bytes(20),
        os.urandom(5_000),
    ],
    ids=["nothing", "http", "empty", "0xff", "short", "old", "random"],
)
def test_a_peer_that_sends_noise_disturbs_nobody(
    any_beam: BeamNode, node: Node, noise: bytes
) -> None:
    assert node.ping(any_beam.name)
    address = ("127.0.0.1", port_of(node.name))
    with socket.create_connection(address, PATIENCE) as sock, contextlib.suppress(OSError):
        sock.sendall(noise)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
    assert node.ping(any_beam.name)


# --- both at once: the statuses ok_simultaneous and nok


def test_both_connect_at_once(start: Callable[..., BeamNode], cookie: str) -> None:
    # Names on either side of the BEAM's, so that each side wins some of them.
    beam = start("m" + secrets.token_hex(4))
    for turn in range(20):
        with Node(some_name("az"[turn % 2]), cookie=cookie) as node:
            other = beam.start_eval("net_adm:ping(N)", N=node.name)
            assert node.ping(beam.name)
            assert other.result(PATIENCE) == "pong"
            assert node.nodes() == [beam.name]


@pytest.mark.parametrize("slow", ["beam", "python"])
@pytest.mark.parametrize("greater", ["beam", "python"])
def test_both_connect_at_once_step_by_step(
    start: Callable[..., BeamNode], cookie: str, greater: str, slow: str
) -> None:
    """One side's attempt is under way and held up; the other's arrives."""
    beam = start("m" + secrets.token_hex(4))
    name = some_name("a" if greater == "beam" else "z")
    with (
        ThreadPoolExecutor(1) as pool,
        Gate(port_of(beam.name), is_open=slow == "beam") as to_beam,
        Node(name, cookie=cookie, epmd=False, peers={beam.name: to_beam.port}) as node,
        Gate(node._port, is_open=slow == "python") as to_node,
        contextlib.closing(EpmdClient().register(name.partition("@")[0], to_node.port)),
    ):

        def begin_ours() -> Future[Any]:
            return pool.submit(node.connect, beam.name)

        def begin_theirs() -> Future[Any]:
            return beam.start_eval("net_adm:ping(N)", N=node.name)

        if slow == "beam":
            ping = begin_theirs()
            assert to_node.arrived.wait(PATIENCE)
            connecting, answered = begin_ours(), to_beam
        else:
            connecting = begin_ours()
            assert to_beam.arrived.wait(PATIENCE)
            ping, answered = begin_theirs(), to_node
        # Who is slow decides, by the names.
        status = b"\x00\x04snok" if greater == slow else b"\x00\x10sok_simultaneous"
        wait_until(lambda: answered.said.startswith(status))
        if greater == slow:
            assert not connecting.done()
            assert not ping.done()
            (to_node if slow == "beam" else to_beam).open()
        # Sooner than an attempt that is held up fails.
        assert connecting.result(config.NET_SETUPTIME - 2).peer == beam.name
        assert ping.result(PATIENCE) == "pong"
        assert node.nodes() == [beam.name]
        assert beam.eval("nodes(hidden)") == [node.name]


# --- what believes in a connection that is gone: the status alive


def test_a_python_node_that_restarts_takes_the_place_of_its_former_self(
    start: Callable[..., BeamNode], cookie: str
) -> None:
    beam, name = start(), some_name()
    watcher = Watcher(beam, name)
    port = port_of(beam.name)
    with (
        Gate(port, is_open=True) as gate,
        Node(name, cookie=cookie, epmd=False, peers={beam.name: port}) as former,
        Node(name, cookie=cookie, epmd=False, peers={beam.name: gate.port}) as node,
    ):
        assert former.creation != node.creation
        assert former.ping(beam.name)
        assert watcher.next() == "nodeup"
        reasons = monitored(former, beam.process())
        old = former.new_pid()
        down = beam.process()
        down.eval("monitor(process, P)", P=old)
        assert node.ping(beam.name)
        assert gate.said.startswith(b"\x00\x06salive")
        assert [watcher.next(), watcher.next()] == ["nodedown", "nodeup"]
        assert reasons.get(timeout=PATIENCE) == Atom("noconnection")
        wait_until(lambda: former.nodes() == [])
        # A pid of the former self is nobody, also when its number is used again.
        source = "receive {'DOWN', _, _, _, _} -> ok end, monitor(process, P),"
        source += "receive {'DOWN', _, _, _, Why} -> Why end"
        assert down.eval(source, P=old) == "noproc"


def test_a_beam_that_restarts_takes_the_place_of_its_former_self(
    start: Callable[..., BeamNode], node: Node, cookie: str
) -> None:
    name = some_name("beam")
    with Ghost(node, name, cookie) as former:
        wait_until(lambda: node.nodes() == [name])
        reasons: SimpleQueue[Any] = SimpleQueue()
        for _ in range(3):
            node.monitor(former.pid, reasons.put)
        beam = start(name)
        assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"
        for _ in range(3):
            assert reasons.get(timeout=PATIENCE) == Atom("noconnection")
        former.wait_until_closed()
        assert node.nodes() == [name]
        process = beam.process()
        alive = monitored(node, process)
        process.exit(Atom("wanted"))
        assert alive.get(timeout=PATIENCE) == Atom("wanted")
        assert reasons.empty()
        assert alive.empty()


def test_who_hears_of_the_loss_waits_for_the_connection_that_replaces_the_old_one(
    epmd: Epmd, cookie: str
) -> None:
    # Else there would be two new ones, and each side might close what the other side keeps.
    name = some_name("peer")
    connecting: list[Future[Any]] = []
    with (
        ThreadPoolExecutor(1) as pool,
        socket.create_server(("127.0.0.1", 0)) as listener,
        Node(
            some_name(), cookie=cookie, epmd=False, peers={name: listener.getsockname()[1]}
        ) as node,
        Ghost(node, name, cookie) as former,
    ):

        def connect_again(_reason: Any) -> None:
            connecting.append(pool.submit(node.connect, name))
            wait(connecting, timeout=0.2)

        wait_until(lambda: node.nodes() == [name])
        node.monitor(former.pid, connect_again)
        with Ghost(node, name, cookie):
            wait_until(lambda: connecting)
            assert connecting[0].result(PATIENCE) is node.connection(name)
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_a_beam_is_killed_and_restarts_at_once(start: Callable[..., BeamNode], node: Node) -> None:
    name = some_name("beam")
    for _ in range(3):
        beam = start(name)
        assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"
        reasons = monitored(node, beam.process())
        beam.kill()
        assert reasons.get(timeout=PATIENCE) == Atom("noconnection")
    assert reasons.empty()


def test_a_peer_that_wants_no_second_connection_keeps_the_first(node: Node, cookie: str) -> None:
    name = some_name("peer")
    with Ghost(node, name, cookie) as peer:
        wait_until(lambda: node.nodes() == [name])
        connection = node.connection(name)
        with pytest.raises(HandshakeError, match="use the one that exists"):
            Ghost(node, name, cookie, go_on=False)
        assert node.connection(name) is connection
        peer.send(cm.MonitorP(peer.pid, Atom("nobody"), node.new_reference()))
        peer.ticks_before_message()


def test_a_node_gives_up_what_it_began_when_the_peer_was_faster(epmd: Epmd, cookie: str) -> None:
    # The peer's own attempt comes in while it holds ours, and only then it says: alive.
    name = some_name("zpeer")
    handshake = Handshake.acceptor(name, cookie, DEFAULT, 77)
    with (
        ThreadPoolExecutor(1) as pool,
        socket.create_server(("127.0.0.1", 0)) as listener,
        Node(
            some_name("a"), cookie=cookie, epmd=False, peers={name: listener.getsockname()[1]}
        ) as node,
    ):
        connecting = pool.submit(node.connect, name)
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(PATIENCE)
            while handshake.next_event() is NEED_DATA:
                handshake.receive_data(sock.recv(4096))
            with Ghost(node, name, cookie):
                handshake.send_status("alive")
                sock.sendall(handshake.data_to_send())
                assert sock.recv(4096) == b"\x00\x06sfalse"
                assert connecting.result(PATIENCE) is node.connection(name)


# --- who is not let in, and who has no name


def test_a_beam_that_does_not_allow_us(start: Callable[..., BeamNode], node: Node) -> None:
    beam = start()
    assert beam.eval("net_kernel:allow(['someone@else'])") == "ok"
    with pytest.raises(NodeUnavailableError, match="not_allowed"):
        node.ping(beam.name)
    assert node.nodes() == []


def test_a_peer_with_our_own_name_is_not_allowed(
    any_beam: BeamNode, node: Node, cookie: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HandshakeError, match="not_allowed"):
        Ghost(node, node.name, cookie)
    wait_until(lambda: "has the name of this node; give one of them another" in caplog.text)
    assert node.ping(any_beam.name)


@pytest.mark.parametrize("published", [False, True])
def test_a_node_without_a_name_is_given_one(
    start: Callable[..., BeamNode], cookie: str, published: bool
) -> None:
    with Node(some_name(), cookie=cookie, published=published) as node:
        node.add(Bridge(), name=Bridge.NAME)
        nameless = [start("undefined@127.0.0.1") for _ in range(2)]
        seen = set()
        for turn in range(3):
            names = set()
            for beam in nameless:
                assert beam.eval("node()") == "nonode@nohost"
                assert beam.eval("net_kernel:connect_node(N)", N=node.name) is True
                name, creation = beam.eval("{node(), erlang:system_info(creation)}")
                assert name.endswith("@127.0.0.1")
                assert creation > 3
                names.add(name)
                assert beam.eval(CALL, N=node.name, R=call_of("sqrt", 16)) == (Atom("ok"), 4.0)
                process = beam.process()
                reasons = monitored(node, process)
                if turn == 0:
                    process.exit(Atom("wanted"))
                    assert reasons.get(timeout=PATIENCE) == Atom("wanted")
            assert set(node.nodes()) == names
            seen |= names
            for beam in nameless:
                assert beam.eval("erlang:disconnect_node(N)", N=node.name) is True
            wait_until(lambda: node.nodes() == [])
            # It has no name again, when it has noticed.
            for beam in nameless:
                wait_until(partial(has_no_name, beam))
        assert len(seen) == 6
        with pytest.raises(NodeUnavailableError, match=r"No node .* is registered"):
            node.ping(seen.pop())


def test_a_node_with_a_name_of_ours_meets_another_beam(
    any_beam: BeamNode, start: Callable[..., BeamNode], node: Node
) -> None:
    nameless = start("undefined@127.0.0.1")
    # Without a name it cannot ping: gen:call/4 sees to that.
    assert nameless.eval("net_kernel:connect_node(N)", N=node.name) is True
    assert nameless.eval("net_adm:ping(N)", N=Atom(any_beam.name)) == "pong"
    name = nameless.eval("node()")
    assert name in any_beam.eval("nodes(connected)")
    assert any_beam.eval("net_adm:ping(N)", N=name) == "pong"


# --- many


@pytest.mark.slow
def test_ten_beams_at_once(
    start_beam: Callable[..., BeamNode], beam: BeamNode, beam28: BeamNode, node: Node
) -> None:
    node.add(Bridge(), name=Bridge.NAME)
    with ThreadPoolExecutor(5) as pool:
        runtimes = [beam.runtime, beam28.runtime] * 5
        beams = list(pool.map(lambda runtime: start_beam(runtime=runtime), runtimes))
    # All connect at the same moment, half of them from here.
    pings = [each.start_eval("net_adm:ping(N)", N=node.name) for each in beams[::2]]
    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(node.ping, [each.name for each in beams[1::2]]))
    assert [each.result(PATIENCE) for each in pings] == ["pong"] * 5
    assert sorted(node.nodes()) == sorted(each.name for each in beams)
    reasons = [monitored(node, each.process()) for each in beams]
    calls = "[{ok, 4.0} = gen_server:call({snakebridge, N}, R) || _ <- lists:seq(1, 500)], done"
    running = [each.start_eval(calls, N=node.name, R=call_of("sqrt", 16)) for each in beams]
    beams[4].kill()
    assert reasons[4].get(timeout=PATIENCE) == Atom("noconnection")
    others = [number for number in range(10) if number != 4]
    assert [running[number].result(30) for number in others] == [Atom("done")] * 9
    assert sorted(node.nodes()) == sorted(beams[number].name for number in others)
    assert all(each.empty() for each in reasons)
    assert running[4].exception(PATIENCE) is not None


# --- short names and long ones


def test_short_names(start: Callable[..., BeamNode], cookie: str) -> None:
    for begins in ("beam", "python"):
        beam = start(some_name("beam", "localhost"))
        with Node(some_name(host="localhost"), cookie=cookie) as node:
            if begins == "beam":
                assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"
            assert node.ping(beam.name)
            assert node.nodes() == [beam.name]
            assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"


@pytest.mark.parametrize(
    ("ours", "theirs"), [("127.0.0.1", "localhost"), ("localhost", "127.0.0.1")]
)
def test_a_short_name_and_a_long_one(
    start: Callable[..., BeamNode],
    cookie: str,
    ours: str,
    theirs: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    beam = start(some_name("beam", theirs))
    with Node(some_name(host=ours), cookie=cookie) as node:
        with pytest.raises(NodeUnavailableError, match="such nodes do not connect: give the hosts"):
            node.ping(beam.name)
        # A BEAM says so in its own log, and never asks us.
        assert beam.eval("net_adm:ping(N)", N=node.name) == "pang"
        wait_until(lambda: f"Hostname {ours} is illegal" in beam.output)
        # Other nodes may be less strict; a BEAM would let them in, too.
        with Ghost(node, beam.name, cookie) as peer:
            wait_until(lambda: f"only {beam.name} can make another" in caplog.text)
            peer.send(cm.MonitorP(peer.pid, Atom("nobody"), node.new_reference()))
            peer.ticks_before_message()


# --- IPv6


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize("begins", ["beam", "python"])
def test_ipv6(start: Callable[..., BeamNode], cookie: str, begins: str) -> None:
    beam = start(some_name("beam", "::1"), listen="::1")
    with Node(some_name(host="::1"), cookie=cookie, listen="::1") as node:
        if begins == "beam":
            assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"
        assert node.ping(beam.name)
        assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"
        connection = node.connection(beam.name)
        assert connection is not None
        assert isinstance(connection._socket, socket.socket)
        assert connection._socket.family == socket.AF_INET6


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize("begins", ["beam", "python"])
def test_ipv6_by_the_name_of_a_host(
    start: Callable[..., BeamNode],
    cookie: str,
    begins: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inetrc = tmp_path / "inetrc"
    inetrc.write_text('{lookup, [file, native]}.\n{host, {0,0,0,0,0,0,0,1}, ["sixhost"]}.\n')
    getaddrinfo = socket.getaddrinfo

    def with_our_host(host: str, *args: Any, **options: Any) -> Any:
        return getaddrinfo("::1" if host == "sixhost" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", with_our_host)
    name = some_name("beam", "sixhost")
    beam = start(name, listen="::1", env={"ERL_INETRC": str(inetrc)})
    with Node(some_name(host="sixhost"), cookie=cookie, listen="::1") as node:
        if begins == "beam":
            assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"
        assert node.ping(beam.name)
        assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"


@pytest.mark.usefixtures("ipv6")
def test_an_epmd_of_ours_serves_both_families(
    start: Callable[..., BeamNode], no_epmd: int, cookie: str
) -> None:
    with Node(some_name(host="::1"), cookie=cookie, listen="::1") as node:
        six = start(some_name("six", "::1"), listen="::1", epmd=no_epmd)
        four = start(epmd=no_epmd)
        assert six.eval("net_adm:ping(N)", N=node.name) == "pong"
        assert node.ping(four.name)
        assert is_registered(six.name)


# --- EPMD


def test_a_creation_of_its_own_at_each_start(
    any_beam: BeamNode, cookie: str, free_port: int
) -> None:
    name = some_name()
    here = {any_beam.name: port_of(any_beam.name)}
    variants: list[dict[str, Any]] = [{}, {"epmd": False, "peers": here}]
    for options in variants:
        creations = set()
        for _ in range(3):
            with Node(name, cookie=cookie, **options) as node:
                assert node.ping(any_beam.name)
                # What the BEAM has of it is in the pids that come from there.
                pid = any_beam.eval(
                    "<<_:(byte_size(B) - 4)/binary, Creation:32>> = B, Creation",
                    B=etf.encode(node.new_pid()),
                )
                assert pid == node.creation
                creations.add(node.creation)
        assert len(creations) == 3


def test_a_name_in_use(any_beam: BeamNode, node: Node, cookie: str) -> None:
    for name in (node.name, any_beam.name):
        with pytest.raises(NameTakenError, match="is taken"):
            Node(name, cookie=cookie).start()
        assert is_registered(name)


def test_without_an_epmd_the_node_is_one(
    no_epmd: int, start: Callable[..., BeamNode], cookie: str
) -> None:
    with Node(some_name(), cookie=cookie) as node:
        beam = start(epmd=no_epmd)
        assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"
        assert is_registered(node.name)
        other = start(epmd=no_epmd)
        assert node.ping(other.name)
        assert beam.eval("net_adm:ping(N)", N=Atom(other.name)) == "pong"


def test_when_epmd_dies_the_node_takes_its_place(
    any_beam: BeamNode,
    start: Callable[..., BeamNode],
    monkeypatch: pytest.MonkeyPatch,
    cookie: str,
) -> None:
    epmd = Epmd(runtime=any_beam.runtime)
    monkeypatch.setenv("ERL_EPMD_PORT", str(epmd.port))
    with Node(some_name(), cookie=cookie) as node:
        beam = start(epmd=epmd)
        creation = node.creation
        assert node.ping(beam.name)
        connection = node.connection(beam.name)
        epmd.kill()
        wait_until(lambda: is_registered(node.name))
        # A BEAM tries every two seconds.
        wait_until(lambda: is_registered(beam.name))
        assert node.creation == creation
        assert node.connection(beam.name) is connection
        assert beam.eval("erlang:disconnect_node(N)", N=node.name) is True
        wait_until(lambda: node.nodes() == [])
        assert node.ping(beam.name)


def test_a_node_registers_again_whenever_epmd_restarts(
    any_beam: BeamNode, monkeypatch: pytest.MonkeyPatch, cookie: str
) -> None:
    monkeypatch.setattr("pynode.dist.naming._RETRY", 0.02)
    # The system starts it again at once, so that the node need not be one.
    monkeypatch.setattr("pynode.dist.naming.EpmdServer.start_or_none", lambda *_, **__: None)
    with contextlib.ExitStack() as stack:
        epmd = stack.enter_context(Epmd(runtime=any_beam.runtime))
        monkeypatch.setenv("ERL_EPMD_PORT", str(epmd.port))
        with Node(some_name(), cookie=cookie) as node:
            for _ in range(5):
                epmd.kill()
                epmd = stack.enter_context(Epmd(epmd.port, runtime=any_beam.runtime))
                wait_until(lambda: is_registered(node.name))
        wait_until(lambda: not is_registered(node.name))


def test_an_epmd_that_does_not_answer(
    no_epmd: int, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pynode.config.NET_SETUPTIME", 0.3)
    started = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", no_epmd)),
        pytest.raises(EpmdUnavailableError, match=f"127.0.0.1:{no_epmd} did not answer in time"),
    ):
        Node(some_name(), cookie=cookie).start()
    assert time.monotonic() - started < PATIENCE / 2


# --- fixed ports, without EPMD


@pytest.mark.parametrize("begins", ["beam", "python"])
def test_all_nodes_listen_at_one_port_of_their_hosts(
    start: Callable[..., BeamNode], free_port: int, no_epmd: int, cookie: str, begins: str
) -> None:
    beam = start(
        some_name("beam", "127.0.0.2"),
        listen="127.0.0.2",
        epmd=no_epmd,
        flags=["-erl_epmd_port", str(free_port)],
    )
    name = some_name(host="127.0.0.3")
    options: Any = {"listen": "127.0.0.3", "port": free_port, "epmd": False, "peers": free_port}
    with Node(name, cookie=cookie, **options) as node:
        if begins == "beam":
            assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"
        assert node.ping(beam.name)
        assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"
        with pytest.raises(NodeUnavailableError, match=rf"127\.0\.0\.4 port {free_port} .*running"):
            node.ping("nobody@127.0.0.4")
    # Nobody was an EPMD on the way.
    assert not is_registered(name)


def test_a_port_for_each_peer(
    any_beam: BeamNode, start: Callable[..., BeamNode], cookie: str
) -> None:
    other = start()
    peers = {name: port_of(name) for name in (any_beam.name, other.name)}
    with Node(some_name(), cookie=cookie, epmd=False, peers=peers) as node:
        assert node.ping(any_beam.name)
        assert node.ping(other.name)
        assert not is_registered(node.name)
        with pytest.raises(NodeUnavailableError, match=r"port of a@127\.0\.0\.1 is not known"):
            node.ping("a@127.0.0.1")


@pytest.mark.parametrize("options", [{"peers": 5001}, {"peers": {}}, {"epmd": False, "peers": 0}])
def test_peers_that_make_no_sense(options: Any) -> None:
    with pytest.raises(ValueError, match="peers"):
        Node(some_name(), cookie="abc", **options)


def test_the_command_without_epmd(
    start: Callable[..., BeamNode],
    start_pynode: Callable[..., PynodeProcess],
    free_port: int,
    no_epmd: int,
    cookie: str,
) -> None:
    port = str(free_port)
    beam, other = (
        start(some_name("beam", host), listen=host, epmd=no_epmd, flags=["-erl_epmd_port", port])
        for host in ("127.0.0.2", "127.0.0.4")
    )
    for host, peer_port in (("127.0.0.3", port), ("127.0.0.5", f"{other.name}={port}")):
        options = ("--no-epmd", "--listen", host, "--port", port, "--peer-port", peer_port)
        python = start_pynode(some_name(host=host), *options, epmd=no_epmd)
        name = Atom(python.name)
        assert beam.eval(CALL, N=name, R=call_of("sqrt", 16)) == (Atom("ok"), 4.0)
        # It reaches others by itself: here the node of an owner.
        session: Any = (Atom("open_session"), "theirs", other.process().pid, {})
        assert beam.eval(CALL, N=name, R=session) == "ok"
        wait_until(partial(is_together, other, name))
        for each in (python, beam):
            assert (
                run_pynode("ping", each.name, "--port", port, PYNODE_COOKIE=cookie)[1] == "pong\n"
            )
        ask = ("call", python.name, "math", "sqrt", "16", "--port", port)
        assert run_pynode(*ask, PYNODE_COOKIE=cookie)[:2] == (0, "4.0\n")
        assert not is_registered(python.name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--peer-port", "5001"], "epmd=False"),
        (["--no-epmd", "--peer-port", "many"], "PORT or NODE=PORT"),
        (["--no-epmd", "--peer-port", "1", "--peer-port", "2"], "is for all nodes: give it once"),
        (["--no-epmd", "--peer-port", "nohost=1"], "'nohost' in peers is no node name"),
        (["--no-epmd", "--peer-port", "a@b=0"], "0 in peers is no port"),
        (["--net-ticktime", "0"], "--net-ticktime"),
    ],
)
def test_options_that_make_no_sense(options: list[str], words: str) -> None:
    code, out, err = run_pynode("serve", "--name", some_name(), *options, PYNODE_COOKIE="abc")
    assert code != 0
    assert out == ""
    assert words in err
    assert "Traceback" not in err


# --- ticks


@pytest.mark.slow
def test_ticks_keep_the_connection_while_calls_run(
    start: Callable[..., BeamNode], start_pynode: Callable[..., PynodeProcess]
) -> None:
    # Three times the net_ticktime of the BEAM, which would take the node for lost after one.
    beam = start(flags=["-kernel", "net_ticktime", "4"])
    spin = "import time\nend = time.monotonic() + 12\nwhile time.monotonic() < end: pass"
    calls, watchers = [], []
    for options in ((), ("--net-ticktime", "4")):
        python = start_pynode(None, *options)
        name = Atom(python.name)
        watchers.append(watcher := Watcher(beam, name))
        assert beam.eval("net_kernel:connect_node(N)", N=name) is True
        assert watcher.next() == "nodeup"
        calls += [
            beam.start_eval(CALL, N=name, R=call_of("sleep", 12, module="time")),
            beam.start_eval(CALL, N=name, R=call_of("exec", spin, {}, module="builtins")),
        ]
    assert [call.result(30) for call in calls] == [(Atom("ok"), None)] * 4
    assert not any(watcher.has_heard() for watcher in watchers)


def test_a_silent_peer_is_taken_for_lost(start: Callable[..., BeamNode], cookie: str) -> None:
    beam = start()
    with Node(some_name(), cookie=cookie, net_ticktime=1.0) as node:
        reasons = monitored(node, beam.process())
        started = time.monotonic()
        beam.suspend()
        assert reasons.get(timeout=PATIENCE) == Atom("noconnection")
        assert time.monotonic() - started < PATIENCE / 2
        assert node.nodes() == []
        beam.resume()
        # The BEAM has not heard of it before, or just now: either way they connect again.
        assert node.ping(beam.name)


def test_ticks_are_answered_but_not_each_of_them(node: Node, cookie: str) -> None:
    with Ghost(node, some_name("peer"), cookie) as peer:
        # Two nodes that answer each tick with one would never stop.
        peer.sock.sendall(TICK * 1000)
        peer.send(cm.MonitorP(peer.pid, Atom("nobody"), node.new_reference()))
        assert peer.ticks_before_message() == 1


@pytest.mark.slow
def test_time_in_which_python_stands_still_costs_no_connection(
    start: Callable[..., BeamNode], start_pynode: Callable[..., PynodeProcess]
) -> None:
    beam = start(flags=["-kernel", "net_ticktime", "60"])
    python = start_pynode(None, "--net-ticktime", "2")
    name = Atom(python.name)
    watcher = Watcher(beam, python.name)

    def call() -> Future[Any]:
        return beam.start_eval(CALL, N=name, R=call_of("sqrt", 16))

    assert call().result(PATIENCE) == (Atom("ok"), 4.0)
    assert watcher.next() == "nodeup"
    for both in (True, False):
        # The BEAM's ticks are far apart. It has been silent for half the time that it may be.
        time.sleep(1.1)
        python.suspend()
        if both:
            beam.suspend()  # As when a laptop sleeps.
        else:
            waiting = call()
        time.sleep(2.5)  # There is no event in a process that stands still.
        python.resume()
        if both:
            time.sleep(0.1)
            beam.resume()
            waiting = call()
        assert waiting.result(PATIENCE) == (Atom("ok"), 4.0)
    assert not watcher.has_heard()
    assert "taken for lost" not in str(python.log)


# --- two machines


#: Monitors a process of a BEAM, says when it is down and why, and connects again.
WATCHMAN = """
import logging, sys, threading, time
from pynode import ExitError, Node, NodeUnavailableError
from pynode.terms import Atom
name, beam, cookie, port, ticktime, host = sys.argv[1:]
logging.basicConfig(level="INFO", stream=sys.stderr)
down = threading.Event()

def on_down(reason):
    print("down", reason, time.monotonic(), flush=True)
    down.set()

with Node(
    name, cookie=cookie, listen=host, port=int(port), epmd=False, peers=int(port),
    net_ticktime=float(ticktime),
) as node:
    while True:
        down.clear()
        while True:
            try:
                pid = node.erpc(beam, "erlang", "whereis", [Atom("init")])
                node.monitor(pid, on_down)
                break
            except (ExitError, NodeUnavailableError) as error:
                print("not yet", error, flush=True)
        print("up", node.nodes() == [beam], flush=True)
        down.wait()
"""


def watchman(network: Network, beam: BeamNode, name: str, port: int, ticktime: int) -> Child:
    host = network.other.address
    args = (name, beam.name, beam.cookie, str(port), str(ticktime), host)
    return Child(
        [*network.other.prefix, sys.executable, "-c", WATCHMAN, *args], env=dict(os.environ)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "ticktimes",
    [(4, 4), (2, 60), (60, 2)],
    ids=["both-notice", "python-notices", "beam-notices"],
)
def test_a_peer_that_vanishes_is_lost_and_comes_back(
    network: Network,
    start: Callable[..., BeamNode],
    free_port: int,
    no_epmd: int,
    ticktimes: tuple[int, int],
) -> None:
    of_python, of_beam = ticktimes
    host = network.one.address
    beam = start(
        some_name("beam", host),
        listen=host,
        prefix=network.one.prefix,
        epmd=no_epmd,
        flags=["-erl_epmd_port", str(free_port), "-kernel", "net_ticktime", str(of_beam)],
    )
    name = some_name(host=network.other.address)
    watcher = Watcher(beam, name)
    clock = "erlang:monotonic_time(millisecond)"
    with watchman(network, beam, name, free_port, of_python) as python:
        python.stdout.wait_for("^up True$")
        assert watcher.next() == "nodeup"
        network.cut()
        cut, cut_there = time.monotonic(), beam.eval(clock)
        if of_beam < 60:
            assert watcher.next() == "nodedown"
            assert beam.eval(clock) - cut_there < of_beam * 1250 + 2000
            # It tries to come back before the others know that it was away, too.
            network.restore()
            wait_until(lambda: beam.eval("net_adm:ping(N)", N=Atom(name)) == "pong", 30)
            assert watcher.next() == "nodeup"
        down = python.stdout.wait_for(r"^down (\S+) (\S+)$", 30)
        assert down[1] == "noconnection"
        if of_python < 60:
            assert float(down[2]) - cut < of_python * 1.25 + 2
        if of_beam == 60:
            network.restore()
            python.stdout.wait_for("^up True$", 30)
    assert "Traceback" not in python.output


def test_two_machines_of_which_one_has_no_erlang(
    network: Network, start: Callable[..., BeamNode], start_pynode: Callable[..., PynodeProcess]
) -> None:
    # The machine of the BEAM has an EPMD, here that of another Python node. The other has none.
    here = start_pynode(
        some_name(host="10.0.0.1"), "--listen", "10.0.0.1", prefix=network.one.prefix
    )
    beam = start(some_name("beam", "10.0.0.1"), listen="10.0.0.1", prefix=network.one.prefix)
    for listen in ("10.0.0.2", "0.0.0.0", "::"):
        there = start_pynode(
            some_name(host="10.0.0.2"), "--listen", listen, prefix=network.other.prefix
        )
        for python in (here, there):
            call = beam.eval(CALL, N=Atom(python.name), R=call_of("sqrt", 16))
            assert call == (Atom("ok"), 4.0)
        command = [sys.executable, "-m", "pynode", "ping", there.name]
        env = f"PYNODE_COOKIE={beam.cookie}"
        assert network.one.run("env", env, *command) == "pong\n"
        assert there.stop() == 0
