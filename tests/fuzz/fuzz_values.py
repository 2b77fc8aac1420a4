"""The value mapping: payloads become Python values, structs of Elixir among them.

The outcome is a value, which travels back or is an EncodeError to who sends it, or a DecodeError.
"""

from __future__ import annotations

from pynode import values
from pynode.errors import DecodeError, EncodeError
from tests.fuzz import fuzz_codec
from tests.fuzz.documented import check_sentence
from tests.fuzz.vectors import vectors

_NAMES = [
    *("MapSet", "Range", "Decimal", "Date", "Time", "NaiveDateTime", "DateTime"),
    *("SnakeBridge.Ref", "SnakeBridge.Bytes", "Calendar.ISO"),
]
DICTIONARY = [
    *fuzz_codec.DICTIONARY,
    *(b"w" + bytes((7 + len(name),)) + b"Elixir." + name.encode() for name in _NAMES),
    *(b"w" + bytes((len(name),)) + name.encode() for name in ("map", "coef", "exp", "sign", "inf")),
    b"o\0\0\x10\0\0",
]


def seeds() -> list[bytes]:
    """Return what Elixir makes of its structs, and what callers ask for."""
    return [*vectors("values").values(), *vectors("bridge").values()]


def check(data: bytes) -> None:
    """Decode `data` as a message's payload, and encode what comes of it."""
    try:
        value = values.decode(data, fun=lambda fun: fun)
    except DecodeError as error:
        check_sentence(error)
        return
    try:
        again = values.encode(value)
    except EncodeError as error:
        check_sentence(error)
        return
    values.decode(again, fun=lambda fun: fun)
