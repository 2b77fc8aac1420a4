"""A short run of each fuzz target under atheris; ``make fuzz`` is the long one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = sorted(
    path.stem.removeprefix("fuzz_") for path in Path(__file__).parent.glob("fuzz_*.py")
)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def atheris() -> None:
    """Skip where atheris is not installed, which it is where there is a wheel; fail in CI."""
    if importlib.util.find_spec("atheris") is None:
        message = "atheris is not installed: `make setup` installs it where there is a wheel"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_fuzz(target: str, tmp_path: Path) -> None:
    limits = ["-runs=5000", "-max_total_time=20", "-seed=1", "-verbosity=0"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", target, str(tmp_path / "corpus"), *limits],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [path for path in (tmp_path / "corpus").iterdir() if not path.name.startswith("seed-")]
    assert found, "It found no way on from what it was given: is coverage measured?"
