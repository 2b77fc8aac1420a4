"""A session with a thread of its own: what is made there is used and unwound there."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from pynode.terms import Atom
from pynode.testing import wait_until
from tests.beam.asking import (
    SPECIMENS,
    ask,
    call,
    events,
    fails,
    make,
    open_session,
    sessions,
    start,
    wait_for_events,
)

if TYPE_CHECKING:
    from pynode.testing import BeamNode, PynodeProcess

OK = Atom("ok")


@pytest.fixture
def key() -> str:
    """What the events of this test are noted under."""
    return secrets.token_hex(5)


def test_a_database_that_belongs_to_one_thread(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    """Thousands of interleaved calls of several processes, while other sessions are busy."""
    owner = any_beam.process()
    name = open_session(owner, module_pynode, own_thread=True)
    table = make(owner, module_pynode, "Table", key, session_id=name)
    busy = [any_beam.process() for _ in range(4)]
    working = [
        process.start_eval(
            "[{ok, _} = gen_server:call({snakebridge, Node}, Request, infinity)"
            " || _ <- lists:seq(1, 300)], ok",
            Node=Atom(module_pynode.name),
            Request=call("things", f"{key} busy", 3),
        )
        for process in busy
    ]
    writers = [any_beam.process() for _ in range(5)]
    inserting = [
        writer.start_eval(
            "[{ok, nil} = gen_server:call({snakebridge, Node},"
            "  {method, Table, insert, [Who, N], #{}}, infinity) || N <- lists:seq(1, 400)], ok",
            Node=Atom(module_pynode.name),
            Table=table,
            Who=str(writer.pid),
        )
        for writer in writers
    ]
    for one in (*inserting, *working):
        assert one.result(120) == OK
    for process in busy:
        process.exit()
    for writer in writers:
        rows = ask(writer, module_pynode, Atom("method"), table, "rows", [str(writer.pid)], {})
        assert rows == (OK, list(range(1, 401)))
        writer.exit()
    assert ask(owner, module_pynode, Atom("method"), table, "__enter__", [], {}) == (OK, None)
    owner.exit()
    # Its transaction is rolled back and it is closed where it was opened: elsewhere that fails.
    noted = wait_for_events(any_beam, module_pynode, key, ["closed"])
    assert noted == ["rolled back", "closed"]


def test_a_database_without_a_thread_of_its_own(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    """The counterpart: two calls that run beside each other are on two threads."""
    owner, other = any_beam.process(), any_beam.process()
    name = open_session(owner, module_pynode)
    connection = make(owner, module_pynode, "database", session_id=name)
    seen: set[int] = set()

    def fails_elsewhere() -> bool:
        # Whoever made it reads no more while it runs this, so that another thread has to.
        held = start(other, module_pynode, *call("hold", f"{key} {len(seen)}"))
        answer = ask(owner, module_pynode, Atom("method"), connection, "execute", ["select 1"], {})
        make(any_beam, module_pynode, "open_gate", f"{key} {len(seen)}")
        held.result(30)
        seen.add(len(seen))
        return bool(answer[0] == "error" and "thread" in fails(answer)["message"])

    wait_until(fails_elsewhere)
    owner.exit()
    other.exit()


@pytest.mark.parametrize("how", ["released", "evicted", "expired", "session"])
def test_whatever_leaves_is_unwound_on_that_thread(
    any_beam: BeamNode, module_pynode: PynodeProcess, how: str, key: str
) -> None:
    owner, other = any_beam.process(), any_beam.process()
    limits: dict[str, dict[str, Any]] = {
        "evicted": {"max_refs": 3},
        "expired": {"ttl_seconds": 1.0},  # for what is done before it is left alone
    }
    settings = limits.get(how, {})
    name = open_session(owner, module_pynode, own_thread=True, **settings)
    options = {"session_id": name}
    thread = make(owner, module_pynode, "thread", **options)
    refs = [
        make(owner, module_pynode, "Destroyed", key, "destroyed", **options),
        make(owner, module_pynode, "Manager", key, "manager", **options),
        make(owner, module_pynode, "counting", key, "generator", **options),
    ]
    assert ask(owner, module_pynode, Atom("method"), refs[1], "__enter__", [], {})[0] == "ok"
    assert ask(owner, module_pynode, Atom("next"), refs[2], 1)[0] == "ok"
    if how == "released":
        # By a process that has nothing to do with it, in the turn of its own session.
        thing = make(other, module_pynode, "Thing", key)
        assert ask(other, module_pynode, Atom("release"), [thing, *refs]) == (OK, 4)
    elif how == "evicted":
        make(owner, module_pynode, "things", key, 3, **options)
    elif how == "session":
        owner.exit()
    wanted = ["destroy destroyed", "exit manager", "close generator"]
    wait_for_events(any_beam, module_pynode, key, wanted)
    assert events(any_beam, module_pynode, f"{key} threads") == [thread] * 3
    if how != "session":
        assert make(owner, module_pynode, "thread", **options) == thread
    owner.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))
    wait_until(lambda: make(other, module_pynode, "threads_of", name) == 0)
    other.exit()


def test_a_thread_for_a_session_whose_call_awaits_a_callback(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    """The thread begins when the call has ended; what that asks for is let in before."""
    caller, owner = any_beam.process(), any_beam.process()
    name = f"later {key}"
    answer = caller.start_eval(
        "Call = fun(F, A) -> gen_server:call({snakebridge, Node}, {call, M, F, A, #{},"
        " #{session_id => S}}, infinity) end,"
        "Back = fun(X) -> receive go -> ok end, {ok, V} = Call(resting, [0.0, X]), V end,"
        "Call(asking, [Key, fun(X) -> register(S2, self()), Back(X) end, 5])",
        Node=Atom(module_pynode.name),
        M=SPECIMENS,
        S=name,
        S2=Atom(f"back_{key}"),
        Key=key,
    )
    wait_until(lambda: any_beam.eval("whereis(N)", N=Atom(f"back_{key}")) != Atom("undefined"))
    open_session(owner, module_pynode, name, own_thread=True)
    any_beam.eval("N ! go", N=Atom(f"back_{key}"))
    assert answer.result(30) == (OK, 5)
    assert make(owner, module_pynode, "math.sqrt", 4, session_id=name) == 2.0
    caller.exit()
    owner.exit()


def test_a_session_that_is_opened_again_and_again(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    for number in range(50):
        name = open_session(owner, module_pynode, f"again {key}", own_thread=True)
        table = make(owner, module_pynode, "Table", f"{key} {number}", session_id=name)
        start(owner, module_pynode, Atom("release_session"), name)
        del table
    # What was opened before the one before it was closed has a thread all the same.
    for number in range(50):
        wait_for_events(any_beam, module_pynode, f"{key} {number}", ["closed"])
    wait_until(lambda: make(owner, module_pynode, "threads_of", f"again {key}") == 0)
    owner.exit()


def test_callbacks_and_coroutines_stay_on_that_thread(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode, own_thread=True)
    thread = make(owner, module_pynode, "thread", session_id=name)
    inner = owner.eval(
        "Call = fun(F, A) -> {ok, V} = gen_server:call({snakebridge, Node},"
        "  {call, M, F, A, #{}, #{session_id => S}}, infinity), V end,"
        "[Call(apply, [fun(_) -> Call(thread, []) end, 1]), Call(resting, [0.0, 7]),"
        " Call(thread, [])]",
        Node=Atom(module_pynode.name),
        M="tests.beam.specimens",
        S=name,
    )
    assert inner == [thread, 7, thread]
    owner.exit()
