"""The registry: which objects a node holds, for whom, and when they go.

Theory of operation. There are three indexes: sessions by name, entries by the key of their
reference, and owners, each with the sessions that it keeps alive. An owner whose node is lost is
*absent* for as long as its sessions' grace_seconds say, and cannot be monitored then. Every
operation changes the indexes in one critical section, so that in any order of events each of these
holds:

- a session is there if and only if it has at least one owner;
- an entry is there if and only if its session is;
- a pid is monitored, once, if and only if it owns a session and is not absent.

What leaves is moved to a list, and that is unwound by a deferred function after the lock is
released (see `unwind`). Nothing of the user's runs under the lock. No local variable of this
module names an entry that leaves: it would be the last reference to the object, and a slow
destructor would run on the thread of whoever made it leave.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pynode import config
from pynode.errors import (
    InvalidRequestError,
    RefNotFoundError,
    SessionFullError,
    SessionMismatchError,
)
from pynode.objects.departed import (
    EVICTED,
    EXPIRED,
    NODE_RESTARTED,
    OWNER_DOWN,
    RELEASED,
    SESSION_RELEASED,
    UNKNOWN,
    Departed,
    ref_not_found,
    session_not_found,
)
from pynode.objects.guard import Guard
from pynode.objects.origin import Origin
from pynode.objects.session import Entry, Kind, Session
from pynode.objects.settings import SessionSettings
from pynode.objects.unwind import Dropping, Unwinding

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from pynode.terms import Pid, Reference

_log = logging.getLogger(__name__)

#: Entries that are held while they are looked at: more would keep objects longer.
_AT_ONCE = 256


class Counts(NamedTuple):
    """How much there is of everything."""

    sessions: int
    refs: int
    owners: int


class Registry:
    """All sessions of one node. Every method may be called from any thread.

    `new_reference` mints a reference of this node, unique within its incarnation.

    `monitor` and `demonitor` are called under the registry's lock, in the order in which things
    happen: `monitor` once for each pid that becomes an owner, `demonitor` once when it no longer
    is one and lives on. They may only make a note to send something: they neither block nor call
    the registry. When `monitor` raises, so does the operation, and nothing has changed;
    `demonitor` does not raise. Whatever becomes of a monitored pid is reported with `owner_down`
    (its end, or noproc) or `owner_lost` (noconnection), afterwards, from any thread, but not while
    holding a lock that `monitor` takes. A monitor that was taken back must report nothing, as with
    `demonitor(Ref, [flush])`; see `owner_down`. That a node is there again is reported with
    `node_up`.

    `defer` is given functions to be run soon, on another thread, in any order: what is left to do
    for objects of one session. They run destructors and other code of the user's, and do not
    raise. `ended` is told about each session that has ended and why, before its objects are
    unwound, so that calls which run in it can be interrupted. Neither is called under the lock, and
    `defer` does not raise.

    `defaults` are the settings of sessions that are opened without any. `clock` counts seconds,
    `wall_clock` Unix seconds.
    """

    def __init__(
        self,
        *,
        new_reference: Callable[[], Reference],
        monitor: Callable[[Pid], None],
        demonitor: Callable[[Pid], None],
        defer: Callable[[Unwinding], None],
        ended: Callable[[Session, str], None] | None = None,
        defaults: SessionSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.defaults = defaults or SessionSettings()
        self._origin = Origin(new_reference, clock, wall_clock)
        self._monitor = monitor
        self._demonitor = demonitor
        self._defer = defer
        self._on_ended = ended
        self._clock = clock
        self._wall_clock = wall_clock
        self._guard = Guard()
        self._sessions: dict[str, Session] = {}
        self._entries: dict[int, Entry] = {}
        # The sessions of each owner, in the order in which it joined them.
        self._owners: dict[Pid, dict[Session, None]] = {}
        # The owners whose node is lost, and since when.
        self._absent: dict[Pid, float] = {}
        self._implicit: dict[Pid, Session] = {}
        # Sessions with a ttl_seconds: the only ones that `expire` looks at.
        self._expiring: dict[Session, None] = {}
        self._departed = Departed()
        self._last_created = -math.inf

    # --- sessions ---

    def open_session(
        self, session_id: str, owner: Pid, settings: SessionSettings | None = None
    ) -> Session:
        """Open a session, or join the living one of this name as a co-owner.

        Who joins leaves the settings as they are. A session that has ended may be opened again:
        it is a new one, and refs of the old one stay gone.
        """
        with self._guard:
            session = self._sessions.get(session_id)
            if session is None:
                session = self._open(session_id, owner, settings or self.defaults)
            else:
                self._join(session, owner)
        return session

    def implicit_session(self, owner: Pid) -> Session | None:
        """Return the owner's implicit session if it has one."""
        return self._implicit.get(owner)

    def ensure_implicit(self, owner: Pid) -> Session:
        """Return the owner's implicit session; it is opened if there is none."""
        with self._guard:
            session = self._implicit.get(owner)
            if session is None:
                session = self._open(self._implicit_id(owner), owner, self.defaults)
                session.lane = owner
                self._implicit[owner] = session
        return session

    def find(self, session_id: str) -> Session | None:
        """Return the living session of this name if there is one."""
        return self._sessions.get(session_id)

    def session(self, session_id: str) -> Session:
        """Return the living session of this name, or raise SessionNotFoundError with the reason."""
        session = self._sessions.get(session_id)
        if session is None:
            with self._guard:
                session = self._living(session_id)
        return session

    def add_owner(self, session_id: str, owner: Pid) -> None:
        """Make `owner` one more owner of the living session of this name.

        Raises SessionNotFoundError with the reason.
        """
        with self._guard:
            self._join(self._living(session_id), owner)

    def remove_owner(self, session_id: str, owner: Pid) -> None:
        """Go on without this owner; a session whose last owner leaves is released.

        It is no error if it owns no session of this name. An owner whose implicit session it was
        gets a new one with its next object.
        """
        with self._guard:
            session = self._sessions.get(session_id)
            leaving = None
            if session is not None and owner in session.owners:
                if len(session.owners) == 1:
                    leaving = self._end(session, SESSION_RELEASED)
                else:
                    self._part(session, owner)
        if session is not None and leaving is not None:
            self._farewell(session, SESSION_RELEASED, leaving)

    def give_session(self, session_id: str, giver: Pid, receiver: Pid) -> None:
        """Make `receiver` an owner in the place of `giver`, as `ets:give_away/3` does.

        A receiver that is an owner already stays one. A giver whose implicit session it was gets
        a new one with its next object. Raises SessionNotFoundError, and InvalidRequestError when
        `giver` is no owner.
        """
        with self._guard:
            session = self._living(session_id)
            is_owner = giver in session.owners
            if is_owner and giver != receiver:
                self._join(session, receiver)
                self._part(session, giver)
        if not is_owner:
            raise InvalidRequestError(
                f"{giver} cannot give session {session_id} away because it is not an owner of it: "
                "name one of its owners as the giver.",
                reason="not_owner",
            )

    def release_session(self, session_id: str, reason: str = SESSION_RELEASED) -> int:
        """End a session for all its owners; return how many refs ended with it.

        That is 0 also when there is no such session.
        """
        with self._guard:
            session = self._sessions.get(session_id)
            leaving = self._end(session, reason) if session else []
        # `leaving` is emptied on another thread from here on.
        count = len(leaving)
        if session is not None:
            self._farewell(session, reason, leaving)
        return count

    def owner_down(self, pid: Pid, confirm: Callable[[], bool] | None = None) -> None:
        """Note that an owner is gone, and end the sessions whose last owner it was.

        Its monitor is taken to be gone as well. An unknown pid is ignored, also one that was
        reported before. `confirm`, called under the lock, returns whether the monitor that has
        fired is still the one that this owner has; if not, it was taken back, and is ignored.
        """
        with self._guard:
            if confirm is not None and not confirm():
                return
            ended = self._without(pid, list(self._owners.get(pid, ())))
        self._farewells(ended)

    def owner_lost(self, pid: Pid, confirm: Callable[[], bool] | None = None) -> None:
        """Note that the node of an owner is lost, so that nobody knows what has become of it.

        It is absent from now on for the sessions that have a grace period, and gone for the
        others. For the rest see `owner_down`.
        """
        with self._guard:
            if confirm is not None and not confirm():
                return
            sessions = self._owners.get(pid, ())
            ended = self._without(pid, [one for one in sessions if not one.grace_seconds])
            if pid in self._owners:
                self._absent[pid] = self._clock()
        self._farewells(ended)

    def node_up(self, node: str, creation: int) -> None:
        """Note that this incarnation of a node is there.

        Its absent owners are monitored again, which tells whether they still live. Those of
        another incarnation are gone.
        """
        ended = []
        with self._guard:
            for pid in [pid for pid in self._absent if pid.node == node]:
                if pid.creation == creation:
                    self._monitor(pid)
                    del self._absent[pid]
                else:
                    ended += self._without(pid, list(self._owners[pid]))
        self._farewells(ended)

    # --- refs ---

    def add(self, session: Session, obj: Any, kind: Kind = "ref") -> Entry:
        """Put an object into a session and return its entry, whose `reference` stands for it.

        Raises SessionNotFoundError when the session has ended, SessionFullError when it is full
        and was opened with on_full="error". With "evict" the least recently used ref leaves.
        Exceptions do not count here: of those a session keeps the EXCEPTIONS_PER_SESSION that
        were used last.
        """
        key = self._origin.mint()
        leaving: list[Entry] = []
        entry = None
        with self._guard:
            if session.ended is None:
                usage = session.usage(kind)
                limit = config.EXCEPTIONS_PER_SESSION if kind == "exception" else session.max_refs
                full = 0 < limit <= usage.count
                if not full or kind == "exception" or session.on_full == "evict":
                    if full and usage.oldest is not None:
                        leaving.append(self._take(usage.oldest.key, EVICTED))
                    entry = Entry(obj, session, key, kind, self._creation_time())
                    self._entries[key] = entry
                    usage.append(entry)
                    session.used = entry.created
        self._unwind_later(session, leaving)
        if entry is not None:
            return entry
        if session.ended is not None:
            raise session_not_found(session.id, session.ended)
        raise SessionFullError(
            f"Session {session.id} holds {session.max_refs} refs, which is its max_refs: release "
            "refs that are no longer needed, or open the session with a greater max_refs.",
            session_id=session.id,
            max_refs=session.max_refs,
        )

    def resolve(self, reference: Reference, *, session_id: str | None = None) -> Entry:
        """Return the entry that a reference stands for, and count it as used now.

        With a `session_id` it must be in that session, or SessionMismatchError is raised. Raises
        RefNotFoundError with the reason when it is not there.
        """
        key = self._origin.key(reference)
        home = None
        if key is not None:
            with self._guard:
                entry = self._entries.get(key)
                if entry is not None:
                    home = entry.session.id
                    if session_id is None or session_id == home:
                        self._use(entry)
                        return entry
                    # The error's traceback must not keep the object.
                    entry = None
        if home is None or session_id is None:
            raise self._not_found(reference, key)
        raise _mismatch(reference, home, session_id)

    def session_of(self, reference: Reference) -> Session | None:
        """Return the session that a reference's entry is in, if it is there; counts as no use."""
        key = self._origin.key(reference)
        entry = None if key is None else self._entries.get(key)
        return None if entry is None else entry.session

    def touch(self, entry: Entry) -> None:
        """Count an entry as used now, as after a call that took long; one that left stays gone."""
        with self._guard:
            if entry.key in self._entries:
                self._use(entry)

    def release(self, *references: Reference, session_id: str | None = None) -> int:
        """Let go of these objects; return how many of them were there.

        With a `session_id`, when any of them is in another session, SessionMismatchError is
        raised and none is released.
        """
        keys = [key for key in map(self._origin.key, references) if key is not None]
        leaving: dict[Session, list[Entry]] = {}
        with self._guard:
            stranger = None if session_id is None else self._first_elsewhere(keys, session_id)
            if stranger is None:
                leaving = self._take_all(keys, RELEASED)
        if stranger is not None and session_id is not None:
            key, home = stranger
            raise _mismatch(self._origin.reference(key), home, session_id)
        count = sum(map(len, leaving.values()))
        self._unwind_all_later(leaving)
        return count

    def count_entered(self, entry: Entry, entering: tuple[str, int]) -> None:
        """Note that an object was entered as a context manager, or exited: one of `ENTERED`.

        One that has left meanwhile, and was unwound, is exited again.
        """
        attribute, change = entering
        late = None
        with self._guard:
            if entry.key in self._entries:
                setattr(entry, attribute, max(0, getattr(entry, attribute) + change))
            elif change > 0:
                late = Entry(entry.obj, entry.session, entry.key, entry.kind, entry.created)
                setattr(late, attribute, 1)
        if late is not None:
            self._unwind_later(entry.session, [late])

    def discard(self, entries: Collection[Entry]) -> None:
        """Take back entries whose references nobody was given, as if they had not been added.

        The refs that were evicted to make room for them do not come back.
        """
        with self._guard:
            leaving = self._take_all([entry.key for entry in entries], None)
        self._unwind_all_later(leaving)

    def expire(self) -> int:
        """Let go of what was not used for its session's ttl_seconds; return how many refs it was.

        Nothing expires in a session while it runs a call. Owners that were absent for a session's
        grace_seconds are gone for it.
        """
        expired: dict[Session, list[Entry]] = {}
        ended = []
        with self._guard:
            now = self._clock()
            for pid, since in list(self._absent.items()):
                overdue = [one for one in self._owners[pid] if since + one.grace_seconds <= now]
                ended += self._without(pid, overdue)
            for session in self._expiring:
                if not session.running:
                    keys = session.overdue(now)
                    expired |= self._take_all(keys, EXPIRED)
        count = sum(map(len, expired.values()))
        self._farewells(ended)
        self._unwind_all_later(expired)
        return count

    def next_expiry(self) -> float | None:
        """Return in how many seconds `expire` may have something to do; None when it will not.

        What happens from now on may be due sooner.
        """
        with self._guard:
            now = self._clock()
            due = [
                (now if session.running else used) + session.ttl_seconds
                for session in self._expiring
                if (used := session.least_recent_use()) is not None
            ]
            for pid, since in self._absent.items():
                due += [since + session.grace_seconds for session in self._owners[pid]]
        return max(0.0, min(due) - now) if due else None

    # --- what there is ---

    def sessions(self) -> list[Session]:
        """Return the living sessions, in the order in which they were opened."""
        with self._guard:
            return list(self._sessions.values())

    def refs(self, session_id: str) -> list[Entry]:
        """Return the entries of a session, newest last, or raise SessionNotFoundError.

        Whoever keeps an entry keeps its object.
        """
        session = self.session(session_id)
        with self._guard:
            entries = [*session.objects, *session.exceptions]
        return sorted(entries, key=_created)

    def visit(self, look: Callable[[list[Entry]], None], session: Session | None = None) -> None:
        """Show all entries, or those of one session, to `look`: a few at a time, oldest first.

        `look` is called without the lock, and must not keep an entry. Those are shown that were
        there at the start and still are. What leaves meanwhile is not dropped here, but by a
        deferred function, as always.
        """
        with self._guard:
            keys = list(self._entries) if session is None else session.keys()
        for start in range(0, len(keys), _AT_ONCE):
            with self._guard:
                entries = self._entries
                shown = [entries[key] for key in keys[start : start + _AT_ONCE] if key in entries]
            try:
                look(shown)
            finally:
                with self._guard:
                    left: dict[Session, list[Entry]] = {}
                    while shown:
                        if shown[-1].key in self._entries:
                            shown.pop()
                        else:
                            left.setdefault(shown[-1].session, []).append(shown.pop())
                for session_left, entries_left in left.items():
                    self._defer(Dropping(session_left, entries_left))

    def owners(self) -> list[Pid]:
        """Return the owners of all sessions: the pids that are monitored, and the absent ones."""
        with self._guard:
            return list(self._owners)

    def absent(self) -> list[Pid]:
        """Return the owners whose node is lost."""
        with self._guard:
            return list(self._absent)

    def is_absent(self, owner: Pid) -> bool:
        """Whether an owner's node is lost."""
        return owner in self._absent

    def counts(self) -> Counts:
        """Return how many sessions, refs and owners there are."""
        with self._guard:
            return Counts(len(self._sessions), len(self._entries), len(self._owners))

    # --- under the lock ---

    def _living(self, session_id: str) -> Session:
        """Return the living session of this name; see `session`."""
        session = self._sessions.get(session_id)
        if session is None:
            raise session_not_found(session_id, self._departed.why_session(session_id))
        return session

    def _open(self, session_id: str, owner: Pid, settings: SessionSettings) -> Session:
        session = Session(session_id, settings, self._origin, self._clock())
        self._join(session, owner)
        self._sessions[session_id] = session
        if session.ttl_seconds:
            self._expiring[session] = None
        return session

    def _join(self, session: Session, owner: Pid) -> None:
        if owner in session.owners:
            return
        if owner not in self._owners or owner in self._absent:
            # First, because it may raise. Who joins can be reached, so it is not absent any more.
            self._monitor(owner)
            self._absent.pop(owner, None)
        self._owners.setdefault(owner, {})[session] = None
        session.owners[owner] = None

    def _part(self, session: Session, owner: Pid) -> None:
        """Undo `_join`."""
        self._disown(session, owner)
        sessions = self._owners[owner]
        del sessions[session]
        if not sessions:
            del self._owners[owner]
            if self._absent.pop(owner, None) is None:
                self._demonitor(owner)

    def _without(self, owner: Pid, sessions: list[Session]) -> list[tuple[Session, list[Entry]]]:
        """Go on without an owner of these sessions that is not monitored any more.

        Returns those that have ended with that, and what was in them.
        """
        ended = []
        remaining = self._owners.get(owner, {})
        for session in sessions:
            self._disown(session, owner)
            del remaining[session]
            if not session.owners:
                ended.append((session, self._end(session, OWNER_DOWN)))
        if not remaining:
            self._owners.pop(owner, None)
            self._absent.pop(owner, None)
        return ended

    def _disown(self, session: Session, owner: Pid) -> None:
        del session.owners[owner]
        if self._implicit.get(owner) is session:
            del self._implicit[owner]

    def _end(self, session: Session, reason: str) -> list[Entry]:
        """Take a session out of all indexes and return what was in it."""
        session.ended = reason
        del self._sessions[session.id]
        self._expiring.pop(session, None)
        for owner in list(session.owners):
            self._part(session, owner)
        leaving = session.objects.drain() + session.exceptions.drain()
        leaving.sort(key=_created, reverse=True)
        keys = [entry.key for entry in leaving]
        for key in keys:
            del self._entries[key]
        self._departed.add_session(session.id, reason, keys)
        return leaving

    def _take(self, key: int, reason: str | None) -> Entry:
        """Take one entry out of the registry; without a reason it is not remembered."""
        entry = self._entries.pop(key)
        session = entry.session
        session.usage(entry.kind).remove(entry)
        if reason is not None:
            self._departed.add_ref(key, session.id, reason)
        return entry

    def _take_all(self, keys: Iterable[int], reason: str | None) -> dict[Session, list[Entry]]:
        """Take those of these entries out that are there, and return them by session."""
        taken: dict[Session, list[Entry]] = {}
        for key in keys:
            if key in self._entries:
                taken.setdefault(self._entries[key].session, []).append(self._take(key, reason))
        return taken

    def _use(self, entry: Entry) -> None:
        session = entry.session
        entry.used = session.used = self._clock()
        session.usage(entry.kind).touch(entry)

    def _first_elsewhere(self, keys: Iterable[int], session_id: str) -> tuple[int, str] | None:
        """Return the first of these entries that is in another session, and which one it is."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and entry.session.id != session_id:
                return key, entry.session.id
        return None

    def _creation_time(self) -> float:
        """Return the time, or a little later: entries are sorted by it, so none has another's."""
        now = self._clock()
        if now <= self._last_created:
            now = math.nextafter(self._last_created, math.inf)
        self._last_created = now
        return now

    def _implicit_id(self, owner: Pid) -> str:
        milliseconds = int(self._wall_clock() * 1000)
        while True:
            # The name tells neither the owner's node nor its incarnation, so it may be taken.
            session_id = f"auto_{owner}_{milliseconds}"
            if session_id not in self._sessions and not self._departed.knows_session(session_id):
                return session_id
            milliseconds += 1

    # --- without the lock ---

    def _farewells(self, ended: Iterable[tuple[Session, list[Entry]]]) -> None:
        for session, leaving in ended:
            self._farewell(session, OWNER_DOWN, leaving)

    def _farewell(self, session: Session, reason: str, leaving: list[Entry]) -> None:
        """Do what is left to do for a session that has ended."""
        if self._on_ended is not None:
            try:
                self._on_ended(session, reason)
            except Exception:  # noqa: BLE001
                # The objects, and other sessions that ended with this one, still have to go.
                _log.exception("The end of session %s was not taken notice of", session.id)
        self._unwind_later(session, leaving, last=True)

    def _unwind_later(self, session: Session, leaving: list[Entry], *, last: bool = False) -> None:
        # A thread of its own is waiting to hear that it is over.
        if leaving or (last and session.settings.own_thread):
            self._defer(Unwinding(session, leaving, last=last))

    def _unwind_all_later(self, leaving: dict[Session, list[Entry]]) -> None:
        for session, entries in leaving.items():
            self._unwind_later(session, entries)

    def _not_found(self, reference: Reference, key: int | None) -> RefNotFoundError:
        session_id = None
        if key is not None:
            with self._guard:
                session_id, reason = self._departed.why_ref(key)
        elif self._origin.is_former(reference):
            reason = NODE_RESTARTED
        else:
            reason = UNKNOWN
        return ref_not_found(reference, session_id, reason)


def _mismatch(reference: Reference, home: str, session_id: str) -> SessionMismatchError:
    return SessionMismatchError(
        f"The ref belongs to session {home} and was used under session {session_id}: use it under "
        "its own session or without naming one.",
        expected_session=home,
        actual_session=session_id,
        ref_id=reference,
    )


def _created(entry: Entry) -> float:
    return entry.created
