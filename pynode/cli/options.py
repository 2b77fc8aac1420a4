"""What the commands have in common: options, and how they fail."""

from __future__ import annotations

import functools
import os
import secrets
import sys
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pynode import config
from pynode.bridge import Bridge
from pynode.cli.text import shown
from pynode.cookie import find_cookie
from pynode.dist.tls import Tls
from pynode.errors import PynodeError
from pynode.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_cookie_options = [
    click.option("--cookie", help="The cookie. Others on this machine can see it: prefer a file."),
    click.option(
        "--cookie-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A file with the cookie, readable by its owner alone.",
    ),
]

_file = click.Path(dir_okay=False, path_type=Path)
_tls_options = [
    click.option(
        "--tls-certificate",
        type=_file,
        metavar="FILE",
        envvar="PYNODE_TLS_CERTIFICATE",
        help="Use TLS, with this certificate of the node (PEM).",
    ),
    click.option(
        "--tls-key",
        type=_file,
        metavar="FILE",
        envvar="PYNODE_TLS_KEY",
        help="The certificate's key (PEM), if it is not in the same file.",
    ),
    click.option(
        "--tls-authorities",
        type=_file,
        metavar="FILE",
        envvar="PYNODE_TLS_AUTHORITIES",
        help="The certificates of the authorities whose nodes may connect (PEM).",
    ),
]


def with_tls_files(command: Callable[..., None]) -> Callable[..., None]:
    """Let the options say what `tls` of the command is."""

    @functools.wraps(command)
    def with_tls(
        *args: object,
        tls_certificate: Path | None,
        tls_key: Path | None,
        tls_authorities: Path | None,
        **options: object,
    ) -> None:
        tls = None
        if tls_certificate is not None and tls_authorities is not None:
            password = os.environ.get("PYNODE_TLS_PASSWORD")
            tls = Tls(tls_certificate, tls_key, tls_authorities, password=password)
        elif tls_certificate or tls_key or tls_authorities:
            raise click.UsageError("TLS takes both --tls-certificate and --tls-authorities.")
        command(*args, tls=tls, **options)

    for option in reversed(_tls_options):
        with_tls = option(with_tls)
    return with_tls


def with_cookie(command: click.decorators.FC) -> click.decorators.FC:
    """Let the options say what `cookie` and `cookie_file` of the command are."""
    for option in reversed(_cookie_options):
        command = option(command)
    return command


_peer_options: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
    click.argument("node"),
    with_cookie,
    with_tls_files,
    click.option(
        "--port",
        type=click.IntRange(1, 0xFFFF),
        help="The port that NODE listens at; without it, the EPMD of its host is asked.",
    ),
    click.option(
        "--timeout", default=config.CALL_TIMEOUT, show_default=True, help="Seconds to wait."
    ),
]


@dataclass(frozen=True, slots=True)
class Peer:
    """The node that a command is about, and how to reach it."""

    node: str
    cookie: str | None
    cookie_file: Path | None
    tls: Tls | None
    port: int | None
    timeout: float

    @contextmanager
    def client(self) -> Iterator[Node]:
        """Be a node for a moment, on the same kind of host; see `failing_well`."""
        host = self.node.partition("@")[2] or "localhost"
        with failing_well():
            name = f"pynode-{secrets.token_hex(4)}@{host}"
            cookie = find_cookie(value=self.cookie, file=self.cookie_file)
            epmd = self.port is None
            with Node(name, cookie=cookie, epmd=epmd, peers=self.port, tls=self.tls) as node:
                yield node

    def ask(self, client: Node, request: object) -> Any:
        """Return what the bridge of the node answers. Raises PynodeError."""
        tag, value = client.call((Bridge.NAME, self.node), request, timeout=self.timeout)
        if tag == "ok":
            return value
        message = value["message"]
        if value["__struct__"] == "Elixir.SnakeBridge.SessionNotFoundError":
            message += f" `pynode sessions {self.node}` lists those that are open."
        raise PynodeError(message)


def with_peer(command: Callable[..., None]) -> Callable[..., None]:
    """Let the argument NODE and the options say what `peer` of the command is."""
    names = [field.name for field in fields(Peer)]

    @functools.wraps(command)
    def with_peer(**params: Any) -> None:
        peer = Peer(**{name: params.pop(name) for name in names})
        command(peer=peer, **params)

    for option in reversed(_peer_options):
        with_peer = option(with_peer)
    return with_peer


@contextmanager
def failing_well() -> Iterator[None]:
    """Turn what is the user's to mend into one line and exit status 1."""
    try:
        yield
    except (PynodeError, ValueError) as error:
        click.echo(f"pynode: {shown(str(error))}", err=True)
        sys.exit(1)
