"""Writes the vectors of this folder: what real nodes send, as `tests.fuzz.vectors` reads it.

    python -m tests.fuzz.record_vectors

The Python side of each conversation has a fixed name, cookie and challenge, so the digests in the
vectors prove the cookie again and again. It is run by hand, when a new OTP has something new to
say; both runtimes and Elixir must be there.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pynode import etf
from pynode.dist.epmd import EpmdClient
from pynode.protocol import epmd as messages
from pynode.protocol.channel import NEED_DATA, Channel, Message
from pynode.protocol.control import (
    ControlMessage,
    Link,
    MonitorP,
    RegSend,
    SpawnRequest,
    UnlinkId,
)
from pynode.protocol.flags import DEFAULT, DFlag
from pynode.protocol.handshake import NEED_DATA as HANDSHAKE_NEEDS_DATA
from pynode.protocol.handshake import Established, Handshake, PeerName, Status, StatusAlive
from pynode.terms import Atom, Pid, Reference
from pynode.testing import BeamNode, Epmd, find_runtimes
from tests.fuzz.vectors import CHALLENGE, COOKIE, CREATION, FOLDER, PLAIN, US

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pynode.testing import Runtime

#: What a process of the node does to our process P, our node N and our alias A.
ACTIONS = {
    "send": 'P ! {hi, [1, 2, 3], <<"text">>}',
    "reg_send": "{net_kernel, N} ! {'$gen_call', {self(), make_ref()}, {is_auth, node()}}",
    "alias_send": "A ! {A, hi}",
    "monitor": "erlang:demonitor(monitor(process, P))",
    "monitor_name": "erlang:demonitor(monitor(process, {snakebridge, N}))",
    "unlink": "link(P), unlink(P)",
    "exit_link": "link(P), exit(boom)",
    "exit2": "exit(P, {boom, [1]})",
    "group_leader": "group_leader(self(), P)",
    "spawn_request": "spawn_request(N, m, f, [a], [monitor, link])",
    "erpc": "catch erpc:call(N, math, sqrt, [16], 1)",
    "send_traced": "seq_trace:set_token(label, 17), P ! hi, {rex, N} ! hi, A ! hi",
    "exit_traced": "seq_trace:set_token(label, 17), link(P), exit(boom)",
    "rex_call": "catch gen_server:call({rex, N}, {call, m, f, [a], self()}, 1)",
    "rex_block_call": "catch gen_server:call({rex, N}, {block_call, m, f, [a], self()}, 1)",
    "rex_cast": "gen_server:cast({rex, N}, {cast, m, f, [a], self()})",
    "rex_sbcast": "{rex, N} ! {self(), {sbcast, snakebridge, {hi, 1}}}",
    "rex_features": "{rex, N} ! {self(), features_request}",
    "sys_get_state": "catch sys:get_state({snakebridge, N}, 1)",
    "global_set_lock": "catch gen_server:call({global_name_server, N}, {set_lock, {a, self()}}, 1)",
    "global_del_lock": "catch gen_server:call({global_name_server, N}, {del_lock, {a, self()}}, 1)",
    "global_register": "catch gen_server:call({global_name_server, N},"
    " {register, a, self(), {global, random_exit_name}}, 1)",
    "global_init_connect": "gen_server:cast({global_name_server, N},"
    " {init_connect, {8, {erlang:now(), node()}}, node(), {locker, no_longer_a_pid, [], self()}})",
    "global_exchange": "gen_server:cast({global_name_server, N},"
    " {exchange, node(), [{a, self(), m}], [], {erlang:now(), node()}})",
    "global_resolved": "gen_server:cast({global_name_server, N},"
    " {resolved, node(), [{insert, {a, self(), m}}, {delete, b}], [{a, self(), m}], [N], [],"
    " {erlang:now(), node()}})",
    "global_del_name": "gen_server:cast({global_name_server, N}, {async_del_name, a, self()})",
    "spawn_traced": "seq_trace:set_token(label, 17), spawn_request(N, m, f, [a], [])",
}
#: What is sent in its oldest form to a peer that can do little.
OLD_ACTIONS = {
    "old_send": "P ! hi",
    "old_send_traced": "seq_trace:set_token(label, 17), P ! hi",
    "old_exit": "link(P), exit(boom)",
    "old_exit2": "exit(P, boom)",
    "old_exit_traced": "seq_trace:set_token(label, 17), link(P), exit(boom)",
}
OLD = PLAIN & ~(DFlag.EXIT_PAYLOAD | DFlag.SEND_SENDER | DFlag.ALIAS | DFlag.SPAWN)
LARGE = 'P ! binary:copy(<<"abc">>, 50000)'
PRIORITY = {
    "prio_alias": "erlang:send(A, hi, [priority])",
    "prio_exit": "exit(A, boom, [priority])",
}
OBJECT = (
    "#{'__struct__' => 'Elixir.SnakeBridge.Ref', id => R, session_id => <<\"s\">>, schema => 1}"
)
REQUESTS = {
    "call": '{call, <<"math">>, <<"sqrt">>, [16], #{}}',
    "call_options": '{call, <<"m">>, f, [], #{<<"k">> => 1}, #{session_id => <<"s">>}}',
    "call_ref": f'{{call, <<"operator">>, <<"add">>, [{OBJECT}, [{OBJECT}]], #{{}}}}',
    "call_fun": '{call, <<"builtins">>, <<"map">>, [fun(X) -> {R, X} end, fun lists:sum/1], #{}}',
    "get": '{get, <<"math">>, <<"pi">>}',
    "method": f'{{method, {OBJECT}, <<"append">>, [1], #{{}}}}',
    "getattr": f'{{getattr, {OBJECT}, <<"a.b">>}}',
    "setattr": f'{{setattr, {OBJECT}, <<"a">>, nil}}',
    "next": f"{{next, {OBJECT}, 100}}",
    "put": "{put, #{1 => 1.0, 1.0 => true}}",
    "release": f"{{release, [{OBJECT}, R]}}",
    "open_session": '{open_session, <<"s">>, P, #{max_refs => 10, tags => #{a => b}}}',
    "give_session": '{give_session, <<"s">>, P, P}',
    "release_session": '{release_session, <<"s">>}',
    "sessions": "sessions",
    "session": "{session, P}",
    "refs": '{refs, <<"s">>}',
    "info": "info",
    "cancel": "{cancel, P}",
    "unknown": "{unknown, 1 bsl 100, [a | b], <<1:3>>}",
}
STRUCTS = {
    "map_set": 'MapSet.new([1, :a, "b", {1, 2}])',
    "map_set_of_sets": "MapSet.new([MapSet.new([1]), MapSet.new()])",
    "map_set_mixed": "MapSet.new([1, 1.0, [2]])",
    "range": "1..10//3",
    "date": "~D[2026-11-21]",
    "time": "~T[23:59:59.123456]",
    "naive_datetime": "~N[2026-11-21 12:00:00]",
    "utc": "~U[2026-11-21 12:00:00.5Z]",
    "datetime": '%{~U[2026-07-01 12:00:00Z] | time_zone: "Europe/Paris", zone_abbr: "CEST",'
    " utc_offset: 3600, std_offset: 3600}",
    "offset": '%{~U[2026-07-01 12:00:00Z] | time_zone: "Etc/GMT-5", zone_abbr: "+05",'
    " utc_offset: 18000}",
    "decimal": "%{__struct__: Decimal, sign: -1, coef: 150, exp: -2}",
    "decimal_inf": "%{__struct__: Decimal, sign: -1, coef: :inf, exp: 0}",
    "bytes": '%{__struct__: SnakeBridge.Bytes, data: "abc"}',
    "ref": '%{__struct__: SnakeBridge.Ref, id: make_ref(), session_id: "s", schema: 1}',
    "user": '%{__struct__: MyApp.User, name: "x", tags: [:a]}',
    "keyword": "[a: 1, b: %{nil => true}]",
    "error": '%RuntimeError{message: "boo"}',
}


class Recorder:
    """Runs the conversations with one node; `lines` are what came of them."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.lines: list[str] = []

    def add(self, target: str, name: str, data: bytes) -> None:
        squeezed = zlib.compress(data, 9)
        text = "z" + squeezed.hex() if len(squeezed) < len(data) // 2 else data.hex()
        self.lines.append(f"{target} {name} {text}")

    def record(self) -> None:
        with (
            Epmd(runtime=self.runtime) as epmd,
            BeamNode("beam", cookie=COOKIE, runtime=self.runtime, epmd=epmd) as beam,
        ):
            self.record_epmd(epmd)
            self.record_initiator(beam, epmd)
            self.record_acceptor(beam, epmd)
            for form, flags in (("fragments", DEFAULT), ("plain", PLAIN)):
                self.record_stream(beam, epmd, form, flags, ACTIONS | {"large": LARGE})
                self.record_answers(beam, epmd, form, flags)
            self.record_stream(beam, epmd, "plain", OLD, OLD_ACTIONS)
            if self.runtime.release >= 28:
                flags = DEFAULT | DFlag.ALTACT_SIG
                self.record_stream(beam, epmd, "fragments", flags, PRIORITY)
            self.record_requests(beam, epmd)
        self.record_epmd_requests()

    # --- EPMD

    def record_epmd(self, epmd: Epmd) -> None:
        with raw(epmd.port, messages.Alive2Req(4711, "py").encode()) as sock:
            self.add("epmd", "alive2_resp", sock.recv(4096))
            for name, request in (
                ("port2_resp", messages.PortPlease2Req("py")),
                ("port2_resp_unknown", messages.PortPlease2Req("nobody")),
                ("names_resp", messages.NamesReq()),
            ):
                with raw(epmd.port, request.encode()) as other:
                    self.add("epmd", name, read_all(other))

    def record_epmd_requests(self) -> None:
        """Be an EPMD, and note what a node asks of it."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            kept: list[socket.socket] = []

            def serve(name: str, answer: bytes) -> None:
                sock, _ = listener.accept()
                self.add("epmd", name, sock.recv(4096))
                sock.sendall(answer)
                kept.append(sock)
                if name != "alive2_req":
                    sock.close()

            first = background(serve, "alive2_req", messages.Alive2Resp(0, 7).encode())
            port = listener.getsockname()[1]
            with BeamNode("beam", cookie=COOKIE, runtime=self.runtime, epmd=port) as beam:
                first.join()
                for name, source, answer in (
                    ("port_please2_req", 'erl_epmd:port_please("py", "127.0.0.1")', b"w\1"),
                    ("names_req", "erl_epmd:names({127, 0, 0, 1})", b"\0\0\x11\x11"),
                ):
                    thread = background(serve, name, answer)
                    beam.eval(f"catch {source}")
                    thread.join()
            for sock in kept:
                sock.close()

    # --- the handshake

    def record_initiator(self, beam: BeamNode, epmd: Epmd) -> None:
        port = epmd.names()["beam"]
        with converse(port, initiator(beam.name)) as (received, _, _):
            self.add("handshake", "initiator_ok", received)
            with converse(port, initiator(beam.name)) as (again, _, _):
                self.add("handshake", "initiator_alive", again)
        with converse(port, initiator(beam.name, dynamic=True)) as (received, _, _):
            self.add("handshake", "initiator_named", received)

    def record_acceptor(self, beam: BeamNode, epmd: Epmd) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            held = EpmdClient(port=epmd.port).register("py", port)
            for status in ("ok", "ok_simultaneous", "alive"):
                attempt = beam.start_eval("net_kernel:connect_node(N)", N=Atom(US))
                sock, _ = listener.accept()
                handshake = Handshake.acceptor(US, COOKIE, DEFAULT, CREATION, challenge=CHALLENGE)
                received, _ = shake_hands(sock, handshake, status)
                self.add("handshake", f"acceptor_{status}", received)
                sock.sendall(handshake.data_to_send())
                attempt.result(10)
                sock.close()
                beam.eval("erlang:disconnect_node(N)", N=Atom(US))
            held.close()

    # --- the connection

    def record_stream(
        self, beam: BeamNode, epmd: Epmd, form: str, flags: DFlag, actions: dict[str, str]
    ) -> None:
        for name, source in actions.items():
            with converse(epmd.names()["beam"], initiator(beam.name, flags)) as (_, sock, rest):
                evaluate(beam, source)
                self.add(f"channel_{form}", name, rest + end_of_stream(beam, sock))

    def record_answers(self, beam: BeamNode, epmd: Epmd, form: str, flags: DFlag) -> None:
        """Note what a node answers to signals of ours."""
        me, reference = Pid(Atom(US), 1, 0, CREATION), Reference(Atom(US), CREATION, (1, 2, 3))
        process = beam.process()
        mfa = (Atom("erlang"), Atom("exit"), 1)
        signals: dict[str, list[tuple[ControlMessage, list[Any]]]] = {
            "unlink_ack": [(Link(me, process.pid), []), (UnlinkId(1, me, process.pid), [])],
            "noproc": [(MonitorP(me, Atom("nobody"), reference), [])],
            "spawn_reply": [(SpawnRequest(reference, me, me, mfa, [Atom("monitor")]), [["x"]])],
        }
        for name, messages_ in signals.items():
            with converse(epmd.names()["beam"], initiator(beam.name, flags)) as (_, sock, rest):
                for control, payload in messages_:
                    head = b"\x83D\0" if flags & DFlag.FRAGMENTS else b"p\x83"
                    frame = head + etf.encode(control.to_term())[1:]
                    if payload:
                        whole = etf.encode(payload[0])
                        frame += whole[1:] if flags & DFlag.FRAGMENTS else whole
                    sock.sendall(len(frame).to_bytes(4) + frame)
                received = rest + sock.recv(4096)
                self.add(f"channel_{form}", name, received + end_of_stream(beam, sock))
        process.exit()

    def record_requests(self, beam: BeamNode, epmd: Epmd) -> None:
        """Note what a caller of each request says: the payloads alone."""
        for name, request in REQUESTS.items():
            with converse(epmd.names()["beam"], initiator(beam.name)) as (_, sock, rest):
                call = f"R = make_ref(), catch gen_server:call({{snakebridge, N}}, {request}, 1)"
                evaluate(beam, call)
                channel = Channel(DEFAULT)
                channel.receive_data(rest + end_of_stream(beam, sock))
                while (event := channel.next_event()) is not NEED_DATA:
                    if isinstance(event, Message) and isinstance(event.control, RegSend):
                        assert event.payload is not None
                        self.add("bridge", name, bytes(event.payload))


def evaluate(beam: BeamNode, source: str) -> None:
    """Run `source` in a process of its own, which ends with it."""
    beam.eval(
        f"{{_, Ref}} = spawn_monitor(fun() -> {source} end),"
        "receive {'DOWN', Ref, _, _, _} -> ok end",
        P=Pid(Atom(US), 1, 0, CREATION),
        N=Atom(US),
        A=Reference(Atom(US), CREATION, (1, 2, 3)),
    )


def end_of_stream(beam: BeamNode, sock: socket.socket) -> bytes:
    """Have the node close the connection and return all that it sent before."""
    beam.eval("erlang:disconnect_node(N)", N=Atom(US))
    return read_all(sock)


def initiator(peer: str, flags: DFlag = DEFAULT, *, dynamic: bool = False) -> Handshake:
    name = US.partition("@")[2] if dynamic else US
    flags |= DFlag.NAME_ME if dynamic else DFlag(0)
    return Handshake.initiator(name, peer, COOKIE, flags, CREATION, challenge=CHALLENGE)


@contextmanager
def converse(port: int, handshake: Handshake) -> Iterator[tuple[bytes, socket.socket, bytes]]:
    """Connect; yield what the peer said in the handshake, the socket, and what came after it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        received, rest = shake_hands(sock, handshake)
        yield received, sock, rest


