"""How nodes are found, with and without EPMD, and with one that does not do what it should."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pynode import config
from pynode.dist import naming as naming_module
from pynode.dist.engine import Engine
from pynode.dist.epmd import LOOPBACK, LOOPBACK6, EpmdClient, EpmdServer
from pynode.dist.naming import EpmdNaming, StaticNaming
from pynode.errors import EpmdError, EpmdUnavailableError, NameTakenError, NodeUnavailableError
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 10.0
#: Nothing answers at the port that a test has been given, as far as it does not see to it itself.
NAME = "py@127.0.0.1"


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port at which no EPMD answers, and where the environment says that one is."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
    monkeypatch.setenv("ERL_EPMD_PORT", str(port))
    monkeypatch.setattr(naming_module, "_RETRY", 0.01)
    return port


@pytest.fixture
def make(engine: Engine, port: int) -> Iterator[Callable[..., EpmdNaming]]:
    """EpmdNaming, closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(name: str = NAME, listen: str = LOOPBACK, *, hidden: bool = True) -> EpmdNaming:
            naming = EpmdNaming(
                name, listen=listen, hidden=hidden, submit=engine.submit, after=engine.after
            )
            stack.callback(naming.close)
            return naming

        yield make


def is_registered(name: str = "py", host: str = LOOPBACK) -> bool:
    with contextlib.suppress(EpmdError):
        return EpmdClient(host).lookup(name) is not None
    return False


# --- without EPMD


@pytest.mark.parametrize(
    ("peers", "peer", "found"),
    [
        (5001, "a@10.0.0.1", ("10.0.0.1", 5001)),
        ({"a@10.0.0.1": 1, "b@10.0.0.1": 2}, "b@10.0.0.1", ("10.0.0.1", 2)),
        ({"a@::1": 1}, "a@::1", ("::1", 1)),
    ],
)
def test_ports_that_are_known(peers: Any, peer: str, found: tuple[str, int]) -> None:
    naming = StaticNaming(NAME, peers)
    assert naming.resolve(peer) == found
    naming.close()


@pytest.mark.parametrize("peers", [None, {}, {"b@10.0.0.1": 1}])
def test_a_port_that_is_not_known(peers: Any) -> None:
    with pytest.raises(
        NodeUnavailableError, match=r"port of a@10\.0\.0\.1 is not known.*peers=.*--peer-port"
    ) as caught:
        StaticNaming(NAME, peers).resolve("a@10.0.0.1")
    assert caught.value.node == "a@10.0.0.1"


