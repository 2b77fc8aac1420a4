"""The value mapping, without a BEAM; `tests/beam` checks it against a real one."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import math
import zoneinfo
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from pynode import etf
from pynode.errors import EncodeError
from pynode.terms import Atom, Map
from pynode.values import UNREPRESENTABLE, from_struct, no_objects, struct, to_term


def there_and_back(value: Any) -> Any:
    return etf.decode(etf.encode(value, default=no_objects), struct=from_struct)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2, 3},
        {"a", (1, 2)},
        set(),
        dt.date(2026, 11, 21),
        dt.time(23, 59, 59),
        dt.time(23, 59, 59, 123456),
        dt.datetime(2026, 11, 21, 12, 0, 0),  # noqa: DTZ001 (that is a NaiveDateTime)
        dt.datetime(2026, 11, 21, 12, 0, 0, 5, tzinfo=dt.UTC),
        dt.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"), fold=1),
        Decimal("1.50"),
        Decimal("-0"),
        Decimal("1E+30"),
        Decimal("-Infinity"),
        range(10),
        range(0),
        range(10, 0, -3),
        [{"when": dt.date(1, 1, 1)}, {frozenset({1})}],
    ],
    ids=repr,
)
def test_comes_back_as_it_was(value: Any) -> None:
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, dt.datetime):
        assert back.utcoffset() == value.utcoffset()
    if isinstance(value, Decimal):
        assert str(back) == str(value)
    if isinstance(value, range):
        assert (back.start, back.stop, back.step) == (value.start, value.stop, value.step)


def test_fixed_offsets_keep_their_instant_and_offset() -> None:
    value = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30)))
    back = there_and_back(value)
    assert back == value
    assert back.utcoffset() == value.utcoffset()


@pytest.mark.parametrize(
    ("value", "name"),
    [(math.inf, "infinity"), (-math.inf, "neg_infinity"), (math.nan, "nan")],
)
def test_floats_that_erlang_lacks_are_atoms(value: float, name: str) -> None:
    back = there_and_back(value)
    assert back == name
    assert isinstance(back, Atom)


def test_decimal_nan() -> None:
    assert there_and_back(Decimal("NaN")).is_nan()


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Real(float):
    pass


def test_subclasses_of_scalars_travel_as_what_they_are() -> None:
    assert there_and_back([Text("a"), Number(1), Real(1.5)]) == ["a", 1, 1.5]


class Colour(enum.Enum):
    RED = 1


class Size(enum.IntEnum):
    BIG = 1


class Word(str, enum.Enum):  # noqa: UP042 - older code has these
    YES = "yes"


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    "value",
    [
        object(),
        1j,
        Colour.RED,
        Size.BIG,
        Word.YES,
        Point(1, 2),
        collections.Counter("a"),
        collections.OrderedDict(a=1),
        dt.timedelta(1),
        dt.time(1, tzinfo=dt.UTC),
        len,
        iter([]),
        ...,
    ],
    ids=repr,
)
def test_everything_else_is_an_object(value: Any) -> None:
    assert to_term(value) is UNREPRESENTABLE
    with pytest.raises(EncodeError, match=type(value).__name__):
        etf.encode(value, default=no_objects)


@pytest.mark.parametrize(
    "fields",
    [
        struct("Date", calendar=Atom("Elixir.Calendar.ISO"), year=-1, month=1, day=1),
        struct("Date", calendar=Atom("Elixir.Calendar.ISO"), year="x", month=1, day=1),
        struct("Date", calendar=Atom("Elixir.My.Calendar"), year=1, month=1, day=1),
        struct("Date"),
        struct("MapSet", map=Map([(1, []), (1.0, [])])),
        struct("Range", first=1, last=2, step=0),
        struct("Range", first="a", last=2, step=1),
        struct("Time", calendar=Atom("Elixir.Calendar.ISO"), hour=23, minute=59, second=60),
        struct("SnakeBridge.Ref", id="not a reference"),
        struct("MyApp.User", name="x"),
        {Atom("__struct__"): 5},
        {Atom("__struct__"): [1]},
    ],
    ids=lambda fields: str(fields)[:60],
)
def test_a_struct_that_python_cannot_hold_stays_a_dict(fields: dict[Any, Any]) -> None:
    assert there_and_back(fields) == fields


def test_a_type_can_say_how_it_travels() -> None:
    class Money:
        def __init__(self, cents: int) -> None:
            self.cents = cents

    to_term.register(Money, lambda money: ("money", money.cents))
    assert there_and_back([Money(5)]) == [("money", 5)]


def test_numpy_scalars_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    values = [numpy.int64(1), numpy.float64(1.5), numpy.float32(0.5), numpy.bool_(True)]
    values += [numpy.uint64(2**64 - 1), numpy.longdouble(2), numpy.str_("a"), numpy.float64("nan")]
    back = there_and_back(values)
    assert back == [1, 1.5, 0.5, True, 2**64 - 1, 2.0, "a", "nan"]
    assert [type(value) for value in back[:4]] == [int, float, float, bool]
    assert to_term(numpy.zeros(2)) is UNREPRESENTABLE
