"""The threads that read from peers and run what they ask for.

Theory of operation. A *source* hands out tasks: a connection does, and the work queue. Whoever
holds the source's **role** (a lock) is its reader: it takes the next task and runs it itself, on
the same thread, because waking another thread costs more than most calls take. While it runs
the task it lets go of the role, so there are two ways on:

- the task is done at once, the thread takes the role back, and reads on; or
- the task takes longer. The **sentinel** notices that the role has been free for a tick or two,
  takes it, and hands it to a spare thread, which reads on. When the first thread is done it
  finds the role taken, and becomes a spare.

So a call that blocks holds up nobody, and a call that does not costs two operations on an
uncontended lock. Tasks of one **lane** (a session, or a caller that has none yet) run one at a
time, in the order in which they were read; what has to wait is run by the thread that is in the
lane already.

A task that waits for an answer from a peer (`Engine.wait`) gives the role away before it waits,
and runs what arrives for its own lane in the meantime: an Elixir process that Python has called
may call back into the same session, on the same thread. (Those of a GenServer do not let others
in: it handles one message at a time.)

A task that waits for a coroutine needs no thread for that: it is *suspended*, with its lane closed,
and is run again, by whoever reads the work queue, when the coroutine is done. While that waits for
an answer from a peer, others are let in here, too, and any thread runs them.

Two things make a reader put tasks aside instead of running them: as many threads as there may be
run tasks already, or the peer does not take the answers that it was sent (a *congested* source).
It goes on reading in either case, because what it reads may be what others wait for: an answer, a
``DOWN``, the end of the connection.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from mypy_extensions import mypyc_attr

from pynode import config
from pynode.dist.fairness import give_way
from pynode.dist.task import AWAITED, INTERRUPT, Task
from pynode.dist.timers import Timers
from pynode.errors import CallInterrupted
from pynode.show import current_traceback

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

log = logging.getLogger(__name__)

#: Rounds without work after which the sentinel goes to sleep: to wake it costs a system call.
_IDLE_ROUNDS = 20
#: Threads without work that are kept for the next slow call.
_SPARE_THREADS = 8
#: Lanes without tasks that are kept for others.
_UNUSED_LANES = 64
#: How many callbacks may be inside each other in one session: each takes some twenty of the
#: thousand frames that Python's recursion limit allows, and the user's code wants some, too.
_NESTED = 25
_NO_THREAD = "the system allows no more threads"
#: Seconds after which an interrupt is tried again that an import holds back.
_IMPORTING = 0.05
#: Announces a task that has arrived in the lane of one that waits.
_LET_IN: Final = object()


class _Work(Task):
    """A plain function as a task."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], object], lane: Hashable | None = None) -> None:
        super().__init__(lane)
        self._function = function

    def run(self) -> None:
        try:
            self._function()
        except Exception:
            log.exception("internal error in %r; please report it", self._function)


@mypyc_attr(allow_interpreted_subclasses=True)
class Source:
    """Where tasks come from. The thread that holds `role` reads from it."""

    def __init__(self) -> None:
        self.role = threading.Lock()
        #: How many tasks were begun; the sentinel looks whether it moves.
        self.begun = 0
        #: Whether its tasks are put aside for now, because nobody takes their answers. Who sets it
        #: back calls `Engine.resume`.
        self.congested = False
        self.aside: deque[Task] = deque()
        #: True as long as `write_large` has something to do.
        self.large: Mapping[Any, int] = {}

    def next_task(self) -> Task | None:
        """Wait for the next task; None when there will be no more."""
        raise NotImplementedError

    def write_large(self) -> None:
        """Write what may take its time; called after a task, by the thread that ran it."""


