"""FedAvg of softmax regression on MNIST: test accuracy by round, 10 of 100 clients, IID and two shards per client.

Learning rate 0.05, batches of 10, one epoch, pixels scaled to 0 … 1, from zeros. The numbers beside ours are from an
independent re-implementation in numpy; the partitions are McMahan et al. 2017, arXiv:1602.05629, section 3.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import hansa
from hansa.data import Examples, mnist, partition
from hansa.training.numpy import NumpyTrainer, softmax_regression

CLIENTS = 100
PER_ROUND = 10
PIXELS = 28 * 28
ROUNDS = (1, 5, 10, 20, 30, 50)
EXPECTED = {
    "IID": dict(zip(ROUNDS, (0.827, 0.878, 0.892, 0.904, 0.908), strict=False)),
    "2-shard": dict(zip(ROUNDS, (0.164, 0.581, 0.742, 0.792, 0.828, 0.866), strict=True)),
}
IID_BAND = 0.01
"""From round 10 on."""
SHARD_BAND = 0.03
"""At round 50."""


def read(directory: Path) -> tuple[Examples, Examples]:
    """Train and test, pixels as float32 from 0 to 1, shape (n, 784)."""
    split = mnist.read(directory)
    train, test = (Examples(part.x.reshape(-1, PIXELS) / np.float32(255), part.y) for part in (split.train, split.test))
    return train, test


def make_app(train: Examples, test: Examples, split: str, seed: int) -> hansa.App:
    """One hundred clients of 600 images each, partitioned with `seed`."""
    rng = np.random.default_rng(seed)
    parts = partition.iid(len(train.y), CLIENTS, rng) if split == "IID" else partition.shards(train.y, CLIENTS, rng)
    app = hansa.App(trainer=NumpyTrainer(softmax_regression(PIXELS, 10), 0.05, batch_size=10, epochs=1))

    @app.data
    def share(client: hansa.ClientInfo) -> tuple[np.ndarray, np.ndarray]:
        return train.take(parts[client.index])

    @app.central_evaluate
    def evaluate(model: hansa.Arrays, _: np.random.Generator) -> hansa.Metrics:
        says = (test.x @ model["weight"] + model["bias"]).argmax(axis=1)
        return hansa.Metrics({"accuracy": np.mean(says == test.y)}, num_examples=len(test.y))

    return app


def curve(train: Examples, test: Examples, split: str, seed: int, rounds: int = ROUNDS[-1]) -> dict[int, float]:
    """Round → test accuracy, for the rounds of the table."""
    spec = hansa.RunSpec(
        rounds=rounds,
        seed=seed,
        rules=hansa.RoundRules(selection="count", count=PER_ROUND),
        evaluation=hansa.EvaluationRules(clients=False),
    )
    result = hansa.simulate(make_app(train, test, split, seed), spec, clients=CLIENTS)
    return {record.round: record.central["accuracy"] for record in result.rounds if record.round in ROUNDS}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"), help="with MNIST's IDX files")
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    began = time.perf_counter()
    train, test = read(chosen.data)
    print(f"| split | round | hansa, mean of {chosen.seeds} seeds | deviation | expected | difference |")
    print("|---|---|---|---|---|---|")
    for split, expected in EXPECTED.items():
        curves = [curve(train, test, split, seed) for seed in range(chosen.seeds)]
        for number in ROUNDS:
            found = [accuracy[number] for accuracy in curves]
            mean = float(np.mean(found))
            beside = f"{expected[number]:.3f} | {mean - expected[number]:+.3f} |" if number in expected else "– | – |"
            print(f"| {split} | {number} | {mean:.3f} | {np.std(found):.3f} | {beside}")
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
