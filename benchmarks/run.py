"""The command of ``make bench``: ``python -m benchmarks.run --help``."""

from __future__ import annotations

import datetime
import os
import platform
import random
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

import pynode
from benchmarks import codecs, report
from benchmarks.cases import CASES
from benchmarks.contenders import TITLES, Contenders, MissingError
from pynode.etf import IMPLEMENTATION

_CONSOLE = Console()
_CONSOLE.width = max(_CONSOLE.width, 140)  # The table needs as much.


def _chosen(_context: click.Context, option: click.Parameter, value: str) -> list[str]:
    """Split a list of names; `sqrt` stands for all that begin with `sqrt-`."""
    there = list(CASES if option.name == "cases" else TITLES)
    if not value:
        return there
    names: list[str] = []
    for part in value.split(","):
        found = [name for name in there if name == part or name.startswith(f"{part}-")]
        if not found:
            raise click.BadParameter(f"{part!r} is none of {', '.join(there)}.")
        names += found
    return names


@click.command()
@click.option("--cases", default="", callback=_chosen, help="Which, with commas: sqrt-1,echo,codec")
@click.option("--contenders", default="", callback=_chosen, help="Which, with commas: node,port")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=0.5, show_default=True, help="Of one measurement, about.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the ratios, as SVG.")
def main(
    *,
    cases: list[str],
    contenders: list[str],
    rounds: int,
    seconds: float,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Compare a Python node with a BEAM peer and with other ways into Python.

    In each round every contender of a case has its turn, in random order; the baseline of a case is
    always among them.
    """
    with Contenders() as all_:
        about = _about(all_)
        plan = _plan(all_, cases, contenders)
        measured = _measure(all_, plan, rounds, seconds)
    found = report.lines(measured)
    headline = ", ".join(f"{key} {value}" for key, value in about.items())
    _CONSOLE.print(report.table(found), headline, sep="\n\n")
    missed = [line for line in found if line.met is False]
    _CONSOLE.print(f"{len(missed)} of {sum(line.met is not None for line in found)} targets missed")
    if json_file:
        report.write_json(json_file, found, about, measured)
    if plot:
        report.write_plot(plot, found, headline)


def _plan(all_: Contenders, cases: list[str], contenders: list[str]) -> dict[str, list[str]]:
    """Return who takes part in each case, without what is not installed."""
    plan = {
        case: [
            name
            for name in CASES[case].contenders
            if name in contenders or name == CASES[case].baseline
        ]
        for case in cases
    }
    missing = set()
    for name in {name: None for names in plan.values() for name in names}:
        try:
            codecs.functions(name) if name in codecs.NAMES else all_.get(name)
        except MissingError as error:
            _CONSOLE.print(f"Without {TITLES[name]}, which needs {error}.")
            missing.add(name)
    return {
        case: [name for name in names if name not in missing]
        for case, names in plan.items()
        if CASES[case].baseline not in missing
    }


def _measure(
    all_: Contenders, plan: dict[str, list[str]], rounds: int, seconds: float
) -> report.Rounds:
    measured: report.Rounds = []
    with Progress(console=_CONSOLE, transient=True) as progress:
        task = progress.add_task("", total=rounds * sum(map(len, plan.values())))
        for _ in range(rounds):
            this: dict[tuple[str, str], Any] = {}
            for case, names in plan.items():
                for name in random.sample(names, len(names)):
                    progress.update(task, description=f"{case} {name}")
                    this[case, name] = CASES[case].measure(all_, name, seconds)
                    progress.advance(task)
            measured.append(this)
    return measured


def _about(all_: Contenders) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "pynode": pynode.__version__,
        "codec": IMPLEMENTATION,
        "Python": platform.python_version(),
        "OTP": all_.driver.runtime.release,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


if __name__ == "__main__":
    main()
