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

With ``ALTACT_SIG``, which OTP 28 has, some messages travel as ``ALTACT_SIG_SEND``. That is no
business of who uses a channel: it is given `AliasSend` and its like to send, and returns them.

The reader calls ``recv_into(channel.get_buffer())`` and `Channel.buffer_updated`, and then
`Channel.next_event` until that returns NEED_DATA. The buffer keeps what is not a whole frame yet;
as soon as one is whole, everything received is copied out at once and frames are cut from that
copy, so that many small frames cost no more than one large. A frame that the buffer cannot hold,
and a message in fragments, is collected in memory of its own, which grows with what is received
and not with what is announced, and becomes the frame or the payload without being copied again.
A fragment that goes on with a message moves there right from the buffer, as it comes.
"""

from __future__ import annotations

from enum import Enum, auto
from itertools import count
from struct import Struct
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from pynode.config import LIMITS, Limits
from pynode.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from pynode.etf import Gathering
from pynode.protocol._pure import HEADER, control_at, term_of
from pynode.protocol._pure import broken as _broken
from pynode.protocol.control import AltactSigSend, ControlMessage, Message, Send, SendSender
from pynode.protocol.flags import DFlag

try:
    from pynode.protocol import _compiled
except ImportError:
    from pynode.protocol._pure import frame, message_at
else:
    frame, message_at = _compiled.frame, _compiled.message_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pynode.etf import Part

__all__ = [
    "FRAGMENT_SIZE",
    "NEED_DATA",
    "TICK",
    "TICK_EVENT",
    "Channel",
    "Event",
    "Fragments",
    "Message",
    "Tick",
]

#: The frame that says nothing but that its sender is alive.
TICK: Final = b"\0\0\0\0"

#: Bytes of payload in one outgoing fragment, as in a BEAM (``ERTS_DIST_FRAGMENT_SIZE``).
FRAGMENT_SIZE: Final = 64 * 1024

#: Bytes that are asked for at once: a few fragments.
_BUFFER_SIZE = 4 * FRAGMENT_SIZE
_MAX_FRAME = 0xFFFF_FFFF

_PASS_THROUGH = b"\x70\x83"
_FRAGMENT_HEADER = b"\x83\x45"
_FRAGMENT_CONT = b"\x83\x46"
_VERSION = b"\x83"

_LENGTH = Struct(">I")
_FRAGMENT_IDS = Struct(">QQ")
#: Length, tag, sequence id and fragment id of a fragment that goes on with a message.
_CONT = Struct(">I2sQQ")
_CONT_LENGTH = _CONT.size - _LENGTH.size


class _NeedData(Enum):
    NEED_DATA = auto()


class Tick(Enum):
    """The type of TICK_EVENT."""

    TICK = auto()


#: There is no event before more is received.
NEED_DATA: Final = _NeedData.NEED_DATA
#: The peer is alive, and has nothing to say.
TICK_EVENT: Final = Tick.TICK


Event: TypeAlias = Message | Tick | Literal[_NeedData.NEED_DATA]


class _Unfinished:
    """A message of which fragments are missing.

    `control` is its control message as it came: decoded, it could take many times the memory that
    is counted.
    """

    __slots__ = ("control", "left", "next_id", "payload", "sequence_id")

    def __init__(self, sequence_id: int, control: bytes, next_id: int, expected: int) -> None:
        self.sequence_id = sequence_id
        self.control = control
        self.payload = Gathering(expected)
        self.next_id = next_id
        #: Bytes that are missing of the fragment that is being received.
        self.left = 0


class Fragments:
    """A message that is too large for one frame: its frames, made when they are asked for.

    Each is a list: what it begins with, and its piece of the payload, in one part or more, which
    are not copied. Its length is how many there are.
    """

    __slots__ = ("_control", "_parts", "_sequence_id", "size")

    def __init__(self, sequence_id: int, control: bytes, parts: list[Part]) -> None:
        self._sequence_id = sequence_id
        self._control = control
        self._parts = parts
        #: Bytes of the payload.
        self.size = sum(map(len, parts))

    def __len__(self) -> int:
        return (self.size + FRAGMENT_SIZE - 1) // FRAGMENT_SIZE

    def __iter__(self) -> Iterator[list[Part]]:
        """Yield the frames (erl_ext_dist, "Distribution Header"), the first one first."""
        fragments = len(self)
        head = _FRAGMENT_HEADER + _FRAGMENT_IDS.pack(self._sequence_id, fragments)
        head += b"\0" + self._control
        parts = iter(self._parts)
        part, at, end = memoryview(b""), 0, 0
        left = self.size
        for fragment_id in range(fragments, 0, -1):
            size = min(FRAGMENT_SIZE, left)
            left -= size
            if fragment_id == fragments:
                frame: list[Part] = [_LENGTH.pack(len(head) + size) + head]
            else:
                length = _CONT_LENGTH + size
                frame = [_CONT.pack(length, _FRAGMENT_CONT, self._sequence_id, fragment_id)]
            while size:
                if at == end:
                    part = memoryview(next(parts))
                    at, end = 0, len(part)
                stop = min(end, at + size)
                frame.append(part[at:stop])
                size -= stop - at
                at = stop
            yield frame


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
        self._altact = bool(flags & DFlag.ALTACT_SIG)
        self._send_sender = bool(flags & DFlag.SEND_SENDER)
        self._header, self._version = (
            (HEADER, b"") if self._fragments else (_PASS_THROUGH, _VERSION)
        )
        self._sequence_ids = count(1)  # A BEAM takes 0 for "no fragment".
        # What was received last is self._buffer[: self._end]. When there are _need bytes of it, it
        # moves on to self._data, of which everything before self._at has been made events of.
        # Of a frame that the buffer cannot hold, what was received until then is in _large. If what
        # comes next belongs to a fragment whose header is through, _part is the message of that.
        self._buffer = bytearray(_BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._need = _LENGTH.size
        self._data = b""
        self._at = 0
        self._large: Gathering | None = None
        self._part: _Unfinished | None = None
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
                        if length > _BUFFER_SIZE and stop == len(data):
                            # Nobody else may hold it when the payload has been cut out.
                            self._data, self._at = b"", 0
                        if not length:
                            return TICK_EVENT
                        header = self._header
                        body = start + len(header)
                        if data[start:body] == header:
                            return message_at(data, body, stop, self._limits, self._version)
                        message = self._fragment(data, start, stop)
                        if message is None:
                            continue
                        return message
                if self._unfinished and self._end and self._large is None and self._at == len(data):
                    message = self._collect_fragments()
                    if message is not None:
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
            return self._keep(rest)
        if self._large is not None:
            return self._collect(self._large)
        if end < self._need or self._part is not None:
            return False
        self._data = bytes(self._view[:end])
        self._end = 0
        self._need = 4
        if len(self._buffer) > _BUFFER_SIZE:
            self._resize(_BUFFER_SIZE)
        return True

    def _keep(self, rest: bytes) -> bool:
        """Keep the beginning of a frame; return whether it is a fragment to be gone on with."""
        size = len(rest)
        goes_on = False
        self._need = 4
        if size >= 4:
            length = _LENGTH.unpack_from(rest)[0]
            if self._unfinished and size <= _BUFFER_SIZE:
                if size < _CONT.size:
                    length = min(length, _CONT_LENGTH)  # of a fragment it is enough to begin with
                else:
                    goes_on = rest[4:6] == _FRAGMENT_CONT
            self._need += length
        if self._need > _BUFFER_SIZE and not goes_on:
            self._large = Gathering(self._need)
            self._large.write(rest)
        else:
            self._view[:size] = rest
            self._end = size
        return goes_on

    def _collect(self, large: Gathering) -> bool:
        """Move what has been received to the large frame, and return whether that is complete."""
        end = self._end
        taken = min(end, self._need - large.tell())
        large.write(self._view[:taken])
        self._view[: end - taken] = self._view[taken:end]
        self._end = end - taken
        if large.tell() < self._need:
            return False
        self._data = large.getvalue()
        self._large = None
        self._need = 4
        return True

    def _resize(self, size: int) -> None:
        """Replace the buffer by one of `size` bytes with the same content."""
        buffer = bytearray(size)
        view = memoryview(buffer)
        view[: self._end] = self._view[: self._end]
        self._buffer, self._view = buffer, view

    def _fragment(self, data: bytes, start: int, stop: int) -> Message | None:
        """Take the frame, which is no whole message, and return the message that it completes."""
        tag = data[start : start + 2]
        if not self._fragments or tag not in (_FRAGMENT_HEADER, _FRAGMENT_CONT):
            what = data[start : min(start + 3, stop)].hex(" ")
            raise _broken(f"sent a frame that begins with {what}, which was not agreed on")
        at = start + 2 + _FRAGMENT_IDS.size
        if at > stop:
            raise _broken("sent a fragment that is cut short")
        sequence_id, fragment_id = _FRAGMENT_IDS.unpack_from(data, start + 2)
        if tag == _FRAGMENT_HEADER:
            return self._first_fragment(data, at, stop, sequence_id, fragment_id)
        unfinished = self._next_fragment(sequence_id, fragment_id)
        unfinished.payload.write(memoryview(data)[at:stop])
        self._grown(stop - at)
        return self._finished(unfinished)

    def _collect_fragments(self) -> Message | None:
        """Move fragments from the buffer to their messages, and return the first that is complete.

        It ends with what is no fragment that goes on with a message, and with a part of its header.
        """
        self._data = b""
        self._at = 0
        view, end, at = self._view, self._end, 0
        message = None
        while message is None:
            part = self._part
            if part is None:
                if end - at < _CONT.size:
                    break
                length, tag, sequence_id, fragment_id = _CONT.unpack_from(view, at)
                if tag != _FRAGMENT_CONT or not _CONT_LENGTH <= length <= self._frame_limit:
                    break
                self._part = part = self._next_fragment(sequence_id, fragment_id)
                part.left = length - _CONT_LENGTH
                at += _CONT.size
            taken = min(part.left, end - at)
            part.payload.write(view[at : at + taken])
            self._grown(taken)
            at += taken
            part.left -= taken
            if part.left:
                break
            self._part = None
            message = self._finished(part)
        self._end = end - at
        view[: self._end] = view[at:end]
        self._need = _LENGTH.size
        return message

    def _next_fragment(self, sequence_id: int, fragment_id: int) -> _Unfinished:
        """Return the message that a fragment goes on with."""
        unfinished = self._unfinished.get(sequence_id)
        if unfinished is None or fragment_id != unfinished.next_id:
            raise _broken(f"sent fragment {fragment_id} of message {sequence_id} out of order")
        unfinished.next_id -= 1
        return unfinished

    def _finished(self, unfinished: _Unfinished) -> Message | None:
        """Return a message, of which a fragment has been received, if that was the last one."""
        if unfinished.next_id:
            return None
        del self._unfinished[unfinished.sequence_id]
        self._unfinished_size -= len(unfinished.control) + unfinished.payload.tell()
        control, _ = control_at(unfinished.control, 0, self._limits)
        if type(control) is AltactSigSend:
            control = control.classic()
        return Message(control, unfinished.payload.getvalue())

    def _first_fragment(
        self, data: bytes, at: int, stop: int, sequence_id: int, fragment_id: int
    ) -> Message | None:
        """Begin the message whose header ends before `at`; return it if it is complete."""
        if at == stop or data[at] != 0:
            raise _broken("sent references to an atom cache, which was not agreed on")
        if fragment_id == 0 or sequence_id in self._unfinished:
            raise _broken(f"began message {sequence_id} with fragment {fragment_id} out of order")
        at += 1
        if fragment_id == 1:
            return message_at(data, at, stop, self._limits, self._version)
        start = at
        control, at = control_at(data, at, self._limits)
        if at > stop:
            raise _broken(f"sent {control.NAME} cut short")
        if not control.HAS_PAYLOAD:
            raise _broken(f"sent {control.NAME}, which has no payload, in fragments")
        if len(self._unfinished) >= self._limits.fragmented_messages:
            raise _broken(
                f"sent fragments of more messages at a time than the limit of "
                f"{self._limits.fragmented_messages}"
            )
        expected = min(fragment_id * (stop - at), self._limits.message)
        unfinished = _Unfinished(sequence_id, data[start:at], fragment_id - 1, expected)
        unfinished.payload.write(memoryview(data)[at:stop])
        self._unfinished[sequence_id] = unfinished
        self._grown(stop - start)
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

    def encode(
        self, control: ControlMessage, payload: bytes | list[Part] | None = None
    ) -> bytes | Fragments:
        """Return the frame to write for a control message and, if it has one, its payload.

        `payload` is a term in the External Term Format, without version byte, and may be in parts
        (`pynode.etf.encode_parts`). A large one goes in
        fragments, if the peer understands them: frames of other messages may come between those,
        but none of a message that would overtake it.

        Raises EncodeError for a field of `control` that no term can stand for, and
        LocalProtocolError for a payload that is missing, not wanted, or too large for this peer.
        """
        if (payload is not None) is not control.HAS_PAYLOAD:
            raise LocalProtocolError(
                f"{control.NAME} goes {'with' if control.HAS_PAYLOAD else 'without'} a payload: "
                f"encode it that way."
            )
        if not self._send_sender and type(control) is SendSender:
            control = Send(control.to_pid)  # for C-nodes, and those of Jinterface
        if self._fragments:
            if payload is None or (isinstance(payload, bytes) and len(payload) <= FRAGMENT_SIZE):
                return frame(control, payload, self._altact)
            parts: list[Part] = payload if isinstance(payload, list) else [payload]
            # Unique among all messages under way, which is more than the protocol asks for: there
            # it has to be unique for its sender, but a BEAM tells messages apart by nothing else.
            return Fragments(next(self._sequence_ids), term_of(control, self._altact), parts)
        term = _PASS_THROUGH + term_of(control, self._altact)
        if payload is None:
            return _LENGTH.pack(len(term)) + term
        if isinstance(payload, list):
            payload = b"".join(payload)
        size = len(term) + 1 + len(payload)
        if size > _MAX_FRAME:
            raise LocalProtocolError(
                f"A message of {size} bytes does not fit into a frame, and the peer does not "
                f"understand fragments: send it in parts."
            )
        return b"".join((_LENGTH.pack(size), term, _VERSION, payload))
