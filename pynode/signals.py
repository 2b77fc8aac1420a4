"""The signals between processes of this node and of others (erl_dist_protocol, "Control Messages").

What a peer sends comes in by `Signals.deliver`, and goes to the destination that it is for. What
this node has asked of others and will hear of again is kept here: the monitors on their processes,
and the requests to spawn. What others have asked of this node lives with the connection that it
came by (`Connection.monitors`, `Connection.links`), because a lost connection ends it: then each
monitor fires with ``noconnection``, once, and each link breaks.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pynode import etf
from pynode.dist.task import Task
from pynode.protocol import control as cm
from pynode.protocol.flags import DFlag
from pynode.show import current_traceback
from pynode.terms import Atom, Pid, Reference
from pynode.values import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pynode.destination import Destination
    from pynode.dist.connection import Connection
    from pynode.node import Node
    from pynode.protocol.channel import Message

log = logging.getLogger(__name__)

NOPROC = Atom("noproc")
NOCONNECTION = Atom("noconnection")
NOTSUP = Atom("notsup")

#: What is told when a monitor fires; it may return a task that is to be run.
OnDown: TypeAlias = "Callable[[Any], object]"
#: What is told that a process was spawned (its pid, and the flags of the reply), or why not.
OnSpawned: TypeAlias = "Callable[[Pid | Atom, int], None]"


class _Monitor:
    """A monitor of ours, or a request to spawn, which is answered before that fires."""

    __slots__ = ("connection", "on_down", "on_spawned", "sender", "target")

    def __init__(
        self,
        connection: Connection,
        sender: Pid,
        target: Pid | Atom | None,
        on_down: OnDown | None,
        on_spawned: OnSpawned | None = None,
    ) -> None:
        self.connection = connection
        self.sender = sender
        #: None for a process that is being spawned.
        self.target = target
        self.on_down = on_down
        self.on_spawned = on_spawned

    def spawned(self, pid: Pid) -> _Monitor:
        """Return the monitor on the process that was asked for."""
        return _Monitor(self.connection, self.sender, pid, self.on_down)


class Signals:
    """The destinations of a node, and what they have to do with processes elsewhere."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.destinations: dict[Pid, Destination] = {}
        self.names: dict[str, Destination] = {}
        #: Who waits for an answer that will be sent to this alias.
        self.aliases: dict[Reference, Callable[[Any], None]] = {}
        self._monitors: dict[Reference, _Monitor] = {}
        #: Requests to spawn that nobody waits for any more, and that were not answered yet.
        self._abandoned: dict[Reference, _Monitor] = {}
        self._lock = threading.RLock()

    # --- from here to there

    def monitor(
        self,
        connection: Connection,
        sender: Pid,
        target: Pid | Atom,
        reference: Reference,
        on_down: OnDown,
    ) -> None:
        """Have `sender` monitor a process of the node that `connection` leads to.

        Never blocks. `on_down(reason)` is called once, when the process is ``DOWN``. Of a node that
        knows no monitors, as C-nodes do not, the connection is monitored instead, as a BEAM does.
        """
        self._monitors[reference] = _Monitor(connection, sender, target, on_down)
        if _knows_monitors(connection):
            connection.send(cm.MonitorP(sender, target, reference))
        self._check(reference, connection)

    def demonitor(self, reference: Reference) -> bool:
        """Remove a monitor, or give up a request to spawn; False if it is over already."""
        with self._lock:
            monitor = self._monitors.pop(reference, None)
            if monitor is None:
                return False
            if monitor.target is None:
                # What is to be demonitored is not known before the peer has answered.
                self._abandoned[reference] = monitor
        if monitor.target is not None:
            if _knows_monitors(monitor.connection):
                control = cm.DemonitorP(monitor.sender, monitor.target, reference)
                monitor.connection.send(control)
        elif monitor.connection.ended is not None:
            self._abandoned.pop(reference, None)
        return True

    def monitored(self, references: Iterable[Reference]) -> list[Pid | tuple[Atom, Atom]]:
        """Return what these monitors are on, as `erlang:process_info/2` does."""
        found = [self._monitors.get(reference) for reference in references]
        return [
            m.target if isinstance(m.target, Pid) else (m.target, m.connection.peer)
            for m in found
            if m is not None and m.target is not None
        ]

    def spawn(
        self,
        connection: Connection,
        request: cm.SpawnRequest,
        payload: bytes,
        *,
        on_down: OnDown | None,
        on_spawned: OnSpawned | None = None,
    ) -> None:
        """Send a request to spawn, with its arguments; see `erlang:spawn_request/5`.

        `on_down` is called when the process is ``DOWN``, or was not spawned, and belongs to the
        option ``monitor``. A node that cannot spawn (a C-node) makes it ``notsup``.
        """
        reference = request.req_id
        monitor = _Monitor(connection, request.from_pid, None, on_down, on_spawned)
        if not connection.flags & DFlag.SPAWN:
            self._node.engine.submit(functools.partial(self._lose, monitor, NOTSUP))
            return
        self._monitors[reference] = monitor
        connection.send(request, payload)
        self._check(reference, connection)

    def _check(self, reference: Reference, connection: Connection) -> None:
        """Fire a new monitor if its connection was lost, and `lost` may not have seen it."""
        if connection.ended is not None:
            monitor = self._monitors.pop(reference, None)
            if monitor is not None:
                # The caller may hold a lock that those who are told will take.
                self._node.engine.submit(functools.partial(self._lose, monitor))

    def _lose(self, monitor: _Monitor, reason: Atom = NOCONNECTION) -> None:
        self._node.engine.run(_fire(monitor, reason))

    # --- the end of a connection

    def lost(self, connection: Connection) -> None:
        """Fire all monitors over a connection, and break all links."""
        # Without items(): thousands of new tuples would bring on a full garbage collection.
        for reference in list(self._monitors):
            monitor = self._monitors.get(reference)
            if monitor is not None and monitor.connection is connection:
                with self._lock:
                    found = self._monitors.pop(reference, None)
                if found is not None:
                    self._lose(found)
        for reference, monitor in list(self._abandoned.items()):
            if monitor.connection is connection:
                self._abandoned.pop(reference, None)
        for reference, (_, destination) in list(connection.monitors.items()):
            if connection.monitors.pop(reference, None) is not None:
                destination.demonitored(reference)
        for link in list(connection.links):
            connection.links.discard(link)
            destination, other = link
            self._node.engine.run(destination.exit_signal(other, NOCONNECTION, link=True))

    def note(self, connection: Connection) -> None:
        """A monitor or a link was added to a connection: see to it if that has just been lost."""
        if connection.ended is not None:
            self._node.engine.submit(functools.partial(self.lost, connection))

    # --- from there to here

    def find(self, to: Pid | Atom) -> Destination | None:
        """Return what has this pid or this name."""
        return self.destinations.get(to) if isinstance(to, Pid) else self.names.get(to)

    def deliver(self, connection: Connection, message: Message) -> Task | None:
        """Take what a peer has sent; return what is to be run for it, if anything."""
        handler = _HANDLERS.get(type(message.control))
        if handler is None:
            log.debug("%s from %s is not for us", message.control, connection.peer)
            return None
        return handler(self, connection, message.control, message.payload)

    def _on_reg_send(self, connection: Connection, m: Any, payload: Any) -> Task | None:
        destination = self.names.get(m.to_name)
        return None if destination is None else destination.deliver(connection, payload)

    def _on_send(self, connection: Connection, m: Any, payload: Any) -> Task | None:
        destination = self.destinations.get(m.to_pid)
        return None if destination is None else destination.deliver(connection, payload)

    def _on_alias_send(self, _connection: Connection, m: Any, payload: Any) -> None:
        answered = self.aliases.get(m.alias)
        if answered is not None:
            answered(self._node.decode(payload))

    def _on_monitor(self, connection: Connection, m: Any, _payload: Any) -> None:
        destination = self.find(m.to_proc)
        if destination is not None:
            connection.monitors[m.ref] = (m.from_pid, destination)
            if destination.monitored(connection, m):
                self.note(connection)
                return
            connection.monitors.pop(m.ref, None)
        post_down(connection, m.to_proc, m.from_pid, m.ref, encode(NOPROC))

    def _on_demonitor(self, connection: Connection, m: Any, _payload: Any) -> None:
        monitor = connection.monitors.pop(m.ref, None)
        if monitor is not None:
            monitor[1].demonitored(m.ref)

    def _on_monitor_exit(self, _connection: Connection, m: Any, payload: Any) -> Task | None:
        monitor = self._monitors.pop(m.ref, None)
        if monitor is None:
            return None
        return _fire(monitor, m.reason if payload is None else self._node.decode(payload))

    def _on_link(self, connection: Connection, m: Any, _payload: Any) -> None:
        destination = self.destinations.get(m.to_pid)
        if destination is None or not destination.linked(connection, m.from_pid):
            post_exit(connection, m.to_pid, m.from_pid, encode(NOPROC), link=True)

    def _on_unlink(self, connection: Connection, m: Any, _payload: Any) -> None:
        # First of all, since nothing that the process sends from here on may go ahead of it.
        connection.post(connection.encode(cm.UnlinkIdAck(m.id, m.to_pid, m.from_pid)))
        destination = self.destinations.get(m.to_pid)
        if destination is not None:
            destination.unlinked(connection, m.from_pid)

    def _on_unlink_ack(self, connection: Connection, m: Any, _payload: Any) -> None:
        destination = self.destinations.get(m.to_pid)
        if destination is not None:
            destination.unlink_acknowledged(connection, m.from_pid, m.id)

    def _exit_signal(self, m: Any, payload: Any, *, link: bool) -> Task | None:
        destination = self.destinations.get(m.to_pid)
        if destination is None:
            return None
        reason = m.reason if payload is None else self._node.decode(payload)
        return destination.exit_signal(m.from_pid, reason, link=link)

    def _on_exit(self, connection: Connection, m: Any, payload: Any) -> Task | None:
        connection.links.discard((self.destinations.get(m.to_pid), m.from_pid))
        return self._exit_signal(m, payload, link=True)

    def _on_exit2(self, _connection: Connection, m: Any, payload: Any) -> Task | None:
        return self._exit_signal(m, payload, link=False)

    def _on_group_leader(self, _connection: Connection, m: Any, _payload: Any) -> None:
        destination = self.destinations.get(m.to_pid)
        if destination is not None:
            destination.group_leader = m.from_pid

    def _on_spawn_request(self, connection: Connection, m: Any, payload: Any) -> Task | None:
        return self._node.spawn_for(connection, m, payload)

    def _on_spawn_reply(self, connection: Connection, m: Any, _payload: Any) -> Task | None:
        spawned = isinstance(m.result, Pid)
        with self._lock:
            given_up = self._abandoned.pop(m.req_id, None)
            monitor = self._monitors.pop(m.req_id, None)
            if monitor is not None and spawned and monitor.on_down is not None:
                self._monitors[m.req_id] = monitor.spawned(m.result)
        self._check(m.req_id, connection)
        if given_up is not None and spawned and m.flags & cm.SPAWN_MONITOR:
            control = cm.DemonitorP(given_up.sender, m.result, m.req_id)
            connection.post(connection.encode(control))
        if monitor is not None and spawned and monitor.on_spawned is not None:
            monitor.on_spawned(m.result, m.flags)
        return None if monitor is None or spawned else _fire(monitor, m.result)


