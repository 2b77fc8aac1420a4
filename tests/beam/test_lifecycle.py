"""Owners that die, in every order of events that a real BEAM can bring about."""

from __future__ import annotations

import functools
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from pynode.terms import Atom, Pid
from pynode.testing import wait_until
from tests.beam.asking import SPECIMENS

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from pynode.testing import BeamNode, BeamProcess, PynodeProcess, Runtime

CALL = "gen_server:call({snakebridge, Node}, Request, 30000)"
SEND = "gen_server:send_request({snakebridge, Node}, Request)"


def ask(process: BeamProcess | BeamNode, python: PynodeProcess, *request: object) -> Any:
    term = request if len(request) > 1 else request[0]
    return process.eval(CALL, Node=Atom(python.name), Request=term)


def make(
    process: BeamProcess | BeamNode,
    python: PynodeProcess,
    name: str,
    *args: object,
    **options: Any,
) -> Any:
    module, _, function = name.rpartition(".")
    answer = ask(process, python, Atom("call"), module, function, list(args), {}, options)
    assert answer[0] == "ok", answer
    return answer[1]


def sessions(beam: BeamNode, python: PynodeProcess) -> dict[str, Any]:
    found: dict[str, Any] = ask(beam, python, Atom("sessions"))[1]
    return found


def owned_by(beam: BeamNode, python: PynodeProcess, owner: Pid) -> list[str]:
    return [name for name, s in sessions(beam, python).items() if owner in s["owners"]]


def reason(beam: BeamNode, python: PynodeProcess, ref: Any) -> str:
    tag, error = ask(beam, python, Atom("getattr"), ref, "__class__")
    assert tag == "error", "the object is still there"
    return str(error["reason"])


@pytest.fixture
def watched(any_beam: BeamNode, module_pynode: PynodeProcess) -> Callable[[], Any]:
    """An object that tells when it is freed: a file is there as long as it lives."""
    return functools.partial(_watched, any_beam, module_pynode)


def _watched(beam: BeamNode, python: PynodeProcess, process: BeamProcess, path: str) -> Any:
    source = (
        "(__import__('pathlib').Path(p).touch(),"
        " (lambda o: (__import__('weakref').finalize(o, __import__('os').unlink, p), o)[1])"
        " (type('Watched', (), {})()))[1]"
    )
    return make(process, python, "builtins.eval", source, {"p": path})


def test_what_a_process_owned_goes_with_it_a_hundred_times(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    for _ in range(100):
        owner = any_beam.process()
        ref = make(owner, module_pynode, "collections.Counter", "abc")
        assert owned_by(any_beam, module_pynode, owner.pid) == [ref["session_id"]]
        owner.exit()
        wait_until(lambda: not owned_by(any_beam, module_pynode, owner.pid))  # noqa: B023
        assert reason(any_beam, module_pynode, ref) == "owner_down"


def test_the_object_itself_is_freed(
    any_beam: BeamNode, module_pynode: PynodeProcess, tmp_path: Any
) -> None:
    owner = any_beam.process()
    alive = tmp_path / "alive"
    _watched(any_beam, module_pynode, owner, str(alive))
    assert alive.exists()
    owner.exit()
    wait_until(lambda: not alive.exists())


def test_an_owner_that_is_killed_while_its_call_runs(
    any_beam: BeamNode, module_pynode: PynodeProcess, tmp_path: Any
) -> None:
    owner = any_beam.process()
    alive = tmp_path / "alive"
    ref = _watched(any_beam, module_pynode, owner, str(alive))
    owner.start_eval(
        f"spawn(fun() -> ok end), {CALL}",
        Node=Atom(module_pynode.name),
        Request=(Atom("call"), "builtins", "exec", ["while True: pass", {"o": ref}], {}),
    )
    name = ref["session_id"]
    wait_until(lambda: sessions(any_beam, module_pynode)[name]["running"] == 1)
    owner.exit()
    # The loop is interrupted: nothing else would let go of the object.
    wait_until(lambda: not alive.exists())
    wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["running_calls"] == 0)


