"""The registry against a model of the lifecycle that is simple enough to be seen to be right.

The model keeps everything in plain lists and looks through them; it knows no links, no keys and no
locks. After each step both must agree on all that can be asked, and the registry with itself:
nothing lives without an owner that is monitored or absent, nothing with one is gone but for the
stated reasons, no monitor is left over, counts agree, and weak references show that Python has
freed what is gone. Owners live on two nodes, which are lost, come back and are started again.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pynode import config
from pynode.errors import (
    InvalidRequestError,
    RefNotFoundError,
    SessionFullError,
    SessionMismatchError,
    SessionNotFoundError,
)
from pynode.objects import SessionSettings

if TYPE_CHECKING:
    from pynode.terms import Pid, Reference

EXCEPTIONS = 2


class Thing:
    """Records that it is exited."""

    def __init__(self, exits: list[int], number: int) -> None:
        self.exits = exits
        self.number = number

    def __exit__(self, *_: object) -> None:
        self.exits.append(self.number)


@dataclass
class Ref:
    number: int
    reference: Reference
    ghost: weakref.ref[Thing]
    kind: str
    used: float
    entered: bool = False


@dataclass
class Session:
    name: str
    settings: SessionSettings
    owners: list[Pid]
    running: bool = False
    #: In the order of use.
    refs: list[Ref] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Ref]:
        return [ref for ref in self.refs if (ref.kind == "exception") == (kind == "exception")]


NAMES = st.sampled_from(["a", "b"])
#: Owners: 0 and 1 live on one node, 2 and 3 on the other.
NUMBERS = st.integers(0, 3)
NODES = st.sampled_from(["one@host", "two@host"])
INDEXES = st.integers(0, 30)
SETTINGS = st.builds(
    SessionSettings,
    ttl_seconds=st.sampled_from([0, 5, 10]),
    max_refs=st.sampled_from([0, 1, 2, 3]),
    on_full=st.sampled_from(["evict", "error"]),
    grace_seconds=st.sampled_from([0, 0, 5, 10]),
)


class Lifecycle(RuleBasedStateMachine):
    make_world: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self.world = self.make_world()
        self.registry = self.world.registry
        self.sessions: list[Session] = []
        self.implicit: dict[Pid, str] = {}
        self.creations = {"one@host": 7, "two@host": 7}
        #: Owners whose node is lost, since when; and those of them that have died since.
        self.absent: dict[Pid, float] = {}
        self.dead: set[Pid] = set()
        #: Everything that ever was, with the reason if it is gone.
        self.gone: dict[Reference, tuple[Ref, str]] = {}
        self.ended: list[tuple[str, str]] = []
        self.exits: list[int] = []
        self.made = 0

    # --- the model

    def pid(self, number: int) -> Pid:
        node = "one@host" if number < 2 else "two@host"
        pid: Pid = self.world.pid(number, node, self.creations[node])
        return pid

    def owners(self) -> set[Pid]:
        return {owner for session in self.sessions for owner in session.owners}

    def join(self, session: Session, owner: Pid) -> None:
        """Who joins can be reached."""
        if owner in session.owners:
            return
        session.owners.append(owner)
        if self.absent.pop(owner, None) is not None and owner in self.dead:
            self.dead.remove(owner)
            self.world.down(owner)  # noproc
            self.part_with_all(owner)

    def part(self, session: Session, owner: Pid, reason: str = "owner_down") -> None:
        session.owners.remove(owner)
        if self.implicit.get(owner) == session.name:
            del self.implicit[owner]
        if not session.owners:
            self.end(session, reason)
        self.forget_the_absent()

    def part_with_all(self, owner: Pid) -> None:
        for session in list(self.sessions):
            if owner in session.owners:
                self.part(session, owner)

    def forget_the_absent(self) -> None:
        """Who owns nothing any more is not waited for."""
        owners = self.owners()
        self.absent = {pid: since for pid, since in self.absent.items() if pid in owners}
        self.dead &= set(self.absent)

    def find(self, name: str) -> Session | None:
        return next((session for session in self.sessions if session.name == name), None)

    def all_refs(self) -> list[tuple[Session, Ref]]:
        return [(session, ref) for session in self.sessions for ref in session.refs]

    def leave(self, session: Session, ref: Ref, reason: str) -> None:
        session.refs.remove(ref)
        self.gone[ref.reference] = ref, reason

    def end(self, session: Session, reason: str) -> None:
        for ref in list(session.refs):
            self.leave(session, ref, reason)
        self.sessions.remove(session)
        self.ended.append((session.name, reason))
        self.implicit = {pid: name for pid, name in self.implicit.items() if name != session.name}
        self.forget_the_absent()

    def use(self, session: Session, ref: Ref) -> None:
        ref.used = self.world.now
        session.refs.remove(ref)
        session.refs.append(ref)

    def pick(self, index: int) -> tuple[Session | None, Any]:
        """Return a ref of any age, with its session if it lives."""
        everything: list[tuple[Session | None, Ref]] = list(self.all_refs())
        # There are more and more of those that are gone, and they teach less.
        if not everything or index % 4 == 0:
            everything += [(None, ref) for ref, _ in self.gone.values()]
        if not everything:
            return None, None
        return everything[index % len(everything)]

    # --- what may happen

    @initialize(chosen=SETTINGS)
    def open_the_first(self, chosen: SessionSettings) -> None:
        self.open("a", 0, chosen)

    @rule(name=NAMES, number=NUMBERS, chosen=SETTINGS)
    def open(self, name: str, number: int, chosen: SessionSettings) -> None:
        owner = self.pid(number)
        opened = self.registry.open_session(name, owner, chosen)
        session = self.find(name)
        assert opened.id == name
        if session is None:
            session = Session(name, chosen, [])
            self.sessions.append(session)
        self.join(session, owner)

    @rule(number=NUMBERS)
    def open_implicit(self, number: int) -> None:
        owner = self.pid(number)
        opened = self.registry.ensure_implicit(owner)
        if owner in self.implicit:
            assert opened.id == self.implicit[owner]
        else:
            assert self.find(opened.id) is None
            assert opened.id not in dict(self.ended)
            self.implicit[owner] = opened.id
            self.sessions.append(Session(opened.id, self.registry.defaults, []))
            self.join(self.sessions[-1], owner)

    @precondition(lambda self: self.sessions)
    @rule(
        index=INDEXES,
        kind=st.sampled_from(["ref", "exception"]),
        used=st.lists(INDEXES, min_size=2, max_size=8),
    )
    def add_some_and_use_others(self, index: int, kind: str, used: list[int]) -> None:
        session = self.sessions[index % len(self.sessions)]
        for other in used:
            self.add_one(session, kind)
            ref = session.refs[other % len(session.refs)]
            assert self.registry.resolve(ref.reference).obj is ref.ghost()
            self.use(session, ref)

    @precondition(lambda self: self.sessions)
    @rule(
        index=INDEXES,
        kind=st.sampled_from(["ref", "ref", "stream", "exception"]),
        entered=st.booleans(),
        rolled_back=st.booleans(),
    )
    def add(self, index: int, kind: str, entered: bool, rolled_back: bool) -> None:
        session = self.sessions[index % len(self.sessions)]
        entry = self.add_one(session, kind)
        if entry is not None:
            entry.entered = int(entered)
            session.refs[-1].entered = entered
            if rolled_back:
                self.registry.discard([entry])
                self.leave(session, session.refs[-1], "unknown")

    def add_one(self, session: Session, kind: str) -> Any:
        self.made += 1
        thing = Thing(self.exits, self.made)
        mates = session.of_kind(kind)
        limit = EXCEPTIONS if kind == "exception" else session.settings.max_refs
        full = limit and len(mates) == limit
        real = self.registry.session(session.name)
        if full and kind != "exception" and session.settings.on_full == "error":
            with pytest.raises(SessionFullError):
                self.registry.add(real, thing, kind)
            return None
        entry = self.registry.add(real, thing, kind)
        reference = entry.reference
        assert all(reference != other.reference for _, other in self.all_refs())
        if full:
            self.leave(session, mates[0], "evicted")
        session.refs.append(Ref(self.made, reference, weakref.ref(thing), kind, self.world.now))
        return entry

    @rule(index=INDEXES, under=st.one_of(st.none(), NAMES))
    def resolve(self, index: int, under: str | None) -> None:
        session, ref = self.pick(index)
        if ref is None:
            return
        if session is None:
            with pytest.raises(RefNotFoundError) as missing:
                self.registry.resolve(ref.reference, session_id=under)
            assert missing.value.reason == self.gone[ref.reference][1]
        elif under not in {None, session.name}:
            with pytest.raises(SessionMismatchError) as mismatch:
                self.registry.resolve(ref.reference, session_id=under)
            assert mismatch.value.expected_session == session.name
        else:
            entry = self.registry.resolve(ref.reference, session_id=under)
            assert entry.obj is ref.ghost()
            assert entry.session.id == session.name
            self.use(session, ref)

    @rule(indexes=st.lists(INDEXES, max_size=4), under=st.one_of(st.none(), NAMES))
    def release(self, indexes: list[int], under: str | None) -> None:
        picked = [(session, ref) for session, ref in map(self.pick, indexes) if ref is not None]
        references = [ref.reference for _, ref in picked]
        if under and any(session and session.name != under for session, _ in picked):
            with pytest.raises(SessionMismatchError):
                self.registry.release(*references, session_id=under)
            return
        count = 0
        for session, ref in picked:
            if session is not None and ref in session.refs:
                self.leave(session, ref, "released")
                count += 1
        assert self.registry.release(*references, session_id=under) == count

    @rule(index=INDEXES)
    def release_session(self, index: int) -> None:
        names = ["a", "b", *(session.name for session in self.sessions)]
        name = names[index % len(names)]
        session = self.find(name)
        count = 0 if session is None else len(session.refs)
        if session is not None:
            self.end(session, "session_released")
        assert self.registry.release_session(name) == count

    @rule(index=INDEXES, giver=NUMBERS, receiver=NUMBERS)
    def give(self, index: int, giver: int, receiver: int) -> None:
        names = ["a", "b", *(session.name for session in self.sessions)]
        name = names[index % len(names)]
        session = self.find(name)
        old, new = self.pid(giver), self.pid(receiver)
        if session is None or old not in session.owners:
            expected = SessionNotFoundError if session is None else InvalidRequestError
            with pytest.raises(expected):
                self.registry.give_session(name, old, new)
            return
        self.registry.give_session(name, old, new)
        if old != new:
            session.owners.remove(old)
            if self.implicit.get(old) == name:
                del self.implicit[old]
            self.forget_the_absent()
            self.join(session, new)

    @rule(name=NAMES, number=NUMBERS)
    def add_an_owner(self, name: str, number: int) -> None:
        session = self.find(name)
        if session is None:
            with pytest.raises(SessionNotFoundError):
                self.registry.add_owner(name, self.pid(number))
        else:
            self.registry.add_owner(name, self.pid(number))
            self.join(session, self.pid(number))

    @rule(name=NAMES, number=NUMBERS)
    def remove_an_owner(self, name: str, number: int) -> None:
        session, owner = self.find(name), self.pid(number)
        self.registry.remove_owner(name, owner)
        if session is not None and owner in session.owners:
            self.part(session, owner, "session_released")

    @rule(number=NUMBERS)
    def die(self, number: int) -> None:
        owner = self.pid(number)
        if owner in self.absent:
            self.dead.add(owner)  # nobody hears of it
            return
        self.world.down(owner)
        self.part_with_all(owner)

    @rule(node=NODES)
    def lose_a_node(self, node: str) -> None:
        for owner in sorted(self.world.monitored, key=str):
            if owner.node == node:
                self.world.lose(owner)
                if any(owner in s.owners and s.settings.grace_seconds for s in self.sessions):
                    self.absent[owner] = self.world.now
                for session in list(self.sessions):
                    if owner in session.owners and not session.settings.grace_seconds:
                        self.part(session, owner)

    @rule(node=NODES)
    def find_a_node_again(self, node: str) -> None:
        self.registry.node_up(node, self.creations[node])
        for owner in [owner for owner in self.absent if owner.node == node]:
            dead = owner in self.dead
            del self.absent[owner]
            if dead:
                self.world.down(owner)  # noproc
                self.part_with_all(owner)
        self.forget_the_absent()

    @rule(node=NODES)
    def start_a_node_again(self, node: str) -> None:
        self.lose_a_node(node)
        self.creations[node] += 1
        self.registry.node_up(node, self.creations[node])
        for owner in [owner for owner in self.absent if owner.node == node]:
            self.part_with_all(owner)

    @precondition(lambda self: self.sessions)
    @rule(index=INDEXES)
    def run_or_finish_a_call(self, index: int) -> None:
        session = self.sessions[index % len(self.sessions)]
        session.running = not session.running
        self.registry.session(session.name).running = int(session.running)

    @rule(seconds=st.sampled_from([1, 4, 10]))
    def wait(self, seconds: int) -> None:
        self.world.now += seconds

    @rule()
    def expire(self) -> None:
        # Creation times may be later than the clock, by the little that keeps them apart.
        self.world.now += 0.001
        for owner, since in list(self.absent.items()):
            for session in list(self.sessions):
                grace = session.settings.grace_seconds
                if owner in session.owners and self.world.now - since >= grace:
                    self.part(session, owner)
        count = 0
        for session, ref in self.all_refs():
            ttl = session.settings.ttl_seconds
            if ttl and not session.running and self.world.now - ref.used >= ttl:
                self.leave(session, ref, "expired")
                count += 1
        assert self.registry.expire() == count
        assert self.registry.expire() == 0

    @rule()
    def unwind(self) -> None:
        self.world.settle()

    # --- what must be true

    @invariant()
    def registry_agrees_with_itself(self) -> None:
        self.world.check()

    @invariant()
    def registry_agrees_with_the_model(self) -> None:
        assert {session.name for session in self.sessions} == {
            session.id for session in self.registry.sessions()
        }
        for session in self.sessions:
            real = self.registry.session(session.name)
            assert list(real.owners) == session.owners
            assert real.settings == session.settings
            assert real.refs == len(session.refs)
            by_age = sorted(session.refs, key=lambda ref: ref.number)
            listed = self.registry.refs(session.name)
            assert [entry.reference for entry in listed] == [ref.reference for ref in by_age]
            assert all(ref.ghost() is entry.obj for ref, entry in zip(by_age, listed, strict=True))
        for number in range(4):
            owner = self.pid(number)
            implicit = self.registry.implicit_session(owner)
            assert (implicit and implicit.id) == self.implicit.get(owner)

    @invariant()
    def who_owns_is_monitored_or_absent_and_nobody_else(self) -> None:
        owners = self.owners()
        assert set(self.registry.absent()) == set(self.absent)
        assert self.world.monitored == owners - set(self.absent)
        assert self.registry.counts() == (len(self.sessions), len(self.all_refs()), len(owners))

    @invariant()
    def next_expiry_is_when_something_is_due(self) -> None:
        due = [
            (self.world.now if session.running else ref.used) + session.settings.ttl_seconds
            for session, ref in self.all_refs()
            if session.settings.ttl_seconds
        ]
        due += [
            since + session.settings.grace_seconds
            for owner, since in self.absent.items()
            for session in self.sessions
            if owner in session.owners
        ]
        expected = max(0.0, min(due) - self.world.now) if due else None
        assert self.registry.next_expiry() == pytest.approx(expected, abs=1e-6)

    @invariant()
    def what_has_left_is_freed_when_it_has_been_unwound(self) -> None:
        if not self.world.deferred:
            gone = [ref for ref, _ in self.gone.values()]
            assert [ref.number for ref in gone if ref.ghost() is not None] == []
            assert sorted(self.exits) == sorted(ref.number for ref in gone if ref.entered)

    @invariant()
    def the_ended_are_told_once(self) -> None:
        assert sorted(self.world.ended) == sorted(self.ended)

    def teardown(self) -> None:
        for node in self.creations:
            self.find_a_node_again(node)
        for number in range(4):
            self.die(number)
        assert self.registry.counts() == (0, 0, 0)
        assert self.world.monitored == set()
        self.world.settle()
        self.what_has_left_is_freed_when_it_has_been_unwound()
        for ref, reason in self.gone.values():
            with pytest.raises(RefNotFoundError) as missing:
                self.registry.resolve(ref.reference)
            assert missing.value.reason == reason


@pytest.mark.slow
def test_lifecycle(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "EXCEPTIONS_PER_SESSION", EXCEPTIONS)
    monkeypatch.setattr(Lifecycle, "make_world", make_world, raising=False)
    run_state_machine_as_test(
        Lifecycle,
        settings=settings(max_examples=300, stateful_step_count=60, deadline=None),
    )
