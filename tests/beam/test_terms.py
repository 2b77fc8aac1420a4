"""Every kind of term, there and back between a Python node and real BEAMs.

The terms go over a connection between nodes. What decides is on either side its own idea of
sameness: ``=:=`` on the BEAM, and in Python the value together with the type of all its parts.
"""

from __future__ import annotations

import re
import secrets
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pynode import Atom, EncodeError, Node, etf
from pynode.dist.epmd import EpmdClient
from pynode.errors import DecodeError
from pynode.protocol.channel import Channel
from pynode.protocol.control import ControlMessage, RegSend
from pynode.protocol.flags import DEFAULT
from pynode.protocol.handshake import NEED_DATA, Established, Handshake
from pynode.terms import (
    BitString,
    ExternalFun,
    Fun,
    ImproperList,
    LocalTerm,
    Map,
    Pid,
    Port,
    Reference,
    exact,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.process import Process
    from pynode.testing import BeamNode, BeamProcess, PynodeProcess

PATIENCE = 30.0
#: As a BEAM encodes for other nodes; nothing but that if the term is said to be canonical.
ENCODED = "term_to_binary(T, [{minor_version, 2}])"


@pytest.fixture(scope="module")
def node(epmd: object, cookie: str) -> Iterator[Node]:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        yield node


@pytest.fixture
def mailbox(node: Node) -> Iterator[Process]:
    """A process of the Python node, registered as ``mailbox``."""
    with node.process(name="mailbox") as process:
        yield process


@pytest.fixture
def beam_process(any_beam: BeamNode) -> Iterator[BeamProcess]:
    process = any_beam.process()
    yield process
    process.exit()


class Term(NamedTuple):
    """A term: its Erlang source, and what it is in Python, or a test of that."""

    source: str
    value: Any
    #: Whether there is one way only to encode it.
    canonical: bool = True


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and of the same types through and through."""
    todo = [(one, other)]
    while todo:
        one, other = todo.pop()
        if type(one) is not type(other):
            return False
        if type(one) in (list, tuple):
            if len(one) != len(other):
                return False
            todo += zip(one, other, strict=True)
        elif type(one) is ImproperList:
            todo += [(one.elements, other.elements), (one.tail, other.tail)]
        elif type(one) in (dict, Map):
            pairs = {exact(key): (key, value) for key, value in other.items()}
            if {exact(key) for key in one} != pairs.keys():
                return False
            todo += [(pair, pairs[exact(pair[0])]) for pair in one.items()]
        elif type(one) is float:
            if struct.pack(">d", one) != struct.pack(">d", other):
                return False
        elif one != other:
            return False
    return True


def test_same_is_strict() -> None:
    assert same([1, (Atom("a"), {1: 2.0})], [1, (Atom("a"), {1: 2.0})])
    for one, other in [
        (1, 1.0),
        (1, True),
        ("a", b"a"),
        ("a", Atom("a")),
        (0.0, -0.0),
        ([1], (1,)),
    ]:
        assert not same([one], [other])
        assert not same({1: one}, {1: other})
        assert not same(Map([(one, 1)]), Map([(other, 1)]))


def nested(levels: int, wrap: Callable[[Any], Any], inside: Any) -> Any:
    for _ in range(levels):
        inside = wrap(inside)
    return inside


def as_key(key: Any) -> Any:
    """Return a map with this key: a dict if that can be, as a Map can be a key and a dict not."""
    return Map([(key, Atom("a"))]) if type(key) is dict else {key: Atom("a")}


def in_erlang(value: bytes) -> str:
    """Return the source of a binary."""
    return f"<<{','.join(map(str, value))}>>"


FAR = Atom("far@away")
EURO, SMILE = "\u20ac", "\U0001f600"

TERMS = [
    # Atoms.
    Term("a", Atom("a")),
    Term("''", Atom("")),
    Term("'hello World'", Atom("hello World")),
    Term("nil", None),
    Term("true", True),
    Term("false", False),
    Term("undefined", Atom("undefined")),
    Term("list_to_atom([233])", Atom("é")),
    Term(f"list_to_atom([{ord(EURO)}])", Atom(EURO)),
    Term("list_to_atom(lists:duplicate(255, $a))", Atom("a" * 255)),
    Term("list_to_atom(lists:duplicate(255, 233))", Atom("é" * 255)),
    Term(f"list_to_atom(lists:duplicate(255, {ord(EURO)}))", Atom(EURO * 255)),
    Term(f"list_to_atom(lists:duplicate(255, {ord(SMILE)}))", Atom(SMILE * 255)),
    # Numbers.
    *[Term(str(number), number) for number in (0, 1, 255, 256, -1, -256)],
    *[Term(str(number), number) for number in (2**31 - 1, 2**31, -(2**31), -(2**31) - 1)],
    *[Term(str(number), number) for number in (2**59, -(2**59), 2**64 - 1, 2**64, -(2**64))],
    # The last one of SMALL_BIG_EXT and the first of LARGE_BIG_EXT.
    Term("(1 bsl 2040) - 1", 2**2040 - 1),
    Term("1 bsl 2040", 2**2040),
    Term("-(1 bsl 100000)", -(2**100000)),
    *[Term(repr(number), number) for number in (0.0, 1.0, -1.5, 0.1, 1234567.875)],
    Term("-0.0", -0.0),
    Term("1.7976931348623157e308", 1.7976931348623157e308),
    Term("5.0e-324", 5e-324),
    # Binaries and bitstrings.
    Term("<<>>", ""),
    Term('<<"text">>', "text"),
    Term('<<"é€"/utf8>>', "é€"),
    Term("<<0>>", "\0"),
    Term("<<255, 254>>", b"\xff\xfe"),
    Term("<<237, 160, 128>>", b"\xed\xa0\x80"),
    Term("binary:copy(<<255>>, 70000)", b"\xff" * 70_000),
    Term("binary:copy(<<97>>, 300000)", "a" * 300_000),
    Term("<<1:1>>", BitString(b"\x80", 1)),
    Term("<<0:3>>", BitString(b"\0", 3)),
    Term("<<255, 127:7>>", BitString(b"\xff\xfe", 7)),
    Term("<<(binary:copy(<<1>>, 100000))/binary, 5:5>>", BitString(b"\1" * 100_000 + b"(", 5)),
    # Lists.
    Term("[]", []),
    Term('"chars"', list(b"chars")),
    Term("[255]", [255]),
    Term("[256]", [256]),
    Term("[a, [], [b]]", [Atom("a"), [], [Atom("b")]]),
    Term("lists:seq(0, 299)", list(range(300))),
    Term("lists:duplicate(65535, 7)", [7] * 65_535),
    Term("lists:duplicate(65536, 7)", [7] * 65_536),
    Term("[N / 4 || N <- lists:seq(1, 1000)]", [number / 4 for number in range(1, 1001)]),
    Term("[1, -1, 1.0, a]", [1, -1, 1.0, Atom("a")]),
    Term("[a | b]", ImproperList((Atom("a"),), Atom("b"))),
    Term("[1, 2 | 3]", ImproperList((1, 2), 3)),
    Term("[[] | <<1:1>>]", ImproperList(([],), BitString(b"\x80", 1))),
    Term("[[1 | 2] | {}]", ImproperList((ImproperList((1,), 2),), ())),
    # Tuples.
    Term("{}", ()),
    Term("{{}, [{}]}", ((), [()])),
    Term("list_to_tuple(lists:seq(1, 255))", tuple(range(1, 256))),
    Term("list_to_tuple(lists:seq(1, 256))", tuple(range(1, 257))),
    # Maps.
    Term("#{}", {}),
    Term("#{a => 1}", {Atom("a"): 1}),
    Term("#{<<1>> => #{[] => {}}}", {"\1": Map([([], ())])}),
    Term(
        "#{1 => a, 1.0 => b, true => c, <<1>> => d}",
        Map([(1, Atom("a")), (1.0, Atom("b")), (True, Atom("c")), ("\1", Atom("d"))]),
        canonical=False,
    ),
    Term(
        "#{0 => a, 0.0 => b, false => c}",
        Map([(0, Atom("a")), (0.0, Atom("b")), (False, Atom("c"))]),
        canonical=False,
    ),
    Term(
        '#{k => 1, <<"k">> => 2, "k" => 3}',
        Map([(Atom("k"), 1), ("k", 2), ([107], 3)]),
        canonical=False,
    ),
    Term('#{nil => 1, <<"nil">> => 2}', {None: 1, "nil": 2}, canonical=False),
    Term("#{<<255>> => 1, <<195, 191>> => 2}", {b"\xff": 1, "ÿ": 2}, canonical=False),
    Term("#{[1, 2] => 3}", Map([([1, 2], 3)])),
    Term("#{#{1 => 2} => 3}", Map([({1: 2}, 3)])),
    Term("#{#{[] => 2} => #{#{} => 3}}", {Map([([], 2)]): Map([({}, 3)])}),
    Term("#{{[a], 1} => 2}", Map([(([Atom("a")], 1), 2)])),
    Term("#{[1 | 2] => 3}", {ImproperList((1,), 2): 3}),
    Term("#{<<1:1>> => 1, 1.5 => 2}", {BitString(b"\x80", 1): 1, 1.5: 2}, canonical=False),
    Term(
        "maps:from_list([{N, N} || N <- lists:seq(1, 1000)])",
        {n: n for n in range(1, 1001)},
        canonical=False,
    ),
    Term(
        "maps:from_list([{N, N / 1} || N <- lists:seq(1, 33)])",
        {n: n / 1 for n in range(1, 34)},
        canonical=False,
    ),
    # What is named after a node, of this one and of others; the latter as large as can be.
    Term("self()", Pid, canonical=True),
    Term('list_to_pid("<0.1.2>")', Pid),
    Term("make_ref()", Reference),
    Term("alias()", Reference),
    Term("monitor(process, self(), [{alias, explicit_unalias}])", Reference),
    # OTP 25 has NEW_PORT_EXT for small numbers, which is shorter.
    Term("hd(erlang:ports())", Port, canonical=False),
    *[
        Term(f"binary_to_term({in_erlang(etf.encode(value))})", value)
        for value in (
            Pid(FAR, 2**32 - 1, 2**32 - 1, 2**32 - 1),
            Pid(FAR, 0, 0, 0),
            Port(FAR, 2**64 - 1, 2**32 - 1),
            Port(FAR, 2**28, 4),
            *[Reference(FAR, 2**32 - 1, (2**18 - 1,) + (2**32 - 1,) * n) for n in range(5)],
            Reference(FAR, 4, (1, 2, 3)),
            Pid(Atom(f"{EURO * 200}@h"), 1, 2, 3),
        )
    ],
    # Funs.
    Term("fun lists:reverse/1", ExternalFun(Atom("lists"), Atom("reverse"), 1)),
    Term("fun '':nil/255", ExternalFun(Atom(""), Atom("nil"), 255)),
    Term("fun true:false/0", ExternalFun(Atom("true"), Atom("false"), 0)),
    Term("fun(X) -> X end", Fun),
    Term("[fun() -> F end || F <- [fun() -> self() end, fun erlang:node/0]]", list),
    # All at once.
    Term(
        '[{a, #{[1.0] => [<<1:1>>, nil | "x"]}}, [[] | -1], 1 bsl 70]',
        [
            (Atom("a"), Map([([1.0], [BitString(b"\x80", 1), None, 120])])),
            ImproperList(([],), -1),
            2**70,
        ],
    ),
    # Deep inside of each other.
    Term(
        "lists:foldl(fun(_, L) -> [L] end, [], lists:seq(1, 5000))",
        nested(5_000, lambda x: [x], []),
    ),
    Term(
        "lists:foldl(fun(_, L) -> {L} end, x, lists:seq(1, 5000))",
        nested(5_000, lambda x: (x,), Atom("x")),
    ),
    Term(
        "lists:foldl(fun(_, L) -> [L | a] end, x, lists:seq(1, 5000))",
        nested(5_000, lambda x: ImproperList((x,), Atom("a")), Atom("x")),
    ),
    Term(
        "lists:foldl(fun(_, L) -> #{a => L} end, x, lists:seq(1, 5000))",
        nested(5_000, lambda x: {Atom("a"): x}, Atom("x")),
    ),
    Term(
        "lists:foldl(fun(_, L) -> #{L => a} end, x, lists:seq(1, 90))",
        nested(90, as_key, Atom("x")),
        canonical=False,
    ),
]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.source[:60])
def test_there_and_back(
    any_beam: BeamNode, beam_process: BeamProcess, node: Node, mailbox: Process, term: Term
) -> None:
    turn = beam_process.start_eval(
        f"T = {term.source}, {{mailbox, N}} ! {{self(), T}},"
        f"receive {{back, B}} -> {{B =:= T, {ENCODED}}} end",
        N=node.name,
    )
    sender, value = mailbox.receive(timeout=PATIENCE)
    if isinstance(term.value, type):
        assert isinstance(value, term.value)
    else:
        assert same(value, term.value)
    node.send(sender, (Atom("back"), value))
    is_same, encoded = turn.result(PATIENCE)
    assert is_same is True
    # It is the same term however it travels.
    assert same(etf.decode(encoded), value) or term.value in (Fun, list)
    if term.canonical:
        assert etf.encode(value) == encoded

    # And the other way round: from here, and back as it was.
    node.send(beam_process.pid, (mailbox.pid, value))
    echoed = beam_process.start_eval("receive {To, T} -> To ! {here, T}, {X} = {T}, X =:= T end")
    assert same(mailbox.receive(timeout=PATIENCE)[1], value)
    assert echoed.result(PATIENCE) is True
    if not isinstance(term.value, type):
        node.send(beam_process.pid, term.value)
        assert beam_process.eval(f"receive T -> T =:= {term.source} end") is True
    assert any_beam.name in node.nodes()


# --- what has no such source


def test_the_bytes_are_those_of_the_beam_for_maps_too(
    beam_process: BeamProcess, node: Node, mailbox: Process
) -> None:
    """Where both sort the keys: ``deterministic`` does, and a dict keeps the order."""
    source = """
        M = maps:from_list([{N, #{N => <<N>>}} || N <- lists:seq(1, 200)]),
        {mailbox, Node} ! term_to_binary(M, [deterministic, {minor_version, 2}])
    """
    beam_process.eval(source, Node=node.name)
    encoded = mailbox.receive(timeout=PATIENCE)
    assert etf.encode(etf.decode(encoded)) == encoded
    assert len(etf.decode(encoded)) == 200


@pytest.mark.parametrize("level", [1, 9])
def test_compressed_terms(
    beam_process: BeamProcess, node: Node, mailbox: Process, level: int
) -> None:
    source = f"""
        T = [{{N, <<"some text">>}} || N <- lists:seq(1, 1000)],
        B = term_to_binary(T, [{{compressed, {level}}}, {{minor_version, 2}}]),
        {{mailbox, Node}} ! {{self(), B, T}},
        receive Again -> {{Again =:= {ENCODED}, binary_to_term(Again) =:= T}} end
    """
    turn = beam_process.start_eval(source, Node=node.name)
    sender, packed, plain = mailbox.receive(timeout=PATIENCE)
    assert packed[:2] == b"\x83\x50"
    assert same(etf.decode(packed), plain)
    node.send(sender, etf.encode(etf.decode(packed)))
    assert turn.result(PATIENCE) == (True, True)


def test_nothing_but_a_whole_term_may_be_compressed(beam_process: BeamProcess) -> None:
    """Not here, and not on a BEAM."""
    packed = beam_process.eval("<<131, B/binary>> = term_to_binary([[a]], [compressed]), B")
    if packed[:1] != b"P":  # It is not worth it for what is small.
        packed = beam_process.eval(
            "<<131, B/binary>> = term_to_binary(lists:duplicate(99, a), [compressed]), B"
        )
    inside = b"\x83h\1" + bytes(packed)
    with pytest.raises(DecodeError, match="tag 80, which may stand at the beginning alone"):
        etf.decode(inside)
    assert beam_process.eval("catch binary_to_term(B)", B=inside)[0] == "EXIT"


def test_local_terms_of_otp_26_and_later(beam28: BeamNode, node: Node, mailbox: Process) -> None:
    process = beam28.process()
    turn = process.start_eval(
        "T = {self(), make_ref(), #{a => <<1:1>>}, [1 | 2]},"
        "{mailbox, N} ! {self(), term_to_binary(T, [local])},"
        "receive B -> binary_to_term(B) =:= T end",
        N=node.name,
    )
    sender, local = mailbox.receive(timeout=PATIENCE)
    assert local[:2] == b"\x83\x79"
    term = etf.decode(local)
    assert type(term) is LocalTerm
    node.send(sender, etf.encode(term))
    assert turn.result(PATIENCE) is True


# --- funs run again


@pytest.fixture(scope="module")
def funs(any_beam: BeamNode) -> BeamNode:
    any_beam.load_module("""
        -module(funs).
        -export([closure/2, named/0, nested/1]).
        closure(A, B) -> fun(C) -> {A, B, C} end.
        named() -> fun Count(0) -> done; Count(N) -> Count(N - 1) end.
        nested(F) -> fun(X) -> F(F(X)) end.
    """)
    return any_beam


@pytest.mark.parametrize(
    "case",
    [
        ("funs:closure(#{[] => 1}, [a | b])", "c", "{#{[] => 1}, [a | b], c}"),
        ("funs:named()", "1000", "done"),
        ("funs:nested(fun(N) -> N * 2 end)", "3", "12"),
        ("funs:nested(funs:nested(fun lists:reverse/1))", "[1, 2]", "[1, 2]"),
        ("fun lists:sum/1", "[1, 2, 3]", "6"),
        # Funs of the shell, with what they have around them.
        ("Big = lists:seq(1, 100000), fun(N) -> lists:nth(N, Big) end", "99999", "99999"),
        ("Bin = binary:copy(<<7>>, 1000000), fun(N) -> binary:at(Bin, N) end", "5", "7"),
        ("fun F([]) -> 0; F([_ | T]) -> 1 + F(T) end", "[a, b, c]", "3"),
    ],
)
def test_a_fun_runs_after_it_was_here(
    funs: BeamNode, node: Node, mailbox: Process, case: tuple[str, str, str]
) -> None:
    source, argument, value = case
    process = funs.process()
    turn = process.start_eval(
        f"T = begin {source} end, {{mailbox, N}} ! {{self(), T}},"
        f"receive F -> {{F =:= T, F({argument}) =:= {value}, {ENCODED}}} end",
        N=node.name,
    )
    sender, fun = mailbox.receive(timeout=PATIENCE)
    assert isinstance(fun, Fun | ExternalFun)
    node.send(sender, fun)
    is_same, has_run, encoded = turn.result(PATIENCE)
    assert (is_same, has_run) == (True, True)
    assert etf.encode(fun) == encoded
    process.exit()


# --- what nodes before OTP 23 send, and others may


NODE = b"\x64\0\x05old@h"
UNIQ = bytes(range(16))
OLD: dict[str, tuple[bytes, Any]] = {
    "ATOM_EXT": (b"d\0\1\xe9", Atom("é")),
    "ATOM_EXT, true": (b"d\0\4true", True),
    "SMALL_ATOM_EXT": (b"s\1\xe9", Atom("é")),
    "SMALL_ATOM_EXT, nil": (b"s\3nil", None),
    "SMALL_ATOM_UTF8_EXT": (b"w\2\xc3\xa9", Atom("é")),
    "ATOM_UTF8_EXT": (b"v\0\3\xe2\x82\xac", Atom(EURO)),
    "SMALL_INTEGER_EXT": (b"a\xff", 255),
    "INTEGER_EXT, small": (b"b\0\0\0\1", 1),
    "SMALL_BIG_EXT, small": (b"n\1\1\5", -5),
    "SMALL_BIG_EXT, padded": (b"n\4\0\5\0\0\0", 5),
    "LARGE_BIG_EXT, small": (b"o\0\0\0\2\0\0\1", 256),
    "FLOAT_EXT": (b"c1.50000000000000000000e+00" + bytes(5), 1.5),
    "FLOAT_EXT, negative": (b"c-2.50000000000000000000e-01" + bytes(4), -0.25),
    "NEW_FLOAT_EXT": (b"F\x3f\xf8" + bytes(6), 1.5),
    "STRING_EXT": (b"k\0\3abc", [97, 98, 99]),
    "STRING_EXT, empty": (b"k\0\0", []),
    "LIST_EXT, empty": (b"l\0\0\0\0j", []),
    "LIST_EXT of bytes": (b"l\0\0\0\1a\1j", [1]),
    "LIST_EXT with a list as tail": (b"l\0\0\0\1a\1l\0\0\0\1a\2j", [1, 2]),
    "LIST_EXT with a string as tail": (b"l\0\0\0\1a\1k\0\1\2", [1, 2]),
    "SMALL_TUPLE_EXT": (b"h\1a\1", (1,)),
    "LARGE_TUPLE_EXT, small": (b"i\0\0\0\1a\1", (1,)),
    "MAP_EXT": (b"t\0\0\0\1a\1a\2", {1: 2}),
    "BIT_BINARY_EXT": (b"M\0\0\0\1\3\xff", BitString(b"\xe0", 3)),
    "BIT_BINARY_EXT, whole": (b"M\0\0\0\1\x08A", "A"),
    "PID_EXT": (
        b"g" + NODE + struct.pack(">IIB", 32767, 8191, 3),
        Pid(Atom("old@h"), 32767, 8191, 3),
    ),
    "NEW_PID_EXT": (b"X" + NODE + struct.pack(">III", 1, 2, 9), Pid(Atom("old@h"), 1, 2, 9)),
    "PORT_EXT": (b"f" + NODE + struct.pack(">IB", 5, 3), Port(Atom("old@h"), 5, 3)),
    "NEW_PORT_EXT": (b"Y" + NODE + struct.pack(">II", 5, 99), Port(Atom("old@h"), 5, 99)),
    "V4_PORT_EXT": (
        b"x" + NODE + struct.pack(">QI", 2**63 + 5, 99),
        Port(Atom("old@h"), 2**63 + 5, 99),
    ),
    "REFERENCE_EXT": (b"e" + NODE + struct.pack(">IB", 5, 2), Reference(Atom("old@h"), 2, (5,))),
    "NEW_REFERENCE_EXT": (
        b"r\0\3" + NODE + struct.pack(">BIII", 2, 5, 6, 7),
        Reference(Atom("old@h"), 2, (5, 6, 7)),
    ),
    "NEW_REFERENCE_EXT, short": (
        b"r\0\1" + NODE + struct.pack(">BI", 2, 5),
        Reference(Atom("old@h"), 2, (5,)),
    ),
    "NEWER_REFERENCE_EXT": (
        b"Z\0\5" + NODE + struct.pack(">IIIIII", 99, 5, 6, 7, 8, 9),
        Reference(Atom("old@h"), 99, (5, 6, 7, 8, 9)),
    ),
    "EXPORT_EXT": (b"qd\0\1ms\1fa\2", ExternalFun(Atom("m"), Atom("f"), 2)),
    "NEW_FUN_EXT": (
        b"p" + struct.pack(">IB16sII", 0, 1, UNIQ, 3, 1) + b"d\0\1ma\3b\0\0\1\0"
        + b"g" + NODE + struct.pack(">IIB", 1, 0, 1) + b"d\0\1x",
        None,
    ),
}  # fmt: skip
NEW_FUN = Fun(1, UNIQ, 3, Atom("m"), 3, 256, Pid(Atom("old@h"), 1, 0, 1), (Atom("x"),))


class OldNode:
    """A node that says what it likes, connected to a Python node."""

    def __init__(self, node: Node, cookie: str) -> None:
        self.name = Atom(f"old{secrets.token_hex(5)}@127.0.0.1")
        self.pid = Pid(self.name, 1, 0, 1)
        port = EpmdClient().lookup(node.name.partition("@")[0])
        assert port is not None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        handshake = Handshake.initiator(self.name, node.name, cookie, DEFAULT, 1)
        while not isinstance(event := handshake.next_event(), Established):
            self.socket.sendall(handshake.data_to_send())
            if event is NEED_DATA:
                handshake.receive_data(self.socket.recv(4096))
        self.socket.sendall(handshake.data_to_send())
        self.channel = Channel(event.flags)

    def send(self, control: ControlMessage, payload: bytes) -> None:
        frame = self.channel.encode(control, payload)
        assert isinstance(frame, bytes)
        self.socket.sendall(frame)

    def wait_for_the_end(self) -> None:
        while self.socket.recv(65_536):
            pass


@pytest.fixture
def old_node(node: Node, cookie: str) -> Iterator[OldNode]:
    old = OldNode(node, cookie)
    yield old
    old.socket.close()


@pytest.mark.parametrize("name", OLD)
def test_what_old_nodes_send(
    beam_process: BeamProcess, node: Node, mailbox: Process, old_node: OldNode, name: str
) -> None:
    data, expected = OLD[name]
    expected = NEW_FUN if name == "NEW_FUN_EXT" else expected
    old_node.send(RegSend(old_node.pid, Atom("mailbox")), data)
    value = mailbox.receive(timeout=PATIENCE)
    if isinstance(expected, Fun):
        assert isinstance(value, Fun)
        assert vars(value) | {"_here": None} == vars(expected) | {"_here": None}
    else:
        assert same(value, expected)
    # A BEAM takes it for the same, and sends it in its own form.
    turn = beam_process.start_eval(
        "T = binary_to_term(B), {mailbox, N} ! {self(), T}, receive V -> V =:= T end",
        N=node.name,
        B=b"\x83" + data,
    )
    sender, from_beam = mailbox.receive(timeout=PATIENCE)
    if isinstance(value, Fun):
        # OTP 28 forgets where a fun comes from.
        assert (from_beam.uniq, from_beam.free_vars) == (value.uniq, value.free_vars)
    else:
        assert same(from_beam, value)
    node.send(sender, value)
    assert turn.result(PATIENCE) is True


# --- tags that are none


KNOWN = {*b"FMXYZabcdefghijklmnopqrstvwxy"}
#: They are known, but may not stand here.
REFUSED = {80: "at the beginning alone", 82: "atom cache", 117: "dropped in release 23"}


@pytest.mark.parametrize("tag", sorted(set(range(256)) - KNOWN))
def test_unknown_tags_are_named(tag: int) -> None:
    why = REFUSED.get(tag, "stands for nothing")
    for data in (b"\x83h\1" + bytes((tag,)), b"\x83" + bytes((tag,)) + bytes(100)):
        if data[1] == 80:
            continue
        with pytest.raises(DecodeError, match=f"^At byte . there is tag {tag}, .*{why}"):
            etf.decode(data)


def test_an_unknown_tag_costs_the_connection_and_says_why(
    any_beam: BeamNode, node: Node, mailbox: Process, old_node: OldNode, caplog: Any
) -> None:
    # An atom cache may be referred to in a distribution header only, and we never offered one.
    for data, what in ((b"\x52\0", "tag 82"), (b"\xc8", "tag 200")):
        other = OldNode(node, any_beam.cookie)
        other.send(RegSend(other.pid, Atom("mailbox")), data)
        other.wait_for_the_end()
        other.socket.close()
        assert re.search(f"connection to {other.name} closed, .*{what}", caplog.text)
    # It has cost nobody else his.
    old_node.send(RegSend(old_node.pid, Atom("mailbox")), b"a\1")
    assert mailbox.receive(timeout=PATIENCE) == 1


# --- depth, through the bridge


DEEP = "lists:foldl(fun(_, L) -> [L] end, [], lists:seq(2, Levels))"
ASK = "gen_server:call({snakebridge, N}, {call, M, F, [Arg], #{}}, 60000)"


def ask_deep(process: BeamProcess, python: PynodeProcess, levels: int) -> Any:
    """Send a list so deep as an argument that comes back; return {ok, whether it is the same}."""
    source = f"""
        T = {DEEP}, Arg = [T],
        case {ASK} of {{ok, {{Back}}}} -> {{ok, Back =:= T}}; Other -> Other end
    """
    name = Atom(python.name)
    return process.eval(source, N=name, M="builtins", F="tuple", Levels=levels, timeout=PATIENCE)


def test_a_call_may_be_5000_levels_deep(
    beam_process: BeamProcess, module_pynode: PynodeProcess
) -> None:
    assert ask_deep(beam_process, module_pynode, 5_000) == (Atom("ok"), True)


def test_a_call_that_is_too_deep_is_an_error_and_nothing_else(
    beam_process: BeamProcess, module_pynode: PynodeProcess
) -> None:
    name = Atom(module_pynode.name)
    beam_process.eval("monitor_node(N, true)", N=name)
    begun = time.monotonic()
    for levels in (10_001, 200_000):
        kind, error = ask_deep(beam_process, module_pynode, levels)
        assert kind == "error"
        assert error["__struct__"] == "Elixir.SnakeBridge.InvalidRequestError"
        assert "nested deeper than 10000 levels" in error["message"]
    assert time.monotonic() - begun < PATIENCE
    assert ask_deep(beam_process, module_pynode, 10) == (Atom("ok"), True)
    assert beam_process.eval("receive {nodedown, _} -> down after 0 -> up end") == "up"


def test_an_answer_that_is_too_deep_has_a_ref_where_it_would_go_on(
    beam_process: BeamProcess, module_pynode: PynodeProcess
) -> None:
    code = "__import__('functools').reduce(lambda inner, _: [inner], range({}), [])"
    depth = "Depth = fun D([X], N) -> D(X, N + 1); D(X, N) -> {N, is_map(X)} end"
    for levels, expected in ((4_999, (4_999, False)), (20_000, None)):
        turn = beam_process.eval(
            f"{{ok, T}} = {ASK}, {depth}, Depth(T, 0)",
            N=Atom(module_pynode.name),
            M="builtins",
            F="eval",
            Arg=code.format(levels),
            timeout=PATIENCE,
        )
        if expected is None:
            assert turn[1] is True
            assert 9_900 <= turn[0] <= 10_000
        else:
            assert turn == expected


def test_what_python_cannot_send(any_beam: BeamNode, node: Node, beam_process: BeamProcess) -> None:
    """Each is an error to who sends it, and to nobody else."""
    cycle: list[Any] = []
    cycle.append(cycle)
    for value, why in (
        (nested(10_002, lambda x: [x], []), "nested deeper than 10000 levels"),
        (cycle, "inside itself"),
        ({"k": 1, b"k": 2}, "Two keys"),
        ({None: 1, Atom("nil"): 2}, "Two keys"),
        ("\ud800", "lone surrogates"),
        (object(), "has no Erlang form"),
    ):
        with pytest.raises(EncodeError, match=why):
            node.send(beam_process.pid, [value])
    node.send(beam_process.pid, "marker")
    assert beam_process.eval("receive M -> M end") == "marker"
    assert any_beam.name in node.nodes()
