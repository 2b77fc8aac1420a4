"""The decoder of the External Term Format, in every implementation that there is.

The outcome is a term, which encodes and is the same again, or a DecodeError; and it is the same
in all implementations.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pynode.config import Limits
from pynode.errors import DecodeError
from pynode.etf import tags
from tests.etf.conftest import IMPLEMENTATIONS
from tests.fuzz.documented import check_sentence

if TYPE_CHECKING:
    from types import ModuleType

#: So low that a short input reaches them.
LIMITS = Limits(terms=500, depth=120, collisions=8, decompressed=2_000)
VECTORS = sorted(Path(__file__).parents[1].glob("etf/vectors-*.txt"))
DICTIONARY = [
    *(bytes((value,)) for name, value in sorted(vars(tags).items()) if name.isupper()),
    *(b"w\x03nil", b"w\x04true", b"w\x0a__struct__", b"\0\0\0\x01", b"\xff\xff\xff\xff"),
]

#: What no BEAM of today sends, or nobody at all: old forms, depths, and keys that are hard to hash.
_RARE = [
    b"r\0\2w\1a\3\0\0\0\1\0\0\0\2",
    b"e" + b"w\1a\0\0\0\1\3",
    b"h\1" * 119 + b"j",
    b"h\1" * 121 + b"j",
    b"t\0\0\0\2" + b"h\1" * 110 + b"jja\1j",
    b"t\0\0\0\2" * 3 + b"a\1j" * 4 + b"jj",
    b"t\0\0\0\1" * 30 + b"j" * 31,
    b"l\0\0\0\x14" + b"a\1" * 20 + b"j",
]

_modules: list[ModuleType] = [importlib.import_module(name) for name in IMPLEMENTATIONS.values()]


def seeds() -> list[bytes]:
    """Return what a BEAM's term_to_binary has made, compressed terms included."""
    lines = [line for path in VECTORS for line in path.read_text(encoding="ascii").splitlines()]
    made = [bytes.fromhex(line.split()[2]) for line in lines if not line.startswith("#")]
    return made + [b"\x83" + data for data in _RARE]


def check(data: bytes) -> None:
    """Decode `data` as a whole, and without the version byte as a part of something."""
    outcomes = [_outcome(etf, data) for etf in _modules]
    assert all(outcome == outcomes[0] for outcome in outcomes)


def _outcome(etf: ModuleType, data: bytes) -> tuple[Any, ...]:
    """Return what came of `data`: how it is encoded again, and where it ended."""
    outcome: list[Any] = []
    try:
        term = etf.decode(data, limits=LIMITS)
    except DecodeError as error:
        check_sentence(error)
        outcome.append(None)
    else:
        outcome.append(_encoded(etf, term))
    try:
        term, end = etf.decode_at(data, 1, limits=LIMITS)
    except DecodeError as error:
        check_sentence(error)
        outcome.append(None)
    else:
        assert 1 < end <= len(data)
        outcome += (_encoded(etf, term), end)
    return tuple(outcome)


def _encoded(etf: ModuleType, term: Any) -> bytes:
    encoded: bytes = etf.encode(term)
    assert etf.encode(etf.decode(encoded)) == encoded
    return encoded
