"""What the package offers has types, all of it, and says so to type checkers."""

from __future__ import annotations

import inspect
from importlib import resources
from typing import Any

import pytest

import pynode
from pynode import aio

OFFERED = [
    *(pytest.param(getattr(pynode, name), id=name) for name in pynode.__all__),
    *(
        pytest.param(value, id=f"aio.{name}")
        for name, value in vars(aio).items()
        if getattr(value, "__module__", "") == aio.__name__ and not name.startswith("_")
    ),
]


def functions(offered: Any) -> dict[str, Any]:
    """Return the functions that a user of this calls or overrides."""
    if inspect.isfunction(offered):
        return {offered.__name__: offered}
    found = {}
    for name, member in vars(offered).items() if inspect.isclass(offered) else ():
        # Class methods and properties have theirs inside.
        value = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)))
        own = inspect.isfunction(value) and value.__module__.startswith("pynode")
        if own and (not name.startswith("_") or name == "__init__"):
            found[f"{offered.__name__}.{name}"] = value
    return found


def test_type_checkers_are_told() -> None:
    assert resources.files(pynode).joinpath("py.typed").is_file()


def test_what_is_offered_exists() -> None:
    assert len(OFFERED) > len(pynode.__all__) > 40
    assert {"Node.call", "Node.monitor_nodes"} <= functions(pynode.Node).keys()


@pytest.mark.parametrize("offered", OFFERED)
def test_everything_has_types(offered: Any) -> None:
    for name, function in functions(offered).items():
        signature = inspect.signature(function)
        untyped = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in {"self", "cls"}
        ]
        assert not untyped, name
        assert signature.return_annotation is not signature.empty, name
