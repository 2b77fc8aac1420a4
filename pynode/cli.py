"""The command ``pynode``."""

from __future__ import annotations

import functools
import importlib
import json
import logging
import operator
import os
import secrets
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import click

from pynode import config, posix
from pynode._version import __version__
from pynode.bridge import Bridge
from pynode.cookie import find_cookie
from pynode.dist.epmd import EpmdClient
from pynode.dist.tls import Tls
from pynode.errors import PynodeError
from pynode.node import Node
from pynode.terms import Atom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("pynode")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_cookie_options = [
    click.option("--cookie", help="The cookie. Others on this machine can see it: see above."),
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


def _with_tls(command: Callable[..., None]) -> Callable[..., None]:
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


_port_of_node = click.option(
    "--port",
    type=click.IntRange(1, 0xFFFF),
    help="The port that NODE listens at; without it, the EPMD of its host is asked.",
)


def _with_cookie(command: click.decorators.FC) -> click.decorators.FC:
    for option in reversed(_cookie_options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pynode")
def main() -> None:
    """Python as a node of an Erlang or Elixir cluster.

    The cookie is what --cookie or --cookie-file says, else the environment variable
    PYNODE_COOKIE, else what is in ~/.erlang.cookie.
    """


@main.command()
@click.option("--name", required=True, metavar="NAME@HOST", help="What this node is called.")
@_with_cookie
@_with_tls
@click.option("--published", is_flag=True, help="Show the node in Node.list/0 of its peers.")
@click.option(
    "--allow",
    multiple=True,
    metavar="MODULE",
    help="Let only this module, and those inside it, be called. May be given several times.",
)
@click.option(
    "--listen",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where to listen for other nodes; 0.0.0.0 for all interfaces.",
)
@click.option("--port", default=0, help="The port to listen at; any free one by default.")
@click.option("--no-epmd", is_flag=True, help="Neither register with EPMD nor ask it for others.")
@click.option(
    "--peer-port",
    "peer_ports",
    multiple=True,
    metavar="[NODE=]PORT",
    help="With --no-epmd: the port that all other nodes listen at, or that one of them does. The "
    "latter may be given several times.",
)
@click.option(
    "--net-ticktime",
    default=config.NET_TICKTIME,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long a node may be silent before it is taken for lost.",
)
@click.option(
    "--setup",
    metavar="MODULE:FUNCTION",
    help="Call this function with the node before others can: it may add GenServers.",
)
@click.option("--stop-on-eof", is_flag=True, help="Stop when standard input is closed.")
@click.option(
    "--shutdown-seconds",
    default=config.SHUTDOWN_SECONDS,
    show_default=True,
    type=click.FloatRange(min=0),
    help="How long running calls may take to finish when the node stops.",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
)
def serve(
    name: str,
    cookie: str | None,
    cookie_file: Path | None,
    tls: Tls | None,
    published: bool,
    allow: tuple[str, ...],
    listen: str,
    port: int,
    no_epmd: bool,
    peer_ports: tuple[str, ...],
    net_ticktime: float,
    setup: str | None,
    stop_on_eof: bool,
    shutdown_seconds: float,
    log_level: str,
) -> None:
    """Start a node that answers calls, until SIGTERM or SIGINT.

    Prints "ready NAME" on standard output when it can be called; the log is on standard error.
    """
    logging.basicConfig(level=log_level.upper(), format=_LOG_FORMAT, stream=sys.stderr)
    if stop_on_eof:
        posix.kill_after_eof(shutdown_seconds + config.SHUTDOWN_GRACE_SECONDS)
    stop = threading.Event()
    posix.end_on_signals(stop)
    with _failing_well():
        node = Node(
            name,
            cookie=find_cookie(value=cookie, file=cookie_file),
            listen=listen,
            port=port,
            published=published,
            epmd=not no_epmd,
            peers=_peers(peer_ports),
            net_ticktime=net_ticktime,
            tls=tls,
            allow=allow or None,
        )
        bridge = Bridge()
        node.add(bridge, name=Bridge.NAME)
        if setup is not None:
            _function(setup)(node)
        node.start()
    if listen in _LOOPBACK and name.partition("@")[2] not in _LOOPBACK:
        log.warning(
            "%s listens at %s alone: start it with --listen ADDRESS to be reached from other hosts",
            name,
            listen,
        )
    if stop_on_eof:
        threading.Thread(target=_wait_for_eof, args=(stop,), daemon=True).start()
    click.echo(f"ready {name}")
    stop.wait()
    if not bridge.stop(shutdown_seconds):
        log.warning("some calls are still running after %g seconds", shutdown_seconds)
    node.stop()
    posix.end_children()
    if stop_on_eof:
        # Who started us may be gone, and then nobody else would end what we have started.
        posix.end_group()
    log.info("stopped")
    logging.shutdown()
    # Calls that are still running must not keep the process alive: no waiting for threads.
    sys.stdout.flush()
    os._exit(0)


def _function(name: str) -> Callable[..., object]:
    """Return the function that is written as ``module:function``."""
    module, _, path = name.partition(":")
    try:
        found = operator.attrgetter(path or " ")(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise click.BadParameter(
            f"there is no {name} ({error}): write MODULE:FUNCTION, of a module that Python finds.",
            param_hint="--setup",
        ) from error
    return cast("Callable[..., object]", found)


def _peers(ports: tuple[str, ...]) -> dict[str, int] | int | None:
    """Return what --peer-port says; ValueError if it says nothing sensible."""
    pairs = [port.rpartition("=")[::2] for port in ports]
    if not all(port.isascii() and port.isdigit() for _, port in pairs):
        raise ValueError("--peer-port is PORT or NODE=PORT, and PORT a number.")
    peers = {name: int(port) for name, port in pairs}
    if "" not in peers:
        return peers or None
    if len(pairs) > 1:
        raise ValueError("--peer-port PORT is for all nodes: give it once, or NODE=PORT for each.")
    return peers[""]


def _wait_for_eof(stop: threading.Event) -> None:
    with suppress(OSError):  # not open at all
        while os.read(0, 4096):
            pass
    stop.set()


_timeout = click.option(
    "--timeout", default=config.CALL_TIMEOUT, show_default=True, help="Seconds to wait."
)


@main.command()
@click.argument("node")
@_with_cookie
@_with_tls
@_port_of_node
@_timeout
def ping(
    node: str,
    cookie: str | None,
    cookie_file: Path | None,
    tls: Tls | None,
    port: int | None,
    timeout: float,
) -> None:
    """Ask NODE whether it is there: prints pong and exits 0, or says why not and exits 1."""
    with _client(node, cookie, cookie_file, tls, port) as client:
        client.ping(node, timeout=timeout)
    click.echo("pong")


# Negative numbers are arguments, too.
@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("module")
@click.argument("function")
@click.argument("args", nargs=-1)
@_with_cookie
@_with_tls
@_port_of_node
@_timeout
def call(
    node: str,
    module: str,
    function: str,
    args: tuple[str, ...],
    cookie: str | None,
    cookie_file: Path | None,
    tls: Tls | None,
    port: int | None,
    timeout: float,
) -> None:
    """Call a FUNCTION of a Python MODULE on NODE, and print what it returns as a Python value.

    Each of the ARGS is JSON if it can be, and else a string. Objects that the call makes on NODE
    are gone when the command ends.
    """
    request: object = (Atom("call"), module, function, [_json_or_text(arg) for arg in args], {})
    with _client(node, cookie, cookie_file, tls, port) as client:
        tag, value = client.call((Bridge.NAME, node), request, timeout=timeout)
        if tag != "ok":
            raise PynodeError(value["message"])
        click.echo(repr(value))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The host to ask.")
def names(host: str) -> None:
    """List the nodes that are registered with the EPMD of a host, with their ports."""
    with _failing_well():
        for entry in EpmdClient(host).names():
            click.echo(f"{entry.name} {entry.port}")


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextmanager
def _client(
    peer: str, cookie: str | None, cookie_file: Path | None, tls: Tls | None, port: int | None
) -> Iterator[Node]:
    """Be a node for a moment, on the same kind of host as `peer`."""
    host = peer.partition("@")[2] or "localhost"
    with _failing_well():
        name = f"pynode-{secrets.token_hex(4)}@{host}"
        found = find_cookie(value=cookie, file=cookie_file)
        with Node(name, cookie=found, epmd=port is None, peers=port, tls=tls) as node:
            yield node


@contextmanager
def _failing_well() -> Iterator[None]:
    """Turn what is the user's to mend into one line and exit status 1."""
    try:
        yield
    except (PynodeError, ValueError) as error:
        _fail(error)


def _fail(error: BaseException) -> NoReturn:
    click.echo(f"pynode: {error}", err=True)
    sys.exit(1)
