"""What a session may hold and for how long, why a ref is gone, and whose objects are whose."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pytest

from pynode.terms import Atom, Reference
from pynode.testing import wait_until
from pynode.testing.children import ChildExitedError
from tests.beam.asking import (
    ask,
    call,
    fails,
    is_there,
    make,
    open_session,
    owned_by,
    reason,
    sessions,
    start,
    wait_for_events,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.testing import BeamNode, PynodeProcess

OK = Atom("ok")


@pytest.fixture
def key() -> str:
    """What the events of this test are noted under."""
    return secrets.token_hex(5)


# --- max_refs


@pytest.mark.parametrize("on_full", ["evict", "error"])
def test_the_flood_of_one_session_touches_no_other(
    any_beam: BeamNode, module_pynode: PynodeProcess, on_full: str, key: str
) -> None:
    quiet, implicit, loud = (any_beam.process() for _ in range(3))
    name = open_session(quiet, module_pynode, max_refs=5)
    kept = [make(quiet, module_pynode, "Thing", key, session_id=name) for _ in range(5)]
    kept += [make(implicit, module_pynode, "Thing", key)]
    flooded = open_session(loud, module_pynode, max_refs=10, on_full=Atom(on_full))
    flood = [
        ask(loud, module_pynode, *call("Thing", f"{key} flood", str(n), session_id=flooded))
        for n in range(100)
    ]
    assert sessions(any_beam, module_pynode)[flooded]["refs"] == 10
    answered = [answer[0] for answer in flood]
    if on_full == "evict":
        assert answered == ["ok"] * 100
        gone = {reason(loud, module_pynode, answer[1]) for answer in flood[:90]}
        assert gone == {"evicted"}
        assert all(is_there(loud, module_pynode, answer[1]) for answer in flood[90:])
        freed = [f"freed {n}" for n in range(90)]
    else:
        assert answered == ["ok"] * 10 + ["error"] * 90
        assert {fails(answer)["struct"] for answer in flood[10:]} == {"SessionFullError"}
        assert all(is_there(loud, module_pynode, answer[1]) for answer in flood[:10])
        freed = [f"freed {n}" for n in range(10, 100)]
    wait_for_events(any_beam, module_pynode, f"{key} flood", freed)
    assert all(is_there(quiet, module_pynode, ref) for ref in kept)
    for process in (quiet, implicit, loud):
        process.exit()


def test_the_least_recently_used_leaves(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode, max_refs=3)
    one, two, three = (
        make(owner, module_pynode, "Thing", key, n, session_id=name) for n in ("1", "2", "3")
    )
    assert is_there(owner, module_pynode, one)
    make(owner, module_pynode, "Thing", key, session_id=name)
    assert reason(owner, module_pynode, two) == "evicted"
    assert is_there(owner, module_pynode, one)
    make(owner, module_pynode, "Thing", key, session_id=name)
    assert not is_there(owner, module_pynode, three)
    owner.exit()


def test_a_session_without_limit(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode, max_refs=0)
    refs = make(owner, module_pynode, "things", key, 10_050, session_id=name)
    assert sessions(any_beam, module_pynode)[name]["refs"] == len(refs) == 10_050
    assert is_there(owner, module_pynode, refs[0])
    owner.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))


def test_an_answer_that_does_not_fit_leaves_nothing(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode, max_refs=5, on_full=Atom("error"))
    answer = ask(owner, module_pynode, *call("things", key, 6, session_id=name))
    assert fails(answer)["struct"] == "SessionFullError"
    wait_for_events(any_beam, module_pynode, key, [f"freed {n}" for n in range(6)])
    assert sessions(any_beam, module_pynode)[name]["refs"] == 0
    owner.exit()


# --- ttl_seconds


def test_only_what_nobody_uses_in_a_session_that_says_so_expires(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    short = open_session(owner, module_pynode, f"short {key}", ttl_seconds=0.3)
    none = open_session(owner, module_pynode, f"none {key}")
    assert sessions(any_beam, module_pynode)[none]["ttl_seconds"] == 0
    kept = make(owner, module_pynode, "Thing", key, "kept", session_id=none)
    own = make(owner, module_pynode, "Thing", key, "own")
    lost = make(owner, module_pynode, "Thing", key, "lost", session_id=short)
    wait_for_events(any_beam, module_pynode, key, ["freed lost"])
    assert reason(owner, module_pynode, lost) == "expired"
    assert is_there(owner, module_pynode, kept)
    assert is_there(owner, module_pynode, own)
    # The session itself lives as long as its owner.
    assert sessions(any_beam, module_pynode)[short]["owners"] == [owner.pid]
    owner.exit()


def test_nothing_expires_while_a_call_runs_in_its_session(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner, other = any_beam.process(), any_beam.process()
    names = [open_session(owner, module_pynode, f"{key} {n}", ttl_seconds=0.5) for n in range(2)]
    # The one call follows the other, however long it takes this thread to go on.
    made, held = (
        start(owner, module_pynode, *call(*request, session_id=names[0]))
        for request in (("Thing", key, names[0]), ("hold", key))
    )
    used = made.result(30)[1]
    unused = make(other, module_pynode, "Thing", key, names[1], session_id=names[1])
    # The other one, which is younger, is gone.
    wait_for_events(any_beam, module_pynode, key, ["holding", f"freed {names[1]}"])
    assert reason(other, module_pynode, unused) == "expired"
    assert sessions(any_beam, module_pynode)[names[0]]["refs"] == 1
    make(other, module_pynode, "open_gate", key)
    assert held.result(30)[0] == "ok"
    wait_for_events(any_beam, module_pynode, key, [f"freed {names[0]}"])
    assert reason(other, module_pynode, used) == "expired"
    owner.exit()
    other.exit()


# --- the environment


def test_defaults_from_the_environment(
    any_beam: BeamNode, start_pynode: Callable[..., PynodeProcess], key: str
) -> None:
    env = {"SNAKEBRIDGE_REF_TTL_SECONDS": "2", "SNAKEBRIDGE_REF_MAX": "2"}
    python = start_pynode(env=env)
    owner = any_beam.process()
    refs = [make(owner, python, "Thing", key, str(n)) for n in range(3)]
    session = sessions(any_beam, python)[refs[0]["session_id"]]
    assert (session["ttl_seconds"], session["max_refs"], session["refs"]) == (2, 2, 2)
    assert reason(owner, python, refs[0]) == "evicted"
    wait_for_events(any_beam, python, key, ["freed 1", "freed 2"])
    assert reason(owner, python, refs[2]) == "expired"
    # A session may say otherwise.
    name = open_session(owner, python, ttl_seconds=0, max_refs=7)
    session = sessions(any_beam, python)[name]
    assert (session["ttl_seconds"], session["max_refs"]) == (0, 7)
    owner.exit()


def test_zero_in_the_environment_is_no_limit(
    any_beam: BeamNode, start_pynode: Callable[..., PynodeProcess], key: str
) -> None:
    env = {"SNAKEBRIDGE_REF_TTL_SECONDS": "0", "SNAKEBRIDGE_REF_MAX": "0"}
    python = start_pynode(env=env)
    owner = any_beam.process()
    refs = make(owner, python, "things", key, 10_050)
    session = sessions(any_beam, python)[refs[0]["session_id"]]
    assert (session["ttl_seconds"], session["max_refs"], session["refs"]) == (0, 0, 10_050)
    owner.exit()


@pytest.mark.parametrize("name", ["SNAKEBRIDGE_REF_TTL_SECONDS", "SNAKEBRIDGE_REF_MAX"])
@pytest.mark.parametrize("value", ["-1", "many", "1.5"])
def test_a_wrong_number_in_the_environment_is_said_at_the_start(
    start_pynode: Callable[..., PynodeProcess], name: str, value: str
) -> None:
    with pytest.raises(ChildExitedError) as caught:
        start_pynode(env={name: value})
    said = str(caught.value)
    assert f"{name} is '{value}': set it to a whole number, 0 or more, or unset it." in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("setting", "value"),
    [("ttl_seconds", -1), ("ttl_seconds", "1"), ("max_refs", 1.5), ("max_refs", -1),
     ("on_full", "burst"), ("own_thread", 1), ("tags", []), ("no_such", 1)],
)  # fmt: skip
def test_a_wrong_setting_opens_nothing(
    any_beam: BeamNode, module_pynode: PynodeProcess, setting: str, value: object
) -> None:
    owner = any_beam.process()
    settings = {Atom(setting): value}
    answer = ask(owner, module_pynode, Atom("open_session"), "wrong", owner.pid, settings)
    error = fails(answer)
    assert error["struct"] == "InvalidRequestError"
    assert setting in error["message"]
    assert owned_by(any_beam, module_pynode, owner.pid) == []
    owner.exit()


# --- reasons


def restart(start_pynode: Callable[..., PynodeProcess], name: str) -> PynodeProcess:
    """Start a node again that was killed, as soon as its name is free."""

    def start() -> PynodeProcess | None:
        with suppress(ChildExitedError):
            return start_pynode(name)
        return None

    return cast("PynodeProcess", wait_until(start, 30.0))


def test_all_seven_reasons(
    any_beam: BeamNode, start_pynode: Callable[..., PynodeProcess], key: str
) -> None:
    python = start_pynode()
    former = make(any_beam.process(), python, "Thing", key)
    python.kill()
    python = restart(start_pynode, python.name)
    wait_until(lambda: any_beam.eval("net_adm:ping(N)", N=Atom(python.name)) == "pong")
    owner, dead = any_beam.process(), any_beam.process()
    settings: dict[str, dict[str, Any]] = {
        "expired": {"ttl_seconds": 0.1},
        "evicted": {"max_refs": 1},
    }
    refs = {"node_restarted": former}
    for why in ("released", "session_released", "expired", "evicted"):
        name = open_session(owner, python, f"{why} {key}", **settings.get(why, {}))
        refs[why] = make(owner, python, "Thing", key, why, session_id=name)
    refs["owner_down"] = make(dead, python, "Thing", key, "owner_down")
    assert ask(owner, python, Atom("release"), refs["released"]) == (OK, 1)
    name = refs["session_released"]["session_id"]
    assert ask(owner, python, Atom("release_session"), name) == (OK, 1)
    make(owner, python, "Thing", key, session_id=refs["evicted"]["session_id"])
    dead.exit()
    wait_for_events(any_beam, python, key, [f"freed {w}" for w in refs if w != "node_restarted"])
    here = refs["released"]["id"]
    stranger = Reference(here.node, here.creation, (9, 9, 9))
    refs["unknown"] = {**former, "id": stranger}
    for why, ref in refs.items():
        error = fails(ask(owner, python, Atom("getattr"), ref, "name"))
        assert (error["struct"], error["reason"]) == ("RefNotFoundError", why)
        assert error["ref_id"] == ref["id"]
        assert why in error["message"]
    # What is found out about a session is told with the same words.
    answer = ask(
        owner, python, *call("Thing", key, session_id=refs["session_released"]["session_id"])
    )
    assert fails(answer)["reason"] == "session_released"
    owner.exit()


def test_a_session_that_ended_is_not_brought_back_by_a_late_call(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner, other = any_beam.process(), any_beam.process()
    name = open_session(owner, module_pynode)
    old = make(owner, module_pynode, "Thing", key, session_id=name)
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["freed thing"])
    for _ in range(2):
        answer = ask(other, module_pynode, *call("Thing", key, session_id=name))
        assert (fails(answer)["struct"], fails(answer)["reason"]) == (
            "SessionNotFoundError",
            "owner_down",
        )
    # Who opens it has a new one, and the refs of the old one stay gone.
    assert open_session(other, module_pynode, name) == name
    assert reason(other, module_pynode, old) == "owner_down"
    other.exit()


# --- isolation


def test_processes_share_nothing_by_accident(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    processes = [any_beam.process() for _ in range(10)]
    refs = [make(process, module_pynode, "Thing", key) for process in processes]
    names = {ref["session_id"] for ref in refs}
    assert len(names) == len({ref["id"] for ref in refs}) == len(refs)
    assert [owned_by(any_beam, module_pynode, p.pid) for p in processes] == [
        [ref["session_id"]] for ref in refs
    ]
    for process in processes[1:]:
        process.exit()
    wait_for_events(any_beam, module_pynode, key, ["freed thing"] * (len(processes) - 1))
    assert is_there(processes[0], module_pynode, refs[0])
    processes[0].exit()


REQUESTS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "method": lambda ref: (Atom("method"), ref, "seen", [], {}),
    "getattr": lambda ref: (Atom("getattr"), ref, "value"),
    "setattr": lambda ref: (Atom("setattr"), ref, "value", 5),
    "next": lambda ref: (Atom("next"), ref, 1),
    "release": lambda ref: (Atom("release"), ref),
    "argument": lambda ref: (Atom("call"), "builtins", "repr", [[{"deep": ref}]], {}),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_ref_under_another_explicit_session_is_a_mismatch(
    any_beam: BeamNode, module_pynode: PynodeProcess, request_: Callable[..., tuple[object, ...]]
) -> None:
    owner, other = any_beam.process(), any_beam.process()
    name, foreign = open_session(owner, module_pynode), open_session(other, module_pynode)
    ref = make(owner, module_pynode, "Counter", session_id=name)
    error = fails(ask(other, module_pynode, *request_(ref), {"session_id": foreign}))
    assert error["struct"] == "SessionMismatchError"
    assert (error["expected_session"], error["actual_session"]) == (name, foreign)
    assert error["ref_id"] == ref["id"]
    # It is none the worse for it.
    assert ask(owner, module_pynode, Atom("getattr"), ref, "value") == (OK, 0)
    owner.exit()
    other.exit()


def test_a_ref_that_was_sent_to_another_process_brings_its_session(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner, other = any_beam.process(), any_beam.process()
    ref = make(owner, module_pynode, "Counter")
    _, made = ask(other, module_pynode, Atom("method"), ref, "seen", [], {})
    assert made["session_id"] == ref["session_id"]
    assert owned_by(any_beam, module_pynode, other.pid) == []
    other.exit()
    assert is_there(owner, module_pynode, made)
    owner.exit()
    wait_until(lambda: not is_there(any_beam, module_pynode, made))
