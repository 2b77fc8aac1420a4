"""One connection to another node: its socket, read and written by whichever thread is there.

Reading is the business of the engine (`Connection` is one of its sources). Writing: whoever has
something to send puts it in the `Outbox`, and whoever finds nobody writing writes that out,
so that frames never cut into each other and many small ones leave in one system call. A thread
never waits for a slow peer while it reads: what the socket does not take at once is left to a
thread from the work queue, and so is the rest of a large message. Two nodes that flood each other
would otherwise block each other. A thread that has run a task, and does not read yet, may wait, and
writes large messages itself (`Connection.write_large`): to wake another costs more.
"""

from __future__ import annotations

import logging
import select
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pynode import config
from pynode.dist.decoding import Decoding
from pynode.dist.engine import Engine, Source
from pynode.dist.fairness import give_way
from pynode.dist.outbox import Outbox, context
from pynode.dist.sockets import receiver
from pynode.dist.ticks import compiled_line
from pynode.dist.tls import TlsSocket
from pynode.errors import DecodeError, RemoteProtocolError
from pynode.protocol.channel import NEED_DATA, TICK, Channel, Message, Tick

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from pynode.dist.task import Task
    from pynode.etf import Part
    from pynode.protocol.control import ControlMessage
    from pynode.protocol.flags import DFlag
    from pynode.terms import Atom

log = logging.getLogger(__name__)

#: Bytes of large messages that a thread writes on the side before it has another one go on: one
#: that may have to read, and one that has run a task and may wait for the peer.
_ASIDE_BYTES = 256 * 1024
_HERE_BYTES = 4 * 1024 * 1024
#: Seconds between two ticks of ours at least. Two nodes that answer ticks would never stop else.
_TICK_PAUSE = 0.5
#: Threads that are woken when a slow peer has caught up: all of them at once would only collide.
_WOKEN = 16


