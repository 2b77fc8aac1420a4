"""One connection to another node: its socket, read and written by whichever thread is there.

Reading is the business of the engine (`Connection` is one of its sources). Writing: whoever has
something to send puts it in the queue, and whoever finds nobody writing writes the queue out,
so that frames never cut into each other and many small ones leave in one system call. A thread
never waits for a slow peer while it reads: what the socket does not take at once is left to a
thread from the work queue. Two nodes that flood each other would otherwise block each other.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pynode import config
from pynode.dist.engine import Engine, Source
from pynode.errors import DecodeError, RemoteProtocolError
from pynode.protocol.channel import NEED_DATA, TICK, Channel, Message, Tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.dist.task import Task
    from pynode.protocol.control import ControlMessage
    from pynode.protocol.flags import DFlag
    from pynode.terms import Atom

log = logging.getLogger(__name__)

#: Bytes and buffers handed to the kernel in one call: enough for the gain, well below IOV_MAX.
_JOIN_BYTES = 64 * 1024
_BUFFERS = 512
#: Threads that are woken when a slow peer has caught up: all of them at once would only collide.
_WOKEN = 16


class Connection(Source):
    """An established connection. `peer`, `flags` and `creation` come from the handshake.

    `deliver(connection, message)` is called for each message, by the thread that reads; it
    returns a task to run, or None. `down(connection, reason)` is called once, at the end.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        peer: Atom,
        flags: DFlag,
        creation: int,
        early_data: bytes,
        engine: Engine,
        deliver: Callable[[Connection, Message], Task | None],
        down: Callable[[Connection, str], None],
        limits: config.Limits = config.LIMITS,
    ) -> None:
        super().__init__()
        self.peer = peer
        self.flags = flags
        self.creation = creation
        #: Monitors that processes of the peer have on ours: reference -> (watcher, what).
        self.monitors: dict[Any, tuple[Any, Any]] = {}
        #: Why the connection ended; None while it lives.
        self.ended: str | None = None
        #: Counters for the tick: how many times something came, or went.
        self.received = 0
        self.sent = 0
        self._socket = sock
        self._channel = Channel(flags, limits)
        self._engine = engine
        self._deliver = deliver
        self._down = down
        self._out: deque[bytes | memoryview] = deque()
        self._out_bytes = 0
        self._counting = threading.RLock()  # a destructor in between may send as well
        self._writing = threading.Lock()
        self._room = threading.Condition()
        self._waiting = 0
        self._closing = threading.Lock()
        if early_data:
            self._channel.receive_data(early_data)

    def __repr__(self) -> str:
        return f"<Connection to {self.peer}>"

    # --- reading

    def next_task(self) -> Task | None:
        """Read, answer what needs no task, and return the next task; None at the end."""
        channel = self._channel
        try:
            while True:
                event = channel.next_event()
                if event is NEED_DATA:
                    if self._out:
                        self.flush()
                    count = self._socket.recv_into(channel.get_buffer())
                    if count == 0:
                        self.close("connection_closed")
                        break
                    channel.buffer_updated(count)
                    self.received += 1
                elif isinstance(event, Tick):
                    if not self._out:
                        self.post([TICK])
                elif self.ended is None:
                    task = self._deliver(self, event)
                    if task is not None:
                        return task
                else:
                    break
        except OSError as error:
            self.close(f"connection_closed: {error.strerror or error}")
        except (RemoteProtocolError, DecodeError) as error:
            log.error(
                "connection to %s closed, it sent what the protocol forbids: %s", self.peer, error
            )
            self.close("protocol_error")
        except Exception:
            log.exception(
                "connection to %s closed by an internal error; please report it", self.peer
            )
            self.close("internal_error")
        self._socket.close()
        return None

    # --- writing

    def encode(self, control: ControlMessage, payload: bytes | None = None) -> list[bytes]:
        """Return the frames for a control message and its encoded payload."""
        return self._channel.encode(control, payload)

    def post(self, frames: list[bytes]) -> None:
        """Queue frames; they leave with the next `flush`."""
        size = sum(map(len, frames))
        with self._counting:
            self._out.extend(frames)
            self._out_bytes += size
        if self._out_bytes > config.SEND_BUFFER:
            # What the peer asks for from here on waits until it has taken what there is.
            self.congested = True

    def send(self, control: ControlMessage, payload: bytes | None = None) -> None:
        """Encode, queue and flush. Never blocks; see `throttle`."""
        self.post(self._channel.encode(control, payload))
        self.flush()

    def throttle(self) -> None:
        """Wait while too much is queued for a slow peer. Never call this while reading."""
        while self._out_bytes > config.SEND_BUFFER and self.ended is None:
            self.flush()
            with self._room:
                if self._out_bytes > config.SEND_BUFFER and self.ended is None:
                    self._waiting += 1
                    # Some are woken when there is room; the others look now and then.
                    self._room.wait(1.0)
                    self._waiting -= 1

    def drain(self, deadline: float) -> None:
        """Wait until all that is queued is sent, until `deadline` (of `time.monotonic`) at most."""
        while self._out_bytes and self.ended is None and time.monotonic() < deadline:
            self.flush()
            time.sleep(0.005)

    def tick(self) -> None:
        """Send a tick, unless something else is on its way."""
        if not self._out:
            self.post([TICK])
        self.flush()

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it without waiting."""
        # Each turn ends with the lock released and the queue looked at again: what was queued
        # in between by somebody who found us writing must not be left lying.
        while self._out and self._writing.acquire(blocking=False):
            try:
                done = self._write(socket.MSG_DONTWAIT)
            except BaseException:
                self._writing.release()
                raise
            if not done:
                self._engine.submit(self._write_slowly)
                return
            self._writing.release()

    def _write_slowly(self) -> None:
        """Write all that is queued, waiting for the peer; this thread has `_writing`."""
        try:
            self._write(0)
        finally:
            self._writing.release()
        self.flush()

    def _write(self, flags: int) -> bool:
        """Write until the queue is empty (True) or the socket would block (False)."""
        out = self._out
        while out:
            buffers: list[bytes | memoryview] = []
            size = 0
            while out and size < _JOIN_BYTES and len(buffers) < _BUFFERS:
                buffer = out.popleft()
                buffers.append(buffer)
                size += len(buffer)
            try:
                if len(buffers) == 1:
                    sent = self._socket.send(buffers[0], flags)
                else:
                    sent = self._socket.sendmsg(buffers, (), flags)
            except BlockingIOError:
                out.extendleft(reversed(buffers))
                return False
            except OSError:
                # Not closed from here: who sends may hold a lock that those need who are told.
                # The thread that reads finds the socket shut down, and closes the connection.
                self._shut_down()
                with self._counting:
                    out.clear()
                    self._out_bytes = 0
                self._has_room()
                return True
            self.sent += 1
            with self._counting:
                self._out_bytes -= sent
            if sent < size:
                # Put back what is left, in front of what others have queued meanwhile.
                left = []
                for buffer in buffers:
                    if sent >= len(buffer):
                        sent -= len(buffer)
                    else:
                        left.append(memoryview(buffer)[sent:] if sent else buffer)
                        sent = 0
                out.extendleft(reversed(left))
            self._has_room()
        return True

    def _has_room(self) -> None:
        """Go on with what waited for the peer, if it has caught up with half of it."""
        if self._out_bytes <= config.SEND_BUFFER // 2:
            if self.congested:
                self.congested = False
                self._engine.resume(self)
            if self._waiting:
                with self._room:
                    self._room.notify(_WOKEN)

    # --- the end

    def close(self, reason: str) -> None:
        """End the connection, once; whoever reads or writes is woken."""
        with self._closing:
            if self.ended is not None:
                return
            self.ended = reason
        self._shut_down()
        with self._room:
            self._room.notify_all()
        self._down(self, reason)

    def _shut_down(self) -> None:
        with suppress(OSError):  # the peer may have been faster
            self._socket.shutdown(socket.SHUT_RDWR)
