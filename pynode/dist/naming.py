"""Where nodes are: how others find this one, and how it finds others.

`EpmdNaming` asks EPMD, as nodes do unless they are told otherwise; where no EPMD runs it starts a
small one. `StaticNaming` needs none: the ports are known beforehand (``erl -start_epmd false
-erl_epmd_port PORT``; see ``erl_epmd.erl``).
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from pynode import config
from pynode.dist.epmd import LOOPBACK, LOOPBACK6, EpmdClient, EpmdServer, Registration
from pynode.errors import EpmdError, EpmdUnavailableError, NameTakenError, NodeUnavailableError
from pynode.protocol.names import is_long, is_node_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

_ALL = "0.0.0.0"  # noqa: S104
_ALL6 = "::"
#: Seconds between attempts to register again with an EPMD that has gone.
_RETRY: Final = 1.0
_HIGHEST_PORT: Final = 0xFFFF


class Naming(ABC):
    """How the node `name` is found, and finds others."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def register(self, port: int) -> int:
        """Let others find this node at `port`; return the creation of this incarnation.

        Raises EpmdError.
        """

    def resolve(self, peer: str) -> tuple[str, int]:
        """Return host and port of the node `peer`. Raises NodeUnavailableError."""
        if not is_node_name(peer):
            raise NodeUnavailableError(
                f"{peer!r} is no node name: use the form name@host.", node=peer
            )
        if is_long(peer) != is_long(self.name):
            raise NodeUnavailableError(
                f"{self.name} has a {kind_of_name(self.name)} name and {peer} a "
                f"{kind_of_name(peer)} one, and such nodes do not connect: give the hosts of both "
                "a dot (as for erl -name), or neither (-sname).",
                node=peer,
            )
        alive, _, host = peer.partition("@")
        return host, self._port(alive, host)

    @abstractmethod
    def _port(self, alive: str, host: str) -> int:
        """Return the port of the node ``alive@host``. Raises NodeUnavailableError."""

    @abstractmethod
    def close(self) -> None:
        """Let nobody find this node any more. Doing it twice is harmless."""


def kind_of_name(name: str) -> str:
    """Return "long" or "short"."""
    return "long" if is_long(name) else "short"


def new_creation() -> int:
    """Draw the creation of a node that EPMD gives none (`create_creation` in net_kernel.erl)."""
    # Values below 4 are those of nodes before OTP 23, and 0 matches any.
    return 4 + secrets.randbelow((1 << 32) - 4)


class StaticNaming(Naming):
    """Ports that are known beforehand: no EPMD is told or asked anything.

    `peers` are the ports of other nodes by their names, or one port at which each node listens
    on its host. Raises ValueError for names and ports that are none.
    """

    def __init__(self, name: str, peers: Mapping[str, int] | int | None) -> None:
        super().__init__(name)
        self._default = peers if isinstance(peers, int) else None
        self._ports = {} if peers is None or isinstance(peers, int) else dict(peers)
        for peer in self._ports:
            if not is_node_name(peer):
                raise ValueError(f"{peer!r} in peers is no node name: use the form name@host.")
        for port in self._ports.values() if self._default is None else [self._default]:
            if not 0 < port <= _HIGHEST_PORT:
                raise ValueError(f"{port} in peers is no port: use one from 1 to {_HIGHEST_PORT}.")

    def register(self, port: int) -> int:  # noqa: ARG002
        """See `Naming.register`; nobody is told."""
        return new_creation()

    def _port(self, alive: str, host: str) -> int:
        peer = f"{alive}@{host}"
        port = self._ports.get(peer, self._default)
        if port is None:
            raise NodeUnavailableError(
                f"The port of {peer} is not known, and this node asks no EPMD: "
                f"start it with peers={{{peer!r}: PORT}} (--peer-port).",
                node=peer,
            )
        return port

    def close(self) -> None:
        """See `Naming.close`."""


