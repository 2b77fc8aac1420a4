"""Clients that others have made: ``erl_call``, nodes of Jinterface (Java) and of libei (C).

Debian has them in erlang-base, erlang-jinterface and erlang-dev. They know less of the protocol
than a BEAM does, and a node has to find out what from their flags.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from pynode import Atom, Bridge, CallTimeoutError, ExitError, Node, Pid
from pynode.dist.epmd import EpmdClient
from pynode.process import current_process
from pynode.testing import wait_until
from pynode.testing.children import Child
from pynode.testing.runtimes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode, Epmd

PATIENCE = 30.0
CLIENTS = Path(__file__).parent.parent / "clients"
JARS = ("/usr/share/java/OtpErlang.jar", "/usr/lib/erlang/lib/jinterface-*/priv/OtpErlang.jar")


def missing(what: str) -> None:
    """Skip the test, or fail it in CI."""
    message = f"no {what} was found: `make setup` installs it where it can"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(name)
    return found or ""


def build(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the Java client."""
    javac, java = tool("javac"), tool("java")
    jars = [str(path) for pattern in JARS for path in sorted(Path("/").glob(pattern[1:]))]
    if not jars:
        missing("OtpErlang.jar (Debian: erlang-jinterface)")
    classes = str(tmp_path_factory.mktemp("java"))
    build([javac, "-cp", jars[0], "-d", classes, str(CLIENTS / "JavaNode.java")])
    return [java, "-cp", f"{classes}:{jars[0]}", "JavaNode"]


