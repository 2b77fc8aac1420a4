"""The same from asyncio: what may wait is awaited, and no thread waits for it.

>>> async def main():
...     async with aio.Node("example@127.0.0.1", cookie="secret") as node:
...         calls = (node.erpc("app@127.0.0.1", "erlang", "abs", [-n]) for n in range(3))
...         return await asyncio.gather(*calls)
>>> asyncio.run(main())
[0, 1, 2]

`Node` stands before a `pynode.Node`, which does everything. Here is only how to wait for it
without blocking the event loop: answers are futures already (`pynode.calls.Request`), a mailbox
wakes the event loop, and a connection that has to be made, or a peer that is slow to take what it
is sent, is waited for by one thread, for all coroutines that want the same.

A coroutine that is cancelled, by `asyncio.timeout` for instance, gives up what it was waiting for.
Several event loops, in several threads, may use one node.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar

from pynode import calls, config, gen
from pynode import node as sync
from pynode import process as processes
from pynode.destination import node_of
from pynode.dist.outbox import context
from pynode.errors import ExitError, ReceiveTimeoutError
from pynode.mailbox import NOTHING, Search
from pynode.terms import Atom
from pynode.values import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pynode.calls import Request
    from pynode.destination import Destination
    from pynode.dist.connection import Connection
    from pynode.gen_server import GenServer
    from pynode.node import Address
    from pynode.terms import Fun, Pid, Reference

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def _parameters_of(
    _: Callable[P, object],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give a constructor the parameters of another class."""
    return lambda constructor: constructor


