"""Which implementations of the codec there are to test."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

#: By the value of ``pynode.etf.IMPLEMENTATION``. They have the same API and pass the same tests.
IMPLEMENTATIONS = {"python": "pynode.etf._pure", "c": "pynode.etf._compiled"}
if importlib.util.find_spec(IMPLEMENTATIONS["c"]) is None and not os.environ.get("CI"):
    del IMPLEMENTATIONS["c"]


@pytest.fixture(
    scope="session",
    params=[pytest.param(module, id=name) for name, module in IMPLEMENTATIONS.items()],
)
def etf(request: pytest.FixtureRequest) -> ModuleType:
    """An implementation of the codec: encode, decode and others."""
    return importlib.import_module(request.param)
