"""Byte-level tests of both roles: every status, every refusal, however the bytes arrive."""

from __future__ import annotations

import hashlib
import random
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynode.config import Limits
from pynode.errors import HandshakeError, LocalProtocolError
from pynode.protocol.flags import DEFAULT, MANDATORY, DFlag
from pynode.protocol.handshake import (
    NEED_DATA,
    Established,
    Event,
    Handshake,
    Named,
    PeerName,
    Status,
    StatusAlive,
)
from pynode.protocol.handshake_states import EXPECTED, INSTEAD, TRANSITIONS, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

US = "py@127.0.0.1"
THEM = "beam@127.0.0.1"
COOKIE = "monster"
OUR_CREATION, THEIR_CREATION = 0xCAFE0001, 0xBEEF0002
OUR_CHALLENGE, THEIR_CHALLENGE = 0xDEADBEEF, 0x01020304
THEIR_FLAGS = 0xD07DF7FBC  # OTP 25
DYNAMIC = Named("2K5ZQ@127.0.0.1", 0xABCD1234)


def packet(body: bytes) -> bytes:
    return struct.pack(">H", len(body)) + body


def name_packet(name: str, flags: int, creation: int, extra: bytes = b"") -> bytes:
    encoded = name.encode("latin-1")
    fields = struct.pack(">cQIH", b"N", flags, creation, len(encoded))
    return packet(fields + encoded + extra)


def challenge_packet(
    name: str, flags: int, challenge: int, creation: int, extra: bytes = b""
) -> bytes:
    encoded = name.encode("latin-1")
    fields = struct.pack(">cQIIH", b"N", flags, challenge, creation, len(encoded))
    return packet(fields + encoded + extra)


def digest(challenge: int, cookie: str = COOKIE) -> bytes:
    return hashlib.md5(cookie.encode("latin-1") + b"%d" % challenge).digest()


def named_packet(given: Named, extra: bytes = b"") -> bytes:
    name = given.name.encode()
    fields = struct.pack(">H", len(name)) + name + struct.pack(">I", given.creation)
    return packet(b"snamed:" + fields + extra)


def initiator(**changes: object) -> Handshake:
    arguments = {"name": US, "flags": DEFAULT, "creation": OUR_CREATION} | changes
    return Handshake.initiator(
        peer=THEM,
        cookie=COOKIE,
        challenge=OUR_CHALLENGE,
        **arguments,  # type: ignore[arg-type]
    )


def dynamic_initiator() -> Handshake:
    return initiator(name="127.0.0.1", flags=DEFAULT | DFlag.NAME_ME | DFlag.PUBLISHED)


def acceptor(limits: Limits | None = None) -> Handshake:
    return Handshake.acceptor(
        US,
        COOKIE,
        DEFAULT | DFlag.PUBLISHED,
        OUR_CREATION,
        challenge=OUR_CHALLENGE,
        limits=limits or Limits(),
    )


# What a script is made of: what must be sent, what arrives, which event must come of it, what
# the caller does, and how it may end.


class Sends(NamedTuple):
    data: bytes


class Receives(NamedTuple):
    data: bytes


class Does(NamedTuple):
    what: Callable[[Handshake], None]


class Refused(NamedTuple):
    sentence: str


Step: TypeAlias = Sends | Receives | Does | Refused | PeerName | StatusAlive | Established


def status(word: Status | Named) -> Does:
    return Does(lambda handshake: handshake.send_status(word))


def alive(*, go_on: bool) -> Does:
    return Does(lambda handshake: handshake.answer_alive(go_on=go_on))


def reads(handshake: Handshake) -> None:
    assert handshake.next_event() is NEED_DATA


#: What arrived is answered without an event.
READS = Does(reads)
OUR_NAME = Sends(name_packet(US, DEFAULT, OUR_CREATION))
THEIR_CHALLENGE_PACKET = Receives(
    challenge_packet(THEM, THEIR_FLAGS, THEIR_CHALLENGE, THEIR_CREATION)
)
OUR_REPLY = Sends(packet(struct.pack(">cI", b"r", OUR_CHALLENGE) + digest(THEIR_CHALLENGE)))
THEIR_ACK = Receives(packet(b"a" + digest(OUR_CHALLENGE)))
AGREED = DFlag(THEIR_FLAGS) & DEFAULT
INITIATED = Established(THEM, AGREED, THEIR_CREATION, US, OUR_CREATION)
INITIATOR_ENDS = (THEIR_CHALLENGE_PACKET, READS, OUR_REPLY, THEIR_ACK, INITIATED)

