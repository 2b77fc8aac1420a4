"""Python as a real node of an Erlang or Elixir cluster.

`Node` is a node, `Bridge` the service on it that lets Elixir call Python objects; ``pynode serve``
starts both. The Erlang data types that Python lacks are in `pynode.terms`.
"""

from __future__ import annotations

from pynode._version import __version__
from pynode.bridge import Bridge
from pynode.dist.task import CallInterrupted
from pynode.errors import (
    CallTimeoutError,
    DecodeError,
    EncodeError,
    EpmdError,
    EpmdUnavailableError,
    ExitError,
    HandshakeError,
    InvalidRefError,
    NameTakenError,
    NodeUnavailableError,
    NotAllowedError,
    PynodeError,
    RefNotFoundError,
    SessionFullError,
    SessionMismatchError,
    SessionNotFoundError,
)
from pynode.node import Node
from pynode.terms import Atom, BitString, ExternalFun, Fun, ImproperList, Map, Pid, Port, Reference
from pynode.values import Ref, to_term

__all__ = [
    "Atom",
    "BitString",
    "Bridge",
    "CallInterrupted",
    "CallTimeoutError",
    "DecodeError",
    "EncodeError",
    "EpmdError",
    "EpmdUnavailableError",
    "ExitError",
    "ExternalFun",
    "Fun",
    "HandshakeError",
    "ImproperList",
    "InvalidRefError",
    "Map",
    "NameTakenError",
    "Node",
    "NodeUnavailableError",
    "NotAllowedError",
    "Pid",
    "Port",
    "PynodeError",
    "Ref",
    "RefNotFoundError",
    "Reference",
    "SessionFullError",
    "SessionMismatchError",
    "SessionNotFoundError",
    "__version__",
    "to_term",
]
