"""Each control message against the bytes of a real node, and everything that is none."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynode import etf
from pynode.errors import RemoteProtocolError
from pynode.protocol.control import (
    ALTACT_ALIAS,
    ALTACT_EXIT,
    ALTACT_NAME,
    ALTACT_PRIO,
    ALTACT_TOKEN,
    AliasSend,
    AliasSendTT,
    AltactSigSend,
    ControlMessage,
    DemonitorP,
    Exit,
    Exit2,
    Exit2TT,
    ExitTT,
    GroupLeader,
    Link,
    MonitorP,
    MonitorPExit,
    NodeLink,
    PayloadExit,
    PayloadExit2,
    PayloadExit2TT,
    PayloadExitTT,
    PayloadMonitorPExit,
    RegSend,
    RegSendTT,
    Send,
    SendSender,
    SendSenderTT,
    SendTT,
    SpawnReply,
    SpawnReplyTT,
    SpawnRequest,
    SpawnRequestTT,
    Unlink,
    UnlinkId,
    UnlinkIdAck,
    parse,
)
from pynode.terms import Atom, ImproperList, Pid, Port, Reference

A = Pid(Atom("a@h"), 80, 1, 7)
B = Pid(Atom("b@h"), 81, 2, 9)
R = Reference(Atom("a@h"), 7, (1, 2, 3))
TOKEN = (0, 5, 1, A, 2)

# What term_to_binary(Message, [{minor_version, 2}]) of OTP 25 makes, which is what it sends, less
# the version byte. A letter stands for the encoding of the pid A or B, the reference R, or the
# token T.
LETTERS = {
    "A": "58 7703614068 00000050 00000001 00000007",
    "B": "58 7703624068 00000051 00000002 00000009",
    "R": "5a 0003 7703614068 00000007 00000001 00000002 00000003",
    "T": "6805 6100 6105 6101 58 7703614068 00000050 00000001 00000007 6102",
}
VECTORS: list[tuple[str, ControlMessage]] = [
    ("68036101 A B", Link(A, B)),
    ("680361027700 B", Send(B)),
    ("68046103 A B 7704626f6f6d", Exit(A, B, Atom("boom"))),
    ("68036104 A B", Unlink(A, B)),
    ("68016105", NodeLink()),
    ("68046106 A 7700770b736e616b65627269646765", RegSend(A, Atom("snakebridge"))),
    ("68036107 A B", GroupLeader(A, B)),
    ("68046108 A B 7704626f6f6d", Exit2(A, B, Atom("boom"))),
    ("6804610c7700 B T", SendTT(B, TOKEN)),
    ("6805610d A B T 7704626f6f6d", ExitTT(A, B, TOKEN, Atom("boom"))),
    ("68056110 A 7700770b736e616b65627269646765 T", RegSendTT(A, Atom("snakebridge"), TOKEN)),
    ("68056112 A B T 7704626f6f6d", Exit2TT(A, B, TOKEN, Atom("boom"))),
    ("68046113 A B R", MonitorP(A, B, R)),
    ("68046113 A 77036e696c R", MonitorP(A, Atom("nil"), R)),
    ("68046114 A B R", DemonitorP(A, B, R)),
    ("68046114 A 770474727565 R", DemonitorP(A, Atom("true"), R)),
    ("68056115 B A R 77066e6f70726f63", MonitorPExit(B, A, R, Atom("noproc"))),
    ("68056115770566616c7365 A R 6a", MonitorPExit(Atom("false"), A, R, [])),
    ("68036116 A B", SendSender(A, B)),
    ("68046117 A B T", SendSenderTT(A, B, TOKEN)),
    ("68036118 A B", PayloadExit(A, B)),
    ("68046119 A B T", PayloadExitTT(A, B, TOKEN)),
    ("6803611a A B", PayloadExit2(A, B)),
    ("6804611b A B T", PayloadExit2TT(A, B, TOKEN)),
    ("6804611c7703726578 A R", PayloadMonitorPExit(Atom("rex"), A, R)),
    (
        (
            "6806611d R A A 6803770465727063770c657865637574655f63616c6c6104"
            "6c0000000177076d6f6e69746f726a"
        ),
        SpawnRequest(R, A, A, (Atom("erpc"), Atom("execute_call"), 4), [Atom("monitor")]),
    ),
    (
        "6807611e R A A 680377047472756577036e696c61006a T",
        SpawnRequestTT(R, A, A, (Atom("true"), Atom("nil"), 0), [], TOKEN),
    ),
    ("6805611f R A 6102 B", SpawnReply(R, A, 2, B)),
    ("6805611f R A 610077066261646f7074", SpawnReply(R, A, 0, Atom("badopt"))),
    ("68066120 R A 6103 B T", SpawnReplyTT(R, A, 3, B, TOKEN)),
    ("68036121 B R", AliasSend(B, R)),
    ("68046122 B R T", AliasSendTT(B, R, TOKEN)),
    ("680461236101 A B", UnlinkId(1, A, B)),
    ("680461236e0800ffffffffffffffff A B", UnlinkId(2**64 - 1, A, B)),
    ("6804612462000003e8 A B", UnlinkIdAck(1000, A, B)),
    ("680461256100 A B", AltactSigSend(0, A, B)),
    ("680461256104 A R", AltactSigSend(4, A, R)),
    ("68056125610a A 7703726578 T", AltactSigSend(8 + 2, A, Atom("rex"), TOKEN)),
]
MESSAGES = [message for _, message in VECTORS]

#: Those after which a message, an exit reason or arguments follow.
WITH_PAYLOAD = {2, 6, 12, 16, *range(22, 31), 33, 34, 37}


def to_bytes(vector: str) -> bytes:
    for letter, encoding in reversed(LETTERS.items()):
        vector = vector.replace(f" {letter}", f" {encoding}")
    return bytes.fromhex(vector)


def test_every_operation_has_a_vector() -> None:
    operations = {*range(1, 9), 12, 13, 16, *range(18, 38)}
    assert {message.OP for message in MESSAGES} == operations
    assert {message.OP for message in MESSAGES if message.HAS_PAYLOAD} == WITH_PAYLOAD


@pytest.mark.parametrize(("vector", "message"), VECTORS, ids=str)
def test_vector(vector: str, message: ControlMessage) -> None:
    data = to_bytes(vector)
    term, end = etf.decode_at(data, 0)
    assert end == len(data)
    assert parse(term) == message
    assert type(parse(term)) is type(message)
    assert etf.encode(message.to_term(), version=False) == data


def test_fields_have_their_names() -> None:
    assert parse((19, A, Atom("rex"), R)) == MonitorP(from_pid=A, to_proc=Atom("rex"), ref=R)
    request = SpawnRequest(
        req_id=R, from_pid=A, group_leader=B, mfa=(Atom("m"), Atom("f"), 2), opts=[]
    )
    assert parse((29, R, A, B, (Atom("m"), Atom("f"), 2), [])) == request
    assert request.NAME == "SPAWN_REQUEST"
    assert str(parse((22, A, B))) == f"SendSender(from_pid={A!r}, to_pid={B!r})"


def test_names_are_those_of_the_documentation() -> None:
    names = {message.NAME for message in MESSAGES}
    assert {"LINK", "EXIT2_TT", "MONITOR_P_EXIT", "PAYLOAD_EXIT2_TT", "UNLINK_ID_ACK"} <= names
    assert {"REG_SEND_TT", "DEMONITOR_P", "PAYLOAD_MONITOR_P_EXIT", "ALTACT_SIG_SEND"} <= names


@pytest.mark.parametrize(("value", "name"), [(None, "nil"), (True, "true"), (False, "false")])
def test_nil_and_booleans_name_processes(value: object, name: str) -> None:
    for message in (
        parse((6, A, Atom(""), value)),
        parse((16, A, Atom(""), value, TOKEN)),
        parse((19, A, value, R)),
        parse((20, A, value, R)),
        parse((21, value, A, R, Atom("normal"))),
        parse((28, value, A, R)),
        parse((31, R, A, 0, value)),
        parse((37, ALTACT_NAME, A, value)),
    ):
        assert Atom(name) in message
        assert [type(field) for field in message if field == name] == [Atom]
    assert parse((29, R, A, A, (value, value, 0), [])) == SpawnRequest(
        R, A, A, (Atom(name), Atom(name), 0), []
    )


def test_what_was_the_cookie_may_be_anything() -> None:
    values: list[object] = [Atom(""), Atom("secret"), [], 0]
    for unused in values:
        assert parse((2, unused, B)) == Send(B)
        assert parse((6, A, unused, Atom("rex"))) == RegSend(A, Atom("rex"))


def test_equality_is_that_of_the_class_too() -> None:
    link, unlink = Link(A, B), Unlink(A, B)
    assert link == Link(A, B)
    assert link != unlink
    assert link != (A, B)
    assert {link, unlink, Link(A, B)} == {link, unlink}


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_copies_are_equal(message: ControlMessage) -> None:
    assert copy.copy(message) == pickle.loads(pickle.dumps(message)) == message


def mutations(term: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return tuples that are malformed, each in one place."""
    free = {"", TOKEN, "boom", "noproc"}  # What may be anything.
    # Alternative signals may have more elements some day.
    wrong: list[tuple[Any, ...]] = [] if term[0] == 37 else [(*term, A, 1)]
    for at in range(1, len(term)):
        wrong.append(term[:at] + term[at + 1 :])
        if term[at] != [] and (type(term[at]) is list or term[at] not in free):
            wrong += [(*term[:at], bad, *term[at + 1 :]) for bad in (1.5, "a@h", (), Port)]
    return wrong


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_malformed_messages_are_named(message: ControlMessage) -> None:
    for term in mutations(message.to_term()):
        with pytest.raises(RemoteProtocolError, match=f"malformed {message.NAME} control message"):
            parse(term)


