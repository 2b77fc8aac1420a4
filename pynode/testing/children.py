"""Child processes that never outlive this one, and the lines that they write.

A child may have to die at a moment when nobody can ask it to: this process was killed, or the
child is suspended. So a small process of its own, the reaper, holds a pipe to us and the list of
our children. When the pipe closes, for whatever reason, it kills those that are left.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

_REAPER = """
import contextlib, os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)
"""

_reaper: subprocess.Popen[str] | None = None
_reaper_lock = threading.Lock()


def _tell_reaper(sign: str, group: int) -> None:
    global _reaper
    with _reaper_lock:
        if _reaper is None:
            _reaper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _REAPER],
                stdin=subprocess.PIPE,
                text=True,
                bufsize=1,
                start_new_session=True,  # Ctrl-C is for us, not for it.
            )
            atexit.register(_dismiss_reaper, _reaper)
        assert _reaper.stdin is not None  # noqa: S101 (for the type checker)
        _reaper.stdin.write(f"{sign}{group}\n")


def reaper_pid() -> int | None:
    """Return the process id of the reaper, which runs as long as this process, once it does."""
    return _reaper.pid if _reaper is not None else None


def _dismiss_reaper(reaper: subprocess.Popen[str]) -> None:
    reaper.communicate()  # Closes its standard input, and waits until it has killed the rest.


class ChildExitedError(Exception):
    """A child process ended before it did what it was started for."""


class Lines:
    """The lines that a process writes to one of its streams, kept as they come."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.decode(errors="replace").rstrip("\r\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __str__(self) -> str:
        with self._changed:
            return "\n".join(self._lines)

    def wait_for(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Return the match of the first line, past or future, in which `pattern` is found.

        `timeout` is in seconds. Raises TimeoutError when they have passed, ChildExitedError when
        the stream ends first; both messages have the lines that there are.
        """
        wanted = re.compile(pattern)
        seen = 0
        match: re.Match[str] | None = None

        def found() -> bool:
            nonlocal seen, match
            while match is None and seen < len(self._lines):
                match = wanted.search(self._lines[seen])
                seen += 1
            return match is not None or self._ended

        with self._changed:
            in_time = self._changed.wait_for(found, timeout)
            if match is not None:
                return match
        if in_time:
            raise ChildExitedError(f"The process ended without a line like {pattern!r}:\n{self}")
        raise TimeoutError(f"No line like {pattern!r} within {timeout} seconds:\n{self}")

    def join(self, timeout: float) -> None:
        """Wait until the stream has ended, for at most `timeout` seconds."""
        self._thread.join(timeout)


class Child:
    """A process in a session of its own, so that signals from the terminal pass it by."""

    def __init__(
        self, args: Sequence[str], *, env: Mapping[str, str], pass_fds: Collection[int] = ()
    ) -> None:
        self._process = subprocess.Popen(
            args,
            env=env,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid
        _tell_reaper("+", self.pid)
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None and stderr is not None  # noqa: S101, PT018 (for the type checker)
        self.stdout = Lines(stdout)
        self.stderr = Lines(stderr)
        self._clean_up_lock = threading.Lock()
        self._clean = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._process.args!r} pid {self.pid}>"

    @property
    def output(self) -> str:
        """What it has written so far to standard output, and then to standard error."""
        return "\n".join(filter(None, (str(self.stdout), str(self.stderr))))

    @property
    def returncode(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        return self._process.poll()

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        self._process.send_signal(number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended and return `returncode`; TimeoutError after `timeout` seconds."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(
                f"{self!r} runs on after {timeout} seconds:\n{self.output}"
            ) from error
        self._clean_up()
        return code

    def kill(self) -> None:
        """End it and its descendants with SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._clean_up()

    def _clean_up(self) -> None:
        with self._clean_up_lock:
            if not self._clean:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)  # Descendants that it left behind.
                _tell_reaper("-", self.pid)
                self._clean = True
        self.stdout.join(5)
        self.stderr.join(5)
