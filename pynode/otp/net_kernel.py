"""``net_kernel``: what `net_adm:ping/1`, and with it `Node.ping/1`, asks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pynode import gen
from pynode.destination import Destination
from pynode.show import short
from pynode.terms import Atom, Pid
from pynode.values import encode

if TYPE_CHECKING:
    from pynode.dist.connection import Connection

log = logging.getLogger(__name__)


class NetKernel(Destination):
    """Answers ``is_auth`` with ``yes``: whoever is connected has the cookie."""

    NAME = "net_kernel"

    def deliver(self, connection: Connection, payload: bytes) -> None:
        """See `Destination.deliver`."""
        match self.node.decode(payload):
            case (Atom("$gen_call"), (Pid() as caller, tag), (Atom("is_auth"), _)):
                control = gen.reply_to(self.pid, caller, tag)
                connection.post(connection.encode(control, encode((tag, Atom("yes")))))
            case message:
                log.debug("net_kernel ignored %s", short(message))
