"""What waits to be written to one peer, and what may go before what.

Theory of operation. A message of 200 MB leaves in fragments, and small messages go between them
instead of waiting for its end. Only those that must not overtake it wait: Erlang promises that
what one process sends to another arrives in the order in which it was sent (reference manual,
"Delivery of Signals").

Any thread may `put`; it does nothing but append to a queue. One thread at a time, the writer, is
between `take` and `written`: it goes through the queue in order, puts aside what has to wait
*behind* a large message that has not left yet, and when the last fragment of that is taken, looks
at what was behind it again, in the order in which that was sent, and before all that came later.
So nothing of this needs a lock that is held for long, and a destructor in between may send as well.

Which messages may be for the same process is not always known: one goes to a pid, the next to a
name or an alias. An alias belongs to the process that has set up the monitor with the same
reference, if it comes from `gen_server:call/2`; of any other, and of a name, nothing is known. Then
a message waits if the same code has sent both (a lane of the engine, or a thread outside of one).
What different threads send from one pid at the same time to different addresses, as the callers
that are no processes do, has no order that could be lost.
"""

from __future__ import annotations

import threading
from collections import deque
from heapq import heappop, heappush
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final

from pynode.dist.engine import Engine
from pynode.terms import Pid, Reference

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from pynode.etf import Part
    from pynode.protocol.channel import Fragments
    from pynode.protocol.control import ControlMessage

#: Bytes and buffers for one system call: enough for the gain, well below IOV_MAX. Where there are
#: large messages, the small ones get half of it. An echo of 1 MB took 1.14 to 1.4 times as long as
#: the BEAM's with 128 KB, and takes 1.02 to 1.06 times.
_BATCH: Final = 512 * 1024
_BUFFERS: Final = 512
#: Large messages of which the fragments are mixed. What comes on top of that waits, since the peer
#: may limit how many it puts together, as we do (``Limits.fragmented_messages``).
_MIXED: Final = 64
#: For how many bytes a large message counts at most: several of them are no reason yet to put
#: everything aside that the peer asks for, but many of them are.
_WEIGHT: Final = 1024 * 1024

# Parts of keys. What may be for anybody waits for all that its sender has sent from one context,
# and what is for a certain process waits for that of it which may be for anybody.
_ALL: Final = 0
_ANYBODY: Final = 1


def context() -> Hashable:
    """Return what stands for the code that is running: its lane, its task, or its thread."""
    task = Engine.current_task()
    if task is None:
        return threading.current_thread()
    return task if task.lane is None else ("lane", task.lane)


class _Item:
    """A message that is large, or was sent while a large one was there.

    It waits for a large message that blocks one of its `keys`. It `blocks` some itself, if it is
    large, and as long as it waits.
    """

    __slots__ = ("behind", "blocks", "context", "data", "frames", "keys", "left", "number")

    def __init__(
        self,
        control: ControlMessage,
        data: bytes | Fragments,
        monitors: Mapping[Any, tuple[Any, Any]],
    ) -> None:
        #: Its place among those that the writer has looked at.
        self.number = 0
        self.data = data
        self.frames: Iterator[list[Part]] = iter(())
        #: Frames that have not been taken.
        self.left = 0
        self.context = context()
        self.behind: list[_Item] = []
        sender, receiver = control.ends()
        # The monitor's of a DOWN, which is the alias in a call.
        reference = getattr(control, "ref", None)
        if type(receiver) is Reference:
            reference = receiver
            receiver = monitors.get(reference, (None,))[0]
        self.keys: set[Hashable] = {(sender, receiver), reference} - {(sender, None), None}
        self.blocks = {*self.keys, receiver, (sender, self.context, _ALL)}
        if type(receiver) is Pid:
            self.keys.add((sender, self.context, _ANYBODY))
        else:
            self.keys.add((sender, self.context, _ALL))
            self.blocks.add((sender, self.context, _ANYBODY))
        if type(sender) is not Pid:
            # A name that was monitored, or nothing at all: it may be anybody of this node.
            self.keys.add(receiver)

    @property
    def weight(self) -> int:
        data = self.data
        return len(data) if isinstance(data, bytes) else min(data.size, _WEIGHT)


