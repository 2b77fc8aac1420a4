"""CPU of a small call inside the node: what a BEAM sends is fed to it, on one thread, unsocketed.

``python -m benchmarks.inside`` prints microseconds of CPU a call, the best of several turns; with
``PYNODE_PURE=1`` those of the modules as Python runs them.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from pynode import Bridge, Node, gen
from pynode.dist.connection import Connection
from pynode.dist.engine import _Worker
from pynode.dist.epmd import EpmdServer
from pynode.protocol import control as cm
from pynode.protocol.channel import NEED_DATA, Channel
from pynode.protocol.flags import DEFAULT
from pynode.terms import Atom, Pid, Reference
from pynode.values import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

PEER = Atom("benchmark@127.0.0.1")
NAME = Atom(Bridge.NAME)
CALLS = 4096
#: Calls that arrive together, each from another caller.
CALLERS = 16
TURNS = 30


class _Socket:
    """Has what is to be received, a batch at a time, and takes what is sent."""

    def __init__(self, batches: list[bytes]) -> None:
        self._batches = iter(batches)

    def receive(self, buffer: memoryview) -> int:
        batch = next(self._batches, b"")
        buffer[: len(batch)] = batch
        return len(batch)

    def send(self, data: bytes, _flags: int) -> int:
        return len(data)

    def sendmsg(self, parts: list[bytes], _ancillary: object, _flags: int) -> int:
        return sum(map(len, parts))

    def shutdown(self, _how: int) -> None:
        pass

    def close(self) -> None:
        pass


def _tag(number: int) -> tuple[Pid, Reference]:
    return Pid(PEER, 100 + number % CALLERS, 0, 7), Reference(PEER, 7, (number, 2, 3))


def _request(number: int) -> bytes:
    pid, reference = _tag(number)
    request: Any = (Atom("call"), "math", "sqrt", [16], {})
    return encode((gen.CALL, (pid, gen.tag_of(reference)), request))


def _batches(*kinds: str) -> list[bytes]:
    """Return what a BEAM sends for all calls: each demonitor comes with what follows the answer."""
    channel = Channel(DEFAULT)
    batches = []
    late: list[Any] = []
    for first in range(0, CALLS, CALLERS):
        frames, late = late, []
        for number in range(first, first + CALLERS):
            pid, reference = _tag(number)
            if "monitor" in kinds:
                frames.append(channel.encode(cm.MonitorP(pid, NAME, reference)))
                late.append(channel.encode(cm.DemonitorP(pid, NAME, reference)))
            if "request" in kinds:
                frames.append(channel.encode(cm.RegSend(pid, NAME), _request(number)))
        batches.append(b"".join(frames))
    return batches


def _through_the_node(node: Node, batches: list[bytes]) -> None:
    near, far = socket.socketpair()
    with near, far:
        connection = Connection(
            near,
            peer=PEER,
            flags=DEFAULT,
            creation=7,
            early_data=b"",
            engine=node.engine,
            deliver=node.signals.deliver,
            down=lambda *_: None,
        )
        fed: Any = _Socket(batches)
        if connection._line is not None:
            connection._line.close()
        connection._line, connection._socket, connection._receive = None, fed, fed.receive
        _read(node, connection)


def _read(node: Node, connection: Connection) -> None:
    """Do as `Engine._read` does."""
    worker = _Worker(node.engine, 0)
    role = connection.role
    role.acquire()
    while (task := connection.next_task()) is not None:
        node.engine._enter(task)
        role.release()
        node.engine._run_lane(worker, task)
        role.acquire()


def _through_a_channel(batches: list[bytes]) -> None:
    channel = Channel(DEFAULT)
    for batch in batches:
        channel.receive_data(batch)
        while channel.next_event() is not NEED_DATA:
            pass


def _each(values: list[Any], function: Callable[[Any], object]) -> None:
    for value in values:
        function(value)


def _microseconds(function: Callable[[], object]) -> float:
    times = []
    for _ in range(TURNS):
        begin = time.thread_time()
        function()
        times.append(time.thread_time() - begin)
    return min(times) / CALLS * 1e6


def main() -> None:
    """Print the figures."""
    with EpmdServer(port=0) as epmd:
        os.environ["ERL_EPMD_PORT"] = str(epmd.port)
        with Node("inside@127.0.0.1", cookie="benchmark") as node:
            node.add(Bridge(), name=Bridge.NAME)
            whole, monitors = _batches("monitor", "request"), _batches("monitor")
            requests, answers = _batches("request"), [_answer(number) for number in range(CALLS)]
            payloads = [_request(number) for number in range(CALLS)]
            pid, alias = _tag(0)
            channel = Channel(DEFAULT)
            for what, function in {
                "a call, whole": lambda: _through_the_node(node, whole),
                "without monitor and demonitor": lambda: _through_the_node(node, requests),
                "monitor and demonitor alone": lambda: _through_the_node(node, monitors),
                "all frames read": lambda: _through_a_channel(whole),
                "the request decoded": lambda: _each(payloads, lambda one: decode(one, fun=repr)),
                "the answer encoded": lambda: _each(answers, encode),
                "its frame": lambda: _each(
                    payloads, lambda one: channel.encode(gen.reply_by(pid, pid, alias), one)
                ),
            }.items():
                print(f"{_microseconds(function):6.2f} µs  {what}")


def _answer(number: int) -> Any:
    return gen.tag_of(_tag(number)[1]), (Atom("ok"), 4.0)


if __name__ == "__main__":
    main()
