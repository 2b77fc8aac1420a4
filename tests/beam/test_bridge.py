"""The request protocol, asked by a real BEAM: what another program may rely on."""

from __future__ import annotations

import functools
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from pynode.terms import Atom, Map, Reference
from pynode.testing import wait_until
from tests.beam.asking import SPECIMENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode, BeamProcess, PynodeProcess

CALL = "gen_server:call({snakebridge, Node}, Request, 30000)"


@pytest.fixture
def caller(any_beam: BeamNode) -> Iterator[BeamProcess]:
    """A process of its own for each test: what it owns goes with it."""
    process = any_beam.process()
    yield process
    process.exit()


@pytest.fixture
def ask(caller: BeamProcess, module_pynode: PynodeProcess) -> Callable[..., Any]:
    """Send a request from `caller` and return the answer."""
    return functools.partial(ask_from, caller, module_pynode)


def ask_from(process: BeamProcess, module_pynode: PynodeProcess, *request: object) -> Any:
    term = request if len(request) > 1 else request[0]
    return process.eval(CALL, Node=Atom(module_pynode.name), Request=term)


def call(ask: Callable[..., Any], name: str, *args: object, **kwargs: object) -> Any:
    """Call the function `module.name` and return its value."""
    module, _, function = name.rpartition(".")
    tag, value = ask(Atom("call"), module, function, list(args), kwargs)
    assert tag == "ok", value
    return value


def error(answer: Any) -> dict[str, Any]:
    """Return the fields of the exception in an answer."""
    tag, value = answer
    assert tag == "error"
    assert value["__exception__"] is True
    return {**value, "struct": value["__struct__"].removeprefix("Elixir.SnakeBridge.")}


# --- requests


def test_a_plain_call(ask: Callable[..., Any]) -> None:
    assert ask(Atom("call"), "math", "sqrt", [16], {}) == (Atom("ok"), 4.0)


def test_plain_values_make_no_session(ask: Callable[..., Any], caller: BeamProcess) -> None:
    call(ask, "math.sqrt", 16)
    answer = ask(Atom("session"), caller.pid)
    assert error(answer)["struct"] == "SessionNotFoundError"


@pytest.mark.parametrize("kwargs", [{"key": None}, {Atom("key"): None}, [(Atom("key"), None)]])
def test_names_are_binaries_or_atoms_and_kwargs_maps_or_keywords(
    ask: Callable[..., Any], kwargs: Any
) -> None:
    answer = ask(Atom("call"), Atom("builtins"), Atom("sorted"), [[2, 1]], kwargs)
    assert answer == (Atom("ok"), [1, 2])


def test_a_function_may_be_dotted(ask: Callable[..., Any]) -> None:
    assert ask(Atom("call"), "os", "path.join", ["a", "b"], {}) == (Atom("ok"), "a/b")


def test_get_reads_an_attribute_of_a_module(ask: Callable[..., Any]) -> None:
    assert ask(Atom("get"), "math", "pi")[1] == pytest.approx(3.14159, abs=1e-5)


def test_an_object_is_a_ref_and_lives_on(
    ask: Callable[..., Any], module_pynode: PynodeProcess
) -> None:
    ref = call(ask, "collections.Counter", "hello")
    assert ref["__struct__"] == "Elixir.SnakeBridge.Ref"
    assert isinstance(ref["id"], Reference)
    assert ref["id"].node == module_pynode.name
    assert (ref["python_module"], ref["library"]) == ("collections", "collections")
    assert (ref["type_name"], ref["schema"]) == ("Counter", 1)
    assert ask(Atom("method"), ref, "most_common", [1], {}) == (Atom("ok"), [("l", 2)])
    assert call(ask, "builtins.len", ref) == 4
    assert call(ask, "builtins.sum", [1], start=0) == 1


def test_the_implicit_session_is_named_after_its_owner(
    ask: Callable[..., Any], caller: BeamProcess
) -> None:
    ref = call(ask, "builtins.object")
    prefix, pid, moment = ref["session_id"].split("_")
    assert (prefix, pid) == ("auto", str(caller.pid))
    session = ask(Atom("session"), ref["session_id"])[1]
    assert session["owners"] == [caller.pid]
    assert session["refs"] == 1
    assert session["created_at"] == pytest.approx(int(moment) / 1000, abs=5)
    assert ask(Atom("session"), caller.pid)[1]["owners"] == [caller.pid]


