"""Control messages: whatever term a peer sends in the place of one.

The outcome is a message, which is the same again when it is sent, or a RemoteProtocolError.
"""

from __future__ import annotations

from pynode import etf
from pynode.config import Limits
from pynode.errors import DecodeError, RemoteProtocolError
from pynode.protocol.channel import Message
from pynode.protocol.control import AltactSigSend, parse
from tests.fuzz import fuzz_channel
from tests.fuzz.documented import check_sentence

LIMITS = Limits(depth=50)
DICTIONARY = [bytes((97, operation)) for operation in range(40)]


def seeds() -> list[bytes]:
    """Return the control messages of real connections."""
    messages = [event for data in fuzz_channel.seeds() for event in fuzz_channel.events(data)]
    terms = {etf.encode(m.control.to_term())[1:] for m in messages if isinstance(m, Message)}
    return sorted(terms)


def check(data: bytes) -> None:
    """Parse the term that `data` begins with."""
    try:
        term, _ = etf.decode_at(data, 0, limits=LIMITS)
    except DecodeError:
        return
    try:
        control = parse(term)
    except RemoteProtocolError as error:
        check_sentence(error)
        return
    assert parse(etf.decode(etf.encode(control.to_term()))) == control
    assert len(control.ends()) == 2
    if isinstance(control, AltactSigSend):
        control.classic()
