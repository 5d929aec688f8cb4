"""How fast workers agree, and what it costs not to have a server: 16 workers on each topology.

The first table has |λ₂| of the mixing matrix and the factor that was measured: average consensus of 16 vectors of
dimension 100, the distance to their mean at step T over that at T/2, per step; T is such that |λ₂|^T is 1e-9.

The second has softmax regression on the handwritten digits of scikit-learn, split among the workers by Dirichlet(0.1)
of the labels, so that nobody has more than five of the ten digits: one pass in batches of 16 at learning rate 0.1, then
one step of
mixing. Test accuracy of the mean model, of the worst worker and of the median one; kB that a worker sends in a round.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import hansa
from hansa.arrays import Arrays
from hansa.data import Examples, digits, partition
from hansa.distributed import (
    complete,
    directed_ring,
    dsgd,
    erdos_renyi,
    exponential,
    gossip,
    mean_distance,
    mean_model,
    metropolis,
    one_peer_exponential,
    pushsum,
    random_regular,
    ring,
    run,
    second_eigenvalue,
    star,
    torus,
    uniform,
    watts_strogatz,
)
from hansa.protocols.mixing import Mixing
from hansa.protocols.topology import AnyTopology, from_edges
from hansa.training.numpy import NumpyTrainer, softmax_regression

WORKERS = 16


@dataclass(frozen=True)
class Row:
    """A topology, and the weights on it."""

    name: str
    topology: AnyTopology
    mixing: Mixing = metropolis
    weights: str = "Metropolis"


def rows() -> list[Row]:
    """All that are compared."""
    return [
        Row("complete", complete(WORKERS)),
        Row("one-peer exponential", one_peer_exponential(WORKERS), uniform, "uniform"),
        Row("exponential", exponential(WORKERS), uniform, "uniform"),
        Row("random regular, degree 4", random_regular(WORKERS, 4, np.random.default_rng(0))),
        Row("Erdős–Rényi, p = 0.3", erdos_renyi(WORKERS, 0.3, np.random.default_rng(0))),
        Row("torus, 4 × 4", torus(4, 4)),
        Row("Watts–Strogatz, k = 4, p = 0.2", watts_strogatz(WORKERS, 4, 0.2, np.random.default_rng(0))),
        Row("star", star(WORKERS)),
        Row("ring", ring(WORKERS)),
        Row("directed ring", directed_ring(WORKERS), uniform, "uniform"),
    ]


def measured_rate(row: Row, most: int = 3000) -> tuple[float, int]:
    """The factor per step over the second half of the steps, and the steps that were taken."""
    starts = np.random.default_rng(1).normal(size=(WORKERS, 100))
    first = mean_distance([Arrays({"w": start}) for start in starts])
    rate = second_eigenvalue(row.topology, row.mixing)
    steps = min(most, max(4, int(np.log(1e-9) / np.log(max(rate, 1e-3)))))
    path: list[dict[int, Arrays]] = [{} for _ in range(steps)]

    def watch(worker: int, step: int, model: Arrays) -> None:
        path[step][worker] = model

    run(gossip(lambda i: {"w": starts[i]}, steps=steps, mixing=row.mixing, watch=watch), row.topology)
    distances = [mean_distance(list(models.values())) / first for models in path]
    half = steps // 2
    if distances[-1] < 1e-13:  # noqa: PLR2004 - nothing but rounding is left
        return 0.0, steps
    return float((distances[-1] / distances[half - 1]) ** (1 / (steps - half))), steps


def digits_app() -> tuple[hansa.App, Callable[[Arrays], float]]:
    """The app, and the test accuracy of a model."""
    data = digits.read()
    shares = partition.dirichlet(data.train.y, WORKERS, alpha=0.1, rng=np.random.default_rng(0))
    app = hansa.App(trainer=NumpyTrainer(softmax_regression(64, 10), 0.1, batch_size=16))

    @app.data
    def share(client: hansa.ClientInfo) -> Examples:
        return data.train.take(shares[client.index])

    def accuracy(model: Arrays) -> float:
        logits = data.test.x @ model["weight"] + model["bias"]
        return float((logits.argmax(axis=1) == data.test.y).mean())

    return app, accuracy


def print_consensus() -> None:
    """The first table."""
    print("| topology | weights | edges | λ₂ | measured | steps |\n|---|---|---|---|---|---|")
    for row in rows():
        rate = second_eigenvalue(row.topology, row.mixing)
        measured, steps = measured_rate(row)
        edges = sum(map(len, row.topology.receivers))
        print(f"| {row.name} | {row.weights} | {edges} | {rate:.4f} | {measured:.4f} | {steps} |", flush=True)


def print_accuracy(rounds: int) -> None:
    """The second table."""
    app, accuracy = digits_app()
    print(f"\nAfter {rounds} rounds:\n")
    print("| algorithm | topology | mean model | worst worker | median worker | distance | kB |")
    print("|---|---|---|---|---|---|---|")
    simulated = hansa.simulate(app, clients=WORKERS, rounds=rounds, seed=0, aggregator_options={"uniform": True})
    print(f"| FedAvg, uniform | a server | {accuracy(simulated.model):.3f} | | | | |")
    directed = from_edges(WORKERS, lopsided(), directed=True, name="a ring with shortcuts to worker 0")
    runs = [("DSGD", row.name, dsgd(app, rounds=rounds, mixing=row.mixing), row.topology) for row in rows()]
    first = "adapt-then-combine"
    runs += [
        ("DSGD, adapting first", topology.name, dsgd(app, rounds=rounds, order=first), topology)
        for topology in (complete(WORKERS), ring(WORKERS))
    ]
    runs += [
        ("push-sum", name, pushsum(app, rounds=rounds), topology)
        for name, topology in (
            ("one-peer exponential", one_peer_exponential(WORKERS)),
            ("exponential", exponential(WORKERS)),
            ("directed ring with shortcuts", directed),
            ("star", star(WORKERS)),
        )
    ]
    for algorithm, name, program, topology in runs:
        outcome = run(program, topology, seed=0)
        models = [result.model for result in outcome.results]
        own = [accuracy(model) for model in models]
        sent = sum(outcome.sent) / WORKERS / rounds / 1000
        print(
            f"| {algorithm} | {name} | {accuracy(mean_model(models)):.3f} | {min(own):.3f} | {np.median(own):.3f} "
            f"| {mean_distance(models):.2g} | {sent:.1f} |",
            flush=True,
        )


def lopsided() -> list[tuple[int, int]]:
    """A directed ring, and an edge from every third worker to worker 0: degrees differ."""
    return [*((i, (i + 1) % WORKERS) for i in range(WORKERS)), *((i, 0) for i in range(3, WORKERS - 1, 3))]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--skip-digits", action="store_true", help="the first table alone")
    arguments = parser.parse_args()
    print_consensus()
    if not arguments.skip_digits:
        print_accuracy(arguments.rounds)


if __name__ == "__main__":
    main()
