"""Showing terms, where Elixir is not the measure; `tests/beam/test_inspect.py` asks a real one."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import math
import re
import sys
import threading
import time
from decimal import Decimal
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynode.inspection import format_banner, format_exit, format_mfa, inspect
from pynode.terms import (
    Atom,
    BitString,
    ExternalFun,
    Fun,
    ImproperList,
    LocalTerm,
    Map,
    Pid,
    Port,
    Reference,
)
from pynode.values import Ref, struct, to_term

NODE = Atom("beam@127.0.0.1")
PID = Pid(NODE, 123, 4, 5)
FUN = Fun(2, bytes(16), 1, Atom("Elixir.Foo"), 1, 76543, PID, ())


class Colour(enum.StrEnum):
    RED = "red"


class Point:
    def __repr__(self) -> str:
        return "Point(\n1, \ud800)"


class Nasty:
    """Whatever is asked of it raises."""

    def __repr__(self) -> NoReturn:
        raise RuntimeError

    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError


@pytest.mark.parametrize(
    ("term", "text"),
    [
        # Numbers of nodes mean nothing elsewhere.
        (PID, "#PID<0.123.4 on beam@127.0.0.1>"),
        (Port(NODE, 7, 5), "#Port<0.7 on beam@127.0.0.1>"),
        (Reference(NODE, 5, (1, 2, 3)), "#Reference<0.3.2.1 on beam@127.0.0.1>"),
        (FUN, "#Function<1.76543/2 in Foo>"),
        (LocalTerm(b"abc"), "#LocalTerm<3 bytes>"),
        # As Elixir 1.15 and later have them.
        ([*b"abc"], '~c"abc"'),
        ([*b'\a"\x1b\\'], '~c"\\a\\"\\e\\\\"'),
        ([*b"#{a}"], '~c"\\#{a}"'),
        ([*b"a" * 4097], f'~c"{"a" * 4096}" ++ ...'),
        ([*b"a", 0], "[97, 0]"),
        ([True, 97], "[true, 97]"),
        ({65, 66}, "MapSet.new([65, 66])"),
        ({frozenset({65})}, "MapSet.new([MapSet.new([65])])"),
        ([{65}, [65]], '[MapSet.new([65]), ~c"A"]'),
        # The fields of a struct are in order, and its module need not be there.
        (struct("Foo.Bar", b=1, a=[65]), '%Foo.Bar{a: ~c"A", b: 1}'),
        (struct("Foo", __exception__=True, message="m"), '%Foo{message: "m"}'),
        (struct("Foo"), "%Foo{}"),
        (struct("Foo") | dict[Any, Any](a=1), '%{:__struct__ => Foo, "a" => 1}'),
        (struct("Date", calendar=Atom("Elixir.Other"), year=1), "%Date{calendar: Other, year: 1}"),
        (struct("Date", calendar=1, year="x"), '%Date{calendar: 1, year: "x"}'),
        (struct("MapSet", map=1), "%MapSet{map: 1}"),
        (struct("Range", first=1, last=None, step=1), "%Range{first: 1, last: nil, step: 1}"),
        # What Decimal 2.2 and later write.
        (Decimal("-1.50"), 'Decimal.new("-1.50")'),
        (Decimal("Infinity"), 'Decimal.new("Infinity")'),
        # Python's own, as they would arrive.
        (bytearray(b"a\xff"), "<<97, 255>>"),
        (memoryview(b"abc"), '"abc"'),
        (math.inf, ":infinity"),
        (math.nan, ":nan"),
        (dt.date(2026, 1, 2), "~D[2026-01-02]"),
        (range(1, 10, 2), "1..9//2"),
        ("\ud800", '"\\x{D800}"'),
        (Atom("\ud800"), ':"\\x{D800}"'),
        # And as they would not.
        (Colour.RED, "#Python<<Colour.RED: 'red'>>"),
        (collections.Counter("a"), "#Python<Counter({'a': 1})>"),
        (Point(), "#Python<Point( 1, \\ud800)>"),
        (dt.timedelta(1), "#Python<datetime.timedelta(days=1)>"),
        # Too long for anybody.
        (10**4000, f"1{'0' * 4000}"),
        (-(10**5000), "#Integer<16610 bits>"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_terms(term: Any, text: str) -> None:
    assert inspect(term) == text


def test_an_object_that_raises_whatever_is_asked_of_it() -> None:
    assert inspect([Nasty(), {1: Nasty()}]) == "[#Python<<Nasty>>, %{1 => #Python<<Nasty>>}]"


def test_refs() -> None:
    reference = Reference(Atom("py@h"), 5, (1, 2, 3))
    ref = Ref(reference, "auto_<0.1.0>_2", "collections", "collections", "Counter")
    text = "Counter in collections, auto_<0.1.0>_2 on py@h"
    assert inspect(ref) == f"#SnakeBridge.Ref<{text}>"
    assert inspect(ref.to_term()) == f"#SnakeBridge.Ref<{text}>"
    stream = Ref(reference, None, None, None, None, stream=True)
    assert inspect(stream) == "#SnakeBridge.StreamRef<object on py@h>"
    strange = Ref(reference, "a\nb", None, None, "\0" * 300)
    assert inspect(strange) == '#SnakeBridge.Ref<<<0, 0, 0, 0, 0, ...>>, "a\\nb" on py@h>'


def test_maps_of_more_than_32_keys_keep_their_order() -> None:
    few = dict.fromkeys(reversed(range(32)), 0)
    many = dict.fromkeys(reversed(range(33)), 0)
    assert inspect(few, limit=2) == "%{0 => 0, 1 => 0, ...}"
    assert inspect(many, limit=2) == "%{32 => 0, 31 => 0, ...}"


def test_keys_that_erlang_cannot_order() -> None:
    keys = [PID, Reference(NODE, 5, (1,)), Port(NODE, 7, 5), FUN, Nasty, dt.date(2026, 1, 2), "a"]
    shown = inspect(dict.fromkeys(keys, 0))
    assert shown == inspect(dict.fromkeys(reversed(keys), 0))
    assert re.findall(r"#\w+|~D|\"a\"", shown) == (
        ["#Reference", "#Function", "#Port", "#PID", "~D", '"a"', "#Python"]
    )


# --- bounded work


def nested(levels: int) -> Any:
    term: Any = []
    for _ in range(levels):
        term = [term]
    return term


def nested_map(levels: int) -> Any:
    term: Any = Map([([], 1)])
    for _ in range(levels):
        term = Map([(term, [term])])
    return term


def nested_reason(levels: int) -> Any:
    reason: Any = Atom("noproc")
    for _ in range(levels):
        reason = (reason, (Atom("m"), Atom("f"), []))
    return reason


def cycle() -> Any:
    term: list[Any] = []
    term += [term, term, {1: term}]
    return term


def wide() -> Any:
    """Each level twice: more items than anybody could write."""
    term: Any = ["x" * 100] * 50
    for _ in range(60):
        term = [term] * 50
    return term


class Endless:
    """Becomes another one of its kind."""


to_term.register(Endless, lambda _: Endless())


@pytest.mark.parametrize(
    "make",
    [
        lambda: nested(5_000),
        lambda: nested_map(1_000),
        lambda: nested_reason(5_000),
        cycle,
        wide,
        lambda: [10**100_000] * 100,
        lambda: ["é" * 10_000_000, b"\xff" * 10_000_000, [65] * 1_000_000, [1000] * 1_000_000],
        lambda: dict.fromkeys(map(Atom, map(str, range(100_000)))),
        lambda: [(Atom("a"), 1)] * 1_000_000,
        lambda: (Atom("badarg"), [(Atom("m"), Atom("f"), 1, [])] * 1_000_000),
        lambda: (Atom("badarg"), [(Atom("m"), Atom("f"), [[1000] * 60] * 60, [])] * 50),
        lambda: (Atom("noproc"), (Atom("m"), Atom("f"), [wide()] * 255)),
        lambda: (struct("E", __exception__=True, message="x" * 10_000_000), [(PID, 1, [])]),
        lambda: (struct("E", __exception__=True, message="x" * 10_000_000), [(FUN, 1, [])]),
        Endless,
        lambda: [Endless(), {Endless(): 1, Endless(): 2}],
        lambda: tuple({**struct(name), "x": 1} for name in ("MapSet", "Date", "SnakeBridge.Ref")),
    ],
)
@pytest.mark.parametrize("show", [inspect, format_exit, lambda term: format_banner("error", term)])
def test_whatever_it_is_it_takes_no_time_and_little_text(make: Any, show: Any) -> None:
    term = make()
    start = time.process_time()
    text = show(term)
    # A generous limit: what is not bounded would take minutes, or never end.
    assert time.process_time() - start < 5
    assert 0 < len(text) < 2_000_000
    text.encode()


def test_at_the_end_of_the_stack() -> None:
    def deep(levels: int) -> str:
        return deep(levels - 1) if levels else inspect(nested(100)) + format_exit(nested_reason(9))

    shown = []

    def run() -> None:
        for left in range(1, 200):
            try:
                shown.append(deep(sys.getrecursionlimit() - left))
            except RecursionError:
                continue  # There was no room for the call itself.

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert shown
    assert "#Python<...>" in "".join(shown)


def test_a_term_that_changes_meanwhile() -> None:
    term: dict[Any, Any] = dict.fromkeys(range(40))

    class Adds:
        def __repr__(self) -> str:
            term[object()] = None
            return "adds"

    term[0] = Adds()
    assert inspect(term) == "#Python<...>"


scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.text(max_size=5).map(Atom),
    st.sampled_from([PID, FUN, BitString(b"\xa0", 3), ExternalFun(Atom("m"), Atom("f"), 1)]),
    st.sampled_from([range(3), Decimal(1), dt.date(1, 1, 1), object(), LocalTerm(b"")]),
    st.sampled_from(
        [
            *map(Atom, ("__struct__", "__exception__", "message", "Elixir.MapSet", "Elixir.Date")),
            *map(Atom, ("Elixir.Foo", "Elixir.SnakeBridge.PythonError", "Elixir.KeyError")),
            *map(Atom, ("badkey", "badarity", "shutdown", "failed_to_start_child", "EXIT", "file")),
        ]
    ),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(st.tuples(inner, inner), max_size=4),
        st.dictionaries(scalars.filter(lambda key: type(key) is not list), inner, max_size=4),
        st.lists(inner, min_size=1, max_size=4).map(lambda items: ImproperList((*items,), 1)),
        st.tuples(inner, st.lists(st.tuples(inner, inner, inner, inner), max_size=2)),
        st.fixed_dictionaries(
            {Atom("__struct__"): scalars, Atom("__exception__"): st.just(value=True)},
            optional={Atom(name): inner for name in ("message", "map", "key", "notes", "args")},
        ),
    ),
    max_leaves=20,
)


@given(anything, anything)
def test_nothing_raises(term: Any, other: Any) -> None:
    for text in (
        inspect(term),
        inspect(term, limit=3),
        format_exit(term),
        *(format_banner(kind, term, other) for kind in ("error", "exit", "throw")),
    ):
        text.encode()
    assert format_mfa(term, term, other) is None or isinstance(term, Atom | bool | None)


# --- exits and errors


def test_what_only_the_other_node_could_say() -> None:
    """See the docstring of the package."""
    here: list[Any] = [(Atom("Elixir.Foo"), Atom("bar"), [1], [(Atom("error_info"), {})])]
    assert format_banner("error", Atom("badarg"), here) == "** (ArgumentError) argument error"
    undefined = "function Foo.bar/1 is undefined"
    assert format_banner("error", Atom("undef"), here) == f"** (UndefinedFunctionError) {undefined}"
    own = struct("Foo.Error", __exception__=True, code=1)
    assert format_banner("error", own) == "** (Foo.Error) %Foo.Error{code: 1}"
    bare = struct("Protocol.UndefinedError", __exception__=True, protocol=Atom("Elixir.P"), value=1)
    assert format_banner("error", bare) == (
        "** (Protocol.UndefinedError) protocol P not implemented for 1 of type Integer"
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((None, "Atom"), (Atom("a"), "Atom"), (1.5, "Float"), ("a", "BitString"), ([], "List")),
        *((PID, "PID"), (FUN, "Function"), ({}, "Map"), (Map([]), "Map"), ((), "Tuple")),
        *((struct("Foo"), "Foo (a struct)"), (Point(), "Point")),
    ],
)
def test_types_in_messages(value: Any, kind: str) -> None:
    error = struct(
        "Protocol.UndefinedError",
        __exception__=True,
        protocol=Atom("Elixir.Enumerable"),
        value=value,
        description="so there",
    )
    shown = format_banner("error", error)
    assert shown.endswith(f" of type {kind}, so there")


def test_python_errors() -> None:
    error = struct(
        "SnakeBridge.PythonError",
        __exception__=True,
        type="ValueError",
        message="no",
        traceback='Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no\n',
        notes=["a note"],
        ref=None,
    )
    assert format_exit((error, [(Atom("x"), Atom("f"), 1, [])])) == (
        "an exception was raised:\n"
        "    ** (SnakeBridge.PythonError) ValueError: no\n"
        "a note\n"
        "\n"
        "Traceback (most recent call last):\n"
        '  File "x.py", line 1\n'
        "ValueError: no\n"
        "        :x.f/1"
    )
