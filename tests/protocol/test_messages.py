"""Messages read from bytes, and made to frames, compiled and in pure Python.

What becomes of the frames of a whole connection is in `test_channel`, and that both do the same
with whatever may come in `tests/fuzz/fuzz_control.py`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pynode import etf
from pynode.config import LIMITS, Limits
from pynode.errors import DecodeError, EncodeError, RemoteProtocolError
from pynode.protocol.control import (
    ALTACT_ALIAS,
    AliasSend,
    AltactSigSend,
    ControlMessage,
    Exit,
    Link,
    Message,
    MonitorP,
    MonitorPExit,
    PayloadExit,
    SendSender,
)
from pynode.terms import Atom, Map
from tests.etf.test_etf_leaks import leaks
from tests.protocol.test_control import MESSAGES, TOKEN, VECTORS, A, B, R, mutations, to_bytes

if TYPE_CHECKING:
    from types import ModuleType

PAYLOAD = etf.encode((Atom("hello"), [1, 2, 3]))[1:]
VERSIONS = (b"", b"\x83")


def classic(control: ControlMessage) -> ControlMessage:
    return control.classic() if isinstance(control, AltactSigSend) else control


@pytest.mark.parametrize(("vector", "control"), VECTORS, ids=str)
def test_what_is_read(messages: ModuleType, vector: str, control: ControlMessage) -> None:
    term = to_bytes(vector)
    for version in VERSIONS:
        payload = PAYLOAD if control.HAS_PAYLOAD else None
        whole = term + (version + PAYLOAD if control.HAS_PAYLOAD else b"")
        for before, after in ((b"", b""), (b"before", b"after")):
            data = before + whole + after
            stop = len(before + whole)
            found = messages.message_at(data, len(before), stop, LIMITS, version)
            assert found == Message(classic(control), payload)
            assert type(found) is Message
            assert type(found.control) is type(classic(control))
            assert list(map(type, found.control)) == list(map(type, classic(control)))
            for wrong in (*range(len(before), stop - len(PAYLOAD)), stop + 1):
                if wrong > stop and control.HAS_PAYLOAD:
                    continue
                with pytest.raises(RemoteProtocolError, match=control.NAME):
                    messages.message_at(data + b"more", len(before), wrong, LIMITS, version)
        for size in range(len(term)):
            with pytest.raises(DecodeError):
                messages.message_at(term[:size], 0, size, LIMITS, version)
        if control.HAS_PAYLOAD:
            with pytest.raises(RemoteProtocolError, match="without a payload"):
                messages.message_at(term + version, 0, len(term + version), LIMITS, version)


def test_a_payload_of_another_version(messages: ModuleType) -> None:
    data = etf.encode(SendSender(A, B).to_term())[1:] + b"\x84" + PAYLOAD
    with pytest.raises(RemoteProtocolError, match="SEND_SENDER with a payload of an unknown"):
        messages.message_at(data, 0, len(data), LIMITS, b"\x83")


@pytest.mark.parametrize("control", MESSAGES, ids=str)
def test_malformed(messages: ModuleType, control: ControlMessage) -> None:
    for term in mutations(control.to_term()):
        if Atom not in map(type, term) and any(isinstance(item, type) for item in term):
            continue  # which no bytes stand for
        data = etf.encode(term, default=str)[1:] + PAYLOAD
        with pytest.raises(RemoteProtocolError, match=control.NAME):
            messages.message_at(data, 0, len(data), LIMITS, b"")


def test_limits(messages: ModuleType) -> None:
    control = MonitorPExit(A, B, R, [[["x"]]])
    data = etf.encode(control.to_term())[1:]
    assert messages.message_at(data, 0, len(data), Limits(depth=4, terms=8), b"").control == control
    for limits in (Limits(depth=3), Limits(depth=0), Limits(terms=7)):
        with pytest.raises(DecodeError):
            messages.message_at(data, 0, len(data), limits, b"")


@pytest.mark.parametrize("control", MESSAGES, ids=str)
def test_what_is_written(messages: ModuleType, control: ControlMessage) -> None:
    for altact in (False, True):
        sent = control
        if altact and type(control) is AliasSend:
            sent = AltactSigSend(ALTACT_ALIAS, *control)
        for payload in (None, b"", PAYLOAD, bytes(60_000)):
            content = b"\x83D\0" + etf.encode(sent.to_term())[1:] + (payload or b"")
            expected = struct.pack(">I", len(content)) + content
            assert messages.frame(control, payload, altact) == expected


def test_fields_that_are_large_or_unusual(messages: ModuleType) -> None:
    deep: object = 1
    for _ in range(400):
        deep = [deep]
    for reason in (deep, "x" * 100_000, Atom("é" * 255), Map([(1, 2), (1.0, 3)])):
        control = MonitorPExit(A, B, R, reason)
        assert messages.frame(control, None, False)[7:] == etf.encode(control.to_term())[1:]
        data = etf.encode(control.to_term())[1:]
        assert messages.message_at(data, 0, len(data), LIMITS, b"").control.reason == reason


def test_what_has_no_form(messages: ModuleType) -> None:
    for control in (Exit(A, B, object()), Link(A, float("nan"))):  # type: ignore[arg-type]
        with pytest.raises(EncodeError):
            messages.frame(control, None, False)


def test_nothing_is_kept(messages: ModuleType) -> None:
    controls: list[ControlMessage] = [*MESSAGES, MonitorP(A, Atom("rex"), R), PayloadExit(A, B)]
    encoded = [etf.encode(control.to_term())[1:] for control in controls]

    def read_and_write() -> None:
        for control, term in zip(controls, encoded, strict=True):
            messages.frame(control, PAYLOAD, True)
            data = term + PAYLOAD if control.HAS_PAYLOAD else term
            messages.message_at(data, 0, len(data), LIMITS, b"")

    def fail() -> None:
        for term in encoded:
            for data in (term[:-1], term[:4] + b"a\1" + term[4:], term[:3] + b"\xff" + term[4:]):
                with pytest.raises((DecodeError, RemoteProtocolError)):
                    messages.message_at(data, 0, len(data), LIMITS, b"\x83")
        with pytest.raises(EncodeError):
            messages.frame(Exit(A, B, (TOKEN, object())), None, False)

    assert leaks(read_and_write) == 0
    assert leaks(fail) == 0
