"""`rpc` as OTP documents it, asked of a Python node; and what goes to the server ``rex`` itself."""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest

from pynode import Atom, Node
from pynode.errors import ErlangError, ExitError
from pynode.process import current_process
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pynode.testing import BeamNode, Epmd

PATIENCE = 10.0
MODULE = "functions_of_test_rpc"
BADRPC, EXIT = Atom("badrpc"), Atom("EXIT")
DOWN_AS_BADRPC = "receive {'DOWN', R, _, P, W} -> {badrpc, {'EXIT', W}} end"


class Functions(types.ModuleType):
    """A module of functions that the tests call, and what these have noted."""

    def __init__(self) -> None:
        super().__init__(MODULE)
        self.seen: list[Any] = []
        self.running = 0
        self.most_running = 0
        self.go = threading.Event()
        self.began = threading.Event()

    def note(self, value: Any) -> Any:
        self.seen.append(value)
        return value

    def double(self, value: int, factor: int = 2) -> int:
        return value * factor

    def wait(self) -> str:
        self.began.set()
        self.go.wait(PATIENCE)
        return "done"

    def count(self, _number: int) -> int:
        """Note how many calls run at the same time, and wait, so that others come."""
        process = current_process()
        assert process is not None
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        process.node.erpc(process.node.name, "time", "sleep", [0.01])
        self.running -= 1
        return self.most_running

    async def soon(self, value: Any) -> Any:
        return value

    def exit(self, reason: Any) -> None:
        raise ExitError("on purpose", reason=reason)

    def error(self, reason: Any) -> None:
        raise ErlangError("on purpose", reason=reason)

    def throw(self, peer: str) -> None:
        process = current_process()
        assert process is not None
        process.node.erpc(peer, "erlang", "throw", [Atom("thrown")])

    def no_form(self) -> Any:
        return object()


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Functions:
    module = Functions()
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


@pytest.fixture
def node(epmd: Epmd, cookie: str) -> Iterator[Node]:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        yield node


def ask(beam: BeamNode, node: Node, source: str, **bindings: Any) -> Any:
    return beam.eval(source, N=node.name, M=Atom(MODULE), **bindings)


@pytest.fixture(params=["call", "block_call", "rex"])
def call(request: pytest.FixtureRequest, any_beam: BeamNode, node: Node) -> Any:
    """Call a function in one of the ways that there are, which answer the same."""
    source = {
        "call": "rpc:call(N, M, F, A)",
        "block_call": "rpc:block_call(N, M, F, A)",
        "rex": "gen_server:call({rex, N}, {call, M, F, A, group_leader()})",
    }[request.param]

    def call(module: str, function: str, *args: Any) -> Any:
        bindings: dict[str, Any] = {"M": Atom(module), "F": Atom(function), "A": [*args]}
        return any_beam.eval(source, N=node.name, **bindings)

    return call


def test_a_value(call: Any, functions: Functions) -> None:
    assert call("math", "sqrt", 16) == 4.0
    assert call(MODULE, "soon", [1]) == [1]
    assert call("erlang", "node").startswith("py")


def test_undef(call: Any) -> None:
    for module, function in [("no_such_module", "f"), ("math", "nix"), ("Elixir.Enum", "sum")]:
        expected: Any = (Atom("undef"), [(Atom(module), Atom(function), [1], [])])
        assert call(module, function, 1) == (BADRPC, (EXIT, expected))


def test_what_a_function_raises(call: Any, functions: Functions, any_beam: BeamNode) -> None:
    badrpc, (_, (reason, stack)) = call("math", "sqrt", -1)
    assert badrpc == BADRPC
    assert reason[Atom("message")] == "math domain error"
    assert stack == [(Atom("math"), Atom("sqrt"), 1, [])]
    assert call(MODULE, "exit", Atom("why")) == (BADRPC, (EXIT, Atom("why")))
    badrpc, (_, (reason, stack)) = call(MODULE, "error", Atom("why"))
    assert reason == "why"
    assert stack[0][1] == "Functions.error"
    assert call(MODULE, "throw", any_beam.name) == "thrown"
    badrpc, (_, (reason, stack)) = call(MODULE, "no_form")
    assert "{:snakebridge, node}" in reason[Atom("message")]


def test_the_same_as_from_a_beam(any_beam: BeamNode, beam: BeamNode, node: Node) -> None:
    for source in (
        "rpc:call(N, math, sqrt, [16])",
        "rpc:call(N, no_such_module, f, [1])",
        "rpc:call(N, erlang, process_info, [not_a_pid])",
        "rpc:block_call(N, no_such_module, f, [1])",
        "rpc:sbcast([N, nobody@nowhere], nobody, hi)",
        "rpc:multicall([N, nobody@nowhere], no_such_module, f, [])",
        "rpc:async_call(N, no_such_module, f, []), ok",
        "rpc:server_call(N, no_such_server, no_such_server, x)",
        "rpc:multi_server_call([N], no_such_server, x)",
        "rpc:call(N, init, get_status, [])",
        "rpc:call(N, erlang, whereis, [nobody])",
    ):
        ours, theirs = (any_beam.eval(source, N=Atom(peer.name)) for peer in (node, beam))
        # Where the answer has the name of the node in it, or the reason of badarg more detail.
        text = repr(theirs).replace(beam.name, node.name)
        assert repr(ours)[:60] == text[:60], source


