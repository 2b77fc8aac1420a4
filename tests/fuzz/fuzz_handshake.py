"""The handshake in both roles, with every decision that its caller may make.

The first byte of an input says which role it is and what the caller answers, the second one in
which pieces the rest arrives; then the peer hangs up. The outcome is Established, or a
HandshakeError, and it does not depend on the pieces. Our challenge is always the same, so that the
digests of the vectors are right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pynode.errors import HandshakeError, LocalProtocolError
from pynode.protocol.flags import DEFAULT, DFlag
from pynode.protocol.handshake import (
    NEED_DATA,
    Established,
    Handshake,
    Named,
    PeerName,
    StatusAlive,
)
from tests.fuzz.documented import check_sentence
from tests.fuzz.vectors import CHALLENGE, COOKIE, CREATION, THEM, US, vectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.protocol.handshake import Status

_HOST: Final = US.partition("@")[2]
STATUSES: tuple[Status, ...] = ("ok", "ok_simultaneous", "nok", "not_allowed", "alive")
#: What an initiator may be told: our own statuses, and some that are none.
WORDS = [*STATUSES, "named:", "true", "false", "bye", ""]
DICTIONARY = [
    *((1 + len(word)).to_bytes(2) + b"s" + word.encode() for word in WORDS),
    *(b"\0\x15r", b"\0\x11a", b"N", b"n", US.encode(), THEM.encode()),
]


def _initiator(*, dynamic: bool, length_bytes: int) -> Handshake:
    flags = DEFAULT | (DFlag.NAME_ME if dynamic else DFlag(0))
    name = _HOST if dynamic else US
    return Handshake.initiator(
        name, THEM, COOKIE, flags, CREATION, challenge=CHALLENGE, length_bytes=length_bytes
    )


def _acceptor(*, length_bytes: int) -> Handshake:
    return Handshake.acceptor(
        US, COOKIE, DEFAULT, CREATION, challenge=CHALLENGE, length_bytes=length_bytes
    )


#: By the first byte: the handshake, and the answers to PeerName and to StatusAlive.
SETUPS: list[tuple[Callable[..., Handshake], Status, bool]] = [
    *((_acceptor, status, True) for status in STATUSES),
    *(
        (lambda length_bytes: _initiator(dynamic=False, length_bytes=length_bytes), "ok", go_on)
        for go_on in (True, False)
    ),
    (lambda length_bytes: _initiator(dynamic=True, length_bytes=length_bytes), "ok", True),
]
_TLS: Final = 0x80


def seeds() -> list[bytes]:
    """Return what nodes have said, to us in every setup, and with every status."""
    found = []
    for name, data in vectors("handshake").items():
        kinds = range(5) if "acceptor" in name else range(5, 8)
        found += [bytes((kind, 0)) + data for kind in kinds]
        found += [bytes((kind | _TLS, 0)) + over_tls(data) for kind in kinds]
        if name.endswith("acceptor_alive"):
            found.append(b"\x04\0" + data.replace(b"\0\5strue", b"\0\6sfalse"))
        if name.endswith("acceptor_ok"):  # Somebody who has our own name.
            found.append(b"\0\0\0\x1b" + data[2:15] + len(US).to_bytes(2) + US.encode())
        if name.endswith("initiator_ok"):
            found += [b"\x05\0" + status + data[5:] for status in DICTIONARY[: len(WORDS)]]
    return found


def over_tls(data: bytes) -> bytes:
    """Return the same packets with lengths of four bytes."""
    packets = []
    while data:
        size = int.from_bytes(data[:2])
        packets.append(size.to_bytes(4) + data[2 : 2 + size])
        data = data[2 + size :]
    return b"".join(packets)


def check(data: bytes) -> None:
    """Run the handshake with an input in its pieces, and as a whole."""
    if len(data) >= 2:
        stream = data[2:]
        whole = outcome(data[0], stream, len(stream) or 1)
        assert outcome(data[0], stream, data[1] or len(stream) or 1) == whole


def outcome(setup: int, stream: bytes, size: int) -> list[Any]:
    """Return the events, what was sent, and how it ended."""
    make, status, go_on = SETUPS[(setup & ~_TLS) % len(SETUPS)]
    handshake = make(length_bytes=4 if setup & _TLS else 2)
    seen: list[Any] = []
    try:
        for at in range(0, len(stream) + size, size):
            # The last one is empty: the end.
            handshake.receive_data(stream[at : at + size])
            while (event := handshake.next_event()) is not NEED_DATA:
                seen.append(event)
                if isinstance(event, Established):
                    rest = len(handshake.trailing_data) + len(stream[at + size :])
                    return [*seen, rest, handshake.data_to_send()]
                if isinstance(event, PeerName):
                    _answer(handshake, event, status)
                elif isinstance(event, StatusAlive):
                    handshake.answer_alive(go_on=go_on)
    except HandshakeError as error:
        check_sentence(error, longest=600)
        _check_closed(handshake)
        return [*seen, str(error), handshake.data_to_send()]
    raise AssertionError("A handshake goes on though its peer has gone.")


def _answer(handshake: Handshake, peer: PeerName, status: Status) -> None:
    dynamic = bool(peer.flags & DFlag.NAME_ME)
    if dynamic and status not in {"nok", "not_allowed"}:
        try:
            handshake.send_status(Named(f"given@{peer.name}", 5))
        except LocalProtocolError:  # With this host it would be too long, or none.
            handshake.send_status("not_allowed")
    else:
        handshake.send_status(status)


def _check_closed(handshake: Handshake) -> None:
    try:
        handshake.next_event()
    except HandshakeError:
        return
    raise AssertionError("A handshake that has failed goes on.")
