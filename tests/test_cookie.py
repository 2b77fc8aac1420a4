"""Where the cookie comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pynode.cookie import find_cookie
from pynode.errors import CookieError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYNODE_COOKIE", raising=False)
    return tmp_path


def write(path: Path, text: str, mode: int = 0o400) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_first_that_is_given_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".erlang.cookie", "home")
    assert find_cookie() == "home"
    monkeypatch.setenv("PYNODE_COOKIE", "environment")
    assert find_cookie() == "environment"
    file = write(home / "file", "file\n")
    assert find_cookie(file=file) == "file"
    assert find_cookie(value="value", file=file) == "value"


def test_none_at_all(home: Path) -> None:
    with pytest.raises(CookieError, match="PYNODE_COOKIE"):
        find_cookie()


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o644])
def test_a_file_that_others_may_read(home: Path, mode: int) -> None:
    file = write(home / "file", "secret", mode)
    with pytest.raises(CookieError, match="chmod 400") as caught:
        find_cookie(file=file)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there(home: Path) -> None:
    with pytest.raises(CookieError, match="No such file"):
        find_cookie(file=home / "nothing")


@pytest.mark.parametrize("cookie", ["", "with\nline", "größe", "x" * 256, "\x00"])
def test_what_is_no_cookie(home: Path, cookie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CookieError, match="1 to 255"):
        find_cookie(value=cookie)
    with pytest.raises(CookieError, match="1 to 255"):
        find_cookie(file=write(home / "empty", " \n"))
