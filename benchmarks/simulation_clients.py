"""What registered clients cost in a simulation: 100 of N train in each round, N up to a million.

`python benchmarks/simulation_clients.py [--chosen 1000]` prints, for each N and in a fresh
process: the median seconds of a round, what is left of them when the users' own functions are subtracted, the peak of
Python's and numpy's allocations in two rounds, and that of the whole process's memory in all.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc

import numpy as np

import hansa

ROUNDS = 12
REGISTERED = (1_000, 10_000, 100_000, 1_000_000)


def make_app() -> tuple[hansa.App, list[float]]:
    """A tiny model, and a list to which every call of user code adds its seconds."""
    app, spent = hansa.App(), [0.0]

    @app.model
    def initial_model(_rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"w": np.zeros(64, np.float32)}

    @app.train
    def train(model: hansa.Arrays, task: hansa.Task) -> hansa.Update:
        began = time.perf_counter()
        update = hansa.Update({"w": model["w"] + task.rng.normal(size=64).astype(np.float32)}, num_examples=10)
        spent[0] += time.perf_counter() - began
        return update

    return app, spent


def measure(clients: int, chosen: int) -> dict[str, float]:
    """One simulation for time, and one under tracemalloc for memory."""
    app, spent = make_app()
    rules = hansa.RoundRules(selection="count", count=chosen)
    began = time.perf_counter()
    result = hansa.simulate(app, clients=clients, rounds=ROUNDS, rules=rules)
    whole = time.perf_counter() - began
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    hansa.simulate(app, clients=clients, rounds=2, rules=rules)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "clients": clients,
        "round_ms": 1e3 * statistics.median(record.seconds for record in result.rounds),
        "user_ms": 1e3 * spent[0] / (ROUNDS + 2),
        "whole_s": whole,
        "peak_mb": peak / 1e6,
        "resident_mb": resident / 1e3,
    }


def main() -> None:
    """All sizes, each in its own process, as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, help="measure one size, and print JSON")
    parser.add_argument("--chosen", type=int, default=100, help="clients of a round")
    given = parser.parse_args()
    if given.clients is not None:
        print(json.dumps(measure(given.clients, given.chosen)))
        return
    print(
        f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}, hansa {hansa.__version__}"
    )
    print(f"{given.chosen} clients per round, {ROUNDS} rounds, medians\n")
    print(f"{'registered':>12} {'round':>10} {'user code':>10} {'all rounds':>11} {'allocated':>10} {'process':>9}")
    rows = []
    for clients in REGISTERED:
        command = [sys.executable, __file__, "--clients", str(clients), "--chosen", str(given.chosen)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this very file
        row = json.loads(done.stdout)
        rows.append(row)
        print(
            f"{clients:>12,} {row['round_ms']:>7.1f} ms {row['user_ms']:>7.1f} ms {row['whole_s']:>9.2f} s "
            f"{row['peak_mb']:>7.2f} MB {row['resident_mb']:>6.0f} MB"
        )
    first, last = rows[0], rows[-1]
    print(
        f"\n{last['clients']:,} against {first['clients']:,}: round × {last['round_ms'] / first['round_ms']:.2f}, "
        f"memory × {last['peak_mb'] / first['peak_mb']:.2f}"
    )


if __name__ == "__main__":
    main()
