"""The client and the server with each other, and with what speaks the protocol badly."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from pynode.config import Limits
from pynode.dist import epmd as epmd_module
from pynode.dist.epmd import LOOPBACK, EpmdClient, EpmdServer, epmd_port
from pynode.errors import EpmdError, EpmdUnavailableError, NameTakenError
from pynode.protocol import epmd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT = 10.0


@pytest.fixture
def server() -> Iterator[EpmdServer]:
    with EpmdServer(port=0) as server:
        yield server


@pytest.fixture
def client(server: EpmdServer) -> EpmdClient:
    return EpmdClient(port=server.port)


def raw(server: EpmdServer) -> socket.socket:
    return socket.create_connection((LOOPBACK, server.port), timeout=TIMEOUT)


def read_all(sock: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    data = b""
    with suppress(ConnectionResetError):  # It may have had something unread of ours.
        while chunk := sock.recv(65536):
            data += chunk
    return data


@contextmanager
def one_shot(serve: Callable[[socket.socket], None]) -> Iterator[EpmdClient]:
    """Be an EPMD that does to its first client what `serve` does, and yield a client."""
    with (
        socket.create_server((LOOPBACK, 0)) as listener,
        ThreadPoolExecutor(1) as pool,
    ):

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(TIMEOUT)
                serve(connection)

        done = pool.submit(run)
        yield EpmdClient(port=listener.getsockname()[1])
        done.result(TIMEOUT)


# --- names


def test_a_node_is_found_while_it_is_registered(client: EpmdClient) -> None:
    assert client.lookup("py") is None
    assert client.names() == []
    registration = client.register("py", 1234)
    assert client.lookup("py") == 1234
    assert client.names() == [("py", 1234)]
    registration.close()
    assert registration.closed.is_set()
    assert client.lookup("py") is None
    registration.close()


def test_creations_have_32_bits_and_change_with_each_registration(client: EpmdClient) -> None:
    creations = set()
    for _ in range(20):
        registration = client.register("py", 1)
        registration.close()
        creations.add(registration.creation)
    assert len(creations) == 20
    assert all(3 < creation < 1 << 32 for creation in creations)


def test_creations_of_two_servers_differ() -> None:
    creations = set()
    for _ in range(2):
        with EpmdServer(port=0) as server:
            registration = EpmdClient(port=server.port).register("py", 1)
            creations.add(registration.creation)
            registration.close()
    assert len(creations) == 2


def test_creations_go_round(server: EpmdServer, client: EpmdClient) -> None:
    server._creation = 0xFFFFFFFE
    creations = []
    for _ in range(3):
        registration = client.register("py", 1)
        creations.append(registration.creation)
        registration.close()
    assert creations == [0xFFFFFFFF, 4, 5]


def test_a_name_is_taken_while_its_node_lives(client: EpmdClient) -> None:
    registration = client.register("py", 1)
    with pytest.raises(NameTakenError, match="name py is taken: another living node has it"):
        client.register("py", 2)
    assert client.lookup("py") == 1
    registration.close()
    client.register("py", 2).close()


def test_many_nodes_come_and_go(client: EpmdClient) -> None:
    def live(number: int) -> None:
        name = f"n{number}"
        for _ in range(10):
            registration = client.register(name, number)
            assert client.lookup(name) == number
            registration.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(1, 9)))
    assert client.names() == []


def test_node_types() -> None:
    requests: list[epmd.Request | None] = []

    def serve(sock: socket.socket) -> None:
        requests.append(epmd.parse_request(sock.recv(100), 100))
        sock.sendall(epmd.Alive2Resp(0, 7).encode())

    for hidden in (True, False):
        with one_shot(serve) as client:
            registration = client.register("py", 9, hidden=hidden)
            assert registration.creation == 7
            registration.close()
    assert requests == [
        epmd.Alive2Req(9, "py", epmd.HIDDEN),
        epmd.Alive2Req(9, "py", epmd.NORMAL),
    ]


@pytest.mark.parametrize("name", ["", "py@host", "p y"])
def test_names_that_are_none(client: EpmdClient, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for EPMD"):
        client.register(name, 1)
    with pytest.raises(ValueError, match="is no name for EPMD"):
        client.lookup(name)


# --- the death of EPMD


def test_the_death_of_epmd_is_told_and_the_node_can_register_again() -> None:
    with EpmdServer(port=0) as first:
        lost = threading.Event()
        client = EpmdClient(port=first.port)
        registration = client.register("py", 1, on_lost=lost.set)
        assert not registration.closed.is_set()
    assert lost.wait(TIMEOUT)
    assert registration.closed.is_set()
    registration.close()
    with EpmdServer(port=first.port):
        client.register("py", 1).close()


def test_on_lost_may_register_again_by_itself() -> None:
    again = threading.Event()
    with ExitStack() as stack:
        first = EpmdServer(port=0)
        client = EpmdClient(port=first.port)

        def register() -> None:
            stack.enter_context(EpmdServer(port=first.port))
            stack.callback(client.register("py", 1).close)
            again.set()

        client.register("py", 1, on_lost=register)
        first.close()
        assert again.wait(TIMEOUT)
        assert client.lookup("py") == 1


def test_giving_the_name_back_is_no_loss(client: EpmdClient) -> None:
    lost: list[str] = []
    registration = client.register("py", 1, on_lost=lambda: lost.append("lost"))
    registration.close()
    assert registration.closed.is_set()
    assert lost == []


def test_sockets_time_limits_of_the_program_do_not_cost_the_name(
    client: EpmdClient,
) -> None:
    socket.setdefaulttimeout(0.01)
    try:
        registration = client.register("py", 1)
    finally:
        socket.setdefaulttimeout(None)
    assert not registration.closed.wait(0.05)
    assert client.lookup("py") == 1
    registration.close()


# --- an EPMD that is not there, or none


def test_no_epmd() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
    client = EpmdClient(port=port)
    for ask in (client.names, lambda: client.lookup("a"), lambda: client.register("a", 1)):
        with pytest.raises(
            EpmdUnavailableError, match=rf"No EPMD answers at 127\.0\.0\.1:{port} .* 'epmd -daemon'"
        ):
            ask()


def test_an_epmd_that_does_not_answer() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        client = EpmdClient(port=listener.getsockname()[1])
        with pytest.raises(EpmdUnavailableError, match="did not answer in time"):
            client.lookup("a", timeout=0.05)


def test_time_is_up_for_the_whole_answer() -> None:
    def serve(sock: socket.socket) -> None:
        with suppress(OSError):  # When the client has given up.
            while True:
                sock.sendall(b"\x00")

    with one_shot(serve) as client, pytest.raises(EpmdUnavailableError, match="not answer in time"):
        client.names(timeout=0.05)


@pytest.mark.parametrize(
    "part", [b"", b"\x77", epmd.Port2Resp(epmd.Alive2Req(1, "a")).encode()[:-1]]
)
def test_an_epmd_that_closes_early(part: bytes) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(part)

    with one_shot(serve) as client, pytest.raises(EpmdError, match="without a whole answer"):
        client.lookup("a")


def test_an_epmd_that_resets() -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(100)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    with one_shot(serve) as client, pytest.raises(EpmdUnavailableError, match="broke"):
        client.lookup("a")


@pytest.mark.parametrize(
    ("answer", "ask"),
    [
        (b"ECHO", lambda client: client.lookup("a")),
        (b"ECHO", lambda client: client.register("a", 1)),
        (b"EOF", lambda client: client.names()),
    ],
)
def test_something_else_listens_there(answer: bytes, ask: Callable[[EpmdClient], object]) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(answer)

    with one_shot(serve) as client, pytest.raises(EpmdError, match="check that both programs"):
        ask(client)


def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epmd_module, "MAX_ANSWER", 1000)

    def serve(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(bytes(1001))
        sock.recv(100)

    with one_shot(serve) as client, pytest.raises(EpmdError, match="more than 1000 bytes"):
        client.names()


def test_a_node_that_is_too_old() -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(100)
        old = epmd.Alive2Req(1, "old", epmd.NORMAL, highest=5, lowest=5)
        sock.sendall(epmd.Port2Resp(old).encode())

    with one_shot(serve) as client, pytest.raises(EpmdError, match=r"versions 5 to 5 .* OTP 25"):
        client.lookup("old")


def test_the_port_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERL_EPMD_PORT", raising=False)
    assert epmd_port() == 4369
    monkeypatch.setenv("ERL_EPMD_PORT", "4370")
    assert EpmdClient().port == 4370
    for wrong in ("0", "65536", "x"):
        monkeypatch.setenv("ERL_EPMD_PORT", wrong)
        with pytest.raises(ValueError, match="ERL_EPMD_PORT is"):
            epmd_port()


# --- the server


def test_one_epmd_is_enough(server: EpmdServer) -> None:
    assert EpmdServer.start_or_none(port=server.port) is None
    with pytest.raises(EpmdError, match=f"cannot listen at 127.0.0.1:{server.port}"):
        EpmdServer(port=server.port)
    server.close()
    second = EpmdServer.start_or_none(port=server.port)
    assert second is not None
    second.close()
    second.close()


def test_other_reasons_are_errors() -> None:
    with pytest.raises(EpmdError, match=r"cannot listen at 192\.0\.2\.1:"):
        EpmdServer.start_or_none("192.0.2.1", 0)


def test_requests_may_come_in_pieces(server: EpmdServer, client: EpmdClient) -> None:
    with raw(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in epmd.Alive2Req(77, "slow").encode():
            sock.sendall(bytes((byte,)))
        assert sock.recv(100)[:2] == b"\x76\x00"
        assert client.lookup("slow") == 77


def test_what_follows_a_request_is_ignored(server: EpmdServer) -> None:
    with raw(server) as sock:
        sock.sendall(epmd.NamesReq().encode() + b"trailing")
        assert read_all(sock) == server.port.to_bytes(4, "big")


def test_nodes_of_version_5_get_a_small_creation(server: EpmdServer) -> None:
    with raw(server) as sock:
        sock.sendall(epmd.Alive2Req(77, "old", highest=5, lowest=5).encode())
        answer = sock.recv(100)
        assert answer[:3] == b"\x79\x00\x00"
        assert answer[3:] in {b"\x01", b"\x02", b"\x03"}


def test_a_node_is_looked_up_as_it_registered(server: EpmdServer) -> None:
    node = epmd.Alive2Req(77, "pön", epmd.NORMAL, 7, 5, 0, b"extra")
    with raw(server) as holder, raw(server) as sock:
        holder.sendall(node.encode())
        assert holder.recv(100)
        sock.sendall(epmd.PortPlease2Req("pön").encode())
        assert epmd.parse_port2_resp(read_all(sock)) == epmd.Port2Resp(node)


def test_it_cannot_be_killed(server: EpmdServer, client: EpmdClient) -> None:
    with raw(server) as sock:
        sock.sendall(epmd.KillReq().encode())
        assert read_all(sock) == b"NO"
    assert client.names() == []


@pytest.mark.parametrize("data", [b"\x00\x01d", b"\x00\x00", b"GET / HTTP/1.1\r\n", b"\x00\x02z "])
def test_what_is_no_request_ends_its_connection(
    server: EpmdServer, client: EpmdClient, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with raw(server) as sock:
        sock.sendall(data)
        assert read_all(sock) == b""
    assert client.names() == []
    assert "EPMD closes a connection" in caplog.text


def test_a_registered_node_that_goes_on_talking_loses_its_name(
    server: EpmdServer, client: EpmdClient
) -> None:
    with raw(server) as sock:
        sock.sendall(epmd.Alive2Req(1, "py").encode())
        assert sock.recv(100)
        sock.sendall(b"more")
        assert read_all(sock) == b""
    assert client.lookup("py") is None


def test_a_node_that_crashed_does_not_block_its_name(
    server: EpmdServer, client: EpmdClient
) -> None:
    for _ in range(50):
        with raw(server) as sock:
            sock.sendall(epmd.Alive2Req(1, "py").encode())
            assert sock.recv(100)[1] == 0
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert client.names() == []


def test_only_nodes_of_this_host_register(
    server: EpmdServer, client: EpmdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epmd_module, "_is_local", lambda _: False)
    with pytest.raises(EpmdError, match="this host's if a node registers"):
        client.register("py", 1)
    assert client.names() == []


def test_half_open_clients_are_bounded_in_number() -> None:
    with EpmdServer(port=0, limits=Limits(handshakes=2)) as server, ExitStack() as stack:
        client = EpmdClient(port=server.port)
        registration = client.register("py", 1)
        silent = [stack.enter_context(raw(server)) for _ in range(3)]
        for sock in silent:
            sock.sendall(b"\x00")
        assert read_all(silent[0]) == b""  # The oldest gave way,
        assert client.lookup("py") == 1  # as the next one for this,
        assert read_all(silent[1]) == b""
        silent[2].sendall(b"\x01n")  # and the last was served.
        assert b"name py at port 1\n" in read_all(silent[2])
        registration.close()


def test_half_open_clients_are_bounded_in_time() -> None:
    with EpmdServer(port=0, timeout=0.5) as server, raw(server) as other:
        other.sendall(epmd.Alive2Req(1, "py").encode())
        assert other.recv(100)
        with raw(server) as one:
            one.sendall(b"\x00\x01")
            assert read_all(one) == b""
        assert EpmdClient(port=server.port).lookup("py") == 1  # Who has registered may stay.


def test_names_are_bounded_in_number() -> None:
    with EpmdServer(port=0, limits=Limits(epmd_names=1)) as server:
        client = EpmdClient(port=server.port)
        registration = client.register("a", 1)
        with pytest.raises(NameTakenError):
            client.register("b", 2)
        registration.close()
        client.register("b", 2).close()


def test_a_long_answer_to_a_slow_reader(server: EpmdServer, client: EpmdClient) -> None:
    # Accepted connections inherit it: most of the answer has to wait.
    server._listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with ExitStack() as stack:
        names = {f"{number:04}".ljust(epmd.MAX_NAME, "x") for number in range(300)}
        for name in names:
            sock = stack.enter_context(raw(server))
            sock.sendall(epmd.Alive2Req(1, name).encode())
            assert sock.recv(100)[1] == 0
        slow = stack.enter_context(socket.socket())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.settimeout(TIMEOUT)
        slow.connect((LOOPBACK, server.port))
        slow.sendall(epmd.NamesReq().encode())
        assert {entry.name for entry in client.names()} == names  # Others do not wait for it.
        assert {entry.name for entry in epmd.parse_names_resp(read_all(slow)).nodes} == names


def test_a_reader_that_goes_away(server: EpmdServer, client: EpmdClient) -> None:
    for _ in range(20):
        with raw(server) as sock:
            sock.sendall(epmd.NamesReq().encode())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert client.names() == []


def test_closing_closes_all_connections(server: EpmdServer) -> None:
    with raw(server) as waiting, raw(server) as registered:
        registered.sendall(epmd.Alive2Req(1, "py").encode())
        assert registered.recv(100)
        waiting.sendall(b"\x00")
        server.close()
        assert read_all(waiting) == b""
        assert read_all(registered) == b""
    with pytest.raises(OSError, match=r"."):
        raw(server)


def test_a_failed_accept_is_survived(server: EpmdServer, client: EpmdClient) -> None:
    server._accept(server._listeners[0])  # Nobody is there.
    assert client.names() == []


def test_reprs(server: EpmdServer, client: EpmdClient) -> None:
    assert repr(server) == f"<EpmdServer at 127.0.0.1:{server.port}>"
    assert repr(client) == f"EpmdClient('127.0.0.1', {server.port})"
    registration = client.register("py", 1)
    assert repr(registration) == "<Registration of py: held>"
    registration.close()
    assert repr(registration) == "<Registration of py: closed>"
