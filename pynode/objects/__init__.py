"""Objects that live in Python, the sessions that they live in, and the owners of those.

The lifecycle (docs/ARCHITECTURE.md): it knows pids and references, but neither sockets nor
threads nor what a request looks like.
"""

from __future__ import annotations

from pynode.objects.census import Census, Tally, size_of, type_names
from pynode.objects.departed import (
    EVICTED,
    EXPIRED,
    NODE_RESTARTED,
    OWNER_DOWN,
    RELEASED,
    SESSION_RELEASED,
    UNKNOWN,
)
from pynode.objects.registry import Counts, Registry
from pynode.objects.session import ENTERED, Entry, Kind, Session
from pynode.objects.settings import SessionSettings
from pynode.objects.unwind import Unwinding

__all__ = [
    # What users of this package work with.
    "Registry",
    "Session",
    "SessionSettings",
    "Entry",
    "Kind",
    "ENTERED",
    "Unwinding",
    "Counts",
    # Looking at what there is.
    "Census",
    "Tally",
    "size_of",
    "type_names",
    # Why a ref or a session is gone.
    "RELEASED",
    "SESSION_RELEASED",
    "OWNER_DOWN",
    "EXPIRED",
    "EVICTED",
    "NODE_RESTARTED",
    "UNKNOWN",
]