def test_getattr_and_setattr(ask: Callable[..., Any]) -> None:
    ref = call(ask, "types.SimpleNamespace", a=1)
    assert ask(Atom("getattr"), ref, "a") == (Atom("ok"), 1)
    assert ask(Atom("setattr"), ref, "b", [ref]) == Atom("ok")
    assert ask(Atom("getattr"), ref, "b")[1][0]["type_name"] == "SimpleNamespace"


def test_an_iterator_is_a_stream(ask: Callable[..., Any]) -> None:
    stream = call(ask, "builtins.iter", [1, 2, 3])
    assert stream["__struct__"] == "Elixir.SnakeBridge.StreamRef"
    assert ask(Atom("next"), stream, 2) == (Atom("ok"), [1, 2], Atom("more"))
    assert ask(Atom("next"), stream, 2) == (Atom("ok"), [3], Atom("done"))
    assert ask(Atom("next"), stream, 2) == (Atom("ok"), [], Atom("done"))


def test_an_iterator_that_fails_loses_nothing(ask: Callable[..., Any]) -> None:
    stream = call(ask, "builtins.map", call(ask, "operator.methodcaller", "upper"), ["a", 5])
    assert ask(Atom("next"), stream, 10) == (Atom("ok"), ["A"], Atom("more"))
    assert error(ask(Atom("next"), stream, 10))["type"] == "AttributeError"
    assert ask(Atom("next"), stream, 10) == (Atom("ok"), [], Atom("done"))


def test_next_of_what_is_no_iterator(ask: Callable[..., Any]) -> None:
    answer = error(ask(Atom("next"), call(ask, "builtins.object"), 1))
    assert answer["struct"] == "InvalidRefError"


def test_put_keeps_a_value_in_python(ask: Callable[..., Any]) -> None:
    _, ref = ask(Atom("put"), [3, 1, 2])
    assert ref["type_name"] == "list"
    assert ask(Atom("method"), ref, "sort", [], {}) == (Atom("ok"), None)
    assert call(ask, "builtins.list", ref) == [1, 2, 3]


def test_release(ask: Callable[..., Any]) -> None:
    refs = [call(ask, "builtins.object") for _ in range(3)]
    assert ask(Atom("release"), refs[0]) == (Atom("ok"), 1)
    assert ask(Atom("release"), refs) == (Atom("ok"), 2)
    assert ask(Atom("release"), refs[0]["id"]) == (Atom("ok"), 0)
    answer = error(ask(Atom("method"), refs[0], "__hash__", [], {}))
    assert (answer["struct"], answer["reason"]) == ("RefNotFoundError", "released")
    assert answer["ref_id"] == refs[0]["id"]


def test_explicit_sessions(ask: Callable[..., Any], caller: BeamProcess) -> None:
    name = f"s{caller.pid}"
    settings = {Atom("max_refs"): 2, Atom("tags"): {"job": 7}}
    assert ask(Atom("open_session"), name, caller.pid, settings) == Atom("ok")
    options = {Atom("session_id"): name}
    _, ref = ask(Atom("call"), "builtins", "object", [], {}, options)
    assert ref["session_id"] == name
    _, sessions = ask(Atom("sessions"))
    assert sessions[name]["tags"] == {"job": 7}
    assert sessions[name]["max_refs"] == 2
    assert [entry["ref"] for entry in ask(Atom("refs"), name)[1]] == [ref]
    # Under another explicit session it is a mismatch; under none, the ref brings its own.
    answer = error(ask(Atom("getattr"), ref, "__class__", {Atom("session_id"): "other"}))
    assert answer["struct"] == "SessionMismatchError"
    assert (answer["expected_session"], answer["actual_session"]) == (name, "other")
    assert ask(Atom("getattr"), ref, "__class__")[1]["session_id"] == name
    assert ask(Atom("release_session"), name) == (Atom("ok"), 2)
    assert ask(Atom("release_session"), name) == (Atom("ok"), 0)
    answer = error(ask(Atom("getattr"), ref, "__class__"))
    assert answer["reason"] == "session_released"
    answer = error(ask(Atom("call"), "builtins", "object", [], {}, options))
    assert (answer["struct"], answer["reason"]) == ("SessionNotFoundError", "session_released")


