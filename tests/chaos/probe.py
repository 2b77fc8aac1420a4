"""What a Python node has for this test: objects that are counted, and a way to look inside.

``pynode serve --setup tests.chaos.probe:setup`` loads it. It answers at the Unix socket that
``CHAOS_SOCKET`` names, which no cut cable concerns.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import Counter
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pynode import Node
    from pynode.bridge import Bridge
    from pynode.terms import Atom, Pid, Reference

# --- what requests call

_living: weakref.WeakSet[Thing] = weakref.WeakSet()
_held: dict[str, threading.Event] = {}
_held_lock = threading.Lock()


class Thing:
    """An object that is counted as long as Python has it, and as long as it is entered."""

    entered = 0

    def __init__(self) -> None:
        _living.add(self)

    def ping(self) -> str:
        return "pong"

    def twin(self) -> Thing:
        return Thing()

    def __enter__(self) -> None:
        Thing.entered += 1

    def __exit__(self, *_: object) -> None:
        Thing.entered -= 1


def hold(key: str) -> Thing:
    """Run until `let_go`, or until it is interrupted, and return a new object."""
    event = _event(key)
    while not event.is_set():
        time.sleep(0.005)  # An interrupt comes between two of these.
    return Thing()


def _event(key: str) -> threading.Event:
    with _held_lock:
        return _held.setdefault(key, threading.Event())


# --- what the test asks

_LIMITS = ("ttl_seconds", "max_refs", "grace_seconds")


class SessionView(NamedTuple):
    """A session as the registry has it."""

    owners: set[Pid]
    refs: set[Reference]
    settings: dict[str, float]


class View(NamedTuple):
    """Everything that must agree at a quiet moment."""

    sessions: dict[str, SessionView]
    #: As `Registry.counts` says, and Bridge.calls.
    counts: tuple[int, ...]
    calls: int
    absent: set[Pid]
    #: Whom the bridge watches, and how many monitors that takes.
    watched: set[Pid]
    monitors: int
    #: Monitors of others on processes of this node.
    monitored: list[Pid]
    #: Objects that the registry has, those that Python has, and how often they are entered.
    things: int
    living: int
    entered: int
    entered_in_registry: int
    threads: Counter[str]


class _Probe:
    def __init__(self, node: Node, bridge: Bridge) -> None:
        self.node = node
        self.bridge = bridge

    def view(self) -> View:
        registry = self.bridge.registry
        entries = [entry for s in registry.sessions() for entry in (*s.objects, *s.exceptions)]
        things = [entry for entry in entries if isinstance(entry.obj, Thing)]
        signals = self.node.signals
        return View(
            {
                s.id: SessionView(
                    set(s.owners),
                    {entry.reference for entry in entries if entry.session is s},
                    {name: getattr(s, name) for name in _LIMITS},
                )
                for s in registry.sessions()
            },
            tuple(registry.counts()),
            len(self.bridge.underway.calls),
            set(registry.absent()),
            set(self.bridge._watches),
            len(signals._monitors) + len(signals._abandoned),
            [
                pid
                for c in map(self.node.connection, self.node.nodes())
                if c
                for pid, _ in c.monitors.values()
            ],
            len(things),
            len(_living),
            Thing.entered,
            sum(entry.entered for entry in things),
            Counter(t.name.rstrip("-0123456789") for t in threading.enumerate()),
        )

    def nodes(self) -> list[Atom]:
        return self.node.nodes()

    def disconnect(self, peer: Atom) -> bool:
        return self.node.disconnect(peer)

    def let_go(self, key: str) -> None:
        _event(key).set()

    def serve(self, connection: Connection) -> None:
        while True:
            try:
                name, args = connection.recv()
            except (EOFError, OSError):
                return
            try:
                connection.send(getattr(self, name)(*args))
            except Exception as error:  # noqa: BLE001 (who asks shall see it)
                connection.send(error)


def setup(node: Node) -> None:
    """Answer at the socket, as long as the node runs."""
    bridge: Any = node.signals.names["snakebridge"]
    listener = Listener(os.environ["CHAOS_SOCKET"], "AF_UNIX")
    probe = _Probe(node, bridge)

    def serve() -> None:
        while True:
            probe.serve(listener.accept())

    threading.Thread(target=serve, name="probe", daemon=True).start()


def connect(path: str) -> Connection:
    """Return a connection to the probe at a socket."""
    return Client(path, "AF_UNIX")


def ask(connection: Connection, name: str, *args: object) -> Any:
    """Have a probe call one of its methods."""
    connection.send((name, args))
    answer = connection.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer
