"""The engine: who reads, who runs, and in which order."""

from __future__ import annotations

import importlib.util
import itertools
import secrets
import sys
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from pynode.dist import engine as engine_module
from pynode.dist import task as task_module
from pynode.dist.engine import Engine, Source
from pynode.dist.task import AWAITED, Task
from pynode.dist.timers import Timers
from pynode.errors import CallInterrupted
from pynode.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from pathlib import Path

PATIENCE = 10.0


class Queue(Source):
    """A source that hands out what is put into it, and remembers who read."""

    def __init__(self) -> None:
        super().__init__()
        self.items: SimpleQueue[Task | None] = SimpleQueue()
        self.readers: list[int] = []

    def next_task(self) -> Task | None:
        self.readers.append(threading.get_ident())
        return self.items.get()


class Do(Task):
    def __init__(self, function: Callable[[], Any], lane: Hashable | None = None) -> None:
        super().__init__(lane)
        self.function = function
        self.flushed = 0

    def run(self) -> None:
        self.function()

    def flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def source(engine: Engine) -> Iterator[Queue]:
    queue = Queue()
    engine.add(queue)
    yield queue
    queue.items.put(None)


def test_short_tasks_run_on_the_thread_that_reads(source: Queue) -> None:
    ran: SimpleQueue[tuple[int, int]] = SimpleQueue()
    for number in range(50):
        source.items.put(Do(lambda n=number: ran.put((n, threading.get_ident()))))  # type: ignore[misc]
    got = [ran.get(timeout=PATIENCE) for _ in range(50)]
    assert [number for number, _ in got] == list(range(50))
    assert {thread for _, thread in got} <= set(source.readers)


def test_a_task_that_blocks_holds_up_nobody(source: Queue) -> None:
    release, done = threading.Event(), threading.Event()
    source.items.put(Do(lambda: release.wait(PATIENCE)))
    source.items.put(Do(done.set))
    assert done.wait(PATIENCE)
    release.set()


def test_who_has_run_a_task_writes_and_holds_up_nobody(engine: Engine) -> None:
    """What is large is written by the same thread, which may wait, since it does not read yet."""
    release, done = threading.Event(), threading.Event()
    wrote: SimpleQueue[int] = SimpleQueue()
    ran: list[int] = []

    class Writing(Queue):
        def write_large(self) -> None:
            wrote.put(threading.get_ident())
            self.large = {}
            release.wait(PATIENCE)

    source = Writing()
    source.large = {"somebody": 1}
    engine.add(source)
    source.items.put(Do(lambda: ran.append(threading.get_ident())))
    assert wrote.get(timeout=PATIENCE) == ran[0]
    source.items.put(Do(done.set))
    assert done.wait(PATIENCE)
    release.set()
    assert wrote.empty()
    source.items.put(None)


def test_a_reader_of_many_small_tasks_lets_others_run(engine: Engine) -> None:
    # Where the engine is compiled, no code of Python's runs in any of this.
    source, ran, done = engine_module._WorkQueue(), itertools.count(), threading.Event()
    small = engine_module._Work(ran.__next__)
    for task in [*[small] * 300_000, engine_module._Work(done.set), None]:
        source.queue.put(task)
    seen = set[str]()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    try:
        engine.add(source)
        while not done.is_set():
            seen.add(repr(ran))
    finally:
        sys.setswitchinterval(interval)
    assert len(seen) > 10


def test_a_hundred_tasks_that_block_hold_up_nobody(source: Queue) -> None:
    release, done = threading.Event(), threading.Event()
    started: SimpleQueue[None] = SimpleQueue()

    def block() -> None:
        started.put(None)
        release.wait(PATIENCE)

    for lane in range(100):
        source.items.put(Do(block, lane))
    for _ in range(100):
        started.get(timeout=PATIENCE)
    source.items.put(Do(done.set))
    assert done.wait(PATIENCE)
    release.set()


