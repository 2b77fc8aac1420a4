"""Requests to processes elsewhere, and their answers: `gen_server:call/3` and `erpc:call/5`.

A request goes out together with a monitor, and the reference of that is the alias for the answer
(`gen.erl`, do_call). So exactly one of three things comes of it: the answer, the ``DOWN``, or the
patience of the caller ends; and an answer that comes after that finds nobody and is dropped.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pynode import gen
from pynode.destination import Destination
from pynode.errors import (
    CallTimeoutError,
    ExitError,
    NodeUnavailableError,
    PynodeError,
    RemoteError,
)
from pynode.inspection import format_banner, format_exit, format_mfa
from pynode.protocol import control as cm
from pynode.show import current_traceback, short
from pynode.terms import Atom, Fun, Pid, Reference
from pynode.values import encode, no_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from pynode.dist.connection import Connection
    from pynode.node import Node

log = logging.getLogger(__name__)

T = TypeVar("T")

_LINK, _MONITOR = Atom("link"), Atom("monitor")
_ERPC = (Atom("erpc"), Atom("execute_call"), 4)

#: Characters of a call with its arguments, in the message of an error.
_CALL_LENGTH = 200


class Request(Generic[T]):
    """A request that was sent (`gen_server:send_request/2`), and its answer to come.

    `result` waits for that; in a coroutine, ``await`` the request itself. Both return the answer
    or raise ExitError, as often as they are asked. A request that nobody waits for any more is to
    be given up: `abandon` does, and so does a `result` whose time is over.

    >>> requests = [node.erpc_request("app@127.0.0.1", "erlang", "abs", [-n]) for n in range(3)]
    >>> [request.result() for request in requests]
    [0, 1, 2]
    """

    def __init__(self, node: Node, reference: Reference, what: str) -> None:
        self._node = node
        self._reference = reference
        self._what = what
        self._lock = threading.Lock()
        self._inbox: SimpleQueue[None] = SimpleQueue()
        self._outcome: tuple[T | None, BaseException | None] | None = None
        self._callbacks: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<Request to {self._what}>"

    @property
    def done(self) -> bool:
        """Whether the answer is there, or never will be."""
        return self._outcome is not None

    def result(self, timeout: float | None = None) -> T:
        """Return the answer, which may take `timeout` seconds; None waits as long as it takes.

        Raises ExitError if there is none to come, and CallTimeoutError, which gives the request up.
        """
        if self._outcome is None:
            try:
                self._node.engine.wait(self._inbox, timeout)
            except Empty:
                self.expire(timeout or 0.0)
            finally:
                self.abandon()  # if the wait was interrupted
                self._inbox.put(None)  # for whoever else waits
        return self._get()

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # noqa: PLC0415 (nodes that have no coroutines start faster without)

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        def done() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(wake)

        self.add_done_callback(done)
        try:
            yield from future
        finally:
            self.abandon()  # if it was cancelled, or the loop is closed
        return self._get()

    def _get(self) -> T:
        value, error = self._outcome  # type: ignore[misc]
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Have `callback()` called when it is done, at once if it is: on any thread, quickly."""
        with self._lock:
            if self._outcome is None:
                self._callbacks.append(callback)
                return
        callback()

    def abandon(self) -> None:
        """Give the request up, if it is not done: an answer that comes later is dropped."""
        if self._outcome is None:
            message = f"The request to {self._what} was given up: send another one."
            self.settle(None, CallTimeoutError(message))

    def expire(self, timeout: float) -> None:
        """Give the request up, if it is not done, because `timeout` seconds are over."""
        message = f"{self._what} did not answer within {timeout:g} seconds"
        self.settle(None, CallTimeoutError(f"{message}: give it more with timeout=."))

    def settle(self, value: T | None, error: BaseException | None) -> None:
        """Note the answer, or what has come in its place; only the first counts."""
        with self._lock:
            if self._outcome is not None:
                return
            self._outcome = (value, error)
            callbacks, self._callbacks = self._callbacks, []
        self._node.signals.aliases.pop(self._reference, None)
        self._node.demonitor(self._reference)
        self._inbox.put(None)
        for callback in callbacks:
            try:
                callback()
            except BaseException:  # noqa: BLE001 (others wait, and this thread is needed)
                log.error("a callback of %r raised:\n%s", self, current_traceback())


