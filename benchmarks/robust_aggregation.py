"""What a fold of many large updates takes, with aggregators that keep them: time, disk, and memory that does not grow.

Updates of N(0, 0.01²) in float32 are folded, spooled and reported as a server does it, in a process of its own for each
row. Seconds are of the processor, without waits for the disk. Memory is the peak of Python's and numpy's allocations,
the update on its way among them; the pages of the spool are the system's cache, and not in it.
"""

import argparse
import json
import subprocess
import sys
import time
import tracemalloc

import numpy as np

from hansa.arrays import Arrays
from hansa.messages import Contribution, Update
from hansa.run import plugin
from hansa.store.spool import empty_partial

RULES: dict[str, dict[str, object]] = {
    "mean": {},
    "median": {},
    "trimmed-mean": {},
    "multi-krum": {"f": 2},
    "geometric-median": {},
    "bulyan": {"f": 2},
    "centered-clipping": {"tau": 10.0},
    "foolsgold": {},
}


def measured(rule: str, clients: int, size: int, *, traced: bool) -> dict[str, float]:
    """Seconds of folding and of the report; where `traced`, which takes time, megabytes allocated at most."""
    aggregator = plugin("hansa.aggregators", rule)(**RULES[rule])
    rng = np.random.default_rng(0)
    plan = aggregator.plan(Arrays({"w": np.zeros(size, np.float32)}))
    update = (rng.standard_normal(size, np.float32) * np.float32(0.01)).astype(np.float32)
    if traced:
        tracemalloc.start()
    partial = empty_partial(aggregator, plan)
    began = time.process_time()
    for index in range(clients):
        arrays = Arrays({"w": np.roll(update, index * 1009)})
        aggregator.accumulate(plan, partial, Update(arrays, 1), Contribution(f"client-{index:04}", 1))
    folded = time.process_time()
    aggregator.report(plan, partial)
    done = time.process_time()
    most = tracemalloc.get_traced_memory()[1] if traced else 0
    return {"fold": folded - began, "report": done - folded, "allocated": most / 1e6}


def alone(rule: str, clients: int, size: int, *, traced: bool) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", rule, str(clients), str(size), str(int(traced))]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603
    return found


def main() -> None:
    """Print a table, a row for each rule and number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--size", type=int, default=10_000_000, help="values of an update")
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        rule, clients, size, traced = chosen.one
        print(json.dumps(measured(rule, int(clients), int(size), traced=bool(int(traced)))))
        return
    mega = chosen.size * 4 / 1e6
    head = "| rule | clients | updates | fold | report | memory at most |\n|---|---|---|---|---|---|"
    print(f"{mega:g} MB an update\n\n{head}")
    for rule in chosen.rules:
        for clients in chosen.clients:
            timed = alone(rule, clients, chosen.size, traced=False)
            traced = alone(rule, clients, chosen.size, traced=True)
            print(
                f"| {rule} | {clients} | {clients * mega / 1e3:.1f} GB "
                f"| {timed['fold']:.1f} s | {timed['report']:.1f} s | {traced['allocated']:.0f} MB |",
                flush=True,
            )


if __name__ == "__main__":
    main()
