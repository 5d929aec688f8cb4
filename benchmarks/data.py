"""What data cost: CPU seconds to partition a million samples, and what a million registered owners hold.

`python benchmarks/data.py` prints a row for each registered partition, each in a fresh process; then the memory of a
million owners as names, and the CPU seconds to read one of them from files with many.
"""

import argparse
import csv
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hansa
from hansa.data import Examples, FederatedData, Split, csv_table, partition
from hansa.data.federated import Names
from hansa.simulation.traces import diurnal

SAMPLES = 1_000_000
LABELS = 62
OWNERS = 3_550
OPTIONS = {
    "dirichlet": ":0.5",
    "dirichlet_by_class": ":0.5,min_size=10",
    "similarity": ":0.1",
    "label_count": ":2",
    "label_lognormal": ":2",
}
REGISTERED = (1_000, 1_000_000)


def partitioned(name: str, clients: int) -> dict[str, Any]:
    """The fastest of three runs on a million samples, in CPU seconds; 62 labels, 32 features, 3,550 owners."""
    rng = np.random.default_rng(0)
    labels, owners = rng.integers(0, LABELS, SAMPLES), rng.integers(0, OWNERS, SAMPLES)
    x = rng.normal(size=(SAMPLES, 3 if name == "octants" else 32)).astype(np.float32)
    count = OWNERS if name == "natural" else clients
    seconds = []
    for seed in range(3):
        began = time.process_time()
        parts = partition.partition(
            name + OPTIONS.get(name, ""),
            labels,
            count,
            np.random.default_rng(seed),
            x=x,
            owners=owners,
            coarse=labels // 4,
        )
        seconds.append(time.process_time() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"name": name, "clients": len(parts), "seconds": min(seconds), "peak_mb": peak}


def registered(total: int) -> dict[str, Any]:
    """Ten rounds of a hundred clients each, of so many owners; the peak of traced memory beyond their names."""
    examples = Examples(np.zeros((20, 4), np.float32), np.zeros(20, np.int64))
    read: list[str] = []

    def reader(name: str) -> Split:
        read.append(name)
        return Split(examples.take(np.arange(16)), examples.take(np.arange(16, 20)))

    tracemalloc.start()
    names = Names(f"owner{k}" for k in range(total))
    held = tracemalloc.get_traced_memory()[0]
    users = FederatedData(names, reader)
    app = hansa.App()
    app.data(users.share)
    app.model(lambda _rng: {"w": np.zeros(4, np.float32)})
    app.train(lambda model, task: hansa.Update({"w": model["w"] + task.data.train.x.mean(axis=0)}, num_examples=16))
    tracemalloc.reset_peak()
    hansa.simulate(app, clients=total, rounds=10, rules=hansa.RoundRules(selection="count", count=100))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"owners": total, "read": len(read), "names_mb": held / 1e6, "rounds_mb": (peak - held) / 1e6}


def from_csv(_: int) -> dict[str, Any]:
    """A table of 200,000 rows of 20,000 owners."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.csv"
        rng = np.random.default_rng(0)
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["who", *(f"x{k}" for k in range(8)), "y"])
            for row in rng.normal(size=(200_000, 8)).round(4).tolist():
                writer.writerow([f"u{int(rng.integers(20_000))}", *row, int(row[0] > 0)])
        began = time.process_time()
        users = csv_table.read_clients(file, "who", "y")
        opened = time.process_time() - began
        began = time.process_time()
        for k in range(100):
            users.at(k * 100)
        return {"owners": len(users), "open_s": opened, "read_ms": 10 * (time.process_time() - began)}


def traced(total: int) -> dict[str, Any]:
    """A round of a hundred of so many clients on 1,000 generated phones."""
    app = hansa.App()
    app.model(lambda _rng: {"w": np.zeros(4, np.float32)})
    app.data(lambda _client: np.zeros(20))
    app.train(lambda model, _task: hansa.Update({"w": model["w"] + 1}, num_examples=20))
    rules = hansa.RoundRules(selection="count", count=100, min_clients=100, deadline=86400.0)
    devices = diurnal(1000)
    began = time.process_time()
    hansa.simulate(app, clients=total, rounds=5, devices=devices, rules=rules)
    return {"clients": total, "round_s": (time.process_time() - began) / 5}


def fresh(what: str, *arguments: object) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--only", what, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this very file
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """All of it, as tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 1000], help="clients of a partition")
    parser.add_argument("--only", nargs="+", help="measure one thing, and print JSON")
    given = parser.parse_args(arguments)
    if given.only:
        kinds: dict[str, Callable[[int], dict[str, Any]]] = {
            "registered": registered,
            "csv": from_csv,
            "traced": traced,
        }
        what, number = given.only[0], int(given.only[1])
        print(json.dumps(kinds[what](number) if what in kinds else partitioned(what, number)))
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}\n")
    print(f"{SAMPLES:,} samples, {LABELS} labels; the fastest of three\n")
    print(f"{'partition':>20} " + " ".join(f"{count:>10,}" for count in given.clients) + "  clients; CPU seconds")
    for name in partition.SCHEMES:
        counts = given.clients[:1] if name == "clusters" else given.clients  # k-means is slow by nature
        rows = [fresh(name, count) for count in counts]
        print(f"{name:>20} " + " ".join(f"{row['seconds']:>10.2f}" for row in rows))
    print(f"\n{'owners':>12} {'read':>6} {'names':>10} {'rounds':>10}")
    for total in REGISTERED:
        row = fresh("registered", total)
        print(f"{total:>12,} {row['read']:>6} {row['names_mb']:>7.1f} MB {row['rounds_mb']:>7.2f} MB")
    row = fresh("csv", 0)
    print(f"\nCSV of 200,000 rows, {row['owners']:,} owners: {row['open_s']:.2f} s to open")
    print(f"and {row['read_ms']:.2f} ms to read one owner")
    for total in REGISTERED:
        row = fresh("traced", total)
        print(f"a round of 100 of {total:,} clients on a trace of 1,000 phones: {row['round_s']:.3f} s")


if __name__ == "__main__":
    main()
