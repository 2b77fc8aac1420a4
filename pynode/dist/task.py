"""What the engine runs, and how that is stopped.

CPython can raise an exception in another thread (``PyThreadState_SetAsyncExc``), and it comes with
the thread's next Python instruction. What makes it usable is to know exactly when it may come:
only inside `Task.interruptible`, where the user's code runs, and not while that has called ours
(`Task.shield`). A task inside C code is stopped when it comes back to Python; one that waits for an
answer (`Engine.wait`) is woken; what one awaits is cancelled. Code that catches the exception and
goes on is stopped again only by who asks for it.

It does not come while a module is being loaded: half a module would stay behind, and nobody in the
whole Python could import it again. The exception is held back until the import is over. (A module
that waits for an answer while it is imported is woken all the same: the answer may never come.)
"""

from __future__ import annotations

import ctypes
import sys
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias, TypeVar

from mypy_extensions import mypyc_attr

from pynode.dist.fairness import give_way
from pynode.errors import CallInterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from queue import SimpleQueue
    from types import FrameType

    from pynode.dist.engine import Source

P = ParamSpec("P")
T = TypeVar("T")
#: What `Task.shield` has found: whether there was a shield already, and its inbox.
Shield: TypeAlias = "tuple[bool, SimpleQueue[Any] | None]"

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)
_set_async_exc.restype = ctypes.c_int
_NOTHING = ctypes.py_object()  # a null pointer takes the exception back

# Held for a few instructions only, so one for all tasks is enough.
_lock: Final = threading.Lock()

#: The files of the functions that every import passes through, and of those that look for modules.
_IMPORT: Final = "<frozen importlib._bootstrap>"
_SEARCH: Final = "<frozen importlib._bootstrap_external>"
#: The functions there that are called when a module was found.
_LOADING: Final = frozenset({"_load_unlocked", "_exec", "exec_module"})

#: What a task that waits finds in its inbox when it is interrupted.
INTERRUPT: Final = object()
#: In a coroutine that is awaited for a suspended task: that task.
AWAITED: ContextVar[Task | None] = ContextVar("AWAITED", default=None)


