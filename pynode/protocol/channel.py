"""An established connection, without its socket: bytes in, events out; messages in, bytes out.

Theory of operation. After the handshake each direction is a stream of frames: a length in four
bytes, and that many bytes. No bytes at all is a *tick*. Every other frame carries a control
message and, if that has one, its payload, in one of two forms that the handshake decided on
(erl_dist_protocol, "Protocol between Connected Nodes"; erl_ext_dist, "Distribution Header"):

- without ``FRAGMENTS``: 112, then each term with the version byte 131 in front ("pass through");
- with it: a distribution header, then the terms without version byte. 131,68 is a whole message;
  131,69 begins one in fragments and has all of the control message; 131,70 goes on with it. The
  fragments of different messages may be mixed, and other messages may come between them. The
  number of atom cache references in a header is always 0, since we never ask for that cache.

A BEAM accepts nothing but the form that was agreed, and neither do we.

The reader calls ``recv_into(channel.get_buffer())`` and `Channel.buffer_updated`, and then
`Channel.next_event` until that returns NEED_DATA. The buffer keeps what is not a whole frame yet;
as soon as one is whole, everything received is copied out at once and frames are cut from that
copy, so that many small frames cost no more than one large. A frame that the buffer cannot hold is
collected in memory of its own, which grows with what is received and not with what is announced,
and which is given away with the payload in it.
"""

from __future__ import annotations

from enum import Enum, auto
from itertools import count
from struct import Struct
from typing import Final, Literal, NamedTuple, TypeAlias

from pynode.config import LIMITS, Limits
from pynode.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from pynode.etf import decode_at, encode_into
from pynode.protocol.control import ControlMessage, parse
from pynode.protocol.flags import DFlag

#: The frame that says nothing but that its sender is alive.
TICK: Final = b"\0\0\0\0"

#: Bytes of payload in one outgoing fragment, as in a BEAM (``ERTS_DIST_FRAGMENT_SIZE``).
FRAGMENT_SIZE: Final = 64 * 1024

#: Bytes that are asked for at once: a few fragments.
_BUFFER_SIZE = 4 * FRAGMENT_SIZE
_MAX_FRAME = 0xFFFF_FFFF

_PASS_THROUGH = b"\x70\x83"
_HEADER = b"\x83\x44\x00"
_FRAGMENT_HEADER = b"\x83\x45"
_FRAGMENT_CONT = b"\x83\x46"
_VERSION = 0x83

_LENGTH = Struct(">I")
_FRAGMENT_IDS = Struct(">QQ")
_new = tuple.__new__  # In half the time of a named tuple's own constructor.


class _NeedData(Enum):
    NEED_DATA = auto()


class Tick(Enum):
    """The type of TICK_EVENT."""

    TICK = auto()


#: There is no event before more is received.
NEED_DATA: Final = _NeedData.NEED_DATA
#: The peer is alive, and has nothing to say.
TICK_EVENT: Final = Tick.TICK


class Message(NamedTuple):
    """A control message and the term that came with it.

    `payload` is that term in the External Term Format, without version byte, and not looked at
    yet: ``etf.decode_at(payload, 0)``. It is None exactly if the control message has none. Its
    memory is its own: bytes, or for a large one a view of a buffer that is not used again.
    """

    control: ControlMessage
    payload: bytes | memoryview | None


Event: TypeAlias = Message | Tick | Literal[_NeedData.NEED_DATA]


class _Unfinished:
    """A message of which fragments are missing."""

    __slots__ = ("control", "next_id", "payload")

    def __init__(self, control: ControlMessage, payload: bytearray, next_id: int) -> None:
        self.control = control
        self.payload = payload
        self.next_id = next_id


