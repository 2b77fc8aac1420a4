"""GenServers in one node: handlers, their outcomes, how servers start and end."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import threading
import weakref
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from pynode import (
    Atom,
    CallTimeoutError,
    EncodeError,
    ExitError,
    From,
    GenServer,
    Node,
    NoReply,
    Pid,
    Reply,
    Stop,
    config,
    current_process,
    to_term,
)
from pynode.gen_server.showing import as_text, showable
from pynode.gen_server.timeouts import Timeout
from pynode.testing import wait_until
from pynode.values import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode import Process

PATIENCE = 10.0
NORMAL, SHUTDOWN, KILL, KILLED = map(Atom, ("normal", "shutdown", "kill", "killed"))
DOWN, EXIT, TIMEOUT = map(Atom, ("DOWN", "EXIT", "timeout"))


class Probe(GenServer):
    """Does what it is asked to, and tells what it has seen."""

    def __init__(self, start: Callable[[Probe], Any] = lambda _: None) -> None:
        self.start = start
        self.seen: SimpleQueue[Any] = SimpleQueue()

    def init(self) -> Any:
        return self.start(self)

    def handle_call(self, request: Any, from_: From) -> Any:
        action = ACTIONS.pop(request, None) if type(request) is str else None
        if action is None:
            self.seen.put(("call", request))
            return request
        return action(self, from_)

    def handle_cast(self, request: Any) -> Any:
        action = ACTIONS.pop(request, None) if type(request) is str else None
        if action is not None:
            return action(self, None)
        self.seen.put(("cast", request))
        return None

    def handle_info(self, message: Any) -> Any:
        self.seen.put(("info", message))

    def handle_continue(self, argument: Any) -> Any:
        self.seen.put(("continue", argument))
        return argument(self) if callable(argument) else None

    def terminate(self, reason: Any) -> Any:
        self.seen.put(("terminate", reason))

    def next(self) -> Any:
        return self.seen.get(timeout=PATIENCE)

    def sees_nothing_more(self) -> bool:
        try:
            return not self.seen.get_nowait()
        except Empty:
            return True


#: What a Probe does when it is asked for the key.
ACTIONS: dict[str, Callable[[Any, Any], Any]] = {}


def doing(action: Callable[[Any, Any], Any]) -> str:
    """Return a request for a Probe to run ``action(probe, from_)``."""
    key = secrets.token_hex(8)
    ACTIONS[key] = action
    return key


def raising(error: BaseException) -> Callable[..., Any]:
    def raises(*_: object) -> Any:
        raise error

    return raises


@pytest.fixture
def node() -> Iterator[Node]:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie="c", epmd=False) as node:
        yield node


@pytest.fixture
def probe(node: Node) -> Probe:
    probe = Probe()
    node.add(probe)
    return probe


@pytest.fixture
def me(node: Node) -> Iterator[Process]:
    with node.process() as me:
        yield me


def down_of(me: Process, pid: Pid) -> Any:
    """Return the exit reason of a process that is or will be down."""
    reference = me.monitor(pid)
    return me.receive(lambda m: m[:2] == (DOWN, reference), timeout=PATIENCE)[4]


class Gate:
    """Lets a handler tell that it runs, and wait until it may go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, *_: object) -> None:
        self.entered.set()
        assert self.opened.wait(PATIENCE)

    def wait(self) -> None:
        assert self.entered.wait(PATIENCE)

    def open(self) -> None:
        self.opened.set()


# --- calls, casts, messages


def test_a_call_by_pid_by_name_and_by_name_and_node(node: Node) -> None:
    probe = Probe()
    node.add(probe, name="probe")
    assert node.call(probe.pid, ("x", 1)) == ("x", 1)
    assert node.call("probe", [2]) == [2]
    assert node.call(("probe", node.name), None) is None


def test_casts_and_messages(node: Node, probe: Probe) -> None:
    node.cast(probe.pid, ("x", 1))
    node.send(probe.pid, [1, 2])
    assert probe.next() == ("cast", ("x", 1))
    assert probe.next() == ("info", [1, 2])


