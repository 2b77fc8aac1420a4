"""Start real BEAM nodes from pytest, ask them things in Erlang, and stop them.

::

    with Epmd() as epmd, BeamNode(epmd=epmd) as node:
        assert node.eval("lists:seq(1, N)", N=3) == [1, 2, 3]

The processes that are started here listen on the loopback interface alone, or in a `Network` of
their own, and none of them outlives the Python process that started it, however that ends.
"""

from __future__ import annotations

from pynode.testing.beam import BeamError, BeamNode, BeamProcess
from pynode.testing.children import ChildExitedError, Lines
from pynode.testing.epmd import Epmd
from pynode.testing.netns import Network, why_no_network
from pynode.testing.python_node import PynodeProcess, run_pynode
from pynode.testing.runtimes import Runtime, compile_module, find_runtimes
from pynode.testing.waiting import wait_until

__all__ = [
    "BeamError",
    "BeamNode",
    "BeamProcess",
    "ChildExitedError",
    "Epmd",
    "Lines",
    "Network",
    "PynodeProcess",
    "Runtime",
    "compile_module",
    "find_runtimes",
    "run_pynode",
    "wait_until",
    "why_no_network",
]
