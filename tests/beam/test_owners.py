"""Owners that join and leave a session by request, and sessions of another incarnation."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from pynode.terms import Atom
from pynode.testing import wait_until
from tests.beam.asking import ask, call, make, reason, sessions

if TYPE_CHECKING:
    from pynode.testing import BeamNode, PynodeProcess


def test_an_owner_that_is_added_keeps_what_another_made(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    maker, keeper = any_beam.process(), any_beam.process()
    ref = make(maker, module_pynode, "builtins.object")
    name = ref["session_id"]
    assert ask(maker, module_pynode, Atom("add_owner"), name, keeper.pid) == Atom("ok")
    maker.exit()
    wait_until(lambda: sessions(any_beam, module_pynode)[name]["owners"] == [keeper.pid])
    assert ask(keeper, module_pynode, Atom("getattr"), ref, "__class__")[0] == "ok"
    keeper.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))
    _, error = ask(any_beam, module_pynode, Atom("add_owner"), name, any_beam.process().pid)
    assert (error["session_id"], error["reason"]) == (name, "owner_down")


def test_the_last_owner_that_leaves_releases_the_session(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    one, two = any_beam.process(), any_beam.process()
    ref = make(one, module_pynode, "builtins.object")
    name = ref["session_id"]
    ask(one, module_pynode, Atom("add_owner"), name, two.pid)
    for owner, left in ((one, [two.pid]), (one, [two.pid]), (two, None)):
        answer = ask(any_beam, module_pynode, Atom("remove_owner"), name, owner.pid)
        assert answer == Atom("ok")
        session = sessions(any_beam, module_pynode).get(name)
        assert (session and session["owners"]) == left
    assert reason(any_beam, module_pynode, ref) == "session_released"
    # It begins again, as after any release.
    assert make(one, module_pynode, "builtins.object")["session_id"] != name


def test_who_knows_on_what_start_of_the_node_a_session_was_opened_is_told_that_it_is_another(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    name = f"lost_{secrets.token_hex(4)}"
    creation = ask(any_beam, module_pynode, Atom("info"))[1]["creation"]

    def why(opened_on: object) -> str:
        options = {"session_id": name, "must_exist": True, "opened_on": opened_on}
        request = call("math.sqrt", 16, **options)
        _, error = ask(any_beam, module_pynode, *request)
        assert error["session_id"] == name
        return str(error["reason"])

    assert why(creation) == why(None) == "unknown"
    assert why(creation + 1) == "node_restarted"
    # Also when somebody else has opened one of this name.
    owner = any_beam.process()
    assert ask(owner, module_pynode, Atom("open_session"), name, owner.pid, {}) == Atom("ok")
    assert why(creation + 1) == "node_restarted"
    owner.exit()


def test_a_call_that_comes_too_late_for_its_session_is_not_begun(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    name = f"late_{secrets.token_hex(4)}"
    owner = any_beam.process()
    assert ask(owner, module_pynode, Atom("open_session"), name, owner.pid, {}) == Atom("ok")
    owner.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))
    request = call("builtins.exec", "while True: pass", session_id=name)
    _, error = ask(any_beam, module_pynode, *request)
    assert (error["session_id"], error["reason"]) == (name, "owner_down")
