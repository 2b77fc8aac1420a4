"""Processes of one Python node, and of two that are connected; no BEAM takes part."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from pynode import (
    Atom,
    CallInterrupted,
    ExitError,
    Node,
    NodeUnavailableError,
    Pid,
    ReceiveTimeoutError,
)
from pynode.process import Process, Spawned, current_process
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0
DOWN, EXIT, PROCESS = Atom("DOWN"), Atom("EXIT"), Atom("process")
KILL, KILLED, NORMAL = Atom("kill"), Atom("killed"), Atom("normal")
NOPROC, NOCONNECTION, SHUTDOWN = Atom("noproc"), Atom("noconnection"), Atom("shutdown")
BOOM = Atom("boom")


@pytest.fixture
def node(start_node: Callable[..., Node]) -> Node:
    return start_node()


@pytest.fixture(params=["here", "elsewhere"])
def nodes(request: pytest.FixtureRequest, start_node: Callable[..., Node]) -> tuple[Node, Node]:
    """Two nodes; or one, twice: what processes do to each other must not depend on it."""
    node = start_node()
    return (node, node) if request.param == "here" else (node, start_node())


def me() -> Process:
    process = current_process()
    assert process is not None
    return process


def find(node: Node, pid: Pid) -> Any:
    return node.signals.destinations.get(pid)


def arrived(here: Node, process: Process) -> None:
    """Wait until all that was sent from `here` to `process` has arrived."""
    here.send(process.pid, "arrived")
    assert process.receive(lambda m: m == "arrived", timeout=PATIENCE)


def assert_nothing_is_left(*nodes: Node) -> None:
    """Check that nodes whose processes have exited remember nothing of them."""
    for node in nodes:
        connections = [node._loopback, *node._table.connections()]

        def is_clean(node: Node = node, connections: list[Any] = connections) -> bool:
            signals = node.signals
            left: list[Any] = [
                signals._monitors,
                signals._abandoned,
                signals.aliases,
                {name for name in signals.names if name not in {"net_kernel", "rex"}},
                *(connection.monitors for connection in connections),
                *(connection.links for connection in connections),
                [d for d in signals.destinations.values() if isinstance(d, Process)],
            ]
            return not any(left)

        wait_until(is_clean)


# --- messages


def test_messages_keep_their_order(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with there.process() as inbox:
        for number in range(1000):
            here.send(inbox.pid, number)
        assert [inbox.receive(timeout=PATIENCE) for _ in range(1000)] == list(range(1000))


def test_what_is_sent_is_a_copy(node: Node) -> None:
    with node.process(name="inbox") as inbox:
        sent: list[Any] = [1, {"a": [2]}, (None, 1.5, b"\xff")]
        node.send("inbox", sent)
        received = inbox.receive(timeout=PATIENCE)
        assert received == sent
        assert received is not sent


def test_selective_receive_leaves_the_others_in_order(node: Node) -> None:
    with node.process() as inbox:
        for number in range(6):
            node.send(inbox.pid, number)
        assert inbox.receive(lambda n: n == 3, timeout=PATIENCE) == 3
        assert inbox.receive(lambda n: n % 2 == 1, timeout=PATIENCE) == 1
        assert [inbox.receive(timeout=PATIENCE) for _ in range(4)] == [0, 2, 4, 5]


def test_selective_receive_waits_for_what_it_wants(node: Node) -> None:
    with node.process() as inbox:
        node.send(inbox.pid, "not this")
        threading.Timer(0.05, node.send, (inbox.pid, "this")).start()
        assert inbox.receive(lambda m: m == "this", timeout=PATIENCE) == "this"
        assert inbox.receive(timeout=0) == "not this"


def test_a_message_that_match_fails_for_stays(node: Node) -> None:
    with node.process() as inbox:
        node.send(inbox.pid, "text")
        with pytest.raises(TypeError):
            inbox.receive(lambda m: m > 5, timeout=PATIENCE)
        assert inbox.receive(timeout=0) == "text"


def test_receive_gives_up_in_time(node: Node) -> None:
    with node.process() as inbox:
        with pytest.raises(ReceiveTimeoutError, match=r"within 0\.01 seconds"):
            inbox.receive(timeout=0.01)
        node.send(inbox.pid, 1)
        with pytest.raises(ReceiveTimeoutError):
            inbox.receive(lambda m: m == 2, timeout=0.01)
        assert inbox.receive(timeout=PATIENCE) == 1


def test_many_messages_that_nobody_wants_yet(node: Node) -> None:
    with node.process() as inbox:
        for number in range(5000):
            node.send(inbox.pid, number)
        looked_at = []

        def is_last(number: int) -> bool:
            looked_at.append(number)
            return number == 4999

        assert inbox.receive(is_last, timeout=PATIENCE) == 4999
        # Each is looked at once, however many come one by one.
        assert looked_at == list(range(5000))
        assert [inbox.receive(timeout=0) for _ in range(4999)] == list(range(4999))


def test_several_threads_receive_each_message_once(node: Node) -> None:
    received: SimpleQueue[int] = SimpleQueue()
    with node.process() as inbox:

        def take() -> None:
            while (number := inbox.receive(timeout=PATIENCE)) is not None:
                received.put(number)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in [*range(200), None, None, None, None]:
            node.send(inbox.pid, number)
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(received.get(timeout=0) for _ in range(200)) == list(range(200))


def test_two_threads_that_want_different_messages(node: Node) -> None:
    received: SimpleQueue[str] = SimpleQueue()
    with node.process() as inbox:
        threads = [
            threading.Thread(
                target=lambda w=wanted: received.put(
                    inbox.receive(lambda m: m == w, timeout=PATIENCE)
                )
            )
            for wanted in "ab"
        ]
        for thread in threads:
            thread.start()
        node.send(inbox.pid, "b")
        node.send(inbox.pid, "a")
        for thread in threads:
            thread.join(PATIENCE)
    assert {received.get(timeout=0), received.get(timeout=0)} == {"a", "b"}


def test_a_message_to_the_dead_and_to_another_incarnation_is_dropped(
    nodes: tuple[Node, Node],
) -> None:
    here, there = nodes
    with there.process() as dead:
        pass
    with there.process() as inbox:
        earlier = Pid(there.name, inbox.pid.id, inbox.pid.serial, there.creation - 1)
        here.send(dead.pid, "dead")
        here.send(earlier, "earlier")
        here.send("nobody" if here is there else ("nobody", there.name), "nobody")
        here.send(inbox.pid, "alive")
        assert inbox.receive(timeout=PATIENCE) == "alive"
        with pytest.raises(ReceiveTimeoutError):
            inbox.receive(timeout=0)


def test_an_exit_signal_to_another_incarnation_is_dropped(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with there.process() as inbox:
        here.exit(Pid(there.name, inbox.pid.id, inbox.pid.serial, there.creation - 1), KILL)
        here.send(inbox.pid, "alive")
        assert inbox.receive(timeout=PATIENCE) == "alive"


@pytest.mark.parametrize("to", [5, None, ("one",), (1, 2), object()])
def test_what_is_no_address(node: Node, to: Any) -> None:
    with pytest.raises(TypeError, match="is no process"):
        node.send(to, "message")


# --- exiting


def test_what_a_with_exits_with(node: Node) -> None:
    with node.process() as watcher:
        with node.process() as good:
            monitors = [watcher.monitor(good.pid)]
            arrived(node, good)
        with pytest.raises(ExitError), node.process() as bad:  # noqa: PT012
            monitors.append(watcher.monitor(bad.pid))
            arrived(node, bad)
            raise ExitError("enough", reason=("enough", 1))
        reasons = {}
        for _ in monitors:
            _, reference, _, _, reason = watcher.receive(timeout=PATIENCE)
            reasons[reference] = reason
    assert [reasons[monitor] for monitor in monitors] == [NORMAL, ("enough", 1)]
    assert (good.exit_reason, bad.exit_reason) == (NORMAL, ("enough", 1))
    assert not good.alive


def test_an_exit_reason_that_has_no_erlang_form(node: Node) -> None:
    with node.process() as watcher:
        process = node.process()
        watcher.monitor(process.pid)
        arrived(node, process)
        process.exit(object())
        *_, reason = watcher.receive(timeout=PATIENCE)
        assert "EncodeError" in str(reason)
        pid = node.spawn(lambda: me().exit(me().receive() and object()))
        watcher.monitor(pid)
        node.send(pid, "go")
        *_, reason = watcher.receive(timeout=PATIENCE)
        assert "EncodeError" in str(reason)


def test_a_function_that_fails_with_a_reason_that_cannot_travel(node: Node) -> None:
    def fail() -> None:
        me().receive()
        raise ExitError("", reason=object())

    with node.process() as watcher:
        pid = node.spawn(fail)
        watcher.monitor(pid)
        node.send(pid, "go")
        assert watcher.receive(timeout=PATIENCE)[0] == DOWN


def test_receiving_ends_with_the_process(node: Node) -> None:
    inbox = node.process()
    outcome: SimpleQueue[Any] = SimpleQueue()

    def take() -> None:
        try:
            inbox.receive(timeout=PATIENCE)
        except ExitError as error:
            outcome.put(error.reason)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    inbox.exit(BOOM)
    assert [outcome.get(timeout=PATIENCE) for _ in threads] == [BOOM] * 3
    for thread in threads:
        thread.join()
    # Messages that were there are gone, as in Erlang.
    with pytest.raises(ExitError, match="boom"):
        inbox.receive(timeout=0)


def test_a_process_exits_once(node: Node) -> None:
    with node.process() as watcher:
        process = node.process()
        watcher.monitor(process.pid)
        arrived(node, process)
        process.exit("first")
        process.exit("second")
        node.exit(process.pid, KILL)
        assert watcher.receive(timeout=PATIENCE)[4] == "first"
        assert process.exit_reason == "first"
        node.send(watcher.pid, "nothing else")
        assert watcher.receive(timeout=PATIENCE) == "nothing else"


@pytest.mark.parametrize(
    ("sent", "trap", "expected"),
    [
        (NORMAL, False, None),
        (NORMAL, True, (EXIT, NORMAL)),
        (SHUTDOWN, False, SHUTDOWN),
        (SHUTDOWN, True, (EXIT, SHUTDOWN)),
        (("any", [1]), False, ("any", [1])),
        (("any", [1]), True, (EXIT, ("any", [1]))),
        (KILL, False, KILLED),
        (KILL, True, KILLED),
        ("kill", True, (EXIT, "kill")),  # a binary
    ],
    ids=str,
)
def test_exit_signals(nodes: tuple[Node, Node], sent: Any, trap: bool, expected: Any) -> None:
    here, there = nodes
    with there.process() as target, here.process() as sender:
        target.trap_exit = trap
        sender.monitor(target.pid)
        here.exit(target.pid, sent)
        here.send(target.pid, "after")
        if expected is None:
            assert target.receive(timeout=PATIENCE) == "after"
        elif isinstance(expected, tuple) and expected[0] == EXIT:
            assert target.receive(timeout=PATIENCE) == (EXIT, here.self(), expected[1])
            assert target.receive(timeout=PATIENCE) == "after"
        else:
            assert sender.receive(timeout=PATIENCE)[4] == expected
            assert target.exit_reason == expected


def test_a_process_that_sends_itself_an_exit(node: Node) -> None:
    for reason in (NORMAL, BOOM):
        with node.process() as process:
            node.exit(process.pid, reason)
            with pytest.raises(ExitError) as caught:
                process.receive(timeout=PATIENCE)
            assert caught.value.reason == reason


def spin(ready: SimpleQueue[None]) -> None:
    ready.put(None)
    while True:
        pass


def sleep(ready: SimpleQueue[None]) -> None:
    ready.put(None)
    while True:
        time.sleep(0.01)


def receive(ready: SimpleQueue[None]) -> None:
    ready.put(None)
    me().receive(lambda _: False)


def call(ready: SimpleQueue[None]) -> None:
    ready.put(None)
    me().node.call("silent", 1, timeout=None)


async def wait_for_ever(ready: SimpleQueue[None]) -> None:
    ready.put(None)
    await asyncio.Event().wait()


@pytest.mark.parametrize("what", [spin, sleep, receive, call, wait_for_ever])
@pytest.mark.parametrize("reason", [KILL, SHUTDOWN], ids=str)
def test_whatever_a_process_does_it_can_be_stopped(
    node: Node, what: Callable[..., Any], reason: Atom
) -> None:
    ended: SimpleQueue[str] = SimpleQueue()

    def body(ready: SimpleQueue[None]) -> Any:
        try:
            return what(ready)
        finally:
            ended.put("ended")

    async def coroutine(ready: SimpleQueue[None]) -> None:
        try:
            await wait_for_ever(ready)
        finally:
            ended.put("ended")

    with node.process(name="silent"), node.process() as watcher:
        ready: SimpleQueue[None] = SimpleQueue()
        pid = node.spawn(coroutine if what is wait_for_ever else body, ready)
        watcher.monitor(pid)
        ready.get(timeout=PATIENCE)
        node.exit(pid, reason)
        assert watcher.receive(timeout=PATIENCE)[4] == (KILLED if reason == KILL else reason)
        assert ended.get(timeout=PATIENCE) == "ended"
    assert_nothing_is_left(node)


def test_a_process_that_was_killed_before_its_start_does_not_run(node: Node) -> None:
    # One thread, which is taken: the processes that another node asks for have to wait.
    ran: SimpleQueue[int] = SimpleQueue()
    process = Spawned(ran.put, (1,))
    task = node.attach(process)
    process.exit(KILLED)
    node.engine.run(task)
    with node.process() as watcher:
        watcher.monitor(node.spawn(ran.put, 2))
        watcher.receive(timeout=PATIENCE)
    assert ran.get(timeout=PATIENCE) == 2
    assert ran.empty()


def test_a_function_that_ignores_its_end(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caught: SimpleQueue[Any] = SimpleQueue()
    done = threading.Event()

    def stubborn() -> None:
        caught.put(threading.current_thread())
        try:
            me().receive()
        except BaseException as error:  # noqa: BLE001
            caught.put(error)
        # It is nobody any more.
        caught.put(node.self())
        try:
            me().receive(timeout=PATIENCE)
        except BaseException as error:  # noqa: BLE001
            caught.put(error)
        done.wait(PATIENCE)
        raise ValueError("too late")

    with node.process() as watcher:
        pid = node.spawn(stubborn)
        watcher.monitor(pid)
        thread = caught.get(timeout=PATIENCE)
        node.exit(pid, KILL)
        assert watcher.receive(timeout=PATIENCE)[4] == KILLED
        assert isinstance(caught.get(timeout=PATIENCE), CallInterrupted)
        assert caught.get(timeout=PATIENCE) not in {pid, watcher.pid}
        assert isinstance(caught.get(timeout=PATIENCE), CallInterrupted)
        done.set()
        wait_until(lambda: thread.task is None)
    assert "too late" not in caplog.text


def test_a_function_that_raises_what_only_we_should(node: Node) -> None:
    def odd() -> None:
        me().receive()
        raise CallInterrupted

    with node.process() as watcher:
        pid = node.spawn(odd)
        reference = watcher.monitor(pid)
        node.send(pid, "go")
        assert watcher.receive(timeout=PATIENCE)[:4] == (DOWN, reference, PROCESS, pid)


def test_a_function_that_ends_its_own_process(node: Node) -> None:
    after: SimpleQueue[str] = SimpleQueue()

    def body() -> None:
        me().receive()
        me().exit(BOOM)
        while True:
            time.sleep(0.001)
            after.put("still here") if after.qsize() < 3 else None

    with node.process() as watcher:
        pid = node.spawn(body)
        watcher.monitor(pid)
        node.send(pid, "go")
        assert watcher.receive(timeout=PATIENCE)[4] == BOOM
    assert after.qsize() <= 1


def test_an_exception_is_logged_and_an_exit_is_not(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(error: BaseException) -> None:
        me().receive()
        raise error

    with node.process() as watcher:
        for error in (ExitError("quietly", reason=BOOM), SystemExit(3), ValueError("loudly")):
            pid = node.spawn(fail, error)
            watcher.monitor(pid)
            node.send(pid, "go")
            watcher.receive(timeout=PATIENCE)
    assert "loudly" in caplog.text
    assert "quietly" not in caplog.text
    assert "SystemExit" not in caplog.text


# --- links


def test_a_link_works_both_ways(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    for first in (0, 1):
        a, b = here.process(), there.process()
        with a:
            a.link(b.pid)
            arrived(here, b)
        assert not a.alive  # normal: b lives on
        c = here.process()
        c.link(b.pid)
        arrived(here, b)
        pair = (c, b)
        pair[first].exit(BOOM)
        wait_until(lambda b=b, c=c: not (b.alive or c.alive))  # type: ignore[misc]
        assert pair[1 - first].exit_reason == BOOM
    assert_nothing_is_left(here, there)


def test_a_link_breaks_into_a_message_for_who_traps_exits(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with here.process() as a:
        a.trap_exit = True
        for reason in (NORMAL, KILL, SHUTDOWN, ("x", 1)):
            b = there.process()
            a.link(b.pid)
            arrived(here, b)
            b.exit(reason)
            # The reason kill of a link does not kill, nor is it "killed".
            assert a.receive(timeout=PATIENCE) == (EXIT, b.pid, reason)
    assert_nothing_is_left(here, there)


def test_a_link_to_nobody(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with there.process() as dead:
        pass
    with here.process() as a:
        a.trap_exit = True
        a.link(dead.pid)
        assert a.receive(timeout=PATIENCE) == (EXIT, dead.pid, NOPROC)
    with here.process() as b:
        b.link(dead.pid)
        with pytest.raises(ExitError) as caught:
            b.receive(timeout=PATIENCE)
        assert caught.value.reason == NOPROC
    assert_nothing_is_left(here, there)


def test_linking_twice_and_to_oneself_is_nothing(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with here.process() as a, there.process() as b:
        a.trap_exit = True
        a.link(a.pid)
        a.link(b.pid)
        a.link(b.pid)
        b.link(a.pid)
        arrived(here, b)
        b.exit(BOOM)
        assert a.receive(timeout=PATIENCE) == (EXIT, b.pid, BOOM)
        here.send(a.pid, "nothing else")
        assert a.receive(timeout=PATIENCE) == "nothing else"


def test_a_link_that_was_undone_does_nothing(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with here.process() as a:
        a.trap_exit = True
        for who in "ab" * 10:
            b = there.process()
            a.link(b.pid)
            arrived(here, b)
            if who == "a":
                a.unlink(b.pid)
            else:
                b.unlink(a.pid)
                arrived(there, a)
            b.exit(BOOM)
        here.send(a.pid, "nothing else")
        assert a.receive(timeout=PATIENCE) == "nothing else"
    assert_nothing_is_left(here, there)


def test_both_unlink_and_exit_at_once(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    for turn in range(100):
        a, b = here.process(), there.process()
        a.trap_exit = True
        a.link(b.pid)
        if turn % 2:
            arrived(here, b)
        other = threading.Thread(target=b.unlink if turn % 4 < 2 else b.exit, args=(a.pid,))
        other.start()
        a.unlink(b.pid)
        # From here on, nothing of that link may come.
        while len(a.mailbox):
            a.receive(timeout=0)
        other.join()
        b.exit(BOOM)
        here.send(a.pid, "nothing else")
        assert a.receive(timeout=PATIENCE) == "nothing else"
        a.exit()
    assert_nothing_is_left(here, there)


def test_linking_again_while_unlinking(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    for turn in range(100):
        a, b = here.process(), there.process()
        a.trap_exit = True
        a.link(b.pid)
        a.unlink(b.pid)
        if turn % 2:
            # Linked at the end, whatever has crossed whatever.
            a.link(b.pid)
        arrived(here, b)
        b.exit(BOOM)
        if turn % 2:
            assert a.receive(timeout=PATIENCE) == (EXIT, b.pid, BOOM)
        here.send(a.pid, "nothing else")
        assert a.receive(timeout=PATIENCE) == "nothing else"
        a.exit()
    assert_nothing_is_left(here, there)


def test_links_of_both_to_each_other_at_once_agree(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    for _ in range(50):
        a, b = here.process(), there.process()

        def churn(one: Process, other: Pid) -> None:
            for _ in range(5):
                one.link(other)
                one.unlink(other)

        threads = [
            threading.Thread(target=churn, args=(a, b.pid)),
            threading.Thread(target=churn, args=(b, a.pid)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        def agree(a: Process = a, b: Process = b) -> bool:
            waiting = [number for _, number in [*a._links.values(), *b._links.values()] if number]
            return not waiting and (b.pid in a._links) == (a.pid in b._links)

        wait_until(agree)
        a.exit()
        b.exit()
    assert_nothing_is_left(here, there)


# --- monitors


def test_a_monitor_by_pid_and_by_name(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with here.process() as watcher:
        b = there.process(name="target")
        one = watcher.monitor(b.pid)
        two = watcher.monitor(("target", there.name))
        three = watcher.monitor("target") if here is there else None
        arrived(here, b)
        b.exit(BOOM)
        expected = {
            (DOWN, one, PROCESS, b.pid, BOOM),
            (DOWN, two, PROCESS, (Atom("target"), there.name), BOOM),
        }
        if three is not None:
            expected.add((DOWN, three, PROCESS, (Atom("target"), there.name), BOOM))
        assert {watcher.receive(timeout=PATIENCE) for _ in expected} == expected
    assert_nothing_is_left(here, there)


def test_a_monitor_of_nobody(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with there.process() as dead:
        pass
    with here.process() as watcher:
        one = watcher.monitor(dead.pid)
        assert watcher.receive(timeout=PATIENCE) == (DOWN, one, PROCESS, dead.pid, NOPROC)
        two = watcher.monitor(("nobody", there.name))
        name = (Atom("nobody"), there.name)
        assert watcher.receive(timeout=PATIENCE) == (DOWN, two, PROCESS, name, NOPROC)
    assert_nothing_is_left(here, there)


def test_a_monitor_by_name_is_of_the_process_that_had_it(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with here.process() as watcher, there.process(name="target") as old:
        reference = watcher.monitor(("target", there.name))
        arrived(here, old)
        there.unregister("target")
        with there.process(name="target"):
            pass
        old.exit(BOOM)
        name = (Atom("target"), there.name)
        assert watcher.receive(timeout=PATIENCE) == (DOWN, reference, PROCESS, name, BOOM)


def test_several_monitors_of_one_process(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with here.process() as watcher:
        b = there.process()
        references = {watcher.monitor(b.pid) for _ in range(5)}
        gone = references.pop()
        assert watcher.demonitor(gone)
        arrived(here, b)
        b.exit()
        assert {watcher.receive(timeout=PATIENCE)[1] for _ in references} == references
        here.send(watcher.pid, "nothing else")
        assert watcher.receive(timeout=PATIENCE) == "nothing else"


def test_no_down_comes_after_demonitor(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with here.process() as watcher:
        fired = 0
        for _ in range(200):
            b = there.process()
            reference = watcher.monitor(b.pid)
            other = threading.Thread(target=b.exit, args=(BOOM,))
            other.start()
            fired += not watcher.demonitor(reference)
            assert not len(watcher.mailbox)
            other.join()
            assert not watcher.demonitor(reference)
        here.send(watcher.pid, "nothing else")
        assert watcher.receive(timeout=PATIENCE) == "nothing else"
    assert_nothing_is_left(here, there)


def test_a_demonitor_while_the_down_is_being_handled(
    nodes: tuple[Node, Node],
) -> None:
    here, there = nodes
    with here.process() as watcher:

        def demonitored_just_now(reason: Any) -> Any:
            watcher.demonitor(reference)
            return on_down(reason)

        with there.process() as b:
            reference = watcher.monitor(b.pid)
            monitor = here.signals._monitors[reference]
            assert monitor.on_down is not None
            on_down, monitor.on_down = monitor.on_down, demonitored_just_now
        wait_until(lambda: not here.signals._monitors)
        here.send(watcher.pid, "nothing else")
        assert watcher.receive(timeout=PATIENCE) == "nothing else"


def test_demonitor_takes_a_down_that_has_come(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with here.process() as watcher:
        b = there.process()
        reference = watcher.monitor(b.pid)
        here.send(watcher.pid, "before")
        b.exit()
        wait_until(lambda: len(watcher.mailbox) == 2)
        assert not watcher.demonitor(reference)
        assert watcher.receive(timeout=0) == "before"
        assert not len(watcher.mailbox)


def test_monitors_and_links_end_with_who_has_them(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with there.process() as b:
        with here.process() as a:
            a.monitor(b.pid)
            a.link(b.pid)
            arrived(here, b)
            assert b._watchers
            assert b._links
        wait_until(lambda: not b._watchers and not b._links)
        assert b.alive
    assert_nothing_is_left(here, there)


def test_a_process_that_exits_while_it_monitors(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    for _ in range(50):
        a, b = here.process(), there.process()
        other = threading.Thread(target=a.exit)
        other.start()
        try:
            a.monitor(b.pid)
            a.link(b.pid)
        except ExitError:
            pass
        other.join()
        arrived(here, b)
        # Nothing of the dead may be left with b, nor may b be held to a link to it.
        wait_until(lambda b=b: not b._watchers and not b._links)  # type: ignore[misc]
        b.exit()
    assert_nothing_is_left(here, there)


def test_a_process_that_exits_as_it_begins_to_monitor(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = nodes
    a, b = here.process(), there.process()
    ending = threading.Thread(target=a.exit)
    check_alive = a.check_alive

    def in_between() -> None:
        check_alive()
        ending.start()
        ending.join(0.1)  # it has to wait for its turn

    monkeypatch.setattr(a, "check_alive", in_between)
    a.monitor(b.pid)
    ending.join()
    assert not a.alive
    arrived(here, b)
    wait_until(lambda: not b._watchers)
    b.exit()
    assert_nothing_is_left(here, there)


def test_the_callback_of_a_monitor_without_a_process(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    reasons: SimpleQueue[Any] = SimpleQueue()
    b = there.process()
    here.monitor(b.pid, reasons.put)
    gone = here.monitor(b.pid, reasons.put)
    assert here.demonitor(gone)
    arrived(here, b)
    b.exit(BOOM)
    assert reasons.get(timeout=PATIENCE) == BOOM
    here.monitor(b.pid, reasons.put)
    assert reasons.get(timeout=PATIENCE) == NOPROC
    assert not here.demonitor(gone)
    assert_nothing_is_left(here, there)


def test_a_callback_that_fails_harms_nobody(
    nodes: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = nodes
    reasons: SimpleQueue[Any] = SimpleQueue()
    b = there.process()
    here.monitor(b.pid, lambda _: 1 / 0)
    here.monitor(b.pid, reasons.put)
    arrived(here, b)
    b.exit()
    assert reasons.get(timeout=PATIENCE) == NORMAL
    wait_until(lambda: "ZeroDivisionError" in caplog.text)


# --- many


@pytest.mark.slow
def test_many_processes_leave_nothing(node: Node) -> None:
    count = 1000
    with node.process() as watcher:
        pids = [node.spawn(lambda: me().receive()) for _ in range(count)]
        for pid in pids:
            watcher.monitor(pid)
        for number, pid in enumerate(pids):
            if number % 2:
                node.exit(pid, KILL)
            else:
                node.send(pid, "go")
        downs = {(m[3], m[4]) for m in (watcher.receive(timeout=PATIENCE) for _ in pids)}
        assert downs == {(pid, KILLED if n % 2 else NORMAL) for n, pid in enumerate(pids)}
    assert_nothing_is_left(node)


# --- who one is


def test_current_process(node: Node, start_node: Callable[..., Node]) -> None:
    assert current_process() is None
    nobody = node.self()
    with node.process() as outer:
        assert current_process() is outer
        assert node.self() == outer.pid
        with node.process() as inner:
            assert current_process() is inner
            assert node.self() == inner.pid
            # On another node it is nobody.
            assert start_node().self().node != node.name
        assert current_process() is outer
        outer.exit()
        assert node.self() == nobody
    assert current_process() is None
    assert node.self() == nobody


def test_a_thread_of_ones_own_is_nobody_unless_told(node: Node) -> None:
    seen: SimpleQueue[Any] = SimpleQueue()
    with node.process() as process:
        threads = [
            threading.Thread(target=lambda: seen.put(current_process())),
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(lambda: seen.put(current_process()),),
            ),
        ]
        for thread in threads:
            thread.start()
            thread.join()
        assert [seen.get(), seen.get()] == [None, process]


def test_tasks_of_asyncio_are_the_process_that_began_them(node: Node) -> None:
    async def main() -> None:
        async def who() -> Process | None:
            await asyncio.sleep(0)
            return current_process()

        with node.process() as process:
            first = asyncio.create_task(who())
            with node.process() as other:
                second = asyncio.create_task(who())
                assert [await first, await second] == [process, other]
        assert await asyncio.create_task(who()) is None

    asyncio.run(main())


def test_a_spawned_function_is_its_process(node: Node) -> None:
    with node.process() as parent:

        def child(answer: str) -> None:
            node.send(parent.pid, (answer, node.self(), me().pid))

        async def async_child(answer: str) -> None:
            await asyncio.sleep(0)
            child(answer)

        for function in (child, async_child):
            pid = node.spawn(function, answer="hello")
            assert parent.receive(timeout=PATIENCE) == ("hello", pid, pid)


# --- names


def test_names(node: Node) -> None:
    assert node.whereis("name") is None
    with node.process(name="name") as process:
        assert node.whereis("name") == process.pid
        with pytest.raises(ValueError, match="'name' is registered already"):
            node.process(name="name")
        with pytest.raises(ValueError, match="unregister that first"):
            node.register("other", process)
        node.unregister("name")
        assert node.whereis("name") is None
        node.register("other", process)
        node.send("other", 1)
        assert process.receive(timeout=PATIENCE) == 1
    assert node.whereis("other") is None
    with pytest.raises(ValueError, match="Nothing is registered as 'other'"):
        node.unregister("other")
    with pytest.raises(ValueError, match="no living process"):
        node.register("late", process)
    with pytest.raises(ValueError, match="no living process"):
        node.register("late", process.pid)
    assert node.whereis("late") is None
    pid = node.spawn(lambda: me().receive())
    node.register("spawned", pid)
    assert node.whereis("spawned") == pid
    node.send("spawned", "end")
    wait_until(lambda: node.whereis("spawned") is None)
    assert_nothing_is_left(node)


def test_a_name_that_is_taken_starts_nothing(node: Node) -> None:
    before = len(node.signals.destinations)
    with pytest.raises(ValueError, match="registered already"):
        node.process(name="net_kernel")
    assert len(node.signals.destinations) == before


def test_messages_may_come_as_soon_as_there_is_a_name(start_node: Callable[..., Node]) -> None:
    here, there = start_node(), start_node()
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            here.send(("target", there.name), 1)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(200):
            with there.process(name="target") as process:
                assert process.receive(timeout=PATIENCE) == 1
    finally:
        stop.set()
        thread.join()
    assert there.connection(here.name)


# --- nodes that come and go


def test_the_loss_of_a_node_ends_links_and_monitors_once(start_node: Callable[..., Node]) -> None:
    here = start_node()
    with here.process() as process:
        process.trap_exit = True
        for _ in range(20):
            there = start_node()
            other = there.process()
            reference = process.monitor(other.pid)
            process.link(other.pid)
            other.monitor(process.pid)
            # The exit of the process and the end of the connection race each other.
            threads = [
                threading.Thread(target=other.exit, args=(BOOM,)),
                threading.Thread(target=here.disconnect, args=(there.name,)),
                threading.Thread(target=there.disconnect, args=(here.name,)),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            messages = [process.receive(timeout=PATIENCE) for _ in range(2)]
            kinds = sorted(message[0] for message in messages)
            assert kinds == [DOWN, EXIT]
            assert all(message[-1] in {BOOM, NOCONNECTION, NOPROC} for message in messages)
            assert reference in [message[1] for message in messages]
            here.send(process.pid, "nothing else")
            assert process.receive(timeout=PATIENCE) == "nothing else"
            assert here.ping(there.name)
            assert not process._links
            there.stop()
    assert_nothing_is_left(here)


def test_what_is_asked_of_a_node_that_goes_at_that_moment(start_node: Callable[..., Node]) -> None:
    here, there = start_node(), start_node()
    with there.process() as other, here.process() as process:
        process.trap_exit = True
        for _ in range(100):
            here.connect(there.name)
            closing = threading.Thread(target=here.disconnect, args=(there.name,))
            closing.start()
            reference = process.monitor(other.pid)
            process.link(other.pid)
            closing.join()
            here.disconnect(there.name)
            messages = {process.receive(timeout=PATIENCE)[0] for _ in range(2)}
            assert messages == {DOWN, EXIT}
            assert not process.demonitor(reference)
            assert not process._links
            wait_until(lambda: not other._links and not other._watchers)


class ClosesFirst(dict[Any, Any]):
    """The monitors of a connection that is lost just before one is added."""

    connection: Any

    def __setitem__(self, key: Any, value: Any) -> None:
        self.connection.close("now")
        super().__setitem__(key, value)


class ClosesFirstSet(set[Any]):
    """As `ClosesFirst`, for links."""

    connection: Any

    def add(self, item: Any) -> None:
        self.connection.close("now")
        super().add(item)


def test_a_connection_that_is_lost_before_a_link_is_noted(start_node: Callable[..., Node]) -> None:
    here, there = start_node(), start_node()
    with here.process() as a, there.process() as b:
        a.trap_exit = b.trap_exit = True
        for one, other in ((a, b), (b, a)):
            assert here.ping(there.name)
            connection = one.node.ready(other.node.name)
            connection.links = ClosesFirstSet()
            connection.links.connection = connection
            a.link(b.pid)  # from here, and then from there
            assert a.receive(timeout=PATIENCE) == (EXIT, b.pid, NOCONNECTION)
            wait_until(lambda: not a._links and not b._links)
            while len(b.mailbox):
                b.receive(timeout=0)


def test_a_connection_that_is_lost_before_a_monitor_is_noted(
    start_node: Callable[..., Node],
) -> None:
    here, there = start_node(), start_node()
    with here.process() as a, there.process() as b:
        assert here.ping(there.name)
        connection = there.ready(here.name)
        connection.monitors = ClosesFirst()
        connection.monitors.connection = connection
        reference = a.monitor(b.pid)
        assert a.receive(timeout=PATIENCE) == (DOWN, reference, PROCESS, b.pid, NOCONNECTION)
        wait_until(lambda: not b._watchers)


def test_the_end_of_a_node_is_the_end_of_its_processes(start_node: Callable[..., Node]) -> None:
    here, there = start_node(), start_node()
    with here.process() as process:
        process.trap_exit = True
        b = there.process()
        reference = process.monitor(b.pid)
        process.link(b.pid)
        arrived(here, b)
        there.stop()
        messages = {process.receive(timeout=PATIENCE) for _ in range(2)}
        # They are told before the connection ends.
        assert messages == {
            (DOWN, reference, PROCESS, b.pid, SHUTDOWN),
            (EXIT, b.pid, SHUTDOWN),
        }
        with pytest.raises(ExitError, match="shutdown"):
            b.receive(timeout=PATIENCE)


def test_monitor_nodes(start_node: Callable[..., Node]) -> None:
    here, there = start_node(), start_node()
    with here.process() as process:
        process.monitor_nodes()
        here.connect(there.name)
        assert process.receive(timeout=PATIENCE) == (Atom("nodeup"), there.name)
        here.disconnect(there.name)
        assert process.receive(timeout=PATIENCE) == (Atom("nodedown"), there.name)
        process.monitor_nodes(False)
        here.connect(there.name)
        here.send(process.pid, "nothing else")
        assert process.receive(timeout=PATIENCE) == "nothing else"
    process.exit()
    assert not here._subscribers


def test_node_events_by_callback_come_in_order(start_node: Callable[..., Node]) -> None:
    here, there = start_node(), start_node()
    events: SimpleQueue[tuple[str, str]] = SimpleQueue()

    def callback(event: str, name: str) -> None:
        time.sleep(0.005)  # it may take its time
        events.put((event, name))

    unsubscribe = here.monitor_nodes(callback)
    for _ in range(5):
        here.connect(there.name)
        here.disconnect(there.name)
        wait_until(lambda: not there.nodes())
    expected = [("nodeup", there.name), ("nodedown", there.name)] * 5
    assert [events.get(timeout=PATIENCE) for _ in expected] == expected
    unsubscribe()
    here.connect(there.name)
    here.disconnect(there.name)
    assert not here._subscribers


# --- the life of a node


def test_a_node_that_does_not_run_says_so(cookie: str, small_epmd: int) -> None:
    node = Node("py@127.0.0.1", cookie=cookie)
    for use in (
        lambda: node.ping("other@127.0.0.1"),
        lambda: node.send("name", 1),
        lambda: node.call("name", 1),
        node.process,
        lambda: node.spawn(print),
    ):
        with pytest.raises(NodeUnavailableError, match="was not started"):
            use()


def test_a_node_that_was_stopped_says_so(start_node: Callable[..., Node]) -> None:
    node = start_node()
    process = node.process()
    node.stop()
    node.stop()
    for use in (
        lambda: node.ping("other@127.0.0.1"),
        lambda: node.send("name", 1),
        lambda: node.call("name", 1, timeout=None),
        lambda: node.call(process.pid, 1, timeout=None),
        node.process,
        lambda: node.spawn(print),
        lambda: node.add(Process()),
    ):
        with pytest.raises(NodeUnavailableError, match="was stopped"):
            use()
    with pytest.raises(RuntimeError, match="make a new Node"):
        node.start()
    with pytest.raises(RuntimeError, match="make a new Node"):
        start_node().start()


def test_a_node_can_be_stopped_from_a_process_of_it(start_node: Callable[..., Node]) -> None:
    node, watcher_node = start_node(), start_node()
    with watcher_node.process() as watcher:

        def stop() -> None:
            me().receive()
            node.stop()

        pid = node.spawn(stop)
        watcher.monitor(pid)
        watcher_node.send(pid, "go")
        assert watcher.receive(timeout=PATIENCE)[4] == SHUTDOWN
        wait_until(lambda: watcher_node.nodes() == [])
