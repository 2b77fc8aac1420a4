"""The connection table: who this node is connected with, and how connections come about.

What `net_kernel` keeps in a BEAM. A connection is made by `connect`, or by a peer; both lead to
the handshake, which needs a decision from here when a connection with that peer exists already
(``alive``) or is being made in the other direction at the same time (the node with the greater
name goes on; ``ok_simultaneous`` and ``nok`` in `dist_util.erl`).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from pynode import config
from pynode.dist.connection import Connection
from pynode.dist.naming import kind_of_name, new_creation
from pynode.dist.sockets import connect, tune
from pynode.dist.ticks import Ticker
from pynode.dist.tls import TlsLayer
from pynode.errors import HandshakeError, ListenError, NodeUnavailableError
from pynode.posix import not_for_children
from pynode.protocol.flags import DFlag
from pynode.protocol.handshake import NEED_DATA as HANDSHAKE_NEEDS_DATA
from pynode.protocol.handshake import (
    Established,
    Handshake,
    Named,
    PeerName,
    Status,
    StatusAlive,
)
from pynode.protocol.names import is_long, is_node_name
from pynode.terms import Atom

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.dist.engine import Engine
    from pynode.dist.task import Task
    from pynode.dist.tls import Tls, TlsSocket
    from pynode.protocol.channel import Message

log = logging.getLogger(__name__)


class _Attempt:
    """A connection that is being made, and those who wait for it.

    `incoming` is true if the peer makes it, also when that takes the place of this node's own.
    """

    def __init__(self, *, incoming: bool) -> None:
        self.incoming = incoming
        self.done = threading.Event()
        self.connection: Connection | None = None
        self.error: NodeUnavailableError | None = None


class ConnectionTable:
    """All connections of one node.

    `resolve(peer)` gives the address to connect to, or raises NodeUnavailableError. `up` and
    `down` are called once for each connection, `deliver` for each message in between.
    """

    def __init__(
        self,
        *,
        name: Atom,
        cookie: str,
        flags: DFlag,
        engine: Engine,
        resolve: Callable[[str], tuple[str, int]],
        up: Callable[[Connection], None],
        down: Callable[[Connection, str], None],
        deliver: Callable[[Connection, Message], Task | None],
        net_ticktime: float = config.NET_TICKTIME,
        tls: Tls | None = None,
        limits: config.Limits = config.LIMITS,
    ) -> None:
        self.name = name
        self.creation = 0
        self._cookie = cookie
        self._flags = flags
        self._engine = engine
        self._resolve = resolve
        self._on_up = up
        self._on_down = down
        self._deliver = deliver
        self._ticker = Ticker(
            net_ticktime,
            connections=self.connections,
            lost=lambda peer: engine.submit(partial(peer.close, "net_tick_timeout")),
            after=engine.after,
        )
        self._tls = TlsLayer(tls) if tls is not None else None
        self._length_bytes = 2 if tls is None else 4
        self._limits = limits
        self._lock = threading.Lock()
        self._connections: dict[str, Connection] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._half_open = threading.BoundedSemaphore(limits.handshakes)
        self._listener: socket.socket | None = None
        self._closed = False

    # --- life

    def listen(self, address: str, port: int = 0) -> int:
        """Listen for peers; return the port. Raises ListenError."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            listener = socket.create_server(
                (address, port),
                family=family,
                backlog=128,
                # All interfaces, then, as for a BEAM whose distribution is inet6_tcp.
                dualstack_ipv6=address == "::" and socket.has_dualstack_ipv6(),
            )
        except OSError as error:
            raise ListenError(
                f"{self.name} cannot listen on {address} port {port} "
                f"({os.strerror(error.errno) if error.errno else error}): "
                "choose an address of this machine, and a port that is free."
            ) from error
        not_for_children(listener)
        self._listener = listener
        return int(listener.getsockname()[1])

    def start(self, creation: int) -> None:
        """Begin to accept peers; `creation` is this node's."""
        self.creation = creation
        if self._listener is not None:
            threading.Thread(
                target=self._accept, args=(self._listener,), name="pynode-accept", daemon=True
            ).start()
        self._ticker.start()

    def stop(self) -> None:
        """Accept nobody any more, and close all connections."""
        self._closed = True
        self._ticker.stop()
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            self._listener.close()
        deadline = time.monotonic() + config.SHUTDOWN_GRACE_SECONDS
        for connection in self.connections():
            connection.drain(deadline)
            connection.close("node_stopped")

    def connections(self) -> list[Connection]:
        """Return the connections of this moment."""
        with self._lock:
            return list(self._connections.values())

    def get(self, peer: str) -> Connection | None:
        """Return the connection with `peer`, None if there is none."""
        return self._connections.get(peer)

    # --- making connections

    def connect(self, peer: str) -> Connection:
        """Return the connection with `peer`, made now if there is none. Blocks.

        Raises NodeUnavailableError with the reason.
        """
        deadline = time.monotonic() + 2 * config.NET_SETUPTIME
        while True:
            with self._lock:
                connection = self._connections.get(peer)
                if connection is not None:
                    return connection
                attempt = self._attempts.get(peer)
                ours = attempt is None
                if attempt is None:
                    attempt = self._attempts[peer] = _Attempt(incoming=False)
            if ours:
                # On another thread: the peer's own attempt may be faster, and then we have what
                # we want, whatever holds up ours.
                self._engine.submit(partial(self._try, peer, attempt))
            attempt.done.wait(max(0.0, deadline - time.monotonic()))
            if attempt.connection is not None:
                return attempt.connection
            if not attempt.incoming or time.monotonic() > deadline:
                reason = attempt.error or f"{peer} is slow to connect: its log may say why."
                raise NodeUnavailableError(str(reason), node=peer)
            # The peer's own attempt came to nothing: make one.

    def _try(self, peer: str, attempt: _Attempt) -> None:
        try:
            self._initiate(peer, attempt)
        except NodeUnavailableError as error:
            attempt.error = error
        finally:
            self._give_up(peer, attempt)

    def _give_up(self, peer: str, attempt: _Attempt) -> None:
        """Let nobody wait any longer for an attempt that may have failed."""
        with self._lock:
            if self._attempts.get(peer) is attempt:
                del self._attempts[peer]
        attempt.done.set()

    def _initiate(self, peer: str, attempt: _Attempt) -> None:
        deadline = time.monotonic() + config.NET_SETUPTIME
        address = self._resolve(peer)
        try:
            handshake = Handshake.initiator(
                self.name,
                peer,
                self._cookie,
                self._flags,
                self.creation,
                length_bytes=self._length_bytes,
                limits=self._limits,
            )
        except ValueError as error:
            raise NodeUnavailableError(str(error), node=peer) from error
        try:
            sock = connect(*address, deadline)
        except OSError as error:
            raise NodeUnavailableError(
                f"{peer} does not answer at {address[0]} port {address[1]} "
                f"({error.strerror or error}); is it running?",
                node=peer,
            ) from error
        try:
            self._shake_hands(sock, handshake, deadline, {peer: attempt}, peer)
        except HandshakeError as error:
            sock.close()
            # The peer's own attempt goes on instead of ours (nok), or was faster (alive).
            left = deadline - time.monotonic()
            if handshake.status in {"nok", "alive"} and attempt.done.wait(max(0.0, left)):
                return
            raise NodeUnavailableError(str(error), node=peer) from error
        except OSError as error:
            sock.close()
            raise NodeUnavailableError(
                f"{peer} did not finish the handshake ({error.strerror or error}); "
                "its log may say why.",
                node=peer,
            ) from error

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = listener.accept()
            except OSError as error:
                if self._closed:
                    return
                # Out of file descriptors, most likely: what is open stays open.
                log.error("cannot accept a connection: %s", error.strerror or error)
                time.sleep(0.1)
                continue
            if not self._half_open.acquire(blocking=False):
                log.error(
                    "connection from %s refused: %d handshakes are under way already",
                    address[0],
                    self._limits.handshakes,
                )
                sock.close()
                continue
            try:
                threading.Thread(
                    target=self._answer,
                    args=(sock, address[0]),
                    name="pynode-handshake",
                    daemon=True,
                ).start()
            except RuntimeError as error:
                log.error("connection from %s refused: %s", address[0], error)
                self._half_open.release()
                sock.close()

    def _answer(self, sock: socket.socket, address: str) -> None:
        handshake = Handshake.acceptor(
            self.name,
            self._cookie,
            self._flags,
            self.creation,
            length_bytes=self._length_bytes,
            limits=self._limits,
        )
        attempts: dict[str, _Attempt] = {}
        try:
            self._shake_hands(sock, handshake, time.monotonic() + config.NET_SETUPTIME, attempts)
        except HandshakeError as error:
            # "nok" is no refusal: both nodes called each other, and our own call goes on.
            level = logging.DEBUG if handshake.status == "nok" else logging.ERROR
            log.log(level, "connection from %s refused: %s", address, error)
            sock.close()
        except OSError as error:
            log.error("handshake with %s failed: %s", address, error.strerror or error)
            sock.close()
        finally:
            for peer, attempt in attempts.items():
                self._give_up(peer, attempt)
            self._half_open.release()

    def _shake_hands(
        self,
        sock: socket.socket,
        handshake: Handshake,
        deadline: float,
        attempts: dict[str, _Attempt],
        peer: str | None = None,
    ) -> None:
        """Drive the handshake over `sock` to a connection in the table.

        `peer` is the node that this one has connected to. The attempt that the handshake belongs
        to is in `attempts`, or put there when a peer begins one.
        Raises HandshakeError and OSError; `sock` is then still the caller's.
        """
        not_for_children(sock)
        tune(sock)
        wire = self._secure(sock, deadline, peer)
        while True:
            try:
                event = handshake.next_event()
            except HandshakeError:
                self._send_by(wire, handshake.data_to_send(), deadline)
                raise
            if event is HANDSHAKE_NEEDS_DATA:
                self._send_by(wire, handshake.data_to_send(), deadline)
                wire.settimeout(max(0.001, deadline - time.monotonic()))
                handshake.receive_data(wire.recv(4096))
            elif isinstance(event, PeerName):
                handshake.send_status(self._status_for(event, attempts))
            elif isinstance(event, StatusAlive):
                # Either the peer's own attempt, which came in meanwhile, was faster, or we have
                # no connection, and the one that the peer believes in is broken.
                handshake.answer_alive(go_on=not attempts[event.peer].incoming)
            elif isinstance(event, Established):
                self._established(wire, handshake, event, deadline)
                return

    def _secure(
        self, sock: socket.socket, deadline: float, peer: str | None
    ) -> socket.socket | TlsSocket:
        """Begin TLS if this node uses it; return what the handshake goes over."""
        if self._tls is None:
            return sock
        if peer is None:
            return self._tls.accept(sock, deadline)
        return self._tls.connect(sock, peer, deadline)

    @staticmethod
    def _send_by(sock: socket.socket | TlsSocket, data: bytes, deadline: float) -> None:
        if data:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock.sendall(data)

    def _status_for(self, peer: PeerName, attempts: dict[str, _Attempt]) -> Status | Named:
        if peer.name == self.name or self._closed:
            return "not_allowed"
        if peer.flags & DFlag.NAME_ME:
            return self._name_for(peer.name, attempts)
        with self._lock:
            attempt = self._attempts.get(peer.name)
            if attempt is None:
                # Otherwise this node might begin an attempt of its own now, or when the old
                # connection gives way, and the peer drop the one that we are about to accept.
                attempts[peer.name] = self._attempts[peer.name] = _Attempt(incoming=True)
            if peer.name in self._connections:
                return "alive"
            if attempt is not None and not attempt.incoming:
                if self.name > peer.name:
                    return "nok"
                attempt.incoming = True
                return "ok_simultaneous"
        return "ok"

    def _name_for(self, host: str, attempts: dict[str, _Attempt]) -> Status | Named:
        """Make a name for a node that has none (`generate_node_name` in OTP's net_kernel.erl)."""
        name = f"{secrets.token_hex(8)}@{host}"
        if not is_node_name(name):
            return "not_allowed"
        with self._lock:
            attempts[name] = self._attempts[name] = _Attempt(incoming=True)
        return Named(name, new_creation())

    def _established(
        self,
        sock: socket.socket | TlsSocket,
        handshake: Handshake,
        event: Established,
        deadline: float,
    ) -> None:
        old = self._connections.get(event.peer)
        if old is not None:
            old.close("replaced_by_new_connection")
        self._send_by(sock, handshake.data_to_send(), deadline)
        sock.settimeout(None)
        connection = Connection(
            sock,
            peer=Atom(event.peer),
            flags=event.flags,
            creation=event.creation,
            early_data=handshake.trailing_data,
            engine=self._engine,
            deliver=self._deliver,
            down=self._down,
            limits=self._limits,
        )
        with self._lock:
            old = self._connections.get(event.peer)
            self._connections[event.peer] = connection
            attempt = self._attempts.pop(event.peer, None)
        if old is not None:
            old.close("replaced_by_new_connection")
        if is_long(event.peer) != is_long(self.name):
            log.warning(
                "%s has a %s name and this node a %s one: when this connection is lost, only %s "
                "can make another, since this node does not connect to such nodes",
                event.peer,
                kind_of_name(event.peer),
                kind_of_name(self.name),
                event.peer,
            )
        self._on_up(connection)
        if attempt is not None:
            attempt.connection = connection
            attempt.done.set()
        try:
            self._engine.add(connection)
        except RuntimeError as error:
            connection.close(str(error))
        if self._closed:
            connection.close("node_stopped")

    def _down(self, connection: Connection, reason: str) -> None:
        with self._lock:
            if self._connections.get(connection.peer) is connection:
                del self._connections[connection.peer]
        self._on_down(connection, reason)
