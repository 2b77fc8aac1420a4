"""The handshake with real BEAM nodes, in both roles, over blocking sockets."""

from __future__ import annotations

import secrets
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pynode.dist.epmd import EpmdClient
from pynode.errors import HandshakeError
from pynode.protocol.flags import DEFAULT, MANDATORY, DFlag, expand, missing
from pynode.protocol.handshake import (
    NEED_DATA,
    Established,
    Handshake,
    Named,
    PeerName,
    Status,
    StatusAlive,
)
from pynode.terms import Atom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from pynode.testing import BeamNode, Epmd

TIMEOUT = 20.0
CREATION = 0xCAFE0001


@pytest.fixture(scope="module")
def beam(any_beam: BeamNode) -> BeamNode:
    return any_beam


@pytest.fixture
def name() -> str:
    return f"py{secrets.token_hex(5)}@127.0.0.1"


def shake_hands(
    sock: socket.socket, handshake: Handshake, decide: Status | Named = "ok", *, go_on: bool = True
) -> Established:
    """Bring a handshake to its end; an acceptor's last packet is left to the caller."""
    sock.settimeout(TIMEOUT)
    while True:
        event = handshake.next_event()
        if event is NEED_DATA:
            sock.sendall(handshake.data_to_send())
            handshake.receive_data(sock.recv(7))
        elif isinstance(event, PeerName):
            handshake.send_status(decide)
        elif isinstance(event, StatusAlive):
            handshake.answer_alive(go_on=go_on)
        elif isinstance(event, Established):
            return event


def connect(beam: BeamNode) -> socket.socket:
    """Connect to the port at which a BEAM accepts peers."""
    alive, _, host = beam.name.partition("@")
    port = beam.eval(
        "{port, Port, 6} = erl_epmd:port_please(Name, Host), Port",
        Name=[*alive.encode()],
        Host=[*host.encode()],
    )
    return socket.create_connection((host, port), timeout=TIMEOUT)


class Watcher:
    """A process of a BEAM that is told which nodes come up."""

    def __init__(self, beam: BeamNode) -> None:
        self.process = beam.process()
        self.process.eval("ok = net_kernel:monitor_nodes(true, #{node_type => all})")

    def wait_for(self, name: str) -> None:
        self.process.eval("receive {nodeup, Node, _} -> ok end", Node=Atom(name), timeout=TIMEOUT)


def test_flags(beam: BeamNode) -> None:
    _, default, mandatory, *_ = beam.eval("erts_internal:get_dflags()")
    assert missing(default) == []
    assert mandatory & ~expand(DEFAULT) == 0
    assert mandatory & ~MANDATORY == 0
    assert DFlag(default) & ~DEFAULT == DFlag.DIST_HDR_ATOM_CACHE


def agreed(beam: BeamNode) -> DFlag:
    """Return what a connection with `beam` uses."""
    return DEFAULT if beam.runtime.release >= 28 else DEFAULT & ~DFlag.ALTACT_SIG


# --- we connect to a BEAM


def test_we_connect(beam: BeamNode, name: str) -> None:
    watcher = Watcher(beam)
    handshake = Handshake.initiator(name, beam.name, beam.cookie, DEFAULT, CREATION)
    with connect(beam) as sock:
        event = shake_hands(sock, handshake)
        watcher.wait_for(name)
        assert beam.eval("lists:member(Node, nodes(hidden))", Node=Atom(name)) is True
    creation = beam.eval("erlang:system_info(creation)")
    assert event == Established(beam.name, agreed(beam), creation, name, CREATION)


def test_we_connect_with_a_wrong_cookie(beam: BeamNode, name: str) -> None:
    handshake = Handshake.initiator(name, beam.name, "wrong", DEFAULT, CREATION)
    with connect(beam) as sock, pytest.raises(HandshakeError, match="the same cookie"):
        shake_hands(sock, handshake)


def test_we_connect_without_a_flag_that_is_required(beam: BeamNode, name: str) -> None:
    flags = DEFAULT & ~DFlag.BIG_CREATION & ~DFlag.MANDATORY_25_DIGEST
    handshake = Handshake.initiator(name, beam.name, beam.cookie, flags, CREATION)
    with connect(beam) as sock, pytest.raises(HandshakeError, match="not_allowed"):
        shake_hands(sock, handshake)


def test_we_connect_to_a_node_of_another_name(beam: BeamNode, name: str) -> None:
    handshake = Handshake.initiator(name, "other@127.0.0.1", beam.cookie, DEFAULT, CREATION)
    with connect(beam) as sock, pytest.raises(HandshakeError, match=f"calls itself '{beam.name}'"):
        shake_hands(sock, handshake)


