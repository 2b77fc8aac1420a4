"""Connections with real nodes: that they accept what we send, and what it is that they send."""

from __future__ import annotations

import secrets
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest

from pynode import etf
from pynode.protocol.channel import NEED_DATA, Channel, Message
from pynode.protocol.control import (
    ALTACT_ALIAS,
    ALTACT_EXIT,
    ALTACT_NAME,
    ALTACT_PRIO,
    ALTACT_TOKEN,
    SPAWN_MONITOR,
    AliasSend,
    AliasSendTT,
    AltactSigSend,
    ControlMessage,
    DemonitorP,
    Exit,
    Exit2,
    ExitTT,
    GroupLeader,
    Link,
    MonitorP,
    MonitorPExit,
    PayloadExit,
    PayloadExit2,
    PayloadExitTT,
    PayloadMonitorPExit,
    RegSend,
    RegSendTT,
    Send,
    SendSender,
    SendSenderTT,
    SendTT,
    SpawnReply,
    SpawnRequest,
    SpawnRequestTT,
    UnlinkId,
    UnlinkIdAck,
)
from pynode.protocol.epmd import Alive2Req
from pynode.protocol.flags import DEFAULT, DFlag
from pynode.protocol.handshake import NEED_DATA as HANDSHAKE_NEEDS_DATA
from pynode.protocol.handshake import Established, Handshake, PeerName
from pynode.terms import Atom, Pid, Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pynode.testing import BeamNode, BeamProcess, Epmd

CREATION = 4_000_000_000
PLAIN = DEFAULT & ~DFlag.FRAGMENTS
#: As little as may be: everything is sent in its oldest form.
OLD = PLAIN & ~(DFlag.EXIT_PAYLOAD | DFlag.SEND_SENDER | DFlag.ALIAS | DFlag.SPAWN)

forms = pytest.mark.parametrize("flags", [DEFAULT, PLAIN], ids=["fragments", "plain"])


class Peer:
    """The Python side of an established connection."""

    def __init__(self, sock: socket.socket, name: str, established: Established) -> None:
        self.name = Atom(name)
        self.node = Atom(established.peer)
        self.flags = established.flags
        self.channel = Channel(established.flags)
        self.received = bytearray()
        self._socket = sock

    def pid(self, number: int) -> Pid:
        return Pid(self.name, number, 0, CREATION)

    def reference(self, number: int) -> Reference:
        return Reference(self.name, CREATION, (number, 2, 3))

    def encode(self, control: ControlMessage, *payload: object) -> list[bytes]:
        encoded = etf.encode(payload[0], version=False) if payload else None
        data = self.channel.encode(control, encoded)
        return [data] if isinstance(data, bytes) else [b"".join(frame) for frame in data]

    def send(self, control: ControlMessage, *payload: object) -> None:
        self._socket.sendall(b"".join(self.encode(control, *payload)))

    def write(self, frames: list[bytes]) -> None:
        self._socket.sendall(b"".join(frames))

    def receive(self) -> Any:
        """Return the next control message, with its decoded payload if it has one."""
        while True:
            event = self.channel.next_event()
            if event is NEED_DATA:
                buffer = self.channel.get_buffer()
                size = self._socket.recv_into(buffer)
                assert size, "the node has closed the connection"
                self.received += buffer[:size]
                self.channel.buffer_updated(size)
            elif isinstance(event, Message):
                if event.payload is None:
                    return event.control
                value, end = etf.decode_at(event.payload, 0)
                assert end == len(event.payload)
                return event.control, value

    def take_frames(self) -> list[bytes]:
        """Return the frames received since, other than ticks, without their lengths."""
        frames = []
        while len(self.received) >= 4:
            (length,) = struct.unpack_from(">I", self.received)
            if len(self.received) < 4 + length:
                break
            if length:
                frames.append(bytes(self.received[4 : 4 + length]))
            del self.received[: 4 + length]
        return frames

    def take_tags(self) -> list[int]:
        """Return what the frames received since began with: 112, 68, 69 or 70."""
        return [frame[1] if frame[0] == 131 else frame[0] for frame in self.take_frames()]

    def take_controls(self) -> list[Any]:
        """Return the control messages received since, as they were sent."""
        starts = {b"p": 2, b"D": 3, b"E": 19}
        return [
            etf.decode_at(frame, start)[0]
            for frame in self.take_frames()
            if (start := starts.get(frame[:2].removeprefix(b"\x83")[:1]))
        ]


