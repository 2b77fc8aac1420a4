"""The codec alone, beside msgpack: no node, this process only."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import MissingError
from pynode.etf import _pure
from pynode.terms import Atom

if TYPE_CHECKING:
    from collections.abc import Callable


def _tree(depth: int) -> Any:
    return [_tree(depth - 1), _tree(depth - 1)] if depth else 7


def _deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


_ID, _NAME, _ACTIVE = Atom("id"), Atom("name"), Atom("active")
#: The values, by the name of their case: a title, and what makes it.
VALUES: dict[str, tuple[str, Callable[[], Any]]] = {
    "integers": ("10,000 integers", lambda: list(range(10_000))),
    "maps": (
        "1,000 maps with atom keys",
        lambda: [{_ID: n, _NAME: "somebody", _ACTIVE: True} for n in range(1_000)],
    ),
    "strings": ("100,000 strings", lambda: [f"text {n}" for n in range(100_000)]),
    "binary": ("1 MB binary", lambda: b"\xc8" * (1 << 20)),
    "deep": ("200 levels", lambda: _deep(200)),
    "tree": ("tree of 4,096 integers", lambda: _tree(12)),
}
#: The contenders: no processes, unlike those of `Contenders`.
NAMES = ("etf-c", "etf-python", "msgpack")


def functions(name: str) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Return what encodes and what decodes; raises MissingError if that is not installed."""
    try:
        if name == "msgpack":
            import msgpack  # noqa: PLC0415 (an optional package)

            return msgpack.packb, msgpack.unpackb
        if name == "etf-c":
            from pynode.etf import _compiled  # noqa: PLC0415 (as msgpack)

            return _compiled.encode, _compiled.decode
    except ImportError as error:
        raise MissingError(str(error)) from None
    return _pure.encode, _pure.decode


def both_ways(name: str, value: Any, seconds: float) -> tuple[float, float]:
    """Return the microseconds that encoding and decoding take."""
    encode, decode = functions(name)
    encoded = encode(value)
    assert decode(encoded) == value
    return _median(encode, value, seconds / 2), _median(decode, encoded, seconds / 2)


def _median(function: Callable[[Any], Any], argument: Any, seconds: float) -> float:
    took: list[int] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or not took:
        start = time.perf_counter_ns()
        function(argument)
        took.append(time.perf_counter_ns() - start)
    return statistics.median(took) / 1000
