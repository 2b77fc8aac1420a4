"""The codec in pure Python: the reference that every other implementation must agree with."""

from __future__ import annotations

from pynode.etf._pure_decode import decode, decode_at
from pynode.etf._pure_encode import encode, encode_into

__all__ = ["decode", "decode_at", "encode", "encode_into"]
