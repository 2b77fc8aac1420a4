"""Properties of the codec: round trips, and that damaged bytes are a value or a DecodeError."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pynode.config import Limits
from pynode.errors import DecodeError, EncodeError
from pynode.terms import (
    Atom,
    BitString,
    ExternalFun,
    Fun,
    ImproperList,
    Map,
    Pid,
    Port,
    Reference,
    exact,
)

if TYPE_CHECKING:
    from types import ModuleType

WORD = st.integers(0, 0xFFFFFFFF)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ATOMS = TEXT.map(Atom) | st.integers(0, 255).map(lambda size: Atom("é" * size))
NAMES = ATOMS.map(lambda atom: Atom("x") if atom in {"nil", "true", "false"} else atom)
PIDS = st.builds(Pid, ATOMS, WORD, WORD, WORD)
IDENTIFIERS = (
    PIDS
    | st.builds(Port, ATOMS, st.integers(0, (1 << 64) - 1), WORD)
    | st.builds(Reference, ATOMS, WORD, st.lists(WORD, min_size=1, max_size=5).map(tuple))
)
NUMBERS = (
    st.integers()
    | st.integers(-300, 300)
    | st.integers(-2_100, 2_100).map(lambda bits: (1 << abs(bits)) * (-1 if bits < 0 else 1))
    | st.floats(allow_nan=False, allow_infinity=False)
)
BINARIES = TEXT | st.binary(max_size=20).map(lambda data: b"\xff" + data if is_utf8(data) else data)
BITS = st.builds(BitString, st.binary(min_size=1, max_size=4), st.integers(1, 7))
SCALARS = (
    st.none()
    | st.booleans()
    | NUMBERS
    | BINARIES
    | NAMES
    | IDENTIFIERS
    | BITS
    | st.builds(ExternalFun, ATOMS, ATOMS, st.integers(0, 255))
)


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def as_map(pairs: list[tuple[Any, Any]]) -> Any:
    """Return a map as it is decoded: a dict if that can hold all the keys."""
    distinct = {exact(key): (key, value) for key, value in pairs}
    pairs = list(distinct.values())
    try:
        fields = dict(pairs)
    except TypeError:
        return Map(pairs)
    return fields if len(fields) == len(pairs) else Map(pairs)


def containers(terms: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(terms, max_size=5)
    tails = terms.map(lambda term: tuple(term) if isinstance(term, list) else term)
    return (
        lists
        | lists.map(tuple)
        | st.lists(st.tuples(terms, terms), max_size=5).map(as_map)
        | st.builds(ImproperList, st.lists(terms, min_size=1, max_size=3).map(tuple), tails)
        | st.builds(
            Fun,
            st.integers(0, 255),
            st.binary(min_size=16, max_size=16),
            WORD,
            ATOMS,
            st.integers(-0x80000000, 0x7FFFFFFF),
            st.integers(-0x80000000, 0x7FFFFFFF),
            PIDS,
            lists.map(tuple),
        )
    )


TERMS = st.recursive(SCALARS, containers, max_leaves=20)


def same(one: Any, other: Any) -> bool:
    """Whether two terms are the same for Erlang, and of the same types in Python."""
    return exact(one) == exact(other) and repr(one) == repr(other)


@given(term=TERMS)
def test_round_trip(etf: ModuleType, term: Any) -> None:
    data = etf.encode(term)
    decoded = etf.decode(data)
    assert same(decoded, term)
    assert etf.encode(decoded) == data


@given(term=TERMS, before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_round_trip_amid_other_bytes(
    etf: ModuleType, term: Any, before: bytes, after: bytes
) -> None:
    encoded = etf.encode(term, version=False)
    assert etf.encode(term) == b"\x83" + encoded
    end = len(before) + len(encoded)
    buffer = bytearray(before + encoded + after)
    for data in (bytes(buffer), buffer, memoryview(buffer)):
        decoded, decoded_end = etf.decode_at(data, len(before))
        assert decoded_end == end
        assert same(decoded, term)


@given(numbers=st.lists(NUMBERS, min_size=10, max_size=60) | st.lists(st.integers(250, 260)))
def test_round_trip_of_numbers(etf: ModuleType, numbers: list[Any]) -> None:
    assert same(etf.decode(etf.encode(numbers)), numbers)


@given(term=TERMS)
def test_cut_off_anywhere(etf: ModuleType, term: Any) -> None:
    data = etf.encode(term)
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            etf.decode(data[:end])


@given(term=TERMS, more=st.binary(min_size=1))
def test_bytes_that_follow(etf: ModuleType, term: Any, more: bytes) -> None:
    with pytest.raises(DecodeError, match="follow"):
        etf.decode(etf.encode(term) + more)


def decode_or_refuse(etf: ModuleType, data: bytes) -> None:
    try:
        term, end = etf.decode_at(data, 0)
    except DecodeError as error:
        assert str(error).endswith(".")  # noqa: PT017 (Both outcomes are right.)
        return
    assert 0 < end <= len(data)
    # What was decoded is a term, so it can be encoded, and is the same then.
    assert exact(etf.decode(etf.encode(term))) == exact(term)


#: All tags there are, and some that there are not.
TAGS = b"FMPRXYZabcdefghijklmnopqrstuvwxy\x83\x00"


@given(data=st.binary(max_size=200))
def test_any_bytes(etf: ModuleType, data: bytes) -> None:
    decode_or_refuse(etf, data)


@settings(max_examples=300)
@given(
    pieces=st.lists(
        st.sampled_from([bytes((tag,)) for tag in TAGS])
        | st.sampled_from([b"\0\0\0\x01", b"\0\0\0\x02", b"\0\x01", b"\x01", b"w\x01a", b"a\x01"])
        | st.binary(max_size=4),
        max_size=60,
    )
)
@example(pieces=[b"l\0\0\0\0" * 50, b"j"])
@example(pieces=[b"t\0\0\0\x01" * 50, b"j" * 51])
def test_any_tags(etf: ModuleType, pieces: list[bytes]) -> None:
    decode_or_refuse(etf, b"".join(pieces))


@settings(max_examples=500)
@given(
    term=TERMS,
    damage=st.lists(
        st.tuples(st.integers(0, 1_000), st.integers(0, 255) | st.sampled_from(list(TAGS))),
        min_size=1,
        max_size=3,
    ),
)
def test_damaged_terms(etf: ModuleType, term: Any, damage: list[tuple[int, int]]) -> None:
    data = bytearray(etf.encode(term)[1:])
    for at, byte in damage:
        data[at % len(data)] = byte
    decode_or_refuse(etf, bytes(data))


@given(data=st.binary(max_size=50))
def test_any_compressed_bytes(etf: ModuleType, data: bytes) -> None:
    for start in (b"\x83P", b"\x83P\0\0\0\x0ax\x9c"):
        with pytest.raises(DecodeError):
            etf.decode(start + data)


@given(term=TERMS, depth=st.integers(1, 4))
def test_a_limit_of_depth_changes_nothing_else(etf: ModuleType, term: Any, depth: int) -> None:
    data = etf.encode(term)
    try:
        decoded = etf.decode(data, limits=Limits(depth=depth))
    except DecodeError as error:
        assert "deeper" in str(error)  # noqa: PT017 (Both outcomes are right.)
    else:
        assert same(decoded, term)


@given(pairs=st.lists(st.tuples(SCALARS, st.just(1)), max_size=6))
def test_a_dict_is_a_map_of_distinct_keys_or_refused(etf: ModuleType, pairs: list[Any]) -> None:
    fields = dict(pairs)
    distinct = {exact(key) for key in fields}
    if len(distinct) == len(fields):
        assert len(etf.decode(etf.encode(fields))) == len(fields)
    else:
        with pytest.raises(EncodeError, match="Two keys"):
            etf.encode(fields)


@given(term=TERMS)
def test_default_is_not_asked_about_terms(etf: ModuleType, term: Any) -> None:
    def default(obj: Any) -> Any:
        raise AssertionError(obj)

    assert etf.encode(term, default=default) == etf.encode(term)
