"""Tables of what lives on a node, as wide as it takes where nobody sees the end of a line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pynode.cli import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Columns of what is no terminal: no line is cut.
_WIDE = 10_000


def console() -> Console:
    """Return the standard output: a terminal, or plain text without colours."""
    terminal = sys.stdout.isatty()
    return Console(
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        width=None if terminal else _WIDE,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


def table(*columns: str) -> Table:
    """Return a table without rows; a column whose name begins with ">" is one of numbers."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        number = name.startswith(">")
        made.add_column(
            Text(name.removeprefix(">"), no_wrap=True),
            justify="right" if number else "left",
            no_wrap=number,
        )
    return made


def add(to: Table, *cells: str | Text) -> None:
    """Add a row, each on one line, to a table."""
    to.add_row(
        *(
            one if isinstance(one, Text) else Text(one, no_wrap=True, overflow="ellipsis")
            for one in cells
        )
    )


def sessions(found: Iterable[Mapping[str, Any]], now: int) -> Table:
    """Return a table of sessions."""
    made = table("SESSION", ">AGE", ">USED", ">REFS", ">CALLS", ">RUNNING", "OWNERS", "TAGS")
    for session in found:
        add(
            made,
            text.cell(session["id"]),
            text.period(now - session["created_at"]),
            text.period(now - session["last_used"]),
            f"{session['refs']:,}",
            f"{session['calls']:,}",
            str(session["running"]),
            text.owners(session),
            text.tags(session),
        )
    return made


def refs(found: Iterable[Mapping[str, Any]], now: int) -> Table:
    """Return a table of refs."""
    made = table("REF", "TYPE", ">AGE", ">USED", ">BYTES")
    for entry in found:
        add(
            made,
            text.cell(entry["ref"].id),
            text.cell(f"{entry['ref'].python_module}.{entry['type_name']}"),
            text.period(now - entry["created_at"]),
            text.period(now - entry["last_used"]),
            text.size(entry["bytes"]),
        )
    return made
