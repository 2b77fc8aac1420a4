"""Tags that no BEAM of today sends, what is refused, and the limits."""

from __future__ import annotations

import gc
import sys
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from pynode.config import Limits
from pynode.errors import DecodeError
from pynode.terms import (
    Atom,
    BitString,
    ExternalFun,
    Fun,
    ImproperList,
    LocalTerm,
    Map,
    Pid,
    Port,
    Reference,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

#: More levels than Python can recurse, and more than a thread's stack likes.
LEVELS = 5_000

A = b"w\x01a"
OLD_A = b"d\0\x01a"


def compressed(term: bytes, size: int | None = None) -> bytes:
    length = len(term) if size is None else size
    return b"\x83P" + length.to_bytes(4) + zlib.compress(term)


@pytest.mark.parametrize(
    ("data", "term"),
    [
        # Atoms before UTF-8: ATOM_EXT, SMALL_ATOM_EXT; and the long form of a short one.
        (b"d\0\x02h\xe9", Atom("hé")),
        (b"s\x02h\xe9", Atom("hé")),
        (b"v\0\x03h\xc3\xa9", Atom("hé")),
        (b"d\0\x03nil", None),
        (b"s\x04true", True),
        (b"v\0\x05false", False),
        (b"d\0\xff" + b"\xe9" * 255, Atom("é" * 255)),
        # Numbers in another form than the shortest.
        (b"b\0\0\0\x07", 7),
        (b"n\0\0", 0),
        (b"n\x01\x01\x05", -5),
        (b"n\x01\x07\x05", -5),
        (b"n\x03\0\x05\0\0", 5),
        (b"o\0\0\0\x01\0\x05", 5),
        (b"o\0\0\0\0\x01", 0),
        (b"c" + b"-1.50000000000000000000e+00".ljust(31, b"\0"), -1.5),
        (b"c" + b"+1.5".ljust(31, b"\0"), 1.5),
        (b"c" + b"1.5\0rest is not looked at".ljust(31, b"x"), 1.5),
        # Pids, ports and references of nodes before OTP 23.
        (b"g" + OLD_A + b"\0\0\0\x01\0\0\0\x02\x03", Pid(Atom("a"), 1, 2, 3)),
        (b"X" + OLD_A + b"\0\0\0\x01\0\0\0\x02\0\0\0\x03", Pid(Atom("a"), 1, 2, 3)),
        (b"f" + A + b"\0\0\0\x01\x03", Port(Atom("a"), 1, 3)),
        (b"Y" + A + b"\0\0\0\x01\0\0\0\x03", Port(Atom("a"), 1, 3)),
        (b"e" + A + b"\0\0\0\x01\x03", Reference(Atom("a"), 3, (1,))),
        (b"r\0\x02" + A + b"\x03\0\0\0\x01\0\0\0\x02", Reference(Atom("a"), 3, (1, 2))),
        (b"Z\0\x01" + OLD_A + b"\0\0\0\x03\0\0\0\x01", Reference(Atom("a"), 3, (1,))),
        # nil is an atom where only an atom can be.
        (b"Xw\x03nil" + b"\0\0\0\x01\0\0\0\x02\0\0\0\x03", Pid(Atom("nil"), 1, 2, 3)),
        (b"qw\x03nilw\x04truea\x02", ExternalFun(Atom("nil"), Atom("true"), 2)),
        (b"q" + A + OLD_A + b"b\0\0\0\x02", ExternalFun(Atom("a"), Atom("a"), 2)),
        # Bitstrings that end on a byte, and bits beyond the end.
        (b"M\0\0\0\x02\x08ab", "ab"),
        (b"M\0\0\0\x01\x08\xff", b"\xff"),
        (b"M\0\0\0\0\0", ""),
        (b"M\0\0\0\x01\x03\xff", BitString(b"\xe0", 3)),
        # Lists and tuples in another form than the shortest.
        (b"l\0\0\0\0j", []),
        (b"l\0\0\0\0a\x01", 1),
        (b"l\0\0\0\0l\0\0\0\x01a\x01j", [1]),
        (b"l\0\0\0\x01a\x01l\0\0\0\x01a\x02j", [1, 2]),
        (b"l\0\0\0\x01a\x01l\0\0\0\0j", [1]),
        (b"l\0\0\0\x01a\x01k\0\x02\x02\x03", [1, 2, 3]),
        (b"l\0\0\0\x01a\x01l\0\0\0\x01a\x02a\x03", ImproperList((1, 2), 3)),
        (b"k\0\0", []),
        (b"i\0\0\0\0", ()),
        (b"i\0\0\0\x01a\x01", (1,)),
        # Since OTP 26, the option `local`: the rest is opaque.
        (b"y\x01\x02\x03", LocalTerm(b"\x01\x02\x03")),
    ],
)
def test_other_forms(etf: ModuleType, data: bytes, term: Any) -> None:
    got, end = etf.decode_at(data, 0)
    assert got == term
    assert type(got) is type(term)
    assert end == len(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not end"),
        (b"\x83", "tag 131, which stands for nothing"),
        (b"\0", "tag 0, which stands for nothing"),
        (b"R\0", "atom cache"),
        (b"u\0\0\0\0", "dropped in release 23"),
        (b"P\0\0\0\x02" + zlib.compress(b"a\x01"), "beginning alone"),
        (b"h\x01y\x01", "beginning alone"),
        (b"w\x01\xff", "no text"),
        (b"w\x03\xed\xa0\x80", "no text"),
        (b"v\x01\0" + b"a" * 256, "no text of up to 255"),
        (b"d\x01\0" + b"a" * 256, "no text of up to 255"),
        (b"F\x7f\xf0\0\0\0\0\0\0", "not finite"),
        (b"F\xff\xf8\0\0\0\0\0\x01", "not finite"),
        (b"c" + b"inf".ljust(31, b"\0"), "no finite number"),
        (b"c" + b"1.0e400".ljust(31, b"\0"), "no finite number"),
        (b"c" + b"1_0.0".ljust(31, b"\0"), "no finite number"),
        (b"c" + b" 1.0".ljust(31, b"\0"), "no finite number"),
        (b"c" + b"1".ljust(31, b"\0"), "no finite number"),
        (b"c" + bytes(31), "no finite number"),
        (b"M\0\0\0\x01\0\xff", "bitstring"),
        (b"M\0\0\0\x01\x09\xff", "bitstring"),
        (b"M\0\0\0\0\x03", "bitstring"),
        (b"g" + A + b"\0\0\0\x01\0\0\0\x02\x04", "creation 4"),
        (b"Xa\x01" + bytes(12), "tag 97 instead of an atom"),
        (b"Z\0\0" + A + bytes(4), "0 words"),
        (b"Z\0\x06" + A + bytes(28), "6 words"),
        (b"Z\x01\x03" + A + bytes(2000), "259 words"),
        (b"r\0\x06" + A + bytes(25), "6 words"),
        (b"r\0\x01" + A + b"\0\0\x04\0\0", "18 bits"),
        (b"e" + A + b"\0\x04\0\0\0", "18 bits"),
        (b"q" + A + A + b"b\0\0\x01\0", "arity 256"),
        (b"q" + A + A + b"b\xff\xff\xff\xff", "arity -1"),
        (b"q" + A + A + A, "instead of a small integer"),
        (b"q" + A + b"a\x01a\x01", "instead of an atom"),
    ],
)
def test_what_is_refused(etf: ModuleType, data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        etf.decode_at(data, 0)


FUN = Fun(2, b"0123456789abcdef", 3, Atom("a"), 4, -5, Pid(Atom("a"), 1, 2, 3), (1, [2], "x"))


def fun_bytes(etf: ModuleType) -> bytearray:
    return bytearray(etf.encode(FUN)[1:])


def test_size_of_a_fun_is_not_looked_at(etf: ModuleType) -> None:
    data = fun_bytes(etf)
    data[1:5] = b"\xff\xff\xff\xff"
    assert etf.decode_at(data, 0) == (FUN, len(data))


def test_fun_without_a_pid(etf: ModuleType) -> None:
    data = bytes(fun_bytes(etf))
    at = data.index(b"Xw\x01a")
    with pytest.raises(DecodeError, match="without a pid"):
        etf.decode_at(data[:at] + b"a\x01" + data[at + 16 :], 0)


def test_fun_with_more_variables_than_bytes(etf: ModuleType) -> None:
    data = fun_bytes(etf)
    data[26:30] = b"\xff\xff\xff\xff"
    with pytest.raises(DecodeError, match="does not end"):
        etf.decode_at(data, 0)


# --- where a term begins and ends ----------------------------------------------------------


def test_decode_wants_the_version_byte(etf: ModuleType) -> None:
    for data in (b"", b"a\x01", b"\x82a\x01"):
        with pytest.raises(DecodeError, match="131"):
            etf.decode(data)


def test_decode_refuses_what_follows(etf: ModuleType) -> None:
    with pytest.raises(DecodeError, match="2 bytes follow"):
        etf.decode(b"\x83a\x01a\x02")


def test_decode_at_says_where_it_ended(etf: ModuleType) -> None:
    data = b"xxa\x01h\x02a\x02j" + A
    first, second = etf.decode_at(data, 2)
    assert (first, second) == (1, 4)
    first, second = etf.decode_at(data, second)
    assert (first, second) == ((2, []), 9)
    assert etf.decode_at(data, second) == (Atom("a"), len(data))
    with pytest.raises(DecodeError, match="does not end"):
        etf.decode_at(data, len(data))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer(etf: ModuleType, kind: type) -> None:
    data = kind(b"\x83h\x02m\0\0\0\x02\xff\xffm\0\0\0\x01x")
    assert etf.decode(data) == (b"\xff\xff", "x")
    assert etf.decode_at(data, 1)[0] == (b"\xff\xff", "x")
    strided = memoryview(bytes(data).hex().encode())[::2]
    with pytest.raises(DecodeError):
        etf.decode(strided)


def test_values_do_not_alias_the_buffer(etf: ModuleType) -> None:
    data = bytearray(b"\x83m\0\0\0\x02\xff\xff")
    value = etf.decode(data)
    data[:] = bytes(len(data))
    assert value == b"\xff\xff"


@pytest.mark.parametrize(
    "data",
    [
        b"h\x02a\x01",
        b"h\xff",
        b"i\0\0\0\x02a\x01",
        b"i\xff\xff\xff\xffa\x01",
        b"l\0\0\0\x01a\x01",
        b"l\xff\xff\xff\xff" + b"a\x01" * 100,
        b"l\0\0\0\x01a\x01l\xff\xff\xff\xffj",
        b"l\0\0\0\x14" + b"a\x01" * 20,
        b"l\0\0\0\x14" + b"b\0\0\0\x01" * 19 + b"b\0\0\0",
        b"t\0\0\0\x01a\x01",
        b"t\xff\xff\xff\xff" + b"a\x01" * 100,
        b"t\x80\0\0\0" + b"a\x01" * 100,
        b"m\xff\xff\xff\xffabc",
        b"h\x01m\0\0\0\x04abc",
        b"k\xff\xffabc",
        b"w\x05abc",
        b"n\x05\0abc",
        b"o\xff\xff\xff\xff\0abc",
        b"M\0\0\0\x04\x03abc",
    ],
)
def test_counts_beyond_the_end(etf: ModuleType, data: bytes) -> None:
    with pytest.raises(DecodeError, match="does not end"):
        etf.decode_at(data, 0)


@pytest.mark.parametrize("size", [16, 17, 40])
def test_lists_that_begin_with_numbers(etf: ModuleType, size: int) -> None:
    for number, data in ((7, b"a\x07"), (-1, b"b" + b"\xff" * 4), (0.0, b"F" + bytes(8))):
        for other in (b"w\x01a", b"F\x7f\xf0\0\0\0\0\0\0", b"\0"):
            numbers = b"l" + (size + 21).to_bytes(4) + data * size
            if other == b"w\x01a":
                term = etf.decode_at(numbers + other + data * 20 + b"j", 0)[0]
                assert repr(term) == repr([*[number] * size, Atom("a"), *[number] * 20])
            else:
                with pytest.raises(DecodeError, match=f"At byte {5 + size * len(data)} "):
                    etf.decode_at(numbers + other + data * 20 + b"j", 0)


# --- maps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "pairs"),
    [
        (b"t\0\0\0\x02a\x01a\x05F\x3f\xf0\0\0\0\0\0\0a\x06", ((1, 5), (1.0, 6))),
        (b"t\0\0\0\x02a\x01a\x05w\x04truea\x06", ((1, 5), (True, 6))),
        (b"t\0\0\0\x02m\0\0\0\x01aa\x05" + A + b"a\x06", (("a", 5), (Atom("a"), 6))),
        (b"t\0\0\0\x01ja\x05", (([], 5),)),
        (b"t\0\0\0\x01t\0\0\0\0a\x05", (({}, 5),)),
        (b"t\0\0\0\x01h\x01ja\x05", ((([],), 5),)),
        (b"t\0\0\0\x02F" + bytes(8) + b"a\x05F\x80" + bytes(7) + b"a\x06", ((0.0, 5), (-0.0, 6))),
    ],
)
def test_keys_that_a_dict_would_merge_or_refuse(
    etf: ModuleType, data: bytes, pairs: tuple[Any, ...]
) -> None:
    term = etf.decode_at(data, 0)[0]
    assert type(term) is Map
    assert repr(term.pairs) == repr(pairs)
    assert etf.encode(term)[1:] == data


