from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, cast

from hypothesis import given
from hypothesis import strategies as st

from pynode.objects import SessionSettings
from pynode.objects.session import Entry, Session, Usage

if TYPE_CHECKING:
    from pynode.objects.origin import Origin


class Thing:
    pass


SESSION = Session("jobs", SessionSettings(), cast("Origin", None), 0.0)


def entry(obj: object) -> Entry:
    return Entry(obj, SESSION, 0, "ref", 0.0)


@given(st.lists(st.tuples(st.sampled_from(["append", "remove", "touch"]), st.integers(0, 9))))
def test_order_is_that_of_a_list(steps: list[tuple[str, int]]) -> None:
    usage, model = Usage(), list[Entry]()
    for action, index in steps:
        if action == "append":
            model.append(entry(None))
            usage.append(model[-1])
        elif model:
            one = model.pop(index % len(model))
            if action == "touch":
                usage.touch(one)
                model.append(one)
            else:
                usage.remove(one)
                assert one.older is one.newer is None
        assert list(usage) == model
        assert usage.count == len(model)
        assert usage.oldest is (model[0] if model else None)
        assert usage.newest is (model[-1] if model else None)
    assert usage.drain() == model
    assert list(usage) == []
    assert usage.count == 0
    assert all(one.older is one.newer is None for one in model)


def test_what_leaves_needs_no_garbage_collector() -> None:
    usage, things = Usage(), [Thing() for _ in range(3)]
    ghosts = [weakref.ref(thing) for thing in things]
    for thing in things:
        usage.append(entry(thing))
    things.clear()
    del thing
    gc.disable()
    try:
        assert usage.oldest is not None
        usage.remove(usage.oldest)
        assert [ghost() is None for ghost in ghosts] == [True, False, False]
        usage.drain()
        assert [ghost() is None for ghost in ghosts] == [True] * 3
    finally:
        gc.enable()
