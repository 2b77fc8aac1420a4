from __future__ import annotations

import gc
import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from pynode import config
from pynode.errors import (
    InvalidRequestError,
    NodeUnavailableError,
    RefNotFoundError,
    SessionFullError,
    SessionMismatchError,
    SessionNotFoundError,
)
from pynode.objects import SessionSettings
from pynode.terms import Atom, Pid, Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Thing:
    """Something that can be watched."""


class Destroyed:
    """Calls a function when it is destroyed."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __del__(self) -> None:
        self.action()


def reason_of(world: Any, reference: Reference) -> tuple[str, str | None]:
    with pytest.raises(RefNotFoundError) as caught:
        world.registry.resolve(reference)
    assert caught.value.ref_id == reference
    return caught.value.reason, caught.value.session_id


@pytest.fixture(autouse=True)
def _always_consistent(world: Any) -> Iterator[None]:
    yield
    world.check()


class TestLife:
    """Rule 1: a session lives while at least one owner lives."""

    def test_it_ends_with_its_owner_and_takes_its_refs_along(self, world: Any) -> None:
        registry, owner, thing = world.registry, world.pid(1), Thing()
        ghost = weakref.ref(thing)
        session = registry.open_session("s", owner)
        reference = registry.add(session, thing).reference
        assert registry.resolve(reference).obj is thing
        del thing
        world.down(owner)
        assert session.ended == "owner_down"
        assert world.ended == [("s", "owner_down")]
        assert registry.counts() == (0, 0, 0)
        assert reason_of(world, reference) == ("owner_down", "s")
        assert world.settle() == 1
        assert ghost() is None

    def test_it_ends_with_its_last_owner_only(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        assert registry.open_session("s", world.pid(2)) is session
        assert list(session.owners) == [world.pid(1), world.pid(2)]
        world.down(world.pid(1))
        assert session.ended is None
        assert list(session.owners) == [world.pid(2)]
        world.down(world.pid(2))
        assert session.ended == "owner_down"

    def test_all_sessions_of_an_owner_end_with_it(self, world: Any) -> None:
        registry, owner = world.registry, world.pid(1)
        for name in "abc":
            registry.add(registry.open_session(name, owner), Thing())
        registry.open_session("b", world.pid(2))
        world.down(owner)
        assert [session.id for session in registry.sessions()] == ["b"]
        assert world.ended == [("a", "owner_down"), ("c", "owner_down")]
        assert world.settle() == 2, "one function for each session: a slow one delays no other"

    def test_it_ends_when_it_is_released_and_its_owners_are_not_monitored_any_more(
        self, world: Any
    ) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        registry.open_session("s", world.pid(2))
        registry.open_session("t", world.pid(2))
        references = [registry.add(session, Thing()).reference for _ in range(3)]
        assert registry.release_session("s") == 3
        assert world.signals[-1] == ("demonitor", world.pid(1))
        assert world.monitored == {world.pid(2)}
        assert world.ended == [("s", "session_released")]
        assert reason_of(world, references[0]) == ("session_released", "s")
        assert registry.release_session("s") == 0
        assert registry.release_session("never") == 0
        assert world.ended == [("s", "session_released")]

    def test_a_dead_owner_is_reported_twice_and_an_unknown_one_once(self, world: Any) -> None:
        world.registry.open_session("s", world.pid(1))
        for _ in range(2):
            world.down(world.pid(1))
        world.down(world.pid(2))
        assert world.ended == [("s", "owner_down")]

    def test_an_ended_session_takes_nothing(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        world.down(world.pid(1))
        with pytest.raises(SessionNotFoundError) as caught:
            registry.add(session, Thing())
        assert (caught.value.session_id, caught.value.reason) == ("s", "owner_down")

    def test_an_unknown_session_is_not_found(self, world: Any) -> None:
        registry = world.registry
        assert registry.find("s") is None
        with pytest.raises(SessionNotFoundError, match="not open on this node") as caught:
            registry.session("s")
        assert caught.value.reason == "unknown"
        session = registry.open_session("s", world.pid(1))
        assert registry.find("s") is registry.session("s") is session
        registry.release_session("s")
        with pytest.raises(SessionNotFoundError, match="was released") as caught:
            registry.session("s")
        assert caught.value.reason == "session_released"

    def test_a_name_lives_again(self, world: Any) -> None:
        registry = world.registry
        first = registry.open_session("s", world.pid(1), SessionSettings(max_refs=1))
        old = registry.add(first, Thing()).reference
        world.down(world.pid(1))
        second = registry.open_session("s", world.pid(1))
        assert second is not first
        assert second.max_refs == config.REF_MAX
        new = registry.add(second, Thing()).reference
        assert reason_of(world, old) == ("owner_down", "s")
        with pytest.raises(SessionNotFoundError):
            registry.add(first, Thing())
        registry.release_session("s")
        assert reason_of(world, old) == ("owner_down", "s")
        assert reason_of(world, new) == ("session_released", "s")


class TestOwners:
    """Rule 2: owners are monitored before anything can be sent, and as long as needed."""

    def test_one_monitor_for_an_owner_of_many_sessions(self, world: Any) -> None:
        registry, owner = world.registry, world.pid(1)
        for name in "abab":
            registry.open_session(name, owner)
        registry.ensure_implicit(owner)
        assert world.signals == [("monitor", owner)]
        assert registry.owners() == [owner]
        for session in registry.sessions():
            registry.release_session(session.id)
        assert world.signals == [("monitor", owner), ("demonitor", owner)]
        registry.open_session("a", owner)
        assert world.signals[2:] == [("monitor", owner)]

    def test_a_dead_owner_is_not_demonitored(self, world: Any) -> None:
        world.registry.open_session("s", world.pid(1))
        world.down(world.pid(1))
        assert world.signals == [("monitor", world.pid(1))]

    def test_an_owner_that_died_while_it_opened_another_session_is_monitored_again(
        self, world: Any
    ) -> None:
        # Its DOWN came first: the monitor of the second session will answer noproc.
        registry, owner = world.registry, world.pid(1)
        registry.open_session("a", owner)
        world.down(owner)
        registry.open_session("b", owner)
        assert world.signals == [("monitor", owner)] * 2
        world.down(owner)
        assert registry.counts() == (0, 0, 0)

    def test_without_a_monitor_there_is_no_session(
        self, world: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreachable(pid: Pid) -> None:
            raise NodeUnavailableError("gone", node=pid.node)

        registry = world.registry
        registry.open_session("there", world.pid(1))
        monkeypatch.setattr(registry, "_monitor", unreachable)
        for operation, *arguments in (
            (registry.open_session, "new", world.pid(2)),
            (registry.open_session, "there", world.pid(2)),
            (registry.ensure_implicit, world.pid(2)),
            (registry.give_session, "there", world.pid(1), world.pid(2)),
        ):
            with pytest.raises(NodeUnavailableError):
                operation(*arguments)
        assert [session.id for session in registry.sessions()] == ["there"]
        assert registry.implicit_session(world.pid(2)) is None
        assert list(registry.session("there").owners) == [world.pid(1)]
        world.check()

    def test_pids_of_two_incarnations_of_a_node_are_two_owners(self, world: Any) -> None:
        old, new = Pid(Atom("ex@host"), 1, 0, 1), Pid(Atom("ex@host"), 1, 0, 2)
        world.registry.open_session("old", old)
        world.registry.open_session("new", new)
        world.down(old)
        assert [session.id for session in world.registry.sessions()] == ["new"]


class TestImplicitSessions:
    """Rule 3: a caller that names no session has one of its own."""

    def test_it_is_named_after_its_owner_and_made_once(self, world: Any) -> None:
        registry, owner = world.registry, Pid(Atom("ex@host"), 123, 0, 7)
        assert registry.implicit_session(owner) is None
        session = registry.ensure_implicit(owner)
        assert session.id == "auto_<0.123.0>_1735707045000"
        assert list(session.owners) == [owner]
        assert registry.ensure_implicit(owner) is registry.implicit_session(owner) is session
        assert registry.find(session.id) is session

    def test_names_do_not_collide(self, world: Any) -> None:
        registry = world.registry
        pids = [world.pid(1, node) for node in ("a@host", "b@host", "c@host")]
        registry.open_session("auto_<0.1.0>_1735707045001", world.pid(2))
        names = [registry.ensure_implicit(pid).id for pid in pids]
        assert names == [f"auto_<0.1.0>_{1735707045000 + ms}" for ms in (0, 2, 3)]
        # Neither with one that has ended: its refs would answer for the wrong session.
        world.down(pids[0])
        assert registry.ensure_implicit(pids[0]).id == "auto_<0.1.0>_1735707045004"

    def test_after_its_end_there_is_a_new_one(self, world: Any) -> None:
        registry, owner = world.registry, world.pid(1)
        first = registry.ensure_implicit(owner)
        registry.release_session(first.id)
        assert registry.implicit_session(owner) is None
        second = registry.ensure_implicit(owner)
        assert second is not first
        world.down(owner)
        assert registry.implicit_session(owner) is None

    def test_one_that_was_given_away_is_not_the_giver_s_any_more(self, world: Any) -> None:
        registry = world.registry
        session = registry.ensure_implicit(world.pid(1))
        registry.give_session(session.id, world.pid(1), world.pid(2))
        assert registry.implicit_session(world.pid(1)) is None
        assert registry.implicit_session(world.pid(2)) is None
        assert registry.ensure_implicit(world.pid(2)) is not session
        assert registry.ensure_implicit(world.pid(1)) is not session

    def test_one_that_has_a_co_owner_outlives_its_first(self, world: Any) -> None:
        registry = world.registry
        session = registry.ensure_implicit(world.pid(1))
        registry.open_session(session.id, world.pid(2))
        world.down(world.pid(1))
        assert session.ended is None
        assert registry.implicit_session(world.pid(1)) is None


class TestDeparted:
    """Rule 4: who asks for a ref that is gone is told why."""

    def test_released(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        kept, gone, gone_too = (registry.add(session, Thing()).reference for _ in range(3))
        assert registry.release(gone) == 1
        assert registry.release(gone) == 0
        assert registry.release(gone, gone_too, gone_too) == 1
        assert registry.release() == 0
        assert reason_of(world, gone) == reason_of(world, gone_too) == ("released", "s")
        assert registry.resolve(kept)
        registry.release_session("s")
        assert reason_of(world, gone) == ("released", "s")

    def test_of_a_former_incarnation(self, world: Any) -> None:
        old = Reference(world.node, world.creation - 1, (1, 0, 0))
        assert reason_of(world, old) == ("node_restarted", None)
        assert world.registry.release(old) == 0

    def test_never_there(self, world: Any) -> None:
        assert reason_of(world, world.new_reference()) == ("unknown", None)
        assert reason_of(world, Reference(Atom("ex@host"), 1, (1,))) == ("unknown", None)

    def test_with_the_same_words_but_another_node_or_length(self, world: Any) -> None:
        registry = world.registry
        ref = registry.add(registry.open_session("s", world.pid(1)), Thing()).reference
        assert registry.resolve(Reference(ref.node, ref.creation, ref.ids))
        for other in (
            Reference(Atom("ex@host"), ref.creation, ref.ids),
            Reference(ref.node, ref.creation + 1, ref.ids),
            Reference(ref.node, ref.creation, (*ref.ids, 0)),
            Reference(ref.node, ref.creation, ref.ids[:2]),
        ):
            reason_of(world, other)
            assert registry.release(other) == 0

    def test_it_is_asked_under_a_session(self, world: Any) -> None:
        registry = world.registry
        registry.open_session("s", world.pid(1))
        with pytest.raises(RefNotFoundError) as caught:
            registry.resolve(world.new_reference(), session_id="s")
        assert caught.value.reason == "unknown"

    def test_the_error_does_not_keep_the_object(self, world: Any) -> None:
        registry = world.registry
        reference = registry.add(registry.open_session("s", world.pid(1)), Thing()).reference
        ghost = weakref.ref(registry.resolve(reference).obj)
        with pytest.raises(SessionMismatchError) as caught:
            registry.resolve(reference, session_id="t")
        registry.release(reference)
        world.settle()
        assert caught.value.__traceback__ is not None
        assert ghost() is None


class TestLimits:
    """Rule 5: a full session evicts or refuses, and no session feels another one's flood."""

    def test_the_least_recently_used_leaves(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1), SessionSettings(max_refs=3))
        one, two, three = (registry.add(session, Thing()).reference for _ in range(3))
        registry.resolve(one)
        registry.touch(registry.resolve(two))
        four = registry.add(session, Thing()).reference
        assert reason_of(world, three) == ("evicted", "s")
        five = registry.add(session, Thing()).reference
        assert reason_of(world, one) == ("evicted", "s")
        assert session.refs == 3
        assert [registry.resolve(ref).session for ref in (two, four, five)] == [session] * 3
        assert world.settle() == 2

    def test_a_flood_stays_in_its_session(self, world: Any) -> None:
        registry = world.registry
        quiet = registry.open_session("quiet", world.pid(1), SessionSettings(max_refs=3))
        ref = registry.add(quiet, Thing()).reference
        flood = registry.open_session("flood", world.pid(2), SessionSettings(max_refs=3))
        for _ in range(100):
            registry.add(flood, Thing())
        assert registry.resolve(ref)
        assert (quiet.refs, flood.refs) == (1, 3)

    def test_error_refuses_and_evicts_nothing(self, world: Any) -> None:
        registry = world.registry
        settings = SessionSettings(max_refs=2, on_full="error")
        session = registry.open_session("s", world.pid(1), settings)
        references = [registry.add(session, Thing()).reference for _ in range(2)]
        with pytest.raises(SessionFullError, match="release refs") as caught:
            registry.add(session, Thing())
        assert (caught.value.session_id, caught.value.max_refs) == ("s", 2)
        assert all(registry.resolve(ref) for ref in references)
        registry.release(references[0])
        registry.add(session, Thing())

    def test_zero_is_no_limit(self, world: Any) -> None:
        session = world.registry.open_session("s", world.pid(1), SessionSettings(max_refs=0))
        for _ in range(config.REF_MAX + 1):
            world.registry.add(session, None)
        assert session.refs == config.REF_MAX + 1

    @pytest.mark.parametrize("on_full", ["evict", "error"])
    def test_exceptions_have_room_of_their_own(self, world: Any, on_full: str) -> None:
        registry = world.registry
        settings = SessionSettings(max_refs=1, on_full=on_full)
        session = registry.open_session("s", world.pid(1), settings)
        ref = registry.add(session, Thing()).reference
        errors = [
            registry.add(session, ValueError(number), "exception").reference
            for number in range(config.EXCEPTIONS_PER_SESSION + 1)
        ]
        assert registry.resolve(ref)
        assert reason_of(world, errors[0]) == ("evicted", "s")
        assert registry.resolve(errors[1]).kind == "exception"
        assert session.refs == config.EXCEPTIONS_PER_SESSION + 1
        assert registry.release_session("s") == config.EXCEPTIONS_PER_SESSION + 1

    def test_streams_count_as_refs(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1), SessionSettings(max_refs=1))
        ref = registry.add(session, Thing()).reference
        assert registry.add(session, iter([]), "stream").kind == "stream"
        assert reason_of(world, ref) == ("evicted", "s")