def send_request(
    node: Node, connection: Connection, target: Pid | Atom, request: Any
) -> Request[Any]:
    """Send `request` to a GenServer of the node that `connection` leads to. Never blocks."""
    node.engine.check_nesting()
    reference, sender = node.new_reference(), node.self()
    what = shown(connection, target)
    # The alias in the tag makes the other side answer to this reference.
    payload = encode((gen.CALL, (sender, gen.tag_of(reference)), request))
    pending: Request[Any] = Request(node, reference, what)

    def answered(message: Any) -> None:
        match message:
            case (_, answer):
                pending.settle(answer, None)

    def down(reason: Any) -> None:
        text = f"{what} did not answer, it exited: {format_exit(reason)}"
        pending.settle(None, ExitError(text, reason=reason))

    node.signals.aliases[reference] = answered
    node.signals.monitor(connection, sender, target, reference, down)
    connection.send(message_to(sender, target), payload)
    return pending


def message_to(sender: Pid, target: Pid | Atom | Reference) -> cm.ControlMessage:
    """Return the control message that a message to a pid, a name or an alias goes with."""
    if isinstance(target, Reference):
        return cm.AliasSend(sender, target)
    return cm.SendSender(sender, target) if type(target) is Pid else cm.RegSend(sender, target)


def erpc(  # noqa: PLR0917 (as in Erlang)
    node: Node,
    connection: Connection,
    module: str,
    function: str,
    args: list[Any],
    default: Callable[[Any], Any] = no_objects,
) -> Request[Any]:
    """Begin to call a function on the node that `connection` leads to. Never blocks.

    `default` is the codec's, for what has no Erlang form.
    """
    node.engine.check_nesting()
    what = f"{module}:{function}/{len(args)} on {connection.peer}"
    result, reference, sender = node.new_reference(), node.new_reference(), node.self()
    mfa = (_module(module), Atom(function), args)
    payload = encode([result, *mfa], default)
    pending: Request[Any] = Request(node, reference, what)

    def down(reason: Any) -> None:
        match reason:
            case (tag, Atom("return"), value) if tag == result:
                pending.settle(value, None)
            case (tag, Atom("error" | "exit" | "throw") as kind, term, *stack) if tag == result:
                trace = stack[0] if stack else []
                banner = format_banner(kind, term, trace)
                text = f"{_applied(*mfa)} on {connection.peer} failed: {banner}"
                remote = RemoteError(text, error_class=kind, reason=term, stacktrace=trace)
                pending.settle(None, remote)
            case _:
                text = f"{what} failed: {format_exit(reason)}"
                pending.settle(None, ExitError(text, reason=reason))

    request = cm.SpawnRequest(reference, sender, sender, _ERPC, [_MONITOR])
    node.signals.spawn(connection, request, payload, on_down=down)
    return pending


def multicall(
    node: Node, peers: Sequence[str], mfa: tuple[str, str, list[Any]], timeout: float | None
) -> list[Any]:
    """Call a function on several nodes; see `Node.multicall`."""
    node.check_running()
    found: SimpleQueue[tuple[str, Connection | NodeUnavailableError]] = SimpleQueue()

    def find(peer: str) -> None:
        try:
            found.put((peer, node.ready(peer)))
        except NodeUnavailableError as error:
            found.put((peer, error))
        except Exception as error:  # noqa: BLE001 (who waits must hear of it, whatever it is)
            found.put((peer, NodeUnavailableError(f"{short(peer)}: {error}", node=peer)))

    different = set(peers)
    for peer in different:
        # In threads of their own: a host that does not answer must not hold up the others.
        node.engine.submit(functools.partial(find, peer))
    ways = dict(node.engine.wait(found, None) for _ in different)
    begun = [
        way if isinstance(way, NodeUnavailableError) else erpc(node, way, *mfa)
        for way in map(ways.__getitem__, peers)
    ]
    requests = [request for request in begun if isinstance(request, Request)]
    done: SimpleQueue[None] = SimpleQueue()
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        for request in requests:
            request.add_done_callback(functools.partial(done.put, None))
        for _ in requests:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            node.engine.wait(done, left)
    except Empty:
        for request in requests:
            request.expire(timeout or 0.0)
    finally:
        for request in requests:
            request.abandon()  # if the wait was interrupted
    return [_outcome(request) for request in begun]


