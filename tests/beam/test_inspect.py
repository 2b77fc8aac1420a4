"""Terms, exits and exceptions as a real Elixir shows them.

What it shows differently, on purpose, is in the docstring of `pynode.inspection` and in
`tests/test_inspect.py`, and charlists as Elixir 1.15 and later write them are there, too.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
import zoneinfo
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pynode.inspection import format_banner, format_exit, inspect
from pynode.terms import Atom, BitString, ExternalFun, ImproperList, Map
from pynode.values import encode, struct

if TYPE_CHECKING:
    from pynode.testing import BeamNode

A = Atom
EXIT, ERROR = A("EXIT"), A("error")


def _ask(elixir: BeamNode, function: str, terms: list[Any]) -> list[str]:
    """Return what `function` in Erlang, of one argument, says of each term; None if it raises."""
    shown: list[str] = elixir.eval(
        f"Show = {function}, [try Show(binary_to_term(T)) catch _:_ -> nil end || T <- Terms]",
        Terms=[b"\x83" + encode(term) for term in terms],
    )
    return shown


def assert_same(ours: str, theirs: str) -> None:
    # Which application a module belongs to is not known here, and charlists look newer.
    theirs = re.sub(r"\((elixir|stdlib|kernel|compiler) [\d.]+\) ", "", theirs)
    assert re.sub(r'~c"(lib/worker\.ex|a\.erl)"', r"'\1'", ours) == theirs


INSPECT = "fun 'Elixir.Kernel':inspect/1"
FORMAT_EXIT = "fun 'Elixir.Exception':format_exit/1"
FORMAT_BANNER = "fun({C, R, S}) -> 'Elixir.Exception':format_banner(C, R, S) end"


# --- terms

ATOMS = [
    *("ok", "nil", "true", "Enum", "Elixir", "Elixir.Enum", "Elixir.Enum.Map", "Elixir.enum"),
    *("Elixir.", "Elixir.Elixir", "Elixir.Elixir.Enum", "Elixir.Enum?", "élan", "Élan", "µ", "a·b"),
    *("a?", "a!", "a?b", "a?!", "Foo?", "foo@bar", "@a", "a@", "_", "__a", "1a", "a-b", "a.b"),
    *("+", "-", "*", "/", "**", "::", "%{}", "<<>>", "..", "..//", "...", "{}", "%", ".", "->"),
    *("~~~", "^^^", "<|>", "//", "&&", "|||", "and", "not", "in", "when", "|>", "<~>", "@", r"\\"),
    *("!", "?", "do", "fn", '"q"', r"back\slash", "#{", "#", "{", "new\nline", "nilly"),
]
NAMES = [*ATOMS, "", " ", "with space", "\0", "\x7f\x80\x9f", "\ufeff", "\U0001f600", "-f/1-fun-0-"]

TEXTS = [
    "",
    "abc",
    'say "hi" to #{name}, # and \\',
    "".join(map(chr, range(7, 14))) + "\x1b\x7f",
    "\0",
    "\x01",
    "\x80",
    "é€\U0001f600",
    "\ufeff\u202a\u200b",
    "\ufffd\ufffe",
    "a" * 4096,
    "a" * 4097,
    "é" * 4096 + "\0",
    "\0" * 60,
    b"\xff" * 50,
    b"\xff" * 51,
    b"a" * 4096 + b"\xff",
    b"a" * 4095 + b"\xff",
    "é".encode() * 4096 + b"\xff",
]

FLOATS = [
    *(0.0, -0.0, 1.0, -1.5, 0.1, 0.01, 0.001, 1.0e-4, 1.0e-5, 1.5e-7, 123456.789, 5.0e-324),
    *(1.0e10, 1.0e15, 1.0e16, 1.0e22, 1.0e23, 1.7976931348623157e308, 2.0**53, 2.0**53 + 2),
    *(12345678901234567.0, 99999999999999990.0, 0.1 + 0.2, 1234567.0e-3, -1.0e16, 1.0e100),
]

CONTAINERS: list[Any] = [
    [],
    (),
    {},
    [1, [2, (3, {})]],
    [(A("a"), 1), (A("with space"), [(A("b"), 2)])],
    [(A("Elixir.Enum"), 1)],
    [(A("a"), 1), (A("Elixir.Enum"), 1)],
    [(None, 1), (True, 2), (A("+"), 3), (A("::"), 4), (A("Elixir"), 5)],
    [(A("a"), 1, 2)],
    ["a", ("a", 1)],
    [True, None],
    [0, 1],
    [127],
    ImproperList((1, 2), 3),
    ImproperList(((A("a"), 1),), (A("b"), 2)),
    ImproperList(tuple(range(60)), A("end")),
    ImproperList(tuple(range(51)), A("end")),
    ImproperList(tuple(range(50)), A("end")),
    {A("a"): 1, A("b"): {A("c"): [1000]}},
    {A("a"): 1, "b": 2},
    {None: 1, False: 2},
    {A("Elixir.Enum"): 1},
    Map([(1, 1), (1.0, 2), ([], 3), ({}, 4), (True, 5)]),
    Map([(A("a"), 1), ("a", 2)]),
    dict.fromkeys(
        [
            *(3, -1, 2.5, 10**30, -1.0e40, 2**53 + 1, A("b"), A("a"), A("é"), None, (), (1,)),
            *((1, 2), (2, 1), (1, "a"), ((),), "a", "b", "ab", "", b"\xff", BitString(b"\x60", 3)),
        ]
    ),
    Map([([2], 1), ([1, 2], 2), ([1], 3), ([], 4), ([1, [0]], 5), (["a"], 6)]),
    Map([({A("b"): 1}, 1), ({A("a"): 2}, 2), ({}, 3), ({A("a"): 1, A("b"): 1}, 4), ({1: 1}, 5)]),
    Map([(ImproperList((1,), 2), 1), ([1, 2], 2), (ImproperList((1,), "a"), 3)]),
    {n: n for n in range(100, 132)},
    list(range(1000, 1050)),
    list(range(1000, 1051)),
    tuple(range(60)),
    [tuple(range(60)), list(range(1000, 1060)), {n: n for n in range(32)}],
    [[[list(range(1000, 1060))] * 3] * 3] * 3,
    {A("a"): {A("b"): [[b"\xff" * 60]]}},
    BitString(b"\xa0", 3),
    BitString(b"\x01\x02\xa0", 3),
    BitString(b"\x01" * 60, 1),
    BitString(b"\x01" * 50, 1),
    ExternalFun(A("lists"), A("reverse"), 1),
    ExternalFun(A("Elixir.Enum"), A("map"), 2),
    ExternalFun(A("m m"), A("F"), 0),
    2**64,
    -(10**4000),
]

STRUCTS: list[Any] = [
    set(),
    {1, 2, 3},
    {65, 66},
    {"a", (1, 2), A("b"), frozenset({7, 8})},
    [{A("a"): {1}}, [{65}]],
    struct("MapSet", map=Map([([65, 66], []), (1, []), (1.0, [])]), version=2),
    range(3),
    range(0),
    range(10, 0, -3),
    range(1, 2),
    range(5, 6, 2),
    struct("Range", first=1, last=2, step=-1),
    dt.date(2026, 1, 2),
    dt.date(1, 1, 1),
    struct("Date", calendar=A("Elixir.Calendar.ISO"), year=-5, month=1, day=2),
    dt.time(1, 2, 3),
    dt.time(1, 2, 3, 4),
    struct(
        "Time", calendar=A("Elixir.Calendar.ISO"), hour=1, minute=2, second=3, microsecond=(4500, 3)
    ),
    dt.datetime(2026, 11, 21, 12, 0, 0),  # noqa: DTZ001 (that is a NaiveDateTime)
    dt.datetime(2026, 11, 21, 12, 0, 0, 5, tzinfo=dt.UTC),
    dt.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
    dt.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("America/St_Johns")),
    dt.datetime(2026, 7, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=-5))),
    struct("RuntimeError", __exception__=True, message="x"),
    struct("CondClauseError", __exception__=True),
    [struct("ArgumentError", __exception__=True, message='"')],
    {A("__struct__"): None, A("a"): 1},
    {A("__struct__"): A("lists"), A("a"): 1},
    {A("__struct__"): "Elixir.Enum", A("a"): 1},
]


@pytest.mark.parametrize(
    "terms",
    [
        pytest.param([A(name) for name in NAMES], id="atoms"),
        pytest.param([[(A(name), 1)] for name in NAMES], id="keys"),
        pytest.param([ExternalFun(A("m"), A(name), 1) for name in NAMES], id="functions"),
        pytest.param([A(chr(code)) for code in range(0x180)], id="characters"),
        pytest.param([chr(code) for code in (*range(0x300), 0xFFFF, 0x10FFFF)], id="strings"),
        pytest.param(TEXTS, id="texts"),
        pytest.param(FLOATS, id="floats"),
        pytest.param(CONTAINERS, id="containers"),
        pytest.param(STRUCTS, id="structs"),
    ],
)
def test_terms(elixir: BeamNode, terms: list[Any]) -> None:
    assert [inspect(term) for term in terms] == _ask(elixir, INSPECT, terms)


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 100])
def test_the_limit(elixir: BeamNode, limit: int) -> None:
    show = f"fun(T) -> 'Elixir.Kernel':inspect(T, [{{limit, {limit}}}]) end"
    terms = [*CONTAINERS, *STRUCTS, *TEXTS]
    assert [inspect(term, limit=limit) for term in terms] == _ask(elixir, show, terms)


def binary(data: bytes) -> str | bytes:
    """Return a binary as the codec gives it."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


