"""The process behind a GenServer.

Theory of operation. A `GenServer` is what the user writes: an object with methods and attributes of
its own. Behind it is a process (`Server`), which has the pid, and for which each message is a task
of the engine (a *turn*) in one lane: so there is no thread for each server, and its messages are
handled one at a time, in their order. While a turn waits for an answer, no other one is let in, as
`gen_server` does not read its mailbox then.

What comes before `GenServer.init` is done, or while the server is suspended (`sys:suspend/1`), is
held back, and handled right after that. What happens at the end of the server depends on how it
comes: if the server has its own reason, `GenServer.terminate` is called first; an exit signal ends
it where it is (see `Process.exit_with`).

What `sys.erl` asks of a server is answered by `pynode.gen_server.system_messages`.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from pynode import gen
from pynode.dist.task import Task
from pynode.errors import (
    CallInterrupted,
    CallTimeoutError,
    DecodeError,
    EncodeError,
    ExitError,
    NodeUnavailableError,
)
from pynode.exits import exit_reason
from pynode.gen_server.debug import IN, OUT, Debug
from pynode.gen_server.outcomes import NOTHING, Crash, From, NoReply, Reply, Stop
from pynode.gen_server.showing import as_text, showable
from pynode.gen_server.system_messages import OK, answer_to, get_state
from pynode.gen_server.timeouts import Timeout
from pynode.inspection import inspect
from pynode.process import DOWN, KILLED, Process, _current, current_process
from pynode.show import short
from pynode.signals import post_down
from pynode.terms import Atom, Pid, Reference, exact
from pynode.values import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.dist.connection import Connection
    from pynode.gen_server.behaviour import GenServer

log = logging.getLogger(__name__)

_SHUTDOWN = Atom("shutdown")
_TIMEOUT = Atom("timeout")
_CONTINUE = Atom("continue")
_BAD_RETURN_VALUE = Atom("bad_return_value")
_NOREPLY = Atom("noreply")
_SYSTEM, _TERMINATE = Atom("system"), Atom("terminate")

#: What a server is doing; the last two are what `sys:get_status/1` calls them.
_STARTING, _RUNNING, _SUSPENDED = Atom("starting"), Atom("running"), Atom("suspended")


class _Turn(Task):
    """One message for a server, or something else that it has to do in its lane."""

    __slots__ = ("_argument", "_do", "_server", "connection")

    def __init__(
        self,
        server: Server,
        connection: Connection | None,
        do: Callable[[Any], None],
        argument: Any = None,
    ) -> None:
        super().__init__(server)
        self.lets_in = False
        self.source = self.connection = connection
        self._server = server
        self._do = do
        self._argument = argument

    def run(self) -> None:
        """See `Task.run`."""
        self._server.take_turn(self, self._do, self._argument)

    def flush(self) -> None:
        """See `Task.flush`."""
        if self.connection is not None:
            self.connection.flush()


class Server(Process):
    """The process of a GenServer."""

    def __init__(self, module: GenServer) -> None:
        super().__init__()
        #: The object with the handlers: the *callback module*, and its state.
        self.module = module
        self.phase = _STARTING
        self.debug = Debug()
        self.added = False
        self._failure: BaseException | None = None
        self._turn: Any = None
        self._held: deque[tuple[Callable[[Any], None], Any]] = deque()
        #: ``DOWN`` messages that were not handled yet.
        self._downs: dict[Reference, Any] = {}
        self._timeout = Timeout(self._expire_soon)

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<{type(self.module).__name__}{name} {getattr(self, 'pid', 'not started')}>"

    @property
    def name_or_pid(self) -> Atom | Pid:
        """What it is called in messages of `sys`."""
        return self.pid if self.name is None else Atom(self.name)

    @property
    def callback_module(self) -> Atom:
        """What is a module in Erlang: the path of its class."""
        cls = type(self.module)
        return Atom(f"{cls.__module__}.{cls.__qualname__}"[:255])

    def dictionary(self) -> list[Any]:
        """Return what `proc_lib` has in the process dictionary, for tools that look there."""
        return [
            (Atom("$initial_call"), (self.callback_module, Atom("init"), 1)),
            (Atom("$ancestors"), []),
        ]

    def info(self) -> dict[str, Any]:
        """See `Destination.info`."""
        running = self._turn is not None
        return {
            **super().info(),
            "dictionary": self.dictionary(),
            "initial_call": (Atom("proc_lib"), Atom("init_p"), 5),
            "message_queue_len": len(self.node.engine.tasks(self)) + len(self._held) - running,
            "status": Atom("running" if running else "waiting"),
        }

    # --- its life, as others see it

    def check_new(self) -> None:
        """Raise ValueError if it has been started before."""
        if self.added:
            raise ValueError(f"{self!r} has been started before: make another object.")

    def attached(self) -> Task:
        """See `Destination.attached`."""
        self.added = True
        return _Turn(self, None, self._start)

    def ready(self) -> None:
        """See `Destination.ready`."""
        try:
            self._wait(lambda: self.phase is not _STARTING, None)
        except BaseException:
            self.exit(KILLED)
            raise
        if self._failure is not None:
            raise self._failure
        if self.phase is _STARTING:
            self.check_alive()

    def stopped(self) -> None:
        """See `Destination.stopped`."""
        self._end_soon(_SHUTDOWN)

    def join(self, deadline: float) -> None:
        """See `Destination.join`."""
        if not self._is_current():
            try:
                self._wait(lambda: False, deadline - time.monotonic())
            except Empty:
                log.warning("%r did not end in time and is killed", self)
                self.exit(KILLED)

    def stop(self, reason: Any, timeout: float | None) -> None:
        """See `GenServer.stop`."""
        encode(reason)  # raises
        if self._is_current():
            raise RuntimeError("A GenServer cannot wait for its own end: return Stop() instead.")
        self._end_soon(reason)
        try:
            self._wait(lambda: False, timeout)
        except Empty:
            raise CallTimeoutError(
                f"{self!r} did not end within {timeout:g} seconds: give it more with timeout=."
            ) from None
        if exact(self.exit_reason) != exact(reason):
            self.check_alive()

    def _is_current(self) -> bool:
        # Also in a coroutine.
        return current_process() is self

    def _end_soon(self, reason: Any) -> None:
        if self._alive:
            # By a message, which does not overtake others. Nobody waits for the answer.
            from_ = (self.node.self(), gen.tag_of(self.node.new_reference()))
            self.node.send(self.pid, (_SYSTEM, from_, (_TERMINATE, reason)))

    def _wait(self, done: Callable[[], bool], timeout: float | None) -> None:
        """Wait until `done()`, or the exit. Raises Empty after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        news: SimpleQueue[None] = SimpleQueue()
        with self.mailbox.waking(lambda: news.put(None)):
            while self._alive and not done():
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                self.node.engine.wait(news, left)

    def exited(self, reason: Any) -> None:
        """See `Process.exited`."""
        super().exited(reason)
        turn = self._turn
        if turn is not None:
            self.node.engine.interrupt(turn)

    # --- messages, on the thread that reads

    def deliver(self, connection: Connection, payload: bytes) -> Task | None:
        """See `Destination.deliver`.

        A message that cannot be decoded, such as one that is nested too deeply, is dropped if it
        can be read what kind of message it is.
        """
        try:
            message = self.node.decode(payload)
        except DecodeError as error:
            self._undecodable(connection, payload, error)
            return None
        if self.node.is_answer(message):
            return None
        return _Turn(self, connection, self._receive, message)

    def _undecodable(self, connection: Connection, payload: bytes, error: DecodeError) -> None:
        """Drop a message; whoever has called and waits is told by the ``DOWN`` for its monitor."""
        kind, sender = gen.envelope(payload)
        if kind is None:
            raise error
        log.error("%r cannot take a message from %s: %s", self, connection.peer, error)
        match kind, sender:
            case Atom("$gen_call" | "system"), (Pid(), tag):
                reference = gen.alias_of(tag) or tag
                if isinstance(reference, Reference) and reference in self._watchers:
                    _, watcher, target = self._watchers.pop(reference)
                    connection.monitors.pop(reference, None)
                    reason = encode(exit_reason(error))
                    post_down(connection, target, watcher, reference, reason)

    def take(self, message: Any) -> Task | None:
        """See `Process.take`."""
        if message[0] is not DOWN:
            return _Turn(self, None, self._receive, message)
        self._downs[message[1]] = message
        return _Turn(self, None, self._receive_down, message)

    def _drop(self, match: Callable[[Any], bool]) -> None:
        """See `Process.demonitor`."""
        for reference, message in list(self._downs.items()):
            if match(message):
                self._downs.pop(reference, None)

    def receive(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refuse: messages come to the handlers."""
        raise TypeError("A GenServer cannot receive(): its messages come to handle_info().")

    # --- turns, in its lane

    def take_turn(self, turn: _Turn, do: Callable[[Any], None], argument: Any) -> None:
        """Do one thing, and what was held back if that goes on now."""
        self._turn = turn
        token = _current.set(self)
        try:
            if self._alive:
                do(argument)
            while self._held and self.phase is _RUNNING and self._alive:
                do, argument = self._held.popleft()
                do(argument)
        except CallInterrupted:
            self.exit(KILLED)  # it has exited already, most likely
        finally:
            _current.reset(token)
            self._turn = None

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a method of the user's; return what it returns, raise what it raises.

        Raises CallInterrupted when the process has exited meanwhile.
        """
        turn = self._turn
        try:
            value = self.node.run_in(turn, function, *args)
        finally:
            turn.close_window()
            if not self._alive:
                raise CallInterrupted
        return value

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return the outcome of a handler; a Stop that it raises is one, all else a Crash."""
        try:
            return self.call(function, *args)
        except Stop as stop:
            return stop
        except CallInterrupted:
            raise
        except BaseException as error:  # noqa: BLE001 (sys.exit() is an exit, too)
            return Crash(error)

    def _start(self, _: None) -> None:
        outcome = self._run(self.module.init)
        if outcome is not None and type(outcome) is not NoReply:
            reason, error = _end_of(outcome)
            message = f"{self!r} was not started: {short(reason)}"
            self._failure = error or ExitError(message, reason=reason)
            self.exit(reason)
            return
        self.phase = _RUNNING
        self.mailbox.wake()
        self._follow(outcome, None, None)

    def _receive(self, message: Any) -> None:
        match message:
            case (Atom("system"), (Pid() as pid, tag), request) if self.phase is not _STARTING:
                self._system(From(pid, tag), request)
            case _ if self.phase is not _RUNNING:
                self._held.append((self._receive, message))
            case _:
                self._handle(message)

    def _receive_down(self, message: Any) -> None:
        if self.phase is not _RUNNING:
            self._held.append((self._receive_down, message))
        elif self._downs.pop(message[1], None) is not None:
            self._handle(message)

    def _handle(self, message: Any) -> None:
        """Handle a message; see handle_msg in gen_server.erl."""
        self._timeout.clear()
        if self.debug.on:
            self._note(IN, message)
        module = self.module
        from_ = None
        match message:
            case (Atom("$gen_call"), (Pid() as pid, tag), request):
                from_ = From(pid, tag)
                outcome = self._answered(from_, self._run(module.handle_call, request, from_))
            case (Atom("$gen_cast"), request):
                outcome = self._run_noted(module.handle_cast, request)
            case _:
                outcome = self._run_noted(module.handle_info, message)
        if outcome is not None:
            self._follow(outcome, message, from_)

    def _answered(self, from_: From, outcome: Any) -> Any:
        """Send the reply, if that is what handle_call has returned; return what else is to do."""
        # isinstance() would ask the object, which may raise.
        kind = type(outcome)
        if kind is NoReply and self.debug.on:
            self._note(_NOREPLY)
        if kind is NoReply or kind is Crash or issubclass(kind, Stop):
            return outcome
        value = outcome.value if kind is Reply else outcome
        payload = self._encoded(from_, value)
        if isinstance(payload, Crash):
            return payload
        self._answer(from_, payload)
        if self.debug.on:
            self._note(OUT, value, from_)
        if kind is Reply:
            return NoReply(timeout=outcome.timeout, continue_=outcome.continue_)
        return None

    def _follow(self, outcome: Any, message: Any, from_: From | None) -> None:
        """Do what the outcome of a handler says; `message` and `from_` are what it was about."""
        while outcome is not None:
            if type(outcome) is not NoReply:
                self._terminate(outcome, message, from_)
                return
            if outcome.continue_ is NOTHING:
                self._timeout.set(self.node.engine, outcome.timeout)
                return
            message, from_ = (_CONTINUE, outcome.continue_), None
            self._turn.flush()  # a reply need not wait for what follows
            if self.debug.on:
                self._note(*message)
            outcome = self._run_noted(self.module.handle_continue, outcome.continue_)

    def _run_noted(self, handler: Callable[[Any], Any], argument: Any) -> Any:
        """Run a handler that has no reply."""
        outcome = self._run(handler, argument)
        if self.debug.on and (outcome is None or type(outcome) is NoReply):
            self._note(_NOREPLY)
        return outcome

    def _note(self, kind: Atom, *rest: Any) -> None:
        """Note an event for `sys`; those of what a handler has done have the state at their end."""
        if kind in {OUT, _NOREPLY}:
            rest = (*rest, get_state(self)[1])
        self.debug.note(self.name_or_pid, (kind, *rest))

    # --- answers

    def reply(self, from_: From, payload: bytes) -> None:
        """Send an answer that is encoded, on any thread."""
        with self.node.engine.shield():
            try:
                connection = self.node.connect(from_.pid.node)
            except NodeUnavailableError as error:
                log.debug("no answer for %s: %s", from_.pid, error)
                return
            connection.send(gen.reply_to(self.pid, from_.pid, from_.tag), payload)

    def _encoded(self, from_: From, value: Any) -> bytes | Crash:
        """Return an answer as it is sent. If it cannot be, its handler is to blame."""
        try:
            return encode((from_.tag, value))
        except EncodeError as error:
            name = type(self.module).__name__
            text = f"The handle_call of {name} has returned what cannot be sent: {error}"
            return Crash(EncodeError(text))
        except Exception as error:  # noqa: BLE001 (a user's converter may raise anything)
            return Crash(error)

    def _answer(self, from_: From, payload: bytes) -> None:
        """Send an answer in a turn: it is flushed with that, if it goes where that came from."""
        connection = self._turn.connection
        if connection is None or connection.peer != from_.pid.node:
            self.reply(from_, payload)
        else:
            control = gen.reply_to(self.pid, from_.pid, from_.tag)
            connection.post(connection.encode(control, payload))

    def _system(self, from_: From, request: Any) -> None:
        """Do what a system message asks for; see handle_system_msg in sys.erl."""
        answer: Any = OK
        match request:
            case Atom("suspend"):
                self.phase = _SUSPENDED
            case Atom("resume"):
                self.phase = _RUNNING
            case (Atom("terminate"), reason):
                self._answer(from_, encode((from_.tag, OK)))
                self._turn.flush()
                self._terminate(Stop(reason), None, None)
                return
            case _:
                answer = answer_to(self, from_.pid, request)
        try:
            payload = encode((from_.tag, answer), as_text)
        except Exception:  # noqa: BLE001 (another thread has changed it just now)
            payload = encode((from_.tag, showable(answer)), as_text)
        self._answer(from_, payload)
        self._timeout.restart(self.node.engine)  # as in OTP

    # --- its timeout

    def _expire_soon(self) -> None:
        self.node.engine.run(_Turn(self, None, self._expire))

    def _expire(self, _: None) -> None:
        if self.phase is _RUNNING and self._timeout.is_over():
            self._handle(_TIMEOUT)

    # --- its end

    def _terminate(self, outcome: Any, message: Any, from_: From | None) -> None:
        """End the server because of the outcome of a handler; see terminate in gen_server.erl.

        `message` is what that has handled, and `from_` whoever gets a reply that comes with it.
        """
        reason, error = _end_of(outcome)
        payload = None
        if from_ is not None and error is None and outcome.reply is not NOTHING:
            payload = self._encoded(from_, outcome.reply)
            if isinstance(payload, Crash):
                reason, error = _end_of(payload)
        outcome = self._run(self.module.terminate, reason)
        if type(outcome) is Crash:
            reason, error = _end_of(outcome)
        try:
            self._report(reason, error, message, from_)
            if from_ is not None and isinstance(payload, bytes):
                self._answer(from_, payload)
        finally:
            self.exit(reason)

    def _report(
        self, reason: Any, error: BaseException | None, message: Any, from_: From | None
    ) -> None:
        """Log an end that is an error, once."""
        match reason:
            case Atom("normal" | "shutdown") | (Atom("shutdown"), _):
                if not isinstance(error, Exception):
                    return
        what = traceback.format_exception_only(error)[-1].strip() if error else short(reason)
        last = short(message) if from_ is None else f"{short(message[2])} from {from_.pid}"
        state = short(self._run(self.module.format_status))
        text = "%r exits: %s\nLast message: %s\nState: %s"
        log.error(text, self, what, last, state, exc_info=error)


def _end_of(outcome: Any) -> tuple[Any, BaseException | None]:
    """Return the exit reason for an outcome that ends a server, and the exception, if it is one."""
    if type(outcome) is Crash:
        return exit_reason(outcome.error), outcome.error
    if issubclass(type(outcome), Stop):
        return outcome.reason, None
    error = TypeError(
        f"A handler has returned {short(outcome)}: it may return None, NoReply() or Stop()."
    )
    return (_BAD_RETURN_VALUE, inspect(outcome)), error
