"""A whole node with a bridge and a process: what an established connection does to it.

An input is what a peer sends after the handshake. The outcome is that the connection ends; what
was asked for before may be answered. Nothing that a peer sends is an internal error.
"""

from __future__ import annotations

import functools
import itertools
import logging
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

from pynode import Bridge, Node, etf
from pynode.dist.connection import Connection
from pynode.process import Process
from pynode.protocol.control import RegSend
from pynode.protocol.flags import DEFAULT
from pynode.terms import Atom, Pid, Reference
from tests.fuzz import fuzz_channel
from tests.fuzz.vectors import CREATION, THEM, US, vectors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pynode.dist.task import Task

ME = Pid(Atom(US), 1, 0, CREATION)
REFERENCE = Reference(Atom(US), CREATION, (1, 2, 3))
DICTIONARY = [
    *(etf.encode(term)[1:] for term in (ME, REFERENCE)),
    *fuzz_channel.DICTIONARY,
    *(b"w" + bytes((len(word),)) + word for word in (b"snakebridge", b"net_kernel", b"rex")),
    *(b"w" + bytes((len(word),)) + word for word in (b"$gen_call", b"$gen_cast", b"info", b"put")),
]


class _Complaints(logging.Handler):
    """Keeps what the node logs of errors that are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "please report it" in message:
            self.records.append(self.format(record))


@functools.cache
def _node() -> Node:
    """Return a node that may call what does no harm, and that knows no other node."""
    node = Node(US, cookie="cookie", epmd=False, published=True, allow=["keyword"])
    node.add(Bridge(), name=Bridge.NAME)
    node._ids = itertools.count(100)
    with patch("pynode.dist.naming.new_creation", return_value=CREATION):
        node.start()
    return node


def stop() -> None:
    """Stop the node, if there is one; the next input starts another."""
    if _node.cache_info().currsize:
        _node().stop()
        _node.cache_clear()


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what the node logs of errors that are its own, and keep all else from being seen."""
    log = logging.getLogger("pynode")
    level, propagate, handler = log.level, log.propagate, _Complaints()
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)  # What is only seen then is formatted, too.
    log.propagate = False
    try:
        yield handler.records
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def seeds() -> list[bytes]:
    """Return what nodes have sent, and what callers ask for."""
    control = RegSend(Pid(Atom(THEM), 1, 0, CREATION), Atom(Bridge.NAME))
    head = b"\x83D\0" + etf.encode(control.to_term())[1:]
    frames = [head + payload for payload in vectors("bridge").values()]
    requests = [len(frame).to_bytes(4) + frame for frame in frames]
    streams = [data for data in vectors("channel_fragments").values() if len(data) < 4_000]
    return [*requests, *streams]


def check(data: bytes) -> None:
    """Be the peer that sends `data` and hangs up; run what it has asked for."""
    with _complaints() as complaints:
        _serve(_node(), data)
    assert not complaints, complaints[0]


def _serve(node: Node, data: bytes) -> None:
    # The process that the vectors are about, and what it waits for.
    node._ids = itertools.count(1)
    process = Process()
    process.trap_exit = True
    node.add(process)
    assert process.pid == ME
    node.signals.aliases[REFERENCE] = lambda _: None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(
            ours,
            peer=Atom(THEM),
            flags=DEFAULT,
            creation=CREATION,
            early_data=data,
            engine=node.engine,
            deliver=node.signals.deliver,
            down=lambda connection, _: node.signals.lost(connection),
        )
        node.signals.monitor(connection, ME, Atom("nobody"), REFERENCE, lambda _: None)
        theirs.shutdown(socket.SHUT_WR)
        while (task := connection.next_task()) is not None:
            _run(task)
    process.exit()


def _run(task: Task) -> None:
    # As the engine does it, without waiting for another thread.
    task.run()