@pytest.mark.parametrize(
    ("peers", "words"),
    [
        (0, "0 in peers is no port"),
        (65536, "no port"),
        ({"a@b": -1}, "-1 in peers is no port"),
        ({"nohost": 1}, "'nohost' in peers is no node name"),
    ],
)
def test_peers_that_are_none(peers: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StaticNaming(NAME, peers)


def test_creations_are_drawn_at_random() -> None:
    creations = {StaticNaming(NAME, None).register(1) for _ in range(1000)}
    assert len(creations) > 990
    assert all(4 <= creation < 1 << 32 for creation in creations)
    assert max(creations) > 1 << 31


@pytest.mark.parametrize(
    ("name", "peer", "words"),
    [
        ("py@127.0.0.1", "a@laptop", "py@127.0.0.1 has a long name and a@laptop a short one"),
        ("py@laptop", "a@laptop.home", "py@laptop has a short name and a@laptop.home a long one"),
        ("py@laptop", "a@::1", "short name and a@::1 a long one"),
        ("py@laptop", "nohost", "'nohost' is no node name"),
        ("py@laptop", "", "'' is no node name"),
    ],
)
def test_names_that_do_not_go_together(name: str, peer: str, words: str) -> None:
    with pytest.raises(NodeUnavailableError, match=words):
        StaticNaming(name, 5001).resolve(peer)


# --- with EPMD


@pytest.mark.parametrize("hidden", [True, False])
def test_registering_and_resolving(
    make: Callable[..., EpmdNaming], port: int, hidden: bool
) -> None:
    with EpmdServer(port=port):
        one, other = make("one@127.0.0.1", hidden=hidden), make("other@localhost", hidden=hidden)
        creation = one.register(1234)
        assert creation != other.register(1235)
        assert one.resolve("other@127.0.0.1") == ("127.0.0.1", 1235)
        assert other.resolve("one@localhost") == ("localhost", 1234)
        with pytest.raises(NodeUnavailableError, match="No node nobody is registered at localhost"):
            other.resolve("nobody@localhost")
        one.close()
        with pytest.raises(NodeUnavailableError, match="No node one is registered"):
            other.resolve("one@localhost")
        one.close()


def test_a_host_that_nobody_knows(make: Callable[..., EpmdNaming]) -> None:
    for host in ("nobody.invalid", "." + "x" * 70):
        with pytest.raises(NodeUnavailableError, match=rf"The host {host} is not known .*/etc/ho"):
            make().resolve(f"a@{host}")


def test_a_name_that_is_taken(make: Callable[..., EpmdNaming], port: int) -> None:
    with EpmdServer(port=port):
        make().register(1)
        with pytest.raises(NameTakenError, match="The name py is taken"):
            make().register(2)


def test_where_there_is_no_epmd_the_node_is_one(make: Callable[..., EpmdNaming]) -> None:
    one, other = make("one@127.0.0.1"), make("other@127.0.0.1")
    one.register(1)
    other.register(2)
    assert other.resolve("one@127.0.0.1") == ("127.0.0.1", 1)
    # The other takes over.
    one.close()
    wait_until(lambda: is_registered("other"))
    assert other._server is not None
    make("third@127.0.0.1").register(3)
    assert other.resolve("third@127.0.0.1") == ("127.0.0.1", 3)


def test_many_that_start_at_once_agree_on_one_epmd(make: Callable[..., EpmdNaming]) -> None:
    namings = [make(f"n{number}@127.0.0.1") for number in range(8)]
    failures: list[Exception] = []
    ready = threading.Barrier(len(namings))

    def register(naming: EpmdNaming) -> None:
        ready.wait(PATIENCE)
        try:
            naming.register(1)
        except EpmdError as error:
            failures.append(error)

    threads = [threading.Thread(target=register, args=(naming,)) for naming in namings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not failures
    assert len(EpmdClient().names()) == len(namings)
    assert sum(naming._server is not None for naming in namings) == 1


def test_an_epmd_that_restarts_again_and_again(
    make: Callable[..., EpmdNaming], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the node does not become EPMD itself in between.
    monkeypatch.setattr(EpmdServer, "start_or_none", lambda *_, **__: None)
    naming = make()
    for turn in range(10):
        with EpmdServer(port=port):
            if turn == 0:
                naming.register(1234)
            wait_until(is_registered)
            assert naming.resolve(NAME) == ("127.0.0.1", 1234)


def test_a_name_that_is_lost_to_another_is_taken_back_when_it_is_free(
    make: Callable[..., EpmdNaming],
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(EpmdServer, "start_or_none", lambda *_, **__: None)
    naming = make()
    with EpmdServer(port=port) as first:
        naming.register(1)
        held: list[Callable[[], object]] = []
        monkeypatch.setattr(naming, "_submit", held.append)
        first.close()
        wait_until(lambda: held)
    with EpmdServer(port=port):
        other = EpmdClient().register("py", 2)
        held.pop()()
        assert "The name py is taken" in caplog.text
        other.close()
        wait_until(lambda: held)
        held.pop()()
        assert EpmdClient().lookup("py") == 1


def test_nobody_registers_again_after_the_end(make: Callable[..., EpmdNaming], port: int) -> None:
    naming = make()
    with EpmdServer(port=port):
        naming.register(1)
        naming.close()
    naming._register_again()
    assert naming._server is None
    # It came between the beginning of an attempt and its end.
    with EpmdServer(port=port):
        naming._register()
        wait_until(lambda: not is_registered())


@pytest.mark.parametrize("listen", ["::1", "::"])
def test_a_node_of_ipv6(make: Callable[..., EpmdNaming], listen: str, port: int) -> None:
    name = "py@::1"
    naming = make(name, listen)
    naming.register(1)
    # The EPMD that it has become answers to both families.
    for host in (LOOPBACK, LOOPBACK6):
        assert is_registered(host=host)
    assert naming.resolve(name) == ("::1", 1)
    naming.close()
    # As does OTP's. One that does not is good enough.
    with EpmdServer(port=port):
        other = make(name, listen)
        other.register(2)
        assert other._server is None


def test_a_node_of_ipv4_that_is_an_epmd_is_one_for_nodes_of_ipv6_too(
    make: Callable[..., EpmdNaming],
) -> None:
    make("one@127.0.0.1").register(1)
    other = make("other@::1", LOOPBACK6)
    other.register(2)
    assert other._server is None
    assert is_registered("one", LOOPBACK6)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", "::1")),
        ("localhost", ("127.0.0.1", "::1")),
        ("127.0.0.7", ("127.0.0.1", "::1")),
        ("10.0.0.1", ("0.0.0.0", "::1")),
        ("0.0.0.0", ("0.0.0.0", "::1")),
        ("::1", ("::1", "127.0.0.1")),
        ("fd00::1", ("::", "127.0.0.1")),
        ("::", ("::", "0.0.0.0")),
    ],
)
def test_an_epmd_of_ours_can_be_reached_by_who_can_reach_the_node(
    listen: str, expected: tuple[str, str]
) -> None:
    assert naming_module._epmd_addresses(listen) == expected


# --- with what is no EPMD


@contextlib.contextmanager
def imposter(port: int, serve: Callable[[socket.socket], object]) -> Iterator[None]:
    """Do `serve` to each connection at `port`."""
    with socket.create_server((LOOPBACK, port)) as listener:

        def run() -> None:
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                while True:
                    sock = stack.enter_context(listener.accept()[0])
                    with contextlib.suppress(OSError):
                        serve(sock)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


IMPOSTERS: dict[str, tuple[Callable[[socket.socket], object], str]] = {
    "hangs": (lambda _: None, "did not answer in time"),
    "closes": (lambda sock: sock.shutdown(socket.SHUT_RDWR), "closed the connection without a"),
    "web": (lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "EPMD"),
    "zeros": (lambda sock: sock.sendall(bytes(100)), "EPMD"),
}


@pytest.mark.parametrize("kind", IMPOSTERS)
def test_what_is_no_epmd_is_told_in_time(
    make: Callable[..., EpmdNaming], port: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever answers has all the time there is; who does not is given up early.
    longest = config.NET_SETUPTIME
    if kind == "hangs":
        monkeypatch.setattr(config, "NET_SETUPTIME", 0.3)
    serve, words = IMPOSTERS[kind]
    with imposter(port, serve):
        for attempt in (
            lambda: make().register(1),
            lambda: make("py@::1", LOOPBACK6).register(1),
            lambda: make().resolve("a@127.0.0.1"),
        ):
            started = time.monotonic()
            with pytest.raises((EpmdError, NodeUnavailableError), match=words):
                attempt()
            assert time.monotonic() - started < longest


def test_a_full_queue_of_connections_is_told_in_time(
    make: Callable[..., EpmdNaming], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "NET_SETUPTIME", 0.3)
    with socket.create_server((LOOPBACK, port), backlog=0), contextlib.ExitStack() as stack:
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((LOOPBACK, port))
        with pytest.raises(EpmdUnavailableError, match="No EPMD answers at 127"):
            make().register(1)
