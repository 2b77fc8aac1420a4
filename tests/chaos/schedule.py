"""What happens, and in which order: a pure function of a seed.

Nothing here knows what the events have done. What the scheduler keeps in mind follows from its own
choices: which nodes are up, which processes have not been killed, which links are cut.
"""

from __future__ import annotations

import random
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

BEAMS = ("b0", "b1", "b2")
PYTHONS = ("p0", "p1")
HOSTS = (*BEAMS, *PYTHONS)

_SESSIONS = ("s0", "s1", "s2", "s3", "s4")
_PROCESSES_PER_BEAM = 4
#: An object that was made so many events ago is not thought of any more.
_MEMORY = 60
_SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    {"grace_seconds": 600},
    {"grace_seconds": 600},
    {"grace_seconds": 0.3},
    {"max_refs": 3},
    {"ttl_seconds": 0.2},
    {"cancel_on_timeout": True},
    {"own_thread": True},
)
#: How often each event is drawn, in proportion. `quiet` comes when it is time.
_WEIGHTS = {
    "spawn": 12,
    "kill": 4,
    "open": 12,
    "make": 24,
    "use": 14,
    "twin": 7,
    "enter": 3,
    "release": 6,
    "end": 3,
    "give": 8,
    "hold": 5,
    "let_go": 3,
    "give_up": 2,
    "cancel": 1,
    "die_calling": 3,
    "borrow": 3,
    "disconnect": 3,
    "cut": 3,
    "restore": 3,
    "lose": 1,
    "crash": 1,
    "boot": 3,
}


class Event(NamedTuple):
    """One thing that happens; an object is called by the number of the event that makes it."""

    number: int
    kind: str
    args: dict[str, Any]

    def __str__(self) -> str:
        return " ".join(
            [f"{self.number:4}", self.kind, *(f"{k}={v}" for k, v in self.args.items())]
        )


