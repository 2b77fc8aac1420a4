"""The node from asyncio, with a real BEAM."""

from __future__ import annotations

import asyncio
import secrets
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pynode import Atom, CallTimeoutError, ExitError, Node, aio
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode, Epmd

PATIENCE = 10.0
BOOM = Atom("boom")
ECHO = """
-module(aio_echo).
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2]).
init(State) -> {ok, State}.
handle_call(silence, _, State) -> {noreply, State};
handle_call(Request, _, State) -> {reply, {echo, Request}, State}.
handle_cast({to, Pid, Message}, State) -> Pid ! Message, {noreply, State}.
"""


@pytest.fixture
def node(epmd: Epmd, cookie: str) -> Iterator[Node]:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        yield node


@pytest.fixture
def echo(any_beam: BeamNode) -> tuple[str, str]:
    any_beam.load_module(ECHO)
    name = f"echo{secrets.token_hex(5)}"
    any_beam.eval("{ok, _} = gen_server:start({local, N}, aio_echo, [], []), ok", N=Atom(name))
    return (name, any_beam.name)


def assert_nothing_waits(node: Node) -> None:
    signals = node.signals
    wait_until(lambda: not signals._monitors and not signals._abandoned and not signals.aliases)


def test_everything_once(any_beam: BeamNode, echo: tuple[str, str], cookie: str) -> None:
    peer = any_beam.name

    async def main() -> None:
        async with aio.Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
            events = node.monitor_nodes()
            assert await node.ping(peer)
            assert await anext(events) == ("nodeup", peer)
            assert await node.call(echo, ("hello", 1)) == ("echo", ("hello", 1))
            assert await node.erpc(peer, "lists", "reverse", [[1, 2, 3]]) == [3, 2, 1]
            with pytest.raises(CallTimeoutError):
                await node.call(echo, Atom("silence"), timeout=0.01)
            with pytest.raises(ExitError):
                await node.call(("nobody", peer), 1)
            with node.process() as process:
                await node.cast(echo, (Atom("to"), process.pid, "hello"))
                assert await process.receive(timeout=PATIENCE) == "hello"
                process.trap_exit = True
                pid = await node.spawn_at(peer, "timer", "sleep", [Atom("infinity")], link=True)
                reference = await process.monitor(pid)
                monitor = await node.monitor(pid)
                await node.exit(pid, BOOM)
                assert {await process.receive(timeout=PATIENCE) for _ in range(2)} == {
                    (Atom("DOWN"), reference, Atom("process"), pid, BOOM),
                    (Atom("EXIT"), pid, BOOM),
                }
                assert await monitor == BOOM
                any_beam.eval("P ! fun(X) -> X * 2 end, ok", P=process.pid)
                fun = await process.receive(timeout=PATIENCE)
                assert await node.apply(fun, [21]) == 42
                any_beam.eval("P ! fun() -> timer:sleep(1000) end, ok", P=process.pid)
                slow = await process.receive(timeout=PATIENCE)
                with pytest.raises(CallTimeoutError):
                    await node.apply(slow, [], timeout=0.01)
            node.disconnect(peer)
            assert await anext(events) == ("nodedown", peer)

    asyncio.run(main())


def test_a_thousand_calls_at_once(any_beam: BeamNode, echo: tuple[str, str], node: Node) -> None:
    async def main() -> int:
        face = aio.Node.wrap(node)
        calls: list[Any] = [face.call(echo, n, timeout=PATIENCE) for n in range(500)]
        calls += [face.erpc(any_beam.name, "erlang", "abs", [-n], timeout=30) for n in range(500)]
        waiting = asyncio.gather(*calls)
        await asyncio.sleep(0)
        threads = threading.active_count()
        assert await waiting == [("echo", n) for n in range(500)] + list(range(500))
        return threads

    before = threading.active_count()
    assert asyncio.run(main()) < before + 10
    assert_nothing_waits(node)


def test_what_is_given_up_leaves_nothing_there(any_beam: BeamNode, node: Node) -> None:
    process = any_beam.process()
    count = "length(element(2, process_info(P, monitored_by)))"
    before = any_beam.eval(count, P=process.pid)

    async def main() -> None:
        face = aio.Node.wrap(node)
        for waiting in (
            lambda: face.call(process.pid, "never answered", timeout=None),
            lambda: face.erpc(any_beam.name, "timer", "sleep", [1000], timeout=None),
            lambda: monitored(face),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await waiting()

    async def monitored(face: aio.Node) -> None:
        await (await face.monitor(process.pid))

    asyncio.run(main())
    assert_nothing_waits(node)
    wait_until(lambda: any_beam.eval(count, P=process.pid) == before)


def test_processes_in_an_event_loop(any_beam: BeamNode, node: Node) -> None:
    async def main() -> None:
        face = aio.Node.wrap(node)

        async def counter() -> None:
            process = aio.current_process()
            assert process is not None
            count = 0
            while True:
                sender, number = await process.receive()
                count += number
                await face.send(sender, count)

        pid = face.spawn(counter)
        source = "P ! {self(), 2}, receive A -> A end, P ! {self(), 3}, receive B -> {A, B} end"
        ask: Callable[..., Any] = any_beam.eval
        assert await asyncio.to_thread(ask, source, P=pid) == (2, 5)
        source = "R = monitor(process, P), exit(P, boom), receive {'DOWN', R, _, _, W} -> W end"
        assert await asyncio.to_thread(ask, source, P=pid) == BOOM

    asyncio.run(main())
