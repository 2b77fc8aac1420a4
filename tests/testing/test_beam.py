from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import psutil
import pytest

from pynode.terms import Atom
from pynode.testing import BeamError, BeamNode, ChildExitedError, Epmd, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

TERMS = [
    b"\xff\x00",
    "größer",
    Atom("an atom"),
    -(2**80),
    1.5,
    None,
    True,
    [1, "b", [], ()],
    {"k": (1, 2)},
    b"\xfe" * 300_000,
]


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_runs_the_release_that_was_asked_for(any_beam: BeamNode) -> None:
    release = any_beam.eval("list_to_integer(erlang:system_info(otp_release))")
    assert release == any_beam.runtime.release


def test_it_is_a_node_with_that_name_and_cookie(any_beam: BeamNode, cookie: str) -> None:
    assert any_beam.eval("{node(), erlang:get_cookie()}") == (any_beam.name, cookie)
    assert any_beam.eval("os:getpid()") == [ord(digit) for digit in str(any_beam.os_pid)]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: type(term).__name__)
def test_bindings_and_values_are_terms(any_beam: BeamNode, term: object) -> None:
    assert any_beam.eval("{Term}", Term=term) == (term,)


@pytest.mark.parametrize("source", ["1 + 1", "1 + 1.", "X = 1,\nX + 1.\n", "1 + 1 % comment"])
def test_expressions_with_and_without_the_final_dot(any_beam: BeamNode, source: str) -> None:
    assert any_beam.eval(source) == 2


@pytest.mark.parametrize(
    ("source", "error_class", "reason"),
    [
        ("error(bad)", "error", "bad"),
        ("exit({shutdown, 1})", "exit", ("shutdown", 1)),
        ("throw(<<1>>)", "throw", "\x01"),
        ("exit(self(), kill)", "exit", "killed"),
        ("exit(normal)", "exit", "normal"),
        ("1 +", "error", ("syntax", 1, "syntax error before: '.'")),
        ("'", "error", ("syntax", 1, "unterminated atom starting with ''")),
    ],
)
def test_what_fails_in_the_node_is_a_beam_error(
    any_beam: BeamNode, source: str, error_class: str, reason: object
) -> None:
    with pytest.raises(BeamError) as caught:
        any_beam.eval(source)
    assert (caught.value.error_class, caught.value.reason) == (error_class, reason)


def test_the_message_has_the_stack(any_beam: BeamNode) -> None:
    with pytest.raises(BeamError, match=r"no function clause matching lists:nth\(1,\[\]\)"):
        any_beam.eval("lists:nth(1, [])")


def test_evaluations_run_beside_each_other(any_beam: BeamNode) -> None:
    first = any_beam.start_eval("register(first, self()), receive Value -> Value end")
    wait_until(lambda: any_beam.eval("whereis(first)") != "undefined")
    assert not first.done()
    any_beam.eval("first ! now")
    assert first.result(10) == "now"


def test_many_threads_may_ask(any_beam: BeamNode) -> None:
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(any_beam.eval("N", N=n)))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == list(range(20))


def test_an_evaluation_that_takes_too_long_is_a_timeout(any_beam: BeamNode) -> None:
    with pytest.raises(TimeoutError, match="timer:sleep"):
        any_beam.eval("timer:sleep(infinity)", timeout=0.01)


def test_a_process_keeps_its_identity_and_its_mailbox(any_beam: BeamNode) -> None:
    process = any_beam.process()
    assert process.eval("self()") == process.pid
    assert process.pid.node == any_beam.name
    process.eval("self() ! {hello, X}", X=1)
    assert process.eval("receive {hello, X} -> X end") == 1


def test_a_process_that_is_killed_fails_what_it_was_asked(any_beam: BeamNode) -> None:
    process = any_beam.process()
    waiting = process.start_eval("receive never -> ok end")
    process.exit()
    with pytest.raises(BeamError) as caught:
        waiting.result(10)
    assert caught.value.reason == "killed"
    with pytest.raises(BeamError) as caught:
        process.eval("ok")
    assert caught.value.reason == "noproc"


def test_a_module_is_compiled_and_loaded(any_beam: BeamNode) -> None:
    any_beam.load_module("-module(some_module).\n-export([f/1]).\nf(X) -> X + 1.\n")
    assert any_beam.eval("some_module:f(1)") == 2
    with pytest.raises(ValueError, match="undefined"):
        any_beam.load_module("-module(bad).\n-export([f/1]).\n")
    with pytest.raises(ValueError, match="no -module"):
        any_beam.load_module("f() -> 1.\n")


