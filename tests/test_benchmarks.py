from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import report
from tests.conftest import require_old


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    figures = [(10.0, 20.0), (30.0, 10.0), (40.0, 50.0)]
    rounds: report.Rounds = [
        {("sqrt-1", "node"): (ours,), ("sqrt-1", "beam"): (theirs,)} for ours, theirs in figures
    ]
    node, beam = report.lines(rounds)
    assert (node.figure, node.ratio, node.low, node.high) == (30.0, 0.8, 0.5, 3.0)
    assert (beam.ratio, beam.low, beam.high) == (1.0, 1.0, 1.0)
    assert (node.met, beam.met) == (True, None)


def test_of_some_figures_more_is_better() -> None:
    rounds: report.Rounds = [
        {("sqrt-16", "node"): (174.0, 1.0), ("sqrt-16", "beam"): (100.0, 1.0)},
    ]
    assert [line.met for line in report.lines(rounds)] == [False, None, None, None]


@pytest.mark.slow
def test_the_command_measures_what_it_is_asked_for(tmp_path: Path) -> None:
    require_old()
    results, plot = tmp_path / "results.json", tmp_path / "plot.svg"
    choice = ["--cases", "sqrt-1,beside-sleep,start", "--contenders", "node"]
    command = [sys.executable, "-m", "benchmarks.run", "--rounds", "1", "--seconds", "0.02"]
    done = subprocess.run(
        [*command, *choice, "--json", str(results), "--plot", str(plot)],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    assert {(line["case"], line["contender"]) for line in found} == {
        ("sqrt-1", "node"),
        ("sqrt-1", "beam"),
        ("beside-sleep", "node"),
        ("start", "node"),
    }
    assert all(line["figure"] > 0 for line in found)
    assert "math.sqrt(16), one caller: round trip" in done.stdout
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
