"""The connection's frames: what is read of them and what is written, and what ends it."""

from __future__ import annotations

import struct
import tracemalloc
from types import NoneType
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pynode import etf
from pynode.config import Limits
from pynode.errors import EncodeError, LocalProtocolError, RemoteProtocolError
from pynode.protocol import channel as channel_module
from pynode.protocol.channel import (
    _BUFFER_SIZE,
    FRAGMENT_SIZE,
    NEED_DATA,
    TICK,
    TICK_EVENT,
    Channel,
    Event,
    Fragments,
    Message,
    Tick,
)
from pynode.protocol.control import (
    AliasSend,
    ControlMessage,
    DemonitorP,
    Exit,
    Link,
    MonitorP,
    PayloadExit,
    RegSend,
    Send,
    SendSender,
    SendSenderTT,
    SpawnReply,
    SpawnRequest,
    UnlinkId,
)
from pynode.protocol.flags import DEFAULT, DFlag
from pynode.terms import Atom, Pid, Reference

if TYPE_CHECKING:
    from collections.abc import Iterable

A = Pid(Atom("a@h"), 80, 1, 7)
B = Pid(Atom("b@h"), 81, 2, 9)
R = Reference(Atom("a@h"), 7, (1, 2, 3))

FRAGMENTS = DEFAULT
PLAIN = DEFAULT & ~DFlag.FRAGMENTS
both_forms = pytest.mark.parametrize("flags", [FRAGMENTS, PLAIN], ids=["fragments", "plain"])


def term(value: object) -> bytes:
    """Return the encoding without version byte."""
    return etf.encode(value, version=False)


