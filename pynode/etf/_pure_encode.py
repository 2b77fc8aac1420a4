"""Python to External Term Format: the reference, in pure Python.

How it works. One loop takes one value at a time from `pending`, an iterator over the container
that is being written, and appends its bytes to `parts`. A container appends its header, puts
`pending` on `stack` and goes on with an iterator over its own elements: what must follow them (the
end of a list) is one element more.

Cycles cost nothing until something is suspiciously deep. Then all is encoded once more, in a
careful mode that knows in which containers it is. What `default` returned is kept from one time to
the other, so that it is asked once for each object.
"""

from __future__ import annotations

from itertools import chain
from math import isfinite
from struct import Struct
from struct import error as StructError  # noqa: N812 (It is a class.)
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pynode.config import LIMITS
from pynode.errors import EncodeError
from pynode.etf._numbers import SHORTEST_RUN, integer_records, records
from pynode.etf.tags import (
    ATOM_UTF8_EXT,
    BINARY_EXT,
    BIT_BINARY_EXT,
    EXPORT_EXT,
    INTEGER_EXT,
    LARGE_BIG_EXT,
    LARGE_TUPLE_EXT,
    LIST_EXT,
    LOCAL_EXT,
    MAP_EXT,
    NEW_FLOAT_EXT,
    NEW_FUN_EXT,
    NEWER_REFERENCE_EXT,
    NIL_EXT,
    SMALL_ATOM_UTF8_EXT,
    SMALL_BIG_EXT,
    SMALL_INTEGER_EXT,
    SMALL_TUPLE_EXT,
    STRING_EXT,
    VERSION,
)
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
    set_wire,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Default = Callable[[Any], Any]

#: Bytes of a binary that is too large to be copied in passing.
_LARGE_PART: Final = 64 * 1024

#: What `encode_parts` returns.
Part: TypeAlias = bytes | memoryview

#: Containers inside each other from which on it may be a cycle.
CAREFUL_DEPTH: Final = 64
#: Levels that the stand-in for what is too deep may have itself.
STAND_IN_DEPTH: Final = 64
#: Entries that the cache of atoms may have before it is emptied.
CACHE_SIZE: Final = 4_096

_NIL: Final = bytes((NIL_EXT,))
_SMALL_INTEGERS: Final = [bytes((SMALL_INTEGER_EXT, n)) for n in range(256)]
_SMALL_TUPLES: Final = [bytes((SMALL_TUPLE_EXT, n)) for n in range(256)]
_SMALL_BINARIES: Final = [bytes((BINARY_EXT, 0, 0, 0, n)) for n in range(256)]
_SMALL_MAPS: Final = [bytes((MAP_EXT, 0, 0, 0, n)) for n in range(256)]

#: A tag and 4 bytes of count, as tuples, lists, maps and binaries begin.
_counted = Struct(">BI").pack
_string = Struct(">BH").pack
_integer = Struct(">Bi").pack
_float = Struct(">Bd").pack
_bits = Struct(">BIB").pack
_pid_words = Struct(">III").pack
_port_words = Struct(">QI").pack
#: By the number of words of the reference: the creation, and the words.
_REFERENCE_WORDS: Final = [Struct(f">I{count}I").pack for count in range(6)]
_fun_start = Struct(">BIB16sII").pack

#: Keys of these types are different terms if they are different keys, all of them together.
_DISTINCT_KEYS: Final = frozenset({Atom, str, int, Pid, Port, Reference})
_NUMBERS: Final = frozenset({int, float})
_CONSTANTS: Final = {None: b"w\x03nil", True: b"w\x04true", False: b"w\x05false"}
_atoms: dict[str, bytes] = {}


def encode(term: Any, *, default: Default | None = None, version: bool = True) -> bytes:
    """Return `term` as ``term_to_binary/1`` makes it, from the version byte 131 on.

    Without `version` that byte is left out, as it is in the messages between nodes.

    The bytes are those of OTP 26 and later, where atoms are always UTF-8 (as they are between
    nodes; for OTP 25 this is ``term_to_binary(Term, [{minor_version, 2}])``), but for the order of
    the keys of a map, which is the dict's.

    ``default(value)`` is called for each value that has no form of its own, once for each object,
    also for those of float (nan and the infinities) and of classes derived from Python's own
    (Enum members, named tuples). What it returns is encoded in the value's place. It is also called
    for a container that is inside itself, at the place where the cycle closes, and for one that is
    deeper than ``LIMITS.depth``.

    Raises EncodeError for a value without a form when there is no `default` for it, for a map with
    two keys that are the same term, and for text that is no Unicode (lone surrogates).
    """
    return b"".join(_encode(term, default, [bytes((VERSION,))] if version else []))


