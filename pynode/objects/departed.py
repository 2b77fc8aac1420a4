"""The departed: a bounded memory of refs and sessions that are gone, and of why.

It is there so that "where did my object go?" has an answer. Refs that left one by one are kept
one by one. A session that ended is kept as one record with its refs in an array of 8 bytes each,
because the death of a full session must not make those be forgotten that left before.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from pynode import config
from pynode.errors import RefNotFoundError, SessionNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pynode.terms import Reference

RELEASED = "released"
SESSION_RELEASED = "session_released"
OWNER_DOWN = "owner_down"
EXPIRED = "expired"
EVICTED = "evicted"
NODE_RESTARTED = "node_restarted"
UNKNOWN = "unknown"

#: The refs of sessions that ended take 8 bytes each: so many times more of them are kept.
_SESSION_REFS = 100
#: The words of a reference that differ between any two of one node incarnation.
_DISTINCT = (1 << 64) - 1

_REF_REASONS = {
    RELEASED: "it was released, so make the object again and release it after its last use only",
    SESSION_RELEASED: "its session was released, so make the object again in a session that is "
    "released after the object's last use",
    OWNER_DOWN: "the last owner of its session is gone, or the connection to it was lost, so make "
    "the object again, and let a process that lives as long as the object is needed own the "
    "session",
    EXPIRED: "nobody used it for as long as its session's ttl_seconds, so make the object again, "
    "and open the session with a longer ttl_seconds or with 0",
    EVICTED: "its session was full and it was the least recently used, so make the object again, "
    "and release refs after their last use or open the session with a greater max_refs",
    NODE_RESTARTED: "the Python node has restarted since it was made, so make the object again",
    UNKNOWN: "this node never made it or has long forgotten it, so check where the ref comes from, "
    "or make the object again",
}
_SESSION_REASONS = {
    SESSION_RELEASED: "was released, so open it again or use another one",
    OWNER_DOWN: "ended with its last owner, or when the connection to that was lost, so open it "
    "again with an owner that lives long enough",
    NODE_RESTARTED: "ended when the Python node was restarted, and its objects with it, so open it "
    "again and make them again",
    UNKNOWN: "is not open on this node, or was before it restarted, so open it first or check its "
    "name",
}


def ref_not_found(reference: Reference, session_id: str | None, reason: str) -> RefNotFoundError:
    """Return the error that says why a ref stands for nothing any more, and what to do."""
    of_session = f" of session {session_id}" if session_id is not None else ""
    return RefNotFoundError(
        f"{reference}{of_session} is not there ({reason}): {_REF_REASONS[reason]}.",
        ref_id=reference,
        session_id=session_id,
        reason=reason,
    )


def session_not_found(session_id: str, reason: str) -> SessionNotFoundError:
    """Return the error that says why a session is not there, and what to do."""
    return SessionNotFoundError(
        f"The session {session_id} {_SESSION_REASONS[reason]}.",
        session_id=session_id,
        reason=reason,
    )


class _Life:
    """One session that ended, with the refs that ended with it, sorted."""

    __slots__ = ("generation", "reason", "refs", "session_id")

    def __init__(self, session_id: str, generation: int, reason: str, refs: array[int]) -> None:
        self.session_id = session_id
        self.generation = generation
        self.reason = reason
        self.refs = refs

    def holds(self, ref: int) -> bool:
        refs = self.refs
        if not refs or not refs[0] <= ref <= refs[-1]:
            return False
        return refs[bisect_left(refs, ref)] == ref


class Departed:
    """What is remembered: `limit` refs, `limit` sessions, and the refs of these within bounds.

    Sessions are forgotten half of the limit at once, so that at least the last half is known: a
    dict that they left one by one would take twice the memory after a while.

    Not thread-safe: the registry calls it under its lock.
    """

    def __init__(self, limit: int = config.DEPARTED_MEMORY) -> None:
        self._limit = limit
        # Not a dict: finding its first item gets slow when items leave at the front.
        self._refs: OrderedDict[int, tuple[str, str]] = OrderedDict()
        # By name, the last life in this generation and in the one before.
        self._recent: dict[str, _Life] = {}
        self._former: dict[str, _Life] = {}
        self._generation = 0
        self._born = 0  # lives of this generation
        # Lives that still have their refs, and how many these are together.
        self._with_refs: deque[_Life] = deque()
        self._session_refs = 0

    def add_ref(self, key: int, session_id: str, reason: str) -> None:
        """Remember a ref that left its session, and forget the oldest if there are too many."""
        self._refs[key] = session_id, reason
        if len(self._refs) > self._limit:
            self._refs.popitem(last=False)

    def add_session(self, session_id: str, reason: str, keys: Iterable[int]) -> None:
        """Remember a session that ended with these refs, newest first."""
        newest = [key & _DISTINCT for _, key in zip(range(self._limit), keys, strict=False)]
        newest.sort()
        if self._born >= self._limit // 2:
            self._begin_generation()
        self._born += 1
        life = _Life(session_id, self._generation, reason, array("Q", newest))
        self._recent[session_id] = life
        if newest:
            self._with_refs.append(life)
            self._session_refs += len(newest)
            while self._session_refs > self._limit * _SESSION_REFS:
                self._forget_refs()

    def _begin_generation(self) -> None:
        self._former, self._recent, self._born = self._recent, {}, 0
        self._generation += 1
        while self._with_refs and self._with_refs[0].generation < self._generation - 1:
            self._forget_refs()

    def _forget_refs(self) -> None:
        """Forget the refs of the session that ended first of those whose refs are known."""
        forgotten = self._with_refs.popleft()
        self._session_refs -= len(forgotten.refs)
        forgotten.refs = array("Q")

    def why_ref(self, key: int) -> tuple[str | None, str]:
        """Return the session that a ref was in, if that is known, and the reason why it left."""
        alone = self._refs.get(key)
        if alone is not None:
            return alone
        for life in reversed(self._with_refs):
            if life.holds(key & _DISTINCT):
                return life.session_id, life.reason
        return None, UNKNOWN

    def why_session(self, session_id: str) -> str:
        """Return the reason why the last session of this name ended."""
        life = self._recent.get(session_id) or self._former.get(session_id)
        return UNKNOWN if life is None else life.reason

    def knows_session(self, session_id: str) -> bool:
        """Whether a session of this name is remembered."""
        return session_id in self._recent or session_id in self._former

    def __len__(self) -> int:
        """How many refs are remembered."""
        return len(self._refs) + self._session_refs
