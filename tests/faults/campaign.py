"""Many laboratories at once, each in a process of its own with its own ports and folder; they take work until it ends.

Most of a schedule's time is waiting, so there may be more laboratories than cores.
"""

import multiprocessing
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from queue import Empty
from typing import Any, TypeVar

from faults.checker import check
from faults.lab import Lab, laboratory

__all__ = ["Bench", "Finding", "Tally", "at_once"]

T = TypeVar("T")

SESSIONS = 40
"""Of one laboratory before it makes place for a new one, after a last look at everything that it has run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one piece of work came to."""

    what: str
    sessions: int = 0
    rounds: int = 0
    """Committed."""
    drawn: Counter[str] = field(default_factory=Counter)
    """Faults by kind, as they were ordered."""
    struck: Counter[str] = field(default_factory=Counter)
    """Those of them that wait for a passage of a point, and found it."""
    flaws: tuple[str, ...] = ()
    folder: str = ""
    """The laboratory's, which is kept when there is a flaw."""


@dataclass(slots=True)
class Tally:
    """What all of it came to so far."""

    begun: float = field(default_factory=time.monotonic)
    done: int = 0
    sessions: int = 0
    rounds: int = 0
    drawn: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    flawed: list[Finding] = field(default_factory=list)

    def add(self, found: Finding) -> None:
        """Count it."""
        self.done += 1
        self.sessions += found.sessions
        self.rounds += found.rounds
        self.drawn += found.drawn
        self.struck += found.struck
        if found.flaws:
            self.flawed.append(found)

    def __str__(self) -> str:
        hours = (time.monotonic() - self.begun) / 3600
        return (
            f"{self.sessions} sessions, {self.rounds} rounds, {self.drawn.total()} faults, "
            f"{len(self.flawed)} with violations, {hours:.2f} h, {self.sessions / hours:.0f} sessions an hour"
        )

    def kinds(self) -> str:
        """Faults by kind."""
        return ", ".join(f"{kind} {count}" for kind, count in sorted(self.drawn.items()))


class Bench:
    """One laboratory after another; what is wrong with everything that one has run is found when it makes place."""

    def __init__(self) -> None:
        """Nothing is started before it is needed."""
        self._lab: Lab | None = None
        self._open: Any = None
        self._used = 0

    def lab(self) -> Lab:
        """A laboratory for one more session; raises `FlawedError` when the one before has a flaw after all."""
        if self._lab is not None and self._used >= SESSIONS:
            self.close()
        if self._lab is None:
            self._open = laboratory(Path(tempfile.mkdtemp(prefix="hansa-lab-")))
            self._lab = self._open.__enter__()
            self._used = 0
        self._lab.ready()
        self._used += 1
        return self._lab

    def close(self, *, kept: bool = False) -> None:
        """End it. kept: it has a flaw already; else it is looked through once more, from the disk."""
        lab, self._lab = self._lab, None
        if lab is None:
            return
        flaws: list[str] = []
        try:
            if not kept:
                flaws = check(lab.history(anew=True), lab.app, lab.replays)
        finally:
            self._open.__exit__(None, None, None)
        if flaws:
            raise FlawedError(lab.folder, flaws)
        if not kept:
            shutil.rmtree(lab.folder, ignore_errors=True)

    @property
    def folder(self) -> str:
        """Of the laboratory that is open."""
        return str(self._lab.folder) if self._lab is not None else ""


class FlawedError(AssertionError):
    """A laboratory was clean after each of its sessions, and is not at its end."""

    def __init__(self, folder: Path, flaws: list[str]) -> None:
        """folder: the laboratory's, which is kept."""
        super().__init__(str(folder), *flaws)
        self.folder, self.flaws = folder, flaws


def at_once(jobs: int, do: Callable[[Bench, T], Finding], work: Iterable[T]) -> Iterator[Finding]:
    """Findings as they come. do: a function of a module; it is called in `jobs` processes. work: taken in its order."""
    context = multiprocessing.get_context("spawn")
    waiting: Any = context.Queue(jobs)
    found: Any = context.Queue()
    processes = [
        context.Process(target=_serve, args=(do, waiting, found), name=f"laboratory {i}", daemon=False)
        for i in range(jobs)
    ]
    for process in processes:
        process.start()
    left = chain(work, repeat(None, jobs))
    try:
        while any(process.is_alive() for process in processes) or not found.empty():
            _fill(waiting, left)
            try:
                yield found.get(timeout=0.2)
            except Empty:
                continue
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _fill(waiting: Any, left: Iterator[Any]) -> None:
    """Hand out what there is room for."""
    while not waiting.full():
        try:
            waiting.put(next(left))
        except StopIteration:
            return


def _serve(do: Callable[[Bench, Any], Finding], waiting: Any, found: Any) -> None:
    """Work in this process until there is no more."""
    bench = Bench()
    with _closed(bench, found):
        while (thing := waiting.get()) is not None:
            try:
                finding = do(bench, thing)
            except FlawedError as error:
                finding = Finding(f"before {thing}", flaws=tuple(error.flaws), folder=str(error.folder))
            except Exception:  # noqa: BLE001 - the laboratory's own bug, too, must be seen and counted
                finding = Finding(f"{thing}", flaws=(traceback.format_exc(),), folder=bench.folder)
            if finding.flaws:
                bench.close(kept=True)
            found.put(finding)


@contextmanager
def _closed(bench: Bench, found: Any) -> Iterator[None]:
    try:
        yield
    finally:
        try:
            bench.close()
        except FlawedError as error:
            found.put(Finding("the end of a laboratory", flaws=tuple(error.flaws), folder=str(error.folder)))
