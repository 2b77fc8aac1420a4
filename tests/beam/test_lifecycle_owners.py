"""Owners: on any node of the cluster, dead or out of reach, dying at whatever moment."""

from __future__ import annotations

import functools
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from pynode.terms import Atom, Pid
from pynode.testing import wait_until
from tests.beam.asking import (
    ask,
    call,
    events,
    fails,
    is_there,
    make,
    open_session,
    owned_by,
    reason,
    send,
    sessions,
    start,
    wait_for_events,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.testing import BeamNode, PynodeProcess, Runtime

OK = Atom("ok")


@pytest.fixture
def key() -> str:
    """What the events of this test are noted under."""
    return secrets.token_hex(5)


@pytest.fixture
def start_another(
    any_runtime: Runtime, start_beam: Callable[..., BeamNode]
) -> Callable[..., BeamNode]:
    """As `start_beam`, of the runtime that this test runs with."""
    return functools.partial(start_beam, runtime=any_runtime)


@pytest.fixture
def third(start_another: Callable[..., BeamNode]) -> BeamNode:
    """A node that the Python node has never heard of."""
    return start_another()


def open_for(
    beam: BeamNode, python: PynodeProcess, name: str, owner: Pid, **settings: object
) -> Any:
    return ask(beam, python, Atom("open_session"), name, owner, settings)


def dead(beam: BeamNode) -> Pid:
    """Return the pid of a process that has ended."""
    pid: Pid = beam.eval(
        "{P, R} = spawn_monitor(fun() -> ok end), receive {_, R, _, _, _} -> P end"
    )
    return pid


# --- monitored, on their own nodes


def test_no_ref_is_there_before_its_owner_is_monitored(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    watchers = any_beam.eval(
        "Me = self(), [begin spawn(fun() ->"
        "  {ok, _} = gen_server:call({snakebridge, Node}, Request, infinity),"
        "  {monitored_by, By} = process_info(self(), monitored_by),"
        "  Me ! {by, [P || P <- By, is_pid(P), node(P) =:= Node]} end),"
        " receive {by, By} -> length(By) end end || _ <- lists:seq(1, 200)]",
        Node=Atom(module_pynode.name),
        Request=call("builtins.object"),
        timeout=60.0,
    )
    assert watchers == [1] * 200


def test_plain_values_make_neither_session_nor_monitor(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    owner = any_beam.process()
    for _ in range(3):
        make(owner, module_pynode, "math.sqrt", 16)
    watched = "[P || P <- element(2, process_info(self(), monitored_by)), node(P) =:= Node]"
    assert owner.eval(watched, Node=Atom(module_pynode.name)) == []
    assert owned_by(any_beam, module_pynode, owner.pid) == []
    assert fails(ask(owner, module_pynode, Atom("session"), owner.pid))["reason"] == "unknown"
    make(owner, module_pynode, "builtins.object")
    assert len(owner.eval(watched, Node=Atom(module_pynode.name))) == 1
    owner.exit()


def test_a_released_session_leaves_no_monitor(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    owner = any_beam.process()
    watched = "[P || P <- element(2, process_info(self(), monitored_by)), node(P) =:= Node]"
    for _ in range(20):
        name = make(owner, module_pynode, "builtins.object")["session_id"]
        assert ask(owner, module_pynode, Atom("release_session"), name) == (OK, 1)
        assert owner.eval(watched, Node=Atom(module_pynode.name)) == []
    owner.exit()


def test_an_owner_on_a_third_node_is_monitored_there(
    any_beam: BeamNode, module_pynode: PynodeProcess, third: BeamNode, key: str
) -> None:
    owner = third.process()
    assert open_for(any_beam, module_pynode, key, owner.pid) == OK
    watched = "[P || P <- element(2, process_info(self(), monitored_by)), node(P) =:= Node]"
    wait_until(lambda: owner.eval(watched, Node=Atom(module_pynode.name)))
    ref = make(any_beam, module_pynode, "Thing", key, session_id=key)
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["freed thing"])
    assert reason(any_beam, module_pynode, ref) == "owner_down"


# --- dead or out of reach before they are monitored


@pytest.mark.parametrize("where", ["caller", "third"])
def test_an_owner_that_is_dead_already_ends_the_session_at_once(
    any_beam: BeamNode, module_pynode: PynodeProcess, third: BeamNode, where: str, key: str
) -> None:
    owner = dead(third if where == "third" else any_beam)
    assert open_for(any_beam, module_pynode, key, owner) == OK
    wait_until(lambda: key not in sessions(any_beam, module_pynode))
    answer = ask(any_beam, module_pynode, *call("Thing", key, session_id=key))
    assert fails(answer)["reason"] == "owner_down"
    assert owned_by(any_beam, module_pynode, owner) == []


def test_a_dead_owner_and_a_living_one(
    any_beam: BeamNode, module_pynode: PynodeProcess, third: BeamNode, key: str
) -> None:
    living, gone = any_beam.process(), dead(third)
    for owner in (gone, living.pid, gone):
        open_for(any_beam, module_pynode, key, owner)
    if key not in sessions(any_beam, module_pynode):
        # The first one was found dead before the second came; then the third was all there was.
        open_for(any_beam, module_pynode, key, living.pid)
    wait_until(lambda: sessions(any_beam, module_pynode)[key]["owners"] == [living.pid])
    living.exit()
    wait_until(lambda: key not in sessions(any_beam, module_pynode))


@pytest.mark.parametrize("state", ["killed", "never there"])
def test_an_owner_on_a_node_that_cannot_be_reached_gets_no_session(
    any_beam: BeamNode, module_pynode: PynodeProcess, third: BeamNode, state: str, key: str
) -> None:
    owner = third.process().pid
    if state == "killed":
        third.kill()
    else:
        owner = Pid(Atom(f"nobody{key}@127.0.0.1"), owner.id, owner.serial, owner.creation)
    error = fails(open_for(any_beam, module_pynode, key, owner))
    assert error["struct"] == "NodeUnavailableError"
    assert owned_by(any_beam, module_pynode, owner) == []
    assert fails(ask(any_beam, module_pynode, Atom("session"), key))["reason"] == "unknown"


def test_an_owner_of_an_incarnation_that_is_gone(
    any_beam: BeamNode,
    module_pynode: PynodeProcess,
    third: BeamNode,
    start_another: Callable[..., BeamNode],
    key: str,
) -> None:
    owner = third.process()
    assert open_for(any_beam, module_pynode, key, owner.pid) == OK
    ref = make(any_beam, module_pynode, "Thing", key, session_id=key)
    third.kill()
    again = start_another(third.name)
    wait_until(lambda: key not in sessions(any_beam, module_pynode))
    assert reason(any_beam, module_pynode, ref) == "owner_down"
    # Whoever names the old process now names nobody, though the node is there.
    wait_until(lambda: open_for(any_beam, module_pynode, key, owner.pid) == OK)
    wait_until(lambda: key not in sessions(any_beam, module_pynode))
    assert open_for(any_beam, module_pynode, key, again.process().pid) == OK
    assert len(sessions(any_beam, module_pynode)[key]["owners"]) == 1
    again.kill()


# --- lost


def test_a_connection_that_is_lost_takes_the_owners_behind_it_along_and_no_others(
    any_beam: BeamNode, module_pynode: PynodeProcess, third: BeamNode, key: str
) -> None:
    far, near = third.process(), any_beam.process()
    for owner in (far, near):
        assert open_for(any_beam, module_pynode, f"{key}{owner.pid.node}", owner.pid) == OK
        assert open_for(any_beam, module_pynode, f"{key} shared", owner.pid) == OK
    ref = make(any_beam, module_pynode, "Thing", key, session_id=f"{key}{far.pid.node}")
    own = make(far, module_pynode, "Thing", key, "own")
    third.eval("true = erlang:disconnect_node(Node)", Node=Atom(module_pynode.name))
    wait_for_events(any_beam, module_pynode, key, ["freed thing", "freed own"])
    assert {reason(any_beam, module_pynode, gone) for gone in (ref, own)} == {"owner_down"}
    left = sessions(any_beam, module_pynode)
    assert left[f"{key} shared"]["owners"] == [near.pid]
    assert left[f"{key}{near.pid.node}"]["owners"] == [near.pid]
    # The process is still there, and may begin anew.
    assert reason(far, module_pynode, ref) == "owner_down"
    assert is_there(far, module_pynode, make(far, module_pynode, "Thing", key))
    far.exit()
    near.exit()


def test_owners_on_three_nodes_share_a_session(
    any_beam: BeamNode,
    module_pynode: PynodeProcess,
    third: BeamNode,
    start_another: Callable[..., BeamNode],
    key: str,
) -> None:
    fourth = start_another()
    owners = [beam.process() for beam in (any_beam, third, fourth)]
    for owner in owners:
        assert open_session(owner, module_pynode, key) == key
    ref = make(owners[0], module_pynode, "Thing", key, session_id=key)
    third.kill()
    wait_until(lambda: len(sessions(any_beam, module_pynode)[key]["owners"]) == 2)
    owners[0].exit()
    wait_until(lambda: sessions(any_beam, module_pynode)[key]["owners"] == [owners[2].pid])
    assert is_there(owners[2], module_pynode, ref)
    fourth.eval("true = erlang:disconnect_node(Node)", Node=Atom(module_pynode.name))
    wait_for_events(any_beam, module_pynode, key, ["freed thing"])
    assert reason(any_beam, module_pynode, ref) == "owner_down"


# --- dying at whatever moment


@pytest.mark.parametrize("named", [False, True])
def test_an_owner_that_dies_while_its_first_object_is_made(
    any_beam: BeamNode, module_pynode: PynodeProcess, *, named: bool, key: str
) -> None:
    owner = any_beam.process()
    options = {"session_id": key} if named else {}
    start(owner, module_pynode, *call("hold", key, **options))
    wait_for_events(any_beam, module_pynode, key, ["holding"])
    # It has no session yet, so nobody monitors it.
    owner.exit()
    wait_until(lambda: not any_beam.eval("is_process_alive(P)", P=owner.pid))
    make(any_beam, module_pynode, "open_gate", key)
    wait_for_events(any_beam, module_pynode, key, ["freed held"])
    wait_until(lambda: not owned_by(any_beam, module_pynode, owner.pid))
    assert key not in sessions(any_beam, module_pynode)


def test_an_owner_that_dies_while_its_call_is_queued_behind_anothers(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    keeper, owner = any_beam.process(), any_beam.process()
    open_session(keeper, module_pynode, key)
    first = start(keeper, module_pynode, *call("hold", key, session_id=key))
    wait_for_events(any_beam, module_pynode, key, ["holding"])
    # The session lives on, and so does the call: it may be meant to be carried out.
    send(owner, module_pynode, call("note", key, "queued", session_id=key))
    owner.exit()
    make(any_beam, module_pynode, "open_gate", key)
    assert first.result(30)[0] == "ok"
    wait_for_events(any_beam, module_pynode, key, ["queued"])
    keeper.exit()


@pytest.mark.parametrize("request_", ["session", "refs"])
def test_an_owner_that_dies_while_its_objects_are_released(
    any_beam: BeamNode, module_pynode: PynodeProcess, request_: str, key: str
) -> None:
    count = 3_000
    owner = any_beam.process()
    refs = make(owner, module_pynode, "slow_ones", key, count)
    name = refs[0]["session_id"]
    if request_ == "session":
        released = start(owner, module_pynode, Atom("release_session"), name)
    else:
        released = start(owner, module_pynode, Atom("release"), refs[: count // 2])
    wait_for_events(any_beam, module_pynode, key, ["destroying"])
    # The answer does not wait for the destructors, the first of which is at the gate.
    assert released.result(30) == (OK, count if request_ == "session" else count // 2)
    owner.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))
    gone = [reason(any_beam, module_pynode, ref) for ref in (refs[0], refs[-1])]
    assert gone == (
        ["session_released"] * 2 if request_ == "session" else ["released", "owner_down"]
    )
    make(any_beam, module_pynode, "open_gate", key)
    wait_for_events(any_beam, module_pynode, key, (f"destroy {n}" for n in range(count)))
    destroyed = [e for e in events(any_beam, module_pynode, key) if e != "destroying"]
    assert len(destroyed) == count, "each of them once"


# --- given away


def test_a_giver_that_dies_right_after_giving(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    taker = any_beam.process()
    for _ in range(50):
        giver = any_beam.process()
        name = make(giver, module_pynode, "builtins.object")["session_id"]
        giver.start_eval(
            "gen_server:send_request({snakebridge, Node}, {give_session, Id, self(), To}),"
            "exit(kill)",
            Node=Atom(module_pynode.name),
            Id=name,
            To=taker.pid,
        )
        wait_until(lambda: sessions(any_beam, module_pynode)[name]["owners"] == [taker.pid])  # noqa: B023
    assert len(owned_by(any_beam, module_pynode, taker.pid)) == 50
    taker.exit()
    wait_until(lambda: not owned_by(any_beam, module_pynode, taker.pid))


@pytest.mark.parametrize("where", ["caller", "third"])
def test_a_session_that_is_given_to_the_dead_ends(
    any_beam: BeamNode, module_pynode: PynodeProcess, third: BeamNode, where: str, key: str
) -> None:
    taker = dead(third if where == "third" else any_beam)
    giver = any_beam.process()
    open_session(giver, module_pynode, key)
    ref = make(giver, module_pynode, "Thing", key, session_id=key)
    assert ask(giver, module_pynode, Atom("give_session"), key, giver.pid, taker) == OK
    wait_for_events(any_beam, module_pynode, key, ["freed thing"])
    assert reason(any_beam, module_pynode, ref) == "owner_down"
    giver.exit()


def test_a_taker_that_dies_while_it_is_given_a_session(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    for _ in range(30):
        giver, taker = any_beam.process(), any_beam.process()
        name = make(giver, module_pynode, "builtins.object")["session_id"]
        answer = start(giver, module_pynode, Atom("give_session"), name, giver.pid, taker.pid)
        taker.exit()
        assert answer.result(30) == OK
        wait_until(lambda: name not in sessions(any_beam, module_pynode))  # noqa: B023
        giver.exit()


def test_a_session_is_given_to_a_third_node_and_ends_with_it(
    any_beam: BeamNode, module_pynode: PynodeProcess, third: BeamNode, key: str
) -> None:
    giver, taker = any_beam.process(), third.process()
    open_session(giver, module_pynode, key)
    ref = make(giver, module_pynode, "Thing", key, session_id=key)
    assert ask(giver, module_pynode, Atom("give_session"), key, giver.pid, taker.pid) == OK
    giver.exit()
    wait_until(lambda: not any_beam.eval("is_process_alive(P)", P=giver.pid))
    assert is_there(taker, module_pynode, ref)
    third.kill()
    wait_for_events(any_beam, module_pynode, key, ["freed thing"])
    assert reason(any_beam, module_pynode, ref) == "owner_down"


def test_a_session_that_cannot_be_given_stays(
    any_beam: BeamNode, module_pynode: PynodeProcess, third: BeamNode, key: str
) -> None:
    giver, stranger, taker = any_beam.process(), any_beam.process(), third.process()
    open_session(giver, module_pynode, key)
    third.kill()
    answer = ask(giver, module_pynode, Atom("give_session"), key, giver.pid, taker.pid)
    assert fails(answer)["struct"] == "NodeUnavailableError"
    answer = ask(giver, module_pynode, Atom("give_session"), key, stranger.pid, giver.pid)
    assert fails(answer)["reason"] == "not_owner"
    assert sessions(any_beam, module_pynode)[key]["owners"] == [giver.pid]
    assert owned_by(any_beam, module_pynode, taker.pid) == []
    giver.exit()
    stranger.exit()


def test_what_was_given_away_is_no_longer_its_givers(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    giver, taker = any_beam.process(), any_beam.process()
    first = make(giver, module_pynode, "builtins.object")
    name = first["session_id"]
    assert ask(giver, module_pynode, Atom("give_session"), name, giver.pid, taker.pid) == OK
    second = make(giver, module_pynode, "builtins.object")
    assert second["session_id"] != name
    giver.exit()
    wait_until(lambda: not is_there(any_beam, module_pynode, second))
    assert is_there(any_beam, module_pynode, first)
    taker.exit()


def test_owners_that_come_and_go_while_a_session_is_used(
    any_beam: BeamNode, module_pynode: PynodeProcess, third: BeamNode, key: str
) -> None:
    """As long as there is one owner at each moment, the session lives."""
    keeper = any_beam.process()
    open_session(keeper, module_pynode, key)
    ref = make(keeper, module_pynode, "Counter", session_id=key)
    using = keeper.start_eval(
        "[{ok, _} = gen_server:call({snakebridge, Node}, Request) || _ <- lists:seq(1, 300)], ok",
        Node=Atom(module_pynode.name),
        Request=(Atom("method"), ref, "step", [], {}),
    )
    for beam in (any_beam, third) * 10:
        co_owner = beam.process()
        assert open_session(co_owner, module_pynode, key) == key
        co_owner.exit()
    assert using.result(60) == OK
    wait_until(lambda: sessions(any_beam, module_pynode)[key]["owners"] == [keeper.pid])
    keeper.exit()
    wait_until(lambda: key not in sessions(any_beam, module_pynode))
