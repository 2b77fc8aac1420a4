"""The distribution handshake, version 6 (OTP 23 and later), for both roles.

Theory of operation (erl_dist_protocol, "Distribution Handshake"; OTP's ``dist_util.erl``)::

    initiator                                             acceptor
    send_name            'N' flags creation name   ---->  recv_name          PeerName
    recv_status          's' status                <----  send_status()
    answer_alive()       's' true | false         (---->  recv_status_reply, after 'alive' only)
    recv_challenge       'N' flags challenge name  <----  send_challenge
    send_challenge_reply 'r' challenge digest      ---->  recv_challenge_reply
    recv_challenge_ack   'a' digest                <----  send_challenge_ack Established
    Established

Every message is a packet with its length in two bytes before it; in four over TLS
(``inet_tls_dist.erl`` asks for ``{packet, 4}`` from the start). A digest is the MD5 of the
cookie and the other side's challenge: the initiator proves first that it has the cookie.

`Handshake` does no I/O. Its caller repeats: write `data_to_send()`, ask `next_event()`, and on
NEED_DATA read something and pass it to `receive_data()`. What is decided elsewhere, in the
connection table, is asked for: PeerName is answered with `send_status()`, StatusAlive with
`answer_alive()`. What leads from one state to the next, on the wire or by the caller, is in
`TRANSITIONS`; everything else ends the handshake.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NamedTuple, NoReturn, TypeAlias

from pynode.config import LIMITS, Limits
from pynode.errors import HandshakeError, LocalProtocolError
from pynode.protocol.flags import DFlag, expand, missing
from pynode.protocol.handshake_states import EXPECTED, INSTEAD, TRANSITIONS, State
from pynode.protocol.names import MAX_NAME, is_host, is_node_name, require_node_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


_NAME = struct.Struct(">cQIH")
_CHALLENGE = struct.Struct(">cQIIH")
_CHALLENGE_REPLY = struct.Struct(">cI16s")
_DIGEST_SIZE = 16


class _NeedData(Enum):
    NEED_DATA = auto()


#: There is no event yet: read from the peer, pass it to `receive_data()` and ask again.
NEED_DATA: Final = _NeedData.NEED_DATA


class PeerName(NamedTuple):
    """The acceptor knows who is calling, and waits for `send_status()`.

    With DFlag.NAME_ME in `flags` the peer asks to be given a name, and `name` is its host.
    """

    name: str
    flags: int
    creation: int


class StatusAlive(NamedTuple):
    """The initiator is told that a connection exists, and waits for `answer_alive()`."""

    peer: str


class Established(NamedTuple):
    """The handshake is over; the peer has proved that it has the cookie.

    `flags` are those that both sides offered, `creation` is the peer's. `name` and
    `own_creation` are what this node goes by: what was passed in, unless the peer gave it
    a name (DFlag.NAME_ME).
    """

    peer: str
    flags: DFlag
    creation: int
    name: str
    own_creation: int


class Named(NamedTuple):
    """The status ``named:``: the name and the creation that the acceptor gives its peer."""

    name: str
    creation: int


Event: TypeAlias = Literal[_NeedData.NEED_DATA] | PeerName | StatusAlive | Established
Status: TypeAlias = Literal["ok", "ok_simultaneous", "nok", "not_allowed", "alive"]


class Handshake:
    """One handshake, in one of both roles; made by `initiator()` or `acceptor()`.

    Whatever `next_event()` does, raising included, there may be `data_to_send()` afterwards.
    """

    __slots__ = (
        "_buffer",
        "_challenge",
        "_cookie",
        "_creation",
        "_eof",
        "_flags",
        "_length_bytes",
        "_limits",
        "_name",
        "_out",
        "_peer",
        "_peer_creation",
        "_peer_flags",
        "_refusal",
        "_state",
        "_status",
    )

    def __init__(
        self,
        state: State,
        name: str,
        peer: str,
        cookie: str,
        *,
        flags: DFlag,
        creation: int,
        challenge: int | None,
        length_bytes: int,
        limits: Limits,
    ) -> None:
        self._state = state
        self._name = name
        self._peer = peer
        self._cookie = _cookie_bytes(cookie)
        self._flags = flags
        self._creation = creation
        self._challenge = secrets.randbits(32) if challenge is None else challenge
        self._length_bytes = length_bytes
        self._limits = limits
        self._peer_flags = 0
        self._peer_creation = 0
        self._status: str | None = None
        self._refusal = ""
        self._buffer = bytearray()
        self._out = bytearray()
        self._eof = False

    @classmethod
    def initiator(
        cls,
        name: str,
        peer: str,
        cookie: str,
        flags: DFlag,
        creation: int,
        *,
        challenge: int | None = None,
        length_bytes: int = 2,
        limits: Limits = LIMITS,
    ) -> Handshake:
        """Return the handshake of the node that connected to `peer`.

        With DFlag.NAME_ME in `flags`, `name` is this host and the peer gives the node its name
        and its creation. `challenge` is 32 random bits unless it is passed, and `length_bytes`
        stand before each packet.
        Raises ValueError for names that are none, and for a cookie that is not Latin-1.
        """
        if flags & DFlag.NAME_ME:
            if not is_host(name):
                raise ValueError(f"{name!r} is no host; pass the part of a name after the @.")
            flags, creation = flags & ~DFlag.PUBLISHED, 0
        else:
            require_node_name(name)
        require_node_name(peer)
        self = cls(
            State.RECV_STATUS,
            name,
            peer,
            cookie,
            flags=flags,
            creation=creation,
            challenge=challenge,
            length_bytes=length_bytes,
            limits=limits,
        )
        encoded = name.encode("latin-1")
        self._send(_NAME.pack(b"N", flags, creation, len(encoded)) + encoded)
        return self

    @classmethod
    def acceptor(
        cls,
        name: str,
        cookie: str,
        flags: DFlag,
        creation: int,
        *,
        challenge: int | None = None,
        length_bytes: int = 2,
        limits: Limits = LIMITS,
    ) -> Handshake:
        """Return the handshake of the node `name` that somebody connected to.

        `challenge` and `length_bytes` are as for `initiator`.
        Raises ValueError for a name that is none, and for a cookie that is not Latin-1.
        """
        require_node_name(name)
        return cls(
            State.RECV_NAME,
            name,
            "",
            cookie,
            flags=flags,
            creation=creation,
            challenge=challenge,
            length_bytes=length_bytes,
            limits=limits,
        )

    def __repr__(self) -> str:
        return f"<Handshake of {self._name} with {self._peer or 'a peer'}: {self._state.name}>"

    @property
    def state(self) -> State:
        """Where the handshake is."""
        return self._state

    @property
    def status(self) -> str | None:
        """The status that was sent or received, None before.

        An initiator that was told ``nok`` has the peer's own connection to wait for.
        """
        return self._status

    @property
    def trailing_data(self) -> bytes:
        """What was received beyond the handshake; after Established it is the connection's."""
        return bytes(self._buffer)

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take what the peer sent; empty `data` means that it closed the connection."""
        if data:
            self._buffer += data
        else:
            self._eof = True

    def data_to_send(self) -> bytes:
        """Return, once, the bytes that are to be written now."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def next_event(self) -> Event:
        """Return what has happened, or NEED_DATA.

        The acceptor's Established comes when the peer has proved its cookie and before the
        peer knows: the last packet is still in `data_to_send()`. After the status ``alive``,
        close the old connection before writing it, as OTP does.

        Raises HandshakeError when the handshake has ended without a connection, and
        LocalProtocolError when it waits for its caller, or is over.
        """
        if self._state is State.CLOSED:
            raise HandshakeError(self._refusal)
        if self._state in INSTEAD:
            raise LocalProtocolError(f"{self!r} has no event to wait for; {INSTEAD[self._state]}.")
        while (packet := self._next_packet()) is not None:
            event = self._RECEIVE[self._state](self, packet)
            if event is not None:
                return event
        if self._eof:
            self._refuse(f"{self._who()} closed the connection {EXPECTED[self._state].closed}.")
        return NEED_DATA

    def send_status(self, status: Status | Named) -> None:
        """Answer PeerName: whether the acceptor wants this connection.

        ``ok``; when both nodes connect to each other at once, ``ok_simultaneous`` if the peer's
        name is the greater one and ``nok`` if ours is; ``alive`` when there is a connection with
        that node already; ``not_allowed``. A peer that asked for a name gets it with `Named`, on
        the host that it told. After ``nok`` and ``not_allowed``, `next_event()` raises.
        Raises LocalProtocolError for what is not possible now.
        """
        dynamic = bool(self._peer_flags & DFlag.NAME_ME)
        word = "named" if isinstance(status, Named) else status
        if word not in {"nok", "not_allowed"} and dynamic != (word == "named"):
            raise LocalProtocolError(
                f"{self!r} cannot answer {word!r}; answer Named to a peer with DFlag.NAME_ME, "
                "and only to such a peer."
            )
        if isinstance(status, Named) and not _belongs_to(status.name, self._peer):
            raise LocalProtocolError(
                f"{status.name!r} is no name for a node on {self._peer}; make it name@{self._peer}."
            )
        self._local(word)
        self._status = word
        if isinstance(status, Named):
            self._give_name(status)
        else:
            self._send(b"s" + word.encode("ascii"))
        if self._state is State.RECV_CHALLENGE_REPLY:
            self._send_challenge()
        elif self._state is State.CLOSED:
            self._refusal = f"{self._who()} was refused with status {word}, as this node decided."

    def answer_alive(self, *, go_on: bool) -> None:
        """Answer StatusAlive: whether this node knows that the old connection is broken.

        If it does not, `next_event()` raises. Raises LocalProtocolError when nobody has asked.
        """
        word = "true" if go_on else "false"
        self._local(word)
        self._send(b"s" + word.encode("ascii"))
        if not go_on:
            self._refusal = (
                f"{self._who()} has a connection with this node already, "
                "so the new one was given up; use the one that exists."
            )

    # The packets of the initiator's peer.

    def _recv_status(self, packet: bytes) -> Event | None:
        status, colon, given = packet[1:].partition(b":")
        word = status.decode("latin-1")
        named = word == "named"
        dynamic = DFlag.NAME_ME in self._flags
        if word not in TRANSITIONS[self._state] or named != bool(colon):
            self._refuse(
                f"{self._who()} answered with the status {packet[1:41]!r}, which is none; "
                "check that it is an Erlang node of OTP 25 or later."
            )
        self._status = word
        if word == "not_allowed":
            self._refuse(
                f"{self._who()} does not allow this connection (not_allowed); "
                "look for the reason in its log."
            )
        if word == "nok":
            self._refuse(
                f"{self._who()} is connecting to this node itself at the moment (nok); "
                "wait for its connection."
            )
        if named != dynamic:
            told = "gave this node a name" if named else "gave this node no name"
            asked = "asked for one" if dynamic else "has one"
            self._refuse(
                f"{self._who()} {told}, though it {asked} (status {word}); "
                "it cannot be connected to in this way."
            )
        if named:
            self._take_name(given)
        self._remote(word)
        return StatusAlive(self._peer) if word == "alive" else None

    def _recv_challenge(self, packet: bytes) -> Event | None:
        if packet[:1] == b"n":
            self._refuse(
                f"{self._who()} answers with version 5 of the handshake; "
                "upgrade it to OTP 25 or later."
            )
        name, (flags, challenge, creation) = self._parse_name(packet, _CHALLENGE)
        if name != self._peer:
            self._refuse(
                f"{self._who()} calls itself {name[:MAX_NAME]!r}; "
                "use that name, or check which node listens at this port."
            )
        self._peer_flags = expand(flags)
        self._peer_creation = creation
        if lacking := missing(flags):
            self._refuse(f"{self._who()} cannot handle {', '.join(lacking)}; {_UPGRADE}.")
        self._remote("challenge")
        self._send(_CHALLENGE_REPLY.pack(b"r", self._challenge, self._digest(challenge)))
        return None

    def _recv_challenge_ack(self, packet: bytes) -> Event | None:
        if len(packet) != 1 + _DIGEST_SIZE:
            self._malformed(packet)
        self._check_digest(packet[1:])
        self._remote("challenge_ack")
        return self._established()

    # The packets of the acceptor's peer.

    def _recv_name(self, packet: bytes) -> Event | None:
        if packet[:1] == b"n":
            self._deny(
                f"{self._who()} connects with version 5 of the handshake; "
                "upgrade it to OTP 25 or later."
            )
        name, (flags, creation) = self._parse_name(packet, _NAME)
        is_name = is_host if flags & DFlag.NAME_ME else is_node_name
        if not is_name(name):
            self._refuse(
                f"{self._who()} calls itself {name[:MAX_NAME]!r}; "
                "a node name has the form name@host."
            )
        self._peer = name
        self._peer_flags = expand(flags)
        self._peer_creation = creation
        if name == self._name:
            self._deny(f"{self._who()} has the name of this node; give one of them another.")
        if lacking := missing(flags):
            self._deny(f"{self._who()} cannot handle {', '.join(lacking)}; {_UPGRADE}.")
        self._remote("name")
        return PeerName(name, self._peer_flags, creation)

    def _recv_status_reply(self, packet: bytes) -> Event | None:
        if packet not in (b"strue", b"sfalse"):
            self._malformed(packet)
        if packet == b"sfalse":
            self._refuse(
                f"{self._who()} gave up a second connection to this node; "
                "nothing is to be done, the first one is in use."
            )
        self._remote("true")
        self._send_challenge()
        return None

    def _recv_challenge_reply(self, packet: bytes) -> Event | None:
        if len(packet) != _CHALLENGE_REPLY.size:
            self._malformed(packet)
        _, challenge, digest = _CHALLENGE_REPLY.unpack(packet)
        self._check_digest(digest)
        self._remote("challenge_reply")
        self._send(b"a" + self._digest(challenge))
        return self._established()

    _RECEIVE: ClassVar[Mapping[State, Callable[[Handshake, bytes], Event | None]]] = {
        State.RECV_STATUS: _recv_status,
        State.RECV_CHALLENGE: _recv_challenge,
        State.RECV_CHALLENGE_ACK: _recv_challenge_ack,
        State.RECV_NAME: _recv_name,
        State.RECV_STATUS_REPLY: _recv_status_reply,
        State.RECV_CHALLENGE_REPLY: _recv_challenge_reply,
    }

    # What both share.

    def _established(self) -> Established:
        return Established(
            self._peer,
            DFlag(int(self._flags) & self._peer_flags),
            self._peer_creation,
            self._name,
            self._creation,
        )

    def _send_challenge(self) -> None:
        name = self._name.encode("latin-1")
        self._send(
            _CHALLENGE.pack(b"N", self._flags, self._challenge, self._creation, len(name)) + name
        )

    def _give_name(self, given: Named) -> None:
        self._peer, self._peer_creation = given
        # The peer finds out from our flags that we know it by a name of our making.
        self._flags = (self._flags & ~DFlag.PUBLISHED) | DFlag.NAME_ME
        name = given.name.encode("utf-8")
        self._send(b"snamed:" + struct.pack(f">H{len(name)}sI", len(name), name, given.creation))

    def _take_name(self, data: bytes) -> None:
        size = int.from_bytes(data[:2], "big")
        name = data[2 : 2 + size].decode("utf-8", "replace")
        creation = data[2 + size : 6 + size]
        if len(creation) < 4 or not _belongs_to(name, self._name):
            self._refuse(
                f"{self._who()} gave this node a name that it cannot have: {name[:MAX_NAME]!r}; "
                "start the node with a name of its own."
            )
        self._name, self._creation = name, int.from_bytes(creation, "big")

    def _parse_name(self, packet: bytes, layout: struct.Struct) -> tuple[str, tuple[int, ...]]:
        """Return the name and the integers before it; what follows the name is ignored."""
        if len(packet) < layout.size:
            self._malformed(packet)
        _, *fields, size = layout.unpack_from(packet)
        name = packet[layout.size : layout.size + size]
        if len(name) < size:
            self._malformed(packet)
        return name.decode("latin-1"), tuple(fields)

    def _digest(self, challenge: int) -> bytes:
        # Not for security: so that it also works where MD5 is forbidden for that.
        text = self._cookie + str(challenge).encode("ascii")
        return hashlib.md5(text, usedforsecurity=False).digest()

    def _check_digest(self, digest: bytes) -> None:
        if not hmac.compare_digest(digest, self._digest(self._challenge)):
            self._refuse(
                f"{self._who()} has another cookie than this node; give both the same cookie."
            )

    def _next_packet(self) -> bytes | None:
        head = self._length_bytes
        if len(self._buffer) < head:
            return None
        size = int.from_bytes(self._buffer[:head], "big")
        expected = EXPECTED[self._state]
        if size > self._limits.handshake_packet:
            self._refuse(
                f"{self._who()} announced {size} bytes where its {expected.message} was due, and "
                f"{self._limits.handshake_packet} are allowed; check that it is an Erlang node, "
                "and that both use TLS or none."
            )
        if len(self._buffer) < head + size:
            return None
        packet = bytes(self._buffer[head : head + size])
        del self._buffer[: head + size]
        old = packet[:1] == b"n" and expected.tag == b"N"
        if packet[:1] != expected.tag and not old:
            self._malformed(packet)
        return packet

    def _send(self, packet: bytes) -> None:
        self._out += len(packet).to_bytes(self._length_bytes, "big") + packet

    def _who(self) -> str:
        return f"Node {self._peer}" if self._peer else f"A peer that connected to {self._name}"

    def _remote(self, what: str) -> None:
        self._state = TRANSITIONS[self._state][what]

    def _local(self, what: str) -> None:
        state = TRANSITIONS[self._state].get(what) if self._state in INSTEAD else None
        if state is None:
            raise LocalProtocolError(
                f"{self!r} cannot send {what!r} now; answer each event once, as it comes."
            )
        self._state = state

    def _malformed(self, packet: bytes) -> NoReturn:
        self._refuse(
            f"{self._who()} sent {len(packet)} bytes that begin with {packet[:1]!r} where its "
            f"{EXPECTED[self._state].message} was due; "
            "check that it is an Erlang node of OTP 25 or later."
        )

    def _deny(self, reason: str) -> NoReturn:
        """Refuse, and tell the peer so."""
        self._status = "not_allowed"
        self._send(b"snot_allowed")
        self._refuse(reason)

    def _refuse(self, reason: str) -> NoReturn:
        self._state = State.CLOSED
        self._refusal = reason
        raise HandshakeError(reason)


_UPGRADE = "upgrade it to OTP 25 or later"


def _belongs_to(name: str, host: str) -> bool:
    return is_node_name(name) and name.partition("@")[2] == host


def _cookie_bytes(cookie: str) -> bytes:
    try:
        return cookie.encode("latin-1")
    except UnicodeEncodeError:
        # Not chained: the original error holds the cookie.
        raise ValueError("The cookie has characters beyond Latin-1; choose another.") from None