class Node:
    """A node, as `pynode.Node` with the same parameters; an asynchronous context manager.

    What has no awaitable form, because it does not wait, is as it is there. All else is at `sync`,
    the `pynode.Node` behind this one.
    """

    @_parameters_of(sync.Node)
    def __init__(self, *args: Any, **options: Any) -> None:
        self._init(sync.Node(*args, **options))

    def _init(self, node: sync.Node) -> None:
        self.sync = node
        #: Who is being waited for, by which event loop.
        self._awaited: dict[tuple[object, str], asyncio.Future[Connection | Exception]] = {}

    @classmethod
    def wrap(cls, node: sync.Node) -> Self:
        """Return the asynchronous face of a node that runs already, or is started by others."""
        wrapped = cls.__new__(cls)
        wrapped._init(node)
        return wrapped

    # --- life

    async def start(self) -> None:
        """See `pynode.Node.start`."""
        await asyncio.to_thread(self.sync.start)

    async def stop(self) -> None:
        """See `pynode.Node.stop`."""
        await asyncio.to_thread(self.sync.stop)

    async def run_forever(self) -> None:
        """Wait until SIGTERM or SIGINT comes. For the main thread alone."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, ended.set)
        try:
            await ended.wait()
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"<aio.Node {self.name}>"

    @property
    def name(self) -> Atom:
        """The name of the node."""
        return self.sync.name

    # --- processes and names of this node

    def self(self) -> Pid:
        """See `pynode.Node.self`."""
        return self.sync.self()

    def process(self, *, name: str | None = None) -> Process:
        """Start a process whose code is that of this task; see `pynode.Node.process`."""
        return Process(self, self.sync.process(name=name))

    def spawn(
        self, function: Callable[P, Coroutine[Any, Any, Any]], *args: P.args, **kwargs: P.kwargs
    ) -> Pid:
        """Start a process that awaits ``function(*args, **kwargs)`` in this event loop.

        It exits when that returns or raises; an exit signal cancels it. Inside, `current_process`
        is the process.
        """
        process = _Spawned()
        self.sync.check_running()
        self.sync.add(process)
        process.begin(function(*args, **kwargs))
        return process.pid

    async def add(self, destination: Destination | GenServer, *, name: str | None = None) -> None:
        """See `pynode.Node.add`."""
        await asyncio.to_thread(self.sync.add, destination, name=name)

    def register(self, name: str, process: Destination | GenServer | Pid) -> None:
        """See `pynode.Node.register`."""
        self.sync.register(name, process)

    def unregister(self, name: str) -> None:
        """See `pynode.Node.unregister`."""
        self.sync.unregister(name)

    def whereis(self, name: str) -> Pid | None:
        """See `pynode.Node.whereis`."""
        return self.sync.whereis(name)

    # --- connections

    async def connect(self, peer: str) -> None:
        """Connect to node `peer`, if need be. Raises NodeUnavailableError."""
        await self._ready(peer)

    def disconnect(self, peer: str) -> bool:
        """See `pynode.Node.disconnect`."""
        return self.sync.disconnect(peer)

    def nodes(self) -> list[Atom]:
        """See `pynode.Node.nodes`."""
        return self.sync.nodes()

    def monitor_nodes(self) -> NodeEvents:
        """Return an asynchronous iterator over nodes that come and go, from now on."""
        return NodeEvents(self.sync)

    async def _ready(self, peer: str) -> Connection:
        """Return what `pynode.Node.ready` does; a thread waits for it, if it has to."""
        sender = context()
        connection = self.sync.connection(peer)
        if connection is None or connection.ended is not None or connection.is_full(sender):
            self.sync.check_running()
            key = (asyncio.get_running_loop(), peer)
            waiting = self._awaited.get(key)
            if waiting is None:
                waiting = self._awaited[key] = self._in_thread(
                    lambda: self.sync.ready(peer, sender), lambda: self._awaited.pop(key, None)
                )
            # Others may wait for it, too: it goes on if one of them is cancelled.
            outcome = await asyncio.shield(waiting)
            if isinstance(outcome, Exception):
                raise outcome
            connection = outcome
        return connection

    def _in_thread(
        self, function: Callable[[], T], done: Callable[[], object]
    ) -> asyncio.Future[T | Exception]:
        """Call `function` in a thread of the node's, and then `done`, in that thread as well.

        What it raises is a result, too: maybe nobody waits any more, which is no error.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T | Exception] = loop.create_future()

        def run() -> None:
            outcome: T | Exception
            try:
                outcome = function()
            except Exception as error:  # noqa: BLE001
                outcome = error
            done()
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(future.set_result, outcome)

        self.sync.engine.submit(run)
        return future

    async def _reach(
        self, to: Address | Reference, *, alias: bool = False
    ) -> tuple[Connection, Any]:
        """Return what `pynode.Node.reach` does, or for an alias, if it may be one."""
        peer, target = self.sync.locate(to, alias=alias)
        return await self._ready(peer), target

    # --- signals

    async def send(self, to: Address | Reference, term: Any) -> None:
        """See `pynode.Node.send`."""
        payload = encode(term)
        self.sync.send_over(*await self._reach(to, alias=True), payload)

    async def exit(self, pid: Pid, reason: Any) -> None:
        """See `pynode.Node.exit`."""
        peer = node_of(pid)
        payload = encode(reason)
        self.sync.exit_over(await self._ready(peer), pid, payload)

    async def monitor(self, to: Address) -> Request[Any]:
        """Monitor a process. To be awaited once more for the reason why it is ``DOWN``.

        To `abandon` it removes the monitor, and so does the cancellation of who waits. See
        `pynode.Node.monitor`.

        >>> async def reason():
        ...     monitor = await aio.Node.wrap(node).monitor(("nobody", "app@127.0.0.1"))
        ...     return await monitor
        >>> asyncio.run(reason())
        Atom('noproc')
        """
        return calls.monitor(self.sync, *await self._reach(to))

    # --- requests

    async def call(
        self, to: Address, request: Any, *, timeout: float | None = config.CALL_TIMEOUT
    ) -> Any:
        """See `pynode.Node.call`."""
        return await _within(await self.send_request(to, request), timeout)

    async def send_request(self, to: Address, request: Any) -> Request[Any]:
        """See `pynode.Node.send_request`. The request is to be awaited for the answer."""
        return calls.send_request(self.sync, *await self._reach(to), request)

    async def cast(self, to: Address, request: Any) -> None:
        """See `pynode.Node.cast`."""
        await self.send(to, (gen.CAST, request))

    async def erpc(
        self,
        peer: str,
        module: str,
        function: str,
        args: list[Any],
        *,
        timeout: float | None = config.CALL_TIMEOUT,
    ) -> Any:
        """See `pynode.Node.erpc`."""
        return await _within(await self.erpc_request(peer, module, function, args), timeout)

    rpc = erpc

    async def apply(self, fun: Fun, args: list[Any], *, timeout: float | None = None) -> Any:
        """Call a function of another node, which waits where ``fun(*args)`` would block."""
        return await self.erpc(fun.pid.node, "erlang", "apply", [fun, args], timeout=timeout)

    async def erpc_request(
        self, peer: str, module: str, function: str, args: list[Any]
    ) -> Request[Any]:
        """See `pynode.Node.erpc_request`. The request is to be awaited for the value."""
        return calls.erpc(self.sync, await self._ready(peer), module, function, args)

    async def spawn_at(
        self,
        peer: str,
        module: str,
        function: str,
        args: list[Any],
        *,
        link: bool = False,
        timeout: float | None = config.CALL_TIMEOUT,
    ) -> Pid:
        """See `pynode.Node.spawn_at`."""
        connection = await self._ready(peer)
        request = calls.spawn_at(self.sync, connection, module, function, args, link=link)
        return await _within(request, timeout)

    async def ping(self, peer: str, *, timeout: float = config.CALL_TIMEOUT) -> bool:
        """See `pynode.Node.ping`."""
        request = (Atom("is_auth"), self.name)
        answer = await self.call(("net_kernel", peer), request, timeout=timeout)
        return bool(answer == "yes")