THEIR_NAME = Receives(name_packet(THEM, THEIR_FLAGS, THEIR_CREATION))
PEER_NAME = PeerName(THEM, DFlag(THEIR_FLAGS), THEIR_CREATION)
OUR_CHALLENGE_BYTES = challenge_packet(US, DEFAULT | DFlag.PUBLISHED, OUR_CHALLENGE, OUR_CREATION)
THEIR_REPLY = Receives(packet(struct.pack(">cI", b"r", THEIR_CHALLENGE) + digest(OUR_CHALLENGE)))
OUR_ACK = Sends(packet(b"a" + digest(THEIR_CHALLENGE)))
ACCEPTED = Established(THEM, AGREED, THEIR_CREATION, US, OUR_CREATION)

DYNAMIC_FLAGS = THEIR_FLAGS | DFlag.NAME_ME

SCRIPTS: dict[str, tuple[Callable[[], Handshake], tuple[Step, ...]]] = {
    "initiator-ok": (initiator, (OUR_NAME, Receives(packet(b"sok")), *INITIATOR_ENDS)),
    "initiator-ok_simultaneous": (
        initiator,
        (OUR_NAME, Receives(packet(b"sok_simultaneous")), *INITIATOR_ENDS),
    ),
    "initiator-alive-true": (
        initiator,
        (
            OUR_NAME,
            Receives(packet(b"salive")),
            StatusAlive(THEM),
            alive(go_on=True),
            Sends(packet(b"strue")),
            *INITIATOR_ENDS,
        ),
    ),
    "initiator-alive-false": (
        initiator,
        (
            OUR_NAME,
            Receives(packet(b"salive")),
            StatusAlive(THEM),
            alive(go_on=False),
            Sends(packet(b"sfalse")),
            Refused("has a connection with this node already"),
        ),
    ),
    "initiator-nok": (
        initiator,
        (OUR_NAME, Receives(packet(b"snok")), Refused(r"connecting to this node itself .*\(nok\)")),
    ),
    "initiator-not_allowed": (
        initiator,
        (OUR_NAME, Receives(packet(b"snot_allowed")), Refused("does not allow this connection")),
    ),
    "initiator-named": (
        dynamic_initiator,
        (
            Sends(name_packet("127.0.0.1", DEFAULT | DFlag.NAME_ME, 0)),
            Receives(named_packet(DYNAMIC, extra=b"later versions")),
            Receives(challenge_packet(THEM, DYNAMIC_FLAGS, THEIR_CHALLENGE, THEIR_CREATION)),
            READS,
            OUR_REPLY,
            THEIR_ACK,
            Established(THEM, AGREED | DFlag.NAME_ME, THEIR_CREATION, *DYNAMIC),
        ),
    ),
    "initiator-wrong-cookie": (
        initiator,
        (
            OUR_NAME,
            Receives(packet(b"sok")),
            THEIR_CHALLENGE_PACKET,
            READS,
            OUR_REPLY,
            Receives(packet(b"a" + digest(OUR_CHALLENGE, "elmo"))),
            Refused("has another cookie"),
            Sends(b""),
        ),
    ),
    "initiator-extra-data-in-challenge": (
        initiator,
        (
            OUR_NAME,
            Receives(packet(b"sok")),
            Receives(
                challenge_packet(THEM, THEIR_FLAGS, THEIR_CHALLENGE, THEIR_CREATION, b"later")
            ),
            READS,
            OUR_REPLY,
            THEIR_ACK,
            INITIATED,
        ),
    ),
    "acceptor-ok": (
        acceptor,
        (
            THEIR_NAME,
            PEER_NAME,
            status("ok"),
            Sends(packet(b"sok") + OUR_CHALLENGE_BYTES),
            THEIR_REPLY,
            ACCEPTED,
            OUR_ACK,
        ),
    ),
    "acceptor-ok_simultaneous": (
        acceptor,
        (
            THEIR_NAME,
            PEER_NAME,
            status("ok_simultaneous"),
            Sends(packet(b"sok_simultaneous") + OUR_CHALLENGE_BYTES),
            THEIR_REPLY,
            ACCEPTED,
            OUR_ACK,
        ),
    ),
    "acceptor-nok": (
        acceptor,
        (THEIR_NAME, PEER_NAME, status("nok"), Sends(packet(b"snok")), Refused("status nok")),
    ),
    "acceptor-not_allowed": (
        acceptor,
        (
            THEIR_NAME,
            PEER_NAME,
            status("not_allowed"),
            Sends(packet(b"snot_allowed")),
            Refused("was refused with status not_allowed"),
        ),
    ),
    "acceptor-alive-true": (
        acceptor,
        (
            THEIR_NAME,
            PEER_NAME,
            status("alive"),
            Sends(packet(b"salive")),
            Receives(packet(b"strue")),
            READS,
            Sends(OUR_CHALLENGE_BYTES),
            THEIR_REPLY,
            ACCEPTED,
            OUR_ACK,
        ),
    ),
    "acceptor-alive-false": (
        acceptor,
        (
            THEIR_NAME,
            PEER_NAME,
            status("alive"),
            Sends(packet(b"salive")),
            Receives(packet(b"sfalse")),
            Refused("gave up a second connection"),
            Sends(b""),
        ),
    ),
    "acceptor-named": (
        acceptor,
        (
            Receives(name_packet("127.0.0.1", DYNAMIC_FLAGS, 0)),
            PeerName("127.0.0.1", DFlag(DYNAMIC_FLAGS), 0),
            status(DYNAMIC),
            Sends(
                named_packet(DYNAMIC)
                + challenge_packet(US, DEFAULT | DFlag.NAME_ME, OUR_CHALLENGE, OUR_CREATION)
            ),
            THEIR_REPLY,
            Established(DYNAMIC.name, AGREED | DFlag.NAME_ME, DYNAMIC.creation, US, OUR_CREATION),
            OUR_ACK,
        ),
    ),
    "acceptor-wrong-cookie": (
        acceptor,
        (
            THEIR_NAME,
            PEER_NAME,
            status("ok"),
            Sends(packet(b"sok") + OUR_CHALLENGE_BYTES),
            Receives(packet(struct.pack(">cI", b"r", 1) + digest(OUR_CHALLENGE, "elmo"))),
            Refused(f"Node {THEM} has another cookie"),
            Sends(b""),  # No hint.
        ),
    ),
    "acceptor-extra-data-in-name": (
        acceptor,
        (Receives(name_packet(THEM, THEIR_FLAGS, THEIR_CREATION, b"later")), PEER_NAME),
    ),
}


