"""What other compiled parts need of the codec: to read terms one by one, and to write some in a row."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t


cdef struct Breath:
    #: Terms in containers so far, and the nanosecond in which others were let run.
    Py_ssize_t steps
    int64_t last


cdef struct Reader:
    const uint8_t *data
    Py_ssize_t size
    Py_ssize_t pos
    #: Containers inside each other from which on keys may be too deep to be hashed.
    Py_ssize_t soft_depth
    #: How many of them are read here.
    Py_ssize_t depth
    #: Whether there were so many that each map has to be looked at; see _guarded_map.
    bint guarded
    Breath breath
    #: How many terms there may be; fewer than there are bytes, if they have to be counted.
    Py_ssize_t terms
    bint counted


#: Begin to read `data` at an offset.
cdef int start(Reader *r, bytes data, Py_ssize_t offset, object limits) except -1
#: Return the next term, which is inside of `depth` containers. What raises _Unusual is for the twin.
cdef object read(
    Reader *r, bytes data, object struct, object fun, object limits, Py_ssize_t depth
)

cdef enum:
    #: Bytes that fit into a writer itself.
    ROOM = 400


cdef class Writer:
    cdef uint8_t *data
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity
    #: Where data is: in room, as long as it fits, or in out, a bytes object that grows.
    cdef PyObject *out
    cdef uint8_t room[ROOM]
    cdef Breath breath
    cdef object default
    #: What default returned for which object; see _pure_encode.
    cdef dict made
    #: What comes before data, if large binaries are not to be copied.
    cdef list parts

    cdef int grow(self, Py_ssize_t more) except -1
    cdef int put(self, const void *data, Py_ssize_t size) except -1
    #: Append a term, which is inside of `depth` containers. What raises _Unusual is for the twin.
    cdef int write(self, object term, Py_ssize_t depth) except -1
    cdef bytes finish(self)
    cdef int put_bytes(self, bytes data) except -1
    cdef int put_large(self, object data, Py_ssize_t size) except -1
    cdef int put_byte(self, uint8_t byte) except -1
    cdef int head(self, uint8_t tag, Py_ssize_t count) except -1
    cdef int text(self, object term) except -1
    cdef int number(self, object term) except -1
    cdef int real(self, double number) except -1
    cdef int charlist(self, list items) except 2
    cdef int plain(self, object term) except -1
    cdef int all_of(self, tuple items, Py_ssize_t start, Py_ssize_t depth) except -1
    cdef int elements(self, list term, Py_ssize_t depth) except -1
    cdef void wrote(self, Py_ssize_t count) noexcept
    cdef int pairs(self, dict term, Py_ssize_t depth) except -1
