"""``pynode top``: what it remembers from one look at a node to the next, and how it shows it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from pynode.cli import tables, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Lines that are no rows: two about the node, a note, the heads of two tables, what is left out
#: of each, and an empty one between.
_FRAME = 8


class Watch:
    """A node that is looked at again and again (`{:top, ...}`), and may be lost in between."""

    def __init__(self) -> None:
        self._now: dict[str, Any] = {}
        self._moment = 0.0
        # Of the look before: the calls of the node (None) and its sessions, and how long ago it
        # was, in seconds.
        self._calls: dict[tuple[str, int] | None, int] = {}
        self._seconds = 0.0
        # How many objects of each type there were at first.
        self._first: dict[tuple[str, str], int] = {}
        self._note = ""

    def see(self, now: dict[str, Any], moment: float) -> None:
        """Take note of what there is at a moment, in seconds."""
        before = self._now
        self._calls = {}
        self._note = ""
        if before and before["info"]["creation"] == now["info"]["creation"]:
            self._calls = {_identity(one): one["calls"] for one in before["sessions"]}
            self._calls[None] = before["info"]["calls"]
            self._seconds = moment - self._moment
        else:
            self._first = {_type(one): one["count"] for one in now["types"]}
            if before:
                self._note = "RESTARTED: changes are counted from now on"
        self._now, self._moment = now, moment

    def lose(self, reason: str) -> None:
        """Take note that it does not answer, and why."""
        self._note = f"LOST, trying again: {text.shown(reason)}"

    def render(self, lines: int | None) -> Group:
        """Return what there is to be seen in so many lines; None for all of it."""
        sessions, types = self._now["sessions"], self._now["types"]
        rows, kinds = len(sessions), len(types)
        if lines is not None:
            room = max(2, lines - _FRAME)
            kinds = min(kinds, max(room // 2, room - rows))
            rows = min(rows, room - kinds)
        return Group(*self._head(), *self._sessions(rows), Text(), *self._types(kinds))

    def _head(self) -> list[Text]:
        info = self._now["info"]
        calls = self._rate(None, info["calls"], info["uptime"])
        lines = [
            [
                text.cell(info["node"]),
                f"up {text.period(info['uptime'])}",
                f"pynode {text.cell(info['version'])}",
                f"Python {text.cell(info['python'])}",
            ],
            [
                f"memory {text.size(info['memory'])}",
                f"calls {calls}/s",
                f"running {info['running_calls']:,}",
                f"sessions {info['sessions']:,}",
                f"refs {info['refs']:,}",
                f"owners {info['owners']:,}",
            ],
        ]
        head = [Text("   ".join(line), no_wrap=True, overflow="ellipsis") for line in lines]
        note = Text(self._note, style="bold red", no_wrap=True, overflow="ellipsis")
        return [*head, note]

    def _sessions(self, rows: int) -> Iterator[Any]:
        now = self._now["info"]["time"]
        columns = (">AGE", ">USED", ">REFS", ">MEMORY", ">CALLS/S", ">RUNNING")
        made = tables.table("SESSION", *columns, "OWNERS", "TAGS")
        for one in self._now["sessions"][:rows]:
            age = now - one["created_at"]
            tables.add(
                made,
                text.cell(one["id"]),
                text.period(age),
                text.period(now - one["last_used"]),
                f"{one['refs']:,}",
                text.measured(one, one["refs"]),
                self._rate(_identity(one), one["calls"], age),
                str(one["running"]),
                Text(text.owners(one), "red" if one["absent"] else "", no_wrap=True),
                text.tags(one),
            )
        yield made
        more = self._now["info"]["sessions"] - rows
        if more > 0:
            yield Text(f"... and {more:,} more", style="dim")

    def _types(self, rows: int) -> Iterator[Any]:
        made = tables.table("TYPE", ">COUNT", ">CHANGE", ">MEMORY")
        shown = self._now["types"][:rows]
        for one in shown:
            change = one["count"] - self._first.setdefault(_type(one), 0)
            tables.add(
                made,
                text.cell(f"{one['python_module']}.{one['type_name']}"),
                f"{one['count']:,}",
                Text(f"{change:+,}" if change else "", "yellow" if change > 0 else "green"),
                text.measured(one, one["count"]),
            )
        yield made
        more = self._now["info"]["refs"] - sum(one["count"] for one in shown)
        if more > 0:
            yield Text(f"... and {more:,} of other types", style="dim")

    def _rate(self, whose: tuple[str, int] | None, calls: int, age: float) -> str:
        """Return calls per second since the look before; since the beginning if there is none."""
        before = self._calls.get(whose)
        if before is None:
            return text.rate(calls / max(1, age))
        return text.rate((calls - before) / self._seconds)


def _identity(session: dict[str, Any]) -> tuple[str, int]:
    """Another session may get the name of one that has ended."""
    return session["id"], session["created_at"]


def _type(info: dict[str, Any]) -> tuple[str, str]:
    return info["python_module"], info["type_name"]


@contextmanager
def show(watch: Watch, *, live: bool) -> Iterator[Callable[[], None]]:
    """Show what there is; yield what shows it anew.

    On a terminal it is in the same place every time, and gone at the end.
    """
    console = tables.console()
    if live and console.is_terminal and not console.is_dumb_terminal:
        first = watch.render(console.height)
        with Live(first, console=console, screen=True, auto_refresh=False) as screen:
            yield lambda: screen.update(watch.render(console.height), refresh=True)
    else:
        console.print(watch.render(None))
        yield lambda: console.print(Text(), watch.render(None))
