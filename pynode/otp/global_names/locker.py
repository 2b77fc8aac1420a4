"""The process that sets the lock for names on this node's side, when another side comes along.

Both nodes have such a process, and each of the two begins, in its time, with a node of its choice:
it locks its own side and that node, and asks the other's process to do the same. If that succeeds
as well, both servers are told, and the lock stays until they are done (`global.erl`, "The locker is
a satellite process"). It blocks while it waits for locks, as the server must not.
"""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from pynode.errors import PynodeError, ReceiveTimeoutError
from pynode.otp.global_names.locks import SERVER, del_lock, delete_global_lock, set_lock
from pynode.otp.global_names.tables import GLOBAL
from pynode.process import Spawned
from pynode.terms import Atom, Pid

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.otp.global_names.server import GlobalNameServer

_LOCK_SET = Atom("lock_set")
#: The version of the protocol from which messages have the tag of the session that they belong to.
_TAGGED = 8
#: The version before that of this node's servers, which lockers sent to each other themselves.
_DIRECT = 5


class Him(NamedTuple):
    """The locker of a node that has connected."""

    pid: Pid
    version: int
    my_tag: Any
    his_tag: Any


class Cancel(NamedTuple):
    """A session with `node` is over; `then` is called before its lock is given back."""

    node: str
    my_tag: Any
    then: Callable[[], object]


class LockSet(NamedTuple):
    """The other locker has set the lock on its side, or has not. Old versions give no tag."""

    pid: Pid
    success: bool
    my_tag: Any


class Known(NamedTuple):
    """These nodes are known from now on, or not any more."""

    nodes: list[str]
    known: bool


class Locker(Spawned):
    """The process; the server puts what is above into its mailbox."""

    def __init__(self, server: GlobalNameServer) -> None:
        super().__init__(self._run)
        self.trap_exit = True
        self._server = server
        self._others: list[Him] = []
        self._known: list[str] = []
        #: Whether it has just succeeded, and need not leave the lock to others for a while.
        self._eager = False

    def _run(self) -> None:
        while True:
            try:
                self._handle(self.receive(timeout=0))
            except ReceiveTimeoutError:
                pause, self._eager = self._pause(), False
                try:
                    self._handle(self.receive(timeout=pause))
                except ReceiveTimeoutError:
                    if not self._server.tables.names_are_locked():
                        self._begin()

    def _pause(self) -> float | None:
        """Return how many seconds to wait for others before beginning something."""
        if not self._others:
            return None
        if self._eager:
            return 0
        return min(1 + 0.1 * len(self._known), 3) if self._known else 0.2

    def _handle(self, message: Any) -> None:
        match message:
            case Him():
                self._others.append(message)
            case Cancel(node, my_tag):
                self._forget(node, my_tag)
            case Known():
                self._update(message)
            case LockSet(_, True):
                self._join(message)
            # A LockSet with False has come too late, and anything else is a stranger's.

    def _forget(self, node: str, my_tag: Any) -> None:
        self._others = [him for him in self._others if him.pid.node != node or him.my_tag != my_tag]

    def _update(self, change: Known) -> None:
        self._known = [node for node in self._known if node not in change.nodes]
        if change.known:
            self._known += change.nodes

    # --- the lock on both sides

    def _begin(self) -> None:
        """Lock this side and a node of the other, and ask that to lock its side."""
        self._others = [him for him in self._others if him.pid.node not in self._known]
        if not self._others:
            return
        him = random.choice(self._others)  # noqa: S311 (nobody gains by knowing it)
        lock = self._lock_with(him.pid)
        # To lock his node, too, keeps both from waiting for each other.
        if not self._lock_safely(lock, [him.pid.node]):
            return
        locked = [him.pid.node, self.node.name, *self._known]
        self._tell(him, success=True)

        def is_for_us(message: Any) -> bool:
            if isinstance(message, LockSet):
                return message.pid.node == him.pid.node and message.my_tag in (him.my_tag, None)
            return isinstance(message, Cancel) and message[:2] == (him.pid.node, him.my_tag)

        answer = self.receive(is_for_us)
        if isinstance(answer, LockSet) and answer.success:
            self._hold(him, lock, locked)
            return
        if isinstance(answer, Cancel):
            answer.then()
            self._forget(answer.node, answer.my_tag)
        delete_global_lock(self.node, lock, locked)

    def _join(self, message: LockSet) -> None:
        """Lock this side, as the other has locked its own."""
        for him in self._others:
            if him.pid.node == message.pid.node and message.my_tag in (him.my_tag, None):
                break
        else:
            him = Him(message.pid, _DIRECT, None, None)
            self._tell(him, success=False)
            return
        lock = self._lock_with(message.pid)
        success = self._lock_safely(lock, [])
        self._tell(him, success=success)
        if success:
            self._hold(him, lock, [self.node.name, *self._known])

    def _hold(self, him: Him, lock: tuple[Any, Any], locked: list[str]) -> None:
        """Tell the server that both sides have the lock, and give it back when that is done."""
        server, session = self._server, (him.pid.node, him.my_tag)
        server.take(functools.partial(server.lock_is_set, *session, lock[1]))
        cancel: Cancel = self.receive(lambda m: isinstance(m, Cancel) and m[:2] == session)
        cancel.then()
        delete_global_lock(self.node, lock, locked)
        self._eager = True
        self._forget(*session)

    def _lock_with(self, other: Pid) -> tuple[Any, Any]:
        """Return the lock that both sides set in the name of both; both sort them alike."""
        pids = sorted((self.pid, other), key=lambda p: (p.serial, p.id, p.node, p.creation))
        return (GLOBAL, pids)

    def _lock_safely(self, lock: tuple[Any, Any], extra: list[str]) -> bool:
        """Set the lock on all nodes of this side and on `extra`, or on none of them."""
        node, tables = self.node, self._server.tables
        boss = max([node.name, *self._known])
        if boss != node.name and not tables.can_lock(*lock):
            return False
        # Whoever wants to lock this side begins with the boss.
        if not set_lock(node, tables, lock, [boss]):
            return False
        self._take_in_changes()
        second = [peer for peer in (node.name, *extra) if peer != boss]
        if set_lock(node, tables, lock, second):
            if set_lock(node, tables, lock, [peer for peer in self._known if peer != boss]):
                return True
            del_lock(node, lock, second)
        del_lock(node, lock, [boss])
        return False

    def _take_in_changes(self) -> None:
        try:
            while True:
                self._update(self.receive(lambda m: isinstance(m, Known), timeout=0))
        except ReceiveTimeoutError:
            pass

    def _tell(self, him: Him, *, success: bool) -> None:
        """Tell the other locker whether the lock is set on this side."""
        message: tuple[Any, ...] = (_LOCK_SET, self.pid, success, self._known)
        if him.version >= _TAGGED:
            message = (*message, him.his_tag)
        try:
            if him.version == _DIRECT:
                self.node.send(him.pid, message)
            else:
                self.node.cast((SERVER, him.pid.node), message)
        except PynodeError:
            return  # that node is gone, of which the server will hear
