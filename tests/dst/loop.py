"""An event loop on which nothing real happens: time jumps, threads are callbacks, and a process can be killed.

Real nodes run here unchanged. What they wait for is the virtual clock, the virtual network (`net`) and one another. A
callback belongs to the process in whose context it was made; that of a process which has been killed never runs, so
that no `finally` and no `except` does what `kill -9` would not do.

Within a process the order of callbacks is asyncio's own, which is a promise: first in, first out. Nothing needs
shuffling: processes meet on the network and in the store alone, and those and threads draw their delays. But a callback
can take time, as it does on a machine, so that what arrives meanwhile comes between two that belong together.
"""

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Self
from weakref import WeakKeyDictionary, ref

__all__ = ["Process", "StoodStillError", "VirtualLoop", "current"]

_MOST_STEPS = 1_000_000
"""Callbacks of a simulation; most have 10,000, the longest 100,000."""

GRAVEYARD: list[Any] = []
"""Tasks of killed processes: whoever let go of one would have Python run its `finally` blocks."""

_current: ContextVar["Process | None"] = ContextVar("process", default=None)


class StoodStillError(AssertionError):
    """Nothing is ready and nothing is timed: whatever the simulation waits for will never come."""


class Process:
    """One incarnation of a node."""

    def __init__(self, name: str, number: int) -> None:
        """number: how often it was started before."""
        self.name = name
        self.number = number
        self.alive = True
        self.paused = False
        self.held: list[_Handle] = []
        """What has become due while it stands still."""
        self.context: Context = copy_context()
        self.context.run(_current.set, self)
        self._made: list[ref[asyncio.Task[Any]]] = []

    def __repr__(self) -> str:
        """For example west#2."""
        return f"{self.name}#{self.number}"

    @property
    def tasks(self) -> "list[asyncio.Task[Any]]":
        """Those that have not ended, in the order in which they were made."""
        return [task for made in self._made if (task := made()) is not None and not task.done()]

    def made(self, task: "asyncio.Task[Any]") -> None:
        """A task of this process has begun."""
        self._made.append(ref(task))

    def start(self, job: Coroutine[Any, Any, Any], name: str = "") -> "asyncio.Task[Any]":
        """Run something as part of it."""
        return asyncio.get_running_loop().create_task(job, name=name or None, context=self.context)

    def kill(self) -> None:
        """As `kill -9`: nothing of it ever runs again."""
        self.alive = False
        tasks = self.tasks
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        GRAVEYARD.append((tasks, self.held))


def current() -> Process | None:
    """The process that the running callback belongs to."""
    return _current.get()


class _Task(asyncio.Task):  # type: ignore[type-arg]
    """Hashed by its number: sets of tasks are walked in the same order in every run."""

    _numbers = itertools.count()

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        task = super().__new__(cls, *arguments, **options)
        task.ordinal = next(cls._numbers)  # type: ignore[attr-defined]
        return task

    def __hash__(self) -> int:
        return self.ordinal  # type: ignore[attr-defined, no-any-return]


class _Handle:
    """In the place of `asyncio.Handle` and `asyncio.TimerHandle`, with no more than is asked of them here."""

    __slots__ = ("arguments", "callback", "context", "due", "gone")

    def __init__(
        self, callback: Callable[..., Any] | None, arguments: tuple[Any, ...], context: Context, due: float = 0.0
    ) -> None:
        self.callback = callback
        self.arguments = arguments
        self.context = context
        self.due = due
        self.gone = False

    def cancel(self) -> None:
        """It is never called; what it holds is let go of."""
        self.gone = True
        self.callback, self.arguments = None, ()

    def cancelled(self) -> bool:
        """Whether it was."""
        return self.gone

    def when(self) -> float:
        """When it is due."""
        return self.due


