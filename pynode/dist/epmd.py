"""EPMD over sockets: a client, and a small server for hosts that have no Erlang.

The messages are in `pynode.protocol.epmd`. Functions block, with a timeout in seconds.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import secrets
import selectors
import socket
import threading
import time
from errno import EADDRINUSE
from typing import TYPE_CHECKING, Final, Self, TypeVar

from pynode import config
from pynode.dist.sockets import connect
from pynode.errors import EpmdError, EpmdUnavailableError, NameTakenError, RemoteProtocolError
from pynode.posix import not_for_children
from pynode.protocol import epmd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

LOOPBACK: Final = "127.0.0.1"
LOOPBACK6: Final = "::1"
#: Seconds that EPMD has to give a name back.
_CLOSE_TIMEOUT: Final = 1.0
#: Bytes that one answer of an EPMD may have; it is the list of names that can be long.
MAX_ANSWER: Final = config.LIMITS.epmd_answer

_log = logging.getLogger(__name__)


def epmd_port() -> int:
    """Return the port of EPMD: ``ERL_EPMD_PORT``, or 4369. Raises ValueError if that is none."""
    port = config.from_environment("ERL_EPMD_PORT", config.EPMD_PORT)
    if not 0 < port <= 0xFFFF:
        raise ValueError(f"ERL_EPMD_PORT is {port}: set it to a port from 1 to 65535, or unset it.")
    return port


class EpmdClient:
    """Asks the EPMD of one host; `port` is `epmd_port()` unless it is passed.

    All methods raise EpmdUnavailableError when nothing answers, and EpmdError when the answer
    is none. Names are the part of a node name before the ``@``; ValueError for other ones.
    """

    def __init__(self, host: str = LOOPBACK, port: int | None = None) -> None:
        self.host = host
        self.port = epmd_port() if port is None else port

    def __repr__(self) -> str:
        return f"EpmdClient({self.host!r}, {self.port})"

    def lookup(self, name: str, *, timeout: float = config.NET_SETUPTIME) -> int | None:
        """Return the port that the node `name` listens at, None if there is no such node.

        Raises EpmdError for a node that speaks no version of the protocol that we do.
        """
        request = epmd.PortPlease2Req(name).encode()
        with _Connection(self.host, self.port, timeout) as connection:
            node = connection.ask(request, epmd.parse_port2_resp).node
        if node is None:
            return None
        if not node.lowest <= epmd.VERSION <= node.highest:
            raise EpmdError(
                f"Node {name} on {self.host} speaks versions {node.lowest} to {node.highest} of "
                f"the distribution protocol, not {epmd.VERSION}; run it on OTP 25 or later."
            )
        return node.port

    def names(self, *, timeout: float = config.NET_SETUPTIME) -> list[epmd.NodeEntry]:
        """Return all nodes of the host, with the ports that they listen at."""
        with _Connection(self.host, self.port, timeout) as connection:
            answer = connection.ask_all(epmd.NamesReq().encode())
        try:
            return list(epmd.parse_names_resp(answer).nodes)
        except RemoteProtocolError as error:
            raise EpmdError(str(error)) from None

    def register(
        self,
        name: str,
        port: int,
        *,
        hidden: bool = True,
        timeout: float = config.NET_SETUPTIME,
        on_lost: Callable[[], None] | None = None,
    ) -> Registration:
        """Register the node `name`, which listens at `port`; it stays until the result is closed.

        `on_lost` is called, once and on the registration's own thread, when EPMD goes away: then
        register again, and keep the creation that the node has, as OTP does.
        Raises NameTakenError when a living node has the name.
        """
        node_type = epmd.HIDDEN if hidden else epmd.NORMAL
        request = epmd.Alive2Req(port, name, node_type).encode()
        with _Connection(self.host, self.port, timeout) as connection:
            answer = connection.ask(request, epmd.parse_alive2_resp)
            if answer.result:
                raise NameTakenError(
                    f"The name {name} is taken: another living node has it, says the EPMD at "
                    f"{self.host}:{self.port}; stop that node, or use another name."
                )
            return Registration(name, answer.creation, connection.detach(), on_lost)


class Registration:
    """A name that is held at an EPMD. `closed` is set when it is not held any more."""

    def __init__(
        self, name: str, creation: int, sock: socket.socket, on_lost: Callable[[], None] | None
    ) -> None:
        self.name = name
        #: The 32 bits that tell this incarnation of the node from earlier ones.
        self.creation = creation
        self.closed = threading.Event()
        not_for_children(sock)
        self._sock = sock
        self._on_lost = on_lost
        self._closing = False
        threading.Thread(
            target=self._watch, name=f"epmd registration of {name}", daemon=True
        ).start()

    def __repr__(self) -> str:
        return f"<Registration of {self.name}: {'closed' if self.closed.is_set() else 'held'}>"

    def close(self) -> None:
        """Give the name back. Doing it twice is harmless."""
        self._closing = True
        # EPMD closes its end when it has taken note: the name is free from then on.
        _shutdown(self._sock, socket.SHUT_WR)
        if not self.closed.wait(_CLOSE_TIMEOUT):
            # Ends the recv in the other thread, which close alone would not.
            _shutdown(self._sock)
            self.closed.wait()

    def _watch(self) -> None:
        # EPMD has nothing to say on this connection: only its end matters.
        with self._sock:
            while _receive(self._sock):
                pass
        self.closed.set()
        if not self._closing:
            _log.warning("EPMD has gone, and with it the name %s", self.name)
            if self._on_lost is not None:
                self._on_lost()


class _Connection:
    """A client's connection to an EPMD, for one request; all of it within `timeout`."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self._where = f"{host}:{port}"
        self._deadline = time.monotonic() + timeout
        try:
            self._sock = connect(host, port, self._deadline)
        except socket.gaierror as error:
            raise EpmdUnavailableError(
                f"The host {host} is not known ({error.strerror}); check the spelling of the "
                "node name, or add the host to /etc/hosts or the DNS."
            ) from None
        except OSError as error:
            raise EpmdUnavailableError(
                f"No EPMD answers at {self._where} ({error}); start one there with "
                "'epmd -daemon', or set ERL_EPMD_PORT to the port that it uses."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def detach(self) -> socket.socket:
        """Return the socket, which now blocks and is the caller's."""
        sock = socket.socket(fileno=self._sock.detach())
        sock.settimeout(None)
        return sock

    def ask(self, request: bytes, parse: Callable[[bytes], T | None]) -> T:
        """Send `request` and return what `parse` makes of the answer."""
        received = b""
        with self._errors():
            self._send(request)
            while (answer := parse(received)) is None:
                data = self._receive()
                if not data:
                    raise EpmdError(
                        f"The EPMD at {self._where} closed the connection without a whole answer; "
                        "check that this is EPMD's port, and that it is this host's if a node "
                        "registers."
                    )
                received += data
        return answer

    def ask_all(self, request: bytes) -> bytes:
        """Send `request` and return all that comes until the connection is closed."""
        received = bytearray()
        with self._errors():
            self._send(request)
            while data := self._receive():
                received += data
                if len(received) > MAX_ANSWER:
                    raise EpmdError(
                        f"The EPMD at {self._where} sent more than {MAX_ANSWER} bytes; "
                        "check that this is EPMD's port."
                    )
        return bytes(received)

    def _send(self, data: bytes) -> None:
        self._sock.settimeout(self._remaining())
        self._sock.sendall(data)

    def _receive(self) -> bytes:
        self._sock.settimeout(self._remaining())
        return self._sock.recv(65536)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise EpmdUnavailableError(
                f"The EPMD at {self._where} did not answer in time; "
                "check that this is EPMD's port, and try again."
            ) from None
        except OSError as error:
            raise EpmdUnavailableError(
                f"The connection to the EPMD at {self._where} broke ({error}); "
                "check that it still runs, and try again."
            ) from None
        except RemoteProtocolError as error:
            raise EpmdError(str(error)) from None

    def _remaining(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        return remaining


class EpmdServer:
    """A small EPMD in this process, for hosts without Erlang. It runs until `close()`.

    A name is taken as long as the connection that registered it is open. Nodes register from
    this host only; who may look them up depends on `host`, the address to listen at. It listens
    at the addresses in `also` as well, as far as this machine has them. It cannot be killed over
    the protocol. What it holds is bounded: `limits.epmd_names` names, `limits.handshakes` clients
    that have not registered (the oldest gives way to a new one), and `timeout` seconds for each
    of these.

    `port` is `epmd_port()` unless it is passed; 0 takes a free one. Raises EpmdError if it cannot
    listen.
    """

    def __init__(
        self,
        host: str = LOOPBACK,
        port: int | None = None,
        *,
        also: Sequence[str] = (),
        limits: config.Limits = config.LIMITS,
        timeout: float = config.NET_SETUPTIME,
    ) -> None:
        wanted = epmd_port() if port is None else port
        try:
            self._listeners = [_listen(host, wanted)]
        except OSError as error:
            raise EpmdError(
                f"An EPMD cannot listen at {host}:{wanted} ({error}); use the one that runs "
                "there, or set ERL_EPMD_PORT to another port."
            ) from error
        self.host = host
        self.port: int = self._listeners[0].getsockname()[1]
        for other in also:
            try:
                self._listeners.append(_listen(other, self.port))
            except OSError as error:  # There may be no IPv6.
                _log.debug("EPMD does not listen at %s: %s", other, error)
        self._limits = limits
        self._timeout = timeout
        #: A counter from a random start: no registration has the creation of an earlier one.
        self._creation = secrets.randbits(32)
        self._nodes: dict[str, _Client] = {}
        #: Clients that have not registered, oldest first.
        self._waiting: dict[_Client, None] = {}
        self._closing = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for listener in self._listeners:
            self._selector.register(listener, selectors.EVENT_READ, listener)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="epmd", daemon=True)
        self._thread.start()

    @classmethod
    def start_or_none(
        cls, host: str = LOOPBACK, port: int | None = None, *, also: Sequence[str] = ()
    ) -> EpmdServer | None:
        """Return a running server, or None when the port is taken: another EPMD runs then."""
        try:
            return cls(host, port, also=also)
        except EpmdError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == EADDRINUSE:
                return None
            raise

    def __repr__(self) -> str:
        return f"<EpmdServer at {self.host}:{self.port}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; all names are free. Doing it twice is harmless."""
        self._closing.set()
        _shutdown(self._wake)
        self._thread.join()
        self._wake.close()

    # All that follows runs on the server's thread.

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                for key, _ in self._selector.select(self._until_deadline()):
                    if isinstance(key.data, _Client):
                        self._serve(key.data)
                    elif isinstance(key.data, socket.socket):
                        self._accept(key.data)
                self._expire()
        finally:
            # The port is free before any node hears that this EPMD has gone, and starts another.
            for listener in self._listeners:
                listener.close()
            for client in [*self._waiting, *self._nodes.values()]:
                client.sock.close()
            self._selector.close()
            self._woken.close()

    def _until_deadline(self) -> float | None:
        oldest = next(iter(self._waiting), None)
        return None if oldest is None else max(0.0, oldest.deadline - time.monotonic())

    def _expire(self) -> None:
        while self._waiting and self._until_deadline() == 0:
            self._drop(next(iter(self._waiting)))

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            # There are no descriptors left, most likely: do not spin until there are.
            _log.debug("EPMD cannot accept a connection: %s", error)
            self._closing.wait(0.1)
            return
        not_for_children(sock)
        sock.settimeout(0)
        if len(self._waiting) >= self._limits.handshakes:
            self._drop(next(iter(self._waiting)))
        client = _Client(sock, time.monotonic() + self._timeout)
        self._waiting[client] = None
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _serve(self, client: _Client) -> None:
        if client.sock.fileno() < 0:
            return  # Dropped by what another client did in the same round.
        if client.answer:
            self._flush(client)
            return
        data = _receive(client.sock)
        if data is None:
            return
        # A node that has registered has nothing more to say, as in OTP's epmd.
        if not data or client.node is not None:
            self._drop(client)
            return
        client.received += data
        try:
            request = epmd.parse_request(client.received, self._limits.handshake_packet)
        except RemoteProtocolError as error:
            _log.warning("EPMD closes a connection: %s", error)
            self._drop(client)
            return
        if isinstance(request, epmd.Alive2Req):
            self._register(client, request)
        elif request is not None:
            client.answer = self._answer(request)
            self._flush(client)

    def _answer(self, request: epmd.PortPlease2Req | epmd.NamesReq | epmd.KillReq) -> bytes:
        if isinstance(request, epmd.KillReq):
            return epmd.KILL_REFUSED
        if isinstance(request, epmd.PortPlease2Req):
            holder = self._nodes.get(request.name)
            return epmd.Port2Resp(None if holder is None else holder.node).encode()
        nodes = [client.node for client in self._nodes.values() if client.node is not None]
        entries = (epmd.NodeEntry(node.name, node.port) for node in nodes)
        return epmd.NamesResp(self.port, tuple(entries)).encode()

    def _register(self, client: _Client, node: epmd.Alive2Req) -> None:
        if not _is_local(client.sock):
            _log.warning("EPMD refused %s, which wants to register from another host", node.name)
            self._drop(client)
            return
        holder = self._nodes.get(node.name)
        if holder is not None:
            # It may have closed its connection, and the news may not have been read yet.
            self._serve(holder)
        if node.name in self._nodes or len(self._nodes) >= self._limits.epmd_names:
            client.answer = epmd.Alive2Resp(1, 0).encode(node.highest)
            self._flush(client)
            return
        del self._waiting[client]
        client.node = node
        self._nodes[node.name] = client
        answer = epmd.Alive2Resp(0, self._next_creation()).encode(node.highest)
        if _send(client.sock, answer) != len(answer):
            self._drop(client)

    def _next_creation(self) -> int:
        # Values below 4 are those of nodes before OTP 23, and 0 matches any.
        self._creation = max(4, (self._creation + 1) & 0xFFFFFFFF)
        return self._creation

    def _flush(self, client: _Client) -> None:
        """Write of the answer what can be written; at its end the connection is closed."""
        sent = _send(client.sock, client.answer)
        if sent is None or sent == len(client.answer):
            self._drop(client)
            return
        client.answer = client.answer[sent:]
        self._selector.modify(client.sock, selectors.EVENT_WRITE, client)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.sock)
        client.sock.close()
        self._waiting.pop(client, None)
        if client.node is not None:
            del self._nodes[client.node.name]


class _Client:
    """A connection to the server, and the node that it stands for once it has registered."""

    __slots__ = ("answer", "deadline", "node", "received", "sock")

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.received = bytearray()
        self.answer = b""
        self.node: epmd.Alive2Req | None = None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    not_for_children(listener)
    listener.settimeout(0)
    return listener


def _is_local(sock: socket.socket) -> bool:
    try:
        peer: str = sock.getpeername()[0]
        return peer == sock.getsockname()[0] or ipaddress.ip_address(peer).is_loopback
    except OSError:
        return False


def _receive(sock: socket.socket) -> bytes | None:
    """Return what has arrived; b"" at the end, however it came; None if nothing is there yet."""
    try:
        return sock.recv(4096)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _send(sock: socket.socket, data: bytes) -> int | None:
    """Return how many bytes could be written; None if the connection is broken."""
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0
    except OSError:
        return None


def _shutdown(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with contextlib.suppress(OSError):  # It may be closed already.
        sock.shutdown(how)
