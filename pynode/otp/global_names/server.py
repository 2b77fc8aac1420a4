"""The process ``global_name_server``: the exchange of names, and what others ask (`global.erl`)."""

from __future__ import annotations

import functools
import itertools
import logging
import secrets
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from pynode import gen
from pynode.errors import NodeUnavailableError, PynodeError
from pynode.otp.global_names.conflicts import resolve_conflict
from pynode.otp.global_names.locker import Cancel, Him, Known, Locker, LockSet
from pynode.otp.global_names.locks import SERVER
from pynode.otp.global_names.tables import GLOBAL, Name, Tables
from pynode.process import DOWN, Spawned
from pynode.protocol import control as cm
from pynode.protocol.flags import DFlag
from pynode.show import short
from pynode.terms import Atom, Pid, Reference, exact
from pynode.values import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pynode.dist.connection import Connection
    from pynode.dist.task import Task

log = logging.getLogger(__name__)

#: The version of the protocol that this node speaks.
_VERSION = 8
#: Since which version each side makes sure that both mean the same session.
_VERIFIED = 8
#: Since which version nodes tell each other of lost connections, and of their versions.
_PREVENTS_PARTITIONS = 7
#: How many lost connections are remembered, and for how many seconds at least.
_LOST = 10_000
_LOST_SECONDS = 3_600.0

_INSERT, _DELETE = Atom("insert"), Atom("delete")
_VSN, _LOCK, _UNUSED = Atom("vsn"), Atom("lock"), Atom("unused")
_LOCKER, _NO_PID = Atom("locker"), Atom("no_longer_a_pid")
_INIT_CONNECT, _INIT_CONNECT_ACK = Atom("init_connect"), Atom("init_connect_ack")
_CANCEL_CONNECT, _IN_SYNC = Atom("cancel_connect"), Atom("in_sync")
_EXCHANGE, _RESOLVED, _NEW_NODES = Atom("exchange"), Atom("resolved"), Atom("new_nodes")
_LOST_CONNECTION, _REMOVE_CONNECTION = Atom("lost_connection"), Atom("remove_connection")
_YES, _OK, _IS_KNOWN = Atom("yes"), Atom("ok"), Atom("true")


#: What handles a message, by its name and its number of fields, and the types of these.
_Handlers: TypeAlias = "dict[tuple[str, int], tuple[Callable[..., None], tuple[Any, ...]]]"


class _Session:
    """The exchange of names with one node, from ``nodeup`` until both sides are one."""

    def __init__(self, my_tag: int) -> None:
        self.my_tag = my_tag
        self.his_tag: Any = None
        self.version = 0
        #: In whose name the lock is set on both sides; None before it is.
        self.lock_requester: Any = None
        #: The names of the other side, if they have come.
        self.his_names: list[Any] | None = None
        #: What is to be changed on this side, when that is known.
        self.changes: list[Any] | None = None
        #: What the other side has decided, if that has come.
        self.his_decision: tuple[Any, Any, Any] | None = None


def _nothing() -> None:
    """What is to be done before a lock is given back, as a rule."""


