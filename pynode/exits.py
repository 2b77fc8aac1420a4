"""How a Python exception becomes an Erlang exit reason, or what `erpc` answers.

A BEAM process whose code raises exits with ``{Reason, Stacktrace}``, and one that calls `exit/1`
with what it gives that. Here the reason is ``%SnakeBridge.PythonError{}``, which has the text of
Python's traceback, and the stack trace has the frames in Erlang's form: Elixir, the shell and the
loggers print them like those of their own crashes.

Everything here works for any exception, whatever its methods do. What it returns can be encoded,
and all that is not a reason given by the code itself is of limited size.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from pynode.errors import BridgeError, CallInterrupted, ErlangError, ExitError, RemoteError
from pynode.inspection import inspect
from pynode.terms import Atom
from pynode.values import encode, struct

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")

#: Frames of a traceback that an exit reason has, the innermost ones.
_FRAMES: Final = 32
#: Characters of a message, of a file's name and of a whole traceback in an exit reason.
_MESSAGE: Final = 8_192
_PATH: Final = 1_024
_TRACEBACK: Final = 65_536
#: Notes (PEP 678) in an exit reason.
_NOTES: Final = 16
_MAX_ATOM: Final = 255

#: Our sources; what is compiled is named as it was where that was done.
_OWN_FILES = (str(Path(__file__).parent) + os.sep, "pynode/")

_ERROR, _EXIT, _THROW = Atom("error"), Atom("exit"), Atom("throw")
_NORMAL, _SHUTDOWN, _KILLED = Atom("normal"), Atom("shutdown"), Atom("killed")
_NOCATCH = Atom("nocatch")
_FILE, _LINE = Atom("file"), Atom("line")


def is_ours_alone(error: BaseException) -> bool:
    """Whether no frame of a traceback is another's code: a function in C has raised, or we have."""
    return _not_ours(error.__traceback__) is None


class Failure(NamedTuple):
    """What a function raised, in Erlang's terms: see `class_and_reason`."""

    error_class: Atom
    reason: Any
    stacktrace: list[Any]


def exit_reason(error: BaseException) -> Any:
    """Return the reason for which a process exits whose code has raised `error`.

    That is the `reason` of an ExitError (`exit/1`), and of a SystemExit ``normal``, an atom or
    ``{shutdown, Code}``. All else is a crash, ``{Reason, Stacktrace}``.
    """
    failure = class_and_reason(error)
    if failure.error_class == _EXIT:
        return failure.reason
    reason = failure.reason if failure.error_class == _ERROR else (_NOCATCH, failure.reason)
    return (reason, failure.stacktrace)


def class_and_reason(error: BaseException) -> Failure:
    """Return what `error` is for Erlang's ``catch Class:Reason:Stacktrace``.

    An ErlangError and a RemoteError are what they were there, and a BridgeError is the struct that
    travels. What tells the code to stop is ``exit:shutdown`` (KeyboardInterrupt, GeneratorExit, a
    cancelled coroutine).
    """
    # isinstance() would ask the object, which may raise.
    kind = type(error)
    stacktrace = _guarded(lambda: _stacktrace(error.__traceback__), list[Any]())
    if issubclass(kind, RemoteError):
        return _remote(cast("RemoteError", error), stacktrace)
    if issubclass(kind, ExitError | ErlangError):
        error_class = _EXIT if issubclass(kind, ExitError) else _ERROR
        return Failure(error_class, _travelling(lambda: cast("Any", error).reason), stacktrace)
    if issubclass(kind, BridgeError):
        error_struct = _travelling(lambda: bridge_error(cast("BridgeError", error)))
        return Failure(_ERROR, error_struct, stacktrace)
    if issubclass(kind, SystemExit):
        return Failure(_EXIT, _of_system_exit(cast("SystemExit", error)), stacktrace)
    if issubclass(kind, CallInterrupted):
        return Failure(_EXIT, _KILLED, stacktrace)
    if issubclass(kind, _stops()):
        return Failure(_EXIT, _SHUTDOWN, stacktrace)
    return Failure(_ERROR, _bounded(python_error(error, None)), stacktrace)


def _remote(error: RemoteError, here: list[Any]) -> Failure:
    error_class = _guarded(lambda: Atom(error.error_class), _ERROR)
    if error_class not in {_ERROR, _EXIT, _THROW}:
        error_class = _ERROR
    there = _travelling(lambda: error.stacktrace)
    is_stacktrace = type(there) is list and there
    return Failure(error_class, _travelling(lambda: error.reason), there if is_stacktrace else here)


