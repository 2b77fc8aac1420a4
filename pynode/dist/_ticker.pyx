# cython: language_level=3
"""Signs of life for peers while Python cannot give any, because C code holds its global lock.

Theory of operation. A thread that never takes the global lock looks at all connections twice a
second. Where something waits to be read (a peer that hears nothing sends ticks of its own, at the
pace of its own ``net_ticktime``) nobody in Python reads, so it sends a tick. A tick must not cut
into a frame. So what Python writes goes through `Line.send`, which holds the line's lock during the
system call alone, and notes whether all of it has gone out.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_attr_t:
        pass
    ctypedef unsigned long pthread_t
    int pthread_mutex_init(pthread_mutex_t *, void *)
    int pthread_mutex_destroy(pthread_mutex_t *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_trylock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_attr_init(pthread_attr_t *)
    int pthread_attr_destroy(pthread_attr_t *)
    int pthread_attr_setdetachstate(pthread_attr_t *, int)
    int PTHREAD_CREATE_DETACHED
    int pthread_create(pthread_t *, pthread_attr_t *, void *(*)(void *) noexcept nogil, void *)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *)
    int pthread_sigmask(int, sigset_t *, sigset_t *)
    int SIG_SETMASK

cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int, msghdr *, int)
    ssize_t send(int, void *, size_t, int)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int, unsigned long, int *)
    unsigned long FIONREAD

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int, timespec *)
    int CLOCK_MONOTONIC
    int nanosleep(timespec *, timespec *)

cdef struct State:
    int fd
    pthread_mutex_t lock
    # Whether what was written ends with a whole frame.
    bint whole
    # Bytes of a tick that the socket did not take: they come first.
    int left
    # When something was written, in milliseconds.
    long long written
    State *next

cdef enum:
    MAX_BUFFERS = 1000
    PAUSE_MS = 500

cdef char[4] _tick
cdef State *_lines = NULL
cdef pthread_mutex_t _list_lock
cdef bint _started = False
pthread_mutex_init(&_list_lock, NULL)


cdef long long _now() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <long long> time.tv_sec * 1000 + time.tv_nsec // 1000000


cdef void _look_after(State *line) noexcept nogil:
    """Send a tick if one is due and nobody writes."""
    cdef int unread = 0
    cdef ssize_t sent
    if pthread_mutex_trylock(&line.lock) != 0:
        return
    if line.whole and line.left == 0 and _now() - line.written >= PAUSE_MS:
        if ioctl(line.fd, FIONREAD, &unread) == 0 and unread > 0:
            sent = send(line.fd, _tick, sizeof(_tick), MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent > 0:
                line.left = <int> (sizeof(_tick) - sent)
                line.written = _now()
    pthread_mutex_unlock(&line.lock)


cdef void *_watch(void *_) noexcept nogil:
    cdef timespec pause
    cdef State *line
    while True:
        pause.tv_sec = 0
        pause.tv_nsec = PAUSE_MS * 1000000
        nanosleep(&pause, NULL)
        pthread_mutex_lock(&_list_lock)
        line = _lines
        while line != NULL:
            _look_after(line)
            line = line.next
        pthread_mutex_unlock(&_list_lock)


cdef void _start() except *:
    global _started
    cdef pthread_t thread
    cdef pthread_attr_t attributes
    cdef sigset_t all_signals, before
    if _started:
        return
    # Signals are for threads that can run Python.
    sigfillset(&all_signals)
    pthread_attr_init(&attributes)
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED)
    pthread_sigmask(SIG_SETMASK, &all_signals, &before)
    failed = pthread_create(&thread, &attributes, _watch, NULL)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    pthread_attr_destroy(&attributes)
    if failed:
        raise RuntimeError("the system allows no more threads")
    _started = True


cdef class Line:
    """The way out of one connection, from here to `close`; `fd` must stay open until then."""

    cdef State *_state

    def __cinit__(self, int fd):
        _start()
        self._state = <State *> calloc(1, sizeof(State))
        if self._state == NULL:
            raise MemoryError
        self._state.fd = fd
        self._state.whole = True
        self._state.written = _now()
        pthread_mutex_init(&self._state.lock, NULL)
        pthread_mutex_lock(&_list_lock)
        self._add()
        pthread_mutex_unlock(&_list_lock)

    cdef void _add(self) noexcept nogil:
        global _lines
        self._state.next = _lines
        _lines = self._state

    def __dealloc__(self):
        self.close()
        if self._state != NULL:
            pthread_mutex_destroy(&self._state.lock)
            free(self._state)

    def close(self):
        """Send nothing any more; doing it twice is harmless."""
        global _lines
        cdef State **place
        if self._state == NULL:
            return
        with nogil:
            pthread_mutex_lock(&_list_lock)
            place = &_lines
            while place[0] != NULL and place[0] != self._state:
                place = &place[0].next
            if place[0] != NULL:
                place[0] = self._state.next
            pthread_mutex_unlock(&_list_lock)
            # The number may soon be that of another file.
            pthread_mutex_lock(&self._state.lock)
            self._state.fd = -1
            pthread_mutex_unlock(&self._state.lock)

    def send(self, list buffers, int flags):
        """Write buffers, as `socket.sendmsg` does; return how many bytes of them have gone out.

        There may be 1,000 of them, and the last one ends with a frame. If not all of it goes out,
        what is left must be the next. One thread at a time may be in here. Raises BlockingIOError
        and other OSErrors.
        """
        cdef Py_buffer[MAX_BUFFERS] views
        cdef iovec[MAX_BUFFERS + 1] parts
        cdef msghdr message
        cdef State *state = self._state
        cdef ssize_t sent
        cdef size_t total = 0
        cdef int left, error = 0, count = 0
        if len(buffers) > MAX_BUFFERS:
            raise ValueError("too many buffers")
        memset(&message, 0, sizeof(message))
        try:
            for buffer in buffers:
                PyObject_GetBuffer(buffer, &views[count], PyBUF_SIMPLE)
                parts[count + 1].iov_base = views[count].buf
                parts[count + 1].iov_len = views[count].len
                total += views[count].len
                count += 1
            with nogil:
                pthread_mutex_lock(&state.lock)
                left = state.left
                parts[0].iov_base = _tick
                parts[0].iov_len = left
                message.msg_iov = &parts[0 if left else 1]
                message.msg_iovlen = count + (1 if left else 0)
                sent = sendmsg(state.fd, &message, flags | MSG_NOSIGNAL)
                if sent < 0:
                    error = errno
                else:
                    state.written = _now()
                    state.left = left - <int> sent if sent < left else 0
                    sent = sent - left if sent > left else 0
                    if sent > 0:
                        state.whole = <size_t> sent == total
                    elif total > 0:
                        error = EAGAIN
                pthread_mutex_unlock(&state.lock)
        finally:
            for index in range(count):
                PyBuffer_Release(&views[index])
        if error == EAGAIN:
            raise BlockingIOError(error, "the socket takes no more")
        if error == EINTR:
            raise InterruptedError(error, "interrupted")
        if error:
            raise OSError(error, "the socket cannot be written to")
        return sent