@mypyc_attr(allow_interpreted_subclasses=True)
class Task:
    """Something to run. `lane` is what it must not overtake, or None.

    It may have to wait, and need no thread for that: then its `run` sets `suspended` and returns,
    its `begin_wait` is called and sees to it that `Engine.again` will be, and that has it `run`
    again. It has its lane all the while.
    """

    __slots__ = (
        "_cancel",
        "_elsewhere",
        "_held_back",
        "_inbox",
        "_interrupted",
        "_running_on",
        "_shielded",
        "below",
        "in_lane",
        "lane",
        "lets_in",
        "source",
        "suspended",
        "urgent",
    )

    def __init__(self, lane: Hashable | None = None) -> None:
        self.lane = lane
        #: Where it came from, if that matters: it waits while that is congested.
        self.source: Source | None = None
        #: Whether it is done in no time, and not to be put aside.
        self.urgent = False
        #: Whether others in its lane run while it waits for an answer.
        self.lets_in = True
        #: Whether it is in its lane already, though it was put aside.
        self.in_lane = False
        #: Whether it waits without a thread, and `run` will be called again.
        self.suspended = False
        #: Where it was let in by another task on the same thread: the last frame of that.
        self.below: FrameType | None = None
        self._cancel: Callable[[], None] | None = None
        self._inbox: SimpleQueue[Any] | None = None
        #: Where other threads wait for an answer, for what it awaits.
        self._elsewhere: tuple[SimpleQueue[Any], ...] = ()
        self._interrupted = False
        #: Whether an interrupt came during an import, and its exception is still to be raised.
        self._held_back = False
        self._shielded = False
        #: The thread that is inside `interruptible` for it, 0 if none is.
        self._running_on = 0

    def run(self) -> None:
        """Do it, all of it, without raising."""
        raise NotImplementedError

    def begin_wait(self) -> None:
        """Begin what it waits for, after `run` has set `suspended`, without blocking or raising."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what `run` has left to be sent; not called when the reader will do so anyway."""

    def make_room(self) -> None:
        """Wait until what it sends will be taken; called by a lane's own thread before `run`."""

    @property
    def is_running(self) -> bool:
        """Whether it is inside `interruptible` now, or suspended."""
        return self._running_on != 0 or self.suspended

    @property
    def interrupted(self) -> bool:
        """Whether it is to stop."""
        return self._interrupted

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for an answer or a message now."""
        return self._inbox is not None

    def interruptible(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(*args, **kwargs)`, which is code of the user's.

        Raises CallInterrupted if `interrupt` came before its end.
        """
        with _lock:
            if self._interrupted:
                raise CallInterrupted
            self._running_on = threading.get_ident()
        try:
            value = function(*args, **kwargs)
            if self.interrupted:
                # It may have come while C code ran. The interpreter would raise it as soon as it
                # goes on, but what goes on here may be compiled.
                give_way()
                if self._held_back:
                    raise CallInterrupted
            return value
        finally:
            self.close_window()

    def interrupt(self, *, again: bool = False) -> None:
        """Stop it, or keep it from starting. Nothing happens if it is over already.

        Only the first time has an effect, unless it is to be stopped `again`. In the middle of an
        import it takes `raise_held_back` as well: who has an engine calls `Engine.interrupt`.
        """
        with _lock:
            if self._interrupted and not again:
                return
            self._interrupted = True
            cancel = self._cancel
            for inbox in self._elsewhere:
                inbox.put(INTERRUPT)
            if self._inbox is not None:
                self._inbox.put(INTERRUPT)
            else:
                self._raise_unless_importing()
        if cancel is not None:
            cancel()

    def raise_held_back(self) -> bool:
        """Raise what an import has held back, if it is over; False if it is not."""
        with _lock:
            if self._held_back:
                self._raise_unless_importing()
            return not self._held_back

    def _raise_unless_importing(self) -> None:
        thread = self._running_on
        self._held_back = thread != 0 and _is_importing(thread, self.below)
        if thread and not self._held_back and not self._shielded:
            _set_async_exc(thread, CallInterrupted)

    def cancel_with(self, cancel: Callable[[], None] | None) -> bool:
        """Have `cancel` called by an interrupt from here on; whether there was none before."""
        with _lock:
            self._cancel = cancel
            return not self._interrupted

    @contextmanager
    def waking(self, inbox: SimpleQueue[Any]) -> Iterator[None]:
        """Have an interrupt put into `inbox`, too. Raises CallInterrupted if one has come."""
        with _lock:
            if self._interrupted:
                raise CallInterrupted
            self._elsewhere += (inbox,)
        try:
            yield
        finally:
            with _lock:
                self._elsewhere = tuple(one for one in self._elsewhere if one is not inbox)

    def shield(self, inbox: SimpleQueue[Any] | None = None) -> Shield:
        """Let nothing be raised in this thread from here on; undone by `unshield`.

        For what the user's code calls of ours and must not be left half done. With an `inbox`,
        an interrupt is put there. Raises CallInterrupted if one has come already, but only inside
        `interruptible`, and not under another shield unless this is to wait.
        """
        with _lock:
            if self._may_raise and (inbox is not None or not (self._shielded or self._held_back)):
                _set_async_exc(self._running_on, _NOTHING)
                self._held_back = False
                raise CallInterrupted
            outer = (self._shielded, self._inbox)
            self._shielded = True
            self._inbox = inbox
            return outer

    def unshield(self, outer: Shield) -> None:
        """Undo `shield`, which returned `outer`. Raises CallInterrupted if one has come since."""
        with _lock:
            self._shielded, self._inbox = outer
            if self._may_raise and not self._shielded and not self._held_back:
                raise CallInterrupted

    @property
    def _may_raise(self) -> bool:
        return self._interrupted and self._running_on != 0

    def close_window(self) -> None:
        """Let no exception come from here on.

        `interruptible` does it at its end. Who goes on after that does it once more: an exception
        that came between its last two instructions would have skipped it.
        """
        while self._running_on:
            try:
                with _lock:
                    thread, self._running_on = self._running_on, 0
                    if self._interrupted and thread:
                        _set_async_exc(thread, _NOTHING)  # it may not have been delivered yet
                return
            except CallInterrupted:
                # It came while we were waiting for the lock. There is no second one.
                continue


def _is_importing(thread: int, below: FrameType | None) -> bool:
    """Whether what a thread does, above the frame `below`, is to import something.

    Not as long as it only looks for a module: it finds none there, and goes on, where there are
    modules that one can do without. Compiled, this does not let the thread run between the answer
    and what is done about it; and an exception comes where the thread is.
    """
    frame = sys._current_frames().get(thread)  # the only way to look at another thread
    searching = frame is not None and frame.f_code.co_filename == _SEARCH
    importing = False
    while frame is not None and frame is not below:
        code = frame.f_code
        if code.co_filename in (_IMPORT, _SEARCH):
            importing = True
            searching = searching and code.co_name not in _LOADING
        frame = frame.f_back
    return importing and not searching
