"""`erlang:apply/3` on this node: which function a module, a name and arguments from Erlang mean.

First come the functions that this node has of Erlang's own (`pynode.otp.erlang`), then those of
Python's modules. A call of what is neither fails exactly as in Erlang, with ``undef``.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from pynode.errors import ErlangError, InvalidRequestError, NotAllowedError, RemoteError
from pynode.exits import class_and_reason, is_ours_alone
from pynode.otp.erlang import BADARG, FUNCTIONS, atom_name
from pynode.show import short
from pynode.terms import Atom, ExternalFun, Fun

if TYPE_CHECKING:
    from pynode.node import Node

_ERROR, _UNDEF = Atom("error"), Atom("undef")


class RefusedError(ErlangError):
    """A call that has failed by itself, not in the code of a user's function.

    `stack` is the Erlang stack trace that goes with `reason`: the call alone.
    """

    def __init__(self, advice: str, *, reason: Any, call: tuple[Any, ...]) -> None:
        # A fun and its arguments, or a module, a function and its arguments.
        what = ":".join(str(part) if type(part) is Atom else short(part) for part in call[:-1])
        super().__init__(f"{what} was called and fails with {reason}: {advice}", reason=reason)
        self.stack: list[Any] = [(*call, [])]


def outcome(
    error: BaseException, module: Any, function: Any, arity: int
) -> tuple[Atom, Any, list[Any]]:
    """Return class, reason and stack trace for what a call of ``module:function`` has raised.

    The frames of this package are left out, as those of `erpc.erl` are there.
    """
    # isinstance() would ask the exception, which may be anything.
    if type(error) is RefusedError:
        return _ERROR, error.reason, error.stack
    kind, reason, stack = class_and_reason(error)
    if is_ours_alone(error) and type(error) is not RemoteError:
        stack = [(module, function, arity, [])]
    return kind, reason, stack


def apply(node: Node, module: Any, function: Any, args: Any) -> Any:
    """Return what ``module:function`` returns for `args`; that may be a coroutine.

    Raises RefusedError and NotAllowedError, and whatever the function and the import of its module
    raise.
    """
    name, path = atom_name(module), atom_name(function)
    call = (module, function, args)
    if name is None or path is None or type(args) is not list:
        raise RefusedError("give two atoms and a list.", reason=BADARG, call=call)
    if name == "erlang" and path == "apply" and 2 <= len(args) <= 3:
        return apply(node, *args) if len(args) == 3 else apply_fun(node, *args)
    own = FUNCTIONS.get((name, path, len(args)))
    if own is None:
        function_here = _find(node, name, path)
        if not callable(function_here):
            raise RefusedError("check the spelling.", reason=_UNDEF, call=call)
        return function_here(*args)
    try:
        return own(node, *args)
    except ErlangError as error:
        raise RefusedError(str(error), reason=error.reason, call=call) from None


def apply_fun(node: Node, fun: Any, args: Any) -> Any:
    """Return what a fun returns (`erlang:apply/2`): it must be one of a module, ``fun M:F/A``.

    The code of any other fun is on the node that it comes from: here it is ``undef``.
    """
    if isinstance(fun, ExternalFun) and type(args) is list and len(args) == fun.arity:
        return apply(node, fun.module, fun.function, args)
    if isinstance(fun, Fun) and type(args) is list:
        advice = "its code is not on this node, so call a function of a module."
        raise RefusedError(advice, reason=_UNDEF, call=(fun, args))
    advice = "give a fun, and a list with as many arguments as it takes."
    raise RefusedError(advice, reason=BADARG, call=(Atom("erlang"), Atom("apply"), [fun, args]))


def _find(node: Node, name: str, path: str) -> Any:
    """Return what is called `path` in the Python module `name`, None if there is nothing.

    Raises NotAllowedError, and what the import raises.
    """
    package = name.partition(".")[0]
    # Python must not look for Erlang's and Elixir's modules: it might find something.
    if package in {"erlang", "Elixir"} or not all(map(str.isidentifier, name.split("."))):
        return None
    try:
        module = node.modules.module(name)
    except NotAllowedError:
        # Whoever asks for a module that is nowhere gets the same answer from a guarded node.
        if _is_anywhere(package):
            raise
        return None
    except ModuleNotFoundError as error:
        if f"{name}.".startswith(f"{error.name}."):
            return None
        raise
    try:
        return node.modules.attribute(module, path)
    except (AttributeError, InvalidRequestError):
        return None


def _is_anywhere(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # It is loaded, but was not found in the usual way.
        return True
