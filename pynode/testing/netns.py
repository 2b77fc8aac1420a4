"""Two machines in one, and a cable between them that can be cut: network namespaces of Linux.

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
from contextlib import ExitStack
from typing import Final, Self

from pynode.testing.children import Child, ChildExitedError

_LINK: Final = "veth0"
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
    """One of the machines. Its loopback interface is its own; `address` is how the other sees it.

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
    """The hosts `one` and `other`, from construction until `close` or the end of a ``with``."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            self.one = Host("10.0.0.1")
            stack.callback(self.one.close)
            self.other = Host("10.0.0.2")
            stack.callback(self.other.close)
            far_end = ("peer", "name", _LINK, "netns", str(self.other.os_pid))
            self.one.run("ip", "link", "add", _LINK, "type", "veth", *far_end)
            for host in (self.one, self.other):
                host.run("ip", "address", "add", f"{host.address}/24", "dev", _LINK)
                host.run("ip", "link", "set", _LINK, "up")
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of both hosts."""
        self._stack.close()

    def cut(self) -> None:
        """Drop all packets between the hosts from now on.

        Neither notices: connections stay open, and nothing is refused or unreachable, because
        the packets leave as ever, only for a hardware address that nobody has.
        """
        for host, other in ((self.one, self.other), (self.other, self.one)):
            neighbour = ("neighbour", "replace", other.address, "lladdr", _NOBODY)
            host.run("ip", *neighbour, "dev", _LINK, "nud", "permanent")

    def restore(self) -> None:
        """Mend what `cut` has done."""
        for host, other in ((self.one, self.other), (self.other, self.one)):
            host.run("ip", "neighbour", "delete", other.address, "dev", _LINK)
