from __future__ import annotations

from pynode.protocol.flags import DEFAULT, MANDATORY, MANDATORY_25, DFlag, expand, missing


def test_values_are_those_that_a_beam_shows() -> None:
    # erts_internal:get_dflags/0, second element: mandatory.
    assert MANDATORY_25 == 0x1070F94  # OTP 25
    assert MANDATORY == 0x403070F94  # OTP 28
    # First element, the default of OTP 28, has the atom cache besides.
    assert DEFAULT | DFlag.DIST_HDR_ATOM_CACHE == 0x2D07DF7FBC


def test_mandatory_25_digest_is_bit_26() -> None:
    assert int(DFlag.MANDATORY_25_DIGEST) == 0x4000000


def test_default_is_hidden_and_has_no_atom_cache() -> None:
    assert not DEFAULT & (DFlag.PUBLISHED | DFlag.DIST_HDR_ATOM_CACHE | DFlag.NAME_ME)
    assert DFlag.FRAGMENTS in DEFAULT


def test_default_lacks_nothing() -> None:
    assert missing(DEFAULT) == []


def test_missing_names_what_is_missing() -> None:
    assert missing(DEFAULT & ~DFlag.MAP_TAG & ~DFlag.MANDATORY_25_DIGEST) == ["MAP_TAG"]
    assert missing(0)[:2] == ["EXTENDED_REFERENCES", "FUN_TAGS"]


def test_the_digest_stands_for_what_otp_25_requires_and_for_no_more() -> None:
    assert missing(DFlag.MANDATORY_25_DIGEST) == ["UNLINK_ID", "V4_NC"]
    assert expand(DFlag.MANDATORY_25_DIGEST) == MANDATORY_25 | DFlag.MANDATORY_25_DIGEST
    assert expand(DFlag.SPAWN) == DFlag.SPAWN


def test_unknown_flags_are_kept() -> None:
    unknown = 1 << 60
    assert int(expand(unknown)) == unknown
    assert missing(DEFAULT | unknown) == []
