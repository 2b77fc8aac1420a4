"""GenServers in Python as OTP sees them: `gen_server`, `sys`, links and monitors."""

from __future__ import annotations

import asyncio
import secrets
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from pynode import Atom, From, GenServer, Node, NoReply, Reply, Stop
from pynode.testing import BeamError, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode

PATIENCE = 10.0
NORMAL, KILL, KILLED, NOPROC = map(Atom, ("normal", "kill", "killed", "noproc"))
DOWN, EXIT, PROCESS = map(Atom, ("DOWN", "EXIT", "process"))
OK, ERROR = Atom("ok"), Atom("error")

#: A server like `Probe`, for comparison.
COUNTER = """
-module(counter).
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2]).
init(Value) -> {ok, #{value => Value}}.
handle_call(Request, _From, State) -> {reply, Request, State}.
handle_cast(_Request, State) -> {noreply, State}.
"""

#: What a Probe does when it is asked for the key.
ACTIONS: dict[str, Callable[[Any, Any], Any]] = {}


def doing(action: Callable[[Any, Any], Any]) -> str:
    """Return a request for a Probe to run ``action(probe, from_)``."""
    key = secrets.token_hex(8)
    ACTIONS[key] = action
    return key


class Probe(GenServer):
    """Replies with what it gets, or does what it is asked to, and tells what it has seen."""

    def __init__(self) -> None:
        self.value = 5
        self._seen: SimpleQueue[Any] = SimpleQueue()

    def handle_call(self, request: Any, from_: From) -> Any:
        action = ACTIONS.get(request) if type(request) is str else None
        if action is not None:
            return action(self, from_)
        self._seen.put(("call", request))
        return request

    def handle_cast(self, request: Any) -> Any:
        action = ACTIONS.get(request) if type(request) is str else None
        if action is not None:
            return action(self, None)
        self._seen.put(("cast", request))
        return None

    def handle_info(self, message: Any) -> Any:
        self._seen.put(("info", message))

    def terminate(self, reason: Any) -> Any:
        self._seen.put(("terminate", reason))

    def next(self) -> Any:
        return self._seen.get(timeout=PATIENCE)

    def sees_nothing_more(self) -> bool:
        try:
            return not self._seen.get_nowait()
        except Empty:
            return True


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


@pytest.fixture
def start_node(epmd: object, cookie: str) -> Iterator[Callable[[], Node]]:
    nodes: list[Node] = []

    def start() -> Node:
        node = Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie)
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture
def node(start_node: Callable[[], Node]) -> Node:
    return start_node()


@pytest.fixture
def probe(node: Node) -> Probe:
    probe = Probe()
    node.add(probe, name="probe")
    return probe


@pytest.fixture(scope="module")
def otp(any_beam: BeamNode) -> BeamNode:
    """The BEAM, with a server `counter` for comparison."""
    any_beam.load_module(COUNTER)
    any_beam.eval("{ok, _} = gen_server:start({local, counter}, counter, 5, []), ok")
    return any_beam


def call(beam: Any, to: Any, request: Any, timeout: float = PATIENCE) -> Any:
    """Call a server from the BEAM."""
    source = "gen_server:call(To, Request, Timeout)"
    return beam.eval(source, To=to, Request=request, Timeout=round(timeout * 1000))


def exit_of(beam: Any, to: Any, request: Any, timeout: float = PATIENCE) -> Any:
    """Return the exit reason of a call that fails, as it was before `gen_server` has wrapped it."""
    with pytest.raises(BeamError) as caught:
        call(beam, to, request, timeout)
    assert caught.value.error_class == "exit"
    found: Any = caught.value.reason
    reason, (module, function, args) = found
    assert (module, function) == ("gen_server", "call")
    assert args == [to, request, round(timeout * 1000)]
    return reason


def sys(beam: Any, probe: Any, function: str, *args: Any) -> Any:
    source = "apply(sys, Function, [To | Args])"
    return beam.eval(source, Function=Atom(function), To=address(probe), Args=list(args))


def address(server: Any) -> Any:
    if isinstance(server, GenServer):
        return (Atom("probe"), server.node.name)
    return server


# --- gen_server


