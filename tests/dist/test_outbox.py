"""What is written in which order, and that a large message holds up only what must wait."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pynode import etf
from pynode.dist.outbox import Outbox
from pynode.protocol.channel import FRAGMENT_SIZE, NEED_DATA, TICK, Channel, Message, Tick
from pynode.protocol.control import (
    AliasSend,
    ControlMessage,
    DemonitorP,
    MonitorPExit,
    PayloadExit,
    PayloadMonitorPExit,
    RegSend,
    SendSender,
    SpawnRequest,
)
from pynode.protocol.flags import DEFAULT
from pynode.terms import Atom, Pid, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

US, THEM = Atom("us@h"), Atom("them@h")
A, B = Pid(US, 1, 0, 1), Pid(US, 2, 0, 1)
X, Y = Pid(THEM, 1, 0, 1), Pid(THEM, 2, 0, 1)
NAME = Atom("name")
#: X has a monitor with the first reference, and so an alias; of the others nothing is known.
KNOWN, *UNKNOWN = (Reference(THEM, 1, (number, 0, 0)) for number in range(3))
MONITORS: dict[Any, tuple[Any, Any]] = {KNOWN: (X, None)}

LARGE = 20 * FRAGMENT_SIZE


class Wire:
    """An outbox, and the peer that receives what is written from it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outbox = Outbox(MONITORS)
        self._monkeypatch = monkeypatch
        self._sender, self._receiver = Channel(DEFAULT), Channel(DEFAULT)
        self.arrived: list[Any] = []

    def put(self, control: ControlMessage, label: object, size: int = 0, context: int = 1) -> None:
        """Send `label` in a message with a payload of more than `size` bytes."""
        payload = None
        if control.HAS_PAYLOAD:
            payload = etf.encode((label, b"\xff" * size), version=False)
        with self._monkeypatch.context() as patch:
            # It takes the current thread for what has sent it.
            patch.setattr(threading, "current_thread", lambda: context)
            self.outbox.put(control, self._sender.encode(control, payload))

    def write(self, count: int | None = None) -> bool:
        """Write the next batch, or its first `count` bytes; False if there is nothing left."""
        data = b"".join(self.outbox.take())
        data = data if count is None else data[:count]
        self._receiver.receive_data(data)
        self.outbox.written(len(data))
        while (event := self._receiver.next_event()) is not NEED_DATA:
            if isinstance(event, Message):
                payload = event.payload
                label = event.control if payload is None else etf.decode_at(payload, 0)[0][0]
                self.arrived.append(label)
            else:
                assert isinstance(event, Tick)
                self.arrived.append("tick")
        return bool(self.outbox)

    def write_all(self) -> list[Any]:
        """Write all there is, and return what has arrived."""
        while self.write():
            pass
        assert self.outbox.size == 0
        assert not self.outbox.large
        assert self.outbox.take() == []
        return self.arrived


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


# --- what goes before a large message that has begun, and what does not