# Of other letters some are none in identifiers of Elixir, and more of them in each version.
characters = st.characters(max_codepoint=0x17F).filter(
    lambda char: unicodedata.is_normalized("NFKC", char)
) | st.sampled_from("\ufeff\ufffe€\U0001f600")
names = (
    st.text(characters, max_size=6)
    | st.from_regex(r"(Elixir\.)?[A-Za-z_0-9]+([.@?!][A-Za-z]*)?", fullmatch=True)
    | st.sampled_from([*NAMES, "nil", "true", "false"])
)
# As the codec gives them.
special = {"nil": None, "true": True, "false": False}
atoms = names.map(lambda name: special.get(name, A(name)))
# Not those that could make a list of them a charlist.
integers = st.integers().filter(lambda number: not 7 <= number <= 126)
scalars = (
    atoms
    | integers
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
    | st.binary(max_size=60).map(binary)
    | st.builds(BitString, st.binary(min_size=1, max_size=60), st.integers(1, 7))
)
hashable = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
terms = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=55)
        | st.lists(inner, max_size=55).map(tuple)
        | st.lists(st.tuples(atoms, inner), max_size=5)
        | st.dictionaries(hashable, inner, max_size=32)
        | st.dictionaries(atoms, inner, max_size=5)
        | st.lists(inner, min_size=1, max_size=5).map(lambda e: ImproperList((*e,), 1.5))
        | st.sets(hashable, max_size=32)
    ),
    max_leaves=40,
)
thorough = settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.slow
@thorough
@given(terms)
def test_any_term(elixir: BeamNode, term: Any) -> None:
    assert_same(inspect(term), _ask(elixir, INSPECT, [term])[0])


