"""`python -m agreement`: run seeds by several engines and print where they disagree.

`python -m agreement --network` runs them as sessions of a network, `mpirun -n 3 python -m agreement --mpi` in ranks.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agreement.cases import Case, draw
from agreement.engines import differences, run
from agreement.sweep import judge, shrunk, sweep
from hansa.cli.running import log_to
from hansa.ranks import rank


def main() -> int:
    """Exit with 1 when engines disagree."""
    parser = argparse.ArgumentParser(prog="python -m agreement", description=__doc__)
    parser.add_argument("--seeds", default="0:500", help="first:last, the last one excluded")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--processes", action="store_true", help="also in worker processes, which takes seconds a case")
    parser.add_argument("--case", help="one case alone: a seed, or JSON as it is printed")
    parser.add_argument("--keep", action="store_true", help="do not make failing cases small")
    parser.add_argument("--jax", action="store_true", help="of JAX's trainer, in one process")
    parser.add_argument("--network", action="store_true", help="as sessions of a network, ten seconds a case")
    parser.add_argument("--mpi", action="store_true", help="in the ranks of mpirun, in which this was started")
    given = parser.parse_args()
    first, _, last = given.seeds.partition(":")
    seeds = range(int(first), int(last or int(first) + 1))
    if given.jax:
        return _of_jax(seeds)
    case = None
    if given.case is not None:
        case = draw(int(given.case)) if given.case.isdecimal() else Case.read(given.case)
    if given.network or given.mpi:
        cases = {str(seed): draw(seed) for seed in seeds} if case is None else {given.case: case}
        return _over_network(cases) if given.network else _in_ranks(cases)
    return _many(seeds, given.jobs, given.processes, given.keep) if case is None else _one(case, given.processes)


def _of_jax(seeds: range) -> int:
    from agreement import of_jax  # noqa: PLC0415 - it takes seconds to load

    failing = 0
    for seed in seeds:
        case = of_jax.draw(seed)
        wrong = of_jax.judge(case)
        if wrong:
            failing += 1
            kind = wrong[0].split(":")[0]
            small = of_jax.shrunk(case, kind)
            print(f"seed {seed}: {wrong[0][:300]}\n  {small}", flush=True)
    print(f"{failing} cases in which engines disagree")
    return 1 if failing else 0


def _over_network(cases: Mapping[str, Case]) -> int:
    from agreement.networks import disagreements, networked  # noqa: PLC0415 - not everybody has a network

    log_to(sys.stderr, level="error")
    compared = {name: networked(case) for name, case in cases.items()}
    return _compared((name, case, list(disagreements(case))) for name, case in compared.items())


def _in_ranks(cases: Mapping[str, Case]) -> int:
    def disagree(case: Case) -> list[str]:
        spread = run(case, "mpi")
        return [] if rank() else list(differences(run(case, "inline"), spread, 0))

    tolerant = {name: replace(case, tolerate=True) for name, case in cases.items()}  # as in worker processes
    return _compared((name, case, disagree(case)) for name, case in tolerant.items())


def _compared(cases: Iterable[tuple[str, Case, Sequence[str]]]) -> int:
    """Print what disagrees, and how many there were."""
    number = failing = 0
    for name, case, wrong in cases:
        number += 1
        if wrong:
            failing += 1
            print(f"{name}: {wrong[0][:600]}\n  python -m agreement --case '{case.text()}'", flush=True)
    if not rank():
        print(f"{number:,} cases, {failing} in which engines disagree")
    return 1 if failing else 0


def _one(case: Case, processes: bool) -> int:  # noqa: FBT001 - passed on
    verdict = judge(case, processes=processes)
    print(f"{case.text()}\n{verdict.together}")
    for said in verdict.wrong:
        print(f"DISAGREE {said}")
    return 1 if verdict.wrong else 0


def _many(seeds: range, jobs: int, processes: bool, keep: bool) -> int:  # noqa: FBT001 - passed on
    began, how, failing = time.monotonic(), Counter[str](), 0
    for seed, verdict in sweep(seeds, jobs, processes=processes):
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
