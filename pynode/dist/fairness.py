"""How compiled code lets other threads run.

Python's global lock changes hands when a thread blocks, and else only where the interpreter looks
whether another thread has waited for it for `sys.getswitchinterval` seconds: wherever a function
that it runs begins, and wherever a loop in one goes round. Compiled code does not look. A reader
with a buffer full of calls of functions in C would keep all others waiting until that is empty.
"""

from __future__ import annotations


def give_way() -> None:
    """Let another thread run, if one has waited long enough; 0.03 µs if none has.

    It does so by being a function, in a module that is not compiled. What was to be raised in this
    thread by another (see `Task.interrupt`) is raised.
    """
