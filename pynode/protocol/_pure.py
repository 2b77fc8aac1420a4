"""Messages as bytes, in pure Python: the reference for `_compiled`, its twin."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from pynode.errors import RemoteProtocolError
from pynode.etf import decode_at, encode
from pynode.protocol.control import ALTACT_ALIAS, AliasSend, AltactSigSend, Message, parse

if TYPE_CHECKING:
    from pynode.config import Limits
    from pynode.protocol.control import ControlMessage

_LENGTH: Final = Struct(">I")
#: What a whole message begins with between nodes with FRAGMENTS.
HEADER: Final = b"\x83\x44\0"
_new = tuple.__new__  # In half the time of a named tuple's own constructor.


def message_at(data: bytes, at: int, stop: int, limits: Limits, version: bytes) -> Message:
    """Return the whole message whose terms are from `at` to `stop`, with `version` in between.

    Raises DecodeError for what is no term, and RemoteProtocolError for what is no message.
    """
    control, at = control_at(data, at, limits)
    if control.HAS_PAYLOAD:
        if at < stop and version:
            if data[at : at + 1] != version:
                raise broken(f"sent {control.NAME} with a payload of an unknown version")
            at += 1
        if at < stop:
            if type(control) is AltactSigSend:
                control = control.classic()
            return _new(Message, (control, data[at:stop]))
        raise broken(f"sent {control.NAME} without a payload, or cut short")
    if at == stop:
        return _new(Message, (control, None))
    what = "with a payload, which it never has" if at < stop else "cut short"
    raise broken(f"sent {control.NAME} {what}")


def control_at(data: bytes, at: int, limits: Limits) -> tuple[ControlMessage, int]:
    """Return the control message whose term is at `at`, and the position after it."""
    term, end = decode_at(data, at, limits=limits)
    return parse(term), end


def broken(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"The peer {what}: check what implements that node.")


# Flags are not named in calls, which takes time.
def frame(control: ControlMessage, payload: bytes | None, altact: bool) -> bytes:  # noqa: FBT001
    """Return the frame of a whole message to a node with FRAGMENTS and, maybe, ALTACT_SIG.

    Raises EncodeError for a field of `control` that no term can stand for.
    """
    parts = (HEADER, term_of(control, altact), payload or b"")
    return b"".join((_LENGTH.pack(sum(map(len, parts))), *parts))


def term_of(control: ControlMessage, altact: bool) -> bytes:  # noqa: FBT001
    """Return the term that is sent, which is another one to a node with ALTACT_SIG."""
    if altact and type(control) is AliasSend:
        control = AltactSigSend(ALTACT_ALIAS, *control)
    return encode(control.to_term(), version=False)
