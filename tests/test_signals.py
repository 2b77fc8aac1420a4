"""Signals byte for byte: a peer that sends what a BEAM might, in whatever order."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from pynode import Atom, ExitError, Node, Pid, Process, Reference, calls
from pynode.dist.epmd import EpmdClient
from pynode.etf import decode_at, encode
from pynode.protocol import control as cm
from pynode.protocol.channel import NEED_DATA, Channel, Message
from pynode.protocol.flags import DEFAULT, DFlag
from pynode.protocol.handshake import NEED_DATA as HANDSHAKE_NEEDS_DATA
from pynode.protocol.handshake import Established, Handshake
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 10.0
CREATION = 4_000_000_000
EXIT = Atom("EXIT")
NORMAL, BOOM, NOPROC = Atom("normal"), Atom("boom"), Atom("noproc")
#: As old as may be.
OLD = DEFAULT & ~(DFlag.EXIT_PAYLOAD | DFlag.FRAGMENTS)


class Peer:
    """The other end of a connection, by hand."""

    def __init__(self, node: Node, cookie: str, flags: DFlag = DEFAULT) -> None:
        self.name = Atom("peer@127.0.0.1")
        port = EpmdClient().lookup(node.name.partition("@")[0])
        self.socket = socket.create_connection(("127.0.0.1", port or 0), PATIENCE)
        handshake = Handshake.initiator(self.name, node.name, cookie, flags, CREATION)
        while not isinstance(event := handshake.next_event(), Established):
            assert event is HANDSHAKE_NEEDS_DATA
            self.socket.sendall(handshake.data_to_send())
            handshake.receive_data(self.socket.recv(4096))
        self.socket.sendall(handshake.data_to_send())
        self.channel = Channel(event.flags)
        self.channel.receive_data(handshake.trailing_data)
        self.pid = self.new_pid(1)
        self.references = 0

    def new_pid(self, number: int) -> Pid:
        return Pid(self.name, number, 0, CREATION)

    def reference(self) -> Reference:
        self.references += 1
        return Reference(self.name, CREATION, (self.references, 0, 0))

    def send(self, *controls: cm.ControlMessage, payload: Any = None) -> None:
        """Send control messages in one piece, so that they arrive together."""
        data = b""
        for control in controls:
            encoded = None if payload is None else encode(payload, version=False)
            frame = self.channel.encode(control, encoded)
            assert isinstance(frame, bytes)
            data += frame
        self.socket.sendall(data)

    def receive(self) -> Any:
        """Return the next control message; with its payload, if it has one."""
        while True:
            event = self.channel.next_event()
            if event is NEED_DATA:
                data = self.socket.recv(65536)
                assert data, "the node has closed the connection"
                self.channel.receive_data(data)
            elif isinstance(event, Message):
                if event.payload is None:
                    return event.control
                return event.control, decode_at(event.payload, 0)[0]

    def expect_nothing(self, node: Node) -> None:
        """Check that the node has sent nothing else, nor will because of what it was sent."""
        marker = self.reference()
        self.send(cm.MonitorP(self.pid, Atom("nobody"), marker))
        control, _ = self.receive()
        assert control == cm.PayloadMonitorPExit(Atom("nobody"), self.pid, marker)


@pytest.fixture
def node(start_node: Callable[..., Node]) -> Node:
    return start_node()


@pytest.fixture
def peer(node: Node, cookie: str) -> Iterator[Peer]:
    peer = Peer(node, cookie)
    with peer.socket:
        yield peer


@pytest.fixture
def process(node: Node) -> Iterator[Process]:
    with node.process() as process:
        process.trap_exit = True
        yield process


def link_between(peer: Peer, process: Process) -> None:
    process.link(peer.pid)
    assert peer.receive() == cm.Link(process.pid, peer.pid)


# --- links: erl_dist_protocol, "Link Protocol"


def test_a_link_from_here(peer: Peer, process: Process) -> None:
    link_between(peer, process)
    process.exit(BOOM)
    assert peer.receive() == (cm.PayloadExit(process.pid, peer.pid), BOOM)


def test_a_link_from_there(peer: Peer, process: Process) -> None:
    peer.send(cm.Link(peer.pid, process.pid))
    wait_until(lambda: peer.pid in process._links)
    process.exit(BOOM)
    assert peer.receive() == (cm.PayloadExit(process.pid, peer.pid), BOOM)


def test_exit_signals_in_their_old_form(node: Node, cookie: str) -> None:
    peer = Peer(node, cookie, OLD)
    with peer.socket, node.process() as process:
        process.trap_exit = True
        process.link(peer.pid)
        assert peer.receive() == cm.Link(process.pid, peer.pid)
        peer.send(cm.Exit(peer.pid, process.pid, BOOM))
        assert process.receive(timeout=PATIENCE) == (EXIT, peer.pid, BOOM)
        peer.send(cm.Exit2(peer.pid, process.pid, ("please",)))
        assert process.receive(timeout=PATIENCE) == (EXIT, peer.pid, ("please",))
        reference = peer.reference()
        peer.send(cm.Link(peer.pid, process.pid), cm.MonitorP(peer.pid, process.pid, reference))
        wait_until(lambda: process._links and process._watchers)
        process.exit(("any", 1))
        assert {peer.receive(), peer.receive()} == {
            cm.MonitorPExit(process.pid, peer.pid, reference, ("any", 1)),
            cm.Exit(process.pid, peer.pid, ("any", 1)),
        }


def test_a_link_to_nobody_is_answered(node: Node, peer: Peer) -> None:
    dead = node.process()
    dead.exit()
    peer.send(cm.Link(peer.pid, dead.pid))
    assert peer.receive() == (cm.PayloadExit(dead.pid, peer.pid), NOPROC)


def test_a_link_that_exists_already_is_ignored(node: Node, peer: Peer, process: Process) -> None:
    link_between(peer, process)
    peer.send(cm.Link(peer.pid, process.pid))
    peer.send(cm.PayloadExit(peer.pid, process.pid), payload=BOOM)
    assert process.receive(timeout=PATIENCE) == (EXIT, peer.pid, BOOM)
    process.exit()
    peer.expect_nothing(node)


def test_unlink_from_here(node: Node, peer: Peer, process: Process) -> None:
    link_between(peer, process)
    process.unlink(peer.pid)
    unlink = peer.receive()
    assert unlink == cm.UnlinkId(unlink.id, process.pid, peer.pid)
    assert unlink.id > 0
    peer.send(cm.UnlinkIdAck(unlink.id, peer.pid, process.pid))
    wait_until(lambda: not process._links)
    connection = node.connection(peer.name)
    assert connection is not None
    assert not connection.links
    process.unlink(peer.pid)
    process.exit(BOOM)
    peer.expect_nothing(node)


def test_unlink_from_there(node: Node, peer: Peer, process: Process) -> None:
    link_between(peer, process)
    peer.send(cm.UnlinkId(17, peer.pid, process.pid))
    assert peer.receive() == cm.UnlinkIdAck(17, process.pid, peer.pid)
    assert not process._links
    process.exit(BOOM)
    peer.expect_nothing(node)


def test_an_unlink_of_what_is_not_linked_or_dead_is_acknowledged(
    node: Node, peer: Peer, process: Process
) -> None:
    peer.send(cm.UnlinkId(1, peer.pid, process.pid))
    assert peer.receive() == cm.UnlinkIdAck(1, process.pid, peer.pid)
    process.exit()
    peer.send(cm.UnlinkId(2, peer.pid, process.pid))
    assert peer.receive() == cm.UnlinkIdAck(2, process.pid, peer.pid)


def test_an_exit_that_crosses_an_unlink_does_nothing(peer: Peer, process: Process) -> None:
    link_between(peer, process)
    process.unlink(peer.pid)
    unlink = peer.receive()
    # The process there has exited before it heard of it. What is dead acknowledges as well.
    peer.send(cm.PayloadExit(peer.pid, process.pid), payload=BOOM)
    peer.send(cm.UnlinkIdAck(unlink.id, peer.pid, process.pid))
    peer.send(cm.SendSender(peer.pid, process.pid), payload="nothing else")
    assert process.receive(timeout=PATIENCE) == "nothing else"
    assert not process._links


def test_a_link_that_crosses_an_unlink_does_not_link(
    node: Node, peer: Peer, process: Process
) -> None:
    link_between(peer, process)
    process.unlink(peer.pid)
    unlink = peer.receive()
    # Sent before the UNLINK_ID arrived there, by a process that had undone the link, too.
    peer.send(
        cm.UnlinkId(5, peer.pid, process.pid),
        cm.Link(peer.pid, process.pid),
        cm.UnlinkIdAck(unlink.id, peer.pid, process.pid),
    )
    assert peer.receive() == cm.UnlinkIdAck(5, process.pid, peer.pid)
    wait_until(lambda: not process._links)
    process.exit(BOOM)
    peer.expect_nothing(node)


def test_an_ack_with_another_id_is_ignored(peer: Peer, process: Process) -> None:
    link_between(peer, process)
    process.unlink(peer.pid)
    first = peer.receive().id
    process.link(peer.pid)
    assert peer.receive() == cm.Link(process.pid, peer.pid)
    # Of the unlink that is over: the link is active again.
    peer.send(cm.UnlinkIdAck(first, peer.pid, process.pid))
    process.unlink(peer.pid)
    second = peer.receive().id
    assert second != first
    peer.send(cm.UnlinkIdAck(first, peer.pid, process.pid))
    peer.send(cm.SendSender(peer.pid, process.pid), payload="after")
    assert process.receive(timeout=PATIENCE) == "after"
    assert process._links
    peer.send(cm.UnlinkIdAck(second, peer.pid, process.pid))
    wait_until(lambda: not process._links)


def test_linked_again_before_the_ack(peer: Peer, process: Process) -> None:
    link_between(peer, process)
    process.unlink(peer.pid)
    unlink = peer.receive()
    process.link(peer.pid)
    assert peer.receive() == cm.Link(process.pid, peer.pid)
    peer.send(cm.UnlinkIdAck(unlink.id, peer.pid, process.pid))
    peer.send(cm.PayloadExit(peer.pid, process.pid), payload=BOOM)
    assert process.receive(timeout=PATIENCE) == (EXIT, peer.pid, BOOM)


def test_nothing_overtakes_an_ack(peer: Peer, process: Process) -> None:
    for turn in range(200):
        process.link(peer.pid)
        assert peer.receive() == cm.Link(process.pid, peer.pid)
        peer.send(cm.UnlinkId(turn + 1, peer.pid, process.pid))
        # As soon as the process sees that it is not linked any more, it links itself again.
        while process._links:
            pass
        process.link(peer.pid)
        assert peer.receive() == cm.UnlinkIdAck(turn + 1, process.pid, peer.pid)
        assert peer.receive() == cm.Link(process.pid, peer.pid)
        process.unlink(peer.pid)
        unlink = peer.receive()
        peer.send(cm.UnlinkIdAck(unlink.id, peer.pid, process.pid))
        wait_until(lambda: not process._links)


def test_an_exit_from_whom_it_is_not_linked_to_is_ignored(peer: Peer, process: Process) -> None:
    peer.send(cm.PayloadExit(peer.pid, process.pid), payload=BOOM)
    peer.send(cm.SendSender(peer.pid, process.pid), payload="nothing")
    assert process.receive(timeout=PATIENCE) == "nothing"
    link_between(peer, process)
    peer.send(cm.PayloadExit(peer.new_pid(2), process.pid), payload=BOOM)
    peer.send(cm.SendSender(peer.pid, process.pid), payload="nothing")
    assert process.receive(timeout=PATIENCE) == "nothing"


def test_the_end_of_the_connection_breaks_links_that_are_not_undone(
    node: Node, peer: Peer, process: Process
) -> None:
    link_between(peer, process)
    other = peer.new_pid(2)
    process.link(other)
    process.unlink(other)
    peer.socket.close()
    assert process.receive(timeout=PATIENCE) == (EXIT, peer.pid, Atom("noconnection"))
    wait_until(lambda: not process._links)
    node.send(process.pid, "nothing else")
    assert process.receive(timeout=PATIENCE) == "nothing else"


# --- monitors


def test_monitors_from_there(node: Node, peer: Peer) -> None:
    with node.process(name="target") as process:
        by_pid, by_name, gone = peer.reference(), peer.reference(), peer.reference()
        peer.send(
            cm.MonitorP(peer.pid, process.pid, by_pid),
            cm.MonitorP(peer.pid, Atom("target"), by_name),
            cm.MonitorP(peer.pid, process.pid, gone),
            cm.DemonitorP(peer.pid, process.pid, gone),
            # Not known any more, or never.
            cm.DemonitorP(peer.pid, process.pid, gone),
            cm.DemonitorP(peer.pid, Atom("nobody"), peer.reference()),
        )
        peer.expect_nothing(node)
    assert {peer.receive(), peer.receive()} == {
        (cm.PayloadMonitorPExit(process.pid, peer.pid, by_pid), NORMAL),
        (cm.PayloadMonitorPExit(Atom("target"), peer.pid, by_name), NORMAL),
    }
    peer.expect_nothing(node)
    connection = node.connection(peer.name)
    assert connection is not None
    assert not connection.monitors


def test_a_down_that_comes_twice_counts_once(peer: Peer, process: Process) -> None:
    reference = process.monitor(peer.pid)
    assert peer.receive() == cm.MonitorP(process.pid, peer.pid, reference)
    down = cm.PayloadMonitorPExit(peer.pid, process.pid, reference)
    peer.send(down, down, payload=BOOM)
    peer.send(cm.SendSender(peer.pid, process.pid), payload="nothing else")
    assert process.receive(timeout=PATIENCE)[4] == BOOM
    assert process.receive(timeout=PATIENCE) == "nothing else"


def test_a_down_that_crosses_a_demonitor_is_dropped(peer: Peer, process: Process) -> None:
    reference = process.monitor(peer.pid)
    peer.receive()
    assert process.demonitor(reference)
    assert peer.receive() == cm.DemonitorP(process.pid, peer.pid, reference)
    peer.send(cm.PayloadMonitorPExit(peer.pid, process.pid, reference), payload=BOOM)
    peer.send(cm.SendSender(peer.pid, process.pid), payload="nothing else")
    assert process.receive(timeout=PATIENCE) == "nothing else"


# --- spawning


def spawn_request(peer: Peer, mfa: tuple[str, str, int], *opts: Any) -> cm.SpawnRequest:
    module, function, arity = mfa
    return cm.SpawnRequest(
        peer.reference(), peer.pid, peer.pid, (Atom(module), Atom(function), arity), list(opts)
    )


def test_the_reply_goes_ahead_of_all_else(peer: Peer) -> None:
    link, monitor = Atom("link"), Atom("monitor")
    for _ in range(50):
        request = spawn_request(peer, ("math", "sqrt", 1), link, monitor)
        peer.send(request, payload=[4])
        reply = peer.receive()
        assert reply == cm.SpawnReply(
            request.req_id, peer.pid, cm.SPAWN_LINK | cm.SPAWN_MONITOR, reply.result
        )
        assert {peer.receive(), peer.receive()} == {
            (cm.PayloadMonitorPExit(reply.result, peer.pid, request.req_id), NORMAL),
            (cm.PayloadExit(reply.result, peer.pid), NORMAL),
        }


def test_a_monitor_of_a_spawn_can_be_removed(node: Node, peer: Peer) -> None:
    request = spawn_request(peer, ("time", "sleep", 1), Atom("monitor"))
    peer.send(request, payload=[100])
    reply = peer.receive()
    peer.send(cm.DemonitorP(peer.pid, reply.result, request.req_id))
    peer.send(cm.PayloadExit2(peer.pid, reply.result), payload=Atom("kill"))
    wait_until(lambda: node.signals.find(reply.result) is None)
    peer.expect_nothing(node)


def test_the_group_leader_can_be_changed(node: Node, peer: Peer, process: Process) -> None:
    leader = peer.new_pid(7)
    peer.send(cm.GroupLeader(leader, process.pid))
    wait_until(lambda: process.group_leader == leader)
    peer.send(cm.GroupLeader(leader, peer.new_pid(8)))  # not ours: ignored
    peer.expect_nothing(node)


def test_a_request_to_spawn_that_was_given_up_leaves_no_monitor(node: Node, peer: Peer) -> None:
    request = node.erpc_request(peer.name, "timer", "sleep", [1])
    sent, _ = peer.receive()
    request.abandon()
    assert node.signals._abandoned
    spawned = peer.new_pid(9)
    peer.send(cm.SpawnReply(sent.req_id, sent.from_pid, cm.SPAWN_MONITOR, spawned))
    assert peer.receive() == cm.DemonitorP(sent.from_pid, spawned, sent.req_id)
    assert not node.signals._abandoned
    # Refused in the meantime, or lost with the connection: nothing is left either.
    request = node.erpc_request(peer.name, "timer", "sleep", [1])
    sent, _ = peer.receive()
    request.abandon()
    peer.send(cm.SpawnReply(sent.req_id, sent.from_pid, 0, Atom("notsup")))
    wait_until(lambda: not node.signals._abandoned)
    request = node.erpc_request(peer.name, "timer", "sleep", [1])
    request.abandon()
    peer.socket.close()
    wait_until(lambda: not node.signals._abandoned)
    assert not node.signals._monitors


def test_a_spawn_with_a_link_to_a_process_that_exits_meanwhile(node: Node, peer: Peer) -> None:
    with node.process() as process:
        connection = node.ready(peer.name)
        request = calls.spawn_at(node, connection, "m", "f", [], link=True)
        sent, _ = peer.receive()
        assert sent.opts == [Atom("link")]
    spawned = peer.new_pid(9)
    peer.send(cm.SpawnReply(sent.req_id, sent.from_pid, cm.SPAWN_LINK, spawned))
    assert peer.receive() == (cm.PayloadExit(process.pid, spawned), NOPROC)
    assert request.result(PATIENCE) == spawned


# --- answers


def test_an_answer_that_nobody_waits_for_is_dropped(node: Node, peer: Peer) -> None:
    request = node.send_request(("server", peer.name), "question")
    monitor = peer.receive()
    _, (_, (_, tag), _) = peer.receive()
    request.abandon()
    assert peer.receive() == cm.DemonitorP(monitor.from_pid, Atom("server"), monitor.ref)
    alias = monitor.ref
    assert tag.tail == alias
    peer.send(cm.AliasSend(peer.pid, alias), payload=(tag, "too late"))
    peer.send(cm.PayloadMonitorPExit(Atom("server"), monitor.from_pid, alias), payload=BOOM)
    peer.expect_nothing(node)
    with pytest.raises(TimeoutError, match="given up"):
        request.result()


@pytest.mark.parametrize("answer", ["no tuple", (1,), (1, 2, 3)])
def test_what_is_no_answer_is_ignored(node: Node, peer: Peer, answer: Any) -> None:
    request = node.send_request(("server", peer.name), "question")
    alias = peer.receive().ref
    _, (_, (_, tag), _) = peer.receive()
    peer.send(cm.AliasSend(peer.pid, alias), payload=answer)
    peer.send(cm.AliasSend(peer.pid, alias), payload=(tag, "answer"))
    assert request.result(PATIENCE) == "answer"


def test_the_answer_comes_once(node: Node, peer: Peer) -> None:
    request = node.send_request(("server", peer.name), "question")
    alias = peer.receive().ref
    _, (_, (_, tag), _) = peer.receive()
    peer.send(cm.AliasSend(peer.pid, alias), payload=(tag, "first"))
    peer.send(cm.AliasSend(peer.pid, alias), payload=(tag, "second"))
    peer.send(cm.PayloadMonitorPExit(Atom("server"), peer.pid, alias), payload=BOOM)
    assert request.result(PATIENCE) == "first"
    assert request.result() == "first"


def test_the_end_of_the_connection_ends_requests(node: Node, peer: Peer) -> None:
    requests = [
        node.send_request(("server", peer.name), 1),
        node.erpc_request(peer.name, "m", "f", []),
    ]
    peer.receive()
    peer.socket.close()
    for request in requests:
        with pytest.raises(ExitError, match="no connection"):
            request.result(PATIENCE)
    assert not node.signals._monitors
    assert not node.signals.aliases


def test_an_erpc_that_is_lost_as_it_is_spawned(
    node: Node, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reply to the request is being handled as another thread finds the connection lost.
    peer = Peer(node, cookie)
    with peer.socket:
        request = node.erpc_request(peer.name, "m", "f", [])
        sent, _ = peer.receive()
        connection = node.ready(peer.name)
        monitors = node.signals._monitors

        class Slow(dict[Any, Any]):
            def pop(self, key: Any, *default: Any) -> Any:
                monitor = super().pop(key, *default)
                if key == sent.req_id and monitor is not None and monitor.target is None:
                    connection.close("now")
                return monitor

        monkeypatch.setattr(node.signals, "_monitors", Slow(monitors))
        peer.send(cm.SpawnReply(sent.req_id, sent.from_pid, cm.SPAWN_MONITOR, peer.new_pid(9)))
        with pytest.raises(ExitError, match="no connection"):
            request.result(PATIENCE)
        assert not node.signals._monitors
