"""Signs of life while C code holds Python's global lock, with a `net_ticktime` of 4 seconds."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import pytest

from pynode.terms import Atom

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.testing import BeamNode, PynodeProcess, Runtime

#: Five times the time after which the BEAM takes a silent peer for lost.
SECONDS = 20
#: How long a call may sleep; fifteen times as long.
A_MINUTE = 60
#: Calls C without letting go of the lock.
HOLD_THE_LOCK = f"__import__('ctypes').PyDLL(None).sleep({SECONDS})"

needs_the_helper = pytest.mark.skipif(
    not os.environ.get("CI") and importlib.util.find_spec("pynode.dist._ticker") is None,
    reason="pynode.dist._ticker was not compiled: `make setup` does, with gcc",
)


@needs_the_helper
@pytest.mark.slow
def test_a_call_that_holds_the_global_lock_costs_no_connection(
    any_runtime: Runtime,
    start_beam: Callable[..., BeamNode],
    start_pynode: Callable[..., PynodeProcess],
) -> None:
    beam = start_beam(runtime=any_runtime, flags=["-kernel", "net_ticktime", "4"])
    python = start_pynode()
    request: Any = (Atom("call"), "builtins", "eval", [HOLD_THE_LOCK], {})
    answer = beam.eval(
        "net_kernel:connect_node(N), monitor_node(N, true), "
        "Answer = gen_server:call({snakebridge, N}, R, infinity), "
        "receive {nodedown, N} -> lost after 0 -> Answer end",
        N=Atom(python.name),
        R=request,
        timeout=SECONDS + 20,
    )
    assert answer == (Atom("ok"), 0)


@needs_the_helper
@pytest.mark.slow
@pytest.mark.timeout(2 * A_MINUTE)
def test_a_call_that_sleeps_for_a_minute_and_one_that_holds_the_lock_meanwhile(
    beam: BeamNode,
    beam28: BeamNode,
    start_beam: Callable[..., BeamNode],
    start_pynode: Callable[..., PynodeProcess],
) -> None:
    python = start_pynode(None, "--net-ticktime", "4")
    flags = ["-kernel", "net_ticktime", "4"]
    peers = [start_beam(runtime=each.runtime, flags=flags) for each in (beam, beam28)]
    source = """
        true = net_kernel:connect_node(N), monitor_node(N, true),
        Answers = [gen_server:call({snakebridge, N}, R, infinity) || R <- Rs],
        receive {nodedown, N} -> lost after 0 -> Answers end"""

    def ask(peer: BeamNode, function: str, *args: Any, module: str = "builtins") -> Any:
        # The last one shows that the connection is still of use.
        requests: list[Any] = [
            (Atom("call"), module, function, [*args], {}),
            (Atom("call"), "math", "sqrt", [16], {}),
        ]
        return peer.start_eval(source, N=Atom(python.name), Rs=requests)

    for peer in peers:  # while it can be done at once
        peer.eval("true = net_kernel:connect_node(N)", N=Atom(python.name))
    sleeping = [ask(peer, "sleep", A_MINUTE, module="time") for peer in peers]
    holding = ask(peers[0], "eval", HOLD_THE_LOCK)
    four = (Atom("ok"), 4.0)
    assert holding.result(A_MINUTE) == [(Atom("ok"), 0), four]
    assert [each.result(A_MINUTE + 20) for each in sleeping] == [[(Atom("ok"), None), four]] * 2
    assert "taken for lost" not in str(python.log)
