"""Many seeds on many cores, and a failing case made small."""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from agreement.cases import Case, draw, smaller
from agreement.engines import TOLERANCE, Ended, differences, run, windows_of

__all__ = ["Figures", "Verdict", "judge", "shrunk", "sweep"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one case."""

    case: Case
    wrong: tuple[str, ...]
    together: str
    """How many were trained: "together", else why not."""


@dataclass(slots=True)
class Figures:
    """Of a sweep."""

    cases: int = 0
    how: Counter[str] = field(default_factory=Counter)


def judge(case: Case, *, processes: bool = False) -> Verdict:
    """Run a case by the engines. processes: also in worker processes, which takes seconds."""
    alone = run(case, "inline")
    together = run(case, "vectorized")
    tolerance = TOLERANCE[case.dtype] * (100 if case.transforms else 1)  # what is rounded may be rounded the other way
    if any(each.startswith("top-k") for each in case.transforms):
        tolerance = 1e-2  # of two numbers of one size, rounding says which is sent
    wrong = [f"vectorized: {each}" for each in differences(alone, together, tolerance)]
    how = f"ended by {alone.kind}" if isinstance(alone, Ended) else "?"
    if not isinstance(together, Ended):
        how = "together" if together.engine == "vectorized" else f"alone: {together.because}"
    if how == "together":
        with windows_of(2):
            wrong += [f"two by two: {each}" for each in differences(together, run(case, "vectorized"), 0, tolerance)]
    elif not wrong:
        wrong += [f"alone in name: {each}" for each in differences(alone, together, 0)]
    if processes:
        tolerant = replace(case, tolerate=True)  # else an error ends the one as it is, the other as a worker's
        with TemporaryDirectory() as folder:
            spread = run(tolerant, "processes", Path(folder), workers=1)
            wrong += [f"processes: {each}" for each in differences(run(tolerant, "inline"), spread, 0)]
    return Verdict(case, tuple(wrong), how)


def shrunk(case: Case, fails: Callable[[Case], bool]) -> Case:
    """The smallest case that is found by leaving out or making plain one thing after another."""
    for candidate in smaller(case):
        if fails(candidate):
            return shrunk(candidate, fails)
    return case


def _verdict(given: tuple[int, bool]) -> tuple[int, Verdict]:
    seed, processes = given
    return seed, judge(draw(seed), processes=processes)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    torch.set_num_threads(1)


def sweep(seeds: range, jobs: int, *, processes: bool = False) -> Iterator[tuple[int, Verdict]]:
    """The verdicts, as they come."""
    with multiprocessing.get_context("spawn").Pool(jobs, _begin, maxtasksperchild=500) as pool:
        yield from pool.imap_unordered(_verdict, ((seed, processes) for seed in seeds), chunksize=4)
