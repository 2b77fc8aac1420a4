"""Those that are compared: how each is started, called, and observed by its process."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import psutil

from pynode.dist.epmd import EpmdClient
from pynode.protocol.flags import DEFAULT
from pynode.protocol.handshake import NEED_DATA, Handshake
from pynode.terms import Atom
from pynode.testing import BeamNode, Epmd, PynodeProcess
from pynode.testing.children import Child
from pynode.testing.runtimes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_FOLDER = Path(__file__).parent
_ROOT = _FOLDER.parent
_PEERS = _FOLDER / "peers"
_PATIENCE = 300.0

#: What is echoed besides `maps` and `integers`: kind and bytes.
BYTES_1MB, BYTES_100MB = (Atom("bytes"), 1 << 20), (Atom("bytes"), 100 << 20)
TEXT_1MB = (Atom("text"), 1 << 20)


class MissingError(Exception):
    """Something that a contender needs is not installed; the message says what."""


class Spread(NamedTuple):
    """How long calls took, in microseconds."""

    median: float
    p99: float


class Rate(NamedTuple):
    """How many calls a second there were, and the CPU of the contender on each, in microseconds."""

    calls: float
    cpu: float


class Contender(Protocol):
    """What answers the calls. `what` is `sqrt`, or what is echoed; `process` is who answers."""

    process: psutil.Process

    def sample(self, what: Any, seconds: float, at_least: int = 1) -> Spread:
        """Call one after the other."""

    def rate(self, what: Any, callers: int, seconds: float) -> Rate:
        """Call from so many callers at once."""


def measure_rate(process: psutil.Process, run: Callable[[], tuple[int, float]]) -> Rate:
    """Return the rate of what returns a number of calls and the microseconds that they took."""
    # As clock_getcpuclockid(3) does on Linux: /proc counts in ticks of 10 ms.
    clock = (~process.pid << 3) | 2
    before = time.clock_gettime(clock)
    calls, microseconds = run()
    return Rate(calls / microseconds * 1e6, (time.clock_gettime(clock) - before) / calls * 1e6)


def peak_memory(process: psutil.Process, run: Callable[[], Any]) -> float:
    """Return the most MB that a process had in memory while something ran: Linux alone knows."""
    folder = Path("/proc", str(process.pid))
    (folder / "clear_refs").write_text("5", encoding="ascii")  # "reset the peak", see proc(5)
    run()
    status = (folder / "status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


class CalledFromBeam:
    """A contender that processes of the BEAM node `driver` call; bench.erl describes targets."""

    def __init__(self, driver: BeamNode, target: tuple[Any, ...], os_pid: int) -> None:
        self.driver = driver
        self.target = target
        self.process = psutil.Process(os_pid)

    def ask(self, source: str, **bindings: object) -> Any:
        """Evaluate Erlang in the driver; `Target` is ours."""
        return self.driver.eval(source, Target=self.target, timeout=_PATIENCE, **bindings)

    def sample(self, what: Any, seconds: float, at_least: int = 1) -> Spread:
        """As `Contender.sample`."""
        source = "bench:sample(Target, What, Milliseconds, AtLeast)"
        milliseconds = round(seconds * 1000)
        return Spread(*self.ask(source, What=what, Milliseconds=milliseconds, AtLeast=at_least))

    def rate(self, what: Any, callers: int, seconds: float) -> Rate:
        """As `Contender.rate`."""
        source = "bench:rate(Target, What, Callers, Milliseconds)"
        settings = {"What": what, "Callers": callers, "Milliseconds": round(seconds * 1000)}
        return measure_rate(self.process, lambda: self.ask(source, **settings))


class CalledFromPython:
    """A gRPC server, called by threads of this process: there is no client of it on the BEAM."""

    def __init__(self, port: int, os_pid: int) -> None:
        import grpc  # noqa: PLC0415 (an optional package)
        import msgpack  # noqa: PLC0415 (as grpc)

        from benchmarks.peers.grpc_server import OPTIONS  # noqa: PLC0415 (as grpc)

        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
        grpc.channel_ready_future(self._channel).result(_PATIENCE)
        self._call = self._channel.unary_unary("/bench/Call", msgpack.packb, msgpack.unpackb)
        self.process = psutil.Process(os_pid)

    def close(self) -> None:
        """Disconnect."""
        self._channel.close()

    def sample(self, what: Any, seconds: float, at_least: int = 1) -> Spread:
        """As `Contender.sample`."""
        request = _request(what)
        self._call(request)
        took: list[float] = []
        deadline = time.perf_counter() + seconds
        while len(took) < at_least or time.perf_counter() < deadline:
            start = time.perf_counter()
            self._call(request)
            took.append((time.perf_counter() - start) * 1e6)
        took.sort()
        return Spread(took[len(took) // 2], took[len(took) * 99 // 100])

    def rate(self, what: Any, callers: int, seconds: float) -> Rate:
        """As `Contender.rate`."""
        request = _request(what)
        counts = [0] * callers

        def repeat(caller: int) -> None:
            while time.perf_counter() < deadline:
                self._call(request)
                counts[caller] += 1

        def run() -> tuple[int, float]:
            threads = [threading.Thread(target=repeat, args=(each,)) for each in range(callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return sum(counts), (time.perf_counter() - start) * 1e6

        start = time.perf_counter()
        deadline = start + seconds
        return measure_rate(self.process, run)


def _request(what: Any) -> list[Any]:
    """Return what bench.erl requests, for gRPC."""
    if what == "sqrt":
        return ["math", "sqrt", [16]]
    if what == "integers":
        value: Any = list(range(10_000))
    elif what == "maps":
        value = {str(n): {"id": n, "name": "somebody", "active": True} for n in range(1, 101)}
    else:
        kind, size = what
        value = b"\xc8" * size if kind == "bytes" else "x" * size
    return ["benchmarks.targets", "echo", [value]]


class Contenders:
    """All of them, each started when it is first wanted; they end with the ``with`` block."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._cookie = secrets.token_hex(10)
        self._running: dict[str, Contender] = {}

    def __enter__(self) -> Self:
        self._folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pynode-"))
        self._epmd = self._stack.enter_context(Epmd())
        self.driver = self.start_beam()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def get(self, name: str) -> Contender:
        """Return a contender by its name; raises MissingError if it cannot be started."""
        if name not in self._running:
            self._running[name] = _START[name](self)
        return self._running[name]

    def start_beam(self) -> BeamNode:
        """Start a BEAM node that has bench.erl."""
        beam = self._stack.enter_context(BeamNode(cookie=self._cookie, epmd=self._epmd))
        beam.load_module((_FOLDER / "bench.erl").read_text(encoding="utf-8"))
        return beam

    def start_pynode(self) -> PynodeProcess:
        """Start a Python node, as it is configured by default."""
        return self._stack.enter_context(
            PynodeProcess(cookie=self._cookie, epmd=self._epmd, env={"PYTHONPATH": str(_ROOT)})
        )

    def gen_server(self, name: str, os_pid: int) -> CalledFromBeam:
        """Return the contender that is a node."""
        return CalledFromBeam(self.driver, (Atom("gen_server"), Atom(name)), os_pid)

    def node(self) -> CalledFromBeam:
        """Our node, called by gen_server:call."""
        node = self.start_pynode()
        return self.gen_server(node.name, node.os_pid)

    def elixir(self) -> CalledFromBeam:
        """The same node, called by SnakeBridge.call."""
        node = self.get("node")
        assert isinstance(node, CalledFromBeam)
        ours = _ROOT / "elixir_harness/_build/dev/lib/snakebridge/ebin"
        if shutil.which("elixir") is None or not (ours / "Elixir.SnakeBridge.beam").exists():
            raise MissingError(
                "Elixir, or the library in elixir_harness is not compiled: `make bench`"
            )
        ask = ["elixir", "-e", "IO.puts(:code.lib_dir(:elixir))"]
        lib = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        self.driver.eval(
            "[true = code:add_pathz(binary_to_list(Path)) || Path <- Paths],"
            "{ok, _} = application:ensure_all_started(snakebridge),"
            "ok = application:set_env(snakebridge, node, Node)",
            Paths=[f"{lib}/ebin", f"{lib}/../logger/ebin", str(ours)],
            Node=node.target[1],
        )
        return CalledFromBeam(self.driver, (Atom("elixir"), node.target[1]), node.process.pid)

    def beam(self) -> CalledFromBeam:
        """A GenServer on a second BEAM node."""
        peer = self.start_beam()
        peer.eval("bench:start_peer(), ok")
        return self.gen_server(peer.name, peer.os_pid)

    def cnode(self) -> CalledFromBeam:
        """A C-node made with libei."""
        if not Path("/usr/include/ei.h").exists():
            raise MissingError("ei.h (Debian: erlang-dev)")
        program = compile_peer("cnode", self._folder, "-D_REENTRANT", "-lei", "-lpthread", "-lm")
        name = f"c{secrets.token_hex(5)}"
        child = self._start(
            [program, name, self._cookie], clean_environment() | dict(self._epmd.env)
        )
        child.stdout.wait_for("^ready ")
        return self.gen_server(f"{name}@127.0.0.1", child.pid)

    def bare(self) -> CalledFromBeam:
        """A C program that answers on a connection which is made for it, and is no node."""
        program = compile_peer("bare", self._folder)
        name = f"bare{secrets.token_hex(5)}@127.0.0.1"
        with self._connect_driver(name) as connection:
            number = connection.fileno()
            command = [program, str(number), name]
            child = self._start(command, clean_environment(), pass_fds=(number,))
        # The last packet of the handshake may still be on its way there.
        self.driver.eval("true = net_kernel:connect_node(Node)", Node=Atom(name))
        return self.gen_server(name, child.pid)

    def port(self) -> CalledFromBeam:
        """A Python script behind an Erlang port."""
        target, os_pid = self.driver.eval(
            "bench:start_port(Program, Args, binary_to_list(Folder))",
            Program=sys.executable,
            Args=["-m", "benchmarks.peers.port"],
            Folder=str(_ROOT),
        )
        return CalledFromBeam(self.driver, target, os_pid)

    def floor(self) -> CalledFromBeam:
        """Python that echoes bytes over TCP."""
        child, number = self._start_server("floor")
        target = self.driver.eval("bench:start_socket(Number)", Number=number)
        return CalledFromBeam(self.driver, target, child.pid)

    def grpc(self) -> CalledFromPython:
        """A gRPC server in Python."""
        try:
            import grpc  # noqa: F401, PLC0415 (to see whether it is there)
            import msgpack  # noqa: F401, PLC0415 (as grpc)
        except ImportError as error:
            raise MissingError(f"{error.name}: `pip install 'pynode-beam[bench]'`") from None
        child, number = self._start_server("grpc_server")
        contender = CalledFromPython(number, child.pid)
        self._stack.callback(contender.close)
        return contender

    def _connect_driver(self, name: str) -> socket.socket:
        """Return a connection with the driver, which takes it for that of a hidden node."""
        alive, _, host = self.driver.name.partition("@")
        port = EpmdClient(port=self._epmd.port).lookup(alive)
        connection = socket.create_connection((host, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handshake = Handshake.initiator(name, self.driver.name, self._cookie, DEFAULT, 1)
        while handshake.next_event() is NEED_DATA:
            connection.sendall(handshake.data_to_send())
            handshake.receive_data(connection.recv(1))  # And nothing of what follows it.
        return connection

    def _start_server(self, module: str) -> tuple[Child, int]:
        """Start a Python server; return it and the number of its port."""
        command = [sys.executable, "-m", f"benchmarks.peers.{module}"]
        child = self._start(command, os.environ | {"PYTHONPATH": str(_ROOT)})
        return child, int(child.stdout.wait_for(r"^ready (\d+)$")[1])

    def _start(
        self, command: list[str], environment: Mapping[str, str], pass_fds: Collection[int] = ()
    ) -> Child:
        return self._stack.enter_context(Child(command, env=environment, pass_fds=pass_fds))


def compile_peer(name: str, folder: str, *options: str) -> str:
    """Compile a C program of `peers` into `folder`; return its path. Raises MissingError."""
    gcc = shutil.which("gcc")
    if gcc is None:
        raise MissingError("gcc")
    program = f"{folder}/{name}"
    command = [gcc, "-O2", "-Wall", "-o", program, str(_PEERS / f"{name}.c")]
    subprocess.run([*command, *options], check=True)
    return program


_START: dict[str, Callable[[Contenders], Contender]] = {
    "node": Contenders.node,
    "elixir": Contenders.elixir,
    "beam": Contenders.beam,
    "cnode": Contenders.cnode,
    "bare": Contenders.bare,
    "port": Contenders.port,
    "floor": Contenders.floor,
    "grpc": Contenders.grpc,
}
#: The names, and what they stand for.
TITLES = {
    "node": "pynode, GenServer.call",
    "elixir": "pynode, SnakeBridge.call",
    "beam": "BEAM peer",
    "cnode": "C-node (libei)",
    "bare": "bare answers in C",
    "port": "Python behind a port",
    "floor": "Python echoing bytes",
    "grpc": "gRPC (Python to Python)",
    "etf-c": "etf, compiled",
    "etf-python": "etf, pure Python",
    "msgpack": "msgpack",
}