def test_one_sender_keeps_its_order(node: Node, probe: Probe) -> None:
    for number in range(300):
        node.cast(probe.pid, number)
        if number % 3 == 0:
            node.call(probe.pid, number)
    expected = [("cast", n) for n in range(300)]
    seen = [probe.next() for _ in range(400)]
    assert [event for event in seen if event[0] == "cast"] == expected
    for number in range(0, 300, 3):
        assert seen.index(("call", number)) == seen.index(("cast", number)) + 1


def test_the_process_of_a_handler(node: Node, probe: Probe) -> None:
    def check(server: Probe, from_: From) -> Any:
        process = current_process()
        assert process is not None
        with pytest.raises(TypeError, match="handle_info"):
            process.receive()
        return (process.pid, node.self(), server.pid, server.node.name, from_.pid)

    pids = node.call(probe.pid, doing(check))
    assert pids[:3] == (probe.pid,) * 3
    assert pids[3:] == (node.name, node.self())
    assert repr(probe) == f"<Probe {probe.pid}>"


def test_from_is_what_it_is_in_erlang(node: Node, probe: Probe) -> None:
    def check(_: Probe, from_: From) -> Any:
        assert from_ in {from_: 1}
        assert to_term(from_) == (from_.pid, from_.tag)
        node.cast(probe.pid, from_)
        return NoReply()

    pending = node.send_request(probe.pid, doing(check))
    kind, (pid, tag) = probe.next()
    assert kind == "cast"
    probe.reply(From(pid, tag), "later")
    assert pending.result(PATIENCE) == "later"


def test_a_reply_comes_later_from_any_thread(node: Node, probe: Probe) -> None:
    def later(server: Probe, from_: From) -> Any:
        threading.Thread(target=server.reply, args=(from_, "later")).start()
        return NoReply()

    assert node.call(probe.pid, doing(later), timeout=PATIENCE) == "later"


def test_a_reply_that_nobody_waits_for(node: Node, probe: Probe) -> None:
    froms: list[From] = []

    def keep(_: Probe, from_: From) -> Any:
        froms.append(from_)
        return NoReply()

    with pytest.raises(CallTimeoutError):
        node.call(probe.pid, doing(keep), timeout=0.01)
    probe.reply(froms[0], "too late")
    with pytest.raises(EncodeError):
        probe.reply(froms[0], object())
    probe.reply(From(Pid(Atom("nobody@127.0.0.1"), 1, 0, 1), 7), "to nobody")
    assert node.call(probe.pid, "still here") == "still here"


def test_ten_thousand_calls_at_once(node: Node) -> None:
    class Sum(GenServer):
        def __init__(self) -> None:
            self.value = 0

        def handle_call(self, request: Any, _from: From) -> Any:
            self.value += request
            return self.value

    server = Sum()
    node.add(server)
    requests = [node.send_request(server.pid, 1) for _ in range(10_000)]
    assert [request.result(PATIENCE) for request in requests] == list(range(1, 10_001))


def test_nothing_is_kept_of_a_call_that_is_over(node: Node) -> None:
    class Value:
        def __init__(self, number: int) -> None:
            self.number = number

    alive: weakref.WeakSet[Value] = weakref.WeakSet()
    to_term.register(Value, lambda value: value.number)

    class Server(GenServer):
        def handle_call(self, request: Any, _from: From) -> Any:
            value = Value(request)
            alive.add(value)
            return value

    server = Server()
    node.add(server)
    for number in range(200):
        assert node.call(server.pid, number) == number
    # The threads that have run the last ones may still be on their way out.
    wait_until(lambda: gc.collect() >= 0 and not alive)
    assert not node.signals.aliases


def test_one_message_at_a_time(node: Node, probe: Probe) -> None:
    gate = Gate()
    node.cast(probe.pid, doing(gate))
    gate.wait()
    node.cast(probe.pid, 1)
    pending = node.send_request(probe.pid, 2)
    assert not pending.done
    assert probe.sees_nothing_more()
    gate.open()
    assert pending.result(PATIENCE) == 2
    assert [probe.next(), probe.next()] == [("cast", 1), ("call", 2)]


def test_no_message_comes_while_a_handler_waits_for_a_call(node: Node, probe: Probe) -> None:
    gate, other = Gate(), Probe()
    node.add(other)

    def call(_: Probe, __: object) -> Any:
        answer = node.call(other.pid, doing(gate), timeout=PATIENCE)
        return (answer, probe.sees_nothing_more())

    pending = node.send_request(probe.pid, doing(call))
    gate.wait()
    node.cast(probe.pid, "meanwhile")
    gate.open()
    assert pending.result(PATIENCE) == (None, True)
    assert probe.next() == ("cast", "meanwhile")


