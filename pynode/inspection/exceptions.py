"""Erlang's errors as Elixir's exceptions (`ErlangError`), and their messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from pynode.inspection.atoms import atom_name, literal
from pynode.inspection.stacktrace import format_mfa
from pynode.inspection.terms import inspect
from pynode.terms import (
    Atom,
    BitString,
    ExternalFun,
    Fun,
    ImproperList,
    Map,
    Pid,
    Port,
    Reference,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: Characters of a message that are shown.
_MESSAGE = 16_384

_Fields: TypeAlias = Mapping[Any, Any]


def describe(reason: Any, stacktrace: Any) -> tuple[str, str]:
    """Return the name and the message of the exception that `reason` is, or stands for."""
    struct = reason.get("__struct__") if type(reason) is dict else None
    if type(struct) is Atom and reason.get("__exception__") is True:
        name, fields = literal(struct), reason
    else:
        name, fields = _normalize(reason, stacktrace)
    text = _message(name, fields)
    return name, text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]}..."


def _normalize(reason: Any, stacktrace: Any) -> tuple[str, _Fields]:
    """See `ErlangError.normalize/2`."""
    if type(reason) is Atom:
        match str(reason):
            case "badarg":
                return "ArgumentError", {"message": "argument error"}
            case "badarith":
                message = "bad argument in arithmetic expression"
                return "ArithmeticError", {"message": message}
            case "system_limit":
                return "SystemLimitError", {"message": "a system limit has been reached"}
            case "cond_clause":
                return "CondClauseError", {}
            case "undef":
                return "UndefinedFunctionError", _raised_in(stacktrace)
            case "function_clause":
                return "FunctionClauseError", _raised_in(stacktrace)
    elif type(reason) is tuple and len(reason) in {2, 3} and type(reason[0]) is Atom:
        tag, *details = reason
        match str(tag), *details:
            case "badarity", (fun, args) if type(details[0]) is tuple:
                return "BadArityError", {"function": fun, "args": args}
            case "badarg", payload:
                return "ArgumentError", {"message": f"argument error: {inspect(payload)}"}
            case "badstruct", struct, term:
                return "BadStructError", {"struct": struct, "term": term}
            case "badbool", operator, term:
                return "BadBooleanError", {"operator": operator, "term": term}
            case "badkey", key:
                return "KeyError", {"key": key, "term": _searched(stacktrace)}
            case "badkey", key, term:
                return "KeyError", {"key": key, "term": term, "message": _no_key(key, term)}
            case kind, term if kind in _ABOUT_A_TERM:
                return _ABOUT_A_TERM[kind], {"term": term}
    return "ErlangError", {"original": reason}


_ABOUT_A_TERM = {
    "badfun": "BadFunctionError",
    "badmap": "BadMapError",
    "badmatch": "MatchError",
    "case_clause": "CaseClauseError",
    "try_clause": "TryClauseError",
    "with_clause": "WithClauseError",
}


def _raised_in(stacktrace: Any) -> _Fields:
    entry = _first_entry(stacktrace)
    if entry is None:
        return {}
    module, function, arity, _ = entry
    return {
        "module": module,
        "function": function,
        "arity": len(arity) if type(arity) is list else arity,
    }


def _first_entry(stacktrace: Any) -> tuple[Any, ...] | None:
    if type(stacktrace) is list and stacktrace:
        entry = stacktrace[0]
        if type(entry) is tuple and len(entry) == 4:
            return entry
    return None


def _searched(stacktrace: Any) -> Any:
    """Return the map in which a key was not found, if its caller's arguments tell."""
    match _first_entry(stacktrace):
        case (Atom("Elixir.Map"), Atom("get_and_update!" | "update!"), [searched, _, _], _):
            return searched
        case (Atom("maps"), Atom("update"), [_, _, searched], _):
            return searched
        case (Atom("maps"), Atom("get"), [_, searched], _):
            return searched
        case (Atom("erlang"), Atom("map_get"), [_, searched], _):
            return searched
    return None


def _no_key(key: Any, term: Any) -> str:
    message = f"key {inspect(key)} not found in: {inspect(term)}"
    if type(term) in {dict, Map}:
        return message
    return (
        f"{message}. If you are using the dot syntax, such as map.field, "
        "make sure the left-hand side of the dot is a map"
    )


# --- messages


def _message(name: str, fields: _Fields) -> str:
    """See `Exception.message/1`."""
    if (compose := _MESSAGES.get(name)) is not None:
        return compose(fields)
    text = _text(fields.get("message"))
    return inspect(fields) if text is None else text


def _text(value: Any) -> str | None:
    """Return a binary as text; None for what is none."""
    if type(value) is str:
        return value.encode("utf-8", "backslashreplace").decode()
    return value.decode("utf-8", "replace") if type(value) is bytes else None


def _about(text: str, field: str = "term") -> Callable[[_Fields], str]:
    return lambda fields: text + inspect(fields.get(field))


