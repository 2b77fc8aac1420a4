"""What there is on a node: asked for by a BEAM, by the command line, and watched in a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import secrets
import signal
import struct
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest

from pynode.terms import Atom
from pynode.testing import run_pynode, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode, BeamProcess, PynodeProcess

CALL = "gen_server:call({snakebridge, Node}, Request, 30000)"
#: A name that would clear the screen, colour it, hide what follows and go on in another line.
HOSTILE = "\x1b[2J\x1b[31m[bold red]x[/]\u202e\n\r\x9b0m:smile:"


def ask(process: BeamProcess | BeamNode, python: PynodeProcess, *request: object) -> Any:
    term = request if len(request) > 1 else request[0]
    tag, value = process.eval(CALL, Node=Atom(python.name), Request=term)
    assert tag == "ok", value
    return value


def make(process: BeamProcess, python: PynodeProcess, source: str, session: str) -> Any:
    options = {"session_id": session}
    return ask(process, python, Atom("call"), "builtins", "eval", [source], {}, options)


def measured(found: list[Any]) -> list[Any]:
    """Return what was found if all of it was measured: that is given up on a busy machine."""
    return found if all(one["measured"] == one["count"] for one in found) else []


def release(beam: BeamNode, python: PynodeProcess, session: str) -> None:
    ask(beam, python, Atom("release_session"), session)


@pytest.fixture
def name() -> str:
    return f"s{secrets.token_hex(4)}"


@pytest.fixture
def owner(any_beam: BeamNode, module_pynode: PynodeProcess) -> Iterator[BeamProcess]:
    process = any_beam.process()
    yield process
    process.exit()

    def owns_nothing() -> bool:
        sessions = ask(any_beam, module_pynode, Atom("sessions")).values()
        return not any(process.pid in session["owners"] for session in sessions)

    # The next test counts what there is.
    wait_until(owns_nothing)


@pytest.fixture
def command(module_pynode: PynodeProcess, cookie: str) -> Callable[..., str]:
    """Run a command about the node, which must succeed; return what it prints."""

    def command(what: str, *args: str) -> str:
        code, out, err = run_pynode(what, module_pynode.name, *args, PYNODE_COOKIE=cookie)
        assert (code, err) == (0, "")
        return out

    return command


# --- the protocol


def test_calls_are_counted(
    any_beam: BeamNode, module_pynode: PynodeProcess, owner: BeamProcess, name: str
) -> None:
    before = ask(any_beam, module_pynode, Atom("info"))
    ref = make(owner, module_pynode, "{1}.__iter__()", name)
    for _ in range(3):
        ask(owner, module_pynode, Atom("getattr"), ref, "__class__.__name__")
    assert ask(any_beam, module_pynode, Atom("session"), name)["calls"] == 4
    info = ask(any_beam, module_pynode, Atom("info"))
    assert info["calls"] - before["calls"] == 4
    assert info["owners"] - before["owners"] == 1
    assert 10**6 < info["memory"] < 10**10
    assert abs(info["time"] - any_beam.eval("os:system_time(second)")) < 10


def test_refs_by_type(
    any_beam: BeamNode, module_pynode: PynodeProcess, owner: BeamProcess, name: str
) -> None:
    source = "[__import__('numpy').zeros(1000) for _ in range(5)] + [set]"
    make(owner, module_pynode, source, name)
    found = wait_until(lambda: measured(ask(any_beam, module_pynode, Atom("types"), name)))
    assert [one["type_name"] for one in found] == ["ndarray", "type"]
    expected = {
        "python_module": "numpy",
        "type_name": "ndarray",
        "count": 5,
        "bytes": 40_000,
        "measured": 5,
    }
    assert found[0] == expected
    wait_until(lambda: expected in ask(any_beam, module_pynode, Atom("types")))
    wait_until(lambda: ask(any_beam, module_pynode, Atom("types"), name, {}) == found)
    sizes = [ref["bytes"] for ref in ask(any_beam, module_pynode, Atom("refs"), name)]
    assert sizes[:5] == [8000] * 5


def test_refs_by_type_of_an_implicit_session(
    any_beam: BeamNode, module_pynode: PynodeProcess, owner: BeamProcess
) -> None:
    ask(owner, module_pynode, Atom("call"), "collections", "Counter", ["abc"], {})
    (found,) = ask(any_beam, module_pynode, Atom("types"), owner.pid)
    assert (found["python_module"], found["type_name"], found["count"]) == (
        "collections",
        "Counter",
        1,
    )


@pytest.mark.parametrize(
    "request_",
    [
        (Atom("top"), Atom("nonsense"), 1),
        (Atom("top"), Atom("refs"), 0),
        (Atom("top"), Atom("refs")),
        (Atom("types"), "a", "b"),
        (Atom("types"), 7),
    ],
)
def test_what_is_no_request(
    beam: BeamNode, module_pynode: PynodeProcess, request_: tuple[Any, ...]
) -> None:
    tag, error = beam.eval(CALL, Node=Atom(module_pynode.name), Request=request_)
    assert (tag, error["__struct__"]) == ("error", "Elixir.SnakeBridge.InvalidRequestError")


def test_types_of_a_session_that_is_not_there(beam: BeamNode, module_pynode: PynodeProcess) -> None:
    tag, error = beam.eval(
        CALL, Node=Atom(module_pynode.name), Request=(Atom("types"), "not there")
    )
    assert (tag, error["__struct__"]) == ("error", "Elixir.SnakeBridge.SessionNotFoundError")


def test_top_is_limited_and_in_order(
    any_beam: BeamNode, start_pynode: Callable[..., PynodeProcess], owner: BeamProcess
) -> None:
    python = start_pynode()
    make(owner, python, "[set.add] * 1 + [__import__('numpy').zeros(99999)]", "large")
    make(owner, python, "[object() for _ in range(9)]", "many")
    make(owner, python, "object()", "busy")
    for _ in range(5):
        make(owner, python, "None", "busy")

    def first(order: str) -> Any:
        top = ask(any_beam, python, Atom("top"), Atom(order), 1)
        assert len(top["sessions"]) == len(top["types"]) == 1
        assert top["info"]["sessions"] == 3
        return top["sessions"][0]

    assert first("refs")["id"] == "many"
    assert first("calls")["id"] == "busy"
    assert first("age")["id"] == "large"
    large = wait_until(lambda: (found := first("memory"))["measured"] == found["refs"] and found)
    assert large["id"] == "large"
    assert large["bytes"] > 799_992

    def largest() -> Any:
        (kind,) = measured(ask(any_beam, python, Atom("top"), Atom("memory"), 1)["types"]) or [None]
        return kind

    assert wait_until(largest)["type_name"] == "ndarray"
    (kind,) = ask(any_beam, python, Atom("top"), Atom("age"), 1)["types"]
    assert (kind["type_name"], kind["count"]) == ("object", 10)


def test_types_are_told_of_what_may_not_be_called(
    any_beam: BeamNode, start_pynode: Callable[..., PynodeProcess], owner: BeamProcess
) -> None:
    python = start_pynode(None, "--allow", "collections")
    ask(owner, python, Atom("call"), "collections", "Counter", ["abc"], {})
    (found,) = ask(any_beam, python, Atom("types"))
    assert found["type_name"] == "Counter"


# --- the command line


def test_sessions(
    any_beam: BeamNode,
    module_pynode: PynodeProcess,
    owner: BeamProcess,
    name: str,
    command: Callable[..., str],
) -> None:
    open_ = (Atom("open_session"), name, owner.pid, {"tags": {Atom("team"): "red"}})
    assert owner.eval(CALL, Node=Atom(module_pynode.name), Request=open_) == "ok"
    make(owner, module_pynode, "[object(), object()]", name)
    (line,) = [line for line in command("sessions").splitlines() if name in line]
    cells = re.split(r"\s{2,}", line.strip())
    assert cells[3:6] == ["2", "1", "0"]
    assert cells[6:] == [f"{any_beam.name} {owner.pid}", "team=red"]
    (session,) = [one for one in json.loads(command("sessions", "--json")) if one["id"] == name]
    assert session["owners"] == [{"node": any_beam.name, "pid": str(owner.pid)}]
    assert (session["refs"], session["tags"]) == (2, {"team": "red"})


def test_refs(
    module_pynode: PynodeProcess, owner: BeamProcess, name: str, command: Callable[..., str]
) -> None:
    make(owner, module_pynode, "[__import__('numpy').zeros(1000), object()]", name)
    header, array, plain = command("refs", name).splitlines()
    assert header.split() == ["REF", "TYPE", "AGE", "USED", "BYTES"]
    assert re.fullmatch(r"#Ref<[\d.]+>\s+numpy\.ndarray\s.*\s8\.0 kB\s*", array)
    assert re.fullmatch(r"#Ref<[\d.]+>\s+builtins\.object\s.*\s16 B\s*", plain)
    found = json.loads(command("refs", name, "--json"))
    assert [one["type_name"] for one in found] == ["ndarray", "object"]
    assert found[0]["bytes"] == 8000


@pytest.mark.parametrize("released", [False, True])
def test_refs_of_a_session_that_is_not_there(
    beam: BeamNode, module_pynode: PynodeProcess, name: str, cookie: str, released: bool
) -> None:
    if released:
        process = beam.process()
        make(process, module_pynode, "object()", name)
        assert name in run_pynode("sessions", module_pynode.name, PYNODE_COOKIE=cookie)[1]
        # It ends between one request and the next.
        release(beam, module_pynode, name)
    code, out, err = run_pynode("refs", module_pynode.name, name, PYNODE_COOKIE=cookie)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert ("was released" if released else "is not open") in err
    assert f"`pynode sessions {module_pynode.name}`" in err


def test_top_once(
    any_beam: BeamNode,
    module_pynode: PynodeProcess,
    owner: BeamProcess,
    name: str,
    command: Callable[..., str],
) -> None:
    make(owner, module_pynode, "[__import__('numpy').zeros(1000) for _ in range(3)]", name)
    arrays = re.compile(r"^numpy\.ndarray +3 +24\.0 kB", re.MULTILINE)
    top = ("top", "--once", "--sort", "memory")
    # On a busy machine they are counted, but not measured.
    out = wait_until(lambda: arrays.search(found := command(*top)) and found, 30.0) or ""
    assert "\x1b" not in out
    assert out.startswith(f"{module_pynode.name}   up ")
    assert re.search(r"memory \d+\.\d MB   calls [\d.]+/s   running 0   sessions \d+   refs", out)
    assert re.search(rf"^{name} .* 3 +24\.\d kB .* {any_beam.name} {owner.pid}", out, re.MULTILINE)


@pytest.mark.parametrize("what", ["sessions", "refs", "top"])
def test_names_do_nothing_to_a_terminal(
    module_pynode: PynodeProcess,
    owner: BeamProcess,
    name: str,
    command: Callable[..., str],
    what: str,
) -> None:
    session = name + HOSTILE
    settings = {"tags": {HOSTILE: [HOSTILE, b"\xff\x1b"], "pid": owner.pid}}
    open_ = (Atom("open_session"), session, owner.pid, settings)
    assert owner.eval(CALL, Node=Atom(module_pynode.name), Request=open_) == "ok"
    kind = f"type({HOSTILE!r}, (), {{'__module__': {HOSTILE!r}}})()"
    make(owner, module_pynode, kind, session)
    if what == "refs":
        out = command("refs", session)
    else:
        out = command(what, *(["--once"] if what == "top" else []))
        assert name in out
    assert r"\x1b[2J\x1b[31m[bold red]x[/]\u202e\n\r\x9b0m:smile:" in out
    assert all(line.isprintable() for line in out.split("\n"))
    if what == "sessions":
        found = json.loads(command("sessions", "--json"))
        assert session in {one["id"] for one in found}


def test_the_error_of_a_hostile_name_is_one_line(
    module_pynode: PynodeProcess, cookie: str, epmd: Any
) -> None:
    code, _, err = run_pynode("refs", module_pynode.name, HOSTILE, PYNODE_COOKIE=cookie)
    assert code == 1
    assert err.removesuffix("\n").isprintable()


def test_a_node_without_a_bridge(beam: BeamNode, cookie: str) -> None:
    for args in (["sessions"], ["top", "--once"]):
        code, out, err = run_pynode(args[0], beam.name, *args[1:], PYNODE_COOKIE=cookie)
        assert (code, out) == (1, "")
        (line,) = err.splitlines()
        assert line.startswith("pynode: snakebridge on ")


def test_tables_are_not_imported_to_serve() -> None:
    check = "import sys, pynode.cli; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=30, check=False).returncode == 0


# --- in a terminal


class Terminal:
    """A command in a terminal of its own, and all that it writes there."""

    def __init__(self, *args: str, cookie: str, lines: int = 24, columns: int = 120) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {
            key: value for key, value in os.environ.items() if key not in {"LINES", "COLUMNS"}
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pynode", *args],
            env=environment | {"PYNODE_COOKIE": cookie, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.written = b""
        self._ours = ours
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has it open any more
            while data := os.read(self._ours, 65536):
                self.written += data

    def wait_for(self, words: str, after: int = 0) -> int:
        """Wait until a screen has something; return where in all that was written it ends."""
        wanted = re.compile(words)

        def found() -> int | None:
            match = wanted.search(self.text, after)
            return match and match.end()

        try:
            return wait_until(found, 20) or 0
        except TimeoutError:
            raise AssertionError(f"no {words} in {self.text[-3000:]}") from None

    @property
    def text(self) -> str:
        """What it has written, without colours."""
        return re.sub(r"\x1b\[[\d;]*m", "", self.written.decode(errors="replace"))

    def frames(self) -> list[str]:
        """What it has shown, one whole screen after the other."""
        return self.text.split("\x1b[H")[2:-1]

    def end(self) -> int:
        """End it with Ctrl-C and return its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        os.close(self._ours)


