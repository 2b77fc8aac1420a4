"""Node names: ``name@host``.

Handshakes carry them in Latin-1, whatever the atoms in terms may hold. The rule is that of OTP's
``dist_util:is_node_name/1``, less what would garble a log: blanks and control characters.
"""

from __future__ import annotations

import re
from typing import Final

#: Characters in a node name, as in any atom.
MAX_NAME: Final = 255

_VISIBLE = r"[!-?A-~\xa1-\xac\xae-\xff]+"
_NODE_NAME = re.compile(f"{_VISIBLE}@{_VISIBLE}")
_HOST = re.compile(_VISIBLE)


def is_node_name(name: str) -> bool:
    """Return whether `name` is ``name@host`` in visible Latin-1 characters, at most 255."""
    return len(name) <= MAX_NAME and _NODE_NAME.fullmatch(name) is not None


def is_host(host: str) -> bool:
    """Return whether `host` can be what follows the ``@`` of a node name."""
    return len(host) <= MAX_NAME and _HOST.fullmatch(host) is not None


def is_long(name: str) -> bool:
    """Return whether a node name is a long one: its host has a dot, or is an address of IPv6.

    Nodes with long names (``erl -name``) and with short ones (``-sname``) do not connect to each
    other; see `splitnode` in OTP's ``inet_tcp_dist.erl``.
    """
    host = name.partition("@")[2]
    return "." in host or ":" in host


def require_node_name(name: str) -> None:
    """Raise ValueError if `name` is no node name."""
    if not is_node_name(name):
        raise ValueError(
            f"{name!r} is no node name; write name@host, in visible Latin-1 characters, "
            f"at most {MAX_NAME} of them."
        )
