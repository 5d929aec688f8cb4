"""Which engine is the fastest for an app on this machine: some clients are trained in each way, and nothing is kept."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from hansa.simulation.fold import Assignment, Folding, Raised, attempt, failure
from hansa.simulation.vectorized import Vectorization

__all__ = ["START", "Choice", "choose", "cores"]

_ALONE = 3
"""Clients that are trained one after another."""

_TOGETHER = 64
"""Clients that are trained at once."""

START = 3.0
"""Seconds until worker processes have loaded PyTorch and the app: they must save more."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, its workers, and what was measured."""

    engine: Literal["inline", "processes", "vectorized", "mpi", "ray"]
    workers: int
    """0: as many as where the engine runs has places for, of "vectorized" once they pay."""
    because: str = ""
    """For a person."""


def choose(folding: Folding, vectorization: Vectorization, clients: Sequence[str], rounds: int, workers: int) -> Choice:
    """Try the first of these clients, who train in a round of which `folding` has the model.

    workers: how many processes there may be; 1 where the app has no file that they could load.
    """
    tasks = [Assignment(client) for client in clients[:_TOGETHER]]
    alone = attempt(lambda: _seconds(lambda: folding.rehearse(tasks[:_ALONE])) / len(tasks[:_ALONE]))
    if isinstance(alone, Raised):
        return Choice("inline", 1, f"training cannot be tried: {failure(alone.error).message}")
    together = _seconds(lambda: vectorization.rehearse(tasks)) / len(tasks)
    if vectorization.obstacle is None:
        said = f"{together * 1e3:.3g} ms for a client together with others, {alone * 1e3:.3g} ms alone"
    else:
        said = f"{alone * 1e3:.3g} ms for a client; {vectorization.obstacle}"
    faster = vectorization.obstacle is None and together < alone
    saved = min(alone, together) * len(clients) * rounds * (1 - 1 / workers)
    processes = workers if saved > START else 1
    if faster:
        return Choice("vectorized", processes, said)
    return Choice("inline" if processes == 1 else "processes", processes, said)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seconds(work: Callable[[], object]) -> float:
    """Of the second time: the first loads data, and whatever else is done once."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