def test_top_in_a_terminal(
    any_beam: BeamNode, start_pynode: Callable[..., PynodeProcess], owner: BeamProcess, cookie: str
) -> None:
    python = start_pynode()
    for number in range(30):
        make(owner, python, "object()", f"s{number}")
    top = ("top", python.name, "--interval", "0.1")
    with Terminal(*top, cookie=cookie, lines=20, columns=90) as terminal:
        seen = terminal.wait_for(r"\.\.\. and \d+ more")
        # What grows is seen, and what has ended is gone.
        make(owner, python, "[object() for _ in range(7)]", "s3")
        release(any_beam, python, "s4")
        seen = terminal.wait_for(r"builtins\.object +36 +\+6 ", seen)
        owner.exit()
        terminal.wait_for("sessions 0   refs 0   owners 0", seen)
        assert terminal.end() == 0
        assert terminal.written.startswith(b"\x1b[?1049h")
        assert terminal.written.endswith(b"\x1b[?25h\x1b[?1049l")
        frames = terminal.frames()
        assert frames
        assert all(len(frame.split("\n")) == 20 for frame in frames)
        assert all(len(line.rstrip("\r")) == 90 for frame in frames for line in frame.split("\n"))


@pytest.mark.slow
def test_top_outlives_the_node(
    start_pynode: Callable[..., PynodeProcess], beam: BeamNode, cookie: str
) -> None:
    python, process = start_pynode(), beam.process()
    make(process, python, "object()", "s")
    with Terminal("top", python.name, "--interval", "0.1", cookie=cookie) as terminal:
        terminal.wait_for("builtins.object")
        python.kill()
        seen = terminal.wait_for("LOST, trying again: ")
        start_pynode(python.name)
        seen = terminal.wait_for("RESTARTED", seen)
        terminal.wait_for("sessions 0", seen)
        assert terminal.end() == 0


def test_top_ends_when_it_is_told_to(module_pynode: PynodeProcess, cookie: str) -> None:
    with Terminal("top", module_pynode.name, cookie=cookie) as terminal:
        terminal.wait_for("TYPE")
        terminal.process.terminate()
        assert terminal.process.wait(20) == 0
        assert terminal.written.endswith(b"\x1b[?25h\x1b[?1049l")


def test_top_without_a_terminal_goes_on_printing(module_pynode: PynodeProcess, cookie: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pynode", "top", module_pynode.name, "--interval", "0.1"],
        env=os.environ | {"PYNODE_COOKIE": cookie},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        heads = 0
        while heads < 3:
            line = process.stdout.readline()
            assert line
            heads += line.startswith(module_pynode.name)
        process.send_signal(signal.SIGINT)
        assert "\x1b" not in process.stdout.read()
        assert process.wait(20) == 0
