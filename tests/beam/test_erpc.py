"""`erpc` as OTP documents it, asked of a Python node: values, each class of error, the timeouts."""

from __future__ import annotations

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
from pynode.testing.beam import BeamError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pynode.terms import Pid
    from pynode.testing import BeamNode, Epmd

PATIENCE = 10.0
MODULE = "functions_of_test_erpc"


class Functions(types.ModuleType):
    """A module of functions that the tests call, and what these have noted."""

    def __init__(self) -> None:
        super().__init__(MODULE)
        self.seen: list[Any] = []
        self.go = threading.Event()
        self.began = threading.Event()

    def note(self, value: Any) -> Any:
        self.seen.append(value)
        return value

    def myself(self) -> Pid:
        process = current_process()
        assert process is not None
        return process.pid

    def wait(self) -> str:
        self.began.set()
        self.go.wait(PATIENCE)
        return "done"

    def wait_for_message(self) -> Any:
        process = current_process()
        assert process is not None
        self.began.set()
        return process.receive(timeout=PATIENCE)

    def fail(self, text: str) -> None:
        raise LookupError(text)

    def call_back(self, peer: str, function: str, term: Any) -> Any:
        """Have Erlang raise, and raise what comes of it."""
        process = current_process()
        assert process is not None
        return process.node.erpc(peer, "erlang", function, [term])

    def exit(self, reason: Any) -> None:
        raise ExitError("on purpose", reason=reason)

    def error(self, reason: Any) -> None:
        raise ErlangError("on purpose", reason=reason)

    async def soon(self, value: Any) -> Any:
        return value

    async def fail_soon(self) -> None:
        raise LookupError("soon")

    def no_form(self) -> Any:
        return {"in": [object()]}


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Functions:
    module = Functions()
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


@pytest.fixture
def node(epmd: Epmd, cookie: str) -> Iterator[Node]:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        yield node


def failure(beam: BeamNode, source: str, **bindings: Any) -> tuple[str, Any]:
    """Return class and reason of what an evaluation fails with."""
    with pytest.raises(BeamError) as caught:
        beam.eval(source, **bindings)
    return caught.value.error_class, caught.value.reason


def call_failure(beam: BeamNode, node: Node, function: str, *args: Any) -> tuple[str, Any]:
    return failure(
        beam, "erpc:call(N, M, F, A)", N=node.name, M=Atom(MODULE), F=Atom(function), A=[*args]
    )


# --- values


def test_a_value(any_beam: BeamNode, node: Node) -> None:
    assert any_beam.eval("erpc:call(N, math, sqrt, [16])", N=node.name) == 4.0
    assert any_beam.eval("erpc:call(N, math, sqrt, [16], 5000)", N=node.name) == 4.0
    assert (
        any_beam.eval('erpc:call(N, \'os.path\', join, [<<"a">>, <<"b">>])', N=node.name) == "a/b"
    )
    assert any_beam.eval("erpc:call(N, os, 'path.join', [<<\"a\">>])", N=node.name) == "a"


def test_a_fun_of_a_module(any_beam: BeamNode, node: Node) -> None:
    assert any_beam.eval("is_float(erpc:call(N, fun time:time/0))", N=node.name)
    assert any_beam.eval("erpc:call(N, erlang, apply, [fun math:sqrt/1, [16]])", N=node.name) == 4.0
    assert any_beam.eval("erpc:call(N, erlang, apply, [math, sqrt, [16]])", N=node.name) == 4.0


def test_a_coroutine_is_awaited(any_beam: BeamNode, node: Node, functions: Functions) -> None:
    source = "erpc:call(N, M, soon, [5])"
    assert any_beam.eval(source, N=node.name, M=Atom(functions.__name__)) == 5
    error_class, reason = call_failure(any_beam, node, "fail_soon")
    assert error_class == "error"
    assert reason[1][Atom("type")] == "LookupError"


def test_it_is_a_process(any_beam: BeamNode, node: Node, functions: Functions) -> None:
    pid = any_beam.eval("erpc:call(N, M, myself, [])", N=node.name, M=Atom(functions.__name__))
    assert pid.node == node.name
    # By the time of the answer it has exited.
    assert any_beam.eval("erpc:call(N, erlang, is_process_alive, [P])", N=node.name, P=pid) is False


