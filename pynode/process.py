"""Processes: what has a pid, a mailbox, links and monitors, and exits.

Theory of operation. A process is alive until `Process.exit_with` is called for it, once, by
whoever ends it: its own code, an exit signal, the end of its node. In that moment it loses its
name and its pid, everything that is linked to it or monitors it is told, and what it monitors
itself is let go. Whatever of its code still runs then is interrupted at its next instruction, but
that is nobody's business any more.

A process is code that runs somewhere: in a thread of the user's (`Node.process`), as a function
(`Node.spawn`, or ``Node.spawn/4`` in Elixir: `Spawned`), or as a `GenServer`. Only the first two
have a mailbox to `receive` from.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from contextlib import suppress
from contextvars import ContextVar, Token
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from pynode.destination import Destination, node_of
from pynode.dist.task import Task
from pynode.errors import ExitError, ReceiveTimeoutError
from pynode.exits import exit_reason
from pynode.mailbox import NOTHING, Mailbox, Search
from pynode.protocol import control as cm
from pynode.show import short
from pynode.signals import post_down, post_exit
from pynode.terms import Atom, Pid, Reference
from pynode.values import encode, no_objects

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.dist.connection import Connection
    from pynode.node import Address

log = logging.getLogger(__name__)

NORMAL = Atom("normal")
KILL = Atom("kill")
KILLED = Atom("killed")
DOWN = Atom("DOWN")
EXIT = Atom("EXIT")
_PROCESS = Atom("process")
_NODEUP, _NODEDOWN = Atom("nodeup"), Atom("nodedown")

_current: ContextVar[Process | None] = ContextVar("pynode_process", default=None)


def current_process() -> Process | None:
    """Return the process that this code runs in (`erlang:self/0`), None if it runs in none."""
    return _current.get()


def is_atom(value: Any, atom: Atom) -> bool:
    """Whether `value` is `atom`, and not just a binary of the same letters."""
    return type(value) is Atom and value == atom


def _encoded(reason: Any) -> tuple[Any, bytes]:
    """Return an exit reason and its encoding; of one that has none, the error that tells so."""
    try:
        return reason, encode(reason)
    except Exception as error:  # noqa: BLE001 (a user's converter may raise anything)
        reason = exit_reason(error)
        return reason, encode(reason)


class Process(Destination):
    """A process of this node; `Node.process` makes one. Also a context manager.

    Inside ``with``, the code of this thread is the process: `current_process` returns it, and what
    is sent or called from there comes from its pid. It exits at the end, with the reason
    ``normal``, or the exception that came that far.

    With `trap_exit` set, exit signals are messages ``{'EXIT', Pid, Reason}``; see `erlang:exit/2`
    and `process_flag/2`.

    >>> with node.process(name="inbox") as process:
    ...     node.send("inbox", "hello")
    ...     process.receive()
    'hello'
    """

    def __init__(self) -> None:
        #: Whether exit signals become messages.
        self.trap_exit = False
        self._alive = True
        self._exit_reason: Any = None
        self._lock = threading.RLock()  # a destructor in between may send as well
        #: Who monitors it: the connection, who, and what it called us, by the reference.
        self._watchers: dict[Reference, tuple[Connection, Pid, Pid | Atom]] = {}
        #: Who it is linked to: the connection, and 0 or the id of an unlink under way.
        self._links: dict[Pid, tuple[Connection, int]] = {}
        self._unlink_ids = itertools.count(1)
        self._monitors: set[Reference] = set()
        self.mailbox = Mailbox()
        self._tokens: list[Token[Process | None]] = []

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<{type(self).__name__}{name} {getattr(self, 'pid', 'not started')}>"

    def __enter__(self) -> Self:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        _current.reset(self._tokens.pop())
        self.exit(NORMAL if error is None else exit_reason(error))

    # --- life

    @property
    def alive(self) -> bool:
        """Whether it has not exited yet."""
        return self._alive

    @property
    def exit_reason(self) -> Any:
        """What it exited with; None while it is alive."""
        return self._exit_reason

    def exit(self, reason: Any = NORMAL) -> None:
        """End this process; links and monitors get `reason`. Nothing happens if it has exited."""
        self.exit_with(*_encoded(reason))

    def exit_with(
        self, reason: Any, payload: bytes, *, unflushed: Connection | None = None
    ) -> bool:
        """End this process with a reason that is encoded already; False if it has exited.

        The connection `unflushed` is left to be flushed by the caller.
        """
        with self._lock:
            if not self._alive:
                return False
            self._alive, self._exit_reason = False, reason
            watchers, self._watchers = self._watchers, {}
            links, self._links = self._links, {}
            monitors, self._monitors = self._monitors, set()
        self.node.remove(self)
        connections = set()
        for reference, (connection, watcher, target) in watchers.items():
            connection.monitors.pop(reference, None)
            post_down(connection, target, watcher, reference, payload)
            connections.add(connection)
        for other, (connection, unlink_id) in links.items():
            connection.links.discard((self, other))
            if not unlink_id:
                post_exit(connection, self.pid, other, payload, link=True)
                connections.add(connection)
        for reference in monitors:
            self.node.demonitor(reference)
        for connection in connections:
            if connection is not unflushed:
                connection.flush()
        self.exited(reason)
        return True

    def exited(self, reason: Any) -> None:  # noqa: ARG002
        """The process has exited: stop its code. May be called by any thread, and never blocks."""
        self.mailbox.wake()

    def stopped(self) -> None:
        """See `Destination.stopped`."""
        self.exit(Atom("shutdown"))

    def info(self) -> dict[str, Any]:
        """See `Destination.info`."""
        with self._lock:
            links = [other for other, (_, unlink_id) in self._links.items() if not unlink_id]
            monitored_by = [watcher for _, watcher, _ in self._watchers.values()]
            monitors = self.node.signals.monitored(self._monitors)
        return {
            **super().info(),
            "links": links,
            "message_queue_len": len(self.mailbox),
            "monitored_by": monitored_by,
            "monitors": [(_PROCESS, what) for what in monitors],
            "trap_exit": self.trap_exit,
        }

    # --- signals from others

    def deliver(self, connection: Connection, payload: bytes) -> Task | None:  # noqa: ARG002
        """See `Destination.deliver`."""
        message = self.node.decode(payload)
        return None if self.node.is_answer(message) else self.take(message)

    def take(self, message: Any) -> Task | None:
        """Take a decoded message; return what is to be run for it, if anything."""
        if self._alive:
            self.mailbox.put(message)
        return None

    def monitored(self, connection: Connection, signal: cm.MonitorP) -> bool:
        """See `Destination.monitored`."""
        with self._lock:
            if self._alive:
                self._watchers[signal.ref] = (connection, signal.from_pid, signal.to_proc)
            return self._alive

    def demonitored(self, reference: Reference) -> None:
        """See `Destination.demonitored`."""
        self._watchers.pop(reference, None)

    def linked(self, connection: Connection, other: Pid) -> bool:
        """See `Destination.linked`."""
        with self._lock:
            if self._alive and other not in self._links:
                self._links[other] = (connection, 0)
                connection.links.add((self, other))
                self.node.signals.note(connection)
            return self._alive

    def unlinked(self, connection: Connection, other: Pid) -> None:
        """See `Destination.unlinked`."""
        with self._lock:
            link = self._links.get(other)
            if link is not None and not link[1]:
                del self._links[other]
                connection.links.discard((self, other))

    def unlink_acknowledged(self, connection: Connection, other: Pid, unlink_id: int) -> None:
        """See `Destination.unlink_acknowledged`."""
        with self._lock:
            if self._links.get(other) == (connection, unlink_id):
                del self._links[other]
                connection.links.discard((self, other))

    def exit_signal(self, sender: Pid, reason: Any, *, link: bool) -> Task | None:
        """See `Destination.exit_signal`; the rules are those of `erlang:exit/2` and links."""
        with self._lock:
            if link:
                was = self._links.pop(sender, None)
                if was is None or was[1]:
                    return None  # it was undone from here, and this crossed it on the way
            if not link and is_atom(reason, KILL):
                reason = KILLED
            elif self.trap_exit:
                return self.take((EXIT, sender, reason))
            elif is_atom(reason, NORMAL) and sender != self.pid:
                return None
        self.exit(reason)
        return None

    # --- what its own code does

    def receive(
        self, match: Callable[[Any], object] | None = None, *, timeout: float | None = None
    ) -> Any:
        """Return the next message, or the next for which `match(message)` is true.

        The others stay in the mailbox, as in Erlang's selective receive; a message that `match`
        raises for stays, too. `timeout` in seconds; None waits as long as it takes. Raises
        ReceiveTimeoutError, and ExitError with the reason if the process has exited.

        >>> with node.process() as process:
        ...     for number in range(3):
        ...         node.send(process.pid, number)
        ...     process.receive(lambda number: number > 1), process.receive(), process.receive()
        (2, 0, 1)
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        search = Search(self.mailbox, match)
        news: SimpleQueue[None] = SimpleQueue()
        with self.node.engine.shield(), self.mailbox.waking(lambda: news.put(None)):
            while True:
                self.check_alive()
                message = search()
                if message is not NOTHING:
                    return message
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                try:
                    self.node.engine.wait(news, left)
                except Empty:
                    raise ReceiveTimeoutError(
                        f"No message came within {timeout:g} seconds: give it more with timeout=."
                    ) from None

    def monitor(self, to: Address) -> Reference:
        """Monitor a process: one message ``{'DOWN', Reference, process, Process, Reason}`` comes.

        ``Process`` is its pid, or ``{Name, Node}`` if that is what was monitored. See
        `erlang:monitor/2`. Raises NodeUnavailableError.

        >>> with node.process() as process:
        ...     reference = process.monitor(("nobody", "app@127.0.0.1"))
        ...     process.receive()[3:]
        ((Atom('nobody'), Atom('app@127.0.0.1')), Atom('noproc'))
        """
        with self.node.engine.shield():
            return self.monitor_over(*self.node.reach(to))

    def monitor_over(self, connection: Connection, target: Pid | Atom) -> Reference:
        """Monitor a process of the node that `connection` leads to; as `monitor`, never blocks."""
        reference = self.node.new_reference()
        shown = target if isinstance(target, Pid) else (target, connection.peer)

        def down(reason: Any) -> Task | None:
            with self._lock:
                if reference not in self._monitors:
                    return None  # removed just now, after which no message may come
                self._monitors.discard(reference)
                return self.take((DOWN, reference, _PROCESS, shown, reason))

        with self._lock:
            self.check_alive()
            self._monitors.add(reference)
            self.node.signals.monitor(connection, self.pid, target, reference, down)
        return reference

    def demonitor(self, reference: Reference) -> bool:
        """Remove a monitor, and a ``DOWN`` of it that has come but was not received.

        As `erlang:demonitor/2` with ``[flush, info]``: False if it had fired already.
        """
        with self._lock:
            active = reference in self._monitors
            self._monitors.discard(reference)
        self.node.demonitor(reference)
        if not active:
            self._drop(lambda m: type(m) is tuple and m[:2] == (DOWN, reference))
        return active

    def _drop(self, match: Callable[[Any], bool]) -> None:
        """Take a message out of the mailbox, if it is there."""
        with suppress(ReceiveTimeoutError, ExitError):
            self.receive(match, timeout=0)

    def link(self, other: Pid) -> None:
        """Link this process to another: when one exits, so does the other. See `erlang:link/1`.

        If there is no such process, an exit signal ``noproc`` comes. Raises NodeUnavailableError.

        >>> with node.process() as process:
        ...     process.trap_exit = True
        ...     other = node.spawn_at("app@127.0.0.1", "timer", "sleep", [Atom("infinity")])
        ...     process.link(other)
        ...     node.exit(other, Atom("boom"))
        ...     process.receive() == (Atom("EXIT"), other, Atom("boom"))
        True
        """
        peer = node_of(other)
        with self.node.engine.shield():
            self.link_over(self.node.ready(peer), other)

    def link_over(self, connection: Connection, other: Pid) -> None:
        """Link this process to one that `connection` leads to; as `link`, never blocks."""
        if other == self.pid:
            return
        with self._lock:
            self.check_alive()
            was = self._links.get(other)
            if was is not None and not was[1]:
                return
            self._links[other] = (connection, 0)
            connection.links.add((self, other))
            connection.post(connection.encode(cm.Link(self.pid, other)))
        connection.flush()
        self.node.signals.note(connection)

    def unlink(self, other: Pid) -> None:
        """Remove a link, from both sides; nothing happens if there is none.

        No exit signal comes from it afterwards. See `erlang:unlink/1`, and "Link Protocol" in
        erl_dist_protocol.
        """
        with self.node.engine.shield(), self._lock:
            was = self._links.get(other)
            if was is None or was[1]:
                return
            connection = was[0]
            unlink_id = next(self._unlink_ids)
            self._links[other] = (connection, unlink_id)
            connection.post(connection.encode(cm.UnlinkId(unlink_id, self.pid, other)))
            connection.flush()

    def monitor_nodes(self, flag: bool = True) -> None:  # noqa: FBT001, FBT002 (as in Erlang)
        """Have messages ``{nodeup, Node}`` and ``{nodedown, Node}`` sent to this process, or not.

        See `net_kernel:monitor_nodes/1`; hidden nodes are told of as well.
        """
        self.node.subscribe(self, self._node_event if flag else None)

    def _node_event(self, up: bool, peer: Atom) -> Task | None:  # noqa: FBT001
        return self.take((_NODEUP if up else _NODEDOWN, peer))

    def check_alive(self) -> None:
        """Raise ExitError with the exit reason if it has exited."""
        if not self._alive:
            raise ExitError(
                f"{self!r} has exited: {short(self._exit_reason)}", reason=self._exit_reason
            )


