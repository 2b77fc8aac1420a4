"""Large messages are delivered beside the reading, and nothing overtakes them that must not."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import pytest

from pynode import etf
from pynode.dist.decoding import Decoding, takes_long
from pynode.protocol.channel import Message
from pynode.protocol.control import (
    AliasSend,
    ControlMessage,
    DemonitorP,
    PayloadMonitorPExit,
    Send,
    SendSender,
)
from pynode.terms import Atom, Pid, Reference

if TYPE_CHECKING:
    from pynode.dist.task import Task

PATIENCE = 10.0
A, B = Pid(Atom("them@h"), 1, 0, 1), Pid(Atom("them@h"), 2, 0, 1)
X = Pid(Atom("us@h"), 1, 0, 1)
ALIAS, OTHER, THIRD = (Reference(Atom("us@h"), 1, (number, 2, 3)) for number in range(3))
LARGE = bytes(1_000_000)


class Reader:
    """What a connection does with its messages."""

    def __init__(self) -> None:
        self.delivered: list[Message] = []
        self.flushed = 0
        self.go_on = threading.Event()
        self.begun = threading.Semaphore(0)
        self.decoding = Decoding(self._deliver, self._flush)
        self.threads: list[threading.Thread] = []

    def _deliver(self, message: Message) -> None:
        if len(message.payload or b"") >= len(LARGE):
            self.begun.release()
            assert self.go_on.wait(PATIENCE)
        self.delivered.append(message)

    def _flush(self) -> None:
        self.flushed += 1

    def read(self, control: ControlMessage, payload: bytes | None = b"j") -> Message:
        """Take a message as the reader of a connection does."""
        message = Message(control, payload if control.HAS_PAYLOAD else None)
        if self.decoding.concerns(message):
            if self.decoding.holds_back(message):
                return message
            task = self.decoding.begin(message)
            if task is not None:
                assert task.urgent
                thread = threading.Thread(target=self._run, args=(task,))
                thread.start()
                self.threads.append(thread)
                assert self.begun.acquire(timeout=PATIENCE)
                return message
        self._deliver(message)
        return message

    def _run(self, task: Task) -> None:
        task.run()
        task.flush()

    def end(self) -> list[Message]:
        """Let all large messages come, and return what was delivered."""
        self.go_on.set()
        self.decoding.finish()
        for thread in self.threads:
            thread.join(PATIENCE)
        return self.delivered


def test_what_is_small_is_delivered_by_the_reader() -> None:
    reader = Reader()
    small = reader.read(SendSender(A, X), bytes(200_000))
    assert not reader.decoding.concerns(small)
    assert reader.delivered == [small]
    assert not reader.threads


def test_what_a_large_message_holds_back_and_what_not() -> None:
    reader = Reader()
    large = reader.read(AliasSend(A, ALIAS), LARGE)
    assert reader.delivered == []
    behind = [
        reader.read(SendSender(A, X)),
        reader.read(DemonitorP(A, X, OTHER)),
        # What waits is itself waited for.
        reader.read(PayloadMonitorPExit(B, X, ALIAS)),
        reader.read(SendSender(B, X)),
    ]
    assert reader.delivered == []
    c = Pid(Atom("them@h"), 3, 0, 1)
    free = [reader.read(SendSender(c, X)), reader.read(DemonitorP(c, X, THIRD))]
    assert reader.delivered == free
    behind += [
        # The process that has answered has exited: its name is all that is said of it.
        reader.read(PayloadMonitorPExit(Atom("name"), X, ALIAS)),
        reader.read(PayloadMonitorPExit(Atom("name"), X, OTHER)),
        reader.read(Send(X)),
        # Whoever has sent that may have sent this.
        reader.read(SendSender(c, X)),
    ]
    assert reader.delivered == free
    assert reader.end() == [*free, large, *behind]
    assert reader.flushed == 1
    # It is over: nothing concerns it any more.
    after = reader.read(SendSender(A, X))
    assert not reader.decoding.concerns(after)
    assert reader.delivered[-1] == after


def test_a_large_message_of_nobody_holds_everything_back() -> None:
    reader = Reader()
    messages = [reader.read(Send(X), LARGE), reader.read(SendSender(A, X))]
    assert reader.delivered == []
    assert reader.end() == messages


def test_several_large_messages_at_a_time() -> None:
    reader = Reader()
    senders = [Pid(Atom("them@h"), number, 0, 1) for number in range(4)]
    for sender in senders:
        reader.read(SendSender(sender, X), LARGE)
        reader.read(SendSender(sender, X), LARGE)
        reader.read(SendSender(sender, X))
    assert len(reader.threads) == 4
    # The reader does the next one itself, as it has before there were any others.
    fifth = Message(SendSender(Pid(Atom("them@h"), 9, 0, 1), X), LARGE)
    assert not reader.decoding.holds_back(fifth)
    assert reader.decoding.begin(fifth) is None
    delivered = deque(reader.end())
    assert len(delivered) == 12
    for sender in senders:
        own = [message for message in delivered if message.control == SendSender(sender, X)]
        assert [len(message.payload or b"") for message in own] == [1_000_000, 1_000_000, 1]


@pytest.mark.parametrize(
    ("value", "long"),
    [
        ([b"\xff" * 1_000_000], False),
        ((Atom("call"), ["x" * 1_000_000, 1, b"\xff" * 70_000]), False),
        (["m" * 1_000_000, "some" * 200_000], False),
        ([b"\xff" * 1_000_000, [(1,)] * 10_000], False),
        ([[(1,)] * 100_000, b"\xff" * 1_000_000], True),
        ([b"\xff" * 1_000_000, [(1,)] * 100_000], True),
        ([b"\xff" * 1_000] * 1_000, True),
        ([b"\xff" * 10_000_000], True),
    ],
)
def test_what_takes_long_to_decode(value: object, long: bool) -> None:
    assert takes_long(etf.encode(value, version=False)) is long


@pytest.mark.parametrize("data", [b"", b"m" * 1_000_000, b"m\xff" * 200_000, b"m" * 262_145])
def test_what_takes_long_though_it_is_no_term(data: bytes) -> None:
    assert takes_long(data) is bool(data)


def test_a_large_binary_is_for_the_reader() -> None:
    reader = Reader()
    payload = etf.encode(bytes([255]) * 900_000, version=False)
    message = Message(SendSender(A, X), payload)
    assert not reader.decoding.concerns(message)
    reader.read(SendSender(B, X), LARGE)
    assert reader.decoding.concerns(message)
    assert not reader.decoding.holds_back(message)
    assert reader.decoding.begin(message) is None
    assert reader.decoding.holds_back(Message(SendSender(B, X), payload))
    reader.end()


def test_the_reader_waits_when_too_much_is_held_back() -> None:
    class Condition(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waits.set()
            return super().wait(timeout)

    waits = threading.Event()
    reader = Reader()
    reader.decoding._changed = Condition()
    reader.read(SendSender(A, X), LARGE)
    read = []

    def read_on() -> None:
        for number in range(100):
            reader.read(SendSender(A, X), number.to_bytes(1, "big") * 1_000_001)
            read.append(number)

    thread = threading.Thread(target=read_on)
    thread.start()
    assert waits.wait(PATIENCE)
    assert 60 <= len(read) <= 70
    reader.go_on.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    payloads = [message.payload or b"" for message in reader.end()]
    assert [payload[0] for payload in payloads[1:]] == list(range(100))