_HANDLERS: Final[dict[type, Callable[[Signals, Connection, Any, Any], Task | None]]] = {
    cm.RegSend: Signals._on_reg_send,
    cm.RegSendTT: Signals._on_reg_send,
    cm.Send: Signals._on_send,
    cm.SendTT: Signals._on_send,
    cm.SendSender: Signals._on_send,
    cm.SendSenderTT: Signals._on_send,
    cm.AliasSend: Signals._on_alias_send,
    cm.AliasSendTT: Signals._on_alias_send,
    cm.MonitorP: Signals._on_monitor,
    cm.DemonitorP: Signals._on_demonitor,
    cm.MonitorPExit: Signals._on_monitor_exit,
    cm.PayloadMonitorPExit: Signals._on_monitor_exit,
    cm.Link: Signals._on_link,
    cm.UnlinkId: Signals._on_unlink,
    cm.UnlinkIdAck: Signals._on_unlink_ack,
    cm.Exit: Signals._on_exit,
    cm.ExitTT: Signals._on_exit,
    cm.PayloadExit: Signals._on_exit,
    cm.PayloadExitTT: Signals._on_exit,
    cm.Exit2: Signals._on_exit2,
    cm.Exit2TT: Signals._on_exit2,
    cm.PayloadExit2: Signals._on_exit2,
    cm.PayloadExit2TT: Signals._on_exit2,
    cm.GroupLeader: Signals._on_group_leader,
    cm.SpawnRequest: Signals._on_spawn_request,
    cm.SpawnRequestTT: Signals._on_spawn_request,
    cm.SpawnReply: Signals._on_spawn_reply,
    cm.SpawnReplyTT: Signals._on_spawn_reply,
}


