"""Whatever becomes of a term, nothing of it is kept: what counts is the number of memory blocks."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pynode.config import Limits
from pynode.errors import DecodeError, EncodeError
from pynode.terms import Atom, BitString, ExternalFun, Fun, ImproperList, Map, Pid, Port, Reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

NODE = Atom("leak@host")
PID = Pid(NODE, 1, 2, 3)
FUN = Fun(1, bytes(16), 2, Atom("m"), 3, 4, PID, ([1, "x"], PID))
DEEP: Any = "bottom"
for _ in range(300):
    DEEP = [DEEP]
TERM = {
    Atom("all"): [None, True, 0, -1, 10**30, 1.5, "text", "été", b"\xff", BitString(b"\x80", 1)],
    "lists": [[], [1, 2, 3], [1, 2, 300], (), (1,) * 300, ImproperList((1,), Atom("tail"))],
    b"\xff": {1: PID, 2.0: Port(NODE, 1, 3), None: Reference(NODE, 3, (1, 2, 3))},
    Atom("rare"): (FUN, ExternalFun(Atom("m"), Atom("f"), 1), Map([([1], 2), ((1,), {})]), DEEP),
    Atom("large"): {n: {Atom("__struct__"): Atom("x"), Atom("n"): n} for n in range(100)},
}


def leaks(function: Callable[[], object]) -> int:
    """How many blocks of memory each call leaves behind, if any."""
    for _ in range(20):
        function()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(200):
        function()
    gc.collect()
    # Caches may have been emptied meanwhile.
    return max(0, sys.getallocatedblocks() - before) // 100


def test_what_goes_well(etf: ModuleType) -> None:
    encoded = etf.encode(TERM)
    hooks = {"struct": lambda fields: (fields,), "fun": lambda fun: [fun]}
    assert leaks(lambda: etf.decode(encoded)) == 0
    assert leaks(lambda: etf.decode(encoded, **hooks)) == 0
    assert leaks(lambda: etf.encode(TERM)) == 0
    assert leaks(lambda: etf.encode([object()], default=lambda value: [1, str(value)])) == 0


def test_what_ends_in_the_middle(etf: ModuleType) -> None:
    encoded = etf.encode(TERM)
    cuts = [*range(1, 300), *range(300, len(encoded), 97)]

    def cut() -> None:
        for size in cuts[:: len(cuts) // 30]:
            with pytest.raises(DecodeError):
                etf.decode(encoded[:size])
        with pytest.raises(DecodeError):
            etf.decode(encoded, limits=Limits(terms=100))
        with pytest.raises(DecodeError):
            etf.decode(encoded, limits=Limits(depth=10))

    assert leaks(cut) == 0


def test_what_raises(etf: ModuleType) -> None:
    def refuse(_: Any) -> Any:
        raise ZeroDivisionError

    encoded = etf.encode(TERM)
    cycle: list[Any] = []
    cycle.append(cycle)

    def fail() -> None:
        for hooks in ({"struct": refuse}, {"fun": refuse}):
            with pytest.raises(ZeroDivisionError):
                etf.decode(encoded, **hooks)
        with pytest.raises(ZeroDivisionError):
            etf.encode([TERM, object()], default=refuse)
        for wrong in (cycle, {"a": 1, b"a": 2}, ["\ud800"], [object()], {(): "\ud800"}):
            with pytest.raises(EncodeError):
                etf.encode(wrong)

    assert leaks(fail) == 0