def _outcome(request: Request[Any] | NodeUnavailableError) -> Any:
    """Return the answer, or what there is in its place."""
    if isinstance(request, NodeUnavailableError):
        return request
    try:
        return request.result()
    except PynodeError as error:
        return error


def spawn_at(
    node: Node,
    connection: Connection,
    module: str,
    function: str,
    args: list[Any],
    *,
    link: bool,
) -> Request[Pid]:
    """Begin to spawn a process elsewhere, for the one that this code runs in. Never blocks."""
    payload = encode(args)
    reference, sender = node.new_reference(), node.self()
    if link and isinstance(node.signals.find(sender), Callers):
        raise RuntimeError("There is no process here to link to: use `with node.process():`.")
    options = [_LINK] if link else []
    mfa = (_module(module), Atom(function), len(args))
    what = f"{module}:{function}/{len(args)} on {connection.peer}"
    pending: Request[Pid] = Request(node, node.new_reference(), what)

    def spawned(result: Pid | Atom, flags: int) -> None:
        if isinstance(result, Pid):
            if flags & cm.SPAWN_LINK:
                node.linked(connection, sender, result)
            pending.settle(result, None)
        else:
            text = f"{what} was not spawned: {format_exit(result)}"
            pending.settle(None, ExitError(text, reason=result))

    request = cm.SpawnRequest(reference, sender, sender, mfa, options)
    node.signals.spawn(connection, request, payload, on_down=None, on_spawned=spawned)
    return pending


def monitor(node: Node, connection: Connection, target: Pid | Atom) -> Request[Any]:
    """Monitor a process: the answer will be the reason of its ``DOWN``. Never blocks.

    To give it up is to remove the monitor.
    """
    reference = node.new_reference()
    pending: Request[Any] = Request(node, reference, shown(connection, target))

    def down(reason: Any) -> None:
        pending.settle(reason, None)

    node.signals.monitor(connection, node.self(), target, reference, down)
    return pending


class Callers(Destination):
    """Whoever calls from this node without being a process of it.

    Some of OTP's own servers answer to the pid instead of the alias (`net_kernel` for ``is_auth``,
    up to OTP 25 at least).
    """

    def deliver(self, _connection: Connection, payload: bytes) -> None:
        """See `Destination.deliver`."""
        self.node.is_answer(self.node.decode(payload))


class RemoteFun(Fun):
    """A function of another node: called like any other, it runs there and its value comes back.

    Waits as long as it takes. Raises NodeUnavailableError and ExitError as `Node.erpc` does.
    """

    _here: Node

    @classmethod
    def bind(cls, fun: Fun, node: Node) -> Self:
        """Return `fun` as something that can be called from `node`."""
        bound = cls(**vars(fun))
        object.__setattr__(bound, "_here", node)
        return bound

    def __call__(self, *args: Any) -> Any:
        """Call the function with `args`."""
        return self.apply(args, no_objects)

    def apply(self, args: tuple[Any, ...], default: Callable[[Any], Any]) -> Any:
        """Call the function; `default` is the codec's, for what has no Erlang form."""
        with self._here.engine.shield():
            connection = self._here.ready(self.pid.node)
            call = ("erlang", "apply", [self, list(args)])
            return erpc(self._here, connection, *call, default).result()


def _module(name: str) -> Atom:
    """Return the atom for a module: Elixir's may be given as Elixir writes them."""
    return Atom(f"Elixir.{name}" if name[:1].isupper() and not name.startswith("Elixir.") else name)


def shown(connection: Connection, target: Pid | Atom) -> str:
    """Return an address for people."""
    return str(target) if isinstance(target, Pid) else f"{target} on {connection.peer}"


def _applied(module: Atom, function: Atom, args: list[Any]) -> str:
    """Return a call as Elixir shows it, without its arguments if they are long."""
    for arity in (args, len(args)):
        text = format_mfa(module, function, arity)
        if text is not None and len(text) <= _CALL_LENGTH:
            return text
    return f"{module}:{function}/{len(args)}"
