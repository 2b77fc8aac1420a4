"""A peer that has the cookie and means no good, or is broken, against a node that others use."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from pynode import Bridge, ExitError, Node, config, etf
from pynode.dist.epmd import EpmdClient
from pynode.protocol.control import RegSend
from pynode.protocol.flags import DEFAULT
from pynode.protocol.handshake import NEED_DATA, Established, Handshake
from pynode.terms import Atom, Pid
from pynode.testing import wait_until
from tests.fuzz import fuzz_node
from tests.fuzz.strategies import damaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode, PynodeProcess

PATIENCE = 10.0
ATTACKS = 600
CALL: Any = (Atom("call"), "keyword", "iskeyword", ["if"], {})


@pytest.fixture
def node(epmd: object, cookie: str) -> Iterator[Node]:
    node = Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie)
    node.add(Bridge(), name=Bridge.NAME)
    with node:
        yield node


def port_of(name: str) -> int:
    port = EpmdClient().lookup(name.partition("@")[0])
    assert port is not None
    return port


def attack(port: int, victim: str, name: str, cookie: str, data: bytes) -> None:
    """Be a node `name` that is let in, sends `data`, and waits for the end of the connection."""
    handshake = Handshake.initiator(name, victim, cookie, DEFAULT, secrets.randbits(32))
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        while not isinstance(event := handshake.next_event(), Established):
            sock.sendall(handshake.data_to_send())
            if event is NEED_DATA:
                handshake.receive_data(sock.recv(4096))
        with contextlib.suppress(ConnectionError):  # Thrown out while it was still talking.
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65_536):
                pass


@pytest.mark.slow
def test_a_peer_that_sends_damaged_messages_again_and_again(
    any_beam: BeamNode, start_pynode: Callable[..., PynodeProcess]
) -> None:
    python = start_pynode(None, "--allow", "keyword", "--log-level", "debug")
    port, process = port_of(python.name), psutil.Process(python.os_pid)

    def beam_is_served() -> bool:
        call = "gen_server:call({snakebridge, N}, R)"
        return bool(any_beam.eval(call, N=Atom(python.name), R=CALL) == ("ok", True))

    def state() -> tuple[int, int]:
        return process.num_fds(), process.num_threads()

    numbers = itertools.count()

    @given(data=damaged(fuzz_node.seeds(), fuzz_node.DICTIONARY))
    @settings(
        max_examples=ATTACKS,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def attack_again(data: bytes) -> None:
        attack(port, python.name, f"evil{next(numbers)}@127.0.0.1", python.cookie, data)

    def attack_in_turn() -> None:
        attack_again()
        assert beam_is_served()
        # The thread that reads from a connection may outlast that a little.
        wait_until(lambda: process.num_fds() == before[0])

    assert beam_is_served()
    before = state()
    attack_in_turn()
    memory = process.memory_info().rss
    attack_in_turn()
    # The codec's caches are still growing; a connection that is not let go of has 256 KiB.
    assert process.memory_info().rss - memory < 10_000_000
    assert process.num_threads() <= before[1] + 8  # Spare threads are kept.
    attacks = next(numbers)
    assert attacks >= 500

    # It is read by another thread here.
    wait_until(lambda: str(python.log).count(" is no longer connected: ") == attacks)
    log = str(python.log).splitlines()
    assert not [line for line in log if "Traceback" in line or "report it" in line]
    connected = Counter(line.split()[-3] for line in log if line.endswith(" is connected"))
    assert sum(name.startswith("evil") for name in connected) == attacks
    assert set(connected.values()) == {1}
    closed = [line for line in log if "connection to evil" in line]
    assert len(closed) > attacks // 4
    assert all("it sent what the protocol forbids" in line for line in closed)
    names = Counter(line.partition("connection to ")[2].split()[0] for line in closed)
    assert set(names.values()) == {1}


@pytest.mark.parametrize(
    "reason",
    [
        1 << 20_000,
        (1 << 20_000, "x", []),
        (Atom("error"), 1 << 20_000, []),
        (Atom("error"), {"__exception__": True, "__struct__": 1 << 20_000}, []),
        (
            Atom("error"),
            {
                Atom("__exception__"): True,
                Atom("__struct__"): Atom("x"),
                Atom("message"): 1 << 20_000,
            },
            [],
        ),
    ],
    ids=range(5),
)
def test_a_reason_may_be_any_term(any_beam: BeamNode, node: Node, reason: Any) -> None:
    for function in ("exit", "error", "throw"):
        with pytest.raises(ExitError):
            node.erpc(any_beam.name, "erlang", function, [reason])


LARGE = 400_000


@pytest.mark.parametrize(
    "payload",
    [
        b"h\3" + etf.encode(Atom("$gen_call"))[1:] + b"\xff" * LARGE,
        b"m" + LARGE.to_bytes(4) + bytes(LARGE - 1),
        b"l" + LARGE.to_bytes(4) + b"j" * (LARGE - 10),
        b"h\1" * (LARGE // 2) + b"j",
        b"m" + LARGE.to_bytes(4) + bytes(LARGE + 1),
    ],
    ids=["damaged", "cut_off", "list_cut_off", "deep", "trailing"],
)
def test_a_large_message_that_is_no_term(
    node: Node, cookie: str, caplog: pytest.LogCaptureFixture, payload: bytes
) -> None:
    sender = Pid(Atom("evil@127.0.0.1"), 1, 0, 1)
    control = etf.encode(RegSend(sender, Atom(Bridge.NAME)).to_term())[1:]
    frame = b"\x83D\0" + control + payload
    attack(port_of(node.name), node.name, sender.node, cookie, len(frame).to_bytes(4) + frame)
    wait_until(lambda: node.nodes() == [])
    closed = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(closed) == 1
    assert "it sent what the protocol forbids" in closed[0].getMessage()


# --- peers that do not come to the end of the handshake


def handshakes() -> int:
    return sum(thread.name == "pynode-handshake" for thread in threading.enumerate())


def test_half_open_connections_are_bounded_in_number(
    node: Node, any_beam: BeamNode, caplog: pytest.LogCaptureFixture
) -> None:
    assert any_beam.eval("net_adm:ping(N)", N=node.name) == "pong"
    address = ("127.0.0.1", port_of(node.name))
    with contextlib.ExitStack() as stack:
        for _ in range(config.LIMITS.handshakes):
            stack.enter_context(socket.create_connection(address, PATIENCE))
        wait_until(lambda: handshakes() == config.LIMITS.handshakes)
        for _ in range(20):
            with socket.create_connection(address, PATIENCE) as one_more:
                assert one_more.recv(1) == b""
        assert handshakes() == config.LIMITS.handshakes
        # Who is connected notices nothing.
        assert any_beam.eval("net_adm:ping(N)", N=node.name) == "pong"
    assert caplog.text.count("128 handshakes are under way already") == 20
    wait_until(lambda: handshakes() == 0)
    any_beam.eval("erlang:disconnect_node(N)", N=node.name)
    assert any_beam.eval("net_adm:ping(N)", N=node.name) == "pong"


def test_half_open_connections_are_bounded_in_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packet of 255 bytes, one byte each twentieth of a second: no timeout but the last one."""
    monkeypatch.setattr(config, "NET_SETUPTIME", 0.5)
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port_of(node.name)), 0.05) as sock:
        sent = 0
        with contextlib.suppress(ConnectionError):
            while True:
                sock.sendall(b"\0\xffN"[sent : sent + 1] or b"x")
                sent += 1
                try:
                    if not sock.recv(1):
                        break
                except TimeoutError:
                    continue
    assert 5 < sent < 100
    assert time.monotonic() - begun < PATIENCE
    wait_until(lambda: handshakes() == 0)


# --- callers that ask for too much: they are told, and the connection goes on


@pytest.mark.parametrize(
    ("argument", "limit"),
    [
        ("lists:duplicate(16777217, [])", "more than 16777216 terms"),
        ("lists:foldl(fun(_, L) -> [L] end, [], lists:seq(1, 10001))", "deeper than 10000 levels"),
        ("maps:from_keys([N * ((1 bsl 61) - 1) || N <- lists:seq(1, 65)], 0)", "same hash value"),
    ],
    ids=["terms", "depth", "collisions"],
)
def test_a_request_beyond_a_limit_is_answered(
    any_beam: BeamNode, node: Node, argument: str, limit: str
) -> None:
    call = "gen_server:call({snakebridge, N}, {put, %s}, 30000)"
    tag, error = any_beam.eval(call % argument, N=node.name, timeout=40)
    assert tag == "error"
    assert error["__struct__"] == "Elixir.SnakeBridge.InvalidRequestError"
    assert limit in error["message"]
    assert any_beam.eval(call % "1", N=node.name)[0] == "ok"
