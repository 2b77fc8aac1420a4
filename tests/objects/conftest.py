"""A registry in a world of its own: its node, its clock, its deferred functions, its owners."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING

import pytest

from pynode.objects import Registry, SessionSettings
from pynode.terms import Atom, Pid, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.objects import Session


class World:
    """What a registry sees of the rest, and a record of what it did there."""

    node = Atom("py@host")
    creation = 1_700_000_000

    def __init__(self, **settings: object) -> None:
        self.now = 1_000.0
        self.epoch = 1_735_707_045.0 - self.now
        self.monitored: set[Pid] = set()
        self.signals: list[tuple[str, Pid]] = []
        self.deferred: deque[Callable[[], None]] = deque()
        self.ended: list[tuple[str, str]] = []
        self._words = itertools.count(1)
        self.registry = Registry(
            new_reference=self.new_reference,
            monitor=self._monitor,
            demonitor=self._demonitor,
            defer=self.deferred.append,
            ended=self._on_ended,
            defaults=SessionSettings.from_mapping(settings),
            clock=lambda: self.now,
            wall_clock=lambda: self.epoch + self.now,
        )

    def new_reference(self) -> Reference:
        number = next(self._words)
        return Reference(self.node, self.creation, (number & 0x3FFFF, number >> 18, 0))

    def pid(self, number: int, node: str = "ex@host", creation: int = 7) -> Pid:
        return Pid(Atom(node), number, 0, creation)

    def _monitor(self, pid: Pid) -> None:
        assert pid not in self.monitored, "monitored twice"
        self.monitored.add(pid)
        self.signals.append(("monitor", pid))

    def _demonitor(self, pid: Pid) -> None:
        self.monitored.remove(pid)
        self.signals.append(("demonitor", pid))

    def _on_ended(self, session: Session, reason: str) -> None:
        self.ended.append((session.id, reason))

    def down(self, pid: Pid) -> None:
        """The owner is gone, and so is its monitor."""
        self.monitored.discard(pid)
        self.registry.owner_down(pid)

    def lose(self, pid: Pid) -> None:
        """The owner's node is lost, and so is its monitor."""
        self.monitored.discard(pid)
        self.registry.owner_lost(pid)

    def settle(self) -> int:
        """Run what was deferred; return how many functions that were."""
        count = 0
        while self.deferred:
            self.deferred.popleft()()
            count += 1
        return count

    def check(self) -> None:
        """The three indexes agree with each other, with the monitors, and with the counts."""
        registry = self.registry
        sessions = registry.sessions()
        owned = {(pid, session.id) for session in sessions for pid in session.owners}
        assert {
            (pid, session.id) for pid, ones in registry._owners.items() for session in ones
        } == owned
        assert all(session.owners for session in sessions), "a session without an owner"
        assert all(session.ended is None for session in sessions)
        absent = set(registry.absent())
        assert self.monitored | absent == {pid for pid, _ in owned} == set(registry.owners())
        assert not self.monitored & absent
        assert all(pid in session.owners for pid, session in registry._implicit.items())
        entries = [entry for session in sessions for entry in registry.refs(session.id)]
        assert {entry.key: entry for entry in entries} == registry._entries
        for session in sessions:
            for usage in (session.objects, session.exceptions):
                ones = list(usage)
                assert len(ones) == usage.count
                assert all(
                    newer.older is older and older.newer is newer
                    for older, newer in itertools.pairwise(ones)
                )
                assert usage.newest is (ones[-1] if ones else None)
                assert all(entry.session is session for entry in ones)
        assert set(registry._expiring) == {session for session in sessions if session.ttl_seconds}
        assert registry.counts() == (len(sessions), len(entries), len(registry.owners()))
        assert sum(session.refs for session in sessions) == len(entries)


@pytest.fixture
def make_world() -> type[World]:
    return World


@pytest.fixture
def world() -> World:
    return World()
