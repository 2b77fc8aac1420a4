"""Hosts, and the cables between them."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from pynode.testing import Network, children, why_no_network
from pynode.testing.children import Child

ECHO = """
import socket
with socket.create_server(("10.0.0.2", 5000)) as listener:
    print("listening", flush=True)
    sock, _ = listener.accept()
    with sock:
        while data := sock.recv(100):
            sock.sendall(data)
"""
#: Says which of the answers to its questions came within 0.3 seconds; those that are late count.
ASK = """
import socket, sys
with socket.create_connection(("10.0.0.2", 5000)) as sock:
    sock.settimeout(float(sys.argv[1]))
    for question in ("a", "b"):
        sock.sendall(question.encode())
        try:
            print(question, sock.recv(1).decode(), flush=True)
        except TimeoutError:
            print(question, "nothing", flush=True)
            sock.settimeout(30)
            print("late", sock.recv(1).decode(), flush=True)
        if question == "a":
            sys.stdin.readline()
"""


def test_cutting_and_restoring(network: Network) -> None:
    env = dict(os.environ)
    with Child([*network.other.prefix, sys.executable, "-c", ECHO], env=env) as echo:
        echo.stdout.wait_for("listening")
        with subprocess.Popen(
            [*network.one.prefix, sys.executable, "-c", ASK, "0.3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as ask:
            assert ask.stdin is not None
            assert ask.stdout is not None
            assert ask.stdout.readline() == "a a\n"
            network.cut()
            ask.stdin.write("\n")
            ask.stdin.flush()
            assert ask.stdout.readline() == "b nothing\n"
            network.restore()
            # The connection is the same, and nothing is lost.
            assert ask.stdout.readline() == "late b\n"
            ask.stdin.close()
        assert echo.wait(10) == 0


#: Says of each host whether a connection to it is refused, which takes a host, or nothing happens.
KNOCK = """
import socket, sys
for address in sys.argv[1:]:
    with socket.socket() as sock:
        sock.settimeout(0.3)
        try:
            sock.connect((address, 5000))
        except OSError as error:
            print(type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("network")  # It skips where there can be none.
def test_a_cut_is_between_two_hosts_alone() -> None:
    with Network(4) as network:
        addresses = [host.address for host in network.hosts]

        def reached() -> list[set[int]]:
            """The hosts that each host reaches."""
            answers = [
                host.run(sys.executable, "-c", KNOCK, *addresses).split() for host in network.hosts
            ]
            there = "ConnectionRefusedError"
            return [{n for n, answer in enumerate(of) if answer == there} for of in answers]

        everyone = {0, 1, 2, 3}
        assert reached() == [everyone] * 4
        network.cut(network.hosts[1], network.hosts[3])
        assert reached() == [everyone, {0, 1, 2}, everyone, {0, 2, 3}]
        network.restore(network.hosts[3], network.hosts[1])
        assert reached() == [everyone] * 4


def test_hosts_are_apart(network: Network) -> None:
    assert network.one.address in network.one.run("ip", "address")
    assert network.other.address not in network.one.run("ip", "address")
    assert "UP" in network.one.run("ip", "-brief", "link", "show", "lo")
    with pytest.raises(subprocess.CalledProcessError):
        network.one.run("false")
    assert repr(network.one) == "<Host 10.0.0.1>"


def test_nothing_is_left_of_them(network: Network) -> None:
    pids = [host.os_pid for host in network.hosts]
    assert all(map(psutil.pid_exists, pids))
    network.close()
    network.close()
    assert not any(map(psutil.pid_exists, pids))
    assert children.reaper_pid() not in pids


def test_without_the_programs_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    reason = why_no_network()
    assert reason is not None
    assert "unshare" in reason or "Linux" in reason


def test_without_the_rights_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert "root" in str(why_no_network()) or sys.platform != "linux"