@pytest.mark.parametrize(
    "term",
    [
        (35, 0, A, B),
        (35, -1, A, B),
        (35, 2**64, A, B),
        (35, True, A, B),
        (36, 0, A, B),
        (36, 1.0, A, B),
        (31, R, A, -1, B),
        (31, R, A, True, B),
        (31, R, A, 0, R),
        (29, R, A, A, (Atom("m"), Atom("f"), -1), []),
        (29, R, A, A, (Atom("m"), Atom("f"), True), []),
        (29, R, A, A, (Atom("m"), "f", 1), []),
        (29, R, A, A, (Atom("m"), Atom("f")), []),
        (29, R, A, A, (Atom("m"), Atom("f"), 1), ImproperList((1,), 2)),
        (33, A, B),
        (37, 0, A, R),
        (37, 0, A, Atom("rex")),
        (37, ALTACT_ALIAS, A, B),
        (37, ALTACT_NAME, A, B),
        (37, ALTACT_ALIAS | ALTACT_NAME, A, R),
        (37, ALTACT_ALIAS | ALTACT_NAME, A, Atom("rex")),
        (37, ALTACT_TOKEN, A, B),
        (37, -1, A, B),
        (37, True, A, B),
        (1, A, 1),
        (1, A, Port(Atom("a@h"), 1, 1)),
        (19, A, "rex", R),
    ],
    ids=str,
)
def test_values_that_no_node_sends(term: object) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed"):
        parse(term)