def encode_parts(term: Any, *, default: Default | None = None) -> bytes | list[Part]:
    """Return `term` without version byte; with large binaries in it, in parts.

    They are the objects of `term` themselves then, as far as those cannot change. See `encode`.
    """
    parts: list[Part] = []
    small: list[bytes] = []
    for part in _encode(term, default, []):
        if len(part) > _LARGE_PART:
            parts += (b"".join(small), part)
            small = []
        else:
            small.append(part)
    last = b"".join(small)
    if not parts:
        return last
    if last:
        parts.append(last)
    return parts


def _encode(
    root: Any,
    default: Default | None,
    start: list[bytes],
    made: dict[int, tuple[Any, Any]] | None = None,
) -> list[bytes]:
    """Return `start` with the parts of the encoded `root` after it.

    `made` has what default returned for which object, which is kept so that its id stays its own.
    """
    atoms = _atoms
    parts = start.copy()
    put = parts.append
    stack: list[Iterator[Any]] = []
    pending: Iterator[Any] = iter((root,))
    inner: Iterator[Any]
    made = {} if made is None else made
    # In careful mode, the ids of the containers around, with 0 for the stand-in of a value.
    path: list[int] | None = None
    inside: set[int] = set()
    while True:
        for term in pending:
            cls: type | None = type(term)
            # The commonest first. A branch puts the whole of a value and continues, or puts the
            # header of a container, as one part, and leaves the iterator `inner`.
            if cls is Atom:
                put(atoms.get(term) or _new_atom(term))
                continue
            if cls is str:
                raw = _utf8(term)
                size = len(raw)
                put(_SMALL_BINARIES[size] if size < 256 else _header(BINARY_EXT, size))
                put(raw)
                continue
            if cls is int:
                if 0 <= term <= 255:
                    put(_SMALL_INTEGERS[term])
                elif -0x8000_0000 <= term <= 0x7FFF_FFFF:
                    put(_integer(INTEGER_EXT, term))
                else:
                    put(_big(term))
                continue
            if cls is tuple:
                size = len(term)
                put(_SMALL_TUPLES[size] if size < 256 else _header(LARGE_TUPLE_EXT, size))
                if not size:
                    continue
                inner = iter(term)
            elif cls is list:
                # A copy, since default, or another thread, may change the list meanwhile.
                items = term.copy()
                if not items:
                    put(_NIL)
                    continue
                if type(items[0]) in _NUMBERS and (numbers := _numbers(items)):
                    put(numbers)
                    continue
                put(_header(LIST_EXT, len(items)))
                items.append([])
                inner = iter(items)
            elif cls is dict:
                pairs = list(term.items())
                size = len(pairs)
                put(_SMALL_MAPS[size] if size < 256 else _header(MAP_EXT, size))
                if not size:
                    continue
                if _DISTINCT_KEYS.issuperset([type(key) for key, _ in pairs]):
                    inner = chain.from_iterable(pairs)
                else:
                    inner = _watched(pairs, parts)
            elif cls is NoneType or cls is bool:
                put(_CONSTANTS[term])
                continue
            elif cls is float and isfinite(term):
                put(_float(NEW_FLOAT_EXT, term))
                continue
            elif cls is Reference or cls is Pid or cls is Port:
                put(term.wire or _identifier(term))
                continue
            elif cls is bytes or cls is bytearray or cls is memoryview:
                raw = bytes(term)
                put(_header(BINARY_EXT, len(raw)))
                put(raw)
                continue
            elif cls is ImproperList:
                put(_header(LIST_EXT, len(term.elements)))
                inner = chain(term.elements, (term.tail,))
            elif cls is Map:
                put(_header(MAP_EXT, len(term.pairs)))
                inner = _watched(term.pairs, parts)
            elif cls is ExternalFun:
                put(_external_fun(term))
                continue
            elif cls is BitString:
                put(_bits(BIT_BINARY_EXT, len(term.data), term.bits) + term.data)
                continue
            elif cls is LocalTerm and len(parts) == len(start):
                put(bytes((LOCAL_EXT,)) + term.data)
                continue
            elif issubclass(type(term), Fun):
                put(_fun_header(term, 0))
                inner = _fun(term, parts)
            else:
                inner = _stand_in(term, default, made, "has no form as an Erlang term")
                cls = None

            # A container, whose header is in parts; or, without header, a stand-in.
            depth = len(stack)
            stack.append(pending)
            pending = inner
            if path is not None:
                if cls is not None:
                    too_deep = depth == LIMITS.depth and path[-1] != 0
                    if too_deep or id(term) in inside:
                        parts.pop()
                        why = "is nested too deep" if too_deep else "is inside itself"
                        pending = _stand_in(term, default, made, why)
                        cls = None
                if depth > LIMITS.depth + STAND_IN_DEPTH:
                    raise EncodeError(
                        "What default returns is nested without end: let it return plain terms."
                    )
                if cls is None:
                    path.append(0)
                else:
                    path.append(id(term))
                    inside.add(id(term))
            elif depth >= CAREFUL_DEPTH:
                # Start over, in careful mode.
                parts[:] = start
                stack.clear()
                pending = iter((root,))
                path = []
            break
        else:
            if not stack:
                return parts
            pending = stack.pop()
            if path is not None:
                inside.discard(path.pop())


