"""Registering names from this node (`global:register_name/2`)."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pynode.otp.global_names.locks import del_lock, delete_global_lock, multi_call, set_lock
from pynode.otp.global_names.tables import GLOBAL
from pynode.terms import Atom, ExternalFun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pynode.node import Node
    from pynode.otp.global_names.server import GlobalNameServer
    from pynode.terms import Pid

_REGISTER, _UNREGISTER = Atom("register"), Atom("unregister")
#: What `global:register_name/2` takes: of two processes with one name, one is killed.
_METHOD = ExternalFun(Atom("global"), Atom("random_exit_name"), 3)
#: Seconds that are waited for a lock the first time, doubling from then on, and at most.
_FIRST_PAUSE, _MAX_PAUSE = 0.25, 8.0


def register(server: GlobalNameServer, name: Any, pid: Pid) -> bool:
    """Register a process under a name on all nodes; False if the name is taken.

    Waits until the nodes agree. Raises EncodeError.
    """
    with _all_locked(server) as peers:
        if server.tables.find(name) is not None:
            return False
        multi_call(server.node, peers, (_REGISTER, name, pid, _METHOD))
        return True


def unregister(server: GlobalNameServer, name: Any) -> None:
    """Free a name on all nodes. Waits until they agree."""
    with _all_locked(server) as peers:
        multi_call(server.node, peers, (_UNREGISTER, name))


@contextmanager
def _all_locked(server: GlobalNameServer) -> Iterator[list[str]]:
    """Lock the names on all nodes that are known, and yield these (`trans_all_known` there)."""
    node: Node = server.node
    # The lock belongs to a process, so that it is given back whatever becomes of this thread.
    with node.process() as process:
        lock = (GLOBAL, process.pid)
        pause = _FIRST_PAUSE
        while (peers := _lock_known(server, lock)) is None:
            time.sleep(random.uniform(0, pause))  # noqa: S311 (nobody gains by knowing it)
            pause = min(2 * pause, _MAX_PAUSE)
        try:
            yield peers
        finally:
            delete_global_lock(node, lock, peers)


def _lock_known(server: GlobalNameServer, lock: tuple[Any, Any]) -> list[str] | None:
    node, tables = server.node, server.tables
    known = server.known_nodes()
    peers = [node.name, *known]
    boss = max(peers)
    if not set_lock(node, tables, lock, [boss]):
        return None
    if set_lock(node, tables, lock, peers):
        if set(server.known_nodes()) <= set(known):
            return peers
        del_lock(node, lock, peers)
    del_lock(node, lock, [boss])
    return None
