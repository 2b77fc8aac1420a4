"""Calls and signals between the node and real BEAM nodes, both ways, and what goes wrong."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pynode import (
    Atom,
    CallTimeoutError,
    EncodeError,
    ExitError,
    Node,
    NodeUnavailableError,
    ReceiveTimeoutError,
    RemoteError,
)
from pynode.testing import Epmd, wait_until
from pynode.testing.children import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode, PynodeProcess, Runtime

PATIENCE = 10.0
ECHO = """
-module(echo).
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2]).
init(State) -> {ok, State}.
handle_call(stop, _, State) -> {stop, on_purpose, State};
handle_call(silence, _, State) -> {noreply, State};
handle_call(Request, _, State) -> {reply, {echo, Request}, State}.
handle_cast({to, Pid, Message}, State) -> Pid ! Message, {noreply, State};
handle_cast(_, State) -> {noreply, State}.
"""
#: How many processes monitor the server of `PROGRAM`.
MONITORS = """
    P = erpc:call(N, erlang, whereis, [echo]),
    {monitored_by, Pids} = erpc:call(N, erlang, process_info, [P, monitored_by]), length(Pids)
"""
#: A program as users write them, with a server, that runs until a signal comes.
PROGRAM = """
import sys
from pynode import GenServer, Node

class Echo(GenServer):
    def handle_call(self, request, from_):
        return request

    def terminate(self, reason):
        print("terminated:", reason, flush=True)

with Node(sys.argv[1], cookie=sys.argv[2]) as node:
    node.add(Echo(), name="echo")
    print("ready", flush=True)
    node.run_forever()
print("at the end", node.nodes(), flush=True)
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


# --- signals from Python


def test_call_by_name_and_by_pid(echo: BeamNode, node: Node) -> None:
    name = start_echo(echo)
    assert node.call((name, echo.name), ("hello", [1, 2])) == ("echo", ("hello", [1, 2]))
    pid = echo.eval("whereis(N)", N=Atom(name))
    assert node.call(pid, 5) == ("echo", 5)


def test_a_call_of_nobody_fails_at_once(echo: BeamNode, node: Node) -> None:
    with pytest.raises(ExitError, match="it exited: no process") as caught:
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
    any_runtime: Runtime, start_beam: Callable[..., BeamNode], node: Node
) -> None:
    beam = start_beam(runtime=any_runtime)
    beam.load_module(ECHO)
    name = start_echo(beam)
    node.call((name, beam.name), 1)
    reasons: SimpleQueue[Any] = SimpleQueue()
    node.monitor((name, beam.name), reasons.put)
    beam.kill()
    assert reasons.get(timeout=PATIENCE) == Atom("noconnection")
    assert node.nodes() == []


def test_cast(echo: BeamNode, node: Node) -> None:
    name = start_echo(echo)
    with node.process() as process:
        for to in ((name, echo.name), echo.eval("whereis(N)", N=Atom(name))):
            node.cast(to, (Atom("to"), process.pid, "hello"))
            assert process.receive(timeout=PATIENCE) == "hello"
    node.cast(("nobody", echo.name), 1)


