"""FedNAS on the digits of scikit-learn: what a searched architecture is worth beside random ones, trained alike.

python benchmarks/reproduce/fednas.py [--seeds 3] [--random 6]

Ten clients, images drawn at random. A search of 12 rounds; then the architecture that was found, random ones and
that of convolutions alone are each trained from their first tensors by FedAvg for 12 rounds. Accuracy on the 359
test images after the last round.
"""

import argparse
import statistics
from collections.abc import Sequence

import numpy as np
import torch

import hansa
from hansa.data import Examples, digits, partition
from hansa.training.torch import TorchTrainer
from hansa.training.torch_cells import OPERATIONS, genotype, network, search_network

CLIENTS = 10
ROUNDS = 12
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


def searched(seed: int) -> tuple[tuple[str, ...], float]:
    """(the architecture that FedNAS finds, the supernet's own accuracy)."""
    app = app_of(lambda: search_network(1, 10, nodes=2, **SMALL), seed)
    options = {"learning_rate": 0.5, "steps": 3}
    result = hansa.simulate(
        app, algorithm="fednas", algorithm_options=options, clients=CLIENTS, rounds=ROUNDS, seed=seed
    )
    return genotype(result.model["alpha"]), result.rounds[-1].central["accuracy"]


def trained(architecture: Sequence[str], seed: int) -> float:
    """The accuracy of an architecture, from its first tensors."""
    app = app_of(lambda: network(1, 10, architecture, **SMALL), seed)
    return hansa.simulate(app, clients=CLIENTS, rounds=ROUNDS, seed=seed).rounds[-1].central["accuracy"]


def main() -> None:
    """Print a table, a row for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--random", type=int, default=6, help="random architectures for each seed")
    given = parser.parse_args()
    print("| seed | found | convolutions alone | random: mean, least to most | supernet | architecture |")
    print("|---|---|---|---|---|---|")
    for seed in range(given.seeds):
        architecture, supernet = searched(seed)
        rng = np.random.default_rng(seed)
        others = [[str(name) for name in rng.choice(list(OPERATIONS)[1:], EDGES)] for _ in range(given.random)]
        reached = [trained(each, seed) for each in others]
        print(
            f"| {seed} | {trained(architecture, seed):.3f} | {trained(['convolution 5×5'] * EDGES, seed):.3f} "
            f"| {statistics.mean(reached):.3f}, {min(reached):.3f} to {max(reached):.3f} | {supernet:.3f} "
            f"| {', '.join(architecture)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
