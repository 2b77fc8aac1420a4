from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynode.errors import RemoteProtocolError
from pynode.protocol.epmd import (
    HIDDEN,
    MAX_NAME,
    NORMAL,
    Alive2Req,
    Alive2Resp,
    KillReq,
    NamesReq,
    NamesResp,
    NodeEntry,
    Port2Resp,
    PortPlease2Req,
    Request,
    parse_alive2_resp,
    parse_names_resp,
    parse_port2_resp,
    parse_request,
)

LIMIT = 4_096

NODE = Alive2Req(0xABCD, "pön", NORMAL, 6, 5, 0, b"extra")
NODE_BYTES = b"\xab\xcd\x4d\x00\x00\x06\x00\x05\x00\x04p\xc3\xb6n\x00\x05extra"

REQUESTS: list[tuple[Request, bytes]] = [
    (NODE, b"\x00\x16\x78" + NODE_BYTES),
    (
        Alive2Req(1, "py"),
        b"\x00\x0f\x78\x00\x01\x48\x00\x00\x06\x00\x06\x00\x02py\x00\x00",
    ),
    (PortPlease2Req("beam"), b"\x00\x05\x7abeam"),
    (NamesReq(), b"\x00\x01\x6e"),
    (KillReq(), b"\x00\x01\x6b"),
]


@pytest.mark.parametrize(("request_", "data"), REQUESTS)
def test_requests(request_: Request, data: bytes) -> None:
    assert request_.encode() == data
    assert parse_request(data, LIMIT) == request_
    assert parse_request(bytearray(data + b"trailing"), LIMIT) == request_
    for size in range(len(data)):
        assert parse_request(data[:size], LIMIT) is None


def test_nodes_are_hidden_and_speak_version_6_by_default() -> None:
    assert Alive2Req(1, "py") == Alive2Req(1, "py", HIDDEN, 6, 6, 0, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00",
        b"\x00\x01\x00",
        b"\x00\x01d",  # DUMP_REQ: a debug feature that we do not have.
        b"\x00\x03s\x61\x62",  # STOP_REQ: not used any more.
        b"\x00\x01\x7a",  # PORT_PLEASE2_REQ without a name
        b"\x00\x05\x7aa b\x00",
        b"\x00\x04\x7aa@h",
        b"\x00\x02\x7a\xff",
        b"\x00\x01\x78",
        b"\x00\x0f\x78\x00\x00\x48\x00\x00\x06\x00\x06\x00\x02py\x00\x00",  # port 0
        b"\x00\x0f\x78\x00\x01\x48\x00\x00\x06\x00\x06\x00\x03py\x00\x00",
        b"\x00\x0e\x78\x00\x01\x48\x00\x00\x06\x00\x06\x00\x02py\x00",
        b"\x00\x0f\x78\x00\x01\x48\x00\x00\x06\x00\x06\x00\x02py\x00\x01",
        b"\x00\x0f\x78\x00\x01\x48\x00\x00\x06\x00\x06\x00\x02p\n\x00\x00",
        b"\x00\x0d\x78\x00\x01\x48\x00\x00\x06\x00\x06\x00\x00\x00\x00",
        PortPlease2Req("a" * MAX_NAME).encode().replace(b"\x03\xfd", b"\x03\xfe", 1) + b"a",
    ],
)
def test_no_requests(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"speaks? EPMD's protocol"):
        parse_request(data, LIMIT)


def test_requests_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert parse_request(b"\x10\x00", LIMIT) is None
    with pytest.raises(RemoteProtocolError, match="4097 bytes, and 1 to 4096 are allowed"):
        parse_request(b"\x10\x01", LIMIT)


@pytest.mark.parametrize("name", ["", "a b", "a@h", "a\n", "a\x00", "ä" * 511])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="is no name for EPMD"):
        PortPlease2Req(name).encode()
    with pytest.raises(ValueError, match="is no name for EPMD"):
        Alive2Req(1, name).encode()


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_that_are_none(port: int) -> None:
    with pytest.raises(ValueError, match="is no port number"):
        Alive2Req(port, "py").encode()


@pytest.mark.parametrize(
    ("answer", "highest", "data"),
    [
        (Alive2Resp(0, 0xCAFE1234), 6, b"\x76\x00\xca\xfe\x12\x34"),
        (Alive2Resp(1, 0), 6, b"\x76\x01\x00\x00\x00\x00"),
        (Alive2Resp(0, 3), 5, b"\x79\x00\x00\x01"),
    ],
)
def test_alive2_resp(answer: Alive2Resp, highest: int, data: bytes) -> None:
    assert answer.encode(highest) == data
    for size in range(len(data)):
        assert parse_alive2_resp(data[:size]) is None
    parsed = parse_alive2_resp(data)
    assert parsed is not None
    assert parsed.result == answer.result
    assert parsed.creation == (answer.creation if highest == 6 else 1)
    with pytest.raises(RemoteProtocolError, match="ALIVE2_RESP"):
        parse_alive2_resp(data + b"\x00")


def test_creations_of_version_5_are_1_to_3() -> None:
    assert {Alive2Resp(0, n).encode(5)[2:] for n in range(9)} == {b"\0\1", b"\0\2", b"\0\3"}


@pytest.mark.parametrize(
    ("answer", "data"),
    [(Port2Resp(NODE), b"\x77\x00" + NODE_BYTES), (Port2Resp(None), b"\x77\x01")],
)
def test_port2_resp(answer: Port2Resp, data: bytes) -> None:
    assert answer.encode() == data
    assert parse_port2_resp(data) == answer
    assert parse_port2_resp(data + b"trailing") == answer
    for size in range(len(data)):
        assert parse_port2_resp(data[:size]) is None


@pytest.mark.parametrize("data", [b"\x00", b"\x77\x00" + NODE_BYTES.replace(b"n\x00", b"\n\x00")])
def test_no_port2_resp(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_port2_resp(data)


def test_no_alive2_resp() -> None:
    with pytest.raises(RemoteProtocolError, match="ALIVE2_RESP"):
        parse_alive2_resp(b"HTTP")


def test_names_resp() -> None:
    answer = NamesResp(4369, (NodeEntry("a", 1), NodeEntry("pön", 65535)))
    data = b"\x00\x00\x11\x11name a at port 1\nname p\xc3\xb6n at port 65535\n"
    assert answer.encode() == data
    assert parse_names_resp(data) == answer


def test_names_resp_without_names() -> None:
    assert parse_names_resp(b"\x00\x00\x11\x11") == NamesResp(4369, ())


def test_lines_that_name_no_node_are_passed_over() -> None:
    data = (
        b"\x00\x00\x11\x11name a at port x\nfoo\nname b at port 2\nname \xff at port 3\nname c at"
    )
    entries = parse_names_resp(data).nodes
    assert entries == (NodeEntry("b", 2), NodeEntry("\ufffd", 3))


def test_no_names_resp() -> None:
    with pytest.raises(RemoteProtocolError, match="NAMES_RESP"):
        parse_names_resp(b"\x00\x00\x11")


@given(st.binary(max_size=60), st.booleans())
def test_only_protocol_errors_come_of_noise(noise: bytes, framed: bool) -> None:
    for tag in b"xzw\x77\x76\x79\x00":
        data = bytes((tag,)) + noise
        if framed:
            data = len(data).to_bytes(2, "big") + data
        for parse in (
            lambda d: parse_request(d, LIMIT),
            parse_alive2_resp,
            parse_port2_resp,
            parse_names_resp,
        ):
            with contextlib.suppress(RemoteProtocolError):
                parse(data)
