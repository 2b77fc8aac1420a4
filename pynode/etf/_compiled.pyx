# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The codec, compiled: the exact twin of `pynode.etf._pure`, for the terms that are common.

How it works. Both ways are recursive functions over a term. What is unusual is left to the twin:
single values are (`rare` tags, new atoms), and whole terms where that decides
about more than itself: what is nested deep, may be a cycle or has too many parts, maps that a dict
cannot hold, funs to be sent. Then the twin begins from the start; what `default` has returned until
then is passed on to it, because it is asked once for each object.

Atoms, pids, references and short keys of maps are few and come again: those that were seen last are
found by their bytes in tables of fixed size.

What is written while no Python code can run cannot change meanwhile: plain values are taken from
lists and dicts as they are, and only what holds others is copied before (see `Writer.plain`).
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Contains, PyDict_GetItemWithError, PyDict_Next
from cpython.list cimport PyList_AsTuple, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_FromLong
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_AsUTF8String, PyUnicode_DecodeUTF8
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport usleep

from struct import error as StructError
from types import NoneType

from pynode.identifiers._compiled cimport Pid, Port, Reference, _Identifier

from pynode.config import LIMITS
from pynode.errors import DecodeError
from pynode.etf import _pure_decode, _pure_encode, _pure_readers
from pynode.terms import (
    MAX_KEY_DEPTH,
    Atom,
    BitString,
    ExternalFun,
    Fun,
    ImproperList,
    LocalTerm,
    Map,
)

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/mman.h>

    /* Let the system use large pages for a block of at least APART bytes, if it has some. It is all
       of a mapping, since one of two kinds could not be moved any more. */
    static void pynode_use_large_pages(void *data, Py_ssize_t size) {
    #ifdef MADV_HUGEPAGE
        uintptr_t begin = (uintptr_t)data & ~(uintptr_t)4095;
        uintptr_t end = ((uintptr_t)data + size + 4095) & ~(uintptr_t)4095;
        madvise((void *)begin, end - begin, MADV_HUGEPAGE);
    #endif
    }

    /* How many bytes at the beginning are ASCII, but for the last few: a loop for vectors. */
    static Py_ssize_t pynode_ascii(const uint8_t *data, Py_ssize_t size) {
        Py_ssize_t at = 0, i;
        for (; at + 4096 <= size; at += 4096) {
            uint64_t all = 0, part;
            for (i = 0; i < 4096; i += 8) {
                memcpy(&part, data + at + i, 8);
                all |= part;
            }
            if (all & 0x8080808080808080u) return at;
        }
        for (; at < size && data[at] < 128; at++) {}
        return at;
    }

    /* A hash value of some bytes, eight at a time; nobody has to be kept from choosing them alike. */
    static inline uint32_t pynode_hash(const uint8_t *data, Py_ssize_t size) {
        uint64_t found = (uint64_t)size, part = 0;
        for (; size > 8; size -= 8, data += 8) {
            memcpy(&part, data, 8);
            found = (found ^ part) * 0x9E3779B97F4A7C15u;
            found ^= found >> 32;
        }
        if (size == 8) {
            memcpy(&part, data, 8);
        } else if (size >= 4) {
            uint32_t first, last;
            memcpy(&first, data, 4);
            memcpy(&last, data + size - 4, 4);
            part = (uint64_t)first << 32 | last;
        } else if (size > 0) {
            part = (uint64_t)data[0] << 16 | data[size >> 1] << 8 | data[size - 1];
        }
        return (uint32_t)(((found ^ part) * 0x9E3779B97F4A7C15u) >> 32);
    }

    /* The value of a Python integer of one digit (30 bits): 0 and *large if it has more. */
    static inline long pynode_small_integer(PyObject *number, int *large) {
    #if PY_VERSION_HEX >= 0x030C0000
        if (PyUnstable_Long_IsCompact((PyLongObject *)number))
            return (long)PyUnstable_Long_CompactValue((PyLongObject *)number);
    #else
        Py_ssize_t size = Py_SIZE(number);
        if (size >= -1 && size <= 1)
            return size ? (long)size * (long)((PyLongObject *)number)->ob_digit[0] : 0;
    #endif
        *large = 1;
        return 0;
    }

    /* Python up to 3.13 tracks a dict again when something is put into it that can be in a cycle. */
    #define PYNODE_DICTS_ARE_TRACKED_LATE (PY_VERSION_HEX < 0x030E0000)
    """
    uint32_t pynode_hash(const uint8_t *, Py_ssize_t)
    long pynode_small_integer(PyObject *, int *)
    bint PYNODE_DICTS_ARE_TRACKED_LATE
    void pynode_use_large_pages(void *, Py_ssize_t)
    Py_ssize_t pynode_ascii(const uint8_t *, Py_ssize_t)

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t, Py_UCS4)
    object PyUnicode_DecodeUTF8Stateful(const char *, Py_ssize_t, const char *, Py_ssize_t *)
    PyObject *PyDict_SetDefault(object, object, object) except NULL
    Py_ssize_t PyDict_GET_SIZE(object)
    int _PyBytes_Resize(PyObject **, Py_ssize_t) except -1
    object PyBytes_New "PyBytes_FromStringAndSize"(char *, Py_ssize_t)
    bint PyUnicode_IS_COMPACT_ASCII(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    void *PyUnicode_DATA(object)
    PyObject *Py_TYPE "(PyObject *)Py_TYPE"(object)
    double PyFloat_AS_DOUBLE(object)
    object PyType_GenericAlloc(PyTypeObject *, Py_ssize_t)
    bint PyObject_IS_GC(object)
    bint PyObject_GC_IsTracked(object)
    void PyObject_GC_Track(object)
    void PyObject_GC_UnTrack(object)

# The tags, as in pynode.etf.tags.
cdef enum:
    NEW_FLOAT_EXT = 70
    COMPRESSED = 80
    NEW_PID_EXT = 88
    NEWER_REFERENCE_EXT = 90
    SMALL_INTEGER_EXT = 97
    INTEGER_EXT = 98
    SMALL_TUPLE_EXT = 104
    LARGE_TUPLE_EXT = 105
    NIL_EXT = 106
    STRING_EXT = 107
    LIST_EXT = 108
    BINARY_EXT = 109
    NEW_FUN_EXT = 112
    MAP_EXT = 116
    SMALL_ATOM_UTF8_EXT = 119
    LOCAL_EXT = 121
    VERSION = 131

cdef enum:
    #: Pairs of a map that is so small that its keys need no look.
    SMALL_MAP = 64
    #: Bytes of a binary that is too large to be copied in passing.
    LARGE_BINARY = 65536
    #: Bytes of a block that is large enough for large pages, and a mapping of its own: see
    #: posix.keep_heap_warm.
    APART = 8 * 1024 * 1024
    #: Containers inside each other from which on the twin is asked: each takes of the stack.
    DEEP = 256
    #: Entries of the tables, powers of two; see _pure_readers.
    ATOMS = 4096
    IDENTIFIERS = 512
    KEYS = 1024
    #: Bytes of a text that is made here, and of a key that is worth a look in the table of keys.
    SHORT = 32
    #: Characters of a text that is put at once: at most LARGE_BINARY bytes.
    SHORT_TEXT = 16384
    #: Elements of a container that are few enough to be written without letting others run.
    FEW = 4096


class _Unusual(Exception):
    """Ends the attempt: this term is for the twin."""


cdef object _invalid = _pure_readers.invalid
cdef object _truncated = _pure_readers.truncated
cdef object _rare = _pure_readers.rare
cdef object _new_atom = _pure_readers.new_atom
cdef object _new_pid = _pure_readers.new_pid
cdef object _new_reference = _pure_readers.new_reference
cdef object _fun_header = _pure_readers.fun_header
cdef object _complete_fun = _pure_readers.complete_fun
cdef object _exact_map = _pure_decode._exact_map
cdef object _guarded_map = _pure_decode._guarded_map
cdef object _STRUCT = "__struct__"

# What has these types is compared with, without a look for the name: a fifth of a list of integers.
cdef object _Atom = Atom
cdef object _Map = Map
cdef object _LocalTerm = LocalTerm
cdef object _ImproperList = ImproperList
cdef object _ExternalFun = ExternalFun
cdef object _BitString = BitString
cdef object _NoneType = NoneType


# --- numbers in the order of the network


cdef inline uint16_t _u16(const uint8_t *at) noexcept:
    return <uint16_t>(at[0] << 8 | at[1])


cdef inline uint32_t _u32(const uint8_t *at) noexcept:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline void _put_u32(uint8_t *at, uint32_t number) noexcept:
    at[0] = <uint8_t>(number >> 24)
    at[1] = <uint8_t>(number >> 16)
    at[2] = <uint8_t>(number >> 8)
    at[3] = <uint8_t>number


cdef inline double _f64(const uint8_t *at) noexcept:
    cdef uint64_t bits = <uint64_t>_u32(at) << 32 | _u32(at + 4)
    cdef double number
    memcpy(&number, &bits, 8)
    return number


cdef int64_t _now() noexcept:
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return <int64_t>moment.tv_sec * 1_000_000_000 + moment.tv_nsec


cdef inline void _breathe(Breath *breath) noexcept:
    """Count a step, and let other threads run every two milliseconds: a large term takes long."""
    breath.steps += 1
    if not breath.steps & 255:
        _let_run(breath)


cdef void _let_run(Breath *breath) noexcept:
    cdef int64_t now = _now()
    if breath.last == 0:
        breath.last = now
    elif now - breath.last > 2_000_000:
        # Who waits for the global lock takes longer to wake than to give it back and take it again.
        with nogil:
            usleep(1)
        breath.last = _now()


# --- what was seen last, by its bytes


cdef struct Seen:
    PyObject *wire
    PyObject *value

cdef Seen _atoms[ATOMS]
cdef Seen _pids[IDENTIFIERS]
cdef Seen _references[IDENTIFIERS]
# Texts that were keys of maps, each at the place of its bytes.
cdef PyObject *_keys[KEYS]


cdef inline Seen *_slot(
    Seen *table, uint32_t entries, const uint8_t *at, Py_ssize_t size
) noexcept:
    """Return where these bytes have their place."""
    return &table[pynode_hash(at, size) & (entries - 1)]


cdef inline bint _is(Seen *slot, const uint8_t *at, Py_ssize_t size) noexcept:
    return (
        slot.wire != NULL
        and PyBytes_GET_SIZE(<object>slot.wire) == size
        and memcmp(PyBytes_AS_STRING(<object>slot.wire), at, <size_t>size) == 0
    )


cdef void _keep(Seen *slot, object wire, object value) noexcept:
    cdef PyObject *old_wire = slot.wire
    cdef PyObject *old_value = slot.value
    Py_INCREF(wire)
    Py_INCREF(value)
    slot.wire = <PyObject *>wire
    slot.value = <PyObject *>value
    Py_XDECREF(old_wire)
    Py_XDECREF(old_value)


# --- decoding


def decode(data, *, struct=None, fun=None, limits=LIMITS):
    """See `pynode.etf._pure.decode`."""
    whole = data if type(data) is bytes else bytes(memoryview(data))
    if not whole or whole[0] != VERSION:
        return _pure_decode.decode(whole)  # raises
    start = 1
    if len(whole) > 1 and whole[1] == COMPRESSED:
        whole = _pure_decode._decompress(whole, limits.decompressed)
        start = 0
    term, end = decode_at(whole, start, struct=struct, fun=fun, limits=limits)
    if end != len(whole):
        raise DecodeError(
            f"{len(whole) - end} bytes follow the term: pass one term, or use decode_at."
        )
    return term


def decode_at(data, Py_ssize_t offset, *, struct=None, fun=None, limits=LIMITS):
    """See `pynode.etf._pure.decode_at`."""
    if type(data) is not bytes:
        data = bytes(memoryview(data))
    cdef Reader reader
    start(&reader, data, offset, limits)
    try:
        term = read(&reader, data, struct, fun, limits, 0)
    except _Unusual:
        return _pure_decode.decode_at(data, offset, struct=struct, fun=fun, limits=limits)
    return term, reader.pos


# Of the limits that were asked for last; all of them are seldom more than one.
cdef object _limits = None
cdef Py_ssize_t _depth, _soft_depth, _terms


cdef int start(Reader *r, bytes data, Py_ssize_t offset, object limits) except -1:
    global _limits, _depth, _soft_depth, _terms
    cdef Py_ssize_t depth, soft_depth, terms
    if offset < 0:
        raise IndexError("The offset is negative: give the position of a term.")
    if limits is not _limits:
        depth, soft_depth = min(limits.depth, DEEP), min(limits.depth, MAX_KEY_DEPTH)
        terms = limits.terms
        _depth, _soft_depth, _terms, _limits = depth, soft_depth, terms, limits
    r.data = <const uint8_t *>PyBytes_AS_STRING(data)
    r.size = PyBytes_GET_SIZE(data)
    r.pos = offset
    r.depth = _depth
    r.soft_depth = _soft_depth
    r.guarded = False
    r.breath.steps = r.breath.last = 0
    r.terms = _terms
    r.counted = r.size - offset > r.terms
    return 0


cdef object read(
    Reader *r, bytes data, object struct, object fun, object limits, Py_ssize_t depth
):
    cdef const uint8_t *at
    cdef Py_ssize_t left = r.size - r.pos
    cdef Py_ssize_t count, size, i
    cdef uint8_t tag
    cdef Seen *slot
    cdef Pid pid
    cdef double number
    cdef bint flat
    if left < 1:
        raise _truncated(r.size)
    at = r.data + r.pos
    tag = at[0]
    if tag == SMALL_ATOM_UTF8_EXT:
        if left < 2 or left < 2 + at[1]:
            raise _truncated(r.size)
        size = at[1]
        r.pos += 2 + size
        slot = _slot(_atoms, ATOMS, at + 2, size)
        if _is(slot, at + 2, size):
            return <object>slot.value
        name = PyBytes_FromStringAndSize(<const char *>at + 2, size)
        value = _new_atom(name, r.pos)
        _keep(slot, name, value)
        return value
    if tag == SMALL_INTEGER_EXT:
        if left < 2:
            raise _truncated(r.size)
        r.pos += 2
        return PyLong_FromLong(at[1])
    if tag == BINARY_EXT:
        if left < 5 or left - 5 < <Py_ssize_t>_u32(at + 1):
            raise _truncated(r.size)
        size = _u32(at + 1)
        r.pos += 5 + size
        if size > LARGE_BINARY:
            return _large_binary(at + 5, size)
        return _binary(at + 5, size)
    if tag == SMALL_TUPLE_EXT or tag == LARGE_TUPLE_EXT:
        size = 2 if tag == SMALL_TUPLE_EXT else 5
        if left < size:
            raise _truncated(r.size)
        count = at[1] if tag == SMALL_TUPLE_EXT else <Py_ssize_t>_u32(at + 1)
        r.pos += size
        if count > left - size:
            raise _truncated(r.size)
        if not count:
            return ()
        _begin(r, depth, count)
        if tag == LARGE_TUPLE_EXT:
            # Not made at once: what it says that it has may not come.
            items = []
            for i in range(count):
                _breathe(&r.breath)
                items.append(read(r, data, struct, fun, limits, depth + 1))
            return tuple(items)
        whole = PyTuple_New(count)
        # As long as it has gaps, gc.get_objects() must not give it to those who look into it.
        PyObject_GC_UnTrack(whole)
        flat = True
        for i in range(count):
            _breathe(&r.breath)
            value = read(r, data, struct, fun, limits, depth + 1)
            if _may_be_in_cycle(value):
                flat = False
            Py_INCREF(value)
            PyTuple_SET_ITEM(whole, i, value)
        if not flat:
            # Else it can be part of no cycle. The garbage collector would find out at its next turn,
            # which takes 0.1 s for a million of them, and nobody else runs meanwhile.
            PyObject_GC_Track(whole)
        return whole
    if tag == NIL_EXT:
        r.pos += 1
        return []
    if tag == LIST_EXT:
        return _read_list(r, data, struct, fun, limits, depth)
    if tag == MAP_EXT:
        return _read_map(r, data, struct, fun, limits, depth)
    if tag == INTEGER_EXT:
        if left < 5:
            raise _truncated(r.size)
        r.pos += 5
        return PyLong_FromLong(<int32_t>_u32(at + 1))
    if tag == NEWER_REFERENCE_EXT:
        if left < 5:
            raise _truncated(r.size)
        count = at[2]
        size = 9 + 4 * count + at[4]
        if size > left or at[1] or not 1 <= count <= 5 or at[3] != SMALL_ATOM_UTF8_EXT:
            return _read_by(_new_reference, r, data)
        slot = _slot(_references, IDENTIFIERS, at, size)
        if not _is(slot, at, size):
            node = _node(at + 5, at[4], r.pos)
            if node is None:
                return _read_by(_new_reference, r, data)
            _keep_identifier(slot, Reference.__new__(Reference), node, at, size)
        r.pos += size
        return <object>slot.value
    if tag == NEW_PID_EXT:
        if left < 3 or left < 15 + at[2] or at[1] != SMALL_ATOM_UTF8_EXT:
            return _read_by(_new_pid, r, data)
        size = 15 + at[2]
        slot = _slot(_pids, IDENTIFIERS, at, size)
        if not _is(slot, at, size):
            node = _node(at + 3, at[2], r.pos)
            if node is None:
                return _read_by(_new_pid, r, data)
            pid = Pid.__new__(Pid)
            at += size - 12
            pid.id = PyLong_FromLong(_u32(at))
            pid.serial = PyLong_FromLong(_u32(at + 4))
            pid.creation = PyLong_FromLong(_u32(at + 8))
            _keep_identifier(slot, pid, node, at - size + 12, size)
        r.pos += size
        return <object>slot.value
    if tag == STRING_EXT:
        if left < 3 or left - 3 < _u16(at + 1):
            raise _truncated(r.size)
        size = _u16(at + 1)
        r.pos += 3 + size
        if r.counted:
            _count(r, size)
        items = []
        for i in range(size):
            items.append(PyLong_FromLong(at[3 + i]))
        return items
    if tag == NEW_FLOAT_EXT:
        if left < 9:
            raise _truncated(r.size)
        number = _f64(at + 1)
        if not isfinite(number):
            raise _invalid(r.pos, "a float that is not finite")
        r.pos += 9
        return number
    if tag == NEW_FUN_EXT:
        return _read_fun(r, data, struct, fun, limits, depth)
    if tag == LOCAL_EXT and depth == 0:
        # From here on the data is private to the node that made it.
        value = LocalTerm(data[r.pos + 1 :])
        r.pos = r.size
        return value
    try:
        value, i = _rare(data, r.pos, tag)
    except (IndexError, StructError):
        raise _truncated(r.size) from None
    if i > r.size:
        raise _truncated(r.size)
    r.pos = i
    return value


cdef inline bint _may_be_in_cycle(object value) noexcept:
    """Return whether it may refer to others; else the garbage collector need not know its holder."""
    return (
        Py_TYPE(value) != <PyObject *>str
        and Py_TYPE(value) != <PyObject *>_Atom
        and PyObject_IS_GC(value)
        and (Py_TYPE(value) != <PyObject *>tuple or PyObject_GC_IsTracked(value))
    )


cdef object _binary(const uint8_t *at, Py_ssize_t size):
    if 1 < size <= SHORT and pynode_ascii(at, size) == size:
        value = PyUnicode_New(size, 127)
        memcpy(PyUnicode_DATA(value), at, <size_t>size)
        return value
    try:
        return PyUnicode_DecodeUTF8(<const char *>at, size, NULL)
    except UnicodeDecodeError:
        return PyBytes_FromStringAndSize(<const char *>at, size)


cdef object _short_key(const uint8_t *at, Py_ssize_t size):
    """Return what `_binary` does, from the table if it is there: the same str, its hash known.

    A map of 100 maps takes a quarter less with it.
    """
    cdef PyObject **slot = &_keys[pynode_hash(at, size) & (KEYS - 1)]
    cdef PyObject *old = slot[0]
    if (
        old != NULL
        and PyUnicode_GET_LENGTH(<object>old) == size
        and memcmp(PyUnicode_DATA(<object>old), at, <size_t>size) == 0
    ):
        return <object>old
    key = _binary(at, size)
    if type(key) is str and PyUnicode_IS_COMPACT_ASCII(key):
        Py_INCREF(key)
        old = slot[0]
        slot[0] = <PyObject *>key
        Py_XDECREF(old)
    return key


cdef object _large_binary(const uint8_t *at, Py_ssize_t size):
    """Return the value of a binary, which is looked at once and copied once."""
    cdef Py_ssize_t ascii = pynode_ascii(at, size)
    cdef Py_ssize_t used
    if ascii == size:
        value = PyUnicode_New(size, 127)
        _copy_large(PyUnicode_DATA(value), at, size)
        return value
    try:
        # What is no text is most often so from the beginning.
        PyUnicode_DecodeUTF8Stateful(<const char *>at, LARGE_BINARY, NULL, &used)
        return PyUnicode_DecodeUTF8(<const char *>at, size, NULL)
    except UnicodeDecodeError:
        value = PyBytes_New(NULL, size)
        _copy_large(PyBytes_AS_STRING(value), at, size)
        return value


cdef void _copy_large(void *to, const uint8_t *at, Py_ssize_t size) noexcept:
    if size >= APART:
        pynode_use_large_pages(to, size)
        with nogil:
            memcpy(to, at, <size_t>size)
    else:
        memcpy(to, at, <size_t>size)


cdef object _node(const uint8_t *name, Py_ssize_t size, Py_ssize_t pos):
    """Return the atom of this name; None if it is nil, true or false, or no text."""
    cdef Seen *slot = _slot(_atoms, ATOMS, name, size)
    if not _is(slot, name, size):
        raw = PyBytes_FromStringAndSize(<const char *>name, size)
        try:
            _keep(slot, raw, _new_atom(raw, pos))
        except DecodeError:
            return None  # The twin says where it is.
    node = <object>slot.value
    return node if type(node) is Atom else None


cdef void _keep_identifier(
    Seen *slot, _Identifier value, object node, const uint8_t *at, Py_ssize_t size
):
    """Complete a pid or a reference, and remember it."""
    value.node = node
    value.wire = PyBytes_FromStringAndSize(<const char *>at, size)
    _keep(slot, value.wire, value)


cdef object _read_by(object reader, Reader *r, bytes data):
    """Return what a reader of the twin's makes of the term that begins here."""
    cdef Py_ssize_t end
    try:
        value, end = reader(data, r.pos)
    except (IndexError, StructError):
        raise _truncated(r.size) from None
    if end > r.size:
        raise _truncated(r.size)
    r.pos = end
    return value


