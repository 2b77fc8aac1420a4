"""Owners that join a living session, and that leave it while they live on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pynode.errors import SessionNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _always_consistent(world: Any) -> Iterator[None]:
    yield
    world.check()


def why(world: Any, session_id: str) -> str:
    with pytest.raises(SessionNotFoundError) as caught:
        world.registry.session(session_id)
    return caught.value.reason


class TestAddOwner:
    def test_it_lives_until_the_last_has_gone(self, world: Any) -> None:
        session = world.registry.ensure_implicit(world.pid(1))
        for _ in range(2):
            world.registry.add_owner(session.id, world.pid(2))
        assert list(session.owners) == [world.pid(1), world.pid(2)]
        assert world.signals == [("monitor", world.pid(1)), ("monitor", world.pid(2))]
        world.down(world.pid(1))
        assert session.ended is None
        world.down(world.pid(2))
        assert session.ended == "owner_down"

    def test_it_opens_none(self, world: Any) -> None:
        world.registry.open_session("s", world.pid(1))
        world.down(world.pid(1))
        for name, reason in (("s", "owner_down"), ("never", "unknown")):
            with pytest.raises(SessionNotFoundError) as caught:
                world.registry.add_owner(name, world.pid(2))
            assert (caught.value.session_id, caught.value.reason) == (name, reason)
        assert world.monitored == set()


class TestRemoveOwner:
    def test_the_others_keep_it(self, world: Any) -> None:
        session = world.registry.open_session("s", world.pid(1))
        world.registry.add_owner("s", world.pid(2))
        world.registry.remove_owner("s", world.pid(1))
        assert list(session.owners) == [world.pid(2)]
        assert world.monitored == {world.pid(2)}

    def test_the_last_one_releases_it(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        reference = registry.add(session, object()).reference
        registry.remove_owner("s", world.pid(1))
        assert session.ended == why(world, "s") == "session_released"
        assert world.ended == [("s", "session_released")]
        assert world.monitored == set()
        assert registry.session_of(reference) is None

    def test_none_is_no_error(self, world: Any) -> None:
        world.registry.open_session("s", world.pid(1))
        world.registry.remove_owner("s", world.pid(2))
        world.registry.remove_owner("never", world.pid(1))
        assert world.monitored == {world.pid(1)}

    def test_of_an_implicit_session_begins_another(self, world: Any) -> None:
        registry = world.registry
        session = registry.ensure_implicit(world.pid(1))
        registry.add_owner(session.id, world.pid(2))
        registry.remove_owner(session.id, world.pid(1))
        assert registry.implicit_session(world.pid(1)) is None
        assert registry.ensure_implicit(world.pid(1)) is not session
