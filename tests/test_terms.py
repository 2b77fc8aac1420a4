"""The data types: values that compare, hash, print and pickle as such."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    exact,
)

N = Atom("n@h")
PID = Pid(N, 1, 2, 3)
FUN = Fun(1, bytes(16), 0, Atom("m"), 1, 2, PID, (1, "x"))

#: Of each type, values that differ in one field each.
VALUES: list[Any] = [
    Atom("a"),
    Atom("b"),
    Atom(""),
    PID,
    Pid(Atom("m@h"), 1, 2, 3),
    Pid(N, 9, 2, 3),
    Pid(N, 1, 9, 3),
    Pid(N, 1, 2, 9),
    Port(N, 1, 3),
    Port(Atom("m@h"), 1, 3),
    Port(N, 9, 3),
    Port(N, 1, 9),
    Reference(N, 3, (1, 2)),
    Reference(Atom("m@h"), 3, (1, 2)),
    Reference(N, 9, (1, 2)),
    Reference(N, 3, (1, 2, 0)),
    Reference(N, 3, (2, 1)),
    FUN,
    Fun(2, bytes(16), 0, Atom("m"), 1, 2, PID, (1, "x")),
    Fun(1, bytes(16), 0, Atom("m"), 1, 2, PID, (1, "y")),
    ExternalFun(Atom("m"), Atom("f"), 1),
    ExternalFun(Atom("m"), Atom("g"), 1),
    ExternalFun(Atom("m"), Atom("f"), 2),
    BitString(b"ab", 7),
    BitString(b"ab", 3),
    BitString(b"bb", 7),
    ImproperList((1,), 2),
    ImproperList((1, 2), 2),
    ImproperList((1,), 3),
    LocalTerm(b"a"),
    LocalTerm(b"b"),
    Map([(1, "a"), (1.0, "b")]),
    Map([(1, "a"), (1.0, "c")]),
    Map([(1, "a"), (True, "b")]),
    Map([([1], "a")]),
]
MUTABLE = [
    ImproperList(([],), 2),
    Fun(1, bytes(16), 0, Atom("m"), 1, 2, PID, ([],)),
]


def ids(value: Any) -> str:
    return repr(value)


@pytest.mark.parametrize("value", VALUES + MUTABLE, ids=ids)
def test_repr_evaluates_back(value: Any) -> None:
    again = eval(repr(value))
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize("value", VALUES + MUTABLE, ids=ids)
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        *(
            lambda value, protocol=protocol: pickle.loads(pickle.dumps(value, protocol))
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
def test_copies_and_pickles(value: Any, duplicate: Any) -> None:
    again = duplicate(value)
    assert again == value
    assert type(again) is type(value)
    assert repr(again) == repr(value)


def test_equality() -> None:
    for one, other in itertools.product(VALUES, VALUES):
        assert (one == other) == (one is other)
        assert (one != other) == (one is not other)
    for value in VALUES:
        again = pickle.loads(pickle.dumps(value))
        assert (value == again, value != again, hash(value) == hash(again)) == (True, False, True)
    assert len(set(VALUES)) == len(VALUES)


@pytest.mark.parametrize("value", VALUES[3:], ids=ids)
def test_equal_only_to_its_own_type(value: Any) -> None:
    for other in (None, 1, "a", b"ab", (1, 2), [], {}, tuple, object()):
        assert value != other


@pytest.mark.parametrize("value", MUTABLE, ids=ids)
def test_not_hashable_with_what_is_not(value: Any) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(value)


@pytest.mark.parametrize("value", [v for v in VALUES if not isinstance(v, (Atom, Map))], ids=ids)
def test_immutable(value: Any) -> None:
    for name in ("node", "id", "creation", "data", "tail", "arity", "new"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(value, name, 1)
        with pytest.raises((AttributeError, TypeError)):
            delattr(value, name)


# --- atoms ---------------------------------------------------------------------------------


def test_atom_is_its_name() -> None:
    atom = Atom("ok")
    assert atom == "ok"
    assert hash(atom) == hash("ok")
    names: dict[str, int] = {atom: 1}
    assert names["ok"] == 1
    assert f"{atom}" == str(atom) == "ok"
    assert type(str(atom)) is str
    assert repr(Atom("it's")) == """Atom("it's")"""
    assert isinstance(pickle.loads(pickle.dumps(atom)), Atom)


def test_atom_of_255_characters() -> None:
    assert len(Atom("\U0001f600" * 255)) == 255
    with pytest.raises(ValueError, match="at most 255 characters, not 256"):
        Atom("a" * 256)


def test_atoms_have_no_attributes() -> None:
    with pytest.raises(AttributeError):
        Atom("a").new = 1  # type: ignore[attr-defined]


# --- the others ----------------------------------------------------------------------------


def test_printed_as_their_node_does() -> None:
    assert str(PID) == "<0.1.2>"
    assert str(Port(N, 5, 3)) == "#Port<0.5>"
    assert str(Reference(N, 3, (219093, 2483552261, 1793270268))) == (
        "#Ref<0.1793270268.2483552261.219093>"
    )


def test_patterns() -> None:
    match PID:
        case Pid("n@h", number, serial, creation):
            assert (number, serial, creation) == (1, 2, 3)
        case _:
            pytest.fail("no match")
    match ImproperList((Atom("alias"),), Reference(N, 3, (1,))):
        case ImproperList(("alias",), Reference(node, 3, (1,))):
            assert node == N
        case _:
            pytest.fail("no match")


def test_bits_beyond_the_end_are_zero() -> None:
    assert BitString(b"\xff\xff", 3) == BitString(b"\xff\xe0", 3)
    assert BitString(bytearray(b"\xff"), 1).data == b"\x80"  # type: ignore[arg-type]


@pytest.mark.parametrize(("data", "bits"), [(b"a", 0), (b"a", 8), (b"a", -1), (b"", 3)])
def test_bitstrings_that_are_none(data: bytes, bits: int) -> None:
    with pytest.raises(ValueError, match="use bytes"):
        BitString(data, bits)


def test_improper_lists_that_are_lists() -> None:
    for elements, tail in (((), 1), ((1,), []), ((1,), [2])):
        with pytest.raises(ValueError, match="use a list"):
            ImproperList(elements, tail)


def test_improper_lists_in_improper_lists() -> None:
    assert ImproperList((1,), ImproperList((2, 3), 4)) == ImproperList((1, 2, 3), 4)


def test_fun_can_be_derived_from() -> None:
    class Callable(Fun):
        def __call__(self, *args: object) -> object:
            return self.arity, args

    fun = Callable(1, bytes(16), 0, Atom("m"), 1, 2, PID, ())
    assert fun(5) == (1, (5,))
    assert fun != Fun(1, bytes(16), 0, Atom("m"), 1, 2, PID, ())
    assert fun == Callable(1, bytes(16), 0, Atom("m"), 1, 2, PID, ())


# --- maps ----------------------------------------------------------------------------------


def test_map_tells_keys_apart_as_erlang_does() -> None:
    table = Map([(1, "int"), (1.0, "float"), (True, "true"), ("a", "text"), (Atom("a"), "atom")])
    assert [table[key] for key in (1, 1.0, True, "a", b"a", Atom("a"), Atom("true"))] == [
        "int",
        "float",
        "true",
        "text",
        "text",
        "atom",
        "true",
    ]
    assert len(table) == 5
    assert list(table) == [1, 1.0, True, "a", Atom("a")]
    assert [type(key) for key in table] == [int, float, bool, str, Atom]
    for missing in (0, 2.0, None, "b", b"b", Atom("b"), [], {}, object()):
        assert missing not in table
        assert table.get(missing) is None
        with pytest.raises(KeyError):
            table[missing]


def test_map_with_keys_that_have_no_hash() -> None:
    table = Map([([1, {"a": []}], 1), ({1: 2}, 2), (([],), 3), (Map([([], 1)]), 4)])
    assert table[[1, {b"a": []}]] == 1
    assert table[{1: 2}] == 2
    assert {1.0: 2} not in table
    assert table[([],)] == 3
    assert table[Map([([], 1)])] == 4
    assert list(table.values()) == [1, 2, 3, 4]


def test_map_has_each_key_once() -> None:
    for one, other in (
        (1, 1),
        ("a", b"a"),
        (None, Atom("nil")),
        ([1], [1]),
        ({1: 2, 3: 4}, Map([(3, 4), (1, 2)])),
        (0.0, 0.0),
    ):
        with pytest.raises(ValueError, match="each key once"):
            Map([(one, 1), (other, 2)])
    assert len(Map([(0.0, 1), (-0.0, 2)])) == 2


def test_order_of_a_map_is_kept_and_does_not_matter() -> None:
    one, other = Map([(1, "a"), (1.0, "b")]), Map([(1.0, "b"), (1, "a")])
    assert one == other
    assert hash(one) == hash(other)
    assert one.pairs == ((1, "a"), (1.0, "b"))
    assert one != {1: "a"}


# --- exact ---------------------------------------------------------------------------------


class Thing:
    """Something that Erlang does not know."""


SAME = [
    ("a", b"a"),
    (b"a", bytearray(b"a")),
    (b"a", memoryview(b"a")),
    (None, Atom("nil")),
    (True, Atom("true")),
    (False, Atom("false")),
    (("a", [None]), (b"a", [Atom("nil")])),
    ({"a": 1, "b": [2]}, {b"b": [2], b"a": 1}),
    ({1: 2}, Map([(1, 2)])),
    ({1: {2: 3, 4: 5}}, {1: {4: 5, 2: 3}}),
    (ImproperList(("a",), None), ImproperList((b"a",), Atom("nil"))),
]
DIFFERENT = [
    1,
    1.0,
    True,
    0,
    0.0,
    -0.0,
    False,
    "a",
    Atom("a"),
    "true",
    None,
    "nil",
    [],
    (),
    {},
    "",
    Atom(""),
    [1],
    [[1]],
    [1, []],
    [[], 1],
    (1,),
    [(1,)],
    {1: 1},
    {1: 1.0},
    {1: [1]},
    {(1, 1): 1},
    [{1: 1}],
    ImproperList((1,), 1),
    ImproperList((1, 1), 1),
    [1, 1, 1],
    PID,
    Port(N, 1, 3),
    Reference(N, 3, (1, 2)),
    BitString(b"a", 1),
    FUN,
    ExternalFun(Atom("m"), Atom("f"), 1),
    Thing(),
    Thing(),
    {1, 2},
    {1, 2},
    frozenset({1}),
    int,
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_exact_is_the_same(one: Any, other: Any) -> None:
    assert exact(one) == exact(other)
    assert exact([one]) == exact([other])
    assert exact(Map([((one,), one)])) == exact(Map([((other,), other)]))


def test_exact_differs() -> None:
    for one, other in itertools.combinations(DIFFERENT, 2):
        assert exact(one) != exact(other), (one, other)
        assert exact([one]) != exact([other])
        assert exact({1: one}) != exact({1: other})


def test_exact_of_a_subclass_of_fun() -> None:
    class Callable(Fun):
        pass

    assert exact(Callable(1, bytes(16), 0, Atom("m"), 1, 2, PID, (1, "x"))) == exact(FUN)


@given(
    st.recursive(st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_exact_of_equal_terms(term: Any) -> None:
    assert exact(term) == exact(copy.deepcopy(term))
    assert exact([term, term]) != exact([[term, term]])


def test_exact_does_not_recurse() -> None:
    for wrap in (
        lambda value: [value],
        lambda value: (value,),
        lambda value: {1: value},
        lambda value: Map([(value, 1)]),
        lambda value: ImproperList((value,), 1),
        lambda value: Fun(1, b"", 0, Atom("m"), 1, 2, PID, (value,)),
    ):
        value: Any = 1
        for _ in range(5_000):
            value = wrap(value)
        assert exact(value) != exact(wrap(value))