def test_call_by_pid_and_by_name(otp: BeamNode, probe: Probe) -> None:
    assert call(otp, address(probe), ("x", 1)) == ("x", 1)
    assert call(otp, probe.pid, [2]) == [2]
    assert otp.eval("gen_server:call(To, x)", To=probe.pid) == "x"


def test_call_of_what_is_not_there(otp: BeamNode, node: Node, probe: Probe) -> None:
    assert exit_of(otp, (Atom("nobody"), node.name), 1) == NOPROC
    pid = probe.pid
    probe.stop()
    assert exit_of(otp, pid, 1) == NOPROC
    assert exit_of(otp, (Atom("probe"), node.name), 1) == NOPROC


def test_casts(otp: BeamNode, probe: Probe) -> None:
    otp.eval("gen_server:cast(To, {x, 1})", To=address(probe))
    otp.eval("gen_server:cast(To, 2)", To=probe.pid)
    source = "abcast = gen_server:abcast([node(), N], probe, 3)"
    otp.eval(source, N=probe.node.name)
    otp.eval("To ! 4, ok", To=address(probe))
    assert [probe.next() for _ in range(4)] == [
        *[("cast", request) for request in (("x", 1), 2, 3)],
        ("info", 4),
    ]


def test_one_sender_keeps_its_order(otp: BeamNode, probe: Probe) -> None:
    source = """
        [begin
             gen_server:cast(To, N),
             N rem 3 == 0 andalso gen_server:call(To, N)
         end || N <- lists:seq(1, 300)], ok"""
    otp.eval(source, To=probe.pid)
    seen = [probe.next() for _ in range(400)]
    assert [number for kind, number in seen if kind == "cast"] == list(range(1, 301))
    for number in range(3, 301, 3):
        assert seen.index(("call", number)) == seen.index(("cast", number)) + 1


def test_multi_call(
    otp: BeamNode, start_node: Callable[[], Node], start_beam: Callable[..., BeamNode]
) -> None:
    nodes = [start_node() for _ in range(3)]
    for node in nodes[:2]:
        node.add(Probe(), name="counter")
    names = [otp.name, *(node.name for node in nodes)]
    for source in (
        "gen_server:multi_call(Nodes, counter, hello)",
        "gen_server:multi_call(Nodes, counter, hello, 10000)",
    ):
        replies, bad = otp.eval(source, Nodes=[Atom(name) for name in names])
        assert sorted(replies) == sorted((name, "hello") for name in names[:3])
        assert bad == [names[3]]


def test_multi_call_of_one_that_does_not_answer(otp: BeamNode, probe: Probe) -> None:
    request = doing(lambda *_: NoReply())
    source = "gen_server:multi_call([N], probe, Request, 10)"
    assert otp.eval(source, N=probe.node.name, Request=request) == ([], [probe.node.name])


def test_send_request(otp: BeamNode, probe: Probe) -> None:
    source = """
        Ids = [gen_server:send_request(To, N) || N <- lists:seq(1, 4)],
        [A, B, C, D] = Ids,
        {reply, 1} = gen_server:receive_response(A, 10000),
        {reply, 2} = gen_server:wait_response(B, 10000),
        {reply, 3} = receive Msg -> gen_server:check_response(Msg, C) end,
        {reply, 4} = gen_server:receive_response(D, infinity),
        Gone = gen_server:send_request(Nobody, 1),
        {error, {noproc, Nobody}} = gen_server:receive_response(Gone, 10000),
        ok"""
    nobody = (Atom("nobody"), probe.node.name)
    assert otp.eval(source, To=address(probe), Nobody=nobody) == OK


def test_a_collection_of_requests(otp: BeamNode, probe: Probe) -> None:
    source = """
        Send = fun(N, C) -> gen_server:send_request(To, N, {label, N}, C) end,
        Requests = lists:foldl(Send, gen_server:reqids_new(), [1, 2, 3]),
        3 = gen_server:reqids_size(Requests),
        Receive = fun Receive(C) ->
            case gen_server:receive_response(C, 10000, true) of
                {{reply, N}, {label, N}, Rest} -> [N | Receive(Rest)];
                no_request -> []
            end
        end,
        lists:sort(Receive(Requests))"""
    assert otp.eval(source, To=address(probe)) == [1, 2, 3]


