"""The messages between a node and EPMD, the Erlang Port Mapper Daemon, for both sides.

Every request has its length in two bytes before it, no answer has (erl_dist_protocol, "EPMD
Protocol"). An EPMD closes the connection after its answer; after ALIVE2_REQ it keeps it, and
the name is taken until one side closes.

Parsers get all bytes that have arrived and return None while something is missing. They raise
RemoteProtocolError for what is no such message.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple, TypeAlias

from pynode.errors import RemoteProtocolError

ALIVE2_REQ: Final = 120
ALIVE2_X_RESP: Final = 118
ALIVE2_RESP: Final = 121
PORT_PLEASE2_REQ: Final = 122
PORT2_RESP: Final = 119
NAMES_REQ: Final = 110
KILL_REQ: Final = 107

#: NodeType: a node that is to be seen by all, and one that is not.
NORMAL: Final = 77
HIDDEN: Final = 72
#: The distribution protocol of OTP 23 and later; OTP 25 and later speak no other.
VERSION: Final = 6
#: What an EPMD answers to KILL_REQ when it goes on.
KILL_REFUSED: Final = b"NO"
#: Bytes in the name before the @, as in C: 255 characters of up to 4 bytes.
MAX_NAME: Final = 1_020

_NODE = struct.Struct(">HBBHHH")
_ALIVE2_X_RESP = struct.Struct(">BBI")
_ALIVE2_RESP = struct.Struct(">BBH")
_UNFIT = re.compile(r"[\x00-\x20\x7f@]")
_NAME_LINE = re.compile(r"name (\S+) at port (\d{1,5})")


class Alive2Req(NamedTuple):
    """A node registers: it is `name` (without ``@host``) and listens at `port`."""

    port: int
    name: str
    node_type: int = HIDDEN
    highest: int = VERSION
    lowest: int = VERSION
    protocol: int = 0
    extra: bytes = b""

    def encode(self) -> bytes:
        """Return the request; ValueError if the name or the port is out of range."""
        return _request(ALIVE2_REQ, _encode_node(self))


class PortPlease2Req(NamedTuple):
    """Somebody asks at which port `name` listens."""

    name: str

    def encode(self) -> bytes:
        """Return the request; ValueError if the name is none."""
        return _request(PORT_PLEASE2_REQ, _encode_name(self.name))


class NamesReq(NamedTuple):
    """Somebody asks for all names."""

    def encode(self) -> bytes:
        """Return the request."""
        return _request(NAMES_REQ)


class KillReq(NamedTuple):
    """Somebody asks the EPMD to end."""

    def encode(self) -> bytes:
        """Return the request."""
        return _request(KILL_REQ)


Request: TypeAlias = Alive2Req | PortPlease2Req | NamesReq | KillReq


def parse_request(data: bytes | bytearray, limit: int) -> Request | None:
    """Return the request that `data` begins with; what follows it is ignored.

    `limit` is the number of bytes that a request may have.
    """
    if len(data) < 2:
        return None
    size = int.from_bytes(data[:2], "big")
    if not 0 < size <= limit:
        raise RemoteProtocolError(
            f"A request to EPMD has {size} bytes, and 1 to {limit} are allowed; "
            "check that the program that sent it speaks EPMD's protocol."
        )
    if len(data) < 2 + size:
        return None
    tag, body = data[2], bytes(data[3 : 2 + size])
    if tag == ALIVE2_REQ:
        node = _decode_node(body)
        if node is None or not node.port:
            raise _malformed("ALIVE2_REQ", body)
        return node
    if tag == PORT_PLEASE2_REQ:
        return PortPlease2Req(_decode_name(body))
    if tag == NAMES_REQ:
        return NamesReq()
    if tag == KILL_REQ:
        return KillReq()
    raise _malformed("request", bytes(data[2:]))


class Alive2Resp(NamedTuple):
    """The answer to Alive2Req: `result` 0 and the node's creation, or an error."""

    result: int
    creation: int

    def encode(self, highest: int = VERSION) -> bytes:
        """Return the answer to a node that speaks up to version `highest`.

        From version 6 on the creation has 32 bits, before it had 2.
        """
        if highest >= VERSION:
            return _ALIVE2_X_RESP.pack(ALIVE2_X_RESP, self.result, self.creation)
        return _ALIVE2_RESP.pack(ALIVE2_RESP, self.result, self.creation % 3 + 1)


