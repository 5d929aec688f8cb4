"""`python -m agreement`: run seeds by several engines and print where they disagree."""

import argparse
import os
import sys
import time
from collections import Counter

from agreement.cases import Case, draw
from agreement.sweep import judge, shrunk, sweep


def main() -> int:
    """Exit with 1 when engines disagree."""
    parser = argparse.ArgumentParser(prog="python -m agreement", description=__doc__)
    parser.add_argument("--seeds", default="0:500", help="first:last, the last one excluded")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--processes", action="store_true", help="also in worker processes, which takes seconds a case")
    parser.add_argument("--case", help="one case alone: a seed, or JSON as it is printed")
    parser.add_argument("--keep", action="store_true", help="do not make failing cases small")
    parser.add_argument("--jax", action="store_true", help="of JAX's trainer, in one process")
    given = parser.parse_args()
    if given.jax:
        return _of_jax(given.seeds)
    if given.case is not None:
        return _one(draw(int(given.case)) if given.case.isdecimal() else Case.read(given.case), given.processes)
    return _many(given.seeds, given.jobs, given.processes, given.keep)


def _of_jax(seeds: str) -> int:
    from agreement import of_jax  # noqa: PLC0415 - it takes seconds to load

    first, _, last = seeds.partition(":")
    failing = 0
    for seed in range(int(first), int(last or int(first) + 1)):
        case = of_jax.draw(seed)
        wrong = of_jax.judge(case)
        if wrong:
            failing += 1
            kind = wrong[0].split(":")[0]
            small = of_jax.shrunk(case, kind)
            print(f"seed {seed}: {wrong[0][:300]}\n  {small}", flush=True)
    print(f"{failing} cases in which engines disagree")
    return 1 if failing else 0


def _one(case: Case, processes: bool) -> int:  # noqa: FBT001 - passed on
    verdict = judge(case, processes=processes)
    print(f"{case.text()}\n{verdict.together}")
    for said in verdict.wrong:
        print(f"DISAGREE {said}")
    return 1 if verdict.wrong else 0


def _many(seeds: str, jobs: int, processes: bool, keep: bool) -> int:  # noqa: FBT001 - passed on
    first, _, last = seeds.partition(":")
    began, how, failing = time.monotonic(), Counter[str](), 0
    for seed, verdict in sweep(range(int(first), int(last or int(first) + 1)), jobs, processes=processes):
        how[verdict.together.split(": ")[-1][:70]] += 1
        if verdict.wrong:
            failing += 1
            print(f"seed {seed}: {verdict.wrong[0][:300]}", flush=True)
            if not keep:
                kind = verdict.wrong[0].split(":")[0]
                small = shrunk(
                    verdict.case,
                    lambda case, kind=kind: any(
                        each.startswith(kind) for each in judge(case, processes=kind == "processes").wrong
                    ),
                )
                again = judge(small, processes=kind == "processes")
                print(
                    f"  python -m agreement --case '{small.text()}'\n  {again.together}; {again.wrong[0][:600]}",
                    flush=True,
                )
    wall = time.monotonic() - began
    print(f"{how.total():,} cases, {failing} in which engines disagree; {wall:.0f} s")
    for what, number in how.most_common():
        print(f"  {number:6,} {what}")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