@pytest.mark.parametrize(
    "key",
    [
        b"a\x01",
        A,
        b"m\0\0\0\x01a",
        b"j",
        b"h\x01j",
        b"l\0\0\0\x01" + A + A,
        b"t\0\0\0\x02a\x01a\x02ja\x03",
    ],
)
def test_the_same_key_twice(etf: ModuleType, key: bytes) -> None:
    data = b"t\0\0\0\x02" + key + b"a\x01" + key + b"a\x02"
    with pytest.raises(DecodeError, match="a key twice"):
        etf.decode_at(data, 0)


def test_the_same_key_twice_in_other_forms(etf: ModuleType) -> None:
    for one, other in (
        (b"a\x01", b"b\0\0\0\x01"),
        (b"k\0\x01\x01", b"l\0\0\0\x01a\x01j"),
        (b"t\0\0\0\x02a\x01jjj", b"t\0\0\0\x02jja\x01j"),
        (A, OLD_A),
    ):
        data = b"t\0\0\0\x02" + one + b"a\x01" + other + b"a\x02"
        with pytest.raises(DecodeError, match="a key twice"):
            etf.decode_at(data, 0)


def test_large_maps(etf: ModuleType) -> None:
    term = {n: {str(n): (n,)} for n in range(1_000)}
    assert etf.decode(etf.encode(term)) == term
    merged = Map([(n, n) for n in range(1_000)] + [(1.0, None)])
    assert etf.decode(etf.encode(merged)) == merged
    unhashable = Map([([n], n) for n in range(1_000)])
    assert etf.decode(etf.encode(unhashable)) == unhashable


