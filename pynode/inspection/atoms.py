"""Atoms and escapes as Elixir writes them (`Macro.inspect_atom/2`, `Inspect.BitString`)."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from pynode.terms import Atom

#: What is written as it is after a colon, but not after a dot.
_NOT_CALLABLE = frozenset({"%", "%{}", "{}", "<<>>", "...", "..", ".", "..//", "->"})
#: What is written as it is after a dot, but not after a colon.
_QUOTED_OPERATORS = frozenset({"::", "^^^", "~~~", "<|>"})
_OPERATORS = frozenset(
    {
        *("&", "!", "^", "not", "+", "-", "@", "<-", r"\\", "when", "|", "=", "||", "|||", "or"),
        *("&&", "&&&", "and", "==", "!=", "=~", "===", "!==", "<", "<=", ">=", ">", "|>", "<<<"),
        *(">>>", "<~", "~>", "<<~", "~>>", "<~>", "in", "++", "--", "<>", "+++", "---", "*", "/"),
        "**",
    }
)
_ALIAS = re.compile(r"Elixir(\.[A-Z][A-Za-z0-9_]*)*")

# Lone surrogates, which Erlang does not have, are shown like what cannot be printed.
_SPECIAL = re.compile('[\0-\x1f\x7f-\x9f\\\\"\ud800-\udfff\ufeff\ufffe\uffff]|#(?={)')
_LETTERS = dict(zip('\0\a\b\t\n\v\f\r\x1b\x7f\\"#', r"0abtnvfred\"#", strict=True))


def atom_name(term: Any) -> str | None:
    """Return the name of an atom, in whichever form Python has it; None for what is none."""
    if type(term) is Atom:
        return str(term)
    if term is None:
        return "nil"
    if term is True:
        return "true"
    return "false" if term is False else None


def literal(name: str) -> str:
    """Return an atom as it stands in code: ``:ok``, ``:"with space"``, ``Enum``."""
    if name in {"nil", "true", "false"}:
        return name
    if _ALIAS.fullmatch(name):
        prefixed = name.startswith("Elixir.") and not (name + ".").startswith("Elixir.Elixir.")
        return name.removeprefix("Elixir.") if prefixed else name
    return f":{name}" if _is_unquoted(name) else f":{quoted(name)}"


def key(name: str) -> str:
    """Return an atom as the key of a keyword list: ``ok:``, ``"with space":``."""
    is_plain = _is_unquoted(name) and not _ALIAS.fullmatch(name)
    return f"{name}:" if is_plain else f"{quoted(name)}:"


def remote_call(name: str) -> str:
    """Return an atom as the function of a call, after the dot: ``map``, ``"Map"``."""
    callable_ = name in _OPERATORS or name in _QUOTED_OPERATORS
    if callable_ or ("@" not in name and not name[:1].isupper() and _is_identifier(name)):
        return name
    return quoted(name)


def is_keyword_key(term: Any) -> bool:
    """Whether ``[{term, value}]`` is shown as a keyword list."""
    name = atom_name(term)
    return name is not None and not name.startswith("Elixir.")


def quoted(text: str) -> str:
    """Return `text` between double quotes."""
    return f'"{escape(text)}"'


def escape(text: str) -> str:
    """Return `text` as it stands between double quotes."""
    return _SPECIAL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    if char in _LETTERS:
        return f"\\{_LETTERS[char]}"
    if char == "\ufeff":
        return r"\uFEFF"
    code = ord(char)
    return f"\\x{code:02X}" if code < 256 else f"\\x{{{code:04X}}}"


def _is_unquoted(name: str) -> bool:
    return name in _OPERATORS or name in _NOT_CALLABLE or _is_identifier(name)


def _is_identifier(name: str) -> bool:
    """Whether it is a variable or an alias, which may have an @ inside and end in ? or !."""
    word = name[:-1] if name.endswith(("?", "!")) else name
    if not word.replace("@", "_").isidentifier() or word.startswith("@"):
        return False
    return word.isascii() or unicodedata.is_normalized("NFKC", word)