class GlobalNameServer(Spawned):
    """The server; a published node has one."""

    NAME = SERVER

    def __init__(self) -> None:
        super().__init__(self._run)
        self.trap_exit = True
        self.tables = Tables(self._monitor, self.demonitor)
        #: The nodes that are in one partition with this one, and the version that each speaks.
        self._known: dict[str, int] = {}
        #: Nodes that a session has begun with.
        self._pending: dict[str, int] = {}
        #: Nodes whose connections are being closed on purpose.
        self._removing: set[str] = set()
        self._visible: set[str] = set()
        self._sessions: dict[str, _Session] = {}
        #: Sessions that began over there before ``nodeup`` came here.
        self._early: dict[str, tuple[Any, ...]] = {}
        self._synced: set[str] = set()
        #: Which losses of connections were passed on: who has lost whom.
        self._lost: dict[tuple[str, str], tuple[int, int, float]] = {}
        self._tags = itertools.count(1)
        self._instance = secrets.randbits(27) << 32
        self._locker = Locker(self)

    def attached(self) -> Task:
        """See `Destination.attached`."""
        self.node.subscribe(self, self._node_event)
        self.node.engine.run(self.node.attach(self._locker))
        return super().attached()

    def known_nodes(self) -> list[str]:
        """Return the other nodes that have the same names."""
        return list(self._known)

    # --- its mailbox: what others have sent, and functions that are to run on its thread

    def deliver(self, connection: Connection, payload: bytes) -> Task | None:
        """See `Destination.deliver`."""
        # Structs and funs stay what they are: they are passed on.
        message = decode(payload, fun=lambda fun: fun, struct=lambda fields: fields)
        return self.take(functools.partial(self._handle, connection, message))

    def _node_event(self, up: bool, peer: Atom) -> Task | None:  # noqa: FBT001
        return self.take(functools.partial(self._nodeup if up else self._nodedown, peer))

    def _run(self) -> None:
        while True:
            message = self.receive()
            try:
                if isinstance(message, functools.partial):
                    message()
                elif message[0] == DOWN:  # else an exit signal, which is of no matter
                    self.tables.down(message[1])
            except Exception:
                log.exception("internal error in %s; please report it", self)

    def _handle(self, connection: Connection, message: Any) -> None:
        match message:
            case (Atom("$gen_call"), (Pid() as caller, tag), request):
                reply = self._answer(request, caller)
                control = gen.reply_to(self.pid, caller, tag)
                connection.send(control, encode((tag, reply)))
            case (Atom("$gen_cast"), (Atom() as kind, *rest)):
                self._dispatch(_CASTS, kind, rest)
            case (Atom() as kind, *rest):
                self._dispatch(_MESSAGES, kind, rest)
            case _:
                log.debug("global_name_server ignored %s", short(message))

    def _dispatch(self, handlers: _Handlers, kind: Atom, fields: list[Any]) -> None:
        handler, types = handlers.get((kind, len(fields)), (None, ()))
        if handler is not None and all(map(isinstance, fields, types)):
            handler(self, *fields)
        else:
            log.debug("global_name_server ignored %s", short((kind, *fields)))

    def _answer(self, request: Any, caller: Pid) -> Any:
        match request:
            case (Atom("set_lock"), (resource, requester)):
                return self.tables.lock(resource, requester, caller)
            case (Atom("del_lock"), (resource, requester)):
                self.tables.unlock(resource, requester, caller)
                return True
            case (Atom("register"), name, Pid() as pid, method):
                self._insert(Name(name, pid, method), self.tables.still_locked_by(caller))
                return _YES
            case (Atom("register_ext"), name, Pid() as pid, method, Atom() as by):
                self._insert(Name(name, pid, method, by), self.tables.still_locked_by(caller))
                return _YES
            case (Atom("unregister"), name):
                self.tables.delete(name)
                return _OK
            case Atom("get_known"):
                return self.known_nodes()
            case Atom("get_synced"):
                return list(self._synced)
            case Atom("get_protocol_version"):
                return _VERSION
            case Atom("get_names_ext"):
                return self._names_ext()
        return (Atom("error"), Atom("badarg"))

    def _names_ext(self) -> list[Any]:
        """Return what was registered for processes of C-nodes, and by which node."""
        return [(n.name, n.pid, n.by) for n in self.tables.names() if n.by is not None]

    def _cast(self, peer: str, *message: Any) -> None:
        self._send(peer, (gen.CAST, message))

    def _send(self, peer: str, message: Any) -> None:
        """Send a message to the server of a node, if there is a connection."""
        connection = self.node.connection(peer)
        if connection is not None:
            connection.send(cm.RegSend(self.pid, SERVER), encode(message))

    def _monitor(self, pid: Pid) -> Reference | None:
        try:
            return self.monitor(pid)
        except NodeUnavailableError:
            return None

    # --- a session begins

    def _nodeup(self, peer: str) -> None:
        connection = self.node.connection(peer)
        if connection is None or not connection.flags & DFlag.PUBLISHED:
            return
        self._visible.add(peer)
        self._begin(peer)

    def _begin(self, peer: str) -> None:
        if peer in self._known or peer in self._sessions:
            return
        session = self._sessions[peer] = _Session(next(self._tags))
        locker: Any = (_LOCKER, _NO_PID, {}, self._locker.pid)
        self._cast(peer, _INIT_CONNECT, (_VERSION, session.my_tag), self.node.name, locker)
        early = self._early.pop(peer, None)
        if early is not None:
            self._init_connect(*early)

    def _init_connect(self, version: Any, peer: Atom, greeting: Any) -> None:
        match version, greeting:
            case (int() as his_version, his_tag, *_), (Atom("locker"), _, _, Pid() as his_locker):
                pass
            case _:
                return
        if peer in self._pending:
            # The two of us do not mean the same session: begin again.
            self._tell_cancelled(peer, his_tag)
            self._restart(peer)
            return
        session = self._sessions.get(peer)
        if session is None:
            if self.node.connection(peer) is not None:
                self._early[peer] = (version, peer, greeting)
            return
        session.version, session.his_tag = min(his_version, _VERSION), his_tag
        self._locker.take(Him(his_locker, session.version, session.my_tag, his_tag))
        if his_version >= _VERIFIED:
            self._send(peer, (_INIT_CONNECT_ACK, self.node.name, his_tag, session.my_tag))
        self._pending[peer] = his_version

    def _init_connect_ack(self, peer: Atom, my_tag: Any, his_tag: Any) -> None:
        session = self._sessions.get(peer)
        if session is None or (session.my_tag, session.his_tag) != (my_tag, his_tag):
            self._tell_cancelled(peer, his_tag)
            self._restart(peer)

    def _cancel_connect(self, peer: Atom, my_tag: Any) -> None:
        session = self._sessions.get(peer)
        if session is not None and session.my_tag == my_tag:
            self._pending.pop(peer, None)
            self._restart(peer)

    def _restart(self, peer: str) -> None:
        """End a session that only one side has, and begin another."""
        if self._end(peer) is not None:
            self.tables.forget(peer)
            self._begin(peer)

    def _end(self, peer: str, then: Callable[[], object] = _nothing) -> _Session | None:
        """End the session with `peer`, if there is one; its lock is given back after `then`."""
        self._early.pop(peer, None)
        version = self._pending.pop(peer, 0)
        session = self._sessions.pop(peer, None)
        if session is not None:
            self._locker.take(Cancel(peer, session.my_tag, then))
            if version >= _VERIFIED:
                self._tell_cancelled(peer, session.his_tag)
        return session

    def _tell_cancelled(self, peer: str, his_tag: Any) -> None:
        self._send(peer, (_CANCEL_CONNECT, self.node.name, his_tag))

    # --- the lock is set on both sides: names are exchanged

    def _lock_set(self, pid: Pid, success: bool, _his_known: Any, my_tag: Any = None) -> None:  # noqa: FBT001
        session = self._sessions.get(pid.node)
        if my_tag is None or (session is not None and session.my_tag == my_tag):
            self._locker.take(LockSet(pid, success, my_tag))

    def _current(self, peer: str, my_tag: Any) -> _Session | None:
        """Return the session that a message is about; if it is over, have its lock given back."""
        session = self._sessions.get(peer)
        if session is not None and session.my_tag == my_tag:
            return session
        self._locker.take(Cancel(peer, my_tag, _nothing))
        return None

    def lock_is_set(self, peer: str, my_tag: Any, requester: Any) -> None:
        """Go on with the session: both lockers have succeeded. To be run on the server's thread."""
        session = self._current(peer, my_tag)
        if session is not None:
            session.lock_requester = requester
            names = [(entry.name, entry.pid, entry.method) for entry in self.tables.names()]
            self._cast(peer, _EXCHANGE, self.node.name, names, [], session.his_tag)
            self._compare(peer, session)

    def _exchange(self, peer: Atom, names: list[Any], _names_ext: Any, my_tag: Any) -> None:
        session = self._current(peer, my_tag)
        if session is not None:
            session.his_names = names
            self._compare(peer, session)

    def _compare(self, peer: str, session: _Session) -> None:
        """Decide about the names of the other side, if all is there to do so."""
        names = session.his_names
        if names is not None and session.lock_requester is not None:
            session.his_names = None
            # It may ask other nodes.
            compare = functools.partial(self._find_changes, peer, session.my_tag, names)
            self.node.engine.submit(compare)

    def _find_changes(self, peer: str, my_tag: int, names: list[Any]) -> None:
        """Find out what each side has to change; not on the server's thread."""
        mine: list[Any] = []
        his: list[Any] = []
        for name, pid, method in names:
            insert = (_INSERT, (name, pid, method))
            own = self.tables.find(name)
            if own is None:
                mine.append(insert)
            elif own.pid != pid and self.node.name < peer:
                # Of the two nodes, the smaller one decides.
                kept = self._resolve(own, pid)
                if kept == pid:
                    mine.append(insert)
                elif kept == own.pid:
                    his.append((_INSERT, (own.name, own.pid, own.method)))
                else:
                    mine.append((_DELETE, name))
                    his.append((_DELETE, name))
        self.take(functools.partial(self._decided, peer, my_tag, mine, his))

    def _resolve(self, own: Name, pid: Pid) -> Any:
        """Return which of two processes keeps a name; the node of `own` is asked."""
        request = [own.method, own.name, pid, own.pid]
        try:
            if own.pid.node == self.node.name:
                return resolve_conflict(self.node, own.method, own.name, pid, own.pid)
            return self.node.erpc(own.pid.node, "global", "resolve_it", request, timeout=None)
        except PynodeError as error:
            log.info("nobody could decide who keeps the name %s: %s", short(own.name), error)
            return pid

    def _decided(self, peer: str, my_tag: int, mine: list[Any], his: list[Any]) -> None:
        session = self._current(peer, my_tag)
        if session is None:
            return
        known: list[Any] = list(self._known.items())
        if session.version < _PREVENTS_PARTITIONS:
            known = self.known_nodes()
        session.changes = mine
        names_ext = self._names_ext()
        self._cast(peer, _RESOLVED, self.node.name, his, known, _UNUSED, names_ext, session.his_tag)
        self._unite(peer, session)

    def _resolved(
        self,
        peer: Atom,
        changes: list[Any],
        his_known: list[Any],
        _unused: Any,
        names_ext: list[Any],
        my_tag: Any,
    ) -> None:
        session = self._current(peer, my_tag)
        if session is not None:
            session.his_decision = (changes, his_known, names_ext)
            self._unite(peer, session)

    def _unite(self, peer: str, session: _Session) -> None:
        """Make the two sides one, if both have decided."""
        if session.changes is None or session.his_decision is None:
            return
        his_changes, his_known, names_ext = session.his_decision
        changes = session.changes + his_changes
        before = dict(self._known)
        new = self._with_versions([peer, *his_known])
        his_side = [node for node, _ in new[1:]]
        self._sync_with(his_side)
        extra = [(_VSN, session.version), (_LOCK, (GLOBAL, session.lock_requester))]
        self._apply(changes, names_ext, extra)
        for node in his_side:
            self._pending.pop(node, None)
            self._end(node)

        def tell_others() -> None:
            for node, version in before.items():
                nodes: list[Any] = new
                if version < _PREVENTS_PARTITIONS:
                    nodes = [name for name, _ in new]
                message = (_NEW_NODES, self.node.name, changes, names_ext, nodes, extra)
                self._cast(node, *message)

        self._pending.pop(peer, None)
        # The others hear of it before the lock is given back.
        self._end(peer, tell_others)
        self._add_known(new)
        self._synced.add(peer)
        log.debug("global is in sync with %s", peer)

    def _with_versions(self, nodes: Iterable[Any]) -> list[tuple[Atom, int]]:
        """Return nodes that came with a version, or without, each with its version, if known."""
        found = []
        for item in nodes:
            node, version = item if type(item) is tuple else (item, 0)
            found.append((node, version or self._known.get(node) or self._pending.get(node, 0)))
        return found

    def _add_known(self, nodes: Iterable[tuple[str, int]]) -> list[str]:
        """Note nodes of this side; return those that were not known."""
        added = []
        for node, version in nodes:
            if node != self.node.name and node not in self._known:
                self._known[node] = version
                added.append(node)
        self._locker.take(Known(added, known=True))
        return added

    def _new_nodes(
        self,
        _peer: Atom,
        changes: list[Any],
        names_ext: list[Any],
        nodes: list[Any],
        extra: list[Any],
    ) -> None:
        """A node of this side has found others."""
        self._sync_with(self._add_known(self._with_versions(nodes)))
        self._apply(changes, names_ext, extra)

    def _in_sync(self, peer: Atom, _is_known: Any) -> None:
        """A node that was new to this side has heard of it."""
        self._synced.add(peer)
        self._pending.pop(peer, None)
        self._end(peer)

    def _sync_with(self, peers: Iterable[str]) -> None:
        """Connect to nodes, and tell them that they are known here."""
        for peer in peers:
            self.node.engine.submit(functools.partial(self._sync_with_one, peer))

    def _sync_with_one(self, peer: str) -> None:
        try:
            self.node.connect(peer)
        except NodeUnavailableError as error:
            log.warning("global: %s", error)
            self.take(functools.partial(self._nodedown, peer))
            return
        self._cast(peer, _IN_SYNC, self.node.name, _IS_KNOWN)

    # --- names

    def _insert(self, name: Name, locked: bool) -> None:  # noqa: FBT001
        self.tables.insert(name)
        if not locked:
            # Whoever had the lock is gone, and so is the change.
            self.tables.delete(name.name)

    def _apply(self, changes: list[Any], names_ext: list[Any], extra: list[Any]) -> None:
        """Change names as two sides have agreed."""
        by = {exact((name, pid)): node for name, pid, node in names_ext}
        lock = next((pair[1] for pair in extra if type(pair) is tuple and pair[0] == _LOCK), None)
        locked = (
            type(lock) is tuple and exact(lock[0]) == exact(GLOBAL)
        ) and self.tables.still_locked_for(lock[1])
        for change in changes:
            match change:
                case (Atom("insert"), (name, Pid() as pid, method)):
                    self._insert(Name(name, pid, method, by.get(exact((name, pid)))), locked)
        for change in changes:
            match change:
                case (Atom("delete"), name):
                    self.tables.delete(name)

    # --- nodes that are lost

    def _nodedown(self, peer: str) -> None:
        """The connection with `peer` is lost, or could not be made."""
        self._early.pop(peer, None)
        if peer not in self._visible and peer not in self._known:
            return
        self._visible.discard(peer)
        if peer in self._removing:
            self._removing.discard(peer)
        else:
            self._multicast(
                (
                    _LOST_CONNECTION,
                    self.node.name,
                    self._instance + self.node.creation,
                    next(self._tags),
                    Atom(peer),
                ),
                but=peer,
            )
        self._forget(peer)

    def _forget(self, peer: str) -> None:
        self._pending.pop(peer, None)
        self._end(peer)
        self._locker.take(Known([peer], known=False))
        self._known.pop(peer, None)
        self._synced.discard(peer)

    def _multicast(self, message: tuple[Any, ...], *, but: str) -> None:
        """Send to the servers of all nodes of this side, and of those that a session is with."""
        for peer, version in [*self._known.items(), *self._pending.items()]:
            if peer != but and version >= _PREVENTS_PARTITIONS:
                self._send(peer, message)

    def _lost_connection(self, one: Atom, instance: int, number: int, other: Atom) -> None:
        """The node `one` has lost `other`, and so does everybody."""
        last = self._lost.get((one, other))
        if last is not None and last[0] == instance and number <= last[1]:
            return
        self._multicast((_LOST_CONNECTION, one, instance, number, other), but=one)
        self._remember_lost(one, other, instance, number)
        leaving = one if other == self.node.name else other
        if leaving not in self._known and leaving not in self._pending:
            return
        log.warning(
            "global has asked %s to disconnect, because %s has lost %s: else each of them would "
            "be in a cluster that the other is not in",
            *(leaving, one, other),
        )
        if self._version_of(leaving) < _PREVENTS_PARTITIONS:
            self._disconnect(leaving)
        else:
            self._send(leaving, (_REMOVE_CONNECTION, self.node.name))
        self._removing.add(leaving)
        self._forget(leaving)

    def _remember_lost(self, one: Atom, other: Atom, instance: int, number: int) -> None:
        now = time.monotonic()
        self._lost.pop((one, other), None)
        self._lost[one, other] = (instance, number, now)
        for key, (_, _, since) in list(self._lost.items()):
            if now - since < _LOST_SECONDS and len(self._lost) <= _LOST:
                break
            del self._lost[key]

    def _remove_connection(self, peer: Atom) -> None:
        """The node `peer` wants to be disconnected, to prevent overlapping partitions."""
        if peer in self._known or peer in self._pending:
            log.warning("global disconnects from %s, which has asked for that", peer)
            self._disconnect(peer)
            self._removing.add(peer)
            self._forget(peer)

    def _version_of(self, peer: str) -> int:
        return self._known.get(peer) or self._pending.get(peer, 0)

    def _disconnect(self, peer: str) -> None:
        self.node.engine.submit(functools.partial(self.node.disconnect, peer))


#: What comes as `gen_server:cast/2`.
_CASTS: _Handlers = {
    ("init_connect", 3): (GlobalNameServer._init_connect, (tuple, Atom, tuple)),
    ("lock_set", 3): (GlobalNameServer._lock_set, (Pid, bool, object)),
    ("lock_set", 4): (GlobalNameServer._lock_set, (Pid, bool, object, object)),
    ("exchange", 4): (GlobalNameServer._exchange, (Atom, list, object, object)),
    ("resolved", 6): (GlobalNameServer._resolved, (Atom, list, list, object, list, object)),
    ("new_nodes", 5): (GlobalNameServer._new_nodes, (Atom, list, list, list, list)),
    ("in_sync", 2): (GlobalNameServer._in_sync, (Atom, object)),
}
#: What comes as a message.
_MESSAGES: _Handlers = {
    ("init_connect_ack", 3): (GlobalNameServer._init_connect_ack, (Atom, object, object)),
    ("cancel_connect", 2): (GlobalNameServer._cancel_connect, (Atom, object)),
    ("lost_connection", 4): (GlobalNameServer._lost_connection, (Atom, int, int, Atom)),
    ("remove_connection", 1): (GlobalNameServer._remove_connection, (Atom,)),
}
