from __future__ import annotations

import gc
import tracemalloc

import pytest

from pynode.objects import departed
from pynode.objects.departed import Departed, ref_not_found, session_not_found
from pynode.terms import Atom, Reference

BIG = 1 << 96


def test_what_was_never_there_is_unknown() -> None:
    memory = Departed()
    assert memory.why_ref(BIG + 1) == (None, "unknown")
    assert memory.why_session("s") == "unknown"
    assert not memory.knows_session("s")


def test_the_oldest_ref_is_forgotten_first() -> None:
    memory = Departed(limit=3)
    for key in range(5):
        memory.add_ref(BIG + key, "s", "released")
    assert [memory.why_ref(BIG + key)[1] for key in range(5)] == ["unknown"] * 2 + ["released"] * 3
    assert len(memory) == 3


def test_the_oldest_session_is_forgotten_first() -> None:
    memory = Departed(limit=2)
    for name in "abc":
        memory.add_session(name, "owner_down", [])
    assert [memory.why_session(name) for name in "abc"] == ["unknown", "owner_down", "owner_down"]


def test_a_session_answers_for_its_refs() -> None:
    memory = Departed()
    memory.add_session("a", "owner_down", [BIG + 9, BIG + 3, BIG + 5])
    memory.add_session("b", "session_released", [BIG + 4])
    assert memory.why_ref(BIG + 5) == ("a", "owner_down")
    assert memory.why_ref(BIG + 4) == ("b", "session_released")
    assert [memory.why_ref(BIG + key)[1] for key in (2, 6, 10)] == ["unknown"] * 3


def test_the_death_of_a_full_session_does_not_flush_what_left_before() -> None:
    memory = Departed(limit=100)
    memory.add_ref(BIG, "s", "released")
    memory.add_session("small", "session_released", [BIG + 1])
    memory.add_session("big", "owner_down", range(BIG + 1_000, BIG + 1_100))
    assert memory.why_ref(BIG) == ("s", "released")
    assert memory.why_ref(BIG + 1) == ("small", "session_released")
    assert memory.why_ref(BIG + 1_000) == ("big", "owner_down")


def test_of_an_oversized_session_the_newest_refs_are_kept() -> None:
    memory = Departed(limit=10)
    memory.add_session("big", "owner_down", range(BIG + 50, BIG, -1))
    assert len(memory) == 10
    assert memory.why_ref(BIG + 50) == ("big", "owner_down")
    assert memory.why_ref(BIG + 40) == (None, "unknown")


def test_refs_of_sessions_are_bounded_in_total_and_sessions_outlive_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pynode.objects.departed._SESSION_REFS", 5)
    memory = Departed(limit=10)
    names = [f"s{number}" for number in range(10)]
    for _ in range(20):
        for number, name in enumerate(names):
            memory.add_session(name, "owner_down", range(BIG + number * 10, BIG + number * 10 + 10))
            assert len(memory) <= 50
    assert len(memory) == 50
    assert [memory.why_session(name) for name in names] == ["owner_down"] * 10


def test_two_lives_of_one_name_are_told_apart() -> None:
    memory = Departed(limit=2)
    memory.add_session("s", "owner_down", [BIG + 1])
    memory.add_session("s", "session_released", [BIG + 2])
    assert memory.why_ref(BIG + 1) == ("s", "owner_down")
    assert memory.why_ref(BIG + 2) == ("s", "session_released")
    assert memory.why_session("s") == "session_released"
    # The first life is forgotten: the name still stands for the second.
    memory.add_session("t", "owner_down", [])
    assert memory.why_session("s") == "session_released"
    memory.add_session("u", "owner_down", [])
    assert memory.why_session("s") == "unknown"


def test_a_ref_of_a_dead_session_takes_eight_bytes() -> None:
    memory = Departed()
    keys = range(BIG, BIG + 10_000)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(10):
            memory.add_session(f"s{number}", "owner_down", keys)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 100_000 < 10


@pytest.mark.parametrize("reason", departed._REF_REASONS)
def test_every_reason_has_a_sentence_that_says_what_to_do(reason: str) -> None:
    reference = Reference(Atom("py@host"), 1, (1, 2, 3))
    error = ref_not_found(reference, "jobs", reason)
    assert (error.ref_id, error.session_id, error.reason) == (reference, "jobs", reason)
    assert error.message == str(error)
    assert error.message.startswith("#Ref<0.3.2.1> of session jobs is not there")
    assert reason in error.message
    assert ", so " in error.message
    assert error.message.count(".") == 4
    assert error.message.endswith(".")
    assert "session" not in ref_not_found(reference, None, "unknown").message


@pytest.mark.parametrize("reason", departed._SESSION_REASONS)
def test_every_end_of_a_session_has_a_sentence_that_says_what_to_do(reason: str) -> None:
    error = session_not_found("jobs", reason)
    assert (error.session_id, error.reason) == ("jobs", reason)
    assert error.message.startswith("The session jobs ")
    assert ", so " in error.message
    assert error.message.endswith(".")


def test_sessions_that_are_forgotten_take_their_refs_along() -> None:
    memory = Departed(limit=10)
    for number in range(1, 1001):
        memory.add_session(f"s{number}", "owner_down", [number])
    assert len(memory) == 10
    assert memory.why_ref(1000) == ("s1000", "owner_down")
    assert memory.why_ref(991) == ("s991", "owner_down")
    assert memory.why_ref(990) == (None, "unknown")
    assert len(memory._with_refs) == len(memory._former) + len(memory._recent) == 10


def test_many_lives_of_one_name_are_as_many_sessions() -> None:
    memory = Departed(limit=10)
    memory.add_session("other", "owner_down", [BIG])
    for number in range(1, 1001):
        memory.add_session("s", "owner_down", [number])
        assert len(memory._with_refs) <= 10
    assert memory.why_session("other") == "unknown"
    assert memory.why_ref(1000) == ("s", "owner_down")
    assert memory.why_ref(1) == memory.why_ref(BIG) == (None, "unknown")
