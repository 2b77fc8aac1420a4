"""The command, as people and other programs start it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import psutil
import pytest

from pynode.terms import Atom
from pynode.testing import BeamError, ChildExitedError, Epmd, run_pynode, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pynode.testing import BeamNode, PynodeProcess


@contextmanager
def served(
    name: str, cookie: str, *options: str
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start a node in a process group of its own; yield it, ready, with its standard input."""
    with subprocess.Popen(
        [sys.executable, "-m", "pynode", "serve", "--name", name, *options],
        env=os.environ | {"PYNODE_COOKIE": cookie},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == f"ready {name}\n"
        yield process, process.stdin


def test_help_and_version() -> None:
    assert run_pynode("--help")[0] == 0
    code, out, _ = run_pynode("--version")
    assert (code, out.split()[0]) == (0, "pynode")
    assert "PYNODE_COOKIE" in run_pynode("--help")[1]


def test_ping(module_pynode: PynodeProcess, any_beam: BeamNode, cookie: str) -> None:
    assert run_pynode("ping", module_pynode.name, PYNODE_COOKIE=cookie)[:2] == (0, "pong\n")
    assert run_pynode("ping", any_beam.name, PYNODE_COOKIE=cookie)[:2] == (0, "pong\n")


@pytest.mark.parametrize(
    ("name", "secret", "words"),
    [
        ("nobody@127.0.0.1", "abc", "No node nobody is registered"),
        ("nohost", "abc", "node name"),
        (None, "wrong", "cookie"),
    ],
)
def test_ping_says_why_not(
    module_pynode: PynodeProcess, name: str | None, secret: str, words: str
) -> None:
    code, out, err = run_pynode("ping", name or module_pynode.name, PYNODE_COOKIE=secret)
    assert (code, out) == (1, "")
    (line,) = [line for line in err.splitlines() if line.startswith("pynode: ")]
    assert words in line
    assert "Traceback" not in err


def test_call(module_pynode: PynodeProcess, cookie: str) -> None:
    def call(*args: str) -> tuple[int, str, str]:
        return run_pynode("call", module_pynode.name, *args, PYNODE_COOKIE=cookie)

    assert call("math", "sqrt", "16")[:2] == (0, "4.0\n")
    assert call("os", "path.join", "a", "b")[:2] == (0, "'a/b'\n")
    assert call("builtins", "sorted", "[3, 1]")[:2] == (0, "[1, 3]\n")
    code, out, err = call("math", "sqrt", "-1")
    assert (code, out, err) == (1, "", "pynode: math domain error\n")
    code, out, _ = call("collections", "Counter", "aab")
    assert code == 0
    assert "Counter" in out
    assert call("gc", "get_count")[0] == 0


def test_names(module_pynode: PynodeProcess) -> None:
    code, out, _ = run_pynode("names")
    assert code == 0
    assert module_pynode.name.partition("@")[0] in [line.split()[0] for line in out.splitlines()]
    code, _, err = run_pynode("names", ERL_EPMD_PORT="1")
    assert code == 1
    assert len(err.splitlines()) == 1


def test_serve_says_why_not(
    module_pynode: PynodeProcess, cookie: str, tmp_path: Path, epmd: Epmd
) -> None:
    public = tmp_path / "cookie"
    public.write_text("abc")
    public.chmod(0o644)
    name = f"py{secrets.token_hex(4)}@127.0.0.1"
    for args, env, words in [
        (["--name", module_pynode.name], {"PYNODE_COOKIE": cookie}, "is taken"),
        (["--name", "nohost"], {"PYNODE_COOKIE": cookie}, "name@host"),
        (["--name", name], {"HOME": str(tmp_path)}, "No cookie was given"),
        (["--name", name, "--cookie-file", str(public)], {}, "chmod 400"),
        (["--name", name, "--listen", "1.2.3.4"], {"PYNODE_COOKIE": cookie}, "cannot listen"),
    ]:
        code, out, err = run_pynode("serve", *args, **env)
        assert (code, out) == (1, ""), args
        assert len(err.splitlines()) == 1
        assert words in err
    assert module_pynode.name.partition("@")[0] in epmd.names()


def test_allow(start_pynode: Callable[..., PynodeProcess], any_beam: BeamNode) -> None:
    python = start_pynode(None, "--allow", "math", "--allow", "json")

    def ask(*request: object) -> Any:
        call = "gen_server:call({snakebridge, N}, R)"
        return any_beam.eval(call, N=Atom(python.name), R=request)

    assert ask(Atom("call"), "math", "sqrt", [16], {}) == (Atom("ok"), 4.0)
    requests: list[Any] = [
        (Atom("call"), "os", "getpid", [], {}),
        (Atom("get"), "os", "environ"),
        (Atom("call"), "json", "codecs.open", ["/etc/passwd"], {}),
        (Atom("get"), "json", "codecs"),
    ]
    for request in requests:
        tag, error = ask(*request)
        assert (tag, error["__struct__"]) == ("error", "Elixir.SnakeBridge.NotAllowedError")


def waiting_for(path: Path) -> str:
    """Return Python code that waits until a file is there, and is false."""
    return (
        "any(__import__('time').sleep(0.01) for _ in "
        f"iter(__import__('pathlib').Path({str(path)!r}).exists, True))"
    )


def test_sigterm_lets_a_running_call_finish(
    start_pynode: Callable[..., PynodeProcess], any_beam: BeamNode, tmp_path: Path
) -> None:
    python, go = start_pynode(), tmp_path / "go"
    call = "gen_server:call({snakebridge, N}, R, 30000)"

    def ask(request: Any) -> Any:
        return any_beam.eval(call, N=Atom(python.name), R=request)

    request: Any = (Atom("call"), "builtins", "eval", [waiting_for(go)], {})
    running = any_beam.start_eval(call, N=Atom(python.name), R=request)
    wait_until(lambda: ask(Atom("info"))[1]["running_calls"] == 1)
    python.terminate()
    wait_until(lambda: ask(Atom("info"))[0] == "error")  # it begins no other
    go.touch()
    assert python.wait(15) == 0
    assert running.result(10) == (Atom("ok"), False)


def test_sigterm_waits_for_a_large_answer_to_be_sent(
    start_pynode: Callable[..., PynodeProcess], any_beam: BeamNode, tmp_path: Path
) -> None:
    python, go = start_pynode(), tmp_path / "go"
    source = f"{waiting_for(go)} or b'x' * 30_000_000"
    call = "{ok, B} = gen_server:call({snakebridge, N}, R, 30000), byte_size(B)"
    running = any_beam.start_eval(
        call, N=Atom(python.name), R=(Atom("call"), "builtins", "eval", [source], {})
    )
    info = "{ok, #{running_calls := C}} = gen_server:call({snakebridge, N}, info), C"
    wait_until(lambda: any_beam.eval(info, N=Atom(python.name)) == 1)
    python.terminate()
    go.touch()
    assert python.wait(15) == 0
    assert running.result(10) == 30_000_000


def test_it_stops_when_standard_input_is_closed(epmd: Epmd, cookie: str) -> None:
    name = f"py{secrets.token_hex(4)}@127.0.0.1"
    with served(name, cookie, "--stop-on-eof") as (process, stdin):
        stdin.close()
        assert process.wait(20) == 0
    assert name.partition("@")[0] not in epmd.names()


def test_what_it_has_started_ends_with_it(epmd: Epmd, cookie: str, any_beam: BeamNode) -> None:
    name = f"py{secrets.token_hex(4)}@127.0.0.1"
    with served(name, cookie, "--stop-on-eof") as (process, stdin):
        any_beam.eval(
            "{ok, _} = gen_server:call({snakebridge, N}, R)",
            N=Atom(name),
            R=(Atom("call"), "subprocess", "Popen", [["sleep", "1000"]], {}),
        )
        children = psutil.Process(process.pid).children()
        assert {child.name() for child in children} >= {"sleep"}
        stdin.close()
        assert process.wait(20) == 0
        assert psutil.wait_procs(children, 10)[1] == []
    assert name.partition("@")[0] not in epmd.names()


def test_it_is_killed_when_c_code_keeps_it_from_stopping(
    epmd: Epmd, cookie: str, any_beam: BeamNode
) -> None:
    name = f"py{secrets.token_hex(4)}@127.0.0.1"
    options = ["--stop-on-eof", "--shutdown-seconds", "0.1"]
    with served(name, cookie, *options) as (process, stdin):
        # Holds the global lock until the end of the world.
        busy: Any = (Atom("call"), "builtins", "eval", ["sum(range(10**14))"], {})
        started: Any = (Atom("call"), "threading", "active_count", [], {})
        call = "gen_server:call({snakebridge, N}, R, infinity)"
        assert any_beam.eval(call, N=Atom(name), R=started)[0] == "ok"
        used = psutil.Process(process.pid).cpu_times  # also for its start
        before = used().user
        running = any_beam.start_eval(call, N=Atom(name), R=busy)
        wait_until(lambda: used().user > before + 0.5, 30.0)
        stdin.close()
        assert process.wait(20) == -signal.SIGKILL
        with pytest.raises(BeamError, match=r"noconnection|nodedown"):
            running.result(20)
    assert name.partition("@")[0] not in epmd.names()


def test_a_forked_child_does_not_hide_the_death_of_its_node(
    start_pynode: Callable[..., PynodeProcess], start_beam: Callable[..., BeamNode], epmd: Epmd
) -> None:
    python, beam = start_pynode(), start_beam()
    call = "gen_server:call({snakebridge, N}, R, 30000)"

    def ask(*request: object) -> Any:
        return beam.eval(call, N=Atom(python.name), R=request)[1]

    fork = "__import__('os').fork() or __import__('time').sleep(1000)"
    child = psutil.Process(ask(Atom("call"), "builtins", "eval", [fork], {}))
    watch = beam.start_eval(
        "monitor_node(N, true), receive {nodedown, N} -> down after 20000 -> timeout end",
        N=Atom(python.name),
    )
    try:
        wait_until(lambda: python.name.partition("@")[0] in epmd.names())
        os.kill(python.os_pid, signal.SIGKILL)
        assert watch.result(30) == "down"
        wait_until(lambda: python.name.partition("@")[0] not in epmd.names())
        assert child.is_running()
    finally:
        child.terminate()  # which it does not ignore
        psutil.wait_procs([child], 10)
    assert not child.is_running()


def test_processes_that_were_started_with_multiprocessing_end_with_the_node(
    start_pynode: Callable[..., PynodeProcess], any_beam: BeamNode
) -> None:
    python, owner = start_pynode(), any_beam.process()
    call = "gen_server:call({snakebridge, N}, R, 30000)"

    def ask(*request: object) -> Any:
        return owner.eval(call, N=Atom(python.name), R=request)[1]

    pool = ask(Atom("call"), "concurrent.futures", "ProcessPoolExecutor", [2], {})
    abs_ = ask(Atom("get"), "builtins", "abs")
    future = ask(Atom("method"), pool, "submit", [abs_, -3], {})
    assert ask(Atom("method"), future, "result", [], {}) == 3
    children = psutil.Process(python.os_pid).children(recursive=True)
    assert children
    assert python.stop() == 0
    _, alive = psutil.wait_procs(children, 10)
    assert not alive


def test_the_log_tells_who_comes_and_goes(
    start_pynode: Callable[..., PynodeProcess], start_beam: Callable[..., BeamNode]
) -> None:
    python, beam = start_pynode(), start_beam()
    beam.eval("net_kernel:connect_node(N)", N=Atom(python.name))
    python.log.wait_for(f"{beam.name} is connected")
    beam.kill()
    python.log.wait_for(f"{beam.name} is no longer connected")


def test_a_node_for_other_hosts_that_listens_to_none_says_so(
    start_pynode: Callable[..., PynodeProcess],
) -> None:
    python = start_pynode(f"py{secrets.token_hex(4)}@gpu1.example")
    python.log.wait_for("start it with --listen")


def test_the_cookie_is_never_shown(
    start_pynode: Callable[..., PynodeProcess], start_beam: Callable[..., BeamNode]
) -> None:
    python = start_pynode(None, "--log-level", "debug", cookie="c00kie-of-mine")
    stranger = start_beam(cookie="another-c00kie")
    assert stranger.eval("net_kernel:connect_node(N)", N=Atom(python.name)) is False
    python.log.wait_for("refused")
    assert "c00kie" not in str(python.log)


def test_a_name_in_use_does_not_start(
    module_pynode: PynodeProcess, start_pynode: Callable[..., PynodeProcess]
) -> None:
    with pytest.raises(ChildExitedError, match="is taken"):
        start_pynode(module_pynode.name)


def test_setup(beam: BeamNode, start_pynode: Callable[..., PynodeProcess], tmp_path: Path) -> None:
    (tmp_path / "my_servers.py").write_text(
        "from pynode import GenServer\n"
        "class Echo(GenServer):\n"
        "    def handle_call(self, request, from_):\n"
        "        return request\n"
        "def setup(node):\n"
        "    node.add(Echo(), name='echo')\n"
    )
    python = start_pynode(None, "--setup", "my_servers:setup", env={"PYTHONPATH": str(tmp_path)})
    assert beam.eval("gen_server:call({echo, N}, hello)", N=Atom(python.name)) == "hello"


@pytest.mark.parametrize("setup", ["no_such_module:f", "math:nonsense", "math", ":f", ""])
def test_a_setup_that_is_not_there(setup: str) -> None:
    code, out, err = run_pynode(
        *("serve", "--name", "nobody@127.0.0.1", "--setup", setup), PYNODE_COOKIE="c"
    )
    assert (code, out) == (2, "")
    assert "write MODULE:FUNCTION" in err
    assert "Traceback" not in err