def test_tasks_of_one_lane_run_one_at_a_time_and_in_order(source: Queue) -> None:
    release, other = threading.Event(), threading.Event()
    ran: SimpleQueue[int] = SimpleQueue()
    source.items.put(Do(lambda: release.wait(PATIENCE), "lane"))
    for number in range(20):
        source.items.put(Do(lambda n=number: ran.put(n), "lane"))  # type: ignore[misc]
    source.items.put(Do(other.set, "another lane"))
    assert other.wait(PATIENCE)
    assert ran.empty()
    release.set()
    assert [ran.get(timeout=PATIENCE) for _ in range(20)] == list(range(20))


def test_what_ran_away_from_the_reader_is_flushed(source: Queue) -> None:
    release, other = threading.Event(), threading.Event()
    first = Do(lambda: release.wait(PATIENCE), "lane")
    second = Do(lambda: None, "lane")
    last = threading.Event()
    source.items.put(first)
    source.items.put(second)
    source.items.put(Do(other.set))
    assert other.wait(PATIENCE)
    source.items.put(Do(last.set, "lane"))
    release.set()
    assert last.wait(PATIENCE)
    assert first.flushed == 1
    assert second.flushed == 1


def test_who_waits_for_an_answer_gives_the_role_away_and_runs_its_own_lane(
    engine: Engine, source: Queue
) -> None:
    inbox: SimpleQueue[str] = SimpleQueue()
    threads: dict[str, int] = {}
    answers: SimpleQueue[str] = SimpleQueue()

    def outer() -> None:
        threads["outer"] = threading.get_ident()
        answers.put(engine.wait(inbox, PATIENCE))

    def nested() -> None:
        threads["nested"] = threading.get_ident()
        inner: SimpleQueue[str] = SimpleQueue()
        source.items.put(Do(lambda: inner.put("inner"), "elsewhere"))
        answers.put(engine.wait(inner, PATIENCE))
        inbox.put("outer")

    source.items.put(Do(outer, "lane"))
    source.items.put(Do(nested, "lane"))
    assert answers.get(timeout=PATIENCE) == "inner"
    assert answers.get(timeout=PATIENCE) == "outer"
    assert threads["outer"] == threads["nested"]
    after = threading.Event()
    source.items.put(Do(after.set, "lane"))
    assert after.wait(PATIENCE)


def test_a_task_that_arrives_for_a_lane_whose_wait_times_out_still_runs(
    engine: Engine, source: Queue
) -> None:
    inbox: SimpleQueue[Any] = SimpleQueue()
    ran, timed_out = threading.Event(), threading.Event()

    def outer() -> None:
        try:
            engine.wait(inbox, 0.0)
        except Empty:
            timed_out.set()

    source.items.put(Do(outer, "lane"))
    source.items.put(Do(ran.set, "lane"))
    assert timed_out.wait(PATIENCE)
    assert ran.wait(PATIENCE)


def test_wait_outside_of_a_task_is_a_plain_wait(engine: Engine) -> None:
    inbox: SimpleQueue[int] = SimpleQueue()
    inbox.put(1)
    assert engine.wait(inbox, PATIENCE) == 1
    with pytest.raises(Empty):
        engine.wait(inbox, 0.0)


def test_no_more_threads_than_allowed_and_everybody_has_his_turn() -> None:
    engine = Engine(max_threads=2)
    engine.start()
    source = Queue()
    engine.add(source)
    release = threading.Event()
    started: SimpleQueue[int] = SimpleQueue()

    def block() -> None:
        started.put(threading.get_ident())
        release.wait(PATIENCE)

    read = threading.Event()

    class Read(Queue):
        def next_task(self) -> Task | None:
            task = super().next_task()
            if task is None:
                read.set()
            return task

    for lane in range(20):
        source.items.put(Do(block, lane))
    busy = {started.get(timeout=PATIENCE) for _ in range(2)}
    # The source is read all the same: it ends while the tasks are still put aside.
    other = Read()
    engine.add(other)
    other.items.put(None)
    assert read.wait(PATIENCE)
    release.set()
    busy |= {started.get(timeout=PATIENCE) for _ in range(18)}
    # Work queue, two sources, and two that run.
    assert len(busy) <= 6
    source.items.put(None)
    engine.stop()