def test_calls_that_were_queued_for_a_dead_owner_do_not_run(
    any_beam: BeamNode, module_pynode: PynodeProcess, tmp_path: Any
) -> None:
    owner = any_beam.process()
    touched, key = tmp_path / "touched", secrets.token_hex(5)
    path = make(owner, module_pynode, "pathlib.Path", str(touched))
    owner.eval(
        "[gen_server:send_request({snakebridge, Node}, R) || R <- Requests], ok",
        Node=Atom(module_pynode.name),
        Requests=[
            # Inside C code, so it cannot be interrupted before its end.
            (Atom("call"), SPECIMENS, "hold", [key], {}),
            (Atom("method"), path, "touch", [], {}),
        ],
    )
    name = path["session_id"]
    wait_until(lambda: sessions(any_beam, module_pynode)[name]["running"] == 1)
    owner.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))
    make(any_beam, module_pynode, f"{SPECIMENS}.open_gate", key)
    wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["running_calls"] == 0)
    assert not touched.exists()


def test_an_owner_that_was_dead_before_it_was_monitored(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    dead = any_beam.eval("spawn(fun() -> ok end)")
    wait_until(lambda: not any_beam.eval("is_process_alive(P)", P=dead))
    answer = ask(any_beam, module_pynode, Atom("open_session"), "for the dead", dead, {})
    assert answer == Atom("ok")
    wait_until(lambda: "for the dead" not in sessions(any_beam, module_pynode))
    tag, error = ask(any_beam, module_pynode, Atom("session"), "for the dead")
    assert (tag, error["reason"]) == (Atom("error"), Atom("owner_down"))


def test_an_owner_that_dies_between_request_and_reply_leaves_nothing(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    before = set(sessions(any_beam, module_pynode))
    for _ in range(30):
        any_beam.eval(
            "P = spawn(fun() -> gen_server:send_request({snakebridge, Node}, Request) end),"
            "R = monitor(process, P), receive {'DOWN', R, _, _, _} -> ok end",
            Node=Atom(module_pynode.name),
            Request=(Atom("call"), "builtins", "object", [], {}),
        )
    wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["running_calls"] == 0)
    wait_until(lambda: set(sessions(any_beam, module_pynode)) <= before)


def test_a_session_lives_as_long_as_one_of_its_owners(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    one, two = any_beam.process(), any_beam.process()
    name = f"shared{one.pid}"
    for owner in (one, two):
        ask(owner, module_pynode, Atom("open_session"), name, owner.pid, {})
    ref = make(one, module_pynode, "builtins.object", session_id=name)
    one.exit()
    wait_until(lambda: sessions(any_beam, module_pynode)[name]["owners"] == [two.pid])
    assert ask(two, module_pynode, Atom("getattr"), ref, "__class__")[0] == "ok"
    two.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))


def test_a_session_can_be_given_away(any_beam: BeamNode, module_pynode: PynodeProcess) -> None:
    giver, taker = any_beam.process(), any_beam.process()
    ref = make(giver, module_pynode, "builtins.object")
    name = ref["session_id"]
    answer = ask(giver, module_pynode, Atom("give_session"), name, giver.pid, taker.pid)
    assert answer == Atom("ok")
    giver.exit()
    wait_until(lambda: not any_beam.eval("is_process_alive(P)", P=giver.pid))
    assert ask(taker, module_pynode, Atom("getattr"), ref, "__class__")[0] == "ok"
    taker.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))


def test_an_owner_on_a_third_node(
    any_runtime: Runtime,
    start_beam: Callable[..., BeamNode],
    start_pynode: Callable[..., PynodeProcess],
) -> None:
    caller, third = (start_beam(runtime=any_runtime) for _ in range(2))
    python = start_pynode()
    owner = third.process()
    # The Python node has never heard of the third node: it connects by itself.
    assert ask(caller, python, Atom("open_session"), "far", owner.pid, {}) == Atom("ok")
    ref = make(caller.process(), python, "builtins.object", session_id="far")
    assert sessions(caller, python)["far"]["owners"] == [owner.pid]
    third.kill()
    wait_until(lambda: "far" not in sessions(caller, python))
    assert reason(caller, python, ref) == "owner_down"


