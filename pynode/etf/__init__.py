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

The types are in `pynode.terms`. `IMPLEMENTATION` says which of the implementations is in use; all
of them do the same.
"""

from __future__ import annotations

from typing import Final

from pynode.etf._pure import decode, decode_at, encode, encode_into

#: "python", the reference.
IMPLEMENTATION: Final = "python"

__all__ = ["IMPLEMENTATION", "decode", "decode_at", "encode", "encode_into"]
