"""Distribution flags: what a node can do, said by each side in the handshake.

What a connection uses is what both sides offered (erl_dist_protocol, "Distribution Flags").
The values are those of OTP's ``dist.hrl``; a BEAM shows its own with
``erts_internal:get_dflags/0``.
"""

from __future__ import annotations

from enum import IntFlag


class DFlag(IntFlag):
    """OTP's ``DFLAG_*``, without the prefix.

    Bits that have no name here are kept: newer nodes may offer what we never ask for.
    """

    PUBLISHED = 1 << 0
    ATOM_CACHE = 1 << 1
    EXTENDED_REFERENCES = 1 << 2
    DIST_MONITOR = 1 << 3
    FUN_TAGS = 1 << 4
    DIST_MONITOR_NAME = 1 << 5
    HIDDEN_ATOM_CACHE = 1 << 6
    NEW_FUN_TAGS = 1 << 7
    EXTENDED_PIDS_PORTS = 1 << 8
    EXPORT_PTR_TAG = 1 << 9
    BIT_BINARIES = 1 << 10
    NEW_FLOATS = 1 << 11
    UNICODE_IO = 1 << 12
    DIST_HDR_ATOM_CACHE = 1 << 13
    SMALL_ATOM_TAGS = 1 << 14
    UTF8_ATOMS = 1 << 16
    MAP_TAG = 1 << 17
    BIG_CREATION = 1 << 18
    SEND_SENDER = 1 << 19
    BIG_SEQTRACE_LABELS = 1 << 20
    EXIT_PAYLOAD = 1 << 22
    FRAGMENTS = 1 << 23
    HANDSHAKE_23 = 1 << 24
    UNLINK_ID = 1 << 25
    #: Stands for all of `MANDATORY_25`. One copy of the guide gives it bit 36; the BEAM has 26.
    MANDATORY_25_DIGEST = 1 << 26
    SPAWN = 1 << 32
    #: No capability: the node that connects asks to be given a name.
    NAME_ME = 1 << 33
    V4_NC = 1 << 34
    ALIAS = 1 << 35
    #: Used inside a BEAM only (OTP 26).
    LOCAL_EXT = 1 << 36
    #: Priority messages and other alternative actions (OTP 28); instead of ALIAS from OTP 30 on.
    ALTACT_SIG = 1 << 37


#: What OTP 25 requires of every peer.
MANDATORY_25 = (
    DFlag.EXTENDED_REFERENCES
    | DFlag.FUN_TAGS
    | DFlag.EXTENDED_PIDS_PORTS
    | DFlag.NEW_FUN_TAGS
    | DFlag.EXPORT_PTR_TAG
    | DFlag.BIT_BINARIES
    | DFlag.NEW_FLOATS
    | DFlag.UTF8_ATOMS
    | DFlag.MAP_TAG
    | DFlag.BIG_CREATION
    | DFlag.HANDSHAKE_23
)

#: What we require of every peer: what OTP 26 to 28 require, and every node of OTP 25 offers.
MANDATORY = MANDATORY_25 | DFlag.UNLINK_ID | DFlag.V4_NC

#: What we offer: all that OTP 28 does, but hidden (no PUBLISHED) and without the atom cache.
#: FRAGMENTS works without the cache; every message then has a distribution header.
DEFAULT = (
    MANDATORY
    | DFlag.MANDATORY_25_DIGEST
    | DFlag.DIST_MONITOR
    | DFlag.DIST_MONITOR_NAME
    | DFlag.UNICODE_IO
    | DFlag.SMALL_ATOM_TAGS
    | DFlag.SEND_SENDER
    | DFlag.BIG_SEQTRACE_LABELS
    | DFlag.EXIT_PAYLOAD
    | DFlag.FRAGMENTS
    | DFlag.SPAWN
    | DFlag.ALIAS
    | DFlag.ALTACT_SIG
)


def expand(flags: int) -> int:
    """Return `flags` with all that MANDATORY_25_DIGEST stands for, if it is among them.

    What a peer offers stays a plain int: an enumeration keeps each value that it was ever made of.
    """
    return flags | int(MANDATORY_25) if flags & DFlag.MANDATORY_25_DIGEST else flags


def missing(flags: int) -> list[str]:
    """Return the names of the `MANDATORY` flags that a peer with `flags` lacks, lowest first."""
    lacking = int(MANDATORY) & ~expand(flags)
    return [name for name, flag in DFlag.__members__.items() if flag.value & lacking]