def test_block_calls_run_one_after_the_other(
    any_beam: BeamNode, node: Node, functions: Functions
) -> None:
    source = (
        "Self = self(), [spawn(fun() -> Self ! {I, rpc:block_call(N, M, count, [I])} end)"
        " || I <- lists:seq(1, 10)], [receive {I, R} -> R end || I <- lists:seq(1, 10)]"
    )
    assert ask(any_beam, node, source) == [1] * 10
    # Calls of the other kinds do not.
    slow = any_beam.start_eval("rpc:block_call(N, M, wait, [])", N=node.name, M=Atom(MODULE))
    functions.began.wait(PATIENCE)
    assert ask(any_beam, node, "rpc:call(N, math, sqrt, [16])") == 4.0
    assert ask(any_beam, node, "rpc:block_call(N, math, sqrt, [16], 1)") == (
        BADRPC,
        Atom("timeout"),
    )
    functions.go.set()
    assert slow.result(PATIENCE) == "done"


def test_timeouts_and_lost_nodes(any_beam: BeamNode, node: Node, functions: Functions) -> None:
    timeout = (BADRPC, Atom("timeout"))
    for function in ("call", "block_call"):
        assert ask(any_beam, node, f"rpc:{function}(N, M, wait, [], 1)") == timeout
        # It runs all the same.
        assert functions.began.wait(PATIENCE)
        functions.began.clear()
    call = any_beam.start_eval("rpc:call(N, M, wait, [])", N=node.name, M=Atom(MODULE))
    assert functions.began.wait(PATIENCE)
    connection = node.connection(any_beam.name)
    assert connection is not None
    connection.close("test")
    assert call.result(PATIENCE) == (BADRPC, Atom("nodedown"))
    functions.go.set()
    wait_until(lambda: not any(p.info().get("status") for p in node.signals.destinations.values()))


