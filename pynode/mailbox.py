"""The mailbox of a process: messages in the order in which they came, and who waits for one."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What a `Search` returns if there is no such message yet.
NOTHING: Final = object()


class Mailbox:
    """The messages of one process. Several threads and event loops may look into it at once."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a destructor in between may send as well
        self._numbers = itertools.count(1)
        self._messages: OrderedDict[int, Any] = OrderedDict()
        self._wakers: list[Callable[[], object]] = []

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Any) -> None:
        """Add a message, and wake all who wait for one."""
        with self._lock:
            self._messages[next(self._numbers)] = message
            self.wake()

    def wake(self) -> None:
        """Have all who wait look again."""
        with self._lock:
            for wake in self._wakers:
                wake()

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have `wake()` called, by any thread, whenever it is time to look; it must not block."""
        with self._lock:
            self._wakers.append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.remove(wake)

    def after(self, number: int) -> list[tuple[int, Any]]:
        """Return the messages that came after the one with this number, each with its own."""
        with self._lock:
            latest = reversed(self._messages.items())
            return [*itertools.takewhile(lambda item: item[0] > number, latest)][::-1]

    def take(self, number: int) -> Any:
        """Remove the message with this number and return it; NOTHING if somebody else has it."""
        with self._lock:
            return self._messages.pop(number, NOTHING)

    def take_first(self) -> Any:
        """Remove the first message and return it; NOTHING if there is none."""
        with self._lock:
            return self._messages.popitem(last=False)[1] if self._messages else NOTHING


class Search:
    """A search for the first message that `match` is true of; it looks at each message once.

    What `match` raises comes out of it, and the message stays where it was.
    """

    def __init__(self, mailbox: Mailbox, match: Callable[[Any], object] | None) -> None:
        self._mailbox = mailbox
        self._match = match
        self._seen = 0

    def __call__(self) -> Any:
        """Take the message out of the mailbox and return it; NOTHING if it has not come yet."""
        if self._match is None:
            return self._mailbox.take_first()
        for number, message in self._mailbox.after(self._seen):
            self._seen = number
            if self._match(message) and self._mailbox.take(number) is not NOTHING:
                return message
        return NOTHING
