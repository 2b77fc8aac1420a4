"""Aliases and priorities, in the form that OTP 28 has for them and in the one of before.

Which form is on the wire is looked at in `tests/protocol/test_channel_beam.py` as well.
"""

from __future__ import annotations

import secrets
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from pynode import Atom, CallTimeoutError, Node, gen
from pynode.destination import Destination
from pynode.etf import decode_at
from pynode.protocol.control import ALTACT_ALIAS, AliasSend
from pynode.protocol.flags import DFlag
from pynode.values import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pynode.dist.connection import Connection
    from pynode.terms import Pid
    from pynode.testing import BeamNode, BeamProcess

PATIENCE = 30.0


class Server(Destination):
    """A server that answers when it is told to."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[tuple[Connection, Pid, Any]] = SimpleQueue()

    def deliver(self, connection: Connection, payload: bytes) -> None:
        match self.node.decode(payload):
            case (Atom("$gen_call"), (caller, tag), _):
                self.calls.put((connection, caller, tag))

    def answer(self, value: object) -> bytes:
        """Answer the call that came first, and return what was sent for it."""
        connection, caller, tag = self.calls.get(timeout=PATIENCE)
        message = connection.encode(gen.reply_to(self.pid, caller, tag), encode((tag, value)))
        assert type(message[0]) is AliasSend
        connection.post(message)
        connection.flush()
        frame: bytes = message[1]
        return frame


@pytest.fixture
def node(epmd: object, cookie: str) -> Iterator[Node]:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        yield node


@pytest.fixture
def server(node: Node) -> Server:
    server = Server()
    node.add(server, name="server")
    return server


@pytest.fixture
def process(any_beam: BeamNode) -> Iterator[BeamProcess]:
    process = any_beam.process()
    yield process
    process.exit()


def test_an_answer_goes_to_the_alias_in_the_form_that_both_know(
    any_beam: BeamNode, process: BeamProcess, node: Node, server: Server
) -> None:
    call = process.start_eval("gen_server:call({server, N}, q, infinity)", N=node.name)
    operation = decode_at(server.answer(["an answer"]), 7)[0][:2]
    assert call.result(PATIENCE) == ["an answer"]
    connection = node.connection(any_beam.name)
    assert connection is not None
    if any_beam.runtime.release >= 28:
        assert connection.flags & DFlag.ALTACT_SIG
        assert operation == (37, ALTACT_ALIAS)
    else:
        assert not connection.flags & DFlag.ALTACT_SIG
        assert operation[0] == 33


def test_an_answer_that_is_late_vanishes_at_the_alias(
    process: BeamProcess, node: Node, server: Server
) -> None:
    late = "catch gen_server:call({server, N}, q, 1)"
    assert process.eval(late, N=node.name)[1][0] == Atom("timeout")
    server.answer("late")
    node.send(process.pid, "marker")
    assert process.eval("receive M -> {M, process_info(self(), message_queue_len)} end") == (
        "marker",
        (Atom("message_queue_len"), 0),
    )


def test_the_answers_of_a_beam(any_beam: BeamNode, process: BeamProcess, node: Node) -> None:
    name = Atom(f"calls{secrets.token_hex(4)}")
    process.eval("register(Name, self())", Name=name)
    answer = "receive {'$gen_call', From, _} -> gen_server:reply(From, Reply) end"
    done = process.start_eval(answer, Reply="an answer")
    assert node.call((name, any_beam.name), "q", timeout=PATIENCE) == "an answer"
    done.result(PATIENCE)

    # One that is late finds nobody, and the next call gets its own.
    listener = node.process()
    with listener:
        with pytest.raises(CallTimeoutError):
            node.call((name, any_beam.name), "q", timeout=0.001)
        process.eval(answer, Reply="late")
        done = process.start_eval(answer, Reply="in time")
        assert node.call((name, any_beam.name), "q", timeout=PATIENCE) == "in time"
        done.result(PATIENCE)
        node.send(listener.pid, "marker")
        assert listener.receive(timeout=PATIENCE) == "marker"


def test_messages_to_an_alias_of_a_beam(process: BeamProcess, node: Node) -> None:
    alias = process.eval("alias()")
    large = b"\xff" * 1_000_000
    for message in ("small", large):
        node.send(alias, message)
        assert process.eval("receive M -> M end") == message
    process.eval("unalias(A)", A=alias)
    node.send(alias, "to nobody")
    node.send(alias, large)
    node.send(process.pid, "marker")
    assert process.eval("receive M -> M end") == "marker"


def test_what_is_sent_with_priority_arrives(beam28: BeamNode, node: Node) -> None:
    name = f"receiver{secrets.token_hex(4)}"
    receiver = node.process(name=name)
    receiver.trap_exit = True
    process = beam28.process()
    for source, expected in [
        ("erlang:send(P, one, [priority])", "one"),
        ("erlang:send({Name, N}, two, [priority])", "two"),
        ("seq_trace:set_token(label, 17), erlang:send(P, three, [priority])", "three"),
        ("seq_trace:set_token([]), exit(P, four, [priority])", ("EXIT", process.pid, "four")),
        # To an alias that is none: dropped, as a BEAM does.
        ("erlang:send(A, no, [priority]), exit(A, no, [priority]), P ! five", "five"),
    ]:
        process.eval(source, P=receiver.pid, N=node.name, Name=Atom(name), A=node.new_reference())
        assert receiver.receive(timeout=PATIENCE) == expected
    # Untrapped, it ends the process.
    receiver.trap_exit = False
    process.eval("exit(P, kill, [priority])", P=receiver.pid)
    down = "R = monitor(process, P), receive {'DOWN', R, _, _, Why} -> Why end"
    assert process.eval(down, P=receiver.pid) in ("killed", "noproc")
    assert receiver.exit_reason == "killed"


def test_an_answer_with_priority(beam28: BeamNode, node: Node) -> None:
    process = beam28.process()
    answer = """
        receive {'$gen_call', {_, [alias | Alias] = Tag}, Term} ->
            erlang:send(Alias, {Tag, {answer, Term}}, [priority])
        end
    """
    done = process.start_eval(answer)
    assert node.call(process.pid, [1], timeout=PATIENCE) == (Atom("answer"), [1])
    done.result(PATIENCE)


def test_a_priority_alias_of_a_beam_takes_what_we_send(beam28: BeamNode, node: Node) -> None:
    """We give nothing priority; it arrives as other messages do."""
    process = beam28.process()
    alias = process.eval("alias([priority])")
    node.send(process.pid, "one")
    node.send(alias, "two")
    assert process.eval("[receive A -> A end, receive B -> B end]") == ["one", "two"]