def parse_alive2_resp(data: bytes | bytearray) -> Alive2Resp | None:
    """Return the answer to Alive2Req, in either form."""
    if not data:
        return None
    layout = {ALIVE2_X_RESP: _ALIVE2_X_RESP, ALIVE2_RESP: _ALIVE2_RESP}.get(data[0])
    if layout is None or len(data) > layout.size:
        raise _malformed("ALIVE2_RESP", data)
    if len(data) < layout.size:
        return None
    _, result, creation = layout.unpack(data)
    return Alive2Resp(result, creation)


class Port2Resp(NamedTuple):
    """The answer to PortPlease2Req: the node as it registered, or None if there is none."""

    node: Alive2Req | None

    def encode(self) -> bytes:
        """Return the answer."""
        if self.node is None:
            return bytes((PORT2_RESP, 1))
        return bytes((PORT2_RESP, 0)) + _encode_node(self.node)


def parse_port2_resp(data: bytes | bytearray) -> Port2Resp | None:
    """Return the answer to PortPlease2Req."""
    if data and data[0] != PORT2_RESP:
        raise _malformed("PORT2_RESP", data)
    if len(data) < 2:
        return None
    if data[1]:
        return Port2Resp(None)
    node = _decode_node(bytes(data[2:]))
    if node is None:
        return None
    if not node.port:
        raise _malformed("PORT2_RESP", data)
    return Port2Resp(node)


class NodeEntry(NamedTuple):
    """One registered node: its name without the host, and the port it listens at."""

    name: str
    port: int


class NamesResp(NamedTuple):
    """The answer to NamesReq: EPMD's own port, and the nodes."""

    epmd_port: int
    nodes: tuple[NodeEntry, ...]

    def encode(self) -> bytes:
        """Return the answer; it ends where the connection does."""
        lines = "".join(f"name {name} at port {port}\n" for name, port in self.nodes)
        return self.epmd_port.to_bytes(4, "big") + lines.encode()


def parse_names_resp(data: bytes | bytearray) -> NamesResp:
    """Return the whole answer to NamesReq: all that came before the connection was closed.

    Lines that name no node are passed over, as `erl_epmd` does.
    """
    if len(data) < 4:
        raise _malformed("NAMES_RESP", data)
    lines = data[4:].decode("utf-8", "replace").split("\n")
    found = [match for line in lines if (match := _NAME_LINE.fullmatch(line))]
    nodes = tuple(NodeEntry(match[1], int(match[2])) for match in found)
    return NamesResp(int.from_bytes(data[:4], "big"), nodes)


def _request(tag: int, body: bytes = b"") -> bytes:
    return struct.pack(">HB", 1 + len(body), tag) + body


def _encode_node(node: Alive2Req) -> bytes:
    if not 0 < node.port <= 0xFFFF:
        raise ValueError(f"{node.port} is no port number; use one from 1 to 65535.")
    name = _encode_name(node.name)
    kind = (node.node_type, node.protocol, node.highest, node.lowest)
    fields = _NODE.pack(node.port, *kind, len(name))
    return fields + name + len(node.extra).to_bytes(2, "big") + node.extra


def _decode_node(body: bytes) -> Alive2Req | None:
    """Return what `_encode_node` made, or None when its end is missing."""
    if len(body) < _NODE.size:
        return None
    port, node_type, protocol, highest, lowest, size = _NODE.unpack_from(body)
    name = body[_NODE.size : _NODE.size + size]
    rest = body[_NODE.size + size :]
    extra_size = int.from_bytes(rest[:2], "big")
    if len(rest) < 2 + extra_size:
        return None
    extra = rest[2 : 2 + extra_size]
    return Alive2Req(port, _decode_name(name), node_type, highest, lowest, protocol, extra)


def _encode_name(name: str) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) <= MAX_NAME or _UNFIT.search(name):
        raise ValueError(
            f"{name!r} is no name for EPMD; pass the part of the node name before the @, "
            f"without blanks, at most {MAX_NAME} bytes."
        )
    return encoded


def _decode_name(encoded: bytes) -> str:
    try:
        name = encoded.decode()
    except UnicodeDecodeError:
        raise _malformed("node name", encoded) from None
    if not 0 < len(encoded) <= MAX_NAME or _UNFIT.search(name):
        raise _malformed("node name", encoded)
    return name


def _malformed(what: str, data: bytes | bytearray) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"{bytes(data[:20])!r} is no valid {what}; "
        "check that both programs at this EPMD port speak EPMD's protocol."
    )
