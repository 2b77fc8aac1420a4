"""A session and its entries: who owns it, what is in it, and in which order it was used.

Only the registry changes what is here, under its lock; the attributes that others set say so.
Anybody may read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from pynode.objects.origin import Origin
    from pynode.objects.settings import SessionSettings
    from pynode.terms import Pid, Reference

Kind = Literal["ref", "stream", "exception"]


#: What these methods change in an entry, and by how much.
ENTERED: Final = {
    "__enter__": ("entered", 1),
    "__exit__": ("entered", -1),
    "__aenter__": ("entered_async", 1),
    "__aexit__": ("entered_async", -1),
}


class Entry:
    """One object, the session that it lives in, and how it is used.

    There are a hundred thousand of these in a busy node: no dict, no `Reference`, floats for
    times.
    """

    __slots__ = (
        "created",
        "entered",
        "entered_async",
        "key",
        "kind",
        "newer",
        "obj",
        "older",
        "session",
        "used",
    )

    def __init__(self, obj: Any, session: Session, key: int, kind: Kind, created: float) -> None:
        self.obj = obj
        self.session = session
        self.key = key
        self.kind = kind
        #: Times of the registry's clock. No two entries of a registry have the same `created`.
        self.created = created
        self.used = created
        #: How often the object was entered as a context manager and not exited yet; what remains
        #: is exited when the entry leaves.
        self.entered = 0
        #: The same for asynchronous ones.
        self.entered_async = 0
        #: The neighbours in a `Usage`.
        self.older: Entry | None = None
        self.newer: Entry | None = None

    @property
    def reference(self) -> Reference:
        """The Erlang reference that stands for the object (made anew each time it is asked)."""
        return self.session.origin.reference(self.key)

    @property
    def created_at(self) -> int:
        """When the ref was made, in Unix seconds."""
        return self.session.origin.unix(self.created)

    @property
    def last_used(self) -> int:
        """When the ref was last used, in Unix seconds."""
        return self.session.origin.unix(self.used)

    def __repr__(self) -> str:
        return f"<Entry {self.kind} {type(self.obj).__name__} in {self.session.id}>"


class Usage:
    """Entries in the order of their last use; each operation takes constant time.

    Entries are linked both ways. What leaves is linked to nothing: otherwise its object would wait
    for the garbage collector.
    """

    __slots__ = ("count", "newest", "oldest")

    def __init__(self) -> None:
        self.count = 0
        #: The least and the most recently used.
        self.oldest: Entry | None = None
        self.newest: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Iterate from the least recently used."""
        entry = self.oldest
        while entry is not None:
            yield entry
            entry = entry.newer

    def append(self, entry: Entry) -> None:
        """Put in an entry that is in none, as the most recently used."""
        newest = self.newest
        if newest is None:
            self.oldest = entry
        else:
            newest.newer = entry
            entry.older = newest
        self.newest = entry
        self.count += 1

    def remove(self, entry: Entry) -> None:
        """Take out an entry that is in here."""
        older, newer = entry.older, entry.newer
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
        if newer is None:
            self.newest = older
        else:
            newer.older = older
        entry.older = entry.newer = None
        self.count -= 1

    def touch(self, entry: Entry) -> None:
        """Make an entry that is in here the most recently used."""
        if entry.newer is not None:
            self.remove(entry)
            self.append(entry)

    def drain(self) -> list[Entry]:
        """Take out all entries and return them."""
        entries = list(self)
        for entry in entries:
            entry.older = entry.newer = None
        self.oldest = self.newest = None
        self.count = 0
        return entries


class Session:
    """Refs that live and die together, and the owners that keep them alive.

    It has ended when `ended` is not None; then it has no owners and no refs, and never will
    again.
    """

    __slots__ = (
        "calls",
        "created",
        "ended",
        "exceptions",
        "grace_seconds",
        "id",
        "lane",
        "max_refs",
        "objects",
        "on_full",
        "origin",
        "owners",
        "running",
        "settings",
        "tags",
        "ttl_seconds",
        "used",
    )

    def __init__(
        self, session_id: str, settings: SessionSettings, origin: Origin, created: float
    ) -> None:
        self.id = session_id
        self.settings = settings
        self.ttl_seconds = settings.ttl_seconds
        self.grace_seconds = settings.grace_seconds
        self.max_refs = settings.max_refs
        self.on_full = settings.on_full
        self.tags = settings.tags
        self.origin = origin
        #: Times of the registry's clock.
        self.created = created
        self.used = created
        #: The owners, in the order in which they joined: a dict, because a set has no order.
        self.owners: dict[Pid, None] = {}
        #: The reason why it ended; None while it lives.
        self.ended: str | None = None
        self.objects = Usage()
        #: Exceptions have room of their own, so that they never push out a user's object.
        self.exceptions = Usage()
        #: Set by whoever runs calls: how many are under way. While there are, nothing in the
        #: session expires.
        self.running = 0
        #: Set by the same: how many have begun since it was opened.
        self.calls = 0
        #: What calls of this session wait for each other in. An implicit session has its owner
        #: here: calls of a process that has no session yet wait in the same place.
        self.lane: Hashable = session_id

    def usage(self, kind: Kind) -> Usage:
        """Where entries of this kind are."""
        return self.exceptions if kind == "exception" else self.objects

    def keys(self) -> list[int]:
        """The keys of all entries, those that were made first at the front."""
        created = {
            entry.key: entry.created for usage in (self.objects, self.exceptions) for entry in usage
        }
        return sorted(created, key=created.__getitem__)

    def overdue(self, now: float) -> list[int]:
        """The keys of the entries that were not used for `ttl_seconds`."""
        keys = []
        for usage in (self.objects, self.exceptions):
            for entry in usage:
                if entry.used + self.ttl_seconds > now:
                    break
                keys.append(entry.key)
        return keys

    def least_recent_use(self) -> float | None:
        """When the entry was used that was not used for the longest time; None without entries."""
        oldest = (self.objects.oldest, self.exceptions.oldest)
        return min((entry.used for entry in oldest if entry is not None), default=None)

    @property
    def refs(self) -> int:
        """How many refs it holds, those to exceptions included."""
        return self.objects.count + self.exceptions.count

    @property
    def created_at(self) -> int:
        """When it was opened, in Unix seconds."""
        return self.origin.unix(self.created)

    @property
    def last_used(self) -> int:
        """When a ref was last made or used in it, in Unix seconds."""
        return self.origin.unix(self.used)

    def __repr__(self) -> str:
        state = f"ended: {self.ended}" if self.ended else f"{self.refs} refs"
        return f"<Session {self.id} {state}>"