def frame(*parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", len(content)) + content


def first(sequence_id: int, fragment_id: int, *parts: bytes) -> bytes:
    return frame(b"\x83E", struct.pack(">QQ", sequence_id, fragment_id), b"\0", *parts)


def following(sequence_id: int, fragment_id: int, *parts: bytes) -> bytes:
    return frame(b"\x83F", struct.pack(">QQ", sequence_id, fragment_id), *parts)


def frames(encoded: bytes | Fragments) -> list[bytes]:
    """Return the frames of what Channel.encode has made."""
    return [encoded] if isinstance(encoded, bytes) else [b"".join(parts) for parts in encoded]


def drain(channel: Channel) -> list[Event]:
    """Return the events that there are."""
    events: list[Event] = []
    while (event := channel.next_event()) is not NEED_DATA:
        assert not isinstance(event, Message) or type(event.payload) in (bytes, NoneType)
        events.append(event)
    return events


def receive(channel: Channel, chunks: Iterable[bytes]) -> list[Event]:
    """Feed `channel` as a reader of a socket does."""
    events: list[Event] = []
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            buffer = channel.get_buffer()
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
            channel.buffer_updated(size)
            rest = rest[size:]
            events += drain(channel)
    return events


def receive_all(flags: DFlag, data: bytes, limits: Limits | None = None) -> list[Event]:
    channel = Channel(flags) if limits is None else Channel(flags, limits)
    return receive(channel, [data])


REG_SEND = RegSend(A, Atom("snakebridge"))
REG_SEND_TERM = bytes.fromhex(
    "68046106 58 7703614068 00000050 00000001 00000007 7700 770b736e616b65627269646765"
)
LINK_TERM = term(Link(A, B).to_term())
HELLO = term((Atom("hello"), [1, 2, 3], "text"))

# What one side writes, and the events that the other has of it.
STREAMS: dict[DFlag, list[tuple[bytes, list[Event]]]] = {
    FRAGMENTS: [
        (TICK, [TICK_EVENT]),
        (frame(b"\x83D\0", REG_SEND_TERM, HELLO), [Message(REG_SEND, HELLO)]),
        (frame(b"\x83D\0", LINK_TERM), [Message(Link(A, B), None)]),
        (first(7, 1, REG_SEND_TERM, HELLO), [Message(REG_SEND, HELLO)]),
        (first(7, 1, LINK_TERM), [Message(Link(A, B), None)]),
        (
            first(7, 3, REG_SEND_TERM, HELLO[:5])
            + following(7, 2, HELLO[5:6])
            + following(7, 1, HELLO[6:]),
            [Message(REG_SEND, HELLO)],
        ),
        # The payload may begin with the second fragment.
        (
            first(2**64 - 1, 2, REG_SEND_TERM) + following(2**64 - 1, 1, HELLO),
            [Message(REG_SEND, HELLO)],
        ),
        # Fragments of two messages, another message and a tick between each other.
        (
            first(1, 2, REG_SEND_TERM, HELLO[:3])
            + first(2, 2, REG_SEND_TERM, HELLO[:4])
            + frame(b"\x83D\0", LINK_TERM)
            + following(2, 1, HELLO[4:])
            + TICK
            + following(1, 1, HELLO[3:]),
            [
                Message(Link(A, B), None),
                Message(REG_SEND, HELLO),
                TICK_EVENT,
                Message(REG_SEND, HELLO),
            ],
        ),
    ],
    PLAIN: [
        (TICK, [TICK_EVENT]),
        (frame(b"p\x83", REG_SEND_TERM, b"\x83", HELLO), [Message(REG_SEND, HELLO)]),
        (frame(b"p\x83", LINK_TERM), [Message(Link(A, B), None)]),
    ],
}
CASES = [(flags, *case) for flags, cases in STREAMS.items() for case in cases]
cases = pytest.mark.parametrize(("flags", "data", "events"), CASES)
streams = pytest.mark.parametrize("flags", STREAMS, ids=["fragments", "plain"])


def test_what_is_sent() -> None:
    fragments, plain = Channel(FRAGMENTS), Channel(PLAIN)
    assert fragments.encode(REG_SEND, HELLO) == frame(b"\x83D\0", REG_SEND_TERM, HELLO)
    assert fragments.encode(Link(A, B)) == frame(b"\x83D\0", LINK_TERM)
    assert plain.encode(REG_SEND, HELLO) == frame(b"p\x83", REG_SEND_TERM, b"\x83", HELLO)
    assert plain.encode(Link(A, B)) == frame(b"p\x83", LINK_TERM)


@cases
def test_whole(flags: DFlag, data: bytes, events: list[Event]) -> None:
    assert receive_all(flags, data) == events


@cases
def test_byte_by_byte(flags: DFlag, data: bytes, events: list[Event]) -> None:
    assert receive(Channel(flags), [bytes([byte]) for byte in data]) == events


@cases
def test_trailing_bytes(flags: DFlag, data: bytes, events: list[Event]) -> None:
    channel = Channel(flags)
    assert receive(channel, [data + data[:-1]]) == [*events, *events[:-1]]
    assert receive(channel, [data[-1:]]) == events[-1:]


@cases
def test_truncated(flags: DFlag, data: bytes, events: list[Event]) -> None:
    for size in range(len(data)):
        seen = receive_all(flags, data[:size])
        assert len(seen) < len(events)
        assert seen == events[: len(seen)]


@streams
def test_all_at_once(flags: DFlag) -> None:
    data = b"".join(data for data, _ in STREAMS[flags])
    events = [event for _, events in STREAMS[flags] for event in events]
    assert receive_all(flags, data * 3) == events * 3
    channel = Channel(flags)
    channel.receive_data(data)
    channel.receive_data(bytearray(data))
    assert drain(channel) == events * 2


@streams
@given(data=st.data())
def test_in_any_chunks(flags: DFlag, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.sampled_from(STREAMS[flags]), max_size=6))
    stream = b"".join(piece for piece, _ in pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    events = [event for _, events in pieces for event in events]
    assert receive(Channel(flags), chunks) == events

    # More may be received before all events were taken.
    channel, taken = Channel(flags), []
    for chunk in chunks:
        channel.receive_data(chunk)
        if (event := channel.next_event()) is not NEED_DATA:
            taken.append(event)
    assert taken + drain(channel) == events


def test_need_data_at_first() -> None:
    channel = Channel(FRAGMENTS)
    assert channel.next_event() is NEED_DATA
    assert channel.next_event() is NEED_DATA
    channel.receive_data(b"")
    assert channel.next_event() is NEED_DATA
    assert len(channel.get_buffer()) >= FRAGMENT_SIZE


def test_tick() -> None:
    channel = Channel(FRAGMENTS)
    channel.receive_data(TICK)
    assert isinstance(channel.next_event(), Tick)


# --- large messages


@both_forms
@pytest.mark.parametrize(
    "size", [0, 1, FRAGMENT_SIZE - 6, FRAGMENT_SIZE - 5, 5 * FRAGMENT_SIZE + 1]
)
@pytest.mark.parametrize("chunk", [1_000, 65_536, 10_000_000])
def test_a_pair_of_channels(flags: DFlag, size: int, chunk: int) -> None:
    sender, receiver = Channel(flags), Channel(flags)
    payload = term(bytes(range(256)) * (size // 256) + bytes(size % 256))
    controls: list[tuple[ControlMessage, bytes | None]] = [
        (REG_SEND, payload),
        (MonitorP(A, Atom("rex"), R), None),
        (SendSender(A, B), payload),
        (DemonitorP(A, Atom("rex"), R), None),
        (SpawnRequest(R, A, A, (Atom("m"), Atom("f"), 1), []), payload),
        (UnlinkId(2**64 - 1, A, B), None),
        (SpawnReply(R, A, 1, B), None),
        (PayloadExit(A, B), payload),
        (Exit(A, B, Atom("normal")), None),
    ]
    stream = b"".join(piece for message in controls for piece in frames(sender.encode(*message)))
    chunks = [stream[at : at + chunk] for at in range(0, len(stream), chunk)]
    assert receive(receiver, chunks) == [Message(*message) for message in controls]


def test_fragments_as_sent() -> None:
    channel = Channel(FRAGMENTS)
    payload = term(bytes(2 * FRAGMENT_SIZE))
    encoded = channel.encode(REG_SEND, payload)
    assert isinstance(encoded, Fragments)
    assert len(encoded) == 3
    assert encoded.size == len(payload)
    assert frames(encoded) == [
        first(1, 3, REG_SEND_TERM, payload[:FRAGMENT_SIZE]),
        following(1, 2, payload[FRAGMENT_SIZE : 2 * FRAGMENT_SIZE]),
        following(1, 1, payload[2 * FRAGMENT_SIZE :]),
    ]
    again = frames(channel.encode(REG_SEND, payload))
    assert again[1][6:14] == bytes([0, 0, 0, 0, 0, 0, 0, 2])


def test_fragments_of_several_messages_interleaved() -> None:
    sender, receiver = Channel(FRAGMENTS), Channel(FRAGMENTS)
    payloads = [term(bytes([at]) * at * FRAGMENT_SIZE) for at in range(1, 6)]
    queues = [frames(sender.encode(REG_SEND, payload)) for payload in payloads]
    small = frames(sender.encode(AliasSend(A, R), HELLO))
    events: list[Event] = []
    while any(queues):
        for queue in queues:
            if queue:
                events += receive(receiver, [queue.pop(0)])
        events += receive(receiver, small)
    assert [event for event in events if event != Message(AliasSend(A, R), HELLO)] == [
        Message(REG_SEND, payload) for payload in payloads
    ]


@settings(deadline=None)
@given(data=st.data())
def test_fragments_of_any_size_mixed_and_read_in_any_pieces(data: st.DataObject) -> None:
    """What the system gives at once may end anywhere, above all around the heads of frames."""
    sizes = st.sampled_from([0, 1, 17, 18, 22, 70_000, _BUFFER_SIZE, _BUFFER_SIZE + 100])
    queues, expected = [], {}
    for number in range(1, data.draw(st.integers(1, 3)) + 1):
        pieces = [b"%d" % number * size for size in data.draw(st.lists(sizes, min_size=1))]
        pieces[-1] += b"."
        heads = range(len(pieces), 0, -1)
        queue = [first(number, heads[0], REG_SEND_TERM, pieces[0])]
        queue += [following(number, *each) for each in zip(heads[1:], pieces[1:], strict=True)]
        queues.append(queue)
        expected[number] = b"".join(pieces)
    others = [TICK, frame(b"\x83D\0", LINK_TERM)]
    stream, heads_at = b"", []
    while any(queues):
        frames = data.draw(st.sampled_from([queue for queue in queues if queue] + [others]))
        heads_at.append(len(stream))
        stream += frames[0] if frames is others else frames.pop(0)
    near = st.builds(int.__add__, st.sampled_from(heads_at), st.integers(0, 60))
    cuts = sorted(min(cut, len(stream)) for cut in data.draw(st.lists(near, max_size=20)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    events = receive(Channel(FRAGMENTS), chunks)
    payloads = {event.payload for event in events if isinstance(event, Message)} - {None}
    assert payloads == set(expected.values())
    assert events == receive(Channel(FRAGMENTS), [stream])


def test_a_payload_in_parts() -> None:
    payload = etf.encode_parts([b"\xff" * 70_000, "a", "b" * 200_000, b"\xfe" * 65_537])
    assert len(payload) > 4
    for flags in (FRAGMENTS, PLAIN):
        (event,) = receive_all(flags, b"".join(frames(Channel(flags).encode(REG_SEND, payload))))
        assert event == Message(REG_SEND, b"".join(payload))  # type: ignore[arg-type]
    fragments = Channel(FRAGMENTS).encode(REG_SEND, payload)
    whole = Channel(FRAGMENTS).encode(REG_SEND, b"".join(payload))  # type: ignore[arg-type]
    assert frames(fragments) == frames(whole)


def test_fragments_that_are_announced_take_no_memory() -> None:
    channel = Channel(FRAGMENTS)
    data = first(1, 2**64 - 1, REG_SEND_TERM, bytes(100_000))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        receive(channel, [data, following(1, 2**64 - 2, bytes(100_000))[:1000]])
        # Eight times what came are addresses at most.
        assert tracemalloc.get_traced_memory()[0] - before < 9 * len(data)
    finally:
        tracemalloc.stop()


def test_memory_follows_what_is_received_not_what_is_announced() -> None:
    channel = Channel(PLAIN)
    tracemalloc.start()
    try:
        for data in (struct.pack(">I", 250_000_000), b"p\x83", bytes(1_000_000)):
            before = tracemalloc.get_traced_memory()[0]
            receive(channel, [data])
            # Eight times what came are addresses at most.
            assert tracemalloc.get_traced_memory()[0] - before < 9 * len(data) + 500_000
    finally:
        tracemalloc.stop()


def test_frames_behind_a_large_one() -> None:
    payload = term(bytes(1_000_000))
    large = frame(b"p\x83", REG_SEND_TERM, b"\x83", payload)
    stream = (large + TICK + frame(b"p\x83", LINK_TERM)) * 3
    events = [Message(REG_SEND, payload), TICK_EVENT, Message(Link(A, B), None)] * 3
    for chunk in (
        100_000,
        len(large) - 1,
        len(large),
        len(large) + 1,
        len(large) + 20,
        len(stream),
    ):
        chunks = [stream[at : at + chunk] for at in range(0, len(stream), chunk)]
        assert receive(Channel(PLAIN), chunks) == events
        channel = Channel(PLAIN)
        for piece in chunks:
            channel.receive_data(piece)
        assert drain(channel) == events


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_large_frames_of_every_kind(size: int) -> None:
    """Of nodes that know no fragments, or send fragments larger than ours."""
    reason = "x" * size
    exit_term, payload = term((3, A, B, reason)), term(reason)
    events = [Message(Exit(A, B, reason), None)]
    assert receive_all(PLAIN, frame(b"p\x83", exit_term)) == events
    assert receive_all(FRAGMENTS, frame(b"\x83D\0", exit_term)) == events
    assert receive_all(FRAGMENTS, first(1, 1, exit_term)) == events
    pieces = first(1, 2, REG_SEND_TERM, payload[:-5]) + following(1, 1, payload[-5:])
    assert receive_all(FRAGMENTS, pieces) == [Message(REG_SEND, payload)]
    pieces = first(1, 2, REG_SEND_TERM, payload[:5]) + following(1, 1, payload[5:])
    assert receive_all(FRAGMENTS, pieces) == [Message(REG_SEND, payload)]
    for malformed in (exit_term[:-1], exit_term + b"x", payload):
        for data in (frame(b"p\x83", malformed), first(1, 2, malformed), frame(malformed)):
            with pytest.raises(RemoteProtocolError):
                receive_all(PLAIN if data[4:5] == b"p" else FRAGMENTS, data + TICK)


def test_a_large_payload_keeps_its_memory() -> None:
    channel = Channel(PLAIN)
    data = frame(b"p\x83", REG_SEND_TERM, b"\x83", term(b"x" * 1_000_000))
    payloads = []
    for _ in range(3):
        channel.receive_data(data)
        event = channel.next_event()
        assert isinstance(event, Message)
        payloads.append(event.payload)
        assert channel.next_event() is NEED_DATA
    expected = term(b"x" * 1_000_000)
    assert payloads == [expected] * 3
    channel.receive_data(b"\0" * 3)
    channel.next_event()
    assert payloads == [expected] * 3


def test_a_buffer_that_nobody_empties_grows() -> None:
    channel = Channel(FRAGMENTS)
    data = frame(b"\x83D\0", LINK_TERM) * 50_000
    rest = memoryview(data)
    while rest:
        buffer = channel.get_buffer()
        size = min(len(buffer), len(rest))
        assert size > 0
        buffer[:size] = rest[:size]
        channel.buffer_updated(size)
        rest = rest[size:]
    assert drain(channel) == [Message(Link(A, B), None)] * 50_000


# --- limits


def test_limit_of_a_frame() -> None:
    limits = Limits(frame=100)
    payload = term(bytes(100 - 3 - len(REG_SEND_TERM) - 5))
    good = frame(b"\x83D\0", REG_SEND_TERM, payload)
    assert receive_all(FRAGMENTS, good, limits) == [Message(REG_SEND, payload)]
    for data in (struct.pack(">I", 101), frame(b"\x83D\0", REG_SEND_TERM, term(bytes(100)))):
        with pytest.raises(RemoteProtocolError, match=r"\d+ bytes, more than the limit of 100"):
            receive_all(FRAGMENTS, good + data, limits)


def test_limit_of_unfinished_messages() -> None:
    limits = Limits(fragmented_messages=2)
    two = first(1, 2, REG_SEND_TERM, HELLO) + first(2, 2, REG_SEND_TERM, HELLO)
    three = first(3, 2, REG_SEND_TERM, HELLO)
    channel = Channel(FRAGMENTS, limits)
    assert len(receive(channel, [two + following(1, 1) + three])) == 1
    with pytest.raises(RemoteProtocolError, match="more messages at a time than the limit of 2"):
        receive(channel, [first(4, 2, REG_SEND_TERM, HELLO)])


def test_limit_of_unfinished_bytes() -> None:
    limits = Limits(message=1_000)
    channel = Channel(FRAGMENTS, limits)
    size = len(REG_SEND_TERM)
    receive(channel, [first(1, 3, REG_SEND_TERM, bytes(600 - size)), following(1, 2, bytes(400))])
    assert len(receive(channel, [following(1, 1)])) == 1
    receive(channel, [first(1, 3, REG_SEND_TERM, bytes(600 - size))])
    receive(channel, [first(2, 3, REG_SEND_TERM, bytes(400 - size))])
    with pytest.raises(RemoteProtocolError, match=r"unfinished messages .* limit of 1000"):
        receive(channel, [following(2, 2, b"x")])


def test_limits_hold_inside_of_a_fragment() -> None:
    limits = Limits(message=100_000, frame=150_000)
    channel = Channel(FRAGMENTS, limits)
    receive(channel, [first(1, 3, REG_SEND_TERM)])
    with pytest.raises(RemoteProtocolError, match="more bytes of unfinished messages"):
        receive(channel, [following(1, 2, bytes(120_000))[:110_000]])
    channel = Channel(FRAGMENTS, limits)
    receive(channel, [first(1, 3, REG_SEND_TERM)])
    with pytest.raises(RemoteProtocolError, match="announced a frame of 150001 bytes"):
        receive(channel, [following(1, 2, bytes(149_983))[:22]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (following(1, 3), "out of order"),
        (following(2, 2), "out of order"),
        (following(1, 2)[:-1], None),
        (frame(b"\x83F", bytes(15)) + TICK * 2, "cut short"),
        (frame(b"\x83G", bytes(16)), "begins with 83 47 00"),
    ],
)
def test_what_follows_a_fragment_is_malformed(data: bytes, message: str | None) -> None:
    channel = Channel(FRAGMENTS)
    receive(channel, [first(1, 3, REG_SEND_TERM)])
    if message is None:
        assert receive(channel, [data]) == []
        return
    with pytest.raises(RemoteProtocolError, match=message):
        receive(channel, [data])


def test_an_unfinished_message_takes_the_memory_that_it_was_sent_in() -> None:
    # Each element of the token would be a list of its own.
    control = term(SendSenderTT(A, B, ([],) * 20_000).to_term())
    fragments = [first(number, 2, control) for number in range(50)]
    channel = Channel(FRAGMENTS)
    tracemalloc.start()
    try:
        assert receive(channel, fragments) == []
        assert tracemalloc.get_traced_memory()[0] < 50 * len(control) + 1_000_000
        (event,) = receive(channel, [following(7, 1, HELLO)])
    finally:
        tracemalloc.stop()
    assert event == Message(SendSenderTT(A, B, ([],) * 20_000), HELLO)


def test_other_limits_are_the_decoders() -> None:
    deep: object = []
    for _ in range(50):
        deep = [deep]
    data = frame(b"\x83D\0", term((3, A, B, deep)))
    assert len(receive_all(FRAGMENTS, data)) == 1
    with pytest.raises(RemoteProtocolError, match="cannot be decoded"):
        receive_all(FRAGMENTS, data, Limits(depth=20))


# --- what a peer must not send

MALFORMED: list[tuple[DFlag, bytes, str]] = [
    # The form that was not agreed upon, or none.
    (FRAGMENTS, frame(b"p\x83", LINK_TERM), "begins with 70 83 68"),
    (PLAIN, frame(b"\x83D\0", LINK_TERM), "begins with 83 44 00"),
    (PLAIN, first(1, 1, LINK_TERM), "begins with 83 45 00"),
    (PLAIN, following(1, 1, LINK_TERM), "begins with 83 46 00"),
    (PLAIN, frame(b"p"), "begins with 70, which"),
    (PLAIN, frame(b"p", LINK_TERM), "begins with 70 68 03"),
    (PLAIN, frame(b"q\x83", LINK_TERM), "begins with 71 83 68"),
    (FRAGMENTS, frame(b"\x83"), "begins with 83, which"),
    (FRAGMENTS, frame(b"\x83D"), "begins with 83 44, which"),
    (FRAGMENTS, frame(b"\x83D\x01", LINK_TERM), "begins with 83 44 01"),
    (FRAGMENTS, frame(b"\x83P", LINK_TERM), "begins with 83 50 68"),
    # The control message.
    (FRAGMENTS, frame(b"\x83D\0"), "cannot be decoded"),
    (PLAIN, frame(b"p\x83"), "cannot be decoded"),
    (FRAGMENTS, frame(b"\x83D\0", LINK_TERM[:-1]), "cannot be decoded"),
    (FRAGMENTS, frame(b"\x83D\0", LINK_TERM[:-1]) + TICK, "LINK cut short"),
    (FRAGMENTS, frame(b"\x83D\0\x83", LINK_TERM), "cannot be decoded"),
    (FRAGMENTS, frame(b"\x83D\0", term([1, A, B])), "no tuple"),
    (FRAGMENTS, frame(b"\x83D\0", term((35, 0, A, B))), "malformed UNLINK_ID"),
    # The payload.
    (FRAGMENTS, frame(b"\x83D\0", REG_SEND_TERM), "REG_SEND without a payload"),
    (PLAIN, frame(b"p\x83", REG_SEND_TERM), "REG_SEND without a payload"),
    (PLAIN, frame(b"p\x83", REG_SEND_TERM, b"\x83"), "REG_SEND without a payload"),
    (PLAIN, frame(b"p\x83", REG_SEND_TERM, HELLO), "payload of an unknown version"),
    (PLAIN, frame(b"p\x83", REG_SEND_TERM) + frame(b"\x83", HELLO), "REG_SEND without a payload"),
    (FRAGMENTS, frame(b"\x83D\0", LINK_TERM, HELLO), "LINK with a payload"),
    (PLAIN, frame(b"p\x83", LINK_TERM, b"\x83", HELLO), "LINK with a payload"),
    # Fragments.
    (FRAGMENTS, frame(b"\x83E"), "cut short"),
    (FRAGMENTS, frame(b"\x83F"), "cut short"),
    (FRAGMENTS, following(1, 1)[:3] + b"\x11" + following(1, 1)[4:-1], "cut short"),
    (FRAGMENTS, frame(b"\x83E", struct.pack(">QQ", 1, 1)), "atom cache"),
    (FRAGMENTS, frame(b"\x83E", struct.pack(">QQ", 1, 1), b"\x01", LINK_TERM), "atom cache"),
    (FRAGMENTS, first(1, 1), "cannot be decoded"),
    (FRAGMENTS, first(1, 2), "cannot be decoded"),
    (FRAGMENTS, first(1, 0, REG_SEND_TERM, HELLO), "fragment 0 out of order"),
    (FRAGMENTS, first(1, 1, REG_SEND_TERM), "REG_SEND without a payload"),
    (FRAGMENTS, first(1, 2, LINK_TERM), "LINK, which has no payload, in fragments"),
    (FRAGMENTS, first(1, 2, REG_SEND_TERM[:-1]), "cannot be decoded"),
    (FRAGMENTS, first(1, 2, REG_SEND_TERM) * 2, "began message 1 .* out of order"),
    (FRAGMENTS, first(1, 3, REG_SEND_TERM) + following(1, 1), "fragment 1 of message 1 out"),
    (FRAGMENTS, first(1, 3, REG_SEND_TERM) + following(1, 3), "fragment 3 of message 1 out"),
    (FRAGMENTS, first(1, 2, REG_SEND_TERM) + following(1, 0), "fragment 0 of message 1 out"),
    (FRAGMENTS, first(1, 2, REG_SEND_TERM) + following(2, 1), "fragment 1 of message 2 out"),
    (FRAGMENTS, first(1, 2, REG_SEND_TERM) + following(1, 1) * 2, "fragment 1 of message 1 out"),
]


@pytest.mark.parametrize(("flags", "data", "message"), MALFORMED)
def test_malformed(flags: DFlag, data: bytes, message: str) -> None:
    channel = Channel(flags)
    with pytest.raises(RemoteProtocolError, match=message):
        receive(channel, [data])
    # For good.
    channel.receive_data(TICK)
    with pytest.raises(LocalProtocolError, match=message):
        channel.next_event()


@both_forms
@given(data=st.data())
def test_any_bytes(flags: DFlag, data: st.DataObject) -> None:
    """Only RemoteProtocolError may come of what a peer sends."""
    stream = bytearray(
        b"".join(data.draw(st.lists(st.sampled_from([d for d, _ in STREAMS[flags]]))))
    )
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(stream)))
        size = data.draw(st.integers(0, 4))
        stream[at : at + size] = data.draw(st.binary(max_size=4))
    channel = Channel(flags)
    try:
        receive(channel, [bytes(stream)])
    except RemoteProtocolError:
        return


@both_forms
@given(content=st.binary(max_size=60))
def test_any_frame(flags: DFlag, content: bytes) -> None:
    head = b"\x83D\0" if flags & DFlag.FRAGMENTS else b"p\x83"
    for data in (frame(content), frame(head, content), first(1, 2, content)):
        try:
            receive_all(flags, data)
        except RemoteProtocolError:
            continue


# --- what we must not send


@both_forms
def test_payload_missing_or_not_wanted(flags: DFlag) -> None:
    channel = Channel(flags)
    with pytest.raises(LocalProtocolError, match="REG_SEND goes with a payload"):
        channel.encode(REG_SEND)
    with pytest.raises(LocalProtocolError, match="LINK goes without a payload"):
        channel.encode(Link(A, B), HELLO)


@both_forms
def test_what_cannot_be_encoded_does_no_harm(flags: DFlag) -> None:
    sender, receiver = Channel(flags), Channel(flags)
    with pytest.raises(EncodeError):
        sender.encode(Exit(A, B, float("nan")))
    with pytest.raises(EncodeError):
        sender.encode(Send(object()), HELLO)  # type: ignore[arg-type]
    assert receive(receiver, frames(sender.encode(Send(B), HELLO))) == [Message(Send(B), HELLO)]


def test_a_frame_has_a_length_of_four_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = len(Channel(PLAIN).encode(REG_SEND, HELLO)) - 4
    monkeypatch.setattr(channel_module, "_MAX_FRAME", largest)  # in place of 4 GB
    Channel(PLAIN).encode(REG_SEND, HELLO)
    with pytest.raises(LocalProtocolError, match="send it in parts"):
        Channel(PLAIN).encode(REG_SEND, HELLO + b"x")


def test_a_peer_that_does_not_know_senders_gets_none() -> None:
    """As C-nodes and those of Jinterface."""
    flags = PLAIN & ~DFlag.SEND_SENDER
    written = frames(Channel(flags).encode(SendSender(A, B), HELLO))
    assert receive_all(flags, b"".join(written)) == [Message(Send(B), HELLO)]
    written = frames(Channel(PLAIN).encode(SendSender(A, B), HELLO))
    assert receive_all(PLAIN, b"".join(written)) == [Message(SendSender(A, B), HELLO)]
