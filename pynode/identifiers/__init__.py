"""Pids, ports and references; who uses them finds them in `pynode.terms`.

There are two implementations that do the same: `_pure`, the reference, and `_compiled`, which is in
use if there was a C compiler when pynode was installed.
"""

from __future__ import annotations

try:
    from pynode.identifiers import _compiled
except ImportError:
    from pynode.identifiers._pure import Pid, Port, Reference, set_wire
else:
    Pid, Port = _compiled.Pid, _compiled.Port  # type: ignore[misc]
    Reference, set_wire = _compiled.Reference, _compiled.set_wire  # type: ignore[misc]

__all__ = ["Pid", "Port", "Reference", "set_wire"]
