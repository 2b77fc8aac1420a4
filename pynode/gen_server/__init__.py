"""GenServers in Python: objects that the whole cluster calls and casts to, as OTP's `gen_server`.

A user writes a subclass of `GenServer` and adds an object of it to a node. How that works is at the
top of `pynode.gen_server.server`.
"""

from __future__ import annotations

from pynode.gen_server.behaviour import GenServer, process_of
from pynode.gen_server.outcomes import From, NoReply, Reply, Stop

__all__ = ["From", "GenServer", "NoReply", "Reply", "Stop", "process_of"]
