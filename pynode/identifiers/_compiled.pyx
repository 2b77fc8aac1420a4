# cython: language_level=3, boundscheck=False, wraparound=False
"""Pids, ports and references, compiled: the exact twin of `pynode.identifiers._pure`.

The codec makes them without their constructors. Of a reference, of which there is a new one in each
call that arrives, it gives the encoded form alone: what that says is read when somebody asks.

They refer to names and numbers, so they can be part of no cycle and the garbage collector need not
know them.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject_Hash, PyTypeObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef inline uint64_t _mixed(uint64_t accumulated, uint64_t lane) noexcept:
    """Return the next state of a hash, as Python's tuples have it (xxHash)."""
    accumulated += lane * 14029467366897019727ULL
    accumulated = accumulated << 31 | accumulated >> 33
    return accumulated * 11400714785074694791ULL


cdef inline uint64_t _salt(object node) except? 0:
    """Return the state after the node's name, which strangers do not know the hash of."""
    return _mixed(2870177450012600261ULL, <uint64_t>PyObject_Hash(node))


cdef inline uint32_t _word(const uint8_t *at) noexcept:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


@cython.no_gc
cdef class _Identifier:
    def __setattr__(self, name, value):
        raise AttributeError(f"{type(self).__name__} is immutable: make a new one.")

    def __delattr__(self, name):
        raise AttributeError(f"{type(self).__name__} is immutable: make a new one.")


def set_wire(_Identifier identifier not None, bytes data):
    """Leave the encoded form of an identifier there: for the codec alone."""
    identifier.wire = data


@cython.final
@cython.no_gc
cdef class Pid(_Identifier):
    """A process identifier (erl_ext_dist, NEW_PID_EXT). `id` and `serial` have 32 bits each."""

    __match_args__ = ("node", "id", "serial", "creation")

    def __init__(self, node, id, serial, creation, *, bytes _wire=None):
        self.node = node
        self.id = id
        self.serial = serial
        self.creation = creation
        self.wire = _wire

    def __eq__(self, other):
        if type(other) is not Pid:
            return NotImplemented
        cdef Pid pid = <Pid>other
        return (
            self.id == pid.id
            and self.serial == pid.serial
            and self.creation == pid.creation
            and self.node == pid.node
        )

    def __hash__(self):
        cdef uint64_t found
        if not self._hash:
            found = _mixed(_salt(self.node), <uint64_t>PyObject_Hash(self.id))
            found = _mixed(found, <uint64_t>PyObject_Hash(self.serial))
            self._hash = <int64_t>_mixed(found, <uint64_t>PyObject_Hash(self.creation))
        return self._hash

    def __reduce__(self):
        return Pid, (self.node, self.id, self.serial, self.creation)

    def __repr__(self):
        return f"Pid({self.node!r}, {self.id}, {self.serial}, {self.creation})"

    def __str__(self):
        """Return it as its own node prints it."""
        return f"<0.{self.id}.{self.serial}>"


@cython.final
@cython.no_gc
cdef class Port(_Identifier):
    """A port identifier (erl_ext_dist, V4_PORT_EXT). `id` has 64 bits."""

    __match_args__ = ("node", "id", "creation")

    def __init__(self, node, id, creation, *, bytes _wire=None):
        self.node = node
        self.id = id
        self.creation = creation
        self.wire = _wire

    def __eq__(self, other):
        if type(other) is not Port:
            return NotImplemented
        cdef Port port = <Port>other
        return self.id == port.id and self.creation == port.creation and self.node == port.node

    def __hash__(self):
        cdef uint64_t found
        if not self._hash:
            found = _mixed(_salt(self.node), <uint64_t>PyObject_Hash(self.id))
            self._hash = <int64_t>_mixed(found, <uint64_t>PyObject_Hash(self.creation))
        return self._hash

    def __reduce__(self):
        return Port, (self.node, self.id, self.creation)

    def __repr__(self):
        return f"Port({self.node!r}, {self.id}, {self.creation})"

    def __str__(self):
        """Return it as its own node prints it."""
        return f"#Port<0.{self.id}>"


cdef int _read_words(Reference reference) except -1:
    """Make the numbers of what has come."""
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(reference.wire)
    cdef const uint8_t *words = at + 5 + at[4]
    reference._creation = _word(words)
    reference._ids = tuple([_word(words + 4 * n) for n in range(1, at[2] + 1)])
    return 0


@cython.final
@cython.no_gc
cdef class Reference(_Identifier):
    """A reference (erl_ext_dist, NEWER_REFERENCE_EXT).

    `ids` are 1 to 5 words of 32 bits in the order in which they travel; OTP 25 sends 3, an alias
    of OTP 28 has 5. They are opaque.
    """

    __match_args__ = ("node", "creation", "ids")

    def __init__(self, node, creation, ids, *, bytes _wire=None):
        self.node = node
        self._creation = creation
        self._ids = () if ids is None else ids  # None is for the codec.
        self.wire = _wire

    @property
    def creation(self):
        if self._ids is None and self.wire is not None:
            _read_words(self)
        return self._creation

    @property
    def ids(self):
        if self._ids is None and self.wire is not None:
            _read_words(self)
        return self._ids

    def __eq__(self, other):
        if type(other) is not Reference:
            return NotImplemented
        cdef Reference reference = <Reference>other
        if self.wire is not None and reference.wire is not None:
            return self.wire == reference.wire  # There is one form for each.
        return (
            self.ids == reference.ids
            and self.creation == reference.creation
            and self.node == reference.node
        )

    def __hash__(self):
        cdef uint64_t found
        cdef const uint8_t *at
        cdef const uint8_t *words
        cdef int n
        if self._hash:
            return self._hash
        found = _salt(self.node)
        if self._ids is None and self.wire is not None:
            at = <const uint8_t *>PyBytes_AS_STRING(self.wire)
            words = at + 5 + at[4]
            for n in range(at[2] + 1):
                found = _mixed(found, _word(words + 4 * n))
        else:
            found = _mixed(found, <uint64_t>PyObject_Hash(self._creation))
            for number in self._ids:
                found = _mixed(found, <uint64_t>PyObject_Hash(number))
        self._hash = <int64_t>found
        return self._hash

    def __reduce__(self):
        return Reference, (self.node, self.creation, self.ids)

    def __repr__(self):
        return f"Reference({self.node!r}, {self.creation}, {self.ids!r})"

    def __str__(self):
        """Return it as its own node prints it: the last word first."""
        return f"#Ref<0.{'.'.join(map(str, reversed(self.ids)))}>"


# Where the world finds them, and pickle looks for them.
(<PyTypeObject *>Pid).tp_name = "pynode.terms.Pid"
(<PyTypeObject *>Port).tp_name = "pynode.terms.Port"
(<PyTypeObject *>Reference).tp_name = "pynode.terms.Reference"
