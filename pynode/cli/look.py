"""The commands that show what lives on a node.

What draws tables takes long to import, so that is done where it is needed.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from pynode.cli.options import with_peer
from pynode.cli.text import as_json
from pynode.errors import PynodeError
from pynode.terms import Atom

if TYPE_CHECKING:
    from pynode.cli.options import Peer
    from pynode.node import Node

#: Sessions and types that `top` asks for: more than a screen has lines for.
_ROWS = 200

_json = click.option("--json", "is_json", is_flag=True, help="Print JSON instead of a table.")


@click.command()
@with_peer
@_json
def sessions(peer: Peer, is_json: bool) -> None:
    """List the sessions of NODE, with their owners."""
    with peer.client() as client:
        now = peer.ask(client, Atom("info"))["time"]
        found = list(peer.ask(client, Atom("sessions")).values())
    if is_json:
        _print_json(found)
    else:
        from pynode.cli import tables  # noqa: PLC0415

        tables.console().print(tables.sessions(found, now))


@click.command()
@with_peer
@click.argument("session")
@_json
def refs(peer: Peer, session: str, is_json: bool) -> None:
    """List the refs of a SESSION of NODE, the newest last."""
    with peer.client() as client:
        now = peer.ask(client, Atom("info"))["time"]
        found = peer.ask(client, (Atom("refs"), session))
    if is_json:
        _print_json([entry | {"python_module": entry["ref"].python_module} for entry in found])
    else:
        from pynode.cli import tables  # noqa: PLC0415

        tables.console().print(tables.refs(found, now))


def _print_json(found: list[Any]) -> None:
    click.echo(json.dumps(as_json(found), indent=2))


@click.command()
@with_peer
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="How long to wait between one look and the next.",
)
@click.option("--once", is_flag=True, help="Look once: rates are since the node's start.")
@click.option(
    "--sort",
    default="refs",
    show_default=True,
    type=click.Choice(["refs", "memory", "calls", "age"]),
    help="Which sessions come first: those with the most, or the oldest.",
)
def top(peer: Peer, interval: float, once: bool, sort: str) -> None:
    """Watch what lives on NODE, until Ctrl-C: sessions, and refs by type and their change.

    Memory is what the objects themselves take, as far as that can be told without delay: the
    data of arrays, and what sys.getsizeof says of others. With ">" not all of them were measured.
    """
    # Both end it in the same way, with the screen as it was before.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), peer.client() as client:
        from pynode.cli.top import Watch, show  # noqa: PLC0415

        watch = Watch()
        watch.see(_look(peer, client, sort), time.monotonic())
        with show(watch, live=not once) as refresh:
            while not once:
                time.sleep(interval)
                try:
                    watch.see(_look(peer, client, sort), time.monotonic())
                except PynodeError as error:
                    watch.lose(str(error))
                refresh()


def _look(peer: Peer, client: Node, sort: str) -> Any:
    return peer.ask(client, (Atom("top"), Atom(sort), _ROWS))