@contextmanager
def connected(beam: BeamNode, flags: DFlag) -> Iterator[Peer]:
    """Connect to `beam`, which is asked for its port."""
    port = beam.eval(
        "[Name, Host] = string:lexemes(atom_to_list(node()), [$@]),"
        "{port, Port, _} = erl_epmd:port_please(Name, Host), Port"
    )
    name = f"py{secrets.token_hex(5)}@127.0.0.1"
    handshake = Handshake.initiator(name, beam.name, beam.cookie, flags, CREATION)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        yield establish(sock, handshake, name)


def establish(sock: socket.socket, handshake: Handshake, name: str) -> Peer:
    """Run the handshake and return the connection."""
    while True:
        event = handshake.next_event()
        sock.sendall(handshake.data_to_send())
        if event is HANDSHAKE_NEEDS_DATA:
            handshake.receive_data(sock.recv(4096))
        elif isinstance(event, PeerName):
            handshake.send_status("ok")
        else:
            assert isinstance(event, Established)
            peer = Peer(sock, name, event)
            peer.channel.receive_data(handshake.trailing_data)
            peer.received += handshake.trailing_data
            return peer


@contextmanager
def running(beam: BeamNode) -> Iterator[BeamProcess]:
    """Start a process of the node that evaluates what we ask it to."""
    process = beam.process()
    try:
        yield process
    finally:
        process.exit()


@pytest.fixture
def echo(any_beam: BeamNode) -> Iterator[tuple[Pid, Atom]]:
    """A process that answers {From, Term} with {self(), Term}, and its name."""
    name = Atom(f"echo{secrets.token_hex(5)}")
    pid = any_beam.eval(
        "Echo = fun Loop() -> receive {From, Term} -> From ! {self(), Term}, Loop() end end,"
        "Pid = spawn(Echo), register(Name, Pid), Pid",
        Name=name,
    )
    yield pid, name
    any_beam.eval("exit(Pid, kill)", Pid=pid)


BIG = bytes(range(256)) * 20_000  # 5 MB.


@forms
def test_messages_small_and_large_both_ways(
    any_beam: BeamNode, flags: DFlag, echo: tuple[Pid, Atom]
) -> None:
    pid, name = echo
    with connected(any_beam, flags) as peer:
        one, two = peer.pid(1), peer.pid(2)
        peer.send(RegSend(one, name), (one, ["small", None, {1: 2.5}]))
        answer = (pid, ["small", None, {1: 2.5}])
        assert peer.receive() == (SendSender(pid, one), answer)
        assert peer.take_tags() == ([68] if flags & DFlag.FRAGMENTS else [112])

        peer.send(SendSender(one, pid), (one, BIG))
        assert peer.receive() == (SendSender(pid, one), (pid, BIG))
        fragments = peer.take_tags()
        if flags & DFlag.FRAGMENTS:
            assert fragments[0] == 69
            assert set(fragments[1:]) == {70}
            assert len(fragments) >= len(BIG) // 65_536
        else:
            assert fragments == [112]

        # Between the fragments of a large message small ones find their way.
        large = peer.encode(SendSender(one, pid), (one, BIG))
        small = peer.encode(RegSend(two, name), (two, "small"))
        also_large = peer.encode(SendSender(two, pid), (two, BIG[1:]))
        if flags & DFlag.FRAGMENTS:
            peer.write(large[:40])
            peer.write(small)
            assert peer.receive() == (SendSender(pid, two), (pid, "small"))
            peer.write([also_large[0], *large[40:], *also_large[1:]])
        else:
            peer.write(large + small + also_large)
            large.clear()
        received = [peer.receive(), peer.receive()]
        assert (SendSender(pid, one), (pid, BIG)) in received
        if not flags & DFlag.FRAGMENTS:
            received.append(peer.receive())
            assert (SendSender(pid, two), (pid, "small")) in received
        assert (SendSender(pid, two), (pid, BIG[1:])) in received


