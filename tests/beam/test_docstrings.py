"""The examples in docstrings, run with the node ``app@127.0.0.1`` in the cluster."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import queue
from typing import TYPE_CHECKING

import pytest

from pynode import Atom, Node, aio, current_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.testing import BeamNode

MODULES = ["pynode.aio", "pynode.calls", "pynode.node", "pynode.process"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, any_beam: BeamNode, start_beam: Callable[..., BeamNode]) -> None:
    start_beam("app", cookie="secret", runtime=any_beam.runtime)
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    report: list[str] = []
    with Node("docs@127.0.0.1", cookie="secret") as node:
        namespace = {
            "Atom": Atom,
            "Node": Node,
            "aio": aio,
            "asyncio": asyncio,
            "current_process": current_process,
            "node": node,
            "queue": queue,
        }
        for test in finder.find(importlib.import_module(name), extraglobs=namespace):
            runner.run(test, out=report.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(report)
