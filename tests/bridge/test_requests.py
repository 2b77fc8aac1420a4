"""Requests that no Elixir library sends, from another node that nothing keeps from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pynode import Bridge, Node
from pynode.terms import Atom, Map

if TYPE_CHECKING:
    from collections.abc import Callable

CALL, PUT, METHOD = Atom("call"), Atom("put"), Atom("method")


class Named:
    """What has methods of the names that Erlang has for constants."""

    def nil(self) -> str:
        return "nil"

    def true(self) -> str:
        return "true"


@pytest.fixture
def ask(start_node: Callable[..., Node]) -> Callable[..., Any]:
    server, caller = start_node(), start_node()
    server.add(Bridge(), name=Bridge.NAME)
    return lambda *request: caller.call((Bridge.NAME, server.name), request)


def reason(answer: Any) -> str:
    tag, error = answer
    assert tag == "error"
    return str(error["reason"])


@pytest.mark.parametrize("value", ["", Atom("x"), b"\xff", 1.5, [], {}, Map([([], 1)]), (1,)])
def test_an_opened_on_that_is_no_number_is_refused(ask: Callable[..., Any], value: object) -> None:
    assert reason(ask(PUT, 1, {"opened_on": value})) == "invalid_request"
    assert reason(ask(PUT, 1, {"opened_on": 1 << 200, "session_id": "x"})) == "node_restarted"
    assert ask(CALL, "math", "sqrt", [16], {}) == ("ok", 4.0)


def test_the_name_of_a_method_may_be_an_atom_of_any_kind(ask: Callable[..., Any]) -> None:
    _, ref = ask(CALL, __name__, "Named", [], {})
    assert ask(METHOD, ref, None, [], {}) == ("ok", "nil")
    assert ask(METHOD, ref, True, [], {}) == ("ok", "true")


def test_refs_nested_too_deeply_are_an_error(ask: Callable[..., Any]) -> None:
    """Not the end of a thread with a small stack: Python's limit does not hold in C code."""
    _, ref = ask(CALL, __name__, "Named", [], {})
    deep = ref
    for _ in range(5_000):
        deep = [deep]
    tag, error = ask(CALL, "builtins", "id", [deep], {})
    assert (tag, error["type"]) == ("error", "RecursionError")
    tag, error = ask(PUT, deep)
    assert (tag, error["type"]) == ("error", "RecursionError")
    assert ask(CALL, "math", "sqrt", [16], {}) == ("ok", 4.0)