def test_who_waits_for_an_answer_takes_no_place() -> None:
    engine = Engine(max_threads=2)
    engine.start()
    source = Queue()
    engine.add(source)
    inboxes: list[SimpleQueue[int]] = [SimpleQueue() for _ in range(30)]
    waiting: SimpleQueue[int] = SimpleQueue()
    answers: SimpleQueue[int] = SimpleQueue()

    def ask(number: int) -> None:
        waiting.put(number)
        answers.put(engine.wait(inboxes[number], PATIENCE))

    for number in range(30):
        source.items.put(Do(lambda n=number: ask(n), number))  # type: ignore[misc]
    for number in sorted(waiting.get(timeout=PATIENCE) for _ in range(30)):
        source.items.put(Do(lambda n=number: inboxes[n].put(n)))  # type: ignore[misc]
    assert sorted(answers.get(timeout=PATIENCE) for _ in range(30)) == list(range(30))
    source.items.put(None)
    engine.stop()


def test_a_congested_source_has_its_tasks_put_aside(engine: Engine, source: Queue) -> None:
    ran: SimpleQueue[int] = SimpleQueue()
    read = threading.Event()
    source.items.put(Do(lambda: ran.put(0)))
    assert ran.get(timeout=PATIENCE) == 0
    source.congested = True
    source.items.put(Do(lambda: ran.put(1), "lane"))
    source.items.put(Do(lambda: ran.put(2), "lane"))
    other = Queue()
    engine.add(other)
    other.items.put(Do(read.set))
    assert read.wait(PATIENCE)
    assert ran.empty()
    source.congested = False
    engine.resume(source)
    assert [ran.get(timeout=PATIENCE) for _ in range(2)] == [1, 2]
    other.items.put(None)


def test_what_is_admitted_is_not_overtaken(engine: Engine, source: Queue) -> None:
    ran: SimpleQueue[int] = SimpleQueue()

    def do(number: int) -> Do:
        return Do(lambda: ran.put(number), "lane")

    source.congested = True
    engine.admit(source, do(0))
    source.items.put(do(1))
    wait_until(lambda: len(source.aside) == 2)
    assert ran.empty()
    source.congested = False
    engine.resume(source)
    assert [ran.get(timeout=PATIENCE) for _ in range(2)] == [0, 1]
    for number in range(0, 100, 2):
        engine.admit(source, do(number))
        source.items.put(do(number + 1))
        assert [ran.get(timeout=PATIENCE) for _ in range(2)] == [number, number + 1]


def test_what_is_admitted_is_let_in_by_who_waits(engine: Engine, source: Queue) -> None:
    inbox: SimpleQueue[str] = SimpleQueue()
    got: SimpleQueue[str] = SimpleQueue()
    source.items.put(Do(lambda: got.put(engine.wait(inbox, PATIENCE)), "lane"))
    wait_until(lambda: any(lane.inbox is not None for lane in list(engine._lanes.values())))
    engine.admit(source, Do(lambda: inbox.put("let in"), "lane"))
    assert got.get(timeout=PATIENCE) == "let in"


