"""What the README shows, done."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pynode.testing import BeamNode, PynodeProcess

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")


def block(start: str) -> str:
    """Return the code block that has `start` in it."""
    (found,) = [b for b in re.findall(r"```\w+\n(.*?)```", README, re.DOTALL) if start in b]
    return str(found)


def test_the_python_example(elixir: BeamNode, cookie: str) -> None:
    code = block("from pynode import Node").replace("a@127.0.0.1", elixir.name)
    code = code.replace('"secret"', repr(cookie))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines() == re.findall(r"# (.+)", code)


def test_the_example_without_a_library(module_pynode: PynodeProcess, cookie: str) -> None:
    if shutil.which("elixir") is None:
        pytest.skip("no Elixir was found: `make setup` installs it where it can")
    lines = block("iex> Node.connect").replace("py@127.0.0.1", module_pynode.name).splitlines()
    commands = [line.removeprefix("iex> ") for line in lines if line.startswith("iex> ")]
    program = "; ".join(f"IO.inspect({command})" for command in commands)
    done = subprocess.run(
        ["elixir", "--name", "readme@127.0.0.1", "--cookie", cookie, "-e", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.splitlines() == [line for line in lines if not line.startswith("iex> ")]