def whole(data: bytes) -> Iterable[bytes]:
    return (data,)


def bytewise(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def in_random_chunks(data: bytes) -> Iterator[bytes]:
    while data:
        size = random.randint(1, len(data))
        yield data[:size]
        data = data[size:]


def play(
    handshake: Handshake, steps: Iterable[Step], split: Callable[[bytes], Iterable[bytes]]
) -> None:
    for step in steps:
        match step:
            case Sends(data):
                assert handshake.data_to_send() == data
            case Receives(data):
                for chunk in split(data):
                    assert handshake.next_event() is NEED_DATA
                    handshake.receive_data(chunk)
            case Does(what):
                what(handshake)
            case Refused(sentence):
                with pytest.raises(HandshakeError, match=sentence) as refusal:
                    handshake.next_event()
                assert handshake.state is State.CLOSED
                assert COOKIE not in str(refusal.value)
                with pytest.raises(HandshakeError, match=sentence):  # And so for good.
                    handshake.next_event()
            case event:
                assert handshake.next_event() == event
        assert COOKIE not in repr(handshake)


@pytest.mark.parametrize("split", [whole, bytewise, in_random_chunks])
@pytest.mark.parametrize("script", SCRIPTS)
def test_script(script: str, split: Callable[[bytes], Iterable[bytes]]) -> None:
    make, steps = SCRIPTS[script]
    play(make(), steps, split)


@pytest.mark.parametrize("script", ["initiator-ok", "acceptor-ok"])
def test_bytes_beyond_the_handshake_are_left_to_the_connection(script: str) -> None:
    make, steps = SCRIPTS[script]
    last = max(i for i, step in enumerate(steps) if isinstance(step, Receives))
    trailing = bytes(4) + b"\x00\x00\x00\x02pq"
    received = steps[last]
    assert isinstance(received, Receives)
    changed = (*steps[:last], Receives(received.data + trailing), *steps[last + 1 :])
    handshake = make()
    play(handshake, changed, whole)
    handshake.receive_data(b"more")
    assert handshake.trailing_data == trailing + b"more"
    assert handshake.state is State.ESTABLISHED
    with pytest.raises(LocalProtocolError, match="belongs to the connection"):
        handshake.next_event()


def test_the_initiator_may_get_everything_at_once() -> None:
    handshake = initiator()
    handshake.receive_data(packet(b"sok") + THEIR_CHALLENGE_PACKET.data + THEIR_ACK.data)
    assert handshake.next_event() == INITIATED
    assert handshake.data_to_send() == OUR_NAME.data + OUR_REPLY.data


# --- refusals


def at(state: State) -> Handshake:
    """Return a handshake that has come as far as `state`."""
    if state in {State.RECV_STATUS, State.RECV_CHALLENGE, State.RECV_CHALLENGE_ACK}:
        handshake = initiator()
        if state is not State.RECV_STATUS:
            handshake.receive_data(packet(b"sok"))
        if state is State.RECV_CHALLENGE_ACK:
            handshake.receive_data(THEIR_CHALLENGE_PACKET.data)
    else:
        handshake = acceptor()
        if state is not State.RECV_NAME:
            handshake.receive_data(THEIR_NAME.data)
            handshake.next_event()
            handshake.send_status("alive" if state is State.RECV_STATUS_REPLY else "ok")
    assert handshake.next_event() is NEED_DATA
    assert handshake.state is state
    handshake.data_to_send()
    return handshake


def old_name(name: bytes) -> bytes:
    return packet(struct.pack(">cHI", b"n", 5, 0x1070F94) + name)


LACKS_MAPS = THEIR_FLAGS & ~DFlag.MAP_TAG & ~DFlag.MANDATORY_25_DIGEST
NOT_ALLOWED = packet(b"snot_allowed")

#: What the peer sends, the sentence that it leads to, and what the peer is told.
REFUSALS: dict[str, tuple[State, bytes, str, bytes]] = {
    "name-too-long-a-packet": (State.RECV_NAME, b"GET / HTTP/1.1", "announced 18245 bytes", b""),
    "name-tls": (State.RECV_NAME, b"\x16\x03\x01\x02\x00", "use TLS or none", b""),
    "name-empty-packet": (State.RECV_NAME, packet(b""), "0 bytes that begin with b''", b""),
    "name-wrong-tag": (State.RECV_NAME, packet(b"x"), "1 bytes that begin with b'x'", b""),
    "name-truncated": (State.RECV_NAME, packet(b"N" + bytes(13)), "where its name was due", b""),
    "name-shorter-than-it-says": (
        State.RECV_NAME,
        packet(struct.pack(">cQIH", b"N", THEIR_FLAGS, 1, 9) + b"a@b"),
        "where its name was due",
        b"",
    ),
    "name-version-5": (
        State.RECV_NAME,
        old_name(b"old@127.0.0.1"),
        "version 5 of the handshake; upgrade it to OTP 25",
        NOT_ALLOWED,
    ),
    "name-lacks-flags": (
        State.RECV_NAME,
        name_packet(THEM, LACKS_MAPS, 1),
        f"Node {THEM} cannot handle MAP_TAG; upgrade",
        NOT_ALLOWED,
    ),
    "name-is-ours": (
        State.RECV_NAME,
        name_packet(US, THEIR_FLAGS, 1),
        "has the name of this node",
        NOT_ALLOWED,
    ),
    **{
        f"name-{name!r}": (
            State.RECV_NAME,
            name_packet(name, THEIR_FLAGS, 1),
            "a node name has the form name@host",
            b"",
        )
        for name in ("", "beam", "@host", "beam@", "a@b@c", "a b@c", "a\n@c", "a@" + "c" * 254)
    },
    "host-with-name": (
        State.RECV_NAME,
        name_packet("a@host", DYNAMIC_FLAGS, 0),
        "a node name has the form name@host",
        b"",
    ),
    "status-unknown": (State.RECV_STATUS, packet(b"smaybe"), "status b'maybe', which is none", b""),
    "status-with-colon": (State.RECV_STATUS, packet(b"sok:"), "status b'ok:'", b""),
    "status-named-without-a-name": (State.RECV_STATUS, packet(b"snamed"), "status b'named'", b""),
    "status-not-latin": (State.RECV_STATUS, packet(b"s\xff\x00"), "which is none", b""),
    "status-wrong-tag": (State.RECV_STATUS, packet(b"ook"), "where its status was due", b""),
    "status-unasked-name": (
        State.RECV_STATUS,
        named_packet(DYNAMIC),
        "gave this node a name, though it has one",
        b"",
    ),
    "challenge-version-5": (
        State.RECV_CHALLENGE,
        packet(struct.pack(">cHII", b"n", 5, 1, 1) + THEM.encode()),
        "version 5 of the handshake",
        b"",
    ),
    "challenge-of-another": (
        State.RECV_CHALLENGE,
        challenge_packet("other@127.0.0.1", THEIR_FLAGS, 1, 1),
        f"Node {THEM} calls itself 'other@127.0.0.1'",
        b"",
    ),
    "challenge-lacks-flags": (
        State.RECV_CHALLENGE,
        challenge_packet(THEM, LACKS_MAPS, 1, 1),
        "cannot handle MAP_TAG",
        b"",
    ),
    "challenge-truncated": (State.RECV_CHALLENGE, packet(b"N" + bytes(17)), "was due", b""),
    "challenge-name-missing": (
        State.RECV_CHALLENGE,
        packet(struct.pack(">cQIIH", b"N", THEIR_FLAGS, 1, 1, 14) + THEM.encode()[:-1]),
        "where its challenge was due",
        b"",
    ),
    "ack-too-short": (State.RECV_CHALLENGE_ACK, packet(b"a" + bytes(15)), "was due", b""),
    "ack-too-long": (State.RECV_CHALLENGE_ACK, packet(b"a" + bytes(17)), "was due", b""),
    "ack-wrong-tag": (State.RECV_CHALLENGE_ACK, packet(b"n"), "begin with b'n'", b""),
    "reply-too-short": (State.RECV_CHALLENGE_REPLY, packet(b"r" + bytes(19)), "was due", b""),
    "reply-too-long": (State.RECV_CHALLENGE_REPLY, packet(b"r" + bytes(21)), "was due", b""),
    "reply-complement": (State.RECV_CHALLENGE_REPLY, packet(b"c" + bytes(8)), "b'c'", b""),
    "alive-bare-true": (State.RECV_STATUS_REPLY, packet(b"true"), "begin with b't'", b""),
    "alive-nonsense": (State.RECV_STATUS_REPLY, packet(b"sperhaps"), "answer to 'alive'", b""),
}


@pytest.mark.parametrize("split", [whole, bytewise])
@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(case: str, split: Callable[[bytes], Iterable[bytes]]) -> None:
    state, data, sentence, told = REFUSALS[case]
    handshake = at(state)

    def receive() -> None:
        for chunk in split(data):
            handshake.receive_data(chunk)
            handshake.next_event()

    with pytest.raises(HandshakeError) as refusal:
        receive()
    assert sentence in str(refusal.value)
    assert handshake.data_to_send() == told
    assert handshake.state is State.CLOSED


@pytest.mark.parametrize("state", EXPECTED)
def test_closed_by_the_peer(state: State) -> None:
    handshake = at(state)
    handshake.receive_data(b"\x00")
    handshake.receive_data(b"")
    with pytest.raises(HandshakeError, match="closed the connection"):
        handshake.next_event()
    assert handshake.data_to_send() == b""


def test_closed_after_our_digest_means_most_likely_a_wrong_cookie() -> None:
    handshake = at(State.RECV_CHALLENGE_ACK)
    handshake.receive_data(b"")
    with pytest.raises(HandshakeError, match="give both nodes the same cookie"):
        handshake.next_event()


def test_what_came_before_the_end_counts() -> None:
    handshake = at(State.RECV_CHALLENGE_ACK)
    handshake.receive_data(THEIR_ACK.data)
    handshake.receive_data(b"")
    assert handshake.next_event() == INITIATED


@pytest.mark.parametrize("state", EXPECTED)
def test_packets_may_be_as_long_as_the_limit_and_no_longer(state: State) -> None:
    limit = Limits().handshake_packet
    handshake = at(state)
    handshake.receive_data(struct.pack(">H", limit))
    assert handshake.next_event() is NEED_DATA
    handshake = at(state)
    handshake.receive_data(struct.pack(">H", limit + 1))
    with pytest.raises(HandshakeError, match=f"announced {limit + 1} bytes .* {limit} are allowed"):
        handshake.next_event()


def test_the_limit_can_be_set() -> None:
    handshake = acceptor(Limits(handshake_packet=20))
    handshake.receive_data(THEIR_NAME.data)
    with pytest.raises(HandshakeError, match="20 are allowed"):
        handshake.next_event()


@pytest.mark.parametrize(
    "given",
    [
        named_packet(Named("nohost", 1)),
        named_packet(Named("a@elsewhere", 1)),
        named_packet(DYNAMIC)[:-1],
        packet(b"snamed:"),
        packet(b"snamed:\x00\xffa@127.0.0.1"),
        packet(b"snamed:\x00\x0b\xff@127.0.0.1\x00\x00\x00\x01"),
    ],
)
def test_a_name_that_cannot_be_had(given: bytes) -> None:
    handshake = dynamic_initiator()
    size = struct.pack(">H", len(given) - 2)
    handshake.receive_data(size + given[2:])
    with pytest.raises(HandshakeError, match="gave this node a name that it cannot have"):
        handshake.next_event()


def test_asked_for_a_name_and_got_none() -> None:
    handshake = dynamic_initiator()
    handshake.receive_data(packet(b"sok"))
    with pytest.raises(HandshakeError, match="gave this node no name, though it asked for one"):
        handshake.next_event()


# --- what the caller may do, and when


def test_status_is_known_afterwards() -> None:
    handshake = initiator()
    assert handshake.status is None
    handshake.receive_data(packet(b"snok"))
    with pytest.raises(HandshakeError):
        handshake.next_event()
    assert handshake.status == "nok"


def test_the_caller_has_to_decide_first() -> None:
    handshake = acceptor()
    handshake.receive_data(THEIR_NAME.data)
    handshake.next_event()
    with pytest.raises(LocalProtocolError, match=r"answer PeerName with send_status\(\)"):
        handshake.next_event()
    handshake.send_status("ok")
    handshake = initiator()
    handshake.receive_data(packet(b"salive"))
    handshake.next_event()
    with pytest.raises(LocalProtocolError, match=r"answer StatusAlive with answer_alive\(\)"):
        handshake.next_event()
    handshake.answer_alive(go_on=True)
    assert handshake.next_event() is NEED_DATA


@pytest.mark.parametrize("state", EXPECTED)
def test_decisions_that_nobody_asked_for(state: State) -> None:
    handshake = at(state)
    with pytest.raises(LocalProtocolError, match="cannot send 'ok' now"):
        handshake.send_status("ok")
    with pytest.raises(LocalProtocolError, match="cannot send 'true' now"):
        handshake.answer_alive(go_on=True)
    assert handshake.data_to_send() == b""
    assert handshake.state is state


def test_names_are_given_to_those_who_ask_and_to_nobody_else() -> None:
    handshake = acceptor()
    handshake.receive_data(THEIR_NAME.data)
    handshake.next_event()
    with pytest.raises(LocalProtocolError, match=r"answer Named to a peer with DFlag\.NAME_ME"):
        handshake.send_status(DYNAMIC)
    handshake = acceptor()
    handshake.receive_data(name_packet("127.0.0.1", DYNAMIC_FLAGS, 0))
    handshake.next_event()
    with pytest.raises(LocalProtocolError, match=r"answer Named to a peer with DFlag\.NAME_ME"):
        handshake.send_status("ok")
    with pytest.raises(LocalProtocolError, match=r"make it name@127\.0\.0\.1"):
        handshake.send_status(Named("a@elsewhere", 1))
    handshake.send_status("not_allowed")
    assert handshake.data_to_send() == NOT_ALLOWED


@pytest.mark.parametrize(
    "name", ["", "py", "py@", "@host", "a@b@c", "p y@host", "py@höst\n", "日@h"]
)
def test_our_own_name_has_to_be_one(name: str) -> None:
    with pytest.raises(ValueError, match="is no node name; write name@host"):
        Handshake.acceptor(name, COOKIE, DEFAULT, 1)
    with pytest.raises(ValueError, match="is no node name; write name@host"):
        Handshake.initiator(name, THEM, COOKIE, DEFAULT, 1)
    with pytest.raises(ValueError, match="is no node name; write name@host"):
        Handshake.initiator(US, name, COOKIE, DEFAULT, 1)


def test_our_host_has_to_be_one() -> None:
    with pytest.raises(ValueError, match="is no host"):
        initiator(name=US, flags=DEFAULT | DFlag.NAME_ME)


def test_names_are_latin_1() -> None:
    handshake = Handshake.initiator("py@höst", THEM, COOKIE, DEFAULT, 1)
    assert handshake.data_to_send().endswith(b"\x00\x07py@h\xf6st")
    handshake = acceptor()
    handshake.receive_data(name_packet("beam@höst", THEIR_FLAGS, 1))
    event = handshake.next_event()
    assert isinstance(event, PeerName)
    assert event.name == "beam@höst"


def test_cookies_are_latin_1_and_stay_secret() -> None:
    with pytest.raises(ValueError, match="beyond Latin-1") as error:
        Handshake.acceptor(US, "mönster-日本", DEFAULT, 1)
    assert "mönster" not in str(error.value)
    assert error.value.__suppress_context__


def test_challenges_are_drawn_at_random() -> None:
    challenges = set()
    for _ in range(3):
        handshake = Handshake.acceptor(US, COOKIE, DEFAULT, 1)
        handshake.receive_data(THEIR_NAME.data)
        handshake.next_event()
        handshake.send_status("ok")
        challenges.add(handshake.data_to_send()[5 + 2 + 9 :][:4])
    assert len(challenges) == 3


def test_the_digest_is_that_of_a_beam() -> None:
    # erlang:md5(["secret" | integer_to_list(16#DEADBEEF)]) on OTP 25
    expected = bytes.fromhex("c3939b31d7a913d82e2ace09247c7b41")
    handshake = Handshake.initiator(US, THEM, "secret", DEFAULT, 1)
    handshake.data_to_send()
    handshake.receive_data(packet(b"sok") + challenge_packet(THEM, THEIR_FLAGS, 0xDEADBEEF, 1))
    assert handshake.next_event() is NEED_DATA
    assert handshake.data_to_send()[7:] == expected


def test_flags_are_what_both_sides_offer() -> None:
    handshake = acceptor()
    offered = MANDATORY | DFlag.PUBLISHED | DFlag.FRAGMENTS | DFlag.DIST_HDR_ATOM_CACHE
    handshake.receive_data(name_packet(THEM, offered, 1))
    handshake.next_event()
    handshake.send_status("ok")
    handshake.receive_data(THEIR_REPLY.data)
    event = handshake.next_event()
    assert isinstance(event, Established)
    assert event.flags == MANDATORY | DFlag.PUBLISHED | DFlag.FRAGMENTS


def test_a_peer_may_offer_the_digest_in_place_of_what_it_stands_for() -> None:
    handshake = acceptor()
    short = DFlag.MANDATORY_25_DIGEST | DFlag.UNLINK_ID | DFlag.V4_NC
    handshake.receive_data(name_packet(THEM, short, 1))
    event = handshake.next_event()
    assert isinstance(event, PeerName)
    assert event.flags & DFlag.MAP_TAG


# --- the table


def test_every_state_is_in_one_table() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set(EXPECTED) | set(INSTEAD) | {State.CLOSED} == set(State)
    assert not set(EXPECTED) & set(INSTEAD)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.RECV_STATUS, State.RECV_NAME}
    for _ in State:
        reached |= {state for old in reached for state in TRANSITIONS[old].values()}
    assert reached == set(State)
    assert [s for s in State if not TRANSITIONS[s]] == [State.ESTABLISHED, State.CLOSED]