class _WorkQueue(Source):
    """Work that is done beside the connections: unwinding objects, connecting to nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: SimpleQueue[Task | None] = SimpleQueue()

    def next_task(self) -> Task | None:
        return self.queue.get()


class _Lane:
    """The tasks that are running (one, and those that it has let in), and that wait for them."""

    __slots__ = ("inbox", "letting_in", "own", "running", "waiting")

    def __init__(self) -> None:
        self.running: list[Task] = []
        self.waiting: deque[Task] = deque()
        #: The thread that the lane has for itself, if it has one.
        self.own: _OwnThread | None = None
        #: Where the running task waits for an answer, if it does.
        self.inbox: SimpleQueue[Any] | None = None
        #: Suspended tasks that are waiting for an answer, once for each that they wait for.
        self.letting_in: list[Task] = []

    @property
    def is_open(self) -> bool:
        """Whether one more may run: all that are running are suspended and wait for an answer."""
        return all(task in self.letting_in for task in self.running)

    @property
    def has_own(self) -> bool:
        """Whether its own thread runs; it begins when what ran before it has ended."""
        return self.own is not None and self.own.ident is not None


@mypyc_attr(native_class=False)
class _Worker(threading.Thread):
    """A thread that reads from the source it is given, and then waits for the next one."""

    def __init__(self, engine: Engine, number: int) -> None:
        super().__init__(name=f"pynode-{number}", daemon=True)
        self._engine = engine
        self._given = threading.Lock()
        self._given.acquire()
        self.source: Source | None = None
        self.task: Task | None = None
        self.nested = 0
        self.ended = False

    def give(self, source: Source | None) -> None:
        """Wake the thread to read from `source`, whose role it now has.

        Without a source it runs what was put aside.
        """
        self.source = source
        self._given.release()

    def run(self) -> None:
        engine = self._engine
        while True:
            self._given.acquire()
            if self.source is not None:
                engine._read(self, self.source)
                self.source = None
            while (task := engine._next_or_park(self)) is not None:
                engine._run_lane(self, task).flush()
                del task
            if self.ended:
                return


@mypyc_attr(native_class=False)
class _OwnThread(threading.Thread):
    """The thread of a lane that has one for itself."""

    def __init__(self, engine: Engine, lane: Hashable) -> None:
        super().__init__(name=f"pynode of {lane}", daemon=True)
        self._engine = engine
        self._lane = lane
        self.source = None
        self.task: Task | None = None
        self.nested = 0
        #: Set when something has changed: a task has come, or there is nobody to hold it.
        self.changed = threading.Event()
        #: For whom the lane has it: it ends with the last of them.
        self.holders: set[object] = set()

    def run(self) -> None:
        engine = self._engine
        while True:
            self.changed.clear()
            task, ended = engine._next_in(self._lane)
            if ended:
                return
            if task is None:
                self.changed.wait()
                continue
            self.task = task
            task.make_room()
            _run(task)
            self.task = None
            if not engine._suspend(task):
                task.flush()
                engine._leave_own(self._lane, task)
            del task  # while we wait for the next one, it must not keep its objects alive


def _run(task: Task) -> None:
    """Run a task; whatever it raises, the thread lives and the lane goes on."""
    give_way()
    try:
        task.run()
    except BaseException:  # noqa: BLE001
        log.error("internal error in %s; please report it:\n%s", task, current_traceback())


class Engine:
    """Runs the tasks of its sources; see the top of this module.

    `max_threads` bounds the threads that run tasks, not counting those that wait for an answer;
    when all of them are busy, what comes next is put aside until one is free. Each source has a
    thread to read from it beside them, since what those that wait are waiting for must be read.
    """

    def __init__(self, *, max_threads: int = config.MAX_THREADS) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, _Lane] = {}
        #: Empty ones, since most are there for one task: to make one takes as long as all else.
        self._unused: list[_Lane] = []
        self._sources: set[Source] = set()
        self._spares: list[_Worker] = []
        self._threads = 0
        #: How many threads there may be: `max_threads`, one for each source, each that waits.
        self._ceiling = max_threads
        self._aside: deque[Task] = deque()
        self._numbers = itertools.count(1)
        self._work = _WorkQueue()
        self._timers = Timers()
        #: Tasks that are to be interrupted when they have imported something.
        self._held_back: set[Task] = set()
        self._holding_back = threading.Lock()
        self._asleep = False
        self._awake = threading.Event()
        self._stopped = False
        self._reported = False
        self._sentinel = threading.Thread(target=self._watch, name="pynode-sentinel", daemon=True)

    def start(self) -> None:
        """Start the threads. They are daemons: they end with the process at the latest."""
        self._sentinel.start()
        self.add(self._work)

    def stop(self) -> None:
        """End the threads that run nothing; sources must be closed by those who made them."""
        self._stopped = True
        self._work.queue.put(None)
        self._awake.set()
        with self._lock:
            spares, self._spares = self._spares, []
        for worker in spares:
            worker.give(None)  # it finds nothing to do, and may not park

    # --- sources and their readers

    def add(self, source: Source) -> None:
        """Begin to read from `source`. Raises RuntimeError if the system allows no more threads."""
        source.role.acquire()
        with self._lock:
            self._sources.add(source)
            self._ceiling += 1
        worker = self._worker()
        if worker is None:
            self._remove(source)
            raise RuntimeError(_NO_THREAD)
        worker.give(source)

    def _remove(self, source: Source) -> None:
        with self._lock:
            self._sources.discard(source)
            self._ceiling -= 1

    def submit(self, function: Callable[[], object], *, lane: Hashable | None = None) -> None:
        """Run `function` soon, on another thread, in its turn in `lane`. It may block."""
        self._work.queue.put(_Work(function, lane))

    def run(self, task: Task | None) -> None:
        """Run `task`, if it is one, soon and on another thread."""
        if task is not None:
            self._work.queue.put(task)

    def _read(self, worker: _Worker, source: Source) -> None:
        """Be the reader of `source`, until another thread is or it ends."""
        role = source.role
        while True:
            task = source.next_task()
            if task is None:
                self._remove(source)
                source.congested = False
                self.resume(source)
                return
            if (
                (source.congested or self._threads >= self._ceiling or source.aside or self._aside)
                # Our own work is what others may be waiting for.
                and source is not self._work
                and not task.urgent
                and self._put_aside(source, task)
            ):
                del task  # see below
                continue
            if self._postponed(task) if task.in_lane else not self._enter(task):
                del task
                continue
            source.begun += 1
            if self._asleep:
                self._awake.set()
            role.release()
            task = self._run_lane(worker, task)
            if source.large:
                source.write_large()  # while another thread may read
            if not role.acquire(blocking=False):
                task.flush()
                return
            del task  # while we wait for the next one, it must not keep its objects alive

    def _promote(self, source: Source) -> None:
        """If nobody reads from `source`, let a spare thread do so."""
        if source.role.acquire(blocking=False):
            worker = self._worker()
            if worker is None:
                source.role.release()
            else:
                worker.give(source)

    def _run_lane(self, worker: _Worker, task: Task) -> Task:
        """Run a task and what waits in its lane; return the last one, which is not flushed yet."""
        worker.task = task
        _run(task)
        while not self._suspend(task) and task.lane is not None:
            following = self._leave(task)
            if following is None:
                break
            # Others were read meanwhile, by another thread, so nobody flushes for us.
            task.flush()
            worker.task = task = following
            _run(task)
        worker.task = None
        return task

    def _worker(self) -> _Worker | None:
        """Return a thread to be given something; None if the system allows no more of them."""
        with self._lock:
            if self._spares:
                return self._spares.pop()
            self._threads += 1
        worker = _Worker(self, next(self._numbers))
        try:
            worker.start()
        except RuntimeError:
            with self._lock:
                self._threads -= 1
            self._report(_NO_THREAD)
            return None
        return worker

    def _report(self, what: str) -> None:
        """Log once that there are not enough threads."""
        if not self._reported:
            self._reported = True
            log.warning("%s; further calls wait until others are done", what)

    # --- tasks that cannot run yet, though nothing in their lane runs

    def _put_aside(self, source: Source, task: Task) -> bool:
        """Keep a task for later; False if it may run, or wait in its lane, now.

        What comes later from the same source is kept as well, so that nothing is overtaken.
        """
        with self._lock:
            lane = self._lanes.get(task.lane)
            if lane is not None and (lane.inbox is not None or lane.own is not None):
                return False  # a task that waits will run it, or the lane's own thread
            full = not self._spares and self._threads >= self._ceiling
            if source.congested or source.aside:
                source.aside.append(task)
            elif full or self._aside:
                self._aside.append(task)
            else:
                return False
        if full:
            self._report(f"{self._threads} threads run calls, which is max_threads")
        self._resume_unless_congested(source)
        return True

    def admit(self, source: Source, task: Task) -> None:
        """Have a task of `source` run that was not read from it, after those that were admitted.

        What is read from `source` after this has returned does not overtake it.
        """
        with self._lock:
            lane = self._lanes.get(task.lane)
            if lane is not None and (lane.inbox is not None or lane.own is not None):
                self._enter_lane(task)  # see _put_aside
            elif source.congested or source.aside:
                source.aside.append(task)
            else:
                self._aside.append(task)
        self._resume_unless_congested(source)

    def _resume_unless_congested(self, source: Source) -> None:
        """Look again after putting something aside: another thread may have looked before."""
        if not source.congested:
            self.resume(source)

    def resume(self, source: Source) -> None:
        """Run what was put aside while `source` was congested."""
        with self._lock:
            self._aside.extend(source.aside)
            source.aside.clear()
        self._run_aside()

    def _run_aside(self) -> None:
        """Have threads run what was put aside, as many as there may be."""
        for _ in range(len(self._aside)):
            if not self._aside or not (self._spares or self._threads < self._ceiling):
                return
            worker = self._worker()
            if worker is None:
                return
            worker.give(None)

    def _next_or_park(self, worker: _Worker) -> Task | None:
        """Return a task that was put aside; without one, `worker` is a spare or has ended."""
        congested: list[Source] = []
        try:
            with self._lock:
                while self._aside:
                    task = self._aside.popleft()
                    source = task.source
                    if source is not None and source.congested:
                        congested.append(source)
                        self._postpone(source, task)
                    elif task.lane is None or task.in_lane or self._enter_lane(task):
                        return task
                if self._stopped or len(self._spares) >= _SPARE_THREADS:
                    self._threads -= 1
                    worker.ended = True
                else:
                    self._spares.append(worker)
                return None
        finally:
            for source in congested:
                self._resume_unless_congested(source)

    def _postpone(self, source: Source, task: Task) -> None:
        """Give a source that is congested again all its tasks back, before those it has since."""
        back = [task]
        others: list[Task] = []
        for other in self._aside:
            (back if other.source is source else others).append(other)
        self._aside = deque(others)
        source.aside.extendleft(reversed(back))

    # --- lanes

    def _enter(self, task: Task) -> bool:
        """Whether `task` may run now; if not, it waits in its lane."""
        if task.lane is None:
            return True
        with self._lock:
            return self._enter_lane(task)

    def _enter_lane(self, task: Task) -> bool:
        lane = self._lanes.get(task.lane)
        if lane is None:
            lane = self._lanes[task.lane] = self._unused.pop() if self._unused else _Lane()
            lane.running.append(task)
            return True
        if lane.is_open and not (lane.has_own or lane.inbox or lane.waiting):
            lane.running.append(task)
            return True
        lane.waiting.append(task)
        if lane.inbox is not None:
            lane.inbox.put(_LET_IN)
        if lane.own is not None:
            lane.own.changed.set()
        return False

    def _leave(self, task: Task) -> Task | None:
        """Let a task leave its lane; return the next one that may run, or close the lane."""
        key = task.lane
        with self._lock:
            lane = self._lanes[key]
            lane.running.remove(task)
            if lane.own is not None and not lane.running and self._start(lane):
                return None  # given to the lane while it was busy
            if not lane.waiting or not lane.is_open or lane.has_own:
                if not lane.running:
                    del self._lanes[key]
                    if lane.own is None and len(self._unused) < _UNUSED_LANES:
                        self._unused.append(lane)
                return None
            following = lane.waiting.popleft()
            lane.running.append(following)
        # If its answer would come on top of what the peer does not take, it waits in the lane.
        following.in_lane = True
        return None if self._postponed(following) else following

    def _postponed(self, task: Task) -> bool:
        """Whether a task that is in its lane is put aside, since its source is congested."""
        source = task.source
        if source is None or not source.congested:
            return False
        with self._lock:
            source.aside.appendleft(task)
        self._resume_unless_congested(source)
        return True

    def _suspend(self, task: Task) -> bool:
        """Whether a task that has run is suspended; then another thread may have it already."""
        if not task.suspended:
            return False
        task.begin_wait()
        return True

    def can_suspend(self) -> bool:
        """Whether the task that runs in this thread may be suspended: it was not let in by one."""
        return getattr(threading.current_thread(), "nested", 0) == 0

    def again(self, task: Task) -> None:
        """Run a task again that was suspended."""
        task.in_lane = True
        with self._lock:
            lane = self._lanes.get(task.lane)
            if lane is not None and lane.own is not None and lane.has_own:
                lane.waiting.appendleft(task)
                lane.own.changed.set()
                if lane.inbox is not None:
                    lane.inbox.put(_LET_IN)
                return
        self._work.queue.put(task)

    @contextmanager
    def letting_in(self) -> Iterator[None]:
        """In a coroutine that is awaited for a task: let others into its lane meanwhile."""
        task = AWAITED.get()
        lane = None if task is None else self._lanes.get(task.lane)
        if task is None or lane is None:
            yield
            return
        with self._lock:
            lane.letting_in.append(task)
            following = None
            if lane.own is not None and lane.has_own:
                lane.own.changed.set()
            elif lane.waiting and lane.is_open:
                following = lane.waiting.popleft()
                following.in_lane = True
                lane.running.append(following)
        self.run(following)
        try:
            yield
        finally:
            with self._lock:
                lane.letting_in.remove(task)

    def _start(self, lane: _Lane) -> bool:
        """Start the lane's own thread; without one, other threads run its tasks."""
        own = lane.own
        if own is None:
            return False
        try:
            own.start()
        except RuntimeError:
            lane.own = None
            self._report(_NO_THREAD)
            return False
        return True

    def own_thread(self, key: Hashable, holder: object) -> None:
        """Give a lane a thread that runs all its tasks, until `end_own_thread` of all holders."""
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = _Lane()
            if lane.own is not None:
                lane.own.holders.add(holder)
                return
            lane.own = _OwnThread(self, key)
            lane.own.holders.add(holder)
            if not lane.running and not self._start(lane):
                del self._lanes[key]

    def end_own_thread(self, key: Hashable, holder: object) -> None:
        """End the thread of a lane, if it has one for this holder alone, after what waits now."""
        with self._lock:
            lane = self._lanes.get(key)
            if lane is not None and lane.own is not None:
                lane.own.holders.discard(holder)
                lane.own.changed.set()

    def join_own_threads(self, deadline: float) -> None:
        """Wait until the own threads that nobody holds have ended, until `deadline` at most."""
        with self._lock:
            threads = [lane.own for lane in self._lanes.values() if lane.own is not None]
        for thread in threads:
            if thread.ident is not None and not thread.holders:
                thread.join(max(0.0, deadline - time.monotonic()))

    def submit_to_own_thread(self, key: Hashable, function: Callable[[], object]) -> bool:
        """Run `function` in its turn on the lane's own thread; False if it has none."""
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None or lane.own is None:
                return False
            self._enter_lane(_Work(function, key))
            return True

    def _next_in(self, key: Hashable) -> tuple[Task | None, bool]:
        """Return the next task for the lane's own thread, and whether that is to end."""
        with self._lock:
            lane = self._lanes[key]
            if lane.waiting and (lane.waiting[0].in_lane or lane.is_open):
                task = lane.waiting.popleft()
                if not task.in_lane:
                    lane.running.append(task)
                return task, False
            ended = not (lane.running or lane.waiting or (lane.own and lane.own.holders))
            if ended:
                del self._lanes[key]
            return None, ended

    def _leave_own(self, key: Hashable, task: Task) -> None:
        with self._lock:
            self._lanes[key].running.remove(task)

    def tasks(self, lane: Hashable) -> list[Task]:
        """Return the tasks that run or wait in `lane`."""
        with self._lock:
            found = self._lanes.get(lane)
            if found is None:
                return []
            return [*found.running, *found.waiting]

    def interrupt(self, task: Task, *, again: bool = False) -> None:
        """Stop a task, as `Task.interrupt` does; one that imports something, at the end of that."""
        task.interrupt(again=again)
        if not task.raise_held_back():
            with self._holding_back:
                if not self._held_back:
                    self.after(_IMPORTING, self._insist)
                self._held_back.add(task)

    def _insist(self) -> None:
        with self._holding_back:
            self._held_back = {task for task in self._held_back if not task.raise_held_back()}
            if self._held_back:
                self.after(_IMPORTING, self._insist)

    def wait(self, inbox: SimpleQueue[Any], timeout: float | None) -> Any:
        """Return the next item of `inbox`; raise `queue.Empty` after `timeout` seconds.

        Called from within a task, it first sees to it that somebody else reads, and runs what
        arrives for the task's own lane while it waits. Raises CallInterrupted if the task is
        interrupted.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"The timeout is {timeout}: give it seconds, 0 or more, or None.")
        if timeout is not None and timeout > threading.TIMEOUT_MAX:
            timeout = None
        deadline = None if timeout is None else time.monotonic() + timeout
        worker = threading.current_thread()
        if not isinstance(worker, _Worker | _OwnThread) or worker.task is None:
            awaited = AWAITED.get()
            with self.letting_in(), awaited.waking(inbox) if awaited else nullcontext():
                item = inbox.get(timeout=timeout)
            if item is INTERRUPT:
                raise CallInterrupted
            return item
        task = worker.task
        outer_shield = task.shield(inbox)
        worker.nested += 1
        with self._lock:
            self._ceiling += 1
        if worker.source is not None:
            self._promote(worker.source)
        self._run_aside()
        lane, outer = self._open_to(task.lane if task.lets_in else None, inbox)
        try:
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                item = inbox.get(timeout=left)
                if item is INTERRUPT:
                    raise CallInterrupted
                if item is not _LET_IN:
                    return item
                if lane is not None:
                    self._run_let_in(worker, lane)
        finally:
            worker.task = task
            worker.nested -= 1
            with self._lock:
                self._ceiling -= 1
                if lane is not None:
                    lane.inbox = outer
                    if outer is not None:
                        # What has come too late for us is for who waits further out.
                        for _ in lane.waiting:
                            outer.put(_LET_IN)
            task.unshield(outer_shield)

    @staticmethod
    def check_nesting() -> None:
        """Raise RecursionError if too many callbacks are inside each other in this thread.

        To be called before something is sent whose answer will be waited for. On the thread of the
        event loop, where all coroutines would wait, it raises RuntimeError.
        """
        thread = threading.current_thread()
        if getattr(thread, "runs_event_loop", False):
            raise RuntimeError(
                "A coroutine may not wait for another node without await, because all others would "
                "wait with it: write await asyncio.to_thread(function, ...)."
            )
        if getattr(thread, "nested", 0) >= _NESTED:
            raise RecursionError(
                f"Callbacks are nested {_NESTED} levels deep in one session: this looks endless."
            )

    @staticmethod
    def current_task() -> Task | None:
        """Return the task that runs in this thread, if one does."""
        task = getattr(threading.current_thread(), "task", None)
        return task if isinstance(task, Task) else None

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Let the task that runs in this thread, if one does, be interrupted afterwards only."""
        task = self.current_task()
        if task is None:
            yield
            return
        outer = task.shield()
        try:
            yield
        finally:
            task.unshield(outer)

    def _open_to(
        self, key: Hashable | None, inbox: SimpleQueue[Any]
    ) -> tuple[_Lane | None, SimpleQueue[Any] | None]:
        """Have what arrives in the lane announced in `inbox`; return it and its former inbox."""
        if key is None:
            return None, None
        with self._lock:
            lane = self._lanes[key]
            outer, lane.inbox = lane.inbox, inbox
            for _ in lane.waiting:
                inbox.put(_LET_IN)
            return lane, outer

    def _run_let_in(self, worker: _Worker | _OwnThread, lane: _Lane) -> None:
        """Run the next task of the lane inside the one that waits."""
        with self._lock:
            if not lane.waiting:
                return  # a task that was let in further inside has run it
            worker.task = task = lane.waiting.popleft()
            if not task.in_lane:
                lane.running.append(task)
        task.below = sys._getframe()
        _run(task)
        task.below = None
        task.flush()
        with self._lock:
            lane.running.remove(task)

    # --- the sentinel

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Call `function` in `seconds`, on the sentinel's thread: it must not block."""
        self._timers.add(seconds, function)
        self._awake.set()

    def _watch(self) -> None:
        seen: dict[Source, int] = {}
        quiet = 0
        while not self._stopped:
            pause = self._timers.run()
            self._run_aside()
            busy, seen = self._hand_over(seen)
            quiet = 0 if busy else quiet + 1
            if quiet < _IDLE_ROUNDS:
                time.sleep(config.HANDOFF_SECONDS)
                continue
            # A reader counts `begun` first and looks at `_asleep` then; we do it the other way
            # round, so one of the two notices.
            self._asleep = True
            busy, seen = self._hand_over(seen)
            # Only work is a reason to stay awake for a while, a timer is not.
            if busy or self._awake.wait(pause):
                quiet = 0
            self._asleep = False
            self._awake.clear()
        while self._held_back:  # the program may go on when its node has stopped
            time.sleep(_IMPORTING)
            self._insist()

    def _hand_over(self, seen: dict[Source, int]) -> tuple[bool, dict[Source, int]]:
        """Promote a reader where a task has been running since the last round."""
        busy = False
        now = {}
        with self._lock:
            sources = list(self._sources)
        for source in sources:
            begun = source.begun
            now[source] = begun
            if seen.get(source) != begun:
                busy = True
            elif not source.role.locked():
                busy = True
                self._promote(source)
        return busy, now
