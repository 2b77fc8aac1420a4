"""What is measured, and the targets. To add a case, write a function and an entry in `CASES`."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from benchmarks import codecs
from benchmarks.contenders import (
    BYTES_1MB,
    BYTES_100MB,
    TEXT_1MB,
    CalledFromBeam,
    peak_memory,
)
from pynode.terms import Atom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.contenders import Contenders

_ALL = ("node", "elixir", "beam", "cnode", "port", "floor", "grpc")
_SQRT = (*_ALL, "bare")
_OURS = ("node", "elixir")
_THINGS, _FIRST_THINGS = 100_000, 2_000
_ITEMS, _BATCH = 1_000_000, 1_000


class Metric(NamedTuple):
    """One figure of a case.

    `targets` are limits for some contenders: of the ratio to the baseline, if the case has one and
    the figure is not `absolute`, else of the figure itself. `more` says that more is better.
    """

    name: str
    unit: str
    targets: Mapping[str, float] = {}
    more: bool = False
    absolute: bool = False


class Case(NamedTuple):
    """Something that is measured with several contenders.

    `measure` gets the contenders, the name of the one whose turn it is, and about how many seconds
    to take; it returns a figure for each of the `metrics`. With a `baseline`, which is one of the
    contenders, figures are also divided by those that it had in the same round.
    """

    title: str
    contenders: Sequence[str]
    measure: Callable[[Contenders, str, float], Sequence[float]]
    metrics: Sequence[Metric]
    baseline: str | None = None


def _round_trip(what: Any, all_: Contenders, name: str, seconds: float) -> Sequence[float]:
    return (all_.get(name).sample(what, seconds, 3).median,)


def _throughput(callers: int, all_: Contenders, name: str, seconds: float) -> Sequence[float]:
    return all_.get(name).rate(Atom("sqrt"), callers, seconds)


def _large(all_: Contenders, name: str, seconds: float) -> Sequence[float]:
    contender = all_.get(name)
    took: list[float] = []

    def run() -> None:
        took.append(contender.sample(BYTES_100MB, seconds, 3).median / 1000)

    peak = peak_memory(contender.process, run)
    return took[0], peak


def _called(all_: Contenders, name: str) -> CalledFromBeam:
    return cast("CalledFromBeam", all_.get(name))


def _method(all_: Contenders, name: str, seconds: float) -> Sequence[float]:
    source = "bench:method(Target, Milliseconds)"
    plain, method = _called(all_, name).ask(source, Milliseconds=round(seconds * 1000))
    return method, method / plain


def _beside(
    function: str, number: int, all_: Contenders, name: str, seconds: float
) -> Sequence[float]:
    (_, idle), (median, p99) = _called(all_, name).ask(
        "bench:beside(Target, Function, Argument, Number, Milliseconds)",
        Function=function,
        Argument=seconds + 0.5,
        Number=number,
        Milliseconds=round(seconds * 1000),
    )
    return (median / 1000, p99 / 1000) if function == "spin" else (p99 / 1000, p99 / idle)


def _stream(all_: Contenders, name: str, _seconds: float) -> Sequence[float]:
    source = "bench:stream(Target, Count, Batch)"
    return (_ITEMS / _called(all_, name).ask(source, Count=_ITEMS, Batch=_BATCH) * 1e6,)


def _memory_of_refs(all_: Contenders, _name: str, _seconds: float) -> Sequence[float]:
    """Hold refs of a fresh node: one that held some before has the memory for them already."""
    node = all_.start_pynode()
    contender = all_.gen_server(node.name, node.os_pid)
    owner = all_.driver.process()
    hold = functools.partial(owner.eval, Target=contender.target, timeout=300.0)
    try:
        make = f'{{call, <<"benchmarks.targets">>, <<"make">>, [{_THINGS + _FIRST_THINGS}], #{{}}}}'
        hold(f"{{gen_server, Node}} = Target, gen_server:call({{snakebridge, Node}}, {make})")
        hold(f"bench:hold(Target, 0, {_FIRST_THINGS})")
        before = contender.process.memory_full_info().uss
        hold(f"bench:hold(Target, {_FIRST_THINGS}, {_THINGS})")
        return ((contender.process.memory_full_info().uss - before) / _THINGS,)
    finally:
        owner.exit()
        node.kill()


def _start(all_: Contenders, name: str, _seconds: float) -> Sequence[float]:
    begin = time.perf_counter()
    node = all_.start_pynode() if name == "node" else all_.start_beam()
    took = (time.perf_counter() - begin) * 1000
    memory = all_.gen_server(node.name, node.os_pid).process.memory_info().rss
    node.kill()
    return took, memory / 2**20


def _codec(title: str, value: Callable[[], Any]) -> Case:
    def measure(_all: Contenders, name: str, seconds: float) -> Sequence[float]:
        return codecs.both_ways(name, value(), seconds)

    return Case(f"codec: {title}", codecs.NAMES, measure, _CODEC, "msgpack")


def _time(limit: float) -> Metric:
    return Metric("round trip", "µs", {"node": limit, "elixir": limit})


def _rates(*more: Metric) -> Sequence[Metric]:
    return (Metric("throughput", "calls/s", {"node": 1.75, "elixir": 1.5}, more=True), *more)


_CPU = Metric("CPU a call", "µs")
_CPU_128 = _CPU._replace(targets={"node": 0.8})


def _echo(title: str, what: Any, limit: float | None = 1.0) -> Case:
    metric = Metric("round trip", "µs") if limit is None else _time(limit)
    return Case(title, _ALL, functools.partial(_round_trip, what), (metric,), "beam")


def _sqrt(callers: int, cpu: Metric) -> Case:
    title = f"math.sqrt(16), {callers} callers"
    return Case(title, _SQRT, functools.partial(_throughput, callers), _rates(cpu), "beam")


_METHOD = (
    Metric("round trip", "µs"),
    Metric("to the sqrt call", "x", {"node": 1.3, "elixir": 1.3}),
)
_BESIDE_SPIN = (Metric("median", "ms", {"node": 3.0, "elixir": 3.0}), Metric("p99", "ms"))
_BESIDE_SLEEP = (Metric("p99", "ms"), Metric("to idle", "x", {"node": 1.5, "elixir": 1.5}))
_STREAM = (Metric("items", "1/s", {"node": 1e6, "elixir": 1e6}, more=True),)
_REFS = (Metric("beyond the object", "bytes", {"node": 300.0}),)
_STARTED = (Metric("exec to ready", "ms", {"node": 250.0}), Metric("memory", "MB", {"node": 30.0}))
_LARGE = (
    Metric("round trip", "ms", {"node": 1.0, "elixir": 1.0}),
    Metric("peak memory", "MB", {"node": 250.0}, absolute=True),
)
_CODEC = (Metric("encode", "µs", {"etf-c": 1.5}), Metric("decode", "µs", {"etf-c": 1.5}))

#: All cases, by the names that ``--cases`` takes.
CASES: dict[str, Case] = {
    "sqrt-1": _echo("math.sqrt(16), one caller", Atom("sqrt"))._replace(contenders=_SQRT),
    "sqrt-16": _sqrt(16, _CPU),
    "sqrt-128": _sqrt(128, _CPU_128),
    "echo-maps": _echo("echo of a map of 100 maps", Atom("maps")),
    "echo-integers": _echo("echo of 10,000 integers", Atom("integers")),
    "echo-1mb": _echo("echo of 1 MB", BYTES_1MB),
    "echo-text": _echo("echo of 1 MB of text", TEXT_1MB, None),
    "echo-100mb": Case("echo of 100 MB", _ALL, _large, _LARGE, "beam"),
    "method": Case("method on a ref, result a new ref", _OURS, _method, _METHOD),
    "beside-spin": Case(
        "sqrt beside pure Python", _OURS, functools.partial(_beside, "spin", 1), _BESIDE_SPIN
    ),
    "beside-sleep": Case(
        "sqrt beside 10 that sleep", _OURS, functools.partial(_beside, "sleep", 10), _BESIDE_SLEEP
    ),
    "stream": Case("stream of 1,000,000 integers", _OURS, _stream, _STREAM),
    "refs": Case("memory of a ref, 100,000 refs", ("node",), _memory_of_refs, _REFS),
    "start": Case("start", ("node", "beam"), _start, _STARTED),
} | {f"codec-{name}": _codec(*value) for name, value in codecs.VALUES.items()}