@forms
def test_processes_of_the_node_send_at_the_same_time(any_beam: BeamNode, flags: DFlag) -> None:
    with connected(any_beam, flags) as peer:
        any_beam.eval(
            "[spawn(fun() -> To ! {large, N, binary:copy(<<N>>, 3_000_000)} end)"
            " || N <- lists:seq(1, 5)],"
            "spawn(fun() -> [To ! {small, N, <<>>} || N <- lists:seq(1, 200)] end)",
            To=peer.pid(1),
        )
        small, large = [], set()
        for _ in range(205):
            _, (kind, number, content) = peer.receive()
            if kind == "small":
                small.append(number)
            else:
                assert bytes(content, "latin-1") == bytes([number]) * 3_000_000
                large.add(number)
        assert small == list(range(1, 201))
        assert large == {1, 2, 3, 4, 5}


# What a process of the node does to our process P, our node N or our alias A, and what comes of it
# here. ANY is what the node chooses: its pid, a reference, a token.
Actions = list[tuple[str, list[Any]]]
TOKEN = "seq_trace:set_token(label, 17),"


def actions_arrive(peer: Peer, beam: BeamNode, actions: Actions) -> None:
    for source, messages in actions:
        beam.eval(
            f"{{_, Ref}} = spawn_monitor(fun() -> {source} end),"
            "receive {'DOWN', Ref, _, _, _} -> ok end",
            P=peer.pid(1),
            N=peer.name,
            A=peer.reference(1),
        )
        assert [peer.receive() for _ in messages] == messages


@forms
def test_what_the_node_sends(any_beam: BeamNode, flags: DFlag) -> None:
    with connected(any_beam, flags) as peer:
        p, a = peer.pid(1), peer.reference(1)
        rex, nil = Atom("rex"), Atom("nil")
        mfa = (Atom("m"), Atom("f"), 1)
        actions: Actions = [
            ("P ! hi", [(SendSender(ANY, p), "hi")]),
            ("{rex, N} ! hi", [(RegSend(ANY, rex), "hi")]),
            ("A ! hi", [(AliasSend(ANY, a), "hi")]),
            (
                "erlang:demonitor(monitor(process, P))",
                [MonitorP(ANY, p, ANY), DemonitorP(ANY, p, ANY)],
            ),
            (
                "erlang:demonitor(monitor(process, {nil, N}))",
                [MonitorP(ANY, nil, ANY), DemonitorP(ANY, nil, ANY)],
            ),
            ("link(P), unlink(P)", [Link(ANY, p), UnlinkId(ANY, ANY, p)]),
            ("link(P), exit(boom)", [Link(ANY, p), (PayloadExit(ANY, p), "boom")]),
            ("exit(P, boom)", [(PayloadExit2(ANY, p), "boom")]),
            ("group_leader(self(), P)", [GroupLeader(ANY, p)]),
            (
                "spawn_request(N, m, f, [a], [monitor])",
                [(SpawnRequest(ANY, ANY, ANY, mfa, ["monitor"]), ["a"])],
            ),
            (f"{TOKEN} P ! hi", [(SendSenderTT(ANY, p, ANY), "hi")]),
            (f"{TOKEN} {{rex, N}} ! hi", [(RegSendTT(ANY, rex, ANY), "hi")]),
            (f"{TOKEN} A ! hi", [(AliasSendTT(ANY, a, ANY), "hi")]),
            (f"{TOKEN} link(P), exit(x)", [Link(ANY, p), (PayloadExitTT(ANY, p, ANY), "x")]),
            (
                f"{TOKEN} spawn_request(N, m, f, [a], [])",
                [(SpawnRequestTT(ANY, ANY, ANY, mfa, [], ANY), ["a"])],
            ),
        ]
        actions_arrive(peer, any_beam, actions)


def test_what_the_node_sends_to_a_peer_that_can_do_little(any_beam: BeamNode) -> None:
    with connected(any_beam, OLD) as peer:
        p = peer.pid(1)
        actions: Actions = [
            ("P ! hi", [(Send(p), "hi")]),
            ("exit(P, boom)", [Exit2(ANY, p, "boom")]),
            ("link(P), exit(boom)", [Link(ANY, p), Exit(ANY, p, "boom")]),
            (f"{TOKEN} P ! hi", [(SendTT(p, ANY), "hi")]),
            (f"{TOKEN} link(P), exit(x)", [Link(ANY, p), ExitTT(ANY, p, ANY, "x")]),
        ]
        actions_arrive(peer, any_beam, actions)