def _stand_in(
    term: Any, default: Default | None, made: dict[int, tuple[Any, Any]], why: str
) -> Iterator[Any]:
    """Return an iterator over what `default` gives for `term`, the same each time."""
    known = made.get(id(term))
    if known is None:
        if default is None:
            raise EncodeError(
                f"A value of type {type(term).__qualname__} {why}: "
                "convert it first, or pass default= to say how it travels."
            )
        known = made[id(term)] = (term, default(term))
        if known[1] is term:
            raise EncodeError(
                f"A value of type {type(term).__qualname__} {why}, and default returned it "
                "unchanged: let it return another value."
            )
    return iter(known[1:])


def _header(tag: int, count: int) -> bytes:
    try:
        return _counted(tag, count)
    except StructError:
        raise EncodeError(f"A value of {count} bytes or elements is too large: split it.") from None


def _utf8(text: str) -> bytes:
    # Raised while the other is handled, the error would hold on to the text.
    try:
        return text.encode()
    except UnicodeEncodeError:
        pass
    raise EncodeError("A str has lone surrogates, which UTF-8 does not have: pass bytes.")


def _out_of_range(what: str) -> EncodeError:
    return EncodeError(f"{what}: it cannot come from a node, so make it with valid ones.")


# --- maps ----------------------------------------------------------------------------------


def _watched(pairs: Iterable[tuple[Any, Any]], parts: list[bytes]) -> Iterator[Any]:
    """Yield keys and values in turn, and then raise EncodeError if two keys are the same term.

    What they are encoded to tells: None and Atom("nil"), "a" and b"a" are one key each.
    """
    seen = set()
    with_maps = []
    for key, value in pairs:
        start = len(parts)
        yield key
        encoded = b"".join(parts[start:])
        # As one part, or keys inside keys would be put together again and again.
        parts[start:] = (encoded,)
        if encoded in seen:
            raise _same_key()
        seen.add(encoded)
        if MAP_EXT in encoded:
            with_maps.append(key)
        yield value
    # Maps may be the same with their own keys in another order.
    try:
        if len(set(map(exact, with_maps))) != len(with_maps):
            raise _same_key()
    except RecursionError:
        # Only keys of the same hash value are compared.
        raise _same_key() from None


def _same_key() -> EncodeError:
    return EncodeError("Two keys of a map are the same Erlang term: remove or rename one.")


# --- numbers -------------------------------------------------------------------------------


#: Bytes of the largest integer that OTP 28 takes (``(1 bsl 4194240) - 1``). A BEAM closes the
#: connection on a larger one.
_LARGEST: Final = 65_535 * 8


def _big(number: int) -> bytes:
    magnitude = abs(number)
    size = (magnitude.bit_length() + 7) // 8
    if size > _LARGEST:
        raise EncodeError(
            f"An integer of {size} bytes is too large for a BEAM, which takes {_LARGEST}: send its "
            "bytes or its digits."
        )
    digits = magnitude.to_bytes(size, "little")
    if size < 256:
        return bytes((SMALL_BIG_EXT, size, number < 0)) + digits
    return _header(LARGE_BIG_EXT, size) + bytes((number < 0,)) + digits


