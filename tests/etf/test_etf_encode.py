"""What becomes of Python values: default, cycles, keys, and all or nothing."""

from __future__ import annotations

import enum
import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pynode.config import LIMITS
from pynode.errors import EncodeError
from pynode.etf import _pure_encode
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

N = Atom("n@h")
PID = Pid(N, 1, 2, 3)
FUN = Fun(1, bytes(16), 0, Atom("m"), 1, 2, PID, ())


class Thing:
    """Something that Erlang does not know."""


# --- forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (bytearray(b"ab"), b"m\0\0\0\x02ab"),
        (memoryview(b"abcd")[::2], b"m\0\0\0\x02ac"),
        (memoryview(b"\x01\0\0\0").cast("I"), b"m\0\0\0\x04\x01\0\0\0"),
        (b"a" * 256, b"m\0\0\x01\0" + b"a" * 256),
        ("é", b"m\0\0\0\x02\xc3\xa9"),
        ([1, True], b"l\0\0\0\x02a\x01w\x04truej"),
        ([True, 1], b"l\0\0\0\x02w\x04truea\x01j"),
        ([1, 2.0], b"l\0\0\0\x02a\x01F@\0\0\0\0\0\0\0j"),
        ([2.0], b"l\0\0\0\x01F@\0\0\0\0\0\0\0j"),
        ([0, -1], b"l\0\0\0\x02a\0b\xff\xff\xff\xffj"),
        ([0, 1 << 32], b"l\0\0\0\x02a\0n\x05\0\0\0\0\0\x01j"),
        (Atom("nil"), b"w\x03nil"),
        (Pid("n", 1, 2, 3), b"Xw\x01n\0\0\0\x01\0\0\0\x02\0\0\0\x03"),  # type: ignore[arg-type]
        (LocalTerm(b"\x01\x02"), b"y\x01\x02"),
        ({1: 2, "1": 3}, b"t\0\0\0\x02a\x01a\x02m\0\0\0\x011a\x03"),
    ],
)
def test_forms(etf: ModuleType, value: Any, data: bytes) -> None:
    assert etf.encode(value) == b"\x83" + data
    assert etf.encode(value, version=False) == data


@pytest.mark.parametrize("size", [15, 16, 17, 1_000])
def test_lists_of_numbers(etf: ModuleType, size: int) -> None:
    # Whichever way they are made, it is the same as one number after the other.
    for numbers in (
        list(range(256, 256 + size)),
        list(range(-size, 0)),
        list(range(200, 200 + size)),
        list(range(size)),
        [n * 101 % 1_000 for n in range(size)],
        [(-1) ** n << n % 70 for n in range(size)],
        [0x7FFFFFFF, -0x80000000] * size,
        [300] * size + [3],
        [3] + [300] * size,
        [n / 8 for n in range(size)],
        [1.5, -0.0] * size,
    ):
        one_by_one = b"".join(etf.encode(number)[1:] for number in numbers)
        expected = b"l" + len(numbers).to_bytes(4) + one_by_one + b"j"
        if all(type(number) is int and 0 <= number < 256 for number in numbers):
            expected = b"k" + len(numbers).to_bytes(2) + bytes(map(int, numbers))
        assert etf.encode(numbers)[1:] == expected
        assert repr(etf.decode(b"\x83" + expected)) == repr(numbers)


def test_string_ext_has_at_most_65535_bytes(etf: ModuleType) -> None:
    assert etf.encode([7] * 65_535) == b"\x83k\xff\xff" + b"\x07" * 65_535
    assert etf.encode([7] * 65_536) == b"\x83l\0\x01\0\0" + b"a\x07" * 65_536 + b"j"


def test_sizes_have_32_bits() -> None:
    # A value of 4 GB is too much for a test.
    assert _pure_encode._header(109, 0xFFFFFFFF) == b"m\xff\xff\xff\xff"
    with pytest.raises(EncodeError, match="too large"):
        _pure_encode._header(109, 0x100000000)


