"""Functions and stack traces as Elixir writes them (`Exception.format_mfa/3` and others)."""

from __future__ import annotations

import re
from typing import Any

from pynode.inspection.atoms import atom_name, literal, remote_call
from pynode.inspection.terms import inspect
from pynode.terms import ExternalFun, Fun

#: Entries of a stack trace that are shown; a BEAM keeps 8 of them (`erl +d`, `backtrace_depth`).
_ENTRIES = 50
#: The name that the compiler gives to the functions inside a function: -outer/1-fun-0-.
_ANONYMOUS = re.compile(r"-(.*)/([^/-]*)-[^/-]*-[^/-]*-", re.DOTALL)
_MAX_ARITY = 255
#: Characters of the arguments of a function, more or less.
_ARGUMENTS = 20_000


def format_mfa(module: Any, function: Any, arity: Any) -> str | None:
    """Return ``Enum.map/2``, or ``Enum.map([], 1)`` if `arity` is the list of arguments.

    Returns None if these are not a module, a function and one of both.
    """
    module, name, arguments = atom_name(module), atom_name(function), _arguments(arity)
    if module is None or name is None or arguments is None:
        return None
    if match := _ANONYMOUS.fullmatch(name):
        outer, outer_arity = match.groups()
        parent = f"{literal(module)}.{remote_call(outer)}/{outer_arity}"
        return f"anonymous fn{arguments} in {parent}"
    return f"{literal(module)}.{remote_call(name)}{arguments}"


def format_entries(stacktrace: Any) -> list[str] | None:
    """Return a line for each entry of a stack trace; None for what is no stack trace.

    An empty list is none: Elixir does not take it for one either.
    """
    if type(stacktrace) is not list or not stacktrace:
        return None
    lines: list[str] = []
    for entry in stacktrace[:_ENTRIES]:
        line = _format_entry(entry)
        if line is None:
            return None
        lines.append(line)
    if len(stacktrace) > _ENTRIES:
        lines.append("...")
    return lines


def _format_entry(entry: Any) -> str | None:
    """See `Exception.format_stacktrace_entry/1`."""
    if type(entry) is not tuple or len(entry) not in {3, 4}:
        return None
    *what, arity, options = entry
    location = _location(options)
    if location is None:
        return None
    if len(what) == 1:
        fun, arguments = what[0], _arguments(arity)
        is_fun = issubclass(type(fun), (Fun, ExternalFun))
        return f"{location}{inspect(fun)}{arguments}" if is_fun and arguments else None
    module, function = what
    match atom_name(function), arity:
        case "__MODULE__", 0:
            return f"{location}{inspect(module)} (module)"
        case "__MODULE__", 1:
            return f"{location}(module)"
        case "__FILE__", 1:
            return f"{location}(file)"
    mfa = format_mfa(module, function, arity)
    return None if mfa is None else location + mfa


def _location(options: Any) -> str | None:
    if type(options) is not list:
        return None
    found = {}
    for option in reversed(options[:_MAX_ARITY]):
        if type(option) is tuple and len(option) == 2:
            found[atom_name(option[0])] = option[1]
    file, line = found.get("file"), found.get("line")
    if file is None:
        return ""
    path = _path(file)
    if path is None:
        return None
    if line is None or line == 0:
        return f"{path}: "
    return f"{path}:{line}: " if type(line) is int else None


def _path(file: Any) -> str | None:
    if isinstance(file, str):
        path = str(file)
    elif type(file) is list and all(type(c) is int and 0 <= c < 0x110000 for c in file):
        path = "".join(map(chr, file))
    else:
        return None
    return path.encode("utf-8", "backslashreplace").decode()


def _arguments(arity: Any) -> str | None:
    if type(arity) is int:
        return f"/{arity}" if 0 <= arity <= _MAX_ARITY else None
    if type(arity) is not list or len(arity) > _MAX_ARITY:
        return None
    room = _ARGUMENTS // max(1, len(arity))
    return f"({', '.join(inspect(argument, room=room) for argument in arity)})"
