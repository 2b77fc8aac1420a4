"""What OTP's tools ask of a node by ``rpc``: the shell, observer, etop, Elixir's, and probes."""

from __future__ import annotations

import logging
import os
import pty
import secrets
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from pynode import Atom, Node, __version__
from pynode.process import current_process
from pynode.testing import wait_until
from pynode.testing.runtimes import clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.terms import Pid
    from pynode.testing import BeamNode, Epmd, PynodeProcess

PATIENCE = 10.0
BADRPC, EXIT, UNDEF, BADARG = Atom("badrpc"), Atom("EXIT"), Atom("undef"), Atom("badarg")

#: Runs a function with its output going into a binary, as in a shell: `Fun() -> {Value, Output}`.
SINK = """
-module(sink).
-export([run/1, loop/1]).
run(Fun) ->
    Sink = spawn_link(?MODULE, loop, [[]]),
    Leader = group_leader(),
    group_leader(Sink, self()),
    Value = try Fun() catch Class:Reason -> {Class, Reason} end,
    group_leader(Leader, self()),
    Sink ! {done, self()},
    receive {Sink, Output} -> {Value, unicode:characters_to_binary(Output)} end.
loop(Output) ->
    receive
        {io_request, From, As, Request} ->
            {Reply, More} = reply(Request),
            From ! {io_reply, As, Reply},
            loop([Output, More]);
        {done, To} -> To ! {self(), Output}
    end.
reply({put_chars, _, Chars}) -> {ok, Chars};
reply({put_chars, _, M, F, A}) -> {ok, apply(M, F, A)};
reply({requests, Rs}) -> {ok, [element(2, reply(R)) || R <- Rs]};
reply({get_line, _, _}) -> {"c\\n", []};
reply({get_until, _, _, M, F, As}) -> {done, R, _} = apply(M, F, [[], "c\\n" | As]), {R, []};
reply(_) -> {{error, enotsup}, []}.
"""


@pytest.fixture
def node(epmd: Epmd, cookie: str) -> Iterator[Node]:
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        yield node


@pytest.fixture(scope="module")
def shell(any_beam: BeamNode) -> BeamNode:
    any_beam.load_module(SINK)
    return any_beam


def rpc(beam: BeamNode, node: Node, module: str, function: str, *args: Any) -> Any:
    source = "rpc:call(N, M, F, A, 10000)"
    bindings: dict[str, Any] = {"M": Atom(module), "F": Atom(function), "A": [*args]}
    return beam.eval(source, N=node.name, **bindings)


def fails_with(reason: str, answer: Any) -> bool:
    """Whether an answer is what `rpc` makes of a failed call, with that reason and a stack."""
    badrpc, (tag, (why, [entry])) = answer
    return bool((badrpc, tag, why, entry[3]) == (BADRPC, EXIT, reason, []))


