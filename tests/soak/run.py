"""The endurance test of ``make soak``: ``python -m tests.soak.run [OWNERS [CROWD]]``.

OWNERS owners come and go, and the node must not have grown since the first ten thousand. Then twice
CROWD owners die in one instant, by one exit signal and with their BEAM node, and what they owned
must be gone at once, while the calls of another session hardly notice. Prints the figures, and ends
with status 1 if one of them is too large.
"""

from __future__ import annotations

import functools
import secrets
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pynode.testing import BeamNode, Epmd, PynodeProcess
from tests.soak.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable

OWNERS, CROWD = 1_000_000, 10_000
#: Owners after which the node is full grown, and between two lines of output.
_FIRST, _STEP = 10_000, 50_000
#: The part by which it may grow after that.
_GROWTH = 0.05
#: Seconds until the objects of a crowd are freed, and milliseconds that calls take meanwhile.
_SECONDS, _P99 = 2.0, 20.0


def come_and_go(load: Load, owners: int) -> bool:
    """Whether the node is as large after so many owners as after the first ten thousand."""
    beam = load.new_beam()
    load.churn(beam, _FIRST)
    first = memory = load.memory()
    _say(f"{_FIRST:>9,} owners: {first / 2**20:.2f} MiB")
    began, done = time.monotonic(), _FIRST
    while done < owners:
        step = min(_STEP - done % _STEP, owners - done)
        load.churn(beam, step)
        done += step
        memory = load.memory()
        rate = (done - _FIRST) / (time.monotonic() - began)
        growth = f"{memory / first - 1:+.1%}"
        _say(f"{done:>9,} owners: {memory / 2**20:.2f} MiB ({growth}), {rate:.0f} a second")
    beam.stop()
    _say(f"left of them: {load.census()}")
    return memory <= first * (1 + _GROWTH)


def die_at_once(load: Load, crowd: int, *, with_node: bool) -> bool:
    """Whether so many owners that die in one instant are released in time."""
    beam = load.new_beam()
    kill = load.crowd(beam, crowd)
    seconds, calls = load.release(beam.kill if with_node else kill)
    how = "with their node" if with_node else "by one exit signal"
    _say(f"{crowd:,} owners that died {how}: released in {seconds:.2f} s; meanwhile {calls}")
    beam.kill()
    return seconds <= _SECONDS and calls.p99 <= _P99


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 (for whoever waits for it)


def main() -> None:
    owners, crowd = (*map(int, sys.argv[1:]), *(OWNERS, CROWD)[len(sys.argv) - 1 :])
    with ExitStack() as stack:

        def start(kind: Callable[..., Any], *args: Any, **options: Any) -> Any:
            return stack.enter_context(kind(*args, cookie=cookie, epmd=epmd, **options))

        cookie = secrets.token_hex(10)
        epmd = stack.enter_context(Epmd())
        load = Load(functools.partial(start, BeamNode), functools.partial(start, PynodeProcess))
        kept = [come_and_go(load, owners)]
        _say(f"at rest: {load.calls(1_000)}")
        kept += [die_at_once(load, crowd, with_node=with_node) for with_node in (False, True)]
        log = str(load.python.log)
    if log:
        _say(f"The node has logged:\n{log}")
    _say("passed" if all(kept) and not log else "failed")
    sys.exit(not all(kept) or bool(log))


if __name__ == "__main__":
    main()
