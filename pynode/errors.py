"""Every exception that pynode raises on purpose.

::

    PynodeError
     ├── EncodeError (ValueError)        a value that no Erlang term can stand for
     ├── DecodeError (ValueError)        bytes that are no Erlang term
     ├── ProtocolError
     │    ├── LocalProtocolError         we broke the distribution protocol (a bug, or wrong use)
     │    └── RemoteProtocolError        the peer broke it; the connection is closed
     ├── ListenError                     an address or port that cannot be listened on
     ├── CookieError                     no cookie, or a file that is not fit to hold it
     ├── TlsError                        files for TLS that are of no use
     ├── HandshakeError                  a connection that was refused, and by whom and why
     ├── EpmdError
     │    ├── EpmdUnavailableError       nothing answers at the EPMD port
     │    └── NameTakenError             another living node has this name
     ├── CallTimeoutError (TimeoutError) no answer in time
     ├── ReceiveTimeoutError (TimeoutError)  no message in time
     ├── ExitError                       the process that was called has exited, with its reason
     │    └── RemoteError                a function that was called there has raised or thrown
     ├── ErlangError                     to Erlang, what erlang:error/1 raises there
     └── BridgeError                     these travel to Elixir, as SnakeBridge.<name>
          ├── NodeUnavailableError       no connection to that node, and none to be had
          ├── RefNotFoundError
          ├── SessionNotFoundError
          ├── SessionMismatchError
          ├── SessionFullError
          ├── InvalidRefError
          ├── InvalidRequestError
          └── NotAllowedError

Each message is one sentence that says what happened and what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class PynodeError(Exception):
    """The base of all of them."""


class EncodeError(PynodeError, ValueError):
    """The value has no form in the External Term Format."""


class DecodeError(PynodeError, ValueError):
    """The bytes are not a valid term, or exceed a limit."""


class ProtocolError(PynodeError):
    """The distribution protocol was broken."""


class LocalProtocolError(ProtocolError):
    """This side tried to do what the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow."""


class ListenError(PynodeError):
    """The node cannot listen for its peers."""


class CookieError(PynodeError):
    """There is no cookie, or the file that should hold it is not fit to."""


class TlsError(PynodeError):
    """The certificate, the key or the authorities for TLS cannot be used."""


class HandshakeError(PynodeError):
    """The handshake ended without a connection."""


class EpmdError(PynodeError):
    """The port mapper did not do what it was asked."""


class EpmdUnavailableError(EpmdError):
    """No port mapper answers."""


class NameTakenError(EpmdError):
    """The node name is in use on this host."""


class CallTimeoutError(PynodeError, TimeoutError):
    """No answer arrived in time."""


class ReceiveTimeoutError(PynodeError, TimeoutError):
    """No message arrived in time."""


class ExitError(PynodeError):
    """The other process exited; `reason` is its exit reason, an Erlang term."""

    def __init__(self, message: str, *, reason: object) -> None:
        super().__init__(message)
        self.reason = reason


class RemoteError(ExitError):
    """A function that was called on a BEAM node raised, exited or threw (`erpc:call/5`).

    `error_class` is ``error``, ``exit`` or ``throw``; `reason` is the term, and `stacktrace` the
    node's own list of where it happened, which is empty if it did not say.
    """

    def __init__(
        self, message: str, *, error_class: str, reason: object, stacktrace: object = ()
    ) -> None:
        super().__init__(message, reason=reason)
        self.error_class = error_class
        self.stacktrace: list[object] = (
            [*stacktrace] if isinstance(stacktrace, list | tuple) else []
        )


class ErlangError(PynodeError):
    """An error with an Erlang term as its `reason`, as `erlang:error/1` raises.

    Whoever raises it in a function that was called from Erlang has it raise ``error`` there, with
    this reason. Elixir's ``ErlangError`` is the same.
    """

    def __init__(self, message: str, *, reason: object) -> None:
        super().__init__(message)
        self.reason = reason


class CallInterrupted(BaseException):
    """Raised inside a task that is to stop; not an Exception, so that few would catch it."""

    __module__ = "pynode"  # where users find it


class BridgeError(PynodeError):
    """The base of the errors that reach Elixir as structs; `FIELDS` are their fields there."""

    FIELDS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        for name in self.FIELDS:
            setattr(self, name, fields.pop(name, None))
        if fields:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(fields)}")


class NodeUnavailableError(BridgeError):
    """There is no connection to the node, and none could be made."""

    FIELDS = ("node", "reason")
    node: str
    reason: object


class RefNotFoundError(BridgeError):
    """The ref stands for no object any more, or never did; `reason` says which.

    `reason` is one of released, session_released, owner_down, expired, evicted, node_restarted
    and unknown.
    """

    FIELDS = ("ref_id", "session_id", "reason")
    ref_id: object
    session_id: str | None
    reason: str


class SessionNotFoundError(BridgeError):
    """The session has ended, or never was; `reason` is one of RefNotFoundError's."""

    FIELDS = ("session_id", "reason")
    session_id: object
    reason: str


class SessionMismatchError(BridgeError):
    """A ref was used under a session that is not its own."""

    FIELDS = ("expected_session", "actual_session", "ref_id")
    expected_session: str
    actual_session: str
    ref_id: object


class SessionFullError(BridgeError):
    """The session holds `max_refs` refs and was opened with `on_full: :error`."""

    FIELDS = ("session_id", "max_refs")
    session_id: str
    max_refs: int


class InvalidRefError(BridgeError):
    """What was given as a ref is none."""

    FIELDS = ("reason",)
    reason: str


class InvalidRequestError(BridgeError):
    """The request is none of those that the protocol knows."""

    FIELDS = ("reason",)
    reason: str


class NotAllowedError(BridgeError):
    """The node was started with ``--allow``, and this module is not on the list."""

    FIELDS = ("module",)
    module: str