cdef int _begin(Reader *r, Py_ssize_t depth, Py_ssize_t count) except -1:
    """A container of so many terms begins."""
    if depth >= r.soft_depth:
        if depth >= r.depth:
            raise _Unusual
        r.guarded = True
    if r.counted:
        _count(r, count)
    return 0


cdef int _count(Reader *r, Py_ssize_t count) except -1:
    r.terms -= count
    if r.terms < 0:
        raise _Unusual
    return 0


cdef object _read_list(
    Reader *r, bytes data, object struct, object fun, object limits, Py_ssize_t depth
):
    cdef list items = []
    cdef Py_ssize_t count, i
    cdef const uint8_t *at
    cdef bint first = True
    while True:
        at = r.data + r.pos
        if r.size - r.pos < 5:
            raise _truncated(r.size)
        count = _u32(at + 1)
        r.pos += 5
        if count >= r.size - r.pos:
            raise _truncated(r.size)
        if first:
            _begin(r, depth, count)
            first = False
        elif r.counted:
            _count(r, count)
        for i in range(count):
            _breathe(&r.breath)
            at = r.data + r.pos
            if r.size - r.pos > 4 and at[0] == INTEGER_EXT:
                r.pos += 5
                items.append(PyLong_FromLong(<int32_t>_u32(at + 1)))
            else:
                items.append(read(r, data, struct, fun, limits, depth + 1))
        if r.pos >= r.size:
            raise _truncated(r.size)
        if r.data[r.pos] == NIL_EXT and items:
            r.pos += 1
            return items
        # Where the tail is a list, the list goes on. One of no elements is its tail.
        if r.data[r.pos] != LIST_EXT or not items:
            break
    tail = read(r, data, struct, fun, limits, depth + 1)
    if not items:
        return tail
    if type(tail) is list:
        return items + tail
    return _improper_list(PyList_AsTuple(items), tail)


