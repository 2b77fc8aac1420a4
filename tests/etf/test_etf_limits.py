"""The limits of the decoder, and that what is refused has cost little."""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from pynode.config import LIMITS, Limits
from pynode.errors import DecodeError
from pynode.terms import Atom, Map, Reference

if TYPE_CHECKING:
    from types import ModuleType

FUN = b"p\0\0\0\0\0" + bytes(16) + b"\0\0\0\0\0\0\0%cw\1aa\0a\0Xw\1a" + bytes(12)


def count(number: int) -> bytes:
    return number.to_bytes(4)


#: Terms with ten elements in all, and more bytes than that.
TEN = {
    "tuple": b"h\x0a" + b"j" * 10,
    "large_tuple": b"i" + count(10) + b"j" * 10,
    "list": b"l" + count(10) + b"j" * 11,
    "improper_list": b"l" + count(10) + b"j" * 10 + b"a\0",
    "list_of_numbers": b"l" + count(10) + b"a\0" * 10 + b"j",
    "list_with_a_list_as_tail": b"l" + count(4) + b"j" * 4 + b"l" + count(6) + b"j" * 7,
    "map": b"t" + count(5) + b"".join(b"a%cj" % key for key in range(5)),
    "string": b"h\x02k\0\x08" + bytes(8) + b"w\0",
    "fun": FUN % 9 + b"j" * 9,
    "nested_tuples": b"h\x05" + b"h\x05" + b"j" * 9,
    "nested_maps": b"t" + count(2) + b"a\1a\1a\2t" + count(3) + b"a\1ja\2ja\3j",
}


@pytest.mark.parametrize("shape", TEN)
def test_limit_of_terms(etf: ModuleType, shape: str) -> None:
    data = TEN[shape]
    for limit in (10, 11, len(data), 1_000):
        assert etf.decode_at(data, 0, limits=Limits(terms=limit))[1] == len(data)
    for limit in (0, 1, 5, 9):
        with pytest.raises(DecodeError, match=rf"more than {limit} terms: send it in parts, or"):
            etf.decode_at(data, 0, limits=Limits(terms=limit))


def test_limit_of_terms_and_what_comes_before_and_after(etf: ModuleType) -> None:
    data = b"a\1" * 20 + TEN["tuple"] + b"a\1" * 20
    assert etf.decode_at(data, 40, limits=Limits(terms=10)) == (([],) * 10, 52)


@pytest.mark.parametrize("levels", [99, 100, 101, 150])
def test_limit_of_depth_where_terms_are_counted(etf: ModuleType, levels: int) -> None:
    data = b"h\1" * levels + b"t" + count(1) + b"a\1a\2"
    limits = Limits(terms=levels + 2, depth=levels + 1)
    assert etf.decode_at(data, 0, limits=limits)[1] == len(data)
    with pytest.raises(DecodeError, match="nested deeper"):
        etf.decode_at(data, 0, limits=Limits(terms=levels + 2, depth=levels))


def test_deep_keys_are_not_hashed_where_terms_are_counted(etf: ModuleType) -> None:
    key = b"h\1" * 5_000 + b"j"
    data = b"t" + count(2) + key + b"a\1a\5a\2"
    term, _ = etf.decode_at(data, 0, limits=Limits(terms=6_000))
    assert type(term) is Map


@pytest.mark.parametrize("shape", ["list", "large_tuple", "map", "nested", "numbers"])
def test_more_terms_than_the_default_are_refused_before_they_are_made(
    etf: ModuleType, shape: str
) -> None:
    many = LIMITS.terms + 1
    data = {
        "list": b"l" + count(many) + b"j" * (many + 1),
        "large_tuple": b"i" + count(many) + b"j" * many,
        "map": b"t" + count(many // 2 + 1) + b"j" * (many + 1),
        "nested": b"h\2j" * 100 + b"i" + count(many) + b"j" * many,
        "numbers": b"l" + count(many) + b"a\1" * many + b"j",
    }[shape]
    tracemalloc.start()
    try:
        begun = time.process_time()
        with pytest.raises(DecodeError, match="more than 16777216 terms"):
            etf.decode_at(data, 0)
        assert time.process_time() - begun < 1
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_as_many_terms_as_there_may_be_take_64_bytes_each(etf: ModuleType) -> None:
    limits = Limits(terms=100_000)
    data = b"i" + count(limits.terms) + b"j" * limits.terms
    tracemalloc.start()
    try:
        etf.decode_at(data, 0, limits=limits)
        assert tracemalloc.get_traced_memory()[1] < 80 * limits.terms
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tag", [b"l", b"i", b"t", b"m", b"o", b"M", b"k", b"h", b"n"])
def test_an_announced_size_allocates_nothing(etf: ModuleType, tag: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="does not end"):
            etf.decode_at(tag + b"\xff" * 5 + bytes(50), 0)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_limit_of_collisions(etf: ModuleType) -> None:
    def encoded(keys: int) -> bytes:
        data: bytes = etf.encode(dict.fromkeys((n * (2**61 - 1) for n in range(keys)), 0))
        return data

    for keys in (1, 64, 65, 100):
        assert len(etf.decode(encoded(keys), limits=Limits(collisions=100))) == keys
    assert len(etf.decode(encoded(64))) == 64
    with pytest.raises(DecodeError, match="a map with 65 keys of the same hash value"):
        etf.decode(encoded(65))


def test_numbers_with_equal_hashes_take_no_time(etf: ModuleType) -> None:
    # Not from a dict: to make one of them takes seconds, which is the point.
    numbers = [(n * (2**61 - 1)).to_bytes(10, "little") for n in range(20_000)]
    data = b"t" + count(20_000) + b"".join(b"n\x0a\0" + number + b"j" for number in numbers)
    begun = time.process_time()
    with pytest.raises(DecodeError, match="20000 keys of the same hash value"):
        etf.decode_at(data, 0)
    assert time.process_time() - begun < 1


def test_identifiers_of_equal_numbers_have_different_hashes() -> None:
    nodes = [Atom(f"n{number}@h") for number in range(1_000)]
    assert len({hash(Reference(node, 1, (1, 2, 3))) for node in nodes}) > 990
    assert len({hash(Reference(nodes[0], n, (1, 2, 3))) for n in range(1_000)}) > 990


def large_integer(size: int, sign: int) -> bytes:
    return b"o" + count(size) + bytes((sign,)) + b"\xff" * size


@pytest.mark.parametrize("sign", [0, 1])
def test_large_integers_take_linear_time(etf: ModuleType, sign: int) -> None:
    data = large_integer(20_000_000, sign)
    begun = time.process_time()
    term: Any = etf.decode_at(data, 0)[0]
    assert time.process_time() - begun < 2
    assert abs(term) == (1 << 160_000_000) - 1
