"""The terms that `_pure_decode` does not read in its loop: what is named after a node, and rare.

A reader gets the data and the position of a tag, and returns the value and the position after it.
What is cut off at the end of the data either raises (IndexError or ``struct.error``, which the
loop knows), or leads to a position beyond the end, which the loop looks at.
"""

from __future__ import annotations

import re
from math import isfinite
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from pynode.errors import DecodeError
from pynode.etf.tags import (
    ATOM_CACHE_REF,
    ATOM_EXT,
    ATOM_UTF8_EXT,
    BIT_BINARY_EXT,
    COMPRESSED,
    EXPORT_EXT,
    FLOAT_EXT,
    FUN_EXT,
    INTEGER_EXT,
    LARGE_BIG_EXT,
    LOCAL_EXT,
    NEW_PORT_EXT,
    NEW_REFERENCE_EXT,
    PID_EXT,
    PORT_EXT,
    REFERENCE_EXT,
    SMALL_ATOM_EXT,
    SMALL_ATOM_UTF8_EXT,
    SMALL_BIG_EXT,
    SMALL_INTEGER_EXT,
    V4_PORT_EXT,
)
from pynode.terms import Atom, BitString, ExternalFun, Fun, Pid, Port, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

#: Entries that the cache of atoms may have before it is emptied, and those of pids and references:
#: of these most are used by one call only, and more of them would be memory that comes and goes.
CACHE_SIZE: Final = 4_096
_IDENTIFIERS: Final = 512

#: Atoms that are no Atom in Python.
_RESERVED: Final = {b"nil": None, b"true": True, b"false": False}
_SMALL_ATOMS: Final = frozenset({SMALL_ATOM_UTF8_EXT, SMALL_ATOM_EXT})
_LARGE_ATOMS: Final = frozenset({ATOM_UTF8_EXT, ATOM_EXT})
#: By the UTF-8 of the name.
known_atoms: dict[bytes, Atom | bool | None] = {}
#: By the whole of the encoded term, with the node as SMALL_ATOM_UTF8_EXT.
known_pids: dict[bytes, Pid] = {}
known_references: dict[bytes, Reference] = {}

_u16 = Struct(">H").unpack_from
_u32 = Struct(">I").unpack_from
_i32 = Struct(">i").unpack_from
_two_words = Struct(">II").unpack_from
_pid_words = Struct(">III").unpack_from
_v4_port_words = Struct(">QI").unpack_from
_fun_start = Struct(">IB16sII").unpack_from
#: By the number of words of the reference: the creation, and the words.
_REFERENCE_WORDS: Final = [Struct(f">I{count}I").unpack_from for count in range(6)]

#: What FLOAT_EXT holds ("%.20e"), as strict about it as the BEAM.
_float_text = re.compile(rb"[+-]?[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?\Z").match


def truncated(size: int) -> DecodeError:
    return DecodeError(f"The term does not end within its {size} bytes: pass all of it.")


def invalid(pos: int, what: str) -> DecodeError:
    return DecodeError(f"At byte {pos} there is {what}: the data is damaged, or no Erlang term.")


# --- atoms and what is named after nodes ---------------------------------------------------


def new_atom(name: bytes, pos: int) -> Any:
    """Return what the atom of this UTF-8 name is in Python, and remember it."""
    atom: Any
    if name in _RESERVED:
        atom = _RESERVED[name]
    else:
        try:
            atom = Atom(name.decode())
        except ValueError:
            raise invalid(pos, "the end of an atom that is no text of 255 characters") from None
    _remember(known_atoms, name, atom)
    return atom


def _remember(cache: dict[bytes, Any], key: bytes, value: object, size: int = CACHE_SIZE) -> None:
    if len(cache) >= size:
        # Simple, and without a lock: what is in use comes back at once.
        cache.clear()
    cache[key] = value


def _atom_at(data: bytes, pos: int) -> tuple[Atom, int]:
    """Return the atom at `pos`, an Atom also if it is nil or a boolean, and the next position."""
    tag = data[pos]
    if tag == SMALL_ATOM_UTF8_EXT:
        end = pos + 2 + data[pos + 1]
        known = known_atoms.get(data[pos + 2 : end])
        # If the data ends within it, the caller will find nothing behind it.
        if type(known) is Atom:
            return known, end
    if tag in _SMALL_ATOMS:
        start = pos + 2
        end = start + data[pos + 1]
    elif tag in _LARGE_ATOMS:
        start = pos + 3
        end = start + _u16(data, pos + 1)[0]
    else:
        raise invalid(pos, f"tag {tag} instead of an atom")
    if end > len(data):
        raise truncated(len(data))
    name = data[start:end]
    try:
        atom = Atom(name.decode("latin-1" if tag in {ATOM_EXT, SMALL_ATOM_EXT} else "utf-8"))
    except ValueError:
        raise invalid(pos, "an atom that is no text of up to 255 characters") from None
    if tag == SMALL_ATOM_UTF8_EXT and name not in _RESERVED:
        _remember(known_atoms, name, atom)
    return atom, end


