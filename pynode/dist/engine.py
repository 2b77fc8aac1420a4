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
may call back into the same session, on the same thread.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from pynode import config
from pynode.dist.task import INTERRUPT, CallInterrupted, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

log = logging.getLogger(__name__)

#: Rounds without work after which the sentinel goes to sleep: to wake it costs a system call.
_IDLE_ROUNDS = 20
#: Threads without work that are kept for the next slow call.
_SPARE_THREADS = 8


#: Announces a task that has arrived in the lane of one that waits.
_LET_IN: Final = object()


class _Work(Task):
    """A plain function as a task."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__()
        self._function = function

    def run(self) -> None:
        try:
            self._function()
        except Exception:
            log.exception("internal error in %r; please report it", self._function)


class Source(ABC):
    """Where tasks come from. The thread that holds `role` reads from it."""

    def __init__(self) -> None:
        self.role = threading.Lock()
        #: How many tasks were begun; the sentinel looks whether it moves.
        self.begun = 0

    @abstractmethod
    def next_task(self) -> Task | None:
        """Wait for the next task; None when there will be no more."""


class _WorkQueue(Source):
    """Work that is done beside the connections: unwinding objects, connecting to nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: SimpleQueue[Task | None] = SimpleQueue()

    def next_task(self) -> Task | None:
        return self.queue.get()


class _Lane:
    """The tasks that are running (one, and those that it has let in), and that wait for them."""

    __slots__ = ("inbox", "own", "running", "waiting")

    def __init__(self, *running: Task) -> None:
        self.running = list(running)
        self.waiting: deque[Task] = deque()
        #: The thread that the lane has for itself, if it has one.
        self.own: _OwnThread | None = None
        #: Where the running task waits for an answer, if it does.
        self.inbox: SimpleQueue[Any] | None = None


class _Worker(threading.Thread):
    """A thread that reads from the source it is given, and then waits for the next one."""

    def __init__(self, engine: Engine, number: int) -> None:
        super().__init__(name=f"pynode-{number}", daemon=True)
        self._engine = engine
        self._given = threading.Lock()
        self._given.acquire()
        self.source: Source | None = None
        self.task: Task | None = None

    def give(self, source: Source | None) -> None:
        """Wake the thread to read from `source`, whose role it now has; None ends it."""
        self.source = source
        self._given.release()

    def run(self) -> None:
        while True:
            self._given.acquire()
            if self.source is None:
                return
            self._engine._read(self, self.source)
            self.source = None
            if not self._engine._park(self):
                return


class _OwnThread(threading.Thread):
    """The thread of a lane that has one for itself."""

    def __init__(self, engine: Engine, lane: Hashable) -> None:
        super().__init__(name=f"pynode of {lane}", daemon=True)
        self._engine = engine
        self._lane = lane
        self.source = None
        self.task: Task | None = None
        #: Set when something has changed: a task has come, or `ending` is true.
        self.changed = threading.Event()
        self.ending = False

    def run(self) -> None:
        while True:
            self.changed.clear()
            task, ended = self._engine._next_in(self._lane)
            if ended:
                return
            if task is None:
                self.changed.wait()
                continue
            self.task = task
            task.run()
            task.flush()
            self.task = None
            del task  # while we wait for the next one, it must not keep its objects alive


class Timer:
    """A function to be called later; see `Engine.after`."""

    __slots__ = ("cancelled", "function")

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.cancelled = False

    def cancel(self) -> None:
        """Do not call it any more."""
        self.cancelled = True


