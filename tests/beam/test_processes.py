"""Processes of a Python node among those of BEAM nodes."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from pynode import (
    Atom,
    ExitError,
    ExternalFun,
    Node,
    NodeUnavailableError,
    Pid,
    Process,
    ReceiveTimeoutError,
    current_process,
)
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import BeamNode, BeamProcess, Epmd

PATIENCE = 10.0
DOWN, EXIT, PROCESS = Atom("DOWN"), Atom("EXIT"), Atom("process")
KILL, KILLED, NORMAL = Atom("kill"), Atom("killed"), Atom("normal")
NOPROC, NOCONNECTION, SHUTDOWN = Atom("noproc"), Atom("noconnection"), Atom("shutdown")
BOOM = Atom("boom")

#: The module that processes of the BEAM call.
MODULE = "processes_under_test"


def me() -> Process:
    process = current_process()
    assert process is not None
    return process


class Subjects:
    """What other nodes spawn here."""

    #: Processes that are there, told by themselves.
    begun: SimpleQueue[Process] = SimpleQueue()

    @classmethod
    def _begin(cls) -> Process:
        cls.begun.put(me())
        return me()

    @classmethod
    def returns(cls, *_args: Any) -> str:
        cls._begin()
        return "nobody gets this"

    @classmethod
    def raises(cls, message: str) -> None:
        cls._begin()
        raise ValueError(message)

    @classmethod
    def exits(cls, reason: Any) -> None:
        cls._begin()
        raise ExitError("on purpose", reason=reason)

    @classmethod
    def receives(cls) -> None:
        cls._begin().receive(lambda _: False)

    @classmethod
    def spins(cls) -> None:
        cls._begin()
        while True:
            pass

    @classmethod
    def sleeps(cls) -> None:
        cls._begin()
        while True:
            time.sleep(0.01)

    @classmethod
    def calls(cls, server: Pid) -> None:
        cls._begin().node.call(server, "never answered", timeout=None)

    @classmethod
    def traps(cls, parent: Pid) -> None:
        process = cls._begin()
        process.trap_exit = True
        process.node.send(parent, "traps")
        while True:
            process.node.send(parent, ("received", process.receive()))

    @classmethod
    def answers(cls, parent: Pid, message: Any) -> None:
        process = cls._begin()
        process.node.send(parent, (process.pid, process.group_leader, message))


@pytest.fixture(autouse=True)
def subjects(monkeypatch: pytest.MonkeyPatch) -> type[Subjects]:
    module = ModuleType(MODULE)
    Subjects.begun = SimpleQueue()
    for name in vars(Subjects):
        if not name.startswith("_"):
            setattr(module, name, getattr(Subjects, name))
    monkeypatch.setitem(sys.modules, MODULE, module)
    return Subjects


@pytest.fixture
def node(epmd: Epmd, cookie: str) -> Iterator[Node]:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        yield node


def run(beam: BeamNode, node: Node, source: str, **bindings: Any) -> Any:
    return beam.eval(source, N=node.name, M=Atom(MODULE), **bindings)


def assert_nothing_is_left(node: Node) -> None:
    def is_clean() -> bool:
        signals = node.signals
        connections = [node._loopback, *node._table.connections()]
        left: list[Any] = [
            signals._monitors,
            signals._abandoned,
            signals.aliases,
            *(connection.monitors for connection in connections),
            *(connection.links for connection in connections),
            [d for d in signals.destinations.values() if type(d).__name__ in OURS],
        ]
        return not any(left)

    wait_until(is_clean)


OURS = {"Process", "Spawned", "Called"}


# --- spawned by the BEAM


def test_spawn(any_beam: BeamNode, node: Node) -> None:
    pid, answer = run(
        any_beam,
        node,
        "P = spawn(N, M, answers, [self(), hello]), receive {P, _, _} = A -> {P, A} end",
    )
    assert pid.node == node.name
    assert answer[0] == pid
    assert answer[1].node == any_beam.name  # the group leader
    assert answer[2] == Atom("hello")


REASONS = [
    ("returns, []", NORMAL),
    ("exits, [boom]", BOOM),
    ("exits, [{any, [1]}]", (Atom("any"), [1])),
    ("exits, [normal]", NORMAL),
    ("exits, [kill]", KILL),
]


@pytest.mark.parametrize(("call", "reason"), REASONS, ids=[call for call, _ in REASONS])
def test_exit_reasons(any_beam: BeamNode, node: Node, call: str, reason: Any) -> None:
    source = (
        f"{{P, R}} = spawn_monitor(N, M, {call}), receive {{'DOWN', R, process, P, Why}} -> Why end"
    )
    assert run(any_beam, node, source) == reason
    source = (
        f"process_flag(trap_exit, true), P = spawn_link(N, M, {call}), "
        "receive {'EXIT', P, Why} -> Why end"
    )
    assert run(any_beam, node, source) == reason
    assert_nothing_is_left(node)


def test_an_exception_is_the_exit_reason(any_beam: BeamNode, node: Node) -> None:
    source = (
        '{P, R} = spawn_monitor(N, M, raises, [<<"oh no">>]), '
        "receive {'DOWN', R, process, P, Why} -> Why end"
    )
    exception, stack = run(any_beam, node, source)
    assert exception["__struct__"] == "Elixir.SnakeBridge.PythonError"
    assert exception["__exception__"] is True
    assert exception["type"] == "ValueError"
    assert exception["message"] == "oh no"
    assert all(len(entry) == 4 for entry in stack)
    assert_nothing_is_left(node)


@pytest.mark.parametrize("call", ["nomodule, f, []", f"{MODULE}, nofunction, []"])
def test_what_is_not_there(any_beam: BeamNode, node: Node, call: str) -> None:
    source = (
        f"{{P, R}} = spawn_monitor(N, {call}), receive {{'DOWN', R, process, P, Why}} -> Why end"
    )
    assert run(any_beam, node, source)[0] == "undef"


def test_spawn_request(any_beam: BeamNode, node: Node) -> None:
    source = (
        "R = spawn_request(N, M, returns, [1, 2], [monitor, {reply_tag, yes}]), "
        "receive First -> receive Second -> {R, First, Second} end end"
    )
    reference, (tag, first, ok, pid), down = run(any_beam, node, source)
    assert (tag, first, ok) == (Atom("yes"), reference, Atom("ok"))
    assert down == (DOWN, reference, PROCESS, pid, NORMAL)


def test_spawn_opt(any_beam: BeamNode, node: Node) -> None:
    source = (
        "process_flag(trap_exit, true), "
        "{P, R} = spawn_opt(N, M, exits, [boom], [link, {monitor, [{tag, gone}]}, "
        "    {priority, high}, {min_heap_size, 1000}, {fullsweep_after, 0}]), "
        "{receive {gone, R, _, P, A} -> A end, receive {'EXIT', P, B} -> B end}"
    )
    assert run(any_beam, node, source) == (BOOM, BOOM)
    assert_nothing_is_left(node)


def test_a_monitor_of_a_spawn_can_be_removed(any_beam: BeamNode, node: Node) -> None:
    source = (
        "{P, R} = spawn_monitor(N, M, receives, []), demonitor(R), exit(P, kill), "
        "T = monitor(process, P), receive {'DOWN', W, _, _, _} -> W =:= T end"
    )
    assert run(any_beam, node, source) is True
    # Given up before it is answered: its process runs, and nobody is told.
    source = (
        "R = spawn_request(N, M, receives, [], [monitor]), spawn_request_abandon(R), "
        "net_adm:ping(N), receive A -> A after 0 -> nothing end"
    )
    assert run(any_beam, node, source) == "nothing"
    first, second = (Subjects.begun.get(timeout=PATIENCE) for _ in range(2))
    assert not first.alive
    assert second.alive
    second.exit()
    assert_nothing_is_left(node)


# --- exit signals


STATES = ["spins, []", "sleeps, []", "receives, []", "calls, [self()]"]


@pytest.mark.parametrize("what", STATES)
@pytest.mark.parametrize("reason", ["kill", "shutdown", "{any, [1]}"])
def test_exit_2(any_beam: BeamNode, node: Node, what: str, reason: str) -> None:
    source = f"""
        {{P, R}} = spawn_monitor(N, M, {what}),
        exit(P, normal),  % ignored
        Wait = fun Wait() -> erpc:call(N, {MODULE}, begun_count, []) > 0 orelse Wait() end,
        Wait(),
        exit(P, {reason}),
        receive {{'DOWN', R, process, P, Why}} -> Why end"""
    module: Any = sys.modules[MODULE]
    module.begun_count = Subjects.begun.qsize
    expected = {"kill": KILLED, "shutdown": SHUTDOWN, "{any, [1]}": (Atom("any"), [1])}
    assert run(any_beam, node, source) == expected[reason]
    assert_nothing_is_left(node)


def test_an_exit_as_the_process_starts(any_beam: BeamNode, node: Node) -> None:
    source = (
        "[begin {P, R} = spawn_monitor(N, M, receives, []), exit(P, kill), "
        "receive {'DOWN', R, process, P, Why} -> Why end end || _ <- lists:seq(1, 100)]"
    )
    assert set(run(any_beam, node, source)) == {KILLED}
    assert_nothing_is_left(node)


def test_trap_exit(any_beam: BeamNode, node: Node) -> None:
    source = """
        P = spawn_link(N, M, traps, [self()]), receive <<"traps">> -> ok end,
        R = monitor(process, P),
        Got = [begin exit(P, Why), receive {_, M} -> M end end || Why <- [normal, shutdown, "x"]],
        unlink(P),
        exit(P, kill),
        {self(), Got, receive {'DOWN', R, _, _, Reason} -> Reason end}""".replace(
        "M}", "G}"
    ).replace("-> M end", "-> G end")
    caller, got, reason = run(any_beam, node, source)
    assert got == [
        (EXIT, caller, NORMAL),
        (EXIT, caller, SHUTDOWN),
        (EXIT, caller, [ord("x")]),
    ]
    assert reason == KILLED
    assert_nothing_is_left(node)


def test_exit_signals_from_here(any_beam: BeamNode, node: Node) -> None:
    with node.process() as process:
        for reason, expected in [
            (SHUTDOWN, SHUTDOWN),
            (KILL, KILLED),
            (("any", 1), ("any", 1)),
        ]:
            target = any_beam.process()
            reference = process.monitor(target.pid)
            node.exit(target.pid, NORMAL)  # ignored
            node.exit(target.pid, reason)
            assert process.receive(timeout=PATIENCE) == (
                DOWN,
                reference,
                PROCESS,
                target.pid,
                expected,
            )
        target = any_beam.process()
        target.eval("process_flag(trap_exit, true)")
        node.exit(target.pid, ("any", 1))
        assert target.eval("receive {'EXIT', P, Why} -> {P, Why} end") == (process.pid, ("any", 1))
    assert_nothing_is_left(node)


# --- links


def test_links_from_here(any_beam: BeamNode, node: Node) -> None:
    # Theirs breaks.
    with node.process() as process:
        process.trap_exit = True
        for reason in (SHUTDOWN, ("any", 1)):
            other = any_beam.process()
            process.link(other.pid)
            node.exit(other.pid, reason)
            assert process.receive(timeout=PATIENCE) == (EXIT, other.pid, reason)
        # Ours breaks.
        other = any_beam.process()
        other.eval("process_flag(trap_exit, true)")
        process.link(other.pid)
        links = "element(2, process_info(self(), links))"
        wait_until(lambda: process.pid in other.eval(links))
    assert other.eval("receive {'EXIT', P, Why} -> {P, Why} end") == (process.pid, NORMAL)
    victim = any_beam.process()
    with node.process() as watcher:
        watcher.monitor(victim.pid)
        process = node.process()
        process.link(victim.pid)
        process.exit(BOOM)
        assert watcher.receive(timeout=PATIENCE)[4] == BOOM
    assert_nothing_is_left(node)


def test_links_from_there(any_beam: BeamNode, node: Node) -> None:
    process = node.process()
    other = any_beam.process()
    other.eval("link(P)", P=process.pid)
    other.exit(BOOM)
    with pytest.raises(ExitError) as caught:
        process.receive(timeout=PATIENCE)
    assert caught.value.reason == BOOM
    with node.process() as process:
        other = any_beam.process()
        other.eval("process_flag(trap_exit, true), link(P)", P=process.pid)
        wait_until(lambda: process._links)
    assert other.eval("receive {'EXIT', P, Why} -> {P, Why} end") == (process.pid, NORMAL)
    assert other.eval("process_info(self(), links)")[1] == []
    assert_nothing_is_left(node)


@pytest.mark.parametrize("who", ["python", "beam"])
def test_unlink(any_beam: BeamNode, node: Node, who: str) -> None:
    with node.process() as process:
        process.trap_exit = True
        other = any_beam.process()
        other.eval("process_flag(trap_exit, true), link(P)", P=process.pid)
        wait_until(lambda: process._links)
        if who == "python":
            process.unlink(other.pid)
            wait_until(lambda: not process._links)
        else:
            other.eval("unlink(P)", P=process.pid)
            wait_until(lambda: not process._links)
        reference = process.monitor(other.pid)
        node.exit(other.pid, KILL)
        assert process.receive(timeout=PATIENCE)[1] == reference
    assert_nothing_is_left(node)


def test_links_and_unlinks_that_cross_agree_in_the_end(any_beam: BeamNode, node: Node) -> None:
    churn = "[begin link(P), unlink(P) end || _ <- lists:seq(1, 20)]"
    for turn in range(20):
        with node.process() as process:
            process.trap_exit = True
            other = any_beam.process()
            other.eval("process_flag(trap_exit, true)")
            done = other.start_eval(churn + (", link(P)" if turn % 2 else ""), P=process.pid)
            for _ in range(20):
                process.link(other.pid)
                process.unlink(other.pid)
            done.result(PATIENCE)

            def agree(process: Process = process, other: BeamProcess = other) -> str | None:
                linked = "{links, L} = process_info(self(), links), lists:member(P, L)"
                there = other.eval(linked, P=process.pid)
                here = process._links.get(other.pid)
                if here is not None and here[1]:
                    return None  # not over yet
                return f"both {there}" if (here is not None) == there else None

            agreed = wait_until(agree)
            if turn % 2 == 0:
                assert agreed == "both False"
            assert not len(process.mailbox)
    assert_nothing_is_left(node)


def test_spawn_at_with_a_link(any_beam: BeamNode, node: Node) -> None:
    with node.process() as process:
        process.trap_exit = True
        pid = node.spawn_at(any_beam.name, "timer", "sleep", [1], link=True)
        assert process.receive(timeout=PATIENCE) == (EXIT, pid, NORMAL)
        pid = node.spawn_at(any_beam.name, "timer", "sleep", [Atom("infinity")], link=True)
        watch = any_beam.start_eval(
            "R = monitor(process, P), receive {'DOWN', R, _, _, Why} -> Why end", P=pid
        )
        any_beam.eval("true = is_process_alive(P)", P=pid)
        process.exit(BOOM)
        assert watch.result(PATIENCE) == BOOM
    assert_nothing_is_left(node)


# --- monitors


def test_monitors_from_here(any_beam: BeamNode, node: Node) -> None:
    with node.process() as process:
        other = any_beam.process()
        name = Atom(f"r{secrets.token_hex(5)}")
        other.eval("register(N, self())", N=name)
        by_pid = process.monitor(other.pid)
        by_name = process.monitor((name, any_beam.name))
        unwanted = process.monitor(other.pid)
        assert process.demonitor(unwanted)
        node.exit(other.pid, BOOM)
        assert {process.receive(timeout=PATIENCE), process.receive(timeout=PATIENCE)} == {
            (DOWN, by_pid, PROCESS, other.pid, BOOM),
            (DOWN, by_name, PROCESS, (name, any_beam.name), BOOM),
        }
        again = process.monitor((name, any_beam.name))
        assert process.receive(timeout=PATIENCE) == (
            DOWN,
            again,
            PROCESS,
            (name, any_beam.name),
            NOPROC,
        )
        with pytest.raises(ReceiveTimeoutError):
            process.receive(timeout=0)
    assert_nothing_is_left(node)


def test_monitors_from_there(any_beam: BeamNode, node: Node) -> None:
    process = node.process(name="target")
    other = any_beam.process()
    other.eval(
        "put(pid, monitor(process, P)), put(name, monitor(process, {target, N})), "
        "put(gone, monitor(process, P)), demonitor(get(gone), [flush])",
        P=process.pid,
        N=node.name,
    )
    wait_until(lambda: len(process._watchers) == 2)
    node.unregister("target")  # the monitor is of the process that had the name
    process.exit(BOOM)
    downs = other.eval(
        "[receive {'DOWN', R, process, What, Why} -> {What, Why} end || R <- [get(pid), get(name)]]"
    )
    assert downs == [(process.pid, BOOM), ((Atom("target"), node.name), BOOM)]
    assert other.eval("receive A -> A after 0 -> nothing end") == "nothing"
    assert_nothing_is_left(node)


def test_a_monitor_of_a_process_that_exits_at_that_moment(any_beam: BeamNode, node: Node) -> None:
    source = (
        "[begin {P, _} = spawn_monitor(N, M, returns, []), R = monitor(process, P), "
        "receive {'DOWN', R, _, _, Why} -> Why end end || _ <- lists:seq(1, 200)]"
    )
    assert set(run(any_beam, node, source)) <= {NORMAL, NOPROC}
    assert_nothing_is_left(node)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "count"), [("receives", 3_000), ("returns", 10_000)])
def test_many_processes(any_beam: BeamNode, node: Node, what: str, count: int) -> None:
    source = f"""
        Count = {count},
        All = lists:seq(1, Count),
        [spawn_request(N, M, {what}, [], [monitor]) || _ <- All],
        case {what} of
            receives ->
                [receive {{spawn_reply, _, ok, P}} -> exit(P, kill) end || _ <- All];
            returns ->
                ok
        end,
        Down = fun Down(0, Whys) -> maps:to_list(Whys);
                   Down(Left, Whys) ->
                       receive
                           {{spawn_reply, _, ok, _}} ->
                               Down(Left, Whys);
                           {{'DOWN', _, _, _, Why}} ->
                               Down(Left - 1, maps:update_with(Why, fun(C) -> C + 1 end, 1, Whys))
                       end
               end,
        Down(Count, #{{}})"""
    outcome = any_beam.eval(source, timeout=50, N=node.name, M=Atom(MODULE))
    assert outcome == [(KILLED if what == "receives" else NORMAL, count)]
    assert_nothing_is_left(node)


# --- messages


def test_messages_keep_their_order(any_beam: BeamNode, node: Node) -> None:
    with node.process(name="inbox") as process:
        any_beam.eval(
            "[begin P ! {pid, X}, {inbox, N} ! {name, X} end || X <- lists:seq(1, 2000)]",
            P=process.pid,
            N=node.name,
        )
        got = [process.receive(timeout=PATIENCE) for _ in range(4000)]
        assert got == [(kind, n) for n in range(1, 2001) for kind in ("pid", "name")]
        other = any_beam.process()
        name = Atom(f"r{secrets.token_hex(5)}")
        alias = other.eval("register(N, self()), erlang:alias()", N=name)
        for number in range(1000):
            node.send(other.pid, ("pid", number))
            node.send((name, any_beam.name), ("name", number))
            node.send(alias, ("alias", number))
        got = other.eval("[receive M -> M end || _ <- lists:seq(1, 3000)]")
        assert got == [(kind, n) for n in range(1000) for kind in ("pid", "name", "alias")]
        # To an alias that is no more, nothing comes.
        other.eval("erlang:unalias(A)", A=alias)
        node.send(alias, "dropped")
        node.send(other.pid, "marker")
        assert other.eval("receive M -> M end") == "marker"


def test_the_group_leader(any_beam: BeamNode, node: Node) -> None:
    with node.process() as process:
        leader = any_beam.eval("group_leader(self(), P), self()", P=process.pid)
        wait_until(lambda: process.group_leader == leader)


def test_a_node_of_the_same_name_is_not_the_same(
    any_beam: BeamNode, epmd: Epmd, cookie: str
) -> None:
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    other = any_beam.process()
    pids = []
    for _ in range(2):
        with Node(name, cookie=cookie) as node:
            process = node.process()
            pids.append(process.pid)
            other.eval("net_kernel:connect_node(N)", N=Atom(name))
            if len(pids) == 2:
                old, new = pids
                assert (old.id, old.serial) == (new.id, new.serial)
                assert old != new
                process.trap_exit = True
                source = """
                    process_flag(trap_exit, true),
                    Old ! dropped, exit(Old, kill), link(Old),
                    R = monitor(process, Old),
                    A = receive {'DOWN', R, _, Old, X} -> X end,
                    B = receive {'EXIT', Old, Y} -> Y end,
                    New ! marker,
                    {A, B}"""
                assert other.eval(source, Old=old, New=new) == (NOPROC, NOPROC)
                assert process.receive(timeout=PATIENCE) == Atom("marker")
        wait_until(lambda: not any_beam.eval("lists:member(N, nodes(hidden))", N=Atom(name)))


# --- nodes that go


def test_the_loss_of_a_beam(
    any_beam: BeamNode, start_beam: Callable[..., BeamNode], node: Node
) -> None:
    beam = start_beam(runtime=any_beam.runtime)
    with node.process() as process:
        process.trap_exit = True
        process.monitor_nodes()
        one, two = beam.process(), beam.process()
        assert process.receive(timeout=PATIENCE) if node.ping(beam.name) else False
        reference = process.monitor(one.pid)
        process.link(two.pid)
        two.eval("link(P), monitor(process, P)", P=process.pid)
        wait_until(lambda: process._watchers)
        spawned = two.eval("spawn_link(N, M, receives, [])", N=node.name, M=Atom(MODULE))
        beam.kill()
        messages = {process.receive(timeout=PATIENCE) for _ in range(3)}
        assert messages == {
            (DOWN, reference, PROCESS, one.pid, NOCONNECTION),
            (EXIT, two.pid, NOCONNECTION),
            (Atom("nodedown"), Atom(beam.name)),
        }
        assert not process._watchers
        assert not process._links
        # Who spawned it has exited before; or its link broke with the connection.
        wait_until(lambda: node.signals.find(spawned) is None)
        with pytest.raises(ReceiveTimeoutError):
            process.receive(timeout=0)
        with pytest.raises(NodeUnavailableError):
            process.link(one.pid)
        with pytest.raises(NodeUnavailableError):
            process.monitor(one.pid)
    assert_nothing_is_left(node)


def test_the_loss_of_this_node(any_beam: BeamNode, node: Node) -> None:
    other = any_beam.process()
    with node.process() as process:
        process.trap_exit = True
        other.eval(
            "process_flag(trap_exit, true), link(P), put(r, monitor(process, P))", P=process.pid
        )
        wait_until(lambda: process._links and process._watchers)
        node.disconnect(any_beam.name)
        assert other.eval(
            "{receive {'DOWN', _, _, P, A} -> A end, receive {'EXIT', P, B} -> B end}",
            P=process.pid,
        ) == (NOCONNECTION, NOCONNECTION)
        assert process.receive(timeout=PATIENCE) == (EXIT, other.pid, NOCONNECTION)
        assert other.eval("receive A -> A after 0 -> nothing end") == "nothing"


def test_a_node_that_stops_tells_before_it_goes(any_beam: BeamNode, node: Node) -> None:
    other = any_beam.process()
    process = node.process()
    other.eval(
        "process_flag(trap_exit, true), link(P), put(r, monitor(process, P)), "
        "put(s, spawn_link(N, M, receives, []))",
        P=process.pid,
        N=node.name,
        M=Atom(MODULE),
    )
    wait_until(lambda: process._links and process._watchers)
    Subjects.begun.get(timeout=PATIENCE)
    node.stop()
    assert other.eval(
        "{receive {'DOWN', _, _, P, A} -> A end, receive {'EXIT', P, B} -> B end, "
        "begin S = get(s), receive {'EXIT', S, C} -> C end end}",
        P=process.pid,
    ) == (SHUTDOWN, SHUTDOWN, SHUTDOWN)


# --- funs


def test_funs_are_callable(any_beam: BeamNode, node: Node) -> None:
    double = any_beam.process()
    with node.process(name="inbox") as process:
        double.eval("{inbox, N} ! fun(X) -> {self(), X * 2} end, ok", N=node.name)
        fun: Any = process.receive(timeout=PATIENCE)
        assert callable(fun)
        assert fun(21)[1] == 42
        answers: SimpleQueue[Any] = SimpleQueue()
        threads = [threading.Thread(target=lambda n=n: answers.put(fun(n)[1])) for n in range(10)]
        for thread in threads:
            thread.start()
        assert sorted(answers.get(timeout=PATIENCE) for _ in threads) == [n * 2 for n in range(10)]
        for thread in threads:
            thread.join()
        with pytest.raises(ExitError, match="ArithmeticError"):
            fun("text")
        with pytest.raises(ExitError, match="BadArityError"):
            fun(1, 2)
        # It can be sent back.
        assert any_beam.eval("element(2, F(4))", F=fun) == 8


def test_a_fun_of_a_node_that_is_gone(
    any_beam: BeamNode, start_beam: Callable[..., BeamNode], node: Node
) -> None:
    beam = start_beam(runtime=any_beam.runtime)
    with node.process(name="inbox") as process:
        beam.eval("{inbox, N} ! fun(X) -> X end, ok", N=node.name)
        fun = process.receive(timeout=PATIENCE)
        assert fun(1) == 1
        beam.kill()
        wait_until(lambda: not node.nodes())
        with pytest.raises(NodeUnavailableError, match=beam.name.partition("@")[0]):
            fun(1)


def test_a_fun_of_a_module_is_called_where_one_wants(any_beam: BeamNode, node: Node) -> None:
    with node.process(name="inbox") as process:
        any_beam.eval("{inbox, N} ! fun lists:reverse/1, ok", N=node.name)
        fun = process.receive(timeout=PATIENCE)
        assert fun == ExternalFun(Atom("lists"), Atom("reverse"), 1)
        assert node.erpc(any_beam.name, fun.module, fun.function, [[1, 2]]) == [2, 1]
