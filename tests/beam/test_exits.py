"""How Python exceptions are printed by Elixir and by Erlang."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pynode.exits import class_and_reason, exit_reason
from pynode.inspection import format_banner, format_exit
from pynode.terms import Atom
from pynode.values import encode

if TYPE_CHECKING:
    from pynode.testing import BeamNode, PynodeProcess

LIBRARY = Path(__file__).parents[2] / "elixir_harness/lib/snakebridge/errors.ex"
SOURCE = """
class Account:
    def withdraw(self, amount):
        if amount > 10:
            raise ValueError(f"cannot withdraw {amount}")

def main(account):
    account.withdraw(11)
"""


@pytest.fixture
def error() -> Exception:
    """What a program in a file of its own has raised."""
    program: dict[str, Any] = {"__name__": "bank.app"}
    exec(compile(SOURCE, "/srv/bank/app.py", "exec"), program)
    try:
        program["main"](program["Account"]())
    except ValueError as raised:
        error = raised
    # Without the frame of this function.
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)


def send(term: Any) -> bytes:
    return b"\x83" + encode(term)


TRACEBACK = """
ValueError: cannot withdraw 11

Traceback (most recent call last):
  File "/srv/bank/app.py", line 8, in main
  File "/srv/bank/app.py", line 5, in withdraw
ValueError: cannot withdraw 11
""".strip()


def test_elixir(elixir: BeamNode, error: Exception) -> None:
    elixir.eval("'Elixir.Code':compile_file(Path)", Path=str(LIBRARY))
    kind, reason, stacktrace = class_and_reason(error)
    shown, crash = elixir.eval(
        "[K, R, S, E] = [binary_to_term(T) || T <- Terms],"
        "{'Elixir.Exception':format(K, R, S), 'Elixir.Exception':format_exit(E)}",
        Terms=[send(term) for term in (kind, reason, stacktrace, exit_reason(error))],
    )
    assert shown == (
        f"** (SnakeBridge.PythonError) {TRACEBACK}\n"
        '    /srv/bank/app.py:5: :"bank.app"."Account.withdraw"/2\n'
        '    /srv/bank/app.py:8: :"bank.app".main/1\n'
    )
    assert crash == (
        "an exception was raised:\n"
        f"    ** (SnakeBridge.PythonError) {TRACEBACK}\n"
        '        /srv/bank/app.py:5: :"bank.app"."Account.withdraw"/2\n'
        '        /srv/bank/app.py:8: :"bank.app".main/1'
    )
    assert format_exit(exit_reason(error)) == crash
    assert shown.startswith(format_banner(kind, reason, stacktrace))


def test_elixir_without_the_library(beam: BeamNode, elixir: BeamNode, error: Exception) -> None:
    """It has the struct, but not what makes a message of it."""
    elixir.eval("code:purge(M), code:delete(M), ok", M=Atom("Elixir.SnakeBridge.PythonError"))
    crash = elixir.eval(
        "'Elixir.Exception':format_exit(binary_to_term(Term))", Term=send(exit_reason(error))
    )
    assert "while retrieving Exception.message/1" in crash
    assert 'message: "cannot withdraw 11"' in crash
    assert crash.endswith(':"bank.app".main/1')


def test_erlang(any_beam: BeamNode, error: Exception) -> None:
    shown = any_beam.eval(
        "{K, R, S} = binary_to_term(Term),"
        "unicode:characters_to_binary(erl_error:format_exception(K, R, S))",
        Term=send(tuple(class_and_reason(error))),
    )
    assert 'message => <<"cannot withdraw 11">>' in shown
    lines = shown.replace(", line ", ":").splitlines()  # OTP 25 says it in this way
    assert lines[-2:] == [
        "  in function  'bank.app':'Account.withdraw'/2 (/srv/bank/app.py:5)",
        "  in call from 'bank.app':main/1 (/srv/bank/app.py:8)",
    ]


def test_it_can_be_raised_again(any_beam: BeamNode, error: Exception) -> None:
    """Which takes a stack trace that is one, in every detail."""
    kind, reason, stacktrace = class_and_reason(error)
    assert any_beam.eval(
        "{K, R, S} = binary_to_term(Term),"
        "try erlang:raise(K, R, S) of badarg -> badarg catch K:R:Same -> Same =:= S end",
        Term=send((kind, reason, stacktrace)),
    )


def test_what_a_node_reports(any_beam: BeamNode, module_pynode: PynodeProcess) -> None:
    """A process there that raises, and a call."""
    spawned, called = any_beam.eval(
        '{_, Ref} = spawn_monitor(Node, json, loads, [<<"{">>]),'
        "Reason = receive {'DOWN', Ref, _, _, Down} -> Down after 10000 -> timeout end,"
        '{Reason, try erpc:call(Node, json, loads, [<<"{">>]) catch C:R -> {C, R} end}',
        Node=Atom(module_pynode.name),
    )
    message = "json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes"
    assert (
        format_exit(spawned)
        .splitlines()[1]
        .startswith(f"    ** (SnakeBridge.PythonError) {message}")
    )
    assert format_exit(spawned).splitlines()[-1].endswith(": :json.loads/1")
    match called:
        case (Atom("error"), (Atom("exception"), exception, stacktrace)):
            assert (exception, stacktrace[:3]) == (spawned[0], spawned[1][:3])
        case _:
            pytest.fail(f"{called}")
