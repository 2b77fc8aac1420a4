"""Several machines in one, and cables between them that can be cut: network namespaces of Linux.

::

    with Network() as network:
        with BeamNode(f"a@{network.one.address}", prefix=network.one.prefix, ...):
            network.cut()

Each namespace is held by a process of its own and has no name, so nothing of it stays behind when
the tests end, however they do. It takes root, and the programs ``ip``, ``unshare`` and ``nsenter``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, closing
from typing import Final, Self

from pynode.testing.children import Child, ChildExitedError

_LINK: Final = "veth0"
_SWITCH: Final = "switch"
#: A hardware address that nobody has.
_NOBODY: Final = "02:00:00:00:00:00"


def why_no_network() -> str | None:
    """Return why this process cannot have a `Network`, None if it can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    missing = [program for program in ("ip", "unshare", "nsenter") if not shutil.which(program)]
    if missing:
        return f"{', '.join(missing)} not found: install iproute2 and util-linux"
    if os.geteuid() != 0:
        return "network namespaces need root: run the tests as root, as CI does"
    return None


class Host:
    """One of the machines. Its loopback interface is its own; `address` is how others see it.

    Raises ChildExitedError when the system does not allow a namespace.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._holder = Child(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
            env=dict(os.environ),
        )
        try:
            self._holder.stdout.wait_for("^up$")
        except (TimeoutError, ChildExitedError) as error:
            self._holder.kill()
            message = f"There is no network namespace to be had:\n{self._holder.output}"
            raise ChildExitedError(message) from error

    def __repr__(self) -> str:
        return f"<Host {self.address}>"

    @property
    def os_pid(self) -> int:
        """The process id of the process that holds the namespace."""
        return self._holder.pid

    @property
    def prefix(self) -> list[str]:
        """What to put before a command, so that it runs there. The process id stays the same."""
        return ["nsenter", f"--net=/proc/{self.os_pid}/ns/net"]

    def run(self, *command: str) -> str:
        """Run a command there and return what it prints; CalledProcessError if it fails."""
        return subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, timeout=10, check=True
        ).stdout

    def close(self) -> None:
        """Let go of the namespace; it ends with the last process in it."""
        self._holder.kill()


class Network:
    """`count` hosts on one switch, from construction until `close` or the end of a ``with``.

    `hosts` has them all; the first two are also called `one` and `other`.
    """

    def __init__(self, count: int = 2) -> None:
        with ExitStack() as stack:
            # The switch is a machine, too, with a cable to each of the others.
            switch = stack.enter_context(closing(Host("")))
            bridge = ("name", _SWITCH, "type", "bridge", "forward_delay", "0")
            switch.run("ip", "link", "add", *bridge)
            switch.run("ip", "link", "set", _SWITCH, "up")
            self.hosts: list[Host] = []
            for number in range(1, count + 1):
                host = stack.enter_context(closing(Host(f"10.0.0.{number}")))
                port = f"port{number}"
                far_end = ("peer", "name", _LINK, "netns", str(host.os_pid))
                switch.run("ip", "link", "add", port, "type", "veth", *far_end)
                switch.run("ip", "link", "set", port, "master", _SWITCH, "up")
                host.run("ip", "address", "add", f"{host.address}/24", "dev", _LINK)
                host.run("ip", "link", "set", _LINK, "up")
                self.hosts.append(host)
            self.one, self.other = self.hosts[:2]
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all hosts."""
        self._stack.close()

    def cut(self, one: Host | None = None, other: Host | None = None) -> None:
        """Drop all packets between two hosts from now on, by default between the first two.

        Neither notices: connections stay open, and nothing is refused or unreachable, because
        the packets leave as ever, only for a hardware address that nobody has.
        """
        for host, far in self._both_ways(one, other):
            neighbour = ("neighbour", "replace", far.address, "lladdr", _NOBODY)
            host.run("ip", *neighbour, "dev", _LINK, "nud", "permanent")

    def restore(self, one: Host | None = None, other: Host | None = None) -> None:
        """Mend what `cut` has done."""
        for host, far in self._both_ways(one, other):
            host.run("ip", "neighbour", "delete", far.address, "dev", _LINK)

    def _both_ways(self, one: Host | None, other: Host | None) -> list[tuple[Host, Host]]:
        one, other = one or self.one, other or self.other
        return [(one, other), (other, one)]