@pytest.mark.parametrize("wrap", [lambda key: key, lambda key: (key,), lambda key: [key]])
def test_keys_made_to_collide(etf: ModuleType, wrap: Any) -> None:
    # They all have the hash value 0, so that a dict of them takes quadratic time.
    keys = [n * sys.hash_info.modulus for n in range(1_000)]
    assert {hash(key) for key in keys} == {0}
    data = etf.encode(Map((wrap(key), None) for key in keys))
    with pytest.raises(DecodeError, match="same hash value"):
        etf.decode(data)


# --- depth ---------------------------------------------------------------------------------


def nest(around: bytes, levels: int, core: bytes = b"j", after: bytes = b"") -> bytes:
    return around * levels + core + after * levels


NESTED = {
    "list": nest(b"l\0\0\0\x01", LEVELS, b"j", b"j"),
    "tuple": nest(b"h\x01", LEVELS),
    "large tuple": nest(b"i\0\0\0\x01", LEVELS),
    "map value": nest(b"t\0\0\0\x01a\x01", LEVELS),
    "map key": nest(b"t\0\0\0\x01", LEVELS, b"a\x01", b"a\x01"),
    "map key in a tuple": nest(b"t\0\0\0\x01h\x01", LEVELS, b"a\x01", b"a\x01"),
    "map key beside a map": nest(b"t\0\0\0\x02t\0\0\0\0a\x02", LEVELS, b"a\x01", b"a\x01"),
    "tuple as a key": b"t\0\0\0\x01" + nest(b"h\x01", LEVELS, b"a\x01") + b"a\x01",
    "list as a key": b"t\0\0\0\x01" + nest(b"l\0\0\0\x01", LEVELS, b"j", b"j") + b"a\x01",
    "improper element": nest(b"l\0\0\0\x01", LEVELS, b"a\x01", b"a\x01"),
    "improper tail": nest(b"l\0\0\0\x01a\x01h\x01", LEVELS, b"a\x01"),
    "fun": nest(
        b"p\0\0\0\0\x01" + bytes(20) + b"\0\0\0\x01" + A + b"a\x01a\x01X" + A + bytes(12), LEVELS
    ),
    "improper key": b"t\0\0\0\x01" + nest(b"l\0\0\0\x01a\x01h\x01", LEVELS - 2) + b"a\x01",
}