def test_alternative_signals_of_otp_28(beam28: BeamNode) -> None:
    with connected(beam28, DEFAULT) as peer, running(beam28) as process:
        assert DFlag.ALTACT_SIG in peer.flags
        me, p, a = peer.pid(1), peer.pid(1), peer.reference(1)
        actions: Actions = [
            ("A ! hi", [(AliasSend(ANY, a), "hi")]),
            ("A ! binary:copy(<<255>>, 200000)", [(AliasSend(ANY, a), b"\xff" * 200_000)]),
            ("erlang:send(A, hi, [priority])", [(AliasSend(ANY, a), "hi")]),
            ("exit(P, boom)", [(PayloadExit2(ANY, p), "boom")]),
            ("erlang:send(P, hi, [priority])", [(SendSender(ANY, p), "hi")]),
            ("erlang:send({rex, N}, hi, [priority])", [(RegSend(ANY, Atom("rex")), "hi")]),
            ("exit(P, boom, [priority])", [(PayloadExit2(ANY, p), "boom")]),
            (f"{TOKEN} A ! hi", [(AliasSendTT(ANY, a, ANY), "hi")]),
            (
                "exit(A, boom, [priority])",
                [(AltactSigSend(ALTACT_ALIAS | ALTACT_PRIO | ALTACT_EXIT, ANY, a), "boom")],
            ),
        ]
        actions_arrive(peer, beam28, actions)
        # As they were sent; only exit/2 without priority is no alternative to anything.
        controls = [control for control in peer.take_controls() if control[0] != 26]
        assert {control[0] for control in controls} == {37}
        assert [control[1] for control in controls] == [
            ALTACT_ALIAS,
            ALTACT_ALIAS,
            ALTACT_ALIAS | ALTACT_PRIO,
            ALTACT_PRIO,
            ALTACT_NAME | ALTACT_PRIO,
            ALTACT_EXIT | ALTACT_PRIO,
            ALTACT_ALIAS | ALTACT_TOKEN,
            ALTACT_ALIAS | ALTACT_EXIT | ALTACT_PRIO,
        ]

        # What we send to an alias goes in this form, too.
        alias = process.eval("alias()")
        in_new_form = peer.encode(AltactSigSend(ALTACT_ALIAS, me, alias), 1)
        assert peer.encode(AliasSend(me, alias), 1) == in_new_form
        peer.send(AliasSend(me, alias), "late?")
        assert process.eval("receive Message -> Message end") == "late?"
        peer.send(AliasSend(me, alias), BIG)
        assert process.eval("receive Message -> byte_size(Message) end") == len(BIG)
        process.eval("unalias(A)", A=alias)
        peer.send(AliasSend(me, alias), "late")

        process.eval("register(Name, self())", Name=peer.name)
        for message, payload in (
            (AltactSigSend(ALTACT_ALIAS, me, process.eval("alias()")), "to the alias"),
            (AltactSigSend(0, me, process.pid), "to the pid"),
            (AltactSigSend(ALTACT_NAME | ALTACT_PRIO, me, peer.name), "to the name"),
        ):
            peer.send(message, payload)
            assert process.eval("receive Message -> Message end") == payload