def test_a_list_as_the_tail_of_an_improper_list(etf: ModuleType) -> None:
    data = etf.encode(ImproperList((1,), Thing()), default=lambda _: [2, 300])
    assert etf.decode(data) == [1, 2, 300]


def test_subclass_of_fun_travels_as_a_fun(etf: ModuleType) -> None:
    class Callable(Fun):
        pass

    ours = Callable(1, bytes(16), 0, Atom("m"), 1, 2, PID, ([1],))
    assert etf.decode(etf.encode(ours)) == Fun(1, bytes(16), 0, Atom("m"), 1, 2, PID, ([1],))


@pytest.mark.parametrize(
    "value",
    [
        Pid(N, -1, 0, 0),
        Pid(N, 1 << 32, 0, 0),
        Pid(N, 0, 0, 1 << 32),
        Port(N, 1 << 64, 0),
        Reference(N, 1, ()),
        Reference(N, 1, (1, 2, 3, 4, 5, 6)),
        Reference(N, 1, (1 << 32,)),
        Pid(Atom("\ud800"), 1, 2, 3),
        Pid("n" * 256, 1, 2, 3),  # type: ignore[arg-type]
        ExternalFun(Atom("m"), Atom("f"), 256),
        ExternalFun(Atom("m"), Atom("f"), -1),
        Fun(256, bytes(16), 0, Atom("m"), 1, 2, PID, ()),
        Fun(1, bytes(15), 0, Atom("m"), 1, 2, PID, ()),
        Fun(1, bytes(16), 0, Atom("m"), 1 << 31, 2, PID, ()),
        Fun(1, bytes(16), 0, Atom("m"), 1, 2, None, ()),  # type: ignore[arg-type]
        Fun(1, bytes(16), 0, "m" * 256, 1, 2, PID, ()),  # type: ignore[arg-type]
    ],
)
def test_no_node_can_have_made_it(etf: ModuleType, value: Any) -> None:
    with pytest.raises(EncodeError):
        etf.encode(value)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_lone_surrogates(etf: ModuleType, text: str) -> None:
    for value in (text, Atom(text), {text: 1}, [Atom(text)]):
        with pytest.raises(EncodeError, match="lone surrogates") as caught:
            etf.encode(value, default=lambda _: None)
        # Sessions keep exceptions, and the text may be large.
        assert caught.value.__context__ is None


def test_local_term_is_a_whole_message(etf: ModuleType) -> None:
    local = LocalTerm(b"\x01")
    assert etf.decode(etf.encode(local)) == local
    with pytest.raises(EncodeError, match="LocalTerm"):
        etf.encode([local])
    with pytest.raises(EncodeError, match="LocalTerm"):
        etf.encode((1, local))


# --- default -------------------------------------------------------------------------------


class Colour(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: int


class Text(str):
    """A str of somebody else's."""

    __slots__ = ()


class Name(Atom):
    """An Atom of somebody else's."""

    __slots__ = ()


STRANGE = [
    Thing(),
    Thing,
    Colour.RED,
    Point(1, 2),
    Text("x"),
    Name("x"),
    OrderedDict(a=1),
    {1, 2},
    frozenset(),
    range(3),
    1j,
    float("inf"),
    float("-inf"),
    float("nan"),
    object(),
    len,
    ...,
]


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: type(value).__name__)
def test_default_is_asked(etf: ModuleType, value: Any) -> None:
    with pytest.raises(EncodeError, match=f"{type(value).__qualname__} has no form"):
        etf.encode([value])
    asked = []

    def default(obj: Any) -> Any:
        asked.append(obj)
        return Atom("stand_in")

    data = etf.encode([value, 1, value], default=default)
    assert etf.decode(data) == ["stand_in", 1, "stand_in"]
    # Once for each object, however often it is there.
    assert len(asked) == 1
    assert asked[0] is value


@pytest.mark.parametrize(
    ("value", "inner"), [([1.0] * 30, float("nan")), ([1] * 30, Colour.RED), ([], Thing())]
)
def test_default_in_lists_of_numbers(etf: ModuleType, value: list[Any], inner: Any) -> None:
    data = etf.encode([*value, inner], default=lambda _: Atom("x"))
    assert etf.decode(data) == [*value, "x"]