def in_a_thread(call: Any) -> Any:
    """Run `call` with the stack of a thread, which is smaller than the main one."""
    result: list[Any] = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: result.append(call()))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    return result[0]


@pytest.mark.parametrize("shape", NESTED)
def test_nested_deeply(etf: ModuleType, shape: str) -> None:
    data = b"\x83" + NESTED[shape]
    data_again = in_a_thread(lambda: etf.encode(etf.decode(data)))
    if shape == "large tuple":
        data = b"\x83" + NESTED["tuple"]
    if shape == "fun":
        # The sizes in the data are not right.
        assert len(data_again) == len(data)
        data = in_a_thread(lambda: etf.encode(etf.decode(data_again)))
    assert data_again == data


def test_a_list_whose_tails_are_lists_is_flat(etf: ModuleType) -> None:
    data = b"l\0\0\0\x01a\x01" * LEVELS + b"j"
    assert etf.decode_at(data, 0, limits=Limits(depth=1))[0] == [1] * LEVELS


@pytest.mark.parametrize("depth", [1, 3, 99, 100, 101, 2_000, Limits().depth])
@pytest.mark.parametrize("around", [b"l\0\0\0\x01", b"h\x01", b"i\0\0\0\x01", b"t\0\0\0\x01a\x01"])
def test_limit_of_depth(etf: ModuleType, around: bytes, depth: int) -> None:
    after = b"j" if around[0] == ord("l") else b""
    limits = Limits(depth=depth)
    etf.decode_at(nest(around, depth, b"j", after), 0, limits=limits)
    with pytest.raises(DecodeError, match=f"deeper than {depth} levels"):
        etf.decode_at(nest(around, depth + 1, b"j", after), 0, limits=limits)


