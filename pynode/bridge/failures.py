"""How an exception travels: as the exception struct that Elixir raises or returns."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pynode.terms import Atom
from pynode.values import struct

if TYPE_CHECKING:
    from pynode.errors import BridgeError

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
    kind = type(error)
    name = kind.__qualname__
    module = getattr(kind, "__module__", None)
    if module not in (None, "builtins", "__main__"):
        name = f"{module}.{name}"
    return _exception(
        "PythonError",
        type=name,
        message=_text(error),
        traceback=_traceback(error),
        notes=[note for note in getattr(error, "__notes__", ()) if isinstance(note, str)],
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
            todo += getattr(current, "exceptions", ())
    return error


def _exception(name: str, **fields: Any) -> dict[Atom, Any]:
    return struct(f"SnakeBridge.{name}", __exception__=True, **fields)


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as problem:  # noqa: BLE001 (it is code of the user's)
        text = f"(its __str__ raised {type(problem).__name__})"
    return _encodable(text) or type(error).__name__


def _traceback(error: BaseException) -> str:
    start = error.__traceback__
    while start is not None and start.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        start = start.tb_next
    try:
        lines = traceback.format_exception(type(error), error, start)
    except Exception as problem:  # noqa: BLE001 (it calls code of the user's)
        lines = [f"(the traceback could not be made: {type(problem).__name__})"]
    return _encodable("".join(lines))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
