from __future__ import annotations

import pytest

from pynode.testing import wait_until


def test_it_returns_the_first_true_result() -> None:
    results = iter([0, None, "", "there", "too late"])
    assert wait_until(lambda: next(results)) == "there"


def test_it_asks_at_least_once() -> None:
    assert wait_until(lambda: 1, timeout=0) == 1


def test_it_gives_up_with_the_last_result() -> None:
    def never() -> str:
        return ""

    with pytest.raises(TimeoutError, match=r"never was still '' after 0\.01 seconds"):
        wait_until(never, timeout=0.01)