def test_a_request_that_is_given_up(otp: BeamNode, probe: Probe) -> None:
    """Its reply comes too late, and vanishes with the alias."""
    froms: SimpleQueue[From] = SimpleQueue()

    def keep(_: Probe, from_: From) -> Any:
        froms.put(from_)
        return NoReply()

    process = otp.process()
    request = doing(keep)
    source = "timeout = gen_server:receive_response(gen_server:send_request(To, Request), 10)"
    process.eval(source, To=probe.pid, Request=request)
    probe.reply(froms.get(timeout=PATIENCE), "too late")
    reason = exit_of(process, probe.pid, request, 0.01)
    assert reason == "timeout"
    probe.reply(froms.get(timeout=PATIENCE), "too late")
    assert call(process, probe.pid, "next") == "next"
    assert process.eval("receive Message -> Message after 0 -> none end") == "none"


def test_a_reply_that_comes_later(otp: BeamNode, probe: Probe) -> None:
    def later(server: Probe, from_: From) -> Any:
        threading.Thread(target=server.reply, args=(from_, "later")).start()
        return NoReply()

    assert call(otp, probe.pid, doing(later)) == "later"


def test_a_reply_by_another_process(otp: BeamNode, probe: Probe) -> None:
    """Who has called can be sent elsewhere, in both directions."""

    def hand_on(server: Probe, from_: From) -> Any:
        server.node.send(replier.pid, from_)
        return NoReply()

    replier = otp.process()
    done = replier.start_eval("receive From -> gen_server:reply(From, from_erlang) end")
    assert call(otp, probe.pid, doing(hand_on)) == "from_erlang"
    done.result(PATIENCE)
    source = """
        Id = gen_server:send_request(spawn(fun() ->
            receive {'$gen_call', From, Request} -> To ! {'$gen_call', From, Request} end,
            receive stop -> ok end
        end), forwarded),
        gen_server:receive_response(Id, 10000)"""
    assert otp.eval(source, To=probe.pid) == (Atom("reply"), "forwarded")


def test_a_forwarded_call_from_a_third_node(
    otp: BeamNode, probe: Probe, start_beam: Callable[..., BeamNode]
) -> None:
    third = start_beam(runtime=otp.runtime)
    source = """
        Proxy = spawn(N, erlang, apply, [fun(To) ->
            receive {'$gen_call', From, Request} -> To ! {'$gen_call', From, Request} end,
            receive stop -> ok end
        end, [To]]),
        gen_server:call(Proxy, forwarded, 10000)"""
    assert third.eval(source, N=Atom(otp.name), To=probe.pid) == "forwarded"


def test_stopping(otp: BeamNode, node: Node) -> None:
    for source, reason in (
        ("gen_server:stop(To)", NORMAL),
        ("gen_server:stop(To, {shutdown, 1}, 10000)", (Atom("shutdown"), 1)),
        ("gen_server:stop(To, because, infinity)", Atom("because")),
    ):
        probe = Probe()
        node.add(probe, name="probe")
        assert otp.eval(source, To=address(probe)) == OK
        assert probe.next() == ("terminate", reason)
        with pytest.raises(BeamError) as caught:
            otp.eval("gen_server:stop(To)", To=probe.pid)
        assert caught.value.reason == NOPROC


def test_what_terminate_raises_is_the_reason(otp: BeamNode, probe: Probe) -> None:
    def fail(reason: Any) -> Any:
        raise LookupError("in terminate")

    probe.terminate = fail  # type: ignore[method-assign]
    with pytest.raises(BeamError, match="in terminate"):
        otp.eval("gen_server:stop(To)", To=probe.pid)


