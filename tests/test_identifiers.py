"""Pids, ports and references, compiled and in pure Python: the same to whoever uses them."""

from __future__ import annotations

import copy
import gc
import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynode import etf, terms
from pynode.identifiers import _pure
from pynode.terms import Atom

if TYPE_CHECKING:
    from types import ModuleType

N = Atom("n@h")
NAMES = ("Pid", "Port", "Reference")
MODULES = ["pynode.identifiers._pure", "pynode.identifiers._compiled"]
if importlib.util.find_spec(MODULES[1]) is None and not os.environ.get("CI"):
    del MODULES[1]

#: The arguments of values that are told apart.
ARGUMENTS: list[tuple[str, tuple[Any, ...]]] = [
    ("Pid", (N, 1, 2, 3)),
    ("Pid", (Atom("m@h"), 1, 2, 3)),
    ("Pid", (N, 9, 2, 3)),
    ("Pid", (N, 1, 9, 3)),
    ("Pid", (N, 1, 2, 9)),
    ("Pid", (N, 2**32 - 1, 2**32 - 1, 2**32 - 1)),
    ("Pid", (N, 2**32, -1, 2**70)),  # which cannot be sent
    ("Port", (N, 1, 3)),
    ("Port", (Atom("m@h"), 1, 3)),
    ("Port", (N, 2**64 - 1, 3)),
    ("Port", (N, 1, 9)),
    ("Reference", (N, 3, (1, 2))),
    ("Reference", (Atom("m@h"), 3, (1, 2))),
    ("Reference", (N, 9, (1, 2))),
    ("Reference", (N, 3, (1, 2, 0))),
    ("Reference", (N, 3, (2, 1))),
    ("Reference", (N, 2**32 - 1, (2**32 - 1,) * 5)),
    ("Reference", (Atom("é" * 100), 3, (1, 2, 3))),
    ("Reference", (N, 3, ())),
    ("Reference", (N, 3, (1,) * 6)),
    ("Reference", (N, 3, (2**32,))),
]
each = pytest.mark.parametrize(("name", "arguments"), ARGUMENTS, ids=str)


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An implementation, which is that of pynode.terms for the time being."""
    found = importlib.import_module(request.param)
    for name in NAMES:
        monkeypatch.setattr(terms, name, getattr(found, name))
    return found


def make_all(module: ModuleType) -> list[Any]:
    return [getattr(module, name)(*arguments) for name, arguments in ARGUMENTS]


def fields(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, name) for name in value.__match_args__)


@each
def test_a_value(module: ModuleType, name: str, arguments: tuple[Any, ...]) -> None:
    cls = getattr(module, name)
    value = cls(*arguments)
    assert (cls.__module__, cls.__qualname__) == ("pynode.terms", name)
    assert fields(value) == arguments
    assert value.wire is None
    assert repr(value) == f"{name}({', '.join(map(repr, arguments))})"
    assert value == cls(*arguments) == cls(**dict(zip(cls.__match_args__, arguments, strict=True)))
    assert hash(value) == hash(value) == hash(cls(*arguments))
    copies = [copy.copy(value), copy.deepcopy(value)]
    copies += [pickle.loads(pickle.dumps(value, n)) for n in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for again in copies:
        assert type(again) is cls
        assert again == value
        assert repr(again) == repr(value)


def test_values_that_differ(module: ModuleType) -> None:
    values = make_all(module)
    for one in values:
        for other in values:
            assert (one == other) is (one is other)
            assert (one != other) is (one is not other)
        for other in (None, 1, "a", (N, 1, 2, 3), object(), fields(one)):
            assert one != other
        with pytest.raises(TypeError):
            assert one < one  # noqa: PLR0124 (There is no order.)
    assert len(set(values)) == len({hash(value) for value in values}) == len(values)


def test_what_is_equal_hashes_alike(module: ModuleType) -> None:
    """Numbers are compared as such, and names as text."""
    for one, other in (
        (module.Pid(N, True, 2, 3), module.Pid("n@h", 1, 2.0, 3)),
        (module.Port(N, 1, 3), module.Port("n@h", True, 3)),
        (module.Reference(N, 1, (1, 2)), module.Reference("n@h", True, (1.0, 2))),
    ):
        assert one == other
        assert hash(one) == hash(other)


def test_immutable(module: ModuleType) -> None:
    for value in make_all(module):
        for name in (*value.__match_args__, "wire", "new"):
            expected = f"{type(value).__name__} is immutable: make a new one."
            with pytest.raises(AttributeError, match=expected):
                setattr(value, name, 1)
            with pytest.raises(AttributeError, match=expected):
                delattr(value, name)
        with pytest.raises(TypeError):
            weakref.ref(value)


def test_printed_as_their_node_does(module: ModuleType) -> None:
    assert str(module.Pid(N, 1, 2, 3)) == "<0.1.2>"
    assert str(module.Port(N, 5, 3)) == "#Port<0.5>"
    reference = module.Reference(N, 3, (219093, 2483552261, 1793270268))
    assert str(reference) == "#Ref<0.1793270268.2483552261.219093>"


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments(module: ModuleType, name: str) -> None:
    cls = getattr(module, name)
    for arguments in ((), (N,), (N, 1), (N, 1, 2, 3, 4)):
        with pytest.raises(TypeError):
            cls(*arguments)
    with pytest.raises(TypeError):
        cls(N, 1, 2, new=3)


def test_the_encoded_form_is_no_part_of_the_value(module: ModuleType) -> None:
    plain = module.Reference(N, 3, (1, 2))
    other = module.Reference(N, 3, (1, 2), _wire=b"Z\0\2w\3n@h\0\0\0\3\0\0\0\1\0\0\0\2")
    found = {plain}
    module.set_wire(plain, other.wire)
    assert plain.wire is other.wire
    assert plain == other
    assert other in found
    assert pickle.loads(pickle.dumps(plain)).wire is None


# --- as they come


WORD = st.integers(0, 2**32 - 1)
NODE = st.text(max_size=85).map(Atom)


@given(node=NODE, creation=WORD, ids=st.lists(WORD, min_size=1, max_size=5).map(tuple), order=...)
def test_references_that_were_received(
    node: Atom, creation: int, ids: tuple[int, ...], order: bool
) -> None:
    """Their numbers are read when somebody asks, which makes no difference."""
    made = terms.Reference(node, creation, ids)
    data = etf.encode(terms.Reference(node, creation, ids))

    def received() -> Any:
        etf.encode([terms.Reference(N, n, (n,)) for n in range(3)])
        return etf.decode(data)

    assert hash(received()) == hash(made)
    assert received() == made
    assert made == received()
    other = terms.Reference(node, creation, (*ids[:-1], ids[-1] ^ 1))
    assert other != received()
    etf.encode(other)
    assert other != received()
    found = received()
    values = [found.ids, found.creation] if order else [found.creation, found.ids][::-1]
    assert values == [ids, creation]
    assert type(found.ids) is tuple
    assert hash(found) == hash(made)
    assert (repr(found), str(found), found.node) == (repr(made), str(made), node)
    assert pickle.loads(pickle.dumps(received())) == made
    assert etf.encode(received()) == etf.encode(made) == data


@given(node=NODE, numbers=st.tuples(WORD, WORD, WORD), port=st.integers(0, 2**64 - 1))
def test_pids_and_ports_that_were_received(
    node: Atom, numbers: tuple[int, int, int], port: int
) -> None:
    for made in (terms.Pid(node, *numbers), terms.Port(node, port, numbers[0])):
        found = etf.decode(etf.encode(made))
        assert type(found) is type(made)
        assert found == made
        assert fields(found) == fields(made)
        assert hash(found) == hash(made)
        assert repr(found) == repr(made)
        assert pickle.loads(pickle.dumps(found)) == made


# --- what they cost


def test_the_hash_is_a_secret_of_the_process(module: ModuleType) -> None:
    program = (
        f"import {module.__name__} as m\n"
        "print(hash(m.Pid('n', 1, 2, 3)), hash(m.Port('n', 1, 2)), hash(m.Reference('n', 1, (2,))))"
    )
    seen = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert all(one != other for one, other in zip(*seen, strict=True))


@pytest.mark.skipif(etf.IMPLEMENTATION != "c", reason="They are not compiled here.")
def test_memory() -> None:
    for name, arguments in ARGUMENTS:
        compiled = getattr(terms, name)(*arguments)
        pure = getattr(_pure, name)(*arguments)
        assert sys.getsizeof(compiled) <= sys.getsizeof(pure)
        assert not gc.is_tracked(compiled)