def test_a_large_map_that_it_sends(elixir: BeamNode) -> None:
    """It has an order of its own there, and keeps it here."""
    term, theirs = elixir.eval(
        "M = maps:from_list([{{N, N * N}, N} || N <- lists:seq(1, 200)]),"
        "{M, 'Elixir.Kernel':inspect(M)}"
    )
    assert inspect(term) == theirs


# --- exits

LOCATION = [(A("file"), [*b"lib/worker.ex"]), (A("line"), 12)]
STACK = [
    (A("Elixir.My.Worker"), A("handle_call"), 3, LOCATION),
    (A("worker"), A("run"), [1, [A("a")], "b"], []),
]
PLACES: list[Any] = [
    (A("m"), A("f"), 1, [(A("file"), [*b"a.erl"]), (A("line"), 0)]),
    (A("m"), A("f"), 1, [(A("file"), "a.erl"), (A("line"), 3)]),
    (A("m"), A("f"), 1, [(A("file"), [*b"a.erl"])]),
    (A("m"), A("f"), 1, [(A("line"), 3)]),
    (A("m"), A("f"), 1, [(A("line"), 3), (A("file"), [*b"a.erl"]), (A("line"), 4)]),
    (A("m"), A("f"), 1, [A("odd"), (A("file"), [*b"a.erl"])]),
    (A("m"), A("f"), [], []),
    (A("Elixir.M"), A("-f/2-fun-0-"), 1, []),
    (A("Elixir.M"), A("-f/2-fun-0-"), [1], []),
    (A("m"), A("-a/b/2-lc$^0/1-0-"), 1, []),
    (A("Elixir.M"), A("F"), 1, []),
    (A("Elixir.M"), A("+"), 2, []),
    (A("Elixir.M"), A("__MODULE__"), 0, LOCATION),
    (A("Elixir.M"), A("__MODULE__"), 1, LOCATION),
    (A("Elixir.M"), A("__FILE__"), 1, LOCATION),
    (None, True, 0, []),
    (ExternalFun(A("m"), A("f"), 2), [1, 2], LOCATION),
    (ExternalFun(A("m"), A("f"), 2), 2, LOCATION),
]
NO_PLACES: list[Any] = [
    1,
    "a",
    (),
    (1, 2),
    (A("m"), A("f"), 1),
    (A("m"), A("f"), 1, 1),
    (A("m"), A("f"), "1", []),
    ("m", A("f"), 1, []),
    (A("m"), "f", 1, []),
    (A("m"), A("f"), 1, [(A("file"), [[]]), (A("line"), (1,))]),
    (1, 2, []),
]

