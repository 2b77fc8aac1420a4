"""The locks and the names of `pynode.otp.global_names`, each for as long as its process lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pynode.terms import Atom, exact

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from pynode.terms import Pid, Reference

#: The resource that is locked while names change.
GLOBAL = Atom("global")
_GLOBAL = exact(GLOBAL)


class Name(NamedTuple):
    """A name that is registered; `method` is a fun that decides about conflicts."""

    name: Any
    pid: Pid
    method: Any
    #: Which node has registered it, if the process is one of a C-node.
    by: Atom | None = None


class _Lock:
    """A resource that is locked for one requester, by processes that all ask in its name."""

    def __init__(self, requester: Hashable) -> None:
        self.requester = requester
        self.pids: dict[Pid, Reference] = {}


class Tables:
    """The tables. Only the thread of the server changes them; others may look.

    `monitor` and `demonitor` are those of the server, whose ``DOWN`` messages come to `down`.
    `monitor` returns None for a process on a node that cannot be reached.
    """

    def __init__(
        self,
        monitor: Callable[[Pid], Reference | None],
        demonitor: Callable[[Reference], object],
    ) -> None:
        self._monitor = monitor
        self._demonitor = demonitor
        self._locks: dict[Hashable, _Lock] = {}
        self._names: dict[Hashable, tuple[Name, Reference]] = {}
        #: What goes with the process that a monitor is on: a table and a key of it.
        self._watched: dict[Reference, tuple[Pid, dict[Hashable, Any], Hashable]] = {}
        #: Whether the last lock of names was lost with its process, and not given back.
        self._lock_was_lost = False

    # --- locks

    def can_lock(self, resource: Any, requester: Any) -> bool:
        """Whether the lock is free, or this requester's already."""
        lock = self._locks.get(exact(resource))
        return lock is None or lock.requester == exact(requester)

    def lock(self, resource: Any, requester: Any, pid: Pid) -> bool:
        """Set a lock for the process `pid`; False if another requester has it."""
        if not self.can_lock(resource, requester):
            return False
        key = exact(resource)
        lock = self._locks.setdefault(key, _Lock(exact(requester)))
        if pid not in lock.pids:
            reference = self._watch(pid, self._locks, key)
            if reference is not None:
                lock.pids[pid] = reference
        if not lock.pids:
            del self._locks[key]
        return True

    def unlock(self, resource: Any, requester: Any, pid: Pid) -> None:
        """Remove a lock that the process `pid` has set, if it has."""
        key = exact(resource)
        lock = self._locks.get(key)
        if lock is not None and lock.requester == exact(requester):
            self._unlock(key, lock, pid)

    def _unlock(self, key: Hashable, lock: _Lock, pid: Pid, *, lost: bool = False) -> None:
        reference = lock.pids.pop(pid, None)
        if reference is None:
            return
        self._unwatch(reference)
        if not lock.pids:
            del self._locks[key]
            if key == _GLOBAL:
                self._lock_was_lost = lost

    def names_are_locked(self) -> bool:
        """Whether somebody has the lock for names."""
        return _GLOBAL in self._locks

    def still_locked_by(self, pid: Pid) -> bool:
        """Whether a change of names that `pid` has asked for may be made."""
        lock = self._locks.get(_GLOBAL)
        return not self._lock_was_lost if lock is None else pid in lock.pids

    def still_locked_for(self, requester: Any) -> bool:
        """Whether a change of names under the lock of `requester` may be made."""
        lock = self._locks.get(_GLOBAL)
        return not self._lock_was_lost if lock is None else lock.requester == exact(requester)

    # --- names

    def find(self, name: Any) -> Name | None:
        """Return what is registered as `name`."""
        found = self._names.get(exact(name))
        return None if found is None else found[0]

    def names(self) -> list[Name]:
        """Return all that is registered."""
        return [name for name, _ in list(self._names.values())]

    def insert(self, entry: Name) -> None:
        """Register a name, in place of what may have had it."""
        self.delete(entry.name)
        key = exact(entry.name)
        reference = self._watch(entry.pid, self._names, key)
        if reference is not None:
            self._names[key] = (entry, reference)

    def delete(self, name: Any) -> None:
        """Free a name, if it is registered."""
        found = self._names.pop(exact(name), None)
        if found is not None:
            self._unwatch(found[1])

    # --- processes that exit

    def _watch(self, pid: Pid, table: dict[Hashable, Any], key: Hashable) -> Reference | None:
        reference = self._monitor(pid)
        if reference is not None:
            self._watched[reference] = (pid, table, key)
        return reference

    def _unwatch(self, reference: Reference) -> None:
        del self._watched[reference]
        self._demonitor(reference)

    def down(self, reference: Reference) -> None:
        """A process has exited: its lock or its name is free."""
        watched = self._watched.get(reference)
        if watched is None:
            return
        pid, table, key = watched
        if table is self._locks:
            self._unlock(key, self._locks[key], pid, lost=True)
        else:
            self._unwatch(reference)
            del self._names[key]

    def forget(self, node: str) -> None:
        """Free all locks and names of processes on `node`."""
        for reference, (pid, _, _) in list(self._watched.items()):
            if pid.node == node:
                self.down(reference)
