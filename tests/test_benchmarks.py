from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import report
from benchmarks.contenders import MissingError, compile_peer
from pynode import etf
from pynode.protocol.channel import NEED_DATA, TICK, TICK_EVENT, Channel, Event, Message
from pynode.protocol.control import AliasSend, ControlMessage, DemonitorP, MonitorP, RegSend
from pynode.protocol.flags import DEFAULT
from pynode.terms import Atom, ImproperList, Pid, Reference
from pynode.testing.children import Child
from tests.conftest import require_old


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    figures = [(10.0, 20.0), (30.0, 10.0), (40.0, 50.0)]
    rounds: report.Rounds = [
        {("sqrt-1", "node"): (ours,), ("sqrt-1", "beam"): (theirs,)} for ours, theirs in figures
    ]
    node, beam = report.lines(rounds)
    assert (node.figure, node.ratio, node.low, node.high) == (30.0, 0.8, 0.5, 3.0)
    assert (beam.ratio, beam.low, beam.high) == (1.0, 1.0, 1.0)
    assert (node.met, beam.met) == (True, None)


def test_of_some_figures_more_is_better() -> None:
    rounds: report.Rounds = [
        {("sqrt-16", "node"): (174.0, 1.0), ("sqrt-16", "beam"): (100.0, 1.0)},
    ]
    assert [line.met for line in report.lines(rounds)] == [False, None, None, None]


def _frame(control: ControlMessage, *payload: object) -> bytes:
    terms = [etf.encode(term, version=False) for term in (control.to_term(), *payload)]
    body = b"".join((b"\x83D\0", *terms))
    return struct.pack(">I", len(body)) + body


def _next_event(channel: Channel, connection: socket.socket) -> Event:
    while (event := channel.next_event()) is NEED_DATA:
        data = connection.recv(4096)
        assert data, "it has gone"
        channel.receive_data(data)
    return event


def test_bare_answers_calls_and_ticks_and_nothing_else(tmp_path: Path) -> None:
    try:
        program = compile_peer("bare", str(tmp_path))
    except MissingError as error:
        pytest.skip(f"without {error}")
    call, alias, name, me = Atom("$gen_call"), Atom("alias"), Atom("snakebridge"), "bare@host"
    channel = Channel(DEFAULT)
    # Packets keep their bounds: what is sent in pieces is received in these pieces.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = Child([program, str(theirs.fileno()), me], env={}, pass_fds=(theirs.fileno(),))
        theirs.close()
        with child:
            ours.settimeout(10)
            for node, words in (
                ("a@h", 3),
                ("n" * 200 + "@host", 5),
                ("\u00e4" * 250 + "@host", 2),
            ):
                pid = Pid(Atom(node), 0xFFFF_FFFF, 0, 0xFFFF_FFFF)
                ref = Reference(Atom(node), 1, tuple(range(words)))
                tag = ImproperList((alias,), ref)
                to_name = RegSend(pid, name)
                wanted = _frame(to_name, (call, (pid, tag), list(range(1000))))
                others = [
                    _frame(MonitorP(pid, name, ref)),
                    _frame(to_name, (call, (pid, ref), "no alias")),
                    _frame(to_name, (call, (pid, tag))),
                    _frame(to_name, (Atom("$gen_cast"), (pid, tag), "no call")),
                    _frame(to_name, call),
                    _frame(DemonitorP(pid, name, ref)),
                    *(struct.pack(">I", end) + wanted[4 : 4 + end] for end in range(1, 60, 7)),
                ]
                stream = b"".join(others) + wanted + b"".join(others) + wanted + TICK
                for at in range(0, len(stream), 7):
                    ours.sendall(stream[at : at + 7])
                for _ in range(2):
                    event = _next_event(channel, ours)
                    assert isinstance(event, Message)
                    assert event.payload is not None
                    assert event.control == AliasSend(Pid(Atom(me), 1, 0, 1), ref)
                    assert etf.decode_at(event.payload, 0)[0] == (tag, (Atom("ok"), 4.0))
                assert _next_event(channel, ours) is TICK_EVENT
            ours.close()
            assert child.wait(10) == 0


@pytest.mark.slow
def test_the_command_measures_what_it_is_asked_for(tmp_path: Path) -> None:
    require_old()
    results, plot = tmp_path / "results.json", tmp_path / "plot.svg"
    choice = ["--cases", "sqrt-1,beside-sleep,start", "--contenders", "node,bare"]
    command = [sys.executable, "-m", "benchmarks.run", "--rounds", "1", "--seconds", "0.02"]
    done = subprocess.run(
        [*command, *choice, "--json", str(results), "--plot", str(plot)],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    assert {(line["case"], line["contender"]) for line in found} == {
        ("sqrt-1", "node"),
        ("sqrt-1", "beam"),
        ("beside-sleep", "node"),
        ("start", "node"),
    } | ({("sqrt-1", "bare")} if shutil.which("gcc") else set())
    assert all(line["figure"] > 0 for line in found)
    assert "math.sqrt(16), one caller: round trip" in done.stdout
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
