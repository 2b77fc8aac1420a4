"""Carry out a schedule, keep the model, and compare the two: ``python -m tests.chaos.run --help``.

An event whose answer can be waited for is waited for, so that the model knows what it has done. It
cannot be where a link is cut, where the session is busy with a long call, and where the schedule
says ``later``: then it goes on beside the events that follow.
"""

from __future__ import annotations

import argparse
import re
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

from pynode.terms import Atom, Pid
from pynode.testing import wait_until
from tests.chaos.model import OWNER_DOWN, Model
from tests.chaos.schedule import BEAMS, HOSTS, PYTHONS, Schedule
from tests.chaos.world import PATIENCE, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.terms import Reference
    from pynode.testing import BeamProcess
    from tests.chaos.model import Object
    from tests.chaos.probe import SessionView, View

OK = Atom("ok")
_PROBE = "tests.chaos.probe"
_CALL = "try gen_server:call({snakebridge, N}, R, T) catch exit:{E, _} -> {'EXIT', E} end"
#: What gen_server:call does, but for waiting. (A gen_server:send_request keeps its monitor.)
_SEND = (
    "M = monitor(process, {snakebridge, N}, [{alias, reply_demonitor}]),"
    "{snakebridge, N} ! {'$gen_call', {self(), [alias | M]}, R}, ok"
)
_BORROW = "erpc:cast(B, gen_server, call, [{snakebridge, N}, R])"
_NEW: tuple[Any, ...] = (Atom("call"), _PROBE, "Thing", [], {})
#: Why a session may be gone.
_NO_SESSION = {OWNER_DOWN, "session_released", "unknown"}
#: Milliseconds that callers wait, and that those do who give up.
_TIMEOUT = 30_000
_IMPATIENCE = 30
#: A node at rest has no more threads: spare ones, and those that read from its connections.
_THREADS = 30


_ERROR = re.compile(" (ERROR|CRITICAL) |Traceback")


class ChaosError(AssertionError):
    """Something was not as it must be."""


