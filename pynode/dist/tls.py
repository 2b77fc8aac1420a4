"""TLS under the connections of a node: both sides show a certificate, and both check it.

It is that of OTP's ``inet_tls_dist`` (ssl, "Using TLS for Erlang Distribution").

Theory of operation. Two threads use a connection at the same time, one that reads and one that
writes, and neither may wait for the other: `ssl.SSLSocket` cannot do that. So a `TlsSocket` has the
plain socket do the I/O as ever, and between it and the connection an `ssl.SSLObject`, which turns
bytes into records and back in memory, under a lock that nobody holds while waiting. ::

    recv_into:  socket  -> _incoming -> SSLObject -> the caller's buffer
    sendmsg:    socket  <- _pending  <- _outgoing <- SSLObject <- the caller's buffers

Records must leave in the order in which they were made. So one thread at a time moves them from
`_outgoing` to the socket, the writer: `Connection` sees to it that there is only one. Reading makes
records, too (the answer to a key update, an alert): then `on_records` is called, which has the
writer come by.

To a writer a `TlsSocket` is as a socket. What the socket does not take at once has been encrypted
already, though, and that cannot be undone. Then `sendmsg` raises BlockingIOError, keeps the records
in `_pending`, and remembers in `_ahead` how much of what it was given they stand for: the next call
begins with the same bytes, and gets that number when they are sent.

TLS 1.2 can renegotiate in the middle of a connection, and a BEAM does so after 2^28 records. Until
that is done nothing can be encrypted: the writer sends what there is of records, and waits for the
reader to have read more.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pynode.errors import HandshakeError, TlsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Bytes that are read, or encrypted, at once: eight records.
_CHUNK: Final = 128 * 1024
#: Seconds that a peer which we refuse has to read why.
_PARTING: Final = 1.0
#: The first byte of every record: change_cipher_spec, alert, handshake, application_data.
_RECORD_TYPES: Final = range(20, 24)
#: OpenSSL refuses to renegotiate when the peer that connected asks for it, unless this option is
#: set; Python has no name for it (SSL_OP_ALLOW_CLIENT_RENEGOTIATION, OpenSSL 3).
_ALLOW_CLIENT_RENEGOTIATION: Final = 1 << 8
#: X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_OTHER_HOST: Final = (62, 64)


@dataclass(frozen=True, slots=True)
class Tls:
    """What a node needs to speak TLS. All files are PEM.

    `certificate` is the node's own, followed by those between it and its authority, and `key` the
    key that belongs to it (None: it is in the same file), which `password` opens if it is
    encrypted. `authorities` are the certificates of those who have signed the peers'. A peer that
    this node connects to must have a certificate for the host in its node name if `check_host`.
    """

    certificate: Path
    key: Path | None
    authorities: Path
    check_host: bool = True
    password: str | None = field(default=None, repr=False)


class TlsLayer:
    """Puts TLS on plain sockets. Raises TlsError for files that are of no use."""

    def __init__(self, settings: Tls) -> None:
        self._settings = settings
        self._client = _context(ssl.PROTOCOL_TLS_CLIENT, settings)
        self._client.check_hostname = settings.check_host
        self._server = _context(ssl.PROTOCOL_TLS_SERVER, settings)
        self._server.verify_mode = ssl.CERT_REQUIRED
        self._server.num_tickets = 0  # Nobody comes back with one.

    def connect(self, sock: socket.socket, peer: str, deadline: float) -> TlsSocket:
        """Begin TLS with node `peer`, that we have connected to.

        `deadline` is of `time.monotonic`. Raises HandshakeError and OSError; `sock` stays open.
        """
        host = peer.partition("@")[2]
        return self._wrap(sock, deadline, who=f"Node {peer}", host=host)

    def accept(self, sock: socket.socket, deadline: float) -> TlsSocket:
        """Begin TLS with a peer that has connected to us; as `connect`."""
        return self._wrap(sock, deadline, who="The peer", host=None)

    def _wrap(
        self, sock: socket.socket, deadline: float, *, who: str, host: str | None
    ) -> TlsSocket:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            tls = (self._server if host is None else self._client).wrap_bio(
                incoming, outgoing, server_side=host is None, server_hostname=host
            )
        except ValueError as error:
            raise HandshakeError(
                f"{who} is at a host that no certificate can be for ({error}); "
                "give it a name with another host."
            ) from error
        wrapped = TlsSocket(
            sock, tls, incoming, outgoing, who=who, authorities=self._settings.authorities
        )
        wrapped.settimeout(deadline - time.monotonic())
        wrapped.shake_hands()
        return wrapped


class TlsSocket:
    """What a connection wants of a socket, with TLS. See the top of this module.

    Until the connection is there, one thread uses it, by `shake_hands`, `recv` and `sendall`, which
    raise HandshakeError; from then on one thread reads by `recv_into` and one writes by `send` and
    `sendmsg`. `on_records` is called by the one that reads when there is something to be written.
    """

    def __init__(
        self,
        sock: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        who: str,
        authorities: Path,
    ) -> None:
        self.on_records: Callable[[], object] = self._send_records
        self._socket = sock
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._who = who
        self._authorities = authorities
        self._deadline: float | None = None
        self._lock = threading.RLock()  # a destructor in between may send as well
        self._received = bytearray(_CHUNK)
        #: What reading has come to, other than data.
        self._over: ssl.SSLError | None = None
        #: How often something was read, and who waits for that.
        self._readings = 0
        self._heard = threading.Condition(self._lock)
        self._shut = False
        self._pending = memoryview(b"")
        self._ahead = 0

    @property
    def version(self) -> str:
        """The version of TLS, as ``TLSv1.3``."""
        return self._tls.version() or "none"

    def fileno(self) -> int:
        """Return the file descriptor of the socket."""
        return self._socket.fileno()

    # --- as long as there is one thread

    def settimeout(self, seconds: float | None) -> None:
        """Bound what `shake_hands`, `recv` and `sendall` may take from now on, all together."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        if seconds is None:
            self._socket.settimeout(None)

    def shake_hands(self) -> None:
        """Do the handshake of TLS."""
        while True:
            try:
                with self._explained():
                    self._tls.do_handshake()
                self._send_records()
                return
            except ssl.SSLWantReadError:
                self._send_records()
            except HandshakeError:
                self._part()
                raise
            try:
                self._read_hello()
            except TimeoutError:
                raise HandshakeError(
                    f"{self._who} did not finish the TLS handshake in time; "
                    "check that it uses TLS, and what its log says."
                ) from None

    def recv(self, size: int) -> bytes:
        """Return what there is, `size` bytes at most; none at the end."""
        buffer = bytearray(size)
        with self._explained():
            return bytes(buffer[: self.recv_into(memoryview(buffer))])

    def sendall(self, data: bytes) -> None:
        """Send `data`."""
        with self._explained():
            self._tls.write(data)
        self._send_records()

    def _read_hello(self) -> None:
        first = not self._readings
        count = self._receive()
        self._readings += 1
        if not count:
            raise HandshakeError(
                f"{self._who} closed the connection during the TLS handshake; "
                "check that both nodes use TLS, and what its log says."
            )
        if first and self._received[0] not in _RECORD_TYPES:
            with suppress(ssl.SSLError):
                self._tls.do_handshake()  # makes an alert
            self._part()
            raise HandshakeError(
                f"{self._who} does not use TLS and this node does; "
                "start both nodes with TLS, or both without."
            )

    def _send_records(self) -> None:
        records = self._outgoing.read()
        if records:
            self._socket.settimeout(self._left())
            self._socket.sendall(records)

    def _left(self) -> float | None:
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def _part(self) -> None:
        """Tell the peer why it is refused, and let it read that.

        A socket that is closed with something unread in it would take back what it has sent.
        """
        self._deadline = time.monotonic() + _PARTING
        with suppress(OSError):
            self._send_records()
            self._socket.shutdown(socket.SHUT_WR)
            while True:
                self._socket.settimeout(self._left())
                if not self._socket.recv_into(self._received):
                    break

    # --- reading

    def recv_into(self, buffer: memoryview) -> int:
        """Wait for data, put it into `buffer` and return how much; 0 at the end."""
        while True:
            count = self._decrypt(buffer)
            if self._outgoing.pending:
                self.on_records()
            if count:
                return count
            if self._over is not None:
                if isinstance(self._over, ssl.SSLZeroReturnError):
                    return 0
                raise self._over
            if not self._receive():
                return 0

    def _decrypt(self, buffer: memoryview) -> int:
        """Fill `buffer` with what has been received, and return how much that was."""
        count = 0
        with self._lock:
            try:
                while count < len(buffer) and (self._incoming.pending or self._tls.pending()):
                    size = int(self._tls.read(len(buffer) - count, buffer[count:]))
                    if not size:
                        raise ssl.SSLZeroReturnError
                    count += size
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self._over = error
            self._readings += 1
            self._heard.notify_all()
        return count

    def _receive(self) -> int:
        if self._deadline is not None:
            self._socket.settimeout(self._left())
        count = self._socket.recv_into(self._received)
        with self._lock:
            self._incoming.write(memoryview(self._received)[:count])
        return count

    # --- writing

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        """Send some of `data` and return how much, as `socket.send` does; see `sendmsg`."""
        return self.sendmsg((data,), (), flags)

    def sendmsg(
        self, buffers: Sequence[bytes | memoryview], _ancillary: tuple[()] = (), flags: int = 0
    ) -> int:
        """Send some of `buffers` and return how much, and records that reading has made.

        With MSG_DONTWAIT it raises BlockingIOError rather than wait, and must be called again with
        the same bytes in front.
        """
        while True:
            stuck = None
            if not self._pending:
                stuck = self._encrypt(buffers)
            while self._pending:
                self._pending = self._pending[self._socket.send(self._pending, flags) :]
            sent, self._ahead = self._ahead, 0
            if stuck is None:
                return sent
            if flags & socket.MSG_DONTWAIT:
                raise BlockingIOError
            with self._heard:
                while self._readings == stuck:
                    self._heard.wait()

    def _encrypt(self, buffers: Sequence[bytes | memoryview]) -> int | None:
        """Make records of `buffers` and put them into `_pending`.

        If the peer has to be heard first, return the reading that was the last before that.
        """
        data = _front(buffers)
        with self._lock:
            if self._shut:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            stuck = None
            try:
                if data:
                    self._ahead = self._tls.write(data)
            except ssl.SSLWantReadError:
                stuck = self._readings
            self._pending = memoryview(self._outgoing.read())
        return stuck

    # --- the end

    def shutdown(self, how: int) -> None:
        """Say ``close_notify`` if nothing else is being written, and shut the socket down."""
        with self._lock, suppress(ssl.SSLError):
            self._tls.unwrap()
        self.on_records()
        self._socket.shutdown(how)
        with self._heard:
            self._shut = True
            self._readings += 1
            self._heard.notify_all()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    # --- errors

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise HandshakeError for what goes wrong in TLS."""
        try:
            yield
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            raise HandshakeError(self._explain(error)) from error

    def _explain(self, error: ssl.SSLError) -> str:
        reason = error.reason or ""
        words = _words(reason) or str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            words = error.verify_message.rstrip(".")
            if error.verify_code in _OTHER_HOST:
                return (
                    f"{self._who} has a certificate that is not for its host ({words}); give it "
                    "one with the host of its node name in subjectAltName, or use check_host=False."
                )
            return (
                f"{self._who} has a certificate that is not accepted ({words}); "
                f"it must be valid, and who has signed it be in {self._authorities}."
            )
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return (
                f"{self._who} shows no certificate; "
                f"give it one that is signed by an authority in {self._authorities}."
            )
        if told := re.match(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(?=[A-Z])(.+)", reason):
            return (
                f"{self._who} does not accept this node ({_words(told[1])}); check that this "
                "node's certificate is for its host and signed by an authority that the peer "
                "trusts, and what the peer's log says."
            )
        return (
            f"{self._who} and this node cannot agree on TLS ({words}); "
            "check that it uses TLS 1.2 or 1.3, and what its log says."
        )


# --- files


def _context(protocol: int, settings: Tls) -> ssl.SSLContext:
    certificate, authorities = settings.certificate, settings.authorities
    key = settings.key or certificate
    _require(certificate, "certificate", "CERTIFICATE")
    _require(key, "key", "PRIVATE KEY")
    _require(authorities, "authorities", "CERTIFICATE")
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= _ALLOW_CLIENT_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, lambda: _password(settings))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(
                f"The key in {key} does not belong to the certificate in {certificate}: "
                "name the files of one pair."
            ) from error
        raise TlsError(
            f"The certificate in {certificate} or the key in {key} cannot be used "
            f"({_words(error.reason) or 'they cannot be read'}): check that both are PEM, "
            "that the node's certificate comes first, and the password if there is one."
        ) from error
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise TlsError(
            f"The certificates of authorities in {authorities} cannot be used "
            f"({_words(error.reason) or 'they cannot be read'}): check that they are PEM."
        ) from error
    return context


def _require(path: Path, what: str, label: str) -> None:
    """Raise TlsError unless there is a PEM block with `label` in the file."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise TlsError(
            f"The TLS {what} file {path} cannot be read ({error.strerror}): "
            "check the path and who may read it."
        ) from error
    if f"{label}-----".encode() not in content:
        raise TlsError(
            f"The TLS {what} file {path} has no '-----BEGIN {label}-----' in it: "
            "name a file in PEM form that has."
        )


def _password(settings: Tls) -> str:
    if settings.password is None:
        # OpenSSL would ask at the terminal.
        raise TlsError(f"The key in {settings.key or settings.certificate} needs its password.")
    return settings.password


def _front(buffers: Sequence[bytes | memoryview]) -> bytes:
    """Return the first bytes of `buffers`, as many as are encrypted at once."""
    front, room = [], _CHUNK
    for buffer in buffers:
        front.append(memoryview(buffer)[:room])
        room -= len(front[-1])
        if not room:
            break
    return b"".join(front)


def _words(reason: str | None) -> str:
    """Return a reason of OpenSSL's in words: ``no shared cipher``."""
    return (reason or "").replace("_", " ").lower()