def test_nodes_connect(any_beam: BeamNode, start_beam: Callable[..., BeamNode]) -> None:
    other = start_beam(runtime=any_beam.runtime)
    assert any_beam.eval("net_kernel:connect_node(Node)", Node=Atom(other.name)) is True
    assert other.name in any_beam.eval("nodes()")


def test_a_hidden_node_is_hidden(any_beam: BeamNode, start_beam: Callable[..., BeamNode]) -> None:
    hidden = start_beam(runtime=any_beam.runtime, hidden=True)
    any_beam.eval("net_kernel:connect_node(Node)", Node=Atom(hidden.name))
    assert hidden.name not in any_beam.eval("nodes()")
    assert hidden.name in any_beam.eval("nodes(hidden)")


def test_short_names_flags_and_environment(start_beam: Callable[..., BeamNode]) -> None:
    node = start_beam(
        "short@localhost", flags=["-kernel", "net_ticktime", "11"], env={"ANSWER": "42"}
    )
    assert node.eval("{node(), net_kernel:get_net_ticktime()}") == ("short@localhost", 11)
    assert node.eval('os:getenv("ANSWER")') == list(b"42")


def test_it_listens_on_the_loopback_interface_alone(any_beam: BeamNode) -> None:
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(any_beam.os_pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def test_stop_ends_it_and_fails_what_was_under_way(
    any_beam: BeamNode, start_beam: Callable[..., BeamNode]
) -> None:
    node = start_beam(runtime=any_beam.runtime)
    waiting = node.start_eval("timer:sleep(infinity)")
    node.stop()
    assert not is_running(node.os_pid)
    with pytest.raises(ChildExitedError, match="ended with status 0"):
        waiting.result(10)
    with pytest.raises(ChildExitedError, match="has ended"):
        node.eval("ok")
    node.stop()
    node.kill()


def test_a_suspended_node_can_be_stopped(start_beam: Callable[..., BeamNode]) -> None:
    node = start_beam()
    node.suspend()
    node.stop()
    assert not is_running(node.os_pid)


def test_kill_ends_it_and_fails_what_was_under_way(start_beam: Callable[..., BeamNode]) -> None:
    node = start_beam()
    waiting = node.start_eval("timer:sleep(infinity)")
    node.kill()
    assert not is_running(node.os_pid)
    with pytest.raises(ChildExitedError, match="ended with status -9"):
        waiting.result(10)


def test_a_node_that_ends_by_itself_says_what_it_wrote(start_beam: Callable[..., BeamNode]) -> None:
    node = start_beam()
    with pytest.raises(ChildExitedError, match=r"status 3:\nfarewell"):
        node.eval('io:format("farewell~n"), halt(3)')


def test_a_suspended_node_falls_silent_and_comes_back(start_beam: Callable[..., BeamNode]) -> None:
    node = start_beam()
    node.suspend()
    waiting = node.start_eval("here")
    wait_until(lambda: psutil.Process(node.os_pid).status() == psutil.STATUS_STOPPED)
    assert not waiting.done()
    node.resume()
    assert waiting.result(10) == "here"


def test_a_node_that_cannot_start_says_why(epmd: Epmd, start_beam: Callable[..., BeamNode]) -> None:
    first = start_beam()
    with pytest.raises(ChildExitedError, match="seems to be in use"):
        start_beam(first.name)


def test_epmd_knows_the_nodes(epmd: Epmd, any_beam: BeamNode) -> None:
    assert any_beam.name.partition("@")[0] in epmd.names()


def test_epmd_listens_on_the_loopback_interface_alone(epmd: Epmd) -> None:
    listening = {
        connection.laddr.ip for connection in psutil.Process(epmd.os_pid).net_connections("inet")
    }
    assert listening <= {"127.0.0.1", "::1"}


def test_epmd_can_be_killed_and_started_again_at_its_port(epmd: Epmd) -> None:
    with Epmd() as first:
        first.kill()
        assert not is_running(first.os_pid)
        with Epmd(first.port) as second:
            assert second.names() == {}
            with pytest.raises(ChildExitedError, match="already a epmd running"):
                Epmd(first.port)


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(1)"])
def test_nothing_is_left_however_the_test_session_ends(epmd: Epmd, end: str) -> None:
    script = textwrap.dedent("""
        import os, signal
        from pynode.testing import BeamNode, Epmd

        epmd = Epmd()
        node, frozen = BeamNode(epmd=epmd), BeamNode(epmd=epmd)
        frozen.suspend()
        print(epmd.os_pid, node.os_pid, frozen.os_pid, flush=True)
    """)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script + end],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == {"pass": 0, "os._exit(1)": 1}.get(end, -signal.SIGKILL)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3
    wait_until(lambda: not any(map(is_running, pids)))
