"""Control messages: whatever term a peer sends in the place of one.

The outcome is a message, which is the same again when it is sent, or a RemoteProtocolError; and it
is the same in all implementations.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pynode import etf
from pynode.config import Limits
from pynode.errors import DecodeError, RemoteProtocolError
from pynode.protocol.channel import Message
from pynode.protocol.control import AltactSigSend, parse
from tests.fuzz import fuzz_channel
from tests.fuzz.documented import check_sentence
from tests.protocol.conftest import IMPLEMENTATIONS

if TYPE_CHECKING:
    from types import ModuleType

LIMITS = Limits(depth=50)
DICTIONARY = [bytes((97, operation)) for operation in range(40)]

_modules: list[ModuleType] = [importlib.import_module(name) for name in IMPLEMENTATIONS]


def seeds() -> list[bytes]:
    """Return the control messages of real connections."""
    messages = [event for data in fuzz_channel.seeds() for event in fuzz_channel.events(data)]
    terms = {etf.encode(m.control.to_term())[1:] for m in messages if isinstance(m, Message)}
    return sorted(terms)


def check(data: bytes) -> None:
    """Parse the term that `data` begins with; and read it as a message, in every implementation."""
    for version, stop in ((b"", len(data)), (b"\x83", len(data)), (b"", len(data) - 5)):
        outcomes = [_outcome(module, data, stop, version) for module in _modules]
        assert all(outcome == outcomes[0] for outcome in outcomes)
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
    for altact in (False, True):
        assert len({module.frame(control, data, altact) for module in _modules}) == 1


def _outcome(module: ModuleType, data: bytes, stop: int, version: bytes) -> tuple[Any, ...]:
    try:
        message = module.message_at(data, 0, stop, LIMITS, version)
    except (DecodeError, RemoteProtocolError) as error:
        return type(error), str(error)
    return type(message.control), message, repr(message)
