"""Showing values in errors and logs: short, and whatever they are."""

from __future__ import annotations

import reprlib
import traceback


def short(value: object) -> str:
    """Return `value` as Python shows it, but shortened; its type if it cannot be shown.

    What cannot is an integer of many digits, for instance, or an object whose `__repr__` raises.
    """
    try:
        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 (it may be code of the user's)
        return f"<{type(value).__name__}>"


def current_traceback() -> str:
    """Return the traceback of the exception that is handled, as far as it can be shown."""
    try:
        return traceback.format_exc()
    except BaseException as error:  # noqa: BLE001 (the exception's own code may raise anything)
        return f"(which cannot be shown: that raises {type(error).__name__})"
