"""What the compiled codec needs to know of pids, ports and references to make and read them itself."""

from libc.stdint cimport int64_t


cdef class _Identifier:
    cdef readonly object node
    #: The encoded form, made or seen by the codec; or None.
    cdef readonly object wire
    #: 0 until somebody asks.
    cdef int64_t _hash


cdef class Pid(_Identifier):
    cdef readonly object id
    cdef readonly object serial
    cdef readonly object creation


cdef class Port(_Identifier):
    cdef readonly object id
    cdef readonly object creation


cdef class Reference(_Identifier):
    #: Both are None until somebody asks for them, if there is a wire that has them.
    cdef object _creation
    cdef object _ids