def test_a_session_that_was_only_named_belongs_to_its_caller(
    ask: Callable[..., Any], caller: BeamProcess
) -> None:
    name = f"n{caller.pid}"
    assert ask(Atom("call"), "math", "sqrt", [4], {}, {"session_id": name})[1] == 2.0
    assert error(ask(Atom("session"), name))["struct"] == "SessionNotFoundError"
    ask(Atom("call"), "builtins", "object", [], {}, {"session_id": name})
    assert ask(Atom("session"), name)[1]["owners"] == [caller.pid]


def test_a_full_session(ask: Callable[..., Any], caller: BeamProcess) -> None:
    for on_full in ("evict", "error"):
        name = f"{on_full}{caller.pid}"
        settings = {Atom("max_refs"): 1, Atom("on_full"): Atom(on_full)}
        ask(Atom("open_session"), name, caller.pid, settings)
        options = {"session_id": name}
        _, first = ask(Atom("call"), "builtins", "object", [], {}, options)
        second = ask(Atom("call"), "builtins", "object", [], {}, options)
        if on_full == "evict":
            assert second[0] == "ok"
            assert error(ask(Atom("getattr"), first, "__class__"))["reason"] == "evicted"
        else:
            assert error(second)["struct"] == "SessionFullError"
            assert ask(Atom("call"), "builtins", "id", [first], {})[0] == "ok"


def test_a_ref_expires_when_nobody_uses_it(ask: Callable[..., Any], caller: BeamProcess) -> None:
    name = f"ttl{caller.pid}"
    ask(Atom("open_session"), name, caller.pid, {Atom("ttl_seconds"): 0.2})
    _, ref = ask(Atom("call"), "builtins", "object", [], {}, {"session_id": name})
    wait_until(lambda: ask(Atom("refs"), name)[1] == [])
    assert error(ask(Atom("getattr"), ref, "__class__"))["reason"] == "expired"


def test_info(ask: Callable[..., Any], module_pynode: PynodeProcess) -> None:
    _, info = ask(Atom("info"))
    assert info["node"] == module_pynode.name
    assert info["running_calls"] == 0
    assert set(info) >= {"creation", "uptime", "sessions", "refs", "version", "python"}


def test_a_cast_is_carried_out(
    ask: Callable[..., Any], caller: BeamProcess, module_pynode: PynodeProcess
) -> None:
    _, ref = ask(Atom("put"), [])
    caller.eval(
        "gen_server:cast({snakebridge, Node}, Request)",
        Node=Atom(module_pynode.name),
        Request=(Atom("method"), ref, "append", [1], {}),
    )
    assert call(ask, "builtins.len", ref) == 1


# --- errors


def test_python_errors_tell_all(ask: Callable[..., Any]) -> None:
    answer = error(ask(Atom("call"), "json", "loads", ["{"], {}))
    assert answer["struct"] == "PythonError"
    assert answer["type"] == "json.decoder.JSONDecodeError"
    assert "line 1" in answer["message"]
    assert "json/decoder.py" in answer["traceback"]
    assert "pynode" not in answer["traceback"]
    assert ask(Atom("getattr"), answer["ref"], "pos") == (Atom("ok"), 1)


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        ((Atom("call"), "no_such_module", "f", [], {}), "ModuleNotFoundError", "no_such_module"),
        ((Atom("call"), "math", "nope", [], {}), "AttributeError", "nope"),
        ((Atom("call"), "math", "sqrt", [], {}), "TypeError", "argument"),
        ((Atom("call"), "sys", "exit", [3], {}), "SystemExit", "3"),
        ((Atom("call"), "builtins", "eval", ["f()", {"f": 1}], {}), "TypeError", "callable"),
        ((Atom("call"), "builtins", "eval", ["'\\ud800'"], {}), "EncodeError", "surrogate"),
        ((Atom("call"), "builtins", "eval", ["{'a': 1, b'a': 2}"], {}), "EncodeError", "key"),
    ],
)
def test_what_python_raises_reaches_its_caller_alone(
    ask: Callable[..., Any], request_: Any, kind: str, words: str
) -> None:
    answer = error(ask(*request_))
    assert answer["struct"] == "PythonError"
    assert answer["type"].endswith(kind)
    assert words in answer["message"]
    assert call(ask, "math.sqrt", 4) == 2.0


