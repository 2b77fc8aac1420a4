"""The node among real BEAM nodes: connecting both ways, signals, and what goes wrong."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pynode import (
    Atom,
    CallTimeoutError,
    EncodeError,
    ExitError,
    NameTakenError,
    Node,
    NodeUnavailableError,
)
from pynode.dist.epmd import EpmdClient
from pynode.testing import Epmd, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode, PynodeProcess

PATIENCE = 10.0
ECHO = """
-module(echo).
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2]).
init(State) -> {ok, State}.
handle_call(stop, _, State) -> {stop, on_purpose, State};
handle_call(silence, _, State) -> {noreply, State};
handle_call(Request, _, State) -> {reply, {echo, Request}, State}.
handle_cast(_, State) -> {noreply, State}.
"""


@pytest.fixture
def node(epmd: Epmd, cookie: str) -> Iterator[Node]:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        yield node


@pytest.fixture(scope="module")
def echo(any_beam: BeamNode) -> BeamNode:
    any_beam.load_module(ECHO)
    return any_beam


def start_echo(beam: BeamNode) -> str:
    name = f"echo{secrets.token_hex(5)}"
    beam.eval("{ok, _} = gen_server:start({local, Name}, echo, [], []), ok", Name=Atom(name))
    return name


def port_of(name: str) -> int:
    port = EpmdClient().lookup(name.partition("@")[0])
    assert port is not None
    return port


# --- connecting


def test_a_beam_connects_and_pings(any_beam: BeamNode, node: Node) -> None:
    assert any_beam.eval("net_kernel:connect_node(N)", N=node.name) is True
    assert any_beam.eval("net_adm:ping(N)", N=node.name) == "pong"
    assert node.nodes() == [any_beam.name]
    # Hidden, as C-nodes are.
    assert node.name in any_beam.eval("nodes(hidden)")
    assert node.name not in any_beam.eval("nodes()")


def test_python_connects_and_pings(any_beam: BeamNode, node: Node) -> None:
    assert node.ping(any_beam.name)
    assert node.name in any_beam.eval("nodes(hidden)")


def test_two_python_nodes(node: Node, cookie: str) -> None:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as other:
        assert other.ping(node.name)
        wait_until(lambda: node.nodes() == [other.name])
    wait_until(lambda: node.nodes() == [])


def test_a_node_that_stops_is_down(any_beam: BeamNode, epmd: Epmd, cookie: str) -> None:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        watch = any_beam.start_eval(
            "net_kernel:connect_node(N), monitor_node(N, true),"
            "receive {nodedown, N} -> down after 10000 -> timeout end",
            N=node.name,
        )
        wait_until(lambda: any_beam.name in node.nodes())
    assert watch.result(PATIENCE) == "down"


def test_both_connect_at_once(start_beam: Callable[..., BeamNode], cookie: str) -> None:
    # Names on either side of the BEAM's, so that each side wins some of them.
    beam = start_beam("m" + secrets.token_hex(4))
    for turn in range(20):
        name = f"{'az'[turn % 2]}{secrets.token_hex(4)}@127.0.0.1"
        with Node(name, cookie=cookie) as node:
            other = beam.start_eval("net_adm:ping(N)", N=node.name)
            assert node.ping(beam.name)
            assert other.result(PATIENCE) == "pong"
            assert node.nodes() == [beam.name]


def test_a_creation_of_its_own_at_each_start(epmd: Epmd, cookie: str) -> None:
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    creations = set()
    for _ in range(3):
        with Node(name, cookie=cookie) as node:
            creations.add(node.creation)
    assert len(creations) == 3


def test_no_node_of_that_name(node: Node) -> None:
    with pytest.raises(NodeUnavailableError, match=r"No node nobody is registered at 127\.0\.0\.1"):
        node.ping("nobody@127.0.0.1")


@pytest.mark.parametrize("name", ["", "nohost", "@host", "name@", "a@b@c", "with space@h"])
def test_names_that_are_none(name: str, node: Node) -> None:
    with pytest.raises(ValueError, match="node name"):
        Node(name, cookie="abc")
    with pytest.raises(NodeUnavailableError):
        node.ping(name)


def test_a_name_in_use(node: Node, cookie: str) -> None:
    with pytest.raises(NameTakenError, match="is taken"):
        Node(node.name, cookie=cookie).start()
    assert node.name.partition("@")[0] in [entry.name for entry in EpmdClient().names()]


def test_a_wrong_cookie_on_either_side(
    any_beam: BeamNode, epmd: Epmd, caplog: pytest.LogCaptureFixture
) -> None:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie="wrong") as node:
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


# --- signals from Python


def test_call_by_name_and_by_pid(echo: BeamNode, node: Node) -> None:
    name = start_echo(echo)
    assert node.call((name, echo.name), ("hello", [1, 2])) == ("echo", ("hello", [1, 2]))
    pid = echo.eval("whereis(N)", N=Atom(name))
    assert node.call(pid, 5) == ("echo", 5)


def test_a_call_of_nobody_fails_at_once(echo: BeamNode, node: Node) -> None:
    with pytest.raises(ExitError, match="noproc") as caught:
        node.call(("nobody", echo.name), 1, timeout=None)
    assert caught.value.reason == Atom("noproc")


def test_a_call_whose_server_exits(echo: BeamNode, node: Node) -> None:
    with pytest.raises(ExitError, match="on_purpose"):
        node.call((start_echo(echo), echo.name), Atom("stop"))


def test_a_call_that_is_not_answered_leaves_no_monitor(echo: BeamNode, node: Node) -> None:
    name = start_echo(echo)
    with pytest.raises(CallTimeoutError, match=name):
        node.call((name, echo.name), Atom("silence"), timeout=0.01)
    info = "{monitored_by, By} = process_info(whereis(N), monitored_by), By"
    wait_until(lambda: echo.eval(info, N=Atom(name)) == [])


def test_a_call_over_a_connection_that_is_lost(
    start_beam: Callable[..., BeamNode], node: Node
) -> None:
    beam = start_beam()
    beam.load_module(ECHO)
    name = start_echo(beam)
    node.call((name, beam.name), 1)
    reasons: SimpleQueue[Any] = SimpleQueue()
    node.monitor((name, beam.name), reasons.put)
    beam.kill()
    assert reasons.get(timeout=PATIENCE) == Atom("noconnection")
    assert node.nodes() == []


def test_send(any_beam: BeamNode, node: Node) -> None:
    process = any_beam.process()
    node.send(process.pid, {"a": 1})
    assert process.eval("receive M -> M after 10000 -> timeout end") == {"a": 1}
    name = f"r{secrets.token_hex(5)}"
    process.eval("register(N, self())", N=Atom(name))
    node.send((name, any_beam.name), "by name")
    assert process.eval("receive M -> M after 10000 -> timeout end") == "by name"
    with pytest.raises(EncodeError):
        node.send(process.pid, object())


def test_monitor_and_demonitor(any_beam: BeamNode, node: Node) -> None:
    reasons: SimpleQueue[Any] = SimpleQueue()
    one, two = any_beam.process(), any_beam.process()
    node.monitor(one.pid, reasons.put)
    unwanted = node.monitor(two.pid, reasons.put)
    assert node.demonitor(unwanted)
    assert not node.demonitor(unwanted)
    two.exit(Atom("unwanted"))
    one.exit(Atom("wanted"))
    assert reasons.get(timeout=PATIENCE) == Atom("wanted")
    node.monitor(one.pid, reasons.put)
    assert reasons.get(timeout=PATIENCE) == Atom("noproc")
    assert reasons.empty()


def test_erpc(any_beam: BeamNode, node: Node) -> None:
    assert node.erpc(any_beam.name, "lists", "reverse", [[1, 2, 3]]) == [3, 2, 1]
    for function, arg, expected in [
        ("error", Atom("oops"), "error"),
        ("exit", Atom("oops"), "exit"),
        ("throw", Atom("oops"), "throw"),
    ]:
        with pytest.raises(ExitError, match="oops") as caught:
            node.erpc(any_beam.name, "erlang", function, [arg])
        reason: Any = caught.value.reason
        assert reason[0] == expected
    exception = {
        Atom("__struct__"): Atom("Elixir.RuntimeError"),
        Atom("__exception__"): True,
        Atom("message"): "boo",
    }
    with pytest.raises(ExitError, match=r": error RuntimeError: boo$"):
        node.erpc(any_beam.name, "erlang", "error", [exception])
    with pytest.raises(CallTimeoutError):
        node.erpc(any_beam.name, "timer", "sleep", [60_000], timeout=0.01)


def test_a_request_that_is_given_up_at_once_costs_no_connection(
    any_beam: BeamNode, node: Node
) -> None:
    node.ping(any_beam.name)
    connection = node.connection(any_beam.name)
    for _ in range(20):
        with pytest.raises(CallTimeoutError):
            node.erpc(any_beam.name, "timer", "sleep", [1], timeout=0)
    assert node.ping(any_beam.name)
    assert node.connection(any_beam.name) is connection
    wait_until(lambda: not node._abandoned and not node._monitors)


# --- signals from the BEAM


def test_monitors_of_what_does_not_exist_are_answered(any_beam: BeamNode, node: Node) -> None:
    source = "R = monitor(process, {nobody, N}), receive {'DOWN', R, _, P, Why} -> {P, Why} end"
    assert any_beam.eval(source, N=node.name) == ((Atom("nobody"), node.name), Atom("noproc"))
    pid = node.new_pid()
    source = "R = monitor(process, P), receive {'DOWN', R, _, P, Why} -> Why end"
    assert any_beam.eval(source, P=pid) == "noproc"


def test_a_link_to_what_does_not_exist(any_beam: BeamNode, node: Node) -> None:
    source = "process_flag(trap_exit, true), link(P), receive {'EXIT', P, Why} -> Why end"
    assert any_beam.eval(source, P=node.new_pid()) == "noproc"


def test_a_link_can_be_undone(any_beam: BeamNode, node: Node) -> None:
    pid = node._names["net_kernel"].pid
    assert any_beam.eval("link(P), unlink(P), net_adm:ping(N)", P=pid, N=node.name) == "pong"


def test_what_is_not_supported_is_refused(any_beam: BeamNode, node: Node) -> None:
    source = "catch erpc:call(N, math, sqrt, [16], 10000)"
    assert any_beam.eval(source, N=node.name)[1][0] == ("erpc", Atom("notsup"))


def test_messages_to_nobody_and_of_no_kind_are_dropped(any_beam: BeamNode, node: Node) -> None:
    assert any_beam.eval(
        "{nobody, N} ! hi, P ! hi, {net_kernel, N} ! hi, {net_kernel, N} ! {a, b, c}, "
        "exit(P, kill), net_adm:ping(N)",
        N=node.name,
        P=node.new_pid(),
    )


# --- EPMD


def test_without_an_epmd_the_node_is_one(
    monkeypatch: pytest.MonkeyPatch, start_beam: Callable[..., BeamNode], cookie: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("ERL_EPMD_PORT", str(port))
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        beam = start_beam(epmd=port)
        assert beam.eval("net_adm:ping(N)", N=node.name) == "pong"
        assert node.name.partition("@")[0] in [entry.name for entry in EpmdClient().names()]


def test_a_node_registers_again_when_epmd_restarts(
    monkeypatch: pytest.MonkeyPatch, cookie: str
) -> None:
    epmd = Epmd()
    monkeypatch.setenv("ERL_EPMD_PORT", str(epmd.port))
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        alive = node.name.partition("@")[0]
        creation = node.creation
        epmd.kill()

        def registered() -> bool:
            with contextlib.suppress(Exception):
                return EpmdClient().lookup(alive) is not None
            return False

        wait_until(registered)
        assert node.creation == creation


# --- slow peers


def test_a_peer_that_takes_no_answers_costs_others_neither_memory_nor_time(
    start_beam: Callable[..., BeamNode], start_pynode: Callable[..., PynodeProcess]
) -> None:
    slow, other, python = start_beam(), start_beam(), start_pynode()
    name = Atom(python.name)
    memory = psutil.Process(python.os_pid).memory_info
    call = "gen_server:call({snakebridge, N}, R)"
    plain: Any = (Atom("call"), "math", "sqrt", [16], {})
    assert slow.eval(call, N=name, R=plain) == (Atom("ok"), 4.0)
    before = memory().rss
    slow.start_eval(
        "[spawn(fun() -> gen_server:call({snakebridge, N}, R, infinity) end)"
        " || _ <- lists:seq(1, 1000)], erlang:suspend_process(self())",
        N=name,
        R=(Atom("call"), "builtins", "bytes", [100_000], {}),
    )
    slow.suspend()
    for _ in range(200):
        assert other.eval(call, N=name, R=plain) == (Atom("ok"), 4.0)
    assert memory().rss - before < 60_000_000
    slow.resume()
    assert slow.eval(call, N=name, R=plain) == (Atom("ok"), 4.0)


# --- ticks


def test_ticks_keep_the_connection_while_a_call_runs(
    start_beam: Callable[..., BeamNode], start_pynode: Callable[..., PynodeProcess]
) -> None:
    beam, python = start_beam(flags=["-kernel", "net_ticktime", "4"]), start_pynode()
    name = Atom(python.name)
    call = "gen_server:call({snakebridge, N}, R, infinity)"
    beam.eval(
        "net_kernel:connect_node(N), spawn(fun() -> monitor_node(N, true), "
        "receive X -> register(lost, self()), X end, receive stop -> ok end end)",
        N=name,
    )
    slow = beam.start_eval(call, N=name, R=(Atom("call"), "time", "sleep", [7], {}))
    busy: Any = (
        Atom("call"),
        "builtins",
        "exec",
        ["import time\nend = time.monotonic() + 7\nwhile time.monotonic() < end: pass"],
        {},
    )
    spinning = beam.start_eval(call, N=name, R=busy)
    assert slow.result(30) == (Atom("ok"), None)
    assert spinning.result(30) == (Atom("ok"), None)
    assert beam.eval("whereis(lost)") == Atom("undefined")


def test_a_silent_peer_is_taken_for_lost(
    start_beam: Callable[..., BeamNode], epmd: Epmd, cookie: str
) -> None:
    beam = start_beam()
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    with Node(name, cookie=cookie, net_ticktime=1.0) as node:
        reasons: SimpleQueue[Any] = SimpleQueue()
        node.monitor(beam.process().pid, reasons.put)
        beam.suspend()
        assert reasons.get(timeout=PATIENCE) == Atom("noconnection")
        beam.resume()
