"""``rex``: the server behind OTP's ``rpc``, as far as that does not use `erpc` instead.

Nodes of today have `rpc:block_call/4` and `rpc:sbcast/3` done by it, and C-nodes all their calls.
For anything else they spawn a process at once (`pynode.otp.spawn`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pynode import gen
from pynode.destination import Destination
from pynode.otp.apply import outcome
from pynode.otp.erlang import atom_name
from pynode.otp.spawn import Applied, Called
from pynode.process import NORMAL
from pynode.protocol import control as cm
from pynode.show import short
from pynode.terms import Atom, Pid
from pynode.values import encode

if TYPE_CHECKING:
    from pynode.dist.connection import Connection
    from pynode.dist.task import Task
    from pynode.process import Spawned

log = logging.getLogger(__name__)

_REX, _ERPC = Atom("rex"), Atom("erpc")
_BADRPC, _EXIT = Atom("badrpc"), Atom("EXIT")
_FEATURES_REPLY, _NONEXISTING_NAME = Atom("features_reply"), Atom("nonexisting_name")


class _Call(Called):
    """The process of a call, which sends its value to who has asked for it.

    That is the caller and the tag of a GenServer's call, or, as C-nodes do it, a pid alone.
    """

    def __init__(
        self, rex: Rex, connection: Connection, to: Any, mfa: tuple[Any, Any, Any]
    ) -> None:
        super().__init__(rex.node, *mfa)
        self._connection = connection
        self._to = to
        self._answered = False

    def one_at_a_time_in(self, lane: Rex) -> None:
        """Let it wait until those before it in the `lane` have exited."""
        self._body.lane = lane
        self._body.lets_in = False

    def returned(self, value: Any) -> Any:
        """See `Spawned.returned`."""
        self._answer(value)
        return NORMAL

    def raised(self, error: BaseException) -> Any:
        """See `Spawned.raised`."""
        kind, reason, stack = outcome(error, *self.initial_call())
        if kind != "throw":
            reason = (_BADRPC, (_EXIT, (reason, stack) if kind == "error" else reason))
        self._answer(reason)
        return NORMAL

    def exited(self, reason: Any) -> None:
        """See `Process.exited`."""
        super().exited(reason)
        if not self._answered:
            self._answer((_BADRPC, (_EXIT, reason)))

    def _answer(self, value: Any) -> None:
        """Send `value`, unless something was sent already. Raises EncodeError."""
        if type(self._to) is tuple:
            caller, tag = self._to
            payload = encode((tag, value), self.default)
            control = gen.reply_to(self.pid, caller, tag)
        else:
            payload = encode((_REX, value), self.default)
            control = cm.SendSender(self.pid, self._to)
        with self._lock:
            if self._answered:
                return
            self._answered = True
        self._connection.send(control, payload)


class Rex(Destination):
    """Answers what `rpc.erl` sends to its server; what that does not know is ignored here, too.

    With ``send_stdout_to_caller`` the caller gets the value and nothing else: what Python functions
    print goes to the one output of this operating system process.
    """

    NAME = "rex"

    def deliver(self, connection: Connection, payload: bytes) -> Task | None:
        """See `Destination.deliver`."""
        match self.node.decode(payload):
            case (
                Atom("$gen_call"),
                (Pid(), _) as to,
                (Atom("call" | "block_call") as kind, module, function, args, leader),
            ):
                call = _Call(self, connection, to, (module, function, args))
                if kind == "block_call":
                    call.one_at_a_time_in(self)
                return self._start(connection, call, leader)
            case (Atom("$gen_cast"), (Atom("cast"), module, function, args, leader)):
                process = Applied(self.node, module, function, args)
                return self._start(connection, process, leader)
            case (Pid() as to, (Atom("call"), module, function, args, leader)):
                call = _Call(self, connection, to, (module, function, args))
                return self._start(connection, call, leader)
            case (Pid() as to, (Atom("sbcast"), name, message)):
                found = self._pass_on(name, message)
                answer = self.node.name if found else (_NONEXISTING_NAME, name)
                self._tell(connection, to, (_REX, self.node.name, answer))
            case (Pid() as to, (Atom("send"), name, message)):
                if not self._pass_on(name, (to, message)):
                    answer = (_NONEXISTING_NAME, name)
                    self._tell(connection, to, (_REX, self.node.name, answer))
            case (Pid() as to, Atom("features_request")):
                self._tell(connection, to, (_FEATURES_REPLY, self.node.name, [_ERPC]))
            case message:
                log.debug("rex ignored %s", short(message))
        return None

    def _start(self, connection: Connection, process: Spawned, leader: Any) -> Task:
        if isinstance(leader, Pid):
            process.group_leader = leader
        self.node.attach(process)
        return process.started_by(connection)

    def _pass_on(self, name: Any, message: Any) -> bool:
        """Send a message on to what is registered as `name`; whether there is such a thing."""
        found = atom_name(name)
        if found is None or self.node.whereis(found) is None:
            return False
        # As a message of its own: it may be one for this process again, and so on.
        self.node.send(found, message)
        return True

    def _tell(self, connection: Connection, to: Pid, message: Any) -> None:
        connection.post(connection.encode(cm.SendSender(self.pid, to), encode(message)))
