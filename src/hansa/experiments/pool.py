"""Cells run in processes of their own, side by side; whatever is finished stays, whoever is killed."""

import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import cast

from hansa.errors import ConfigError
from hansa.experiments.cells import Cell, cell_to
from hansa.simulation import child
from hansa.simulation.choice import cores
from hansa.simulation.pipes import Channel, Message, receive, send
from hansa.simulation.record import Record, open_record
from hansa.store.disk import alone_in

__all__ = ["Broken", "Progress", "run_cells"]


@dataclass(frozen=True, slots=True)
class Broken:
    """A cell that raised, or whose process ended; it is tried again when the experiment is."""

    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What has just happened."""

    cells: int
    """In all."""
    finished: int
    found: int
    """Of them, those that had been finished before."""
    rounds: int
    """Of cells that are at work now."""
    cell: Cell | None = None
    """The one that has just finished."""
    outcome: Record | Broken | None = None


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    jobs: Channel
    answers: Channel
    cell: Cell | None = None
    round: int = 0

    def end(self) -> int:
        """Close its pipes and kill it; returns its status, as `subprocess` has it."""
        self.jobs.close()
        self.answers.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


@dataclass(slots=True)
class _Pool:
    folder: Path
    jobs: int
    told: Callable[[Progress], None]
    left: deque[Cell]
    total: int
    found: int
    outcomes: dict[str, Record | Broken]
    workers: list[_Worker] = field(default_factory=list)

    def run(self) -> None:
        """Until no cell is left."""
        try:
            while self.left or any(worker.cell for worker in self.workers):
                while self.left and (worker := self._idle()) is not None:
                    self._give(worker, self.left.popleft())
                busy = {worker.answers: worker for worker in self.workers if worker.cell}
                for pipe in wait(list(busy)):
                    self._hear(busy[cast("Channel", pipe)])
        finally:
            while self.workers:
                self.workers.pop().end()

    def _idle(self) -> _Worker | None:
        for worker in self.workers:
            if worker.cell is None:
                return worker
        if len(self.workers) >= self.jobs:
            return None
        # what apps print goes where a person reads it, and not among results
        self.workers.append(_Worker(*child.start("hansa.experiments.worker", stdout=2)))
        return self.workers[-1]

    def _give(self, worker: _Worker, cell: Cell) -> None:
        worker.cell, worker.round = cell, 0
        with suppress(OSError):  # it has died: the end of its answers tells
            share = max(1, cores() // self.jobs)
            send(worker.jobs, {"cell": cell_to(cell), "folder": str(self.folder / cell.key), "workers": share})

    def _hear(self, worker: _Worker) -> None:
        cell = cast("Cell", worker.cell)
        try:
            answer, _ = receive(worker.answers)
        except (EOFError, OSError):
            self.workers.remove(worker)
            status = worker.end()
            how = f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
            self._note(cell, Broken(f"its process ended, with {how}"))
            return
        if "round" in answer:
            worker.round = answer["round"]
            self._tell()
            return
        worker.cell = None
        self._note(cell, self._outcome(cell, answer))

    def _outcome(self, cell: Cell, answer: Message) -> Record | Broken:
        if "failed" in answer:
            return Broken(answer["failed"], answer["traceback"])
        return open_record(self.folder / cell.key)

    def _note(self, cell: Cell, outcome: Record | Broken) -> None:
        self.outcomes[cell.key] = outcome
        self._tell(cell, outcome)

    def _tell(self, cell: Cell | None = None, outcome: Record | Broken | None = None) -> None:
        rounds = sum(worker.round for worker in self.workers if worker.cell)
        self.told(Progress(self.total, len(self.outcomes), self.found, rounds, cell, outcome))


def run_cells(
    cells: Sequence[Cell], folder: Path, *, jobs: int | None, told: Callable[[Progress], None]
) -> Mapping[str, Record | Broken]:
    """Key → the record of the cell, or why there is none. What is in the folder already is not run again.

    folder: has a record per cell, by its key, each there whole or not at all. jobs: processes; None for one per core.
    told: called after each round. Raises `ConflictError` where another process is at the same folder.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs is {jobs}; it must be at least 1")
    wanted = {cell.key: cell for cell in cells}
    busy = f"another process is at work in {folder}: wait for it, or choose another folder"
    with alone_in(folder, busy):
        for leftover in folder.glob(".*-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        found: dict[str, Record | Broken] = {
            key: open_record(folder / key) for key in wanted if (folder / key).is_dir()
        }
        left = deque(cell for key, cell in wanted.items() if key not in found)
        pool = _Pool(folder, jobs or cores(), told, left, len(wanted), len(found), dict(found))
        told(Progress(len(wanted), len(found), len(found), 0))
        pool.run()
    return pool.outcomes
