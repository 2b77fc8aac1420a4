"""Showing Erlang terms, exits and exceptions as Elixir shows them.

`inspect` is ``Kernel.inspect/2``; `format_banner`, `format_exit` and `format_mfa` are those of
Elixir's module ``Exception``. They write what Elixir 1.14 writes, charlists as 1.15 does, except
where that would take the other node's modules or numbers of this one:

- pids, ports and references carry the name of their node, and its own numbers; a fun does not
  say which function it is from;
- a struct is ``%Name{...}`` with its fields in order, whether its module is loaded anywhere or
  not; only the structs of `pynode.values` have a form of their own;
- maps of more than 32 keys have the order in which they came;
- atoms with letters beyond ASCII are quoted by Python's idea of an identifier;
- an exception of a module that Elixir does not come with, and that keeps no `message`, is shown
  as a struct;
- `argument error` comes without the explanation that OTP adds, `undef` without a guess at
  what was meant, and stack traces without the names of applications;
- what is longer than anybody reads is cut.

Python values are shown as what they become on the way to Elixir, and those that have no Erlang
form as ``#Python<...>``. Nothing here raises an Exception, whatever the term.
"""

from __future__ import annotations

from pynode.inspection.formatting import format_banner, format_exit
from pynode.inspection.stacktrace import format_mfa
from pynode.inspection.terms import inspect

__all__ = ["format_banner", "format_exit", "format_mfa", "inspect"]