class Spawned(Process):
    """A process that runs a function, and exits when that returns."""

    #: The codec's, for what the function returns and has no Erlang form.
    default: Callable[[Any], Any] = staticmethod(no_objects)

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> None:
        super().__init__()
        self._call = functools.partial(function, *args, **(kwargs or {}))
        self._body = _Body(self)

    def attached(self) -> Task:
        """See `Destination.attached`."""
        return self._body

    def started_by(self, connection: Connection) -> Task:
        """Return the task that is the process, for the connection that the request came by."""
        self._body.connection = connection
        return self._body

    def exited(self, reason: Any) -> None:
        """See `Process.exited`."""
        super().exited(reason)
        self.node.engine.interrupt(self._body)

    def info(self) -> dict[str, Any]:
        """See `Destination.info`."""
        status = Atom("waiting" if self._body.is_waiting else "running")
        return {**super().info(), "initial_call": self.initial_call(), "status": status}

    def initial_call(self) -> tuple[Any, Any, int]:
        """Return what it runs, for people: a module, a function and its arity."""
        function = self._call.func
        module = str(getattr(function, "__module__", "pynode"))
        name = str(getattr(function, "__qualname__", "call"))
        return Atom(module[:255]), Atom(name[:255]), len(self._call.args)

    def returned(self, value: Any) -> Any:  # noqa: ARG002
        """Return what to exit with after the function has returned `value`."""
        return NORMAL

    def raised(self, error: BaseException) -> Any:
        """Return what to exit with after the function has raised `error`."""
        reason = exit_reason(error)
        if not issubclass(type(error), ExitError | SystemExit):  # isinstance() would ask the object
            log.error("%s exits, its function raised:", self, exc_info=error)
        return reason

    def _raised(self, error: BaseException) -> tuple[Any, bytes]:
        try:
            return _encoded(self.raised(error))
        except BaseException:  # noqa: BLE001 (the exception's own code may raise anything)
            log.error("%s exits, and what its function raised cannot be shown", self)
            return KILLED, encode(KILLED)

    def main(self, body: _Body) -> None:
        """Run the function, and exit."""
        token = _current.set(self)
        try:
            try:
                value = self.node.run_in(body, self._call)
                reason = self.returned(value)
                payload = encode(reason, self.default)
            except BaseException as error:  # noqa: BLE001 (sys.exit() is an exit, too)
                body.close_window()
                if not self._alive:
                    return  # that is what has interrupted it
                reason, payload = self._raised(error)
            body.close_window()
            self.exit_with(reason, payload, unflushed=body.connection)
        finally:
            _current.reset(token)


class _Body(Task):
    """The function of a process, as it is run."""

    __slots__ = ("_process", "connection")

    def __init__(self, process: Spawned) -> None:
        super().__init__()
        #: None when it is done: it must not keep the process, and that what it has returned.
        self._process: Spawned | None = process
        #: The connection that the request to spawn it came by.
        self.connection: Connection | None = None

    def run(self) -> None:
        """See `Task.run`."""
        process, self._process = self._process, None
        if process is not None:
            process.main(self)

    def flush(self) -> None:
        """See `Task.flush`."""
        if self.connection is not None:
            self.connection.flush()
