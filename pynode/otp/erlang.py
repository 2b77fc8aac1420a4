"""Erlang's own functions, as far as tools and other nodes ask for them by ``rpc`` and ``erpc``.

`FUNCTIONS` has them all. What is true here as in Erlang is answered; what would be made up
(`erlang:memory/0`) is not there, as if its module were not loaded; and what nobody but the
owner of this node may do fails with ``notsup``. They fail by raising ErlangError.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pynode._version import __version__
from pynode.errors import ErlangError, PynodeError
from pynode.otp.global_names.conflicts import resolve_conflict
from pynode.otp.process_info import process_info
from pynode.process import Process
from pynode.protocol.flags import DFlag
from pynode.terms import Atom, Pid, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.destination import Destination
    from pynode.node import Node
    from pynode.otp.global_names import GlobalNameServer

BADARG = Atom("badarg")
_NOTSUP = Atom("notsup")
_UNDEFINED = Atom("undefined")
_VISIBLE = Atom("visible")
#: The atoms that a decoded term does not hold as atoms.
_OTHER_ATOMS: Final = {None: "nil", True: "true", False: "false"}


def atom_name(value: Any) -> str | None:
    """Return the name of an atom that came in a term; None for anything else."""
    if type(value) is Atom:
        return str(value)
    return _OTHER_ATOMS[value] if value is None or type(value) is bool else None


def _badarg(advice: str) -> ErlangError:
    return ErlangError(advice, reason=BADARG)


def _refuse(advice: str) -> Callable[..., Any]:
    def refuse(_node: Node, *_args: Any) -> Any:
        raise ErlangError(advice, reason=_NOTSUP)

    return refuse


# --- processes


def _own(node: Node, pid: Any) -> Destination | None:
    """Return the process of this node that has `pid`, None if it is dead; raises ``badarg``."""
    if type(pid) is not Pid or pid.node != node.name:
        raise _badarg("give a pid of this node.")
    return node.signals.find(pid)


def _name(value: Any) -> str:
    name = atom_name(value)
    if name is None:
        raise _badarg("give a name, which is an atom.")
    return name


def _process_info(node: Node, pid: Any, *items: Any) -> Any:
    process = _own(node, pid)
    if process is None:
        return _UNDEFINED
    try:
        return process_info(process, *items)
    except KeyError:
        raise _badarg("give one item that there is, or a list of such items.") from None


def _is_process_alive(node: Node, pid: Any) -> bool:
    return _own(node, pid) is not None


def _whereis(node: Node, name: Any) -> Pid | Atom:
    return node.whereis(_name(name)) or _UNDEFINED


def _registered(node: Node) -> list[Atom]:
    return [Atom(name) for name in list(node.signals.names)]


def _processes(node: Node) -> list[Pid]:
    return list(node.signals.destinations)


def _register(node: Node, name: Any, pid: Any) -> bool:
    process = _own(node, pid)
    if process is None or name == _UNDEFINED:
        raise _badarg("give another name, and a process that is alive.")
    try:
        node.register(_name(name), process)
    except ValueError as error:
        raise _badarg(str(error)) from None
    return True


def _unregister(node: Node, name: Any) -> bool:
    destination = node.signals.names.get(_name(name))
    if destination is not None and not isinstance(destination, Process):
        raise ErlangError(
            "this is a service of the node itself, which keeps its name.", reason=_NOTSUP
        )
    try:
        node.unregister(_name(name))
    except ValueError as error:
        raise _badarg(str(error)) from None
    return True


def _exit(node: Node, pid: Any, reason: Any) -> bool:
    if type(pid) is not Pid:
        raise _badarg("give a pid.")
    with suppress(PynodeError):  # To no node that is up: nothing happens, as in Erlang.
        node.exit(pid, reason)
    return True


def _send(node: Node, to: Any, message: Any) -> Any:
    name = atom_name(to)
    if name is not None:
        if name not in node.signals.names:
            raise _badarg(f"nothing is registered as {name} on this node.")
        to = name
    elif type(to) is tuple and len(to) == 2:
        to = (_name(to[0]), _name(to[1]))
    elif type(to) not in (Pid, Reference):
        raise _badarg("give a pid, an alias, a name or {Name, Node}.")
    with suppress(PynodeError):
        node.send(to, message)
    return message


# --- the node


def _nodes(node: Node, kinds: Any = _VISIBLE) -> list[Atom]:
    wanted = kinds if type(kinds) is list else [kinds]
    found = []
    for kind in wanted:
        match kind:
            case Atom("this"):
                found.append(node.name)
            case Atom("visible" | "hidden"):
                found += _connected(node, published=kind == _VISIBLE)
            case Atom("connected"):
                found += node.nodes()
            case Atom("known"):
                found += [node.name, *node.nodes()]
            case _:
                raise _badarg("give visible, hidden, connected, this, known or a list of these.")
    return list(dict.fromkeys(found))


def _connected(node: Node, *, published: bool) -> list[Atom]:
    connections = [(name, node.connection(name)) for name in node.nodes()]
    return [
        name
        for name, connection in connections
        if connection is not None and bool(connection.flags & DFlag.PUBLISHED) == published
    ]


def _system_info(node: Node, item: Any) -> Any:
    match item:
        case Atom("creation"):
            return node.creation
        case Atom("logical_processors" | "logical_processors_online"):
            return os.cpu_count() or Atom("unknown")
        case Atom("machine"):
            return _text(platform.python_implementation())
        case Atom("process_count"):
            return len(node.signals.destinations)
        case Atom("system_version"):
            python = f"{platform.python_implementation()} {platform.python_version()}"
            return _text(f"{python} [pynode {__version__}]\n")
        case Atom("wordsize"):
            return 8 if platform.architecture()[0] == "64bit" else 4
    # Above all otp_release and version: whoever asks for these goes on to use what they promise.
    raise _badarg("this node has no such item.")


def _text(value: str) -> list[int]:
    return list(map(ord, value))


def _ping(node: Node, peer: Any) -> Atom:
    try:
        return Atom("pong" if node.ping(_name(peer)) else "pang")
    except PynodeError:
        return Atom("pang")


def _connect_node(node: Node, peer: Any) -> bool:
    try:
        node.connect(_name(peer))
    except PynodeError:
        return False
    return True


# --- global names


def _global_names(node: Node) -> GlobalNameServer:
    if node.global_names is None:
        raise ErlangError("this node is hidden, and has no global names.", reason=_NOTSUP)
    return node.global_names


def _registered_names(node: Node) -> list[Any]:
    return [entry.name for entry in _global_names(node).tables.names()]


def _whereis_name(node: Node, name: Any) -> Pid | Atom:
    found = _global_names(node).tables.find(name)
    return _UNDEFINED if found is None else found.pid


_STARTED = Atom("started")
_KEPT = "only who has started this node may stop it, so stop it there."
_SECRET = "the cookie is what this node trusts others by."  # noqa: S105 (no secret itself)

#: Erlang's own functions, by module, name and arity. They take the node and their arguments.
FUNCTIONS: dict[tuple[str, str, int], Callable[..., Any]] = {
    ("erlang", "!", 2): _send,
    ("erlang", "exit", 2): _exit,
    ("erlang", "function_exported", 3): lambda *_: False,
    ("erlang", "garbage_collect", 1): _is_process_alive,
    ("erlang", "get_cookie", 0): _refuse(_SECRET),
    ("erlang", "get_cookie", 1): _refuse(_SECRET),
    ("erlang", "halt", 0): _refuse(_KEPT),
    ("erlang", "halt", 1): _refuse(_KEPT),
    ("erlang", "halt", 2): _refuse(_KEPT),
    ("erlang", "is_process_alive", 1): _is_process_alive,
    ("erlang", "node", 0): lambda node: node.name,
    ("erlang", "nodes", 0): _nodes,
    ("erlang", "nodes", 1): _nodes,
    ("erlang", "process_info", 1): _process_info,
    ("erlang", "process_info", 2): _process_info,
    ("erlang", "processes", 0): _processes,
    ("erlang", "register", 2): _register,
    ("erlang", "registered", 0): _registered,
    ("erlang", "self", 0): lambda node: node.self(),
    ("erlang", "send", 2): _send,
    ("erlang", "set_cookie", 1): _refuse(_SECRET),
    ("erlang", "set_cookie", 2): _refuse(_SECRET),
    ("erlang", "system_info", 1): _system_info,
    ("erlang", "unregister", 1): _unregister,
    ("erlang", "whereis", 1): _whereis,
    # What runs here are no applications of OTP's.
    ("application", "which_applications", 0): lambda _: [],
    ("code", "ensure_loaded", 1): lambda *_: (Atom("error"), Atom("nofile")),
    ("code", "is_loaded", 1): lambda *_: False,
    ("code", "which", 1): lambda *_: Atom("non_existing"),
    ("global", "registered_names", 0): _registered_names,
    ("global", "resolve_it", 4): resolve_conflict,
    ("global", "whereis_name", 1): _whereis_name,
    ("init", "get_status", 0): lambda _: (_STARTED, _STARTED),
    ("init", "reboot", 0): _refuse(_KEPT),
    ("init", "restart", 0): _refuse(_KEPT),
    ("init", "stop", 0): _refuse(_KEPT),
    ("init", "stop", 1): _refuse(_KEPT),
    ("net_adm", "ping", 1): _ping,
    ("net_kernel", "connect_node", 1): _connect_node,
    ("Elixir.Node", "list", 0): _nodes,
    ("Elixir.Node", "self", 0): lambda node: node.name,
    ("Elixir.Process", "alive?", 1): _is_process_alive,
}