def test_an_unknown_module_says_where_to_install_it(ask: Callable[..., Any]) -> None:
    (note,) = error(ask(Atom("call"), "no_such_module", "f", [], {}))["notes"]
    assert "install" in note
    assert "python" in note


@pytest.mark.parametrize(
    "request_",
    [
        Atom("nonsense"),
        5,
        (),
        (Atom("call"),),
        (Atom("call"), "math", "sqrt", [16]),
        (Atom("call"), "math", "sqrt", [16], {}, {"no_such_option": 1}),
        (Atom("call"), "math", "sqrt", 16, {}),
        (Atom("call"), "math", "sqrt", [16], 5),
        (Atom("call"), "math", "sqrt", [16], {1: 2}),
        (Atom("call"), 1, "sqrt", [16], {}),
        (Atom("call"), "", "sqrt", [16], {}),
        (Atom("open_session"), "x", "no pid", {}),
        (Atom("open_session"), "x", "no pid", 5),
        (Atom("cancel"), 1),
        (Atom("given_up"), 1),
        ([1], {}),
        Map(((1, 2), (1.0, 3))),
    ],
    ids=repr,
)
def test_what_is_no_request(ask: Callable[..., Any], request_: Any) -> None:
    answer = error(ask(request_))
    assert answer["struct"] == "InvalidRequestError"
    assert answer["message"].rstrip(".")
    assert call(ask, "math.sqrt", 4) == 2.0


@pytest.mark.parametrize("ref", [5, "x", {}, {"__struct__": Atom("Elixir.SnakeBridge.Ref")}])
def test_what_is_no_ref(ask: Callable[..., Any], ref: Any) -> None:
    assert error(ask(Atom("method"), ref, "f", [], {}))["struct"] == "InvalidRefError"


def test_a_ref_that_is_nobodys(ask: Callable[..., Any], module_pynode: PynodeProcess) -> None:
    ref = call(ask, "builtins.object")["id"]
    strange = Reference(ref.node, ref.creation, (1, 2, 3))
    assert error(ask(Atom("method"), strange, "f", [], {}))["reason"] == "unknown"
    former = Reference(ref.node, ref.creation - 1, ref.ids)
    assert error(ask(Atom("method"), former, "f", [], {}))["reason"] == "node_restarted"


def test_a_failed_answer_leaves_no_refs(ask: Callable[..., Any], caller: BeamProcess) -> None:
    call(ask, "builtins.object")
    source = "[object(), object(), {'a': 1, b'a': 2}]"
    error(ask(Atom("call"), "builtins", "eval", [source], {}))
    refs = ask(Atom("refs"), caller.pid)[1]
    assert [ref["type_name"] for ref in refs] == ["object", "EncodeError"]


def test_the_exceptions_of_a_session_are_few(ask: Callable[..., Any], caller: BeamProcess) -> None:
    first = call(ask, "builtins.object")
    for _ in range(50):
        error(ask(Atom("call"), "math", "sqrt", [], {}))
    assert len(ask(Atom("refs"), caller.pid)[1]) == 17
    assert ask(Atom("getattr"), first, "__class__")[0] == "ok"


RAISERS = {
    "notes": "e = ValueError('x'); e.__notes__ = 5; raise e",
    "exceptions": "e = ValueError('x'); e.exceptions = 5; raise e",
    "str": "raise type('E', (Exception,), {'__str__': lambda self: exit()})()",
    "class": "raise type('E', (Exception,), {'__class__': property(lambda self: exit())})()",
    "exit": "import sys; sys.exit(1)",
    "interrupt": "raise KeyboardInterrupt",
    "generator": "raise GeneratorExit",
}


@pytest.mark.parametrize("source", RAISERS.values(), ids=RAISERS)
def test_whatever_is_raised_is_answered(ask: Callable[..., Any], source: str) -> None:
    for _ in range(2):
        answer = error(ask(Atom("call"), "builtins", "exec", [source], {}))
        assert answer["struct"] == "PythonError"


