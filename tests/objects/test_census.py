"""Objects that are counted and measured, whatever they are."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import numpy as np
import pytest

from pynode.objects import Census, size_of, type_names


class _Slow:
    """Whoever asks it anything has lost."""

    @property
    def nbytes(self) -> int:
        raise AssertionError("the objects' own code was run")

    def __sizeof__(self) -> int:
        raise AssertionError("the objects' own code was run")

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":  # for those who look through all objects there are
            return _Slow
        raise AssertionError("the objects' own code was run")


class _Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__class__":
            return _Meta
        raise AssertionError("the objects' own code was run")

    def __hash__(cls) -> int:
        raise AssertionError("the objects' own code was run")

    __module__ = "meta"


class _Sized:
    def __sizeof__(self) -> int:
        raise AssertionError("the objects' own code was run")


def _metered() -> Any:
    return _Meta("Metered", (), {})()


def _released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (np.zeros(1000), 8000),
        (np.zeros(1000)[::2], 4000),
        (memoryview(b"abc"), 3),
        ([1, 2, 3], sys.getsizeof([1, 2, 3])),
        (_released(), None),
        (_Slow(), None),
        (_Sized(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_known_of_a_size(obj: object, expected: int | None) -> None:
    assert size_of(obj) == expected


def test_an_object_of_a_class_without_a_size_of_its_own() -> None:
    plain = type("Plain", (), {})()
    assert size_of(plain) == sys.getsizeof(plain)
    metered = _metered()
    assert size_of(metered) == sys.getsizeof(metered)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("a.b", ("a.b", "C")),
        (7, ("builtins", "C")),
        ("\ud800\x1b", ("\\ud800\x1b", "C")),
        (None, ("builtins", "C")),
    ],
)
def test_names_of_types_can_be_sent(module: Any, expected: tuple[str, str]) -> None:
    kind = type("C", (), {"__module__": module})
    assert type_names(kind) == expected


def test_a_type_without_a_module() -> None:
    kind = eval("type('C', (), {})", {})
    assert "__module__" not in vars(kind)
    assert type_names(kind) == ("builtins", "C")


def test_everything_is_counted(world: Any) -> None:
    registry = world.registry
    session = registry.open_session("s", world.pid(1))
    other = registry.open_session("other", world.pid(2))
    for obj in (np.zeros(10), np.zeros(20), _Slow(), _metered(), _released()):
        registry.add(session, obj)
    registry.add(other, np.zeros(30))
    registry.add(other, ValueError(), "exception")
    census = Census(registry, seconds=60)
    arrays = census.types["numpy", "ndarray"]
    assert (arrays.count, arrays.bytes, arrays.measured) == (3, 480, 3)
    assert sum(tally.count for tally in census.types.values()) == 7
    views = census.types["builtins", "memoryview"]
    assert (views.count, views.bytes, views.measured) == (1, 0, 0)
    assert census.sessions["s"].count == 5
    assert census.sessions["s"].measured == 3
    assert census.sessions["other"].bytes > 240
    alone = Census(registry, other, seconds=60)
    assert alone.sessions.keys() == {"other"}
    assert alone.types["numpy", "ndarray"].count == 1


def test_measuring_ends_when_the_time_is_up(world: Any) -> None:
    registry = world.registry
    session = registry.open_session("s", world.pid(1))
    for _ in range(1000):
        registry.add(session, np.zeros(1))
    tally = Census(registry, seconds=0).types["numpy", "ndarray"]
    assert (tally.count, tally.bytes, tally.measured) == (1000, 0, 0)


class _Object:
    """Tells in which thread it was destructed."""

    def __init__(self, freed: list[str]) -> None:
        self._freed = freed

    def __del__(self) -> None:
        self._freed.append(threading.current_thread().name)


def test_what_leaves_while_it_is_looked_at_is_dropped_by_a_deferred_function(
    world: Any,
) -> None:
    registry = world.registry
    session = registry.open_session("s", world.pid(1))
    freed: list[str] = []
    for _ in range(3):
        registry.add(session, _Object(freed))

    def look(entries: list[Any]) -> None:
        assert len(entries) == 3
        registry.release_session("s")
        # All that is done elsewhere is done: only those who look hold the objects.
        assert world.settle() == 1
        assert freed == []

    registry.visit(look)
    gc.collect()
    assert freed == []
    elsewhere = threading.Thread(target=world.settle, name="elsewhere")
    elsewhere.start()
    elsewhere.join()
    assert freed == ["elsewhere"] * 3


def test_nothing_is_kept_by_an_observer_that_fails(world: Any) -> None:
    registry = world.registry
    session = registry.open_session("s", world.pid(1))
    freed: list[str] = []
    registry.add(session, _Object(freed))

    def look(entries: list[Any]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        registry.visit(look)
    registry.release_session("s")
    world.settle()
    assert len(freed) == 1
