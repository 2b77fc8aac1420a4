"""``global``: names and locks that all published nodes of a cluster agree about (`global.erl`).

A node that is published is part of it: the others wait for its answers. So this is the whole of
the protocol (version 8, that of OTP 25 to 28), with one difference in what it is for: names are
registered for others here, and by `register` for a process of this node.

Theory of operation. When two nodes connect, each sets a lock, called ``global``, on all nodes that
it knows. When both have theirs, they exchange their names, find those that both have, and tell all
other nodes on their side of each other; these then connect, and nothing is left to be agreed
about. `tables` has the locks and the names; `server` is the process ``global_name_server``, which
takes part in the exchange and answers at once whatever it is asked; `locker` is the process that
sets the lock, and waits as long as that takes; `locks` has what it uses for that; `conflicts`
decides who keeps a name that was registered twice.

Nodes that lose each other leave the cluster as seen by all others, too, which is how overlapping
partitions are prevented: the messages ``lost_connection`` and ``remove_connection``.
"""

from __future__ import annotations

from pynode.otp.global_names.conflicts import resolve_conflict
from pynode.otp.global_names.registration import register, unregister
from pynode.otp.global_names.server import GlobalNameServer

__all__ = ["GlobalNameServer", "register", "resolve_conflict", "unregister"]
