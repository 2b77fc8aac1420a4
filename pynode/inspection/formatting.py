"""Exits and exceptions as Elixir writes them (`Exception.format_exit/1`, `format_banner/3`)."""

from __future__ import annotations

from typing import Any

from pynode.inspection.atoms import atom_name
from pynode.inspection.exceptions import describe
from pynode.inspection.stacktrace import format_entries, format_mfa
from pynode.inspection.terms import inspect

#: Reasons inside each other that are told apart; what is further in is shown as a term.
_LEVELS = 20


def format_banner(error_class: str, reason: Any, stacktrace: Any = ()) -> str:
    """Return what `Exception.format/3` begins with: ``** (RuntimeError) oops``.

    `error_class` is ``error``, ``exit`` or ``throw``. The stack trace is a help with finding out
    what an error is about.
    """
    if error_class == "error":
        try:
            name, message = describe(reason, stacktrace)
        except Exception:  # noqa: BLE001 (as in `inspect`)
            return f"** (error) {inspect(reason)}"
        return f"** ({name}) {message}"
    if error_class == "exit":
        return f"** (exit) {format_exit(reason)}"
    return f"** (throw) {inspect(reason)}"


def format_exit(reason: Any) -> str:
    """Return an exit reason in words, on several lines if there is a stack trace in it."""
    try:
        return _format(reason, "\n    ", _LEVELS)
    except Exception:  # noqa: BLE001 (as in `inspect`)
        return inspect(reason)


def _format(reason: Any, joiner: str, levels: int) -> str:
    if levels == 0:
        return inspect(reason)
    if type(reason) is not tuple or len(reason) != 2:
        return _in_words(reason)
    first, second = reason
    entries = format_entries(second)
    if entries is not None:
        raised = f"an exception was raised:{joiner}{format_banner('error', first, second)}"
        return f"{joiner}    ".join([raised, *entries])
    inner = f"{joiner}    "
    if _is(first, "shutdown") and _is_tagged(second, "failed_to_start_child", 3):
        _, child, why = second
        if _is_tagged(why, "EXIT", 2):
            why = why[1]
        why = _format(why, inner, levels - 1)
        return f"shutdown: failed to start child: {inspect(child)}{joiner}** (EXIT) {why}"
    if type(second) is tuple and len(second) == 3:
        module, function, args = second
        mfa = format_mfa(module, function, args) if type(args) is list else None
        if mfa is not None:
            return f"exited in: {mfa}{joiner}** (EXIT) {_format(first, inner, levels - 1)}"
    return _in_words(reason)


def _in_words(reason: Any) -> str:
    if type(reason) is not tuple:
        name = atom_name(reason)
        return _WORDS.get(name, inspect(reason)) if name is not None else inspect(reason)
    if len(reason) == 2:
        tag, value = reason
        match atom_name(tag):
            case "nodedown" if (node := atom_name(value)) is not None:
                return f"no connection to {node}"
            case "bad_return" if _is_bad_init(value):
                mfa = format_mfa(value[0], value[1], 1)
                return f"{mfa} returned a bad value: {inspect(value[2])}"
            case str(name) if name in _ABOUT:
                return f"{_ABOUT[name]}: {inspect(value)}"
    return inspect(reason)


def _is_bad_init(value: Any) -> bool:
    return (
        type(value) is tuple
        and len(value) == 3
        and atom_name(value[0]) is not None
        and _is(value[1], "init")
    )


def _is(term: Any, name: str) -> bool:
    return atom_name(term) == name


def _is_tagged(term: Any, tag: str, size: int) -> bool:
    return type(term) is tuple and len(term) == size and _is(term[0], tag)


_WORDS = {
    "normal": "normal",
    "shutdown": "shutdown",
    "calling_self": "process attempted to call itself",
    "timeout": "time out",
    "killed": "killed",
    "noconnection": "no connection",
    "noproc": (
        "no process: the process is not alive or there's no process currently associated with "
        "the given name, possibly because its application isn't started"
    ),
}
_ABOUT = {
    "shutdown": "shutdown",
    "already_started": "already started",
    "bad_return_value": "bad return value",
    "bad_call": "bad call",
    "bad_cast": "bad cast",
    "bad_start_spec": "bad child specification, invalid children",
}
