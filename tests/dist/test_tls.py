"""Connections over TLS: two tables with each other, and with peers that do it badly."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self

import pytest
import trustme

from pynode import config, etf
from pynode.dist.engine import Engine
from pynode.dist.table import ConnectionTable
from pynode.dist.tls import Tls, TlsLayer, TlsSocket
from pynode.errors import HandshakeError, NodeUnavailableError, TlsError
from pynode.protocol.control import RegSend
from pynode.protocol.flags import DEFAULT
from pynode.terms import Atom, Pid
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pynode.dist.connection import Connection
    from pynode.protocol.channel import Message

PATIENCE = 20.0
LOCALHOST = "127.0.0.1"
VERSIONS = [
    pytest.param(ssl.TLSVersion.TLSv1_2, id="tls1.2"),
    pytest.param(ssl.TLSVersion.TLSv1_3, id="tls1.3"),
]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def tls(ca: trustme.CA, files: Path) -> Tls:
    return issue(ca, files, "localhost")


@pytest.fixture(scope="module")
def stranger(files: Path) -> Tls:
    """What somebody has whose authority is another."""
    return issue(trustme.CA(), files, "localhost")


def issue(ca: trustme.CA, files: Path, host: str) -> Tls:
    """Return a new certificate for `host`, and what goes with it."""
    name = secrets.token_hex(4)
    paths = Tls(files / f"{name}.pem", files / f"{name}.key", files / f"{name}-ca.pem")
    assert paths.key is not None
    certificate = ca.issue_cert(host)
    certificate.cert_chain_pems[0].write_to_path(str(paths.certificate))
    certificate.private_key_pem.write_to_path(str(paths.key))
    ca.cert_pem.write_to_path(str(paths.authorities))
    return paths


class End:
    """A connection table with its engine: a node that only collects messages."""

    def __init__(self, tls: Tls | None, *, limits: config.Limits = config.LIMITS) -> None:
        self.name = f"n{secrets.token_hex(4)}@localhost"
        self.addresses: dict[str, tuple[str, int]] = {}
        self.messages: SimpleQueue[Any] = SimpleQueue()
        self.downs: SimpleQueue[str] = SimpleQueue()
        self.engine = Engine()
        self.table = ConnectionTable(
            name=Atom(self.name),
            cookie="secret",
            flags=DEFAULT,
            engine=self.engine,
            resolve=self.addresses.__getitem__,
            up=lambda _connection: None,
            down=lambda _connection, reason: self.downs.put(reason),
            deliver=self._deliver,
            tls=tls,
            limits=limits,
        )
        self.port = self.table.listen(LOCALHOST)

    def __enter__(self) -> Self:
        self.engine.start()
        self.table.start(1)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.table.stop()
        self.engine.stop()

    def _deliver(self, _connection: Connection, message: Message) -> None:
        assert message.payload is not None
        self.messages.put(etf.decode_at(message.payload, 0)[0])

    def layer(self) -> TlsLayer:
        assert self.table._tls is not None
        return self.table._tls

    def connect(self, other: End, port: int | None = None) -> Connection:
        """Connect to `other`, which is reached at `port` if it is not its own."""
        self.addresses[other.name] = (LOCALHOST, port or other.port)
        return self.table.connect(other.name)

    def connect_to(self, port: int) -> Connection:
        name = f"somebody{secrets.token_hex(4)}@localhost"
        self.addresses[name] = (LOCALHOST, port)
        return self.table.connect(name)

    def receive(self) -> Any:
        return self.messages.get(timeout=PATIENCE)


def send(connection: Connection, term: object) -> None:
    control = RegSend(Pid(Atom("a@localhost"), 1, 0, 1), Atom("b"))
    connection.throttle()
    connection.send(control, etf.encode(term)[1:])


@pytest.fixture
def start() -> Iterator[Callable[..., End]]:
    with ExitStack() as stack:

        def start(tls: Tls | None, **options: Any) -> End:
            return stack.enter_context(End(tls, **options))

        yield start


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    found: ssl.TLSVersion = request.param
    return found


@pytest.fixture
def pair(
    start: Callable[..., End], tls: Tls, version: ssl.TLSVersion
) -> tuple[Connection, Connection, End, End]:
    """Two nodes that are connected, and what each of them has of the connection."""
    one, two = start(tls), start(tls)
    two.layer()._server.maximum_version = version
    ours = one.connect(two)
    theirs: Any = wait_until(lambda: two.table.get(one.name))
    wire: Any = ours._socket
    assert isinstance(wire, TlsSocket)
    assert wire._tls.version() == version.name.replace("_", ".")
    return ours, theirs, one, two


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Do to the first who connects what `serve` does; yield the port."""
    with socket.create_server((LOCALHOST, 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(PATIENCE)

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE)
                serve(connection)

        done = pool.submit(run)
        yield int(listener.getsockname()[1])
        done.result(PATIENCE)


def read_all(sock: socket.socket) -> None:
    """Read until the other side is gone."""
    with suppress(OSError):
        while sock.recv(65536):
            pass


@contextmanager
def relayed(port: int, relay: Callable[[bytes, socket.socket, bool], None]) -> Iterator[int]:
    """Stand between a node and the one at `port`; yield the port to connect to instead.

    `relay(data, to, towards)` is called for what is read, `towards` that node or from it.
    """

    def copy(source: socket.socket, to: socket.socket, towards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                relay(data, to, towards)
        with suppress(OSError):
            to.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        with socket.create_connection((LOCALHOST, port), PATIENCE) as server:
            back = threading.Thread(target=copy, args=(server, client, False))
            back.start()
            copy(client, server, True)
            back.join()

    with listening(serve) as own:
        yield own


# --- what it is for


def test_messages_in_both_directions(pair: tuple[Connection, Connection, End, End]) -> None:
    ours, theirs, one, two = pair
    for size in [1, 1_000, 16_384, 100_000, 5_000_000]:
        term = b"\xff" * size
        send(ours, term)
        send(theirs, [term])
        assert two.receive() == term
        assert one.receive() == [term]


def test_nodes_that_check_no_host(start: Callable[..., End], ca: trustme.CA, files: Path) -> None:
    elsewhere = issue(ca, files, "elsewhere.example")
    one, two = start(replace(elsewhere, check_host=False)), start(elsewhere)
    send(one.connect(two), "hello")
    assert two.receive() == "hello"


def test_all_in_one_file(start: Callable[..., End], ca: trustme.CA, tls: Tls, files: Path) -> None:
    path = files / "all.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(path))
    one, two = start(replace(tls, certificate=path, key=None)), start(tls)
    send(one.connect(two), "hello")
    assert two.receive() == "hello"


def test_a_flood_in_both_directions(pair: tuple[Connection, Connection, End, End]) -> None:
    ours, theirs, one, two = pair
    count, large, small = 150, b"\xff" * 300_000, b"\xfe" * 50

    def flood(connection: Connection) -> None:
        for number in range(count):
            send(connection, (number, large))
            send(connection, (number, small))

    with ThreadPoolExecutor(2) as pool:
        floods = [pool.submit(flood, connection) for connection in (ours, theirs)]
        for _ in range(2 * count):
            for end in (one, two):
                number, data = end.receive()
                assert data in (large, small)
                if data == large:
                    end.last = number  # type: ignore[attr-defined]
                else:  # After the large one: they are from the same sender.
                    assert number == end.last  # type: ignore[attr-defined]
        for done in floods:
            done.result(PATIENCE)
    assert (ours.ended, theirs.ended) == (None, None)


def test_many_threads_that_send(pair: tuple[Connection, Connection, End, End]) -> None:
    ours, _, _, two = pair
    threads, count = 8, 500

    def sender(number: int) -> None:
        for turn in range(count):
            send(ours, (number, turn))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(sender, range(threads)))
    last = [-1] * threads
    for _ in range(threads * count):
        number, turn = two.receive()
        assert turn == last[number] + 1
        last[number] = turn


def test_byte_by_byte(start: Callable[..., End], tls: Tls, version: ssl.TLSVersion) -> None:
    one, two = start(tls), start(tls)
    two.layer()._server.maximum_version = version

    def byte_by_byte(data: bytes, to: socket.socket, _: bool) -> None:
        for byte in data:
            to.sendall(bytes([byte]))

    with relayed(two.port, byte_by_byte) as port:
        connection = one.connect(two, port)
        for number in range(20):
            send(connection, (number, b"\xff" * 40))
            assert two.receive() == (number, b"\xff" * 40)
        connection.close("done")


def test_what_the_socket_does_not_take_is_sent_once(tls: Tls) -> None:
    layer = TlsLayer(tls)
    left, right = socket.socketpair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    deadline = time.monotonic() + PATIENCE
    with left, right, ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(layer.accept, right, deadline)
        ours = layer.connect(left, "x@localhost", deadline)
        theirs = accepted.result(PATIENCE)
        ours.settimeout(None)
        theirs.settimeout(None)
        data = os.urandom(1_000_000)
        records = bytearray()
        sent = refused = 0
        while sent < len(data):
            # The same bytes in front each time, in other pieces and with more behind them.
            rest = data[sent : sent + 40_000 + refused]
            try:
                sent += ours.sendmsg([rest[:7], rest[7:]], (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                refused += 1
                records += right.recv(3_000)
        left.shutdown(socket.SHUT_WR)
        while more := right.recv(65536):
            records += more
        theirs._incoming.write(records)
        buffer = memoryview(bytearray(len(data) + 1))
        assert buffer[: theirs.recv_into(buffer)] == data
        assert refused > 10


# --- the end


def test_the_end_is_an_ordinary_one(pair: tuple[Connection, Connection, End, End]) -> None:
    ours, theirs, one, two = pair
    ours.close("on_purpose")
    assert one.downs.get(timeout=PATIENCE) == "on_purpose"
    assert two.downs.get(timeout=PATIENCE) == "connection_closed"
    wire: Any = theirs._socket
    assert isinstance(wire._over, ssl.SSLZeroReturnError)  # It was told so: close_notify.


def test_a_connection_that_is_cut(
    start: Callable[..., End], tls: Tls, version: ssl.TLSVersion
) -> None:
    one, two = start(tls), start(tls)
    two.layer()._server.maximum_version = version
    ends: list[socket.socket] = []

    def remember(data: bytes, to: socket.socket, _: bool) -> None:
        if to not in ends:
            ends.append(to)
        to.sendall(data)

    with relayed(two.port, remember) as port:
        one.connect(two, port)
        wait_until(lambda: two.table.get(one.name))
        for end in ends:
            with suppress(OSError):  # The relay may be faster.
                end.shutdown(socket.SHUT_RDWR)
        assert one.downs.get(timeout=PATIENCE) == "connection_closed"
        assert two.downs.get(timeout=PATIENCE) == "connection_closed"


def test_a_record_that_was_changed_on_its_way(
    start: Callable[..., End], tls: Tls, version: ssl.TLSVersion
) -> None:
    one, two = start(tls), start(tls)
    two.layer()._server.maximum_version = version
    change = threading.Event()

    def meddle(data: bytes, to: socket.socket, towards: bool) -> None:
        if towards and change.is_set():
            data = data[:-1] + bytes([data[-1] ^ 1])
        to.sendall(data)

    with relayed(two.port, meddle) as port:
        connection = one.connect(two, port)
        send(connection, "before")
        assert two.receive() == "before"
        change.set()
        send(connection, "after")
        assert "bad record mac" in two.downs.get(timeout=PATIENCE)
        # Told by an alert, which has come through before the end.
        assert "BAD_RECORD_MAC" in one.downs.get(timeout=PATIENCE)
    assert two.messages.empty()


# --- refusals: the acceptor logs one line, the initiator raises one sentence


def refused(caplog: pytest.LogCaptureFixture) -> str:
    """Return what was logged about a connection that was refused."""
    lines = wait_until(lambda: [r.message for r in caplog.records if "refused" in r.message])
    (line,) = lines
    assert line.count("\n") == 0
    return line


def test_a_peer_without_certificate(
    start: Callable[..., End],
    tls: Tls,
    version: ssl.TLSVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    end = start(tls)
    context = ssl.create_default_context(cafile=tls.authorities)
    context.maximum_version = version
    with (
        socket.create_connection((LOCALHOST, end.port), PATIENCE) as sock,
        pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake.failure"),
        context.wrap_socket(sock, server_hostname="localhost") as wrapped,
    ):
        wrapped.recv(1)
    line = refused(caplog)
    assert line.startswith("connection from 127.0.0.1 refused: The peer shows no certificate; ")
    assert str(tls.authorities) in line


def test_an_initiator_of_another_authority(
    start: Callable[..., End],
    tls: Tls,
    stranger: Tls,
    version: ssl.TLSVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    end = start(tls)
    end.layer()._server.maximum_version = version
    # It trusts us; we do not trust it.
    other = start(replace(stranger, authorities=tls.authorities))
    with pytest.raises(NodeUnavailableError) as caught:
        other.connect(end)
    assert str(caught.value).startswith(f"Node {end.name} does not accept this node (unknown ca); ")
    line = refused(caplog)
    assert "The peer has a certificate that is not accepted (" in line
    assert str(tls.authorities) in line
    assert end.table.connections() == []


def test_an_acceptor_of_another_authority(
    start: Callable[..., End],
    tls: Tls,
    stranger: Tls,
    version: ssl.TLSVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    end = start(replace(stranger, authorities=tls.authorities))
    end.layer()._server.maximum_version = version
    with pytest.raises(NodeUnavailableError, match="has a certificate that is not accepted"):
        start(tls).connect(end)
    assert "The peer does not accept this node (unknown ca); " in refused(caplog)


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1"])
def test_an_acceptor_whose_certificate_is_for_another_host(  # noqa: PLR0917
    host: str,
    start: Callable[..., End],
    ca: trustme.CA,
    tls: Tls,
    files: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    end = start(issue(ca, files, host))
    with pytest.raises(NodeUnavailableError) as caught:
        start(tls).connect(end)
    assert "has a certificate that is not for its host" in str(caught.value)
    assert "'localhost'" in str(caught.value)
    assert "does not accept this node (bad certificate)" in refused(caplog)


def test_an_initiator_may_have_a_certificate_for_any_host(
    start: Callable[..., End], ca: trustme.CA, tls: Tls, files: Path
) -> None:
    one, two = start(issue(ca, files, "elsewhere.example")), start(tls)
    send(one.connect(two), "hello")
    assert two.receive() == "hello"


def test_a_plain_peer(
    start: Callable[..., End], tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    end = start(tls)
    with pytest.raises(NodeUnavailableError, match="both use TLS or none"):
        start(None).connect(end)
    assert "The peer does not use TLS and this node does; " in refused(caplog)


def test_a_tls_peer_of_a_plain_node(
    start: Callable[..., End], tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    end = start(None)
    with pytest.raises(NodeUnavailableError, match="check that both nodes use TLS"):
        start(tls).connect(end)
    assert "both use TLS or none" in refused(caplog)


def test_peers_without_a_version_in_common(
    start: Callable[..., End], tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = start(tls), start(tls)
    one.layer()._client.minimum_version = ssl.TLSVersion.TLSv1_3
    two.layer()._server.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(NodeUnavailableError, match=r"does not accept this node .*version"):
        one.connect(two)
    assert "cannot agree on TLS (unsupported protocol)" in refused(caplog)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not use TLS"),
        (b"\x00\x15N" + bytes(20), "does not use TLS"),
        (b"\x16\x03\x01\x00\x05\x63\x00\x00\x01\x00", "cannot agree on TLS"),
        (b"\x16" + b"\xff" * 20_000, "cannot agree on TLS"),
        (b"\x16\x03\x01\x02\x00\x01", "closed the connection during the TLS handshake"),
        (b"", "closed the connection during the TLS handshake"),
    ],
    ids=["http", "plain", "nonsense", "0xff", "half", "nothing"],
)
def test_noise(
    noise: bytes,
    words: str,
    start: Callable[..., End],
    tls: Tls,
    caplog: pytest.LogCaptureFixture,
) -> None:
    end = start(tls)
    with socket.create_connection((LOCALHOST, end.port), PATIENCE) as sock, suppress(OSError):
        sock.sendall(noise)
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    assert words in refused(caplog)

    def serve(sock: socket.socket) -> None:
        sock.recv(1)
        with suppress(OSError):
            sock.sendall(noise)
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)

    with listening(serve) as port, pytest.raises(NodeUnavailableError) as caught:
        end.connect_to(port)
    assert words in str(caught.value)
    send(start(tls).connect(end), "well")
    assert end.receive() == "well"


def test_a_handshake_that_is_never_finished(
    start: Callable[..., End],
    tls: Tls,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(config, "NET_SETUPTIME", 0.3)
    end = start(tls)
    with socket.create_connection((LOCALHOST, end.port), PATIENCE) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        read_all(sock)
    assert "The peer did not finish the TLS handshake in time; " in refused(caplog)
    with (
        listening(read_all) as port,
        pytest.raises(NodeUnavailableError, match="did not finish the TLS handshake in time"),
    ):
        end.connect_to(port)


@pytest.mark.parametrize("established", [False, True], ids=["tls", "distribution"])
def test_a_peer_that_drips_has_no_more_time_than_others(
    established: bool,
    start: Callable[..., End],
    tls: Tls,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(config, "NET_SETUPTIME", 0.5)
    end = start(tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.authorities)
    with ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection((LOCALHOST, end.port), PATIENCE))
        raw = sock
        data = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(16_000)
        if established:
            raw = stack.enter_context(sock.dup())
            stack.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
            data = b"\x17\x03\x03\x40\x00" + bytes(16_000)
        ended = threading.Event()

        def read() -> None:
            read_all(raw)
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        with suppress(OSError):
            for byte in data:
                raw.sendall(bytes([byte]))
                if ended.wait(0.01):
                    break
    words = "handshake with 127.0.0.1 failed: timed out"
    if not established:
        words = "did not finish the TLS handshake in time"
    wait_until(lambda: words in caplog.text)


def test_handshakes_under_way_are_bounded(
    start: Callable[..., End], tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    end = start(tls, limits=config.Limits(handshakes=1))
    with socket.create_connection((LOCALHOST, end.port), PATIENCE) as first:
        first.sendall(b"\x16")
        with socket.create_connection((LOCALHOST, end.port), PATIENCE) as second:
            assert second.recv(1) == b""
        assert "1 handshakes are under way already" in refused(caplog)
    wait_until(lambda: "closed the connection during the TLS handshake" in caplog.text)
    send(start(tls).connect(end), "well")
    assert end.receive() == "well"


def test_a_host_that_no_certificate_can_be_for(tls: Tls) -> None:
    with socket.socket() as sock, pytest.raises(HandshakeError, match="no certificate can be for"):
        TlsLayer(tls).connect(sock, "a@" + "x" * 64, float("inf"))


# --- files


def test_files_that_are_of_no_use(tls: Tls, stranger: Tls, files: Path) -> None:
    missing, empty, broken = files / "missing", files / "empty", files / "broken"
    empty.touch()
    broken.write_bytes(tls.certificate.read_bytes()[:300])
    assert tls.key is not None
    for settings, words in [
        (replace(tls, certificate=missing), "The TLS certificate file .*missing cannot be read"),
        (replace(tls, key=missing), "The TLS key file .*missing cannot be read"),
        (replace(tls, authorities=missing), "The TLS authorities file .*missing cannot be read"),
        (replace(tls, authorities=files), r"cannot be read \(Is a directory\)"),
        (replace(tls, certificate=empty), "The TLS certificate file .*empty has no"),
        (replace(tls, key=tls.certificate), "The TLS key file .* has no '-----BEGIN PRIVATE KEY"),
        (replace(tls, key=None), "The TLS key file .* has no"),
        (replace(tls, authorities=tls.key), "The TLS authorities file .* has no"),
        (replace(tls, certificate=broken), "cannot be used .*check that both are PEM"),
        (replace(tls, authorities=broken), "The certificates of authorities in .*broken cannot"),
        (replace(tls, key=stranger.key), "does not belong to the certificate"),
    ]:
        with pytest.raises(TlsError, match=words) as caught:
            End(settings)
        assert "\n" not in str(caught.value)


def test_a_key_with_a_password(tls: Tls, files: Path) -> None:
    assert tls.key is not None
    encrypted = files / "encrypted.key"
    subprocess.run(
        [
            "openssl",
            "pkey",
            "-aes256",
            "-passout",
            "pass:sesame",
            "-in",
            tls.key,
            "-out",
            encrypted,
        ],
        check=True,
        capture_output=True,
    )
    settings = replace(tls, key=encrypted)
    with pytest.raises(TlsError, match="needs its password"):
        TlsLayer(settings)
    with pytest.raises(TlsError, match="and the password if there is one"):
        TlsLayer(replace(settings, password="wrong"))
    settings = replace(settings, password="sesame")
    TlsLayer(settings)
    assert "sesame" not in repr(settings)