@pytest.mark.parametrize(
    ("flags", "to", "classic"),
    [
        (0, B, SendSender(A, B)),
        (ALTACT_PRIO, B, SendSender(A, B)),
        (ALTACT_TOKEN, B, SendSenderTT(A, B, TOKEN)),
        (ALTACT_NAME, Atom("rex"), RegSend(A, Atom("rex"))),
        (ALTACT_NAME | ALTACT_TOKEN, Atom("rex"), RegSendTT(A, Atom("rex"), TOKEN)),
        (ALTACT_ALIAS | ALTACT_PRIO, R, AliasSend(A, R)),
        (ALTACT_ALIAS | ALTACT_TOKEN, R, AliasSendTT(A, R, TOKEN)),
        (ALTACT_EXIT | ALTACT_PRIO, B, PayloadExit2(A, B)),
        (ALTACT_EXIT | ALTACT_TOKEN, B, PayloadExit2TT(A, B, TOKEN)),
        (ALTACT_EXIT | ALTACT_ALIAS, R, None),
        (ALTACT_EXIT | ALTACT_NAME, Atom("rex"), None),
    ],
)
def test_alternative_signals_in_their_older_form(
    flags: int, to: Any, classic: ControlMessage | None
) -> None:
    token = (TOKEN,) if flags & ALTACT_TOKEN else ()
    message = AltactSigSend(flags, A, to, *token)
    assert message.classic() == (message if classic is None else classic)
    assert message.HAS_PAYLOAD == message.classic().HAS_PAYLOAD
    # What later versions may add changes nothing.
    more = parse((37, flags | 2**70 | 32, A, to, *(token or (1,)), 2))
    assert isinstance(more, AltactSigSend)
    assert more._replace(flags=flags) == message