def test_an_owner_whose_node_cannot_be_reached(
    start_beam: Callable[..., BeamNode], any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    third = start_beam(runtime=any_beam.runtime)
    owner = third.process().pid
    third.kill()
    tag, error = ask(any_beam, module_pynode, Atom("open_session"), "nowhere", owner, {})
    assert (tag, error["__struct__"]) == (
        Atom("error"),
        Atom("Elixir.SnakeBridge.NodeUnavailableError"),
    )
    assert "nowhere" not in sessions(any_beam, module_pynode)


def test_an_owner_on_the_python_node_itself(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    own = any_beam.eval(
        "{ok, #{creation := C}} = gen_server:call({snakebridge, N}, info), C",
        N=Atom(module_pynode.name),
    )
    owner = Pid(Atom(module_pynode.name), 1, 0, own)
    tag, error = ask(any_beam, module_pynode, Atom("open_session"), "own", owner, {})
    assert (tag, error["reason"]) == (Atom("error"), Atom("invalid_owner"))


def test_a_beam_that_is_killed_takes_all_its_owners_with_it(
    start_beam: Callable[..., BeamNode], any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    doomed = start_beam(runtime=any_beam.runtime)
    refs = [make(doomed.process(), module_pynode, "builtins.object") for _ in range(20)]
    doomed.kill()
    names = {ref["session_id"] for ref in refs}
    wait_until(lambda: not names & set(sessions(any_beam, module_pynode)))
    assert {reason(any_beam, module_pynode, ref) for ref in refs} == {"owner_down"}


def test_thousands_of_owners_in_one_instant(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    keeper = any_beam.process()
    before = len(sessions(any_beam, module_pynode))
    count = 2_000
    pids = keeper.eval(
        "Me = self(),"
        "Pids = [spawn_link(fun() ->"
        "    {ok, _} = gen_server:call({snakebridge, Node}, Request, 60000),"
        "    Me ! ready, receive stop -> ok end end) || _ <- lists:seq(1, Count)],"
        "[receive ready -> ok end || _ <- Pids], length(Pids)",
        Node=Atom(module_pynode.name),
        Request=(Atom("call"), "builtins", "object", [], {}),
        Count=count,
        timeout=60.0,
    )
    assert pids == count
    assert ask(any_beam, module_pynode, Atom("info"))[1]["sessions"] >= count
    keeper.exit()
    wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["sessions"] <= before, 20.0)


def test_cancel_stops_what_a_caller_runs(any_beam: BeamNode, module_pynode: PynodeProcess) -> None:
    caller = any_beam.process()
    running = caller.start_eval(
        CALL,
        Node=Atom(module_pynode.name),
        Request=(Atom("call"), "builtins", "exec", ["while True: pass"], {}),
    )
    wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["running_calls"] == 1)
    assert ask(any_beam, module_pynode, Atom("cancel"), caller.pid) == Atom("ok")
    tag, error = running.result(10)
    assert tag == "error"
    assert "CallInterrupted" in error["type"]


#: How to call: with a monitor, whose end tells that the caller gave up, or without one.
MONITORED = "catch gen_server:call({snakebridge, Node}, Request, Timeout)"
UNMONITORED = """
    Alias = erlang:alias([reply]),
    {snakebridge, Node} ! {'$gen_call', {self(), [alias | Alias]}, Request},
    receive {[alias | Alias], Answer} -> Answer
    after Timeout -> {snakebridge, Node} ! {'$gen_cast', {given_up, Alias}}
    end
"""


@pytest.mark.parametrize("source", [MONITORED, UNMONITORED], ids=["monitored", "unmonitored"])
@pytest.mark.parametrize("end", ["timeout", "kill"])
def test_a_caller_that_gave_up_stops_its_call_where_the_session_says_so(
    any_beam: BeamNode, module_pynode: PynodeProcess, end: str, source: str
) -> None:
    owner, caller = any_beam.process(), any_beam.process()
    name = f"cancel{owner.pid}"
    settings = {Atom("cancel_on_timeout"): True}
    ask(owner, module_pynode, Atom("open_session"), name, owner.pid, settings)
    calling = caller.start_eval(
        source,
        Node=Atom(module_pynode.name),
        Timeout=10 if end == "timeout" else Atom("infinity"),
        Request=(Atom("call"), "builtins", "exec", ["while True: pass"], {}, {"session": name}),
    )
    if end == "kill":
        wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["running_calls"] == 1)
        caller.exit()
    else:
        calling.result(30)  # before that, none may run because it has not come yet
    wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["running_calls"] == 0)
    assert sessions(any_beam, module_pynode)[name]["owners"] == [owner.pid]
    owner.exit()


