"""`global` with published Python nodes: locks, names, and clusters that meet and part."""

from __future__ import annotations

import itertools
import random
import secrets
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pynode import Atom, Node, Pid
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pynode.testing import BeamNode, Runtime

PATIENCE = 30.0


@pytest.fixture
def start_node(epmd: object, cookie: str) -> Iterator[Callable[..., Node]]:
    """Start published nodes in this process; all end with the test."""
    with ExitStack() as stack:

        def start(name: str | None = None, *, published: bool = True) -> Node:
            name = f"{name or 'py' + secrets.token_hex(5)}@127.0.0.1"
            return stack.enter_context(Node(name, cookie=cookie, published=published))

        yield start


@pytest.fixture
def runtimes(beam: BeamNode, beam28: BeamNode) -> list[Runtime]:
    return [beam.runtime, beam28.runtime]


@pytest.fixture
def start(any_beam: BeamNode, start_beam: Callable[..., BeamNode]) -> Callable[..., BeamNode]:
    """Start nodes of each runtime in turn."""
    return lambda name=None, **options: start_beam(name, runtime=any_beam.runtime, **options)


def connect(*nodes: BeamNode | Node) -> None:
    """Have the first node connect to the others; `global` does what is left to be done."""
    first, *others = nodes
    for other in others:
        if isinstance(first, Node):
            first.connect(other.name)
        else:
            assert first.eval("net_kernel:connect_node(N)", N=Atom(other.name)) is True


def peers(node: BeamNode | Node) -> set[str]:
    return {*(node.nodes() if isinstance(node, Node) else node.eval("nodes()"))}


def known(node: BeamNode | Node) -> set[str]:
    """Return which nodes `global` takes for parts of the cluster."""
    if isinstance(node, Node):
        assert node.global_names is not None
        return {*node.global_names.known_nodes()}
    source = "[N || {N, _} <- maps:to_list(element(3, global:info())), is_atom(N)]"
    return {*node.eval(source)}


def wait_for_cluster(*nodes: BeamNode | Node) -> None:
    """Wait until all of these nodes, and no others, are one cluster for `global` everywhere."""
    names = {node.name for node in nodes}

    def is_whole(node: BeamNode | Node) -> bool:
        others = names - {node.name}
        # A node may be known before there is a connection with it.
        return known(node) == others and peers(node) >= others

    for node in nodes:
        wait_until(partial(is_whole, node), PATIENCE)


def whereis(node: BeamNode | Node, name: Atom) -> Pid | None:
    if isinstance(node, Node):
        return node.whereis_global(name)
    found: Any = node.eval("global:whereis_name(X)", X=name)
    return None if found == "undefined" else found


def wait_for_partitions(*nodes: BeamNode | Node) -> None:
    """Wait until each node is in one cluster, and the first and the second not in the same.

    Which of them the others are with depends on who hears of the loss first.
    """

    def are_apart() -> bool:
        clusters = {node.name: known(node) | {node.name} for node in nodes}
        return (
            nodes[1].name not in clusters[nodes[0].name]
            and all(clusters[name] == whole for whole in clusters.values() for name in whole)
            and all(peers(node) == clusters[node.name] - {node.name} for node in nodes)
        )

    wait_until(are_apart, PATIENCE)


def wait_for_name(node: BeamNode | Node, name: Atom, pid: Pid | None) -> None:
    wait_until(lambda: whereis(node, name) == pid, PATIENCE)


def in_time(beam: BeamNode, source: str, **bindings: Any) -> Any:
    return beam.eval(source, timeout=PATIENCE, **bindings)


def new_name() -> Atom:
    return Atom(f"n{secrets.token_hex(5)}")


# --- one BEAM node and one Python node


