"""What `node_test.exs` finds on its Python node: GenServers, and functions to spawn."""

from __future__ import annotations

import threading

import pynode
from pynode import Atom, GenServer


class Counter(GenServer):
    """Counts, and fails on request."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def handle_call(self, request, from_):
        """Add, answer later, fail, or never answer."""
        match request:
            case ("add", int(number)):
                self.value += number
                return self.value
            case "later":
                threading.Timer(0.01, self.reply, (from_, "later")).start()
                return pynode.NoReply()
            case "fail":
                return 1 / 0
            case "never":
                return pynode.NoReply()

    def handle_cast(self, request):
        """Set the value."""
        self.value = request


def setup(node: pynode.Node) -> None:
    """Prepare the node."""
    node.add(Counter(), name="counter")


def fail(why):
    """Fail with a traceback."""
    raise RuntimeError(why)


def leave(reason):
    """Exit with a reason, as `exit/1` does."""
    raise pynode.ExitError("left on purpose", reason=reason)


def echo():
    """Send back what comes, until `stop` does."""
    process = pynode.current_process()
    while True:
        match process.receive():
            case (pynode.Pid() as sender, message):
                process.node.send(sender, (process.pid, message))
            case Atom("stop"):
                return


async def asynchronous(value):
    """Return a value, as a coroutine."""
    return value


def start(name):
    """Start one more counter under this name."""
    pynode.current_process().node.add(Counter(), name=name)
    return Atom("ok")