# --- pairs


def talk(
    one: Handshake, other: Handshake, decide: Status | Named, *, go_on: bool = True
) -> list[Event | HandshakeError]:
    """Let two handshakes talk, in chunks of random sizes; return how each of them ends."""
    ends: dict[Handshake, Event | HandshakeError] = {}
    wires: dict[Handshake, bytes] = {one: b"", other: b""}
    for _ in range(1_000):
        for handshake, peer in ((one, other), (other, one)):
            if handshake not in ends:
                chunk = wires[handshake][: random.randint(1, 40)]
                wires[handshake] = wires[handshake][len(chunk) :]
                if chunk:
                    handshake.receive_data(chunk)
                elif peer in ends and not wires[handshake]:
                    handshake.receive_data(b"")
                try:
                    event = handshake.next_event()
                except HandshakeError as error:
                    ends[handshake] = error
                else:
                    if isinstance(event, PeerName):
                        handshake.send_status(decide)
                    elif isinstance(event, StatusAlive):
                        handshake.answer_alive(go_on=go_on)
                    elif isinstance(event, Established):
                        ends[handshake] = event
            wires[peer] += handshake.data_to_send()
        if len(ends) == 2:
            return [ends[one], ends[other]]
    raise AssertionError(f"{one!r} and {other!r} never came to an end")


