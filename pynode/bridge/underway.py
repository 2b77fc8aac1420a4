"""The requests that have come: each is a `Call`, from its arrival until it is answered."""

from __future__ import annotations

import itertools
import logging
import threading
from typing import TYPE_CHECKING, Any

from pynode import gen
from pynode.bridge.call import Call
from pynode.errors import BridgeError, DecodeError, InvalidRequestError, NodeUnavailableError
from pynode.show import short
from pynode.values import Ref, decode, from_struct

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.bridge.service import Bridge
    from pynode.dist.connection import Connection
    from pynode.dist.task import Task
    from pynode.terms import Fun, Pid

log = logging.getLogger(__name__)


class Underway:
    """The calls of a bridge. `function` makes the functions that come with them callable."""

    def __init__(self, bridge: Bridge, function: Callable[[Fun], Any]) -> None:
        self._bridge = bridge
        self._function = function
        #: By the reference in their tags, or what stands for it.
        self.calls: dict[Any, Call] = {}
        self._begun = itertools.count()
        self._idle = threading.Condition()
        #: Whether new calls are refused.
        self.stopping = False

    def receive(self, connection: Connection, payload: bytes) -> Task | None:
        """Return the call that a message asks for, None if it is no request.

        A request that cannot be decoded, such as one that is nested too deeply, is answered all
        the same if it can be read who has sent it. Raises DecodeError.
        """
        first_ref: Ref | None = None

        def struct(fields: dict[Any, Any]) -> Any:
            nonlocal first_ref
            value = from_struct(fields)
            if first_ref is None and type(value) is Ref:
                first_ref = value
            return value

        limits = self._bridge.node.limits
        try:
            message = decode(payload, struct=struct, fun=self._function, limits=limits)
        except DecodeError as error:
            return self._undecodable(connection, payload, error)
        if type(message) is tuple:
            if len(message) == 3 and message[0] == gen.CALL and gen.is_from(message[1]):
                caller, tag = message[1]
                return self._call(connection, caller, tag, message[2], first_ref)
            if len(message) == 2 and message[0] == gen.CAST:
                return self._call(connection, None, None, message[1], first_ref)
        log.debug("ignored a message that is no request: %s", short(message))
        return None

    def _undecodable(self, connection: Connection, payload: bytes, error: DecodeError) -> Call:
        kind, sender = gen.envelope(payload)
        if kind != gen.CALL or not gen.is_from(sender):
            raise error
        call = Call(self._bridge, connection, sender[0], sender[1], None)
        call.fail_with(InvalidRequestError(str(error), reason="undecodable"))
        self._add(call)
        return call

    def _call(
        self,
        connection: Connection,
        caller: Pid | None,
        tag: Any,
        request: Any,
        first_ref: Ref | None,
    ) -> Call:
        call = Call(self._bridge, connection, caller, tag, first_ref)
        if self.stopping:
            name = self._bridge.node.name
            message = f"{name} is shutting down: call it again when it is back."
            call.fail_with(NodeUnavailableError(message, node=name))
        else:
            try:
                call.parse(request)
            except BridgeError as error:
                call.fail_with(error)
            except Exception as error:  # it shall cost this call, and not the connection
                log.exception("internal error in a request; please report it")
                call.fail_with(error)
        self._add(call)
        if call.within is not None:
            self._bridge.watch_caller(call, call.within)
        return call

    def _add(self, call: Call) -> None:
        if self.calls.setdefault(call.key, call) is not call:  # a client that uses a tag twice
            call.key = id(call)
            self.calls[call.key] = call

    def count(self) -> None:
        """Note that a call that waits for its turn in a session has begun."""
        next(self._begun)  # in one step, since it is C code: a lock would take five times as long

    @property
    def begun(self) -> int:
        """How many such calls have begun."""
        return int(repr(self._begun)[len("count(") : -1])  # to look without counting

    def done(self, call: Call) -> None:
        """Forget a call that has been answered."""
        self.calls.pop(call.key, None)
        if call.watch is not None:
            self._bridge.node.demonitor(call.watch)
        if self.stopping:
            with self._idle:
                self._idle.notify_all()

    def stop(self, timeout: float) -> bool:
        """Refuse new calls and wait for those that run; False if some do after so many seconds."""
        self.stopping = True
        with self._idle:
            return self._idle.wait_for(lambda: not self.calls, timeout)