def _bad_arity(fields: _Fields) -> str:
    fun: Any = fields.get("function")
    args = fields.get("args")
    arity = fun.arity if issubclass(type(fun), (Fun, ExternalFun)) else "?"
    called = "no arguments"
    if type(args) is list and args:
        shown = ", ".join(inspect(arg) for arg in args[:255])
        called = f"{len(args)} argument{'s' if len(args) > 1 else ''} ({shown})"
    return f"{inspect(fun)} with arity {arity} called with {called}"


def _bad_boolean(fields: _Fields) -> str:
    operator = atom_name(fields.get("operator")) or "and"
    return f'expected a boolean on left-side of "{operator}", got: {inspect(fields.get("term"))}'


def _bad_function(fields: _Fields) -> str:
    term = fields.get("term")
    if issubclass(type(term), (Fun, ExternalFun)):
        return (
            f"function {inspect(term)} is invalid, "
            "likely because it points to an old version of the code"
        )
    return f"expected a function, got: {inspect(term)}"


def _bad_struct(fields: _Fields) -> str:
    wanted, term = inspect(fields.get("struct")), inspect(fields.get("term"))
    return f"expected a struct named {wanted}, got: {term}"


def _erlang_error(fields: _Fields) -> str:
    return f"Erlang error: {inspect(fields.get('original'))}{_text(fields.get('reason')) or ''}"


def _mfa(fields: _Fields) -> str | None:
    return format_mfa(fields.get("module"), fields.get("function"), fields.get("arity"))


def _function_clause(fields: _Fields) -> str:
    mfa = _mfa(fields) if fields.get("function") is not None else None
    return f"no function clause matching in {mfa}" if mfa else "no function clause matches"


def _key_error(fields: _Fields) -> str:
    if (text := _text(fields.get("message"))) is not None:
        return text
    message = f"key {inspect(fields.get('key'))} not found"
    term = fields.get("term")
    return message if term is None else f"{message} in: {inspect(term)}"


def _undefined_function(fields: _Fields) -> str:
    if (text := _text(fields.get("message"))) is not None:
        return text
    mfa = _mfa(fields) if fields.get("function") is not None else None
    if mfa is None:
        return "undefined function"
    # Without a reason, only the node that raised it could tell which of them it is.
    match atom_name(fields.get("reason")):
        case "module could not be loaded":
            why = f" (module {inspect(fields.get('module'))} is not available)"
        case "function not exported":
            why = " or private"
        case _:
            why = ""
    return f"function {mfa} is undefined{why}"


def _undefined_protocol(fields: _Fields) -> str:
    value, description = fields.get("value"), _text(fields.get("description"))
    protocol = f"protocol {inspect(fields.get('protocol'))} not implemented"
    more = f", {description}" if description else ""
    return f"{protocol} for {inspect(value)} of type {_type(value)}{more}"


def _type(value: Any) -> str:
    cls = type(value)
    struct = value.get("__struct__") if cls is dict else None
    if type(struct) is Atom:
        return f"{literal(struct)} (a struct)"
    return "Function" if issubclass(cls, Fun) else _TYPES.get(cls, cls.__name__)


_TYPES: dict[type, str] = {
    **dict.fromkeys((Atom, bool, type(None)), "Atom"),
    **dict.fromkeys((str, bytes, BitString), "BitString"),
    **dict.fromkeys((list, ImproperList), "List"),
    **dict.fromkeys((dict, Map), "Map"),
    float: "Float",
    int: "Integer",
    tuple: "Tuple",
    ExternalFun: "Function",
    Pid: "PID",
    Port: "Port",
    Reference: "Reference",
}


def _python_error(fields: _Fields) -> str:
    # As SnakeBridge.PythonError.message/1 does it.
    kind, message = _text(fields.get("type")), _text(fields.get("message"))
    lines = [": ".join(filter(None, (kind, message)))]
    notes = fields.get("notes")
    if type(notes) is list:
        lines += filter(None, map(_text, notes))
    traceback = _text(fields.get("traceback")) or ""
    if "Traceback (" in traceback:
        lines += ["", traceback.rstrip()]
    return "\n".join(lines)


_MESSAGES: dict[str, Callable[[_Fields], str]] = {
    "BadArityError": _bad_arity,
    "BadBooleanError": _bad_boolean,
    "BadFunctionError": _bad_function,
    "BadMapError": _about("expected a map, got: "),
    "BadStructError": _bad_struct,
    "CaseClauseError": _about("no case clause matching: "),
    "CondClauseError": lambda _: "no cond clause evaluated to a truthy value",
    "ErlangError": _erlang_error,
    "FunctionClauseError": _function_clause,
    "KeyError": _key_error,
    "MatchError": _about("no match of right hand side value: "),
    "Protocol.UndefinedError": _undefined_protocol,
    "SnakeBridge.PythonError": _python_error,
    "TryClauseError": _about("no try clause matching: "),
    "UndefinedFunctionError": _undefined_function,
    "WithClauseError": _about("no with clause matching: "),
}
