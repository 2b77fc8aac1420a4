"""Runs one target under atheris, guided by coverage: ``python -m tests.fuzz.run TARGET [OPTION]``.

The targets are the modules ``fuzz_*.py``; each has `seeds`, and `check`, which raises when
something is wrong. Options are libFuzzer's; a directory among them is the corpus, in place of
``.cache/fuzz/TARGET``. An input that leads to new code is kept there; one that fails is kept in
``tests/fuzz/regressions/TARGET``, where the tests find it. Each input has ten seconds and two
gigabytes.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).parent
CORPUS = FOLDER.parents[1] / ".cache" / "fuzz"
_USAGE = 2


def load(target: str) -> ModuleType:
    """Import a target and all of pynode with the instructions that measure coverage."""
    # It says of each module that it has instrumented it.
    with redirect_stderr(StringIO()), atheris.instrument_imports(include=["pynode"]):
        return importlib.import_module(f"tests.fuzz.fuzz_{target}")


def prepare(target: str, module: ModuleType, corpus: Path) -> list[str]:
    """Write the seeds and the dictionary; return libFuzzer's arguments for them."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(module.seeds()):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    dictionary = corpus.with_name(f"{corpus.name}.dict")
    words = ("".join(f"\\x{byte:02x}" for byte in word) for word in module.DICTIONARY)
    dictionary.write_text("".join(f'"{word}"\n' for word in words), encoding="ascii")
    failures = FOLDER / "regressions" / target
    failures.mkdir(parents=True, exist_ok=True)
    return [str(corpus), str(failures), f"-dict={dictionary}", f"-artifact_prefix={failures}/"]


def main() -> None:
    targets = sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.py"))
    if len(sys.argv) < _USAGE or sys.argv[1] not in targets:
        sys.exit(f"Usage: python -m tests.fuzz.run {{{','.join(targets)}}} [libFuzzer's options]")
    target, *options = sys.argv[1:]
    module = load(target)
    limits = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=4096"]
    corpora = [Path(option) for option in options if not option.startswith("-")]
    options = [option for option in options if option.startswith("-")]
    arguments = prepare(target, module, *corpora or [CORPUS / target])
    atheris.Setup(
        [sys.argv[0], *arguments, *limits, *options],
        module.check,
        enable_python_coverage=True,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
