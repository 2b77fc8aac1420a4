"""Messages of 200 MB, and the small ones beside them, which must not wait for their end.

Where a test says that something arrives first, it does not measure time: either one side stands
still until all is sent, or what is counted is what happens between two events.
"""

from __future__ import annotations

import random
import secrets
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pynode import Atom, Node
from pynode.testing import wait_until
from tests.beam.asking import SPECIMENS, make, wait_for_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from pynode.dist.connection import Connection
    from pynode.testing import BeamNode, Epmd, PynodeProcess

PATIENCE = 60.0
SIZE = 200_000_000
#: A binary that is no text, and one that is.
KINDS = pytest.mark.parametrize("byte", [255, 97], ids=["bytes", "text"])
CALL = "gen_server:call({snakebridge, N}, R, infinity)"
PLAIN: Any = (Atom("call"), "math", "sqrt", [16], {})
FOUR = (Atom("ok"), 4.0)

#: Small calls until somebody says stop: how long each took, in microseconds, and when it began.
SMALL_CALLS = """
    Now = fun() -> erlang:monotonic_time(microsecond) end,
    Loop = fun Loop(Took) ->
        receive stop -> Took after 0 ->
            Begun = Now(),
            {ok, 4.0} = gen_server:call({snakebridge, N}, R, infinity),
            Loop([{Begun, Now() - Begun} | Took])
        end
    end,
    Loop([])
"""


@pytest.fixture
def node(epmd: Epmd, cookie: str) -> Iterator[Node]:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        yield node


@pytest.fixture
def start_one(any_beam: BeamNode, start_beam: Callable[..., BeamNode]) -> Callable[[], BeamNode]:
    """Start another node of the same runtime, which the test may stop and kill."""
    return lambda: start_beam(runtime=any_beam.runtime)