def _of_system_exit(error: SystemExit) -> Any:
    code = _travelling(lambda: error.code)
    if code is None or (type(code) in {int, bool} and code == 0):
        return _NORMAL
    if type(code) is str:
        code = _cut(code, _MESSAGE)
    return code if type(code) is Atom else (_SHUTDOWN, code)


def _stops() -> tuple[type[BaseException], ...]:
    asyncio = sys.modules.get("asyncio")
    cancelled = () if asyncio is None else (asyncio.CancelledError,)
    return (KeyboardInterrupt, GeneratorExit, *cancelled)


def _travelling(part: Callable[[], Any]) -> Any:
    """Return `part()`, or how it looks if it cannot be encoded."""
    value = _guarded(part, None)
    return value if _guarded(lambda: encode(value), None) else _guarded(lambda: inspect(value), "")


# --- the exception as a struct


def python_error(error: BaseException, ref: Any) -> dict[Atom, Any]:
    """Return ``%SnakeBridge.PythonError{}``; `ref` stands for the exception, or is None.

    `type` is the exception's name, with its module unless that is `builtins`; `traceback` is
    the text that Python prints, from the first frame that is not ours; `notes` is a list of
    strings (PEP 678).
    """
    name: str = _guarded(lambda: _encodable(_name(type(error))), "Exception")
    message: str = _guarded(lambda: _encodable(str(error)), "")
    return struct(
        "SnakeBridge.PythonError",
        __exception__=True,
        type=name,
        message=message or name,
        traceback=_guarded(lambda: _traceback(error), ""),
        notes=_guarded(lambda: list(map(_encodable, error.__notes__)), list[str]()),
        ref=ref,
    )


def bridge_error(error: BridgeError) -> dict[Atom, Any]:
    """Return ``%SnakeBridge.<name>{}`` with the fields that the error has in Python."""
    fields = {name: getattr(error, name) for name in error.FIELDS}
    for name in ("node", "reason"):
        if isinstance(fields.get(name), str):
            fields[name] = Atom(fields[name])
    name = f"SnakeBridge.{type(error).__name__}"
    return struct(name, __exception__=True, message=error.message, **fields)


def _bounded(term: dict[Atom, Any]) -> dict[Atom, Any]:
    """Cut the texts of a PythonError: loggers print all of an exit reason."""
    cut = {
        "type": _cut(term[Atom("type")], _MAX_ATOM),
        "message": _cut(term[Atom("message")], _MESSAGE),
        "traceback": _cut(term[Atom("traceback")], _TRACEBACK),
        "notes": [_cut(note, _MESSAGE) for note in term[Atom("notes")][:_NOTES]],
    }
    return term | {Atom(name): value for name, value in cut.items()}


def _cut(text: str, length: int) -> str:
    """Return `text`, without its middle if it is longer than that."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


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
    start = _not_ours(error.__traceback__)
    return _encodable("".join(traceback.format_exception(type(error), error, start)))


def _not_ours(start: TracebackType | None) -> TracebackType | None:
    while start is not None and start.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        start = start.tb_next
    return start


def _encodable(text: Any) -> str:
    # As the base class does it: a subclass of str may have ideas of its own.
    return str.encode(str.__str__(text), "utf-8", "backslashreplace").decode()


# --- the traceback as a stack trace


def _stacktrace(start: TracebackType | None) -> list[Any]:
    """Return ``[{Module, Function, Arity, [{file, File}, {line, Line}]}]``, innermost first."""
    innermost: deque[TracebackType] = deque(maxlen=_FRAMES)
    # If all of them are ours, a function in C has raised, and they are what there is.
    level = _not_ours(start) or start
    while level is not None:
        innermost.append(level)
        level = level.tb_next
    return [_guarded(partial(_entry, level), _UNKNOWN) for level in reversed(innermost)]


_UNKNOWN = (Atom("python"), Atom("unknown"), 0, list[Any]())


def _entry(level: TracebackType) -> tuple[Any, ...]:
    code = level.tb_frame.f_code
    module = level.tb_frame.f_globals.get("__name__")
    if not isinstance(module, str):
        module = Path(code.co_filename).stem
    arity = min(code.co_argcount, 255)  # without those that have to be named
    file = list(map(ord, _encodable(code.co_filename)[-_PATH:]))
    location: list[Any] = [(_FILE, file)]
    if level.tb_lineno is not None:
        location.append((_LINE, level.tb_lineno))
    return (_atom(module), _atom(code.co_qualname), arity, location)


def _atom(name: str) -> Atom:
    return Atom(_encodable(name)[:_MAX_ATOM])
