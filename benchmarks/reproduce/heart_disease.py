"""Fed-Heart-Disease (FLamby, du Terrail et al. 2022, arXiv:2210.04620): accuracy on the pooled test, mean of 5 seeds.

Linear(13, 1) and a sigmoid, binary cross-entropy, batches of 4, 100 local updates per round, 15 rounds, weights by n.
Published: the mean of the five seeds in FLamby's own results files. See README.md for what mattered.
"""

import argparse
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import hansa
from hansa.data import Split, heart_disease
from hansa.messages import Value
from hansa.training.numpy import NumpyTrainer, logistic_regression

HOSPITALS = 4
ROUNDS = 15
SEEDS = range(5)
BAND = 0.03


@dataclass(frozen=True)
class Strategy:
    """One row of the table."""

    name: str
    algorithm: str
    learning_rate: float
    """Of the clients."""
    published: float | None
    options: dict[str, Value] = field(default_factory=dict)
    rules: hansa.RoundRules = field(default_factory=hansa.RoundRules)
    hospitals: int = HOSPITALS
    rounds: int = ROUNDS


ADAM: dict[str, Value] = {"beta1": 0.9, "beta2": 0.999, "tau": 1e-8}

STRATEGIES = [
    Strategy("FedAdagrad", "fedadagrad", 0.003162, 0.779, {"learning_rate": 0.316228, "beta1": 0.9, "tau": 1e-8}),
    Strategy("FedYogi", "fedyogi", 0.003162, 0.779, ADAM | {"learning_rate": 0.01}),
    Strategy("FedAdam", "fedadam", 0.01, 0.779, ADAM | {"learning_rate": 0.01}),
    Strategy("FedAvg", "fedavg", 0.001, 0.748),
    Strategy("FedProx", "fedprox", 0.001, 0.748, {"mu": 0.01}),
    Strategy("SCAFFOLD", "scaffold", 0.001, 0.748, {"num_clients": HOSPITALS, "weighted": True}),
    Strategy("Cyclic, as published", "fedavg", 0.01, 0.785, hospitals=1, rounds=4),
    Strategy("Cyclic, as described", "fedavg", 0.01, None, rules=hansa.RoundRules(selection="cyclic"), rounds=60),
]
"""`Cyclic, as published`: FLamby's class hands no model on, and its benchmark judges the first hospital's copy, which
trains alone in every fourth round. `Cyclic, as described`: the model travels from hospital to hospital."""


def linear_with_torch_defaults(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """PyTorch's Linear(13, 1): weights and bias uniform in ±1/√13."""
    bound = 13**-0.5
    return {
        "weight": rng.uniform(-bound, bound, 13).astype(np.float32),
        "bias": rng.uniform(-bound, bound, 1).astype(np.float32),
    }


def make_app(directory: Path, learning_rate: float) -> hansa.App:
    """Four hospitals, judged on all their test patients together."""
    hospitals = heart_disease.read(directory)
    test = heart_disease.pooled_test(directory)
    model = replace(logistic_regression(13), init=linear_with_torch_defaults)
    app = hansa.App(trainer=NumpyTrainer(model, learning_rate, batch_size=4, steps=100))

    @app.data
    def patients(client: hansa.ClientInfo) -> Split:
        return hospitals[heart_disease.HOSPITALS[client.index]]

    @app.central_evaluate
    def pooled(params: hansa.Arrays, _: np.random.Generator) -> hansa.Metrics:
        says = test.x @ params["weight"] + params["bias"] > 0
        return hansa.Metrics({"accuracy": np.mean(says == (test.y > 0))}, num_examples=len(test.y))

    return app


def accuracies(strategy: Strategy, directory: Path, seeds: range = SEEDS) -> list[float]:
    """Pooled-test accuracy after the last round, for each seed."""
    app = make_app(directory, strategy.learning_rate)
    spec = hansa.RunSpec(
        algorithm=strategy.algorithm,
        algorithm_options=strategy.options,
        rounds=strategy.rounds,
        rules=strategy.rules,
        evaluation=hansa.EvaluationRules(every=strategy.rounds, clients=False),
    )
    results = [hansa.simulate(app, spec, clients=strategy.hospitals, seed=seed) for seed in seeds]
    return [result.rounds[-1].central["accuracy"] for result in results]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/heart_disease"), help="with UCI's four files")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    chosen = parser.parse_args()
    began = time.perf_counter()
    print(f"| strategy | hansa, mean of {chosen.seeds} seeds | deviation | published | difference |")
    print("|---|---|---|---|---|")
    for strategy in STRATEGIES:
        found = accuracies(strategy, chosen.data, range(chosen.seeds))
        mean = float(np.mean(found))
        beside = (
            "– | – |"
            if strategy.published is None
            else f"{strategy.published:.3f} | {mean - strategy.published:+.3f} |"
        )
        print(f"| {strategy.name} | {mean:.3f} | {np.std(found):.3f} | {beside}")
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
