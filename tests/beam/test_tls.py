"""TLS between this node and real BEAM nodes (``-proto_dist inet_tls``), both ways."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from pynode import Atom, Node, NodeUnavailableError, Tls, TlsError
from pynode.testing import BeamNode, PynodeProcess, Runtime, find_runtimes, run_pynode, wait_until
from pynode.testing.children import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import Epmd

PATIENCE = 20.0
LARGE = 50_000_000
CALL = "gen_server:call({snakebridge, N}, R, 30000)"
PAGE = (Path(__file__).parent.parent.parent / "docs" / "TLS.md").read_text(encoding="utf-8")


def has_ssl(runtime: Runtime) -> bool:
    return any((runtime.root / "lib").glob("ssl-*"))


#: Every runtime that is there; those that cannot use TLS are skipped, and say so.
RUNTIMES = [
    pytest.param(
        runtime,
        id=f"otp{runtime.release}",
        marks=pytest.mark.skipif(
            not has_ssl(runtime), reason=f"this {runtime} comes without the application ssl"
        ),
    )
    for runtime in find_runtimes()
] or [pytest.param(None, id="otp")]


@dataclass(frozen=True)
class Identity:
    """A certificate and who checks others: the same for both kinds of node."""

    tls: Tls
    directory: Path

    def flags(self, server: str = "", client: str = "", both: str = "") -> list[str]:
        """Return the command line of a BEAM node, with more options of TLS for its two roles."""
        files = (
            f'{{certfile, "{self.tls.certificate}"}}, {{keyfile, "{self.tls.key}"}}, '
            f'{{cacertfile, "{self.tls.authorities}"}}, {{verify, verify_peer}}'
        )
        path = self.directory / f"{secrets.token_hex(4)}.conf"
        path.write_text(
            f"[{{server, [{{fail_if_no_peer_cert, true}}, {files}{server}{both}]}},\n"
            f" {{client, [{client or files}{both}]}}].\n"
        )
        return ["-proto_dist", "inet_tls", "-ssl_dist_optfile", str(path)]

    def options(self) -> list[str]:
        """Return the options of the command ``pynode``."""
        return [
            *("--tls-certificate", str(self.tls.certificate)),
            *("--tls-key", str(self.tls.key)),
            *("--tls-authorities", str(self.tls.authorities)),
        ]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def issue(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Identity]:
    directory = tmp_path_factory.mktemp("tls")

    def issue(ca: trustme.CA, host: str = "localhost") -> Identity:
        name = secrets.token_hex(4)
        key = directory / f"{name}.key"
        tls = Tls(directory / f"{name}.pem", key, directory / f"{name}-ca.pem")
        certificate = ca.issue_cert(host)
        certificate.cert_chain_pems[0].write_to_path(str(tls.certificate))
        certificate.private_key_pem.write_to_path(str(key))
        ca.cert_pem.write_to_path(str(tls.authorities))
        return Identity(tls, directory)

    return issue


@pytest.fixture(scope="module")
def identity(issue: Callable[..., Identity], ca: trustme.CA) -> Identity:
    return issue(ca)


@pytest.fixture(scope="module")
def stranger(issue: Callable[..., Identity]) -> Identity:
    """What a node has whose authority is another."""
    return issue(trustme.CA())


def name() -> str:
    return f"n{secrets.token_hex(5)}@localhost"


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Runtime | None:
    found: Runtime | None = request.param
    return found


@pytest.fixture(scope="module", params=["tlsv1.2", "tlsv1.3"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tls_beam(
    epmd: Epmd, cookie: str, identity: Identity, runtime: Runtime | None, version: str
) -> Iterator[BeamNode]:
    """A BEAM node with TLS of each version, shared by the tests of a module."""
    flags = identity.flags(both=f", {{versions, ['{version}']}}")
    with BeamNode(name(), runtime=runtime, cookie=cookie, epmd=epmd, flags=flags) as beam:
        yield beam


@pytest.fixture
def start_node(epmd: Epmd, cookie: str) -> Iterator[Callable[..., Node]]:
    with ExitStack() as stack:

        def start(tls: Tls | None, **options: Any) -> Node:
            options = {"cookie": cookie} | options
            return stack.enter_context(Node(name(), tls=tls, **options))

        yield start


@pytest.fixture
def node(start_node: Callable[..., Node], identity: Identity) -> Node:
    return start_node(identity.tls)


@pytest.fixture(scope="module")
def python(epmd: Epmd, cookie: str, identity: Identity) -> Iterator[PynodeProcess]:
    """``pynode serve`` with TLS."""
    with PynodeProcess(name(), *identity.options(), cookie=cookie, epmd=epmd) as python:
        yield python


def address(beam: BeamNode, node: Node) -> Any:
    """Return what the BEAM knows of the address of a connection, and over which protocol."""
    _, pairs = beam.eval("net_kernel:node_info(N)", N=Atom(node.name))
    return dict(pairs)["address"]


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if "refused" in r.message]


# --- what it is for


def test_python_connects(tls_beam: BeamNode, node: Node, version: str) -> None:
    assert node.ping(tls_beam.name)
    assert address(tls_beam, node)[3] == "tls"
    connection: Any = node.connection(tls_beam.name)
    assert connection._socket.version.lower() == version


def test_the_beam_connects(tls_beam: BeamNode, node: Node, version: str) -> None:
    # The second time may take up the session of the first.
    for _ in range(2):
        assert tls_beam.eval("net_adm:ping(N)", N=Atom(node.name)) == "pong"
        assert address(tls_beam, node)[3] == "tls"
        connection: Any = node.connection(tls_beam.name)
        assert connection._socket.version.lower() == version
        assert tls_beam.eval("erlang:disconnect_node(N)", N=Atom(node.name)) is True
        wait_until(lambda: not node.nodes())


def test_both_connect_at_once(tls_beam: BeamNode, cookie: str, identity: Identity) -> None:
    for turn in range(10):
        # Names on either side of the BEAM's, so that each side wins some of them.
        with Node("az"[turn % 2] + name(), cookie=cookie, tls=identity.tls) as node:
            other = tls_beam.start_eval("net_adm:ping(N)", N=Atom(node.name))
            assert node.ping(tls_beam.name)
            assert other.result(PATIENCE) == "pong"
            assert node.nodes() == [tls_beam.name]


def test_calls_of_the_bridge(tls_beam: BeamNode, python: PynodeProcess) -> None:
    request: Any = (Atom("call"), "math", "sqrt", [16], {})
    assert tls_beam.eval(CALL, N=Atom(python.name), R=request) == (Atom("ok"), 4.0)


def test_large_messages(tls_beam: BeamNode, python: PynodeProcess, node: Node) -> None:
    source = """
        Request = {call, <<"builtins">>, <<"len">>, [binary:copy(<<255>>, S)], #{}},
        {ok, Size} = gen_server:call({snakebridge, N}, Request, 30000), Size"""
    assert tls_beam.eval(source, N=Atom(python.name), S=LARGE) == LARGE
    request: Any = (Atom("call"), "builtins", "bytes", [LARGE], {})
    source = "{ok, B} = " + CALL + ", byte_size(B)"
    assert tls_beam.eval(source, N=Atom(python.name), R=request) == LARGE
    data = b"\xff" * LARGE
    assert node.erpc(tls_beam.name, "erlang", "byte_size", [data], timeout=30) == LARGE
    copied = node.erpc(tls_beam.name, "binary", "copy", [b"\xff", LARGE], timeout=30)
    assert copied == data


def test_two_python_nodes(python: PynodeProcess, node: Node) -> None:
    request: Any = (Atom("call"), "math", "sqrt", [16], {})
    assert node.call(("snakebridge", python.name), request) == (Atom("ok"), 4.0)


def test_the_end_of_either_node(
    start_beam: Callable[..., BeamNode], node: Node, identity: Identity, cookie: str
) -> None:
    beam = start_beam(name(), flags=identity.flags())
    watch = "monitor_node(N, true), receive {nodedown, N} -> down after 10000 -> timeout end"
    with Node(name(), cookie=cookie, tls=identity.tls) as other:
        assert beam.eval("net_kernel:connect_node(N)", N=Atom(other.name)) is True
        down = beam.start_eval(watch, N=Atom(other.name))
    assert down.result(PATIENCE) == "down"
    reasons: SimpleQueue[Any] = SimpleQueue()
    node.monitor(beam.process().pid, reasons.put)
    beam.kill()
    assert reasons.get(timeout=PATIENCE) == Atom("noconnection")
    assert "ERROR" not in beam.output


@pytest.mark.parametrize(
    "often",
    [
        pytest.param(", {versions, ['tlsv1.3']}, {key_update_at, 20000}", id="key_update"),
        pytest.param(", {versions, ['tlsv1.2']}, {renegotiate_at, 30}", id="renegotiation"),
    ],
)
@pytest.mark.parametrize("initiator", ["python", "beam"])
def test_new_keys_in_the_middle_of_a_flood(
    often: str,
    initiator: str,
    start_beam: Callable[..., BeamNode],
    identity: Identity,
    node: Node,
) -> None:
    beam = start_beam(name(), flags=identity.flags(both=often))
    if initiator == "beam":
        beam.eval("net_kernel:connect_node(N)", N=Atom(node.name))
        wait_until(node.nodes)
    connection: Any = node.connect(beam.name)
    written: list[None] = []
    on_records = connection._socket.on_records

    def counted() -> None:
        written.append(None)
        on_records()

    connection._socket.on_records = counted
    data = b"\xff" * 200_000

    def there_and_back(number: int) -> None:
        for turn in range(15):
            term = (number, turn, data)
            assert node.erpc(beam.name, "erlang", "hd", [[term]], timeout=30) == term

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(there_and_back, range(6)))
    assert len(written) > 10
    assert node.connection(beam.name) is connection


# --- refusals


def test_each_of_another_authority(
    start_beam: Callable[..., BeamNode],
    start_node: Callable[..., Node],
    identity: Identity,
    stranger: Identity,
    caplog: pytest.LogCaptureFixture,
) -> None:
    beam = start_beam(name(), flags=identity.flags(both=", {versions, ['tlsv1.2', 'tlsv1.3']}"))
    trusting = replace(stranger.tls, authorities=identity.tls.authorities)
    for tls, raised, logged in [
        (stranger.tls, "has a certificate that is not accepted", "does not accept this node"),
        (trusting, "does not accept this node", "does not accept this node"),
    ]:
        caplog.clear()
        node = start_node(tls)
        with pytest.raises(NodeUnavailableError, match=raised):
            node.ping(beam.name)
        assert beam.eval("net_adm:ping(N)", N=Atom(node.name)) == "pang"
        (line,) = wait_until(lambda: refusals(caplog))
        assert logged in line
        assert node.nodes() == []
    # One that trusts us, and that we do not trust.
    beam = start_beam(name(), flags=Identity(trusting, stranger.directory).flags())
    caplog.clear()
    node = start_node(identity.tls)
    with pytest.raises(NodeUnavailableError, match="has a certificate that is not accepted"):
        node.ping(beam.name)
    assert beam.eval("net_adm:ping(N)", N=Atom(node.name)) == "pang"
    (line,) = wait_until(lambda: refusals(caplog))
    assert "The peer has a certificate that is not accepted" in line


def test_a_beam_without_certificate(
    version: str,
    start_beam: Callable[..., BeamNode],
    identity: Identity,
    node: Node,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = f'{{cacertfile, "{identity.tls.authorities}"}}, {{verify, verify_peer}}'
    flags = identity.flags(client=client, both=f", {{versions, ['{version}']}}")
    beam = start_beam(name(), flags=flags)
    assert beam.eval("net_adm:ping(N)", N=Atom(node.name)) == "pang"
    (line,) = wait_until(lambda: refusals(caplog))
    assert "The peer shows no certificate; " in line


def test_certificates_for_another_host(
    start_beam: Callable[..., BeamNode],
    start_node: Callable[..., Node],
    issue: Callable[..., Identity],
    ca: trustme.CA,
    caplog: pytest.LogCaptureFixture,
) -> None:
    elsewhere = issue(ca, "elsewhere.example")
    beam, node = start_beam(name(), flags=elsewhere.flags()), start_node(elsewhere.tls)
    with pytest.raises(NodeUnavailableError, match="certificate that is not for its host"):
        node.ping(beam.name)
    assert beam.eval("net_adm:ping(N)", N=Atom(node.name)) == "pang"
    wait_until(lambda: "does not accept this node (handshake failure)" in caplog.text)
    assert start_node(replace(elsewhere.tls, check_host=False)).ping(beam.name)


def test_plain_against_tls(
    start_beam: Callable[..., BeamNode],
    start_node: Callable[..., Node],
    identity: Identity,
    node: Node,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, secure = start_beam(name()), start_beam(name(), flags=identity.flags())
    # The BEAM waits for as much as the first two bytes of TLS promise, until its time is up.
    with pytest.raises(NodeUnavailableError, match=r"check that (it|both nodes) uses? TLS"):
        node.ping(plain.name)
    assert plain.eval("net_adm:ping(N)", N=Atom(node.name)) == "pang"
    (line,) = wait_until(lambda: refusals(caplog))
    assert "The peer does not use TLS and this node does" in line
    caplog.clear()
    node = start_node(None)
    with pytest.raises(NodeUnavailableError, match="both use TLS or none"):
        node.ping(secure.name)
    assert secure.eval("net_adm:ping(N)", N=Atom(node.name)) == "pang"
    (line,) = wait_until(lambda: refusals(caplog))
    assert "both use TLS or none" in line


def test_a_wrong_cookie(
    tls_beam: BeamNode,
    start_node: Callable[..., Node],
    identity: Identity,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = start_node(identity.tls, cookie="wrong")
    with pytest.raises(NodeUnavailableError, match="cookie"):
        node.ping(tls_beam.name)
    assert tls_beam.eval("net_adm:ping(N)", N=Atom(node.name)) == "pang"
    (line,) = wait_until(lambda: refusals(caplog))
    assert "cookie" in line


# --- the command line


def test_ping_and_call(
    tls_beam: BeamNode, python: PynodeProcess, identity: Identity, cookie: str
) -> None:
    options = identity.options()
    for peer in (tls_beam.name, python.name):
        assert run_pynode("ping", peer, *options, PYNODE_COOKIE=cookie)[:2] == (0, "pong\n")
    call = ["call", *options, python.name, "math", "sqrt", "16"]
    assert run_pynode(*call, PYNODE_COOKIE=cookie)[:2] == (0, "4.0\n")
    code, out, err = run_pynode("ping", python.name, PYNODE_COOKIE=cookie)
    assert (code, out) == (1, "")
    assert "both use TLS or none" in err


def test_the_environment(python: PynodeProcess, identity: Identity, cookie: str) -> None:
    key = identity.tls.key
    assert key is not None
    encrypted = identity.directory / "encrypted.key"
    subprocess.run(
        ["openssl", "pkey", "-aes256", "-passout", "pass:sesame", "-in", key, "-out", encrypted],
        check=True,
        capture_output=True,
    )
    env = {
        "PYNODE_COOKIE": cookie,
        "PYNODE_TLS_CERTIFICATE": str(identity.tls.certificate),
        "PYNODE_TLS_KEY": str(encrypted),
        "PYNODE_TLS_AUTHORITIES": str(identity.tls.authorities),
    }
    code, out, err = run_pynode("ping", python.name, **env)
    assert (code, out) == (1, "")
    assert err == f"pynode: The key in {encrypted} needs its password.\n"
    assert run_pynode("ping", python.name, PYNODE_TLS_PASSWORD="sesame", **env)[:2] == (0, "pong\n")


def test_what_is_wrong_is_said_in_a_line(identity: Identity, tmp_path: Path, cookie: str) -> None:
    missing = str(tmp_path / "missing.pem")
    for command in (["serve", "--name", name()], ["ping", name()]):
        options = identity.options()
        code, _, err = run_pynode(*command, *options[2:], PYNODE_COOKIE=cookie)
        assert code == 2
        assert "TLS takes both --tls-certificate and --tls-authorities." in err
        options[1] = missing
        code, out, err = run_pynode(*command, *options, PYNODE_COOKIE=cookie)
        assert (code, out) == (1, "")
        assert err.startswith(f"pynode: The TLS certificate file {missing} cannot be read")
        assert len(err.splitlines()) == 1
    with pytest.raises(TlsError, match="cannot be read"):
        Node(name(), cookie=cookie, tls=replace(identity.tls, certificate=Path(missing)))


# --- docs/TLS.md, line by line


def steps(language: str, prompt: str) -> list[tuple[str, list[str]]]:
    """Return the commands of the page, and the lines that it shows as their output."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL):
        for line in block.splitlines():
            if line.startswith(prompt):
                found.append((line.removeprefix(prompt), []))
            else:
                found[-1][1].append(line)
    # What follows a command with a here-document is that.
    return [("\n".join([c, *o]), []) if "<<END" in c else (c, o) for c, o in found]


def test_the_guide(epmd: Epmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("elixir") is None:
        pytest.skip("no Elixir was found: `make setup` installs it where it can")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def shell(command: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    commands = steps("console", "$ ")
    serve, iex = (
        next(number for number, (command, _) in enumerate(commands) if what in command)
        for what in ("pynode serve", "iex ")
    )
    for command, output in commands[:serve]:
        assert shell(command) == output
    asked = steps("elixir", "iex> ")
    program = "; ".join(f"IO.inspect(({line}))" for line, _ in asked)
    program = f" -e '{program}; Process.sleep(:infinity)'"
    elixir = commands[iex][0].replace("iex", "elixir", 1) + program
    command, (ready,) = commands[serve]
    with Child(["bash", "-c", f"exec env {command}"], env=os.environ) as python:
        python.stdout.wait_for(f"^{ready}$")
        with Child(["bash", "-c", f"exec {elixir}"], env=os.environ) as beam:
            beam.stdout.wait_for(f"^{asked[-1][1][-1]}$")
            assert str(beam.stdout).splitlines() == [line for _, out in asked for line in out]
            (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
            Path("script.py").write_text(code, encoding="utf-8")
            assert shell("python script.py") == re.findall(r"# (.+)", code)
            export, *rest = commands[iex + 1 :]
            for command, output in rest:
                assert shell(f"{export[0]}; {command}") == output