def test_without_threads_the_sentinel_lives_and_calls_wait(
    engine: Engine, source: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran = threading.Event()
    release, reported = threading.Event(), threading.Event()
    monkeypatch.setattr(engine_module.log, "warning", lambda *_: reported.set())

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        source.items.put(Do(lambda: release.wait(PATIENCE), 1))
        source.items.put(Do(ran.set, 2))
        assert reported.wait(PATIENCE)
        assert not ran.is_set()
    assert ran.wait(PATIENCE)  # the sentinel goes on trying
    release.set()


def test_a_task_that_raises_leaves_its_lane(source: Queue) -> None:
    def fail() -> None:
        raise SystemExit

    after = threading.Event()
    source.items.put(Do(fail, "lane"))
    source.items.put(Do(after.set, "lane"))
    assert after.wait(PATIENCE)


def test_what_arrives_too_late_for_the_inner_wait_is_let_in_by_the_outer(
    engine: Engine, source: Queue
) -> None:
    outer_inbox: SimpleQueue[str] = SimpleQueue()
    inner_inbox: SimpleQueue[str] = SimpleQueue()
    let_in = threading.Event()

    def outer() -> None:
        engine.wait(outer_inbox, PATIENCE)

    def inner() -> None:
        # The answer is there before the task that comes next is announced.
        inner_inbox.put("answer")
        source.items.put(Do(late, "lane"))
        arrived = threading.Event()
        source.items.put(Do(arrived.set, "elsewhere"))
        assert arrived.wait(PATIENCE)
        engine.wait(inner_inbox, PATIENCE)

    def late() -> None:
        let_in.set()
        outer_inbox.put("answer")

    source.items.put(Do(outer, "lane"))
    source.items.put(Do(inner, "lane"))
    assert let_in.wait(PATIENCE)


def test_submitted_work_runs_beside_the_sources_and_survives_errors(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    release, done = threading.Event(), threading.Event()

    def fail() -> None:
        raise ValueError("on purpose")

    engine.submit(fail)
    engine.submit(lambda: release.wait(PATIENCE))
    engine.submit(done.set)
    assert done.wait(PATIENCE)
    release.set()
    assert "on purpose" in caplog.text


def test_a_timer_that_sets_itself_again_at_once_stops_nothing() -> None:
    timers, count = Timers(), 0

    def again() -> None:
        nonlocal count
        count += 1
        timers.add(0, again)

    timers.add(0, again)
    assert timers.run() == pytest.approx(0, abs=1e-2)
    assert count == 1


def test_timers_fire_in_order(engine: Engine) -> None:
    fired: SimpleQueue[str] = SimpleQueue()
    engine.after(0.02, lambda: fired.put("second"))
    engine.after(0.01, lambda: fired.put("first"))
    assert fired.get(timeout=PATIENCE) == "first"
    assert fired.get(timeout=PATIENCE) == "second"


def test_a_sleeping_sentinel_wakes_for_a_slow_task(engine: Engine, source: Queue) -> None:
    for _ in range(5):
        idle = threading.Event()
        engine.after(0.1, idle.set)  # long enough for it to fall asleep
        assert idle.wait(PATIENCE)
        release, done = threading.Event(), threading.Event()
        source.items.put(Do(lambda: release.wait(PATIENCE), 1))  # noqa: B023
        source.items.put(Do(done.set, 2))
        assert done.wait(PATIENCE)
        release.set()


class Interruptible(Do):
    """Ends in `outcome`, with CallInterrupted if that is what happened."""

    def __init__(self, function: Callable[[], Any], lane: Hashable | None = None) -> None:
        super().__init__(function, lane)
        self.outcome: SimpleQueue[Any] = SimpleQueue()

    def run(self) -> None:
        try:
            self.outcome.put(self.interruptible(self.function))
        except CallInterrupted as interrupted:
            self.outcome.put(type(interrupted))


def test_a_task_that_runs_is_interrupted(source: Queue) -> None:
    started = threading.Event()

    def spin() -> None:
        started.set()
        while True:
            pass

    task = Interruptible(spin)
    source.items.put(task)
    assert started.wait(PATIENCE)
    task.interrupt()
    assert task.outcome.get(timeout=PATIENCE) is CallInterrupted


def test_a_task_that_waits_is_interrupted(engine: Engine, source: Queue) -> None:
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        engine.wait(SimpleQueue(), None)

    task = Interruptible(wait, "lane")
    source.items.put(task)
    assert waiting.wait(PATIENCE)
    task.interrupt()
    assert task.outcome.get(timeout=PATIENCE) is CallInterrupted
    after = Interruptible(lambda: "free again", "lane")
    source.items.put(after)
    assert after.outcome.get(timeout=PATIENCE) == "free again"


def test_a_task_is_interrupted_before_it_runs(source: Queue) -> None:
    task = Interruptible(lambda: "ran")
    task.interrupt()
    source.items.put(task)
    assert task.outcome.get(timeout=PATIENCE) is CallInterrupted


def test_an_interrupt_comes_inside_the_task_or_not_at_all(source: Queue) -> None:
    # Whatever the moment, nothing is raised in the thread afterwards.
    for _ in range(2000):
        task = Interruptible(lambda: sum(range(50)))
        source.items.put(task)
        task.interrupt()
        assert task.outcome.get(timeout=PATIENCE) in (CallInterrupted, sum(range(50)))
    assert len(set(source.readers)) <= 8


def test_an_outer_and_an_inner_task_are_both_interrupted(engine: Engine, source: Queue) -> None:
    inner_started = threading.Event()

    def spin() -> None:
        inner_started.set()
        while True:
            pass

    outer = Interruptible(lambda: engine.wait(SimpleQueue(), None), "lane")
    inner = Interruptible(spin, "lane")
    source.items.put(outer)
    source.items.put(inner)
    assert inner_started.wait(PATIENCE)
    tasks = engine.tasks("lane")
    assert tasks == [outer, inner]
    for task in tasks:
        task.interrupt()
    assert inner.outcome.get(timeout=PATIENCE) is CallInterrupted
    assert outer.outcome.get(timeout=PATIENCE) is CallInterrupted


def test_a_lane_with_a_thread_of_its_own(engine: Engine, source: Queue) -> None:
    threads: SimpleQueue[int] = SimpleQueue()

    def note() -> None:
        threads.put(threading.get_ident())

    release = threading.Event()
    source.items.put(Do(lambda: release.wait(PATIENCE), "lane"))
    seen = threading.Event()
    source.items.put(Do(seen.set))
    assert seen.wait(PATIENCE)
    engine.own_thread("lane", "holder")  # while it is busy
    for _ in range(100):
        source.items.put(Do(note, "lane"))
        source.items.put(Do(note, "another lane"))
    release.set()
    got = [threads.get(timeout=PATIENCE) for _ in range(200)]
    (own,) = set(got) - set(source.readers)
    assert got.count(own) == 100
    assert [task for task in engine.tasks("lane") if not task.is_running] == []
    engine.end_own_thread("lane", "holder")
    source.items.put(Do(note, "lane"))
    assert threads.get(timeout=PATIENCE)


def test_tasks_let_in_by_a_lane_with_its_own_thread(engine: Engine, source: Queue) -> None:
    engine.own_thread("lane", "holder")
    inbox: SimpleQueue[str] = SimpleQueue()
    answers: SimpleQueue[tuple[str, int]] = SimpleQueue()

    def wait() -> None:
        answers.put((engine.wait(inbox, PATIENCE), threading.get_ident()))

    def nested() -> None:
        answers.put(("nested", threading.get_ident()))
        inbox.put("answer")

    def after() -> None:
        answers.put(("after", threading.get_ident()))

    for function in (wait, nested, after):
        source.items.put(Do(function, "lane"))
    got = [answers.get(timeout=PATIENCE) for _ in range(3)]
    assert got[0][0] == "nested"
    assert {name for name, _ in got} == {"nested", "answer", "after"}
    assert len({thread for _, thread in got}) == 1
    engine.end_own_thread("lane", "holder")


@pytest.fixture
def small() -> Iterator[Engine]:
    engine = Engine(max_threads=1)
    engine.start()
    yield engine
    engine.stop()


def test_at_the_limit_the_nodes_own_work_and_what_is_urgent_go_on(small: Engine) -> None:
    source = Queue()
    small.add(source)
    release, started = threading.Event(), threading.Event()
    worked, urgent = threading.Event(), threading.Event()
    put_aside = threading.Event()

    def block() -> None:
        started.set()
        release.wait(PATIENCE)

    source.items.put(Do(block))
    source.items.put(Do(lambda: release.wait(PATIENCE)))
    assert started.wait(PATIENCE)
    small.submit(worked.set)
    assert worked.wait(PATIENCE)
    source.items.put(Do(put_aside.set))
    hurry = Do(urgent.set)
    hurry.urgent = True
    source.items.put(hurry)
    assert urgent.wait(PATIENCE)
    release.set()
    assert put_aside.wait(PATIENCE)
    source.items.put(None)


def test_a_congested_source_holds_up_nobody_elses_calls_in_a_session(
    engine: Engine, source: Queue
) -> None:
    other = Queue()
    engine.add(other)
    ran: SimpleQueue[str] = SimpleQueue()
    started, release = threading.Event(), threading.Event()

    def of(origin: Queue, task: Do) -> None:
        task.source = origin
        origin.items.put(task)

    def first() -> None:
        started.set()
        release.wait(PATIENCE)
        ran.put("first")

    of(source, Do(first, "lane"))
    assert started.wait(PATIENCE)
    of(source, Do(lambda: ran.put("waits in the lane"), "lane"))
    read = threading.Event()
    of(source, Do(read.set, "another lane"))
    assert read.wait(PATIENCE)
    source.congested = True
    of(source, Do(lambda: ran.put("put aside"), "third lane"))
    of(other, Do(lambda: ran.put("of the other"), "third lane"))
    assert ran.get(timeout=PATIENCE) == "of the other"
    release.set()
    assert ran.get(timeout=PATIENCE) == "first"
    idle = threading.Event()
    of(other, Do(idle.set))
    assert idle.wait(PATIENCE)
    assert ran.empty()
    source.congested = False
    engine.resume(source)
    assert {ran.get(timeout=PATIENCE) for _ in range(2)} == {"waits in the lane", "put aside"}
    wait_until(lambda: not engine._lanes)
    other.items.put(None)


def test_what_a_source_leaves_behind_when_it_ends_still_runs(engine: Engine) -> None:
    source = Queue()
    engine.add(source)
    ran = threading.Event()
    source.congested = True
    source.items.put(Do(ran.set, "lane"))
    source.items.put(None)
    assert ran.wait(PATIENCE)
    wait_until(lambda: not engine._lanes)


class Suspending(Do):
    """Waits without a thread in between its two runs."""

    def __init__(self, function: Callable[[], Any], lane: Hashable | None = None) -> None:
        super().__init__(function, lane)
        self.waits = threading.Event()
        self.runs: list[int] = []

    def run(self) -> None:
        self.suspended = not self.suspended
        self.runs.append(threading.get_ident())
        if not self.suspended:
            self.function()

    def begin_wait(self) -> None:
        self.waits.set()


@pytest.mark.parametrize("own_thread", [False, True])
def test_a_suspended_task_has_its_lane_and_no_thread(
    engine: Engine, source: Queue, *, own_thread: bool
) -> None:
    if own_thread:
        engine.own_thread("lane", "holder")
    ran: SimpleQueue[str] = SimpleQueue()
    task = Suspending(lambda: ran.put("suspended"), "lane")
    source.items.put(task)
    source.items.put(Do(lambda: ran.put("next"), "lane"))
    assert task.waits.wait(PATIENCE)
    assert task.is_running
    elsewhere = threading.Event()
    source.items.put(Do(elsewhere.set, "another lane"))
    assert elsewhere.wait(PATIENCE)
    assert ran.empty()
    engine.again(task)
    assert [ran.get(timeout=PATIENCE) for _ in range(2)] == ["suspended", "next"]
    assert (len(set(task.runs)) == 1) >= own_thread
    engine.end_own_thread("lane", "holder")
    wait_until(lambda: not engine._lanes)


@pytest.mark.parametrize("own_thread", [False, True])
def test_a_suspended_task_that_asks_lets_others_in_one_at_a_time(
    engine: Engine, source: Queue, *, own_thread: bool
) -> None:
    if own_thread:
        engine.own_thread("lane", "holder")
    ran: SimpleQueue[str] = SimpleQueue()
    release, started = threading.Event(), threading.Event()

    def first() -> None:
        started.set()
        release.wait(PATIENCE)
        ran.put("first")

    task = Suspending(lambda: ran.put("suspended"), "lane")
    source.items.put(task)
    assert task.waits.wait(PATIENCE)
    source.items.put(Do(first, "lane"))
    AWAITED.set(task)
    with engine.letting_in():
        assert started.wait(PATIENCE)
        source.items.put(Do(lambda: ran.put("second"), "lane"))
        assert ran.empty()
        release.set()
        assert [ran.get(timeout=PATIENCE) for _ in range(2)] == ["first", "second"]
    AWAITED.set(None)
    source.items.put(Do(lambda: ran.put("after"), "lane"))
    engine.again(task)
    assert [ran.get(timeout=PATIENCE) for _ in range(2)] == ["suspended", "after"]
    engine.end_own_thread("lane", "holder")
    wait_until(lambda: not engine._lanes)


def test_a_suspended_task_of_a_congested_source_waits(engine: Engine, source: Queue) -> None:
    ran = threading.Event()
    task = Suspending(ran.set, "lane")
    task.source = source
    source.items.put(task)
    assert task.waits.wait(PATIENCE)
    source.congested = True
    engine.again(task)
    wait_until(lambda: list(source.aside) == [task])
    assert not ran.is_set()
    source.congested = False
    engine.resume(source)
    assert ran.wait(PATIENCE)
    wait_until(lambda: not engine._lanes)


def test_an_own_thread_ends_with_the_last_who_holds_it(engine: Engine) -> None:
    ran: SimpleQueue[int] = SimpleQueue()

    def note() -> None:
        ran.put(threading.get_ident())

    for holder in ("one", "two"):
        engine.own_thread("lane", holder)
    engine.end_own_thread("lane", "one")
    assert engine.submit_to_own_thread("lane", note)
    assert ran.get(timeout=PATIENCE)
    assert engine.submit_to_own_thread("lane", note)
    engine.end_own_thread("lane", "two")
    assert ran.get(timeout=PATIENCE)
    wait_until(lambda: not engine._lanes)
    assert not engine.submit_to_own_thread("lane", note)


def test_a_task_that_goes_on_is_interrupted_again(source: Queue) -> None:
    caught: SimpleQueue[int] = SimpleQueue()

    def stubborn() -> int:
        for number in range(3):
            try:
                caught.put(number)
                while True:
                    pass
            except CallInterrupted:
                pass
        return 3

    task = Interruptible(stubborn)
    source.items.put(task)
    for number in range(3):
        assert caught.get(timeout=PATIENCE) == number
        task.interrupt(again=number > 0)
    assert task.outcome.get(timeout=PATIENCE) == 3


class SlowPackage:
    """A package that waits while it is imported, and cannot be imported again if it is stopped."""

    def __init__(self, folder: Path, waiting: str) -> None:
        self.engine: Engine | None = None
        self.begun, self.gate = threading.Event(), threading.Event()
        self.name = f"slow_{secrets.token_hex(4)}"
        package = folder / self.name
        package.mkdir()
        (package / "inner.py").touch()
        lines = ["from .inner import *", "import sys", "it = sys.slow_package", waiting]
        (package / "__init__.py").write_text("\n".join([*lines, "name = inner.__name__"]))

    def load(self) -> None:
        importlib.import_module(self.name)

    def load_and_spin(self) -> None:
        self.load()
        while True:
            pass


@pytest.fixture
def slow_package(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SlowPackage:
    """A package that runs the test's parameter while it is imported, or waits at its gate."""
    # Behind the gate is what all calls of ours do, which must not stop the import either.
    at_gate = "it.begun.set()\nit.gate.wait()\nwith it.engine.shield(): pass"
    waiting = getattr(request, "param", at_gate)
    package = SlowPackage(tmp_path, waiting)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "slow_package", package, raising=False)
    return package


def test_an_import_holds_an_interrupt_back(
    engine: Engine, source: Queue, slow_package: SlowPackage
) -> None:
    slow_package.engine = engine
    spinning, ending = Interruptible(slow_package.load_and_spin), Interruptible(slow_package.load)
    for task in (spinning, ending):
        source.items.put(task)
        # The second waits for the import of the first; that it runs does not say so yet.
        wait_until(lambda: task_module._is_importing(task._running_on, None))  # noqa: B023
    assert slow_package.begun.wait(PATIENCE)
    for task in (spinning, ending):
        engine.interrupt(task)
        engine.interrupt(task, again=True)
        assert not task.raise_held_back()
    slow_package.gate.set()
    assert spinning.outcome.get(timeout=PATIENCE) is CallInterrupted
    assert ending.outcome.get(timeout=PATIENCE) is CallInterrupted
    slow_package.load()
    assert ending.raise_held_back()


@pytest.mark.parametrize(
    "slow_package",
    ["from queue import SimpleQueue\nit.gate = SimpleQueue()\nit.engine.wait(it.gate, None)"],
    indirect=True,
)
def test_what_an_import_lets_in_is_interrupted(
    engine: Engine, source: Queue, slow_package: SlowPackage
) -> None:
    slow_package.engine = engine
    outer = Interruptible(slow_package.load, "lane")
    source.items.put(outer)
    wait_until(lambda: outer.is_waiting)
    spinning = threading.Event()

    def spin() -> None:
        spinning.set()
        while True:
            pass

    inner = Interruptible(spin, "lane")
    source.items.put(inner)
    assert spinning.wait(PATIENCE)
    engine.interrupt(inner)
    assert inner.outcome.get(timeout=PATIENCE) is CallInterrupted
    slow_package.gate.put(None)  # type: ignore[attr-defined]
    assert outer.outcome.get(timeout=PATIENCE) is None


def test_a_loop_of_imports_that_find_nothing_is_interrupted(engine: Engine, source: Queue) -> None:
    started = threading.Event()

    def loop() -> None:
        started.set()
        while True:
            importlib.util.find_spec("there_is_no_such_module")
            with suppress(ImportError):
                importlib.import_module("there_is_no_such_module")

    task = Interruptible(loop)
    source.items.put(task)
    assert started.wait(PATIENCE)
    engine.interrupt(task)
    assert task.outcome.get(timeout=PATIENCE) is CallInterrupted


def test_what_is_held_back_outlives_the_engine(slow_package: SlowPackage) -> None:
    engine, source = Engine(), Queue()
    engine.start()
    engine.add(source)
    slow_package.engine = engine
    task = Interruptible(slow_package.load_and_spin)
    source.items.put(task)
    assert slow_package.begun.wait(PATIENCE)
    engine.interrupt(task)
    engine.stop()
    slow_package.gate.set()
    assert task.outcome.get(timeout=PATIENCE) is CallInterrupted
    source.items.put(None)


def test_c_code_is_interrupted_when_it_returns() -> None:
    task, lock, outcome = Task(), threading.Lock(), SimpleQueue[object]()
    lock.acquire()

    def run() -> None:
        try:
            outcome.put(task.interruptible(lock.acquire))
        except CallInterrupted:
            outcome.put("interrupted")

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: task.is_running)
    task.interrupt()
    lock.release()
    assert outcome.get(timeout=PATIENCE) == "interrupted"
    thread.join()