class Run:
    """One schedule, carried out in a world; `log` is told what happens."""

    def __init__(self, world: World, log: Callable[[str], object]) -> None:
        self._world = world
        self._log = log
        self._model = Model(PYTHONS)
        self._processes: dict[str, BeamProcess] = {}
        #: Links between a Python node and a BEAM that were cut, with no look at them since.
        self._shaken: set[tuple[str, str]] = set()
        #: Those that a BEAM has cut off, which the Python node may not know yet.
        self._unheard: set[tuple[str, str]] = set()
        #: The calls that run until they are let go: where, and in which lanes they may be.
        self._held: dict[str, tuple[str, set[str]]] = {}
        #: The keys of all such calls since the last quiet moment.
        self._keys: list[str] = []
        #: Those whose monitors may stay: a BEAM whose connection is not up yet sends no demonitor.
        self._excused: set[Pid] = set()

    def carry_out(self, schedule: Schedule) -> None:
        """Carry out all events; raises ChaosError with what is wrong, at the first such moment."""
        for event in schedule:
            self._log(str(event))
            try:
                getattr(self, f"_{event.kind}")(event.number, **event.args)
            except ChaosError:
                raise
            except Exception as error:
                raise ChaosError(f"{event}: {error!r}") from error
        for process in list(self._processes):
            self._kill(0, process, later=True)
        self._quiet(0)
        for at in PYTHONS:
            view = self._world.ask(at, "view")
            if any((*view.counts, view.living, view.watched, view.monitors, view.entered)):
                raise ChaosError(f"something is left at {at}: {view}")

    # --- requests

    def _is_clean(self, at: str, beam: str) -> bool:
        return self._world.is_linked(at, beam) and (at, beam) not in self._shaken

    def _can_wait(self, at: str, by: str, lanes: set[str], about: str | None = None) -> bool:
        """Whether an answer is sure to come, and what it says about another process to be so."""
        if any(at == where and lanes & theirs for where, theirs in self._held.values()):
            return False
        beam, other = _beam(by), _beam(about or by)
        heard = beam == other or (at, other) not in self._unheard
        return heard and self._is_clean(at, beam) and self._is_clean(at, other)

    def _session(self, session: str | int | None, by: str) -> tuple[str | None, set[str]]:
        """Return the session that a request names, and the lanes where it may have to wait."""
        if isinstance(session, int):
            obj = self._model.objects.get(session)
            if obj is not None:
                return obj.session, obj.lanes | {obj.session}
            session = f"unheard of {session}"
        return session, {session or by}

    def _call(self, at: str, by: str, *request: Any) -> Any:
        process, node = self._processes[by], Atom(self._world.names[at])
        answer = process.eval(_CALL, N=node, R=request, T=_TIMEOUT, timeout=PATIENCE)
        if answer[0] == "EXIT":
            raise ChaosError(f"{by} was not answered by {at}: {answer}")
        self._unheard.discard((at, _beam(by)))
        return answer

    def _send(self, at: str, by: str, *request: Any, source: str = _SEND, **bindings: Any) -> None:
        names = {"N": Atom(self._world.names[at]), "R": request}
        self._processes[by].start_eval(source, **names, **bindings)

    def _make_in(self, at: str, name: str | None, by: str, request: Any, **how: Any) -> None:
        """Send a request that makes an object in a session, and do not wait for the answer."""
        self._send(at, by, *request, {Atom("session_id"): name}, **how)
        self._model.maybe_owns(at, name, by)

    # --- processes

    def _spawn(self, _: int, process: str) -> None:
        self._processes[process] = self._world.beams[_beam(process)].process()
        self._model.processes[process] = self._processes[process].pid

    def _excuse(self, by: str) -> None:
        """A process is about to end its monitors."""
        beam = _beam(by)
        connected = set(self._world.beams[beam].eval("nodes(connected)"))
        wanted = {self._world.names[at] for at in PYTHONS if (at, beam) not in self._shaken}
        if len(wanted) < len(PYTHONS) or not wanted <= connected:
            self._excused.add(self._processes[by].pid)

    def _kill(self, _: int, process: str, *, later: bool) -> None:
        self._excuse(process)
        self._processes[process].exit()
        self._died(process)
        if not later:
            self._wait_for_ends(_beam(process))

    def _died(self, process: str) -> None:
        del self._processes[process]
        self._model.died(process)

    def _wait_for_ends(self, beam: str) -> None:
        """Wait until the Python nodes that can know of a loss have ended what has to end."""
        for at in PYTHONS:
            if self._is_clean(at, beam):
                self._wait_for_ends_at(at)

    def _wait_for_ends_at(self, at: str) -> None:
        names = self._model.ending(at)

        def left() -> dict[str, SessionView]:
            view = self._view(at)
            sessions = view.sessions.items()
            # Whose node has crashed is absent for as long as the session's grace period.
            return {n: s for n, s in sessions if n in names and not s.owners <= view.absent}

        try:
            wait_until(lambda: not left(), PATIENCE)
        except TimeoutError:
            raise ChaosError(f"{at} has sessions whose owners are gone: {left()}") from None
        self._model.forget(at, names - self._view(at).sessions.keys())

    # --- sessions

    def _open(
        self, _: int, *, at: str, by: str, session: Any, later: bool, owner: str, settings: Any
    ) -> None:
        name, _lanes = self._session(session, by)
        terms = {Atom(key): value for key, value in settings.items()}
        request = (Atom("open_session"), name, self._processes[owner].pid, terms)
        if later or not self._can_wait(at, by, set(), owner):
            self._send(at, by, *request)
            self._model.maybe_owns(at, str(name), owner)
        else:
            _allow(self._call(at, by, *request), set(), certain=True)
            self._model.owns(at, str(name), owner, settings=settings)

    def _end(self, _: int, *, at: str, by: str, session: Any, later: bool) -> None:
        name, _lanes = self._session(session, by)
        if later or not self._can_wait(at, by, set()):
            self._send(at, by, Atom("release_session"), name)
            self._model.maybe_ends(at, str(name))
        else:
            _allow(self._call(at, by, Atom("release_session"), name), set(), certain=True)
            self._model.ended(at, str(name))

    def _give(
        self, _: int, *, at: str, by: str, session: Any, later: bool, giver: str, receiver: str
    ) -> None:
        name, _lanes = self._session(session, by)
        pids = [self._processes[process].pid for process in (giver, receiver)]
        if later or not self._can_wait(at, by, set(), receiver):
            self._send(at, by, Atom("give_session"), name, *pids)
            self._model.maybe_gives(at, str(name), giver, receiver)
        else:
            answer = self._call(at, by, Atom("give_session"), name, *pids)
            known = self._model.sessions[at].get(str(name))
            certain = known is not None and giver in known.sure
            if _allow(answer, _NO_SESSION | {"not_owner"}, certain=certain):
                self._model.given(at, str(name), giver, receiver)

    # --- objects

    def _make(self, number: int, *, at: str, by: str, session: Any, later: bool) -> None:
        name, lanes = self._session(session, by)
        if later or not self._can_wait(at, by, lanes):
            self._make_in(at, name, by, _NEW)
            return
        answer = self._call(at, by, *_NEW, {Atom("session_id"): name})
        known = self._model.sessions[at].get(str(name))
        certain = name is None or (known is not None and bool(known.sure))
        if _allow(answer, _NO_SESSION, certain=certain):
            self._model.made(at, number, answer[1], by=by, named=name, lanes=lanes)

    def _about(self, by: str, ref: int, later: bool, method: str) -> tuple[Object | None, Any]:
        """Call a method of an object; return the object, and the answer if there is one."""
        obj = self._model.objects.get(ref)
        if obj is None:
            return None, None
        request: Any = (Atom("method"), obj.ref, method, [], {})
        lanes = obj.lanes | {obj.session, by}
        if later or not self._can_wait(obj.at, by, lanes):
            self._send(obj.at, by, *request)
            return obj, None
        answer = self._call(obj.at, by, *request)
        return obj, answer if _allow(answer, obj.reasons, certain=obj.alive) else None

    def _use(self, _: int, *, at: str, by: str, ref: int, later: bool) -> None:
        self._about(by, ref, later, "ping")

    def _enter(self, _: int, *, at: str, by: str, ref: int, later: bool) -> None:
        self._about(by, ref, later, "__enter__")

    def _twin(self, number: int, *, at: str, by: str, ref: int, later: bool) -> None:
        obj, answer = self._about(by, ref, later, "twin")
        if obj is not None and answer is not None:
            self._model.doubled(number, obj, answer[1])
        elif obj is not None:
            self._model.maybe_doubled(obj)

    def _borrow(self, _: int, *, at: str, by: str, ref: int, later: bool, on: str) -> None:
        """A process on another node, which ends when it is done, uses an object."""
        obj = self._model.objects.get(ref)
        if obj is not None:
            request: Any = (Atom("method"), obj.ref, "twin", [], {})
            self._send(at, by, *request, source=_BORROW, B=Atom(self._world.names[on]))
            self._model.maybe_doubled(obj)

    def _release(self, _: int, *, at: str, by: str, ref: int, later: bool) -> None:
        obj = self._model.objects.get(ref)
        if obj is None:
            return
        if later or not self._can_wait(at, by, obj.lanes | {obj.session, by}):
            self._send(at, by, Atom("release"), obj.ref)
            obj.doubt("released")
            return
        answer = self._call(at, by, Atom("release"), obj.ref)
        if answer == (OK, 1):
            obj.end("released")
        elif answer != (OK, 0) or obj.alive:
            raise ChaosError(f"the answer is {answer}")

    # --- calls that run long

    def _hold(self, _: int, *, at: str, by: str, session: Any, later: bool, key: str) -> None:
        self._hold_in(at, by, session, key, _SEND)

    def _give_up(self, _: int, *, at: str, by: str, session: Any, later: bool, key: str) -> None:
        self._excuse(by)
        self._hold_in(at, by, session, key, _CALL, T=_IMPATIENCE)

    def _hold_in(
        self, at: str, by: str, session: Any, key: str, source: str, **bindings: Any
    ) -> None:
        name, lanes = self._session(session, by)
        request: Any = (Atom("call"), _PROBE, "hold", [key], {})
        self._make_in(at, name, by, request, source=source, **bindings)
        self._held[key] = at, lanes
        self._keys.append(key)

    def _let_go(self, _: int, *, at: str, key: str) -> None:
        self._world.ask(at, "let_go", key)
        del self._held[key]

    def _cancel(self, _: int, *, at: str, by: str, whom: str) -> None:
        if self._can_wait(at, by, set()):
            self._call(at, by, Atom("cancel"), self._processes[whom].pid)

    def _die_calling(self, _: int, *, at: str, by: str, session: Any, later: bool) -> None:
        name, _lanes = self._session(session, by)
        self._excused.add(self._processes[by].pid)  # The connection may be lost just then.
        self._make_in(at, name, by, _NEW, source=f"{_SEND}, exit(self(), kill)")
        self._died(by)

    # --- nodes and links

    def _disconnect(self, _: int, *, at: str, beam: str, side: str, later: bool) -> None:
        world, link = self._world, (at, beam)
        was_clean = self._is_clean(*link)
        if side == "beam":
            world.beams[beam].eval("erlang:disconnect_node(N)", N=Atom(world.names[at]))
            self._unheard.add(link)
        else:
            world.ask(at, "disconnect", Atom(world.names[beam]))
            self._shaken.add(link)  # The BEAM may send a request by the old connection.
        self._model.lost(at, beam, certain=was_clean)
        if was_clean and not later:
            self._meet(*link)
            self._wait_for_ends_at(at)

    def _meet(self, at: str, beam: str) -> None:
        """Wait until two nodes are connected."""
        self._world.connect(beam, at)
        self._shaken.discard((at, beam))
        self._unheard.discard((at, beam))

    def _cut(self, _: int, *, link: tuple[str, str]) -> None:
        if self._world.why_uncuttable is None:
            self._world.cut(*link)
            beam, at = link
            if beam in BEAMS and at in PYTHONS:
                self._shaken.add((at, beam))
                self._model.lost(at, beam, certain=False)

    def _restore(self, _: int, *, link: tuple[str, str]) -> None:
        if self._world.why_uncuttable is None:
            self._world.restore(*link)
            beam, at = link
            if beam in BEAMS and at in PYTHONS and self._world.is_linked(beam, at):
                self._meet(at, beam)

    def _lose(self, _: int, *, beam: str, at: str) -> None:
        if self._world.why_uncuttable is None:
            self._world.wait_lost(beam, at)
            node = self._world.names[beam]
            wait_until(
                lambda: all(pid.node != node for pid in self._world.ask(at, "view").watched),
                PATIENCE,
            )

    def _crash(self, _: int, *, host: str) -> None:
        self._world.crash(host)
        if host in BEAMS:
            for process in [process for process in self._processes if _beam(process) == host]:
                self._died(process)
        else:
            self._model.restarted(host)
            self._held = {key: held for key, held in self._held.items() if held[0] != host}

    def _boot(self, _: int, *, host: str) -> None:
        self._world.boot(host)
        for at in PYTHONS:
            for beam in BEAMS:
                if host in (at, beam) and self._world.is_linked(at, beam):
                    self._meet(at, beam)

    # --- quiet moments

    def _quiet(self, _: int) -> None:
        """Mend everything, wait until all is as it must be, and look at it closely."""
        world = self._world
        for link in list(world.cuts):
            world.restore(*link)
        for host in HOSTS:
            if not world.is_up(host):
                world.boot(host)
        self._held.clear()
        for at in PYTHONS:
            for key in self._keys:
                world.ask(at, "let_go", key)
        self._keys.clear()
        # A Python node calls the nodes of absent owners by itself.
        wait_until(lambda: not any(self._view(at).absent for at in PYTHONS), PATIENCE)
        # Whatever a process was asked to send is sent; and what was sent is there, because each
        # answer comes after it. First between BEAMs, where some of it has to go first.
        for process in self._processes.values():
            process.eval("ok", timeout=PATIENCE)
        for beam in BEAMS:
            for other in BEAMS:
                world.connect(beam, other)
        for beam in BEAMS:
            for at in PYTHONS:
                self._meet(at, beam)
        self._wait_for_no_problems()
        for at in PYTHONS:
            view = self._view(at)
            self._look_closely(at, view)
            self._model.learn(at, view, _references(view))

    def _view(self, at: str) -> View:
        view: View = self._world.ask(at, "view")
        return view

    def _wait_for_no_problems(self) -> None:
        try:
            wait_until(lambda: not self._problems(), PATIENCE)
        except TimeoutError:
            problems = self._problems()
            if problems:
                raise ChaosError("\n".join(problems)) from None

    def _problems(self) -> list[str]:
        found = []
        views = {at: self._view(at) for at in PYTHONS}
        for at, view in views.items():
            model = self._model.problems(at, view, _references(view))
            found += [
                f"{at}: {problem}" for problem in (*model, *_disagreements(view, self._excused))
            ]
            lines = str(self._world.pythons[at].log).splitlines()
            # That a link is cut is an error indeed.
            errors = [one for one in lines if _ERROR.search(one) and "net_ticktime" not in one]
            if errors:
                found.append(f"{at} has logged:\n" + "\n".join(lines))
        for name, process in self._processes.items():
            source = "element(2, process_info(P, monitored_by))"
            watchers = self._world.beams[_beam(name)].eval(source, P=process.pid)
            nodes = sorted(pid.node for pid in watchers if isinstance(pid, Pid))
            nodes = [node for node in nodes if node != process.pid.node]
            expected = [
                self._world.names[at] for at, v in views.items() if process.pid in v.watched
            ]
            if nodes != sorted(expected):
                found.append(f"{name} is monitored by {nodes}, and not by {expected}")
        return found

    def _look_closely(self, at: str, view: View) -> None:
        """Ask as users do."""
        beam = self._world.beams[BEAMS[0]]

        def ask(*request: Any) -> Any:
            term = request if len(request) > 1 else request[0]
            names = {"N": Atom(self._world.names[at]), "R": term, "T": _TIMEOUT}
            return beam.eval(_CALL, **names, timeout=PATIENCE)

        info = ask(Atom("info"))[1]
        seen = (info["sessions"], info["refs"], info["running_calls"])
        if seen != (*view.counts[:2], 0):
            raise ChaosError(f"{at} says {info}, and has {view.counts}")
        sessions = ask(Atom("sessions"))[1]
        for name, session in sessions.items():
            if set(session["owners"]) != view.sessions[name].owners or session["running"]:
                raise ChaosError(f"{at} says {session}, and has {view.sessions[name]}")
        there = _references(view)
        for number, obj in self._model.objects.items():
            if obj.at != at or obj.settled:
                continue
            answer = ask(Atom("method"), obj.ref, "ping", [], {})
            if obj.reference in there and obj.reasons <= {"expired"}:
                certain = not obj.reasons
                _allow(answer, obj.reasons, certain=certain)
            elif obj.reference not in there:
                if answer[0] == OK or str(answer[1]["reason"]) not in obj.reasons:
                    raise ChaosError(f"object {number}: {answer}, but {obj.reasons} is expected")
                obj.settle(str(answer[1]["reason"]))