class Schedule:
    """The events of one run, `count` of them, with a quiet moment after each `stretch`."""

    def __init__(self, seed: int, count: int, stretch: int = 50) -> None:
        self._rng = random.Random(seed)
        self._count = count
        self._stretch = stretch
        self._number = 0
        self._up = set(HOSTS)
        self._cuts: list[tuple[str, str]] = []
        #: Processes that were not killed, in the order of their birth.
        self._processes: list[str] = []
        #: Objects by number, and where they are.
        self._made: list[tuple[int, str]] = []
        self._held: list[tuple[str, str]] = []

    def __iter__(self) -> Iterator[Event]:
        kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        while self._number < self._count:
            self._number += 1
            if self._number % self._stretch == 0 or self._number == self._count:
                self._up, self._cuts, self._held = set(HOSTS), [], []
                yield Event(self._number, "quiet", {})
                continue
            args = None
            while args is None:  # It has to be possible.
                kind = self._rng.choices(kinds, weights)[0]
                try:
                    args = getattr(self, f"_{kind}")()
                except IndexError:  # There is nothing to choose from.
                    continue
            yield Event(self._number, kind, args)

    # --- choices

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _process(self) -> str:
        return self._rng.choice(self._processes)

    def _python(self) -> str:
        return self._rng.choice([python for python in PYTHONS if python in self._up])

    def _object(self) -> tuple[int, str]:
        return self._rng.choice([o for o in self._made if o[0] > self._number - _MEMORY])

    def _request(self, *, implicit: float = 0.0) -> dict[str, Any]:
        """Who sends a request where, whether it waits for the answer, and which session it names.

        A session is named or is that of an object; with the probability `implicit` it is neither.
        """
        at = self._python()
        session: str | int | None = self._rng.choice(_SESSIONS)
        here = [number for number, where in self._made[-10:] if where == at]
        if here and self._chance(0.2):
            session = self._rng.choice(here)
        if self._chance(implicit):
            session = None
        return {"at": at, "by": self._process(), "session": session, "later": self._chance(0.2)}

    def _request_about_object(self) -> dict[str, Any]:
        number, at = self._object()
        return {"at": at, "by": self._process(), "ref": number, "later": self._chance(0.2)}

    # --- processes

    def _spawn(self) -> dict[str, Any] | None:
        beam = self._rng.choice([beam for beam in BEAMS if beam in self._up])
        if sum(name.startswith(beam) for name in self._processes) == _PROCESSES_PER_BEAM:
            return None
        name = f"{beam}/{self._number}"
        self._processes.append(name)
        return {"process": name}

    def _kill(self) -> dict[str, Any]:
        return {"process": self._doomed(), "later": self._chance(0.5)}

    def _doomed(self) -> str:
        process = self._process()
        self._processes.remove(process)
        return process

    # --- requests

    def _open(self) -> dict[str, Any]:
        args = self._request()
        owner = args["by"] if self._chance(0.5) else self._process()
        return args | {"owner": owner, "settings": self._rng.choice(_SETTINGS)}

    def _make(self) -> dict[str, Any]:
        args = self._request(implicit=0.4)
        self._made.append((self._number, args["at"]))
        return args

    def _use(self) -> dict[str, Any]:
        return self._request_about_object()

    def _twin(self) -> dict[str, Any]:
        args = self._request_about_object()
        self._made.append((self._number, args["at"]))
        return args

    def _enter(self) -> dict[str, Any]:
        return self._request_about_object()

    def _release(self) -> dict[str, Any]:
        return self._request_about_object()

    def _end(self) -> dict[str, Any]:
        return self._request()

    def _give(self) -> dict[str, Any]:
        args = self._request()
        giver = args["by"] if self._chance(0.7) else self._process()
        return args | {"giver": giver, "receiver": self._process()}

    def _hold(self) -> dict[str, Any]:
        args = self._request(implicit=0.4)
        key = f"hold{self._number}"
        self._held.append((args["at"], key))
        return args | {"key": key}

    def _let_go(self) -> dict[str, Any]:
        at, key = self._rng.choice(self._held)
        self._held.remove((at, key))
        return {"at": at, "key": key}

    def _give_up(self) -> dict[str, Any]:
        return self._hold()

    def _cancel(self) -> dict[str, Any]:
        return {"at": self._python(), "by": self._process(), "whom": self._process()}

    def _die_calling(self) -> dict[str, Any]:
        args = self._request(implicit=0.4)
        return args | {"by": self._doomed()}

    def _borrow(self) -> dict[str, Any]:
        return self._request_about_object() | {"on": self._rng.choice(BEAMS)}

    # --- nodes and links

    def _disconnect(self) -> dict[str, Any]:
        beam = self._rng.choice([beam for beam in BEAMS if beam in self._up])
        side = self._rng.choice(("beam", "python"))
        return {"at": self._python(), "beam": beam, "side": side, "later": self._chance(0.3)}

    def _cut(self) -> dict[str, Any]:
        link = self._rng.choice([c for c in combinations(HOSTS, 2) if c not in self._cuts])
        self._cuts.append(link)
        return {"link": link}

    def _restore(self) -> dict[str, Any]:
        link = self._rng.choice(self._cuts)
        self._cuts.remove(link)
        return {"link": link}

    def _lose(self) -> dict[str, Any]:
        """A cut lasts until it is noticed."""
        usable = [c for c in self._cuts if c[0] in BEAMS and c[1] in PYTHONS and c[1] in self._up]
        beam, python = self._rng.choice(usable)
        return {"beam": beam, "at": python}

    def _crash(self) -> dict[str, Any] | None:
        if self._up != set(HOSTS):
            return None
        host = self._rng.choice(HOSTS)
        self._up.remove(host)
        self._processes = [name for name in self._processes if not name.startswith(host)]
        self._made = [one for one in self._made if one[1] != host or self._chance(0.3)]
        self._held = [one for one in self._held if one[0] != host]
        return {"host": host}

    def _boot(self) -> dict[str, Any]:
        host = self._rng.choice([host for host in HOSTS if host not in self._up])
        self._up.add(host)
        return {"host": host}
