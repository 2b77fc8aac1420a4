"""The command ``pynode``."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

import click

from pynode import config
from pynode._version import __version__
from pynode.bridge import Bridge
from pynode.cookie import find_cookie
from pynode.errors import PynodeError
from pynode.node import Node

log = logging.getLogger("pynode")

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_cookie_options = [
    click.option("--cookie", help="The cookie. Others on this machine can see it: see above."),
    click.option(
        "--cookie-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A file with the cookie, readable by its owner alone.",
    ),
]


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
@click.option("--stop-on-eof", is_flag=True, help="Stop when standard input is closed.")
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
    published: bool,
    allow: tuple[str, ...],
    listen: str,
    port: int,
    stop_on_eof: bool,
    log_level: str,
) -> None:
    """Start a node that answers calls, until SIGTERM or SIGINT.

    Prints "ready NAME" on standard output when it can be called; the log is on standard error.
    """
    logging.basicConfig(level=log_level.upper(), format=_LOG_FORMAT, stream=sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        node = Node(
            name,
            cookie=find_cookie(value=cookie, file=cookie_file),
            listen=listen,
            port=port,
            published=published,
        )
        bridge = Bridge(allow=allow or None)
        node.add(bridge, name=Bridge.NAME)
        node.start()
    except (PynodeError, ValueError) as error:
        _fail(error)
    if stop_on_eof:
        threading.Thread(target=_wait_for_eof, args=(stop,), daemon=True).start()
    click.echo(f"ready {name}")
    stop.wait()
    if not bridge.stop(config.SHUTDOWN_SECONDS):
        log.warning("some calls are still running after %g seconds", config.SHUTDOWN_SECONDS)
    node.stop()
    log.info("stopped")
    logging.shutdown()
    # Calls that are still running must not keep the process alive: no waiting for threads.
    sys.stdout.flush()
    os._exit(0)


def _wait_for_eof(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()


@main.command()
@click.argument("node")
@_with_cookie
@click.option("--timeout", default=config.CALL_TIMEOUT, show_default=True, help="Seconds to wait.")
def ping(node: str, cookie: str | None, cookie_file: Path | None, timeout: float) -> None:
    """Ask NODE whether it is there: prints pong and exits 0, or says why not and exits 1."""
    host = node.partition("@")[2]
    try:
        client = Node(
            f"pynode-ping-{secrets.token_hex(4)}@{host or 'localhost'}",
            cookie=find_cookie(value=cookie, file=cookie_file),
        )
        with client:
            client.ping(node, timeout=timeout)
    except (PynodeError, ValueError) as error:
        _fail(error)
    click.echo("pong")


def _fail(error: BaseException) -> NoReturn:
    click.echo(f"pynode: {error}", err=True)
    sys.exit(1)
