"""What the compiled modules must be, whatever the compiler makes of them."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pynode

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(pynode.__file__).parents[1]
TYPED = re.findall(r'^ +"(\S+)\.py",$', (ROOT / "setup.py").read_text(), re.MULTILINE)


@pytest.fixture(params=TYPED)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module("pynode." + request.param.replace("/", "."))


@pytest.mark.skipif("pynode._typed__mypyc" not in sys.modules, reason="nothing is compiled here")
def test_nobody_refers_weakly_to_what_is_compiled(module: ModuleType) -> None:
    """What mypyc makes forgets to tell weak references that their object is gone (mypyc 2.4)."""
    compiled: list[Any] = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and "__mypyc_attrs__" in vars(kind)
    ]
    assert [kind for kind in compiled if kind.__weakrefoffset__] == []