def test_a_published_node_is_a_part_of_the_cluster(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    beam, node = start(), start_node()
    connect(beam, node)
    assert beam.eval("nodes()") == [node.name]
    assert in_time(beam, "global:sync()") == "ok"
    wait_for_cluster(beam, node)
    assert in_time(beam, "global:trans({x, self()}, fun() -> done end)") == "done"
    assert in_time(beam, "global:trans({x, self()}, fun() -> done end, [N])", N=node.name) == "done"
    assert beam.eval("rpc:call(N, erlang, nodes, [])", N=node.name) == [beam.name]


def test_python_connects_first(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    beam, node = start(), start_node()
    connect(node, beam)
    assert in_time(beam, "global:sync()") == "ok"
    wait_for_cluster(beam, node)


def test_a_hidden_node_is_none_of_its_business(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    beam, node, hidden = start(), start_node(), start_node(published=False)
    secret = start(hidden=True)
    connect(beam, node, hidden)
    connect(node, hidden, secret)
    wait_for_cluster(beam, node)
    assert {hidden.name, secret.name} <= peers(node)
    with pytest.raises(ValueError, match="published=True"):
        hidden.whereis_global("x")
    hidden.stop()
    secret.stop()
    wait_until(lambda: peers(node) == {beam.name})
    wait_for_cluster(beam, node)


def test_names(start: Callable[..., BeamNode], start_node: Callable[..., Node]) -> None:
    beam, node = start(), start_node()
    early, late = new_name(), new_name()
    one, other = beam.process(), beam.process()
    assert beam.eval("global:register_name(X, P)", X=early, P=one.pid) == "yes"
    connect(beam, node)
    wait_for_cluster(beam, node)
    assert node.whereis_global(early) == one.pid
    assert in_time(beam, "global:register_name(X, P)", X=late, P=other.pid) == "yes"
    assert node.whereis_global(late) == other.pid
    assert in_time(beam, "global:re_register_name(X, P)", X=early, P=beam.process().pid) == "yes"
    assert node.whereis_global(early) not in {None, one.pid}
    in_time(beam, "global:unregister_name(X)", X=early)
    assert node.whereis_global(early) is None
    # A name goes with its process.
    other.exit()
    wait_until(lambda: node.whereis_global(late) is None)
    assert beam.eval("rpc:call(N, global, registered_names, [])", N=node.name) == []
    assert beam.eval("rpc:call(N, global, whereis_name, [x])", N=node.name) == "undefined"


@pytest.mark.parametrize("term", ["{a, 1}", '<<"text">>', "#{a => 1, b => #{}}", "1.0", "[]"])
def test_any_term_is_a_name(
    start: Callable[..., BeamNode], start_node: Callable[..., Node], term: str
) -> None:
    beam, node = start(), start_node()
    connect(beam, node)
    wait_for_cluster(beam, node)
    pid = beam.process().pid
    assert in_time(beam, f"global:register_name({term}, P)", P=pid) == "yes"
    assert beam.eval(f"rpc:call(N, global, whereis_name, [{term}])", N=node.name) == pid
    in_time(beam, f"global:unregister_name({term})")
    assert beam.eval("rpc:call(N, global, registered_names, [])", N=node.name) == []


def test_names_of_python_processes(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    beam, node, other = start(), start_node(), start_node()
    connect(beam, node, other)
    wait_for_cluster(beam, node, other)
    name = new_name()
    with node.process() as process:
        assert node.register_global(name, process.pid)
        assert not node.register_global(name, process.pid)
        assert not other.register_global(name, process.pid)
        assert in_time(beam, "global:register_name(X, self())", X=name) == "no"
        for each in (beam, node, other):
            assert whereis(each, name) == process.pid
        beam.eval("global:send(X, hello)", X=name)
        assert process.receive(timeout=PATIENCE) == "hello"
        other.unregister_global(name)
        assert [whereis(each, name) for each in (beam, node, other)] == [None] * 3
        assert other.register_global(name, process.pid)
        # Registered from elsewhere as well.
        assert in_time(beam, "global:re_register_name(X, P)", X=name, P=process.pid) == "yes"
    for each in (beam, node, other):
        wait_for_name(each, name, None)


def test_locks(start: Callable[..., BeamNode], start_node: Callable[..., Node]) -> None:
    beam, node = start(), start_node()
    connect(beam, node)
    wait_for_cluster(beam, node)
    one, other = beam.process(), beam.process()
    lock = "global:set_lock({X, Y}, [node(), N], 0)"
    resource = new_name()
    bindings: dict[str, Any] = {"X": resource, "N": node.name}
    assert one.eval(lock, Y=Atom("one"), **bindings) is True
    assert one.eval(lock, Y=Atom("one"), **bindings) is True
    assert other.eval(lock, Y=Atom("other"), **bindings) is False
    # Several processes may have a lock in the same name; then it is free when all are done.
    assert other.eval(lock, Y=Atom("one"), **bindings) is True
    assert one.eval("global:del_lock({X, one}, [node(), N])", **bindings) is True
    assert one.eval(lock, Y=Atom("two"), **bindings) is False
    assert one.eval("global:del_lock({X, one}, [node(), N])", **bindings) is True
    other.exit()
    wait_until(lambda: one.eval(lock, Y=Atom("two"), **bindings))
    # The lock on the Python node alone.
    assert beam.eval("global:set_lock({X, you}, [N], 0)", **bindings) is False
    one.exit()
    wait_until(lambda: beam.eval("global:set_lock({X, you}, [N], 0)", **bindings))


def test_a_lock_is_waited_for(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    beam, node = start(), start_node()
    connect(beam, node)
    wait_for_cluster(beam, node)
    holder = beam.process()
    assert holder.eval("global:set_lock({r, self()})")
    waiting = beam.start_eval("global:trans({r, self()}, fun() -> mine end)")
    assert in_time(beam, "global:trans({r, self()}, fun() -> mine end, [N], 0)", N=node.name) == (
        "aborted"
    )
    holder.eval("global:del_lock({r, self()})")
    assert waiting.result(PATIENCE) == "mine"


def test_counting_under_a_lock(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    """What is changed under a lock by many at once is changed one after the other."""
    beam, node, other = start(), start_node(), start()
    connect(beam, node, other)
    wait_for_cluster(beam, node, other)
    beam.eval(
        "register(counter, spawn(fun F() -> receive {get, P} -> P ! {n, get(n)}, F();"
        " {put, N} -> put(n, N), F() end end)), counter ! {put, 0}"
    )
    source = (
        "C = {counter, B}, Add = fun() -> C ! {get, self()},"
        "                         receive {n, N} -> C ! {put, N + 1} end end,"
        "Step = fun() -> global:trans({count, self()}, Add) end, Self = self(), "
        "Work = fun() -> [Step() || _ <- lists:seq(1, 5)], Self ! {self(), ok} end,"
        "Ps = [spawn(Work) || _ <- [1, 2]], [receive {P, ok} -> ok end || P <- Ps]"
    )
    counting = [each.start_eval(source, B=Atom(beam.name)) for each in (beam, other)]
    for each in counting:
        each.result(60)
    assert beam.eval("counter ! {get, self()}, receive {n, N} -> N end") == 20


# --- clusters


def test_nodes_that_meet_through_python(
    start_beam: Callable[..., BeamNode],
    start_node: Callable[..., Node],
    runtimes: list[Runtime],
) -> None:
    """Two sides that know nothing of each other, and one node of each that does."""
    old, new = (start_beam(runtime=runtime) for runtime in runtimes)
    one, other = start_node(), start_node()
    names = [new_name() for _ in range(4)]
    owners: list[BeamNode | Node] = [old, one, new, other]
    connect(old, one)
    connect(other, new)
    wait_for_cluster(old, one)
    wait_for_cluster(new, other)
    with ExitStack() as stack:
        pids = []
        for name, owner in zip(names, owners, strict=True):
            if isinstance(owner, Node):
                pids.append(stack.enter_context(owner.process()).pid)
                assert owner.register_global(name, pids[-1])
            else:
                pids.append(owner.process().pid)
                source = "global:register_name(X, P)"
                assert in_time(owner, source, X=name, P=pids[-1]) == "yes"
        # The two that meet are both Python nodes.
        connect(one, other)
        wait_for_cluster(*owners)
        for node in owners:
            assert [whereis(node, name) for name in names] == pids
        for beam in (old, new):
            assert in_time(beam, "global:sync()") == "ok"
            assert in_time(beam, "global:trans({x, self()}, fun() -> done end)") == "done"


def test_python_nodes_alone(start_node: Callable[..., Node]) -> None:
    nodes = [start_node() for _ in range(4)]
    for one, other in itertools.pairwise(nodes):
        connect(one, other)
    wait_for_cluster(*nodes)
    with nodes[0].process() as process:
        assert nodes[0].register_global("name", process.pid)
        assert [node.whereis_global("name") for node in nodes] == [process.pid] * 4
    nodes[3].stop()
    wait_for_cluster(*nodes[:3])


def test_all_at_once(
    start_beam: Callable[..., BeamNode],
    start_node: Callable[..., Node],
    runtimes: list[Runtime],
) -> None:
    nodes: list[BeamNode | Node] = [start_beam(runtime=runtime) for runtime in runtimes * 2]
    nodes += [start_node() for _ in range(3)]
    random.shuffle(nodes)
    names = {}
    for node in nodes:
        if not isinstance(node, Node):
            name, pid = new_name(), node.process().pid
            assert node.eval("global:register_name(X, P)", X=name, P=pid) == "yes"
            names[name] = pid
    pairs = [*itertools.combinations(nodes, 2)]
    random.shuffle(pairs)

    def connect_some(some: Iterable[tuple[BeamNode | Node, BeamNode | Node]]) -> None:
        for one, other in some:
            connect(one, other)

    threads = [threading.Thread(target=connect_some, args=[pairs[n::3]]) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for_cluster(*nodes)
    for node in nodes:
        for name, pid in names.items():
            assert whereis(node, name) == pid
    for node in nodes:
        if not isinstance(node, Node):
            assert in_time(node, "global:sync()") == "ok"
            assert in_time(node, "global:trans({x, self()}, fun() -> done end)") == "done"


def test_python_comes_and_goes(start: Callable[..., BeamNode], cookie: str) -> None:
    one, other = start(), start()
    connect(one, other)
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    for _ in range(5):
        with Node(name, cookie=cookie, published=True) as node, node.process() as process:
            connect(random.choice([one, other]), node)
            wait_for_cluster(one, other, node)
            assert node.register_global("it", process.pid)
            assert in_time(one, 'global:whereis_name(<<"it">>)') == process.pid
        wait_for_cluster(one, other)
        wait_until(lambda: one.eval('global:whereis_name(<<"it">>)') == "undefined")
        assert in_time(other, "global:trans({x, self()}, fun() -> done end)") == "done"


def test_a_node_that_is_killed_while_it_has_the_lock(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    beam, doomed, node = start(), start(), start_node()
    connect(beam, doomed, node)
    wait_for_cluster(beam, doomed, node)
    pid = doomed.process().pid
    name = new_name()
    assert in_time(doomed, "global:register_name(X, P)", X=name, P=pid) == "yes"
    assert doomed.process().eval("global:set_lock({global, self()})")
    doomed.kill()
    wait_for_cluster(beam, node)
    assert in_time(beam, "global:register_name(X, self())", X=new_name()) == "yes"
    assert node.whereis_global(name) is None


# --- conflicts


@pytest.mark.parametrize("smaller", ["python", "beam"])
def test_a_name_on_both_sides(
    start: Callable[..., BeamNode], start_node: Callable[..., Node], smaller: str
) -> None:
    """Which of the two nodes decides depends on their names; the greater one's process dies."""
    low, high = f"a{secrets.token_hex(5)}", f"z{secrets.token_hex(5)}"
    python_first = smaller == "python"
    node, beam = start_node(low if python_first else high), start(high if python_first else low)
    name = new_name()
    with node.process() as process:
        assert node.register_global(name, process.pid)
        other = beam.process()
        assert beam.eval("global:register_name(X, P)", X=name, P=other.pid) == "yes"
        connect(beam, node)
        wait_for_cluster(beam, node)
        kept = process.pid if python_first else other.pid
        wait_until(lambda: whereis(beam, name) == whereis(node, name) == kept)
        if python_first:
            wait_until(lambda: not beam.eval("is_process_alive(P)", P=other.pid))
        else:
            wait_until(lambda: not process.alive)
            assert process.exit_reason == "killed"


@pytest.mark.parametrize("method", ["random_notify_name", "notify_all_name", "own"])
def test_the_method_that_a_name_was_registered_with(
    start: Callable[..., BeamNode], start_node: Callable[..., Node], method: str
) -> None:
    node, beam = start_node(f"a{secrets.token_hex(5)}"), start(f"z{secrets.token_hex(5)}")
    low = start(f"b{secrets.token_hex(5)}")
    connect(low, node)
    wait_for_cluster(low, node)
    name = new_name()
    # Registered on the side of the smaller node, whose method it is, for a process of Python's.
    fun = "fun(_, P1, P2) -> max(node(P1), node(P2)), P1 end"
    fun = fun if method == "own" else f"fun global:{method}/3"
    with node.process() as process:
        source = f"global:register_name(X, P, {fun})"
        assert in_time(low, source, X=name, P=process.pid) == "yes"
        other = beam.process()
        assert beam.eval("global:register_name(X, P)", X=name, P=other.pid) == "yes"
        connect(beam, node)
        wait_for_cluster(beam, low, node)
        conflict = Atom("global_name_conflict")
        if method == "random_notify_name":
            assert other.eval("receive M -> M end") == (conflict, name)
            kept: Pid | None = process.pid
        elif method == "notify_all_name":
            assert other.eval("receive M -> M end") == (conflict, name, process.pid)
            assert process.receive(timeout=PATIENCE) == (conflict, name, other.pid)
            kept = None
        else:
            kept = other.pid
        for each in (beam, low, node):
            wait_for_name(each, name, kept)
        assert process.alive


# --- partitions


def test_nodes_that_lose_each_other_lose_everybody(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    """As of OTP 25, so that no node is in two clusters that do not know each other."""
    one, other, node = start(), start(), start_node()
    connect(one, other, node)
    wait_for_cluster(one, other, node)
    one.eval("erlang:disconnect_node(N)", N=Atom(other.name))
    wait_for_partitions(one, other, node)
    # And they find each other again.
    connect(one, other, node)
    wait_for_cluster(one, other, node)
    assert in_time(one, "global:trans({x, self()}, fun() -> done end)") == "done"


def test_python_loses_a_node(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    one, other, node = start(), start(), start_node()
    connect(one, other, node)
    wait_for_cluster(one, other, node)
    node.disconnect(other.name)
    wait_for_partitions(node, other, one)
    assert in_time(one, "global:trans({x, self()}, fun() -> done end)") == "done"


def test_python_nodes_that_lose_each_other(start_node: Callable[..., Node]) -> None:
    nodes = [start_node() for _ in range(5)]
    connect(*nodes)
    wait_for_cluster(*nodes)
    one, other, *rest = nodes
    one.disconnect(other.name)
    wait_for_partitions(*nodes)
    # Those that have lost nobody stay together.
    for node in rest:
        assert known(node) >= {each.name for each in rest} - {node.name}
    connect(*nodes)
    wait_for_cluster(*nodes)


def test_partitions_are_not_prevented_where_nobody_wants_it(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    flags = ["-kernel", "prevent_overlapping_partitions", "false"]
    one, other, node = start(flags=flags), start(flags=flags), start_node()
    connect(one, other, node)
    wait_for_cluster(one, other, node)
    node.disconnect(other.name)
    wait_until(lambda: known(node) == {one.name})
    assert known(one) == {other.name, node.name}
    assert in_time(one, "global:trans({x, self()}, fun() -> done end)") == "done"


def test_nodes_that_do_not_connect_all(
    start: Callable[..., BeamNode], start_node: Callable[..., Node]
) -> None:
    beam = start(flags=["-connect_all", "false"])
    node = start_node()
    connect(beam, node)
    assert in_time(beam, "global:trans({x, self()}, fun() -> done end)") == "done"
    assert in_time(beam, "global:set_lock({x, self()}, [node(), N], 0)", N=node.name) is True
    assert in_time(beam, "rpc:call(N, erlang, node, [])", N=node.name) == node.name


# --- what else a published node is asked


def test_pg(start: Callable[..., BeamNode], start_node: Callable[..., Node]) -> None:
    one, other, node = start(), start(), start_node()
    for beam in (one, other):
        beam.eval("{ok, P} = pg:start(pg), unlink(P), ok")
    connect(one, other, node)
    wait_for_cluster(one, other, node)
    pid = one.process().pid
    assert in_time(one, "pg:join(group, P)", P=pid) == "ok"
    wait_until(lambda: other.eval("pg:get_members(group)") == [pid])


def test_global_groups(start: Callable[..., BeamNode], start_node: Callable[..., Node]) -> None:
    alive = [f"g{secrets.token_hex(5)}" for _ in range(3)]
    names = [f"{name}@127.0.0.1" for name in alive]
    groups = f"[{{group, [{', '.join(repr(name) for name in names[:2])}]}}]"
    flags = ["-kernel", "global_groups", groups]
    one, other = (start(name, flags=flags) for name in alive[:2])
    node = start_node()
    connect(one, other, node)
    # The Python node is in no group, like any node without that configuration.
    assert in_time(one, "global_group:sync()") == "ok"
    assert in_time(one, "global:sync()") == "ok"
    wait_until(lambda: known(one) == {other.name})
    assert (
        in_time(one, "global:trans({x, self()}, fun() -> done end, [node() | nodes()])") == "done"
    )
    assert in_time(one, "element(1, hd(global_group:info()))") == "state"
    assert in_time(one, "global:register_name(x, self())") == "yes"


def test_what_no_server_of_global_would_send(
    start: Callable[..., BeamNode], start_node: Callable[..., Node], caplog: Any
) -> None:
    beam, node = start(), start_node()
    connect(beam, node)
    wait_for_cluster(beam, node)
    caplog.clear()
    beam.eval(
        "S = {global_name_server, N}, [S ! M || M <- [hi, {}, {lost_connection, 1, 2, 3, 4},"
        "{init_connect_ack, x, y, z}, {cancel_connect, x, y}, {remove_connection, nobody},"
        "{'DOWN', make_ref(), process, self(), x}, {'EXIT', self(), x}, {nodedown, N, x}]],"
        "[gen_server:cast(S, M) || M <- [hi, {init_connect, x, y, z}, "
        "{init_connect, {8, 1}, y, {}}, {init_connect, {8, 1}, nobody, {locker, a, b, self()}}, "
        "{exchange, x, [], [], 1}, {exchange, node(), [], [], 1}, {resolved, x, [], [], u, [], 1},"
        "{lock_set, self(), true, []}, {lock_set, self(), true, [], 1},"
        "{new_nodes, x, [x], [], [], []}]],"
        "exit(rpc:call(N, erlang, whereis, [global_name_server]), boo)",
        N=node.name,
    )
    error = beam.eval("gen_server:call({global_name_server, N}, hello)", N=node.name)
    assert error == (Atom("error"), Atom("badarg"))
    for request, answer in [
        ("known", [beam.name]),
        ("synced", [beam.name]),
        ("names_ext", []),
        ("protocol_version", 8),
    ]:
        source = f"gen_server:call({{global_name_server, N}}, get_{request})"
        assert beam.eval(source, N=node.name) == answer
    wait_for_cluster(beam, node)
    assert in_time(beam, "global:register_name(x, self())") == "yes"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
