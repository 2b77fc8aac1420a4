"""The load of the endurance tests: a Python node, and BEAM nodes that run ``soak.erl``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psutil

from pynode.terms import Atom
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.testing import BeamNode, PynodeProcess

FOLDER = Path(__file__).parent
#: What a census must find none of when all owners are gone.
LEFT = ("alive", "open", "sessions", "refs", "owners", "monitors", "calls")
#: Owners that live at the same time, where they come and go.
_WIDTH = 100
#: Microseconds from one call of the other session to the next.
_INTERVAL = 5_000
#: Seconds that anything may take: what it should take, the tests say.
_PATIENCE = 600.0


class Calls(NamedTuple):
    """How long calls took, in milliseconds."""

    number: int
    median: float
    p99: float
    worst: float

    @classmethod
    def of(cls, microseconds: list[int]) -> Self:
        """Return the figures of calls that took so long."""
        took = sorted(each / 1000 for each in microseconds)
        return cls(len(took), took[len(took) // 2], took[len(took) * 99 // 100], took[-1])

    def __str__(self) -> str:
        return (
            f"{self.number} calls, median {self.median:.1f} ms, p99 {self.p99:.1f} ms, "
            f"worst {self.worst:.1f} ms"
        )


class Release(NamedTuple):
    """How many seconds after their owners the last object was freed, and what calls took then."""

    seconds: float
    calls: Calls


class Load:
    """A Python node, BEAM nodes whose processes own objects, and one with another session.

    `start_beam` and `start_python` are `BeamNode` and `PynodeProcess` for nodes of one cluster.
    """

    def __init__(
        self, start_beam: Callable[[], BeamNode], start_python: Callable[..., PynodeProcess]
    ) -> None:
        self._start_beam = start_beam
        self.python = start_python(
            None,
            *("--setup", "tests.soak.objects:setup", "--log-level", "warning"),
            env={"PYTHONPATH": str(FOLDER.parents[1])},
        )
        self._name = Atom(self.python.name)
        self._other = self.new_beam()

    def new_beam(self) -> BeamNode:
        """Start a BEAM node for owners."""
        beam = self._start_beam()
        beam.load_module((FOLDER / "soak.erl").read_text(encoding="utf-8"))
        return beam

    def churn(self, beam: BeamNode, count: int) -> dict[Any, int]:
        """Let so many owners come and go; return how many ended for which reason."""
        source = "soak:churn(Node, Count, Width)"
        ends = beam.eval(source, Node=self._name, Count=count, Width=_WIDTH, timeout=_PATIENCE)
        self.wait_for_nobody()
        return dict(ends)

    def crowd(self, beam: BeamNode, count: int) -> Callable[[], None]:
        """Bring so many owners to life; return what kills them in one instant."""
        source = "soak:crowd(Node, Count)"
        keeper = beam.eval(source, Node=self._name, Count=count, timeout=_PATIENCE)
        return lambda: beam.eval("exit(Keeper, kill)", Keeper=keeper)

    def release(self, kill: Callable[[], None]) -> Release:
        """Have a crowd killed, and see how long it takes until all that it owned is freed."""
        caller = self._other.process()
        before = self.census()["sessions"]
        source = "soak:probe(Node, Interval, infinity)"
        probe = caller.start_eval(source, Node=self._name, Interval=_INTERVAL)
        wait_until(lambda: self.census()["sessions"] > before)
        begin = time.time() * 1e6
        kill()
        wait_until(lambda: self.census()["alive"] == 0, _PATIENCE)
        end = self._ask("last_end")
        self._other.eval("Caller ! stop", Caller=caller.pid)
        took = [each for due, each in probe.result(_PATIENCE) if begin <= due <= end]
        caller.exit()
        self.wait_for_nobody()
        return Release((end - begin) / 1e6, Calls.of(took))

    def calls(self, count: int) -> Calls:
        """Return how long calls of the other session take when there is nothing else to do."""
        source = "soak:probe(Node, Interval, Count)"
        samples = self._other.eval(source, Node=self._name, Interval=_INTERVAL, Count=count)
        return Calls.of([each for _, each in samples])

    def census(self) -> dict[str, int]:
        """Return what `objects.census` does."""
        census: dict[str, int] = self._ask("census")
        return census

    def wait_for_nobody(self) -> dict[str, int]:
        """Wait until nothing of any owner is left; return the last census."""

        def nobody() -> dict[str, int] | None:
            census = self.census()
            return None if any(census[what] for what in LEFT) else census

        found = wait_until(nobody, _PATIENCE)
        assert found is not None
        return found

    def memory(self) -> int:
        """Return how many bytes the Python node has for itself (its USS)."""
        return int(psutil.Process(self.python.os_pid).memory_full_info().uss)

    def _ask(self, function: str) -> Any:
        request: tuple[Any, ...] = (Atom("call"), "tests.soak.objects", function, [], {})
        source = "{ok, Value} = gen_server:call({snakebridge, Node}, Request, infinity), Value"
        return self._other.eval(source, Node=self._name, Request=request, timeout=_PATIENCE)
