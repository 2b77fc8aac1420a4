"""One call at a time in a session, sessions beside each other, callbacks, coroutines."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from pynode.terms import Atom
from pynode.testing import wait_until
from tests.beam.asking import (
    SPECIMENS,
    ask,
    call,
    events,
    fails,
    info,
    is_there,
    make,
    open_session,
    sessions,
    start,
    wait_for_events,
)

if TYPE_CHECKING:
    from pynode.testing import BeamNode, PynodeProcess

OK = Atom("ok")
#: Calls a function of the specimens under session S.
PYTHON = (
    "Python = fun(F, A) -> gen_server:call({snakebridge, Node}, {call, M, F, A, #{},"
    " #{session_id => S}}, infinity) end,"
)


@pytest.fixture
def key() -> str:
    """What the events of this test are noted under."""
    return secrets.token_hex(5)


# --- order


@pytest.mark.parametrize("own_thread", [False, True])
def test_one_call_at_a_time_and_each_callers_in_their_order(
    any_beam: BeamNode, module_pynode: PynodeProcess, *, own_thread: bool, key: str
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode, own_thread=own_thread)
    counter = make(owner, module_pynode, "Counter", session_id=name)
    callers = [any_beam.process() for _ in range(5)]
    running = [
        caller.start_eval(
            "Send = fun(R) -> gen_server:send_request({snakebridge, Node}, R) end,"
            "Ids = [begin Send({call, M, note, [Key, [Who, N]], #{}, #{session_id => S}}),"
            " Send({method, Counter, step, [], #{}}) end || N <- lists:seq(1, 40)],"
            "length([V || Id <- Ids,"
            "  {reply, {ok, V}} <- [gen_server:receive_response(Id, infinity)]])",
            Node=Atom(module_pynode.name),
            M=SPECIMENS,
            S=name,
            Key=key,
            Who=number,
            Counter=counter,
        )
        for number, caller in enumerate(callers)
    ]
    assert [one.result(120) for one in running] == [40] * len(callers)
    for attribute, value in (("value", 200), ("overlaps", 0)):
        assert ask(owner, module_pynode, Atom("getattr"), counter, attribute) == (OK, value)
    noted = events(any_beam, module_pynode, key)
    for number in range(len(callers)):
        assert [n for who, n in noted if who == number] == list(range(1, 41))
    for process in (owner, *callers):
        process.exit()


def test_sessions_run_beside_each_other(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner, holders = any_beam.process(), [any_beam.process() for _ in range(20)]
    held = [start(holder, module_pynode, *call("hold", key)) for holder in holders]
    wait_for_events(any_beam, module_pynode, key, ["holding"] * len(holders))
    # One process in two sessions, too.
    name = open_session(owner, module_pynode)
    assert make(owner, module_pynode, "math.sqrt", 4, session_id=name) == 2.0
    make(owner, module_pynode, "open_gate", key)
    assert all(one.result(30)[0] == "ok" for one in held)
    for process in (owner, *holders):
        process.exit()


# --- callbacks


def test_callbacks_three_levels_deep_with_objects(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    """Elixir calls Python calls Elixir ... each time with an object, in one session."""
    owner = any_beam.process()
    name = open_session(owner, module_pynode)
    thing = make(owner, module_pynode, "Counter", session_id=name)
    made = owner.eval(
        PYTHON + "Down = fun Down(0, #{id := Id}) ->"
        "    {ok, V} = gen_server:call({snakebridge, Node}, {method, Id, step, [], #{}}), V;"
        "  Down(N, Ref) -> {ok, V} = Python(apply, [fun(R) -> {N, Down(N - 1, R)} end, Ref]), V"
        " end, Down(3, Thing)",
        Node=Atom(module_pynode.name),
        M=SPECIMENS,
        S=name,
        Thing=thing,
    )
    assert made == (3, (2, (1, 1)))
    # What each level was sent lives in the session, as long as that.
    assert ask(owner, module_pynode, Atom("getattr"), thing, "value") == (OK, 1)
    owner.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))


def test_errors_pass_through_all_levels(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode)
    answer = owner.eval(
        PYTHON + "Down = fun Down(0) -> {error, E} = Python(first, [-1]), error(E);"
        "  Down(N) -> case Python(swallow, [Key, fun(_) -> Down(N - 1) end, N]) of"
        "    {ok, V} -> V; {error, E} -> error({level, N, maps:get(type, E)}) end end,"
        "catch Down(3)",
        Node=Atom(module_pynode.name),
        M=SPECIMENS,
        S=name,
        Key=key,
    )
    assert answer[0] == "EXIT"
    assert answer[1][0] == (Atom("level"), 3, "pynode.errors.RemoteError")
    assert events(any_beam, module_pynode, key) == ["asking"] * 3 + ["RemoteError"] * 3
    assert make(owner, module_pynode, "math.sqrt", 4, session_id=name) == 2.0
    owner.exit()


def test_the_owner_dies_in_the_middle_of_callbacks(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner, caller = any_beam.process(), any_beam.process()
    name = open_session(owner, module_pynode)
    thing = make(owner, module_pynode, "Thing", key, session_id=name)
    caller.start_eval(
        PYTHON + 'Down = fun Down(0) -> Python(note, [Key, <<"deep">>]), receive never -> ok end;'
        "  Down(N) -> Python(swallow, [Key, fun(_) -> Down(N - 1) end, N]) end, Down(3)",
        Node=Atom(module_pynode.name),
        M=SPECIMENS,
        S=name,
        Key=key,
    )
    wait_for_events(any_beam, module_pynode, key, ["deep"])
    # The one that has noted it may not be over yet.
    wait_until(lambda: sessions(any_beam, module_pynode)[name]["running"] == 3)
    owner.exit()
    noted = wait_for_events(any_beam, module_pynode, key, ["freed thing"])
    noted = wait_for_events(any_beam, module_pynode, key, ["CallInterrupted"] * 3)
    assert noted.count("CallInterrupted") == 3
    wait_until(lambda: info(any_beam, module_pynode)["running_calls"] == 0)
    assert not is_there(any_beam, module_pynode, thing)
    caller.exit()


# --- coroutines


def test_thousands_of_coroutines_need_no_threads(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    count = 5_000
    witness = any_beam.process()
    before = make(witness, module_pynode, "threads")
    sleepers = any_beam.process()
    running = sleepers.start_eval(
        "Me = self(), [spawn(fun() -> Me ! {got,"
        " gen_server:call({snakebridge, Node}, Request, infinity)} end) || _ <- lists:seq(1, N)],"
        "length([ok || _ <- lists:seq(1, N), receive {got, {ok, 7}} -> true end])",
        Node=Atom(module_pynode.name),
        N=count,
        Request=call("asleep", key, 7),
    )
    wait_until(lambda: info(any_beam, module_pynode)["running_calls"] == count, 60.0)
    assert make(witness, module_pynode, "math.sqrt", 4) == 2.0
    wait_until(lambda: make(witness, module_pynode, "threads") < before + 20)
    make(witness, module_pynode, "wake", key)
    assert running.result(60) == count
    wait_until(lambda: info(any_beam, module_pynode)["running_calls"] == 0)
    for process in (witness, sleepers):
        process.exit()


def test_a_session_that_awaits_is_closed_to_other_calls(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner, other = any_beam.process(), any_beam.process()
    name = open_session(owner, module_pynode)
    awaiting = start(owner, module_pynode, *call("sleeping", key, session_id=name))
    wait_for_events(any_beam, module_pynode, key, ["sleeper sleeps"])
    noting = start(other, module_pynode, *call("note", key, "after", session_id=name))
    second = start(owner, module_pynode, *call("sleeping", key, "second", session_id=name))
    make(any_beam, module_pynode, "wake", key)
    for one in (awaiting, noting, second):
        assert one.result(30)[0] == "ok"
    noted = events(any_beam, module_pynode, key)
    assert noted.index("sleeper wakes") < noted.index("after")
    assert noted.index("sleeper wakes") < noted.index("second sleeps")
    owner.exit()
    other.exit()


def test_a_coroutine_that_calls_elixir_lets_its_session_be_called(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode)
    thing = make(owner, module_pynode, "Counter", session_id=name)
    answer = owner.eval(
        PYTHON + "Back = fun(#{id := Id}) ->"
        "  {ok, V} = gen_server:call({snakebridge, Node}, {method, Id, step, [], #{}}), V end,"
        "[Python(asking, [Key, Back, Thing]), Python(asking, [Key, Back, Thing])]",
        Node=Atom(module_pynode.name),
        M=SPECIMENS,
        S=name,
        Key=key,
        Thing=thing,
    )
    assert answer == [(OK, 1), (OK, 2)]
    owner.exit()


def test_a_coroutine_that_would_stop_all_others_is_told(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode)
    tag, error = owner.eval(
        PYTHON + "Python(blocking, [fun(X) -> X end, 1])",
        Node=Atom(module_pynode.name),
        M=SPECIMENS,
        S=name,
    )
    assert tag == "error"
    assert "asyncio.to_thread" in error["message"]
    owner.exit()


def test_a_coroutine_that_stops_the_event_loop_stops_nobody(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner, other = any_beam.process(), any_beam.process()
    sleeping = start(owner, module_pynode, *call("sleeping", key))
    wait_for_events(any_beam, module_pynode, key, ["sleeper sleeps"])
    start(other, module_pynode, *call("stopping", key))
    wait_for_events(any_beam, module_pynode, key, ["stopped"])
    make(any_beam, module_pynode, "wake", key)
    assert sleeping.result(30)[0] == "ok"
    owner.exit()
    other.exit()


def test_a_coroutine_that_two_calls_return(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    first, second = any_beam.process(), any_beam.process()
    sleeping = start(first, module_pynode, *call("same", key))
    wait_for_events(any_beam, module_pynode, key, ["sleeper sleeps"])
    error = fails(ask(second, module_pynode, *call("same", key)))
    assert (error["type"], "already" in error["message"]) == ("RuntimeError", True)
    assert make(second, module_pynode, "math.sqrt", 4) == 2.0
    make(any_beam, module_pynode, "wake", key)
    assert sleeping.result(30)[0] == "ok"
    first.exit()
    second.exit()


def test_a_coroutine_within_a_callback(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode)
    answer = owner.eval(
        PYTHON + "Python(apply, [fun(X) -> {ok, V} = Python(resting, [0.0, X]), V end, 5])",
        Node=Atom(module_pynode.name),
        M=SPECIMENS,
        S=name,
    )
    assert answer == (OK, 5)
    owner.exit()


def test_what_a_coroutine_returns_or_raises_arrives(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    make(owner, module_pynode, "wake", key)
    ref = make(owner, module_pynode, "sleeping", key)
    assert ref["type_name"] == "Thing"
    assert is_there(owner, module_pynode, ref)
    answer = ask(owner, module_pynode, *call("resting", "no number"))
    assert fails(answer)["type"] == "TypeError"
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["freed sleeper"])
