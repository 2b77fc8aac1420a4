"""Connecting to hosts with several addresses, of which some do not answer."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from pynode.dist.sockets import connect, tune

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 10.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        yield listener


@pytest.fixture
def full() -> Iterator[int]:
    """A port where nobody answers, not even with a refusal."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        port: int = full.getsockname()[1]
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


def resolve_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Let the host ``several`` have an address for each of `ports`."""

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "several"
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", each or port))
            for each in ports
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def soon(seconds: float = TIMEOUT) -> float:
    return time.monotonic() + seconds


def test_one_address(listener: socket.socket) -> None:
    with connect("127.0.0.1", listener.getsockname()[1], soon()) as sock:
        accepted, address = listener.accept()
        accepted.close()
        assert address == sock.getsockname()


def test_the_first_that_answers(
    listener: socket.socket, full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = closed.getsockname()[1]
    resolve_to(monkeypatch, refused, full, 0)
    started = time.monotonic()
    with connect("several", listener.getsockname()[1], soon(2.0)) as sock:
        assert sock.getpeername() == listener.getsockname()
    # The one that swallows packets has had its share: half of what was left.
    assert time.monotonic() - started > 0.9


def test_none_that_answers(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, full, full)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        connect("several", 1, soon(0.2))
    assert time.monotonic() - started < TIMEOUT / 2


def test_a_family_that_the_machine_has_not_got(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ("127.0.0.1", listener.getsockname()[1])
    kinds = ((socket.AF_APPLETALK, address), (socket.AF_INET, address))
    found = [(family, socket.SOCK_STREAM, 0, "", address) for family, address in kinds]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    connect("several", 1, soon()).close()


@pytest.mark.parametrize("host", ["nobody.invalid", "x" * 64 + ".org", "a..b", ".a"])
def test_hosts_that_are_not_known(host: str) -> None:
    with pytest.raises(socket.gaierror):
        connect(host, 1, soon())


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="no such limit here")
def test_what_waits_is_kept_here(listener: socket.socket) -> None:
    def taken(*, tuned: bool) -> int:
        """How many bytes the system takes for a peer that reads nothing."""
        with connect("127.0.0.1", listener.getsockname()[1], soon()) as sock:
            accepted, _ = listener.accept()
            if tuned:
                tune(sock)
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            sock.setblocking(False)
            count = 0
            with accepted, suppress(BlockingIOError):
                while True:
                    count += sock.send(bytes(64 * 1024))
            return count

    assert taken(tuned=True) < taken(tuned=False) / 2
