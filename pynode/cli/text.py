"""What comes from a node as text: names are any bytes there, and must do nothing to a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pynode.show import short
from pynode.terms import Map, Pid, Reference
from pynode.values import Ref

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Characters of one value in a table.
_LONGEST = 255
_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEP = 1000
_PERIODS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def shown(text: str) -> str:
    """Return `text` with whatever is not printed escaped: control characters, line ends, bidi."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def cell(value: object) -> str:
    """Return a value as it stands in a table: strings and atoms as they are, on one line."""
    text = str(value) if isinstance(value, (str, Pid, Reference)) else short(value)
    return shown(text if len(text) <= _LONGEST else text[:_LONGEST] + "...") or "''"


def owners(session: Mapping[str, Any]) -> str:
    """Return the first owners of a session, those that are absent marked as such."""
    found = [
        f"{cell(pid.node)} {pid}{' (absent)' if pid in session['absent'] else ''}"
        for pid in session["owners"][:3]
    ]
    more = len(session["owners"]) - len(found)
    return ", ".join(found) + (f", and {more} more" if more else "")


def tags(session: Mapping[str, Any]) -> str:
    """Return the tags of a session."""
    return ", ".join(f"{cell(key)}={cell(value)}" for key, value in session["tags"].items())


def period(seconds: float) -> str:
    """Return a time in its two largest units."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in _PERIODS:
        count, rest = divmod(rest, length)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def size(count: int | None) -> str:
    """Return a number of bytes; "-" where it is not known."""
    if count is None:
        return "-"
    number, unit = float(count), 0
    while number >= _STEP and unit < len(_UNITS) - 1:
        number, unit = number / _STEP, unit + 1
    return f"{number:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def measured(found: Mapping[str, Any], count: int) -> str:
    """Return the bytes of `count` objects, of which not all may have been measured."""
    if found["measured"] >= count:
        return size(found["bytes"])
    return f">{size(found['bytes'])}" if found["measured"] else "-"


def rate(per_second: float) -> str:
    """Return a number of calls per second."""
    return f"{per_second:,.1f}"


def as_json(value: Any) -> Any:
    """Return a value as JSON can have it; what it has nothing for is text."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 64 else short(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Pid):
        return {"node": str(value.node), "pid": str(value)}
    if isinstance(value, Ref):
        return str(value.id)
    if isinstance(value, (dict, Map)):
        return {
            key if isinstance(key, str) else short(key): as_json(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set)):
        return [as_json(item) for item in value]
    return short(value)