def _beam(process: str) -> str:
    """Return the node of a process."""
    return process.partition("/")[0]


def _allow(answer: Any, reasons: set[str], *, certain: bool) -> bool:
    """Return whether a request has succeeded; it must have, if that is certain."""
    if answer == OK or answer[0] == OK:
        return True
    error = answer[1]
    reason = str(error.get(Atom("reason"), error.get(Atom("type"))))
    if certain or reason not in reasons | {"pynode.CallInterrupted"}:
        raise ChaosError(f"the answer is {error}; certain: {certain}, or one of {reasons}")
    return False


def _references(view: View) -> set[Reference]:
    return {reference for session in view.sessions.values() for reference in session.refs}


def _disagreements(view: View, excused: set[Pid]) -> list[str]:
    """Return what in a node does not agree with the rest of it."""
    owners = {pid for session in view.sessions.values() for pid in session.owners}
    refs = sum(len(session.refs) for session in view.sessions.values())
    wanted = {
        "counts": (view.counts, (len(view.sessions), refs, len(owners))),
        "calls that run": (view.calls, 0),
        "absent owners": (view.absent, set()),
        "watched processes": (view.watched, owners),
        "monitors": (view.monitors, len(owners)),
        "monitors of others": (set(view.monitored) - excused, set()),
        "living objects": (view.living, view.things),
        "entered objects": (view.entered, view.entered_in_registry),
    }
    found = [
        f"{what}: {seen}, and not {right}"
        for what, (seen, right) in wanted.items()
        if seen != right
    ]
    if sum(view.threads.values()) > _THREADS:
        found.append(f"too many threads: {view.threads}")
    return found


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def run(seed: int, count: int, log: Callable[[str], object] = _print) -> None:
    """Carry out the schedule of a seed in a world of its own; raises ChaosError."""
    log(f"seed {seed}")
    with World() as world:
        if world.why_uncuttable is not None:
            log(f"NO LINK IS CUT: {world.why_uncuttable}")
        Run(world, log).carry_out(Schedule(seed, count))


def main() -> None:
    """Run random seeds for some time, or one seed; stop at the first failure."""
    parser = argparse.ArgumentParser(prog="make chaos", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="stop after so many seconds")
    parser.add_argument("--seed", type=int, help="carry out the schedule of this seed alone")
    parser.add_argument("--events", type=int, default=200, help="in each schedule")
    args = parser.parse_args()
    start = time.monotonic()
    runs = 0
    while runs == 0 or (args.seed is None and time.monotonic() - start < args.seconds):
        seed = args.seed if args.seed is not None else secrets.randbelow(10**6)
        try:
            run(seed, args.events)
        except ChaosError as error:
            _print(f"\nFAILED: {error}\n\nTo replay it: make chaos SEED={seed}")
            sys.exit(1)
        runs += 1
    _print(f"{runs} schedules of {args.events} events, and all was as it must be")


if __name__ == "__main__":
    main()
