"""The External Term Format: how Erlang terms look as bytes (erl_ext_dist).

================================  ==========================================================
Erlang                            Python
================================  ==========================================================
``nil``, ``true``, ``false``      ``None``, ``True``, ``False``
other atoms                       `Atom`, a ``str``
integer, float                    ``int``, ``float``
UTF-8 binary, other binary        ``str``, ``bytes``
other bitstring                   `BitString`
list, charlist                    ``list``
improper list                     `ImproperList`
tuple                             ``tuple``
map                               ``dict``, or `Map` when a dict would merge or not take a key
pid, port, reference              `Pid`, `Port`, `Reference`
fun                               `Fun`, or `ExternalFun` for ``fun m:f/a``
================================  ==========================================================

The types are in `pynode.terms`. There are two implementations that do the same: `_pure`, the
reference, and `_compiled`, which is in use if there was a C compiler when pynode was installed.
`IMPLEMENTATION` says which one it is.
"""

from __future__ import annotations

from pynode.etf._pure import Part

#: "c" or "python".
IMPLEMENTATION: str

try:
    from pynode.etf import _compiled
except ImportError:
    from pynode.etf._pure import Gathering, decode, decode_at, encode, encode_parts

    IMPLEMENTATION = "python"
else:
    decode, decode_at = _compiled.decode, _compiled.decode_at
    encode, encode_parts = _compiled.encode, _compiled.encode_parts
    Gathering = _compiled.Gathering  # type: ignore[misc]
    IMPLEMENTATION = "c"

__all__ = [
    "IMPLEMENTATION",
    "Gathering",
    "Part",
    "decode",
    "decode_at",
    "encode",
    "encode_parts",
]
