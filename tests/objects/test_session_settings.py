from __future__ import annotations

import math

import pytest

from pynode import config
from pynode.errors import InvalidRequestError
from pynode.objects import SessionSettings
from pynode.terms import Atom


def test_defaults_are_those_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNAKEBRIDGE_REF_TTL_SECONDS", raising=False)
    monkeypatch.delenv("SNAKEBRIDGE_REF_MAX", raising=False)
    settings = SessionSettings()
    assert settings.ttl_seconds == config.REF_TTL_SECONDS == 0
    assert settings.max_refs == config.REF_MAX == 10_000
    assert settings.on_full == config.ON_FULL == "evict"
    assert settings.tags == {}
    assert settings.cancel_on_timeout is False
    assert settings.own_thread is False


def test_the_environment_changes_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEBRIDGE_REF_TTL_SECONDS", "1800")
    monkeypatch.setenv("SNAKEBRIDGE_REF_MAX", "5")
    assert (SessionSettings().ttl_seconds, SessionSettings().max_refs) == (1800, 5)
    monkeypatch.setenv("SNAKEBRIDGE_REF_MAX", "many")
    with pytest.raises(ValueError, match="SNAKEBRIDGE_REF_MAX is 'many': set it to"):
        SessionSettings()


def test_from_mapping_takes_what_is_given_and_defaults_for_the_rest() -> None:
    defaults = SessionSettings(ttl_seconds=60, max_refs=7)
    settings = SessionSettings.from_mapping(
        {
            Atom("ttl_seconds"): 0.5,
            "on_full": Atom("error"),
            "max_refs": None,
            "tags": {"job": 1},
            "cancel_on_timeout": True,
            "own_thread": True,
        },
        defaults,
    )
    assert settings == SessionSettings(
        ttl_seconds=0.5,
        max_refs=7,
        on_full="error",
        tags={"job": 1},
        cancel_on_timeout=True,
        own_thread=True,
    )
    assert type(settings.on_full) is str
    assert SessionSettings.from_mapping({}, defaults) == defaults
    assert SessionSettings.from_mapping({}) == SessionSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttl_seconds", -1),
        ("ttl_seconds", True),
        ("ttl_seconds", "60"),
        ("ttl_seconds", math.nan),
        ("ttl_seconds", math.inf),
        ("ttl_seconds", 10**400),
        ("max_refs", -1),
        ("max_refs", False),
        ("max_refs", 1.0),
        ("on_full", "panic"),
        ("on_full", []),
        ("tags", [1]),
        ("cancel_on_timeout", 1),
        ("own_thread", "yes"),
    ],
)
def test_from_mapping_refuses_a_value_by_the_setting_s_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match=rf"setting {name} is .*: set it to .*\.$"):
        SessionSettings.from_mapping({name: value})


@pytest.mark.parametrize("key", ["ttl", Atom("maxrefs"), 1, (1,), b"ttl_seconds", None])
def test_from_mapping_refuses_an_unknown_setting_by_name(key: object) -> None:
    with pytest.raises(InvalidRequestError, match="ttl_seconds, max_refs") as caught:
        SessionSettings.from_mapping({key: 1})
    assert repr(key) in caught.value.message


@pytest.mark.parametrize("settings", [[], None, "x", [("ttl_seconds", 1)]])
def test_from_mapping_refuses_what_is_no_map(settings: object) -> None:
    with pytest.raises(InvalidRequestError, match="are a map"):
        SessionSettings.from_mapping(settings)  # type: ignore[arg-type]