def test_a_caller_without_a_monitor_is_monitored_while_it_waits_where_the_session_says_so(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    def monitors(caller: BeamProcess) -> int:
        source = (
            "{_, Pids} = process_info(P, monitored_by), length([1 || P <- Pids, node(P) =:= N])"
        )
        return int(any_beam.eval(source, P=caller.pid, N=Atom(module_pynode.name)))

    def begin(caller: BeamProcess, source: str, name: str) -> Future[Any]:
        return caller.start_eval(
            source,
            Node=Atom(module_pynode.name),
            Timeout=Atom("infinity"),
            Request=(Atom("call"), "builtins", "exec", ["while True: pass"], {}, {"session": name}),
        )

    owner, first, *others = callers = [any_beam.process() for _ in range(5)]
    watched, unwatched = f"watched{owner.pid}", f"unwatched{owner.pid}"
    for name, setting in ((watched, True), (unwatched, False)):
        settings = {Atom("cancel_on_timeout"): setting}
        ask(owner, module_pynode, Atom("open_session"), name, owner.pid, settings)
    running = begin(first, UNMONITORED, watched)
    wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["running_calls"] == 1)
    begin(others[0], MONITORED, watched)
    begin(others[1], UNMONITORED, unwatched)
    begin(others[2], UNMONITORED, watched)
    wait_until(lambda: [monitors(each) for each in (first, *others)] == [1, 0, 0, 1])
    others[2].exit()
    ask(owner, module_pynode, Atom("cancel"), first.pid)
    assert running.result(10)[0] == "error"
    wait_until(lambda: monitors(first) == 0)
    for each in callers:
        each.exit()
    wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["running_calls"] == 0)


