"""Established connections: frames and fragments, whole and in pieces.

The first byte of an input says which form was agreed on in the handshake, the second one in which
pieces the rest arrives. The outcome is a number of events and, maybe, a RemoteProtocolError, and
does not depend on the pieces.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pynode.config import Limits
from pynode.errors import LocalProtocolError, RemoteProtocolError
from pynode.protocol import channel as channel_module
from pynode.protocol.channel import NEED_DATA, Channel, Event, Message
from pynode.protocol.flags import DEFAULT, DFlag
from tests.fuzz.documented import check_sentence
from tests.fuzz.vectors import PLAIN, vectors

if TYPE_CHECKING:
    from collections.abc import Iterator

#: So low that a short input reaches them.
LIMITS = Limits(frame=4_000, message=6_000, fragmented_messages=3, terms=500, depth=120)
DICTIONARY = [
    *(b"\x83D\0", b"\x83E", b"\x83F", b"p\x83", b"\x83"),
    *(b"\0\0\0\0", b"\0\0\0\0\0\0\0\x01", b"\0\0\0\0\0\0\0\x02", b"\0\0\0\x01"),
]
_FORMS = (DEFAULT, PLAIN, DEFAULT | DFlag.ALTACT_SIG)


def seeds() -> list[bytes]:
    """Return what nodes have sent, in both forms, and some of it in small fragments."""
    found = []
    for index, form in enumerate(("fragments", "plain")):
        for name, data in vectors(f"channel_{form}").items():
            if len(data) < LIMITS.frame:
                kind = 2 if "-prio" in name else index
                found.append(bytes((kind, 0)) + data)
                if index == 0 and name.endswith(("send", "exit2", "spawn_request")):
                    found.append(bytes((index, 7)) + in_fragments(data))
    return found


def in_fragments(stream: bytes) -> bytes:
    """Return the first message of a stream in fragments of 5 bytes, twice, interleaved."""
    (size,) = struct.unpack_from(">I", stream)
    channel = Channel(DEFAULT)
    channel.receive_data(stream[: 4 + size])
    event = channel.next_event()
    assert isinstance(event, Message)
    assert event.payload is not None
    payload = bytes(event.payload)
    control = stream[7 : 4 + size - len(payload)]
    pieces = [payload[at : at + 5] for at in range(0, len(payload), 5)]
    frames = []
    for left, piece in zip(range(len(pieces), 0, -1), pieces, strict=True):
        for sequence_id in (1, 2):
            first = left == len(pieces)
            head = b"\x83E" if first else b"\x83F"
            head += struct.pack(">QQ", sequence_id, left) + (b"\0" + control if first else b"")
            frames.append(struct.pack(">I", len(head) + len(piece)) + head + piece)
    return b"".join(frames)


def events(data: bytes) -> list[Event | None]:
    """Return what a connection makes of an input; None stands for the end of it by an error."""
    if len(data) < 2:
        return []
    stream = data[2:]
    return _events(_FORMS[data[0] % len(_FORMS)], stream, data[1] or len(stream) or 1)


@contextmanager
def small_buffer() -> Iterator[None]:
    """Give channels a buffer that is smaller than most frames."""
    size = channel_module._BUFFER_SIZE
    channel_module._BUFFER_SIZE = 48
    try:
        yield
    finally:
        channel_module._BUFFER_SIZE = size


def check(data: bytes) -> None:
    """Receive an input in its pieces, and as a whole."""
    if len(data) >= 2:
        whole = events(bytes((data[0], 0)) + data[2:])
        with small_buffer():
            assert events(data) == whole


def _events(flags: DFlag, stream: bytes, size: int) -> list[Event | None]:
    channel = Channel(flags, LIMITS)
    found: list[Event | None] = []
    for at in range(0, len(stream), size):
        try:
            _receive(channel, stream[at : at + size], found)
        except RemoteProtocolError as error:
            check_sentence(error)
            found.append(None)
            _check_closed(channel)
            break
    return found


def _receive(channel: Channel, data: bytes, found: list[Event | None]) -> None:
    """Have `channel` receive `data`, as a socket's reader does, and add the events."""
    while data:
        buffer = channel.get_buffer()
        piece, data = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(piece)] = piece
        channel.buffer_updated(len(piece))
        while (event := channel.next_event()) is not NEED_DATA:
            found.append(event)


def _check_closed(channel: Channel) -> None:
    try:
        channel.next_event()
    except LocalProtocolError:
        return
    raise AssertionError("A channel that is broken goes on.")