def new_pid(data: bytes, pos: int) -> tuple[Pid, int]:
    """Return the pid (NEW_PID_EXT) at `pos`, and remember it."""
    node, at = _atom_at(data, pos + 1)
    number, serial, creation = _pid_words(data, at)
    end = at + 12
    if data[pos + 1] != SMALL_ATOM_UTF8_EXT:
        return Pid(node, number, serial, creation), end
    wire = data[pos:end]
    pid = Pid(node, number, serial, creation, _wire=wire)
    _remember(known_pids, wire, pid, _IDENTIFIERS)
    return pid, end


def new_reference(data: bytes, pos: int) -> tuple[Reference, int]:
    """Return the reference (NEWER_REFERENCE_EXT) at `pos`, and remember it."""
    unpack = _reference_words(data, pos)
    node, at = _atom_at(data, pos + 3)
    words = unpack(data, at)
    end = at + 4 * len(words)
    if data[pos + 3] != SMALL_ATOM_UTF8_EXT:
        return Reference(node, words[0], words[1:]), end
    wire = data[pos:end]
    reference = Reference(node, words[0], words[1:], _wire=wire)
    _remember(known_references, wire, reference, _IDENTIFIERS)
    return reference, end


def _reference_words(data: bytes, pos: int) -> Callable[[bytes, int], tuple[int, ...]]:
    """Return what reads the creation and the words of the reference at `pos`."""
    count = data[pos + 1] << 8 | data[pos + 2]
    if not 1 <= count <= 5:
        raise invalid(pos, f"a reference of {count} words, not of 1 to 5")
    return _REFERENCE_WORDS[count]


def _old_creation(data: bytes, pos: int) -> int:
    """Return the creation of a node before OTP 23, which had two bits in a byte."""
    creation = data[pos]
    if creation > 3:
        raise invalid(pos, f"creation {creation} where it is at most 3")
    return creation


# --- funs ----------------------------------------------------------------------------------


def fun_header(data: bytes, pos: int) -> tuple[list[Any], int, int]:
    """Return the first fields, how many terms follow (a pid and variables), and from where on."""
    # What it says about its size is of no use, and the BEAM does not look at it either.
    _size, arity, uniq, index, count = _fun_start(data, pos + 1)
    module, at = _atom_at(data, pos + 30)
    old_index, at = _integer_at(data, at)
    old_uniq, at = _integer_at(data, at)
    if count >= len(data) - at:
        raise truncated(len(data))
    return [arity, uniq, index, module, old_index, old_uniq], 1 + count, at


def _integer_at(data: bytes, pos: int) -> tuple[int, int]:
    tag = data[pos]
    if tag == SMALL_INTEGER_EXT:
        return data[pos + 1], pos + 2
    if tag == INTEGER_EXT:
        return _i32(data, pos + 1)[0], pos + 5
    raise invalid(pos, f"tag {tag} instead of a small integer")


def complete_fun(items: list[Any], pos: int) -> Fun:
    """Return the fun of the fields and terms that `fun_header` told of; it ends at `pos`."""
    arity, uniq, index, module, old_index, old_uniq, pid, *free_vars = items
    if type(pid) is not Pid:
        raise invalid(pos, "the end of a fun without a pid")
    return Fun(arity, uniq, index, module, old_index, old_uniq, pid, tuple(free_vars))


# --- the rest ------------------------------------------------------------------------------


def rare(data: bytes, pos: int, tag: int) -> tuple[Any, int]:
    """Return the term at `pos` with one of the tags that are seldom seen, and the next position."""
    reader = _READERS.get(tag)
    if reader is None:
        raise invalid(pos, f"tag {tag}, which {_REFUSED.get(tag, 'stands for nothing')}")
    return reader(data, pos)


def _atom(data: bytes, pos: int) -> tuple[Any, int]:
    atom, end = _atom_at(data, pos)
    return _RESERVED.get(atom.encode(), atom), end


