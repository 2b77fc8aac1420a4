"""What ends is unwound, not just dropped, as Python does it when it closes a generator.

This runs code of the user's: it may take long, block, raise, or call back into the node. So it
never runs under a lock, and nobody waits for it.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from types import GeneratorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pynode.objects.session import Entry

_log = logging.getLogger(__name__)


def unwind(entries: list[Entry]) -> None:
    """Unwind and drop the objects of these entries, newest first, and empty the list.

    Context managers that were entered are exited as if their block had been left by a
    GeneratorExit, which is what Python raises in a block that will not be finished: a transaction
    rolls back. Generators are closed. An exception is logged and does not stop the rest. What is
    asynchronous (async generators, async context managers) is only dropped.
    """
    entries.sort(key=_created)
    while entries:
        entry = entries.pop()
        obj = entry.obj
        steps: list[Callable[[Any], None]] = [_exit] * entry.entered
        if isinstance(obj, GeneratorType) and not obj.gi_running:
            # One that is running is in a call that is being interrupted: it ends with that.
            steps.append(GeneratorType.close)
        for step in steps:
            try:
                step(obj)
            except BaseException:  # noqa: BLE001  A SystemExit of the object's is not ours.
                # As text: a log handler that keeps its records would keep the object, too.
                _log.error(
                    "An object of session %s failed to unwind:\n%s",
                    entry.session.id,
                    traceback.format_exc(),
                )


def _created(entry: Entry) -> float:
    return entry.created


def _exit(obj: Any) -> None:
    reason = GeneratorExit()
    try:
        with suppress(GeneratorExit):
            type(obj).__exit__(obj, GeneratorExit, reason, None)
    finally:
        # Its traceback leads back here, and to the object: a cycle, if it were raised again.
        reason.__traceback__ = None