def _fire(monitor: _Monitor, reason: Any) -> Task | None:
    """Tell who has asked; whatever that does, the connection goes on."""
    task = None
    try:
        if monitor.on_spawned is not None:
            monitor.on_spawned(reason, 0)
        elif monitor.on_down is not None:
            task = monitor.on_down(reason)
    except BaseException:  # noqa: BLE001 (sys.exit() as well: this thread is needed)
        log.error("what was to be called for a monitor raised:\n%s", current_traceback())
        return None
    return task if isinstance(task, Task) else None


def _knows_monitors(connection: Connection) -> bool:
    wanted = DFlag.DIST_MONITOR | DFlag.DIST_MONITOR_NAME
    return connection.flags & wanted == wanted


def post_down(
    connection: Connection, target: Pid | Atom, watcher: Pid, reference: Reference, reason: bytes
) -> None:
    """Queue the ``DOWN`` for a monitor on `target`, with an encoded reason."""
    if connection.flags & DFlag.EXIT_PAYLOAD:
        signal: cm.ControlMessage = cm.PayloadMonitorPExit(target, watcher, reference)
        connection.post(connection.encode(signal, reason))
    else:
        signal = cm.MonitorPExit(target, watcher, reference, etf.decode_at(reason, 0)[0])
        connection.post(connection.encode(signal))


def post_exit(connection: Connection, sender: Pid, to: Pid, reason: bytes, *, link: bool) -> None:
    """Queue an exit signal with an encoded reason: that of a `link`, or of an exit/2."""
    with_payload = cm.PayloadExit if link else cm.PayloadExit2
    if connection.flags & DFlag.EXIT_PAYLOAD:
        connection.post(connection.encode(with_payload(sender, to), reason))
    else:
        plain = cm.Exit if link else cm.Exit2
        connection.post(connection.encode(plain(sender, to, etf.decode_at(reason, 0)[0])))
