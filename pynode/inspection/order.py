"""The order of the keys of maps (Erlang Reference Manual, "Term Comparisons")."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from pynode.inspection.atoms import atom_name
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
from pynode.values import UNREPRESENTABLE, to_term

if TYPE_CHECKING:
    from collections.abc import Collection

#: Larger maps are shown in the order that they have: OTP does not sort them either.
SORTED_MAP = 32
#: Parts of a key that are looked at, and maps inside each other in it.
_PARTS = 1_000
_LEVELS = 3


class _Part(tuple[Any, ...]):
    """A part of the sort key that is ready: a rank, and what to compare within that rank."""

    __slots__ = ()


_CONS = _Part((9,))
_NIL = _Part((8,))


def ordered(pairs: Collection[tuple[Any, Any]]) -> Collection[tuple[Any, Any]]:
    """Return the pairs of a map in the order in which they are shown."""
    if not 1 < len(pairs) <= SORTED_MAP:
        return pairs
    return sorted(pairs, key=lambda pair: _SortKey().parts(pair[0]))


def converted(value: Any) -> Any:
    """Return the Erlang form of a Python value, or UNREPRESENTABLE; does not raise."""
    try:
        return to_term(value)
    except Exception:  # noqa: BLE001 (it may be code of the user's)
        return UNREPRESENTABLE


class _SortKey:
    """What a key is sorted by: the parts of the term, flat, as Erlang compares them.

    Pids, ports, references and funs have an order of their own, that of their contents.
    """

    def __init__(self) -> None:
        self._left = _PARTS

    def parts(self, term: Any, levels: int = _LEVELS) -> list[_Part]:
        parts: list[_Part] = []
        todo: list[Any] = [term]
        while todo and self._left:
            self._left -= 1
            item = todo.pop()
            cls = type(item)
            if cls is _Part:
                parts.append(item)
            elif cls is int or (cls is float and math.isfinite(item)):
                # As keys, but nowhere else, all integers come before all floats.
                parts.append(_Part((0, cls is float, item)))
            elif cls is Atom or item is None or cls is bool:
                parts.append(_Part((1, atom_name(item))))
            elif cls is Reference:
                parts.append(_Part((2, item.node, item.creation, item.ids)))
            elif issubclass(cls, Fun):
                parts.append(_Part((3, 0, item.module, item.old_uniq, item.index)))
            elif cls is ExternalFun:
                parts.append(_Part((3, 1, item.module, item.function, item.arity)))
            elif cls is Port:
                parts.append(_Part((4, item.node, item.creation, item.id)))
            elif cls is Pid:
                parts.append(_Part((5, item.node, item.creation, item.serial, item.id)))
            elif cls is tuple:
                parts.append(_Part((6, len(item))))
                todo += reversed(item[:_PARTS])
            elif cls is dict or cls is Map:
                parts.append(_Part((7, len(item))))
                if levels and len(item) <= SORTED_MAP:
                    pairs = item.items() if cls is dict else item.pairs
                    keyed = [(self.parts(key, levels - 1), value) for key, value in pairs]
                    keyed.sort(key=itemgetter(0))
                    todo += reversed([value for _, value in keyed])
                    todo += reversed([part for key, _ in keyed for part in key])
            elif cls is list:
                todo += reversed(_cells(item, _NIL))
            elif cls is ImproperList:
                todo += reversed(_cells(item.elements, item.tail))
            elif cls is str or cls is bytes:
                data = item.encode("utf-8", "surrogatepass") if cls is str else item
                parts.append(_Part((10, data, 8)))
            elif cls is BitString:
                parts.append(_Part((10, item.data, item.bits)))
            elif (form := converted(item)) is not UNREPRESENTABLE:
                todo.append(form)
            else:
                parts.append(_Part((11,)))
        return parts


def _cells(elements: Any, tail: Any) -> list[Any]:
    """Return a list as what it is made of, its first `_PARTS` elements at least."""
    cells = [part for element in elements[:_PARTS] for part in (_CONS, element)]
    return [*cells, tail]