def test_what_default_returns_may_need_default(etf: ModuleType) -> None:
    first, second = Thing(), Thing()
    answers = {first: {"second": second}, second: (float("nan"),)}

    def default(obj: Any) -> Any:
        return Atom("nan") if isinstance(obj, float) else answers[obj]

    assert etf.decode(etf.encode(first, default=default)) == {"second": ("nan",)}
    assert etf.decode(etf.encode({first: first}, default=lambda _: 1)) == {1: 1}


def test_default_that_returns_its_argument(etf: ModuleType) -> None:
    for value in STRANGE:
        with pytest.raises(EncodeError, match="unchanged"):
            etf.encode(value, default=lambda obj: obj)


@pytest.mark.parametrize(
    "default",
    [
        lambda _: Thing(),
        lambda obj: [obj],
        lambda _: [Thing()],
        lambda _: (1, Thing()),
        lambda _: {"x": Thing()},
    ],
)
def test_default_without_end(etf: ModuleType, default: Callable[[Any], Any]) -> None:
    with pytest.raises(EncodeError, match="without end"):
        etf.encode(Thing(), default=default)


def test_default_that_goes_round(etf: ModuleType) -> None:
    one, other = Thing(), Thing()
    with pytest.raises(EncodeError, match="without end"):
        etf.encode(one, default={one: other, other: one}.__getitem__)


def test_default_may_change_what_is_being_encoded(etf: ModuleType) -> None:
    items: list[Any] = [Thing(), 1]
    fields: dict[str, Any] = {"thing": Thing(), "n": 1}

    def default(_: Any) -> Any:
        items.append(2)
        fields["more"] = 2
        return None

    assert etf.decode(etf.encode(items, default=default)) == [None, 1]
    del fields["more"]
    assert etf.decode(etf.encode(fields, default=default)) == {"thing": None, "n": 1}


@pytest.mark.parametrize(
    "around", [lambda value: value, lambda value: [value], lambda value: {1: value}]
)
@pytest.mark.parametrize("before", [0, 1, 300, 5_000])
def test_default_may_take_away_what_was_written_or_is_to_come(
    etf: ModuleType, before: int, around: Callable[[Any], Any]
) -> None:
    def default(_: Any) -> Any:
        items[:] = ["x"] * len(items)
        del fields["first"]
        fields.pop(Atom("last"), None)
        fields["new"] = fields["first"] = 3
        return "stand-in"

    items: list[Any] = [*range(before), around(Thing()), 1.5, "text"]
    fields: dict[Any, Any] = {"first": 1, **{str(n): n for n in range(before)}}
    fields |= {"thing": around(Thing()), 2: True, Atom("last"): None}
    wanted_items = [*range(before), around("stand-in"), 1.5, "text"]
    wanted_fields = fields | {"thing": around("stand-in")}
    assert etf.decode(etf.encode(items, default=default)) == wanted_items
    fields = dict(wanted_fields, thing=around(Thing()))
    assert etf.decode(etf.encode(fields, default=default)) == wanted_fields
    fields = {"first": 1, Thing(): 2, "last": 3}
    assert etf.decode(etf.encode(fields, default=default)) == {"first": 1, "stand-in": 2, "last": 3}


@pytest.mark.parametrize("size", [1, 100, 4_096, 4_097])
def test_what_is_no_common_value_among_common_ones(etf: ModuleType, size: int) -> None:
    odd: Any
    for odd in (1 << 40, -(1 << 30), 1 << 30, "é" * 20_000, b"", (), [], {}, PID, Atom(f"n{size}")):
        items = [*range(size), odd, "text", Atom("a"), 1.5, None]
        encoded = b"".join(etf.encode(item)[1:] for item in items)
        assert etf.encode(items)[1:] == b"l" + len(items).to_bytes(4) + encoded + b"j"
        fields = {str(n): n for n in range(size)} | {1: odd, Atom("a"): -1.5, "last": False}
        encoded = b"".join(etf.encode(item)[1:] for pair in fields.items() for item in pair)
        assert etf.encode(fields)[1:] == b"t" + len(fields).to_bytes(4) + encoded
        with pytest.raises(EncodeError, match="Two keys"):
            etf.encode({**fields, b"last": odd})
        with pytest.raises(EncodeError, match="surrogates"):
            etf.encode([*items, {**fields, "more": "\ud800"}])