X_SEND = SendSender(A, X)
FIRST: dict[str, tuple[ControlMessage, int]] = {
    "to a pid": (X_SEND, 1),
    "to a known alias": (AliasSend(A, KNOWN), 1),
    "to an unknown alias": (AliasSend(A, UNKNOWN[0]), 1),
    "to a name": (RegSend(A, NAME), 1),
}
CASES: list[tuple[str, ControlMessage, int, bool]] = [
    # From the same code: waits whenever it may be for the same process.
    ("to a pid", X_SEND, 1, True),
    ("to a pid", SendSender(A, Y), 1, False),
    ("to a pid", SendSender(B, X), 1, False),
    ("to a pid", RegSend(A, NAME), 1, True),
    ("to a pid", AliasSend(A, KNOWN), 1, True),
    ("to a pid", AliasSend(A, UNKNOWN[0]), 1, True),
    ("to a pid", AliasSend(B, UNKNOWN[0]), 1, False),
    ("to a pid", PayloadExit(A, X), 1, True),
    ("to a pid", DemonitorP(A, X, UNKNOWN[1]), 1, True),
    ("to a pid", SpawnRequest(KNOWN, B, B, (NAME, NAME, 0), []), 1, False),
    ("to a known alias", X_SEND, 1, True),
    ("to a known alias", SendSender(A, Y), 1, False),
    ("to a known alias", AliasSend(A, KNOWN), 1, True),
    ("to an unknown alias", X_SEND, 1, True),
    ("to an unknown alias", SendSender(A, Y), 1, True),
    ("to an unknown alias", AliasSend(A, UNKNOWN[1]), 1, True),
    ("to a name", SendSender(A, Y), 1, True),
    ("to a name", RegSend(A, Atom("other")), 1, True),
    ("to a name", RegSend(B, NAME), 1, False),
    # From different code: waits only if it is for the same process.
    ("to a pid", X_SEND, 2, True),
    ("to a pid", AliasSend(A, KNOWN), 2, True),
    ("to a pid", RegSend(A, NAME), 2, False),
    ("to a pid", AliasSend(A, UNKNOWN[0]), 2, False),
    ("to a known alias", X_SEND, 2, True),
    ("to a known alias", AliasSend(A, UNKNOWN[0]), 2, False),
    ("to an unknown alias", AliasSend(A, UNKNOWN[0]), 2, True),
    ("to an unknown alias", AliasSend(A, UNKNOWN[1]), 2, False),
    ("to a name", RegSend(A, NAME), 2, True),
    ("to a name", SendSender(A, Y), 2, False),
    # The process that sent it exits, and somebody else notices. The DOWN may have its name.
    ("to a pid", PayloadExit(A, X), 2, True),
    ("to a pid", PayloadMonitorPExit(A, X, UNKNOWN[1]), 2, True),
    ("to a pid", PayloadMonitorPExit(NAME, X, UNKNOWN[1]), 2, True),
    ("to a pid", PayloadMonitorPExit(NAME, Y, UNKNOWN[1]), 2, False),
    ("to a pid", MonitorPExit(NAME, X, UNKNOWN[1], NAME), 2, True),
    ("to a known alias", PayloadMonitorPExit(NAME, X, KNOWN), 2, True),
    ("to a known alias", PayloadMonitorPExit(A, X, UNKNOWN[1]), 2, True),
    ("to an unknown alias", PayloadMonitorPExit(NAME, X, UNKNOWN[0]), 2, True),
    ("to an unknown alias", PayloadMonitorPExit(NAME, Y, UNKNOWN[1]), 2, False),
]


@pytest.mark.parametrize(("first", "second", "context", "waits"), CASES, ids=str)
def test_what_waits_for_a_large_message(
    wire: Wire, first: str, second: ControlMessage, context: int, waits: bool
) -> None:
    control, _ = FIRST[first]
    wire.put(control, "large", LARGE)
    wire.write()
    wire.put(second, "second", context=context)
    label = "second" if second.HAS_PAYLOAD else second
    assert wire.write_all() == (["large", label] if waits else [label, "large"])


def test_what_was_sent_before_a_large_message_arrives_before_it(wire: Wire) -> None:
    for number in range(3_000):
        wire.put(X_SEND, number, 100)
    wire.put(X_SEND, "large", 2 * FRAGMENT_SIZE)
    wire.put(X_SEND, "after")
    assert wire.write_all() == [*range(3_000), "large", "after"]


def test_those_that_wait_keep_their_order_and_hold_up_others(wire: Wire) -> None:
    wire.put(X_SEND, "large", LARGE)
    wire.write()
    wire.put(RegSend(A, NAME), 1)  # waits, since it is from the same code
    wire.put(RegSend(A, NAME), 2, context=2)  # waits for the one before
    wire.put(SendSender(A, Y), 3, LARGE, context=2)  # may be for the same as the one before
    wire.put(SendSender(A, Y), 4, context=3)
    wire.put(SendSender(B, Y), "free")
    assert wire.write_all() == ["free", "large", 1, 2, 3, 4]