RAISED: list[Any] = [
    *(A("badarg"), A("badarith"), A("system_limit"), A("cond_clause"), A("function_clause")),
    *(A("oops"), "oops", 1, (), (A("a"),), (A("a"), 1), (A("a"), 1, 2), (A("a"), 1, 2, 3)),
    *(None, [], "badarg", ("badmatch", 1), [A("badmatch"), 1], ImproperList((1,), 2), {}),
    *((A(tag), [1000]) for tag in ("badmatch", "case_clause", "try_clause", "with_clause")),
    *((A(tag), [1000]) for tag in ("badmap", "badfun", "badarg", "badkey", "else_clause")),
    (A("badfun"), ExternalFun(A("m"), A("f"), 1)),
    (A("badkey"), A("a"), {A("b"): 1}),
    (A("badkey"), A("a"), [1000]),
    (A("badkey"), A("a"), Map([(1, 1), (1.0, 1)])),
    (A("badbool"), A("and"), 1),
    (A("badbool"), A("or"), None),
    (A("badstruct"), A("Elixir.Range"), {}),
    (A("badarity"), (ExternalFun(A("lists"), A("map"), 2), [])),
    (A("badarity"), (ExternalFun(A("lists"), A("map"), 2), [1])),
    (A("badarity"), (ExternalFun(A("lists"), A("map"), 2), [1, 2, A("c")])),
    (A("badarity"), [1, 2]),
    struct("RuntimeError", __exception__=True, message="oops"),
    struct("RuntimeError", __exception__=True, message="two\nlines"),
]
EXCEPTIONS: list[Any] = [
    struct("Enum.OutOfBoundsError", __exception__=True, message="out of bounds error"),
    struct("KeyError", __exception__=True, key=A("a"), term=None, message=None),
    struct("KeyError", __exception__=True, key=A("a"), term={A("b"): 1}, message=None),
    struct("KeyError", __exception__=True, key=A("a"), term={A("b"): 1}, message="no a"),
    struct("MatchError", __exception__=True, term=[1000]),
    struct("BadFunctionError", __exception__=True, term=1),
    struct("BadMapError", __exception__=True, term=1),
    struct("BadStructError", __exception__=True, struct=A("Elixir.Range"), term=1),
    struct("CaseClauseError", __exception__=True, term=1),
    struct("CondClauseError", __exception__=True),
    struct("ErlangError", __exception__=True, original=A("oops"), reason=None),
    struct("ErlangError", __exception__=True, original=A("oops"), reason=": why"),
    struct(
        "FunctionClauseError",
        __exception__=True,
        **dict.fromkeys(["args", "clauses", "kind"]),
        module=A("Elixir.M"),
        function=A("f"),
        arity=2,
    ),
    struct(
        "FunctionClauseError",
        __exception__=True,
        **dict.fromkeys(["args", "clauses", "kind", "module", "function", "arity"]),
    ),
    *(
        struct(
            "UndefinedFunctionError",
            __exception__=True,
            message=message,
            reason=reason,
            module=module,
            function=function,
            arity=2,
        )
        for message, reason, module, function in [
            ("no", None, A("m"), A("f")),
            (None, A("module could not be loaded"), A("Elixir.M"), A("f")),
            (None, A("function not exported"), A("Elixir.M"), A("f")),
            (None, None, A("Elixir.M"), None),
        ]
    ),
]
SEARCHED = [
    [(A("Elixir.Map"), A("update!"), [{}, 1, 2], [])],
    [(A("Elixir.Map"), A("get_and_update!"), [{}, 1, 2], [])],
    [(A("maps"), A("update"), [1, 2, {}], [])],
    [(A("maps"), A("get"), [1, {}], [])],
    [(A("erlang"), A("map_get"), [1, {}], [])],
    [(A("maps"), A("get"), 2, [])],
    [(A("maps"), A("find"), [1, {}], [])],
]