@pytest.fixture
def quiet(node: Node, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing in the test makes this node log anything, but that others come and go."""
    caplog.set_level(logging.INFO)
    yield
    noise = [record for record in caplog.records if record.name != "pynode.node"]
    assert not noise


# --- Erlang's own functions


def test_processes(any_beam: BeamNode, node: Node, quiet: None) -> None:
    with node.process(name=f"p{secrets.token_hex(5)}") as process:
        name = Atom(process.name or "")
        assert process.pid in rpc(any_beam, node, "erlang", "processes")
        assert {name, "rex", "net_kernel"} <= {*rpc(any_beam, node, "erlang", "registered")}
        assert rpc(any_beam, node, "erlang", "whereis", name) == process.pid
        assert rpc(any_beam, node, "erlang", "whereis", Atom("nobody")) == "undefined"
        assert rpc(any_beam, node, "erlang", "is_process_alive", process.pid) is True
        assert rpc(any_beam, node, "erlang", "garbage_collect", process.pid) is True
        assert rpc(any_beam, node, "erlang", "unregister", name) is True
        assert rpc(any_beam, node, "erlang", "register", name, process.pid) is True
        assert fails_with("badarg", rpc(any_beam, node, "erlang", "register", name, process.pid))
        assert rpc(any_beam, node, "erlang", "send", name, [1]) == [1]
        assert rpc(any_beam, node, "erlang", "!", (name, node.name), [2]) == [2]
        assert rpc(any_beam, node, "erlang", "send", process.pid, [3]) == [3]
        assert [process.receive(timeout=PATIENCE) for _ in range(3)] == [[1], [2], [3]]
        process.trap_exit = True
        assert rpc(any_beam, node, "erlang", "exit", process.pid, Atom("why")) is True
        tag, sender, reason = process.receive(timeout=PATIENCE)
        assert (tag, sender.node, reason) == ("EXIT", node.name, "why")
    assert rpc(any_beam, node, "erlang", "is_process_alive", process.pid) is False
    assert rpc(any_beam, node, "erlang", "exit", process.pid, Atom("why")) is True
    assert rpc(any_beam, node, "erlang", "self").node == node.name


@pytest.mark.parametrize(
    ("function", "args"),
    [
        ("send", [Atom("nobody"), 1]),
        ("send", [5, 1]),
        ("whereis", ["a binary"]),
        ("whereis", [5]),
        ("unregister", [Atom("nobody")]),
        ("unregister", [[]]),
        ("register", ["a binary", 5]),
        ("register", [Atom("a"), 5]),
        ("exit", [5, Atom("why")]),
        ("process_info", [5]),
        ("process_info", [Atom("rex")]),
        ("is_process_alive", [Atom("rex")]),
        ("nodes", [Atom("no_such_kind")]),
        ("nodes", [5]),
        ("system_info", [Atom("otp_release")]),
        ("system_info", [5]),
    ],
)
def test_badarg(any_beam: BeamNode, node: Node, quiet: None, function: str, args: Any) -> None:
    answer = rpc(any_beam, node, "erlang", function, *args)
    assert fails_with("badarg", answer)
    assert answer[1][1][1] == [(Atom("erlang"), Atom(function), args, [])]


def test_process_info(any_beam: BeamNode, node: Node, quiet: None) -> None:
    other, watcher = any_beam.process(), any_beam.process()
    with node.process() as process:
        process.link(other.pid)
        process.monitor(other.pid)
        process.monitor(("kernel_sup", any_beam.name))
        watcher.eval("monitor(process, P), ok", P=process.pid)
        watcher.eval("P ! one, P ! two, rpc:call(node(P), erlang, node, [])", P=process.pid)
        info = rpc(any_beam, node, "erlang", "process_info", process.pid)
        assert info == [
            (Atom("current_function"), Atom("undefined")),
            (Atom("initial_call"), (Atom("pynode.process"), Atom("Process"), 0)),
            (Atom("status"), Atom("waiting")),
            (Atom("message_queue_len"), 2),
            (Atom("links"), [other.pid]),
            (Atom("dictionary"), []),
            (Atom("trap_exit"), False),
            (Atom("priority"), Atom("normal")),
            (Atom("group_leader"), process.pid),
            # What only a BEAM measures.
            *((Atom(f"{name}heap_size"), 0) for name in ("total_", "")),
            (Atom("stack_size"), 0),
            (Atom("reductions"), 0),
        ]

        def item(name: str) -> Any:
            found = rpc(any_beam, node, "erlang", "process_info", process.pid, Atom(name))
            return found if found == [] else found[1]

        assert item("registered_name") == []
        assert item("monitored_by") == [watcher.pid]
        assert sorted(item("monitors"), key=repr) == [
            (Atom("process"), (Atom("kernel_sup"), Atom(any_beam.name))),
            (Atom("process"), other.pid),
        ]
        node.register(f"p{secrets.token_hex(5)}", process)
        assert item("registered_name") == process.name
        label = (Atom("dictionary"), Atom("$process_label"))
        items = [Atom("links"), label, Atom("trap_exit")]
        found = rpc(any_beam, node, "erlang", "process_info", process.pid, items)
        assert found == [
            (Atom("links"), [other.pid]),
            (label, Atom("undefined")),
            (Atom("trap_exit"), False),
        ]
        assert rpc(any_beam, node, "erlang", "process_info", process.pid, []) == []
        for wrong in (Atom("backtrace"), [Atom("links"), 5], 5):
            answer = rpc(any_beam, node, "erlang", "process_info", process.pid, wrong)
            assert fails_with("badarg", answer)
    gone = rpc(any_beam, node, "erlang", "process_info", process.pid)
    assert gone == "undefined"
    # What is no process of this node's is none of its business, as on a BEAM.
    assert fails_with("badarg", rpc(any_beam, node, "erlang", "process_info", other.pid))


def test_process_info_of_every_process(any_beam: BeamNode, node: Node, quiet: None) -> None:
    def receive() -> None:
        process = current_process()
        assert process is not None
        process.receive()

    pid = node.spawn(receive)

    def info(pid: Pid) -> dict[str, Any]:
        return dict(rpc(any_beam, node, "erlang", "process_info", pid))

    wait_until(lambda: info(pid)["status"] == "waiting")
    assert info(pid)["initial_call"][0] == __name__
    infos = [info(pid) for pid in rpc(any_beam, node, "erlang", "processes")[:-1]]
    assert {"rex", "net_kernel"} <= {found.get("registered_name") for found in infos}
    # The process that answers is one, too, and runs.
    source = "rpc:call(N, erlang, apply, [fun erlang:process_info/1, [P]])"
    assert any_beam.eval(source, N=node.name, P=pid)
    node.exit(pid, Atom("kill"))


def test_the_node(any_beam: BeamNode, node: Node, quiet: None) -> None:
    assert rpc(any_beam, node, "erlang", "node") == node.name
    # A connection with a hidden node is a hidden one.
    assert rpc(any_beam, node, "erlang", "nodes") == []
    for kinds in (Atom("hidden"), Atom("connected"), [Atom("hidden"), Atom("visible")]):
        assert rpc(any_beam, node, "erlang", "nodes", kinds) == [any_beam.name]
    assert rpc(any_beam, node, "erlang", "nodes", Atom("this")) == [node.name]
    assert {*rpc(any_beam, node, "erlang", "nodes", Atom("known"))} == {node.name, any_beam.name}
    system_version = rpc(any_beam, node, "erlang", "system_info", Atom("system_version"))
    assert f"pynode {__version__}" in "".join(map(chr, system_version))
    for name in ("creation", "process_count", "wordsize", "logical_processors"):
        assert rpc(any_beam, node, "erlang", "system_info", Atom(name)) > 0
    assert rpc(any_beam, node, "erlang", "function_exported", Atom("m"), Atom("f"), 1) is False
    assert rpc(any_beam, node, "init", "get_status") == (Atom("started"), Atom("started"))
    assert rpc(any_beam, node, "net_adm", "ping", Atom(any_beam.name)) == "pong"
    assert rpc(any_beam, node, "net_adm", "ping", Atom("nobody@127.0.0.1")) == "pang"
    assert rpc(any_beam, node, "net_kernel", "connect_node", Atom(any_beam.name)) is True
    assert rpc(any_beam, node, "net_kernel", "connect_node", Atom("nobody@127.0.0.1")) is False
    assert rpc(any_beam, node, "Elixir.Node", "self") == node.name
    assert rpc(any_beam, node, "Elixir.Node", "list") == []
    pid = node.whereis("rex")
    assert rpc(any_beam, node, "Elixir.Process", "alive?", pid) is True


@pytest.mark.parametrize(
    ("module", "function", "args"),
    [
        ("init", "stop", []),
        ("init", "stop", [1]),
        ("init", "restart", []),
        ("erlang", "halt", []),
        ("erlang", "halt", [0]),
        ("erlang", "get_cookie", []),
        ("erlang", "set_cookie", [Atom("a@b"), Atom("c")]),
        ("global", "whereis_name", [Atom("a")]),
    ],
)
def test_what_is_refused(
    any_beam: BeamNode, node: Node, module: str, function: str, args: list[Any]
) -> None:
    assert fails_with("notsup", rpc(any_beam, node, module, function, *args))
    assert rpc(any_beam, node, "erlang", "node") == node.name


def test_a_refused_cast_is_told_of_in_one_line(
    any_beam: BeamNode, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    any_beam.eval("erpc:cast(N, init, stop, [])", N=node.name)
    wait_until(lambda: "init:stop was called and fails with notsup" in caplog.text)
    assert len(caplog.records) == 1


# --- spawning


def down(beam: BeamNode, node: Node, spawned: str) -> Any:
    source = f"{{P, R}} = {spawned}, receive {{'DOWN', R, _, P, W}} -> W after 10000 -> late end"
    return beam.eval(source, N=node.name)


def test_spawned_functions(any_beam: BeamNode, node: Node) -> None:
    assert down(any_beam, node, "spawn_monitor(N, math, sqrt, [16])") == "normal"
    assert down(any_beam, node, "spawn_monitor(N, erlang, apply, [math, sqrt, [16]])") == "normal"
    undef: Any = (UNDEF, [(Atom("lists"), Atom("sum"), [[]], [])])
    assert down(any_beam, node, "spawn_monitor(N, lists, sum, [[]])") == undef
    spawned = "begin S = proc_lib:spawn(N, time, sleep, [0.2]), {S, monitor(process, S)} end"
    assert down(any_beam, node, spawned) == "normal"
    spawned = "spawn_opt(N, time, sleep, [0], [monitor, {priority, high}, {min_heap_size, 10}])"
    assert down(any_beam, node, spawned) == "normal"
    linked = any_beam.eval(
        "process_flag(trap_exit, true), P = spawn_link(N, lists, sum, [[]]),"
        "receive {'EXIT', P, W} -> W after 10000 -> late end",
        N=node.name,
    )
    assert linked == undef


def test_a_spawned_fun_is_one_of_a_module(any_beam: BeamNode, node: Node) -> None:
    # An external fun of no arguments.
    assert down(any_beam, node, "spawn_monitor(N, fun time:time/0)") == "normal"
    caught = any_beam.eval("catch spawn_monitor(N, fun() -> ok end)", N=node.name)
    assert caught[1][0] == "notsup"
    reply = any_beam.eval(
        "R = spawn_request(N, fun() -> ok end), receive {spawn_reply, R, error, W} -> W end",
        N=node.name,
    )
    assert reply == "notsup"


# --- tools


def test_the_shell_lists_the_processes_of_all_nodes(
    shell: BeamNode, start_beam: Any, cookie: str
) -> None:
    beam = start_beam(runtime=shell.runtime)
    beam.load_module(SINK)
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    with Node(name, cookie=cookie, published=True) as node, node.process(name="in_the_list"):
        assert node.ping(beam.name)
        wait_until(lambda: beam.eval("nodes()") == [node.name])
        value, output = beam.eval("sink:run(fun() -> c:ni() end)")
        assert value == "ok"
        assert "in_the_list" in output
        assert "'pynode.otp.rex':'Rex'/0" in output or "pynode.otp.rex" in output
        value, output = beam.eval("sink:run(fun() -> c:nregs() end)")
        assert value == "ok"
        assert "in_the_list" in output
        # Modules cannot be sent to it, which hurts nobody.
        assert beam.eval("c:nl(lists)") in ("abcast", Atom("abcast"))
        assert beam.eval("rpc:call(N, erlang, node, [])", N=node.name) == node.name


#: What observer's windows, etop and ttb ask before they do anything else (their sources), and
#: the answers of a node on which the application runtime_tools is not there.
PROBES = [
    ("observer_backend", "sys_info", []),
    ("observer_backend", "vsn", []),
    ("observer_backend", "get_port_list", []),
    ("observer_backend", "get_socket_list", []),
    ("observer_backend", "socket_info", []),
    ("observer_backend", "get_table_list", [Atom("ets"), []]),
    ("observer_backend", "ttb_stop", [5]),
    ("appmon_info", "start_link2", [5, 6, []]),
    ("rb", "start", []),
    ("dbg", "get_info", []),
    ("cover", "remote_start", [Atom("a@b")]),
    ("lcnt", "rt_collect", []),
    ("ets", "info", [5, Atom("keypos")]),
    ("mnesia", "table_info", [Atom("t"), Atom("attributes")]),
    ("code", "all_loaded", []),
    ("gen_event", "which_handlers", [Atom("error_logger")]),
    ("sys", "get_status", [5, 200]),
    ("proc_lib", "translate_initial_call", [5]),
    ("dist_ac", "module_info", []),
    ("erlang", "memory", []),
    ("erlang", "statistics", [Atom("reductions")]),
    ("erlang", "trace_pattern", [1, 2, 3]),
    ("Elixir.IEx", "started?", []),
    ("Elixir.Phoenix.LiveDashboard.SystemInfo", "__info__", [Atom("module")]),
]


@pytest.mark.parametrize("way", ["call", "block_call"])
def test_probes(any_beam: BeamNode, node: Node, quiet: None, way: str) -> None:
    for module, function, args in PROBES:
        source = f"rpc:{way}(N, M, F, A, 10000)"
        bindings: dict[str, Any] = {"M": Atom(module), "F": Atom(function), "A": args}
        undef: Any = (UNDEF, [(Atom(module), Atom(function), args, [])])
        assert any_beam.eval(source, N=node.name, **bindings) == (BADRPC, (EXIT, undef))


def test_what_observer_does_when_a_node_is_chosen(
    any_beam: BeamNode, node: Node, quiet: None
) -> None:
    # Which applications run, whether it may ask for processes, and what this process is.
    assert rpc(any_beam, node, "application", "which_applications") == []
    loaded = rpc(any_beam, node, "code", "ensure_loaded", Atom("observer_backend"))
    assert loaded == (Atom("error"), Atom("nofile"))
    # As of observer_pro_wx: its collector is a process on the other node that it is linked with.
    reason = any_beam.eval(
        "process_flag(trap_exit, true),"
        "C = spawn_link(N, observer_backend, etop_collect, [self()]),"
        "receive {C, _} -> info; {'EXIT', C, {W, _}} -> W after 10000 -> late end",
        N=node.name,
    )
    assert reason == UNDEF


def compile_observer(beam: BeamNode, compiler: BeamNode, module: str) -> None:
    """Load a module of the application observer, from OTP's sources if need be."""
    if beam.eval("code:which(M)", M=Atom(module)) != "non_existing":
        return
    found = compiler.eval(
        'Lib = code:root_dir() ++ "/lib", Files = fun(F) -> filelib:wildcard(Lib ++ F) end,'
        'Include = Files("/{observer,runtime_tools}-*/include"),'
        "Options = [binary, {i, Lib} | [{i, Path} || Path <- Include]],"
        'case Files("/observer-*/src/" ++ Name) of'
        "    [Source | _] -> {ok, _, Beam} = compile:file(Source, Options), Beam;"
        "    [] -> none end",
        Name=_text(f"{module}.erl"),
    )
    if found == "none":
        pytest.skip("no observer was found: install erlang-observer, or erlang-src")
    beam.eval("{module, _} = code:load_binary(M, [], B), ok", M=Atom(module), B=found)


def test_etop_says_that_it_cannot(shell: BeamNode, beam: BeamNode, node: Node) -> None:
    compile_observer(shell, beam, "etop")
    value, _ = shell.eval(
        "sink:run(fun() -> etop:start([{node, N}, {output, text}]) end)", N=node.name
    )
    assert value == (Atom("exit"), _text("Faulty version of runtime_tools on remote node"))


def test_observer_falls_back(shell: BeamNode, beam: BeamNode, node: Node, quiet: None) -> None:
    compile_observer(shell, beam, "observer_wx")
    # The function that all of its windows ask with; it tells the window that there is no such node.
    told = shell.eval(
        "register(observer, self()), logger:set_primary_config(level, none),"
        "W = try observer_wx:try_rpc(N, observer_backend, sys_info, []) catch error:E -> E end,"
        "logger:set_primary_config(level, notice),"
        "receive {nodedown, N} -> {W, nodedown} after 10000 -> late end",
        N=node.name,
    )
    undef: Any = (UNDEF, [(Atom("observer_backend"), Atom("sys_info"), [], [])])
    assert told == ((BADRPC, (EXIT, undef)), Atom("nodedown"))
    assert shell.eval("rpc:call(N, erlang, node, [])", N=node.name) == node.name


def _text(value: str) -> list[int]:
    return list(map(ord, value))


def test_iex_tells_that_there_is_no_iex(start_pynode: Callable[..., PynodeProcess]) -> None:
    iex = shutil.which("iex")
    if iex is None:
        message = "no Elixir was found: `make setup` installs it where it can"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    python = start_pynode()
    name = f"iex{secrets.token_hex(5)}@127.0.0.1"
    # It wants a terminal.
    ours, theirs = pty.openpty()
    command = [iex, "--name", name, "--cookie", python.cookie, "--remsh", python.name]
    env = clean_environment() | {"TERM": "xterm"}
    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    )
    os.close(theirs)
    try:
        output = b""
        while b"Aborting..." not in output:
            output += os.read(ours, 4096)
        assert b"Could not find IEx on remote node" in output
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        os.close(ours)
    assert "Traceback" not in str(python.log)