def test_limit_of_depth_counts_funs(etf: ModuleType) -> None:
    data = etf.encode([FUN])
    with pytest.raises(DecodeError, match="deeper than 1 levels"):
        etf.decode(data, limits=Limits(depth=1))


def test_the_same_deep_key_twice(etf: ModuleType) -> None:
    for shape in ("tuple", "list", "map key", "improper element"):
        data = b"t\0\0\0\x02" + NESTED[shape] + b"j" + NESTED[shape] + b"j"
        with pytest.raises(DecodeError, match=r"a key twice|too deep to compare"):
            etf.decode_at(data, 0)


def test_deep_tuples_as_keys_are_not_hashed(etf: ModuleType) -> None:
    shallow = b"t\0\0\0\x01" + nest(b"h\x01", 90, b"a\x01") + b"a\x01"
    assert type(etf.decode_at(shallow, 0)[0]) is dict
    deep = b"t\0\0\0\x01" + nest(b"h\x01", 110, b"a\x01") + b"a\x01"
    assert type(etf.decode_at(deep, 0)[0]) is Map
    in_a_fun = bytes(fun_bytes(etf))[:-12] + nest(b"h\x01", 110, b"jjj")
    assert type(etf.decode_at(b"t\0\0\0\x01" + in_a_fun + b"a\x01", 0)[0]) is Map
    # That the map itself is deep inside is no reason.
    inside = nest(b"h\x01", 110, b"t\0\0\0\x01h\x01a\x01a\x01")
    term = etf.decode_at(inside, 0)[0]
    while type(term) is tuple:
        (term,) = term
    assert term == {(1,): 1}
    assert type(term) is dict


# --- compressed terms ----------------------------------------------------------------------