def test_the_requests_that_are_answered_later(any_beam: BeamNode, node: Node) -> None:
    assert (
        any_beam.eval("erpc:receive_response(erpc:send_request(N, math, sqrt, [16]))", N=node.name)
        == 4.0
    )
    assert any_beam.eval(
        "R = erpc:send_request(N, math, sqrt, [16]), erpc:wait_response(R, 10000)", N=node.name
    ) == (Atom("response"), 4.0)
    assert any_beam.eval(
        "R = erpc:send_request(N, math, sqrt, [16]),"
        "receive M -> erpc:check_response(M, R) after 10000 -> timeout end",
        N=node.name,
    ) == (Atom("response"), 4.0)
    assert any_beam.eval(
        "C0 = erpc:reqids_new(), C1 = erpc:send_request(N, math, sqrt, [16], one, C0),"
        "C2 = erpc:send_request(N, math, nix, [], two, C1),"
        "Next = fun(C) -> try erpc:receive_response(C, 10000, true) of {V, L, _} -> {L, V}"
        "        catch error:{{exception, undef, _}, L, _} -> {L, undef} end end,"
        "lists:sort([Next(maps:with([Id], C2)) || Id <- maps:keys(C2)])",
        N=node.name,
    ) == [(Atom("one"), 4.0), (Atom("two"), Atom("undef"))]


def test_multicall_and_multicast(
    any_beam: BeamNode, beam: BeamNode, node: Node, functions: Functions
) -> None:
    results = any_beam.eval(
        "erpc:multicall([node(), N, nobody@nowhere, B], math, sqrt, [16], 10000)",
        N=node.name,
        B=Atom(beam.name),
    )
    assert results == [
        (Atom("ok"), 4.0),
        (Atom("ok"), 4.0),
        (Atom("error"), (Atom("erpc"), Atom("noconnection"))),
        (Atom("ok"), 4.0),
    ]
    # A node that has no such function, and one that is too slow.
    assert any_beam.eval("erpc:multicall([N], math, nix, [1])", N=node.name) == [
        (
            Atom("error"),
            (Atom("exception"), Atom("undef"), [(Atom("math"), Atom("nix"), [1], [])]),
        )
    ]
    module = Atom(functions.__name__)
    assert (
        any_beam.eval("erpc:multicall([N, N], M, wait, [], 1)", N=node.name, M=module)
        == [(Atom("error"), (Atom("erpc"), Atom("timeout")))] * 2
    )
    functions.go.set()
    assert any_beam.eval("erpc:multicast([N, N], M, note, [1])", N=node.name, M=module) == "ok"
    assert any_beam.eval("erpc:cast(N, M, note, [1])", N=node.name, M=module) == "ok"
    wait_until(lambda: functions.seen == [1, 1, 1])


@pytest.mark.parametrize("option", ["always_spawn => true", "timeout => 10000"])
def test_options_of_otp_28(beam28: BeamNode, node: Node, option: str) -> None:
    source = f"erpc:call(N, math, sqrt, [16], #{{{option}}})"
    assert beam28.eval(source, N=node.name) == 4.0


# --- what is not there


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("no_such_module", "f"),
        ("math", "no_such_function"),
        ("math", "pi"),
        ("os.path", "no_such_function"),
        ("os.no_such_module", "f"),
        ("math.no_such_module", "f"),
        ("os", "path.no_such_function"),
        ("os", "path..join"),
        ("Elixir.Enum", "sum"),
        ("lists", "reverse"),
        ("erlang", "no_such_function"),
        ("erlang", "sqrt"),
        ("", "f"),
        ("..", "f"),
        ("with space", "f"),
        ("zero\0", "f"),
        (".math", "sqrt"),
        ("nil", "f"),
        ("true", "false"),
        ("math", "nil"),
        ("math", ""),
    ],
)
def test_undef(any_beam: BeamNode, node: Node, module: str, function: str) -> None:
    bindings: dict[str, Any] = {"N": node.name, "M": Atom(module), "F": Atom(function)}
    raised = failure(any_beam, "erpc:call(N, M, F, [1, [2]])", **bindings)
    # As the BEAM's own term tells it, in which nil and true are atoms, too.
    same = "R = {exception, undef, [{M, F, [1, [2]], []}]}, R"
    assert raised == ("error", any_beam.eval(same, **bindings))


