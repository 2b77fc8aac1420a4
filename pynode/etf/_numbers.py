"""Runs of numbers in a list, converted at once and not one by one.

A run of INTEGER_EXT or of NEW_FLOAT_EXT is a table of records of one size: a tag, and a number in
big-endian order. ``array`` converts such numbers without a step of the interpreter for each, and
slices with a stride put the tags in and take them out. Ten thousand integers take a quarter of
the time.
"""

from __future__ import annotations

import sys
from array import array
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from pynode.etf.tags import INTEGER_EXT, NEW_FLOAT_EXT, SMALL_INTEGER_EXT

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A run of fewer numbers is not worth it.
SHORTEST_RUN: Final = 16
#: Numbers that are looked at once, so that many short runs stay linear.
_WINDOW: Final = 1_024

_FORMATS: Final = {INTEGER_EXT: "i", NEW_FLOAT_EXT: "d"}
#: The tags that `leading_numbers` knows, and the size of their records.
RECORD_SIZES: Final = {SMALL_INTEGER_EXT: 2, INTEGER_EXT: 5, NEW_FLOAT_EXT: 9}


def records(tag: int, numbers: Sequence[float]) -> bytearray:
    """Return the numbers with `tag` before each.

    Raises OverflowError if one of them does not fit.
    """
    table: array[Any] = array(_FORMATS[tag], numbers)
    if sys.byteorder == "little":
        table.byteswap()
    raw = table.tobytes()
    width = table.itemsize
    out = bytearray((tag,)) * (len(numbers) * (width + 1))
    for column in range(width):
        out[column + 1 :: width + 1] = raw[column::width]
    return out


def integer_records(numbers: list[int]) -> bytes | bytearray | None:
    """Return the integers as a list has them; None where one by one is quicker, or must be."""
    try:
        table = records(INTEGER_EXT, numbers)
    except OverflowError:
        return None
    # Those from 0 to 255 have a tag of their own. They are the ones with three bytes of zero.
    high = int.from_bytes(table[1::5]) | int.from_bytes(table[2::5]) | int.from_bytes(table[3::5])
    flags = high.to_bytes(len(numbers))
    if flags.count(0) > len(numbers) // 8:
        return None
    pieces: list[bytes | bytearray] = []
    start = 0
    while (at := flags.find(0, start)) >= 0:
        pieces += (table[5 * start : 5 * at], bytes((SMALL_INTEGER_EXT, table[5 * at + 4])))
        start = at + 1
    pieces.append(table[5 * start :])
    return b"".join(pieces)


def _numbers(tag: int, data: bytes) -> list[Any]:
    """Return the numbers of the records that `data` consists of."""
    if tag == SMALL_INTEGER_EXT:
        return list(data[1::2])
    table: array[Any] = array(_FORMATS[tag])
    width = table.itemsize
    raw = bytearray(len(data) // (width + 1) * width)
    for column in range(width):
        raw[column::width] = data[column + 1 :: width + 1]
    table.frombytes(raw)
    if sys.byteorder == "little":
        table.byteswap()
    return table.tolist()


def leading_numbers(data: bytes, pos: int, most: int) -> tuple[list[Any], int]:
    """Return the numbers at `pos` of `data`, at most `most`, and the position after them.

    It stops where runs become short, and before all that is not valid: the caller finds out.
    """
    found: list[Any] = []
    while most >= SHORTEST_RUN:
        tag = data[pos]
        size = RECORD_SIZES.get(tag)
        if size is None:
            break
        tags = data[pos : pos + size * min(most, _WINDOW) : size]
        run = len(tags) - len(tags.lstrip(bytes((tag,))))
        end = pos + size * run
        if run < SHORTEST_RUN or end > len(data):
            break
        numbers = _numbers(tag, data[pos:end])
        if tag == NEW_FLOAT_EXT and not all(map(isfinite, numbers)):
            break
        found += numbers
        most -= run
        pos = end
    return found, pos
