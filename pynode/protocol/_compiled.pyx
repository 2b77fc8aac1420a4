# cython: language_level=3, boundscheck=False, wraparound=False
"""Messages as bytes, compiled: the exact twin of `pynode.protocol._pure`.

Three of them come for each call that a node answers, and one goes. So those that are common become
objects, and bytes, with nothing in between. What is unusual or malformed is left to the twin, which
begins from the start, and raises.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_SET_ITEM
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, strlen

from pynode.etf._compiled cimport Reader, Writer, read, start
from pynode.identifiers._compiled cimport Pid, Reference

from pynode.etf._compiled import _Unusual
from pynode.protocol import _pure, control
from pynode.protocol.control import Message
from pynode.terms import Atom

cdef extern from "Python.h":
    object PyType_GenericAlloc(PyTypeObject *, Py_ssize_t)
    void PyObject_GC_Track(object)
    void PyObject_GC_UnTrack(object)

# The tags, as in pynode.etf.tags.
cdef enum:
    SMALL_INTEGER_EXT = 97
    SMALL_TUPLE_EXT = 104
    VERSION = 131

cdef enum:
    OPERATIONS = 256
    ALIAS_SEND = 33


cdef struct Shape:
    #: The class of its messages; NULL for what the twin reads.
    PyTypeObject *cls
    #: What each element is, after the operation: a pid, a reference, an atom, a name or a pid, an
    #: unused one, or any term.
    const char *elements
    #: How many fields its messages have.
    Py_ssize_t fields
    bint has_payload

cdef Shape _shapes[OPERATIONS]


cdef int _shape(object cls, const char *elements, Py_ssize_t fields) except -1:
    cdef Shape *shape = &_shapes[<Py_ssize_t>cls.OP]
    Py_INCREF(cls)
    shape.cls = <PyTypeObject *>cls
    shape.elements = elements
    shape.fields = fields
    shape.has_payload = cls.HAS_PAYLOAD
    return 0


_shape(control.Link, b"pp", 2)
_shape(control.Send, b"up", 1)
_shape(control.RegSend, b"pua", 2)
_shape(control.MonitorP, b"pnr", 3)
_shape(control.DemonitorP, b"pnr", 3)
_shape(control.MonitorPExit, b"nprt", 4)
_shape(control.SendSender, b"pp", 2)
_shape(control.PayloadExit, b"pp", 2)
_shape(control.PayloadExit2, b"pp", 2)
_shape(control.PayloadMonitorPExit, b"npr", 3)
_shape(control.AliasSend, b"pr", 2)

#: By class: the operations of what has a shape, and of what is sent as its fields are.
cdef dict _operations = {
    cls: cls.OP
    for cls in vars(control).values()
    if isinstance(cls, type)
    and issubclass(cls, control.ControlMessage)
    and hasattr(cls, "OP")
    and (
        _shapes[<Py_ssize_t>cls.OP].cls != NULL or cls.to_term is control.ControlMessage.to_term
    )
}


def message_at(
    bytes data not None, Py_ssize_t at, Py_ssize_t stop, limits, bytes version not None
):
    """See `pynode.protocol._pure.message_at`."""
    cdef Reader reader
    cdef Py_ssize_t skipped = PyBytes_GET_SIZE(version)
    cdef bint has_payload
    start(&reader, data, at, limits)
    control = _control(&reader, data, limits, &has_payload)
    if control is None or stop > reader.size:
        return _pure.message_at(data, at, stop, limits, version)
    if has_payload:
        if skipped and reader.pos < stop and reader.data[reader.pos] != VERSION:
            return _pure.message_at(data, at, stop, limits, version)
        reader.pos += skipped
        if reader.pos >= stop:
            return _pure.message_at(data, at, stop, limits, version)
        payload = PyBytes_FromStringAndSize(
            <const char *>reader.data + reader.pos, stop - reader.pos
        )
    elif reader.pos != stop:
        return _pure.message_at(data, at, stop, limits, version)
    else:
        payload = None
    message = PyType_GenericAlloc(<PyTypeObject *>Message, 2)
    Py_INCREF(control)
    PyTuple_SET_ITEM(message, 0, control)
    Py_INCREF(payload)
    PyTuple_SET_ITEM(message, 1, payload)
    return message


cdef object _control(Reader *r, bytes data, object limits, bint *has_payload):
    """Return the control message that `r` is at, and whether it has a payload; None for the twin."""
    cdef const uint8_t *at = r.data + r.pos
    cdef Shape *shape
    cdef Py_ssize_t i
    cdef Py_ssize_t filled = 0
    cdef char kind
    if (
        r.size - r.pos < 4
        or r.depth < 1
        or r.counted
        or at[0] != SMALL_TUPLE_EXT
        or at[2] != SMALL_INTEGER_EXT
    ):
        return None
    shape = &_shapes[at[3]]
    if shape.cls == NULL or at[1] != 1 + strlen(shape.elements):
        return None
    has_payload[0] = shape.has_payload
    r.pos += 4
    message = PyType_GenericAlloc(shape.cls, shape.fields)
    PyObject_GC_UnTrack(message)  # as long as it has gaps, as in the codec
    for i in range(at[1] - 1):
        try:
            value = read(r, data, None, None, limits, 1)
        except _Unusual:
            return None
        kind = shape.elements[i]
        if kind == c"u":
            continue
        if kind == c"p":
            if type(value) is not Pid:
                return None
        elif kind == c"r":
            if type(value) is not Reference:
                return None
        elif kind == c"a":
            # nil, true and false are atoms, too, in a form that the twin knows.
            if type(value) is not Atom:
                return None
        elif kind == c"n" and type(value) is not Atom and type(value) is not Pid:
            return None
        Py_INCREF(value)
        PyTuple_SET_ITEM(message, filled, value)
        filled += 1
    PyObject_GC_Track(message)
    return message


def frame(control, bytes payload, bint altact):
    """See `pynode.protocol._pure.frame`."""
    cdef Writer writer
    cdef Py_ssize_t more = 0 if payload is None else PyBytes_GET_SIZE(payload)
    cdef Py_ssize_t count, i
    cdef Py_ssize_t filled = 0
    cdef uint8_t operation
    cdef uint8_t *out
    cdef Shape *shape
    known = _operations.get(type(control))
    if known is None:
        return _pure.frame(control, payload, altact)
    operation = known
    shape = &_shapes[operation]
    count = PyTuple_GET_SIZE(control)
    if shape.cls != NULL:
        if count != shape.fields:
            return _pure.frame(control, payload, altact)
        count = <Py_ssize_t>strlen(shape.elements)
    writer = Writer.__new__(Writer)
    writer.put(b"\0\0\0\0\x83\x44\0", 7)
    writer.put_byte(SMALL_TUPLE_EXT)
    if altact and operation == ALIAS_SEND:
        writer.put_byte(<uint8_t>(count + 2))
        writer.put(b"a\x25a\x04", 4)  # ALTACT_SIG_SEND with the flag ALTACT_ALIAS
    else:
        writer.put_byte(<uint8_t>(count + 1))
        writer.put_byte(SMALL_INTEGER_EXT)
        writer.put_byte(operation)
    try:
        for i in range(count):
            if shape.cls != NULL and shape.elements[i] == c"u":
                writer.put(b"w\0", 2)
            else:
                writer.write(<object>PyTuple_GET_ITEM(control, filled), 1)
                filled += 1
    except _Unusual:
        return _pure.frame(control, payload, altact)
    if writer.size + more - 4 > 0xFFFFFFFF:
        return _pure.frame(control, payload, altact)  # raises
    found = PyBytes_FromStringAndSize(NULL, writer.size + more)
    out = <uint8_t *>PyBytes_AS_STRING(found)
    memcpy(out, writer.data, <size_t>writer.size)
    if more:
        memcpy(out + writer.size, PyBytes_AS_STRING(payload), <size_t>more)
    more += writer.size - 4
    out[0], out[1], out[2], out[3] = more >> 24, more >> 16 & 255, more >> 8 & 255, more & 255
    return found
