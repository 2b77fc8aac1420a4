"""Ticks: a sign of life for each peer, and a look at whether it gives one.

Theory of operation (kernel's ``net_ticktime``; `send_tick` in OTP's ``dist_util.erl``). Four times
in `ticktime` each connection is looked at. If nothing was sent since the last round, a tick is
sent. A peer from which nothing came in four rounds in a row is taken for lost: that is after 100
to 125 percent of `ticktime`.

Rounds are counted, and not seconds, because a peer is innocent of the time in which this very
process stood still: it was suspended, or C code held the global lock. What the peer has sent
waits in the socket's buffer then. So a round that comes late by more than the time between two
rounds does not count, and neither does one in which something waits to be read.
"""

from __future__ import annotations

import importlib
import logging
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pynode.dist._ticker import Line
    from pynode.dist.connection import Connection

log = logging.getLogger(__name__)

#: Rounds in `ticktime` (kernel's ``net_tickintensity``).
INTENSITY: Final = 4


def compiled_line(fd: int) -> Line | None:
    """Return what writes to a plain socket and gives signs of life while Python cannot.

    None if it was not compiled, where there was no C compiler.
    """
    try:
        module = importlib.import_module("pynode.dist._ticker")
    except ImportError:
        return None
    line: Line = module.Line(fd)
    return line


class _Seen(NamedTuple):
    received: int
    sent: int
    #: Rounds in a row in which nothing came.
    silent: int


class Ticker:
    """Sends ticks over `connections()`, and calls `lost(connection)` for those that are silent.

    `ticktime` is in seconds. `after(seconds, function)` has a function called later, and neither
    it nor `lost` may block. Raises ValueError for a `ticktime` that is not above 0.
    """

    def __init__(
        self,
        ticktime: float,
        *,
        connections: Callable[[], Iterable[Connection]],
        lost: Callable[[Connection], None],
        after: Callable[[float, Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not ticktime > 0:
            raise ValueError(f"net_ticktime is {ticktime}: give it seconds, more than 0.")
        self._ticktime = ticktime
        self._interval = ticktime / INTENSITY
        self._connections = connections
        self._lost = lost
        self._after = after
        self._clock = clock
        self._due = 0.0
        self._seen: dict[Connection, _Seen] = {}
        self._stopped = False

    def start(self) -> None:
        """Have a round an interval from now, and then on and on."""
        self._due = self._clock() + self._interval
        self._after(self._interval, self._round)

    def stop(self) -> None:
        """Let there be no more rounds."""
        self._stopped = True

    def _round(self) -> None:
        if self._stopped:
            return
        late = self._clock() - self._due > self._interval
        self.start()  # Whatever comes of this round, there is a next one.
        seen = {}
        for connection in self._connections():
            received = connection.received
            last = self._seen.get(connection)
            silent = 0
            if last is not None and last.received == received:
                silent = last.silent + (not late)
            if silent >= INTENSITY and not connection.has_unread():
                log.error(
                    "%s is taken for lost: it has sent nothing for %g seconds (net_ticktime)",
                    connection.peer,
                    self._ticktime,
                )
                self._lost(connection)
                continue
            if last is not None and last.sent == connection.sent:
                connection.tick()
            seen[connection] = _Seen(received, connection.sent, silent)
        self._seen = seen