def test_cast(
    any_beam: BeamNode, node: Node, functions: Functions, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(any_beam, node, "rpc:cast(N, M, note, [1])") is True
    assert ask(any_beam, node, "gen_server:cast({rex, N}, {cast, M, note, [2], user})") == "ok"
    assert ask(any_beam, node, "rpc:eval_everywhere([N, N], M, note, [3])") == "abcast"
    wait_until(lambda: sorted(functions.seen) == [1, 2, 3, 3])
    assert ask(any_beam, node, "rpc:cast(N, no_such_module, f, [])") is True
    wait_until(lambda: "no_such_module:f was called and fails with undef" in caplog.text)
    assert "Traceback" not in caplog.text
    assert ask(any_beam, node, "rpc:cast(N, math, sqrt, [-1])") is True
    wait_until(lambda: "ValueError" in caplog.text)


def test_multicall(any_beam: BeamNode, beam: BeamNode, node: Node, functions: Functions) -> None:
    nodes = [Atom(any_beam.name), node.name, Atom(beam.name), Atom("nobody@nowhere")]
    values, lost = ask(any_beam, node, "rpc:multicall(Ns, math, sqrt, [16], 10000)", Ns=nodes)
    assert (values, lost) == ([4.0] * 3, ["nobody@nowhere"])
    assert ask(any_beam, node, "rpc:multicall([N], M, wait, [], 1)") == ([], [node.name])
    functions.go.set()


def test_calls_that_are_answered_later(
    any_beam: BeamNode, node: Node, functions: Functions
) -> None:
    assert ask(any_beam, node, "rpc:yield(rpc:async_call(N, math, sqrt, [16]))") == 4.0
    source = "K = rpc:async_call(N, M, wait, []), rpc:nb_yield(K, 0)"
    assert ask(any_beam, node, source) == "timeout"
    functions.go.set()
    source = "K = rpc:async_call(N, M, wait, []), rpc:nb_yield(K, 10000)"
    assert ask(any_beam, node, source) == (Atom("value"), "done")


def test_parallel_evaluation_over_the_cluster(
    any_beam: BeamNode, start_beam: Any, cookie: str, functions: Functions
) -> None:
    # They use all nodes in nodes(): a published one is among them.
    beam = start_beam(runtime=any_beam.runtime)
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    with Node(name, cookie=cookie, published=True) as node:
        assert node.ping(beam.name)
        wait_until(lambda: beam.eval("nodes()") == [node.name])
        beam.load_module(f"-module({MODULE}). -export([double/1]). double(X) -> 2 * X.")
        calls = [(Atom(MODULE), Atom("double"), [number]) for number in range(10)]
        assert beam.eval("rpc:parallel_eval(Cs)", Cs=calls) == [2 * n for n in range(10)]
        assert beam.eval("rpc:pmap({M, double}, [], Ns)", M=Atom(MODULE), Ns=[1, 2, 3]) == [2, 4, 6]
        assert beam.eval("rpc:multicall(M, double, [5])", M=Atom(MODULE)) == ([10, 10], [])
        assert beam.eval("rpc:eval_everywhere(M, note, [9])", M=Atom(MODULE)) == "abcast"
        wait_until(lambda: functions.seen == [9])


def test_broadcasts_to_processes(any_beam: BeamNode, node: Node) -> None:
    name = Atom(f"p{secrets.token_hex(5)}")
    with node.process(name=name) as process:
        assert any_beam.eval("rpc:abcast([N], P, {hello, 1})", N=node.name, P=name) == "abcast"
        assert process.receive(timeout=PATIENCE) == (Atom("hello"), 1)
        # The message is there when it returns.
        sent = any_beam.eval("rpc:sbcast([N, nobody@nowhere], P, {hello, 2})", N=node.name, P=name)
        assert sent == ([node.name], ["nobody@nowhere"])
        assert process.receive(timeout=0) == (Atom("hello"), 2)
    sent = any_beam.eval("rpc:sbcast([N], P, {hello, 2})", N=node.name, P=name)
    assert sent == ([], [node.name])


def test_calls_of_servers(any_beam: BeamNode, node: Node) -> None:
    name = Atom(f"p{secrets.token_hex(5)}")

    def serve() -> None:
        process = current_process()
        assert process is not None
        node.register(name, process)
        while True:
            caller, message = process.receive()
            node.send(caller, (name, node.name, ("served", message)))

    pid = node.spawn(serve)
    wait_until(lambda: node.whereis(name) == pid)
    served = any_beam.eval("rpc:server_call(N, P, P, hi)", N=node.name, P=name)
    assert served == ("served", Atom("hi"))
    served = any_beam.eval("rpc:multi_server_call([N, nobody@nowhere], P, hi)", N=node.name, P=name)
    assert served == ([("served", Atom("hi"))], [Atom("nobody@nowhere")])
    node.exit(pid, Atom("kill"))
    wait_until(lambda: node.whereis(name) is None)


def test_pinfo(any_beam: BeamNode, node: Node) -> None:
    with node.process(name=f"p{secrets.token_hex(5)}") as process:
        source = "rpc:pinfo(P, registered_name)"
        name = Atom(process.name or "")
        assert any_beam.eval(source, P=process.pid) == (Atom("registered_name"), name)
        assert (Atom("registered_name"), name) in any_beam.eval("rpc:pinfo(P)", P=process.pid)
    assert any_beam.eval("rpc:pinfo(P)", P=process.pid) == "undefined"


# --- the server itself, as C-nodes use it


def test_rex_answers_c_nodes(any_beam: BeamNode, node: Node, functions: Functions) -> None:
    source = (
        "{rex, N} ! {self(), {call, M, F, A, L}}, "
        "receive {rex, Answer} -> Answer after 10000 -> timeout end"
    )

    def call(module: str, function: str, *args: Any, leader: str = "user") -> Any:
        bindings: dict[str, Any] = {"M": Atom(module), "F": Atom(function), "A": [*args]}
        return any_beam.eval(source, N=node.name, L=Atom(leader), **bindings)

    assert call("math", "sqrt", 16) == 4.0
    assert call("math", "sqrt", 16, leader="send_stdout_to_caller") == 4.0
    undef: Any = (Atom("undef"), [(Atom("lists"), Atom("sum"), [], [])])
    assert call("lists", "sum") == (BADRPC, (EXIT, undef))
    assert call(MODULE, "no_form")[0] == BADRPC


def test_rex_answers_for_a_process_that_is_killed(
    any_beam: BeamNode, node: Node, functions: Functions
) -> None:
    call = any_beam.start_eval(
        "gen_server:call({rex, N}, {call, M, wait, [], group_leader()}, infinity)",
        N=node.name,
        M=Atom(MODULE),
    )
    functions.began.wait(PATIENCE)
    pids = any_beam.eval("rpc:call(N, erlang, processes, [])", N=node.name)
    mfa = (Atom("initial_call"), (Atom(MODULE), Atom("wait"), 0))
    source = "rpc:call(N, erlang, process_info, [P, initial_call])"
    pid = next(p for p in pids if any_beam.eval(source, N=node.name, P=p) == mfa)
    any_beam.eval("exit(P, enough)", P=pid)
    assert call.result(PATIENCE) == (BADRPC, (EXIT, Atom("enough")))
    functions.go.set()


def test_rex_passes_messages_on(any_beam: BeamNode, node: Node) -> None:
    with node.process(name=f"p{secrets.token_hex(5)}") as process:
        name = Atom(process.name or "")
        any_beam.eval("{rex, N} ! {self(), {send, P, hi}}", N=node.name, P=name)
        sender, message = process.receive(timeout=PATIENCE)
        assert (sender.node, message) == (any_beam.name, "hi")
    answer = any_beam.eval(
        "{rex, N} ! {self(), {send, nobody, hi}}, receive M -> M after 10000 -> timeout end",
        N=node.name,
    )
    assert answer == (Atom("rex"), node.name, (Atom("nonexisting_name"), Atom("nobody")))


def test_rex_tells_its_features(any_beam: BeamNode, node: Node) -> None:
    source = "{rex, N} ! {self(), features_request}, receive M -> M after 10000 -> timeout end"
    expected = (Atom("features_reply"), node.name, [Atom("erpc")])
    assert any_beam.eval(source, N=node.name) == expected
    assert any_beam.eval(source, N=Atom(any_beam.name))[2] == expected[2]


def test_rex_ignores_what_it_does_not_know(
    any_beam: BeamNode, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert node.ping(any_beam.name)
    caplog.clear()
    any_beam.eval(
        "[{rex, N} ! M || M <- [hi, {}, {self()}, {self(), {call}}, {self(), {call, 1, 2}},"
        " {'$gen_call', {self(), make_ref()}, hi}, {'$gen_call', x, {call, m, f, [], user}},"
        " {'$gen_cast', hi}, {not_a_pid, features_request}, {self(), {sbcast, 1}}]]",
        N=node.name,
    )
    assert any_beam.eval("rpc:block_call(N, math, sqrt, [16])", N=node.name) == 4.0
    assert not caplog.records
    # What is no call at all fails as it would in Erlang.
    source = 'gen_server:call({rex, N}, {call, <<"math">>, sqrt, [16], user})'
    assert any_beam.eval(source, N=node.name)[1][1][0] == "badarg"


# --- what a guarded node allows


@pytest.mark.parametrize(
    "source",
    [
        "rpc:call(N, os, getpid, [])",
        "rpc:block_call(N, os, getpid, [])",
        "rpc:call(N, erlang, apply, [os, getpid, []])",
        "rpc:call(N, erlang, apply, [fun os:getpid/0, []])",
        "hd(element(1, rpc:multicall([N], os, getpid, [])))",
        "rpc:yield(rpc:async_call(N, os, getpid, []))",
        "gen_server:call({rex, N}, {call, os, getpid, [], user})",
        "{rex, N} ! {self(), {call, os, getpid, [], user}}, receive {rex, A} -> A end",
        "try erpc:call(N, os, getpid, []) catch _:{_, R, S} -> {badrpc, {'EXIT', {R, S}}} end",
        f"{{P, R}} = spawn_monitor(N, os, getpid, []), {DOWN_AS_BADRPC}",
        f"{{P, R}} = spawn_monitor(N, erlang, apply, [os, getpid, []]), {DOWN_AS_BADRPC}",
        f"P = proc_lib:spawn(N, os, getpid, []), R = monitor(process, P), {DOWN_AS_BADRPC}",
    ],
)
def test_no_way_around_the_guard(
    any_beam: BeamNode, epmd: Epmd, cookie: str, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    with Node(name, cookie=cookie, allow=["math"]) as node:
        assert any_beam.eval("rpc:call(N, math, sqrt, [16])", N=node.name) == 4.0
        badrpc, (_, reason) = any_beam.eval(source, N=node.name)
        assert badrpc == BADRPC
        if reason != "noproc":  # it was gone before the monitor came
            assert reason[0][Atom("__struct__")] == "Elixir.SnakeBridge.NotAllowedError"
        for tool in (
            "rpc:call(N, erlang, node, []) =:= N",
            "lists:member(rex, rpc:call(N, erlang, registered, []))",
            "{badrpc, {'EXIT', {undef, _}}} = rpc:call(N, observer_backend, sys_info, []), true",
        ):
            assert any_beam.eval(tool, N=node.name)


def test_no_cast_around_the_guard(
    any_beam: BeamNode, epmd: Epmd, cookie: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    with Node(name, cookie=cookie, allow=["math"]) as node:
        for source in (
            "rpc:cast(N, os, getpid, [])",
            "erpc:cast(N, os, getpid, [])",
            "gen_server:cast({rex, N}, {cast, os, getpid, [], user})",
        ):
            caplog.clear()
            any_beam.eval(source, N=node.name)
            wait_until(lambda: "Module os may not be called" in caplog.text)
