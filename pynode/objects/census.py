"""A census: which types the objects are of, and how much memory they take as far as that is known.

It runs no Python code of the objects': it looks at what their classes have without asking them,
and measures only with code that is written in C and takes no time.
"""

from __future__ import annotations

import sys
import time
from types import GetSetDescriptorType, MethodDescriptorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.objects.registry import Registry
    from pynode.objects.session import Entry, Session

    Measure = Callable[[Any], int | None]

# The attributes as `type` has them: a metaclass may have others in their places.
_name = type.__dict__["__name__"].__get__
_module = type.__dict__["__module__"].__get__
_mro = type.__dict__["__mro__"].__get__
_dict = type.__dict__["__dict__"].__get__


def type_names(kind: type) -> tuple[str, str]:
    """Return the module and the name of a type, as text that can be sent, whatever they are."""
    try:
        module = _module(kind)
    except AttributeError:  # a class may take it away
        module = None
    if not isinstance(module, str):  # or put anything there
        module = "builtins"
    return _text(module), _text(_name(kind))


def _text(name: str) -> str:
    return str.encode(name, "utf-8", "backslashreplace").decode()


def measure_of(kind: type) -> Measure:
    """Return the function that measures objects of a type, in bytes; it returns None if it cannot.

    That is the size of the data where the type has an attribute `nbytes` in C (of numpy, pyarrow,
    torch; `memoryview`), and else `sys.getsizeof`, which does not count what the object refers to.
    A type with a `__sizeof__` or an `nbytes` in Python may take any time: it has none.
    """
    nbytes = _find(kind, "nbytes")
    if type(nbytes) is GetSetDescriptorType:
        return lambda obj: _whole(nbytes.__get__(obj, kind))
    if nbytes is None and type(_find(kind, "__sizeof__")) is MethodDescriptorType:
        return sys.getsizeof
    return _unknown


def size_of(obj: Any) -> int | None:
    """Return what `measure_of` its type says about an object, or None; never raises."""
    return _measured(measure_of(type(obj)), obj)


def _measured(measure: Measure, obj: Any) -> int | None:
    try:
        return measure(obj)
    except Exception:  # noqa: BLE001 (a released memoryview, for instance)
        return None


def _find(kind: type, name: str) -> Any:
    """Find an attribute of a type as the interpreter does, asking no metaclass."""
    for base in _mro(kind):
        attributes = _dict(base)
        if name in attributes:
            return attributes[name]
    return None


def _whole(size: Any) -> int | None:
    return size if type(size) is int else None


def _unknown(_: Any) -> None:
    return None


class Tally:
    """How many objects there are, and how many bytes those take that could be measured."""

    __slots__ = ("bytes", "count", "measured")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.measured = 0


class Census:
    """The objects of a registry, or of one of its sessions, counted by type and by session.

    All are counted, and measured as long as that takes less than `seconds`, the oldest first.
    """

    def __init__(
        self, registry: Registry, session: Session | None = None, *, seconds: float
    ) -> None:
        #: By module and name of the type.
        self.types: dict[tuple[str, str], Tally] = {}
        #: By id of the session.
        self.sessions: dict[str, Tally] = {}
        # By the id of a type, which is kept so that no other gets the same: it may have no hash.
        self._kinds: dict[int, tuple[type, Tally, Measure]] = {}
        self._deadline = time.monotonic() + seconds
        registry.visit(self._count, session)

    def _count(self, entries: list[Entry]) -> None:
        measuring = time.monotonic() < self._deadline
        kinds, sessions = self._kinds, self.sessions
        for entry in entries:
            kind = type(entry.obj)
            known = kinds.get(id(kind))
            if known is None:
                known = kinds[id(kind)] = self._new(kind)
            _, tally, measure = known
            home = sessions.get(entry.session.id)
            if home is None:
                home = sessions[entry.session.id] = Tally()
            tally.count += 1
            home.count += 1
            if measuring and measure is not _unknown:
                size = _measured(measure, entry.obj)
                if size is not None:
                    for each in (tally, home):
                        each.bytes += size
                        each.measured += 1

    def _new(self, kind: type) -> tuple[type, Tally, Measure]:
        names = type_names(kind)
        tally = self.types.get(names)
        if tally is None:
            tally = self.types[names] = Tally()
        return kind, tally, measure_of(kind)