cdef object _elements = ImproperList.__dict__["elements"]
cdef object _tail = ImproperList.__dict__["tail"]


cdef object _improper_list(tuple elements, object tail):
    """Return the improper list of elements and a tail that is no list.

    There is one in each call, ``[alias | Reference]``; its constructor takes 0.3 us, and this 0.05.
    """
    if type(tail) is ImproperList:
        return ImproperList(elements, tail)
    items = PyType_GenericAlloc(<PyTypeObject *>ImproperList, 0)
    (<PyTypeObject *>Py_TYPE(_elements)).tp_descr_set(_elements, items, elements)
    (<PyTypeObject *>Py_TYPE(_tail)).tp_descr_set(_tail, items, tail)
    return items


cdef object _read_map(
    Reader *r, bytes data, object struct, object fun, object limits, Py_ssize_t depth
):
    cdef Py_ssize_t count, i
    cdef list items = None
    cdef dict found = {}
    cdef const uint8_t *at
    cdef bint flat
    if r.size - r.pos < 5:
        raise _truncated(r.size)
    count = _u32(r.data + r.pos + 1)
    r.pos += 5
    if 2 * count > r.size - r.pos:
        raise _truncated(r.size)
    if not count:
        return found
    _begin(r, depth, 2 * count)
    if count > SMALL_MAP:
        items = []
    flat = PYNODE_DICTS_ARE_TRACKED_LATE
    for i in range(count):
        _breathe(&r.breath)
        at = r.data + r.pos
        if r.size - r.pos > 4 + SHORT and at[0] == BINARY_EXT and _u32(at + 1) <= SHORT:
            r.pos += 5 + at[4]
            key = _short_key(at + 5, at[4])
        else:
            key = read(r, data, struct, fun, limits, depth + 1)
        value = read(r, data, struct, fun, limits, depth + 1)
        if items is None:
            if _may_be_in_cycle(key) or _may_be_in_cycle(value):
                flat = False
            if _added(found, key, value) and PyDict_GET_SIZE(found) == i + 1:
                continue
            # A dict cannot hold it: the key is there, or has no hash value.
            items = _flat(found)
        items.append(key)
        items.append(value)
    if items is None and not r.guarded:
        if flat:
            # As for tuples; 1,000 maps with atom keys take a fifth less.
            PyObject_GC_UnTrack(found)
        value = found
    elif r.guarded:
        value = _guarded_map(_flat(found) if items is None else items, r.pos, limits)
    elif count > SMALL_MAP:
        value = _large_map(items, r.pos, limits)
    else:
        value = _exact_map(items, r.pos)
    if struct is not None and type(value) is dict and PyDict_Contains(value, _STRUCT):
        return struct(value)
    return value


