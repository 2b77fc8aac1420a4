"""Control messages: what one node tells another.

See erl_dist_protocol, "Protocol between Connected Nodes". One class for each operation, with its
fields as the documentation calls them: `parse` makes one of a decoded tuple, and
`ControlMessage.to_term` makes the tuple that is sent. Messages of the same shape share the named
tuple that holds their fields and knows how to check them. ``*_TT`` are the same operations with
a token of ``seq_trace``: they are understood, never sent.

A node may send the older of two forms whatever the flags say, ``SEND`` for ``SEND_SENDER`` or
``EXIT`` for ``PAYLOAD_EXIT``: what it encoded before the handshake was over.

An atom that names a process may well be ``nil``, ``true`` or ``false``, which a decoded term holds
as None, True and False; here it is an `Atom` again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from pynode.errors import RemoteProtocolError
from pynode.terms import Atom, Pid, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

#: The place where the cookie was until OTP R9; peers ignore it.
UNUSED = Atom("")

#: Flags of `SpawnReply`: a link or a monitor, from the parent to the new process, is in place.
SPAWN_LINK = 1
SPAWN_MONITOR = 2

#: Flags of `AltactSigSend`. Its `to` is a reference with ALIAS, an atom with NAME, and else a pid;
#: with EXIT its payload is the reason of an exit signal, and with TOKEN it has a token.
ALTACT_PRIO = 1
ALTACT_TOKEN = 2
ALTACT_ALIAS = 4
ALTACT_NAME = 8
ALTACT_EXIT = 16

_MAX_UNLINK_ID = (1 << 64) - 1

_NIL, _TRUE, _FALSE = Atom("nil"), Atom("true"), Atom("false")

_PARSERS: dict[int, Callable[[tuple[Any, ...]], ControlMessage]] = {}


def parse(term: object) -> ControlMessage:
    """Return the control message that the decoded tuple `term` stands for.

    Raises RemoteProtocolError, which names the message, if it is none that a node may send.
    """
    if type(term) is not tuple or not term or type(term[0]) is not int:
        raise RemoteProtocolError(
            "The peer sent a control message that is no tuple with an operation number in front: "
            "check what implements that node."
        )
    from_term = _PARSERS.get(term[0])
    if from_term is None:
        # Python refuses to print integers of thousands of digits.
        number = term[0] if term[0].bit_length() <= 64 else "beyond 64 bits"
        raise RemoteProtocolError(
            f"The peer sent a control message of the unknown operation {number}: check what "
            f"implements that node, and whether it respects the flags of the handshake."
        )
    return from_term(term)


class ControlMessage(tuple[Any, ...]):
    """The base of all control messages: an immutable tuple of its fields, without the operation.

    Messages are equal if they are of one class and their fields are equal.
    """

    __slots__ = ()

    #: Its name in erl_dist_protocol.
    NAME: ClassVar[str]
    #: The first element of the tuple on the wire.
    OP: ClassVar[int]
    #: Whether a second term follows: the message, the exit reason, or the arguments.
    HAS_PAYLOAD: ClassVar[bool]
    #: The fields that say who sends the signal, and who gets it; None where none does.
    ENDS: ClassVar[tuple[int | None, int | None]]

    def __init_subclass__(
        cls,
        *,
        op: int | None = None,
        payload: bool = False,
        ends: tuple[int | None, int | None] = (0, 1),
    ) -> None:
        if op is not None:
            cls.NAME = re.sub(r"(?<=[a-z0-9P])(?=[A-Z])", "_", cls.__name__).upper()
            cls.OP = op
            cls.HAS_PAYLOAD = payload
            cls.ENDS = ends
            _PARSERS[op] = cls.from_term

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        """Return the message that `term` stands for, a tuple with `OP` in front.

        Raises RemoteProtocolError if the number or the types of the other elements are wrong.
        """
        raise NotImplementedError

    def to_term(self) -> tuple[Any, ...]:
        """Return the tuple that is sent."""
        return (self.OP, *self)

    def ends(self) -> tuple[Any, Any]:
        """Return who sends the signal and who gets it: a pid, a name, an alias, or None."""
        sender, receiver = self.ENDS
        return (
            None if sender is None else self[sender],
            None if receiver is None else self[receiver],
        )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.OP, *self))


def _malformed(message: Any, term: tuple[Any, ...], what: str = "") -> RemoteProtocolError:
    """Return the error for a `term` that does not have the shape of `message`."""
    types = ", ".join(type(element).__name__ for element in term[:8])
    return RemoteProtocolError(
        f"The peer sent a malformed {message.NAME} control message{what or f' of ({types})'}: "
        f"check what implements that node."
    )


def _atom(value: object) -> Atom | None:
    """Return `value` if it is an atom, nil, true and false included; else None."""
    if type(value) is Atom:
        return value
    if value is None:
        return _NIL
    if value is True:
        return _TRUE
    return _FALSE if value is False else None


def _process(value: object) -> Pid | Atom | None:
    """Return `value` if it is a pid or an atom; else None."""
    return value if type(value) is Pid else _atom(value)


# The shapes: fields, and how they are checked. ``tuple.__new__`` takes half the time of a named
# tuple's own constructor, and three messages pass through here for each call that a node answers.


class _FromTo(NamedTuple):
    from_pid: Pid
    to_pid: Pid


class _FromToToken(NamedTuple):
    from_pid: Pid
    to_pid: Pid
    trace_token: object


class _FromToReason(NamedTuple):
    from_pid: Pid
    to_pid: Pid
    reason: object


class _FromToTokenReason(NamedTuple):
    from_pid: Pid
    to_pid: Pid
    trace_token: object
    reason: object


class _Pids(ControlMessage):
    """The check of the four above: two pids, then what may be anything."""

    _fields: ClassVar[Any]

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == len(cls._fields) + 1 and type(term[1]) is Pid and type(term[2]) is Pid:
            return tuple.__new__(cls, term[1:])
        raise _malformed(cls, term)


class _IdFromTo(NamedTuple):
    id: int
    from_pid: Pid
    to_pid: Pid

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 4 and type(term[2]) is Pid and type(term[3]) is Pid:
            unlink_id = term[1]
            if type(unlink_id) is int:
                if 1 <= unlink_id <= _MAX_UNLINK_ID:
                    return tuple.__new__(cls, term[1:])
                raise _malformed(cls, term, ", whose id is not within 1 to 2^64-1")
        raise _malformed(cls, term)


class _UnusedFirst(ControlMessage):
    def to_term(self) -> tuple[Any, ...]:
        return (self.OP, UNUSED, *self)


class _UnusedSecond(ControlMessage):
    def to_term(self) -> tuple[Any, ...]:
        return (self.OP, self[0], UNUSED, *self[1:])


class _To(NamedTuple):
    to_pid: Pid

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 3 and type(term[2]) is Pid:
            return tuple.__new__(cls, (term[2],))
        raise _malformed(cls, term)


class _ToToken(NamedTuple):
    to_pid: Pid
    trace_token: object

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 4 and type(term[2]) is Pid:
            return tuple.__new__(cls, (term[2], term[3]))
        raise _malformed(cls, term)


class _FromName(NamedTuple):
    from_pid: Pid
    to_name: Atom

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 4 and type(term[1]) is Pid:
            to_name = _atom(term[3])
            if to_name is not None:
                return tuple.__new__(cls, (term[1], to_name))
        raise _malformed(cls, term)


class _FromNameToken(NamedTuple):
    from_pid: Pid
    to_name: Atom
    trace_token: object

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 5 and type(term[1]) is Pid:
            to_name = _atom(term[3])
            if to_name is not None:
                return tuple.__new__(cls, (term[1], to_name, term[4]))
        raise _malformed(cls, term)


class _Monitor(NamedTuple):
    from_pid: Pid
    to_proc: Pid | Atom
    ref: Reference

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 4 and type(term[1]) is Pid and type(term[3]) is Reference:
            to_proc = _process(term[2])
            if to_proc is not None:
                return tuple.__new__(cls, (term[1], to_proc, term[3]))
        raise _malformed(cls, term)


class _MonitorExit(NamedTuple):
    from_proc: Pid | Atom
    to_pid: Pid
    ref: Reference

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 4 and type(term[2]) is Pid and type(term[3]) is Reference:
            from_proc = _process(term[1])
            if from_proc is not None:
                return tuple.__new__(cls, (from_proc, term[2], term[3]))
        raise _malformed(cls, term)


class _MonitorExitReason(NamedTuple):
    from_proc: Pid | Atom
    to_pid: Pid
    ref: Reference
    reason: object

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 5 and type(term[2]) is Pid and type(term[3]) is Reference:
            from_proc = _process(term[1])
            if from_proc is not None:
                return tuple.__new__(cls, (from_proc, term[2], term[3], term[4]))
        raise _malformed(cls, term)


class _Request(NamedTuple):
    req_id: Reference
    from_pid: Pid
    group_leader: Pid
    mfa: tuple[Atom, Atom, int]
    opts: list[Any]

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 6:
            return tuple.__new__(cls, _request_fields(cls, term))
        raise _malformed(cls, term)


class _RequestToken(NamedTuple):
    req_id: Reference
    from_pid: Pid
    group_leader: Pid
    mfa: tuple[Atom, Atom, int]
    opts: list[Any]
    token: object

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 7:
            return tuple.__new__(cls, (*_request_fields(cls, term), term[6]))
        raise _malformed(cls, term)


def _request_fields(cls: type, term: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the five fields that a spawn request has with and without a token."""
    req_id, from_pid, group_leader, mfa, opts = term[1:6]
    if (
        type(req_id) is Reference
        and type(from_pid) is Pid
        and type(group_leader) is Pid
        and type(mfa) is tuple
        and len(mfa) == 3
        and type(opts) is list
    ):
        module, function, arity = _atom(mfa[0]), _atom(mfa[1]), mfa[2]
        if module is not None and function is not None and type(arity) is int and arity >= 0:
            return (req_id, from_pid, group_leader, (module, function, arity), opts)
    raise _malformed(cls, term)


