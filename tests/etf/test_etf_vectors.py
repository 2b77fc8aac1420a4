"""What real BEAMs make of terms; see make_vectors.erl for how the vectors came about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

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
)

if TYPE_CHECKING:
    from types import ModuleType

A_B = Atom("a@b")
CREATION = 0xDEADBEEF


def reference(words: int) -> Reference:
    return Reference(A_B, CREATION, tuple(range(1, words + 1)))


TERMS: dict[str, Any] = {
    "zero": 0,
    "byte": 255,
    "above_byte": 256,
    "minus_one": -1,
    "max_int32": 0x7FFFFFFF,
    "min_int32": -0x80000000,
    "above_int32": 0x80000000,
    "below_int32": -0x80000001,
    "max_small": (1 << 59) - 1,
    "min_small": -(1 << 59),
    "above_small": 1 << 59,
    "uint64": (1 << 64) - 1,
    "minus_uint64": 1 - (1 << 64),
    "max_small_big": (1 << 2040) - 1,
    "large_big": 1 << 2040,
    "minus_large_big": -(1 << 2040),
    "float": 1.5,
    "minus_float": -1.0e-300,
    "zero_float": 0.0,
    "tenth": 0.1,
    "max_float": 1.7976931348623157e308,
    "min_float": 5.0e-324,
    "nil_atom": None,
    "true": True,
    "false": False,
    "empty_atom": Atom(""),
    "atom": Atom("hello"),
    "latin1_atom": Atom("é"),
    "utf8_atom": Atom("€"),
    "atom_255": Atom("a" * 255),
    "atom_127_of_2_bytes": Atom("é" * 127),
    "atom_128_of_2_bytes": Atom("é" * 128),
    "atom_255_of_4_bytes": Atom("\U0001f600" * 255),
    "empty_binary": "",
    "text": "text",
    "utf8_text": "héllo \U0001f600",
    "latin1_text": b"h\xe9llo",
    "surrogate_text": b"\xed\xa0\x80",
    "binary_255": "a" * 255,
    "binary_256": "a" * 256,
    "bits_1": BitString(b"\x80", 1),
    "bits_7": BitString(b"\xfe", 7),
    "bits_13": BitString(b"\x9c\x40", 5),
    "empty_list": [],
    "charlist": [97, 98, 99],
    "charlist_300": [97] * 300,
    "list_with_256": [1, 256],
    "list_of_atoms": [Atom("a"), Atom("b")],
    "integers": list(range(-20, 301)),
    "large_integers": list(range(256, 291)),
    "integers_and_bigs": [1 << n for n in range(71)],
    "floats": [n / 4 for n in range(1, 41)],
    "nested_list": [[], [[]], [1, [2]]],
    "improper": ImproperList((Atom("a"),), Atom("b")),
    "improper_bytes": ImproperList((1, 2), 3),
    "call_tag": ImproperList((Atom("alias"),), reference(3)),
    "empty_tuple": (),
    "pair": (Atom("a"), 1),
    "tuple_255": (Atom("x"),) * 255,
    "tuple_256": (Atom("x"),) * 256,
    "empty_map": {},
    "map": {Atom("a"): 1, Atom("b"): [2]},
    "mixed_keys": Map(((1, Atom("a")), (1.0, Atom("b")), (True, Atom("c")))),
    "atom_and_binary_key": Map(((Atom("a"), 1), ("a", 2))),
    "list_key": Map((((1, []), Atom("tuple")), ({}, Atom("map")), ([1], Atom("list")))),
    "map_32": {n: n * n for n in range(1, 33)},
    "map_100": dict.fromkeys(range(1, 101), "v"),
    "struct": {
        Atom("__struct__"): Atom("Elixir.Range"),
        Atom("first"): 1,
        Atom("last"): 3,
        Atom("step"): 1,
    },
    "pid": Pid(A_B, 0xFFFFFFFF, 8, CREATION),
    "port": Port(A_B, 0xFFFFFFFFFFFFFFFF, CREATION),
    "small_port": Port(A_B, 7, 3),
    "reference_1": reference(1),
    "reference_2": reference(2),
    "reference_3": reference(3),
    "reference_4": reference(4),
    "reference_5": reference(5),
    "old_pid": Pid(A_B, 7, 8, 3),
    "old_reference": Reference(A_B, 3, (1, 2, 3)),
    "external_fun": ExternalFun(Atom("lists"), Atom("map"), 2),
    "nil_fun": ExternalFun(Atom("nil"), Atom("é"), 255),
}
#: The order of a map's keys is the BEAM's own affair, and ours is the dict's.
MAPS = {name for name, term in TERMS.items() if isinstance(term, (dict, Map)) and len(term) > 1}


def vectors() -> list[Any]:
    found = []
    for path in sorted(Path(__file__).parent.glob("vectors-*.txt")):
        release = path.stem.removeprefix("vectors-")
        for line in path.read_text(encoding="ascii").splitlines():
            if not line.startswith("#"):
                name, way, digits = line.split()
                vector = (release, name, way, bytes.fromhex(digits))
                found.append(pytest.param(*vector, id=f"{release}-{name}-{way}"))
    return found


VECTORS = vectors()
#: OTP 25 still sent small port numbers as NEW_PORT_EXT; newer ones and we do not.
OLD_PORTS = {("otp25", "small_port"), ("otp25", "open_port")}
OURS = [
    param
    for param in VECTORS
    if param.values[2] in {"utf8", "echo"} and param.values[:2] not in OLD_PORTS
]
EQUAL = [param for param in VECTORS if param.values[2] != "echo"]


def same(ours: Any, theirs: Any) -> bool:
    """Whether two terms are equal, and their types, too, where 1 == 1.0 would hide it."""
    return ours == theirs and type(ours) is type(theirs) and repr(ours) == repr(theirs)


@pytest.mark.parametrize(("release", "name", "way", "data"), EQUAL)
def test_decodes_what_a_beam_made(
    etf: ModuleType, release: str, name: str, way: str, data: bytes
) -> None:
    term = etf.decode(data)
    if name in MAPS:
        assert term == TERMS[name]
    else:
        assert same(term, TERMS[name])


@pytest.mark.parametrize(("release", "name", "way", "data"), OURS)
def test_makes_the_same_bytes(
    etf: ModuleType, release: str, name: str, way: str, data: bytes
) -> None:
    assert etf.encode(etf.decode(data)) == data
    if way == "utf8" and name not in MAPS:
        assert etf.encode(TERMS[name]) == data


def echo(etf: ModuleType, release: str, name: str) -> Any:
    for param in VECTORS:
        if param.values[:3] == (release, name, "echo"):
            return etf.decode(param.values[3])
    raise LookupError(name)


@pytest.mark.parametrize("release", ["otp25", "otp28"])
def test_terms_of_the_beam_that_made_the_vectors(etf: ModuleType, release: str) -> None:
    nonode = Atom("nonode@nohost")
    pid = echo(etf, release, "self")
    assert isinstance(pid, Pid)
    assert pid.node == nonode
    assert isinstance(echo(etf, release, "open_port"), Port)
    assert len(echo(etf, release, "make_ref").ids) == 3
    assert len(echo(etf, release, "alias").ids) == (3 if release == "otp25" else 5)


@pytest.mark.parametrize("release", ["otp25", "otp28"])
def test_closures(etf: ModuleType, release: str) -> None:
    plain = echo(etf, release, "local_fun")
    assert isinstance(plain, Fun)
    assert (plain.module, plain.arity, plain.free_vars) == ("make_vectors", 0, ())
    assert len(plain.uniq) == 16
    closure = echo(etf, release, "closure")
    pid = echo(etf, release, "self")
    assert closure.free_vars == ((Atom("free"), [1, 2.0], pid),)
    outer = echo(etf, release, "closure_of_closure")
    assert outer.free_vars == (closure,)


def test_every_term_has_its_vector() -> None:
    for release in ("otp25", "otp28"):
        assert {param.values[1] for param in EQUAL if param.values[0] == release} == set(TERMS)
