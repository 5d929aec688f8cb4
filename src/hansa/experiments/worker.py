"""What runs in each process of an experiment: take cells from a pipe, simulate, record, say so on another pipe.

It lives as long as its pipe of cells: when the experiment ends, or is killed, the process and what it started end too.
"""

import contextlib
import os
import queue
import signal
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from hansa.errors import AppError, HansaError
from hansa.experiments.cells import Cell, cell_from
from hansa.experiments.summary import is_reached
from hansa.simulation import RoundRecord, simulate
from hansa.simulation.curves import numbers_of
from hansa.simulation.named_devices import devices_of
from hansa.simulation.pipes import Channel, receive, send
from hansa.simulation.record import code_digest

__all__ = ["main"]

Jobs: TypeAlias = "queue.SimpleQueue[Mapping[str, Any]]"


def main(jobs_fd: int, answers_fd: int) -> None:
    """Serve until the pipe of cells is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the experiment hears Ctrl-C, and closes the pipe
    jobs: Jobs = queue.SimpleQueue()
    threading.Thread(target=_take, args=(Connection(jobs_fd, writable=False), jobs), daemon=True).start()
    answers: Channel = Connection(answers_fd, readable=False)
    while True:
        job = jobs.get()
        try:
            _simulate(cell_from(job["cell"]), Path(job["folder"]), job["workers"], answers)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything, and call exit()
            said = str(error) if isinstance(error, HansaError) else f"{type(error).__name__}: {error}"
            send(answers, {"failed": said, "traceback": "".join(traceback.format_exception(error))})
        else:
            send(answers, {"done": True})


def _simulate(cell: Cell, folder: Path, workers: int, answers: Channel) -> None:
    """workers: of an engine that has any, as the other cells' processes leave it."""

    def told(done: RoundRecord) -> None:
        send(answers, {"round": done.round})

    left = dict.fromkeys(cell.until)

    def enough(done: RoundRecord) -> bool:
        """Whether all that it is run for has been reached by now."""
        known = numbers_of(asdict(done))
        for metric, aim in list(left):
            if metric in known and is_reached(metric, known[metric], aim):
                del left[metric, aim]
        return not left

    if code_digest(cell.app) != cell.code:
        raise AppError(f"the app {cell.app} has changed since the experiment began: run that again, for all is anew")
    so_far = folder.with_name(f"{folder.name}.jsonl")
    result = simulate(
        cell.app,
        cell.spec,
        clients=cell.clients,
        devices=devices_of(cell.devices),
        attack=cell.attack,
        engine=cell.engine,  # type: ignore[arg-type]  # `simulate` refuses another name
        workers=None if cell.engine == "inline" else workers,
        on_round=told,
        stop=enough if cell.until else None,
        progress=False,
        tracker=f"jsonl:{so_far}",
    )
    result.save_record(folder, with_model=False)
    so_far.unlink()


def _take(pipe: Channel, jobs: Jobs) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            jobs.put(receive(pipe)[0])
    os.killpg(0, signal.SIGKILL)  # this process leads a group of its own: what user code started ends with it
