from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pynode.terms import Atom
from pynode.testing import BeamNode, ChildExitedError, Epmd, PynodeProcess

if TYPE_CHECKING:
    from collections.abc import Callable


def test_it_is_ready_when_constructed_and_stops_when_told(
    any_beam: BeamNode, start_pynode: Callable[..., PynodeProcess]
) -> None:
    python = start_pynode()
    assert str(python.stdout) == f"ready {python.name}"
    assert any_beam.eval("net_adm:ping(Node)", Node=Atom(python.name)) == "pong"
    assert python.stop() == 0


def test_a_node_that_cannot_start_says_why(
    epmd: Epmd, start_pynode: Callable[..., PynodeProcess]
) -> None:
    first = start_pynode()
    with pytest.raises(ChildExitedError, match=r"did not start:\n(.|\n)*name"):
        start_pynode(first.name)


def test_kill_is_a_crash(epmd: Epmd, start_pynode: Callable[..., PynodeProcess]) -> None:
    python = start_pynode()
    assert python.name.partition("@")[0] in epmd.names()
    python.kill()
    assert python.wait() == -9
