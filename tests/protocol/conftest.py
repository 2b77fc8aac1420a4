"""Which implementations of messages as bytes there are to test."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

#: They have the same API and pass the same tests.
IMPLEMENTATIONS = ["pynode.protocol._pure", "pynode.protocol._compiled"]
if importlib.util.find_spec(IMPLEMENTATIONS[1]) is None and not os.environ.get("CI"):
    del IMPLEMENTATIONS[1]


@pytest.fixture(scope="session", params=IMPLEMENTATIONS)
def messages(request: pytest.FixtureRequest) -> ModuleType:
    """An implementation: message_at and frame."""
    return importlib.import_module(request.param)