class Outbox:
    """See the top of this module. `monitors` are those of the peer: reference -> (watcher, what).

    `size` is the number of bytes that wait, though not all of those of large messages count.
    """

    def __init__(self, monitors: Mapping[Any, tuple[Any, Any]]) -> None:
        self.size = 0
        #: How many large messages each context has there; empty if there are none.
        self.large: dict[Hashable, int] = {}
        self._monitors = monitors
        self._counting = threading.RLock()
        self._queue: deque[bytes | _Item] = deque()
        # What is below belongs to the writer.
        self._numbers = count(1)
        self._again: list[tuple[int, _Item]] = []
        self._mixed: deque[_Item] = deque()
        self._later: deque[_Item] = deque()
        self._batch: list[Part] = []
        self._batch_bytes = 0
        self._batch_weight = 0

    def __bool__(self) -> bool:
        """Whether there is anything to be written."""
        return bool(self._queue or self._mixed or self._batch or self._again)

    def put(self, control: ControlMessage, data: bytes | Fragments) -> None:
        """Queue a message, as `Channel.encode` has made it."""
        if isinstance(data, bytes) and not self.large:
            with self._counting:
                self._queue.append(data)
                self.size += len(data)
            return
        item = _Item(control, data, self._monitors)
        with self._counting:
            self._queue.append(item)
            self.size += item.weight
            if not isinstance(data, bytes):
                self.large[item.context] = self.large.get(item.context, 0) + 1

    def put_frame(self, frame: bytes) -> None:
        """Queue a frame that is no message."""
        with self._counting:
            self._queue.append(frame)
            self.size += len(frame)

    # --- the writer

    def take(self) -> list[Part]:
        """Return what is to be written next, none of it if nothing is left.

        It is the same until `written` was told that all of it is.
        """
        if self._batch:
            return self._batch
        queue, again = self._queue, self._again
        room = _BATCH // 2 if self._mixed else _BATCH
        while (again or queue) and room > 0 and len(self._batch) < _BUFFERS:
            item = heappop(again)[1] if again else queue.popleft()
            if isinstance(item, _Item):
                data = self._pass(item)
                if data is None:
                    continue
            else:
                data = item
            self._batch.append(data)
            self._batch_weight += len(data)
            room -= len(data)
        self._batch_bytes = self._batch_weight
        while self._mixed and self._batch_bytes < _BATCH:
            self._take_fragment()
        return self._batch

    def _pass(self, item: _Item) -> bytes | None:
        """Return the frame of a message that may go now; see to it that others go later."""
        item.number = item.number or next(self._numbers)
        for large in chain(self._mixed, self._later):
            if not item.keys.isdisjoint(large.blocks):
                large.behind.append(item)
                large.blocks |= item.blocks
                return None
        if isinstance(item.data, bytes):
            return item.data
        item.frames, item.left = iter(item.data), len(item.data)
        (self._mixed if len(self._mixed) < _MIXED else self._later).append(item)
        return None

    def _take_fragment(self) -> None:
        """Move a fragment of the large message whose turn it is to the batch."""
        item = self._mixed.popleft()
        frame = next(item.frames)
        self._batch += frame
        self._batch_bytes += sum(map(len, frame))
        item.left -= 1
        if item.left:
            self._mixed.append(item)
            return
        self._batch_weight += item.weight
        for waiting in item.behind:
            heappush(self._again, (waiting.number, waiting))
        if self._later:
            self._mixed.append(self._later.popleft())
        with self._counting:
            self.large[item.context] -= 1
            if not self.large[item.context]:
                del self.large[item.context]

    def written(self, count: int) -> bool:
        """Take `count` bytes from the front of the batch; whether `size` is smaller now."""
        if count < self._batch_bytes:
            self._batch_bytes -= count
            rest = []
            for buffer in self._batch:
                if count >= len(buffer):
                    count -= len(buffer)
                else:
                    rest.append(memoryview(buffer)[count:] if count else buffer)
                    count = 0
            self._batch = rest
            return False
        weight, self._batch_weight = self._batch_weight, 0
        self._batch = []
        with self._counting:
            self.size -= weight
        return bool(weight)

    def clear(self) -> None:
        """Forget all of it."""
        with self._counting:
            self._queue.clear()
            self._again.clear()
            self._mixed.clear()
            self._later.clear()
            self._batch = []
            self._batch_weight = 0
            self.large.clear()
            self.size = 0
