"""Showing the state of a server to Erlang, whatever is in it."""

from __future__ import annotations

from typing import Any

from pynode.inspection import inspect
from pynode.values import UNREPRESENTABLE, encode, to_term


def as_text(value: Any) -> Any:
    """Return the form of a value that the codec does not know: text if it has none in Erlang.

    A `default` for the codec, where something is only to be shown.
    """
    term = to_term(value)
    return inspect(value) if term is UNREPRESENTABLE else term


def showable(term: Any) -> Any:
    """Return `term`, or text if `encode` with `as_text` does not take it.

    In a map, only those values are replaced by text that have to be.
    """
    if _is_encodable(term):
        return term
    if type(term) is dict:
        shown = {key: showable_part(part) for key, part in term.items() if _is_encodable(key)}
        if _is_encodable(shown):
            return shown
    return inspect(term)


def showable_part(term: Any) -> Any:
    """Return what `showable` has in the place of one value of a map."""
    return term if _is_encodable(term) else inspect(term)


def _is_encodable(term: Any) -> bool:
    try:
        encode(term, as_text)
    except Exception:  # noqa: BLE001 (a user's converter may raise anything)
        return False
    return True
