"""What has broken a node once: odd exceptions, huge integers, ways round ``--allow``."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from pynode.terms import Atom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode, PynodeProcess

#: Python that raises exceptions which may not be looked at.
ODD = [
    "type('M', (type,), {'__getattribute__': lambda s, n: 1/0})('E', (Exception,), {})('x')",
    "type('E', (Exception,), {'__class__': property(lambda s: 1/0)})('x')",
    "type('E', (Exception,), {'__str__': lambda s: 1/0, '__repr__': lambda s: 1/0})('x')",
]
RAISE = "(_ for _ in ()).throw"


@pytest.fixture
def name(any_beam: BeamNode, module_pynode: PynodeProcess) -> Iterator[Atom]:
    """The name of a node which must be none the worse afterwards."""
    lost = f"lost{secrets.token_hex(5)}"
    any_beam.eval(
        "net_kernel:connect_node(N), P = spawn(fun() -> monitor_node(N, true), "
        "receive {nodedown, N} -> ok; stop -> exit(normal) end, receive stop -> ok end end), "
        "register(L, P)",
        N=Atom(module_pynode.name),
        L=Atom(lost),
    )
    yield Atom(module_pynode.name)
    state = "{status, S} = process_info(whereis(L), status), {whereis(L) ! stop, S}, ok"
    assert any_beam.eval("erpc:call(N, math, sqrt, [16])", N=Atom(module_pynode.name)) == 4.0
    assert any_beam.eval(state, L=Atom(lost)) == Atom("ok")


@pytest.mark.parametrize("odd", ODD)
def test_exceptions_that_may_not_be_looked_at(any_beam: BeamNode, name: Atom, odd: str) -> None:
    code = f"{RAISE}({odd})"
    request: Any = (Atom("call"), "builtins", "eval", [code], {})
    source = "[gen_server:call({snakebridge, N}, R, 10000) || _ <- [1, 2, 3]]"
    for answer in any_beam.eval(source, N=name, R=request):
        assert answer[0] == Atom("error")
    source = (
        "[begin {P, M} = spawn_monitor(N, builtins, eval, [C]), "
        "receive {'DOWN', M, _, P, Why} -> Why after 10000 -> timeout end end || _ <- [1, 2, 3]]"
    )
    assert Atom("timeout") not in any_beam.eval(source, N=name, C=code)
    assert any_beam.eval(
        "element(1, catch erpc:call(N, builtins, eval, [C], 10000))", N=name, C=code
    )


def test_integers_up_to_what_a_beam_takes(any_beam: BeamNode, name: Atom) -> None:
    largest = "(1 << 4194240) - 1"
    half = "(1 bsl 4194239)"
    source = f"erpc:call(N, builtins, eval, [C]) =:= {half} - 1 + {half}"
    assert any_beam.eval(source, N=name, C=largest)
    source = "try erpc:call(N, builtins, eval, [C]) catch error:{exception, E, _} -> E end"
    for code in ("1 << 4194240", "-(1 << 40000000)"):
        error = any_beam.eval(source, N=name, C=code)
        assert "too large for a BEAM" in error[Atom("message")]
        request: Any = (Atom("call"), "builtins", "eval", [code], {})
        answer = any_beam.eval("gen_server:call({snakebridge, N}, R)", N=name, R=request)
        assert "too large for a BEAM" in answer[1][Atom("message")]


def test_arguments_that_are_nested_too_deeply(any_beam: BeamNode, name: Atom) -> None:
    source = (
        "D = lists:foldl(fun(_, A) -> [A] end, [], lists:seq(1, 10001)), "
        "catch erpc:call(N, builtins, len, [D], 10000)"
    )
    assert any_beam.eval(source, N=name)[1][0] == (Atom("erpc"), Atom("system_limit"))


def test_messages_to_rex_inside_each_other(any_beam: BeamNode, name: Atom) -> None:
    source = (
        "{rex, N} ! {self(), lists:foldl(fun(_, M) -> {send, rex, M} end, "
        "{send, nobody, hello}, lists:seq(1, 3000))}, erpc:call(N, math, sqrt, [16], 20000)"
    )
    assert any_beam.eval(source, N=name) == 4.0


def test_a_function_that_is_cancelled(any_beam: BeamNode, name: Atom) -> None:
    code = f"{RAISE}(__import__('asyncio').CancelledError())"
    source = "catch erpc:call(N, builtins, eval, [C], 10000)"
    assert any_beam.eval(source, N=name, C=code)[1] == (Atom("exception"), Atom("shutdown"))


def test_the_services_of_a_node_keep_their_names(any_beam: BeamNode, name: Atom) -> None:
    source = "catch erpc:call(N, erlang, unregister, [S], 10000)"
    for service in ("snakebridge", "rex", "net_kernel"):
        reason = any_beam.eval(source, N=name, S=Atom(service))[1][0]
        assert reason[:2] == (Atom("exception"), Atom("notsup"))


@pytest.mark.parametrize(
    "path",
    ["__path__.append", "__getstate__", "__setattr__", "__dict__.keys", "__builtins__.get",
     "loads.__globals__.get", "__loader__.load_module", "__getattribute__", "__annotations__"],
)  # fmt: skip
def test_no_reserved_name_leads_out(
    beam: BeamNode, start_pynode: Callable[..., PynodeProcess], path: str
) -> None:
    guarded = start_pynode(None, "--allow", "json")
    name = Atom(guarded.name)
    source = "try erpc:call(N, json, P, [A]) catch error:{exception, E, _} -> E end"
    error = beam.eval(source, N=name, P=Atom(path), A="x")
    assert error[Atom("__struct__")] == Atom("Elixir.SnakeBridge.NotAllowedError")
    assert beam.eval("erpc:call(N, json, loads, [A])", N=name, A="[1]") == [1]