class TestExpiry:
    """Rule 6: what a living owner holds is not pruned, unless its session says so."""

    def test_off_by_default(self, world: Any) -> None:
        registry = world.registry
        registry.add(registry.open_session("s", world.pid(1)), Thing())
        world.now += 1e9
        assert registry.next_expiry() is None
        assert registry.expire() == 0

    def test_what_nobody_used_for_so_long_expires(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1), SessionSettings(ttl_seconds=60))
        assert registry.next_expiry() is None
        used, unused = (registry.add(session, Thing()).reference for _ in range(2))
        error = registry.add(session, ValueError(), "exception").reference
        assert registry.next_expiry() == pytest.approx(60)
        world.now += 40
        registry.resolve(used)
        assert registry.expire() == 0
        assert registry.next_expiry() == pytest.approx(20)
        world.now += 21
        assert registry.next_expiry() == 0
        assert registry.expire() == 2
        assert reason_of(world, unused) == reason_of(world, error) == ("expired", "s")
        assert registry.next_expiry() == pytest.approx(39)
        world.now += 39
        assert registry.expire() == 1
        assert registry.counts() == (1, 0, 1), "the session itself lives with its owner"

    def test_only_in_sessions_that_have_it(self, world: Any) -> None:
        registry = world.registry
        short = registry.open_session("short", world.pid(1), SessionSettings(ttl_seconds=1))
        long = registry.open_session("long", world.pid(1), SessionSettings(ttl_seconds=100))
        never = registry.open_session("never", world.pid(1))
        for session in (short, long, never):
            registry.add(session, Thing())
        world.now += 10
        assert registry.expire() == 1
        assert [session.refs for session in (short, long, never)] == [0, 1, 1]
        registry.release_session("long")
        assert registry.next_expiry() is None

    def test_nothing_expires_while_a_call_runs(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1), SessionSettings(ttl_seconds=60))
        entry = registry.add(session, Thing())
        session.running = 1
        world.now += 600
        assert registry.expire() == 0
        assert registry.next_expiry() == 60
        registry.touch(entry)
        session.running = 0
        assert registry.expire() == 0
        world.now += 60
        assert registry.expire() == 1
        registry.touch(entry)
        assert session.refs == 0, "what has left does not come back"