def test_ten_thousand_callers(otp: BeamNode, node: Node) -> None:
    class Sum(GenServer):
        def __init__(self) -> None:
            self.value = 0

        def handle_call(self, request: Any, _from: From) -> Any:
            self.value += request
            return self.value

    server = Sum()
    node.add(server)
    source = """
        Self = self(),
        Call = fun() -> Self ! gen_server:call(To, 1, 60000) end,
        Pids = [spawn_link(Call) || _ <- lists:seq(1, 10000)],
        lists:usort([receive N when is_integer(N) -> N end || _ <- Pids]) =:= lists:seq(1, 10000)"""
    assert otp.eval(source, To=server.pid, timeout=50) is True
    connection = node.connection(otp.name)
    assert connection is not None
    # Nothing is kept of a call that is over: neither its monitor nor anything else.
    assert otp.eval("gen_server:call(To, 0)", To=server.pid) == 10_000
    wait_until(lambda: not connection.monitors)
    assert node.engine.tasks(server._pynode_server) == []


def test_a_server_that_blocks_delays_nobody_else(otp: BeamNode, node: Node, probe: Probe) -> None:
    gate, other = Gate(), Probe()
    node.add(other, name="other")
    pending = otp.start_eval("gen_server:call(To, R)", To=probe.pid, R=doing(gate))
    gate.wait()
    for number in range(20):
        assert call(otp, other.pid, number) == number
    assert otp.eval("net_adm:ping(N)", N=node.name) == "pong"
    gate.open()
    assert pending.result(PATIENCE) is None


def test_coroutines(otp: BeamNode, node: Node) -> None:
    class Asynchronous(GenServer):
        def __init__(self) -> None:
            self.numbers: list[int] = []

        async def handle_call(self, request: Any, _from: From) -> Any:
            await asyncio.sleep(0)
            if request == "fail":
                raise LookupError("on purpose")
            return [*self.numbers, request]

        async def handle_cast(self, request: Any) -> Any:
            await asyncio.sleep(0)
            self.numbers.append(request)

    server = Asynchronous()
    node.add(server)
    source = "[gen_server:cast(To, N) || N <- lists:seq(1, 20)], gen_server:call(To, 21)"
    assert otp.eval(source, To=server.pid) == list(range(1, 22))
    assert "on purpose" in str(exit_of(otp, server.pid, "fail"))


def test_timeouts_and_continuing(otp: BeamNode, probe: Probe) -> None:
    assert call(otp, probe.pid, doing(lambda *_: Reply(1, timeout=0.01))) == 1
    assert probe.next() == ("info", Atom("timeout"))
    gate = Gate()

    def stop(argument: Any) -> Stop:
        gate()
        return Stop((Atom("shutdown"), argument))

    probe.handle_continue = stop  # type: ignore[method-assign]
    # The reply does not wait for what continues.
    assert call(otp, probe.pid, doing(lambda *_: Reply(2, continue_="now"))) == 2
    gate.open()
    assert probe.next() == ("terminate", (Atom("shutdown"), "now"))


# --- failures


def test_an_exception_is_what_the_caller_exits_with(otp: BeamNode, probe: Probe) -> None:
    def fail(*_: object) -> None:
        raise LookupError("on purpose")

    watch = otp.start_eval(
        "R = erlang:monitor(process, To), To ! watched,"
        "receive {'DOWN', R, process, To, Reason} -> Reason end",
        To=probe.pid,
    )
    assert probe.next() == ("info", "watched")
    reason = exit_of(otp, probe.pid, doing(fail))
    error, stack = reason
    assert error["message"] == "on purpose"
    assert stack[0][:2] == (Atom(fail.__module__), Atom(fail.__qualname__))
    assert watch.result(PATIENCE) == reason
    assert probe.next() == ("terminate", reason)


def test_how_elixir_shows_it(elixir: BeamNode, probe: Probe) -> None:
    def fail(*_: object) -> None:
        raise LookupError("on purpose")

    source = """
        try gen_server:call(To, Request) catch exit:Reason ->
            'Elixir.Exception':format_exit(Reason)
        end"""
    text = elixir.eval(source, To=probe.pid, Request=doing(fail))
    lines = text.splitlines()
    assert lines[0].startswith("exited in: :gen_server.call(")
    assert lines[1] == "    ** (EXIT) an exception was raised:"
    assert "on purpose" in lines[2]
    assert "test_gen_server.py" in text


def test_a_reply_without_an_erlang_form(otp: BeamNode, probe: Probe) -> None:
    error, _ = exit_of(otp, probe.pid, doing(lambda *_: object()))
    assert "handle_call of Probe has returned what cannot be sent" in error["message"]