def test_a_server_that_blocks_does_not_block_others(node: Node) -> None:
    gates = [Gate() for _ in range(20)]
    for gate in gates:
        blocked = Probe()
        node.add(blocked)
        node.cast(blocked.pid, doing(gate))
    for gate in gates:
        gate.wait()
    free = Probe()
    node.add(free)
    assert node.call(free.pid, "hello") == "hello"
    for gate in gates:
        gate.open()


def test_attributes_of_all_names_belong_to_the_user(node: Node) -> None:
    class Named(GenServer):
        def __init__(self) -> None:
            self.name = "bob"
            self._lock = self._links = self._monitors = self.mailbox = self.alive = "mine"

        def handle_call(self, _request: Any, _from: From) -> Any:
            return (self.name, self._lock, self._links, self._monitors, self.mailbox, self.alive)

    server = Named()
    node.add(server, name="named")
    assert node.call("named", 0) == ("bob", *["mine"] * 5)
    server.stop()
    assert node.whereis("named") is None
    assert node.whereis("bob") is None


def test_a_dataclass_may_be_a_server(node: Node) -> None:
    @dataclass
    class Items(GenServer):
        items: list[int] = field(default_factory=list)

        def handle_call(self, request: Any, _from: From) -> Any:
            self.items.append(request)
            return self.items

    server = Items([1])
    node.add(server)
    assert node.call(server.pid, 2) == [1, 2]
    assert server.get_state() == {"items": [1, 2]}


def test_a_server_gets_a_name_later(node: Node, probe: Probe) -> None:
    node.register("probe", probe)
    assert node.call("probe", 1) == 1
    node.unregister("probe")
    node.register("again", probe.pid)
    assert node.call("again", 2) == 2


# --- the start


def test_init_runs_as_the_process_before_any_message(node: Node) -> None:
    gate, probe = Gate(), Probe()

    def start(_: Probe) -> None:
        assert node.self() == probe.pid
        assert node.whereis("probe") == probe.pid
        gate()

    probe.start = start
    adding = threading.Thread(target=node.add, args=(probe,), kwargs={"name": "probe"})
    adding.start()
    gate.wait()
    for number in range(10):
        node.cast("probe", number)
    pending = node.send_request("probe", 10)
    gate.open()
    assert pending.result(PATIENCE) == 10
    adding.join(PATIENCE)
    assert [probe.next()[1] for _ in range(11)] == list(range(11))


def test_add_raises_what_init_raises(node: Node, me: Process) -> None:
    class BrokenError(Exception):
        pass

    pids: list[Pid] = []

    def fail(probe: Probe) -> None:
        pids.append(probe.pid)
        raise BrokenError

    probe = Probe(fail)
    with pytest.raises(BrokenError):
        node.add(probe, name="probe")
    assert node.whereis("probe") is None
    assert down_of(me, pids[0]) == Atom("noproc")
    assert probe.sees_nothing_more()  # no terminate
    node.add(Probe(), name="probe")


@pytest.mark.parametrize("how", [lambda stop: stop, lambda stop: raising(stop)()])
def test_init_may_stop(node: Node, how: Callable[[Stop], Any]) -> None:
    with pytest.raises(ExitError, match=r"was not started: .*disk") as caught:
        node.add(Probe(lambda _: how(Stop((Atom("shutdown"), "no disk")))))
    assert caught.value.reason == (Atom("shutdown"), "no disk")


def test_init_returns_nothing_else(node: Node) -> None:
    with pytest.raises(TypeError, match="NoReply"):
        node.add(Probe(lambda _: 5))


def test_init_may_continue(node: Node) -> None:
    gate = Gate()
    probe = Probe(lambda _: NoReply(continue_=gate))
    probe.handle_continue = lambda argument: argument()  # type: ignore[method-assign]
    node.add(probe)  # it does not wait for what continues
    pending = node.send_request(probe.pid, 1)
    gate.wait()
    assert not pending.done
    gate.open()
    assert pending.result(PATIENCE) == 1


