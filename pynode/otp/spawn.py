"""Requests of other nodes to spawn a process here: `erlang:spawn_request/5`, `erpc`, `rpc`.

What OTP's own libraries ask for (`erpc.erl`, `proc_lib.erl`) wraps the function that is meant:
each of these wrappers is in `_WRAPPERS`. How a function is found says `pynode.otp.apply`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pynode.errors import DecodeError, EncodeError
from pynode.otp.apply import RefusedError, apply, outcome
from pynode.process import Spawned
from pynode.protocol import control as cm
from pynode.terms import Atom, ExternalFun, Reference
from pynode.values import UNREPRESENTABLE, to_term

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.dist.connection import Connection
    from pynode.dist.task import Task
    from pynode.node import Node

log = logging.getLogger(__name__)

_RETURN, _ERROR = Atom("return"), Atom("error")
_BADARG, _NOTSUP, _BADOPT = Atom("badarg"), Atom("notsup"), Atom("badopt")
_SYSTEM_LIMIT = Atom("system_limit")


class Applied(Spawned):
    """The process of a function that somebody elsewhere has named (`erlang:spawn/4`)."""

    def __init__(self, node: Node, module: Any, function: Any, args: Any) -> None:
        super().__init__(apply, (node, module, function, args))

    def initial_call(self) -> tuple[Any, Any, int]:
        """See `Spawned.initial_call`."""
        _, module, function, args = self._call.args
        return module, function, len(args) if type(args) is list else 0

    def raised(self, error: BaseException) -> Any:
        """See `Spawned.raised`."""
        if type(error) is RefusedError:
            log.warning("%s", error)
            return (error.reason, error.stack)
        return super().raised(error)


class Called(Applied):
    """The process of a call, whose outcome is somebody's answer: nobody but them hears of it."""

    @staticmethod
    def default(value: Any) -> Any:
        """Return the Erlang form of a value that the codec does not know. Raises EncodeError."""
        term = to_term(value)
        if term is UNREPRESENTABLE:
            raise EncodeError(
                f"The result has in it a {type(value).__name__}, which has no Erlang form: call "
                "the function through {:snakebridge, node}, which answers with a ref to the object."
            )
        return term


class ErpcCall(Called):
    """The process of an `erpc:call/4`: its exit reason is the answer (`erpc:execute_call/4`)."""

    def __init__(
        self, node: Node, result: Reference, module: Any, function: Any, args: Any
    ) -> None:
        super().__init__(node, module, function, args)
        self._result = result

    def returned(self, value: Any) -> Any:
        """See `Spawned.returned`."""
        return (self._result, _RETURN, value)

    def raised(self, error: BaseException) -> Any:
        """See `Spawned.raised`."""
        kind, reason, stack = outcome(error, *self.initial_call())
        if kind == _ERROR:
            return (self._result, kind, reason, stack)
        return (self._result, kind, reason)


def _fun(node: Node, fun: Any, args: Any) -> Spawned | None:
    """``erlang:apply/2``, which a spawn of a fun is: here it must be one of a module."""
    if isinstance(fun, ExternalFun):
        return Applied(node, Atom("erlang"), Atom("apply"), [fun, args])
    return None


_WRAPPERS: dict[tuple[str, str, int], Callable[..., Spawned | None]] = {
    ("erlang", "apply", 2): _fun,
    ("erlang", "apply", 3): Applied,
    ("erpc", "execute_call", 4): ErpcCall,
    ("erpc", "execute_cast", 3): Applied,
    ("proc_lib", "init_p", 3): lambda node, _parent, _ancestors, fun: _fun(node, fun, []),
    ("proc_lib", "init_p", 5): lambda node, _parent, _ancestors, *mfa: Applied(node, *mfa),
}


def spawn_for(
    node: Node, connection: Connection, request: cm.SpawnRequest, payload: bytes
) -> Task | None:
    """Do what a request to spawn asks for, and answer it; return the task that is the process."""
    try:
        process, flags = _process(node, request, node.decode(payload))
    except DecodeError as error:
        # Such as one that is nested too deeply: who has sent it is known all the same.
        log.error("a request of %s to spawn was refused: %s", connection.peer, error)
        process, flags = _SYSTEM_LIMIT, 0
    if isinstance(process, Atom):
        reply = cm.SpawnReply(request.req_id, request.from_pid, 0, process)
        connection.post(connection.encode(reply))
        return None
    process.group_leader = request.group_leader
    node.attach(process)
    if flags & cm.SPAWN_LINK:
        process.linked(connection, request.from_pid)
    if flags & cm.SPAWN_MONITOR:
        monitor = cm.MonitorP(request.from_pid, process.pid, request.req_id)
        connection.monitors[request.req_id] = (request.from_pid, process)
        process.monitored(connection, monitor)
    # It goes out ahead of all that the process sends.
    reply = cm.SpawnReply(request.req_id, request.from_pid, flags, process.pid)
    connection.post(connection.encode(reply))
    return process.started_by(connection)


def _process(node: Node, request: cm.SpawnRequest, args: Any) -> tuple[Spawned | Atom, int]:
    """Return the process that is asked for, or the reason why not; and the flags of the reply."""
    module, function, arity = request.mfa
    flags = 0
    for option in request.opts:
        # The others are about memory, priority and scheduling.
        match option:
            case Atom("link"):
                flags |= cm.SPAWN_LINK
            case Atom("monitor") | (Atom("monitor"), _):
                flags |= cm.SPAWN_MONITOR
            case Atom() | (Atom(), _):
                pass
            case _:
                return _BADOPT, 0
    if type(args) is not list or len(args) != arity:
        return _BADARG, 0
    wrapper = _WRAPPERS.get((str(module), str(function), arity))
    if wrapper is None:
        return Applied(node, module, function, args), flags
    return wrapper(node, *args) or _NOTSUP, flags
