"""The grace period: owners whose node is lost, comes back, or does not."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from pynode.terms import Atom
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.testing import BeamNode, BeamProcess, Network, PynodeProcess, Runtime

CALL = "gen_server:call({snakebridge, Node}, Request, 30000)"
LONG = {Atom("grace_seconds"): 600}


def ask(beam: BeamNode | BeamProcess, python: PynodeProcess, *request: object) -> Any:
    term = request if len(request) > 1 else request[0]
    return beam.eval(CALL, Node=Atom(python.name), Request=term)


def put(owner: BeamProcess, python: PynodeProcess, name: str, settings: object) -> Any:
    """Open a session and put an object into it."""
    assert ask(owner, python, Atom("open_session"), name, owner.pid, settings) == Atom("ok")
    return ask(owner, python, Atom("put"), "kept", {Atom("session_id"): name})[1]


def kept(beam: BeamNode, python: PynodeProcess, ref: Any) -> Any:
    """What there is in Python, or the reason why there is nothing."""
    tag, answer = ask(beam, python, Atom("method"), ref, "__str__", [], {})
    return answer if tag == "ok" else answer["reason"]


def session(beam: BeamNode, python: PynodeProcess, name: str) -> Any:
    return ask(beam, python, Atom("sessions"))[1].get(name)


@pytest.fixture
def witness(start_beam: Callable[..., BeamNode], any_runtime: Runtime) -> BeamNode:
    """A node that nothing happens to."""
    return start_beam(runtime=any_runtime)


@pytest.fixture
def doomed(start_beam: Callable[..., BeamNode], any_runtime: Runtime) -> BeamNode:
    return start_beam(runtime=any_runtime)


@pytest.fixture
def python(start_pynode: Callable[..., PynodeProcess]) -> PynodeProcess:
    return start_pynode()


def disconnect(beam: BeamNode, python: PynodeProcess, and_then: str = "ok", **values: Any) -> None:
    """Lose the connection, do something, and wait until the Python node has called again.

    It does so for owners that it knows to be absent; that the connection is lost it logs before.
    """
    called = f"{beam.name} is connected"
    count = str(python.log).count(called)
    beam.eval(f"true = erlang:disconnect_node(N), {and_then}", N=Atom(python.name), **values)
    wait_until(lambda: str(python.log).count(called) > count)


def test_a_node_that_comes_back_finds_its_objects(
    witness: BeamNode, doomed: BeamNode, python: PynodeProcess
) -> None:
    owner = doomed.process()
    ref = put(owner, python, "graceful", LONG)
    other = doomed.process()
    lost = put(other, python, "strict", {})
    for _ in range(3):
        disconnect(doomed, python)
        # Nobody on that node says anything: the Python node connects again by itself.
        wait_until(lambda: session(witness, python, "graceful")["absent"] == [])
        assert kept(witness, python, ref) == "kept"
        wait_until(lambda: kept(witness, python, lost) == "owner_down")
    owner.exit()
    wait_until(lambda: kept(witness, python, ref) == "owner_down")


def test_an_owner_that_died_meanwhile(
    witness: BeamNode, doomed: BeamNode, python: PynodeProcess
) -> None:
    owners = [doomed.process() for _ in range(50)]
    refs = [put(owner, python, f"graceful{i}", LONG) for i, owner in enumerate(owners)]
    pids = [owner.pid for owner in owners[::2]]
    disconnect(doomed, python, "[exit(P, kill) || P <- Pids]", Pids=pids)
    wait_until(lambda: {kept(witness, python, ref) for ref in refs[::2]} == {"owner_down"})
    assert {kept(witness, python, ref) for ref in refs[1::2]} == {"kept"}


def test_another_incarnation_has_no_claim(
    witness: BeamNode,
    start_beam: Callable[..., BeamNode],
    any_runtime: Runtime,
    python: PynodeProcess,
) -> None:
    name = f"again{secrets.token_hex(5)}"
    first = start_beam(name, runtime=any_runtime)
    ref = put(first.process(), python, "graceful", LONG)
    first.kill()
    wait_until(lambda: session(witness, python, "graceful")["absent"])
    assert kept(witness, python, ref) == "kept"
    start_beam(name, runtime=any_runtime)
    wait_until(lambda: kept(witness, python, ref) == "owner_down")


def test_the_time_has_an_end(witness: BeamNode, doomed: BeamNode, python: PynodeProcess) -> None:
    brief = put(doomed.process(), python, "brief", {Atom("grace_seconds"): 1})
    long = put(doomed.process(), python, "long", LONG)
    doomed.kill()
    wait_until(lambda: kept(witness, python, brief) == "owner_down")
    assert kept(witness, python, long) == "kept"
    # What an absent owner holds can be given to one that is there.
    heir = witness.process()
    absent = session(witness, python, "long")["owners"][0]
    assert ask(heir, python, Atom("give_session"), "long", absent, heir.pid) == Atom("ok")
    assert session(witness, python, "long")["absent"] == []
    heir.exit()
    wait_until(lambda: kept(witness, python, long) == "owner_down")


def test_of_several_owners_one_is_lost(
    witness: BeamNode, doomed: BeamNode, python: PynodeProcess
) -> None:
    lost, stays = doomed.process(), witness.process()
    ref = put(lost, python, "shared", LONG)
    ask(stays, python, Atom("open_session"), "shared", stays.pid, {})
    doomed.kill()
    wait_until(lambda: session(witness, python, "shared")["absent"] == [lost.pid])
    stays.exit()
    wait_until(lambda: session(witness, python, "shared")["owners"] == [lost.pid])
    assert kept(witness, python, ref) == "kept"
    assert ask(witness, python, Atom("release_session"), "shared") == (Atom("ok"), 1)


def test_the_default_is_set_by_the_environment(
    witness: BeamNode, doomed: BeamNode, start_pynode: Callable[..., PynodeProcess]
) -> None:
    python = start_pynode(env={"SNAKEBRIDGE_GRACE_SECONDS": "600"})
    owner = doomed.process()
    ref = ask(owner, python, Atom("put"), "kept")[1]
    name = ref["session_id"]
    assert session(witness, python, name)["grace_seconds"] == 600
    disconnect(doomed, python)
    wait_until(lambda: session(witness, python, name)["absent"] == [])
    assert kept(witness, python, ref) == "kept"
    assert ask(owner, python, Atom("put"), "more")[1]["session_id"] == name


def test_a_cable_that_was_cut(
    network: Network,
    start_beam: Callable[..., BeamNode],
    start_pynode: Callable[..., PynodeProcess],
    any_runtime: Runtime,
) -> None:
    """Both sides find out by themselves, and the Python node calls again when it can."""
    # The Python nodes are the port mappers of their hosts, too.
    python, _ = (
        start_pynode(
            f"py@{host.address}",
            *("--listen", host.address, "--net-ticktime", "2"),
            prefix=host.prefix,
        )
        for host in (network.one, network.other)
    )
    near, far = (
        start_beam(
            f"{name}@{host.address}",
            runtime=any_runtime,
            listen=host.address,
            prefix=host.prefix,
            flags=["-kernel", "net_ticktime", "2"],
        )
        for name, host in (("near", network.one), ("far", network.other))
    )
    ref = put(far.process(), python, "graceful", LONG)
    network.cut()
    wait_until(lambda: session(near, python, "graceful")["absent"], 30.0)
    network.restore()
    wait_until(lambda: session(near, python, "graceful")["absent"] == [], 30.0)
    assert kept(far, python, ref) == "kept"
    far.kill()
    wait_until(lambda: session(near, python, "graceful")["absent"], 30.0)