def test_an_object_that_raises_whatever_is_asked_of_it(ask: Callable[..., Any]) -> None:
    source = "type('E', (), {'__class__': property(lambda self: exit())})()"
    answer = ask(Atom("call"), "builtins", "eval", [source], {})
    assert answer[0] in ("ok", "error")
    assert call(ask, "math.sqrt", 4) == 2.0


def test_sys_exit_in_a_coroutine_ends_no_loop(ask: Callable[..., Any]) -> None:
    source = "async def f():\n import sys; sys.exit(3)"
    _, names = ask(Atom("put"), {})
    ask(Atom("call"), "builtins", "exec", [source, names], {})
    answer = error(ask(Atom("call"), "builtins", "eval", ["f()", names], {}))
    assert answer["type"] == "SystemExit"
    assert call(ask, "asyncio.sleep", 0, "slept") == "slept"


ODD_REQUESTS = {
    "huge": "1 bsl 20000",
    "huge name": "{1 bsl 20000}",
    "huge option": "{call, math, sqrt, [16], [], #{session_id => 1 bsl 20000}}",
    "deep": "lists:foldl(fun(_, X) -> {X} end, x, lists:seq(1, 20000))",
}


@pytest.mark.parametrize("source", ODD_REQUESTS.values(), ids=ODD_REQUESTS)
def test_an_odd_request_is_answered_and_costs_no_connection(
    caller: BeamProcess, module_pynode: PynodeProcess, ask: Callable[..., Any], source: str
) -> None:
    ref = call(ask, "builtins.object")
    answer = caller.eval(f"Request = {source}, {CALL}", Node=Atom(module_pynode.name))
    assert error(answer)["struct"] == "InvalidRequestError"
    caller.eval(f"{{snakebridge, Node}} ! {ODD_REQUESTS['huge']}", Node=Atom(module_pynode.name))
    caller.eval(f"{{net_kernel, Node}} ! {ODD_REQUESTS['huge']}", Node=Atom(module_pynode.name))
    assert ask(Atom("getattr"), ref, "__class__")[0] == "ok"


@pytest.mark.parametrize("fields", ["microsecond => {}", "microsecond => []", "data => 1 bsl 60"])
@pytest.mark.parametrize("name", ["Time", "SnakeBridge.Bytes"])
def test_structs_with_odd_fields_are_maps(
    caller: BeamProcess, module_pynode: PynodeProcess, name: str, fields: str
) -> None:
    struct = (
        f"#{{'__struct__' => 'Elixir.{name}', calendar => 'Elixir.Calendar.ISO', hour => 1, "
        f"minute => 1, second => 1, {fields}}}"
    )
    source = f"Term = {struct}, Request = {{call, builtins, list, [[Term]], []}}, {{ok, [Term]}} = "
    caller.eval(source + CALL, Node=Atom(module_pynode.name))


def test_refs_in_sets_and_keys_are_their_objects(ask: Callable[..., Any]) -> None:
    ref = call(ask, "builtins.object")
    set_ = {Atom("__struct__"): Atom("Elixir.MapSet"), Atom("map"): {"x": []}, Atom("version"): 2}
    assert call(ask, "builtins.len", set_) == 1
    pairs = Map([(ref, 1)])
    assert call(ask, "builtins.eval", "o in m", {"m": pairs, "o": ref}) is True


def test_what_a_call_makes_lives_with_the_ref_that_it_was_given(
    any_beam: BeamNode, ask: Callable[..., Any], module_pynode: PynodeProcess
) -> None:
    ref = call(ask, "collections.Counter", "ab")
    other = any_beam.process()
    answer = ask_from(other, module_pynode, Atom("call"), "builtins", "iter", [ref], {})
    assert answer[1]["session_id"] == ref["session_id"]
    other.exit()