def shake_hands(
    sock: socket.socket, handshake: Handshake, status: Status = "ok"
) -> tuple[bytes, bytes]:
    received = b""
    sock.settimeout(10)
    while True:
        event = handshake.next_event()
        if isinstance(event, Established):
            rest = handshake.trailing_data
            return received[: len(received) - len(rest)], rest
        sock.sendall(handshake.data_to_send())
        if event is HANDSHAKE_NEEDS_DATA:
            data = sock.recv(4096)
            received += data
            handshake.receive_data(data)
        elif isinstance(event, PeerName):
            handshake.send_status(status)
        elif isinstance(event, StatusAlive):
            handshake.answer_alive(go_on=True)


@contextmanager
def raw(port: int, request: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(request)
        yield sock


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def background(function: Callable[..., Any], *args: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def structs() -> list[str]:
    """Return the lines for what Elixir's standard library makes."""
    source = "".join(
        f'IO.puts("values {name} " <> Base.encode16(binary_part(:erlang.term_to_binary(({value})),'
        " 1, byte_size(:erlang.term_to_binary(("
        f"{value}))) - 1), case: :lower))\n"
        for name, value in STRUCTS.items()
    )
    with tempfile.NamedTemporaryFile("w", suffix=".exs", encoding="utf-8") as script:
        script.write(source)
        script.flush()
        done = subprocess.run(["elixir", script.name], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def main() -> None:
    for runtime in find_runtimes():
        recorder = Recorder(runtime)
        recorder.record()
        lines = [f"# What OTP {runtime.release} sends, by record_vectors.py", *recorder.lines]
        write(f"vectors-otp{runtime.release}.txt", lines)
    write("vectors-elixir.txt", ["# What Elixir makes, by record_vectors.py", *structs()])


def write(name: str, lines: list[str]) -> None:
    Path(FOLDER, name).write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
