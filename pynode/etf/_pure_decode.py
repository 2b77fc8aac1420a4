"""External Term Format to Python: the reference, in pure Python.

How it works. One loop reads one tag at a time. The container that is being filled is in local
variables (`kind`, `items`, and how many elements are `left`); those around it wait on `stack`, so
depth costs memory and no recursion. When nothing is left, the container becomes a value and goes
into the one around it.

Reading beyond the end is found late, to keep the checks out of the way of the commonest terms: an
index or ``struct`` raises, and a slice that came out too short leaves `pos` beyond the end, which
is noticed before a container is completed. Nothing half-read leaves this module.

Atoms, pids and references are few and come again: they are looked up by their bytes in caches of
bounded size, which makes them identical objects, too.
"""

from __future__ import annotations

import zlib
from codecs import utf_8_decode
from math import isfinite
from struct import Struct
from struct import error as StructError  # noqa: N812 (It is a class.)
from typing import TYPE_CHECKING, Any, Final

from pynode.config import LIMITS, Limits
from pynode.errors import DecodeError
from pynode.etf._numbers import RECORD_SIZES, SHORTEST_RUN, leading_numbers
from pynode.etf._pure_readers import (
    complete_fun,
    fun_header,
    invalid,
    known_atoms,
    known_pids,
    known_references,
    new_atom,
    new_pid,
    new_reference,
    rare,
    truncated,
)
from pynode.etf.tags import (
    BINARY_EXT,
    COMPRESSED,
    INTEGER_EXT,
    LARGE_TUPLE_EXT,
    LIST_EXT,
    LOCAL_EXT,
    MAP_EXT,
    NEW_FLOAT_EXT,
    NEW_FUN_EXT,
    NEW_PID_EXT,
    NEWER_REFERENCE_EXT,
    NIL_EXT,
    SMALL_ATOM_UTF8_EXT,
    SMALL_INTEGER_EXT,
    SMALL_TUPLE_EXT,
    STRING_EXT,
    VERSION,
)
from pynode.terms import (
    MAX_KEY_DEPTH,
    Fun,
    ImproperList,
    LocalTerm,
    Map,
    collisions,
    exact,
    is_deep,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of a binary that is too large to be copied in passing.
_LARGE_BINARY: Final = 64 * 1024
#: Keys and values of a map that is so small that its keys need no look.
_SMALL_MAP: Final = 128

# Values of `deep` below every depth: each container is looked at. The second says that there was
# one deeper than MAX_KEY_DEPTH.
_COUNTED: Final = -1
_COUNTED_DEEP: Final = -2

_u16 = Struct(">H").unpack_from
_u32 = Struct(">I").unpack_from
_i32 = Struct(">i").unpack_from
_f64 = Struct(">d").unpack_from

# What the container is that is being filled.
_ROOT: Final = 0
_TUPLE: Final = 1
_LIST: Final = 2
_MAP: Final = 3
#: The tail of an improper list.
_TAIL: Final = 4
_FUN: Final = 5


def decode(
    data: bytes | bytearray | memoryview,
    *,
    struct: Callable[[dict[Any, Any]], Any] | None = None,
    fun: Callable[[Fun], Any] | None = None,
    limits: Limits = LIMITS,
) -> Any:
    """Return the term that `data` is, from the version byte 131 to the end.

    What ``term_to_binary`` makes with its option ``compressed`` is accepted, too. `struct`, `fun`
    and `limits` are as in `decode_at`. Raises DecodeError for anything else, so also for bytes
    that follow the term (which ``binary_to_term/1`` lets pass).
    """
    whole = data if type(data) is bytes else bytes(memoryview(data))
    if not whole or whole[0] != VERSION:
        raise DecodeError("The data does not begin with 131: pass an External Term Format term.")
    start = 1
    if len(whole) > 1 and whole[1] == COMPRESSED:
        whole = _decompress(whole, limits.decompressed)
        start = 0
    term, end = decode_at(whole, start, struct=struct, fun=fun, limits=limits)
    if end != len(whole):
        raise DecodeError(
            f"{len(whole) - end} bytes follow the term: pass one term, or use decode_at."
        )
    return term


def decode_at(
    data: bytes | bytearray | memoryview,
    offset: int,
    *,
    struct: Callable[[dict[Any, Any]], Any] | None = None,
    fun: Callable[[Fun], Any] | None = None,
    limits: Limits = LIMITS,
) -> tuple[Any, int]:
    """Return the term without version byte at `offset` of `data`, and the offset after it.

    ``bytes`` are read in place, any other buffer is copied once.

    `struct` is called with each dict, innermost first, that has a key ``__struct__``; what it
    returns takes the dict's place. `fun` is called likewise with each Fun. What they raise goes
    through. Raises DecodeError for all that is no valid term or exceeds ``limits.depth`` or
    ``limits.terms``.
    """
    if type(data) is not bytes:
        data = bytes(memoryview(data))
    pos = offset
    size = len(data)
    # Up to here nothing needs to be watched; beyond, _watched decides. A term takes a byte at
    # least, so it is long data alone that may have too many.
    deep = min(limits.depth, MAX_KEY_DEPTH) if size - pos <= limits.terms else _COUNTED
    soft_depth = deep
    terms = 0
    atoms = known_atoms
    in_hook = False
    value: Any
    stack: list[tuple[int, int, list[Any]]] = []
    kind: int = _ROOT
    left: int = 1
    items: list[Any] = []
    try:
        while True:
            tag = data[pos]
            # The commonest first. A branch leaves `value` and the `pos` after it; one that
            # begins a container goes on with the loop instead.
            if tag == SMALL_ATOM_UTF8_EXT:
                start = pos + 2
                pos = start + data[pos + 1]
                name = data[start:pos]
                try:
                    value = atoms[name]
                except KeyError:
                    value = new_atom(name, pos)
            elif tag == SMALL_INTEGER_EXT:
                value = data[pos + 1]
                pos += 2
            elif tag == BINARY_EXT:
                start = pos + 5
                pos = start + _u32(data, pos + 1)[0]
                if pos - start > _LARGE_BINARY:
                    value = _large_binary(data, start, pos)
                else:
                    value = data[start:pos]
                    try:  # noqa: SIM105 (which costs more than all the rest)
                        value = value.decode()
                    except UnicodeDecodeError:
                        pass
            elif tag == SMALL_TUPLE_EXT or tag == LARGE_TUPLE_EXT:  # noqa: PLR1714, SIM109 (speed)
                if tag == SMALL_TUPLE_EXT:
                    count = data[pos + 1]
                    pos += 2
                else:
                    count = _u32(data, pos + 1)[0]
                    pos += 5
                if count:
                    if count > size - pos:
                        raise truncated(size)
                    if len(stack) >= deep:
                        deep, terms = _watched(len(stack), deep, terms + count, limits)
                    stack.append((kind, left, items))
                    kind = _TUPLE
                    left = count
                    items = []
                    continue
                value = ()
            elif tag == NIL_EXT:
                value = []
                pos += 1
            elif tag == LIST_EXT:
                count = _u32(data, pos + 1)[0]
                pos += 5
                if count >= size - pos:
                    raise truncated(size)
                if len(stack) >= deep:
                    deep, terms = _watched(len(stack), deep, terms + count, limits)
                stack.append((kind, left, items))
                items = []
                if count:
                    kind = _LIST
                    left = count
                    if count > SHORTEST_RUN and data[pos] in RECORD_SIZES:
                        # All but the last one, which completes the list below.
                        items, pos = leading_numbers(data, pos, count - 1)
                        left -= len(items)
                else:
                    # A list of no elements is its tail; so it is on the BEAM.
                    kind = _TAIL
                    left = 1
                continue
            elif tag == MAP_EXT:
                count = 2 * _u32(data, pos + 1)[0]
                pos += 5
                if count:
                    if count > size - pos:
                        raise truncated(size)
                    if len(stack) >= deep:
                        deep, terms = _watched(len(stack), deep, terms + count, limits)
                    stack.append((kind, left, items))
                    kind = _MAP
                    left = count
                    items = []
                    continue
                value = {}
            elif tag == INTEGER_EXT:
                value = _i32(data, pos + 1)[0]
                pos += 5
            elif tag == NEWER_REFERENCE_EXT:
                end = pos + 9 + 4 * data[pos + 2] + data[pos + 4]
                value = known_references.get(data[pos:end])
                if value is None:
                    value, pos = new_reference(data, pos)
                else:
                    pos = end
            elif tag == NEW_PID_EXT:
                end = pos + 15 + data[pos + 2]
                value = known_pids.get(data[pos:end])
                if value is None:
                    value, pos = new_pid(data, pos)
                else:
                    pos = end
            elif tag == STRING_EXT:
                start = pos + 3
                pos = start + _u16(data, pos + 1)[0]
                value = list(data[start:pos])
                if deep < 0:
                    deep, terms = _watched(0, deep, terms + len(value), limits)
            elif tag == NEW_FLOAT_EXT:
                value = _f64(data, pos + 1)[0]
                if not isfinite(value):
                    raise invalid(pos, "a float that is not finite")
                pos += 9
            elif tag == NEW_FUN_EXT:
                fields, count, pos = fun_header(data, pos)
                if len(stack) >= deep:
                    deep, terms = _watched(len(stack), deep, terms + count, limits)
                stack.append((kind, left, items))
                kind = _FUN
                items = fields
                left = count
                continue
            elif tag == LOCAL_EXT and not stack:
                # From here on the data is private to the node that made it.
                value = LocalTerm(data[pos + 1 :])
                pos = size
            else:
                value, pos = rare(data, pos, tag)

            items.append(value)
            left -= 1
            while not left:
                # The container is complete.
                if pos > size:
                    raise truncated(size)
                if kind == _TUPLE:
                    value = tuple(items)
                elif kind == _LIST:
                    tag = data[pos]
                    if tag == NIL_EXT:
                        value = items
                        pos += 1
                    elif tag == LIST_EXT:
                        # The tail is a list, so the list goes on.
                        left = _u32(data, pos + 1)[0]
                        pos += 5
                        if left >= size - pos:
                            raise truncated(size)
                        if deep < 0:
                            deep, terms = _watched(0, deep, terms + left, limits)
                        continue
                    else:
                        kind = _TAIL
                        left = 1
                        break
                elif kind == _MAP:
                    if deep == soft_depth and len(items) <= _SMALL_MAP:
                        flat = iter(items)
                        try:
                            value = dict(zip(flat, flat))  # noqa: B905 (It takes time.)
                        except (TypeError, RecursionError):
                            value = _exact_map(items, pos)
                        else:
                            if 2 * len(value) != len(items):
                                value = _exact_map(items, pos)
                    else:
                        value = _guarded_map(items, pos, limits)
                    if struct is not None and type(value) is dict and "__struct__" in value:
                        in_hook = True
                        value = struct(value)
                        in_hook = False
                elif kind == _ROOT:
                    return items[0], pos
                elif kind == _TAIL:
                    value = items.pop()
                    if items:
                        if type(value) is list:
                            items += value
                            value = items
                        else:
                            value = ImproperList(tuple(items), value)
                else:
                    value = complete_fun(items, pos)
                    if fun is not None:
                        in_hook = True
                        value = fun(value)
                        in_hook = False
                kind, left, items = stack.pop()
                items.append(value)
                left -= 1
    except (IndexError, StructError):
        if in_hook:
            raise
        raise truncated(size) from None


def _watched(depth: int, deep: int, terms: int, limits: Limits) -> tuple[int, int]:
    """Return what `deep` becomes, and `terms`, for a container at `depth` with `terms` so far.

    Raises DecodeError if either is beyond its limit.
    """
    if depth >= limits.depth:
        raise DecodeError(
            f"The term is nested deeper than {limits.depth} levels: send it flatter, "
            "or raise Limits.depth."
        )
    if terms > limits.terms:
        raise DecodeError(
            f"The term consists of more than {limits.terms} terms: send it in parts, "
            "or raise Limits.terms."
        )
    if deep >= 0:
        return limits.depth, terms
    return (deep if depth < MAX_KEY_DEPTH else _COUNTED_DEEP), terms


def _large_binary(data: bytes, start: int, end: int) -> str | bytes:
    """Return the value of a binary, which is not copied more than once."""
    whole = memoryview(data)[start:end]
    try:
        utf_8_decode(whole[:_LARGE_BINARY], "strict", False)  # noqa: FBT003 (more may follow)
        return str(whole, "utf-8")
    except UnicodeDecodeError as error:
        # What is no text is most often so from the beginning. If not, the error has a copy.
        return error.object if len(error.object) == len(whole) else bytes(whole)


def _decompress(data: bytes, limit: int) -> bytes:
    """Return what is inside of ``131, 80, Size:32, Zlib``."""
    if len(data) < 6:
        raise truncated(len(data))
    size: int = _u32(data, 2)[0]
    if size > limit:
        raise DecodeError(
            f"The compressed term has {size} bytes, more than {limit}: "
            "send it in parts, or raise Limits.decompressed."
        )
    inflate = zlib.decompressobj()
    try:
        # One byte more than it should be, to see the end of the stream; 0 would be no limit.
        term = inflate.decompress(memoryview(data)[6:], size + 1)
    except zlib.error as error:
        raise DecodeError(f"The compressed term is damaged ({error}): send it again.") from None
    if len(term) != size or not inflate.eof or inflate.unused_data:
        raise DecodeError(
            f"The compressed term does not have the {size} bytes that it says: send it again."
        )
    return term


# --- maps ----------------------------------------------------------------------------------


def _exact_map(items: list[Any], pos: int) -> Map:
    """Return the map of keys and values in turn that is none that a dict can hold."""
    try:
        return Map(zip(items[::2], items[1::2], strict=True))
    except ValueError:
        raise invalid(pos, "the end of a map that has a key twice") from None
    except RecursionError:
        raise invalid(pos, "the end of a map with keys nested too deep to compare") from None


def _guarded_map(items: list[Any], pos: int, limits: Limits) -> dict[Any, Any] | Map:
    """Return the same as the decoder's loop does, for a map that may be made to harm us.

    Keys may be so deep that hashing them exhausts the stack of the thread, or be chosen so that
    thousands have the same hash value, which makes a dict take quadratic time.
    """
    keys = items[::2]
    if not any(map(is_deep, keys)):
        try:
            _refuse_collisions(keys, pos, limits)
            value = dict(zip(keys, items[1::2], strict=True))
        except (TypeError, RecursionError):
            pass
        else:
            if len(value) == len(keys):
                return value
    _refuse_collisions([exact(key) for key in keys], pos, limits)
    return _exact_map(items, pos)


def _refuse_collisions(keys: list[Any], pos: int, limits: Limits) -> None:
    if len(keys) > limits.collisions and (most := collisions(keys)) > limits.collisions:
        raise invalid(pos, f"the end of a map with {most} keys of the same hash value")
