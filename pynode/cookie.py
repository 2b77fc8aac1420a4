"""Where a node's cookie comes from: what all nodes of a cluster share, and nobody else has."""

from __future__ import annotations

import os
from pathlib import Path

from pynode.errors import CookieError


def find_cookie(*, value: str | None = None, file: Path | None = None) -> str:
    """Return the cookie: `value`, or that in `file`, in ``PYNODE_COOKIE``, in ~/.erlang.cookie.

    The first of them that is given counts. As `auth.erl` does, this refuses a file that others
    than its owner may read. Raises CookieError.
    """
    if value is not None:
        return _checked(value, "the cookie")
    if file is not None:
        return _read(file)
    from_environment = os.environ.get("PYNODE_COOKIE")
    if from_environment is not None:
        return _checked(from_environment, "PYNODE_COOKIE")
    try:
        default = Path.home() / ".erlang.cookie"
        present = default.exists()
    except (OSError, RuntimeError):  # no home directory, or one that we may not read
        present = False
    if not present:
        raise CookieError(
            "No cookie was given: set PYNODE_COOKIE, or name a file with --cookie-file, or start "
            "an Erlang node once so that it makes ~/.erlang.cookie."
        )
    return _read(default)


def _read(file: Path) -> str:
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="latin-1")
    except OSError as error:
        raise CookieError(
            f"The cookie file {file} cannot be read ({error.strerror}): check its name and owner."
        ) from error
    if mode & 0o077:
        raise CookieError(
            f"The cookie file {file} may be read by others: run chmod 400 {file} first."
        )
    return _checked(text.splitlines()[0].strip() if text.strip() else "", f"the file {file}")


def _checked(cookie: str, where: str) -> str:
    if not cookie or len(cookie) > 255 or not cookie.isascii() or not cookie.isprintable():
        raise CookieError(f"{where} holds no cookie: it must be 1 to 255 visible ASCII characters.")
    return cookie
