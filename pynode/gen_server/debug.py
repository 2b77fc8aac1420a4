"""What `sys` can switch on in a server: a log of its events, statistics, a trace."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, Final

from pynode.gen_server.showing import as_text, showable
from pynode.inspection import inspect
from pynode.terms import Atom, ExternalFun
from pynode.values import decode, encode

log = logging.getLogger(__name__)

IN, OUT = Atom("in"), Atom("out")
_OK, _ERROR = Atom("ok"), Atom("error")
_LOG, _STATISTICS, _TRACE = Atom("log"), Atom("statistics"), Atom("trace")
_PRINT_EVENT = ExternalFun(Atom("gen_server"), Atom("print_event"), 3)

#: Events that a log has room for, unless it is told how many, as in sys.erl.
_LOGGED: Final = 10


class Debug:
    """What `sys` can switch on in a server: a log of its events, statistics, a trace.

    Events are those of gen_server.erl: ``{in, Message}``, ``{out, Reply, To, State}``,
    ``{noreply, State}`` and ``{continue, Term}``.
    """

    def __init__(self) -> None:
        self._switch_off()

    def _switch_off(self) -> None:
        #: Whether `note` is to be called at all.
        self.on = False
        self._trace = False
        #: Encoded, since what is in them may change.
        self._log: deque[bytes] | None = None
        self._started: Any = None
        self._counts = {IN: 0, OUT: 0}

    def note(self, who: object, event: Any) -> None:
        """Take note of an event of the server that is called `who`."""
        if self._trace:
            log.info("*DBG* %s: %s", who, inspect(event))
        if self._started is not None and event[0] in self._counts:
            self._counts[event[0]] += 1
        if self._log is not None:
            self._log.append(encode(showable(event), as_text))

    def command(self, what: Any) -> Any:
        """Do what a request ``{debug, What}`` says, and return the answer; see debug_cmd there."""
        answer: Any = _OK
        match what:
            case (Atom("trace"), bool(flag)):
                self._trace = flag
            case (Atom("log"), True):
                self._log = deque(self._log or (), _LOGGED)
            case (Atom("log"), (True, int(size))) if size >= 1:
                self._log = deque(self._log or (), min(size, 1_000_000))
            case (Atom("log"), False):
                self._log = None
            case (Atom("log"), Atom("get")):
                answer = (_OK, self.events())
            case (Atom("log"), Atom("print")):
                for event in self.events():
                    log.info("*DBG* %s", inspect(event))
            case (Atom("log_to_file"), False):
                pass
            case (Atom("log_to_file"), _):
                answer = (_ERROR, Atom("open_file"))
            case (Atom("statistics"), True):
                if self._started is None:
                    self._started, self._counts = _now(), {IN: 0, OUT: 0}
            case (Atom("statistics"), False):
                self._started = None
            case (Atom("statistics"), Atom("get")):
                answer = (_OK, self._statistics())
            case Atom("no_debug"):
                self._switch_off()
            case _:
                answer = Atom("unknown_debug")
        self.on = self._trace or self._log is not None or self._started is not None
        return answer

    def events(self) -> list[Any]:
        """Return the events in the log, the oldest first."""
        return [decode(event, fun=lambda fun: fun) for event in self._log or ()]

    def _statistics(self) -> Any:
        if self._started is None:
            return Atom("no_statistics")
        return [
            (Atom("start_time"), self._started),
            (Atom("current_time"), _now()),
            (Atom("reductions"), 0),
            (Atom("messages_in"), self._counts[IN]),
            (Atom("messages_out"), self._counts[OUT]),
        ]

    def options(self, name: Any) -> list[Any]:
        """Return what is on as sys.erl keeps it (`sys:dbg_opt/0`)."""
        options: list[Any] = []
        if self._trace:
            options.append((_TRACE, True))
        if self._log is not None:
            items = [(event, name, _PRINT_EVENT) for event in self.events()]
            room = (self._log.maxlen or 0) - len(items)
            options.append((_LOG, [room, *reversed(items)] if room else [[], *items]))
        if self._started is not None:
            counts = (self._counts[IN], self._counts[OUT])
            reductions = (Atom("reductions"), 0)
            options.append((_STATISTICS, (self._started, reductions, *counts)))
        return options


def _now() -> Any:
    """Return the local time as Erlang has it (`calendar:datetime/0`)."""
    now = time.localtime()
    return (now[:3], now[3:6])