def test_servers_that_are_added_before_the_start() -> None:
    node = Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie="c", epmd=False)
    second = Probe()
    first = Probe(lambda _: node.cast("second", "hello"))
    node.add(first, name="first")
    node.add(second, name="second")
    with pytest.raises(RuntimeError, match="not been started"):
        _ = first.pid
    with node:
        assert second.next() == ("cast", "hello")
        assert node.call("first", 1) == 1


def test_a_failed_init_keeps_the_node_from_starting() -> None:
    node = Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie="c", epmd=False)
    node.add(Probe(raising(ZeroDivisionError())))
    with pytest.raises(ZeroDivisionError):
        node.start()


def test_a_server_starts_once(node: Node, probe: Probe) -> None:
    with pytest.raises(ValueError, match="another object"):
        node.add(probe)
    assert node.call(probe.pid, 1) == 1


def test_a_server_that_is_killed_in_init(node: Node) -> None:
    probe = Probe()

    def start(_: Probe) -> None:
        node.exit(probe.pid, KILL)
        Gate()()

    probe.start = start
    with pytest.raises(ExitError) as caught:
        node.add(probe)
    assert caught.value.reason == KILLED


# --- what handlers return


def test_a_reply_and_then(node: Node, probe: Probe) -> None:
    gate = Gate()
    request = doing(lambda *_: Reply("now", continue_=lambda _: gate()))
    assert node.call(probe.pid, request) == "now"  # before what continues is done
    gate.wait()
    pending = node.send_request(probe.pid, 1)
    gate.open()
    assert pending.result(PATIENCE) == 1
    assert probe.next()[0] == "continue"


def test_continuing_more_than_once(node: Node, probe: Probe) -> None:
    third = NoReply(continue_=3)
    first = NoReply(continue_=lambda _: NoReply(continue_=lambda _: third))
    node.cast(probe.pid, doing(lambda *_: first))
    node.cast(probe.pid, "then")
    assert [probe.next()[0] for _ in range(4)] == ["continue", "continue", "continue", "cast"]


def test_a_timeout(node: Node, probe: Probe) -> None:
    assert node.call(probe.pid, doing(lambda *_: Reply(1, timeout=0.01))) == 1
    assert probe.next() == ("info", TIMEOUT)
    node.cast(probe.pid, doing(lambda *_: NoReply(timeout=0)))
    assert probe.next() == ("info", TIMEOUT)
    assert node.call(probe.pid, 1) == 1
    assert [probe.next(), probe.sees_nothing_more()] == [("call", 1), True]


def test_a_message_ends_a_timeout(node: Node, probe: Probe) -> None:
    gate = Gate()

    def block(*_: object) -> Any:
        gate()
        return NoReply(timeout=0)

    node.cast(probe.pid, doing(block))
    gate.wait()
    node.cast(probe.pid, "first")
    gate.open()
    assert probe.next() == ("cast", "first")
    # What would be the end of the timeout has been there for a while.
    done = threading.Event()
    node.engine.submit(done.set)
    assert done.wait(PATIENCE)
    assert node.call(probe.pid, 1) == 1
    assert [probe.next(), probe.sees_nothing_more()] == [("call", 1), True]


def test_timeouts_that_are_none() -> None:
    for wrong in (-1, float("nan"), float("inf"), 5e6):
        with pytest.raises(ValueError, match="seconds"):
            NoReply(timeout=wrong)
    with pytest.raises(ValueError, match="either"):
        Reply(1, timeout=1, continue_=2)
    assert Reply(1) == Reply(1)


