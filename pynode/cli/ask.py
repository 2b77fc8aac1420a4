"""The commands that ask a node or EPMD one thing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pynode.cli.options import failing_well, with_peer
from pynode.dist.epmd import EpmdClient
from pynode.terms import Atom

if TYPE_CHECKING:
    from pynode.cli.options import Peer


@click.command()
@with_peer
def ping(peer: Peer) -> None:
    """Ask NODE whether it is there: prints pong and exits 0, or says why not and exits 1."""
    with peer.client() as client:
        client.ping(peer.node, timeout=peer.timeout)
    click.echo("pong")


# Negative numbers are arguments, too.
@click.command(context_settings={"ignore_unknown_options": True})
@with_peer
@click.argument("module")
@click.argument("function")
@click.argument("args", nargs=-1)
def call(peer: Peer, module: str, function: str, args: tuple[str, ...]) -> None:
    """Call a FUNCTION of a Python MODULE on NODE, and print what it returns as a Python value.

    Each of the ARGS is JSON if it can be, and else a string. Objects that the call makes on NODE
    are gone when the command ends.
    """
    request: object = (Atom("call"), module, function, [_json_or_text(arg) for arg in args], {})
    with peer.client() as client:
        click.echo(repr(peer.ask(client, request)))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The host to ask.")
def names(host: str) -> None:
    """List the nodes that are registered with the EPMD of a host, with their ports."""
    with failing_well():
        for entry in EpmdClient(host).names():
            click.echo(f"{entry.name} {entry.port}")


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