NAMED = [
    *("normal", "shutdown", "calling_self", "timeout", "killed", "noconnection", "noproc", "kill"),
]
EXITS: list[Any] = [
    *map(A, NAMED),
    *NAMED,
    None,
    [],
    "abc",
    (A("shutdown"), A("oops")),
    (A("shutdown"), []),
    (A("shutdown"), [1000]),
    (A("nodedown"), A("a@b")),
    (A("nodedown"), "a@b"),
    (A("already_started"), 1),
    (A("bad_return_value"), A("oops")),
    (A("bad_call"), A("request")),
    (A("bad_cast"), A("request")),
    (A("bad_return"), (A("Elixir.M"), A("init"), A("oops"))),
    (A("bad_return"), (A("Elixir.M"), A("f"), A("oops"))),
    (A("bad_return"), 1),
    (A("bad_start_spec"), [1000]),
    (A("noproc"), (A("Elixir.GenServer"), A("call"), [A("server"), A("request"), 5000])),
    (A("noproc"), (A("gen_server"), A("call"), [A("server"), (A("a"), "b")])),
    (A("noproc"), (A("m"), A("f"), [])),
    (A("noproc"), (A("m"), A("f"), 1)),
    (A("noproc"), (A("m"), "f", [1])),
    (A("noproc"), (A("m"), A("f"), [0] * 255)),
    (A("noproc"), (A("m"), A("f"), [0] * 256)),
    ((A("nodedown"), A("a@b")), (A("gen_server"), A("call"), [1])),
    ((A("noproc"), (A("m"), A("f"), [1])), (A("m"), A("g"), [2])),
    ((A("badarg"), STACK), (A("m"), A("g"), [2])),
    (((A("badarg"), STACK), (A("m"), A("g"), [2])), (A("m"), A("h"), [3])),
    ((A("badarg"), STACK), STACK),
    (A("shutdown"), (A("failed_to_start_child"), A("Elixir.Child"), A("oops"))),
    (A("shutdown"), (A("failed_to_start_child"), A("child"), (A("badarg"), STACK))),
    (A("shutdown"), (A("failed_to_start_child"), A("child"), (EXIT, (A("badarg"), STACK)))),
    (A("shutdown"), (A("failed_to_start_child"), 1, (A("shutdown"), A("oops")))),
    *((A("badarg"), [place]) for place in (*PLACES, *NO_PLACES)),
    *((A("badarg"), [STACK[0], place]) for place in (*PLACES, *NO_PLACES)),
    *((reason, STACK) for reason in RAISED),
    *((A("function_clause"), [place]) for place in PLACES),
    *(((A("badkey"), A("a")), stack) for stack in SEARCHED),
    ((A("nocatch"), A("oops")), STACK),
    *RAISED,
]


