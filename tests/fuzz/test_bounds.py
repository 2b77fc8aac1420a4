"""What a peer can cost in memory and time, where no limit of the codec says it already."""

from __future__ import annotations

import secrets
import struct
import time
import tracemalloc
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from pynode import etf, values
from pynode.config import LIMITS
from pynode.errors import HandshakeError
from pynode.protocol.flags import DEFAULT, MANDATORY
from pynode.protocol.handshake import Handshake
from pynode.terms import Atom, Map

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Integers with this distance have the same hash value.
M = 2**61 - 1


@contextmanager
def cheap(*, seconds: float = 1.0, memory: int = 1_000_000) -> Iterator[None]:
    """Fail if what is done inside takes more: CPU seconds, or bytes at any time."""
    tracemalloc.start()
    begun = time.process_time()
    try:
        yield
        assert time.process_time() - begun < seconds
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()


def decoded(term: Any) -> Any:
    return values.decode(etf.encode(term)[1:], fun=lambda fun: fun)


def a_struct(name: str, **fields: Any) -> dict[Atom, Any]:
    return values.struct(name, **fields)


# --- structs whose fields are chosen to be expensive: they stay maps


@pytest.mark.parametrize(
    "members",
    [
        pytest.param(a_struct("Range", first=0, last=10**7, step=1), id="range"),
        pytest.param([n * M for n in range(20_000)], id="list"),
        pytest.param("text", id="text"),
        pytest.param(5, id="number"),
    ],
)
def test_a_set_that_elixir_would_not_have_made(members: Any) -> None:
    data = etf.encode(a_struct("MapSet", map=members, version=2))[1:]
    with cheap(memory=5_000_000):
        value = values.decode(data, fun=lambda fun: fun)
    assert type(value) is dict
    assert value["__struct__"] == "Elixir.MapSet"


def test_a_set_of_sets_with_equal_hashes() -> None:
    def sets(number: int) -> Any:
        members: Any = [(a_struct("MapSet", map={n * M: []}, version=2), []) for n in range(number)]
        return a_struct("MapSet", map=Map(members), version=2)

    few = decoded(sets(LIMITS.collisions))
    assert len(few) == LIMITS.collisions
    assert all(type(member) is frozenset for member in few)
    assert type(decoded(sets(1_000))) is dict


def test_a_set_of_what_is_nested_too_deep_to_be_hashed() -> None:
    deep: Any = ()
    for _ in range(9_000):
        deep = (deep,)
    inner = a_struct("MapSet", map={}, version=2)
    value = decoded(a_struct("MapSet", map=Map([(deep, []), (inner, [])]), version=2))
    assert type(value) is dict


def test_limit_of_decimal_digits() -> None:
    most = 10**LIMITS.decimal_digits - 1
    value = decoded(a_struct("Decimal", sign=-1, coef=most, exp=-3))
    assert type(value) is Decimal
    assert decoded(values.to_term(value)) == value
    beyond = a_struct("Decimal", sign=1, coef=most + 1, exp=0)
    assert decoded(beyond) == beyond


def test_a_number_of_a_million_digits_is_no_decimal() -> None:
    term = a_struct("Decimal", sign=1, coef=1 << 4_000_000, exp=0)
    with cheap(memory=10_000_000):
        assert type(decoded(term)) is dict
    # The sign and the exponent are numbers, too.
    with cheap(memory=10_000_000):
        decoded(a_struct("Decimal", sign=1 << 4_000_000, coef=Atom("inf"), exp=0))
        assert type(decoded(a_struct("Decimal", sign=1, coef=1, exp=1 << 4_000_000))) is dict


def test_exponents_and_offsets_beyond_all_reason() -> None:
    with cheap():
        huge = a_struct("Decimal", sign=1, coef=15, exp=10**9)
        assert decoded(huge) == Decimal((0, (1, 5), 10**9))
        assert decoded(Map([(huge, 1), (1, 2)])) == {decoded(huge): 1, 1: 2}
        moment = a_struct("DateTime", utc_offset=10**30, std_offset=0, time_zone="x" * 100_000)
        assert type(decoded(moment)) is dict
        numbers = decoded(a_struct("Range", first=-(10**30), last=10**30, step=1))
        assert numbers == range(-(10**30), 10**30 + 1)


# --- the handshake


def test_flags_of_strangers_leave_nothing_behind() -> None:
    """An enumeration keeps each value that it was made of; see `pynode.protocol.flags.expand`."""

    def say_a_name(flags: int) -> None:
        name = b"evil@127.0.0.1"
        packet = struct.pack(">cQIH", b"N", flags, 1, len(name)) + name
        handshake = Handshake.acceptor("py@127.0.0.1", "cookie", DEFAULT, 1)
        handshake.receive_data(len(packet).to_bytes(2) + packet)
        with suppress(HandshakeError):
            handshake.next_event()
            handshake.send_status("ok")

    def say_names() -> None:
        for _ in range(1_000):
            flags = secrets.randbits(64)
            say_a_name(flags)
            say_a_name(flags | int(MANDATORY))

    say_names()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        say_names()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()
