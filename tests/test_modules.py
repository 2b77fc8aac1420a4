"""Finding modules, functions and arguments, and what --allow allows."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pynode.errors import InvalidRequestError, NotAllowedError
from pynode.modules import Modules, arguments, text
from pynode.terms import Atom, Map


def test_functions_may_be_dotted() -> None:
    modules = Modules()
    assert modules.find("math", "sqrt") is math.sqrt
    assert modules.find(Atom("json"), "decoder.JSONDecoder") is json.JSONDecoder
    assert modules.call("os", "path.join", ["a", "b"], {}) == "a/b"


def test_only_what_is_allowed_may_be_called() -> None:
    modules = Modules(["json", "os.path"])
    assert modules.find("json", "loads") is json.loads
    assert modules.find("json.decoder", "JSONDecoder") is json.JSONDecoder
    assert modules.find("os.path", "join")
    for name in ("os", "builtins", "jso", "json_x", "sys"):
        with pytest.raises(NotAllowedError, match=f"--allow {name} "):
            modules.find(name, "x")


def test_a_module_that_is_allowed_is_no_way_to_another() -> None:
    modules = Modules(["json"])
    with pytest.raises(NotAllowedError, match="codecs"):
        modules.find("json", "codecs.open")
    with pytest.raises(NotAllowedError, match="codecs"):
        modules.attribute(json, "codecs")
    with pytest.raises(NotAllowedError, match="codecs"):
        modules.method(json, "codecs.open", ["x"], {})


@pytest.mark.parametrize(
    "path",
    [
        "load.__builtins__.get",
        "load.__globals__",
        "JSONDecoder.__init__.__globals__",
        "JSONDecoder.__mro__",
        "JSONDecoder.mro",
        "load.__class__",
    ],
)
def test_no_way_out_by_what_all_functions_and_classes_have(path: str) -> None:
    with pytest.raises(NotAllowedError, match="leads out"):
        Modules(["json"]).find("json", path)
    assert Modules().find("json", path)


def test_a_module_inside_of_another_by_its_name_there() -> None:
    import os

    assert Modules(["os"]).find("os", "path.join") is os.path.join


def test_a_missing_module_gets_advice_and_a_missing_import_inside_of_it_does_not(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("import not_there_either\n")
    monkeypatch.syspath_prepend(tmp_path)
    modules = Modules()
    with pytest.raises(ModuleNotFoundError) as caught:
        modules.find("not_there", "f")
    assert "not_there" in caught.value.__notes__[0]
    with pytest.raises(ModuleNotFoundError) as caught:
        modules.find("broken_module", "f")
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(("value", "expected"), [("a", "a"), (Atom("a"), "a"), (None, "nil")])
def test_names(value: Any, expected: str) -> None:
    assert text(value, "name") == expected
    assert type(text(value, "name")) is str


@pytest.mark.parametrize("value", ["", b"\xff", 1, [], 1.0])
def test_what_is_no_name(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="name"):
        text(value, "name")


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, {}),
        ([], {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
        ({Atom("a"): 1}, {"a": 1}),
        ([(Atom("a"), 1), (Atom("b"), 2)], {"a": 1, "b": 2}),
    ],
)
def test_keyword_arguments(kwargs: Any, expected: Any) -> None:
    assert arguments([1], kwargs) == ([1], expected)


@pytest.mark.parametrize(
    "kwargs", [5, "ab", [1], [("a", 1), ("a", 2)], {1: 2}, [("a",)], Map(((1, 2), (1.0, 3)))]
)
def test_what_are_no_keyword_arguments(kwargs: Any) -> None:
    with pytest.raises(InvalidRequestError, match="keyword"):
        arguments([], kwargs)