def test_a_session_has_one_lane_however_it_is_named(
    caller: BeamProcess, module_pynode: PynodeProcess, ask: Callable[..., Any]
) -> None:
    ref = call(ask, "builtins.object")
    _, log = ask(Atom("put"), [])
    sleep = "import time; log.append(1); time.sleep(0.2); log.append(2)"
    run = [sleep, {"log": log}]
    answers = caller.eval(
        "Ids = [gen_server:send_request({snakebridge, Node}, R) || R <- Requests],"
        "[gen_server:receive_response(Id, 30000) || Id <- Ids]",
        Node=Atom(module_pynode.name),
        Requests=[
            (Atom("call"), "builtins", "exec", run, {}),
            (Atom("call"), "builtins", "exec", run, {}, {"session_id": ref["session_id"]}),
        ],
    )
    assert [answer[1][0] for answer in answers] == ["ok", "ok"]
    assert call(ask, "builtins.list", log) == [1, 2, 1, 2]


def test_refs_that_come_by_several_connections_at_once_are_all_resolved(
    start_beam: Callable[..., BeamNode], module_pynode: PynodeProcess, ask: Callable[..., Any]
) -> None:
    flood = start_beam()
    flooding = flood.start_eval(
        "[{ok, 4.0} = gen_server:call({snakebridge, N}, {call, math, sqrt, [16], []})"
        " || _ <- lists:seq(1, 3000)], done",
        N=Atom(module_pynode.name),
    )
    ref = call(ask, "builtins.object")
    while not flooding.done():
        assert call(ask, "operator.contains", [ref, *range(100)], ref) is True
    assert flooding.result() == "done"


def test_endless_callbacks_end(caller: BeamProcess, module_pynode: PynodeProcess) -> None:
    answer = caller.eval(
        "Call = fun(R) -> gen_server:call({snakebridge, Node}, R, 30000) end,"
        "{ok, Ref} = Call({call, builtins, object, [], []}),"
        "Again = fun Again(_) -> Call({call, functools, reduce, [fun(_, _) -> Again(1) end,"
        "  [1, Ref]], []}) end,"
        "Again(1)",
        Node=Atom(module_pynode.name),
        timeout=60.0,
    )
    # The innermost one failed, and all the others returned what it did.
    assert answer[0] == "ok"
    assert "nested" in str(answer)


# --- values


def test_containers_keep_their_shape(ask: Callable[..., Any]) -> None:
    source = "{'a': [1, (2, object())], 'b': {3}}"
    value = call(ask, "builtins.eval", source)
    assert value["a"][1][1]["type_name"] == "object"
    assert value["b"]["map"] == {3: []}


def test_a_cycle_is_a_ref_where_it_closes(ask: Callable[..., Any]) -> None:
    source = "(lambda a: (a.append(a), a)[1])([1])"
    one, ref = call(ask, "builtins.eval", source)
    assert one == 1
    assert ref["type_name"] == "list"


def test_refs_deep_inside_of_arguments_are_their_objects(ask: Callable[..., Any]) -> None:
    ref = call(ask, "collections.Counter", "aab")
    value = call(ask, "builtins.eval", "x['k'][0][1]['a']", {"x": {"k": [(0, ref)]}})
    assert value == 2


def test_floats_that_erlang_lacks(ask: Callable[..., Any]) -> None:
    value = call(ask, "builtins.eval", "[float('inf'), -float('inf'), float('nan')]")
    assert value == [Atom("infinity"), Atom("neg_infinity"), Atom("nan")]


def test_a_fun_is_callable(
    ask: Callable[..., Any], caller: BeamProcess, module_pynode: PynodeProcess
) -> None:
    value = caller.eval(
        f"Request = {{call, functools, reduce, [fun(A, B) -> A + B end, [1, 2, 3]], []}}, {CALL}",
        Node=Atom(module_pynode.name),
    )
    assert value == (Atom("ok"), 6)


def test_objects_go_to_a_fun_as_refs_and_come_back_as_objects(
    caller: BeamProcess, module_pynode: PynodeProcess
) -> None:
    value = caller.eval(
        "Call = fun(R) -> {ok, V} = gen_server:call({snakebridge, Node}, R, 10000), V end,"
        "Counter = Call({call, collections, 'Counter', [<<\"aab\">>], []}),"
        "Same = fun(#{'__struct__' := 'Elixir.SnakeBridge.Ref'} = Ref, _) -> Ref end,"
        "#{id := Id} = Call({call, functools, reduce, [Same, [Counter, 1]], []}),"
        "{Call({method, Id, most_common, [1], []}), map_get(session_id, Counter) =:="
        " map_get(session_id, Call({call, functools, reduce, [Same, [Counter, 1]], []}))}",
        Node=Atom(module_pynode.name),
    )
    assert value == ([("a", 2)], True)


