"""`Kernel.inspect/2` for the terms of `pynode.terms` and the values of `pynode.values`."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from pynode.inspection.atoms import atom_name, escape, is_keyword_key, key, literal, remote_call
from pynode.inspection.order import converted, ordered
from pynode.show import short
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
from pynode.values import UNREPRESENTABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

#: Items of each list, tuple, map and bitstring that are shown (`Inspect.Opts`, `limit`).
LIMIT: Final = 50
#: Characters of each string and charlist that are shown (`printable_limit`).
PRINTABLE_LIMIT: Final = 4_096
#: Characters of all together, more or less, after which containers end with `...`.
ROOM: Final = 100_000
#: Longer integers, of more than 4096 digits, take too long to write.
_INTEGER_BITS = 13_606
#: The longest integers that str() writes whatever its limit is.
_SHORT_BITS = 2_000

# Lone surrogates are none of Elixir's characters, but better seen as escapes than as bytes.
_PRINTABLE = re.compile("[\x07-\x0d\x1b\x20-\x7f\xa0-\ufffd\U00010000-\U0010ffff]*")
_CHARLIST = frozenset((*range(7, 14), 27, *range(32, 127)))
_STRUCT = Atom("__struct__")
_HIDDEN = frozenset({"__struct__", "__exception__"})
_ISO = "Elixir.Calendar.ISO"


def inspect(term: Any, *, limit: int = LIMIT, room: int = ROOM) -> str:
    """Return `term` as Elixir shows it.

    `limit` items are shown of a container, and fewer of those inside it: as many levels, too.
    After `room` characters or so everything is cut short.
    """
    writer = _Writer(room)
    try:
        writer.term(term, limit)
    except Exception:  # noqa: BLE001 (no stack is left, or another thread changes the term)
        return "#Python<...>"
    return "".join(writer.parts)


class _Writer:
    """What has been written so far. `limit` is how many items may follow at this place."""

    def __init__(self, room: int) -> None:
        self.parts: list[str] = []
        self.room = room
        self.charlists = True

    def put(self, text: str) -> None:
        self.parts.append(text)
        self.room -= len(text)

    def term(self, term: Any, limit: int) -> None:
        cls = type(term)
        if (name := atom_name(term)) is not None:
            self.put(literal(name))
        elif cls is str or cls is bytes:
            self.binary(term, limit)
        elif cls is int:
            self.put(_integer(term))
        elif cls is float and math.isfinite(term):
            self.put(_float(term))
        elif cls is list:
            self.proper_list(term, limit)
        elif cls is tuple:
            self.items("{", term, "}", limit, self.term)
        elif cls is dict:
            self.struct_or_map(term, limit)
        elif cls is Map:
            self.map(term.pairs, limit)
        elif cls is Pid:
            self.put(f"#PID<{str(term)[1:-1]} on {term.node}>")
        elif cls is Reference:
            self.put(f"#Reference<{str(term)[5:-1]} on {term.node}>")
        elif cls is Port:
            self.put(f"#Port<{str(term)[6:-1]} on {term.node}>")
        elif cls is ImproperList:
            *most, last = term.elements
            cells = [*((element,) for element in most), (last, term.tail)]
            self.items("[", cells, "]", limit, self._cell)
        elif cls is BitString:
            rest = f"{term.data[-1] >> (8 - term.bits)}::size({term.bits})"
            self.items("<<", [*term.data[:-1], rest], ">>", limit, self._text)
        elif cls is ExternalFun:
            function = f"{remote_call(term.function)}/{term.arity}"
            self.put(f"&{literal(term.module)}.{function}")
        elif issubclass(cls, Fun):
            unique = f"{term.index}.{term.old_uniq}/{term.arity}"
            self.put(f"#Function<{unique} in {literal(term.module)}>")
        elif cls is LocalTerm:
            self.put(f"#LocalTerm<{len(term.data)} bytes>")
        elif cls is Decimal:
            self.put(f'Decimal.new("{term}")')
        elif cls is bytearray or cls is memoryview:
            self.binary(bytes(term), limit)
        else:
            self.python(term, limit)

    def items(
        self,
        opening: str,
        items: Iterable[Any],
        closing: str,
        limit: int,
        write: Callable[[Any, int], None],
    ) -> None:
        """Write a container; `write` is given each item, and the limit for what is in it."""
        self.put(opening)
        separator = ""
        for item in items:
            self.put(separator)
            separator = ", "
            if limit <= 0 or self.room <= 0:
                self.put("...")
                break
            limit -= 1
            write(item, limit)
        self.put(closing)

    def binary(self, term: str | bytes, limit: int) -> None:
        length = max(0, min(PRINTABLE_LIMIT, self.room))
        head = term[:length] if isinstance(term, str) else _decoded(term, length)
        if head is not None and _PRINTABLE.fullmatch(head):
            size = len(head) if isinstance(term, str) else len(head.encode())
            self.put(f'"{escape(head)}"{" <> ..." if size < len(term) else ""}')
        else:
            data = term if isinstance(term, bytes) else term.encode("utf-8", "surrogatepass")
            self.items("<<", data, ">>", limit, self._text)

    def proper_list(self, term: list[Any], limit: int) -> None:
        chars = term[: max(1, min(PRINTABLE_LIMIT, self.room))]
        if self.charlists and term and all(type(c) is int and c in _CHARLIST for c in chars):
            more = " ++ ..." if len(term) > len(chars) else ""
            self.put(f'~c"{escape("".join(map(chr, chars)))}"{more}')
            return
        head = term[: max(limit, PRINTABLE_LIMIT)]
        is_keyword = all(type(e) is tuple and len(e) == 2 and is_keyword_key(e[0]) for e in head)
        self.items("[", term, "]", limit, self._keyword if is_keyword else self.term)

    def struct_or_map(self, term: dict[Any, Any], limit: int) -> None:
        struct = term.get(_STRUCT)
        name = literal(struct) if type(struct) is Atom else ":"
        if name.startswith(":"):
            self.map(term.items(), limit)
        elif not self._known_struct(name, term, limit):
            fields = [pair for pair in ordered(term.items()) if atom_name(pair[0]) not in _HIDDEN]
            if all(is_keyword_key(k) for k, _ in fields):
                self.items(f"%{name}{{", fields, "}", limit, self._keyword)
            else:
                self.map(term.items(), limit)

    def map(self, pairs: Collection[tuple[Any, Any]], limit: int) -> None:
        pairs = ordered(pairs)
        head = islice(pairs, max(limit, PRINTABLE_LIMIT))
        is_keyword = all(is_keyword_key(k) for k, _ in head)
        self.items("%{", pairs, "}", limit, self._keyword if is_keyword else self._pair)

    def python(self, value: Any, limit: int) -> None:
        form = converted(value)
        if form is UNREPRESENTABLE:
            text = short(value).encode("utf-8", "backslashreplace").decode()
            self.put(f"#Python<{' '.join(text.split())}>")
        else:
            self.term(form, limit)

    def _text(self, text: object, _limit: int) -> None:
        self.put(str(text))

    def _cell(self, cell: tuple[Any, ...], limit: int) -> None:
        self.term(cell[0], limit)
        if len(cell) > 1:
            self.put(" | ")
            self.term(cell[1], limit)

    def _pair(self, pair: tuple[Any, Any], limit: int) -> None:
        self.term(pair[0], limit)
        self.put(" => ")
        self.term(pair[1], limit)

    def _keyword(self, pair: tuple[Any, Any], limit: int) -> None:
        self.put(f"{key(atom_name(pair[0]) or '')} ")
        self.term(pair[1], limit)

    # --- structs that are shown in a way of their own

    def _known_struct(self, name: str, fields: dict[Any, Any], limit: int) -> bool:
        """Write it, if it is one of those and its fields are what they should be."""
        members: Any = fields.get("map")
        if name == "MapSet" and type(members) in {dict, Map}:
            outer, self.charlists = self.charlists, False
            pairs = ordered(members.items() if type(members) is dict else members.pairs)
            self.put("MapSet.new(")
            self.proper_list([member for member, _ in pairs], limit)
            self.put(")")
            self.charlists = outer
            return True
        form = _SIGILS.get(name)
        if form is None or fields.get("calendar", _ISO) != _ISO:
            return False
        try:
            self.put(form(fields))
        except Exception:  # noqa: BLE001 (the fields may be anything at all)
            return False
        return True


def _integer(number: int) -> str:
    bits = number.bit_length()
    if bits > _INTEGER_BITS:
        return f"#Integer<{bits} bits>"
    return str(number) if bits <= _SHORT_BITS else f"{Decimal(number):f}"


def _float(number: float) -> str:
    """Return what `float_to_binary(Number, [short])` does, but 1.0e15 and less without exponent."""
    if 1.0 <= abs(number) < 1.0e16 and number.is_integer():
        return f"{int(number)}.0"
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    text = "".join(map(str, digits))
    minus = "-" if sign else ""
    if text == "0":
        return f"{minus}0.0"
    point = len(text) + int(exponent)
    scientific = f"{text[0]}.{text[1:] or '0'}e{point - 1}"
    if point <= 0:
        plain = f"0.{'0' * -point}{text}"
    elif point < len(text):
        plain = f"{text[:point]}.{text[point:]}"
    else:
        plain = scientific + "0"  # of 2**53 or more
    return minus + (plain if len(plain) <= len(scientific) else scientific)


def _decoded(data: bytes, length: int) -> str | None:
    """Return the beginning of a binary as a string, up to that length; None if it is none."""
    head = data[: 4 * length]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        # What is behind the part that is shown may be anything.
        text = head[: error.start].decode()
        if len(text) < length:
            return None
    return text[:length]


def _range(fields: dict[Any, Any]) -> str:
    first, last, step = fields["first"], fields["last"], fields["step"]
    text = f"{_integer(first)}..{_integer(last)}"
    return text if step == 1 and last >= first else f"{text}//{_integer(step)}"


def _date(fields: dict[Any, Any]) -> str:
    year = fields["year"]
    sign = "-" if year < 0 else ""
    return f"{sign}{abs(year):04d}-{fields['month']:02d}-{fields['day']:02d}"


def _time(fields: dict[Any, Any]) -> str:
    value, precision = fields["microsecond"]
    fraction = f".{value:06d}"[: precision + 1] if precision else ""
    return f"{fields['hour']:02d}:{fields['minute']:02d}:{fields['second']:02d}{fraction}"


def _datetime(fields: dict[Any, Any]) -> str:
    text = f"{_date(fields)} {_time(fields)}"
    utc, saving, zone = fields["utc_offset"], fields["std_offset"], fields["time_zone"]
    if (utc, saving, zone) == (0, 0, "Etc/UTC"):
        return f"~U[{text}Z]"
    hours, minutes = divmod(abs(utc + saving) // 60, 60)
    offset = f"{'-' if utc + saving < 0 else '+'}{hours:02d}:{minutes:02d}"
    return f"#DateTime<{text}{offset} {_word(fields['zone_abbr'])} {_word(zone)}>"


def _ref(fields: dict[Any, Any]) -> str:
    # As SnakeBridge shows it.
    text = _word(fields["type_name"] or "object")
    if fields["python_module"] is not None:
        text += f" in {_word(fields['python_module'])}"
    if fields["session_id"] is not None:
        text += f", {_word(fields['session_id'])}"
    return f"#{literal(fields['__struct__'])}<{text} on {fields['id'].node}>"


def _word(field: Any) -> str:
    """Return a name as it is, but nothing that would look like something else."""
    if type(field) is str and len(field) < 256 and field.isprintable():
        return field
    return inspect(field, limit=5)


_SIGILS: dict[str, Callable[[dict[Any, Any]], str]] = {
    "Range": _range,
    "Date": lambda fields: f"~D[{_date(fields)}]",
    "Time": lambda fields: f"~T[{_time(fields)}]",
    "NaiveDateTime": lambda fields: f"~N[{_date(fields)} {_time(fields)}]",
    "DateTime": _datetime,
    "SnakeBridge.Ref": _ref,
    "SnakeBridge.StreamRef": _ref,
}
