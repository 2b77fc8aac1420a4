"""How an exception travels: as the exception struct that Elixir raises or returns."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pynode.terms import Atom
from pynode.values import struct

if TYPE_CHECKING:
    from pynode.errors import BridgeError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_OWN_FILES = str(Path(__file__).parent.parent)


def bridge_error(error: BridgeError) -> dict[Atom, Any]:
    """Return ``%SnakeBridge.<name>{}`` with the fields that the error has in Python."""
    fields = {name: getattr(error, name) for name in error.FIELDS}
    for name in ("node", "reason"):
        if isinstance(fields.get(name), str):
            fields[name] = Atom(fields[name])
    return _exception(type(error).__name__, message=error.message, **fields)


def python_error(error: BaseException, ref: Any) -> dict[Atom, Any]:
    """Return ``%SnakeBridge.PythonError{}``; `ref` stands for the exception, or is None.

    `type` is the exception's name, with its module unless that is `builtins`; `traceback` is
    the text that Python prints, from the first frame that is not ours; `notes` is a list of
    strings (PEP 678).
    """
    name: str = _guarded(lambda: _name(type(error)), "Exception")
    message: str = _guarded(lambda: _encodable(str(error)), "")
    return _exception(
        "PythonError",
        type=name,
        message=message or name,
        traceback=_guarded(lambda: _traceback(error), ""),
        notes=_guarded(lambda: [_encodable(note) for note in error.__notes__], list[str]()),
        ref=ref,
    )


def without_frames(error: BaseException) -> BaseException:
    """Take the tracebacks out of an exception that is going to be kept, and return it.

    Their frames hold the local variables of everything that was running: whoever keeps the
    exception would keep those objects, too.
    """
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        current = todo.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            current.__traceback__ = None
            todo += (current.__cause__, current.__context__)
            if issubclass(type(current), BaseExceptionGroup):
                todo += current.exceptions  # type: ignore[attr-defined]
    return error


def _exception(name: str, **fields: Any) -> dict[Atom, Any]:
    return struct(f"SnakeBridge.{name}", __exception__=True, **fields)


def _guarded(part: Callable[[], T], default: T) -> T:
    """Return `part()`; it runs code of the user's, which may raise anything, or be missing."""
    try:
        return part()
    except BaseException:  # noqa: BLE001
        return default


def _name(kind: type) -> str:
    module = getattr(kind, "__module__", None)
    name = str(kind.__qualname__)
    return name if module in (None, "builtins", "__main__") else f"{module}.{name}"


def _traceback(error: BaseException) -> str:
    start = error.__traceback__
    while start is not None and start.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        start = start.tb_next
    return _encodable("".join(traceback.format_exception(type(error), error, start)))


def _encodable(text: Any) -> str:
    # As the base class does it: a subclass of str may have ideas of its own.
    return str.encode(str.__str__(text), "utf-8", "backslashreplace").decode()