@pytest.mark.parametrize("decide", ["ok", "ok_simultaneous", "alive"])
@pytest.mark.parametrize("repetition", range(5))
def test_pair(decide: Status, repetition: int) -> None:
    one = Handshake.initiator("a@h", "b@h", COOKIE, DEFAULT, 1)
    other = Handshake.acceptor("b@h", COOKIE, DEFAULT | DFlag.ALTACT_SIG, 2)
    assert talk(one, other, decide) == [
        Established("b@h", DEFAULT, 2, "a@h", 1),
        Established("a@h", DEFAULT, 1, "b@h", 2),
    ]
    assert one.trailing_data == other.trailing_data == b""


def test_pair_with_a_name_given() -> None:
    one = Handshake.initiator("h", "b@h", COOKIE, DEFAULT | DFlag.NAME_ME, 1)
    other = Handshake.acceptor("b@h", COOKIE, DEFAULT, 2)
    flags = DEFAULT | DFlag.NAME_ME
    assert talk(one, other, Named("x@h", 77)) == [
        Established("b@h", flags, 2, "x@h", 77),
        Established("x@h", flags, 77, "b@h", 2),
    ]


@pytest.mark.parametrize(
    ("decide", "initiator_says", "acceptor_says"),
    [
        ("nok", "(nok)", "status nok"),
        ("not_allowed", "(not_allowed)", "status not_allowed"),
        ("alive", "use the one that exists", "gave up a second connection"),
    ],
)
def test_pair_refused(decide: Status, initiator_says: str, acceptor_says: str) -> None:
    one = Handshake.initiator("a@h", "b@h", COOKIE, DEFAULT, 1)
    other = Handshake.acceptor("b@h", COOKIE, DEFAULT, 2)
    ends = talk(one, other, decide, go_on=False)
    assert initiator_says in str(ends[0])
    assert acceptor_says in str(ends[1])