def _big(data: bytes, pos: int) -> tuple[int, int]:
    if data[pos] == SMALL_BIG_EXT:
        start = pos + 3
        end = start + data[pos + 1]
    else:
        start = pos + 6
        end = start + _u32(data, pos + 1)[0]
    value = int.from_bytes(data[start:end], "little")
    return (-value if data[start - 1] else value), end


def _bit_binary(data: bytes, pos: int) -> tuple[Any, int]:
    end = pos + 6 + _u32(data, pos + 1)[0]
    bits = data[pos + 5]
    if end > len(data):
        raise truncated(len(data))
    content = data[pos + 6 : end]
    if content and 1 <= bits <= 7:
        return BitString(content, bits), end
    if bits == (8 if content else 0):
        try:
            return content.decode(), end
        except UnicodeDecodeError:
            return content, end
    raise invalid(pos, f"a bitstring of {len(content)} bytes with {bits} bits in the last one")


def _float(data: bytes, pos: int) -> tuple[float, int]:
    end = pos + 32
    if end > len(data):
        raise truncated(len(data))
    text = data[pos + 1 : end].partition(b"\0")[0]
    if not _float_text(text) or not isfinite(value := float(text)):
        raise invalid(pos, "a float that is no finite number")
    return value, end


def _export(data: bytes, pos: int) -> tuple[ExternalFun, int]:
    module, at = _atom_at(data, pos + 1)
    function, at = _atom_at(data, at)
    arity, end = _integer_at(data, at)
    if not 0 <= arity <= 255:
        raise invalid(at, f"arity {arity} where it is 0 to 255")
    return ExternalFun(module, function, arity), end


def _pid(data: bytes, pos: int) -> tuple[Pid, int]:
    node, at = _atom_at(data, pos + 1)
    number, serial = _two_words(data, at)
    return Pid(node, number, serial, _old_creation(data, at + 8)), at + 9


def _port(data: bytes, pos: int) -> tuple[Port, int]:
    node, at = _atom_at(data, pos + 1)
    (number,) = _u32(data, at)
    return Port(node, number, _old_creation(data, at + 4)), at + 5


def _new_port(data: bytes, pos: int) -> tuple[Port, int]:
    node, at = _atom_at(data, pos + 1)
    number, creation = _two_words(data, at)
    return Port(node, number, creation), at + 8


def _v4_port(data: bytes, pos: int) -> tuple[Port, int]:
    node, at = _atom_at(data, pos + 1)
    number, creation = _v4_port_words(data, at)
    return Port(node, number, creation), at + 12


def _one_word_reference(data: bytes, pos: int) -> tuple[Reference, int]:
    node, at = _atom_at(data, pos + 1)
    return _old_reference(pos, node, _old_creation(data, at + 4), _u32(data, at)), at + 5


def _three_word_reference(data: bytes, pos: int) -> tuple[Reference, int]:
    unpack = _reference_words(data, pos)
    node, at = _atom_at(data, pos + 3)
    # The creation has one byte here and not four, of which the last one is this.
    ids = unpack(data, at - 3)[1:]
    return _old_reference(pos, node, _old_creation(data, at), ids), at + 1 + 4 * len(ids)


def _old_reference(pos: int, node: Atom, creation: int, ids: tuple[int, ...]) -> Reference:
    if ids[0] >= 1 << 18:
        raise invalid(pos, "a reference whose first word has more than 18 bits")
    return Reference(node, creation, ids)


_READERS: Final[dict[int, Callable[[bytes, int], tuple[Any, int]]]] = {
    ATOM_EXT: _atom,
    SMALL_ATOM_EXT: _atom,
    ATOM_UTF8_EXT: _atom,
    SMALL_BIG_EXT: _big,
    LARGE_BIG_EXT: _big,
    BIT_BINARY_EXT: _bit_binary,
    FLOAT_EXT: _float,
    EXPORT_EXT: _export,
    PID_EXT: _pid,
    PORT_EXT: _port,
    NEW_PORT_EXT: _new_port,
    V4_PORT_EXT: _v4_port,
    REFERENCE_EXT: _one_word_reference,
    NEW_REFERENCE_EXT: _three_word_reference,
}

#: Tags that exist, and why they are not accepted.
_REFUSED: Final = {
    ATOM_CACHE_REF: "needs an atom cache that nobody agreed on",
    FUN_EXT: "is a fun of a kind that OTP dropped in release 23",
    COMPRESSED: "may stand at the beginning alone",
    LOCAL_EXT: "may stand at the beginning alone",
}
