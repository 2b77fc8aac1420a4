"""The command ``pynode``."""

from __future__ import annotations

import click

from pynode._implementation import describe
from pynode._version import __version__
from pynode.cli.ask import call, names, ping
from pynode.cli.look import refs, sessions, top
from pynode.cli.serve import serve

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message=f"pynode %(version)s, {describe()}")
def main() -> None:
    """Python as a node of an Erlang or Elixir cluster.

    The cookie is what --cookie or --cookie-file says, else the environment variable
    PYNODE_COOKIE, else what is in ~/.erlang.cookie.
    """


for _command in (serve, ping, call, names, sessions, refs, top):
    main.add_command(_command)
