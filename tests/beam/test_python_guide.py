"""What docs/PYTHON.md shows, done: in order, by one Python and one Elixir.

Blocks of Elixir with ``iex>`` are evaluated line by line, and others whole. Blocks of Python with
``>>>`` are doctests of one session; others are files, by the name in their first line, and what
they print is in comments.
"""

from __future__ import annotations

import doctest
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode, BeamProcess

GUIDE = Path(__file__).parent.parent.parent / "docs" / "PYTHON.md"
SECONDS = 30


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks() -> Iterator[Block]:
    text = GUIDE.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(found[1], text.count("\n", 0, found.start()) + 2, found[2])


class Iex:
    """A process that evaluates Elixir, with bindings that stay."""

    def __init__(self, beam: BeamNode) -> None:
        self._process: BeamProcess = beam.process()
        self._process.eval("put(bindings, []), ok")

    def run(self, source: str) -> str:
        """Return the value as `iex` shows it."""
        return str(
            self._process.eval(
                "{Value, Bindings} = 'Elixir.Code':eval_string(Source, get(bindings)), "
                "put(bindings, Bindings), 'Elixir.Kernel':inspect(Value)",
                Source=source,
            )
        )

    def check(self, block: Block) -> None:
        """Run a block; compare what it shows for each expression, if it shows something."""
        if "iex>" not in block.text:
            self.run(block.text)
            return
        for example in re.split(r"^iex> ", block.text, flags=re.MULTILINE)[1:]:
            lines = example.splitlines()
            code = [lines[0], *(x.removeprefix("...> ") for x in lines[1:] if x.startswith("...>"))]
            shown = [x for x in lines[1:] if not x.startswith("...>")]
            value = self.run("\n".join(code))
            if shown:
                assert [value] == shown, f"PYTHON.md, line {block.line}: {lines[0]}"


@pytest.fixture
def iex(start_elixir: Callable[..., BeamNode]) -> Iex:
    return Iex(start_elixir("app", cookie="secret"))


def run_doctest(block: Block, namespace: dict[str, Any]) -> None:
    parser = doctest.DocTestParser()
    test = parser.get_doctest(block.text, namespace, GUIDE.name, str(GUIDE), block.line - 1)
    assert test.examples
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    runner.run(test, out=report.append, clear_globs=False)
    assert not runner.failures, "".join(report)
    namespace.update(test.globs)


def run_program(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_the_guide(iex: Iex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYNODE_COOKIE", "secret")
    namespace: dict[str, Any] = {}
    running: list[subprocess.Popen[str]] = []
    try:
        for block in blocks():
            if block.language == "elixir":
                iex.check(block)
            elif block.language == "python" and ">>>" in block.text:
                run_doctest(block, namespace)
            elif block.language == "python":
                path = tmp_path / block.text.splitlines()[0].removeprefix("# ")
                path.write_text(block.text, encoding="utf-8")
                if path.name.startswith("test_"):
                    check_tests(path)
                elif "run_forever" in block.text:
                    running.append(run_program(path))
                    assert running[-1].stdout is not None
                    wait_until(lambda: running[-1].stdout.readline() == "ready\n", SECONDS)  # type: ignore[union-attr]
                else:
                    check_program(path, block)
            else:
                assert block.language in {"console", "ini"}
    finally:
        for program in running:
            program.send_signal(signal.SIGTERM)
            output, _ = program.communicate(timeout=SECONDS)
            assert program.returncode == 0, output
        if "node" in namespace:
            namespace["node"].stop()


def check_program(path: Path, block: Block) -> None:
    program = run_program(path)
    output, _ = program.communicate(timeout=SECONDS)
    assert program.returncode == 0, output
    assert output.splitlines() == re.findall(r"print\(.*\)  # (.+)", block.text)


def check_tests(path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(
        command, cwd=path.parent, capture_output=True, text=True, timeout=2 * SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout
    assert f"{path.read_text(encoding='utf-8').count('def test_')} passed" in done.stdout