class TestMismatch:
    """Rule 7: a ref is at home in one session."""

    def test_resolve(self, world: Any) -> None:
        registry = world.registry
        home = registry.open_session("home", world.pid(1))
        registry.open_session("other", world.pid(1))
        reference = registry.add(home, Thing()).reference
        assert registry.resolve(reference).session is home
        assert registry.resolve(reference, session_id="home").session is home
        with pytest.raises(SessionMismatchError, match="use it under its own") as caught:
            registry.resolve(reference, session_id="other")
        error = caught.value
        assert (error.expected_session, error.actual_session) == ("home", "other")
        assert error.ref_id == reference

    def test_release_is_all_or_nothing(self, world: Any) -> None:
        registry = world.registry
        home = registry.open_session("home", world.pid(1))
        other = registry.open_session("other", world.pid(1))
        mine, foreign = registry.add(home, Thing()), registry.add(other, Thing())
        with pytest.raises(SessionMismatchError) as caught:
            registry.release(mine.reference, foreign.reference, session_id="home")
        assert caught.value.ref_id == foreign.reference
        assert caught.value.expected_session == "other"
        assert registry.counts().refs == 2
        assert registry.release(mine.reference, session_id="home") == 1
        assert registry.release(mine.reference, session_id="other") == 0, "nothing was there"
        assert registry.release(foreign.reference) == 1


