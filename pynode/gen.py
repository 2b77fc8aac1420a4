"""The protocol of `gen.erl`: how a GenServer is called and how it answers.

A call is the message ``{'$gen_call', {Pid, Tag}, Request}``, its answer ``{Tag, Reply}``. What the
tag looks like is the caller's business, but for one thing: if it holds an alias, the answer goes
there, and an answer that comes too late then finds nobody.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from pynode import etf
from pynode.errors import DecodeError
from pynode.protocol.control import AliasSend, ControlMessage, SendSender
from pynode.terms import Atom, ImproperList, Pid, Reference

CALL: Final = Atom("$gen_call")
CAST: Final = Atom("$gen_cast")

_SMALL_TUPLE = b"h"
_new: Final = tuple.__new__  # In half the time of a named tuple's own constructor.

_ALIAS: Final = (Atom("alias"),)


def tag_of(alias: Reference) -> ImproperList:
    """Return the tag of a call whose answer goes to `alias`: ``[alias | Reference]``."""
    return ImproperList(_ALIAS, alias)


def alias_of(tag: Any) -> Reference | None:
    """Return the alias in a tag, ``[alias | Reference]`` or ``[[alias | Reference] | _]``."""
    if type(tag) is list and tag:
        tag = tag[0]
    elif type(tag) is ImproperList and type(tag.elements[0]) is ImproperList:
        tag = tag.elements[0]
    if type(tag) is ImproperList and tag.elements == _ALIAS and type(tag.tail) is Reference:
        return tag.tail
    return None


def is_from(value: Any) -> bool:
    """Whether `value` is the second part of a call: ``{Pid, Tag}``."""
    return type(value) is tuple and len(value) == 2 and type(value[0]) is Pid


def reply_to(sender: Pid, caller: Pid, tag: Any) -> ControlMessage:
    """Return the control message that an answer goes with (`gen:reply/2`)."""
    return reply_by(sender, caller, alias_of(tag))


def reply_by(sender: Pid, caller: Pid, alias: Reference | None) -> ControlMessage:
    """Return the same, for a tag with this `alias`, if it has one."""
    if alias is None:
        return _new(SendSender, (sender, caller))
    return _new(AliasSend, (sender, alias))


def envelope(payload: bytes) -> tuple[Any, Any]:
    """Return the first two parts of a message that cannot be decoded as a whole.

    They tell what kind of message it is and who has sent it. None for what cannot be read.
    """
    kind = sender = None
    with suppress(DecodeError):
        if payload[:1] == _SMALL_TUPLE:
            kind, position = etf.decode_at(payload, 2)
            sender, _ = etf.decode_at(payload, position)
    return kind, sender
