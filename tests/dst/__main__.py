"""`python -m dst`: run seeds and print what was found; see docs/explanation/simulated-faults.md."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from dst.plants import PLANTS
from dst.schedule import draw
from dst.sweep import Figures, Verdict, judge, reproduction, shrunk, sweep

_EVERY = 1000
"""Schedules between two lines that say how far a sweep is."""


def main() -> int:
    """Exit with 1 when an invariant is violated."""
    parser = argparse.ArgumentParser(prog="python -m dst", description=__doc__)
    parser.add_argument("--seeds", default="0:1000", help="first:last, the last one excluded; asynchronous from 10^9")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, help="one schedule alone, with all that happened")
    parser.add_argument("--only", help="with --seed: the numbers of its faults that strike, from 0; none: no fault")
    parser.add_argument("--plant", default="", choices=["", *PLANTS], help="put this bug into the product before")
    parser.add_argument("--plants", action="store_true", help="find each of the known bugs")
    given = parser.parse_args()
    if sys.flags.hash_randomization:  # sets of names are walked in an order that depends on it
        environment = {**os.environ, "PYTHONHASHSEED": "0"}  # noqa: TID251 - handed on, not read
        os.execve(sys.executable, [sys.executable, "-m", "dst", *sys.argv[1:]], environment)  # noqa: S606 - itself
    if given.plants:
        return _plants(given.jobs)
    if given.seed is not None:
        return _one(given.seed, given.only, given.plant)
    return _many(given.seeds, given.jobs, given.seconds, given.plant)


def _one(seed: int, only: str | None, plant: str) -> int:
    plan = draw(seed)
    if only is not None:
        kept = [] if only == "none" else [int(number) for number in only.split(",")]
        plan = replace(plan, faults=tuple(plan.faults[number] for number in kept))
    verdict, world = judge(plan, plant, verbose=True)
    for note in world.history.notes:
        print(note)
    print(f"{plan.shape}, {plan.clients} clients, faults:")
    for fault in plan.faults:
        print(f"  {fault}")
    for said in verdict.wrong:
        print(f"VIOLATED {said}")
    print(f"history {verdict.history[:16]}, {dict(verdict.sessions)}")
    sys.stdout.flush()
    os._exit(1 if verdict.wrong else 0)  # what was killed is not to be cleaned up


def _many(seeds: str, jobs: int, seconds: float, plant: str) -> int:
    first, _, last = seeds.partition(":")
    began = time.monotonic()
    numbers = range(int(first), int(last or int(first) + 1))

    def tell(figures: Figures, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.wrong:
                print(f"seed {verdict.seed} VIOLATES {verdict.wrong[0]}", flush=True)
        if figures.schedules // _EVERY > (figures.schedules - len(verdicts)) // _EVERY:
            print(f"so far {figures.line(time.monotonic() - began)}", flush=True)

    figures = sweep(numbers, jobs, seconds=seconds, plant=plant, on_batch=tell)
    for line in figures.lines(time.monotonic() - began):
        print(line)
    for verdict in sorted(figures.failing, key=lambda each: each.seed)[:10]:
        print(f"\nseed {verdict.seed}: {verdict.wrong[0]}")
        plan = shrunk(draw(verdict.seed), plant)
        print(f"  {reproduction(plan, plant)}")
        for fault in plan.faults:
            print(f"  {fault}")
    more = [verdict.seed for verdict in sorted(figures.failing, key=lambda each: each.seed)[10:]]
    if more:
        print(f"\nand the seeds {more}")
    return 1 if figures.failing else 0


def _plants(jobs: int) -> int:
    missed = 0
    for name, plant in PLANTS.items():
        figures = sweep(range(plant.first, plant.first + plant.within), jobs, plant=name, enough=1, batch=4)
        found = min(figures.failing, key=lambda each: each.seed, default=None)
        missed += found is None
        said = f"seed {found.seed}: {found.wrong[0]}" if found else f"not found within {plant.within} seeds"
        print(f"{name}: {said}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
