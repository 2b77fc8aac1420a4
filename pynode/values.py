"""What each value is on the other side: the value mapping of docs/PROTOCOL.md, on top of the codec.

Erlang's own types are the codec's business (`pynode.etf`). Here are the Elixir structs that have
a Python type of their own (`MapSet`, `Date`, `Time`, `NaiveDateTime`, `DateTime`, `Decimal`,
`Range`), and the Python values that have an Erlang form though the codec does not know them.
What has none becomes a ref, which is not decided here: see `UNREPRESENTABLE`.

The forms of the structs are those of Elixir 1.14 and later.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import sys
import zoneinfo
from decimal import Decimal
from functools import singledispatch
from typing import TYPE_CHECKING, Any, Final

from pynode import etf
from pynode.config import LIMITS, Limits
from pynode.errors import DecodeError, EncodeError
from pynode.terms import Atom, Fun, ImproperList, Map, Reference, collisions, is_deep

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

#: Answer of `to_term` for a value that cannot travel.
UNREPRESENTABLE: Final = object()

#: Enough precision for every Decimal; int() of one is exact whatever its length.
_EXACT: Final = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
#: What is converted takes time that grows with the square of its digits.
_MAX_COEFFICIENT: Final = 10**LIMITS.decimal_digits

_STRUCT = Atom("__struct__")
_ISO = Atom("Elixir.Calendar.ISO")


class Ref:
    """A handle on an object that some Python node keeps: `%SnakeBridge.Ref{}`.

    It is what travels instead of the object; `id` is an Erlang reference, made by the node that
    has the object. Handles are made by nodes, not by users.
    """

    __slots__ = ("id", "library", "python_module", "session_id", "stream", "type_name")

    def __init__(
        self,
        id: Reference,  # noqa: A002 - the field's name in docs/PROTOCOL.md
        session_id: str | None,
        python_module: str | None,
        library: str | None,
        type_name: str | None,
        *,
        stream: bool = False,
    ) -> None:
        self.id = id
        self.session_id = session_id
        self.python_module = python_module
        self.library = library
        self.type_name = type_name
        self.stream = stream

    def __repr__(self) -> str:
        return f"<Ref {self.type_name} in {self.session_id} on {self.id.node}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def to_term(self) -> dict[Atom, Any]:
        """The struct, `%SnakeBridge.StreamRef{}` for an iterator."""
        return {
            _STRUCT: _STREAM_REF if self.stream else _REF,
            _ID: self.id,
            _SESSION_ID: self.session_id,
            _PYTHON_MODULE: self.python_module,
            _LIBRARY: self.library,
            _TYPE_NAME: self.type_name,
            _SCHEMA: 1,
        }


_REF = Atom("Elixir.SnakeBridge.Ref")
_STREAM_REF = Atom("Elixir.SnakeBridge.StreamRef")
_ID = Atom("id")
_SESSION_ID = Atom("session_id")
_PYTHON_MODULE = Atom("python_module")
_LIBRARY = Atom("library")
_TYPE_NAME = Atom("type_name")
_SCHEMA = Atom("schema")


def struct(name: str, /, **fields: Any) -> dict[Atom, Any]:
    """Return the map that is `%name{fields...}` in Elixir."""
    term: dict[Atom, Any] = {_STRUCT: Atom(f"Elixir.{name}")}
    for key, value in fields.items():
        term[Atom(key)] = value
    return term


# --- Python to Erlang


@singledispatch
def to_term(value: Any) -> Any:
    """Return the Erlang form of a value that the codec does not know, or UNREPRESENTABLE.

    A single-dispatch function: ``to_term.register(MyType)`` decides how objects of a type of
    yours travel. What your function returns may contain anything that travels; it may also
    return UNREPRESENTABLE, and then the object stays here and a ref goes in its place.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        plain = value.item()
        if isinstance(plain, numpy.generic):  # a long double, which Python has no type for
            plain = float(plain)
        return plain if type(plain) in _PLAIN else UNREPRESENTABLE
    return UNREPRESENTABLE


_PLAIN = frozenset({int, float, bool, str, bytes})


@to_term.register
def _(value: float) -> Any:
    if math.isfinite(value):
        return float(value)  # a subclass of float
    if math.isnan(value):
        return Atom("nan")
    return Atom("infinity") if value > 0 else Atom("neg_infinity")


