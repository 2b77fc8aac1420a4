"""Which parts of this package run compiled, and how to run it without them.

With `PYNODE_PURE` in the environment (and not empty) Python runs the sources, as it does where
nothing could be compiled: to debug them, and to test both. This module is imported before all
others.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_PURE: Final = bool(os.environ.get("PYNODE_PURE"))
#: What is compiled, by a module that is loaded if it is.
_PARTS: Final = {"pynode._typed__mypyc": "the node", "pynode.etf._compiled": "the codec"}


class _Sources:
    """Finds the modules of this package, but only as sources."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, _: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or not name.startswith("pynode."):
            return None
        for folder in path:
            spec = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name)
            if spec is not None:
                return spec
        raise ModuleNotFoundError(f"There is no source of {name}.", name=name)


if _PURE:
    sys.meta_path.insert(0, _Sources)


def describe() -> str:
    """Return in words how this package runs; it is to be imported before this is called."""
    missing = [part for module, part in _PARTS.items() if module not in sys.modules]
    if not missing:
        return "compiled"
    if _PURE:
        return "pure Python (because PYNODE_PURE is set)"
    what = "pure Python" if len(missing) == len(_PARTS) else f"{missing[0]} in pure Python"
    return f"{what} (it could not be compiled here: install a C compiler, and pynode again)"
