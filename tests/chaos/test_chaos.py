"""A few schedules of chaos; ``make chaos`` runs others for as long as one likes."""

from __future__ import annotations

import pytest

from pynode.testing import why_no_network
from tests.chaos import world
from tests.chaos.run import run
from tests.chaos.schedule import Schedule
from tests.conftest import require_old


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [2, 4, 11])
def test_whatever_happens_the_contract_holds(seed: int) -> None:
    require_old()
    run(seed, 100)
    reason = why_no_network()
    if reason is not None:
        pytest.skip(f"all was as it must be, but no link could be cut: {reason}")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_it_runs_where_no_link_can_be_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_old()
    monkeypatch.setattr(world, "why_no_network", lambda: "nobody may")
    run(5, 100)
    assert "NO LINK IS CUT: nobody may" in capsys.readouterr().out


def test_a_schedule_follows_from_its_seed_alone() -> None:
    events = [str(event) for event in Schedule(1, 300)]
    assert events == [str(event) for event in Schedule(1, 300)]
    assert events != [str(event) for event in Schedule(2, 300)]
    assert sum("quiet" in event for event in events) == 6