def test_who_sends_and_who_gets_it() -> None:
    ends: dict[type, tuple[Any, Any]] = {}
    for message in MESSAGES:
        ends.setdefault(type(message), message.ends())
    assert ends.pop(NodeLink) == (None, None)
    assert ends.pop(Send) == ends.pop(SendTT) == (None, B)
    assert ends.pop(SpawnRequest) == ends.pop(SpawnRequestTT) == (A, None)
    assert ends.pop(SpawnReply) == ends.pop(SpawnReplyTT) == (B, A)
    assert ends.pop(MonitorPExit) == (B, A)
    assert ends.pop(PayloadMonitorPExit) == (Atom("rex"), A)
    assert ends.pop(RegSend) == ends.pop(RegSendTT) == (A, Atom("snakebridge"))
    assert ends.pop(AliasSend) == ends.pop(AliasSendTT) == (B, R)
    assert set(ends.values()) == {(A, B)}


@pytest.mark.parametrize("operation", [0, -1, 9, 10, 11, 14, 15, 17, 38, 255, 2**63])
def test_unknown_operations(operation: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"unknown operation {operation}"):
        parse((operation, A, B))


def test_an_operation_of_many_digits() -> None:
    with pytest.raises(RemoteProtocolError, match="unknown operation beyond 64 bits"):
        parse((10**5000, A, B))


@pytest.mark.parametrize(
    "term",
    [
        None,
        1,
        "",
        [1, A, B],
        (),
        ("1", A, B),
        (True, A, B),
        (1.0, A, B),
        ([], A),
        ({}, A),
        Link(A, B),
    ],
    ids=repr,
)
def test_what_is_no_control_message(term: object) -> None:
    with pytest.raises(RemoteProtocolError, match="no tuple with an operation number"):
        parse(term)


fields: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([A, B, R, Atom("rex"), Atom(""), None, True, (Atom("m"), Atom("f"), 1), []]),
    st.integers(),
    st.floats(),
    st.text(),
    st.lists(st.integers()),
)


@given(st.integers(-1, 40), st.lists(fields, max_size=7))
def test_any_tuple_is_a_message_or_an_error(operation: int, rest: list[Any]) -> None:
    try:
        message = parse((operation, *rest))
    except RemoteProtocolError:
        return
    assert operation == message.OP
    assert parse(message.to_term()) == message
