"""The states of a distribution handshake, and what leads from one to the next.

`pynode.protocol.handshake` drives them and holds the theory of operation.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(Enum):
    """Where a handshake is: what it waits for, from the peer (RECV) or its caller (SEND)."""

    RECV_STATUS = auto()
    SEND_STATUS_REPLY = auto()
    RECV_CHALLENGE = auto()
    RECV_CHALLENGE_ACK = auto()

    RECV_NAME = auto()
    SEND_STATUS = auto()
    RECV_STATUS_REPLY = auto()
    RECV_CHALLENGE_REPLY = auto()

    ESTABLISHED = auto()
    CLOSED = auto()


#: State -> what may happen in it -> the state that this leads to.
TRANSITIONS: Final[Mapping[State, Mapping[str, State]]] = {
    # The initiator, which has sent its name.
    State.RECV_STATUS: {
        "ok": State.RECV_CHALLENGE,
        "ok_simultaneous": State.RECV_CHALLENGE,
        "named": State.RECV_CHALLENGE,
        "alive": State.SEND_STATUS_REPLY,
        "nok": State.CLOSED,
        "not_allowed": State.CLOSED,
    },
    State.SEND_STATUS_REPLY: {"true": State.RECV_CHALLENGE, "false": State.CLOSED},
    State.RECV_CHALLENGE: {"challenge": State.RECV_CHALLENGE_ACK},
    State.RECV_CHALLENGE_ACK: {"challenge_ack": State.ESTABLISHED},
    # The acceptor.
    State.RECV_NAME: {"name": State.SEND_STATUS},
    State.SEND_STATUS: {
        "ok": State.RECV_CHALLENGE_REPLY,
        "ok_simultaneous": State.RECV_CHALLENGE_REPLY,
        "named": State.RECV_CHALLENGE_REPLY,
        "alive": State.RECV_STATUS_REPLY,
        "nok": State.CLOSED,
        "not_allowed": State.CLOSED,
    },
    State.RECV_STATUS_REPLY: {"true": State.RECV_CHALLENGE_REPLY, "false": State.CLOSED},
    State.RECV_CHALLENGE_REPLY: {"challenge_reply": State.ESTABLISHED},
    State.ESTABLISHED: {},
    State.CLOSED: {},
}


class Expected(NamedTuple):
    """The packet that a state waits for, and what it means when the peer hangs up instead."""

    tag: bytes
    message: str
    closed: str


#: What each state that waits for the peer waits for.
EXPECTED: Final[Mapping[State, Expected]] = {
    State.RECV_STATUS: Expected(
        b"s",
        "status",
        "before it answered; look for the reason in its log, "
        "and check that this is its port, and that both use TLS or none",
    ),
    State.RECV_CHALLENGE: Expected(
        b"N", "challenge", "after it had let us in; look for the reason in its log"
    ),
    State.RECV_CHALLENGE_ACK: Expected(
        b"a",
        "challenge_ack",
        "when it had seen our digest, as a node does whose cookie is another; "
        "give both nodes the same cookie",
    ),
    State.RECV_NAME: Expected(
        b"N", "name", "before it said its name; it may have been a port scan, nothing is to be done"
    ),
    State.RECV_STATUS_REPLY: Expected(
        b"s",
        "answer to 'alive'",
        "when it was told that a connection with it exists; it may try again",
    ),
    State.RECV_CHALLENGE_REPLY: Expected(
        b"r", "challenge_reply", "when it had seen our challenge; look for the reason in its log"
    ),
}

#: What the caller has to do in the states that wait for no packet.
INSTEAD: Final[Mapping[State, str]] = {
    State.SEND_STATUS: "answer PeerName with send_status() first",
    State.SEND_STATUS_REPLY: "answer StatusAlive with answer_alive() first",
    State.ESTABLISHED: "what comes now belongs to the connection",
}