class FakeEngine:
    """Timers that fire when they are told to."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        self.timers.append((seconds, function))

    def fire_next(self) -> None:
        self.timers.sort(key=lambda timer: timer[0])
        self.timers.pop(0)[1]()


class Expiring:
    def __init__(self) -> None:
        self.expired = 0
        self.timeout = Timeout(self.expire)

    def expire(self) -> None:
        self.expired += 1


def test_few_timers_are_pending_whatever_the_timeouts() -> None:
    engine: Any = FakeEngine()
    expiring = Expiring()
    for _ in range(1_000):
        for seconds in (3_000, 1_000, 2_000, 10):
            expiring.timeout.set(engine, seconds)
            expiring.timeout.clear()
    assert len(engine.timers) == 3
    expiring.timeout.set(engine, 500)
    engine.fire_next()  # of the 10 seconds: too soon
    assert expiring.expired == 0
    assert len(engine.timers) == 3
    expiring.timeout.set(engine, 0)
    assert expiring.expired == 1
    gone = weakref.ref(expiring)
    del expiring
    assert gone() is None
    engine.fire_next()


# --- the end


def test_stop_is_returned_or_raised(node: Node, me: Process) -> None:
    for how in (lambda stop: stop, lambda stop: raising(stop)()):
        for send in (node.cast, node.send_request):
            probe = Probe()
            node.add(probe)
            reference = me.monitor(probe.pid)
            reason = (SHUTDOWN, "done")
            send(probe.pid, doing(lambda *_, how=how, reason=reason: how(Stop(reason))))
            assert me.receive(timeout=PATIENCE)[1::3] == (reference, reason)
            assert probe.next() == ("terminate", reason)


def test_stop_with_a_reply(node: Node, probe: Probe, me: Process) -> None:
    reference = me.monitor(probe.pid)
    assert node.call(probe.pid, doing(lambda *_: Stop(reply="bye"))) == "bye"
    assert me.receive(timeout=PATIENCE)[1::3] == (reference, NORMAL)
    assert probe.next() == ("terminate", NORMAL)


def test_stop_while_a_caller_waits(node: Node, probe: Probe) -> None:
    with pytest.raises(ExitError) as caught:
        node.call(probe.pid, doing(lambda *_: Stop(SHUTDOWN)))
    assert caught.value.reason == SHUTDOWN


@pytest.mark.parametrize("regular", [NORMAL, SHUTDOWN, (SHUTDOWN, 1)])
def test_a_regular_end_is_not_logged(
    node: Node, probe: Probe, regular: Any, caplog: pytest.LogCaptureFixture
) -> None:
    probe.stop(regular)
    assert probe.next() == ("terminate", regular)
    assert not caplog.records


def test_an_exception_ends_the_server(
    node: Node, me: Process, caplog: pytest.LogCaptureFixture
) -> None:
    probe = Probe()
    node.add(probe, name="probe")
    reference = me.monitor(probe.pid)
    with pytest.raises(ExitError) as caught:
        node.call(probe.pid, doing(raising(LookupError("on purpose"))))
    reason = caught.value.reason
    assert "on purpose" in str(reason)
    assert me.receive(timeout=PATIENCE)[1::3] == (reference, reason)
    assert probe.next() == ("terminate", reason)
    [record] = [r for r in caplog.records if r.levelno >= logging.WARNING]
    message = record.getMessage()
    assert f"<Probe probe {probe.pid}> exits: LookupError: on purpose" in message
    assert str(me.pid) in message
    assert record.exc_info is not None
    assert node.whereis("probe") is None


@pytest.mark.parametrize("kind", ["cast", "info", "continue", "call"])
def test_every_handler_may_raise(node: Node, me: Process, kind: str) -> None:
    probe = Probe()
    node.add(probe)
    name = f"handle_{kind}"
    setattr(probe, name, raising(LookupError(name)))
    reference = me.monitor(probe.pid)
    match kind:
        case "cast":
            node.cast(probe.pid, 1)
        case "info":
            node.send(probe.pid, 1)
        case "continue":
            node.cast(probe.pid, doing(lambda *_: NoReply(continue_=1)))
        case "call":
            with pytest.raises(ExitError):
                node.call(probe.pid, 1)
    _, found, _, _, reason = me.receive(timeout=PATIENCE)
    assert found == reference
    assert f"handle_{kind}" in str(reason)


def test_an_exit_error_is_its_reason(node: Node, probe: Probe, me: Process) -> None:
    reference = me.monitor(probe.pid)
    node.cast(probe.pid, doing(raising(ExitError("on purpose", reason=Atom("why")))))
    assert me.receive(timeout=PATIENCE)[1::3] == (reference, Atom("why"))
    other = Probe()
    node.add(other)
    node.cast(other.pid, doing(raising(SystemExit())))
    assert other.next() == ("terminate", NORMAL)


def test_what_terminate_raises_is_the_reason(node: Node, probe: Probe) -> None:
    probe.terminate = raising(LookupError("in terminate"))  # type: ignore[method-assign]
    with pytest.raises(ExitError) as caught:
        node.call(probe.pid, doing(lambda *_: Stop()))
    assert "in terminate" in str(caught.value.reason)


def test_an_exception_that_cannot_be_shown(node: Node, probe: Probe, me: Process) -> None:
    class UnshowableError(Exception):
        def __str__(self) -> str:
            raise ValueError("never")

        __repr__ = __str__

    reference = me.monitor(probe.pid)
    node.cast(probe.pid, doing(raising(UnshowableError())))
    assert me.receive(timeout=PATIENCE)[1] == reference


def test_a_reply_without_an_erlang_form(node: Node, me: Process) -> None:
    for outcome in (object(), Reply(object()), Stop(reply=object())):
        probe = Probe()
        node.add(probe)
        with pytest.raises(ExitError) as caught:
            node.call(probe.pid, doing(lambda *_, outcome=outcome: outcome))
        reason = caught.value.reason
        assert "handle_call of Probe has returned what cannot be sent" in str(reason)
        assert probe.next() == ("terminate", reason)


def test_a_reason_without_an_erlang_form(node: Node, probe: Probe, me: Process) -> None:
    reference = me.monitor(probe.pid)
    node.cast(probe.pid, doing(lambda *_: Stop(object())))
    _, found, _, _, reason = me.receive(timeout=PATIENCE)
    assert (found, "no Erlang form" in str(reason)) == (reference, True)


@pytest.mark.parametrize("value", [1, Reply(1), NoReply, object(), ("noreply", 1)])
def test_a_cast_has_no_reply(node: Node, me: Process, value: Any) -> None:
    probe = Probe()
    node.add(probe)
    reference = me.monitor(probe.pid)
    node.cast(probe.pid, doing(lambda *_: value))
    _, found, _, _, (reason, _) = me.receive(timeout=PATIENCE)
    assert (found, reason) == (reference, Atom("bad_return_value"))


def test_handlers_that_are_not_there(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    def started() -> GenServer:
        server = GenServer()
        node.add(server)
        return server

    with pytest.raises(ExitError) as caught:
        node.call(started().pid, 1)
    assert "define its handle_call" in str(caught.value.reason)
    node.cast(started().pid, ("x", 1))
    wait_until(lambda: any("define its handle_cast" in text for text in caplog.messages))
    server = started()
    caplog.clear()
    node.send(server.pid, ("odd", 7))
    wait_until(lambda: caplog.records)
    assert "has no handle_info for ('odd', 7)" in caplog.messages[0]
    server.stop()


def test_a_kill_interrupts_the_handler(node: Node, probe: Probe) -> None:
    interrupted = threading.Event()
    entered = threading.Event()

    def loop(*_: object) -> None:
        try:
            entered.set()
            while True:
                pass
        finally:
            interrupted.set()

    pending = node.send_request(probe.pid, doing(loop))
    assert entered.wait(PATIENCE)
    waiting = node.send_request(probe.pid, "after it")
    node.exit(probe.pid, KILL)
    for request in (pending, waiting):
        with pytest.raises(ExitError) as caught:
            request.result(PATIENCE)
        assert caught.value.reason == KILLED
    assert interrupted.wait(PATIENCE)
    assert probe.sees_nothing_more()  # neither terminate nor the next message


@pytest.mark.parametrize("outcome", [1, NoReply(continue_=1), Stop(reply=1)])
def test_a_handler_that_survives_a_kill(
    node: Node, probe: Probe, me: Process, outcome: Any
) -> None:
    """Whatever it returns, nothing comes of it: the process is gone."""
    entered, survived = threading.Event(), threading.Event()

    def survive(*_: object) -> Any:
        try:
            entered.set()
            while True:
                pass
        except BaseException:  # noqa: BLE001
            survived.set()
            return outcome

    # Without an alias in its tag, a reply would come.
    node.send(probe.pid, (Atom("$gen_call"), (me.pid, "tag"), doing(survive)))
    assert entered.wait(PATIENCE)
    node.exit(probe.pid, KILL)
    assert survived.wait(PATIENCE)
    wait_until(lambda: not node.engine.tasks(probe._pynode_server))
    node.send(me.pid, "last")
    assert me.receive(timeout=PATIENCE) == "last"
    assert probe.sees_nothing_more()


def test_an_exit_signal_ends_a_server_that_does_not_trap(node: Node, me: Process) -> None:
    probe = Probe()
    node.add(probe)
    reference = me.monitor(probe.pid)
    node.exit(probe.pid, NORMAL)
    assert node.call(probe.pid, 1) == 1
    node.exit(probe.pid, Atom("reason"))
    assert me.receive(timeout=PATIENCE)[1::3] == (reference, Atom("reason"))
    assert [probe.next(), probe.sees_nothing_more()] == [("call", 1), True]


def test_an_exit_signal_is_a_message_to_one_that_traps(node: Node) -> None:
    class Trapping(Probe):
        def __init__(self) -> None:
            super().__init__()
            self.trap_exit = True

    probe = Trapping()
    node.add(probe)
    assert probe.trap_exit
    node.exit(probe.pid, Atom("reason"))
    assert probe.next() == ("info", (EXIT, node.self(), Atom("reason")))
    other = Probe()
    node.add(other)
    probe.link(other.pid)
    node.exit(other.pid, KILL)
    assert probe.next() == ("info", (EXIT, other.pid, KILLED))
    node.exit(probe.pid, KILL)
    with pytest.raises(ExitError):
        node.call(probe.pid, 1)


def test_links(node: Node, me: Process) -> None:
    first, second, third = Probe(), Probe(), Probe()
    for server in (first, second, third):
        node.add(server)
    first.link(second.pid)
    first.link(third.pid)
    first.unlink(third.pid)
    node.exit(first.pid, Atom("reason"))
    assert down_of(me, second.pid) in {Atom("reason"), Atom("noproc")}
    assert node.call(third.pid, 1) == 1


def test_monitors(node: Node, probe: Probe) -> None:
    others = [Probe() for _ in range(3)]
    for other in others:
        node.add(other)
    kept, removed, flushed = (probe.monitor(other.pid) for other in others)
    assert probe.demonitor(removed) is True

    def flush(server: Probe, _: object) -> Any:
        others[2].stop()
        # Its DOWN is in the queue of this server, which is busy with us.
        wait_until(lambda: node.signals.monitored({flushed}) == [])
        return server.demonitor(flushed)

    node.call(probe.pid, doing(flush), timeout=PATIENCE)
    others[1].stop()
    others[0].stop((SHUTDOWN, 1))
    expected = (DOWN, kept, Atom("process"), others[0].pid, (SHUTDOWN, 1))
    assert probe.next() == ("info", expected)
    assert node.call(probe.pid, 1) == 1
    assert [probe.next(), probe.sees_nothing_more()] == [("call", 1), True]


def test_stop_from_outside(node: Node, probe: Probe) -> None:
    gate = Gate()
    node.cast(probe.pid, doing(gate))
    gate.wait()
    node.cast(probe.pid, 1)
    with pytest.raises(CallTimeoutError, match="did not end"):
        probe.stop(timeout=0.01)
    gate.open()
    with pytest.raises(EncodeError):
        probe.stop(object())
    probe.stop()
    probe.stop()  # It has ended, as wanted.
    assert [probe.next(), probe.next()] == [("cast", 1), ("terminate", NORMAL)]


def test_stop_does_not_hide_another_end(node: Node, probe: Probe) -> None:
    probe.terminate = raising(LookupError("in terminate"))  # type: ignore[method-assign]
    with pytest.raises(ExitError, match="has exited"):
        probe.stop()


def test_a_server_cannot_wait_for_its_own_end(node: Node, probe: Probe) -> None:
    with pytest.raises(ExitError) as caught:
        node.call(probe.pid, doing(lambda server, _: server.stop()))
    assert "return Stop() instead" in str(caught.value.reason)


def test_terminate_at_the_end_of_the_node() -> None:
    first = Probe()
    later = [Probe() for _ in range(10)]
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie="c", epmd=False) as node:
        node.add(first)
        for index, probe in enumerate(later):
            node.add(probe)
            probe.terminate = lambda reason, index=index: node.call(  # type: ignore[method-assign,misc]
                first.pid, (index, reason)
            )
        node.cast(later[0].pid, "last")
    assert later[0].next() == ("cast", "last")
    for index in reversed(range(10)):
        assert first.next() == ("call", (index, SHUTDOWN))
    assert first.next() == ("terminate", SHUTDOWN)


def test_a_server_that_hangs_does_not_hold_the_node_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SHUTDOWN_SECONDS", 0.05)
    gate, probe = Gate(), Probe()
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie="c", epmd=False) as node:
        node.add(probe)
        node.cast(probe.pid, doing(gate))
        gate.wait()
    gate.open()
    assert probe.sees_nothing_more()


# --- coroutines


class Asynchronous(Probe):
    async def init(self) -> Any:
        await asyncio.sleep(0)
        self.seen.put(("init", current_process() is not None))

    async def handle_call(self, request: Any, from_: From) -> Any:
        await asyncio.sleep(0)
        assert current_process() is not None
        outcome = super().handle_call(request, from_)
        return await outcome if asyncio.iscoroutine(outcome) else outcome

    async def handle_cast(self, request: Any) -> Any:
        await asyncio.sleep(0)
        return super().handle_cast(request)

    async def terminate(self, reason: Any) -> Any:
        await asyncio.sleep(0)
        super().terminate(reason)


@pytest.fixture
def asynchronous(node: Node) -> Asynchronous:
    server = Asynchronous()
    node.add(server)
    assert server.next() == ("init", True)
    return server


def test_coroutines_are_awaited_in_order(node: Node, asynchronous: Asynchronous) -> None:
    for number in range(50):
        node.cast(asynchronous.pid, number)
    assert node.call(asynchronous.pid, 50) == 50
    assert [asynchronous.next()[1] for _ in range(51)] == list(range(51))
    asynchronous.stop()
    assert asynchronous.next() == ("terminate", NORMAL)


def test_an_exception_in_a_coroutine(node: Node, asynchronous: Asynchronous) -> None:
    with pytest.raises(ExitError) as caught:
        node.call(asynchronous.pid, doing(raising(LookupError("on purpose"))))
    assert "on purpose" in str(caught.value.reason)
    assert asynchronous.next() == ("terminate", caught.value.reason)


def test_a_coroutine_is_cancelled_by_a_kill(node: Node, asynchronous: Asynchronous) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    async def forever(*_: object) -> None:
        try:
            entered.set()
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    pending = node.send_request(asynchronous.pid, doing(forever))
    assert entered.wait(PATIENCE)
    node.exit(asynchronous.pid, KILL)
    with pytest.raises(ExitError):
        pending.result(PATIENCE)
    assert cancelled.wait(PATIENCE)


def test_a_coroutine_of_one_server_does_not_delay_another(node: Node) -> None:
    servers = [Asynchronous(), Asynchronous()]
    for server in servers:
        node.add(server)
    events: SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = SimpleQueue()

    async def wait(*_: object) -> str:
        event = asyncio.Event()
        events.put((asyncio.get_running_loop(), event))
        await event.wait()
        return "done"

    pending = node.send_request(servers[0].pid, doing(wait))
    loop, event = events.get(timeout=PATIENCE)
    assert node.call(servers[1].pid, 1) == 1
    loop.call_soon_threadsafe(event.set)
    assert pending.result(PATIENCE) == "done"


# --- the state, as others see it


class State(GenServer):
    def __init__(self) -> None:
        self.number = 1
        self.pair = (1.0, "a")
        self.lock = threading.Lock()
        self.mixed = {1: object(), 2: [3]}
        self.text = "\udc80"
        self._hidden = "secret"


def test_the_state_is_the_public_attributes() -> None:
    state = State()
    assert set(state.get_state()) == {"number", "pair", "lock", "mixed", "text"}
    assert all(type(name) is Atom for name in state.get_state())


def test_a_new_state_sets_what_has_changed() -> None:
    state = State()
    before = dict(vars(state))
    # As it would come back from Elixir: numbers of another type, and what had no form as text.
    shown = decode(encode(showable(state.get_state()), as_text), fun=lambda fun: fun)
    state.replace_state({**shown, Atom("number"): 1.0, "new": [1]})
    after = vars(state)
    assert repr(after.pop("number")) == "1.0"
    assert after.pop("new") == [1]
    assert all(value is before[name] for name, value in after.items())


@pytest.mark.parametrize("wrong", [1, [], {1: 2}, {"_hidden": 1}, {"": 1}, {"number": 2, "_x": 1}])
def test_what_is_no_state(wrong: Any) -> None:
    state = State()
    with pytest.raises(ValueError, match="no state"):
        state.replace_state(wrong)
    assert state.number == 1
