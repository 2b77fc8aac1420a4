"""A bounded part of the endurance test; ``make soak`` is the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.soak.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.testing import BeamNode, PynodeProcess


@pytest.fixture
def load(start_beam: Callable[..., BeamNode], start_pynode: Callable[..., PynodeProcess]) -> Load:
    return Load(start_beam, start_pynode)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_thousand_owners_leave_nothing(load: Load) -> None:
    beam = load.new_beam()
    load.churn(beam, 10_000)
    first, threads = load.memory(), load.census()["threads"]
    assert load.churn(beam, 10_000) == {"normal": 6_666, "killed": 3_334}
    # Twice as much as this is the memory of a single object of each owner.
    assert load.memory() < first + 10_000 * 300
    assert load.census()["threads"] <= threads + 8
    assert not str(load.python.log)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("with_node", [False, True], ids=["exit signal", "node killed"])
def test_two_thousand_owners_that_die_at_once(load: Load, *, with_node: bool) -> None:
    beam = load.new_beam()
    kill = load.crowd(beam, 2_000)
    assert load.census()["alive"] == 6_000
    release = load.release(beam.kill if with_node else kill)
    # Machines that run tests are busy at times.
    assert release.seconds < 4
    assert release.calls.p99 < 500
    assert not str(load.python.log)
