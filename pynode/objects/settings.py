"""What a session was opened with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from pynode import config
from pynode.errors import InvalidRequestError
from pynode.show import short

#: Seconds that clocks can add, some thirty years.
_LONGEST = 10**9


def _ref_ttl_seconds() -> int:
    return config.from_environment("SNAKEBRIDGE_REF_TTL_SECONDS", config.REF_TTL_SECONDS)


def _ref_max() -> int:
    return config.from_environment("SNAKEBRIDGE_REF_MAX", config.REF_MAX)


def _grace_seconds() -> int:
    return config.from_environment("SNAKEBRIDGE_GRACE_SECONDS", config.GRACE_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """The settings of one session; the defaults are those of `pynode.config` and the environment.

    Raises ValueError when an environment variable that is needed is no whole number.
    """

    #: Seconds after which a ref that nobody used expires; 0 for never.
    ttl_seconds: int | float = field(default_factory=_ref_ttl_seconds)
    #: Refs that the session may hold; 0 for no limit.
    max_refs: int = field(default_factory=_ref_max)
    #: What a full session does: "evict" its least recently used ref, or answer with an "error".
    on_full: str = config.ON_FULL
    #: Seconds for which an owner counts as alive when its node is lost; 0 for not at all.
    grace_seconds: int | float = field(default_factory=_grace_seconds)
    #: Whatever the opener wants to find again when it lists sessions.
    tags: Mapping[Any, Any] = field(default_factory=dict)
    #: Whether a call is interrupted when its caller has stopped waiting for it.
    cancel_on_timeout: bool = False
    #: Whether all calls of the session run on one thread that is its alone.
    own_thread: bool = False

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[Any, Any], defaults: SessionSettings | None = None
    ) -> SessionSettings:
        """Return `defaults` with what `mapping` says otherwise; None says nothing, as nil does.

        Raises InvalidRequestError, which names the setting, for a key that is none of the fields
        and for a value that does not fit.
        """
        if not isinstance(mapping, Mapping):
            raise InvalidRequestError(
                f"Session settings are a map, not {short(mapping)}: send %{{}} for the defaults.",
                reason="invalid_settings",
            )
        given: dict[str, Any] = {}
        for key, value in mapping.items():
            check = _CHECKS.get(key) if isinstance(key, str) else None
            if check is None:
                raise InvalidRequestError(
                    f"A session has no setting {short(key)}: there are {', '.join(_CHECKS)}.",
                    reason="unknown_setting",
                )
            if value is not None:
                given[str(key)] = check(str(key), value)
        return replace(defaults or cls(), **given)


def _refuse(name: str, value: object, wanted: str) -> NoReturn:
    raise InvalidRequestError(
        f"The session setting {name} is {short(value)}: set it to {wanted}.",
        reason="invalid_setting",
    )


def _seconds(name: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LONGEST:
        _refuse(name, value, "a number of seconds, or to 0 to switch it off")
    return value


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        _refuse(name, value, "a whole number, or to 0 for no limit")
    return value


def _on_full(name: str, value: object) -> str:
    if not isinstance(value, str) or value not in {"evict", "error"}:
        _refuse(name, value, "evict or error")
    return str(value)


def _tags(name: str, value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        _refuse(name, value, "a map")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(name, value, "true or false")
    return value


_CHECKS = {
    "ttl_seconds": _seconds,
    "max_refs": _count,
    "on_full": _on_full,
    "grace_seconds": _seconds,
    "tags": _tags,
    "cancel_on_timeout": _flag,
    "own_thread": _flag,
}