def _numbers(items: list[Any]) -> bytes | None:
    """Return the encoded list of numbers; None if it is another list, or has no short form."""
    kinds = set(map(type, items))
    if kinds == {int}:
        return _integers(items)
    if kinds == {float} and len(items) >= SHORTEST_RUN and all(map(isfinite, items)):
        return _header(LIST_EXT, len(items)) + records(NEW_FLOAT_EXT, items) + _NIL
    return None


def _integers(numbers: list[int]) -> bytes:
    size = len(numbers)
    if size <= 0xFFFF:
        try:
            return _string(STRING_EXT, size) + bytes(numbers)
        except ValueError:
            pass  # Not all of them are bytes.
    encoded = integer_records(numbers) if size >= SHORTEST_RUN else None
    if encoded is None:
        encoded = b"".join(
            [
                _SMALL_INTEGERS[number]
                if 0 <= number <= 255
                else _integer(INTEGER_EXT, number)
                if -0x8000_0000 <= number <= 0x7FFF_FFFF
                else _big(number)
                for number in numbers
            ]
        )
    return _header(LIST_EXT, size) + encoded + _NIL


# --- atoms and what is named after nodes ---------------------------------------------------


def _new_atom(name: str) -> bytes:
    """Return the encoded atom of this name, and remember it."""
    raw = _utf8(name)
    if len(name) > 255:
        raise EncodeError("An atom has more than 255 characters: shorten it, or use a str.")
    if len(raw) < 256:
        encoded = bytes((SMALL_ATOM_UTF8_EXT, len(raw))) + raw
    else:
        encoded = _string(ATOM_UTF8_EXT, len(raw)) + raw
    if len(_atoms) >= CACHE_SIZE:
        # Simple, and without a lock: what is in use comes back at once.
        _atoms.clear()
    _atoms[name] = encoded
    return encoded


def _atom(name: str) -> bytes:
    return _atoms.get(name) or _new_atom(name)


def _identifier(term: Pid | Port | Reference) -> bytes:
    """Return the encoded pid, port or reference, and leave it there for the next time."""
    node = _atom(term.node)
    try:
        if type(term) is Pid:
            wire = b"X" + node + _pid_words(term.id, term.serial, term.creation)
        elif type(term) is Port:
            wire = b"x" + node + _port_words(term.id, term.creation)
        else:
            ids = term.ids
            if not 1 <= len(ids) <= 5:
                raise _out_of_range(f"A reference has 1 to 5 words, not {len(ids)}")
            words = _REFERENCE_WORDS[len(ids)](term.creation, *ids)
            wire = _string(NEWER_REFERENCE_EXT, len(ids)) + node + words
    except StructError:
        raise _out_of_range(f"A number in a {type(term).__name__} is out of range") from None
    set_wire(term, wire)
    return wire


# --- funs ----------------------------------------------------------------------------------


def _external_fun(fun: ExternalFun) -> bytes:
    if type(fun.arity) is not int or not 0 <= fun.arity <= 255:
        raise _out_of_range("The arity of a fun is no integer from 0 to 255")
    head = bytes((EXPORT_EXT,)) + _atom(fun.module) + _atom(fun.function)
    return head + _SMALL_INTEGERS[fun.arity]


def _fun_header(fun: Fun, size: int) -> bytes:
    """Return what comes before the terms in a fun, `size` being that of all terms."""
    if type(fun.uniq) is not bytes or len(fun.uniq) != 16 or type(fun.pid) is not Pid:
        raise _out_of_range("A fun has a uniq of 16 bytes and a pid, unlike this one")
    try:
        return _fun_start(
            NEW_FUN_EXT, 29 + size, fun.arity, fun.uniq, fun.index, len(fun.free_vars)
        )
    except StructError:
        raise _out_of_range("A number in a fun is out of range") from None


def _int32(number: int) -> bytes:
    try:
        encoded = _integer(INTEGER_EXT, number)
    except StructError:
        raise _out_of_range("A number in a fun is none of 32 bits") from None
    return _SMALL_INTEGERS[number] if 0 <= number <= 255 else encoded


def _fun(fun: Fun, parts: list[bytes]) -> Iterator[Any]:
    """Yield the terms in a fun; then write its header, the last part before them, once more."""
    header = len(parts) - 1
    parts += (_atom(fun.module), _int32(fun.old_index), _int32(fun.old_uniq))
    yield fun.pid
    yield from fun.free_vars
    # As one part, or funs inside funs would be added up again and again.
    body = b"".join(parts[header + 1 :])
    parts[header:] = (_fun_header(fun, len(body)), body)