cdef bint _added(dict found, object key, object value) except -1:
    """Put a pair into a dict, if there is none of that key; return False if it can be no key."""
    if type(key) is str:
        PyDict_SetDefault(found, key, value)
        return True
    try:
        PyDict_SetDefault(found, key, value)
    except (TypeError, RecursionError):
        return False
    return True


cdef list _flat(dict found):
    """Return keys and values in turn."""
    cdef list items = []
    for pair in found.items():
        items += pair
    return items


cdef object _large_map(list items, Py_ssize_t pos, object limits):
    """Return the map of these keys and values in turn.

    The hash values of text are a secret of this process, so that nobody can choose them alike.
    """
    cdef dict found = {}
    cdef Py_ssize_t i
    cdef PyObject *cls
    for i in range(0, len(items), 2):
        cls = Py_TYPE(items[i])
        if cls != <PyObject *>_Atom and cls != <PyObject *>str and cls != <PyObject *>bytes:
            return _guarded_map(items, pos, limits)
        found[items[i]] = items[i + 1]
    if 2 * len(found) == len(items):
        return found
    return _exact_map(items, pos)


cdef object _read_fun(
    Reader *r, bytes data, object struct, object fun, object limits, Py_ssize_t depth
):
    cdef Py_ssize_t count, i, end
    try:
        items, count, end = _fun_header(data, r.pos)
    except (IndexError, StructError):
        raise _truncated(r.size) from None
    r.pos = end
    _begin(r, depth, count)
    for i in range(count):
        items.append(read(r, data, struct, fun, limits, depth + 1))
    value = _complete_fun(items, r.pos)
    return value if fun is None else fun(value)