# --- cycles and depth ----------------------------------------------------------------------


def stand_in(obj: Any) -> Any:
    return {Atom("ref"): type(obj).__name__}


def test_a_list_inside_itself(etf: ModuleType) -> None:
    cycle: list[Any] = [1]
    cycle += [cycle, 2]
    with pytest.raises(EncodeError, match="list is inside itself"):
        etf.encode(cycle)
    data = etf.encode(cycle, default=stand_in)
    assert etf.decode(data) == [1, {"ref": "list"}, 2]


def test_a_dict_inside_itself(etf: ModuleType) -> None:
    cycle: dict[str, Any] = {"a": 1}
    cycle["self"] = [(cycle, 1), cycle]
    data = etf.encode([cycle], default=stand_in)
    ref = {"ref": "dict"}
    assert etf.decode(data) == [{"a": 1, "self": [(ref, 1), ref]}]


def test_a_cycle_through_everything(etf: ModuleType) -> None:
    items: list[Any] = []
    fun = Fun(1, bytes(16), 0, Atom("m"), 1, 2, PID, (items,))
    items.append(Map([(1, ImproperList((fun,), 1)), (1.0, Thing())]))
    decoded = etf.decode(etf.encode(items, default=stand_in))
    ((pair, other),) = (each.pairs for each in decoded)
    assert pair[1].elements[0].free_vars == ({"ref": "list"},)
    assert other[1] == {"ref": "Thing"}
    # The fun is where it closes, if it is where it begins.
    decoded = etf.decode(etf.encode(fun, default=stand_in))
    assert decoded.free_vars[0][0][1].elements == ({"ref": "Fun"},)


def test_cycles_cost_default_one_call_for_each_object(etf: ModuleType) -> None:
    asked = []

    def default(obj: Any) -> Any:
        asked.append(obj)
        return Atom("x")

    thing = Thing()
    cycle: list[Any] = [thing]
    cycle += [cycle, cycle]
    data = etf.encode(cycle, default=default)
    assert etf.decode(data) == ["x", "x", "x"]
    assert len(asked) == 2
    assert asked[0] is thing
    assert asked[1] is cycle


def test_the_same_container_twice_is_no_cycle(etf: ModuleType) -> None:
    shared = [1, "x"]
    value: Any = [shared, shared, {"a": shared}]
    for _ in range(100):
        value = [value]
    with_both: Any = etf.decode(etf.encode((value, shared)))
    for _ in range(100):
        with_both = (with_both[0][0], with_both[1])
    assert with_both == ([shared, shared, {"a": shared}], shared)


def test_a_cycle_far_below(etf: ModuleType) -> None:
    bottom: list[Any] = []
    bottom.append(bottom)
    value: Any = bottom
    for _ in range(500):
        value = (value,)
    decoded = etf.decode(etf.encode(value, default=stand_in))
    for _ in range(500):
        (decoded,) = decoded
    assert decoded == [{"ref": "list"}]


def nested(levels: int, wrap: Callable[[Any], Any] = lambda value: [value]) -> Any:
    value: Any = ()
    for _ in range(levels):
        value = wrap(value)
    return value


def unnested(value: Any) -> tuple[int, Any]:
    levels = 0
    while type(value) is list:
        (value,) = value
        levels += 1
    return levels, value


def test_nested_up_to_the_limit(etf: ModuleType) -> None:
    limit = LIMITS.depth
    # The innermost is a tuple without elements, which is no level.
    assert unnested(etf.decode(etf.encode(nested(limit)))) == (limit, ())
    with pytest.raises(EncodeError, match="list is nested too deep"):
        etf.encode(nested(limit + 1))


