"""What a node and an EPMD say to each other. The first byte of an input says which parser gets it.

The outcome is a message, which is the same again when it is sent, None for one that is not
complete, or a RemoteProtocolError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pynode.config import LIMITS
from pynode.errors import RemoteProtocolError
from pynode.protocol.epmd import (
    NamesResp,
    parse_alive2_resp,
    parse_names_resp,
    parse_port2_resp,
    parse_request,
)
from tests.fuzz.documented import check_sentence
from tests.fuzz.vectors import vectors

if TYPE_CHECKING:
    from collections.abc import Callable

DICTIONARY = [b"x", b"z", b"n", b"k", b"v", b"y", b"w", b"name a at port 1\n", b"\0\x01"]


def _request(data: bytes) -> Any:
    return parse_request(data, LIMITS.handshake_packet)


PARSERS: list[Callable[[bytes], Any]] = [
    _request,
    parse_alive2_resp,
    parse_port2_resp,
    parse_names_resp,
]


def seeds() -> list[bytes]:
    """Return the requests of nodes, and the answers of OTP's own EPMD."""
    kinds = {"req": 0, "alive2_resp": 1, "port2_resp": 2, "names_resp": 3}
    return [
        bytes((kind,)) + data
        for name, data in vectors("epmd").items()
        for word, kind in kinds.items()
        if word in name
    ]


def check(data: bytes) -> None:
    """Parse an input."""
    if not data:
        return
    parse = PARSERS[data[0] % len(PARSERS)]
    try:
        message = parse(data[1:])
    except RemoteProtocolError as error:
        check_sentence(error)
        return
    if isinstance(message, NamesResp):
        # A port may have five digits of any size here, as erl_epmd reads them.
        assert all(entry.name and entry.port < 100_000 for entry in message.nodes)
    elif message is not None:
        again = message.encode()
        assert parse(again) == message or data[1] == 121  # That answer has a small creation.