def _scalar(base: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        # An Enum that is also a str or an int is still a name with a meaning: it stays here.
        return UNREPRESENTABLE if isinstance(value, enum.Enum) else base(value)

    return convert


to_term.register(
    str, lambda value: UNREPRESENTABLE if isinstance(value, enum.Enum) else str.__str__(value)
)
to_term.register(int, _scalar(int))
to_term.register(bytes, _scalar(bytes))
to_term.register(Ref, Ref.to_term)


@to_term.register(set)
@to_term.register(frozenset)
def _(value: AbstractSet[Any]) -> Any:
    if type(value) not in (set, frozenset):
        return UNREPRESENTABLE
    members: dict[Any, list[Any]] = {member: [] for member in value}
    return struct("MapSet", map=members, version=2)


@to_term.register
def _(value: Decimal) -> Any:
    sign, _, exponent = value.as_tuple()
    if exponent == "F":
        coefficient: Any = Atom("inf")
    elif isinstance(exponent, str):
        coefficient = Atom("NaN")
    else:
        coefficient = int(value.copy_abs().scaleb(-int(exponent), _EXACT))
    exp = exponent if isinstance(exponent, int) else 0
    return struct("Decimal", sign=-1 if sign else 1, coef=coefficient, exp=exp)


@to_term.register
def _(value: range) -> Any:
    last = value.stop - (1 if value.step > 0 else -1)
    return struct("Range", first=value.start, last=last, step=value.step)


@to_term.register
def _(value: dt.date) -> Any:
    if type(value) is not dt.date:
        return UNREPRESENTABLE
    return struct("Date", calendar=_ISO, year=value.year, month=value.month, day=value.day)


@to_term.register
def _(value: dt.time) -> Any:
    if type(value) is not dt.time or value.tzinfo is not None:
        return UNREPRESENTABLE  # Elixir has no time of day with a zone
    return struct("Time", calendar=_ISO, **_clock(value))


@to_term.register
def _(value: dt.datetime) -> Any:
    if type(value) is not dt.datetime:
        return UNREPRESENTABLE
    day: dict[str, Any] = {"year": value.year, "month": value.month, "day": value.day}
    offset = value.utcoffset()
    if offset is None:
        return struct("NaiveDateTime", calendar=_ISO, **day, **_clock(value))
    saving = value.dst() or dt.timedelta()
    return struct(
        "DateTime",
        calendar=_ISO,
        **day,
        **_clock(value),
        time_zone=_zone_name(value, offset),
        zone_abbr=value.tzname(),
        utc_offset=int((offset - saving).total_seconds()),
        std_offset=int(saving.total_seconds()),
    )


def _clock(value: dt.time | dt.datetime) -> dict[str, Any]:
    # Elixir keeps a precision, Python does not: whole seconds have none, all else six digits.
    microsecond = (value.microsecond, 6 if value.microsecond else 0)
    return {
        "hour": value.hour,
        "minute": value.minute,
        "second": value.second,
        "microsecond": microsecond,
    }


def _zone_name(value: dt.datetime, offset: dt.timedelta) -> str:
    if isinstance(value.tzinfo, zoneinfo.ZoneInfo) and value.tzinfo.key:
        return value.tzinfo.key
    seconds = int(offset.total_seconds())
    if seconds == 0:
        return "Etc/UTC"
    hours, rest = divmod(abs(seconds), 3600)
    if rest == 0 and hours <= 12:
        return f"Etc/GMT{'-' if seconds > 0 else '+'}{hours}"  # the sign is POSIX's, reversed
    return str(value.tzname())


_CONTAINERS: Final = frozenset({list, tuple, dict, Map, ImproperList})


def no_objects(value: Any) -> Any:
    """A `default` for the codec where there is no registry to keep an object."""
    term = to_term(value)
    if term is UNREPRESENTABLE:
        if type(value) in _CONTAINERS:  # which have a form, but for this
            raise EncodeError(
                f"A {type(value).__name__} is inside itself, or nested deeper than "
                f"{LIMITS.depth} levels: send it flatter."
            )
        raise EncodeError(
            f"A {type(value).__name__} has no Erlang form: send its parts, or register one "
            f"with pynode.to_term.register({type(value).__name__})."
        )
    return term


def encode(term: Any, default: Callable[[Any], Any] = no_objects) -> bytes:
    """Return the payload for a message; `default` is asked for what the codec does not know.

    Raises EncodeError, unless another `default` is given for Python objects as well.
    """
    return etf.encode(term, default=default, version=False)


def encode_parts(term: Any, default: Callable[[Any], Any] = no_objects) -> bytes | list[etf.Part]:
    """Return the payload as `encode` does; with large binaries in it, without copying those."""
    return etf.encode_parts(term, default=default)


# --- Erlang to Python


def from_struct(fields: dict[Any, Any]) -> Any:
    """Return the Python value for a decoded Elixir struct; the dict itself for all others.

    A struct whose fields are not what Elixir would have made (or that Python cannot hold, such
    as a date before year 1) stays the dict that it is: nothing is lost.
    """
    name = fields["__struct__"]
    convert = _STRUCTS.get(name) if isinstance(name, str) else None
    if convert is None:
        return fields
    try:
        return convert(fields)
    except Exception:  # noqa: BLE001 (the fields may be anything at all)
        return fields


def decode(
    payload: bytes,
    *,
    fun: Callable[[Fun], Any],
    struct: Callable[[dict[Any, Any]], Any] = from_struct,
    limits: Limits = LIMITS,
) -> Any:
    """Return the Python value of a message's payload; `fun` makes its funs callable.

    Raises DecodeError, also for what follows the term.
    """
    value, end = etf.decode_at(payload, 0, struct=struct, fun=fun, limits=limits)
    if end != len(payload):
        raise DecodeError(
            f"{len(payload) - end} bytes follow the term of a message: "
            "check what implements that node."
        )
    return value


def _from_ref(fields: dict[Any, Any]) -> Any:
    reference = fields["id"]
    if not isinstance(reference, Reference):
        raise TypeError
    return Ref(
        reference,
        fields.get("session_id"),
        fields.get("python_module"),
        fields.get("library"),
        fields.get("type_name"),
        stream=fields["__struct__"] == _STREAM_REF,
    )


def _from_bytes(fields: dict[Any, Any]) -> Any:
    data = fields["data"]
    return data.encode() if isinstance(data, str) else memoryview(data).tobytes()


def _from_map_set(fields: dict[Any, Any]) -> Any:
    members = fields["map"]
    if type(members) is dict:
        return set(members)
    if type(members) is not Map:
        raise TypeError
    # Members that a set would merge (1 and 1.0) or cannot hold (lists) leave it a struct, but
    # sets inside a set can be had. The decoder has not hashed these keys.
    frozen = [frozenset(member) if type(member) is set else member for member in members]
    if any(map(is_deep, frozen)) or collisions(frozen) > LIMITS.collisions:
        return fields
    whole = set(frozen)
    return whole if len(whole) == len(frozen) else fields


def _from_range(fields: dict[Any, Any]) -> Any:
    first, last, step = (_integer(fields[name]) for name in ("first", "last", "step"))
    return range(first, last + (1 if step > 0 else -1), step)


def _from_decimal(fields: dict[Any, Any]) -> Any:
    coefficient, negative = fields["coef"], _integer(fields["sign"]) < 0
    if coefficient == "NaN":
        return Decimal("NaN")
    if coefficient == "inf":
        return Decimal("-Infinity" if negative else "Infinity")
    if not 0 <= _integer(coefficient) < _MAX_COEFFICIENT:
        raise ValueError
    digits = Decimal(coefficient).as_tuple().digits
    return Decimal((int(negative), digits, _integer(fields["exp"])))


def _integer(value: Any) -> int:
    """Return `value`, which Elixir has as an integer: neither a boolean nor anything else."""
    if type(value) is not int:
        raise TypeError
    return value


def _check_calendar(fields: dict[Any, Any]) -> None:
    if fields["calendar"] != _ISO:
        raise ValueError


def _from_date(fields: dict[Any, Any]) -> Any:
    _check_calendar(fields)
    return dt.date(fields["year"], fields["month"], fields["day"])


def _from_time(fields: dict[Any, Any]) -> Any:
    _check_calendar(fields)
    return dt.time(fields["hour"], fields["minute"], fields["second"], fields["microsecond"][0])


def _from_naive(fields: dict[Any, Any]) -> Any:
    return dt.datetime.combine(_from_date(fields), _from_time(fields))


def _from_datetime(fields: dict[Any, Any]) -> Any:
    naive = _from_naive(fields)
    offset = dt.timedelta(seconds=fields["utc_offset"] + fields["std_offset"])
    name = fields["time_zone"]
    if name == "Etc/UTC":
        return naive.replace(tzinfo=dt.UTC)
    try:
        zone = zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        zone = None
    if zone is not None:
        for fold in (0, 1):
            aware = naive.replace(tzinfo=zone, fold=fold)
            if aware.utcoffset() == offset:
                return aware
    return naive.replace(tzinfo=dt.timezone(offset, fields["zone_abbr"]))


_STRUCTS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "Elixir.SnakeBridge.Ref": _from_ref,
    "Elixir.SnakeBridge.StreamRef": _from_ref,
    "Elixir.SnakeBridge.Bytes": _from_bytes,
    "Elixir.MapSet": _from_map_set,
    "Elixir.Range": _from_range,
    "Elixir.Decimal": _from_decimal,
    "Elixir.Date": _from_date,
    "Elixir.Time": _from_time,
    "Elixir.NaiveDateTime": _from_naive,
    "Elixir.DateTime": _from_datetime,
}