class EpmdNaming(Naming):
    """The EPMD of each host knows its nodes.

    `listen` is the address at which the node listens. If no EPMD answers on this machine, one is
    started here; it lasts as long as this. When EPMD goes away, the node registers again as soon
    as there is one, with `submit` (run a function that may block) and `after` (call one later,
    which may not) of the engine. It keeps its creation then, as OTP does.
    """

    def __init__(
        self,
        name: str,
        *,
        listen: str,
        hidden: bool,
        submit: Callable[[Callable[[], object]], None],
        after: Callable[[float, Callable[[], None]], None],
    ) -> None:
        super().__init__(name)
        self._listen = listen
        self._hidden = hidden
        self._submit = submit
        self._after = after
        self._listens_at = 0
        self._lock = threading.Lock()
        self._registration: Registration | None = None
        self._server: EpmdServer | None = None
        self._closed = False

    def register(self, port: int) -> int:
        """See `Naming.register`. Takes NET_SETUPTIME at most.

        Raises NameTakenError if a living node has the name.
        """
        self._listens_at = port
        return self._register().creation

    def close(self) -> None:
        """See `Naming.close`."""
        with self._lock:
            self._closed = True
            if self._registration is not None:
                self._registration.close()
            if self._server is not None:
                self._server.close()

    def _port(self, alive: str, host: str) -> int:
        try:
            port = EpmdClient(host).lookup(alive, timeout=config.NET_SETUPTIME)
        except EpmdError as error:
            raise NodeUnavailableError(str(error), node=f"{alive}@{host}") from error
        if port is None:
            raise NodeUnavailableError(
                f"No node {alive} is registered at {host}: start it, or check the spelling.",
                node=f"{alive}@{host}",
            )
        return port

    def _register(self) -> Registration:
        started = time.monotonic()
        try:
            registration = self._ask(config.NET_SETUPTIME)
        except EpmdUnavailableError:
            waited = time.monotonic() - started
            if waited > config.NET_SETUPTIME / 2:
                raise  # There is one, and it does not answer.
            # No Erlang on this machine, or none that runs: be the port mapper ourselves. Of nodes
            # that find this out at the same time, one is.
            self._serve()
            registration = self._ask(config.NET_SETUPTIME - waited)
        with self._lock:
            self._registration = registration
            if self._closed:
                registration.close()
        return registration

    def _ask(self, timeout: float) -> Registration:
        """Register with an EPMD of this machine; as in OTP, at the loopback address."""
        deadline = time.monotonic() + timeout
        if ":" in self._listen:
            try:
                return self._ask_at(LOOPBACK6, deadline)
            except EpmdUnavailableError as error:
                log.debug("%s", error)
        return self._ask_at(LOOPBACK, deadline)

    def _ask_at(self, host: str, deadline: float) -> Registration:
        return EpmdClient(host).register(
            self.name.partition("@")[0],
            self._listens_at,
            hidden=self._hidden,
            timeout=max(0.001, deadline - time.monotonic()),
            on_lost=self._lost,
        )

    def _serve(self) -> None:
        """Be an EPMD, unless there is one.

        Who can reach the node can reach it, too. It lets nodes of this machine alone register.
        """
        with self._lock:
            if self._server is None and not self._closed:
                host, also = _epmd_addresses(self._listen)
                self._server = EpmdServer.start_or_none(host, also=[also])

    def _lost(self) -> None:
        if not self._closed:
            self._submit(self._register_again)

    def _register_again(self) -> None:
        if self._closed:
            return
        try:
            self._register()
            log.info("%s is registered with EPMD again", self.name)
        except EpmdError as error:
            level = logging.WARNING if isinstance(error, NameTakenError) else logging.DEBUG
            log.log(level, "%s is not registered with EPMD again yet: %s", self.name, error)
            self._after(_RETRY, lambda: self._submit(self._register_again))


def _epmd_addresses(listen: str) -> tuple[str, str]:
    """Return where an EPMD is to listen for a node at `listen`: in its family, and the other."""
    far = not _is_loopback(listen)
    if ":" not in listen:
        return (_ALL if far else LOOPBACK), LOOPBACK6
    return (_ALL6 if far else LOOPBACK6), (_ALL if listen == _ALL6 else LOOPBACK)


def _is_loopback(address: str) -> bool:
    """Whether what listens at `address`, which may be a name, is reached from here alone."""
    found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    return all(ipaddress.ip_address(each[4][0]).is_loopback for each in found)
