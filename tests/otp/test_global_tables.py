"""The locks and names of `global`, without anybody else."""

from __future__ import annotations

import itertools

import pytest

from pynode.otp.global_names.tables import GLOBAL, Name, Tables
from pynode.terms import Atom, Pid, Reference

A, B, C = (Pid(Atom(f"{name}@h"), 1, 0, 1) for name in "abc")
METHOD = Atom("method")


class Monitors:
    """What the tables monitor."""

    def __init__(self) -> None:
        self.active: dict[Reference, Pid] = {}
        self.unreachable: set[Pid] = set()
        self._numbers = itertools.count(1)

    def monitor(self, pid: Pid) -> Reference | None:
        if pid in self.unreachable:
            return None
        reference = Reference(Atom("me@h"), 1, (next(self._numbers),))
        self.active[reference] = pid
        return reference

    def demonitor(self, reference: Reference) -> None:
        del self.active[reference]

    def exit(self, tables: Tables, pid: Pid) -> None:
        for reference in [r for r, watched in self.active.items() if watched == pid]:
            tables.down(reference)


@pytest.fixture
def monitors() -> Monitors:
    return Monitors()


@pytest.fixture
def tables(monitors: Monitors) -> Tables:
    return Tables(monitors.monitor, monitors.demonitor)


def test_a_lock_has_one_requester(tables: Tables, monitors: Monitors) -> None:
    assert tables.lock("r", 1, A)
    assert tables.lock("r", 1, A)
    assert tables.lock("r", 1, B)
    assert not tables.lock("r", 2, C)
    # As terms of Erlang, these are different.
    assert not tables.lock("r", 1.0, C)
    assert tables.lock(Atom("r"), 2, C)
    tables.unlock("r", 2, A)
    tables.unlock("r", 1, C)
    tables.unlock("r", 1, A)
    assert not tables.can_lock("r", 2)
    tables.unlock("r", 1, B)
    assert tables.can_lock("r", 2)
    tables.unlock("r", 1, B)
    tables.unlock(Atom("r"), 2, C)
    assert not monitors.active


def test_a_lock_goes_with_its_process(tables: Tables, monitors: Monitors) -> None:
    tables.lock("r", 1, A)
    tables.lock("r", 1, B)
    monitors.exit(tables, A)
    assert not tables.can_lock("r", 2)
    monitors.exit(tables, B)
    assert tables.can_lock("r", 2)
    # A process that cannot be reached is as good as dead.
    monitors.unreachable.add(C)
    assert tables.lock("r", 1, C)
    assert tables.can_lock("r", 2)
    assert not monitors.active


def test_names(tables: Tables, monitors: Monitors) -> None:
    tables.insert(Name("n", A, METHOD))
    tables.insert(Name({"a": [1]}, B, METHOD))
    assert tables.find("n") == Name("n", A, METHOD)
    assert tables.find(Atom("n")) is None
    assert tables.find({"a": [1]}) == Name({"a": [1]}, B, METHOD)
    tables.insert(Name("n", C, METHOD))
    assert [name.pid for name in tables.names()] == [B, C]
    monitors.exit(tables, A)
    assert tables.find("n") is not None
    monitors.exit(tables, C)
    assert tables.find("n") is None
    tables.delete({"a": [1]})
    tables.delete({"a": [1]})
    assert not tables.names()
    assert not monitors.active


def test_whether_names_may_be_changed(tables: Tables, monitors: Monitors) -> None:
    # Without any lock, unless the last one was lost.
    assert tables.still_locked_by(A)
    assert tables.still_locked_for("somebody")
    tables.lock(GLOBAL, "somebody", A)
    assert tables.names_are_locked()
    assert tables.still_locked_by(A)
    assert not tables.still_locked_by(B)
    assert tables.still_locked_for("somebody")
    assert not tables.still_locked_for("somebody else")
    monitors.exit(tables, A)
    assert not tables.names_are_locked()
    assert not tables.still_locked_by(A)
    assert not tables.still_locked_for("somebody")
    tables.lock(GLOBAL, "somebody", B)
    tables.unlock(GLOBAL, "somebody", B)
    assert tables.still_locked_by(A)


def test_all_of_a_node_is_forgotten(tables: Tables, monitors: Monitors) -> None:
    for pid in (A, B):
        tables.lock("r", 1, pid)
        tables.insert(Name(str(pid.node), pid, METHOD))
    tables.forget("a@h")
    assert [name.pid for name in tables.names()] == [B]
    assert not tables.can_lock("r", 2)
    tables.forget("b@h")
    assert tables.can_lock("r", 2)
    assert not monitors.active