def test_requests_that_are_answered_later(echo: BeamNode, node: Node) -> None:
    server = (start_echo(echo), echo.name)
    requests = [node.send_request(server, number) for number in range(50)]
    for number, request in reversed([*enumerate(requests)]):
        assert request.result(PATIENCE) == ("echo", number)

    async def main() -> None:
        assert await node.send_request(server, 1) == ("echo", 1)
        numbers = [node.erpc_request(echo.name, "erlang", "abs", [-n]) for n in range(50)]
        assert await asyncio.gather(*numbers) == list(range(50))
        with pytest.raises(ExitError, match="it exited: no process"):
            await node.send_request(("nobody", echo.name), 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await node.send_request(server, Atom("silence"))

    asyncio.run(main())
    wait_until(lambda: not node.signals._abandoned and not node.signals._monitors)


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
        with pytest.raises(RemoteError, match="oops") as caught:
            node.erpc(any_beam.name, "erlang", function, [arg])
        assert caught.value.error_class == expected
        assert caught.value.reason == arg
    exception = {
        Atom("__struct__"): Atom("Elixir.RuntimeError"),
        Atom("__exception__"): True,
        Atom("message"): "boo",
    }
    with pytest.raises(RemoteError, match=r"error\(.+\) on .+ failed: \*\* \(RuntimeError\) boo$"):
        node.erpc(any_beam.name, "erlang", "error", [exception])
    with pytest.raises(CallTimeoutError):
        node.erpc(any_beam.name, "timer", "sleep", [60_000], timeout=0.01)


def test_multicall(any_beam: BeamNode, node: Node) -> None:
    peers = [any_beam.name, "nobody@127.0.0.1", node.name]
    here, nowhere, there = node.multicall(peers, "erlang", "node", [])
    assert (here, there) == (any_beam.name, node.name)
    assert isinstance(nowhere, NodeUnavailableError)
    (failed,) = node.multicall([any_beam.name], "erlang", "error", [Atom("oops")])
    assert isinstance(failed, RemoteError)
    assert failed.reason == Atom("oops")
    (late,) = node.multicall([any_beam.name], "timer", "sleep", [60_000], timeout=0.01)
    assert isinstance(late, CallTimeoutError)


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
    wait_until(lambda: not node.signals._abandoned and not node.signals._monitors)


# --- receiving, and a program of one's own


def test_receive(any_beam: BeamNode, node: Node) -> None:
    with node.process() as process:
        any_beam.eval("[P ! {number, N} || N <- [1, 2, 3]], P ! last", P=process.pid)
        assert process.receive(lambda message: message == "last", timeout=PATIENCE) == "last"
        # What was not wanted is still there, in its order.
        left = [process.receive(timeout=0) for _ in range(3)]
        assert left == [(Atom("number"), number) for number in (1, 2, 3)]
        with pytest.raises(ReceiveTimeoutError):
            process.receive(timeout=0.01)


def test_nodes_come_and_go(
    any_beam: BeamNode, start_beam: Callable[..., BeamNode], node: Node
) -> None:
    events: SimpleQueue[tuple[str, str]] = SimpleQueue()
    unsubscribe = node.monitor_nodes(lambda event, name: events.put((event, name)))
    beam = start_beam(runtime=any_beam.runtime)
    assert beam.eval("net_adm:ping(N)", N=Atom(node.name)) == "pong"
    assert events.get(timeout=PATIENCE) == ("nodeup", beam.name)
    beam.kill()
    assert events.get(timeout=PATIENCE) == ("nodedown", beam.name)
    unsubscribe()
    later: SimpleQueue[tuple[str, str]] = SimpleQueue()
    node.monitor_nodes(lambda event, name: later.put((event, name)))
    node.connect(any_beam.name)
    assert later.get(timeout=PATIENCE) == ("nodeup", any_beam.name)
    assert events.empty()


def test_a_program_that_runs_on(any_beam: BeamNode, cookie: str) -> None:
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    with Child([sys.executable, "-c", PROGRAM, name, cookie], env=os.environ) as program:
        program.stdout.wait_for("^ready$", PATIENCE)
        assert any_beam.eval("gen_server:call({echo, N}, [1])", N=Atom(name)) == [1]
        watch = any_beam.start_eval(
            "R = monitor(process, {echo, N}), receive {'DOWN', R, _, _, Why} -> Why end",
            N=Atom(name),
        )
        wait_until(lambda: any_beam.eval(MONITORS, N=Atom(name)) == 1)
        program.send_signal(signal.SIGTERM)
        assert watch.result(PATIENCE) == "shutdown"
        assert program.wait(PATIENCE) == 0
        lines = ["ready", "terminated: shutdown", "at the end []"]
        assert str(program.stdout).splitlines() == lines
        assert not str(program.stderr)


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
    pid = node.whereis("net_kernel")
    assert any_beam.eval("link(P), unlink(P), net_adm:ping(N)", P=pid, N=node.name) == "pong"


def test_messages_to_nobody_and_of_no_kind_are_dropped(any_beam: BeamNode, node: Node) -> None:
    assert any_beam.eval(
        "{nobody, N} ! hi, P ! hi, {net_kernel, N} ! hi, {net_kernel, N} ! {a, b, c}, "
        "exit(P, kill), net_adm:ping(N)",
        N=node.name,
        P=node.new_pid(),
    )


# --- slow peers


def test_a_peer_that_takes_no_answers_costs_others_neither_memory_nor_time(
    any_runtime: Runtime,
    start_beam: Callable[..., BeamNode],
    start_pynode: Callable[..., PynodeProcess],
) -> None:
    slow, other = (start_beam(runtime=any_runtime) for _ in range(2))
    python = start_pynode()
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