class Engine:
    """Runs the tasks of its sources; see the top of this module.

    `max_threads` bounds the threads that run tasks; when all of them are busy, what comes next
    waits until one is free.
    """

    def __init__(self, *, max_threads: int = config.MAX_THREADS) -> None:
        self._max_threads = max_threads
        self._lock = threading.Lock()
        self._lanes: dict[Hashable, _Lane] = {}
        self._sources: set[Source] = set()
        self._spares: list[_Worker] = []
        self._threads = 0
        self._numbers = itertools.count(1)
        self._work = _WorkQueue()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_numbers = itertools.count()
        self._asleep = False
        self._awake = threading.Event()
        self._stopped = False
        self._full_reported = False
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
            worker.give(None)

    # --- sources and their readers

    def add(self, source: Source) -> None:
        """Begin to read from `source`."""
        source.role.acquire()
        with self._lock:
            self._sources.add(source)
        self._worker(at_any_rate=True).give(source)

    def submit(self, function: Callable[[], object]) -> None:
        """Run `function` soon, on another thread. It may block."""
        self._work.queue.put(_Work(function))

    def submit_task(self, task: Task) -> None:
        """Run `task` soon, on another thread, in its lane."""
        self._work.queue.put(task)

    def _read(self, worker: _Worker, source: Source) -> None:
        """Be the reader of `source`, until another thread is or it ends."""
        role = source.role
        while True:
            task = source.next_task()
            if task is None:
                with self._lock:
                    self._sources.discard(source)
                return
            if task.lane is not None and not self._enter(task):
                continue
            source.begun += 1
            if self._asleep:
                self._awake.set()
            role.release()
            worker.task = task
            task.run()
            while task.lane is not None:
                following = self._leave(task.lane)
                if following is None:
                    break
                # Others were read meanwhile, by another thread, so nobody flushes for us.
                task.flush()
                worker.task = task = following
                task.run()
            worker.task = None
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

    def _worker(self, *, at_any_rate: bool = False) -> Any:
        with self._lock:
            if self._spares:
                return self._spares.pop()
            if self._threads >= self._max_threads and not at_any_rate:
                if not self._full_reported:
                    self._full_reported = True
                    log.warning(
                        "%d calls run at the same time; further calls wait until one is done. "
                        "Raise max_threads if that many are meant to run.",
                        self._threads,
                    )
                return None
            self._threads += 1
        worker = _Worker(self, next(self._numbers))
        worker.start()
        return worker

    def _park(self, worker: _Worker) -> bool:
        with self._lock:
            if self._stopped or len(self._spares) >= _SPARE_THREADS:
                self._threads -= 1
                return False
            self._spares.append(worker)
            return True

    # --- lanes

    def _enter(self, task: Task) -> bool:
        """Whether `task` may run now; if not, it waits in its lane."""
        with self._lock:
            lane = self._lanes.get(task.lane)
            if lane is None:
                self._lanes[task.lane] = _Lane(task)
                return True
            lane.waiting.append(task)
            if lane.inbox is not None:
                lane.inbox.put(_LET_IN)
            if lane.own is not None:
                lane.own.changed.set()
            return False

    def _leave(self, key: Hashable) -> Task | None:
        """Return the next task of the lane, or close it."""
        with self._lock:
            lane = self._lanes[key]
            if lane.own is not None:
                lane.own.start()  # given to the lane while it was busy
            elif lane.waiting:
                task = lane.running[0] = lane.waiting.popleft()
                return task
            else:
                del self._lanes[key]
            return None

    def own_thread(self, key: Hashable) -> None:
        """Give a lane a thread that will run all its tasks from now on."""
        with self._lock:
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = _Lane()
            if lane.own is not None:
                lane.own.ending = False
                return
            lane.own = _OwnThread(self, key)
            if not lane.running:
                lane.own.start()

    def end_own_thread(self, key: Hashable) -> None:
        """End the thread of a lane, if it has one, after what is waiting now."""
        with self._lock:
            lane = self._lanes.get(key)
            if lane is not None and lane.own is not None:
                lane.own.ending = True
                lane.own.changed.set()

    def _next_in(self, key: Hashable) -> tuple[Task | None, bool]:
        """Return the next task for the lane's own thread, and whether that is to end."""
        with self._lock:
            lane = self._lanes[key]
            if lane.waiting:
                task = lane.waiting.popleft()
                lane.running = [task]
                return task, False
            lane.running = []
            ended = lane.own is not None and lane.own.ending
            if ended:
                del self._lanes[key]
            return None, ended

    def tasks(self, lane: Hashable) -> list[Task]:
        """Return the tasks that run or wait in `lane`."""
        with self._lock:
            found = self._lanes.get(lane)
            if found is None:
                return []
            return [*found.running, *found.waiting]

    def wait(self, inbox: SimpleQueue[Any], timeout: float | None) -> Any:
        """Return the next item of `inbox`; raise `queue.Empty` after `timeout` seconds.

        Called from within a task, it first sees to it that somebody else reads, and runs what
        arrives for the task's own lane while it waits. Raises CallInterrupted if the task is
        interrupted.
        """
        worker = threading.current_thread()
        if not isinstance(worker, _Worker | _OwnThread) or worker.task is None:
            return inbox.get(timeout=timeout)
        task = worker.task
        outer_shield = task.shield(inbox)
        if worker.source is not None:
            self._promote(worker.source)
        deadline = None if timeout is None else time.monotonic() + timeout
        lane, outer = self._open_to(task.lane, inbox)
        try:
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                item = inbox.get(timeout=left)
                if item is INTERRUPT:
                    raise CallInterrupted
                if item is not _LET_IN:
                    return item
                assert lane is not None
                self._run_let_in(worker, lane)
        finally:
            worker.task = task
            if lane is not None:
                with self._lock:
                    lane.inbox = outer
            task.unshield(outer_shield)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Let the task that runs in this thread, if one does, be interrupted afterwards only."""
        task = getattr(threading.current_thread(), "task", None)
        if not isinstance(task, Task):
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
            lane.running.append(task)
        try:
            task.run()
            task.flush()
        finally:
            with self._lock:
                lane.running.pop()

    # --- the sentinel

    def after(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Call `function` in `seconds`, on the sentinel's thread: it must not block."""
        timer = Timer(function)
        with self._lock:
            entry = (time.monotonic() + seconds, next(self._timer_numbers), timer)
            heapq.heappush(self._timers, entry)
        self._awake.set()
        return timer

    def _watch(self) -> None:
        seen: dict[Source, int] = {}
        quiet = 0
        while not self._stopped:
            pause = self._run_timers()
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

    def _run_timers(self) -> float | None:
        """Call what is due; return the seconds until the next one is."""
        while True:
            with self._lock:
                if not self._timers:
                    return None
                left = self._timers[0][0] - time.monotonic()
                if left > 0:
                    return left
                timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                try:
                    timer.function()
                except Exception:
                    log.exception("internal error in a timer; please report it")
