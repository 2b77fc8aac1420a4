"""Ticks, round by round, with a clock of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pynode.dist.ticks import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable


class Peer:
    """What a ticker sees of a connection."""

    peer = "someone@there"

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.ticks = 0
        self.unread = False

    def tick(self) -> None:
        self.ticks += 1
        self.sent += 1

    def has_unread(self) -> bool:
        return self.unread


class World:
    """A ticker with a `net_ticktime` of 4 seconds, the peers that it sees, and the time."""

    def __init__(self, *peers: Peer) -> None:
        self.now = 0.0
        self.peers: list[Any] = list(peers)
        self.lost: list[Any] = []
        self._next: tuple[float, Callable[[], None]] | None = None
        self.ticker = Ticker(
            4,
            connections=lambda: list(self.peers),
            lost=self.lose,
            after=self.after,
            clock=lambda: self.now,
        )
        self.ticker.start()

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        assert self._next is None
        self._next = (self.now + seconds, function)

    def lose(self, peer: Any) -> None:
        self.peers.remove(peer)
        self.lost.append(peer)

    def round(self, late: float = 0.0) -> None:
        """Let the next round come, some seconds after its time."""
        assert self._next is not None
        due, function = self._next
        self._next = None
        self.now = due + late
        function()

    def rounds(self, count: int) -> None:
        for _ in range(count):
            self.round()


def test_a_tick_is_sent_when_nothing_else_was() -> None:
    quiet, busy = Peer(), Peer()
    world = World(quiet, busy)
    world.round()
    for _ in range(10):
        quiet.received += 1
        busy.received += 1
        busy.sent += 1
        world.round()
    assert (quiet.ticks, busy.ticks) == (10, 0)


@pytest.mark.parametrize("offset", [0.0, 0.9])
def test_a_silent_peer_is_lost_after_its_time(offset: float) -> None:
    silent, other = Peer(), Peer()
    world = World(silent, other)
    world.rounds(3)
    silent.received += 1
    last = world.now + offset
    while not world.lost:
        other.received += 1
        world.round()
    assert world.lost == [silent]
    assert 4 <= world.now - last <= 5
    world.rounds(4)
    assert world.lost == [silent, other]


def test_a_peer_that_says_something_now_and_then_is_not_lost() -> None:
    peer = Peer()
    world = World(peer)
    for _ in range(10):
        world.rounds(4)
        peer.received += 1
    assert not world.lost


@pytest.mark.parametrize("rounds_before", range(5))
def test_time_in_which_we_stood_still_is_not_the_peers(rounds_before: int) -> None:
    peer = Peer()
    world = World(peer)
    world.rounds(rounds_before)
    for _ in range(20):
        world.round(late=60)
    assert not world.lost
    # What it has sent meanwhile was not read yet, and now it is.
    peer.received += 1
    world.rounds(4)
    assert not world.lost
    world.rounds(1)
    assert world.lost == [peer]


def test_what_waits_to_be_read_is_a_sign_of_life() -> None:
    peer = Peer()
    peer.unread = True
    world = World(peer)
    world.rounds(20)
    assert not world.lost
    peer.unread = False
    world.round()
    assert world.lost == [peer]


def test_a_round_that_fails_is_not_the_last() -> None:
    class Broken(Peer):
        def tick(self) -> None:
            raise OSError("broken")

    broken = Broken()
    world = World(broken)
    world.round()
    with pytest.raises(OSError, match="broken"):
        world.round()
    world.peers = [other := Peer()]
    world.rounds(2)
    assert other.ticks == 1


def test_after_the_stop_there_are_no_rounds() -> None:
    peer = Peer()
    world = World(peer)
    world.ticker.stop()
    world.round()
    assert (peer.ticks, world._next) == (0, None)


@pytest.mark.parametrize("ticktime", [0, -1, float("nan")])
def test_a_ticktime_that_is_none(ticktime: float) -> None:
    with pytest.raises(ValueError, match=r"net_ticktime is .*: give it seconds, more than 0"):
        Ticker(ticktime, connections=list, lost=print, after=lambda *_: None)