@pytest.fixture
def small_calls(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> Iterator[Callable[[], list[tuple[int, int]]]]:
    """Small calls from the BEAM to the Python node all the while; returns what came of them."""
    process = any_beam.process()
    calls = process.start_eval(SMALL_CALLS, N=Atom(module_pynode.name), R=PLAIN)

    def stop() -> list[tuple[int, int]]:
        any_beam.eval("P ! stop", P=process.pid)
        took: list[tuple[int, int]] = calls.result(PATIENCE)
        return took

    yield stop
    process.exit()


def timed(source: str) -> str:
    """Return source that evaluates to when it began and when it ended."""
    return (
        f"T0 = erlang:monotonic_time(microsecond), {source},"
        "{T0, erlang:monotonic_time(microsecond)}"
    )


def check_small_calls(calls: list[tuple[int, int]], begin: int, end: int) -> None:
    """Check that small calls went on from `begin` to `end`."""
    inside = sorted(took for begun, took in calls if begun >= begin and begun + took <= end)
    assert len(inside) >= 5
    # One or the other finds the interpreter busy with copying 200 MB.
    assert inside[len(inside) * 3 // 4] < (end - begin) / 4


# --- one large message, in either direction


@KINDS
def test_a_large_argument(
    any_beam: BeamNode, module_pynode: PynodeProcess, small_calls: Any, byte: int
) -> None:
    source = """
        Big = binary:copy(<<Byte>>, Size),
        {ok, Crc} = gen_server:call(
            {snakebridge, N}, {call, <<"zlib">>, <<"crc32">>, [Arg(Big)], #{}}, infinity),
        Crc = erlang:crc32(Big)
    """
    # Text comes as a str, which crc32 does not take.
    arg = "fun(B) -> #{'__struct__' => 'Elixir.SnakeBridge.Bytes', data => B} end"
    begin, end = any_beam.eval(
        timed(f"Arg = {arg}, {source}"), N=Atom(module_pynode.name), Byte=byte, Size=SIZE
    )
    check_small_calls(small_calls(), begin, end)


@KINDS
def test_a_large_answer(
    any_beam: BeamNode, module_pynode: PynodeProcess, small_calls: Any, byte: int
) -> None:
    source = """
        {ok, Big} = gen_server:call(
            {snakebridge, N}, {call, <<"operator">>, <<"mul">>, [Text, Size], #{}}, infinity),
        Crc = erlang:crc32(Big), Size = byte_size(Big)
    """
    begin, end = any_beam.eval(
        timed(source),
        N=Atom(module_pynode.name),
        Text=bytes([byte]),
        Size=SIZE,
        Crc=zlib.crc32(bytes([byte]) * SIZE),
    )
    check_small_calls(small_calls(), begin, end)


def test_large_messages_both_ways_at_once(any_beam: BeamNode, node: Node) -> None:
    process, far = node.process(), any_beam.process()
    there = b"\xfe" * SIZE
    back = any_beam.start_eval(
        "P ! {self(), binary:copy(<<253>>, Size)}, receive Big -> erlang:crc32(Big) end",
        P=process.pid,
        Size=SIZE,
    )
    sender, here = process.receive(timeout=PATIENCE)
    node.send(far.pid, there)
    node.send(sender, there)
    any_beam.eval("P ! {self(), binary:copy(<<252>>, Size)}", P=process.pid, Size=SIZE)
    assert process.receive(timeout=PATIENCE)[1] == b"\xfc" * SIZE
    assert here == b"\xfd" * SIZE
    assert back.result(PATIENCE) == zlib.crc32(there)
    assert far.eval("receive Big -> erlang:crc32(Big) end") == zlib.crc32(there)


# --- what goes first


def test_small_messages_leave_before_the_end_of_a_large_one(
    start_one: Callable[[], BeamNode], node: Node
) -> None:
    beam = start_one()
    watch = "receive M -> {erlang:monotonic_time(), is_binary(M)} end"
    large, other, same = beam.process(), beam.process(), beam.process()
    beam.eval("register(N, P), ok", N=Atom("other"), P=other.pid)
    arrivals = [process.start_eval(watch) for process in (large, other)]
    both = same.start_eval("receive A -> receive B -> {byte_size(A), B} end end")
    connection = connected(node, beam)
    # Nobody reads until all has been sent, and the kernel takes a part of it at most.
    beam.suspend()
    in_thread(lambda: node.send(large.pid, b"\xff" * SIZE))
    in_thread(lambda: node.send(same.pid, b"\xff" * SIZE))
    in_thread(lambda: node.send(same.pid, "after"))
    in_thread(lambda: node.send(("other", beam.name), "by name"))
    # Nor would that be a reason to put aside what the peer asks for.
    assert not connection.congested
    beam.resume()
    (last, _), (first, _) = (arrival.result(PATIENCE) for arrival in arrivals)
    assert first < last
    # What has the same sender and receiver has not overtaken.
    assert both.result(PATIENCE) == (SIZE, "after")


def test_small_calls_are_answered_while_a_large_term_is_decoded(
    any_beam: BeamNode, module_pynode: PynodeProcess
) -> None:
    name = Atom(module_pynode.name)
    sent, counted = any_beam.eval(
        """
        Term = [{X, Y} || X <- lists:seq(1, 1000), Y <- lists:seq(1, 2000)],
        Self = self(),
        {Pid, _} = spawn_monitor(fun() ->
            Call = {call, <<"builtins">>, <<"len">>, [Term], #{}},
            Id = gen_server:send_request({snakebridge, N}, Call),
            Self ! sent,
            {reply, {ok, 2000000}} = gen_server:receive_response(Id, infinity)
        end),
        receive sent -> ok end,
        Loop = fun Loop(Count) ->
            receive {'DOWN', _, _, Pid, normal} -> Count after 0 ->
                {ok, 4.0} = gen_server:call({snakebridge, N}, R, infinity),
                Loop(Count + 1)
            end
        end,
        {true, Loop(0)}
        """,
        N=name,
        R=PLAIN,
        timeout=PATIENCE,
    )
    # If they had to wait for it, there would be one at most.
    assert sent is True
    assert counted > 3


# --- order


SIZES = (0, 10, 1_000, 60_000, 70_000, 400_000)


def test_python_to_beam_in_order(any_beam: BeamNode, node: Node) -> None:
    """From several threads to the same processes, by pid and by name, large and small."""
    count = 150
    names = [Atom(f"in_order{secrets.token_hex(4)}") for _ in range(3)]
    collect = """
        register(Name, self()),
        Main ! ready,
        Loop = fun Loop(0, Got) -> lists:reverse(Got);
                   Loop(N, Got) -> receive {T, I, _} -> Loop(N - 1, [{T, I} | Got]) end
               end,
        Loop(Count, [])
    """
    main = any_beam.process()
    processes = [any_beam.process() for _ in names]
    collected: list[Future[Any]] = [
        process.start_eval(collect, Name=name, Count=4 * count, Main=main.pid)
        for process, name in zip(processes, names, strict=True)
    ]
    main.eval("[receive ready -> ok end || _ <- [1, 2, 3]]")

    def send(thread: int) -> None:
        chance = random.Random(thread)
        for number in range(count):
            for process, name in zip(processes, names, strict=True):
                # Some threads have a process of their own, some share the node's.
                to: Any = chance.choice((process.pid, (name, any_beam.name)))
                node.send(to, (thread, number, b"\xff" * chance.choice(SIZES)))

    def send_as_process(thread: int) -> None:
        with node.process():
            send(thread)

    threads = [threading.Thread(target=send, args=(number,)) for number in (0, 1)]
    threads += [threading.Thread(target=send_as_process, args=(number,)) for number in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for future in collected:
        got = future.result(PATIENCE)
        for number in range(4):
            assert [i for thread, i in got if thread == number] == list(range(count))


def test_beam_to_python_in_order(any_beam: BeamNode, node: Node) -> None:
    """Also where large terms are decoded beside the reading."""
    count = 150
    process = node.process()
    node.register("in_order", process)
    done = any_beam.start_eval(
        """
        Terms = [binary:copy(<<255>>, Size) || Size <- Sizes] ++
            [[{N} || N <- lists:seq(1, 50000)], lists:seq(1, 200000)],
        Senders = [spawn_monitor(fun() ->
            rand:seed(exsss, S),
            [begin
                To = lists:nth(rand:uniform(2), [P, {in_order, Name}]),
                To ! {S, I, lists:nth(rand:uniform(length(Terms)), Terms)}
             end || I <- lists:seq(1, Count)]
        end) || S <- lists:seq(1, 4)],
        [receive {'DOWN', R, _, _, normal} -> ok end || {_, R} <- Senders]
        """,
        P=process.pid,
        Name=node.name,
        Count=count,
        Sizes=list(SIZES),
    )
    got = []
    for _ in range(4 * count):
        sender, number, _ = process.receive(timeout=PATIENCE)
        got.append((sender, number))
    assert done.result(PATIENCE) == [Atom("ok")] * 4
    for sender in range(1, 5):
        assert [i for s, i in got if s == sender] == list(range(1, count + 1))


def test_a_large_answer_is_before_the_exit_of_who_gave_it(any_beam: BeamNode, node: Node) -> None:
    """A ``DOWN`` that came first would turn the answer into an error."""
    any_beam.load_module(
        """
        -module(last_words).
        -behaviour(gen_server).
        -export([init/1, handle_call/3, handle_cast/2]).
        init(State) -> {ok, State}.
        handle_call(Term, _, State) -> {stop, normal, Term, State}.
        handle_cast(_, State) -> {noreply, State}.
        """
    )
    term = [(number,) for number in range(100_000)]
    for _ in range(5):
        name = Atom(f"last_words{secrets.token_hex(4)}")
        any_beam.eval("{ok, _} = gen_server:start({local, N}, last_words, [], []), ok", N=name)
        assert node.call((name, any_beam.name), term, timeout=PATIENCE) == term


# --- what it costs


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
@pytest.mark.parametrize("direction", ["argument", "answer"])
def test_memory(
    any_beam: BeamNode, start_pynode: Callable[..., PynodeProcess], direction: str
) -> None:
    python = start_pynode()
    name = Atom(python.name)
    assert any_beam.eval(CALL, N=name, R=PLAIN) == FOUR
    before = memory(python, "VmRSS")
    request: Any
    if direction == "argument":
        source = 'gen_server:call({snakebridge, N}, {call, <<"builtins">>, <<"len">>, '
        source += "[binary:copy(<<255>>, Size)], #{}}, infinity)"
        assert any_beam.eval(source, N=name, Size=SIZE) == (Atom("ok"), SIZE)
    else:
        request = (Atom("call"), "operator", "mul", [b"\xff", SIZE], {})
        source = "{ok, B} = gen_server:call({snakebridge, N}, R, infinity), byte_size(B)"
        assert any_beam.eval(source, N=name, R=request) == SIZE
    assert memory(python, "VmHWM") - before < 2.2 * SIZE
    # And all of it is given back.
    assert any_beam.eval(CALL, N=name, R=PLAIN) == FOUR
    wait_until(lambda: memory(python, "VmRSS") - before < 0.2 * SIZE)


def memory(python: PynodeProcess, what: str) -> int:
    """Return how many bytes a process has (VmRSS), or had at most (VmHWM)."""
    for line in Path(f"/proc/{python.os_pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(what)


# --- when it comes to nothing


def test_the_peer_dies_in_the_middle(start_one: Callable[[], BeamNode], node: Node) -> None:
    beam, other = start_one(), start_one()
    process, listener = beam.process(), node.process()
    listener.monitor(process.pid)
    connection = connected(node, beam)
    beam.suspend()
    node.send(process.pid, b"\xff" * SIZE)
    blocked = threading.Thread(target=node.send, args=(process.pid, "waits"))
    blocked.start()
    beam.kill()
    assert listener.receive(timeout=PATIENCE)[4] == Atom("noconnection")
    # Who waited for the large message to be sent goes on, and it is forgotten.
    blocked.join(PATIENCE)
    assert not blocked.is_alive()
    wait_until(lambda: not connection._out)
    assert node.ping(other.name)


def test_we_are_killed_in_the_middle(
    any_beam: BeamNode,
    start_one: Callable[[], BeamNode],
    start_pynode: Callable[..., PynodeProcess],
) -> None:
    python, beam, key = start_pynode(), start_one(), secrets.token_hex(5)
    request: Any = (Atom("call"), SPECIMENS, "large", [key, SIZE], {})
    call: Future[Any] = beam.start_eval(f"catch {CALL}", N=Atom(python.name), R=request)
    wait_for_events(any_beam, python, key, ["holding"])
    # Nobody reads the answer, so that it is not over before it is seen.
    beam.suspend()
    make(any_beam, python, "open_gate", key)
    wait_until(lambda: memory(python, "VmRSS") > SIZE)
    python.kill()
    beam.resume()
    kind, (reason, _) = call.result(PATIENCE)
    assert (kind, reason[0]) == ("EXIT", "nodedown")


def test_a_sender_waits_for_its_own_large_message_alone(
    start_one: Callable[[], BeamNode], node: Node
) -> None:
    """As it does on a BEAM; so what a thread sends in a loop does not fill the memory."""
    beam = start_one()
    one, other = beam.process(), beam.process()
    connection = connected(node, beam)
    beam.suspend()
    node.send(one.pid, b"\xff" * SIZE)
    sent = []

    def send_more() -> None:
        for number in range(3):
            node.send(one.pid, b"\xfe" * SIZE)
            sent.append(number)

    thread = threading.Thread(target=send_more)
    thread.start()
    wait_until(lambda: connection._waiting == 1)
    assert sent == [0]
    # Others are not concerned.
    in_thread(lambda: node.send(other.pid, "small"))
    beam.resume()
    thread.join(PATIENCE)
    assert other.eval("receive M -> M end") == "small"
    sizes = "[receive <<First, _/binary>> = B -> {First, byte_size(B)} end || _ <- [1, 2, 3, 4]]"
    assert one.eval(sizes) == [(0xFF, SIZE)] + [(0xFE, SIZE)] * 3


def connected(node: Node, beam: BeamNode) -> Connection:
    """Return the connection with `beam`."""
    assert node.ping(beam.name)
    connection = node.connection(beam.name)
    assert connection is not None
    return connection


def in_thread(function: Callable[[], object]) -> None:
    """Call `function` in another thread, and wait for it."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
