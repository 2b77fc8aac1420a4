"""Damaged inputs to every parser: a value, a documented error or a closed connection, no more.

The modules ``fuzz_*.py`` say what that is for each; here they get what real nodes have sent, with
damage that hypothesis chooses, and what has failed before. `test_coverage_guided.py` runs the
same under atheris.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pynode.protocol.handshake import Established
from tests.fuzz import fuzz_channel, fuzz_handshake, fuzz_node
from tests.fuzz.strategies import damaged
from tests.fuzz.vectors import vectors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

FOLDER = Path(__file__).parent
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.py"))
REGRESSIONS = [
    pytest.param(path.parent.name, path, id=f"{path.parent.name}-{path.name}")
    for path in sorted((FOLDER / "regressions").glob("*/*"))
]
each_target = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(scope="module", autouse=True)
def the_node_of_the_target_stops() -> Iterator[None]:
    yield
    fuzz_node.stop()


def module(target: str) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.fuzz_{target}")


@each_target
def test_what_real_nodes_send(target: str) -> None:
    seeds = module(target).seeds()
    assert len(seeds) >= 14
    for seed in seeds:
        module(target).check(seed)


@each_target
def test_what_real_nodes_send_cut_off_anywhere(target: str) -> None:
    found = module(target)
    for seed in found.seeds()[::3]:
        for end in range(0, len(seed), 1 if len(seed) < 100 else 7):
            found.check(seed[:end])


@each_target
@given(data=st.data())
@settings(max_examples=200)
def test_damage(target: str, data: st.DataObject) -> None:
    found = module(target)
    found.check(data.draw(damaged(found.seeds(), found.DICTIONARY)))


@each_target
@given(noise=st.binary(max_size=100))
def test_noise(target: str, noise: bytes) -> None:
    module(target).check(noise)


@pytest.mark.parametrize(("target", "path"), REGRESSIONS)
def test_what_has_failed_before(target: str, path: Path) -> None:
    module(target).check(path.read_bytes())


# --- that the vectors lead where they should, or all of the above would be about nothing


def test_vectors_of_connections_are_understood() -> None:
    kinds: set[Any] = set()
    for seed in fuzz_channel.seeds():
        events = fuzz_channel.events(seed)
        assert events
        assert None not in events
        kinds |= {type(getattr(event, "control", None)).__name__ for event in events}
    assert len(kinds) > 20


def test_vectors_of_handshakes_come_to_their_end() -> None:
    fitting = {
        "acceptor_ok": 0,
        "acceptor_ok_simultaneous": 1,
        "acceptor_alive": 4,
        "initiator_ok": 6,
        "initiator_alive": 5,
        "initiator_named": 7,
    }
    found = vectors("handshake")
    assert len(found) == 2 * len(fitting)
    for name, data in found.items():
        end = fuzz_handshake.outcome(fitting[name.partition("-")[2]], data, 3)
        assert any(isinstance(item, Established) for item in end)