@pytest.mark.parametrize(
    "reason",
    [*EXITS, *((exception, STACK) for exception in EXCEPTIONS)],
    ids=lambda reason: format_exit(reason)[:60],
)
def test_exits(elixir: BeamNode, reason: Any) -> None:
    assert_same(format_exit(reason), _ask(elixir, FORMAT_EXIT, [reason])[0])


@pytest.mark.parametrize("error_class", ["error", "exit", "throw"])
def test_banners(elixir: BeamNode, error_class: str) -> None:
    # What was raised is shown as a struct by the others, with its fields in another order.
    reasons = [*EXITS, *(EXCEPTIONS if error_class == "error" else ())]
    banners: list[Any] = [(A(error_class), reason, []) for reason in reasons]
    for banner, theirs in zip(banners, _ask(elixir, FORMAT_BANNER, banners), strict=True):
        assert_same(format_banner(*banner), theirs)


tags = st.sampled_from(
    [A(tag) for tag in (*NAMED, "nodedown", "badmatch", "bad_return", "failed_to_start_child")]
)
places = st.sampled_from([*PLACES, *NO_PLACES])
reasons = st.recursive(
    tags | scalars | st.sampled_from(RAISED),
    lambda inner: (
        st.tuples(inner, st.lists(places, max_size=4))
        | st.tuples(inner, st.tuples(atoms, atoms, st.lists(scalars, max_size=3)))
        | st.tuples(tags, inner)
        | st.tuples(tags, inner, inner)
        | st.tuples(st.just(EXIT), inner)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@thorough
@given(reasons)
def test_any_exit(elixir: BeamNode, reason: Any) -> None:
    assert_same(format_exit(reason), _ask(elixir, FORMAT_EXIT, [reason])[0])


@pytest.mark.parametrize(
    "source",
    [
        "exit(oops)",
        "exit({shutdown, 1})",
        "error(oops)",
        "throw(oops)",
        "gen_server:call(nobody, request)",
        "'Elixir.GenServer':call(nobody, request)",
        "'Elixir.Enum':'fetch!'([], 0)",
        "'Elixir.Enum':max([])",
        "'Elixir.Map':'fetch!'(#{}, a)",
        "'Elixir.Keyword':'fetch!'([], a)",
        "'Elixir.String':to_integer(<<>>, foo)",
        "'Elixir.Enum':count(1)",
        "'Elixir.Date':'from_iso8601!'(<<\"x\">>)",
        "{ok, _} = lists:last([error])",
        "case lists:last([a]) of b -> c end",
        "1 + lists:last([a])",
        "(lists:last([#{}]))#{a := 1}",
        "maps:get(a, #{b => 1})",
        "lists:last([])",
        "'Elixir.Kernel':struct('Elixir.Range', [], 3)",
        "(lists:last([a])):b(1)",
    ],
)
def test_what_really_happens(elixir: BeamNode, source: str) -> None:
    """The term goes to Python and is shown there, as it is by Elixir here."""
    error_class, reason, stack, exit_text, banner = elixir.eval(
        f"try {source} of _ -> fine catch C:R:S0 ->"
        # Without what OTP could explain of a badarg.
        "  S = [{M, F, A, lists:keydelete(error_info, 1, L)} || {M, F, A, L} <- S0],"
        "  {C, R, S, 'Elixir.Exception':format_exit({R, S}),"
        "   'Elixir.Exception':format_banner(C, R, S)} end"
    )
    # Whether it is the module that is missing or the function is known there alone.
    missing = re.compile(r"(?<=is undefined)( or private| \(module .+ is not available\))")
    assert_same(format_exit((reason, stack)), missing.sub("", exit_text))
    assert_same(format_banner(error_class, reason, stack), missing.sub("", banner))
