"""What must be so, by docs/PROTOCOL.md and docs/LIFECYCLE.md alone, after what has happened so far.

A cluster is asynchronous, so the model does not always know. It knows of each session which owners
it has for *sure*, and which it has *maybe*: those that were asked for with no answer awaited, or
whose link was cut. It knows of each object whether it is alive for sure, gone for sure (soon), or
neither, and for which reasons it may be gone. A quiet moment tells what had been unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pynode.terms import Pid, Reference
    from tests.chaos.probe import View

OWNER_DOWN = "owner_down"
#: A grace period that no run outlasts: owners survive the loss of their node.
LONG_GRACE = 600
#: A limit of refs that no session reaches.
_PLENTY = 1000


@dataclass
class Session:
    """One session of one Python node, as far as it is known; owners are called by their names."""

    sure: set[str] = field(default_factory=set)
    maybe: set[str] = field(default_factory=set)
    #: What it was opened with; None if that is not known.
    settings: Mapping[str, Any] | None = None
    #: Whether there may be objects in it that the model has not heard of.
    strays: bool = False
    #: Whether a request is under way that may end it or take owners away, also later ones.
    fragile: bool = False
    #: What was in it at the last quiet moment.
    refs: set[Reference] = field(default_factory=set)

    def join(self, process: str) -> None:
        """Note that `process` has become an owner."""
        (self.maybe if self.fragile else self.sure).add(process)

    @property
    def survives(self) -> bool:
        """Whether its owners are kept when their node is lost."""
        return self.settings is not None and self.settings.get("grace_seconds") == LONG_GRACE

    @property
    def keeps(self) -> bool:
        """Whether its objects stay as long as it does."""
        settings = self.settings
        return (
            settings is not None
            and not settings.get("ttl_seconds")
            and settings.get("max_refs", _PLENTY) >= _PLENTY
        )


@dataclass
class Object:
    """One object that a ref was received for."""

    at: str
    ref: Any
    session: str
    #: In what its calls wait for their turn: a session's name, or a process with implicit ones.
    lanes: set[str]
    alive: bool
    gone: bool = False
    #: Why it may be gone.
    reasons: set[str] = field(default_factory=set)
    #: Whether it is gone, and `reasons` has the one.
    settled: bool = False

    @property
    def reference(self) -> Reference:
        """What stands for it on the wire."""
        reference: Reference = self.ref["id"]
        return reference

    def doubt(self, reason: str) -> None:
        """Note that it may be gone, for this reason."""
        if not self.gone:
            self.alive = False
            self.reasons.add(reason)

    def end(self, reason: str) -> None:
        """Note that it is gone, for this reason if it was alive."""
        self.doubt(reason)
        self.gone = True

    def settle(self, reason: str) -> None:
        """Note for which reason it is gone."""
        self.reasons = {reason}
        self.gone = self.settled = True


class Model:
    """What is known of all Python nodes, `pythons` by name."""

    def __init__(self, pythons: tuple[str, ...]) -> None:
        #: The processes that live, and their pids.
        self.processes: dict[str, Pid] = {}
        self.sessions: dict[str, dict[str, Session]] = {python: {} for python in pythons}
        #: By the number of the event that made them.
        self.objects: dict[int, Object] = {}
        #: Processes that may have implicit sessions, or objects in them, that nobody has heard of.
        self.strays: dict[str, set[str]] = {python: set() for python in pythons}

    # --- what was asked for, and the answer was not waited for

    def maybe_owns(self, at: str, name: str | None, process: str) -> None:
        """A request that may make `process` an owner is under way; None for its implicit session.

        It may leave objects, too.
        """
        if name is None:
            self.strays[at].add(process)
            for session in self.sessions[at].values():
                session.strays |= process in session.sure | session.maybe
        else:
            session = self.sessions[at].setdefault(name, Session())
            session.maybe.add(process)
            session.strays = True

    def maybe_ends(self, at: str, name: str) -> None:
        """A session may be released."""
        session = self.sessions[at].setdefault(name, Session())
        session.maybe |= session.sure
        session.sure.clear()
        session.fragile = True
        for obj in self._inside(at, name):
            obj.doubt("session_released")

    def maybe_gives(self, at: str, name: str, giver: str, receiver: str) -> None:
        """A session may be given away."""
        session = self.sessions[at].setdefault(name, Session())
        session.maybe.add(receiver)
        session.fragile = True
        if giver in session.sure:
            session.sure.remove(giver)
            session.maybe.add(giver)
        self._look_after(at, name)

    def maybe_doubled(self, original: Object) -> None:
        """There may be another object beside this one."""
        session = self.sessions[original.at].get(original.session)
        if session is not None:
            session.strays = True

    # --- what was answered

    def owns(self, at: str, name: str, process: str, *, settings: Mapping[str, Any]) -> None:
        """`process` is an owner: it has opened the session, or joined it."""
        session = self.sessions[at].get(name)
        if session is None:
            session = self.sessions[at][name] = Session(settings=settings)
        elif not session.sure:
            # It may be the former one, whose end was not noticed in time, or that of another.
            session.settings = None
        if process in self.processes:
            session.join(process)

    def made(
        self, at: str, number: int, ref: Any, *, by: str, named: str | None, lanes: set[str]
    ) -> None:
        """An object was made in the session that is `named`, or in an implicit one."""
        name = str(ref["session_id"])
        if named is None:
            self.owns(at, name, by, settings={})
        elif name not in self.sessions[at]:
            self.owns(at, name, by, settings={})  # Whose end can be known is forgotten.
        elif not self.sessions[at][name].sure:
            self.sessions[at][name].maybe.add(by)  # It has opened it if nobody had.
        session = self.sessions[at][name]
        self._add(number, Object(at, ref, name, lanes, alive=bool(session.sure)))

    def doubled(self, number: int, original: Object, ref: Any) -> None:
        """An object was made beside another one."""
        at, name = original.at, original.session
        copy = Object(at, ref, name, original.lanes, original.alive, reasons=set(original.reasons))
        self._add(number, copy)

    def _add(self, number: int, obj: Object) -> None:
        session = self.sessions[obj.at].setdefault(obj.session, Session())
        self.objects[number] = obj
        if not obj.alive:
            obj.doubt(OWNER_DOWN)
        if session.fragile:
            obj.doubt("session_released")
        if not session.keeps:
            for other in self._inside(obj.at, obj.session):
                other.doubt("evicted")
                other.doubt("expired")

    def ended(self, at: str, name: str) -> None:
        """A session was released."""
        session = self.sessions[at].pop(name, Session())
        certain = bool(session.sure)
        if session.maybe or session.fragile:
            self.sessions[at][name] = Session(
                maybe=session.maybe, strays=True, fragile=session.fragile
            )
        for obj in self._inside(at, name):
            if certain and obj.alive:
                obj.reasons.clear()
            obj.end("session_released")

    def given(self, at: str, name: str, giver: str, receiver: str) -> None:
        """A session was given away."""
        session = self.sessions[at].setdefault(name, Session())
        if receiver in self.processes:
            session.join(receiver)
        if giver != receiver:
            session.sure.discard(giver)
        self._look_after(at, name)

    # --- what befalls processes, nodes and links

    def died(self, process: str) -> None:
        """A process was killed."""
        del self.processes[process]
        for at, name, session in self._everywhere():
            session.sure.discard(process)
            session.maybe.discard(process)
            self._look_after(at, name)

    def lost(self, at: str, beam: str, *, certain: bool) -> None:
        """A Python node has lost a BEAM that runs on; or may lose it, or may have done so."""
        for name, session in self.sessions[at].items():
            theirs = {process for process in session.sure if process.startswith(beam)}
            if theirs and not session.survives:
                session.sure -= theirs
                grace = session.settings is None or session.settings.get("grace_seconds")
                if grace or not certain:
                    session.maybe |= theirs
                self._look_after(at, name)

    def restarted(self, at: str) -> None:
        """A Python node has ended with SIGKILL."""
        for session in self.sessions[at].values():
            session.maybe |= session.sure  # What was under way may reach the next incarnation.
            session.sure.clear()
            session.settings = None
        for obj in self.objects.values():
            if obj.at == at:
                obj.settle("node_restarted")
                obj.alive = False

    def ending(self, at: str) -> set[str]:
        """Return the sessions that can have no owner any more."""
        return {name for name, s in self.sessions[at].items() if not s.sure | s.maybe}

    def forget(self, at: str, names: set[str]) -> None:
        """These sessions of a Python node have ended."""
        for name in names:
            del self.sessions[at][name]
            for obj in self._inside(at, name):
                obj.gone = True

    # --- a quiet moment

    def problems(self, at: str, view: View, is_there: set[Reference]) -> Iterator[str]:
        """Tell what is not as it must be; `is_there` are the references of all objects."""
        names = {pid: name for name, pid in self.processes.items()}
        sessions = self.sessions[at]
        for name, seen in view.sessions.items():
            known = sessions.get(name, Session())
            owners = {names.get(pid, f"{pid}, which is dead") for pid in seen.owners}
            expected = known.sure | known.maybe
            if name.startswith("auto_"):
                expected |= self.strays[at]
            if owners - expected:
                yield f"{name} has the owners {owners - expected}, and not only {expected}"
            if 0 < seen.settings["max_refs"] < len(seen.refs):
                yield f"{name} has {len(seen.refs)} refs"
            heard_of = known.refs | {obj.reference for obj in self._inside(at, name)}
            strays = known.strays or (name.startswith("auto_") and owners & self.strays[at])
            if not strays and seen.refs - heard_of:
                yield f"{name} has {len(seen.refs - heard_of)} refs that nobody has made"
        for name, session in sessions.items():
            pids = {self.processes[process] for process in session.sure}
            if session.sure and name not in view.sessions:
                yield f"{name} is gone, and its owners {session.sure} live"
            elif pids - view.sessions[name].owners if session.sure else False:
                yield f"{name} has lost owners of {session.sure} that live"
        for number, obj in self.objects.items():
            if obj.at == at and obj.alive and obj.reference not in is_there:
                yield f"object {number} of {obj.session} is gone"
            if obj.at == at and obj.gone and obj.reference in is_there:
                yield f"object {number} of {obj.session} is there, in spite of {obj.reasons}"

    def learn(self, at: str, view: View, is_there: set[Reference]) -> None:
        """Take what is seen at a quiet moment for what is so."""
        names = {pid: name for name, pid in self.processes.items()}
        self.strays[at].clear()
        self.sessions[at] = {
            name: Session(
                {names[pid] for pid in seen.owners}, settings=seen.settings, refs=seen.refs
            )
            for name, seen in view.sessions.items()
        }
        for obj in self.objects.values():
            if obj.at == at and not obj.gone:
                if obj.reference not in is_there:
                    obj.gone = True
                elif self.sessions[at][obj.session].keeps:
                    obj.alive = True
                    obj.reasons.clear()

    # --- under the hood

    def _everywhere(self) -> Iterator[tuple[str, str, Session]]:
        for at, sessions in self.sessions.items():
            for name, session in sessions.items():
                yield at, name, session

    def _inside(self, at: str, name: str) -> list[Object]:
        return [o for o in self.objects.values() if (o.at, o.session) == (at, name)]

    def _look_after(self, at: str, name: str) -> None:
        """Without an owner that it has for sure, a session may be gone."""
        if not self.sessions[at][name].sure:
            for obj in self._inside(at, name):
                obj.doubt(OWNER_DOWN)