def test_compressed(etf: ModuleType) -> None:
    term = ["x" * 1_000] * 100
    assert etf.decode(compressed(etf.encode(term)[1:])) == term


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x83P", "does not end"),
        (b"\x83P\0\0\0\x02", "2 bytes that it says"),
        (b"\x83P\0\0\0\x02xyz", "damaged"),
        (compressed(b"a\x01", 1), "1 bytes that it says"),
        (compressed(b"a\x01", 3), "3 bytes that it says"),
        (compressed(b"a\x01")[:-1], "2 bytes that it says"),
        (compressed(b"a\x01") + b"x", "2 bytes that it says"),
        (compressed(b""), "does not end"),
        (compressed(b"a\x01a\x02"), "2 bytes follow"),
        (compressed(b"\x83a\x01"), "tag 131"),
        (compressed(compressed(b"a\x01")[1:]), "beginning alone"),
        (compressed(b"", 0xFFFFFFFF), "more than"),
    ],
)
def test_compressed_wrongly(etf: ModuleType, data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        etf.decode(data)


def test_limit_of_the_decompressed_size(etf: ModuleType) -> None:
    term = b"m\0\0\x03\xfb" + b"x" * 0x3FB
    assert etf.decode(compressed(term), limits=Limits(decompressed=1024)) == "x" * 0x3FB
    with pytest.raises(DecodeError, match="more than 1023"):
        etf.decode(compressed(term), limits=Limits(decompressed=1023))
    # What it says it has is not what it has.
    with pytest.raises(DecodeError, match="that it says"):
        etf.decode(compressed(term * 1_000, 1024), limits=Limits(decompressed=1024))


# --- hooks ---------------------------------------------------------------------------------


def test_struct_hook(etf: ModuleType) -> None:
    inner = {Atom("__struct__"): Atom("Inner"), "n": 1}
    outer = {Atom("__struct__"): Atom("Outer"), "inner": [inner], "plain": {"n": 2}}
    seen = []

    def struct(fields: dict[Any, Any]) -> Any:
        seen.append(fields)
        return (fields["__struct__"], len(fields))

    data = etf.encode((outer, {}))
    assert etf.decode(data, struct=struct) == ((Atom("Outer"), 3), {})
    assert seen == [inner, outer | {"inner": [("Inner", 2)]}]
    assert etf.decode_at(data, 1, struct=struct)[0] == ((Atom("Outer"), 3), {})


def test_struct_hook_as_key_and_tail(etf: ModuleType) -> None:
    struct = {Atom("__struct__"): Atom("S")}
    data = etf.encode([Map([(struct, 1)]), ImproperList((1,), struct)])
    assert etf.decode(data, struct=lambda _: [2]) == [Map([([2], 1)]), [1, 2]]
    assert etf.decode(data, struct=lambda _: 2) == [{2: 1}, ImproperList((1,), 2)]
    both = etf.encode(Map([(struct, 1), (2, 2)]))
    with pytest.raises(DecodeError, match="a key twice"):
        etf.decode(both, struct=lambda _: 2)


def test_fun_hook(etf: ModuleType) -> None:
    nested = Fun(1, bytes(16), 0, Atom("m"), 0, 0, FUN.pid, (FUN,))
    seen = []

    def fun(fun: Fun) -> Any:
        seen.append(fun)
        return len(seen)

    assert etf.decode(etf.encode([nested]), fun=fun) == [2]
    assert [each.module for each in seen] == ["a", "m"]
    assert seen[1].free_vars == (1,)


@pytest.mark.parametrize("error", [IndexError, KeyError, RecursionError, SystemExit])
def test_what_a_hook_raises_goes_through(etf: ModuleType, error: type[BaseException]) -> None:
    def hook(_: Any) -> Any:
        raise error("from the hook")

    with pytest.raises(error, match="from the hook"):
        etf.decode(etf.encode([{Atom("__struct__"): 1}]), struct=hook)
    with pytest.raises(error, match="from the hook"):
        etf.decode(etf.encode([FUN]), fun=hook)


def test_a_hook_sees_nothing_that_was_cut_off(etf: ModuleType) -> None:
    data = etf.encode({Atom("__struct__"): Atom("S"), "name": "long enough"})
    seen: list[Any] = []
    for end in range(1, len(data)):
        with pytest.raises(DecodeError):
            etf.decode(data[:end], struct=seen.append)
    assert not seen


# --- identity and caches -------------------------------------------------------------------


def test_atoms_pids_and_references_are_the_same_object_again(etf: ModuleType) -> None:
    pid = Pid(Atom("n@h"), 1, 2, 3)
    reference = Reference(Atom("n@h"), 1, (1, 2, 3))
    data = etf.encode((Atom("atom"), pid, reference))
    for one, other in zip(etf.decode(data), etf.decode(data), strict=True):
        assert one is other


def test_caches_are_bounded(etf: ModuleType) -> None:
    for n in range(10_000):
        for term in (Atom(f"atom {n}"), Reference(Atom("n@h"), n, (n,)), Pid(Atom("n"), n, 0, 1)):
            assert etf.decode(etf.encode(term)) == term
    assert etf.decode(etf.encode([None, True, False])) == [None, True, False]
    if etf.__name__ == "pynode.etf._pure":
        from pynode.etf import _pure_encode, _pure_readers

        for cache in (
            _pure_encode._atoms,
            _pure_readers.known_atoms,
            _pure_readers.known_pids,
            _pure_readers.known_references,
        ):
            assert len(cache) <= _pure_readers.CACHE_SIZE


KEYS = ["", "a", "é", b"\xff", "\x00", "\x7f", "\u20ac" * 10, "a" * 30 + "é", "a" * 30 + "\x80"] + [
    "k" * size for size in (2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 34, 64)
]


def test_keys_of_maps_that_come_again(etf: ModuleType) -> None:
    for key in KEYS:
        like = [key[:-1] + last for last in ("x", "y")] if isinstance(key, str) else [b"\xfe"]
        for more in (0, 100):  # What follows may be too short for another key.
            for one in (key, *like, key):
                term = ({one: 1}, "x" * more)
                decoded = etf.decode(etf.encode(term))
                assert decoded == term
                assert [type(found) for found in decoded[0]] == [type(one)]
        data = etf.encode(({key: 1}, "x" * 100))
        for size in range(len(data)):
            with pytest.raises(DecodeError):
                etf.decode(data[:size])
        pair = etf.encode(key)[1:] + b"a\x01"
        with pytest.raises(DecodeError, match="a key twice"):
            etf.decode_at(b"t\0\0\0\x02" + pair + pair + bytes(40), 0)


def test_more_keys_of_maps_than_are_remembered(etf: ModuleType) -> None:
    maps = [{f"key {n}": n, f"\u20ac {n}": n, f"{n} {'long' * 10}": n} for n in range(10_000)]
    data = etf.encode(maps)
    for _ in range(2):
        assert etf.decode(data) == maps
    for term in maps:
        assert etf.decode(etf.encode(term)) == term
    before = sys.getallocatedblocks()
    for n in range(20_000):
        etf.decode(etf.encode({f"another {n}": 1}))
    assert sys.getallocatedblocks() - before < 2_500


def test_what_may_become_a_cycle_is_known_to_the_garbage_collector(etf: ModuleType) -> None:
    ways: list[Callable[[dict[Any, Any]], Any]] = [
        lambda term: term.__setitem__(A, term),
        lambda term: term.__setitem__("key", term),
        lambda term: term.setdefault(9, term),
        lambda term: term.update({9: term}),
        lambda term: term.__ior__({9: term}),
        lambda term: term.update([(9, term)]),
    ]
    fields: dict[Any, Any]
    inner: Any
    for fields in ({Atom("a"): 1}, {Atom("a"): Atom("b")}, {"a": (1, Atom("a"))}, {1: 2.0}, {}):
        for close in ways:
            term = etf.decode(etf.encode(fields))
            close(term)
            assert gc.is_tracked(term)
        for inner in ([], {}, ([],)):
            assert gc.is_tracked(etf.decode(etf.encode(fields | {Atom("inner"): inner})))


# --- large binaries ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 70_001, 200_003, 10_000_000])
@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (b"", b""),
        (b"", b"\x80"),
        (b"", "\u00e9".encode()),
        (b"\x80", b""),
        ("\U0001f600".encode(), b""),
        ("\u00e9".encode(), b"\xff"),
        (b"a" * 65_535 + "\u20ac".encode(), b""),
        (b"a" * 65_535, b"\xe2\x82"),
        (b"\xed\xa0\x80", b""),
    ],
)
def test_large_binaries(etf: ModuleType, size: int, begin: bytes, end: bytes) -> None:
    data = begin + b"x" * (size - len(begin) - len(end)) + end
    try:
        expected: str | bytes = data.decode()
    except UnicodeDecodeError:
        expected = data
    value, at = etf.decode_at(b"m" + len(data).to_bytes(4) + data + b"j", 0)
    assert value == expected
    assert type(value) is type(expected)
    assert at == len(data) + 5


def test_nobody_finds_a_tuple_before_it_is_whole(etf: ModuleType) -> None:
    """Whoever looks into one that has gaps, as memory profilers do, would end the process."""
    found: list[object] = []

    def look(fields: dict[Any, Any]) -> Any:
        found.extend(o for o in gc.get_objects() if type(o) is tuple and len(o) == 211)
        return fields

    term = ([], {Atom("__struct__"): Atom("x")}, *range(209))
    decoded = etf.decode(etf.encode(term), struct=look)
    assert decoded == term
    assert [one for one in found if one is not term] == []
    assert gc.is_tracked(decoded)
