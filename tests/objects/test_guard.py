from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pynode.objects import SessionSettings
from pynode.objects.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Garbage:
    """A cycle: its destructor runs in a garbage collection, on whatever thread that starts."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.cycle = self

    def __del__(self) -> None:
        self.action()


class WatchedLock:
    """Knows when something may be half changed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.busy = False

    def acquire(self) -> None:
        self._lock.acquire()
        self.busy = True

    def release(self) -> None:
        self.busy = False
        self._lock.release()


@pytest.fixture
def _collect_all_the_time() -> Iterator[None]:
    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


def test_it_excludes_other_threads() -> None:
    guard, log = Guard(), list[str]()

    def other() -> None:
        with guard:
            log.append("other")

    thread = threading.Thread(target=other)
    with guard:
        thread.start()
        log.append("this")
    thread.join()
    assert log == ["this", "other"]


@pytest.mark.parametrize("enabled", [True, False])
def test_collections_wait_and_are_then_as_they_were(enabled: bool) -> None:
    guard = Guard()
    try:
        if not enabled:
            gc.disable()
        with guard:
            assert not gc.isenabled()
        assert gc.isenabled() is enabled

        def fail() -> None:
            with guard:
                raise LookupError

        with pytest.raises(LookupError):
            fail()
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


@pytest.mark.usefixtures("_collect_all_the_time")
def test_no_destructor_of_garbage_runs_under_the_lock() -> None:
    guard = Guard()
    with guard:
        ran: list[int] = []
        Garbage(lambda: ran.append(1))
        kept: list[list[int]] = [[] for _ in range(100)]
        assert not ran
    kept.append([])
    gc.collect()
    assert ran


@pytest.mark.usefixtures("_collect_all_the_time")
def test_destructors_of_garbage_may_use_the_registry(make_world: Any) -> None:
    world = make_world()
    registry = world.registry
    registry._guard._lock = lock = WatchedLock()
    made: list[int] = []
    half_way: list[bool] = []

    def destructor() -> None:
        half_way.append(lock.busy)
        registry.release(world.new_reference())
        registry.refs("kept")

    def clock() -> float:
        """Makes garbage under the lock, and allocates enough for a collection."""
        made.append(1)
        Garbage(destructor)
        return float(len([[] for _ in range(10)]))

    registry._clock = clock
    registry.open_session("kept", world.pid(100))
    settings = SessionSettings(max_refs=2, ttl_seconds=5)
    for number in range(30):
        session = registry.open_session(f"s{number % 3}", world.pid(number), settings)
        for _ in range(3):
            registry.resolve(registry.add(session, None).reference)
        registry.expire()
        registry.release_session(f"s{number % 2}")
        world.down(world.pid(number))
        world.check()
    gc.collect()
    assert half_way == [False] * len(made)
    assert len(made) > 200
