"""Which parts of this package run compiled, and how to run it without them.

With `PYNODE_PURE` in the environment (and not empty) Python runs the sources, as it does where
nothing could be compiled: to debug them, and to test both. This module is imported before all
others.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_PURE: Final = bool(os.environ.get("PYNODE_PURE"))
#: What is compiled, by a module that is loaded if it is.
_PARTS: Final = {
    "pynode._typed__mypyc": "the node",
    "pynode.etf._compiled": "the codec",
    "pynode.identifiers._compiled": "pids and references",
    "pynode.protocol._compiled": "control messages",
}
_REASON: Final = (
    "PYNODE_PURE is set"
    if _PURE
    else "it could not be compiled here: install a C compiler, and pynode again"
)


def _sources_alone(folder: str) -> FileFinder:
    """Find modules in a folder of this package, but only as sources; ImportError for others."""
    if not Path(folder).is_relative_to(_HERE):
        raise ImportError(f"{folder} is no folder of pynode.")
    return FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))


if _PURE:
    sys.path_hooks.insert(0, _sources_alone)
    sys.path_importer_cache.pop(str(_HERE), None)


def describe() -> str:
    """Return in words how this package runs; it is to be imported before this is called."""
    missing = [part for module, part in _PARTS.items() if module not in sys.modules]
    if not missing:
        return "compiled"
    if len(missing) < len(_PARTS):
        return f"compiled but for {', '.join(missing)} ({_REASON})"
    return f"pure Python: small calls cost six times the CPU ({_REASON})"