class TestGiveAway:
    """Rule 8: owners share, and give away."""

    def test_the_receiver_takes_the_giver_s_place(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        registry.give_session("s", world.pid(1), world.pid(2))
        assert world.signals == [
            ("monitor", world.pid(1)),
            ("monitor", world.pid(2)),
            ("demonitor", world.pid(1)),
        ]
        world.down(world.pid(1))
        assert session.ended is None
        world.down(world.pid(2))
        assert session.ended == "owner_down"

    def test_to_one_that_is_an_owner_already(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        registry.open_session("s", world.pid(2))
        registry.give_session("s", world.pid(1), world.pid(2))
        assert list(session.owners) == [world.pid(2)]

    def test_to_oneself(self, world: Any) -> None:
        session = world.registry.ensure_implicit(world.pid(1))
        world.registry.give_session(session.id, world.pid(1), world.pid(1))
        assert list(session.owners) == [world.pid(1)]
        assert world.registry.implicit_session(world.pid(1)) is session
        assert world.signals == [("monitor", world.pid(1))]

    def test_the_giver_keeps_its_other_sessions(self, world: Any) -> None:
        registry = world.registry
        registry.open_session("s", world.pid(1))
        registry.open_session("t", world.pid(1))
        registry.give_session("s", world.pid(1), world.pid(2))
        assert world.monitored == {world.pid(1), world.pid(2)}
        world.down(world.pid(1))
        assert [session.id for session in registry.sessions()] == ["s"]

    def test_from_one_that_is_no_owner(self, world: Any) -> None:
        world.registry.open_session("s", world.pid(1))
        with pytest.raises(InvalidRequestError, match=r"<0\.3\.0> cannot give .* name one of"):
            world.registry.give_session("s", world.pid(3), world.pid(2))
        assert world.monitored == {world.pid(1)}

    def test_a_session_that_is_not_there(self, world: Any) -> None:
        with pytest.raises(SessionNotFoundError):
            world.registry.give_session("s", world.pid(1), world.pid(2))

    def test_the_settings_of_the_first_opener_stay(self, world: Any) -> None:
        registry = world.registry
        first = SessionSettings(max_refs=5, tags={"job": 1})
        registry.open_session("s", world.pid(1), first)
        session = registry.open_session("s", world.pid(2), SessionSettings(max_refs=9))
        assert session.settings is first
        assert (session.max_refs, session.tags) == (5, {"job": 1})

    def test_sessions_without_settings_have_the_defaults(self, make_world: Any) -> None:
        world = make_world(max_refs=3, ttl_seconds=9, on_full="error")
        for session in (
            world.registry.open_session("s", world.pid(1)),
            world.registry.ensure_implicit(world.pid(1)),
        ):
            assert (session.max_refs, session.ttl_seconds, session.on_full) == (3, 9, "error")


class TestUnwinding:
    """Rule 9: what ends is unwound, later, by nobody who waits for something else."""

    def departures(self, world: Any) -> list[tuple[str, Callable[[Any], None]]]:
        registry = world.registry
        expiring = SessionSettings(ttl_seconds=1)
        small = SessionSettings(max_refs=1)

        def evict(obj: Any) -> None:
            session = registry.open_session("evict", world.pid(1), small)
            registry.add(session, obj)
            registry.add(session, None)

        def release(obj: Any) -> None:
            entry = registry.add(registry.open_session("release", world.pid(1)), obj)
            registry.release(entry.reference)

        def expire(obj: Any) -> None:
            registry.add(registry.open_session("expire", world.pid(1), expiring), obj)
            world.now += 2
            registry.expire()

        def end(obj: Any) -> None:
            registry.add(registry.open_session("end", world.pid(1)), obj)
            registry.release_session("end")

        def die(obj: Any) -> None:
            registry.add(registry.open_session("die", world.pid(2)), obj)
            world.down(world.pid(2))

        def discard(obj: Any) -> None:
            registry.discard([registry.add(registry.open_session("d", world.pid(1)), obj)])

        return [(f.__name__, f) for f in (evict, release, expire, end, die, discard)]

    def test_destructors_run_when_deferred_and_without_the_lock(self, world: Any) -> None:
        log: list[str] = []

        def destructor() -> None:
            # Another thread could not look into the registry if this one held the lock.
            thread = threading.Thread(target=lambda: log.append(str(world.registry.counts())))
            thread.start()
            thread.join(10)
            world.registry.release(world.new_reference())

        for name, depart in self.departures(world):
            depart(Destroyed(destructor))
            assert not log, name
            assert world.settle() == 1, name
            assert len(log) == 1, name
            log.clear()

    def test_nothing_waits_for_the_garbage_collector(self, world: Any) -> None:
        ghosts = []
        gc.disable()
        try:
            for name, depart in self.departures(world):
                thing = Thing()
                ghosts.append((name, weakref.ref(thing)))
                depart(thing)
                del thing
                world.settle()
            assert [name for name, ghost in ghosts if ghost() is not None] == []
        finally:
            gc.enable()

    def test_generators_are_closed_and_context_managers_exited_newest_first(
        self, world: Any
    ) -> None:
        log: list[object] = []

        def numbers(name: str) -> Iterator[int]:
            try:
                yield 1
            finally:
                log.append(name)

        class Manager:
            def __enter__(self) -> None: ...

            def __exit__(self, kind: object, *_: object) -> None:
                log.append(kind)

        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        older, newer = numbers("older"), numbers("newer")
        next(older)
        next(newer)
        reference = registry.add(session, older, "stream").reference
        registry.add(session, Manager()).entered += 1
        registry.add(session, Manager())
        registry.add(session, newer, "stream")
        registry.resolve(reference)  # The order of use does not matter.
        world.down(world.pid(1))
        assert log == []
        world.settle()
        assert log == ["newer", GeneratorExit, "older"]

    def test_a_close_that_raises_stops_nothing(
        self, world: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def failing() -> Iterator[int]:
            try:
                yield 1
            finally:
                raise ValueError("on purpose")

        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        thing = Thing()
        ghost = weakref.ref(thing)
        registry.add(session, thing)
        generator = failing()
        next(generator)
        registry.add(session, generator)
        del thing, generator
        registry.release_session("s")
        world.settle()
        assert ghost() is None
        assert "on purpose" in caplog.text
        assert [record.levelno for record in caplog.records] == [logging.ERROR]

    def test_a_destructor_that_uses_the_registry(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        other = registry.add(session, Thing()).reference
        registry.add(session, Destroyed(lambda: registry.release(other)))
        registry.add(session, Destroyed(lambda: registry.open_session("new", world.pid(9))))
        registry.add(session, Destroyed(lambda: registry.release_session("s")))
        registry.release_session("s")
        world.settle()
        assert [session.id for session in registry.sessions()] == ["new"]


class TestEnding:
    """Rule 10: whoever runs the calls of a session hears of its end."""

    def test_it_hears_before_the_objects_are_unwound(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        registry.add(session, Thing())
        heard: list[int] = []
        registry._on_ended = lambda *_: heard.append(len(world.deferred))
        world.down(world.pid(1))
        assert heard == [0]
        assert len(world.deferred) == 1

    def test_it_may_use_the_registry(self, world: Any) -> None:
        registry = world.registry
        registry._on_ended = lambda *_: registry.open_session("new", world.pid(2))
        registry.open_session("s", world.pid(1))
        registry.release_session("s")
        assert [session.id for session in registry.sessions()] == ["new"]

    def test_when_it_fails_the_objects_go_nevertheless(
        self, world: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(session: object, reason: object) -> None:
            raise ValueError("on purpose")

        registry = world.registry
        registry._on_ended = fail
        for name in "ab":
            registry.add(registry.open_session(name, world.pid(1)), Thing())
        world.down(world.pid(1))
        assert world.settle() == 2
        assert len(caplog.records) == 2

    def test_nobody_need_hear(self, world: Any) -> None:
        world.registry._on_ended = None
        world.registry.open_session("s", world.pid(1))
        assert world.registry.release_session("s") == 0


class TestDiscard:
    """A reply that could not be sent leaks no ref."""

    def test_as_if_it_had_not_been(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        entries = [registry.add(session, Thing()) for _ in range(3)]
        registry.release(entries[0].reference)
        registry.discard(entries)
        registry.discard(entries)
        assert registry.counts() == (1, 0, 1)
        assert reason_of(world, entries[0].reference)[0] == "released"
        assert reason_of(world, entries[1].reference)[0] == "unknown"

    def test_after_the_end_of_the_session(self, world: Any) -> None:
        registry = world.registry
        entries = [registry.add(registry.open_session("s", world.pid(1)), Thing())]
        world.down(world.pid(1))
        registry.discard(entries)
        assert world.settle() == 1
        assert reason_of(world, entries[0].reference)[0] == "owner_down"


class TestVisibility:
    """Rule 12: everything is visible."""

    def test_what_a_session_tells(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1), SessionSettings(tags={"a": 1}))
        assert (session.id, session.created_at, session.last_used) == ("s", 1735707045, 1735707045)
        assert (session.running, session.tags) == (0, {"a": 1})
        world.now += 10
        entry = registry.add(session, Thing())
        assert (session.refs, session.created_at, session.last_used) == (1, 1735707045, 1735707055)
        assert (entry.created_at, entry.last_used) == (1735707055, 1735707055)
        world.now += 10
        registry.resolve(entry.reference)
        assert (entry.created_at, entry.last_used) == (1735707055, 1735707065)
        assert session.last_used == 1735707065
        assert repr(entry) == "<Entry ref Thing in s>"
        assert repr(session) == "<Session s 1 refs>"
        registry.release_session("s")
        assert repr(session) == "<Session s ended: session_released>"

    def test_the_session_of_a_ref_is_told_without_using_it(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        entry = registry.add(session, Thing())
        world.now += 10
        assert registry.session_of(entry.reference) is session
        assert entry.last_used == 1735707045
        assert registry.session_of(world.new_reference()) is None
        assert registry.session_of(Reference(Atom("ex@host"), 1, entry.reference.ids)) is None

    def test_refs_are_listed_newest_last(self, world: Any) -> None:
        registry = world.registry
        session = registry.open_session("s", world.pid(1))
        kinds = ("ref", "exception", "stream", "ref")
        entries = [registry.add(session, Thing(), kind) for kind in kinds]
        registry.resolve(entries[0].reference)
        assert registry.refs("s") == entries
        assert tuple(entry.kind for entry in entries) == kinds
        with pytest.raises(SessionNotFoundError):
            registry.refs("t")

    def test_counts(self, world: Any) -> None:
        registry = world.registry
        assert registry.counts() == (0, 0, 0)
        for number in range(3):
            session = registry.open_session(f"s{number % 2}", world.pid(number))
            registry.add(session, Thing())
        counts = registry.counts()
        assert (counts.sessions, counts.refs, counts.owners) == (2, 3, 3)
        assert [session.id for session in registry.sessions()] == ["s0", "s1"]
        assert registry.owners() == [world.pid(number) for number in range(3)]


def test_a_monitor_that_was_taken_back_does_not_end_a_later_session(world: Any) -> None:
    owner = world.pid(1)
    world.registry.open_session("s", owner)
    world.registry.owner_down(owner, lambda: False)
    assert world.registry.find("s") is not None
    world.monitored.discard(owner)
    world.registry.owner_down(owner, lambda: True)
    assert world.registry.find("s") is None