def test_pair_with_different_cookies() -> None:
    one = Handshake.initiator("a@h", "b@h", "ernie", DEFAULT, 1)
    other = Handshake.acceptor("b@h", "bert", DEFAULT, 2)
    ends = talk(one, other, "ok")
    assert "give both nodes the same cookie" in str(ends[0])
    assert "Node a@h has another cookie" in str(ends[1])


def test_pair_of_the_same_name() -> None:
    one = Handshake.initiator("a@h", "b@h", COOKIE, DEFAULT, 1)
    other = Handshake.acceptor("a@h", COOKIE, DEFAULT, 2)
    ends = talk(one, other, "ok")
    assert "(not_allowed)" in str(ends[0])
    assert "has the name of this node" in str(ends[1])


# --- whatever comes


@given(st.lists(st.binary(max_size=64), max_size=8), st.booleans())
def test_only_handshake_errors_come_of_noise(chunks: list[bytes], framed: bool) -> None:
    for state in EXPECTED:
        handshake = at(state)
        tag = EXPECTED[state].tag
        try:
            for chunk in chunks:
                handshake.receive_data(packet(tag + chunk) if framed else chunk)
                if isinstance(handshake.next_event(), PeerName | StatusAlive | Established):
                    break
        except HandshakeError:
            pass
