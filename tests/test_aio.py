"""The node from asyncio, among Python nodes; with a BEAM it is in tests/beam/test_aio.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import socket
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from pynode import (
    Atom,
    CallTimeoutError,
    EncodeError,
    ExitError,
    Node,
    NodeUnavailableError,
    Process,
    ReceiveTimeoutError,
    aio,
    config,
    current_process,
)
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0
DOWN, EXIT, PROCESS = Atom("DOWN"), Atom("EXIT"), Atom("process")
KILL, KILLED, NORMAL, NOPROC = Atom("kill"), Atom("killed"), Atom("normal"), Atom("noproc")
BOOM = Atom("boom")


def me() -> Process:
    process = current_process()
    assert process is not None
    return process


@pytest.fixture
def there(start_node: Callable[..., Node]) -> Node:
    """Another node, with a server of the name `echo`, and one that is silent."""
    node = start_node()

    def echo() -> None:
        while True:
            _, (_, tag), request = me().receive()
            node.send(tag.tail, (tag, request))

    node.register("echo", node.spawn(echo))
    node.process(name="silent")
    return node


@pytest.fixture
def here(start_node: Callable[..., Node]) -> Node:
    return start_node()


async def until(predicate: Callable[[], object]) -> None:
    """Wait in an event loop until `predicate` is true."""
    async with asyncio.timeout(PATIENCE):
        while not predicate():  # noqa: ASYNC110
            await asyncio.sleep(0)


def assert_nothing_waits(node: Node) -> None:
    signals = node.signals
    wait_until(lambda: not signals._monitors and not signals._abandoned and not signals.aliases)


def test_a_node_from_start_to_stop(there: Node, cookie: str) -> None:
    async def main() -> None:
        async with aio.Node("aio@127.0.0.1", cookie=cookie) as node:
            assert repr(node) == "<aio.Node aio@127.0.0.1>"
            assert await node.ping(there.name)
            assert node.nodes() == [there.name]
            assert node.self() == node.sync.self()
            await node.connect(there.name)
            assert node.disconnect(there.name)
        with pytest.raises(NodeUnavailableError, match="was stopped"):
            await node.ping(there.name)
        with pytest.raises(NodeUnavailableError, match="was stopped"):
            await node.call("name", 1)
        with pytest.raises(NodeUnavailableError, match="was not started"):
            await aio.Node("other@127.0.0.1", cookie=cookie).ping(there.name)
        with pytest.raises(ValueError, match="node name"):
            aio.Node("other", cookie=cookie)

    asyncio.run(main())


def test_requests(here: Node, there: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        echo = ("echo", there.name)
        assert await node.call(echo, ("question", 1)) == ("question", 1)
        pid = there.whereis("echo")
        assert pid is not None
        assert await node.call(pid, 2, timeout=None) == 2
        request = await node.send_request(echo, 3)
        assert await request == 3
        assert await node.erpc(there.name, "math", "sqrt", [16]) == 4.0
        assert await node.rpc(there.name, "math", "sqrt", [25]) == 5.0
        assert await (await node.erpc_request(there.name, "math", "sqrt", [36])) == 6.0
        # At home, too.
        assert await node.erpc(here.name, "math", "sqrt", [16]) == 4.0
        with pytest.raises(ExitError, match="no process"):
            await node.call(("nobody", there.name), 1)
        with pytest.raises(EncodeError):
            await node.call(echo, object())
        with pytest.raises(EncodeError):
            await node.send(echo, object())
        with pytest.raises(CallTimeoutError, match=r"silent on .* within 0\.01 seconds"):
            await node.call(("silent", there.name), 1, timeout=0.01)
        with pytest.raises(CallTimeoutError, match=r"within 0\.01 seconds"):
            await node.erpc(there.name, "time", "sleep", [0.1], timeout=0.01)
        with pytest.raises(NodeUnavailableError):
            await node.ping("nobody@127.0.0.1")
        with pytest.raises(TypeError, match="is no process"):
            await node.send(5, 1)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="no process here"):
            await node.spawn_at(there.name, "time", "sleep", [1], link=True)

    asyncio.run(main())
    assert_nothing_waits(here)


def test_a_thousand_calls_at_once_take_few_threads(here: Node, there: Node) -> None:
    async def main() -> int:
        node = aio.Node.wrap(here)
        calls = [node.call(("echo", there.name), n, timeout=PATIENCE) for n in range(1000)]
        waiting = asyncio.gather(*calls)
        await asyncio.sleep(0)
        threads = threading.active_count()
        assert await waiting == list(range(1000))
        return threads

    before = threading.active_count()
    assert asyncio.run(main()) < before + 10
    assert_nothing_waits(here)


def test_who_waits_for_the_same_connection_takes_one_thread(here: Node) -> None:
    # It accepts, and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        from pynode.dist.epmd import EpmdClient

        registration = EpmdClient().register("mute", silent.getsockname()[1], hidden=True)

        async def main() -> None:
            node = aio.Node.wrap(here)
            calls = [asyncio.create_task(node.call(("x", "mute@127.0.0.1"), 1)) for _ in range(500)]
            accepted, _ = await asyncio.to_thread(silent.accept)
            assert threading.active_count() < before + 12
            # Who gives up does not disturb the others.
            calls[0].cancel()
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(asyncio.CancelledError):
                    await calls[0]
            assert not any(call.done() for call in calls[1:])
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            accepted.close()

        before = threading.active_count()
        asyncio.run(main())
        registration.close()
    assert_nothing_waits(here)


def test_the_event_loop_goes_on_while_a_peer_is_slow(here: Node, there: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        await node.connect(there.name)
        connection = here.ready(there.name)
        connection._out.size += config.SEND_BUFFER + 1  # as if so much were queued
        sends = [asyncio.create_task(node.send(("silent", there.name), n)) for n in range(100)]
        await asyncio.to_thread(wait_until, lambda: connection._waiting > 0)
        await asyncio.sleep(0)
        assert not any(send.done() for send in sends)
        assert connection._waiting == 1  # one thread for all of them
        with connection._room:
            connection._out.size -= config.SEND_BUFFER + 1
            connection._room.notify_all()
        await asyncio.gather(*sends)

    asyncio.run(main())
    silent = there.signals.find(Atom("silent"))
    assert isinstance(silent, Process)
    assert [silent.receive(timeout=PATIENCE) for _ in range(100)] == list(range(100))


def test_what_is_given_up_leaves_nothing(here: Node, there: Node) -> None:
    silent = ("silent", there.name)

    async def main() -> None:
        node = aio.Node.wrap(here)
        await node.connect(there.name)
        for waiting in (
            node.call(silent, 1, timeout=None),
            node.call(silent, 1, timeout=PATIENCE),
            node.erpc(there.name, "time", "sleep", [0.2], timeout=None),
        ):
            task = asyncio.create_task(waiting)
            await until(lambda: here.signals._monitors)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not here.signals.aliases
            assert not here.signals._monitors
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.01):
                    await node.call(silent, 1, timeout=None)
            assert not isinstance(caught.value, CallTimeoutError)
        monitor = await node.monitor(silent)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await monitor

    asyncio.run(main())
    assert_nothing_waits(here)
    silent_process: Any = there.signals.find(Atom("silent"))
    wait_until(lambda: not silent_process._watchers)


def test_send_cast_and_exit(here: Node, there: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        with there.process(name="inbox") as inbox:
            await node.send(("inbox", there.name), "by name")
            await node.send(inbox.pid, "by pid")
            await node.cast(inbox.pid, "cast")
            assert [await asyncio.to_thread(inbox.receive, timeout=PATIENCE) for _ in range(3)] == [
                "by name",
                "by pid",
                ("$gen_cast", "cast"),
            ]
            await node.exit(inbox.pid, BOOM)
            with pytest.raises(ExitError, match="boom"):
                await asyncio.to_thread(inbox.receive, timeout=PATIENCE)

    asyncio.run(main())


def test_what_is_no_process_is_refused_before_anything_is_sent(here: Node, there: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        await node.connect(there.name)
        alias: Any = there.new_reference()
        name: Any = "name"
        await node.send(alias, "nobody waits")
        with node.process() as process:
            for refused in (
                node.monitor(alias),
                node.send_request(alias, "request"),
                process.monitor(alias),
                process.link(alias),
                node.exit(alias, BOOM),
                node.exit(name, BOOM),
            ):
                with pytest.raises(TypeError, match=r"is an alias|is no pid"):
                    await refused
        with pytest.raises(TypeError, match="is an alias"):
            here.call(alias, "request")
        assert node.nodes() == [there.name]

    asyncio.run(main())


def test_monitors(here: Node, there: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        process = there.process()
        monitor = await node.monitor(process.pid)
        unwanted = await node.monitor(process.pid)
        unwanted.abandon()
        await node.exit(process.pid, BOOM)
        assert await monitor == BOOM
        assert await (await node.monitor(process.pid)) == NOPROC
        assert await (await node.monitor(("nobody", there.name))) == NOPROC

    asyncio.run(main())
    assert_nothing_waits(here)


# --- processes


def test_receive(here: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        with node.process(name="inbox") as process:
            assert current_process() is process.sync
            assert node.self() == process.pid
            assert process.name == "inbox"
            threading.Timer(0.02, here.send, ("inbox", "from a thread")).start()
            assert await process.receive() == "from a thread"
            for number in range(5):
                await node.send("inbox", number)
            assert await process.receive(lambda n: n == 3, timeout=PATIENCE) == 3
            assert [await process.receive() for _ in range(4)] == [0, 1, 2, 4]
            with pytest.raises(ReceiveTimeoutError, match=r"within 0\.01 seconds"):
                await process.receive(timeout=0.01)
            with pytest.raises(ReceiveTimeoutError):
                await process.receive(timeout=0)
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.01):
                    await process.receive()
            assert not isinstance(caught.value, ReceiveTimeoutError)
            await node.send("inbox", "still there")
            await until(lambda: len(process.sync.mailbox))
            assert await process.receive(timeout=0) == "still there"
        assert (process.alive, process.exit_reason) == (False, NORMAL)
        with pytest.raises(ExitError, match="normal"):
            await process.receive()

    asyncio.run(main())


def test_cancelling_a_receive_loses_no_message(here: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        received = []
        with node.process() as process:
            for number in range(300):
                task = asyncio.create_task(process.receive())
                await asyncio.sleep(0)
                threading.Thread(target=here.send, args=(process.pid, number)).start()
                if number % 3:
                    await asyncio.sleep(0.0001 * (number % 7))
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    received.append(await task)
            received += [
                await process.receive(timeout=PATIENCE) for _ in range(300 - len(received))
            ]
            assert sorted(received) == list(range(300))
            assert not process.sync.mailbox._wakers

    asyncio.run(main())


def test_several_tasks_receive(here: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        with node.process() as process:

            async def take() -> list[int]:
                taken = []
                while (number := await process.receive()) is not None:
                    taken.append(number)
                return taken

            tasks = [asyncio.create_task(take()) for _ in range(4)]
            for number in [*range(100), None, None, None, None]:
                await node.send(process.pid, number)
            taken = await asyncio.gather(*tasks)
            assert sorted(itertools.chain(*taken)) == list(range(100))

    asyncio.run(main())


def test_links_and_monitors_of_a_process(here: Node, there: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        with node.process() as process:
            process.trap_exit = True
            assert process.trap_exit
            one, two, three = (there.process() for _ in range(3))
            reference = await process.monitor(one.pid)
            assert process.demonitor(await process.monitor(one.pid))
            await process.link(two.pid)
            await process.link(three.pid)
            process.unlink(three.pid)
            for other in (one, two, three):
                await node.exit(other.pid, BOOM)
            messages = {await process.receive(timeout=PATIENCE) for _ in range(2)}
            assert messages == {(DOWN, reference, PROCESS, one.pid, BOOM), (EXIT, two.pid, BOOM)}
            pid = await node.spawn_at(there.name, "time", "sleep", [0], link=True)
            assert await process.receive(timeout=PATIENCE) == (EXIT, pid, NORMAL)
            process.monitor_nodes()
            node.disconnect(there.name)
            assert await process.receive(timeout=PATIENCE) == (Atom("nodedown"), there.name)
            process.exit(BOOM)
            assert process.exit_reason == BOOM
            with pytest.raises(ExitError, match="boom"):
                await process.link(two.pid)

    asyncio.run(main())
    assert_nothing_waits(here)


def test_spawned_coroutines(here: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        loop = asyncio.get_running_loop()
        with node.process() as parent:

            async def child(answer: str, then: Exception | None = None) -> None:
                assert asyncio.get_running_loop() is loop
                process = aio.current_process()
                assert process is not None
                await node.send(parent.pid, (answer, process.pid, node.self()))
                await process.receive(lambda m: m == "go")
                if then is not None:
                    raise then

            for error, reason in [
                (None, NORMAL),
                (ExitError("", reason=BOOM), BOOM),
            ]:
                pid = node.spawn(child, "hello", then=error)
                assert await parent.receive(timeout=PATIENCE) == ("hello", pid, pid)
                await parent.monitor(pid)
                await node.send(pid, "go")
                assert (await parent.receive(timeout=PATIENCE))[4] == reason
            # Stopped from outside, wherever it is.
            pids = [node.spawn(child, "hello") for _ in range(1000)]
            for pid in pids:
                await parent.monitor(pid)
            for pid in pids:
                await node.exit(pid, KILL)
            downs = [
                await parent.receive(lambda m: m[0] == DOWN, timeout=PATIENCE) for _ in range(1000)
            ]
            assert {down[4] for down in downs} == {KILLED}
            await until(lambda: len(asyncio.all_tasks()) == 1)
        assert aio.current_process() is None

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() < before + 10
    assert_nothing_waits(here)


def test_a_spawned_coroutine_that_fails(here: Node, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        await me_awaited().receive()
        raise ValueError("loudly")

    def me_awaited() -> aio.Process:
        process = aio.current_process()
        assert process is not None
        return process

    async def main() -> None:
        node = aio.Node.wrap(here)
        with node.process() as parent:
            pid = node.spawn(fail)
            await parent.monitor(pid)
            await node.send(pid, "go")
            exception, _ = (await parent.receive(timeout=PATIENCE))[4]
            assert exception["message"] == "loudly"

    asyncio.run(main())
    assert "loudly" in caplog.text


def test_coroutines_that_are_left_exit_with_their_loop(here: Node) -> None:
    reasons: SimpleQueue[Any] = SimpleQueue()

    async def main() -> None:
        node = aio.Node.wrap(here)

        async def wait() -> None:
            await asyncio.Event().wait()

        for _ in range(2):
            pid = node.spawn(wait)
            process: Any = here.signals.find(pid)
            here.monitor(pid, reasons.put)
            await until(lambda process=process: process._watchers)  # type: ignore[misc]

    asyncio.run(main())
    assert [reasons.get(timeout=PATIENCE) for _ in range(2)] == [Atom("shutdown")] * 2


# --- nodes that come and go


def test_node_events(here: Node, there: Node) -> None:
    async def main() -> None:
        node = aio.Node.wrap(here)
        events = node.monitor_nodes()
        await node.connect(there.name)
        node.disconnect(there.name)
        got = []
        async for event in events:
            got.append(event)
            if len(got) == 2:
                break
        assert got == [("nodeup", there.name), ("nodedown", there.name)]
        assert len(here._subscribers) == before + 1
        events.close()
        assert len(here._subscribers) == before
        async with asyncio.timeout(PATIENCE):
            connecting = asyncio.create_task(node.connect(there.name))
            async for kind, name in node.monitor_nodes():
                assert (kind, name) == ("nodeup", there.name)
                break
            await connecting
        gc.collect()
        assert len(here._subscribers) == before

    before = len(here._subscribers)
    asyncio.run(main())
    here.disconnect(there.name)  # no loop, no error


# --- several event loops, and the end of one


def test_several_loops_use_one_node(here: Node, there: Node) -> None:
    node = aio.Node.wrap(here)
    failures: SimpleQueue[BaseException] = SimpleQueue()

    async def main(start: int) -> None:
        with node.process() as process:
            for number in range(start, start + 100):
                assert await node.call(("echo", there.name), number) == number
                await node.send(process.pid, number)
                assert await process.receive(timeout=PATIENCE) == number
            calls = [node.call(("echo", there.name), n) for n in range(50)]
            assert await asyncio.gather(*calls) == list(range(50))

    def run(start: int) -> None:
        try:
            asyncio.run(main(start))
        except BaseException as error:  # noqa: BLE001
            failures.put(error)

    threads = [threading.Thread(target=run, args=(n * 1000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures.empty()
    assert_nothing_waits(here)


def test_a_loop_that_ends_while_everything_waits(
    here: Node, there: Node, caplog: pytest.LogCaptureFixture
) -> None:
    silent = there.signals.find(Atom("silent"))
    assert isinstance(silent, Process)
    node = aio.Node.wrap(here)
    processes = []
    tasks: list[asyncio.Task[Any]] = []

    async def main() -> None:
        process = node.process()
        processes.append(process)
        await node.connect(there.name)
        tasks.append(asyncio.create_task(node.call(("silent", there.name), 1, timeout=None)))
        tasks.append(asyncio.create_task(process.receive()))
        tasks.append(asyncio.create_task(node.ping("nobody@127.0.0.1")))
        node.monitor_nodes()
        await asyncio.sleep(0)

    # Closed as if the program forgot all about them, not as asyncio.run() does it.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    _, (_, tag), _ = silent.receive(timeout=PATIENCE)
    there.send(tag.tail, (tag, "answer"))
    here.send(processes[0].pid, "message")
    processes[0].exit(BOOM)
    here.disconnect(there.name)
    wait_until(lambda: not node._awaited)
    while tasks:
        task = tasks.pop()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()
    del task
    gc.collect()
    assert_nothing_waits(here)
    assert here.ping(there.name)
    assert not [record for record in caplog.records if record.levelname != "INFO"]


# --- long-running programs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_forever(here: Node, number: int, request: pytest.FixtureRequest) -> None:
    # It may be ignored: a shell does that for what it runs in the background.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, ignored))
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), aio.Node("forever@127.0.0.1", cookie="x") as node:
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
            await node.run_forever()

    asyncio.run(main())
    threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
    here.run_forever()
    assert here.name
    stopping = threading.Timer(0.02, here.stop)
    stopping.start()
    started = time.monotonic()
    here.run_forever()
    assert time.monotonic() - started < PATIENCE
    stopping.join()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
