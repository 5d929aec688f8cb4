"""FedNAS on the digits of scikit-learn: what a searched architecture is worth beside random ones, trained alike.

python benchmarks/reproduce/fednas.py [--seeds 4] [--random 4] [--search 12] [--rounds 12]

Ten clients, images drawn at random. A search of 12 rounds; then the architecture that was found, random ones and
that of convolutions alone are each trained from their first tensors by FedAvg, with the same seed, for as many rounds
as the last number of `--rounds` says. Accuracy on the 359 test images after each of those numbers of rounds. A seed
is that of the shares, the first tensors and the random architectures; the last table is over the seeds.
"""

import argparse
import statistics
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

import hansa
from hansa.data import Examples, digits, partition
from hansa.training.torch import TorchTrainer
from hansa.training.torch_cells import OPERATIONS, genotype, network, search_network

CLIENTS = 10
EDGES = 3
SMALL = {"channels": 6, "cells": 1}


def app_of(module: object, seed: int) -> hansa.App:
    """The app of a network."""
    split = digits.read()
    shares = partition.iid(len(split.train.y), CLIENTS, np.random.default_rng(seed))

    def images(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        return examples.x.reshape(-1, 1, 8, 8).astype(np.float32), examples.y

    trainer = TorchTrainer(
        module,  # type: ignore[arg-type]  # it makes one
        torch.nn.functional.cross_entropy,
        lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        batch_size=16,
        epochs=3,
    )
    app = hansa.App(trainer)

    @app.data
    def share(client: hansa.ClientInfo) -> tuple[np.ndarray, np.ndarray]:
        return images(split.train.take(shares[client.index]))

    @app.central_evaluate
    def accuracy(model: hansa.Arrays, rng: np.random.Generator) -> hansa.Metrics:
        task = hansa.Task(hansa.ClientInfo("server"), 0, rng, data=images(split.test))
        return trainer.evaluate(model, task)

    return app


def searched(seed: int, rounds: int) -> tuple[tuple[str, ...], float]:
    """(the architecture that FedNAS finds, the supernet's own accuracy)."""
    app = app_of(lambda: search_network(1, 10, nodes=2, **SMALL), seed)
    options = {"learning_rate": 0.5, "steps": 3}
    result = hansa.simulate(
        app, algorithm="fednas", algorithm_options=options, clients=CLIENTS, rounds=rounds, seed=seed, progress=False
    )
    return genotype(result.model["alpha"]), result.rounds[-1].central["accuracy"]


@cache
def trained(architecture: tuple[str, ...], seed: int, rounds: tuple[int, ...]) -> list[float]:
    """The accuracy of an architecture, from its first tensors, after each of these numbers of rounds."""
    app = app_of(lambda: network(1, 10, architecture, **SMALL), seed)
    done = hansa.simulate(app, clients=CLIENTS, rounds=max(rounds), seed=seed, progress=False).rounds
    return [done[number - 1].central["accuracy"] for number in rounds]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.3f}"


def main() -> None:
    """Print a table with a row for each seed, and one over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--random", type=int, default=4, help="random architectures for each seed")
    parser.add_argument("--search", type=int, default=12, help="rounds of the search")
    parser.add_argument("--rounds", type=int, nargs="+", default=[12], help="of training what was found")
    given, _ = parser.parse_known_args()
    tables: list[list[list[float]]] = [[[] for _ in given.rounds] for _ in range(5)]
    found, plain, mean, best, above = tables
    for seed in range(given.seeds):
        architecture, supernet = searched(seed, given.search)
        print(f"seed {seed}: {', '.join(architecture)}; the supernet itself {supernet:.3f}", flush=True)
        rng = np.random.default_rng(seed)
        others = [tuple(map(str, rng.choice(list(OPERATIONS)[1:], EDGES))) for _ in range(given.random)]
        after = tuple(given.rounds)
        of_found = trained(architecture, seed, after)
        of_plain = trained(("convolution 5×5",) * EDGES, seed, after)
        of_others = list(zip(*(trained(each, seed, after) for each in others), strict=True))
        for column, rounds in enumerate(given.rounds):
            reached = of_others[column]
            found[column].append(of_found[column])
            plain[column].append(of_plain[column])
            mean[column].append(statistics.mean(reached))
            best[column].append(max(reached))
            above[column].append(of_found[column] - mean[column][-1])
            print(
                f"  after {rounds}: found {of_found[column]:.3f}, convolutions {of_plain[column]:.3f}, "
                f"random {mean[column][-1]:.3f}, {min(reached):.3f} to {max(reached):.3f}",
                flush=True,
            )
    print(f"\n| {given.seeds} seeds | " + " | ".join(f"after {rounds} rounds" for rounds in given.rounds) + " |")
    print("|---|" + "---|" * len(given.rounds))
    for title, columns in (
        ("found by FedNAS", found),
        ("convolutions 5×5 alone", plain),
        (f"{given.random} random ones, their mean", mean),
        ("the best of those on the test images", best),
        ("found, less the mean of random ones", above),
    ):
        print(f"| {title} | " + " | ".join(map(spread, columns)) + " |")


if __name__ == "__main__":
    main()
