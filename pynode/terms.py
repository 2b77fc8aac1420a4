"""The Erlang data types that Python lacks.

Integers, floats, booleans, ``nil``, binaries, lists, tuples and most maps are Python's own
``int``, ``float``, ``bool``, ``None``, ``str`` and ``bytes``, ``list``, ``tuple`` and ``dict``.
What is left is here. All types are immutable values: equal only to their own type, hashable
where their contents are, pickle-able, and their ``repr`` evaluates back to them.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias, final

from pynode.identifiers import Pid, Port, Reference, set_wire

__all__ = [
    "Atom",
    "BitString",
    "ExternalFun",
    "Fun",
    "ImproperList",
    "LocalTerm",
    "MAX_KEY_DEPTH",
    "Map",
    "Pid",
    "Port",
    "Reference",
    "Term",
    "collisions",
    "exact",
    "is_deep",
    "set_wire",
]

#: An Erlang term as Python sees it. Any Python value may take part through the codec's hooks.
Term: TypeAlias = Any

#: Levels of a term that may be hashed: the interpreter recurses to do so, without looking at the
#: end of the stack.
MAX_KEY_DEPTH: Final = 100


class Atom(str):
    """An Erlang atom: its name, as a ``str`` that knows that it is an atom.

    It equals and hashes as that ``str``, so ``{Atom("a"): 1}["a"]`` is 1. ``nil``, ``true`` and
    ``false`` travel as ``None``, ``True`` and ``False``.

    Raises ValueError for more than 255 characters (erl_ext_dist, "Encoding atoms").
    """

    __slots__ = ()

    def __new__(cls, name: str) -> Self:
        """Return the atom of this name."""
        if len(name) > 255:
            raise ValueError(f"An atom has at most 255 characters, not {len(name)}: use a str.")
        return super().__new__(cls, name)

    def __repr__(self) -> str:
        return f"Atom({str(self)!r})"


@dataclass(frozen=True)
class Fun:
    """A fun that is a closure of some node (erl_ext_dist, NEW_FUN_EXT), as plain data.

    `uniq` has 16 bytes. Only a node that has loaded the same version of `module` can run it. A
    subclass travels as what it is a subclass of.
    """

    arity: int
    uniq: bytes
    index: int
    module: Atom
    old_index: int
    old_uniq: int
    pid: Pid
    free_vars: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class ExternalFun:
    """``fun module:function/arity`` (erl_ext_dist, EXPORT_EXT). `arity` is 0 to 255."""

    module: Atom
    function: Atom
    arity: int


@dataclass(frozen=True, slots=True)
class BitString:
    """A bitstring that does not end on a byte (erl_ext_dist, BIT_BINARY_EXT).

    The first `bits` bits of the last byte of `data` count, 1 to 7; the rest of them are made 0.
    Raises ValueError for other values of `bits` and for empty `data`: those are ``bytes``.
    """

    data: bytes
    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 7 or not self.data:
            raise ValueError(
                f"A bitstring of {len(self.data)} bytes uses 1 to 7 bits of the last one, "
                f"not {self.bits}: use bytes for whole ones."
            )
        last = self.data[-1] & (0xFF00 >> self.bits)
        object.__setattr__(self, "data", bytes(self.data[:-1]) + bytes((last,)))


@dataclass(frozen=True, slots=True, init=False)
class ImproperList:
    """``[E1, E2 | Tail]`` with a tail that is no list: `elements` has at least one.

    As in Erlang, ``ImproperList((1,), ImproperList((2,), 3))`` is ``ImproperList((1, 2), 3)``.
    Raises ValueError for no elements, and for a list as tail: that is a ``list``.
    """

    elements: tuple[Term, ...]
    tail: Term

    # By hand because there is one in each call that arrives, ``[alias | Reference]``.
    def __init__(self, elements: tuple[Term, ...], tail: Term) -> None:
        kind = type(tail)
        if kind is list or not elements:
            raise ValueError(
                "An improper list has at least one element, and a tail that is no list: "
                "use a list, or the tail alone."
            )
        if kind is ImproperList:
            elements = (*elements, *tail.elements)
            tail = tail.tail
        _set_elements(self, elements)
        _set_tail(self, tail)


# The slots' own setters, which a frozen dataclass's __setattr__ does not stand in front of.
_set_elements = ImproperList.__dict__["elements"].__set__
_set_tail = ImproperList.__dict__["tail"].__set__


@dataclass(frozen=True, slots=True)
class LocalTerm:
    """A term in the private format of the node that made it (erl_ext_dist, LOCAL_EXT; OTP 26).

    `data` is opaque, and only that node can read it. It is always a whole message, never a part.
    """

    data: bytes


@final
class Map(Mapping[Term, Term]):
    """An Erlang map that a ``dict`` cannot hold.

    Either it has keys that a dict would merge (1, 1.0 and True; Atom("a") and "a"), or keys that
    it cannot hash (lists and maps). Keys are told apart as Erlang's ``=:=`` does. Two of them are
    equal when their keys are so, and their values are equal in Python.

    `pairs` keeps the order. Raises ValueError when two keys are the same term.
    """

    __slots__ = ("_exact", "_index", "pairs")

    pairs: tuple[tuple[Term, Term], ...]
    _index: dict[Hashable, Term]
    _exact: frozenset[Hashable] | None

    def __init__(self, pairs: Iterable[tuple[Term, Term]]) -> None:
        self.pairs = tuple(pairs)
        self._index = {exact(key): value for key, value in self.pairs}
        self._exact = None
        if len(self._index) != len(self.pairs):
            raise ValueError("A map has each key once: remove the second one.")

    def __getitem__(self, key: Term) -> Term:
        try:
            return self._index[exact(key)]
        except KeyError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        return exact(key) in self._index

    def __iter__(self) -> Iterator[Term]:
        return (key for key, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        if type(other) is not Map:
            return NotImplemented
        return self._index == other._index

    def __hash__(self) -> int:
        # Keys alone: their exact forms are flat and always hashable, whatever the values are.
        return hash(frozenset(self._index))

    def __reduce__(self) -> tuple[Any, ...]:
        return Map, (self.pairs,)

    def __repr__(self) -> str:
        return f"Map({self.pairs!r})"


_END_OF_PAIR = object()
_END_OF_MAP = object()
#: Equal keys of these types are the same term, and never the same as a key of another type.
_PLAIN = frozenset({int, Pid, Port, Reference, BitString, ExternalFun})


def exact(term: Term) -> Hashable:
    """Return a hashable value that is the same for two terms when Erlang's ``=:=`` holds.

    Binaries are the same whether they are ``str`` or ``bytes``, as are ``None`` and
    ``Atom("nil")``; 0.0 and -0.0 differ, as since OTP 27. A Python object that Erlang does not
    know is compared with ``==`` if it is hashable, else by identity.

    The value is the term written out flat, without nesting, so that comparing two of them needs
    no stack; only maps are frozensets, as they have no order. Neither does this function recurse.
    """
    out: list[Any] = []
    outer: list[tuple[list[Any], set[Hashable], Map | None]] = []
    todo: list[Any] = [term]
    while todo:
        item = todo.pop()
        cls = type(item)
        if cls in _PLAIN:
            out += (cls, item)
        elif cls is str:
            out += (bytes, item.encode("utf-8", "surrogatepass"))
        elif cls is bytes or cls is bytearray or cls is memoryview:
            out += (bytes, bytes(item))
        elif cls is Atom:
            out += (Atom, str(item))
        elif item is None:
            out += (Atom, "nil")
        elif cls is bool:
            out += (Atom, "true" if item else "false")
        elif cls is float:
            out += (float, struct.pack(">d", item))
        elif cls is tuple or cls is list:
            out += (cls, len(item))
            todo += reversed(item)
        elif cls is ImproperList:
            out += (ImproperList, len(item.elements))
            todo.append(item.tail)
            todo += reversed(item.elements)
        elif cls is Map and item._exact is not None:
            out += (dict, item._exact)
        elif cls is dict or cls is Map:
            outer.append((out, set(), item if cls is Map else None))
            out = []
            todo.append(_END_OF_MAP)
            for key, value in item.items() if cls is dict else item.pairs:
                todo += (_END_OF_PAIR, value, key)
        elif item is _END_OF_PAIR:
            outer[-1][1].add(tuple(out))
            out = []
        elif item is _END_OF_MAP:
            out, pairs, owner = outer.pop()
            whole = frozenset(pairs)
            out += (dict, whole)
            if owner is not None:
                # Or maps that are keys of maps that are keys would take quadratic time.
                owner._exact = whole
        elif isinstance(item, Fun):
            identity = (item.module, item.uniq, item.index, item.old_index, item.old_uniq)
            out += (Fun, identity, item.arity, item.pid, len(item.free_vars))
            todo += reversed(item.free_vars)
        else:
            out += (cls, _by_value_or_identity(item))
    return tuple(out)


def _by_value_or_identity(item: object) -> Hashable:
    try:
        hash(item)
    except TypeError:
        return id(item)
    return item


# --- what may be hashed, of what strangers have sent


def is_deep(term: Term) -> bool:
    """Return whether `term` is nested too deep to be hashed, beyond MAX_KEY_DEPTH."""
    level = [term]
    for _ in range(MAX_KEY_DEPTH):
        inside: list[Any] = []
        for item in level:
            if type(item) is tuple:
                inside += item
            elif type(item) is ImproperList:
                inside += (*item.elements, item.tail)
            elif isinstance(item, Fun):
                inside += item.free_vars
        if not inside:
            return False
        level = inside
    return True


def collisions(terms: Iterable[Hashable]) -> int:
    """Return how many of the terms, at most, have one hash value.

    A dict or a set of them takes quadratic time, and numbers with this property are easily made.
    Raises TypeError for a term that cannot be hashed.
    """
    return max(Counter(map(hash, terms)).values(), default=0)
