from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from pynode.testing.children import Child, ChildExitedError


def python(code: str) -> Child:
    return Child([sys.executable, "-u", "-c", code], env=os.environ)


def test_lines_are_found_past_and_future() -> None:
    with python("print('one'); print('two 22'); import time; time.sleep(60)") as child:
        assert child.stdout.wait_for(r"two (\d+)")[1] == "22"
        assert child.stdout.wait_for("one")[0] == "one"
        with pytest.raises(TimeoutError, match=r"No line like 'three'(.|\n)*one\ntwo"):
            child.stdout.wait_for("three", timeout=0.01)


def test_a_stream_that_ends_without_the_line_says_what_there_was() -> None:
    with python("import sys; print('a'); print('b', file=sys.stderr)") as child:
        with pytest.raises(ChildExitedError, match="ended without a line like 'never':\na"):
            child.stdout.wait_for("never")
        assert child.wait(10) == 0
        assert child.output == "a\nb"


def test_wait_says_that_it_still_runs() -> None:
    with python("import time; print('up'); time.sleep(60)") as child:
        child.stdout.wait_for("up")
        assert child.returncode is None
        with pytest.raises(TimeoutError, match="runs on after"):
            child.wait(0.01)
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == -signal.SIGTERM
        child.kill()
        assert child.returncode == -signal.SIGTERM


def test_kill_takes_descendants_along() -> None:
    # The grandchild holds the streams open: their ends show that it is gone.
    code = "import os, time; other = os.fork(); other and print('up'); time.sleep(60)"
    child = python(code)
    child.stdout.wait_for("up")
    child.kill()
    with pytest.raises(ChildExitedError, match="ended without"):
        child.stdout.wait_for("never")


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    with python("print('up')") as child:
        child.stdout.wait_for("up")
    assert threading.active_count() == before