class _Reply(NamedTuple):
    req_id: Reference
    to_pid: Pid
    flags: int
    result: Pid | Atom

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 5:
            return tuple.__new__(cls, _reply_fields(cls, term))
        raise _malformed(cls, term)


class _ReplyToken(NamedTuple):
    req_id: Reference
    to_pid: Pid
    flags: int
    result: Pid | Atom
    token: object

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 6:
            return tuple.__new__(cls, (*_reply_fields(cls, term), term[5]))
        raise _malformed(cls, term)


def _reply_fields(cls: type, term: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the four fields that a spawn reply has with and without a token."""
    req_id, to_pid, flags = term[1:4]
    result = _process(term[4])
    if (
        type(req_id) is Reference
        and type(to_pid) is Pid
        and type(flags) is int
        and flags >= 0
        and result is not None
    ):
        return (req_id, to_pid, flags, result)
    raise _malformed(cls, term)


class _Alias(NamedTuple):
    from_pid: Pid
    alias: Reference

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 3 and type(term[1]) is Pid and type(term[2]) is Reference:
            return tuple.__new__(cls, term[1:])
        raise _malformed(cls, term)


class _AliasToken(NamedTuple):
    from_pid: Pid
    alias: Reference
    token: object

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 4 and type(term[1]) is Pid and type(term[2]) is Reference:
            return tuple.__new__(cls, term[1:])
        raise _malformed(cls, term)


class _Altact(NamedTuple):
    flags: int
    sender_pid: Pid
    to: Pid | Atom | Reference
    token: object = None

    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        # Later versions may add elements and flags, which are to be ignored (`erts_net_message`
        # of OTP 28).
        if len(term) >= 4 and type(term[2]) is Pid:
            flags, to = term[1], term[3]
            if type(flags) is int and flags >= 0:
                receiver: Pid | Atom | Reference | None
                if flags & ALTACT_NAME:
                    receiver = None if flags & ALTACT_ALIAS else _atom(to)
                else:
                    kind = Reference if flags & ALTACT_ALIAS else Pid
                    receiver = to if type(to) is kind else None
                with_token = bool(flags & ALTACT_TOKEN)
                if receiver is not None and len(term) >= 4 + with_token:
                    token = term[4] if with_token else None
                    return tuple.__new__(cls, (flags, term[2], receiver, token))
        raise _malformed(cls, term)


class _Nothing(NamedTuple):
    @classmethod
    def from_term(cls, term: tuple[Any, ...]) -> Self:
        if len(term) == 1:
            return cls()
        raise _malformed(cls, term)


# The messages.


class Link(_FromTo, _Pids, op=1):
    """``LINK``: `from_pid` links itself to `to_pid`."""


class Send(_To, _UnusedFirst, op=2, payload=True, ends=(None, 0)):
    """``SEND``: the payload is a message for `to_pid`."""


class Exit(_FromToReason, _Pids, op=3):
    """``EXIT``: the link of `to_pid` to `from_pid` broke."""


class Unlink(_FromTo, _Pids, op=4):
    """``UNLINK``: the end of a link, without `UnlinkId`'s handshake. OTP 26 refuses it."""


class NodeLink(_Nothing, ControlMessage, op=5, ends=(None, None)):
    """``NODE_LINK``: a relic that means nothing."""


class RegSend(_FromName, _UnusedSecond, op=6, payload=True):
    """``REG_SEND``: the payload is a message for the process registered as `to_name`."""


class GroupLeader(_FromTo, _Pids, op=7):
    """``GROUP_LEADER``: `from_pid` becomes the group leader of `to_pid`."""


class Exit2(_FromToReason, _Pids, op=8):
    """``EXIT2``: `from_pid` called ``exit(to_pid, reason)``."""


class SendTT(_ToToken, _UnusedFirst, op=12, payload=True, ends=(None, 0)):
    """``SEND_TT``: as `Send`."""


class ExitTT(_FromToTokenReason, _Pids, op=13):
    """``EXIT_TT``: as `Exit`."""


class RegSendTT(_FromNameToken, _UnusedSecond, op=16, payload=True):
    """``REG_SEND_TT``: as `RegSend`."""


class Exit2TT(_FromToTokenReason, _Pids, op=18):
    """``EXIT2_TT``: as `Exit2`."""


class MonitorP(_Monitor, ControlMessage, op=19):
    """``MONITOR_P``: `from_pid` monitors `to_proc`, a pid or a registered name."""


class DemonitorP(_Monitor, ControlMessage, op=20):
    """``DEMONITOR_P``: `from_pid` gives the monitor `ref` up."""


class MonitorPExit(_MonitorExitReason, ControlMessage, op=21):
    """``MONITOR_P_EXIT``: `from_proc`, a pid or the name that was monitored, exited."""


class SendSender(_FromTo, _Pids, op=22, payload=True):
    """``SEND_SENDER``: `Send` between nodes with ``DFLAG_SEND_SENDER``."""


class SendSenderTT(_FromToToken, _Pids, op=23, payload=True):
    """``SEND_SENDER_TT``: as `SendSender`."""


class PayloadExit(_FromTo, _Pids, op=24, payload=True):
    """``PAYLOAD_EXIT``: `Exit` between nodes with ``DFLAG_EXIT_PAYLOAD``."""


class PayloadExitTT(_FromToToken, _Pids, op=25, payload=True):
    """``PAYLOAD_EXIT_TT``: as `PayloadExit`."""


class PayloadExit2(_FromTo, _Pids, op=26, payload=True):
    """``PAYLOAD_EXIT2``: `Exit2` between nodes with ``DFLAG_EXIT_PAYLOAD``."""


class PayloadExit2TT(_FromToToken, _Pids, op=27, payload=True):
    """``PAYLOAD_EXIT2_TT``: as `PayloadExit2`."""


class PayloadMonitorPExit(_MonitorExit, ControlMessage, op=28, payload=True):
    """``PAYLOAD_MONITOR_P_EXIT``: `MonitorPExit` between nodes with ``DFLAG_EXIT_PAYLOAD``."""


class SpawnRequest(_Request, ControlMessage, op=29, payload=True, ends=(1, None)):
    """``SPAWN_REQUEST``: start ``apply(module, function, payload)``, see ``spawn_request/5``."""


class SpawnRequestTT(_RequestToken, ControlMessage, op=30, payload=True, ends=(1, None)):
    """``SPAWN_REQUEST_TT``: as `SpawnRequest`."""


class SpawnReply(_Reply, ControlMessage, op=31, ends=(3, 1)):
    """``SPAWN_REPLY``: the new pid, or an atom that says why there is none."""


class SpawnReplyTT(_ReplyToken, ControlMessage, op=32, ends=(3, 1)):
    """``SPAWN_REPLY_TT``: as `SpawnReply`."""


class AliasSend(_Alias, ControlMessage, op=33, payload=True):
    """``ALIAS_SEND``: the payload is a message for the process with this alias."""


class AliasSendTT(_AliasToken, ControlMessage, op=34, payload=True):
    """``ALIAS_SEND_TT``: as `AliasSend`."""


class UnlinkId(_IdFromTo, ControlMessage, op=35, ends=(1, 2)):
    """``UNLINK_ID``: `from_pid` ends its link to `to_pid`; answer with `UnlinkIdAck`."""


class UnlinkIdAck(_IdFromTo, ControlMessage, op=36, ends=(1, 2)):
    """``UNLINK_ID_ACK``: `from_pid` has seen the `UnlinkId` of `to_pid` with this id."""


class AltactSigSend(_Altact, ControlMessage, op=37, payload=True, ends=(1, 2)):
    """``ALTACT_SIG_SEND`` of OTP 28: a message or an exit signal, to a pid, a name or an alias.

    Sent between nodes with ``DFLAG_ALTACT_SIG``, where it takes the place of `AliasSend`, which
    OTP 30 is to drop, and of all that is sent with priority. `flags` says what `to` is, see
    ``ALTACT_*``.
    """

    def to_term(self) -> tuple[Any, ...]:
        """Return the tuple that is sent, of five elements if there is a token."""
        flags, sender_pid, to, token = self
        if flags & ALTACT_TOKEN:
            return (37, flags, sender_pid, to, token)
        return (37, flags, sender_pid, to)

    def classic(self) -> ControlMessage:
        """Return the older message that says the same, without a priority.

        To be sent with priority makes a difference only to an alias that its process has made for
        that (`erlang:alias/1`, option ``priority``); anywhere else such a message is like others.
        An exit signal to an alias or a name has no older form: the message itself is returned.
        """
        flags, sender, to, token = self
        kinds: tuple[Callable[..., ControlMessage], Callable[..., ControlMessage]]
        if flags & ALTACT_EXIT:
            if type(to) is not Pid:
                return self
            kinds = (PayloadExit2, PayloadExit2TT)
        elif flags & ALTACT_ALIAS:
            kinds = (AliasSend, AliasSendTT)
        elif flags & ALTACT_NAME:
            kinds = (RegSend, RegSendTT)
        else:
            kinds = (SendSender, SendSenderTT)
        if flags & ALTACT_TOKEN:
            return kinds[1](sender, to, token)
        return kinds[0](sender, to)


class Message(NamedTuple):
    """A control message and the term that came with it.

    `payload` is that term in the External Term Format, without version byte, and not looked at
    yet: ``etf.decode_at(payload, 0)``. It is None exactly if the control message has none.
    """

    control: ControlMessage
    payload: bytes | None
