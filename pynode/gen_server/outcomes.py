"""What the handlers of a GenServer get and return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pynode.terms import Atom, Pid
from pynode.values import to_term

_NORMAL = Atom("normal")

#: Seconds that a timeout may have, as in Erlang: 49 days.
_LONGEST: Final = 4_294_967.295
#: Stands for an argument that was not given.
NOTHING: Final[Any] = object()


class From(NamedTuple):
    """Who has called: what `GenServer.reply` needs, and what `handle_call` gets as `from_`.

    It can be kept, compared, used as a key, and sent: it is the same as in Erlang.
    """

    pid: Pid
    tag: Any


to_term.register(From, tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoReply:
    """What a handler returns to go on without a reply (``{noreply, State, ...}``).

    After `timeout` seconds without a message `handle_info` gets ``Atom("timeout")``; with
    `continue_`, `handle_continue` is called with it before the next message is handled. Not both.
    """

    timeout: float | None = None
    continue_: Any = NOTHING

    def __post_init__(self) -> None:
        if self.timeout is None:
            return
        if self.continue_ is not NOTHING:
            raise ValueError("Give either timeout or continue_: what continues sets a timeout.")
        if not 0 <= self.timeout <= _LONGEST:
            raise ValueError(f"A timeout has 0 to {_LONGEST} seconds, or is None for none.")


@dataclass(frozen=True, slots=True)
class Reply(NoReply):
    """What `handle_call` returns to reply with `value`, and to say what comes then.

    See `NoReply` for `timeout` and `continue_`. Without one of them, return the value itself.
    """

    value: Any


class Stop(Exception):  # noqa: N818 (as StopIteration, it is no error)
    """What a handler returns, or raises, to end its server: `terminate` is called, and it exits.

    A `reply` goes to who has called. Reasons other than ``normal``, ``shutdown`` and
    ``{shutdown, Term}`` are errors, which are logged. See ``{stop, Reason, ...}`` in `gen_server`.
    """

    def __init__(self, reason: Any = _NORMAL, *, reply: Any = NOTHING) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Crash:
    """That a handler has raised, as its outcome."""

    error: BaseException
