"""Our client with OTP's epmd, and OTP's nodes and tools with our server."""

from __future__ import annotations

import secrets
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from pynode.dist.epmd import EpmdClient, EpmdServer
from pynode.errors import NameTakenError
from pynode.terms import Atom
from pynode.testing import BeamNode, ChildExitedError, Epmd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pynode.testing import Runtime

TIMEOUT = 20.0


@pytest.fixture(scope="module")
def runtime(any_beam: BeamNode) -> Runtime:
    return any_beam.runtime


@pytest.fixture
def server() -> Iterator[EpmdServer]:
    with EpmdServer(port=0) as server:
        yield server


def alive(node: BeamNode) -> str:
    return node.name.partition("@")[0]


def listen_port(node: BeamNode) -> int:
    """Return the port that a node says it listens at."""
    name, host = ([*part.encode()] for part in node.name.split("@"))
    source = "{port, Port, 6} = erl_epmd:port_please(Name, Host), Port"
    port = node.eval(source, Name=name, Host=host)
    assert isinstance(port, int)
    return port


# --- OTP's epmd


@pytest.mark.parametrize("hidden", [True, False])
def test_we_register_with_otps_epmd(runtime: Runtime, hidden: bool) -> None:
    with Epmd(runtime=runtime) as epmd:
        client = EpmdClient(port=epmd.port)
        registration = client.register("py", 1234, hidden=hidden)
        assert 3 < registration.creation < 1 << 32
        assert client.lookup("py") == 1234
        assert client.lookup("nobody") is None
        assert client.names() == [("py", 1234)]
        assert epmd.names() == {"py": 1234}
        with pytest.raises(NameTakenError):
            client.register("py", 1)
        registration.close()
        again = client.register("py", 1234)
        assert again.creation != registration.creation
        again.close()


def test_otps_epmd_dies(runtime: Runtime) -> None:
    lost = threading.Event()
    with Epmd(runtime=runtime) as epmd:
        registration = EpmdClient(port=epmd.port).register("py", 1, on_lost=lost.set)
    assert lost.wait(TIMEOUT)
    assert registration.closed.is_set()


def test_we_find_a_beam_and_it_finds_us(runtime: Runtime) -> None:
    with Epmd(runtime=runtime) as epmd, BeamNode(runtime=runtime, epmd=epmd) as beam:
        client = EpmdClient(port=epmd.port)
        assert client.lookup(alive(beam)) == listen_port(beam)
        registration = client.register("py", 1234)
        find = 'erl_epmd:port_please("py", "127.0.0.1")'
        assert beam.eval(find) == (Atom("port"), 1234, 6)
        registration.close()
        assert beam.eval(find) == "noport"


def test_only_one_epmd_is_started(runtime: Runtime) -> None:
    with Epmd(runtime=runtime) as epmd:
        assert EpmdServer.start_or_none(port=epmd.port) is None


# --- our server


def test_beams_find_each_other(server: EpmdServer, runtime: Runtime) -> None:
    client = EpmdClient(port=server.port)
    cookie = secrets.token_hex(8)
    with (
        BeamNode(runtime=runtime, epmd=server.port, cookie=cookie) as one,
        BeamNode(runtime=runtime, epmd=server.port, cookie=cookie) as other,
    ):
        assert one.eval("net_kernel:connect_node(Node)", Node=Atom(other.name)) is True
        names = {alive(one): listen_port(one), alive(other): listen_port(other)}
        assert dict(client.names()) == names
        known = one.eval("{ok, Names} = net_adm:names({127,0,0,1}), lists:sort(Names)")
        assert known == sorted(([*name.encode()], port) for name, port in names.items())


def test_a_beam_uses_the_creation_that_it_is_given(server: EpmdServer, runtime: Runtime) -> None:
    with BeamNode(runtime=runtime, epmd=server.port) as beam:
        assert beam.eval("erlang:system_info(creation)") == server._creation


def test_a_beam_cannot_have_a_name_that_is_taken(server: EpmdServer, runtime: Runtime) -> None:
    registration = EpmdClient(port=server.port).register("py", 1)
    with pytest.raises(ChildExitedError):
        BeamNode("py", runtime=runtime, epmd=server.port)
    registration.close()


def test_a_beam_that_was_killed_frees_its_name(server: EpmdServer, runtime: Runtime) -> None:
    for _ in range(2):
        BeamNode("py", runtime=runtime, epmd=server.port).kill()


def test_otps_tool(server: EpmdServer, runtime: Runtime) -> None:
    def epmd(option: str) -> str:
        return subprocess.run(
            [runtime.epmd, "-port", str(server.port), option],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        ).stdout

    client = EpmdClient(port=server.port)
    registration = client.register("py", 1234)
    assert "name py at port 1234\n" in epmd("-names")
    assert "Killing not allowed" in epmd("-kill")
    assert client.lookup("py") == 1234
    registration.close()
