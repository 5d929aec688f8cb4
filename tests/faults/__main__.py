"""The fault laboratory from the command line: `make faults ARGS="sweep"`, `make faults ARGS="random --hours 8"`.

sweep                        kill each kind of process before and after every durable step and turning point
strace                       kill each kind of process at every fsync, SQLite's too, and at its writes, one by one
random [--from N] [--count N | --hours H]   schedules drawn from seeds; a failing one is shrunk and printed
    with --keep-going it is only counted, and the laboratory kept
one SEED                     one schedule, told step by step
plants                       the known bugs: which of them the checker finds
baseline [--rounds N]        what processes hold after many rounds with clients that come and go, beside before

--jobs N (of sweep, strace and random): so many laboratories at once; most of their time is waiting.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from itertools import takewhile

from faults.baseline import WARM_UP, baseline, figures
from faults.campaign import Finding, Tally, at_once
from faults.errands import VICTIMS, injected, places, scheduled, swept
from faults.plants import PLANTS
from faults.schedules import draw, judged_alone, planted, shrink
from faults.syscalls import CALLS, untraceable

_JOBS = os.cpu_count() or 1
_TELL = 50
"""Schedules after which the kinds of faults are printed."""


def main() -> int:
    """Run what is asked for; the exit status is 1 when something was found that should not be, or not found."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sweeping = commands.add_parser("sweep")
    sweeping.add_argument("--kind", choices=[*VICTIMS], action="append")
    sweeping.add_argument("--jobs", type=int, default=_JOBS)
    tracing = commands.add_parser("strace")
    tracing.add_argument("--kind", choices=[*VICTIMS], action="append")
    tracing.add_argument("--jobs", type=int, default=_JOBS)
    randomly = commands.add_parser("random")
    randomly.add_argument("--from", type=int, default=0, dest="first")
    randomly.add_argument("--count", type=int, default=10**9)
    randomly.add_argument("--hours", type=float, default=1000.0)
    randomly.add_argument("--jobs", type=int, default=_JOBS)
    randomly.add_argument("--keep-going", action="store_true")
    commands.add_parser("one").add_argument("seed", type=int)
    commands.add_parser("baseline").add_argument("--rounds", type=int, default=1000)
    commands.add_parser("plants").add_argument("names", nargs="*")
    given = parser.parse_args()
    match given.command:
        case "sweep":
            return sweep(given.kind or [*VICTIMS], given.jobs)
        case "strace":
            return strace(given.kind or [*VICTIMS], given.jobs)
        case "random":
            return at_random(given.first, given.count, given.hours, given.jobs, keep_going=given.keep_going)
        case "one":
            schedule = draw(given.seed)
            print(*schedule.actions, sep="\n")
            flaws = judged_alone(schedule)
            print(*flaws or ["no violation"], sep="\n")
            return int(bool(flaws))
        case "baseline":
            print(*figures(baseline(given.rounds, WARM_UP)), sep="\n")
            return 0
        case _:
            return find_plants(given.names or [*PLANTS])


def sweep(kinds: list[str], jobs: int) -> int:
    """For every N: one session in which a process is killed at the N-th passage, until there is no N-th."""
    return _told_all(at_once(jobs, swept, places(kinds)))


def strace(kinds: list[str], jobs: int) -> int:
    """For every N: one session in which strace kills a process at its N-th call of a kind, until there is no N-th."""
    reason = untraceable()
    if reason:
        sys.exit(reason)
    return _told_all(at_once(jobs, injected, [each for each in CALLS if each.kind in kinds]))


def _told_all(findings: Iterable[Finding]) -> int:
    tally = Tally()
    for found in findings:
        tally.add(found)
        print(f"{found.what}: {found.drawn.total()} kills, {len(found.flaws)} violations | {tally}", flush=True)
        told(found)
    print(f"{tally}\nkills: {tally.kinds()}")
    return int(bool(tally.flawed))


def at_random(first: int, count: int, hours: float, jobs: int, *, keep_going: bool) -> int:
    """Schedules from seeds, many in one laboratory; one that fails is run again alone, and made smaller."""
    tally = Tally()
    until = time.monotonic() + 3600 * hours
    seeds = takewhile(
        lambda _: time.monotonic() < until and (keep_going or not tally.flawed), range(first, first + count)
    )
    for found in at_once(jobs, scheduled, seeds):
        tally.add(found)
        print(f"{found.what}: {found.drawn.total()} faults, {len(found.flaws)} violations | {tally}", flush=True)
        told(found)
        if tally.done % _TELL == 0:
            print(f"faults: {tally.kinds()}\nstruck where they waited: {tally.struck.total()}", flush=True)
    print(f"from seed {first}: {tally}\nfaults: {tally.kinds()}\nstruck where they waited: {tally.struck.total()}")
    for found in tally.flawed[:1] if not keep_going else ():
        schedule = draw(int(found.what.partition(" ")[2]))
        print(f"alone, {found.what} gives:", flush=True)
        flaws = judged_alone(schedule)
        print(*flaws or ["no violation"], sep="\n", flush=True)
        if flaws:
            print("the smallest schedule that fails:", *shrink(schedule, judged_alone).actions, sep="\n  ")
    return int(bool(tally.flawed))


def told(found: Finding) -> None:
    """Print what is wrong."""
    if found.flaws:
        print(*found.flaws, f"the laboratory is kept in {found.folder}", sep="\n  ", flush=True)


def find_plants(names: list[str]) -> int:
    """Which of the known bugs the checker finds."""
    missed = []
    for name in names:
        flaws = planted(name)
        print(
            f"{'found ' if flaws else 'MISSED'} {name}: {PLANTS[name].about}", *flaws[:1], sep="\n       ", flush=True
        )
        missed += [] if flaws else [name]
    print(f"{len(names) - len(missed)} of {len(names)} found")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