@pytest.fixture(scope="module")
def cnode(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the C client."""
    gcc = tool("gcc")
    if not any(
        Path(include, "ei.h").exists() for include in ("/usr/include", "/usr/local/include")
    ):
        missing("ei.h (Debian: erlang-dev)")
    program = str(tmp_path_factory.mktemp("c") / "cnode")
    source = str(CLIENTS / "cnode.c")
    build([gcc, "-Wall", "-D_REENTRANT", "-o", program, source, "-lei", "-lpthread"])
    return [program]


class Served:
    """A node that answers what the clients ask, and what it has heard of them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.exits: SimpleQueue[Any] = SimpleQueue()
        self.node.add(Bridge(), name="snakebridge")
        self.node.spawn(self._inbox)
        wait_until(lambda: node.whereis("inbox"))

    def _inbox(self) -> None:
        """Answer ``{Pid, Message}`` with ``{self(), Message}``, or a process if that is wanted."""
        process = current_process()
        assert process is not None
        self.node.register("inbox", process)
        while True:
            sender, message = process.receive()
            if message == "victim":
                ready = threading.Event()
                message = self.node.spawn(self._victim, ready)
                ready.wait(PATIENCE)
            self.node.send(sender, (process.pid, message))

    def _victim(self, ready: threading.Event) -> None:
        """Live until a message comes, or an exit signal of somebody else."""
        process = current_process()
        assert process is not None
        process.trap_exit = True
        ready.set()
        message = process.receive(timeout=PATIENCE)
        if type(message) is tuple:
            self.exits.put(message[2])
            message = message[2]
        raise ExitError("a message came", reason=message)


@pytest.fixture
def served(epmd: Epmd, cookie: str) -> Iterator[Served]:
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    with Node(name, cookie=cookie, published=True) as node:
        yield Served(node)


@pytest.fixture
def run(served: Served, cookie: str) -> Iterator[Callable[..., tuple[Child, dict[str, str]]]]:
    """Start a client, and return it and what it has printed, as ``what=value``."""
    children: list[Child] = []

    def run(command: list[str], name: str, *args: str) -> tuple[Child, dict[str, str]]:
        child = Child([*command, name, cookie, served.node.name, *args], env=clean_environment())
        children.append(child)
        child.stdout.wait_for("^ready=", PATIENCE)
        return child, dict(line.split("=", 1) for line in str(child.stdout).splitlines())

    yield run
    for child in children:
        child.kill()


# --- Java


def test_jinterface_asks_python(java: list[str], run: Any, served: Served) -> None:
    name = f"java{secrets.token_hex(5)}@127.0.0.1"
    _, said = run(java, name)
    assert said["ping"] == "true"
    assert said["rpc"] == "4.0"
    assert said["undef"] == "{badrpc,{'EXIT',{undef,[{no_such_module,f,[],[]}]}}}"
    assert said["answer"].endswith(',"hello"}')
    kinds = ["List", "Binary", "Map", "Long", "Pid", "Ref", "Bitstr", "Boolean", "Atom"]
    same = {key: value for key, value in said.items() if key.startswith("same ")}
    assert same == {f"same OtpErlang{kind}": "true" for kind in kinds}
    # The reasons of exits: of a link of theirs, of exit/2, and of their mailbox's.
    assert said["exit"] == "exit"
    assert served.exits.get(timeout=PATIENCE) == Atom("exit2")
    assert served.exits.get(timeout=PATIENCE) == Atom("link")
    assert said["late link"] == "noproc"
    assert said["tag"] == "true"
    assert said["reply"] == "{ok,4.0}"


def test_python_asks_jinterface(java: list[str], run: Any, served: Served) -> None:
    node, name = served.node, f"java{secrets.token_hex(5)}@127.0.0.1"
    child, _ = run(java, name)
    assert node.ping(name)
    large = {"large": ["x" * 1_000_000, list(range(10_000))]}
    for message in (1, [1, 2], "text", large, (Atom("a"), None)):
        assert node.call(("java", name), message) == (Atom("echo"), message)
    with node.process() as process:
        node.send(("java", name), (process.pid, "hello"))
        assert process.receive(timeout=PATIENCE) == (Atom("echo"), "hello")
    # It knows neither monitors nor spawning, which costs nobody the connection.
    connection = node.connection(name)
    reasons: SimpleQueue[Any] = SimpleQueue()
    node.monitor(("java", name), reasons.put)
    unwanted = node.monitor(("java", name), reasons.put)
    assert node.demonitor(unwanted)
    with pytest.raises(ExitError, match="notsup"):
        node.erpc(name, "java", "f", [])
    with pytest.raises(ExitError, match="notsup"):
        node.spawn_at(name, "java", "f", [])
    with pytest.raises(CallTimeoutError):
        node.call(("nobody", name), 1, timeout=0.1)
    assert node.call(("java", name), 1) == (Atom("echo"), 1)
    assert node.connection(name) is connection
    node.send(("java", name), Atom("stop"))
    assert child.wait(PATIENCE) == 0
    assert reasons.get(timeout=PATIENCE) == Atom("noconnection")
    assert reasons.empty()


def test_links_with_jinterface(java: list[str], run: Any, served: Served) -> None:
    node, name = served.node, f"java{secrets.token_hex(5)}@127.0.0.1"
    child, _ = run(java, name)
    _, pid = node.call(("java", name), Atom("self"))
    with node.process() as process:
        process.link(pid)
        process.unlink(pid)
        process.link(pid)
        process.exit(Atom("why"))
    child.stdout.wait_for("^exit=why$", PATIENCE)
    # A link does not outlive the node.
    with node.process() as process:
        process.trap_exit = True
        process.link(pid)
        child.kill()
        noconnection = (Atom("EXIT"), pid, Atom("noconnection"))
        assert process.receive(timeout=PATIENCE) == noconnection


# --- C


def test_libei_asks_python(cnode: list[str], run: Any, served: Served) -> None:
    with served.node.process() as process:
        assert served.node.register_global(Atom("global_name"), process.pid)
        _, said = run(cnode, f"c{secrets.token_hex(5)}", "global")
    assert said["math:sqrt"] == "4.000000"
    assert said["erlang:node"] == f"'{served.node.name}'"
    assert said["no_such_module:f"] == "{badrpc, {'EXIT', {undef, [{no_such_module, f, [], []}]}}}"
    assert said["answer"].endswith(', "hello"}')
    assert said["large"] == "5000000"
    assert said["tag"] == "0"
    assert said["reply"] == "{ok, 4.000000}"
    assert said["names"] == "1 global_name"
    assert said["whereis"] == served.node.name
    assert said["nobody"] == "-1"


def test_python_asks_libei(cnode: list[str], run: Any, served: Served) -> None:
    node, alive = served.node, f"c{secrets.token_hex(5)}"
    child, _ = run(cnode, alive)
    name = f"{alive}@127.0.0.1"
    wait_until(lambda: node.connection(name) is None)
    with node.process() as process:
        for message in (1, [1, 2], "text" * 100_000, (Atom("a"), None), {"a": 2.5}):
            node.send(("any", name), (process.pid, message))
            assert process.receive(timeout=PATIENCE) == (Atom("echo"), message)
        connection = node.connection(name)
        assert connection is not None
        pid = Pid(Atom(name), 1, 0, connection.creation)
        process.link(pid)
        child.stdout.wait_for(f"^link={node.name}$", PATIENCE)
        process.monitor(pid)
        # Whatever name or pid it is, a C-node reads it all by itself.
        node.send(pid, (process.pid, "to a pid"))
        assert process.receive(timeout=PATIENCE) == (Atom("echo"), "to a pid")
        assert node.connection(name) is connection
        process.trap_exit = True
        node.send(("any", name), Atom("stop"))
        assert child.wait(PATIENCE) == 0
        ends = [process.receive(timeout=PATIENCE) for _ in range(2)]
        assert {(end[0], end[-1]) for end in ends} == {
            ("DOWN", Atom("noconnection")),
            ("EXIT", Atom("noconnection")),
        }


def test_the_exit_of_a_process_that_a_c_node_is_linked_to(
    cnode: list[str], run: Any, served: Served
) -> None:
    node, alive = served.node, f"c{secrets.token_hex(5)}"
    child, _ = run(cnode, alive)
    name = f"{alive}@127.0.0.1"
    wait_until(lambda: node.connection(name) is None)
    pid = Pid(Atom(name), 1, 0, node.connect(name).creation)
    with node.process() as process:
        process.link(pid)
        process.exit((Atom("because"), 1))
    child.stdout.wait_for(r"^exit=\{because, 1\}$", PATIENCE)
    node.exit(pid, Atom("go"))
    child.stdout.wait_for("^exit2=go$", PATIENCE)


# --- erl_call


@pytest.fixture
def erl_call(any_beam: BeamNode, cookie: str) -> Callable[..., tuple[int, str, str]]:
    """Run the ``erl_call`` of a runtime, with a name of its own each time."""
    program = any_beam.runtime.root / "bin" / "erl_call"
    if not program.exists():
        missing(f"erl_call of {any_beam.runtime}")

    def erl_call(*args: str, stdin: str = "") -> tuple[int, str, str]:
        named = {"-r", "-R", "-h"} & {*args}
        name = [] if named else ["-h", f"c{secrets.token_hex(5)}"]
        done = subprocess.run(
            [program, "-c", cookie, *name, *args],
            input=stdin,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return erl_call


def test_erl_call(erl_call: Callable[..., Any], served: Served) -> None:
    name = served.node.name
    ours = (0, f"'{name}'", "")
    assert erl_call("-name", name, "-a", "erlang node") == ours
    assert erl_call("-n", name, "-a", "erlang node") == ours
    assert erl_call("-name", name, "-a", "math sqrt [16]") == (0, "4.000000", "")
    assert erl_call("-name", name, "-a", "math hypot [3,4]") == (0, "5.000000", "")
    assert erl_call("-r", "-name", name, "-a", "erlang node") == ours
    # It asks to be given a name.
    assert erl_call("-R", "-name", name, "-a", "erlang node") == ours
    assert erl_call("-fetch_stdout", "-name", name, "-a", "erlang node") == ours
    assert erl_call("-no_result_term", "-name", name, "-a", "erlang node") == (0, "", "")
    port = EpmdClient().lookup(name.partition("@")[0])
    assert erl_call("-address", f"127.0.0.1:{port}", "-a", "erlang node") == ours


def test_erl_call_fails_as_with_a_beam(
    erl_call: Callable[..., Any], any_beam: BeamNode, served: Served
) -> None:
    for args in (
        ["-a", "no_such_module f"],
        ["-a", 'lists no_such_function [a,{b,c},"s",1.5]'],
        ["-timeout", "20", "-a", "init get_status"],
    ):
        theirs = erl_call("-name", any_beam.name, *args)
        assert erl_call("-name", served.node.name, *args) == theirs
    # It ends itself when the time is over.
    slow = [("timer", "[5000]"), ("time", "[5]")]
    peers = (any_beam.name, served.node.name)
    for peer, (module, seconds) in zip(peers, slow, strict=True):
        sleep = f"{module} sleep {seconds}"
        code, out, _ = erl_call("-timeout", "1", "-name", peer, "-a", sleep)
        assert (code, out) == (-14, "")
    # What Python cannot do, and may not.
    code, out, _ = erl_call("-name", served.node.name, "-e", stdin="1 + 1.")
    assert code == 0
    assert "{undef, [{erl_eval, eval_str" in out
    assert erl_call("-name", served.node.name, "-q")[0] == 0
    assert erl_call("-name", served.node.name, "-a", "erlang node")[0] == 0


def test_erl_call_with_a_wrong_cookie(erl_call: Callable[..., Any], served: Served) -> None:
    code, out, _ = erl_call("-c", "wrong", "-name", served.node.name, "-a", "erlang node")
    assert code != 0
    assert not out


def test_a_c_node_that_stops_halfway(served: Served) -> None:
    port = EpmdClient().lookup(served.node.name.partition("@")[0])
    assert port is not None
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"\x00\x15N" + bytes(5))
    assert served.node.ping(served.node.name)
