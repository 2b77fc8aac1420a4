"""Finding what a call from elsewhere names: a module, a function in it, and its arguments."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from pynode.errors import InvalidRequestError, NotAllowedError
from pynode.show import short

#: Attributes by which objects lead to all of Python.
_WAYS_OUT = frozenset(
    {
        *("ag_frame", "cr_frame", "f_back", "f_builtins", "f_globals", "f_locals", "gi_frame"),
        *("mro", "tb_frame", "tb_next"),
    }
)

#: Of the names that Python reserves (``__name__``), those that do no more than operators do. All
#: others are ways out: there are many of them, and each release of Python brings more.
_OPERATORS = frozenset(
    f"__{name}__"
    for name in re.findall(
        r"\w+",
        """abs add aenter aexit aiter and anext await bool bytes call ceil complex contains delitem
        divmod doc enter eq exit float floor floordiv format ge getitem gt hash iadd iand
        ifloordiv ilshift imatmul imod imul index int invert ior ipow irshift isub iter itruediv
        ixor le len length_hint lshift lt matmul mod mul name ne neg next or pos pow qualname
        radd rand rdivmod repr reversed rfloordiv rlshift rmatmul rmod rmul ror round rpow
        rrshift rshift rsub rtruediv rxor setitem str sub truediv trunc version xor""",
    )
)


def _leads_out(name: str) -> bool:
    return name in _WAYS_OUT or (
        name.startswith("__") and name.endswith("__") and name not in _OPERATORS
    )


class Modules:
    """The modules that may be called: all of them, or those in `allow` with their submodules."""

    def __init__(self, allow: Iterable[str] | None = None) -> None:
        self._allow = None if allow is None else frozenset(allow)
        #: Whether there is a list of what may be called.
        self.guarded = self._allow is not None
        self._imported: dict[str, ModuleType] = {}

    def check(self, name: str) -> None:
        """Raise NotAllowedError unless module `name` may be used."""
        if self._allow is None:
            return
        parts = name.split(".")
        if not any(".".join(parts[:n]) in self._allow for n in range(1, len(parts) + 1)):
            raise NotAllowedError(
                f"Module {name} may not be called on this node: "
                f"start the node with --allow {name} if it should be.",
                module=name,
            )

    def find(self, module: Any, path: Any) -> Any:
        """Return the attribute `path`, which may be dotted, of `module`, importing it if need be.

        Raises NotAllowedError, InvalidRequestError, and whatever the import and the attributes
        raise: ImportError, AttributeError and others.
        """
        return self.attribute(self.module(text(module, "module")), path)

    def module(self, name: str) -> ModuleType:
        """Return the module `name`, importing it if need be.

        Raises NotAllowedError, and whatever the import raises.
        """
        module = self._imported.get(name)
        if module is None:
            self.check(name)
            module = self._import(name)
        return module

    def call(self, module: Any, path: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function `path` of `module`. Raises what `find` and the function raise."""
        return self.find(module, path)(*args, **kwargs)

    def method(self, target: Any, path: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call the method `path` of `target`. Raises what `attribute` and the method raise."""
        return self.attribute(target, path)(*args, **kwargs)

    def attribute(self, value: Any, path: Any) -> Any:
        """Return the attribute `path`, which may be dotted, of `value`.

        Modules on the way must be allowed, too. Raises NotAllowedError, InvalidRequestError,
        AttributeError and whatever else getting an attribute may raise.
        """
        for part in text(path, "attribute").split("."):
            if self._allow is not None and _leads_out(part):
                raise NotAllowedError(
                    f"{part} leads out of the modules that may be called on this node: "
                    "start the node without --allow if it should.",
                    module=part,
                )
            outer, value = value, getattr(value, part)
            if self._allow is not None and isinstance(value, ModuleType):
                self._check_inner(outer, part, value)
        return value

    def _check_inner(self, outer: Any, name: str, module: ModuleType) -> None:
        """Check a module that is an attribute: os.path is part of os, whatever its own name."""
        dotted = f"{outer.__name__}.{name}" if isinstance(outer, ModuleType) else ""
        if sys.modules.get(dotted) is module:
            self.check(dotted)
        else:
            self.check(module.__name__)

    def _import(self, name: str) -> ModuleType:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name + ".").startswith(error.name + "."):
                error.add_note(
                    f"Check the spelling of {name}, or install it for the Python of this node: "
                    f"{sys.executable}"
                )
            raise
        # Only what is imported completely gets here, even if other threads import it as well.
        self._imported[name] = module
        return module


def text(value: Any, what: str) -> str:
    """Return a name given as a binary or an atom. Raises InvalidRequestError."""
    if isinstance(value, str) and value:
        return str(value)
    if value is None or isinstance(value, bool):
        return {None: "nil", True: "true", False: "false"}[value]
    raise InvalidRequestError(
        f"The {what} is {short(value)}: give its name as a UTF-8 binary or an atom.",
        reason="invalid_name",
    )


def arguments(args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return positional and keyword arguments. Raises InvalidRequestError."""
    if type(args) is not list:
        raise InvalidRequestError(
            f"The arguments are a {type(args).__name__}: give them as a list.",
            reason="invalid_args",
        )
    if not kwargs:
        return args, {}
    pairs = kwargs.items() if isinstance(kwargs, Mapping) else kwargs
    try:
        named = {text(name, "keyword"): value for name, value in pairs}
    except (TypeError, ValueError):
        named = None
    if named is None or len(named) != len(kwargs):
        raise InvalidRequestError(
            f"The keyword arguments are {short(kwargs)}: give them as a map or a keyword list with "
            "each name once.",
            reason="invalid_kwargs",
        )
    return args, named
