"""Requests and their answers; Python servers made by hand, no BEAM takes part."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from pynode import (
    Atom,
    CallTimeoutError,
    EncodeError,
    ExitError,
    GenServer,
    Node,
    NodeUnavailableError,
    Process,
    RemoteError,
    current_process,
)
from pynode.process import Spawned
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0
BOOM, NOPROC, KILL = Atom("boom"), Atom("noproc"), Atom("kill")


@pytest.fixture(params=["here", "elsewhere"])
def nodes(request: pytest.FixtureRequest, start_node: Callable[..., Node]) -> tuple[Node, Node]:
    """Two nodes; or one, twice."""
    node = start_node()
    return (node, node) if request.param == "here" else (node, start_node())


def me() -> Process:
    process = current_process()
    assert process is not None
    return process


def serve(node: Node) -> None:
    """Be a server that echoes what it is called with, unless it is told something else."""
    process = me()
    while True:
        match process.receive():
            case ("$gen_call", (_, _), "exit"):
                raise ExitError("as it was told", reason=BOOM)
            case ("$gen_call", (_, _), "ignore"):
                pass
            case ("$gen_call", (caller, tag), "answer the pid"):
                # As servers do that know nothing of aliases.
                node.send(caller, (tag, "to the pid"))
            case ("$gen_call", (_, tag), request):
                node.send(tag.tail, (tag, request))
            case ("$gen_cast", request):
                node.send("inbox", request)


@pytest.fixture
def server(nodes: tuple[Node, Node]) -> tuple[str, str]:
    there = nodes[1]
    there.register("server", there.spawn(serve, there))
    return ("server", there.name)


def assert_nothing_waits(node: Node) -> None:
    signals = node.signals
    wait_until(lambda: not signals._monitors and not signals._abandoned and not signals.aliases)


def test_call(nodes: tuple[Node, Node], server: tuple[str, str]) -> None:
    here, there = nodes
    assert here.call(server, ("question", [1])) == ("question", [1])
    pid = there.whereis("server")
    assert pid is not None
    assert here.call(pid, 2) == 2
    assert here.call(pid, "answer the pid") == "to the pid"
    with here.process():
        assert here.call(server, 3) == 3
        assert here.call(server, "answer the pid") == "to the pid"
    assert there.call("server", 4) == 4
    assert_nothing_waits(here)


def test_cast(nodes: tuple[Node, Node], server: tuple[str, str]) -> None:
    here, there = nodes
    with there.process(name="inbox") as inbox:
        here.cast(server, ("event", 1))
        assert inbox.receive(timeout=PATIENCE) == ("event", 1)


def test_what_a_call_may_end_with(nodes: tuple[Node, Node], server: tuple[str, str]) -> None:
    here, there = nodes
    with pytest.raises(CallTimeoutError, match=r"server on .* within 0\.01 seconds"):
        here.call(server, "ignore", timeout=0.01)
    with pytest.raises(EncodeError):
        here.call(server, object())
    with pytest.raises(ExitError, match="boom") as caught:
        here.call(server, "exit", timeout=None)
    assert caught.value.reason == BOOM
    with pytest.raises(ExitError, match="it exited: no process") as caught:
        here.call(("nobody", there.name), 1, timeout=None)
    assert caught.value.reason == NOPROC
    with pytest.raises(NodeUnavailableError):
        here.call(("server", "nobody@127.0.0.1"), 1)
    assert_nothing_waits(here)


def test_requests_are_answered_in_any_order(
    nodes: tuple[Node, Node], server: tuple[str, str]
) -> None:
    here, _ = nodes
    requests = [here.send_request(server, number) for number in range(100)]
    for number, request in reversed(list(enumerate(requests))):
        assert request.result(PATIENCE) == number
        assert request.done
        assert request.result(0) == number
    assert_nothing_waits(here)


def test_several_wait_for_one_answer(nodes: tuple[Node, Node], server: tuple[str, str]) -> None:
    here, there = nodes
    answers: SimpleQueue[Any] = SimpleQueue()
    with there.process() as slow:
        request = here.send_request(slow.pid, "question")
        threads = [
            threading.Thread(target=lambda: answers.put(request.result()), daemon=True)
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        request.add_done_callback(lambda: answers.put("called back"))
        _, (_, tag), _ = slow.receive(timeout=PATIENCE)
        there.send(tag.tail, (tag, "answer"))
        got = sorted(answers.get(timeout=PATIENCE) for _ in range(6))
        assert got == ["answer"] * 5 + ["called back"]
    request.add_done_callback(lambda: answers.put("at once"))
    assert answers.get(timeout=0) == "at once"
    for thread in threads:
        thread.join()


def test_a_request_that_is_given_up(nodes: tuple[Node, Node], server: tuple[str, str]) -> None:
    here, _ = nodes
    request = here.send_request(server, "ignore")
    assert repr(request).startswith("<Request to server on ")
    assert not request.done
    request.abandon()
    for _ in range(2):
        with pytest.raises(CallTimeoutError, match="given up"):
            request.result()
    assert_nothing_waits(here)
    assert here.call(server, "still there") == "still there"


def test_a_caller_that_is_killed_gives_its_request_up(
    nodes: tuple[Node, Node], server: tuple[str, str]
) -> None:
    here, _ = nodes
    with here.process() as watcher:
        pid = here.spawn(here.call, server, "ignore", timeout=None)
        watcher.monitor(pid)
        wait_until(lambda: here.signals.aliases)
        here.exit(pid, KILL)
        watcher.receive(timeout=PATIENCE)
    assert_nothing_waits(here)


def test_a_server_that_calls_its_caller(nodes: tuple[Node, Node]) -> None:
    here, there = nodes

    def bounce(node: Node, other: tuple[str, str] | None) -> None:
        _, (_, tag), number = me().receive()
        if other is not None:
            number = node.call(other, number + 1)
        node.send(tag.tail, (tag, number + 1))

    there.register("last", there.spawn(bounce, there, None))
    here.register("first", here.spawn(bounce, here, ("last", there.name)))
    assert there.call(("first", here.name), 1) == 4


@pytest.mark.slow
def test_many_callers_at_once(nodes: tuple[Node, Node], server: tuple[str, str]) -> None:
    here, _ = nodes
    failed: SimpleQueue[Any] = SimpleQueue()

    def caller(start: int) -> None:
        for number in range(start, start + 100):
            if here.call(server, number) != number:
                failed.put(number)

    threads = [threading.Thread(target=caller, args=(n * 1000,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed.empty()
    assert_nothing_waits(here)


# --- erpc among Python nodes


def test_erpc(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    assert here.erpc(there.name, "math", "sqrt", [16]) == 4.0
    assert here.rpc(there.name, "os.path", "join", ["a", "b"]) == "a/b"
    request = here.erpc_request(there.name, "operator", "add", [1, 2])
    assert request.result(PATIENCE) == 3
    with pytest.raises(ExitError, match="division by zero"):
        here.erpc(there.name, "operator", "truediv", [1, 0])
    with pytest.raises(CallTimeoutError, match=r"time:sleep/1 on .* within 0\.01 seconds"):
        here.erpc(there.name, "time", "sleep", [0.2], timeout=0.01)
    with pytest.raises(NodeUnavailableError):
        here.erpc("nobody@127.0.0.1", "m", "f", [])
    assert_nothing_waits(here)


def test_multicall(nodes: tuple[Node, Node], start_node: Callable[..., Node]) -> None:
    here, there = nodes
    peers = [there.name, "nobody@127.0.0.1", here.name, start_node().name, there.name]
    results = here.multicall(peers, "operator", "add", [1, 2])
    assert isinstance(results.pop(1), NodeUnavailableError)
    assert results == [3, 3, 3, 3]
    results = here.multicall([here.name, there.name], "operator", "truediv", [1, 0])
    assert all(isinstance(result, RemoteError) for result in results)
    results = here.multicall([here.name, there.name], "time", "sleep", [0.3], timeout=0.01)
    for result in results:
        assert isinstance(result, CallTimeoutError)
        assert "within 0.01 seconds" in str(result)
    assert here.multicall([], "operator", "add", [1, 2]) == []
    with pytest.raises(EncodeError):
        here.multicall([there.name], "operator", "add", [1, object()])
    # Nothing is left when it is interrupted.
    with here.process() as watcher:
        pid = here.spawn(here.multicall, [there.name] * 3, "time", "sleep", [0.3], timeout=None)
        watcher.monitor(pid)
        wait_until(lambda: len(here.signals._monitors) > 3)
        here.exit(pid, KILL)
        watcher.receive(timeout=PATIENCE)
    assert_nothing_waits(here)


def test_spawn_at(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with here.process() as process:
        process.trap_exit = True
        pid = here.spawn_at(there.name, "time", "sleep", [100], link=True)
        assert pid.node == there.name
        here.exit(pid, KILL)
        assert process.receive(timeout=PATIENCE) == (Atom("EXIT"), pid, Atom("killed"))
    assert_nothing_waits(here)


def test_a_spawn_with_a_link_to_nobody(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with pytest.raises(RuntimeError, match="no process"):
        here.spawn_at(there.name, "time", "sleep", [100], link=True)


# --- await


def test_requests_can_be_awaited(nodes: tuple[Node, Node], server: tuple[str, str]) -> None:
    here, there = nodes

    async def main() -> None:
        assert await here.send_request(server, 1) == 1
        requests = [here.send_request(server, number) for number in range(50)]
        assert await asyncio.gather(*requests) == list(range(50))
        assert await requests[7] == 7  # again
        with pytest.raises(ExitError, match="it exited: no process"):
            await here.send_request(("nobody", there.name), 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await here.send_request(server, "ignore")
        waiting = asyncio.ensure_future(_await(here.send_request(server, "ignore")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    assert_nothing_waits(here)


async def _await(request: Any) -> Any:
    return await request


def test_an_event_loop_that_ends_while_requests_wait(
    nodes: tuple[Node, Node], server: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = nodes
    with there.process() as slow:
        request = here.send_request(slow.pid, 1)
        loop = asyncio.new_event_loop()
        waiting = _await(request)
        task = loop.create_task(waiting)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        _, (_, tag), _ = slow.receive(timeout=PATIENCE)
        there.send(tag.tail, (tag, "answer"))
        # Nobody minds: not the thread that reads, nor others who wait.
        assert request.result(PATIENCE) == "answer"
        assert here.call(server, 1) == 1
        # Out of the loop, the coroutine ends as others do.
        waiting.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    assert not caplog.records


def test_a_coroutine_that_is_dropped_gives_its_request_up(
    nodes: tuple[Node, Node], server: tuple[str, str]
) -> None:
    here, _ = nodes
    loop = asyncio.new_event_loop()
    waiting = _await(here.send_request(server, "ignore"))
    task = loop.create_task(waiting)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert here.signals.aliases
    waiting.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    assert_nothing_waits(here)


def test_a_node_has_limits_of_its_own(start_node: Callable[..., Node]) -> None:
    from pynode.config import Limits

    node = start_node(limits=Limits(depth=10))
    with node.process(name="inbox") as process:
        deep: Any = 1
        for _ in range(20):
            deep = [deep]
        node.send("inbox", deep)
        node.send("inbox", "shallow")
        assert process.receive(timeout=10) == "shallow"


def test_a_callback_that_raises_or_exits_stops_nobody(start_node: Callable[..., Node]) -> None:
    here, there = start_node(), start_node()
    here.monitor(("nobody", there.name), lambda _: sys.exit(1))
    here.monitor("nobody", lambda _: sys.exit(1))
    request = here.erpc_request(there.name, "math", "sqrt", [16])
    request.add_done_callback(lambda: 1 / 0)
    assert request.result(10) == 4.0
    assert here.ping(there.name)
    assert here.erpc(here.name, "math", "sqrt", [16]) == 4.0


def test_an_alias_is_no_process(start_node: Callable[..., Node]) -> None:
    here, there = start_node(), start_node()
    assert here.ping(there.name)
    reference: Any = there.new_reference()
    with here.process() as process:
        for attempt in (
            lambda: here.exit(reference, Atom("kill")),
            lambda: here.monitor(reference, print),
            lambda: here.call(reference, 1),
            lambda: process.link(reference),
        ):
            with pytest.raises(TypeError):
                attempt()
    assert here.nodes() == [there.name]


def test_wrong_timeouts_leave_nothing_behind(start_node: Callable[..., Node]) -> None:
    node = start_node()
    outcomes: SimpleQueue[Any] = SimpleQueue()

    def attempts() -> None:
        wrong: Any
        for wrong in ["5", -1] * 20:
            try:
                node.call("net_kernel", 1, timeout=wrong)
            except (TypeError, ValueError) as error:
                outcomes.put(type(error))
        outcomes.put(node.ping(node.name, timeout=1e300))

    node.spawn(attempts)
    assert [outcomes.get(timeout=10) for _ in range(41)] == [TypeError, ValueError] * 20 + [True]


def test_a_multicall_on_a_node_that_was_stopped(start_node: Callable[..., Node]) -> None:
    node = start_node()
    node.stop()
    with pytest.raises(NodeUnavailableError, match="stopped"):
        node.multicall([node.name], "math", "sqrt", [16], timeout=1)


def test_what_returned_a_lot_keeps_none_of_it(start_node: Callable[..., Node]) -> None:
    here, there = start_node(), start_node()

    def processes() -> int:
        # Those of this test alone: others may have left some.
        found = [each for each in gc.get_objects() if isinstance(each, Spawned)]
        return sum(each.pid.node == there.name for each in found)

    gc.disable()
    try:
        for _ in range(5):
            assert here.erpc(there.name, "builtins", "bytes", [10]) == "\0" * 10
        wait_until(lambda: not processes())
    finally:
        gc.enable()


def test_a_stop_that_is_interrupted_stops_all_the_same(start_node: Callable[..., Node]) -> None:
    node = start_node()

    class Stubborn(GenServer):
        def terminate(self, reason: Any) -> None:
            raise KeyboardInterrupt

    class Rude(Process):
        def join(self, deadline: float) -> None:
            raise KeyboardInterrupt

    node.add(Stubborn())
    node.add(Rude())
    with pytest.raises(KeyboardInterrupt):
        node.stop()
    start_node(node.name).stop()  # the name is free


def test_names_that_are_none(start_node: Callable[..., Node]) -> None:
    node = start_node()
    wrong: Any
    for wrong in (5, b"x", ("a", "b"), ["x"], "", "undefined", "x" * 256):
        with pytest.raises((TypeError, ValueError)):
            node.process(name=wrong)
    wrong = GenServer
    with pytest.raises(TypeError):
        node.add(wrong)
    assert node.erpc(node.name, "erlang", "registered", [])


def test_the_event_loop_ends_with_the_node(start_node: Callable[..., Node]) -> None:
    node = start_node()

    async def asynchronous() -> int:
        return 1

    coroutine: Any = asynchronous()
    assert node.run_async(coroutine) == 1
    (loop,) = [thread for thread in threading.enumerate() if thread.name == "pynode-asyncio"]
    node.stop()
    loop.join(10)
    assert not loop.is_alive()


def test_a_coroutine_that_is_cancelled(start_node: Callable[..., Node]) -> None:
    node = start_node()

    async def cancelled() -> None:
        raise asyncio.CancelledError

    coroutine: Any = cancelled()
    with pytest.raises(asyncio.CancelledError):
        node.run_async(coroutine)