def test_large_messages_share_the_way(wire: Wire) -> None:
    wire.put(X_SEND, "larger", 2 * LARGE)
    wire.put(SendSender(A, Y), "large", LARGE)
    wire.put(SendSender(B, X), "barely large", FRAGMENT_SIZE)
    wire.put(SendSender(B, Y), "small")
    assert wire.write_all() == ["small", "barely large", "large", "larger"]


def test_only_so_many_large_messages_are_mixed(wire: Wire) -> None:
    for number in range(200):
        wire.put(SendSender(A, Pid(THEM, number, 0, 1)), number, 3 * FRAGMENT_SIZE)
    wire.put(SendSender(A, Pid(THEM, 150, 0, 1)), "behind 150")
    largest = 0
    while wire.write():
        largest = max(largest, len(wire._receiver._unfinished))
    assert 32 <= largest <= 64
    numbers = [label for label in wire.arrived if isinstance(label, int)]
    assert sorted(numbers) == list(range(200))
    assert wire.arrived.index("behind 150") > wire.arrived.index(150)


def test_small_messages_do_not_starve_a_large_one(wire: Wire) -> None:
    wire.put(X_SEND, "large", LARGE)
    batches = 0
    while "large" not in wire.arrived:
        for _ in range(2_000):
            wire.put(SendSender(A, Y), "small", 100)
        wire.write()
        batches += 1
    assert batches < 50
    wire.write_all()


def test_ticks_and_size(wire: Wire) -> None:
    assert not wire.outbox
    wire.outbox.put_frame(TICK)
    assert wire.outbox.size == 4
    wire.put(X_SEND, "large", 10_000_000)
    # It counts for no more than a megabyte.
    assert 1_000_000 < wire.outbox.size < 1_100_000
    assert wire.outbox.large == {1: 1}
    wire.outbox.put_frame(TICK)
    assert wire.write_all() == ["tick", "tick", "large"]


def test_what_is_cleared_is_forgotten(wire: Wire) -> None:
    for _ in range(100):
        wire.put(X_SEND, "large", LARGE)
    wire.put(X_SEND, "small")
    wire.write()
    wire.outbox.clear()
    assert not wire.outbox
    assert wire.outbox.size == 0
    assert wire.outbox.take() == []
    wire.put(X_SEND, "again")
    assert b"again" in wire.outbox.take()[0]


# --- any messages, written in any pieces


class Sent(NamedTuple):
    sender: Pid
    process: Pid
    address: object
    context: int


def must_follow(one: Sent, other: Sent) -> bool:
    """Whether `other`, which was sent later, must arrive later."""
    known = all(type(sent.address) is Pid or sent.address == KNOWN for sent in (one, other))
    same_code = one.context == other.context
    return (
        one.sender == other.sender
        and one.process == other.process
        and (same_code or known or one.address == other.address)
    )


@pytest.mark.parametrize("seed", range(60))
def test_no_message_overtakes_another_of_its_pair(wire: Wire, seed: int) -> None:
    chance = random.Random(seed)
    addresses: dict[Pid, list[Any]] = {X: [X, KNOWN, UNKNOWN[0], NAME], Y: [Y, UNKNOWN[1]]}
    make: dict[type, Callable[..., ControlMessage]] = {
        Pid: SendSender,
        Reference: AliasSend,
        Atom: RegSend,
    }
    sent: list[Sent] = []
    for number in range(120):
        process = chance.choice((X, Y))
        message = Sent(
            chance.choice((A, B)),
            process,
            chance.choice(addresses[process]),
            chance.choice((1, 2, 3)),
        )
        size = chance.choice((0, 0, 100, 40_000, 70_000, 200_000))
        control = make[type(message.address)](message.sender, message.address)
        wire.put(control, number, size, message.context)
        sent.append(message)
        for _ in range(chance.choice((0, 0, 1, 2))):
            wire.write(chance.choice((None, 1, 1_000, 100_000)))
    arrived = wire.write_all()
    assert sorted(arrived) == list(range(120))
    at = {number: index for index, number in enumerate(arrived)}
    for later, other in enumerate(sent):
        for earlier, one in enumerate(sent[:later]):
            if must_follow(one, other):
                assert at[earlier] < at[later]
    assert arrived != sorted(arrived)
