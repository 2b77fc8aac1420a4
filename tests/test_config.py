"""The defaults, and the page that tells users about them."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from pynode import config
from pynode.objects import SessionSettings

PAGE = (Path(__file__).parent.parent / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8")


def table(title: str) -> dict[str, str]:
    """Return name and default of each row of the table under `title`."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]*?) \|", section, flags=re.MULTILINE))


def test_every_default_is_documented() -> None:
    defaults = {
        name: str(value)
        for name, value in vars(config).items()
        if name.isupper() and name != "LIMITS"
    }
    assert table("Defaults in the code") == defaults


def test_every_limit_is_documented() -> None:
    assert table("Limits") == {name: str(value) for name, value in asdict(config.LIMITS).items()}


def test_every_limit_is_proved_by_a_test() -> None:
    section = PAGE.partition("## Limits\n")[2].partition("\n## ")[0]
    proofs = re.findall(r"^\| `\w+` \|.*\| `(test_\w+)` \|$", section, flags=re.MULTILINE)
    assert len(proofs) == len(asdict(config.LIMITS))
    folder = Path(__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in folder.rglob("test_*.py")]
    for name in [*proofs, *re.findall(r"\(`(test_\w+)`\)", section)]:
        assert any(f"def {name}(" in source for source in sources), name


def test_every_setting_of_a_session_is_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SNAKEBRIDGE_REF_TTL_SECONDS", "SNAKEBRIDGE_REF_MAX"):
        monkeypatch.delenv(name, raising=False)
    settings = asdict(SessionSettings())
    assert settings.pop("tags") == {}
    documented = table("Sessions")
    assert documented.pop("tags") == "none"
    assert documented == {name: str(value).lower() for name, value in settings.items()}


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEBRIDGE_REF_MAX", " 5 ")
    monkeypatch.setenv("SNAKEBRIDGE_REF_TTL_SECONDS", "7")
    assert (SessionSettings().max_refs, SessionSettings().ttl_seconds) == (5, 7)
    monkeypatch.setenv("SNAKEBRIDGE_REF_MAX", "")
    assert SessionSettings().max_refs == config.REF_MAX


@pytest.mark.parametrize("value", ["-1", "1.5", "many", "\u0661"])
def test_a_wrong_number_in_the_environment(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SNAKEBRIDGE_REF_MAX", value)
    with pytest.raises(ValueError, match=r"SNAKEBRIDGE_REF_MAX is .*: set it to a whole number"):
        SessionSettings()
