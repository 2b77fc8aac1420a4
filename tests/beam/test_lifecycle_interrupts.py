"""Rule 10: a call is stopped when its session ends, its caller gives up, or somebody cancels it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from pynode import config
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
    owned_by,
    reason,
    send,
    sessions,
    start,
    wait_for_events,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from pynode.testing import BeamNode, PynodeProcess

OK = Atom("ok")
NEVER = "fun(_) -> receive never -> ok end end"


class Stop:
    """A session of one process, and another process that calls in it."""

    def __init__(self, beam: BeamNode, python: PynodeProcess, how: str) -> None:
        self.beam, self.python = beam, python
        self.owner, self.caller = beam.process(), beam.process()
        self.session = open_session(self.owner, python, cancel_on_timeout="caller dies" in how)
        self.stop: Callable[[], object] = lambda: STOPS[how](self)
        self.ends = how in ("owner dies", "session is released")
        self.answers = "caller dies" not in how

    def start(self, *request: Any) -> Future[Any]:
        """Begin a call in the session."""
        return start(self.caller, self.python, *request)

    def ask_elixir(self, specimen: str, key: str) -> None:
        """Begin a call in the session that calls an Elixir function, which never returns."""
        self.caller.start_eval(
            f"Request = {{call, Module, F, [Key, {NEVER}, 1], #{{}}, #{{session_id => S}}}},"
            "gen_server:call({snakebridge, Node}, Request, infinity)",
            Node=Atom(self.python.name),
            Module=SPECIMENS,
            F=specimen,
            Key=key,
            S=self.session,
        )

    def stop_and_wait(self) -> None:
        """Stop the call, and wait until Python has been told."""
        self.stop()
        if self.ends:
            wait_until(lambda: self.session not in sessions(self.beam, self.python))
        elif not self.answers:
            wait_until(lambda: not self.beam.eval("is_process_alive(P)", P=self.caller.pid))
            # Its DEMONITOR_P came ahead of this.
            info(self.beam, self.python)

    def over(self) -> bool:
        """Whether no call runs."""
        return bool(info(self.beam, self.python)["running_calls"] == 0)


#: How a call is stopped whose session `session` is, which `owner` owns; `caller` has called.
STOPS: dict[str, Callable[[Stop], object]] = {
    "owner dies": lambda it: it.owner.exit(),
    "session is released": lambda it: ask(it.beam, it.python, Atom("release_session"), it.session),
    "caller is cancelled": lambda it: ask(it.beam, it.python, Atom("cancel"), it.caller.pid),
    "caller dies, which the session cancels": lambda it: it.caller.exit(),
}


@pytest.fixture
def key() -> str:
    """What the events of this test are noted under."""
    return secrets.token_hex(5)


@pytest.fixture(params=STOPS)
def it(request: pytest.FixtureRequest, any_beam: BeamNode, module_pynode: PynodeProcess) -> Any:
    """Each way to stop a call."""
    stop = Stop(any_beam, module_pynode, request.param)
    yield stop
    stop.owner.exit()
    stop.caller.exit()
    wait_until(lambda: stop.session not in sessions(any_beam, module_pynode))


def test_a_loop_in_python(it: Stop, key: str) -> None:
    answer = it.start(*call("spin", key, session_id=it.session))
    wait_for_events(it.beam, it.python, key, ["spinning"])
    it.stop()
    wait_for_events(it.beam, it.python, key, ["CallInterrupted"])
    if it.answers:
        error = fails(answer.result(30))
        assert (error["struct"] == "SessionNotFoundError") == it.ends
    wait_until(it.over)


def test_a_generator_that_does_not_come_to_its_next_item(it: Stop, key: str) -> None:
    stream = make(it.caller, it.python, "spinning_generator", key, session_id=it.session)
    it.start(Atom("next"), stream, 1)
    wait_for_events(it.beam, it.python, key, ["spinning"])
    it.stop()
    wait_for_events(it.beam, it.python, key, ["CallInterrupted", "closed"])
    wait_until(it.over)
    assert is_there(it.beam, it.python, stream) != it.ends


def test_a_call_that_waits_for_a_function_of_elixirs(it: Stop, key: str) -> None:
    # Nobody answers: the process of the function lives on after what has asked for it.
    it.ask_elixir("swallow", key)
    wait_for_events(it.beam, it.python, key, ["asking"])
    it.stop()
    wait_for_events(it.beam, it.python, key, ["CallInterrupted"])
    wait_until(it.over)


def test_a_coroutine(it: Stop, key: str) -> None:
    answer = it.start(*call("sleeping", key, session_id=it.session))
    wait_for_events(it.beam, it.python, key, ["sleeper sleeps"])
    it.stop()
    wait_for_events(it.beam, it.python, key, ["sleeper cancelled"])
    if it.answers:
        error = fails(answer.result(30))
        assert (error["struct"] == "SessionNotFoundError") == it.ends
    wait_until(it.over)


def test_a_coroutine_that_waits_for_a_function_of_elixirs(it: Stop, key: str) -> None:
    it.ask_elixir("asking", key)
    wait_for_events(it.beam, it.python, key, ["asking"])
    assert make(it.beam, it.python, "resting", 0.0, "others run on") == "others run on"
    it.stop()
    wait_for_events(it.beam, it.python, key, ["CallInterrupted"])
    wait_until(it.over)


@pytest.mark.parametrize("what", ["spin", "hold in Elixir"])
def test_a_call_that_has_made_its_own_session(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str, what: str
) -> None:
    """The first object of a process comes into being while the call runs that will be stopped."""
    owner = any_beam.process()
    here = "fun(_) -> ok end" if what == "spin" else NEVER
    owner.start_eval(
        f"Request = {{call, Module, first_object, [Key, {here}], #{{}}}},"
        "gen_server:call({snakebridge, Node}, Request, infinity)",
        Node=Atom(module_pynode.name),
        Module=SPECIMENS,
        Key=key,
    )
    wait_for_events(any_beam, module_pynode, key, ["given"])
    wait_until(lambda: info(any_beam, module_pynode)["running_calls"] == 1)
    if what == "spin":
        wait_for_events(any_beam, module_pynode, key, ["spinning"])
    wait_until(lambda: owned_by(any_beam, module_pynode, owner.pid))
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["CallInterrupted"])
    wait_until(lambda: info(any_beam, module_pynode)["running_calls"] == 0)


def test_a_call_in_a_session_that_was_opened_meanwhile(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    caller, owner = any_beam.process(), any_beam.process()
    name = f"later {key}"
    answer = start(caller, module_pynode, *call("spin", key, session_id=name))
    wait_for_events(any_beam, module_pynode, key, ["spinning"])
    open_session(owner, module_pynode, name)
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["CallInterrupted"])
    assert fails(answer.result(30))["reason"] == "owner_down"
    caller.exit()


@pytest.mark.parametrize("monitored", [True, False])
def test_a_caller_that_died_in_a_session_that_was_opened_meanwhile(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str, *, monitored: bool
) -> None:
    caller, owner = any_beam.process(), any_beam.process()
    name = f"watched later {key}"
    send = "gen_server:send_request(To, R)"
    if not monitored:
        send = "To ! {'$gen_call', {self(), [alias | alias()]}, R}"
    caller.eval(
        f"To = {{snakebridge, Node}}, {send}, ok",
        Node=Atom(module_pynode.name),
        R=call("spin", key, session_id=name),
    )
    wait_for_events(any_beam, module_pynode, key, ["spinning"])
    open_session(owner, module_pynode, name, cancel_on_timeout=True)
    caller.exit()
    wait_for_events(any_beam, module_pynode, key, ["CallInterrupted"])
    owner.exit()


def test_c_code_is_stopped_when_it_returns_and_its_result_is_freed(it: Stop, key: str) -> None:
    queue = make(it.caller, it.python, "inbox", key, session_id=it.session)
    before = info(it.beam, it.python)["refs"]
    it.start(Atom("method"), queue, "get", [], {})
    wait_until(lambda: sessions(it.beam, it.python)[it.session]["running"] == 1)
    it.stop_and_wait()
    make(it.beam, it.python, "put_thing", key)
    wait_for_events(it.beam, it.python, key, ["freed late"])
    wait_until(it.over)
    # What remains may be the exception that says so.
    assert info(it.beam, it.python)["refs"] <= before


def test_a_sleep_is_stopped_at_its_end(it: Stop, key: str) -> None:
    it.start(*call("nap", key, 0.3, session_id=it.session))
    wait_for_events(it.beam, it.python, key, ["napping"])
    it.stop()
    wait_until(it.over)


#: A package that cannot be imported a second time if the first time was stopped half-way.
PACKAGE = """
from tests.beam.specimens import hold, spin
from .inner import *
hold({key!r})
name = inner.__name__
"""


@pytest.mark.parametrize("inside_a_function", [False, True])
def test_an_import_comes_to_its_end_before_its_call_is_stopped(
    it: Stop, key: str, tmp_path: Path, *, inside_a_function: bool
) -> None:
    package = tmp_path / f"package_{key}"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE.format(key=key))
    (package / "inner.py").touch()
    ask(it.beam, it.python, Atom("call"), "sys", "path.append", [str(tmp_path)], {})
    if inside_a_function:
        it.start(*call("import_and_spin", key, package.name, session_id=it.session))
    else:
        it.start(*call(f"{package.name}.spin", key, session_id=it.session))
    wait_for_events(it.beam, it.python, key, ["holding"])
    it.stop_and_wait()
    make(it.beam, it.python, "open_gate", key)
    wait_until(it.over)
    again = ask(it.beam, it.python, Atom("get"), package.name, "name")
    assert again == (OK, f"{package.name}.inner")


def test_calls_that_wait_for_their_turn_do_not_run(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    it = Stop(any_beam, module_pynode, "session is released")
    it.start(*call("hold", key, session_id=it.session))
    wait_for_events(any_beam, module_pynode, key, ["holding"])
    waiting = [
        call("note", key, "ran", session_id=it.session),
        call("sleeping", key, session_id=it.session),
    ]
    send(it.owner, module_pynode, *waiting)
    it.stop()
    make(any_beam, module_pynode, "open_gate", key)
    wait_until(it.over)
    wait_until(lambda: len(events(any_beam, module_pynode, key)) == 1)
    it.owner.exit()


def test_a_call_of_another_session_runs_on(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    """Also one of the same process, also of one that has used the session before."""
    owner, caller = any_beam.process(), any_beam.process()
    name = open_session(owner, module_pynode)
    make(caller, module_pynode, "builtins.object", session_id=name)
    make(caller, module_pynode, "builtins.object")
    running = start(caller, module_pynode, *call("hold", key))
    wait_for_events(any_beam, module_pynode, key, ["holding"])
    owner.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))
    make(any_beam, module_pynode, "open_gate", key)
    assert running.result(30)[0] == "ok"
    caller.exit()


def test_a_caller_that_gave_up_is_not_stopped_where_nobody_asked_for_it(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner, caller = any_beam.process(), any_beam.process()
    name = open_session(owner, module_pynode)
    start(caller, module_pynode, *call("hold", key, session_id=name))
    wait_for_events(any_beam, module_pynode, key, ["holding"])
    caller.exit()
    wait_until(lambda: not any_beam.eval("is_process_alive(P)", P=caller.pid))
    assert sessions(any_beam, module_pynode)[name]["running"] == 1
    make(any_beam, module_pynode, "open_gate", key)
    wait_until(lambda: sessions(any_beam, module_pynode)[name]["running"] == 0)
    assert "freed held" not in events(any_beam, module_pynode, key)
    assert len(ask(any_beam, module_pynode, Atom("refs"), name)[1]) == 1
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["freed held"])


@pytest.mark.parametrize("function", ["stubborn", "stubborn_sleeping"])
def test_code_that_goes_on_is_stopped_again(
    any_beam: BeamNode, module_pynode: PynodeProcess, function: str, key: str
) -> None:
    owner = any_beam.process()
    name = open_session(owner, module_pynode)
    start(owner, module_pynode, *call(function, key, 2, session_id=name))
    wait_for_events(any_beam, module_pynode, key, ["running"])
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["caught", "caught"])
    # What it returns in the end has nowhere to live.
    wait_for_events(any_beam, module_pynode, key, ["freed of the stubborn"])
    wait_until(lambda: info(any_beam, module_pynode)["running_calls"] == 0)
    assert config.INTERRUPT_SECONDS < 30


def test_a_cancelled_call_that_returns_all_the_same_is_answered(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    answer = start(owner, module_pynode, *call("stubborn", key, 1))
    wait_for_events(any_beam, module_pynode, key, ["running"])
    ask(any_beam, module_pynode, Atom("cancel"), owner.pid)
    tag, ref = answer.result(30)
    assert tag == "ok"
    assert is_there(any_beam, module_pynode, ref)
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["freed of the stubborn"])


def test_a_hundred_calls_that_are_stopped_at_some_moment_leave_nothing(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    before = info(any_beam, module_pynode)
    for number in range(100):
        owner = any_beam.process()
        function = ("things", "counting", "resting")[number % 3]
        args = {"things": (key, 50), "counting": (key, "c"), "resting": (0, "x")}[function]
        send(owner, module_pynode, *[call(function, *args)] * 5)
        owner.exit()
    wait_until(lambda: info(any_beam, module_pynode)["running_calls"] == 0)
    wait_until(lambda: info(any_beam, module_pynode)["refs"] <= before["refs"])
    wait_until(lambda: info(any_beam, module_pynode)["sessions"] <= before["sessions"])


def test_an_interrupt_leaves_other_refs_as_they_were(
    any_beam: BeamNode, module_pynode: PynodeProcess, key: str
) -> None:
    owner = any_beam.process()
    ref = make(owner, module_pynode, "Thing", key)
    start(owner, module_pynode, *call("spin", key))
    wait_for_events(any_beam, module_pynode, key, ["spinning"])
    ask(any_beam, module_pynode, Atom("cancel"), owner.pid)
    wait_for_events(any_beam, module_pynode, key, ["CallInterrupted"])
    assert is_there(owner, module_pynode, ref)
    owner.exit()
    wait_for_events(any_beam, module_pynode, key, ["freed thing"])
    assert reason(any_beam, module_pynode, ref) == "owner_down"