def test_a_fun_that_fails_is_a_python_exception(
    caller: BeamProcess, module_pynode: PynodeProcess
) -> None:
    answer = caller.eval(
        "Request = {call, functools, reduce, [fun(_, _) -> error(oops) end, [1, 2]], []}, " + CALL,
        Node=Atom(module_pynode.name),
    )
    assert error(answer)["type"] == "pynode.errors.RemoteError"
    assert "oops" in error(answer)["message"]


def test_coroutines_are_awaited(ask: Callable[..., Any]) -> None:
    assert call(ask, "asyncio.sleep", 0, "slept") == "slept"


def test_bytes(ask: Callable[..., Any]) -> None:
    tagged = {Atom("__struct__"): Atom("Elixir.SnakeBridge.Bytes"), Atom("data"): "abc"}
    assert call(ask, "builtins.repr", tagged) == "b'abc'"
    assert call(ask, "builtins.repr", "abc") == "'abc'"
    assert call(ask, "builtins.repr", b"\xff") == "b'\\xff'"


def test_pids_and_references_come_back_as_they_were(
    caller: BeamProcess, module_pynode: PynodeProcess
) -> None:
    source = (
        "Terms = [self(), make_ref(), 'größe', fun lists:map/2, 1 bsl 70, <<1:3>>, [a|b], 1.5], "
        'Request = {call, <<"builtins">>, <<"list">>, [Terms], #{}}, '
        f"{{ok, Terms}} =:= {CALL}"
    )
    assert caller.eval(source, Node=Atom(module_pynode.name)) is True


# --- lanes


def test_calls_of_a_session_run_in_order_and_those_of_others_beside_them(
    any_beam: BeamNode, caller: BeamProcess, module_pynode: PynodeProcess, ask: Callable[..., Any]
) -> None:
    _, log = ask(Atom("put"), [])
    other, key = any_beam.process(), secrets.token_hex(5)
    waiting = caller.start_eval(
        "Call = fun(R) -> gen_server:send_request({snakebridge, Node}, R) end,"
        "Ids = [Call(R) || R <- Requests],"
        "[gen_server:receive_response(Id, 30000) || Id <- Ids]",
        Node=Atom(module_pynode.name),
        Requests=[
            (Atom("method"), log, "append", [-1], {}),
            (Atom("call"), SPECIMENS, "hold", [key], {}),
            *[(Atom("method"), log, "append", [n], {}) for n in range(20)],
            (Atom("call"), "builtins", "list", [log], {}),
        ],
    )
    # Another process is not held up.
    wait_until(lambda: ask_from(other, module_pynode, Atom("info"))[1]["running_calls"] == 1)
    assert call(functools.partial(ask_from, other, module_pynode), "math.sqrt", 4) == 2.0
    assert not waiting.done()
    call(functools.partial(ask_from, other, module_pynode), f"{SPECIMENS}.open_gate", key)
    *_, last = waiting.result(30)
    assert last == (Atom("reply"), (Atom("ok"), list(range(-1, 20))))
    other.exit()


def test_a_callback_may_call_back_into_its_session(
    caller: BeamProcess, module_pynode: PynodeProcess, ask: Callable[..., Any]
) -> None:
    _, items = ask(Atom("put"), [])
    value = caller.eval(
        "Call = fun(R) -> {ok, V} = gen_server:call({snakebridge, Node}, R, 10000), V end,"
        "Append = fun(X) -> Call({method, Items, append, [X], []}), X end,"
        # Three levels: Python calls the outer fun, that calls Python, that calls the inner one.
        "Map = fun(F, L) -> Call({call, builtins, list, [Call({call, builtins, map, [F, L], []})],"
        "                          []}) end,"
        "Outer = fun(X) -> Call({method, Items, append, [X], []}), Map(Append, [X * 10]) end,"
        "Map(Outer, [1, 2]),"
        "Call({call, builtins, list, [Items], []})",
        Node=Atom(module_pynode.name),
        Items=items,
    )
    assert value == [1, 10, 2, 20]