def test_stop_while_a_caller_waits(otp: BeamNode, probe: Probe) -> None:
    assert exit_of(otp, probe.pid, doing(lambda *_: Stop(Atom("why")))) == "why"


def test_stop_with_a_reply(otp: BeamNode, probe: Probe) -> None:
    assert call(otp, probe.pid, doing(lambda *_: Stop(reply="bye"))) == "bye"
    assert probe.next() == ("terminate", NORMAL)


def test_a_kill_during_a_call(otp: BeamNode, probe: Probe) -> None:
    entered, interrupted = threading.Event(), threading.Event()

    def loop(*_: object) -> None:
        try:
            entered.set()
            while True:
                pass
        finally:
            interrupted.set()

    source = "catch gen_server:call(To, Request, 30000)"
    pending = otp.start_eval(source, To=probe.pid, Request=doing(loop))
    assert entered.wait(PATIENCE)
    waiting = otp.start_eval(source, To=probe.pid, Request="after it")
    otp.eval("exit(To, kill)", To=probe.pid)
    assert pending.result(PATIENCE)[1][0] == KILLED
    assert waiting.result(PATIENCE)[1][0] in {KILLED, NOPROC}
    assert interrupted.wait(PATIENCE)
    assert probe.sees_nothing_more()


def test_a_message_that_is_nested_too_deep(
    otp: BeamNode, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    deep = "Deep = lists:foldl(fun(_, T) -> [T] end, [], lists:seq(1, 20000)), "
    source = "try gen_server:call(To, Deep, infinity) catch exit:{Reason, _} -> Reason end"
    error, _ = otp.eval(deep + source, To=address(probe))
    assert "levels" in error["message"]
    otp.eval(deep + "gen_server:cast(To, Deep), To ! {info, Deep}, ok", To=probe.pid)
    # Neither the server nor the connection has come to harm.
    assert call(otp, probe.pid, 1) == 1
    assert probe.next() == ("call", 1)
    assert len(caplog.messages) == 3
    assert all("cannot take a message" in text for text in caplog.messages)
    connection = probe.node.connection(otp.name)
    assert connection is not None
    wait_until(lambda: not connection.monitors)


# --- links and monitors


def test_an_exit_signal(otp: BeamNode, probe: Probe) -> None:
    source = """
        R = erlang:monitor(process, To),
        exit(To, normal),
        still = gen_server:call(To, still),
        exit(To, Reason),
        receive {'DOWN', R, process, To, Why} -> Why end"""
    assert otp.eval(source, To=probe.pid, Reason=Atom("because")) == "because"
    assert [probe.next(), probe.sees_nothing_more()] == [("call", "still"), True]


def test_links_both_ways(otp: BeamNode, node: Node) -> None:
    class Trapping(Probe):
        def init(self) -> Any:
            self.trap_exit = True

    trapping, plain = Trapping(), Probe()
    node.add(trapping)
    node.add(plain)
    first, second = otp.process(), otp.process()
    for server, process in ((trapping, first), (plain, second)):
        server.link(process.pid)
        process.eval("process_flag(trap_exit, true), gen_server:call(To, synced)", To=server.pid)
        assert server.next()[0] == "call"
    first.exit(Atom("reason"))
    # It traps exits as well, so it lives; who is told is the server of a process that is killed.
    first.exit(KILL)
    assert trapping.next() == ("info", (EXIT, first.pid, KILLED))
    node.exit(plain.pid, Atom("because"))
    source = "receive {'EXIT', From, Reason} -> {From, Reason} end"
    assert second.eval(source) == (plain.pid, Atom("because"))
    second.eval("link(To)", To=trapping.pid)
    second.exit(KILL)
    assert trapping.next() == ("info", (EXIT, second.pid, KILLED))


def test_a_monitor_by_name(otp: BeamNode, probe: Probe) -> None:
    source = """
        R = erlang:monitor(process, To),
        gen_server:cast(To, Stop),
        receive {'DOWN', R, process, Who, Why} -> {Who, Why} end"""
    found = otp.eval(source, To=address(probe), Stop=doing(lambda *_: Stop(Atom("why"))))
    assert found == (address(probe), Atom("why"))


def test_a_server_monitors(otp: BeamNode, probe: Probe) -> None:
    process = otp.process()
    reference = probe.monitor(process.pid)
    removed = probe.monitor(process.pid)
    probe.demonitor(removed)
    process.exit(Atom("why"))
    process.exit(KILL)
    kind, message = probe.next()
    assert (kind, message[:4]) == ("info", (DOWN, reference, PROCESS, process.pid))
    reference = probe.monitor((Atom("nobody"), otp.name))
    expected = (DOWN, reference, PROCESS, (Atom("nobody"), otp.name), NOPROC)
    assert probe.next() == ("info", expected)
    assert probe.sees_nothing_more()


def test_nodes_come_and_go(start_beam: Callable[..., BeamNode], node: Node, probe: Probe) -> None:
    probe.monitor_nodes()
    beam = start_beam()
    process = beam.process()
    reference = probe.monitor(process.pid)
    assert probe.next() == ("info", (Atom("nodeup"), beam.name))
    beam.kill()
    events = {probe.next()[1][0], probe.next()[1][0]}
    assert events == {"nodedown", DOWN}
    assert reference is not None


# --- sys


def test_get_state_and_replace_state(otp: BeamNode, probe: Probe) -> None:
    assert sys(otp, probe, "get_state") == {"value": 5}
    assert otp.eval("sys:get_state(To, 10000)", To=probe.pid) == {"value": 5}
    source = "sys:replace_state(To, fun(#{value := V} = S) -> S#{value := V + 1} end)"
    assert otp.eval(source, To=probe.pid) == {"value": 6}
    assert probe.value == 6
    source = "sys:replace_state(To, fun maps:to_list/1)"
    with pytest.raises(BeamError, match="callback_failed") as caught:
        otp.eval(source, To=probe.pid)
    assert sys(otp, Atom("counter"), "get_state") == {"value": 5}
    assert "no state of Probe" in str(caught.value.reason)
    source = "sys:replace_state(To, fun maps:merge/2)"
    with pytest.raises(BeamError, match="callback_failed"):
        otp.eval(source, To=probe.pid)
    assert probe.value == 6


@pytest.mark.parametrize("failing", ["error(why)", "exit(why)", "throw(why)"])
def test_a_new_state_that_fails(otp: BeamNode, probe: Probe, failing: str) -> None:
    """Fails as with a server of OTP's own, and changes nothing."""
    source = f"sys:replace_state(To, fun(_) -> {failing} end)"
    reasons = []
    for server in (probe, Atom("counter")):
        with pytest.raises(BeamError) as caught:
            otp.eval(source, To=address(server))
        reasons.append(caught.value.reason)
    assert reasons[0] == reasons[1]
    assert probe.value == 5


def test_a_state_that_erlang_does_not_know(otp: BeamNode, probe: Probe) -> None:
    lock = threading.Lock()
    probe.lock = lock  # type: ignore[attr-defined]
    probe.bad = "\udc80"  # type: ignore[attr-defined]
    probe.cycle = [1]  # type: ignore[attr-defined]
    probe.cycle.append(probe.cycle)  # type: ignore[attr-defined]
    state = sys(otp, probe, "get_state")
    assert "lock" in state["lock"]
    assert state["value"] == 5
    source = "sys:replace_state(To, fun(S) -> S#{value := 7} end)"
    assert otp.eval(source, To=probe.pid)["value"] == 7
    assert (probe.value, probe.lock) == (7, lock)  # type: ignore[attr-defined]
    assert sys(otp, probe, "get_status")[0] == "status"


def test_a_state_that_cannot_be_had(otp: BeamNode, probe: Probe) -> None:
    def fail() -> None:
        raise LookupError("no state today")

    probe.get_state = fail  # type: ignore[method-assign]
    with pytest.raises(BeamError, match="no state today") as caught:
        sys(otp, probe, "get_state")
    found: Any = caught.value.reason
    failed, where, (error_class, _) = found
    assert (failed, where) == ("callback_failed", ("gen_server", "system_get_state"))
    assert error_class == "error"
    *_, (_, [(_, text)]) = sys(otp, probe, "get_status")[3][4]
    assert bytes(text).endswith(b":format_status/1 crashed")
    assert call(otp, probe.pid, 1) == 1


def shape(term: Any) -> Any:
    """Return what is the same in the status of all servers."""
    match term:
        case (Atom("$ancestors"), _):
            return "ancestors"
        case (Atom("$initial_call"), (_, function, arity)):
            return ("initial call", function, arity)
        case tuple():
            return tuple(shape(item) for item in term)
        case list() if term and all(type(item) is int and 31 < item < 127 for item in term):
            text = bytes(term).decode()
            return text.rpartition(" ")[0] if text.startswith("Status for") else text
        case list():
            return [shape(item) for item in term]
        case Atom() | int() | dict():
            return term
    return type(term)


def test_get_status(otp: BeamNode, probe: Probe) -> None:
    """Looks as that of a server of OTP's own."""
    for prepare in ("ok", "sys:log(To, {true, 2})", "sys:suspend(To)", "sys:resume(To)"):
        otp.eval(prepare, To=address(probe))
        otp.eval(prepare, To=Atom("counter"))
        ours = sys(otp, probe, "get_status")
        assert shape(ours) == shape(sys(otp, Atom("counter"), "get_status")), prepare
        assert ours[3][4][0] == (Atom("header"), list(b"Status for generic server probe"))
    otp.eval("sys:no_debug(counter)")


def test_suspend_and_resume(otp: BeamNode, probe: Probe) -> None:
    assert sys(otp, probe, "suspend") == OK
    process = otp.process()
    pending = [
        otp.start_eval("gen_server:call(To, R, 30000)", To=probe.pid, R=("call", n))
        for n in range(5)
    ]
    process.eval("[gen_server:cast(To, N) || N <- lists:seq(1, 100)], To ! info, ok", To=probe.pid)
    # A system message of the same process: what it has sent before is there, and waits.
    assert process.eval("sys:get_state(To)", To=probe.pid) == {"value": 5}
    assert probe.sees_nothing_more()
    assert not any(request.done() for request in pending)
    assert sys(otp, probe, "suspend") == OK
    assert sys(otp, probe, "resume") == OK
    assert [request.result(PATIENCE) for request in pending] == [("call", n) for n in range(5)]
    seen = [probe.next() for _ in range(106)]
    assert [n for kind, n in seen if kind == "cast"] == list(range(1, 101))
    assert seen.index(("info", "info")) > seen.index(("cast", 100))
    assert sys(otp, probe, "resume") == OK


def test_the_end_of_a_server_that_is_suspended(otp: BeamNode, probe: Probe) -> None:
    assert sys(otp, probe, "suspend") == OK
    pending = otp.start_eval("catch gen_server:call(To, 1, 30000)", To=probe.pid)
    assert sys(otp, probe, "get_status")[3][1] == "suspended"
    assert sys(otp, probe, "terminate", Atom("why")) == OK
    assert pending.result(PATIENCE)[1][0] in {"why", NOPROC}
    assert probe.next() == ("terminate", "why")


def test_a_timeout_begins_anew_after_a_system_message(otp: BeamNode, probe: Probe) -> None:
    assert call(otp, probe.pid, doing(lambda *_: Reply(1, timeout=0.01))) == 1
    sys(otp, probe, "get_state")
    assert probe.next() == ("info", Atom("timeout"))
    gate = Gate()

    def time_out(*_: object) -> NoReply:
        gate()
        return NoReply(timeout=0)

    otp.eval("gen_server:cast(To, R)", To=probe.pid, R=doing(time_out))
    gate.wait()
    suspended = otp.start_eval("sys:suspend(To)", To=probe.pid)
    wait_until(lambda: len(probe.node.engine.tasks(probe._pynode_server)) == 2)
    gate.open()
    assert suspended.result(PATIENCE) == OK
    sys(otp, probe, "get_state")
    assert probe.sees_nothing_more()
    sys(otp, probe, "resume")
    assert probe.next() == ("info", Atom("timeout"))


def test_statistics(otp: BeamNode, probe: Probe) -> None:
    assert sys(otp, probe, "statistics", Atom("get")) == (OK, "no_statistics")
    assert sys(otp, probe, "statistics", True) == OK
    call(otp, probe.pid, 1)
    otp.eval("gen_server:cast(To, 2), To ! 3, ok", To=probe.pid)
    assert [probe.next() for _ in range(3)][2] == ("info", 3)
    _, found = sys(otp, probe, "statistics", Atom("get"))
    statistics = dict(found)
    assert (statistics["messages_in"], statistics["messages_out"]) == (3, 1)
    assert statistics["start_time"] <= statistics["current_time"]
    assert sys(otp, probe, "statistics", False) == OK
    assert sys(otp, probe, "statistics", Atom("get")) == (OK, "no_statistics")


def test_a_log(otp: BeamNode, probe: Probe) -> None:
    """Has the events that a server of OTP's own logs."""
    source = """
        sys:log(To, {true, 8}),
        gen_server:call(To, a), gen_server:cast(To, b),
        {ok, Log} = sys:log(To, get), Log"""
    log = otp.eval(source, To=address(probe))
    own = otp.eval(source, To=Atom("counter"))

    def without_caller(event: Any) -> Any:
        match event:
            case (Atom("in"), (Atom("$gen_call"), _, request)):
                return ("call", request)
            case (Atom("out"), answer, _, state):
                return ("out", answer, state)
        return event

    assert [without_caller(event) for event in log] == [without_caller(event) for event in own]
    assert len(log) == 4
    assert sys(otp, probe, "get_status")[3][4][1][1][2][1] == log
    assert sys(otp, probe, "log", (True, 2)) == OK
    assert sys(otp, probe, "log", Atom("get")) == (OK, log[-2:])
    assert sys(otp, probe, "log", Atom("print")) == OK
    assert sys(otp, probe, "log", False) == OK
    assert sys(otp, probe, "log", Atom("get")) == (OK, [])
    otp.eval("sys:no_debug(counter)")


def test_a_trace_goes_to_the_log(
    otp: BeamNode, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pynode.gen_server")
    assert sys(otp, probe, "trace", True) == OK
    otp.eval("gen_server:cast(To, {traced, 1})", To=probe.pid)
    assert sys(otp, probe, "no_debug") == OK
    otp.eval("gen_server:cast(To, {untraced, 1})", To=probe.pid)
    assert call(otp, probe.pid, 1) == 1
    assert any("probe" in text and "{:traced, 1}" in text for text in caplog.messages)
    assert not any("untraced" in text for text in caplog.messages)


def test_what_is_refused(otp: BeamNode, probe: Probe) -> None:
    unknown = (ERROR, (Atom("unknown_system_msg"), Atom("what")))
    source = "element(2, gen:call(To, system, what))"
    assert otp.eval(source, To=address(probe)) == unknown
    change = (Atom("change_code"), Atom("m"), Atom("v"), Atom("x"))
    assert sys(otp, probe, *change) == (ERROR, (Atom("unknown_system_msg"), change))
    sys(otp, probe, "suspend")
    kind, (exit_, (undef, _)) = sys(otp, probe, *change)
    assert (kind, exit_, undef) == (ERROR, EXIT, "undef")
    sys(otp, probe, "resume")
    assert sys(otp, probe, "log_to_file", list(b"/tmp/x")) == (ERROR, "open_file")
    source = "sys:install(To, {fun(_, _, _) -> done end, 0})"
    assert otp.eval(source, To=address(probe)) == "unknown_debug"


def test_process_info(otp: BeamNode, probe: Probe) -> None:
    source = "erpc:call(N, erlang, process_info, [To, [dictionary, registered_name]])"
    found = dict(otp.eval(source, N=probe.node.name, To=probe.pid))
    assert found["registered_name"] == "probe"
    assert dict(found["dictionary"])["$initial_call"][1:] == ("init", 1)


def test_a_large_reply_and_the_end_after_it(otp: BeamNode, probe: Probe) -> None:
    data = bytes(10_000_000)
    source = "byte_size(gen_server:call(To, Request, 60000))"
    request = doing(lambda *_: Stop(reply=data))
    assert otp.eval(source, To=probe.pid, Request=request, timeout=50) == len(data)