# --- encoding

cdef dict _known_atoms = _pure_encode._atoms
cdef object _pure_new_atom = _pure_encode._new_atom
cdef object _pure_encoded = _pure_encode._encode
cdef object _identifier = _pure_encode._identifier
cdef object _header_error = _pure_encode._header
cdef object _utf8 = _pure_encode._utf8
cdef object _big = _pure_encode._big
cdef object _stand_in = _pure_encode._stand_in
cdef object _same_key = _pure_encode._same_key


cdef class _Text:
    """The bytes of an ASCII str, which is immutable, as a buffer."""

    cdef str text

    def __cinit__(self, str text):
        self.text = text

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(
            view, self, PyUnicode_DATA(self.text), PyUnicode_GET_LENGTH(self.text), 1, flags
        )


@cython.final
@cython.freelist(8)
@cython.no_gc
cdef class Writer:
    """Bytes that grow."""

    def __cinit__(self):
        self.data = self.room
        self.capacity = ROOM

    def __dealloc__(self):
        Py_XDECREF(self.out)

    cdef int grow(self, Py_ssize_t more) except -1:
        """Have room for so many bytes more."""
        self.capacity = self.size + more + (self.size >> 1) + 64
        if self.out == NULL:
            out = PyBytes_New(NULL, self.capacity)
            memcpy(PyBytes_AS_STRING(out), self.data, <size_t>self.size)
            Py_INCREF(out)
            self.out = <PyObject *>out
        else:
            _PyBytes_Resize(&self.out, self.capacity)
        self.data = <uint8_t *>PyBytes_AS_STRING(<object>self.out)
        return 0

    cdef bytes finish(self):
        if self.out == NULL:
            return PyBytes_FromStringAndSize(<char *>self.data, self.size)
        _PyBytes_Resize(&self.out, self.size)
        return <bytes>self.out

    cdef int put_large(self, object data, Py_ssize_t size) except -1:
        """Put a binary, as a part of its own if there are parts."""
        cdef const void *at
        if self.parts is None or size <= LARGE_BINARY:
            if type(data) is str:
                at = PyUnicode_DATA(data)
            else:
                at = PyBytes_AS_STRING(data)
            return self.put(at, size)
        self.parts.append(PyBytes_FromStringAndSize(<char *>self.data, self.size))
        self.parts.append(memoryview(_Text(data)) if type(data) is str else data)
        self.size = 0
        return 0

    cdef int put(self, const void *data, Py_ssize_t size) except -1:
        if self.size + size > self.capacity:
            self.grow(size)
        memcpy(self.data + self.size, data, <size_t>size)
        self.size += size
        return 0

    cdef int put_bytes(self, bytes data) except -1:
        return self.put(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int put_byte(self, uint8_t byte) except -1:
        if self.size == self.capacity:
            self.grow(1)
        self.data[self.size] = byte
        self.size += 1
        return 0

    cdef int head(self, uint8_t tag, Py_ssize_t count) except -1:
        """Put a tag and 4 bytes of count, as tuples, lists, maps and binaries begin."""
        if count > 0xFFFFFFFF:
            _header_error(tag, count)  # raises
        if self.size + 5 > self.capacity:
            self.grow(5)
        self.data[self.size] = tag
        _put_u32(self.data + self.size + 1, <uint32_t>count)
        self.size += 5
        return 0

    cdef int text(self, object term) except -1:
        cdef Py_ssize_t size
        cdef uint8_t *at
        if PyUnicode_IS_COMPACT_ASCII(term):
            size = PyUnicode_GET_LENGTH(term)
            if size <= LARGE_BINARY:
                if self.size + 5 + size > self.capacity:
                    self.grow(5 + size)
                at = self.data + self.size
                at[0] = BINARY_EXT
                _put_u32(at + 1, <uint32_t>size)
                memcpy(at + 5, PyUnicode_DATA(term), <size_t>size)
                self.size += 5 + size
                return 0
            self.head(BINARY_EXT, size)
            return self.put_large(term, size)
        try:
            raw = PyUnicode_AsUTF8String(term)
        except UnicodeEncodeError:
            raw = None
        if raw is None:
            raw = _utf8(term)  # raises
        self.head(BINARY_EXT, PyBytes_GET_SIZE(raw))
        return self.put_large(raw, PyBytes_GET_SIZE(raw))

    cdef int number(self, object term) except -1:
        cdef int large = 0
        cdef long long number = pynode_small_integer(<PyObject *>term, &large)
        if large:
            number = PyLong_AsLongLongAndOverflow(term, &large)
            if large or number < -0x80000000LL or number > 0x7FFFFFFFLL:
                return self.put_bytes(_big(term))
        if self.size + 5 > self.capacity:
            self.grow(5)
        if 0 <= number <= 255:
            self.data[self.size] = SMALL_INTEGER_EXT
            self.data[self.size + 1] = <uint8_t>number
            self.size += 2
        else:
            self.data[self.size] = INTEGER_EXT
            _put_u32(self.data + self.size + 1, <uint32_t><int32_t>number)
            self.size += 5
        return 0

    cdef int real(self, double number) except -1:
        cdef uint64_t bits
        memcpy(&bits, &number, 8)
        if self.size + 9 > self.capacity:
            self.grow(9)
        self.data[self.size] = NEW_FLOAT_EXT
        _put_u32(self.data + self.size + 1, <uint32_t>(bits >> 32))
        _put_u32(self.data + self.size + 5, <uint32_t>bits)
        self.size += 9
        return 0

    cdef int charlist(self, list items) except 2:
        """Put a list of bytes as STRING_EXT, if it is one; 0 if not."""
        cdef Py_ssize_t size = PyList_GET_SIZE(items)
        cdef Py_ssize_t start = self.size
        cdef Py_ssize_t i
        cdef PyObject *item
        cdef int large = 0
        cdef long number
        if size > 0xFFFF:
            return 0
        if self.size + 3 + size > self.capacity:
            self.grow(3 + size)
        for i in range(size):
            item = <PyObject *>PyList_GET_ITEM(items, i)
            if Py_TYPE(<object>item) != <PyObject *>int:
                return 0
            number = pynode_small_integer(item, &large)
            if large or number < 0 or number > 255:
                return 0
            self.data[start + 3 + i] = <uint8_t>number
        self.data[start] = STRING_EXT
        self.data[start + 1] = <uint8_t>(size >> 8)
        self.data[start + 2] = <uint8_t>size
        self.size += 3 + size
        return 1

    cdef int plain(self, object term) except -1:
        """Put a value if that runs no Python code, which may change the containers around: 1 if so.

        Nor may it make what the garbage collector knows, whose turn runs destructors. Without
        copies of the containers, maps take half, and lists of integers a fifth less.
        """
        cdef PyObject *cls = Py_TYPE(term)
        cdef PyObject *known
        cdef int large = 0
        if cls == <PyObject *>str:
            if PyUnicode_GET_LENGTH(term) > SHORT_TEXT:
                return 0
            self.text(term)
        elif cls == <PyObject *>int:
            pynode_small_integer(<PyObject *>term, &large)
            if large:
                return 0
            self.number(term)
        elif cls == <PyObject *>_Atom:
            known = PyDict_GetItemWithError(_known_atoms, term)
            if known == NULL:
                return 0
            self.put_bytes(<bytes>known)
        elif cls == <PyObject *>float and isfinite(PyFloat_AS_DOUBLE(term)):
            self.real(PyFloat_AS_DOUBLE(term))
        elif term is None:
            self.put(b"w\x03nil", 5)
        elif term is True:
            self.put(b"w\x04true", 6)
        elif term is False:
            self.put(b"w\x05false", 7)
        else:
            return 0
        return 1

    cdef int write(self, object term, Py_ssize_t depth) except -1:
        cdef PyObject *cls = Py_TYPE(term)
        cdef PyObject *known
        cdef Py_ssize_t size, i
        cdef tuple items
        if cls == <PyObject *>_Atom:
            known = PyDict_GetItemWithError(_known_atoms, term)
            if known == NULL:
                return self.put_bytes(_pure_new_atom(term))
            return self.put_bytes(<bytes>known)
        if cls == <PyObject *>str:
            return self.text(term)
        if cls == <PyObject *>int:
            return self.number(term)
        if cls == <PyObject *>tuple:
            size = PyTuple_GET_SIZE(term)
            if size < 256:
                self.put_byte(SMALL_TUPLE_EXT)
                self.put_byte(<uint8_t>size)
            else:
                self.head(LARGE_TUPLE_EXT, size)
            if not size:
                return 0
            return self.all_of(term, 0, depth)
        if cls == <PyObject *>list:
            return self.elements(term, depth)
        if cls == <PyObject *>dict:
            return self.pairs(term, depth)
        if term is None:
            return self.put(b"w\x03nil", 5)
        if term is True:
            return self.put(b"w\x04true", 6)
        if term is False:
            return self.put(b"w\x05false", 7)
        if cls == <PyObject *>float and isfinite(PyFloat_AS_DOUBLE(term)):
            return self.real(PyFloat_AS_DOUBLE(term))
        if cls == <PyObject *>Reference or cls == <PyObject *>Pid or cls == <PyObject *>Port:
            if (<_Identifier>term).wire is None:
                return self.put_bytes(_identifier(term))
            return self.put_bytes((<_Identifier>term).wire)
        if cls == <PyObject *>bytes:
            self.head(BINARY_EXT, PyBytes_GET_SIZE(term))
            return self.put_large(term, PyBytes_GET_SIZE(term))
        if cls == <PyObject *>bytearray or cls == <PyObject *>memoryview:
            raw = bytes(term)
            self.head(BINARY_EXT, PyBytes_GET_SIZE(raw))
            return self.put_large(raw, PyBytes_GET_SIZE(raw))
        if cls == <PyObject *>_ImproperList:
            items = term.elements
            self.head(LIST_EXT, PyTuple_GET_SIZE(items))
            self.all_of(items, 0, depth)
            return self.write(term.tail, depth + 1)
        if cls == <PyObject *>_ExternalFun or cls == <PyObject *>_BitString:
            return self.put_bytes(b"".join(_pure_encoded(term, None, [])))
        if cls == <PyObject *>_Map or cls == <PyObject *>_LocalTerm or issubclass(<object>cls, Fun):
            raise _Unusual
        if depth >= DEEP:
            raise _Unusual
        if self.made is None:
            self.made = {}
        (term,) = _stand_in(term, self.default, self.made, "has no form as an Erlang term")
        return self.write(term, depth + 1)

    cdef int all_of(self, tuple items, Py_ssize_t start, Py_ssize_t depth) except -1:
        cdef Py_ssize_t i
        if depth >= DEEP:
            raise _Unusual
        for i in range(start, PyTuple_GET_SIZE(items)):
            _breathe(&self.breath)
            self.write(<object>PyTuple_GET_ITEM(items, i), depth + 1)
        return 0

    cdef int elements(self, list term, Py_ssize_t depth) except -1:
        cdef Py_ssize_t size = PyList_GET_SIZE(term)
        cdef Py_ssize_t i = 0
        cdef PyObject *cls
        cdef tuple items
        if not size:
            return self.put_byte(NIL_EXT)
        cls = Py_TYPE(<object>PyList_GET_ITEM(term, 0))
        if cls == <PyObject *>int and self.charlist(term):
            return 0
        self.head(LIST_EXT, size)
        if size <= FEW:
            while i < size and self.plain(<object>PyList_GET_ITEM(term, i)):
                i += 1
        if i < size:
            # A copy, since default, or another thread, may change the list meanwhile.
            items = PyList_AsTuple(term)
            if PyTuple_GET_SIZE(items) != size:
                raise _Unusual  # it was changed meanwhile, by a destructor
            self.all_of(items, i, depth)
        self.wrote(i)
        return self.put_byte(NIL_EXT)

    cdef void wrote(self, Py_ssize_t count) noexcept:
        """Count steps that were taken without a breath."""
        self.breath.steps += count
        if count > 255:
            _let_run(&self.breath)

    cdef int pairs(self, dict term, Py_ssize_t depth) except -1:
        cdef Py_ssize_t size = PyDict_GET_SIZE(term)
        cdef Py_ssize_t start, i = 0, at = 0
        cdef PyObject *key
        cdef PyObject *value
        cdef PyObject *cls
        cdef bint distinct = True
        cdef tuple items
        if depth >= DEEP:
            raise _Unusual
        self.head(MAP_EXT, size)
        start = self.size
        if size <= FEW:
            while PyDict_Next(term, &at, &key, &value):
                cls = Py_TYPE(<object>key)
                if (
                    (cls == <PyObject *>str or cls == <PyObject *>_Atom or cls == <PyObject *>int)
                    and self.plain(<object>key)
                    and self.plain(<object>value)
                ):
                    i += 1
                else:
                    break
            if i == size:
                self.wrote(i)
                return 0
        # From the beginning, with a copy, since default, or another thread, may change the dict.
        self.size = start
        items = PyTuple_New(2 * size)
        i = at = 0
        while i < size and PyDict_Next(term, &at, &key, &value):
            Py_INCREF(<object>key)
            Py_INCREF(<object>value)
            PyTuple_SET_ITEM(items, 2 * i, <object>key)
            PyTuple_SET_ITEM(items, 2 * i + 1, <object>value)
            i += 1
        if i != size or PyDict_GET_SIZE(term) != size:
            raise _Unusual  # it was changed meanwhile, by a destructor
        for i in range(0, 2 * size, 2):
            cls = Py_TYPE(<object>PyTuple_GET_ITEM(items, i))
            if (
                cls == <PyObject *>_Atom
                or cls == <PyObject *>str
                or cls == <PyObject *>int
                or cls == <PyObject *>Pid
                or cls == <PyObject *>Port
                or cls == <PyObject *>Reference
            ):
                continue
            if (
                cls != <PyObject *>bytes
                and cls != <PyObject *>float
                and cls != <PyObject *>bool
                and cls != <PyObject *>_NoneType
            ):
                raise _Unusual
            distinct = False
        if distinct:
            return self.all_of(items, 0, depth)
        seen = set()
        for i in range(0, 2 * size, 2):
            _breathe(&self.breath)
            start = self.size
            parts, self.parts = self.parts, None
            self.write(<object>PyTuple_GET_ITEM(items, i), depth + 1)
            self.parts = parts
            encoded = PyBytes_FromStringAndSize(<char *>self.data + start, self.size - start)
            if encoded in seen:
                raise _same_key()
            seen.add(encoded)
            self.write(<object>PyTuple_GET_ITEM(items, i + 1), depth + 1)
        return 0


def encode(term, *, default=None, bint version=True):
    """See `pynode.etf._pure.encode`."""
    cdef Writer writer = Writer.__new__(Writer)
    writer.default = default
    if version:
        writer.put_byte(VERSION)
    try:
        writer.write(term, 0)
    except _Unusual:
        start = [b"\x83"] if version else []
        return b"".join(_pure_encoded(term, default, start, writer.made))
    return writer.finish()


def encode_parts(term, *, default=None):
    """See `pynode.etf._pure.encode_parts`."""
    cdef Writer writer = Writer()
    writer.default = default
    writer.made = {}
    writer.parts = []
    try:
        writer.write(term, 0)
    except _Unusual:
        return b"".join(_pure_encoded(term, default, [], writer.made))
    if not writer.parts:
        return writer.finish()
    if writer.size:
        writer.parts.append(writer.finish())
    return writer.parts


cdef class Gathering:
    """See `pynode.etf._pure.Gathering`."""

    cdef PyObject *data
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity
    cdef Py_ssize_t expected

    def __cinit__(self, Py_ssize_t expected):
        self.expected = expected
        data = PyBytes_New(NULL, 0)
        Py_INCREF(data)
        self.data = <PyObject *>data

    def __dealloc__(self):
        Py_XDECREF(self.data)

    def write(self, data):
        """Take a copy of what comes next, and return how many bytes that were."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self.size + view.len > self.capacity:
                self.grow(self.size + view.len)
            memcpy(PyBytes_AS_STRING(<object>self.data) + self.size, view.buf, <size_t>view.len)
            self.size += view.len
            return view.len
        finally:
            PyBuffer_Release(&view)

    cdef int grow(self, Py_ssize_t size) except -1:
        # To eight times what has come: where nothing was written yet there are addresses only, and
        # no memory. What is large grows without being copied (mremap(2)).
        if self.data == NULL:
            raise MemoryError  # again
        self.capacity = 0
        _PyBytes_Resize(&self.data, max(size, min(self.expected, 8 * size)))
        self.capacity = PyBytes_GET_SIZE(<object>self.data)
        if self.capacity >= APART:
            pynode_use_large_pages(PyBytes_AS_STRING(<object>self.data), self.capacity)
        return 0

    def tell(self):
        """Return how many bytes there are."""
        return self.size

    def getvalue(self):
        """Return all of it; to be called once, at the end."""
        if self.size < self.capacity:
            self.capacity = self.size
            _PyBytes_Resize(&self.data, self.size)
        return <object>self.data