def test_we_connect_again_and_the_old_connection_gives_way(beam: BeamNode, name: str) -> None:
    watcher = Watcher(beam)
    first = Handshake.initiator(name, beam.name, beam.cookie, DEFAULT, CREATION)
    second = Handshake.initiator(name, beam.name, beam.cookie, DEFAULT, CREATION)
    with connect(beam) as old, connect(beam) as new:
        shake_hands(old, first)
        watcher.wait_for(name)
        shake_hands(new, second, go_on=True)
        assert second.status == "alive"
        while old.recv(4096):
            pass


def test_we_connect_again_by_mistake(beam: BeamNode, name: str) -> None:
    watcher = Watcher(beam)
    first = Handshake.initiator(name, beam.name, beam.cookie, DEFAULT, CREATION)
    second = Handshake.initiator(name, beam.name, beam.cookie, DEFAULT, CREATION)
    with connect(beam) as old, connect(beam) as new:
        shake_hands(old, first)
        watcher.wait_for(name)
        with pytest.raises(HandshakeError, match="use the one that exists"):
            shake_hands(new, second, go_on=False)
        new.sendall(second.data_to_send())
        assert new.recv(1) == b""
        assert beam.eval("lists:member(Node, nodes(hidden))", Node=Atom(name)) is True


def test_we_ask_for_a_name(beam: BeamNode) -> None:
    watcher = Watcher(beam)
    flags = DEFAULT | DFlag.NAME_ME
    handshake = Handshake.initiator("127.0.0.1", beam.name, beam.cookie, flags, 0)
    with connect(beam) as sock:
        event = shake_hands(sock, handshake)
        watcher.wait_for(event.name)
    assert event.name.endswith("@127.0.0.1")
    assert event.own_creation > 3


# --- a BEAM connects to us


@contextmanager
def listening(epmd: Epmd, name: str) -> Iterator[socket.socket]:
    """Listen at a port that BEAMs find under `name`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        alive = name.partition("@")[0]
        client = EpmdClient(port=epmd.port)
        registration = client.register(alive, listener.getsockname()[1])
        yield listener
        registration.close()


def connect_node(beam: BeamNode, name: str) -> Future[Any]:
    return beam.start_eval("net_kernel:connect_node(Node)", Node=Atom(name))


@pytest.mark.parametrize("decide", ["ok", "ok_simultaneous", "alive"])
def test_a_beam_connects(epmd: Epmd, beam: BeamNode, name: str, decide: Status) -> None:
    handshake = Handshake.acceptor(name, beam.cookie, DEFAULT, CREATION)
    with listening(epmd, name) as listener:
        connected = connect_node(beam, name)
        sock, _ = listener.accept()
        with sock:
            event = shake_hands(sock, handshake, decide)
            assert not connected.done()  # Until it has our last packet.
            sock.sendall(handshake.data_to_send())
            assert connected.result(TIMEOUT) is True
            assert beam.eval("lists:member(Node, nodes(hidden))", Node=Atom(name)) is True
    creation = beam.eval("erlang:system_info(creation)")
    assert event == Established(beam.name, agreed(beam), creation, name, CREATION)


def test_a_beam_connects_with_a_wrong_cookie(epmd: Epmd, beam: BeamNode, name: str) -> None:
    handshake = Handshake.acceptor(name, "wrong", DEFAULT, CREATION)
    with listening(epmd, name) as listener:
        connected = connect_node(beam, name)
        sock, _ = listener.accept()
        with sock, pytest.raises(HandshakeError, match=f"Node {beam.name} has another cookie"):
            shake_hands(sock, handshake)
        assert handshake.data_to_send() == b""
        assert connected.result(TIMEOUT) is False


def test_a_beam_connects_and_is_not_allowed(epmd: Epmd, beam: BeamNode, name: str) -> None:
    handshake = Handshake.acceptor(name, beam.cookie, DEFAULT, CREATION)
    with listening(epmd, name) as listener:
        connected = connect_node(beam, name)
        sock, _ = listener.accept()
        with sock:
            with pytest.raises(HandshakeError, match="with status not_allowed"):
                shake_hands(sock, handshake, "not_allowed")
            sock.sendall(handshake.data_to_send())
        assert connected.result(TIMEOUT) is False


def test_a_beam_asks_for_a_name(
    epmd: Epmd, beam: BeamNode, name: str, start_beam: Callable[..., BeamNode]
) -> None:
    given = Named(f"given{secrets.token_hex(5)}@127.0.0.1", 0xBEEF1234)
    nameless = start_beam("undefined@127.0.0.1", runtime=beam.runtime)
    handshake = Handshake.acceptor(name, nameless.cookie, DEFAULT, CREATION)
    with listening(epmd, name) as listener:
        connected = connect_node(nameless, name)
        sock, _ = listener.accept()
        with sock:
            event = shake_hands(sock, handshake, given)
            assert (event.peer, event.creation) == given
            sock.sendall(handshake.data_to_send())
            assert connected.result(TIMEOUT) is True
            assert nameless.eval("{node(), erlang:system_info(creation)}") == given
