"""What tests with an Elixir need."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pynode.testing import wait_until
from tests.beam.asking import info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode


def load_elixir(beam: BeamNode) -> BeamNode:
    """Let a node of the oldest runtime have the Elixir that is installed for it."""
    if shutil.which("elixir") is None:
        message = "no Elixir was found: `make setup` installs it where it can"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    lib = subprocess.run(
        ["elixir", "-e", "IO.puts(:code.lib_dir(:elixir))"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.strip()
    beam.eval(
        "true = code:add_pathz(Path), {ok, _} = application:ensure_all_started(elixir), ok",
        Path=[ord(char) for char in f"{lib}/ebin"],
    )
    return beam


@pytest.fixture(autouse=True)
def no_call_is_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have no test begin before the calls of the one before are over: many count what runs."""
    yield
    beams = {"any_beam", "beam"} & {*request.fixturenames}
    if beams and "module_pynode" in request.fixturenames:
        beam, python = map(request.getfixturevalue, (beams.pop(), "module_pynode"))
        wait_until(lambda: info(beam, python)["running_calls"] == 0)


@pytest.fixture(scope="module")
def elixir(beam: BeamNode) -> BeamNode:
    """A node of the oldest runtime with the Elixir that is installed for it."""
    return load_elixir(beam)


@pytest.fixture
def start_elixir(start_beam: Callable[..., BeamNode]) -> Callable[..., BeamNode]:
    """As `start_beam`, with the Elixir that is installed."""
    return lambda name, **options: load_elixir(start_beam(name, **options))