def test_undef_is_that_of_a_beam(any_beam: BeamNode, beam: BeamNode, node: Node) -> None:
    for call in (
        "erpc:call(N, no_such_module, f, [1])",
        "erpc:call(N, erlang, no_such_function, [1])",
        "rpc:call(N, no_such_module, f, [1])",
    ):
        source = f"try {call} catch C:R -> {{C, R}} end"
        assert any_beam.eval(source, N=node.name) == any_beam.eval(source, N=Atom(beam.name))


def test_the_code_of_a_fun_is_where_it_was_made(any_beam: BeamNode, node: Node) -> None:
    caught = any_beam.eval(
        "F = fun() -> 1 end, try erpc:call(N, F) catch C:R -> {C, R =:= "
        "{exception, undef, [{F, [], []}]}} end",
        N=node.name,
    )
    assert caught == (Atom("error"), True)


def test_a_module_that_fails_to_load_says_why(
    any_beam: BeamNode, node: Node, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"broken_{secrets.token_hex(4)}"
    (tmp_path / f"{name}.py").write_text("import no_such_module_at_all\n")
    _, (_, reason, _) = failure(any_beam, "erpc:call(N, M, f, [])", N=node.name, M=Atom(name))
    assert reason[Atom("type")] == "ModuleNotFoundError"
    (tmp_path / f"{name}_too.py").write_text("import sys\nsys.no_such_attribute\n")
    name = Atom(f"{name}_too")
    _, (_, reason, _) = failure(any_beam, "erpc:call(N, M, f, [])", N=node.name, M=name)
    assert reason[Atom("type")] == "AttributeError"


# --- what functions raise


def test_an_exception(any_beam: BeamNode, node: Node, functions: Functions) -> None:
    error_class, reason = call_failure(any_beam, node, "fail", "oops")
    assert error_class == "error"
    exception, error, stack = reason
    assert exception == "exception"
    assert error[Atom("__struct__")] == "Elixir.SnakeBridge.PythonError"
    assert error[Atom("type")] == "LookupError"
    assert error[Atom("message")] == "oops"
    # The innermost first, and none of what is between Erlang and the function.
    assert [entry[:3] for entry in stack] == [(Atom(__name__), Atom("Functions.fail"), 2)]
    assert dict(stack[0][3]).keys() == {"file", "line"}


def test_an_exception_of_a_function_in_c(any_beam: BeamNode, node: Node) -> None:
    error_class, reason = failure(any_beam, "erpc:call(N, math, sqrt, [-1])", N=node.name)
    assert error_class == "error"
    assert reason[1][Atom("message")] == "math domain error"
    assert reason[2] == [(Atom("math"), Atom("sqrt"), 1, [])]
    # The wrong number of arguments is Python's error, which says more than undef.
    _, reason = failure(any_beam, "erpc:call(N, math, sqrt, [])", N=node.name)
    assert reason[1][Atom("type")] == "TypeError"


def test_an_exit(any_beam: BeamNode, node: Node, functions: Functions) -> None:
    assert call_failure(any_beam, node, "exit", Atom("why")) == (
        "exit",
        (Atom("exception"), Atom("why")),
    )
    source = "erpc:call(N, sys, exit, [])"
    assert failure(any_beam, source, N=node.name) == ("exit", (Atom("exception"), Atom("normal")))


def test_an_error_of_erlang(any_beam: BeamNode, node: Node, functions: Functions) -> None:
    error_class, reason = call_failure(any_beam, node, "error", (Atom("badmatch"), 1))
    assert error_class == "error"
    assert reason[:2] == (Atom("exception"), (Atom("badmatch"), 1))
    assert reason[2][0][1] == "Functions.error"


def test_what_erlang_raised_goes_back_as_it_came(
    any_beam: BeamNode, node: Node, functions: Functions
) -> None:
    def raised(function: str) -> tuple[str, Any]:
        args = [any_beam.name, function, Atom("why")]
        return call_failure(any_beam, node, "call_back", *args)

    assert raised("throw") == ("throw", Atom("why"))
    assert raised("exit") == ("exit", (Atom("exception"), Atom("why")))
    error_class, reason = raised("error")
    assert (error_class, reason[:2]) == ("error", (Atom("exception"), Atom("why")))


def test_a_result_without_an_erlang_form(
    any_beam: BeamNode, node: Node, functions: Functions
) -> None:
    error_class, (_, error, stack) = call_failure(any_beam, node, "no_form")
    assert error_class == "error"
    assert "a object" in error[Atom("message")]
    assert "{:snakebridge, node}" in error[Atom("message")]
    assert stack == [(Atom(MODULE), Atom("no_form"), 0, [])]


def test_what_a_guarded_node_does_not_allow(any_beam: BeamNode, epmd: Epmd, cookie: str) -> None:
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    with Node(name, cookie=cookie, allow=["math"]) as node:
        assert any_beam.eval("erpc:call(N, math, sqrt, [16])", N=node.name) == 4.0
        for source in (
            "erpc:call(N, os, getpid, [])",
            "erpc:call(N, fun os:getpid/0)",
            "erpc:call(N, erlang, apply, [os, getpid, []])",
            "erpc:call(N, erlang, apply, [fun os:getpid/0, []])",
        ):
            error_class, (_, error, _) = failure(any_beam, source, N=node.name)
            assert error_class == "error"
            assert error[Atom("__struct__")] == "Elixir.SnakeBridge.NotAllowedError"
            assert error[Atom("module")] == "os"
        # What is nowhere looks as it does elsewhere.
        _, reason = failure(any_beam, "erpc:call(N, observer_backend, vsn, [])", N=node.name)
        assert reason[1] == "undef"


# --- requests that are wrong


@pytest.mark.parametrize(
    "request_args",
    [
        '[make_ref(), "math", sqrt, [16]]',
        '[make_ref(), <<"math">>, sqrt, [16]]',
        "[make_ref(), math, 1, [16]]",
        "[make_ref(), math, sqrt, 16]",
        "[make_ref(), math, sqrt, [16 | 17]]",
        "[make_ref(), 5, 6, 7]",
        "[make_ref(), erlang, apply, [1, []]]",
        "[make_ref(), erlang, apply, [fun math:sqrt/1, []]]",
    ],
)
def test_badarg(any_beam: BeamNode, node: Node, request_args: str) -> None:
    reason = any_beam.eval(
        f"[R | _] = A = {request_args},"
        "Id = spawn_request(N, erpc, execute_call, A, [monitor, {reply, error_only}]),"
        "receive {'DOWN', Id, _, _, {R, error, Why, [_]}} -> Why after 10000 -> timeout end",
        N=node.name,
    )
    assert reason == "badarg"


def test_a_function_of_erpc_that_there_is_not(any_beam: BeamNode, node: Node) -> None:
    reason = any_beam.eval(
        "Id = spawn_request(N, erpc, execute_call, [x], [monitor]),"
        "receive {'DOWN', Id, _, _, Why} -> Why after 10000 -> timeout end",
        N=node.name,
    )
    assert reason == (Atom("undef"), [(Atom("erpc"), Atom("execute_call"), [Atom("x")], [])])


# --- time, and ends


def test_a_timeout(any_beam: BeamNode, node: Node, functions: Functions) -> None:
    bindings = {"N": node.name, "M": Atom(functions.__name__)}
    source = "erpc:call(N, M, wait, [], 1)"
    assert failure(any_beam, source, **bindings) == ("error", (Atom("erpc"), Atom("timeout")))
    # As on a BEAM, the function runs on; its answer finds nobody.
    functions.began.wait(PATIENCE)
    before = len(node.signals.destinations)
    functions.go.set()
    wait_until(lambda: len(node.signals.destinations) == before - 1)
    connection = node.connection(any_beam.name)
    assert connection is not None
    assert not connection.monitors
    assert any_beam.eval("erpc:call(N, math, sqrt, [16])", N=node.name) == 4.0


def test_a_caller_that_is_killed_leaves_nothing(
    any_beam: BeamNode, node: Node, functions: Functions
) -> None:
    assert any_beam.eval("net_adm:ping(N)", N=node.name) == "pong"
    before = len(node.signals.destinations)
    any_beam.eval(
        "P = spawn(fun() -> erpc:call(N, M, wait, []) end), register(to_be_killed, P)",
        N=node.name,
        M=Atom(functions.__name__),
    )
    functions.began.wait(PATIENCE)
    connection = node.connection(any_beam.name)
    assert connection is not None
    assert len(connection.monitors) == 1
    any_beam.eval("exit(whereis(to_be_killed), kill)")
    wait_until(lambda: not connection.monitors)
    functions.go.set()
    wait_until(lambda: len(node.signals.destinations) == before)
    assert node.connection(any_beam.name) is connection


def test_a_function_whose_process_is_killed(
    any_beam: BeamNode, node: Node, functions: Functions
) -> None:
    source = "erpc:call(N, M, wait_for_message, [])"
    call = any_beam.start_eval(source, N=node.name, M=Atom(functions.__name__))
    functions.began.wait(PATIENCE)
    process = next(
        p
        for p in node.signals.destinations.values()
        if p.info()["initial_call"][1] == "wait_for_message"
    )
    any_beam.eval("exit(P, kill)", P=process.pid)
    with pytest.raises(BeamError) as caught:
        call.result(PATIENCE)
    assert caught.value.error_class == "exit"
    assert caught.value.reason == (Atom("signal"), Atom("killed"))


def test_a_node_that_is_lost(
    any_beam: BeamNode, functions: Functions, epmd: Epmd, cookie: str
) -> None:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        source = "erpc:call(N, M, wait, [])"
        call = any_beam.start_eval(source, N=node.name, M=Atom(functions.__name__))
        functions.began.wait(PATIENCE)
        connection = node.connection(any_beam.name)
        assert connection is not None
        connection.close("test")
        with pytest.raises(BeamError) as caught:
            call.result(PATIENCE)
        assert caught.value.reason == (Atom("erpc"), Atom("noconnection"))
        functions.go.set()


def test_ten_thousand_at_once(any_beam: BeamNode, node: Node, functions: Functions) -> None:
    assert any_beam.eval("net_adm:ping(N)", N=node.name) == "pong"
    before = len(node.signals.destinations)
    source = (
        "Rs = [erpc:send_request(N, math, sqrt, [I * I]) || I <- lists:seq(1, 10000)],"
        "[1.0 * I || I <- lists:seq(1, 10000)] =:= [erpc:receive_response(R, 60000) || R <- Rs]"
    )
    assert any_beam.eval(source, timeout=120, N=node.name) is True
    wait_until(lambda: len(node.signals.destinations) == before)
    connection = node.connection(any_beam.name)
    assert connection is not None
    assert not connection.monitors


def test_ten_thousand_that_fail(any_beam: BeamNode, node: Node) -> None:
    source = (
        "Rs = [erpc:send_request(N, math, nix, [I]) || I <- lists:seq(1, 10000)],"
        "lists:usort([try erpc:receive_response(R, 60000) catch error:{_, Why, [_]} -> Why end"
        " || R <- Rs])"
    )
    assert any_beam.eval(source, timeout=120, N=node.name) == [Atom("undef")]


def test_slow_calls_delay_nobody(any_beam: BeamNode, node: Node, functions: Functions) -> None:
    bindings = {"N": node.name, "M": Atom(functions.__name__)}
    slow = any_beam.start_eval("erpc:multicall([N, N, N, N], M, wait, [])", **bindings)
    functions.began.wait(PATIENCE)
    for _ in range(20):
        assert any_beam.eval("erpc:call(N, math, sqrt, [16], 5000)", N=node.name) == 4.0
    functions.go.set()
    assert slow.result(PATIENCE) == [(Atom("ok"), "done")] * 4