async def _within(request: Request[T], timeout: float | None) -> T:
    """Return the answer to `request`; raise CallTimeoutError if it takes longer."""
    if timeout is None:
        return await request
    timer = asyncio.get_running_loop().call_later(timeout, request.expire, timeout)
    try:
        return await request
    finally:
        timer.cancel()


class NodeEvents:
    """Nodes that come and go: an asynchronous iterator over ``("nodeup" | "nodedown", name)``.

    It ends with `close`, or when nobody has it any more. See `net_kernel:monitor_nodes/1`, which
    tells of visible nodes alone, this of hidden ones as well.
    """

    def __init__(self, node: sync.Node) -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[Literal["nodeup", "nodedown"], Atom]] = asyncio.Queue()
        key = object()

        def event(up: bool, peer: Atom) -> None:  # noqa: FBT001
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(queue.put_nowait, ("nodeup" if up else "nodedown", peer))

        self._queue = queue
        node.subscribe(key, event)
        self._subscription = weakref.finalize(self, node.subscribe, key, None)
        self._subscription.atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Literal["nodeup", "nodedown"], Atom]:
        return await self._queue.get()

    def close(self) -> None:
        """Have nothing more come."""
        self._subscription()


class Process:
    """A process of this node, for coroutines: `pynode.Process`, which is at `sync`.

    Made by `Node.process`, and by `current_process`. In a ``with``, the code of this task is the
    process, and that of the tasks that it creates.
    """

    def __init__(self, node: Node, process: processes.Process) -> None:
        self.node = node
        self.sync = process

    def __repr__(self) -> str:
        return f"<aio.{repr(self.sync)[1:-1]}>"

    def __enter__(self) -> Self:
        self.sync.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.sync.__exit__(kind, error, traceback)

    @property
    def pid(self) -> Pid:
        """Its pid."""
        return self.sync.pid

    @property
    def name(self) -> str | None:
        """The name that it is registered under, if there is one."""
        return self.sync.name

    @property
    def alive(self) -> bool:
        """Whether it has not exited yet."""
        return self.sync.alive

    @property
    def exit_reason(self) -> Any:
        """What it exited with; None while it is alive."""
        return self.sync.exit_reason

    @property
    def trap_exit(self) -> bool:
        """Whether exit signals become messages."""
        return self.sync.trap_exit

    @trap_exit.setter
    def trap_exit(self, flag: bool) -> None:
        self.sync.trap_exit = flag

    def exit(self, reason: Any = processes.NORMAL) -> None:
        """See `pynode.Process.exit`."""
        self.sync.exit(reason)

    async def receive(
        self, match: Callable[[Any], object] | None = None, *, timeout: float | None = None
    ) -> Any:
        """See `pynode.Process.receive`. A message that was not returned stays in the mailbox."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(news.set)

        process = self.sync
        search = Search(process.mailbox, match)
        with process.mailbox.waking(wake):
            try:
                async with asyncio.timeout(timeout) as patience:
                    while True:
                        news.clear()
                        process.check_alive()
                        message = search()
                        if message is not NOTHING:
                            return message
                        await news.wait()
            except TimeoutError:
                if not patience.expired():
                    raise  # it is of `match`
                raise ReceiveTimeoutError(
                    f"No message came within {timeout:g} seconds: give it more with timeout=."
                ) from None

    async def monitor(self, to: Address) -> Reference:
        """See `pynode.Process.monitor`."""
        return self.sync.monitor_over(*await self.node._reach(to))

    def demonitor(self, reference: Reference) -> bool:
        """See `pynode.Process.demonitor`."""
        return self.sync.demonitor(reference)

    async def link(self, other: Pid) -> None:
        """See `pynode.Process.link`."""
        self.sync.link_over(await self.node._ready(node_of(other)), other)

    def unlink(self, other: Pid) -> None:
        """See `pynode.Process.unlink`."""
        self.sync.unlink(other)

    def monitor_nodes(self, flag: bool = True) -> None:  # noqa: FBT001, FBT002 (as in Erlang)
        """See `pynode.Process.monitor_nodes`."""
        self.sync.monitor_nodes(flag)


def current_process() -> Process | None:
    """Return the process that this code runs in, None if it runs in none."""
    process = processes.current_process()
    return None if process is None else Process(Node.wrap(process.node), process)


class _Spawned(processes.Process):
    """A process that awaits a coroutine, and exits when that is done."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._task = self._loop.create_task(self._main(coroutine))
        if not self.alive:
            self._task.cancel()

    async def _main(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            with self:
                await coroutine
        except (ExitError, SystemExit):
            pass  # that was its exit reason
        except Exception:
            log.exception("%s exits, its function raised:", self)

    def exited(self, reason: Any) -> None:
        """See `Process.exited`."""
        super().exited(reason)
        if self._task is not None:
            with suppress(RuntimeError):  # the loop is closed: it does not run any more
                self._loop.call_soon_threadsafe(self._task.cancel)
