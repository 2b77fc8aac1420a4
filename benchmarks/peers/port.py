"""A script behind an Erlang port: packets on standard input, answered on standard output.

A packet is its length in four bytes, a tag behind its own length in two, which is sent back as it
is, and ``{call, Module, Function, Args, Kwargs}`` in the External Term Format. It uses the codec
of pynode: there is no faster one to compare with. All packets that have come are answered by one
write. No sessions, no objects, no errors, one call at a time: this is what a port costs at the
least.
"""

from __future__ import annotations

import os
import sys

from benchmarks.targets import function
from pynode import etf
from pynode.terms import Atom


def main() -> None:
    """Serve until standard input ends."""
    ok = Atom("ok")
    buffer = bytearray()
    while chunk := os.read(0, 1 << 20):
        buffer += chunk
        begin = 0
        answers: list[bytes | bytearray] = []
        while (payload := begin + 4) <= len(buffer):
            end = payload + int.from_bytes(buffer[begin:payload])
            if end > len(buffer):
                break
            term = payload + 2 + int.from_bytes(buffer[payload : payload + 2])
            _, module, name, args, kwargs = etf.decode(bytes(buffer[term:end]))
            reply = etf.encode((ok, function(module, name)(*args, **kwargs)))
            size = term - payload + len(reply)
            answers += (size.to_bytes(4), buffer[payload:term], reply)
            begin = end
        if answers:
            del buffer[:begin]
            sys.stdout.buffer.writelines(answers)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
