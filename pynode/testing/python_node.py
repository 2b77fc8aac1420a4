"""A Python node in a process of its own, started as users start it: by the command line."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from pynode.testing.children import Child, ChildExitedError, Lines
from pynode.testing.epmd import Epmd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Seconds in which it has to start.
_START_TIMEOUT = 30.0


#: Seconds in which a command has to end.
_RUN_TIMEOUT = 30.0


def run_pynode(*args: str, **env: str) -> tuple[int, str, str]:
    """Run the command ``pynode``; return its exit status and what it prints to both streams.

    `env` is added to the environment, which configures nothing of ours otherwise.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pynode", *args],
        env=_environment() | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_TIMEOUT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def _environment() -> dict[str, str]:
    ours = ("PYNODE_", "SNAKEBRIDGE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


class PynodeProcess:
    """``pynode serve``, running from construction until `stop`, `kill` or the end of a ``with``.

    `name` gets the host 127.0.0.1 if it has none. `args` are added to the command line, and `env`
    to the environment, which configures nothing of ours otherwise. `epmd` is an `Epmd`, or the
    port of one; by default the environment says. `prefix` is a command that runs another one
    (``ip netns exec NAME``). `cookie` defaults to a random one.

    Raises ChildExitedError with its output if it does not start.
    """

    def __init__(
        self,
        name: str | None = None,
        *args: str,
        cookie: str | None = None,
        epmd: Epmd | int | None = None,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        name = name if name is not None else f"py{secrets.token_hex(5)}"
        self.name = name if "@" in name else f"{name}@127.0.0.1"
        self.cookie = cookie if cookie is not None else secrets.token_hex(10)
        environment = _environment()
        environment["PYNODE_COOKIE"] = self.cookie
        if isinstance(epmd, Epmd):
            epmd = epmd.port
        if epmd is not None:
            environment["ERL_EPMD_PORT"] = str(epmd)
        self._child = Child(
            [*prefix, sys.executable, "-m", "pynode", "serve", "--name", self.name, *args],
            env=environment | dict(env or {}),
        )
        try:
            self._child.stdout.wait_for(f"^ready {re.escape(self.name)}$", _START_TIMEOUT)
        except (TimeoutError, ChildExitedError):
            self.kill()
            raise ChildExitedError(f"{self.name} did not start:\n{self._child.output}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<PynodeProcess {self.name}>"

    @property
    def os_pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def stdout(self) -> Lines:
        """What it has printed."""
        return self._child.stdout

    @property
    def log(self) -> Lines:
        """What it has logged, which it does to standard error."""
        return self._child.stderr

    def suspend(self) -> None:
        """Freeze it with SIGSTOP: its connections stay open and fall silent."""
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `suspend`."""
        self._child.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Send it SIGTERM and return at once."""
        self._child.send_signal(signal.SIGTERM)

    def stop(self, timeout: float = 15.0) -> int:
        """End it with SIGTERM, wait until it is gone and return its exit status.

        Raises TimeoutError if it still runs after `timeout` seconds.
        """
        self.terminate()
        return self.wait(timeout)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return its exit status; TimeoutError after `timeout`."""
        return self._child.wait(timeout)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would, and wait until it is gone."""
        self._child.kill()
