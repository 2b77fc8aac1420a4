"""Python as a real node of an Erlang or Elixir cluster.

`Node` is a node, `Bridge` the service on it that lets Elixir call Python objects; ``pynode serve``
starts both. The Erlang data types that Python lacks are in `pynode.terms`.
"""

from __future__ import annotations

from pynode import _implementation  # noqa: F401  (before all others)
from pynode._version import __version__
from pynode.bridge import Bridge
from pynode.calls import Request
from pynode.dist.tls import Tls
from pynode.errors import (
    CallInterrupted,
    CallTimeoutError,
    CookieError,
    DecodeError,
    EncodeError,
    EpmdError,
    EpmdUnavailableError,
    ErlangError,
    ExitError,
    HandshakeError,
    InvalidRefError,
    NameTakenError,
    NodeUnavailableError,
    NotAllowedError,
    PynodeError,
    ReceiveTimeoutError,
    RefNotFoundError,
    RemoteError,
    SessionFullError,
    SessionMismatchError,
    SessionNotFoundError,
    TlsError,
)
from pynode.gen_server import From, GenServer, NoReply, Reply, Stop
from pynode.node import Address, Node
from pynode.process import Process, current_process
from pynode.terms import Atom, BitString, ExternalFun, Fun, ImproperList, Map, Pid, Port, Reference
from pynode.values import Ref, to_term

__all__ = [
    "Address",
    "Atom",
    "BitString",
    "Bridge",
    "CallInterrupted",
    "CallTimeoutError",
    "CookieError",
    "DecodeError",
    "EncodeError",
    "EpmdError",
    "EpmdUnavailableError",
    "ErlangError",
    "ExitError",
    "ExternalFun",
    "From",
    "Fun",
    "GenServer",
    "HandshakeError",
    "ImproperList",
    "InvalidRefError",
    "Map",
    "NameTakenError",
    "NoReply",
    "Node",
    "NodeUnavailableError",
    "NotAllowedError",
    "Pid",
    "Port",
    "Process",
    "PynodeError",
    "ReceiveTimeoutError",
    "Ref",
    "RefNotFoundError",
    "Reference",
    "RemoteError",
    "Reply",
    "Request",
    "SessionFullError",
    "SessionMismatchError",
    "SessionNotFoundError",
    "Stop",
    "Tls",
    "TlsError",
    "__version__",
    "current_process",
    "to_term",
]
