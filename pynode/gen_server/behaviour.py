"""The class that the user's servers are made of: their handlers, and what those may call."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from pynode import etf
from pynode.gen_server.server import Server
from pynode.gen_server.showing import as_text, showable_part
from pynode.process import NORMAL
from pynode.show import short
from pynode.terms import Atom, Pid, Reference, exact
from pynode.values import encode

if TYPE_CHECKING:
    from pynode.gen_server.outcomes import From
    from pynode.node import Address, Node

log = logging.getLogger(__name__)


class GenServer:
    """A server that is called from anywhere in the cluster; see `gen_server` in OTP.

    Write a class with the handlers that it needs, make an object, and `Node.add` it::

        class Counter(GenServer):
            def __init__(self, value=0):
                self.value = value

            def handle_call(self, request, from_):
                match request:
                    case ("add", int(number)):
                        self.value += number
                        return self.value
                    case "stop":
                        return Stop(reply=self.value)

            def handle_cast(self, request):
                self.value = 0

        with Node("py@127.0.0.1") as node:
            node.add(Counter(5), name="counter")

    In Elixir, ``GenServer.call({:counter, :"py@127.0.0.1"}, {:add, 2})`` is 7, and
    ``:sys.get_state({:counter, :"py@127.0.0.1"})`` is ``%{value: 7}``.

    Handlers run one at a time, on threads of the node, and may block: that delays nobody but this
    server. Any of them may be ``async def``: it is awaited on the node's event loop, and the next
    message is handled when it is done. Inside, `current_process` is the server.

    An exception in a handler ends the server, and whoever waits for its reply exits with that: see
    `terminate`. The same goes for a reply that has no Erlang form.
    """

    @functools.cached_property
    def _pynode_server(self) -> Server:
        """The process, which is there from the beginning; in ``__dict__`` it is out of the way."""
        return Server(self)

    # --- what the user writes

    def init(self) -> Any:
        """Begin, as the process: there is a `pid` now, and messages can be sent.

        May return `NoReply`. What it raises, `Node.add` raises, and there is no server then. See
        `gen_server`, Module:init/1.
        """

    def handle_call(self, request: Any, from_: From) -> Any:
        """Handle a call: return the reply.

        Or return `Reply`; or `NoReply`, and `reply` to `from_` later; or `Stop`. See `gen_server`,
        Module:handle_call/3.
        """
        raise NotImplementedError(
            f"{type(self).__name__} was called with {short(request)}: define its handle_call."
        )

    def handle_cast(self, request: Any) -> Any:
        """Handle a cast. Returns None, `NoReply` or `Stop`.

        See `gen_server`, Module:handle_cast/2.
        """
        raise NotImplementedError(
            f"{type(self).__name__} was cast {short(request)}: define its handle_cast."
        )

    def handle_info(self, message: Any) -> Any:
        """Handle any other message. Returns None, `NoReply` or `Stop`.

        Such as ``{'DOWN', ...}`` of a `monitor`, ``{'EXIT', Pid, Reason}`` with `trap_exit`,
        ``{nodeup, Node}`` after `monitor_nodes`, and ``Atom("timeout")``. By default it is logged.
        See `gen_server`, Module:handle_info/2.
        """
        log.warning("%r has no handle_info for %s", self._pynode_server, short(message))

    def handle_continue(self, argument: Any) -> Any:
        """Go on with what a handler has asked for. Returns None, `NoReply` or `Stop`."""
        raise NotImplementedError(
            f"{type(self).__name__} is to continue with {short(argument)}: "
            "define its handle_continue."
        )

    def terminate(self, reason: Any) -> Any:
        """Clean up: the server is about to exit with `reason`.

        Called after a `Stop`, an exception, `stop`, `gen_server:stop/1`, and at the end of the
        node, but not after an exit signal. An exception from here is the reason instead.
        """

    def get_state(self) -> Any:
        """Return what `sys:get_state/1` shows: the public attributes, as a map with atom keys.

        What has no Erlang form in what this returns is shown as text.
        """
        return {Atom(name): value for name, value in vars(self).items() if _is_public(name)}

    def replace_state(self, state: Any) -> Any:
        """Take a state that `sys:replace_state/2` has made of that which `get_state` has returned.

        Those attributes are set whose value has changed; the others stay the objects they are.
        """
        if type(state) is not dict or not all(_is_public(name) for name in state):
            raise ValueError(
                f"{short(state)} is no state of {type(self).__name__}: return a map with the names "
                "of attributes as its keys."
            )
        before = self.get_state()
        for name, value in state.items():
            if name not in before or _as_sent(value) != _as_sent(showable_part(before[name])):
                setattr(self, str(name), value)

    def format_status(self) -> Any:
        """Return what `sys:get_status/1` and the log show as the state: by default, `get_state`.

        See `gen_server`, Module:format_status/1.
        """
        return self.get_state()

    # --- what the user calls

    def reply(self, from_: From, value: Any) -> None:
        """Reply to a call for which `handle_call` has returned `NoReply` (`gen_server:reply/2`).

        On any thread. Nothing happens if the caller is gone, or does not wait any more. Raises
        EncodeError.
        """
        self._started.reply(from_, encode((from_.tag, value)))

    def stop(self, reason: Any = NORMAL, *, timeout: float | None = None) -> None:
        """End the server from outside of it, and wait until it has ended (`gen_server:stop/3`).

        What came before is handled first. Raises CallTimeoutError after `timeout` seconds, and
        ExitError if it exits with another reason.
        """
        self._started.stop(reason, timeout)

    @property
    def node(self) -> Node:
        """The node that it was added to."""
        return self._started.node

    @property
    def pid(self) -> Pid:
        """Its pid."""
        return self._started.pid

    @property
    def trap_exit(self) -> bool:
        """Whether exit signals become messages ``{'EXIT', Pid, Reason}``; False by default."""
        return self._pynode_server.trap_exit

    @trap_exit.setter
    def trap_exit(self, flag: bool) -> None:
        self._pynode_server.trap_exit = flag

    def monitor(self, to: Address) -> Reference:
        """Have a message ``{'DOWN', ...}`` sent to it when a process ends: `Process.monitor`."""
        return self._started.monitor(to)

    def demonitor(self, reference: Reference) -> bool:
        """Remove a monitor, and its message if that was not handled yet: `Process.demonitor`."""
        return self._started.demonitor(reference)

    def link(self, other: Pid) -> None:
        """Link it to a process: `Process.link`."""
        self._started.link(other)

    def unlink(self, other: Pid) -> None:
        """Remove a link: `Process.unlink`."""
        self._started.unlink(other)

    def monitor_nodes(self, flag: bool = True) -> None:  # noqa: FBT001, FBT002 (as in Erlang)
        """Have messages ``{nodeup, Node}`` and ``{nodedown, Node}`` sent to it, or not."""
        self._started.monitor_nodes(flag)

    @property
    def _started(self) -> Server:
        server = self._pynode_server
        if not hasattr(server, "pid"):
            raise RuntimeError(
                f"{type(self).__name__} has not been started: Node.add does that, and its init() "
                "is the place for what needs a pid."
            )
        return server

    def __repr__(self) -> str:
        return repr(self._pynode_server)


def _is_public(name: Any) -> bool:
    return isinstance(name, str) and name != "" and name[0] != "_"


def _as_sent(value: Any) -> Any:
    """Return what can be compared with how another value was sent to Erlang, or came from there."""
    return exact(etf.decode_at(encode(value, as_text), 0)[0])


def process_of(server: GenServer) -> Server:
    """Return the process of a server."""
    return server._pynode_server