class Connection(Source):
    """An established connection. `peer`, `flags` and `creation` come from the handshake.

    `deliver(connection, message)` is called for each message, by the thread that reads, or by
    another if that is large; it returns a task to run, or None. `down(connection, reason)` is
    called once, at the end.
    """

    def __init__(
        self,
        sock: socket.socket | TlsSocket,
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
        #: Links over this connection: (our process, the pid of the peer's).
        self.links: set[tuple[Any, Any]] = set()
        #: Why the connection ended; None while it lives.
        self.ended: str | None = None
        #: Counters for the tick: how many times something came, or went.
        self.received = 0
        self.sent = 0
        self._ticked = 0.0
        self._socket = sock
        self._channel = Channel(flags, limits)
        self._engine = engine
        self._deliver = deliver
        self._down = down
        self._decoding = Decoding(self._deliver_late, self.flush)
        self._out = Outbox(self.monitors)
        self.large = self._out.large
        self._writing = threading.Lock()
        self._room = threading.Condition()
        self._waiting = 0
        self._closing = threading.Lock()
        #: What writes to a plain socket and gives signs of life while Python cannot.
        self._line = None
        self._receive: Callable[[memoryview], int] = sock.recv_into
        if isinstance(sock, TlsSocket):
            sock.on_records = self._write_records
        else:
            self._receive = receiver(sock)
            self._line = compiled_line(sock.fileno())
        if early_data:
            self._channel.receive_data(early_data)

    def __repr__(self) -> str:
        return f"<Connection to {self.peer}>"

    # --- reading

    def next_task(self) -> Task | None:
        """Read, answer what needs no task, and return the next task; None at the end."""
        channel, decoding = self._channel, self._decoding
        try:
            while True:
                event = channel.next_event()
                if event is NEED_DATA:
                    if self._out:
                        self.flush()
                    count = self._receive(channel.get_buffer())
                    if count == 0:
                        decoding.finish()
                        self.close("connection_closed")
                        break
                    channel.buffer_updated(count)
                    self.received += 1
                elif isinstance(event, Tick):
                    # The peer may want to see something more often than our own timer ticks, and
                    # takes this for an answer, as it does with nodes that are made with libei.
                    if time.monotonic() - self._ticked > _TICK_PAUSE:
                        self.tick()
                elif self.ended is None:
                    task = None
                    if decoding.concerns(event):
                        if decoding.holds_back(event):
                            continue
                        task = decoding.begin(event)
                    if task is None:
                        task = self._deliver(self, event)
                    if task is not None:
                        return task
                    give_way()
                else:
                    break
        except BaseException as error:  # noqa: BLE001 (this thread is needed)
            decoding.finish()
            self._failed(error)
        if self._line is not None:
            with self._writing:
                self._line.close()
        self._socket.close()
        return None

    def _deliver_late(self, message: Message) -> None:
        """Deliver a message on another thread than the one that reads."""
        if self.ended is None:
            try:
                task = self._deliver(self, message)
            except BaseException as error:  # noqa: BLE001 (this thread is needed)
                self._failed(error)
            else:
                if task is not None:
                    self._engine.admit(self, task)

    def _failed(self, error: BaseException) -> None:
        """Close the connection because of what was raised when reading from it."""
        if isinstance(error, OSError):
            self.close(f"connection_closed: {error.strerror or error}")
        elif isinstance(error, RemoteProtocolError | DecodeError):
            log.error(
                "connection to %s closed, it sent what the protocol forbids: %s", self.peer, error
            )
            self.close("protocol_error")
        else:
            log.error(
                "connection to %s closed by an internal error; please report it",
                self.peer,
                exc_info=error,
            )
            self.close("internal_error")

    def has_unread(self) -> bool:
        """Whether something that the peer has sent waits to be read."""
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):  # Closed already.
            return False

    # --- writing

    def encode(self, control: ControlMessage, payload: bytes | list[Part] | None = None) -> Any:
        """Return what `post` takes for a control message and its encoded payload."""
        return control, self._channel.encode(control, payload)

    def post(self, message: Any) -> None:
        """Queue what `encode` has returned; it leaves with the next `flush`."""
        control, data = message
        self._out.put(control, data)
        if self._out.size > config.SEND_BUFFER:
            # What the peer asks for from here on waits until it has taken what there is.
            self.congested = True

    def send(self, control: ControlMessage, payload: bytes | None = None) -> None:
        """Encode, queue and flush. Never blocks; see `throttle`."""
        self.post(self.encode(control, payload))
        self.flush()

    def throttle(self, sender: Hashable = None) -> None:
        """Wait while too much is queued for a slow peer. Never call this while reading.

        A large message that the same code has sent before is too much. It is the code that calls
        this, or `sender`, which `context` has returned to it.
        """
        if sender is None:
            sender = context()
        while self.is_full(sender):
            self.flush()
            with self._room:
                if self.is_full(sender):
                    self._waiting += 1
                    # Some are woken when there is room; the others look now and then.
                    self._room.wait(1.0)
                    self._waiting -= 1

    def is_full(self, sender: Hashable) -> bool:
        """Whether `throttle` would wait."""
        out = self._out
        return (out.size > config.SEND_BUFFER or sender in out.large) and self.ended is None

    def drain(self, deadline: float) -> None:
        """Wait until all that is queued is sent, until `deadline` (of `time.monotonic`) at most."""
        while self._out.size and self.ended is None and time.monotonic() < deadline:
            self.flush()
            time.sleep(0.005)

    def tick(self) -> None:
        """Send a tick, unless something else is on its way."""
        self._ticked = time.monotonic()
        if not self._out:
            self._out.put_frame(TICK)
        self.flush()

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it without waiting."""
        self._write_or_leave(socket.MSG_DONTWAIT, _ASIDE_BYTES)

    def write_large(self) -> None:
        """Write what is queued, though the peer may be slow, unless it is very much."""
        self._write_or_leave(0, _HERE_BYTES)

    def _write_or_leave(self, flags: int, at_most: int) -> None:
        # Each turn ends with the lock released and the queue looked at again: what was queued
        # in between by somebody who found us writing must not be left lying.
        while self._out and self._writing.acquire(blocking=False):
            try:
                done = self._write(flags, at_most)
            except BaseException:
                self._writing.release()
                raise
            if not done:
                self._engine.submit(self._write_slowly)
                return
            self._writing.release()

    def _write_records(self) -> None:
        """Write what TLS has to say of its own, in its turn."""
        self._out.put_frame(b"")
        self.flush()

    def _write_slowly(self) -> None:
        """Write all that is queued, waiting for the peer; this thread has `_writing`."""
        try:
            self._write(0, sys.maxsize)
        finally:
            self._writing.release()
        self.flush()

    def _write(self, flags: int, at_most: int) -> bool:
        """Write until nothing is left (True), or it would take its time (False).

        That is so when a large message is not over after `at_most` bytes and, with MSG_DONTWAIT in
        `flags`, when the socket does not take more at once.
        """
        out = self._out
        done = 0
        while out:
            buffers = out.take()
            try:
                if self._line is not None:
                    sent = self._line.send(buffers, flags)
                elif len(buffers) == 1:
                    sent = self._socket.send(buffers[0], flags)
                else:
                    sent = self._socket.sendmsg(buffers, (), flags)
            except BlockingIOError:
                return False
            except OSError:
                # Not closed from here: who sends may hold a lock that those need who are told.
                # The thread that reads finds the socket shut down, and closes the connection.
                self._shut_down()
                out.clear()
                self._has_room()
                return True
            self.sent += 1
            if out.written(sent):
                self._has_room()
            done += sent
            if done >= at_most and (out.large or not flags):
                return False
        return True

    def _has_room(self) -> None:
        """Go on with what waited for the peer, if it has caught up with half of it."""
        if self._out.size <= config.SEND_BUFFER // 2:
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