@pytest.mark.parametrize("more", [1, 2, 100])
def test_what_is_too_deep_gets_a_stand_in(etf: ModuleType, more: int) -> None:
    limit = LIMITS.depth
    asked = []

    def default(obj: Any) -> Any:
        asked.append(obj)
        return Atom("deep")

    data = etf.encode(nested(limit + more), default=default)
    assert unnested(etf.decode(data)) == (limit, "deep")
    assert unnested(asked[0]) == (more, ())
    assert len(asked) == 1


def test_the_stand_in_of_what_is_too_deep_may_be_a_container(etf: ModuleType) -> None:
    from pynode.config import Limits

    limit = LIMITS.depth
    data = etf.encode(nested(limit + 1), default=stand_in)
    assert unnested(etf.decode(data, limits=Limits(depth=limit + 1))) == (limit, {"ref": "list"})


def test_deep_terms_on_the_stack_of_a_thread(etf: ModuleType) -> None:
    values = [
        nested(5_000),
        nested(5_000, lambda value: (value,)),
        nested(5_000, lambda value: {"k": value}),
        nested(5_000, lambda value: {(1,): value}),
        nested(5_000, lambda value: ImproperList((1,), (value,))),
        nested(5_000, lambda value: ImproperList((value,), 1)),
        nested(2_000, lambda value: Map([(value, 1), (1, value)][:1])),
        nested(500, lambda value: Fun(1, bytes(16), 0, Atom("m"), 1, 2, PID, (value,))),
    ]
    failed: list[BaseException] = []

    def run() -> None:
        try:
            for value in values:
                data = etf.encode(value)
                assert etf.encode(etf.decode(data)) == data
        except BaseException as error:  # noqa: BLE001 (It fails the test below.)
            failed.append(error)

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert not failed
    # Nor does taking them apart recurse.
    values.clear()
    assert sys.getrecursionlimit() <= 1_000


# --- keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, b"a": 2},
        {None: 1, Atom("nil"): 2},
        {True: 1, Atom("true"): 2},
        {Atom("false"): 1, False: 2},
        {(1, None): 1, (1, Atom("nil")): 2},
        {("a",): 1, (b"a",): 2},
        {((("a",),),): 1, (((b"a",),),): 2},
        [{"x": {"a": 1, b"a": 2}}],
        {Thing(): 1, Thing(): 2},
        {float("nan"): 1, float("nan"): 2},
        {Thing(): 1, Atom("stand_in"): 2},
        Map([(Thing(), 1), (Thing(), 2)]),
        {Map([([1], None), ([2], 1)]): 1, Map([([2], 1), ([1], Atom("nil"))]): 2},
    ],
)
def test_two_keys_that_are_the_same_term(etf: ModuleType, value: Any) -> None:
    with pytest.raises(EncodeError, match="Two keys"):
        etf.encode(value, default=lambda _: Atom("stand_in"))


def test_two_keys_that_are_too_deep_to_compare(etf: ModuleType) -> None:
    one, other = (nested(1_000, lambda value: Map([(value, 1)])) for _ in range(2))
    value = {("x", Map([(one, 1), (2, 2)])): 1, (b"x", Map([(2, 2), (other, 1)])): 2}
    with pytest.raises(EncodeError, match="Two keys"):
        etf.encode(value)


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, Atom("b"): 2, 3: 3, None: 4, True: 5, 1.5: 6, (): 7, ("a",): 8, b"\xff": 9},
        {None: 1, "nil": 2},
        {b"a": 1, Atom("a"): 2},
        {PID: 1, Port(N, 1, 2): 2, Reference(N, 1, (2,)): 3},
        Map([(1, 1), (1.0, 2), (True, 3), (None, 4), ([], 5), ({}, 6), ((), 7)]),
        {Map([([1], 1)]): 1, Map([([1], 2)]): 2},
        {BitString(b"a", 1): 1, BitString(b"a", 2): 2},
    ],
)
def test_keys_of_many_kinds(etf: ModuleType, value: Any) -> None:
    data = etf.encode(value)
    decoded = etf.decode(data)
    assert len(decoded) == len(value)
    assert etf.encode(decoded) == data


