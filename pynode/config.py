"""Every default of pynode, in one place.

``docs/CONFIGURATION.md`` is the table that users read; a test holds the two together.
This module imports nothing of the project, so that every layer may read it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

#: Seconds after which a ref that nobody used expires; 0 switches expiry off.
REF_TTL_SECONDS = 0
#: Refs that one session may hold.
REF_MAX = 10_000
#: What a full session does: evict its least recently used ref, or refuse with "error".
ON_FULL = "evict"
#: Seconds for which an owner counts as alive when its node is lost; 0 for not at all.
GRACE_SECONDS = 0
#: Seconds after which a call that was interrupted, but goes on, is interrupted again.
INTERRUPT_SECONDS = 5.0
#: Released refs and ended sessions that are remembered, so that a late caller is told the reason.
DEPARTED_MEMORY = 10_000
#: Exceptions that one session keeps as objects for its caller to inspect.
EXCEPTIONS_PER_SESSION = 16
#: Seconds that the objects are measured for, when somebody asks for a census of them.
CENSUS_SECONDS = 0.05

#: Seconds of silence after which a peer is taken for lost (kernel's ``net_ticktime``).
NET_TICKTIME = 60.0
#: Seconds that a connection attempt may take, handshake included (kernel's ``net_setuptime``).
NET_SETUPTIME = 7.0
#: Seconds that a call may wait for its answer, as in ``GenServer.call/2``.
CALL_TIMEOUT = 5.0
#: The EPMD port, unless the environment variable ``ERL_EPMD_PORT`` says otherwise.
EPMD_PORT = 4369

#: Seconds that a call may run before another thread takes over reading from its connection.
HANDOFF_SECONDS = 0.0015
#: Seconds after which a thread lets others run that wait (``sys.setswitchinterval``).
SWITCH_SECONDS = 0.0005
#: Threads that may run calls at the same time; further calls wait.
MAX_THREADS = 1_000
#: Bytes that may wait for a slow peer before whoever sends more has to wait, too.
SEND_BUFFER = 8 * 1024 * 1024
#: Seconds that running calls are given to finish after SIGTERM (``--shutdown-seconds``).
SHUTDOWN_SECONDS = 5.0
#: Seconds that the node itself is given after that before it is killed (``--stop-on-eof``).
SHUTDOWN_GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may ask of a parser. Sizes are in bytes unless they say otherwise."""

    #: One frame of the distribution protocol.
    frame: int = 256 * 1024 * 1024
    #: All messages that are in pieces on one connection.
    message: int = 1024 * 1024 * 1024
    #: Messages that may be in pieces at the same time on one connection.
    fragmented_messages: int = 1_024
    #: One packet of the handshake.
    handshake_packet: int = 4_096
    #: Handshakes under way that others have begun.
    handshakes: int = 128
    #: Elements of all lists, tuples, maps (two for each pair) and funs of one message.
    terms: int = 16 * 1024 * 1024
    #: Levels of lists, tuples and maps inside each other.
    depth: int = 10_000
    #: Keys of one map that may have the same hash value.
    collisions: int = 64
    #: Decimal digits of a number that becomes a Decimal.
    decimal_digits: int = 4_300
    #: A compressed term, decompressed.
    decompressed: int = 256 * 1024 * 1024
    #: What an EPMD answers.
    epmd_answer: int = 4 * 1024 * 1024
    #: Nodes that the built-in EPMD keeps.
    epmd_names: int = 1_024


LIMITS = Limits()


def from_environment(name: str, default: int) -> int:
    """Return the non-negative integer in environment variable `name`, or `default` if unset.

    Raises ValueError with the variable's name and what it should be.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{name} is {text!r}: set it to a whole number, 0 or more, or unset it.")
    return int(text)