def test_an_owner_that_is_killed_while_its_answer_is_made(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    def refs() -> int:
        return int(ask(any_beam, module_pynode, Atom("info"))[1]["refs"])

    before = refs()
    source = "[object() for _ in range(20000)]"
    for _ in range(5):
        owner = any_beam.process()
        make(owner, module_pynode, "builtins.object")
        owner.start_eval(
            "gen_server:send_request({snakebridge, Node}, Request)",
            Node=Atom(module_pynode.name),
            Request=(Atom("call"), "builtins", "eval", [source], {}),
        )
        wait_until(lambda: refs() > before + 10)
        ask(any_beam, module_pynode, Atom("cancel"), owner.pid)
        owner.exit()
        wait_until(lambda: not owned_by(any_beam, module_pynode, owner.pid))  # noqa: B023
    wait_until(lambda: refs() <= before)
    witness = any_beam.process()
    wait_until(lambda: make(witness, module_pynode, "threading.active_count") < 30)


def test_a_call_is_not_stopped_by_a_session_that_was_given_away(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    giver, taker = any_beam.process(), any_beam.process()
    name, key = make(giver, module_pynode, "builtins.object")["session_id"], secrets.token_hex(5)
    ask(giver, module_pynode, Atom("give_session"), name, giver.pid, taker.pid)
    running = giver.start_eval(
        CALL,
        Node=Atom(module_pynode.name),
        Request=(Atom("call"), SPECIMENS, "hold", [key], {}),
    )
    wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["running_calls"] == 1)
    taker.exit()
    wait_until(lambda: name not in sessions(any_beam, module_pynode))
    make(any_beam, module_pynode, f"{SPECIMENS}.open_gate", key)
    assert running.result(10)[0] == "ok"
    giver.exit()


def test_an_awaited_call_is_seen_and_stopped(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    owner = any_beam.process()
    name = make(owner, module_pynode, "builtins.object")["session_id"]
    running = owner.start_eval(
        CALL,
        Node=Atom(module_pynode.name),
        Request=(Atom("call"), "asyncio", "sleep", [60], {}),
    )
    wait_until(lambda: sessions(any_beam, module_pynode)[name]["running"] == 1)
    wait_until(lambda: ask(any_beam, module_pynode, Atom("info"))[1]["running_calls"] == 1)
    ask(any_beam, module_pynode, Atom("release_session"), name)
    tag, answer = running.result(10)
    assert tag == "error"
    assert answer["type"] == "pynode.CallInterrupted"


def test_who_asks_about_sessions_runs_in_none(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    owner = any_beam.process()
    name = make(owner, module_pynode, "builtins.object")["session_id"]
    assert ask(owner, module_pynode, Atom("session"), name)[1]["running"] == 0
    owner.exit()


def test_generators_are_closed(
    any_beam: BeamNode, module_pynode: PynodeProcess, tmp_path: Any
) -> None:
    closed = tmp_path / "closed"
    source = f"def g():\n try:\n  yield 1\n finally: open({str(closed)!r}, 'w').close()"
    owner = any_beam.process()
    namespace = ask(owner, module_pynode, Atom("put"), {})[1]
    ask(owner, module_pynode, Atom("call"), "builtins", "exec", [source, namespace], {})
    stream = ask(owner, module_pynode, Atom("call"), "builtins", "eval", ["g()", namespace], {})[1]
    assert ask(owner, module_pynode, Atom("next"), stream, 1)[1] == [1]
    owner.exit()
    wait_until(closed.exists)


def test_context_managers_that_were_entered_are_exited(
    any_beam: BeamNode, module_pynode: PynodeProcess, tmp_path: Any
) -> None:
    source = """
class Manager:
    def __init__(self, path): self.path = path
    def __enter__(self): return 1
    def __exit__(self, *reason): open(self.path, "a").write(str(reason[0]) + "\\n")
"""
    owner = any_beam.process()
    namespace = ask(owner, module_pynode, Atom("put"), {})[1]
    ask(owner, module_pynode, Atom("call"), "builtins", "exec", [source, namespace], {})

    def manager(name: str) -> Any:
        args = [f"Manager({str(tmp_path / name)!r})", namespace]
        return ask(owner, module_pynode, Atom("call"), "builtins", "eval", args, {})[1]

    left, done, never = manager("left"), manager("done"), manager("never")
    for ref in (left, done):
        assert ask(owner, module_pynode, Atom("method"), ref, "__enter__", [], {})[1] == 1
    args = [None, None, None]
    assert ask(owner, module_pynode, Atom("method"), done, "__exit__", args, {})[0] == "ok"
    assert never["type_name"] == "Manager"
    owner.exit()
    left_by = tmp_path / "left"
    wait_until(lambda: left_by.exists() and "GeneratorExit" in left_by.read_text())
    assert (tmp_path / "done").read_text() == "None\n"
    assert not (tmp_path / "never").exists()


def test_a_restarted_python_node_says_so(
    any_beam: BeamNode,
    start_beam: Callable[..., BeamNode],
    start_pynode: Callable[..., PynodeProcess],
) -> None:
    beam, python = start_beam(runtime=any_beam.runtime), start_pynode()
    owner = beam.process()
    ref = make(owner, python, "builtins.object")
    python.kill()
    again = start_pynode(python.name)

    def answers() -> bool:
        return bool(beam.eval("net_adm:ping(Node)", Node=Atom(python.name)) == "pong")

    wait_until(answers)
    assert reason(beam, again, ref) == "node_restarted"
