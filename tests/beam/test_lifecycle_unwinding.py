"""Rule 9: what ends is unwound, newest first, and delays nobody else."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from pynode.terms import Atom
from pynode.testing import wait_until
from tests.beam.asking import (
    ask,
    call,
    info,
    is_there,
    make,
    open_session,
    owned_by,
    sessions,
    start,
    wait_for_events,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.testing import BeamNode, BeamProcess, PynodeProcess

OK = Atom("ok")

#: How one ref, or all of a session, may go.
ENDS: dict[str, Callable[..., object]] = {
    "owner_down": lambda owner, *_: owner.exit(),
    "session_released": lambda owner, python, name, _: ask(
        owner, python, Atom("release_session"), name
    ),
    "released": lambda owner, python, _, refs: ask(owner, python, Atom("release"), refs),
}


@pytest.fixture
def key() -> str:
    """What the events of this test are noted under."""
    return secrets.token_hex(5)


def entered(
    owner: BeamProcess, python: PynodeProcess, kind: str, *args: str, **options: Any
) -> Any:
    """Return a context manager that was entered."""
    ref = make(owner, python, kind, *args, **options)
    enter = "__aenter__" if kind == "AsyncManager" else "__enter__"
    assert ask(owner, python, Atom("method"), ref, enter, [], {})[0] == "ok"
    return ref


def begun(owner: BeamProcess, python: PynodeProcess, *args: str, **options: Any) -> Any:
    """Return a generator that has begun."""
    ref = make(owner, python, "counting", *args, **options)
    assert ask(owner, python, Atom("next"), ref, 1)[1] == [1]
    return ref


@pytest.mark.parametrize("own_thread", [False, True])
@pytest.mark.parametrize(
    "failure", ["", "ValueError", "SystemExit", "KeyboardInterrupt", "BaseException"]
)
@pytest.mark.parametrize("end", ENDS)
def test_newest_first_whatever_one_of_them_raises(
    any_beam: BeamNode,
    module_pynode: PynodeProcess,
    end: str,
    failure: str,
    *,
    own_thread: bool,
    key: str,
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode, own_thread=own_thread)
    options = {"session_id": name}
    python = module_pynode
    refs = [
        entered(owner, python, "Manager", key, "a", **options),
        begun(owner, python, key, "b", **options),
        entered(owner, python, "AsyncManager", key, "c", failure, **options),
        entered(owner, python, "Manager", key, "d", failure, **options),
        begun(owner, python, key, "e", failure, **options),
        make(owner, python, "Destroyed", key, "f", **options),
        make(owner, python, "async_counting", key, "g", **options),
        make(owner, python, "Manager", key, "never entered", **options),
    ]
    assert make(owner, python, "first", refs[6]) == 1
    ENDS[end](owner, python, name, refs)
    noted = wait_for_events(any_beam, python, key, ["exit a"])
    assert noted == [
        "enter a", "enter c", "enter d",
        "close g", "destroy f", "close e", "exit d", "exit c", "close b", "exit a",
    ]  # fmt: skip
    owner.exit()


def test_across_the_two_kinds_of_session(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    entered(owner, module_pynode, "Manager", key, "implicit")
    name = open_session(owner, module_pynode)
    entered(owner, module_pynode, "Manager", key, "explicit", session_id=name)
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["exit implicit", "exit explicit"])


@pytest.mark.parametrize("enter", ["__enter__", "__aenter__"])
def test_what_was_entered_and_exited_is_not_exited_again(
    any_beam: BeamNode, module_pynode: PynodeProcess, enter: str, key: str
) -> None:
    owner = any_beam.process()
    kind = "Manager" if enter == "__enter__" else "AsyncManager"
    ref = entered(owner, module_pynode, kind, key, "m")
    leave = enter.replace("enter", "exit")
    args = [None, None, None]
    assert ask(owner, module_pynode, Atom("method"), ref, leave, args, {})[0] == "ok"
    make(owner, module_pynode, "Destroyed", key, "last")
    # What is newer is unwound first, so all is over when the oldest is gone.
    twice = entered(owner, module_pynode, kind, key, "twice")
    assert ask(owner, module_pynode, Atom("method"), twice, enter, [], {})[0] == "ok"
    owner.exit()
    noted = wait_for_events(any_beam, module_pynode, key, ["destroy last"])
    assert noted.count("exit m") == 1
    assert noted.count("exit twice") == 2


def test_what_is_entered_when_it_has_left_already_is_exited(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner, other = any_beam.process(), any_beam.process()
    name = open_session(owner, module_pynode)
    ref = make(owner, module_pynode, "HeldManager", key, "late", session_id=name)
    entering = start(other, module_pynode, Atom("method"), ref, "__enter__", [], {})
    wait_for_events(any_beam, module_pynode, key, ["entering"])
    # It is released in the turn of another session, of which the first ref is.
    thing = make(owner, module_pynode, "Thing", key)
    assert ask(owner, module_pynode, Atom("release"), [thing, ref]) == (OK, 2)
    make(any_beam, module_pynode, "open_gate", key)
    assert entering.result(30) == (OK, "late")
    wait_for_events(any_beam, module_pynode, key, ["enter late", "exit late"])
    owner.exit()
    other.exit()


@pytest.mark.parametrize("end", ENDS)
def test_a_slow_destructor_delays_nobody_else(
    any_beam: BeamNode, module_pynode: PynodeProcess, end: str, key: str
) -> None:
    slow, other, witness = (any_beam.process() for _ in range(3))
    python = module_pynode
    refs = make(slow, python, "slow_ones", key, 3)
    name = refs[0]["session_id"]
    ENDS[end](slow, python, name, refs)
    wait_for_events(any_beam, python, key, ["destroying"])
    # Its destructor waits at the gate. Other sessions, other owners, the node itself:
    ref = make(witness, python, "Thing", key, "of the witness")
    assert is_there(witness, python, ref)
    make(other, python, "Thing", key, "of the other")
    other.exit()
    wait_for_events(any_beam, python, key, ["freed of the other"])
    assert owned_by(any_beam, python, other.pid) == []
    assert ask(witness, python, Atom("release"), ref) == (OK, 1)
    wait_for_events(any_beam, python, key, ["freed of the witness"])
    wait_until(lambda: info(any_beam, python)["running_calls"] == 0)
    assert any_beam.eval("net_adm:ping(Node)", Node=Atom(python.name)) == "pong"
    if end == "released":
        assert make(slow, python, "math.sqrt", 4) == 2.0, "nor its own session"
    make(any_beam, python, "open_gate", key)
    wait_for_events(any_beam, python, key, [f"destroy {n}" for n in range(3)])
    slow.exit()
    witness.exit()


def test_a_destructor_that_raises_stops_nothing(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    kinds = ("ValueError", "SystemExit", "KeyboardInterrupt", "BaseException")
    for kind in kinds:
        make(owner, module_pynode, "failing", key, kind)
    owner.exit()
    noted = wait_for_events(any_beam, module_pynode, key, [f"destroy {kind}" for kind in kinds])
    assert noted == [f"destroy {kind}" for kind in reversed(kinds)]
    wait_until(lambda: owned_by(any_beam, module_pynode, owner.pid) == [])


def test_slow_destructors_of_a_session_with_a_thread_of_its_own(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner, other = any_beam.process(), any_beam.process()
    before = make(other, module_pynode, "threads")
    name = open_session(owner, module_pynode, own_thread=True)
    make(owner, module_pynode, "slow_ones", key, 3, session_id=name)
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["destroying"])
    assert name not in sessions(any_beam, module_pynode)
    assert make(other, module_pynode, "math.sqrt", 4) == 2.0
    # Opened again while the old thread is busy: it is another session, and waits for its turn.
    again = any_beam.process()
    assert open_session(again, module_pynode, name, own_thread=True) == name
    waiting = start(again, module_pynode, *call("thread", session_id=name))
    assert make(other, module_pynode, "math.sqrt", 4) == 2.0
    make(any_beam, module_pynode, "open_gate", key)
    wait_for_events(any_beam, module_pynode, key, [f"destroy {n}" for n in range(3)])
    assert waiting.result(30)[0] == "ok"
    again.exit()
    # The thread ends with its session. (Spare ones may have come.)
    wait_until(lambda: make(other, module_pynode, "threads_of", name) == 0)
    wait_until(lambda: make(other, module_pynode, "threads") < before + 10)
    other.exit()


def test_at_the_end_of_the_node_all_is_unwound(
    any_beam: BeamNode, start_pynode: Callable[..., PynodeProcess], tmp_path: Any
) -> None:
    python = start_pynode()
    paths = [tmp_path / "own", tmp_path / "common"]
    for path in paths:
        owner = any_beam.process()
        name = open_session(owner, python, own_thread=path.name == "own")
        stream = make(owner, python, "leaving", str(path), session_id=name)
        assert ask(owner, python, Atom("next"), stream, 1)[1] == [1]
    assert python.stop() == 0
    assert all(path.exists() for path in paths)
