"""``pynode serve``: a node that answers calls."""

from __future__ import annotations

import importlib
import logging
import operator
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import click

from pynode import config, posix
from pynode._implementation import describe
from pynode._version import __version__
from pynode.bridge import Bridge
from pynode.cli.options import failing_well, with_cookie, with_tls_files
from pynode.cookie import find_cookie
from pynode.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pynode.dist.tls import Tls

log = logging.getLogger("pynode")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Seconds after which memory that is free is given back to the system, and how many times as long
#: as that takes nobody does it again: it is 0.3 ms for a small heap.
_TRIM_SECONDS = 10.0
_TRIM_PAUSE = 1_000
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@click.command()
@click.option("--name", required=True, metavar="NAME@HOST", help="What this node is called.")
@with_cookie
@with_tls_files
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
    posix.share_one_heap()
    # Python's 5 ms would be waited several times for each call that comes while others compute.
    sys.setswitchinterval(config.SWITCH_SECONDS)
    logging.basicConfig(level=log_level.upper(), format=_LOG_FORMAT, stream=sys.stderr)
    if stop_on_eof:
        posix.kill_after_eof(shutdown_seconds + config.SHUTDOWN_GRACE_SECONDS)
    stop = threading.Event()
    posix.end_on_signals(stop)
    with failing_well():
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
    posix.keep_heap_warm()  # not before: what starting leaves free goes back at once
    log.info("%s can be called: pynode %s, %s", name, __version__, describe())
    click.echo(f"ready {name}")
    pause = _TRIM_SECONDS
    while not stop.wait(pause):
        began = time.monotonic()
        posix.trim_heap()
        pause = max(_TRIM_SECONDS, _TRIM_PAUSE * (time.monotonic() - began))
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