class VirtualLoop(asyncio.BaseEventLoop):
    """Time passes when nothing is left to do, and a little with each callback."""

    def __init__(self, rng: random.Random, *, thread_delay: float = 0.0, step: float = 0.0) -> None:
        """rng: for threads alone.

        thread_delay: seconds that a thread takes at most to begin, and again to end; step: seconds of a callback.
        """
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self._rng = rng
        self._thread_delay = thread_delay
        self._step = step
        self._free: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        """By executor of one thread: when its last job is done."""
        self._due: deque[_Handle] = deque()
        """What can be called now, in order."""
        self._timed: list[tuple[float, int, _Handle]] = []
        self._order = itertools.count()
        self.errors: list[str] = []
        self.set_exception_handler(self._note_error)
        self.set_task_factory(self._make_task)
        _Task._numbers = itertools.count()

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    def at(self, when: float, callback: Callable[..., Any], *arguments: Any, process: Process | None = None) -> _Handle:
        """Call at a time, as part of a process or of none."""
        handle = _Handle(callback, arguments, _NOWHERE if process is None else process.context, when)
        heapq.heappush(self._timed, (when, next(self._order), handle))
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> _Handle:
        """As asyncio's, but that of two timers of the same time the first one set is the first one called."""
        handle = _Handle(callback, args, copy_context() if context is None else context, when)
        heapq.heappush(self._timed, (when, next(self._order), handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> _Handle:
        """The same, from now on."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> _Handle:
        """In its turn."""
        handle = _Handle(callback, args, copy_context() if context is None else context)
        self._due.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> _Handle:
        """There are no threads."""
        return self.call_soon(callback, *args, context=context)

    def pause(self, process: Process) -> None:
        """As SIGSTOP."""
        process.paused = True

    def resume(self, process: Process) -> None:
        """As SIGCONT: all that has become due meanwhile is done now, in its order."""
        process.paused = False
        held, process.held[:] = process.held[:], []
        self._due.extend(held)

    def run_in_executor(  # type: ignore[override]  # noqa: C901 - one job, from its beginning to its end
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        """A thread is two callbacks: its work is done at its beginning or at its end, and its result told at its end.

        As with real threads, a job that has begun goes on when whoever waits for it is cancelled, and those of an
        executor of one thread come one after the other.
        """
        future = self.create_future()
        outcome: list[tuple[Any, BaseException | None]] = []

        def work() -> None:
            try:
                outcome.append((func(*args), None))
            except Exception as error:  # noqa: BLE001 - as a thread would, it hands on whatever it was
                outcome.append((None, error))

        def begin() -> None:
            if not future.cancelled() and early:
                work()

        def end() -> None:
            if not outcome:
                if future.cancelled():
                    return
                work()
            if not future.done():
                result, error = outcome[0]
                future.set_result(result) if error is None else future.set_exception(error)

        if not self._thread_delay:
            self.call_soon(end)
            return future
        early = self._rng.random() < 0.5
        begins = self.now + self._rng.random() * self._thread_delay
        if executor is not None:
            begins = max(begins, self._free.get(executor, 0.0))
        ends = begins + self._rng.random() * self._thread_delay
        if executor is not None:
            self._free[executor] = ends
        self.call_at(begins, begin)
        self.call_at(ends, end)
        return future

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        context = options.get("context")
        task = _Task(coro, loop=loop, **options)
        process = _current.get() if context is None else context.get(_current)
        if process is not None:
            process.made(task)
        return task

    def _note_error(self, _loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {type(error).__name__}: {error}")

    def _run_once(self) -> None:  # noqa: C901, PLR0912 - the loop itself, in one place
        """Until the loop is stopped: asyncio calls it again for as long as it is not."""
        due, timed, heappop, process_of, step = self._due, self._timed, heapq.heappop, _current, self._step
        while not self._stopping:  # type: ignore[attr-defined]
            if not due:
                while timed and timed[0][2].gone:
                    heappop(timed)
                if not timed:
                    raise StoodStillError("nothing is ready, and nothing is timed")
                self.now = max(self.now, timed[0][0])
            now = self.now
            while timed and timed[0][0] <= now:
                due.append(heappop(timed)[2])
            if self.steps > _MOST_STEPS:
                raise StoodStillError(f"{self.steps} callbacks, and no end: nodes keep each other busy")
            for _ in range(len(due)):
                handle = due.popleft()
                if handle.gone:
                    continue
                process = handle.context.get(process_of)
                if process is not None:
                    if not process.alive:
                        GRAVEYARD.append(handle)
                        continue
                    if process.paused:
                        process.held.append(handle)
                        continue
                self.steps += 1
                self.now += step
                try:
                    handle.context.run(handle.callback, *handle.arguments)  # type: ignore[arg-type]
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - as asyncio does
                    said = f"Exception in callback {handle.callback}"
                    self.call_exception_handler({"message": said, "exception": error})

    def _process_events(self, event_list: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """There is none."""


_NOWHERE = copy_context()
_NOWHERE.run(_current.set, None)
