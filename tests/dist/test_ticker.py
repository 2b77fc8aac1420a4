from __future__ import annotations

import contextlib
import ctypes
import os
import random
import socket
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK = bytes(4)
#: Calls C without letting go of the global lock.
holding_the_lock: Any = ctypes.PyDLL(None)


@pytest.fixture
def line_and_peer() -> Iterator[tuple[Any, socket.socket]]:
    """The compiled way out of a socket, and the peer at its other end."""
    try:
        from pynode.dist._ticker import Line
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail("pynode.dist._ticker was not compiled: `make setup` does, with gcc")
        pytest.skip("pynode.dist._ticker was not compiled")
    ours, peer = socket.socketpair()
    with ours, peer:
        line = Line(ours.fileno())
        yield line, peer
        line.close()


def hold_the_lock(seconds: float) -> None:
    holding_the_lock.usleep(int(seconds * 1_000_000))


def waiting(peer: socket.socket) -> bytes:
    """Return what there is to be read."""
    try:
        return peer.recv(1 << 20, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def test_what_is_sent_arrives(line_and_peer: tuple[Any, socket.socket]) -> None:
    line, peer = line_and_peer
    assert line.send([b"one", bytearray(b"two"), memoryview(b"three")], 0) == 11
    assert waiting(peer) == b"onetwothree"
    assert line.send([b""], 0) == 0
    with pytest.raises(ValueError, match="too many"):
        line.send([b"x"] * 1001, 0)
    with pytest.raises(TypeError):
        line.send(["text"], 0)
    assert not waiting(peer)


def test_a_peer_that_is_not_heard_gets_ticks(line_and_peer: tuple[Any, socket.socket]) -> None:
    line, peer = line_and_peer
    peer.send(TICK)
    hold_the_lock(2.1)
    ticks = waiting(peer)
    assert ticks in {TICK * 2, TICK * 3, TICK * 4}
    assert line.send([b"frame"], 0) == 5
    assert waiting(peer) == b"frame"


def test_a_peer_that_says_nothing_gets_none(line_and_peer: tuple[Any, socket.socket]) -> None:
    _, peer = line_and_peer
    hold_the_lock(1.2)
    assert not waiting(peer)


def test_no_tick_cuts_into_a_frame(line_and_peer: tuple[Any, socket.socket]) -> None:
    line, peer = line_and_peer
    peer.send(TICK)
    frame = b"x" * 10_000_000
    sent = line.send([frame], socket.MSG_DONTWAIT)
    assert 0 < sent < len(frame)
    received = bytearray()
    while more := waiting(peer):
        received += more
    hold_the_lock(1.2)
    assert received == frame[:sent]
    assert not waiting(peer)
    assert line.send([b"the rest"], 0) == 8
    hold_the_lock(1.2)
    assert waiting(peer) in {b"the rest" + TICK * n for n in (1, 2)}


def test_a_full_socket_is_left_alone(line_and_peer: tuple[Any, socket.socket]) -> None:
    line, peer = line_and_peer
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += line.send([b"x" * 64], socket.MSG_DONTWAIT)
    peer.send(TICK)
    hold_the_lock(1.2)
    received = bytearray()
    while more := waiting(peer):
        received += more
    assert received == b"x" * sent


def test_the_stream_is_whole_whatever_the_ticker_does(
    line_and_peer: tuple[Any, socket.socket],
) -> None:
    line, peer = line_and_peer
    chance = random.Random(1)
    peer.send(TICK)
    expected = bytearray()
    received = bytearray()
    for _ in range(6):
        for _ in range(50):
            frame = bytes([chance.randrange(1, 256)]) * chance.randrange(1, 2000)
            left = memoryview(frame)
            while left:
                try:
                    left = left[line.send([left], socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    received += waiting(peer)
            expected += frame
        hold_the_lock(0.6)
    while more := waiting(peer):
        received += more
    assert bytes(received).replace(TICK, b"") == expected
    assert TICK in received


def test_after_the_close_there_are_no_ticks(line_and_peer: tuple[Any, socket.socket]) -> None:
    line, peer = line_and_peer
    line.close()
    line.close()
    peer.send(TICK)
    hold_the_lock(1.2)
    assert not waiting(peer)
    with pytest.raises(OSError, match="cannot be written to"):
        line.send([b"x"], 0)


def test_a_peer_that_is_gone_is_an_error(line_and_peer: tuple[Any, socket.socket]) -> None:
    line, peer = line_and_peer
    peer.close()
    hold_the_lock(1.2)
    with pytest.raises(OSError, match="cannot be written to"):
        line.send([b"x"], 0)


def test_many_lines_come_and_go() -> None:
    from pynode.dist._ticker import Line

    pairs = [socket.socketpair() for _ in range(200)]
    lines: list[Any] = [Line(ours.fileno()) for ours, _ in pairs]
    for _, peer in pairs:
        peer.send(TICK)
    del lines[::2]  # never closed: they close themselves
    hold_the_lock(1.2)
    for index, (ours, peer) in enumerate(pairs):
        assert bool(waiting(peer)) == bool(index % 2)
        ours.close()
        peer.close()
    for line in lines:
        line.close()
