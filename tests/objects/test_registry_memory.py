from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from pynode.objects import SessionSettings
from pynode.objects.session import Entry, Session, Usage

REFS = 100_000


@pytest.mark.slow
def test_a_ref_takes_less_than_300_bytes_beyond_its_object(make_world: Any) -> None:
    world = make_world()
    session = world.registry.open_session("s", world.pid(1), SessionSettings(max_refs=0))
    world.registry.add(session, None)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(REFS):
            world.registry.add(session, None)
        for entry in list(session.objects):
            # Another moment for each: floats of their own, as in life.
            world.now += 1e-6
            world.registry.touch(entry)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / REFS < 300


def test_sessions_come_and_go_without_a_trace(make_world: Any) -> None:
    world = make_world()
    registry = world.registry
    kinds = ("ref", "stream", "exception")

    def live_and_die(number: int) -> None:
        owner = world.pid(number)
        for session in (registry.ensure_implicit(owner), registry.open_session("s", owner)):
            for kind in kinds:
                registry.add(session, [], kind)
        world.down(owner)
        world.settle()

    def ours() -> int:
        return sum(isinstance(one, (Entry, Session, Usage)) for one in gc.get_objects())

    live_and_die(0)
    gc.collect()
    before = ours()
    gc.disable()
    try:
        for number in range(1, 100):
            live_and_die(number)
        assert ours() == before
    finally:
        gc.enable()
    assert registry.counts() == (0, 0, 0)


def test_the_departed_are_bounded(make_world: Any) -> None:
    world = make_world(max_refs=1)
    registry = world.registry
    memory = registry._departed
    memory._limit = 50
    session = registry.open_session("s", world.pid(1))
    for number in range(1, 200):
        registry.add(session, None)
        registry.add(registry.ensure_implicit(world.pid(number)), None)
        world.down(world.pid(number)) if number > 1 else None
        assert len(memory._refs) <= 50
        assert len(memory._former) + len(memory._recent) <= 50
