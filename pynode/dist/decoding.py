"""Large messages are decoded beside the reading, so that others need not wait for that.

A term of millions of elements takes seconds to decode. (A binary of a megabyte does not, and to
hand it to another thread would cost more.) The reader hands it out as a task, and so
lets go of its role (see `pynode.dist.engine`): another thread reads on. What must not overtake it
is held back meanwhile, and delivered by the same thread when the message has been: all that has the
same sender, or the same reference (an answer goes to an alias, and the ``DOWN`` has the same one).
Where one of the two does not say by a pid who has sent it, it may be anybody: a ``DOWN`` may have a
name, and what a BEAM has encoded before the handshake was over (``SEND``) has nothing. That is more
than Erlang promises, which is about pairs of processes, but it is what a BEAM does.
"""

from __future__ import annotations

import threading
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from pynode.dist.task import Task
from pynode.terms import Pid

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.protocol.channel import Message

#: Bytes of a payload that is decoded where it is read: at worst that takes some 20 ms. So many may
#: be in large binaries, which do not count else.
_SMALL: Final = 256 * 1024
_BINARIES: Final = 8 * 1024 * 1024
#: How many bytes a large binary has, and within how many after the last one its beginning is found.
_LARGE: Final = 64 * 1024
_APART: Final = 1024
#: What it begins with: BINARY_EXT and its length.
_BINARY: Final = Struct(">cI")
#: Messages of one connection that are decoded at the same time.
_AT_ONCE: Final = 4
#: Bytes that are held back before the reader waits, and what each message takes besides.
_HELD_BACK: Final = 64 * 1024 * 1024
_OVERHEAD: Final = 500


class _Late(Task):
    """A large message that is being delivered, and what is held back behind it."""

    __slots__ = ("_decoding", "_message", "behind", "by_anybody", "held", "keys")

    def __init__(self, decoding: Decoding, message: Message) -> None:
        super().__init__()
        self.urgent = True  # it may be what those wait for who keep others from running
        self.keys = _keys(message)
        #: Whether it is not known of all of them who has sent them.
        self.by_anybody = _is_by_anybody(message)
        self.behind: deque[Message] = deque()
        #: Bytes of those.
        self.held = 0
        self._decoding = decoding
        self._message: Message | None = message

    def run(self) -> None:
        """See `Task.run`."""
        message, self._message = self._message, None
        while message is not None:
            self._decoding.deliver(message)
            message = self._decoding.next_behind(self)

    def flush(self) -> None:
        """See `Task.flush`."""
        self._decoding.flush()


class Decoding:
    """The large messages of one connection that are on their way.

    `deliver(message)` delivers one on any thread, sees to the task that comes of it, and neither
    blocks nor raises. `flush()` sends what that may have posted.

    The methods are for the thread that reads, but for `next_behind`.
    """

    def __init__(self, deliver: Callable[[Message], object], flush: Callable[[], object]) -> None:
        self.deliver = deliver
        self.flush = flush
        self._late: list[_Late] = []
        self._changed = threading.Condition()

    def concerns(self, message: Message) -> bool:
        """Whether `holds_back` and `begin` are to be asked about a message."""
        payload = message.payload  # this is asked of each message, so without a call
        return bool(self._late) or (
            payload is not None and len(payload) > _SMALL and takes_long(payload)
        )

    def holds_back(self, message: Message) -> bool:
        """Whether a message has to wait for others that are on their way; if so, it will come."""
        keys = _keys(message)
        with self._changed:
            while True:
                late = self._in_the_way(message, keys)
                if late is None:
                    return False
                if late.held <= _HELD_BACK:
                    late.behind.append(message)
                    late.held += _size(message) + _OVERHEAD
                    late.keys |= keys
                    late.by_anybody |= _is_by_anybody(message)
                    return True
                self._changed.wait()

    def _in_the_way(self, message: Message, keys: set[Any]) -> _Late | None:
        by_anybody = _is_by_anybody(message)
        for late in self._late:
            if by_anybody or late.by_anybody or not keys.isdisjoint(late.keys):
                return late
        return None

    def begin(self, message: Message) -> Task | None:
        """Return a task that delivers a message; None if the reader should do that itself."""
        with self._changed:
            payload = message.payload
            if payload is None or not takes_long(payload) or len(self._late) >= _AT_ONCE:
                return None
            late = _Late(self, message)
            self._late.append(late)
            return late

    def finish(self) -> None:
        """Wait until all is delivered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._late)

    def next_behind(self, late: _Late) -> Message | None:
        """Return what is to be delivered after a large message, None when it is over."""
        with self._changed:
            self._changed.notify_all()
            if not late.behind:
                self._late.remove(late)
                return None
            message = late.behind.popleft()
            late.held -= _size(message) + _OVERHEAD
            return message


def takes_long(payload: bytes) -> bool:
    """Whether a payload may take long to be decoded, as far as a cheap look shows.

    What looks like the beginning of a large binary is taken for one.
    """
    size = len(payload)
    if size <= _SMALL:
        return False
    if size > _BINARIES:
        return True
    rest, begin, at = size, 0, 0
    while rest > _SMALL:
        at = payload.find(b"m", at, begin + _APART)
        if at < 0 or at + _BINARY.size > size:
            return True
        length = _BINARY.unpack_from(payload, at)[1]
        if _LARGE < length <= size - at - _BINARY.size:
            begin = at = at + _BINARY.size + length
            rest -= length
        else:
            at += 1
    return False


def _size(message: Message) -> int:
    return 0 if message.payload is None else len(message.payload)


def _is_by_anybody(message: Message) -> bool:
    return type(message.control.ends()[0]) is not Pid


def _keys(message: Message) -> set[Any]:
    """Return what two messages have in common of which the second may not come first."""
    control = message.control
    references = (getattr(control, "alias", None), getattr(control, "ref", None))
    return {control.ends()[0], *references} - {None}
