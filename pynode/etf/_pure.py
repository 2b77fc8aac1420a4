"""The codec in pure Python: the reference that every other implementation must agree with."""

from __future__ import annotations

from io import BytesIO

from pynode.etf._pure_decode import decode, decode_at
from pynode.etf._pure_encode import Part, encode, encode_parts

__all__ = ["Gathering", "Part", "decode", "decode_at", "encode", "encode_parts"]


class Gathering(BytesIO):
    """Bytes that come one after the other; as many as `expected`, most likely.

    Memory is taken for what has come, and for as many again at most. When all of it has come,
    `getvalue` returns that memory; nothing may be written afterwards.
    """

    def __init__(self, expected: int) -> None:  # noqa: ARG002 (the twin takes memory for it)
        super().__init__()
