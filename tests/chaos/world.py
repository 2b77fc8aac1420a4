"""Three BEAM nodes and two Python nodes, each on a host of its own, and all that can befall them.

Whoever drives them sees everything: the control channels of `BeamNode` and `tests.chaos.probe` do
not go over the network, so a cut cable does not concern them.
"""

from __future__ import annotations

import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pynode.terms import Atom
from pynode.testing import (
    BeamNode,
    Epmd,
    Network,
    PynodeProcess,
    find_runtimes,
    wait_until,
    why_no_network,
)
from tests.chaos import probe
from tests.chaos.schedule import BEAMS, HOSTS

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from pynode.testing.netns import Host

#: Seconds of silence after which a node is lost; a busy machine is not silent for so long.
TICKTIME = 4
#: Seconds that anything may take to be noticed or mended, connecting anew included.
PATIENCE = 40.0

#: Where nodes listen that have a host of their own; so they need no EPMD.
_PORT = 9100
_ROOT = Path(__file__).parents[2]


class World:
    """All nodes, running, until `close` or the end of a ``with``.

    Without the rights to have network namespaces they are all on the loopback interface, and no
    link can be cut: `why_uncuttable` says why.
    """

    def __init__(self) -> None:
        self.why_uncuttable = why_no_network()
        self.beams: dict[str, BeamNode] = {}
        self.pythons: dict[str, PynodeProcess] = {}
        self.cuts: set[frozenset[str]] = set()
        self._probes: dict[str, Connection] = {}
        self._cookie = secrets.token_hex(10)
        self._hosts: dict[str, Host] = {}
        with ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(prefix="pynode-chaos-")
            self._directory = Path(stack.enter_context(temporary))
            if self.why_uncuttable is None:
                self._network = stack.enter_context(Network(len(HOSTS)))
                self._hosts = dict(zip(HOSTS, self._network.hosts, strict=True))
                self.names = {name: f"{name}@{host.address}" for name, host in self._hosts.items()}
            else:
                self._epmd = stack.enter_context(Epmd())
                self.names = {name: f"{name}@127.0.0.1" for name in HOSTS}
            self._stack = stack
            stack.callback(self._end_nodes)
            find_runtimes()  # Once, before all threads want to know.
            with ThreadPoolExecutor() as pool:
                list(pool.map(self.boot, HOSTS))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End all nodes."""
        self._stack.close()

    def _end_nodes(self) -> None:
        for beam in self.beams.values():
            beam.kill()
        for python in self.pythons.values():
            python.kill()

    # --- nodes

    def boot(self, name: str) -> None:
        """Start a node that is not running."""
        host = self._hosts.get(name)
        options: dict[str, Any] = {"cookie": self._cookie}
        if host is None:
            options |= {"epmd": self._epmd}
        else:
            options |= {"prefix": host.prefix}
        if name in BEAMS:
            runtimes = find_runtimes()
            flags = [f"-kernel net_ticktime {TICKTIME} prevent_overlapping_partitions false"]
            flags = " ".join([*flags, "-connect_all false"]).split()
            if host is not None:
                flags += ["-erl_epmd_port", str(_PORT)]
                options |= {"listen": host.address, "env": {"ERL_EPMD_PORT": "1"}}
            # The last one is of the newest runtime that is there.
            runtime = runtimes[-1 if name == BEAMS[-1] else 0]
            self.beams[name] = BeamNode(self.names[name], runtime=runtime, flags=flags, **options)
        else:
            socket = str(self._directory / f"{name}.{secrets.token_hex(4)}")
            args = ["--setup", "tests.chaos.probe:setup", "--net-ticktime", str(TICKTIME)]
            if host is not None:
                args += ["--listen", host.address, "--port", str(_PORT)]
                args += ["--no-epmd", "--peer-port", str(_PORT)]
            env = {"CHAOS_SOCKET": socket, "PYTHONPATH": str(_ROOT)}
            self.pythons[name] = PynodeProcess(self.names[name], *args, env=env, **options)
            self._probes[name] = probe.connect(socket)

    def crash(self, name: str) -> None:
        """End a node with SIGKILL."""
        if name in BEAMS:
            self.beams.pop(name).kill()
        else:
            self.pythons.pop(name).kill()
            self._probes.pop(name).close()

    def is_up(self, name: str) -> bool:
        """Whether a node is running."""
        return name in self.beams or name in self.pythons

    def ask(self, python: str, what: str, *args: object) -> Any:
        """Ask the probe of a Python node."""
        return probe.ask(self._probes[python], what, *args)

    # --- links

    def cut(self, one: str, other: str) -> None:
        """Drop all packets between two hosts from now on."""
        self._network.cut(self._hosts[one], self._hosts[other])
        self.cuts.add(frozenset((one, other)))

    def restore(self, one: str, other: str) -> None:
        """Mend what `cut` has done."""
        self._network.restore(self._hosts[one], self._hosts[other])
        self.cuts.remove(frozenset((one, other)))

    def is_linked(self, one: str, other: str) -> bool:
        """Whether both nodes are running, and the link between them is not cut."""
        return self.is_up(one) and self.is_up(other) and frozenset((one, other)) not in self.cuts

    def connect(self, beam: str, other: str) -> None:
        """Wait until a BEAM is connected with another node, by a connection that works."""
        source, name = "net_adm:ping(N)", Atom(self.names[other])

        def has_answered() -> bool:
            return bool(self.beams[beam].eval(source, N=name) == Atom("pong"))

        wait_until(has_answered, PATIENCE)

    def wait_lost(self, beam: str, python: str) -> None:
        """Wait until a Python node has noticed that a BEAM cannot be reached."""
        wait_until(lambda: self.names[beam] not in self.ask(python, "nodes"), PATIENCE)
