"""A real BEAM node that evaluates what a test asks it to.

The node is started with two pipes. Through one it gets requests, each a term behind a length of
four bytes, through the other it answers; ``node_loop.script`` is its side of it. The end of the
first pipe ends the node, the end of the second tells us that it has ended.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import secrets
import signal
import struct
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from pynode import etf
from pynode.terms import Atom, Pid
from pynode.testing.children import Child, ChildExitedError
from pynode.testing.epmd import Epmd
from pynode.testing.runtimes import Runtime, clean_environment, compile_module, find_runtimes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Seconds in which a node has to start, or to answer if the caller does not say.
_TIMEOUT = 30.0

_NODE_LOOP = Path(__file__).with_name("node_loop.script")

# Schedulers that wait actively would take the CPU from the process under test.
_EMULATOR_FLAGS = ("+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none")


class BeamError(Exception):
    """The evaluation failed in the node.

    `error_class` is error, exit or throw, `reason` the term; the message has the stack, too.
    """

    def __init__(self, message: str, *, error_class: str, reason: object) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.reason = reason


class BeamNode:
    """A BEAM node, running from construction until `stop`, `kill` or the end of a ``with``.

    `name` is as ``erl`` takes it; without a host it is at 127.0.0.1, and a host with neither a dot
    nor a colon makes it a short name. It listens at the address `listen`, which makes it a node
    of IPv6 if it is such an address. `epmd` is an `Epmd`, or the port of one; by default the
    environment says. `flags` are added to the command line and `env` to the environment, and
    `prefix` is a command that runs another one (``ip netns exec NAME``). `cookie` defaults to a
    random one, `runtime` to the oldest.

    Raises ChildExitedError with the node's output if it does not start.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        cookie: str | None = None,
        runtime: Runtime | None = None,
        epmd: Epmd | int | None = None,
        hidden: bool = False,
        listen: str = "127.0.0.1",
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.runtime = runtime if runtime is not None else _default_runtime()
        self.cookie = cookie if cookie is not None else secrets.token_hex(10)
        name = name if name is not None else f"beam{secrets.token_hex(5)}"
        self.name = name if "@" in name else f"{name}@127.0.0.1"

        self._ids = itertools.count(1)
        ready: Future[Any] = Future()
        self._pending: dict[int, Future[Any]] = {0: ready}
        self._pending_lock = threading.Lock()
        self._ended = False
        self._write_lock = threading.Lock()

        requests_out, self._requests = _pipe()
        self._answers, answers_in = _pipe()
        with requests_out, answers_in:
            pipes = (requests_out.fileno(), answers_in.fileno())
            self._child = Child(
                [*prefix, *self._command(pipes, listen, hidden=hidden, flags=flags)],
                env=_environment(epmd) | dict(env or {}),
                pass_fds=pipes,
            )
        self._reader = threading.Thread(target=self._read_answers, name=self.name, daemon=True)
        self._reader.start()
        try:
            ready.result(_TIMEOUT)
        except TimeoutError:
            self.kill()
            raise ChildExitedError(f"{self.name} did not start in time:\n{self.output}") from None
        except ChildExitedError:
            self.kill()
            raise

    def _command(
        self, pipes: tuple[int, int], listen: str, *, hidden: bool, flags: Sequence[str]
    ) -> list[str]:
        host = self.name.partition("@")[2]
        return [
            str(self.runtime.erl),
            *_EMULATOR_FLAGS,
            *("-noinput", "-boot", "no_dot_erlang", "-start_epmd", "false"),
            *("-name" if "." in host or ":" in host else "-sname", self.name),
            *("-setcookie", self.cookie),
            *(["-proto_dist", "inet6_tcp"] if ":" in listen else []),
            *("-kernel", "inet_dist_use_interface", _erlang_address(listen)),
            *(["-hidden"] if hidden else []),
            *("-pynode_testing", str(_NODE_LOOP), *map(str, pipes)),
            "-eval",
            "{ok, [[Path | _]]} = init:get_argument(pynode_testing), {ok, _} = file:script(Path).",
            *flags,
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<BeamNode {self.name} {self.runtime}>"

    @property
    def os_pid(self) -> int:
        """The process id of the emulator."""
        return self._child.pid

    @property
    def output(self) -> str:
        """What the node has written so far to its standard output and standard error."""
        return self._child.output

    def eval(self, source: str, *, timeout: float = _TIMEOUT, **bindings: object) -> Any:
        """Evaluate Erlang expressions in a process of their own; return the last one's value.

        `bindings` are variables: ``eval("X + 1", X=1)``. A final dot may be left out. Raises
        BeamError if the evaluation fails or its process is killed, ChildExitedError if the node
        ends, TimeoutError after `timeout` seconds, when the evaluation goes on regardless.
        """
        return _result(self.start_eval(source, **bindings), source, timeout)

    def start_eval(self, source: str, **bindings: object) -> Future[Any]:
        """Begin what `eval` does, beside what else runs there; the future has its outcome."""
        return self._request("new", source, _named(bindings))

    def start_eval_in(self, pid: Pid, source: str, **bindings: object) -> Future[Any]:
        """Begin an evaluation in a process that `process` has started."""
        return self._request(pid, source, _named(bindings))

    def process(self) -> BeamProcess:
        """Start a process in the node that lives on and evaluates what it is asked to."""
        return BeamProcess(self, _result(self._request("spawn"), "spawn", _TIMEOUT))

    def load_module(self, source: str) -> None:
        """Compile the source of an Erlang module, and load it; ValueError if it is wrong."""
        beam = compile_module(source)
        load = "{module, Name} = erlang:load_module(Name, Beam), ok"
        name = "{ok, {Name, _}} = beam_lib:chunks(Beam, [])"
        self.eval(f"{name}, {load}", Beam=beam)

    def suspend(self) -> None:
        """Freeze the node with SIGSTOP: its connections stay open and fall silent."""
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended node go on."""
        self._child.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the node as ``erlang:halt/0`` does, and wait for it."""
        self._close_requests()
        self.resume()
        try:
            self._child.wait(5)
        except TimeoutError:
            self._child.kill()
        self._reader.join()

    def kill(self) -> None:
        """End the node with SIGKILL, as a crash would, and wait for it."""
        self._child.kill()
        self._reader.join()
        self._close_requests()

    def _close_requests(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # Of what the node has not read.
            self._requests.close()

    def _request(self, what: str | Pid, *rest: object) -> Future[Any]:
        number = next(self._ids)
        request = etf.encode((number, Atom(what) if isinstance(what, str) else what, *rest))
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # It cannot be cancelled.
        with self._pending_lock:
            if self._ended:
                raise ChildExitedError(f"{self.name} has ended:\n{self.output}")
            self._pending[number] = future
        # If the node ends just now, the reader tells the future.
        with self._write_lock, contextlib.suppress(BrokenPipeError):
            self._requests.write(len(request).to_bytes(4, "big") + request)
            self._requests.flush()
        return future

    def _read_answers(self) -> None:
        with self._answers:
            while len(head := self._answers.read(8)) == 8:
                length, number = struct.unpack(">II", head)
                answer = self._answers.read(length - 4)
                if len(answer) < length - 4:
                    break
                with self._pending_lock:
                    future = self._pending.pop(number)
                _settle(future, answer)
        code = self._child.wait()
        with self._pending_lock:
            self._ended = True
            pending = list(self._pending.values())
        for future in pending:
            future.set_exception(
                ChildExitedError(f"{self.name} has ended with status {code}:\n{self.output}")
            )


class BeamProcess:
    """A process in a `BeamNode` that lives until it is killed, and evaluates what it is asked to.

    Made by `BeamNode.process`. Its mailbox, its links and its monitors stay from one evaluation
    to the next; variables do not.
    """

    def __init__(self, node: BeamNode, pid: Pid) -> None:
        self.node = node
        self.pid = pid

    def __repr__(self) -> str:
        return f"<BeamProcess {self.pid} of {self.node.name}>"

    def eval(self, source: str, *, timeout: float = _TIMEOUT, **bindings: object) -> Any:
        """Evaluate Erlang expressions in this process; as `BeamNode.eval`."""
        return _result(self.start_eval(source, **bindings), source, timeout)

    def start_eval(self, source: str, **bindings: object) -> Future[Any]:
        """Begin what `eval` does; what is begun later runs when it is done."""
        return self.node.start_eval_in(self.pid, source, **bindings)

    def exit(self, reason: object = Atom("kill")) -> None:
        """Send it an exit signal, as ``exit/2`` does; it may take a moment to die."""
        self.node.eval("exit(Pid, Reason)", Pid=self.pid, Reason=reason)


def _default_runtime() -> Runtime:
    runtimes = find_runtimes()
    if not runtimes:
        raise ChildExitedError("No Erlang runtime was found: install Erlang/OTP 25 or later.")
    return runtimes[0]


def _erlang_address(address: str) -> str:
    """Return an IP address as the tuple that it is in Erlang."""
    parsed = ipaddress.ip_address(address)
    separator, base = (".", 10) if parsed.version == 4 else (":", 16)
    numbers = (int(number, base) for number in parsed.exploded.split(separator))
    return "{" + ",".join(map(str, numbers)) + "}"


def _environment(epmd: Epmd | int | None) -> dict[str, str]:
    env = clean_environment()
    env["ERL_CRASH_DUMP_SECONDS"] = "0"
    env.setdefault("HOME", "/")  # A node does not start without.
    if isinstance(epmd, Epmd):
        epmd = epmd.port
    if epmd is not None:
        env["ERL_EPMD_PORT"] = str(epmd)
    return env


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    return os.fdopen(reading, "rb"), os.fdopen(writing, "wb")


def _settle(future: Future[Any], answer: bytes) -> None:
    try:
        outcome, *rest = etf.decode(answer)
    except Exception as error:  # noqa: BLE001 (whatever it is, it belongs to who waits)
        future.set_exception(error)
        return
    if outcome == "ok":
        future.set_result(rest[0])
    else:
        error_class, reason, text = rest
        future.set_exception(BeamError(text, error_class=error_class, reason=reason))


def _named(bindings: Mapping[str, object]) -> dict[Atom, object]:
    return {Atom(name): value for name, value in bindings.items()}


def _result(future: Future[Any], source: str, timeout: float) -> Any:
    try:
        return future.result(timeout)
    except TimeoutError as error:
        if future.done():  # It is the evaluation's own.
            raise
        raise TimeoutError(f"No answer within {timeout} seconds to: {source}") from error
