"""The compiled parts and their sources: which one runs, and that both do the same."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pynode import _implementation
from pynode._implementation import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from pynode.testing import PynodeProcess

ROOT = Path(__file__).parent.parent
TYPED = re.findall(r'^ +"(\S+)\.py",$', (ROOT / "setup.py").read_text(), re.MULTILINE)
#: Where the modules that are compiled have their tests, and some that need all of them.
SUITES = [
    "tests/bridge",
    "tests/dist/test_decoding.py",
    "tests/dist/test_engine.py",
    "tests/dist/test_outbox.py",
    "tests/objects",
    "tests/protocol",
    "tests/test_process.py",
    "tests/test_signals.py",
    "tests/test_terms.py",
    "tests/beam/test_lifecycle_concurrency.py",
]


def run(*command: str, pure: bool) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYNODE_PURE": "1" if pure else ""}
    env.pop("CI", None)  # There, what is not compiled would be missed.
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_developers_have_is_compiled() -> None:
    version = run("-m", "pynode", "--version", pure=False).stdout
    if not version.endswith(", compiled\n") and not os.environ.get("CI"):
        pytest.skip("pynode was not compiled: `make setup` does, with gcc")
    assert version.endswith(", compiled\n")


def test_sources_run_where_the_environment_says_so() -> None:
    version = run("-m", "pynode", "--version", pure=True).stdout
    assert "pure Python" in version
    assert "PYNODE_PURE" in version
    names = run(
        "-c", "import pynode, sys; print(*map(str, sys.modules.values()), sep='\\n')", pure=True
    ).stdout.splitlines()
    ours = [name for name in names if str(ROOT / "pynode") in name]
    assert len(ours) > 50
    assert all(name.endswith(".py'>") for name in ours)


def test_a_node_says_what_runs(start_pynode: Callable[..., PynodeProcess]) -> None:
    node = start_pynode(env={"PYNODE_PURE": "1"})
    node.log.wait_for("pure Python")


def test_what_is_left_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in _implementation._PARTS:
        monkeypatch.setitem(sys.modules, module, sys)
    assert describe() == "compiled"
    monkeypatch.delitem(sys.modules, "pynode.etf._compiled")
    assert describe().startswith("compiled but for the codec (")
    for module in _implementation._PARTS:
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert describe().startswith("pure Python")


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


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(bool(os.environ.get("PYNODE_PURE")), reason="these run the sources already")
def test_the_sources_pass_the_tests_of_what_is_compiled() -> None:
    done = run("-m", "pytest", "-q", "--tb=short", *SUITES, pure=True)
    assert done.returncode == 0, done.stdout[-10_000:]
