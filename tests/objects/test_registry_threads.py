"""Many threads at one registry, and what must be true afterwards."""

from __future__ import annotations

import random
import sys
import threading
import weakref
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from pynode.errors import (
    InvalidRequestError,
    RefNotFoundError,
    SessionFullError,
    SessionMismatchError,
    SessionNotFoundError,
)
from pynode.objects import Registry, SessionSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.terms import Pid, Reference

THREADS = 6
STEPS = 1_500
OWNERS = 8

DOCUMENTED = (
    InvalidRequestError,
    RefNotFoundError,
    SessionFullError,
    SessionMismatchError,
    SessionNotFoundError,
)


class Thing:
    """Counts how often it is exited, and uses the registry when it is destroyed."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.exits = 0

    def __exit__(self, *_: object) -> None:
        self.exits += 1
        assert self.exits == 1

    def __del__(self) -> None:
        self.registry.counts()


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("seed", range(3))
def test_hammered(make_world: Any, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    world = make_world()
    deferred: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
    registry = world.registry
    registry._defer = deferred.put
    monitored: dict[Pid, int] = {}
    registry._monitor = lambda pid: monitored.__setitem__(pid, monitored.get(pid, 0) + 1)
    registry._demonitor = lambda pid: monitored.__setitem__(pid, monitored[pid] - 1)
    owners = [world.pid(number) for number in range(OWNERS)]
    settings = [
        SessionSettings(max_refs=5),
        SessionSettings(max_refs=5, on_full="error"),
        SessionSettings(ttl_seconds=0.001),
    ]
    registry._clock = world.registry._origin.clock = iter_clock()
    references: list[Reference] = [world.new_reference()]
    ghosts: list[weakref.ref[Thing]] = []
    failures: list[BaseException] = []
    added: list[int] = []

    def step(chance: random.Random) -> None:
        owner, name = chance.choice(owners), chance.choice("abcd")
        match chance.randrange(12):
            case 0 | 1 | 2 | 3:
                session = (
                    registry.open_session(name, owner, chance.choice(settings))
                    if chance.random() < 0.5
                    else registry.ensure_implicit(owner)
                )
                thing = Thing(registry)
                entries = [registry.add(session, thing)]
                entries[0].entered = 1
                added.append(1)
                ghosts.append(weakref.ref(thing))
                references.append(entries[0].reference)
                if chance.random() < 0.2:
                    registry.discard(entries)
            case 4 | 5:
                registry.resolve(chance.choice(references), session_id=chance.choice([None, name]))
            case 6:
                registry.release(*chance.choices(references, k=3))
            case 7:
                registry.release_session(name)
            case 8:
                registry.owner_down(owner)
            case 9:
                registry.give_session(name, owner, chance.choice(owners))
            case 10:
                registry.expire()
                registry.next_expiry()
            case 11:
                assert registry.counts().owners <= OWNERS
                registry.refs(name)

    def hammer(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        for _ in range(STEPS):
            try:
                step(chance)
            except DOCUMENTED:
                pass
            except BaseException as error:
                failures.append(error)
                raise

    def unwinder() -> None:
        while (function := deferred.get()) is not None:
            function()

    background = [threading.Thread(target=unwinder) for _ in range(2)]
    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(THREADS)]
    for thread in background + threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    # A monitor that went with its owner was not taken back.
    world.monitored = set(registry.owners())
    world.check()
    assert all(monitored[pid] >= 1 for pid in registry.owners())
    for owner in owners:
        registry.owner_down(owner)
    assert registry.counts() == (0, 0, 0)
    for _ in background:
        deferred.put(None)
    for thread in background:
        thread.join()
    assert len(added) > THREADS * STEPS / 10
    assert [ghost for ghost in ghosts if ghost() is not None] == []
    assert not caplog.records, "something was exited twice"


def iter_clock() -> Callable[[], float]:
    """A clock that goes on a little each time somebody looks."""
    ticks = iter(range(10**9))
    return lambda: next(ticks) * 1e-5


def test_one_monitor_however_many_open_at_once(make_world: Any) -> None:
    world = make_world()
    barrier = threading.Barrier(THREADS)
    sessions: list[Any] = []

    def open_all() -> None:
        barrier.wait()
        sessions.append(world.registry.ensure_implicit(world.pid(1)))
        for number in range(50):
            world.registry.open_session(f"s{number}", world.pid(1))

    threads = [threading.Thread(target=open_all) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.signals == [("monitor", world.pid(1))]
    assert len(set(map(id, sessions))) == 1
    assert world.registry.counts() == (51, 0, 1)
    world.check()


def test_a_death_in_the_middle_leaves_nothing(make_world: Any) -> None:
    # However the death and the additions interleave: with the owner's (second) DOWN all is gone.
    for _ in range(100):
        world = make_world()
        owner = world.pid(1)
        world.registry.open_session("s", owner)

        def add(world: Any = world, owner: Pid = owner) -> None:
            # The session may end between the two.
            with suppress(SessionNotFoundError):
                for number in range(5):
                    session = world.registry.open_session(f"s{number}", owner)
                    world.registry.add(session, object())

        thread = threading.Thread(target=add)
        thread.start()
        world.down(owner)
        thread.join()
        world.monitored = set(world.registry.owners())
        world.check()
        world.down(owner)
        assert world.registry.counts() == (0, 0, 0)