def test_unlike_objects_as_keys(etf: ModuleType) -> None:
    one, other = Thing(), Thing()
    data = etf.encode({one: 1, other: 2}, default={one: 1, other: 2}.__getitem__)
    assert etf.decode(data) == {1: 1, 2: 2}


# --- all or nothing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (Thing(), EncodeError),
        ([1, "x", {"k": Thing()}], EncodeError),
        ({"a": 1, b"a": 2}, EncodeError),
        (["\ud800"], EncodeError),
        (nested(20_000), EncodeError),
    ],
)
def test_a_value_is_encoded_after_one_that_fails(
    etf: ModuleType, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        etf.encode(value)
    assert etf.encode(1) == b"\x83a\x01"


@pytest.mark.parametrize("error", [KeyError, UnicodeEncodeError, KeyboardInterrupt, MemoryError])
def test_what_default_raises_goes_through(etf: ModuleType, error: type[BaseException]) -> None:
    raised = error("utf-8", "x", 0, 1, "y") if error is UnicodeEncodeError else error()

    def default(_: Any) -> Any:
        raise raised

    with pytest.raises(error) as caught:
        etf.encode(["x" * 1_000, Thing()], default=default)
    assert caught.value is raised


# --- parts ---------------------------------------------------------------------------------

BIG, TEXT, ACCENTS = b"\xff" * 70_000, "a" * 70_000, "\u00e9" * 70_000
EXACT = Map([(1, 1), (1.0, TEXT)])


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ([1, "small", b"\xff" * 65_536], 1),
        (BIG, 2),
        ([BIG], 3),
        ((BIG, TEXT, ACCENTS, 1), 7),
        ([{"key": BIG}, {1.5: TEXT}], 5),
        ([BIG, Thing()], 3),
        ([bytearray(BIG), memoryview(BIG)[::2]], 3),
        ([BIG, EXACT], 5),
    ],
)
def test_parts(etf: ModuleType, value: Any, parts: int) -> None:
    def default(_: Any) -> Any:
        return "a thing"

    got = etf.encode_parts(value, default=default)
    expected = etf.encode(value, default=default, version=False)
    assert (got if type(got) is bytes else b"".join(got)) == expected
    # What is left to the twin as a whole is not in parts.
    assert (1 if type(got) is bytes else len(got)) in (parts, 1 if value[-1] is EXACT else parts)


def test_parts_are_not_copied_unless_they_may_change(etf: ModuleType) -> None:
    changing = bytearray(BIG)
    got = etf.encode_parts([BIG, changing, TEXT])
    expected = b"".join(got)
    changing[:] = bytes(len(changing))
    assert got[1] is BIG
    assert b"".join(got) == expected
    assert all(len(part) for part in got)
    text = got[-2]
    del got
    with pytest.raises((TypeError, ValueError)):
        text[0] = 1


def test_large_keys_in_parts(etf: ModuleType) -> None:
    value = {BIG: 1, b"x": TEXT, 1.5: BIG}
    assert b"".join(etf.encode_parts(value)) == etf.encode(value, version=False)
    with pytest.raises(EncodeError, match="the same"):
        etf.encode_parts([BIG, {BIG: 1, Once(BIG): 2}], default=lambda once: once.value)


class Once:
    """A key of its own that becomes another one."""

    def __init__(self, value: bytes) -> None:
        self.value = value


def test_parts_of_what_cannot_be_encoded(etf: ModuleType) -> None:
    with pytest.raises(EncodeError):
        etf.encode_parts([BIG, Thing()])


# --- what is received ------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [0, 1, 100_000, 20_000_000])
def test_gathering(etf: ModuleType, expected: int) -> None:
    pieces = [bytes([size % 256]) * size for size in (0, 1, 3, 65_536, 100, 10_000_000, 7)]
    gathering = etf.Gathering(expected)
    for piece in pieces:
        gathering.write(memoryview(piece))
    assert gathering.tell() == sum(map(len, pieces))
    assert gathering.getvalue() == b"".join(pieces)
    assert etf.Gathering(expected).getvalue() == b""