class Channel:
    """One established connection.

    `flags` are what both sides offered in the handshake. Of `limits` it keeps `frame`,
    `fragmented_messages` and `message`, the last for all unfinished messages together, and hands
    the others to the decoder.

    One thread at a time may receive, meaning every method but `encode`; any thread may encode.
    """

    def __init__(self, flags: DFlag, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._frame_limit = limits.frame
        self._fragments = bool(flags & DFlag.FRAGMENTS)
        self._header = _HEADER if self._fragments else _PASS_THROUGH
        self._prefix = bytes(_LENGTH.size) + self._header
        self._sequence_ids = count(1)  # A BEAM takes 0 for "no fragment".
        # What was received last is self._buffer[: self._end]. When there are _need bytes of it, it
        # moves on to self._data, of which everything before self._at has been made events of.
        # Of a frame that the buffer cannot hold, what was received until then is in _large.
        self._buffer = bytearray(_BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._need = _LENGTH.size
        self._data: bytes | memoryview = b""
        self._at = 0
        self._large: bytearray | None = None
        self._unfinished: dict[int, _Unfinished] = {}
        self._unfinished_size = 0
        self._error: RemoteProtocolError | None = None

    # --- receiving

    def get_buffer(self) -> memoryview:
        """Return where to put what is received next: at least one byte, writable.

        It is valid until the next call of a method that receives.
        """
        if self._end == len(self._buffer):  # Only if nobody asked for events.
            self._resize(2 * self._end)
        return self._view[self._end :]

    def buffer_updated(self, size: int) -> None:
        """Take `size` bytes, which are at the beginning of `get_buffer`'s view, as received."""
        self._end += size

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take a copy of `data` as received."""
        end = self._end + len(data)
        if end > len(self._buffer):
            self._resize(end)
        self._view[self._end : end] = data
        self._end = end

    def next_event(self) -> Event:
        """Return the next event of what was received, or NEED_DATA.

        Raises RemoteProtocolError if the peer broke the protocol: there is nothing to do but close
        the connection, and every further call raises LocalProtocolError.
        """
        if self._error is not None:
            raise LocalProtocolError(
                f"This connection is broken and should have been closed: {self._error}"
            )
        try:
            while True:
                data = self._data
                start = self._at + 4
                if start <= len(data):
                    length = _LENGTH.unpack_from(data, self._at)[0]
                    if length > self._frame_limit:
                        raise _broken(
                            f"announced a frame of {length} bytes, more than the limit of "
                            f"{self._frame_limit}"
                        )
                    stop = start + length
                    if stop <= len(data):
                        self._at = stop
                        if not length:
                            return TICK_EVENT
                        header = self._header
                        body = start + len(header)
                        if data[start:body] == header:
                            return self._message(data, body, stop)
                        message = self._fragment(data, start, stop)
                        if message is None:
                            continue
                        return message
                if not self._refill():
                    return NEED_DATA
        except DecodeError as error:
            self._error = _broken(f"sent a control message that cannot be decoded ({error})")
            raise self._error from error
        except RemoteProtocolError as error:
            self._error = error
            raise

    def _refill(self) -> bool:
        """Move on to what has been received, and return whether there may be a whole frame in it.

        If not, the beginning of a frame that there is is kept in the buffer, or in _large.
        """
        rest = self._data[self._at :]
        self._data = b""
        self._at = 0
        end = self._end
        if rest:
            if end:  # More was received before all events were taken.
                self._data = b"".join((rest, self._view[:end]))
                self._end = 0
                return True
            self._keep(rest)
            return False
        if self._large is not None:
            return self._collect(self._large)
        if end < self._need:
            return False
        self._data = bytes(self._view[:end])
        self._end = 0
        self._need = 4
        if len(self._buffer) > _BUFFER_SIZE:
            self._resize(_BUFFER_SIZE)
        return True

    def _keep(self, rest: bytes | memoryview) -> None:
        """Keep the beginning of a frame."""
        self._need = 4
        if len(rest) >= 4:
            self._need += _LENGTH.unpack_from(rest)[0]
        if self._need > _BUFFER_SIZE:
            self._large = bytearray(rest)
        else:
            self._view[: len(rest)] = rest
            self._end = len(rest)

    def _collect(self, large: bytearray) -> bool:
        """Move what has been received to the large frame, and return whether that is complete."""
        end = self._end
        taken = min(end, self._need - len(large))
        large += self._view[:taken]
        self._view[: end - taken] = self._view[taken:end]
        self._end = end - taken
        if len(large) < self._need:
            return False
        self._data = memoryview(large).toreadonly()
        self._large = None
        self._need = 4
        return True

    def _resize(self, size: int) -> None:
        """Replace the buffer by one of `size` bytes with the same content."""
        buffer = bytearray(size)
        view = memoryview(buffer)
        view[: self._end] = self._view[: self._end]
        self._buffer, self._view = buffer, view

    def _message(self, data: bytes | memoryview, at: int, stop: int) -> Message:
        """Return the whole message whose terms are from `at` to `stop`."""
        if type(data) is bytes:
            # What _control does, less the call: this is how nearly all messages come.
            term, at = decode_at(data, at, limits=self._limits)
            control = parse(term)
        else:
            control, at = self._control(data, at, stop)
        if control.HAS_PAYLOAD:
            if not self._fragments and at < stop:
                if data[at] != _VERSION:
                    raise _broken(f"sent {control.NAME} with a payload of an unknown version")
                at += 1
            if at < stop:
                return _new(Message, (control, data[at:stop]))
            raise _broken(f"sent {control.NAME} without a payload, or cut short")
        if at == stop:
            return _new(Message, (control, None))
        what = "with a payload, which it never has" if at < stop else "cut short"
        raise _broken(f"sent {control.NAME} {what}")

    def _control(self, data: bytes | memoryview, at: int, stop: int) -> tuple[ControlMessage, int]:
        """Return the control message at `at`, and where it ends, be it behind `stop`."""
        if type(data) is bytes:
            term, at = decode_at(data, at, limits=self._limits)
            return parse(term), at
        # The decoder copies what is not bytes, so most of a large payload is kept from it.
        try:
            term, size = decode_at(bytes(data[at:stop][:FRAGMENT_SIZE]), 0, limits=self._limits)
        except DecodeError:
            term, size = decode_at(data[at:stop], 0, limits=self._limits)
        return parse(term), at + size

    def _fragment(self, data: bytes | memoryview, start: int, stop: int) -> Message | None:
        """Take the frame, which is no whole message, and return the message that it completes."""
        tag = data[start : start + 2]
        if not self._fragments or tag not in (_FRAGMENT_HEADER, _FRAGMENT_CONT):
            what = bytes(data[start : min(start + 3, stop)]).hex(" ")
            raise _broken(f"sent a frame that begins with {what}, which was not agreed on")
        at = start + 2 + _FRAGMENT_IDS.size
        if at > stop:
            raise _broken("sent a fragment that is cut short")
        sequence_id, fragment_id = _FRAGMENT_IDS.unpack_from(data, start + 2)
        if tag == _FRAGMENT_HEADER:
            return self._first_fragment(data, at, stop, sequence_id, fragment_id)
        unfinished = self._unfinished.get(sequence_id)
        if unfinished is None or fragment_id != unfinished.next_id:
            raise _broken(f"sent fragment {fragment_id} of message {sequence_id} out of order")
        unfinished.payload += memoryview(data)[at:stop]
        unfinished.next_id -= 1
        self._grown(stop - at)
        if fragment_id > 1:
            return None
        del self._unfinished[sequence_id]
        self._unfinished_size -= len(unfinished.payload)
        return Message(unfinished.control, memoryview(unfinished.payload).toreadonly())

    def _first_fragment(
        self, data: bytes | memoryview, at: int, stop: int, sequence_id: int, fragment_id: int
    ) -> Message | None:
        """Begin the message whose header ends before `at`; return it if it is complete."""
        if at == stop or data[at] != 0:
            raise _broken("sent references to an atom cache, which was not agreed on")
        if fragment_id == 0 or sequence_id in self._unfinished:
            raise _broken(f"began message {sequence_id} with fragment {fragment_id} out of order")
        at += 1
        if fragment_id == 1:
            return self._message(data, at, stop)
        control, at = self._control(data, at, stop)
        if at > stop:
            raise _broken(f"sent {control.NAME} cut short")
        if not control.HAS_PAYLOAD:
            raise _broken(f"sent {control.NAME}, which has no payload, in fragments")
        if len(self._unfinished) >= self._limits.fragmented_messages:
            raise _broken(
                f"sent fragments of more messages at a time than the limit of "
                f"{self._limits.fragmented_messages}"
            )
        payload = bytearray(data[at:stop])
        self._unfinished[sequence_id] = _Unfinished(control, payload, fragment_id - 1)
        self._grown(len(payload))
        return None

    def _grown(self, size: int) -> None:
        """Count `size` bytes more in unfinished messages."""
        self._unfinished_size += size
        if self._unfinished_size > self._limits.message:
            raise _broken(
                f"has more bytes of unfinished messages under way than the limit of "
                f"{self._limits.message}"
            )

    # --- sending

    def encode(self, control: ControlMessage, payload: bytes | None = None) -> list[bytes]:
        """Return the frames to write for a control message and, if it has one, its payload.

        `payload` is a term in the External Term Format, without version byte. Frames go out in
        their order; frames of other messages may come between those of a message in fragments,
        but none from the same sender, which would overtake it.

        Raises EncodeError for a field of `control` that no term can stand for, and
        LocalProtocolError for a payload that is missing, not wanted, or too large for this peer.
        """
        if (payload is not None) is not control.HAS_PAYLOAD:
            raise LocalProtocolError(
                f"{control.NAME} goes {'with' if control.HAS_PAYLOAD else 'without'} a payload: "
                f"encode it that way."
            )
        frame = bytearray(self._prefix)
        encode_into(frame, control.to_term())
        size = len(frame) - _LENGTH.size
        if payload is not None:
            if self._fragments:
                if len(payload) > FRAGMENT_SIZE:
                    return self._encode_fragments(frame[len(self._prefix) :], payload)
            else:
                frame.append(_VERSION)
                size += 1
            size += len(payload)
            if size > _MAX_FRAME:
                raise LocalProtocolError(
                    f"A message of {size} bytes does not fit into a frame, and the peer does not "
                    f"understand fragments: send it in parts."
                )
            _LENGTH.pack_into(frame, 0, size)
            return [b"".join((frame, payload))]
        _LENGTH.pack_into(frame, 0, size)
        return [bytes(frame)]

    def _encode_fragments(self, control: bytearray, payload: bytes) -> list[bytes]:
        """Return the frames of a message in fragments (erl_ext_dist, "Distribution Header")."""
        # Unique among all messages under way, which is more than the protocol asks for: there it
        # has to be unique for its sender, but a BEAM tells messages apart by nothing else.
        sequence_id = next(self._sequence_ids)
        fragment_id = -(-len(payload) // FRAGMENT_SIZE)
        parts = memoryview(payload)
        head = _FRAGMENT_HEADER + _FRAGMENT_IDS.pack(sequence_id, fragment_id) + b"\0" + control
        frames = [_frame(head, parts[:FRAGMENT_SIZE])]
        for at in range(FRAGMENT_SIZE, len(payload), FRAGMENT_SIZE):
            fragment_id -= 1
            head = _FRAGMENT_CONT + _FRAGMENT_IDS.pack(sequence_id, fragment_id)
            frames.append(_frame(head, parts[at : at + FRAGMENT_SIZE]))
        return frames


def _frame(head: bytes, rest: memoryview) -> bytes:
    return b"".join((_LENGTH.pack(len(head) + len(rest)), head, rest))


def _broken(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"The peer {what}: check what implements that node.")
