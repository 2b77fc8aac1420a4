"""A real EPMD of our own, so that tests neither need nor disturb the one of the system."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING, Self

from pynode.testing.children import Child, ChildExitedError, Lines
from pynode.testing.runtimes import Runtime, clean_environment, find_runtimes

if TYPE_CHECKING:
    from collections.abc import Mapping


class Epmd:
    """An Erlang port mapper daemon on the loopback interface.

    It listens on `port`, or on a free one. The environment for those who shall use it is `env`.
    Raises ChildExitedError when it does not start.
    """

    def __init__(self, port: int | None = None, *, runtime: Runtime | None = None) -> None:
        if runtime is None:
            runtime = _any_runtime()
        self.runtime = runtime
        attempts = 1 if port is not None else 5  # A free port may be taken before epmd has it.
        for left in reversed(range(attempts)):
            self.port = port if port is not None else _free_port()
            try:
                self._child = self._start()
            except ChildExitedError:
                if left == 0:
                    raise
            else:
                break

    def _start(self) -> Child:
        child = Child(
            # At this level of debugging it says when it listens.
            [str(self.runtime.epmd), "-d", "-d", "-port", str(self.port), "-address", "127.0.0.1"],
            env=clean_environment(),
        )
        try:
            child.stderr.wait_for("entering the main select")
        except (TimeoutError, ChildExitedError) as error:
            child.kill()
            message = f"epmd did not start at port {self.port}:\n{child.output}"
            raise ChildExitedError(message) from error
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<Epmd port {self.port}>"

    @property
    def os_pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def env(self) -> Mapping[str, str]:
        """The environment variables that lead to it."""
        return {"ERL_EPMD_PORT": str(self.port)}

    @property
    def log(self) -> Lines:
        """What it says of every connection and request."""
        return self._child.stderr

    def names(self) -> dict[str, int]:
        """Return the names that are registered, without their hosts, and their ports."""
        answer = subprocess.run(
            [self.runtime.epmd, "-port", str(self.port), "-names"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
        words = [line.split() for line in answer.splitlines()]  # name NAME at port PORT
        return {line[1]: int(line[4]) for line in words if line and line[0] == "name"}

    def kill(self) -> None:
        """End it at once; does nothing if it has ended."""
        self._child.kill()


def _any_runtime() -> Runtime:
    runtimes = find_runtimes()
    if not runtimes:
        raise ChildExitedError("No Erlang runtime was found: install Erlang/OTP 25 or later.")
    return runtimes[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
