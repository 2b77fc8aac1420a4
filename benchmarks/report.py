"""What is made of the measurements: medians and ratios, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import escape

from rich.box import MARKDOWN
from rich.table import Table

from benchmarks.cases import CASES, Metric
from benchmarks.contenders import TITLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: For each round, by the names of case and contender, the figures in the order of the metrics.
Rounds = list[dict[tuple[str, str], "Sequence[float]"]]


class Line(NamedTuple):
    """What one contender did in one metric of one case: medians over the rounds.

    `ratio` is the median of the ratios to the baseline in each round, `low` and `high` are the
    least and the greatest of them, or of the figures where there is no baseline.
    """

    case: str
    metric: Metric
    contender: str
    figure: float
    ratio: float | None
    low: float
    high: float

    @property
    def target(self) -> float | None:
        """The limit, if there is one."""
        return self.metric.targets.get(self.contender)

    @property
    def met(self) -> bool | None:
        """Whether the target is met, None without one."""
        if self.target is None:
            return None
        what = self.figure if self.ratio is None else self.ratio
        return what >= self.target if self.metric.more else what <= self.target


def lines(rounds: Rounds) -> list[Line]:
    """Return the lines in the order of the cases."""
    measured = {key for each in rounds for key in each}
    return [
        _line(rounds, name, number, contender)
        for name, case in CASES.items()
        for number in range(len(case.metrics))
        for contender in case.contenders
        if (name, contender) in measured
    ]


def _line(rounds: Rounds, case: str, number: int, contender: str) -> Line:
    metric = CASES[case].metrics[number]
    baseline = None if metric.absolute else CASES[case].baseline
    figures = [each[case, contender][number] for each in rounds]
    compared, ratio = figures, None
    if baseline is not None:
        others = [each[case, baseline][number] for each in rounds]
        compared = [figure / other for figure, other in zip(figures, others, strict=True)]
        ratio = statistics.median(compared)
    figure = statistics.median(figures)
    return Line(case, metric, contender, figure, ratio, min(compared), max(compared))


def table(found: Sequence[Line]) -> Table:
    """Return the table, in the form of Markdown."""
    table = Table(box=MARKDOWN)
    table.add_column("case")
    table.add_column("contender", no_wrap=True)
    for heading in ("median", "ratio", "rounds", "target", "met"):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for line in found:
        case, metric = CASES[line.case], line.metric
        first = (line.case, metric) != before
        before = (line.case, metric)
        table.add_row(
            f"{case.title}: {metric.name}" if first else "",
            TITLES[line.contender],
            f"{number(line.figure)} {metric.unit}",
            f"{line.ratio:.2f} x" if line.ratio is not None else "",
            f"{number(line.low)} to {number(line.high)}",
            _limit(line),
            {True: "yes", False: "NO", None: ""}[line.met],
        )
    return table


def _limit(line: Line) -> str:
    if line.target is None:
        return ""
    unit = "x" if line.ratio is not None else line.metric.unit
    return f"{'≥' if line.metric.more else '≤'} {number(line.target)} {unit}"


def number(value: float) -> str:
    """Return a number with three digits that say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_json(path: Path, found: Sequence[Line], about: Mapping[str, Any], rounds: Rounds) -> None:
    """Write the lines, and every measurement of every round."""
    document = {
        **about,
        "results": [
            line._asdict()
            | {"metric": line.metric.name, "unit": line.metric.unit}
            | {"target": line.target, "met": line.met}
            for line in found
        ],
        "rounds": [
            {f"{case} {contender}": list(figures) for (case, contender), figures in each.items()}
            for each in rounds
        ],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


_COLOURS = {
    "node": "#2f6fb0", "elixir": "#7fb2e0", "beam": "#a0306f", "cnode": "#555555",
    "bare": "#8a8a2e", "port": "#d08a2e", "floor": "#b8b8b8", "grpc": "#4c9a5a",
    "etf-c": "#2f6fb0", "etf-python": "#7fb2e0", "msgpack": "#555555",
}  # fmt: skip
_BAR, _LEFT, _UNIT, _MOST = 14, 330, 110, 4.0


def write_plot(path: Path, found: Sequence[Line], about: str) -> None:
    """Write an SVG: how many times as good as the baseline each contender is; longer is better."""
    shown = [line for line in found if line.ratio is not None]
    parts: list[str] = []
    y, before = 40, None
    for line in shown:
        if (line.case, line.metric) != before:
            before = (line.case, line.metric)
            y += 12
            title = f"{CASES[line.case].title}: {line.metric.name}"
            parts.append(_text(8, y + 11, title))
        ratio = line.ratio or 1e-9
        times = ratio if line.metric.more else 1 / ratio
        width = min(times, _MOST) * _UNIT
        parts.append(
            f'<rect x="{_LEFT}" y="{y}" width="{width:.0f}" height="{_BAR - 3}"'
            f' fill="{_COLOURS[line.contender]}"/>'
        )
        label = f"{times:.2f} x {TITLES[line.contender]} ({number(line.figure)} {line.metric.unit})"
        parts.append(_text(_LEFT + width + 4, y + 10, label))
        y += _BAR
    line_at = _LEFT + _UNIT
    parts.append(f'<path d="M{line_at} 36V{y}" stroke="#a0306f" stroke-dasharray="3"/>')
    parts.append(_text(8, 16, f"Times as good as the BEAM peer, or as msgpack: {about}"))
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1100" height="{y + 10}"'
        ' font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        + "\n".join(parts)
        + "</svg>\n",
        encoding="utf-8",
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'