# --- net_kernel, and what any node may send to the processes of another


def test_pings_from_elixir(elixir: BeamNode, node: Node, quiet: None) -> None:
    assert elixir.eval("'Elixir.Node':ping(N)", N=node.name) == "pong"
    assert elixir.eval("'Elixir.Node':connect(N)", N=node.name) is True
    assert elixir.eval("'Elixir.Node':monitor(N, true)", N=node.name) is True
    assert elixir.eval("rpc:call(N, 'Elixir.Node', self, [])", N=node.name) == node.name


def test_monitored_nodes(any_beam: BeamNode, epmd: Epmd, cookie: str) -> None:
    watcher = any_beam.process()
    with Node(f"py{secrets.token_hex(5)}@127.0.0.1", cookie=cookie) as node:
        watcher.eval(
            "net_kernel:monitor_nodes(true, [{node_type, all}]), pong = net_adm:ping(N),"
            "erlang:monitor_node(N, true), receive {nodeup, N, _} -> ok end",
            N=node.name,
        )
    for told in ("{nodedown, N}", "{nodedown, N, _}"):
        assert watcher.eval(f"receive {told} -> down end", N=node.name) == "down"
    watcher.exit()


def test_what_a_node_says_to_services_that_are_not_there(
    any_beam: BeamNode, node: Node, quiet: None
) -> None:
    # pg's scopes, the logger, mnesia and so on: a message to nobody is dropped, a call has noproc.
    any_beam.eval(
        "[{P, N} ! M || P <- [pg, logger, mnesia_locker, global_group, auth, user, kernel_sup,"
        " net_kernel, rex], M <- [{discover, self()}, {discover, self(), 1}, hello,"
        " {'$gen_cast', {conf_check, 3, node(), {self(), 1}, sync, g, []}}, {is_auth, node()}]]",
        N=node.name,
    )
    noproc = any_beam.eval(
        "try gen_server:call({global_group, N}, info) catch exit:{W, _} -> W end", N=node.name
    )
    assert noproc == "noproc"
    assert any_beam.eval("net_adm:ping(N)", N=node.name) == "pong"
