"""The node as a process of its operating system, as far as no node is needed for it."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from pynode import posix

PATIENCE = 10.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_node_whichever_thread_gets_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = threading.Event()
    restore = posix.end_on_signals(stop)
    try:

        def signal_another_thread() -> None:
            time.sleep(0.1)  # Until the main thread waits, of which there is no event.
            signal.pthread_kill(threading.get_ident(), number)

        thread = threading.Thread(target=signal_another_thread)
        thread.start()
        # Nothing wakes this thread, the main one, but the event.
        assert stop.wait(PATIENCE)
        thread.join()
        stop.clear()
        os.kill(os.getpid(), number)
        assert stop.wait(PATIENCE)
    finally:
        restore()
    assert signal.getsignal(number) == before


def test_other_signals_do_not_end_it() -> None:
    stop = threading.Event()
    restore = posix.end_on_signals(stop)
    came = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: came.set())
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert came.wait(PATIENCE)
        assert not stop.is_set()
    finally:
        signal.signal(signal.SIGUSR1, before)
        restore()
