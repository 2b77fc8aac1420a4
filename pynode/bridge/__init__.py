"""The request protocol: `GenServer.call({:snakebridge, node}, request)` from any BEAM language.

Theory of operation. The bridge is a destination, registered as ``snakebridge``. `deliver`, on the
thread that reads, decodes a message, finds out which lane it belongs to (the session of the ref
that it is about, or the one that it names, or its caller's own), and hands a `Call` to the engine,
which runs it in turn. The call looks up, runs and encodes; whatever has no Erlang form becomes a
ref while the reply is encoded, and the session that will hold it comes into being just then, with
its owner's monitor sent ahead of the reply on the same connection. If the reply cannot be encoded
after all, the refs made for it are taken back.

The registry (`pynode.objects`) decides what lives; the bridge tells it about owners that are DOWN
and hears from it about sessions that have ended, whose calls it then stops.
"""

from __future__ import annotations

from pynode.bridge.service import Bridge

__all__ = ["Bridge"]
