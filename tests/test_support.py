"""The documents that say which test shows what: docs/SUPPORT.md and docs/LIFECYCLE.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
SUPPORT = ROOT / "docs" / "SUPPORT.md"
LIFECYCLE = ROOT / "docs" / "LIFECYCLE.md"
#: A tick: the link to the file of a test, whose name is the link's title. One with a ring needs no
#: BEAM.
TICK = re.compile(r"\[(✓°?)\]\(\.\./([^ )]+) \"([^\"]+)\"\)")
OLD, NEW = "OTP 25", "OTP 28.5"
#: What the id of a test has in it that runs with a node of that release (see tests/conftest.py).
IDS = {OLD: re.compile(r"otp2[567]"), NEW: re.compile(r"otp(2[89]|[3-9]\d)")}
#: Fixtures that are of one release, or are if the id of the test names no other.
FIXTURES = {OLD: {"beam", "elixir", "start_beam", "java", "cnode"}, NEW: {"beam28"}}

# Prints what pytest would run: file, name, name with parameters, fixtures.
COLLECT = """
import json, sys, pytest
class Collected:
    def pytest_collection_finish(self, session):
        print(json.dumps([
            (str(item.path), item.originalname, item.name, item.fixturenames)
            for item in session.items if not skipped(item)
        ]))
def skipped(item):
    # By the mark of a parameter: this runtime is not able to do it.
    marks = item.callspec.marks if hasattr(item, "callspec") else []
    return any(mark.name == "skipif" and mark.args[0] for mark in marks)
options = ["--collect-only", "-o", "addopts=--import-mode=importlib", "-p", "no:terminal"]
sys.exit(pytest.main([*options, *sys.argv[1:]], [Collected()]))
"""


class Tick(NamedTuple):
    """A link to a test, and where it stands."""

    feature: str
    release: str
    mark: str
    file: str
    test: str


def rows(document: Path, *heads: str) -> list[list[str]]:
    """Return the cells of each line of the tables with these heads."""
    lines = [line.strip() for line in document.read_text(encoding="utf-8").splitlines()]
    found = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line[:1] == "|"]
    return [row for row in found if row != [*heads] and set(row[1]) != {"-"}]


def features() -> list[list[str]]:
    return rows(SUPPORT, "feature", OLD, NEW)


def rules() -> list[list[str]]:
    return rows(LIFECYCLE, "rule", "shown by")


def ticks() -> list[Tick]:
    return [
        Tick(feature, release, *tick)
        for feature, *cells in features()
        for release, cell in zip((OLD, NEW), cells, strict=True)
        for tick in TICK.findall(cell)
    ]


@pytest.fixture(scope="module")
def collected() -> dict[tuple[str, str], set[str]]:
    """The tests that there are, by file and name, and the releases that each runs with."""
    linked = {tick.file for tick in ticks()}
    linked |= {file for _, cell in rules() for _, file, _ in TICK.findall(cell)}
    files = sorted(file for file in linked if file.endswith(".py"))
    run = subprocess.run(
        [sys.executable, "-c", COLLECT, *files], cwd=ROOT, capture_output=True, check=True
    )
    found: dict[tuple[str, str], set[str]] = {}
    for path, name, full, fixtures in json.loads(run.stdout):
        file = Path(path).relative_to(ROOT).as_posix()
        found.setdefault((file, name), set()).update(releases(full, set(fixtures)))
    return found


def releases(test: str, fixtures: set[str]) -> set[str]:
    """Return the releases that a test has nodes of."""
    named = {release for release, pattern in IDS.items() if pattern.search(test)}
    fixed = {release for release, names in FIXTURES.items() if names & fixtures}
    # With its own runtime, a node of the old one is there for comparison.
    return named | (fixed - {OLD} if named else fixed)


def test_each_tick_is_a_link_to_a_test_that_runs_there(collected: dict[Any, set[str]]) -> None:
    wrong = []
    for tick in ticks():
        if tick.file.endswith(".exs"):
            good = tick.release == OLD and is_elixir_test(tick.file, tick.test)
        else:
            found = collected.get((tick.file, tick.test))
            alone = tick.mark != "✓"
            good = found is not None and (not found if alone else tick.release in found)
        if not good:
            wrong.append(tick)
    assert not wrong


def is_elixir_test(file: str, test: str) -> bool:
    return f'test "{test}"' in (ROOT / file).read_text(encoding="utf-8")


def test_each_rule_of_the_lifecycle_has_its_tests(collected: dict[Any, set[str]]) -> None:
    wrong = []
    for rule, cell in rules():
        found = TICK.findall(cell)
        if not found:
            wrong.append((rule, "has no test"))
        for _, file, test in found:
            elixir = file.endswith(".exs")
            if not (is_elixir_test(file, test) if elixir else (file, test) in collected):
                wrong.append((rule, f"{file} has no {test}"))
    assert not wrong
    assert len(rules()) > 40


def test_what_has_no_tick_says_why() -> None:
    table = features()
    assert len(table) > 60
    assert {len(row) for row in table} == {3}
    for row in table:
        for cell in row[1:]:
            assert TICK.search(cell) or len(cell) > 10, row


def test_no_line_is_there_twice() -> None:
    for table in (features(), rules()):
        firsts = [row[0] for row in table]
        assert len(firsts) == len(set(firsts))


def test_which_tests_have_which_release() -> None:
    assert releases("test_x[otp25-a]", {"any_beam", "start_beam"}) == {OLD}
    assert releases("test_x[otp28]", {"any_beam", "beam", "start_beam"}) == {NEW}
    assert releases("test_x", {"start_beam"}) == {OLD}
    assert releases("test_x", {"beam", "beam28", "start_beam"}) == {OLD, NEW}
    assert releases("test_x[a]", {"node"}) == set()
