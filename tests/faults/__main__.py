"""The fault laboratory from the command line: `make faults ARGS="sweep"`, `make faults ARGS="random --hours 8"`.

sweep                        kill each kind of process before and after every durable step and turning point
random [--from N] [--count N | --hours H]   schedules drawn from seeds; a failing one is shrunk and printed
one SEED                     one schedule, told step by step
plants                       the known bugs: which of them the checker finds
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from faults.checker import check
from faults.lab import Lab, laboratory
from faults.plants import PLANTS
from faults.points import CLIENT, COMBINER, CONTROLLER, MOMENTS, TURNS, Fault
from faults.schedules import draw, judge, judged_alone, planted, shrink
from faults.workload import ROUNDS, spec_of

VICTIMS = {CONTROLLER: "controller", COMBINER: "", CLIENT: "client-3"}
"""By kind; of the combiners, the one with the most clients at the time."""
_SESSIONS = 40
"""Sessions of one laboratory before it makes place for a new one: a history is read whole after each."""


def main() -> int:
    """Run what is asked for; the exit status is 1 when something was found that should not be, or not found."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sweep").add_argument("--kind", choices=[*VICTIMS], action="append")
    randomly = commands.add_parser("random")
    randomly.add_argument("--from", type=int, default=0, dest="first")
    randomly.add_argument("--count", type=int, default=10**9)
    randomly.add_argument("--hours", type=float, default=1000.0)
    commands.add_parser("one").add_argument("seed", type=int)
    commands.add_parser("plants").add_argument("names", nargs="*")
    given = parser.parse_args()
    match given.command:
        case "sweep":
            return sweep(given.kind or [*VICTIMS])
        case "random":
            return at_random(given.first, given.count, given.hours)
        case "one":
            schedule = draw(given.seed)
            print(*schedule.actions, sep="\n")
            return told(judged_alone(schedule))
        case _:
            return find_plants(given.names or [*PLANTS])


def told(flaws: list[str]) -> int:
    """Print what is wrong."""
    print(*flaws or ["no violation"], sep="\n", flush=True)
    return int(bool(flaws))


def sweep(kinds: list[str]) -> int:
    """For every N: one session in which a process is killed at the N-th passage, until there is no N-th."""
    struck: Counter[str] = Counter()
    for kind in kinds:
        for point in (*(["durable"] if kind != COMBINER else []), *TURNS[kind]):
            for moment in MOMENTS:
                count, flaws = swept(VICTIMS[kind], point, moment)
                struck[kind] += count
                print(f"{kind:10} {moment:6} {point:16} {count:4} kills, {len(flaws)} violations", flush=True)
                if flaws:
                    return told(flaws)
    print(f"{sum(struck.values())} kills, each in a session of {ROUNDS} rounds:", dict(struck), "no violation")
    return 0


def swept(victim: str, point: str, moment: str) -> tuple[int, list[str]]:
    """How often the victim was killed there, and what was wrong afterwards."""
    kills, passage = 0, 1
    while True:
        with laboratory(Path(tempfile.mkdtemp(prefix="hansa-lab-"))) as lab:
            lab.ready()
            for _ in range(_SESSIONS):
                if not strikes(lab, victim, Fault(point, moment, passage)):
                    return kills, check(lab.history(), lab.app)
                kills, passage = kills + 1, passage + 1
            flaws = check(lab.history(), lab.app)
        if flaws:
            return kills, flaws


def strikes(lab: Lab, victim: str, fault: Fault) -> bool:
    """Run one session with this fault; whether it struck."""
    lab.ready()
    victim = victim or lab.busiest()
    lab.arm(victim, fault)
    lab.end(lab.begin(spec_of(f"{victim}-{fault.point}-{fault.moment}-{fault.passage}")))
    return lab.struck(victim)


def at_random(first: int, count: int, hours: float) -> int:
    """Schedules from seeds, many in one laboratory; the first that fails is run again alone, and made smaller."""
    until = time.monotonic() + 3600 * hours
    done = 0
    for lab in laboratories():
        for _ in range(_SESSIONS):
            if done >= count or time.monotonic() > until:
                print(f"{done} schedules from seed {first}: no violation")
                return 0
            seed = first + done
            flaws = judge(lab, draw(seed), f"seed-{seed}")
            done += 1
            print(f"seed {seed}: {len(draw(seed).actions)} faults, {len(flaws)} violations", flush=True)
            if flaws:
                told(flaws)
                print(f"the laboratory is kept in {lab.folder}; alone, seed {seed} gives:", flush=True)
                if told(judged_alone(draw(seed))):
                    print("the smallest schedule that fails:", *shrink(draw(seed), judged_alone).actions, sep="\n  ")
                return 1
    return 0


def laboratories() -> Iterator[Lab]:
    """One after another."""
    while True:
        with laboratory(Path(tempfile.mkdtemp(prefix="hansa-lab-"))) as lab:
            lab.ready()
            yield lab


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
