from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynode.objects.origin import Origin
from pynode.terms import Atom, Reference

NODE = Atom("py@host")
words = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5).map(tuple)


def origin_of(example: Reference) -> Origin:
    return Origin(lambda: example, lambda: 50.0, lambda: 1_000.9)


@given(words, words)
def test_keys_are_as_different_as_references(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    origin = origin_of(Reference(NODE, 3, (1, 2, 3)))
    keys = [origin.key(Reference(NODE, 3, ids)) for ids in (one, other)]
    assert keys[0] is not None
    assert origin.reference(keys[0]) == Reference(NODE, 3, one)
    assert (keys[0] == keys[1]) == (one == other)


def test_only_references_of_this_incarnation_have_keys() -> None:
    origin = origin_of(Reference(NODE, 3, (1, 2, 3)))
    former = Reference(NODE, 2, (1, 2, 3))
    foreign = Reference(Atom("ex@host"), 3, (1, 2, 3))
    assert origin.key(former) is None
    assert origin.is_former(former)
    assert origin.key(foreign) is None
    assert not origin.is_former(foreign)
    assert not origin.is_former(Reference(NODE, 3, (9, 9, 9)))


def test_no_reference_is_made_before_one_is_needed() -> None:
    made = []

    def new_reference() -> Reference:
        made.append(1)
        return Reference(NODE, 3, (len(made),))

    origin = Origin(new_reference, lambda: 0.0, lambda: 0.0)
    assert not made
    assert origin.reference(origin.mint()) in {Reference(NODE, 3, (n,)) for n in (1, 2)}


def test_a_node_that_makes_foreign_references_is_a_bug() -> None:
    references = iter([Reference(NODE, 3, (1,)), Reference(NODE, 4, (1,))])
    origin = Origin(lambda: next(references), lambda: 0.0, lambda: 0.0)
    assert origin.example.creation == 3
    with pytest.raises(RuntimeError, match="report"):
        origin.mint()


def test_times_are_converted_as_the_clocks_stand_now() -> None:
    assert origin_of(Reference(NODE, 3, (1,))).unix(40.0) == 990
