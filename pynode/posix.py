"""A node as a process of its operating system: that it ends, and what it started with it.

Python code that a node runs may fork (`multiprocessing`, `joblib`, data loaders). A forked child
has copies of the node's sockets, and as long as it does, no peer sees the node's death.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

#: malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: Bytes that may be free at the end of the heap, and of a block that is no part of it.
_WARM = 8 * 1024 * 1024

_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def not_for_children(sock: socket.socket) -> None:
    """Close `sock` in every child that is forked from here on."""
    _sockets.add(sock)


def _close_in_child() -> None:
    for sock in list(_sockets):
        sock.close()  # without shutdown, which would end the parent's connection, too


os.register_at_fork(after_in_child=_close_in_child)


def share_one_heap() -> None:
    """Have all threads allocate from one heap, if the C library is glibc; before they start.

    Each would get one of its own (mallopt(3), M_ARENA_MAX) and keep what is free in it. That is for
    threads that run at the same time, which Python's do not. The environment variable
    ``MALLOC_ARENA_MAX`` has the last word.
    """
    _tell_malloc("MALLOC_ARENA_MAX", _M_ARENA_MAX, 1)


def keep_heap_warm() -> None:
    """Keep the memory of a message of some megabytes for the next one, until `trim_heap`.

    The system would take as long to give it again, page by page, as all the rest of an echo of
    1 MB takes. The environment variables ``MALLOC_MMAP_THRESHOLD_`` and ``MALLOC_TRIM_THRESHOLD_``
    have the last word.
    """
    _tell_malloc("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, _WARM)
    _tell_malloc("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, _WARM)


def _tell_malloc(variable: str, option: int, value: int) -> None:
    if variable not in os.environ:
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(option, value)


def trim_heap() -> None:
    """Give pages that are free in the middle of the heap back to the system, if glibc can."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def end_on_signals(stop: threading.Event) -> Callable[[], None]:
    """Set `stop` on SIGTERM and SIGINT; forked children end by them, as usual.

    Returns a function that has the signals do again what they did before. Both are to be called
    by the main thread.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)

    def default() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    # The system gives a signal to any thread, and then nothing wakes the main thread, which alone
    # would run a handler in Python. What does not depend on it is a pipe.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                if number[0] in numbers:
                    stop.set()

    pipe_before = signal.set_wakeup_fd(writing)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    os.register_at_fork(after_in_child=default)
    threading.Thread(target=watch, name="pynode-signals", daemon=True).start()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(pipe_before)
        os.close(writing)

    return restore


def resident_bytes() -> int | None:
    """Return how much of the machine's memory this process has; None where that is not known."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def end_children() -> None:
    """Kill the processes that `multiprocessing` has started: nobody else would."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        for child in multiprocessing.active_children():
            child.kill()


def end_group() -> None:
    """Ask the other processes of this one's group to end, if it leads one (SIGTERM)."""
    if os.getpgrp() == os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)


def kill_after_eof(seconds: float) -> None:
    """Have this process killed `seconds` after its standard input was closed, if it still runs.

    A thread could not do it: C code that holds the global lock would keep it from running. So a
    forked process does. It ends with this one. With this process, its group is killed if it leads
    one. To be called before there are threads.
    """
    watched = os.getpid()
    lifeline, end = os.pipe()
    if os.fork():
        os.close(lifeline)
        os.register_at_fork(after_in_child=lambda: os.close(end))
        return
    try:
        os.close(end)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        if not _readable([0, lifeline], None, lifeline) and not _readable(
            [lifeline], seconds, lifeline
        ):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(watched) == watched:
                    os.killpg(watched, signal.SIGKILL)
                os.kill(watched, signal.SIGKILL)
    finally:
        os._exit(0)


def _readable(descriptors: list[int], timeout: float | None, wanted: int) -> bool:
    """Wait until one of them has something or is closed; return whether `wanted` is."""
    while True:
        ready = select.select(descriptors, [], [], timeout)[0]
        if wanted in ready:
            return True
        if not ready or not os.read(ready[0], 4096):
            return False