@forms
def test_what_the_node_accepts(any_beam: BeamNode, flags: DFlag) -> None:
    with connected(any_beam, flags) as peer, running(any_beam) as process:
        me, pid, ref = peer.pid(1), process.pid, peer.reference(1)

        process.eval("register(Name, self())", Name=peer.name)
        messages: list[ControlMessage] = [
            Send(pid),
            SendSender(me, pid),
            RegSend(me, peer.name),
            AliasSend(me, process.eval("alias()")),
        ]
        for message in messages:
            peer.send(message, message.NAME)
            assert process.eval("receive Message -> Message end") == message.NAME

        peer.send(MonitorP(me, Atom("nobody"), ref))
        assert peer.receive() == (PayloadMonitorPExit(Atom("nobody"), me, ref), "noproc")
        peer.send(MonitorP(me, pid, ref))
        peer.send(DemonitorP(me, pid, ref))
        peer.send(MonitorP(me, peer.name, peer.reference(2)))
        monitor = process.eval("monitor(process, P)", P=me)
        assert peer.receive() == MonitorP(pid, me, monitor)
        peer.send(PayloadMonitorPExit(me, pid, monitor), Atom("bye"))
        down = process.eval("receive Down -> Down end")
        assert down == ("DOWN", monitor, "process", me, "bye")

        peer.send(Link(me, pid))
        peer.send(UnlinkId(2**64 - 1, me, pid))
        assert peer.receive() == UnlinkIdAck(2**64 - 1, pid, me)
        process.eval("process_flag(trap_exit, true), link(P), unlink(P)", P=me)
        assert peer.receive() == Link(pid, me)
        unlink = peer.receive()
        assert unlink == UnlinkId(unlink.id, pid, me)
        peer.send(UnlinkIdAck(unlink.id, me, pid))
        peer.send(Link(me, pid))
        peer.send(PayloadExit(me, pid), Atom("link"))
        assert process.eval("receive Exit -> Exit end") == ("EXIT", me, "link")
        peer.send(PayloadExit2(me, pid), Atom("exit"))
        assert process.eval("receive Exit2 -> Exit2 end") == ("EXIT", me, "exit")

        spawn = SpawnRequest(ref, me, me, (Atom("erlang"), Atom("exit"), 1), [Atom("monitor")])
        peer.send(spawn, [Atom("done")])
        reply = peer.receive()
        assert reply == SpawnReply(ref, me, SPAWN_MONITOR, reply.result)
        assert peer.receive() == (PayloadMonitorPExit(reply.result, me, ref), "done")
        peer.send(spawn._replace(opts=[Atom("nonsense")]), [])
        assert peer.receive() == SpawnReply(ref, me, 0, Atom("badopt"))
        request = process.eval("spawn_request(N, m, f, [], [])", N=peer.name)
        assert peer.receive()[0].req_id == request
        peer.send(SpawnReply(request, pid, 0, peer.pid(2)))
        spawned = process.eval("receive Spawned -> Spawned end")
        assert spawned == ("spawn_reply", request, "ok", peer.pid(2))

        peer.send(GroupLeader(me, pid))
        peer.send(Send(pid), None)
        assert process.eval("receive nil -> group_leader() end") == me

        process.exit(Atom("kill"))
        assert peer.receive() == (
            PayloadMonitorPExit(peer.name, me, peer.reference(2)),
            Atom("killed"),
        )


def test_what_the_node_accepts_of_a_peer_that_can_do_little(any_beam: BeamNode) -> None:
    with connected(any_beam, OLD) as peer, running(any_beam) as process:
        me, pid, ref = peer.pid(1), process.pid, peer.reference(1)
        process.eval("process_flag(trap_exit, true)")
        peer.send(Link(me, pid))
        peer.send(Exit(me, pid, Atom("link")))
        assert process.eval("receive Exit -> Exit end") == ("EXIT", me, "link")
        peer.send(Exit2(me, pid, Atom("exit")))
        assert process.eval("receive Exit2 -> Exit2 end") == ("EXIT", me, "exit")
        monitor = process.eval("monitor(process, {rex, N})", N=peer.name)
        assert peer.receive() == MonitorP(pid, Atom("rex"), monitor)
        peer.send(MonitorPExit(Atom("rex"), pid, monitor, Atom("noproc")))
        down = process.eval("receive Down -> Down end")
        assert down == ("DOWN", monitor, "process", ("rex", peer.name), "noproc")
        peer.send(MonitorP(me, Atom("nobody"), ref))
        assert peer.receive() == MonitorPExit(Atom("nobody"), me, ref, Atom("noproc"))


@forms
def test_a_node_that_connects_has_messages_waiting(
    any_beam: BeamNode, epmd: Epmd, flags: DFlag
) -> None:
    """What it encoded before the handshake comes as SEND and in one frame, whatever was agreed."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as registration:
        server.settimeout(20)
        name = f"py{secrets.token_hex(5)}"
        registration.settimeout(20)
        registration.connect(("127.0.0.1", epmd.port))
        registration.sendall(Alive2Req(server.getsockname()[1], name).encode())
        assert registration.recv(6)[:2] == b"v\0"
        name += "@127.0.0.1"
        to = Pid(Atom(name), 1, 0, CREATION)
        done = any_beam.start_eval("P ! Big, link(P), P ! small", P=to, Big=BIG)
        sock, _ = server.accept()
        with sock:
            sock.settimeout(20)
            handshake = Handshake.acceptor(name, any_beam.cookie, flags, CREATION)
            peer = establish(sock, handshake, name)
            assert peer.receive() == (Send(to), BIG)
            assert peer.take_tags()[:1] == ([68] if flags & DFlag.FRAGMENTS else [112])
            assert peer.receive() == Link(ANY, to)
            assert peer.receive() in [(Send(to), "small"), (SendSender(ANY, to), "small")]
            assert done.result(20) == "small"
