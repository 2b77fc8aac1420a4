"""System messages: what the functions of `sys` ask of a server, and what they get.

The request of a message ``{system, From, Request}`` is answered as do_cmd in sys.erl does. The
shapes are those that a BEAM's own `gen_server` has, so that `sys`, `observer` and Elixir's ``:sys``
show a server of this node like one of theirs.

Some requests are refused, with the answer that `sys` has for it: there are no debug functions
(`sys:install/2`), since a BEAM's funs do not run here; nothing is written to files of this machine
(`sys:log_to_file/2`); and Python code is not changed while it runs (`sys:change_code/4`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pynode.calls import RemoteFun, erpc
from pynode.errors import CallInterrupted
from pynode.exits import class_and_reason
from pynode.gen_server.showing import as_text, showable
from pynode.inspection import inspect
from pynode.terms import Atom, ExternalFun, Pid

if TYPE_CHECKING:
    from pynode.gen_server.server import Server
    from pynode.node import Node

OK, ERROR = Atom("ok"), Atom("error")
_GEN_SERVER = Atom("gen_server")
_SUSPENDED = Atom("suspended")
_DATA = Atom("data")

#: The stdlib of OTP 26.1.
_OK_STATE: Final = [5, 1]
#: Seconds that a node has to tell its own.
_PATIENCE: Final = 1.0


def answer_to(server: Server, caller: Pid, request: Any) -> Any:
    """Return the answer to a request that does not change what the server is doing.

    It can be encoded with `as_text`.
    """
    match request:
        case Atom("get_state"):
            return _for_sys_of(caller, server, get_state(server))
        case (Atom("replace_state"), fun):
            return _for_sys_of(caller, server, _replace_state(server, fun, caller))
        case Atom("get_status"):
            return _get_status(server)
        case (Atom("debug"), what):
            return server.debug.command(what)
        case (Atom("change_code"), _, version, extra) if server.phase == _SUSPENDED:
            call: Any = (server.callback_module, Atom("code_change"), [version, extra], [])
            return (ERROR, (Atom("EXIT"), (Atom("undef"), [call])))
    return (ERROR, (Atom("unknown_system_msg"), request))


def get_state(server: Server) -> Any:
    """Return ``{ok, State}`` for a server, or ``{error, Reason}``."""
    try:
        return OK, showable(server.call(server.module.get_state))
    except CallInterrupted:
        raise
    except BaseException as error:  # noqa: BLE001
        return _failed("system_get_state", error)


def _replace_state(server: Server, fun: Any, caller: Pid) -> Any:
    module = server.module
    try:
        state = showable(server.call(module.get_state))
        state = server.call(_applied, server, fun, caller, state)
        server.call(module.replace_state, state)
        return OK, showable(server.call(module.get_state))
    except CallInterrupted:
        raise
    except BaseException as error:  # noqa: BLE001
        return _failed("system_replace_state", error)


def _applied(server: Server, fun: Any, caller: Pid, state: Any) -> Any:
    """Return what a fun makes of a state; it runs on the caller's node."""
    if isinstance(fun, RemoteFun):
        return fun.apply((state,), as_text)
    if not isinstance(fun, ExternalFun):
        raise TypeError(f"{inspect(fun)} is not a function of one argument.")
    # It would be looked up here in Erlang. But whoever sends it means the module that is there.
    connection = server.node.ready(caller.node)
    return erpc(server.node, connection, fun.module, fun.function, [state], as_text).result()


def _failed(function: str, error: BaseException) -> Any:
    error_class, reason, _ = class_and_reason(error)
    where = (_GEN_SERVER, Atom(function))
    return (ERROR, (Atom("callback_failed"), where, (error_class, reason)))


def _for_sys_of(caller: Pid, server: Server, answer: Any) -> Any:
    """Return the answer ``{ok, State}`` as `sys` of the caller's node takes it.

    Before OTP 26.1 that is ``State`` alone.
    """
    if answer[0] == OK and server.call(_stdlib, server.node, caller.node) < _OK_STATE:
        return answer[1]
    return answer


def _stdlib(node: Node, peer: str) -> list[int]:
    """Return the version of stdlib that a node has; a late one for what is no BEAM."""
    arguments = [Atom("stdlib"), Atom("vsn")]
    try:
        _, version = node.erpc(peer, "application", "get_key", arguments, timeout=_PATIENCE)
        return [int(number) for number in bytes(version).split(b".")]
    except Exception:  # noqa: BLE001
        return _OK_STATE


def _get_status(server: Server) -> Any:
    """Return what `sys:get_status/1` does; see format_status in gen_server.erl."""
    try:
        state = showable(server.call(server.module.format_status))
    except CallInterrupted:
        raise
    except BaseException:  # noqa: BLE001
        state = _chars(f"{server.callback_module}:format_status/1 crashed")
    overview = [
        (_chars("Status"), server.phase),
        (_chars("Parent"), server.pid),
        (_chars("Logged events"), server.debug.events()),
    ]
    misc = [
        (Atom("header"), _chars(f"Status for generic server {server.name_or_pid}")),
        (_DATA, overview),
        (_DATA, [(_chars("State"), state)]),
    ]
    options = server.debug.options(server.name_or_pid)
    items = [server.dictionary(), server.phase, server.pid, options, misc]
    return (Atom("status"), server.pid, (Atom("module"), _GEN_SERVER), items)


def _chars(text: str) -> list[int]:
    """Return the charlist that OTP has in this place."""
    return [ord(char) for char in text]
