"""The distribution protocol as pure functions and state machines.

Nothing here opens a socket, starts a thread or reads a clock: bytes go in, events come out,
and the caller writes what it is handed. ``pynode.dist`` does all input and output.
"""
