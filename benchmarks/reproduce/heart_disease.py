"""Fed-Heart-Disease (FLamby, du Terrail et al. 2022, arXiv:2210.04620): accuracy on the pooled test, mean of 5 seeds.

Linear(13, 1) and a sigmoid, binary cross-entropy, batches of 4, 100 local updates per round, 15 rounds, weights by n.
Published: the mean of the five seeds in FLamby's own results files. See README.md for what mattered. `--orders` prints
cyclic weight transfer in every order of the hospitals, and in a new random order in each cycle.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path

import numpy as np

import hansa
from hansa.data import Split, heart_disease
from hansa.messages import Value
from hansa.simulation import SimulationResult
from hansa.training.numpy import NumpyTrainer, logistic_regression

HOSPITALS = heart_disease.HOSPITALS
SMALLEST_FIRST = ("switzerland", "va", "hungarian", "cleveland")
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
    hospitals: Sequence[str] = HOSPITALS
    """Who takes part: client 0 is the first."""
    rounds: int = ROUNDS


def cyclic(
    name: str, order: Sequence[str], visits: int = ROUNDS * len(HOSPITALS), published: float | None = None
) -> Strategy:
    """Cyclic weight transfer: each hospital trains the model that the one before it left."""
    rules = hansa.RoundRules(selection="cyclic")
    return Strategy(name, "fedavg", 0.01, published, rules=rules, hospitals=order, rounds=visits)


ADAM: dict[str, Value] = {"beta1": 0.9, "beta2": 0.999, "tau": 1e-8}

STRATEGIES = [
    Strategy("FedAdagrad", "fedadagrad", 0.003162, 0.779, {"learning_rate": 0.316228, "beta1": 0.9, "tau": 1e-8}),
    Strategy("FedYogi", "fedyogi", 0.003162, 0.779, ADAM | {"learning_rate": 0.01}),
    Strategy("FedAdam", "fedadam", 0.01, 0.779, ADAM | {"learning_rate": 0.01}),
    Strategy("FedAvg", "fedavg", 0.001, 0.748),
    Strategy("FedProx", "fedprox", 0.001, 0.748, {"mu": 0.01}),
    Strategy("SCAFFOLD", "scaffold", 0.001, 0.748, {"num_clients": len(HOSPITALS), "weighted": True}),
    Strategy("Cyclic, as published", "fedavg", 0.01, 0.785, hospitals=["cleveland"], rounds=4),
    cyclic("Cyclic, smallest hospital first", SMALLEST_FIRST, published=0.785),
    cyclic("Cyclic, by name", HOSPITALS),
]
"""`Cyclic, as published`: FLamby's class hands no model on, and its benchmark judges the first hospital's copy, which
trains alone in every fourth round. In the others the model travels from hospital to hospital."""


def linear_with_torch_defaults(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """PyTorch's Linear(13, 1): weights and bias uniform in ±1/√13."""
    bound = 13**-0.5
    return {
        "weight": rng.uniform(-bound, bound, 13).astype(np.float32),
        "bias": rng.uniform(-bound, bound, 1).astype(np.float32),
    }


def make_app(directory: Path, learning_rate: float, order: Sequence[str] = HOSPITALS) -> hansa.App:
    """One client per hospital of `order`, judged on the test patients of all four together."""
    hospitals = heart_disease.read(directory)
    test = heart_disease.pooled_test(directory)
    model = replace(logistic_regression(13), init=linear_with_torch_defaults)
    app = hansa.App(trainer=NumpyTrainer(model, learning_rate, batch_size=4, steps=100))

    @app.data
    def patients(client: hansa.ClientInfo) -> Split:
        return hospitals[order[client.index]]

    @app.central_evaluate
    def pooled(params: hansa.Arrays, _: np.random.Generator) -> hansa.Metrics:
        says = test.x @ params["weight"] + params["bias"] > 0
        return hansa.Metrics({"accuracy": np.mean(says == (test.y > 0))}, num_examples=len(test.y))

    return app


def train(strategy: Strategy, directory: Path, seed: int, start: hansa.Arrays | None = None) -> SimulationResult:
    """One run, judged after its last round; `start` is its initial model, where it is not drawn from the seed."""
    app = make_app(directory, strategy.learning_rate, strategy.hospitals)
    spec = hansa.RunSpec(
        algorithm=strategy.algorithm,
        algorithm_options=strategy.options,
        rounds=strategy.rounds,
        rules=strategy.rules,
        evaluation=hansa.EvaluationRules(every=strategy.rounds, clients=False),
    )
    return hansa.simulate(app, spec, clients=len(strategy.hospitals), seed=seed, initial_model=start)


def accuracies(strategy: Strategy, directory: Path, seeds: range = SEEDS) -> list[float]:
    """Pooled-test accuracy after the last round, for each seed."""
    return [train(strategy, directory, seed).rounds[-1].central["accuracy"] for seed in seeds]


def reshuffled(directory: Path, seed: int, visits: int) -> float:
    """Accuracy of cyclic weight transfer in a new random order in each cycle: a run per cycle, each from the last."""
    rng = np.random.default_rng(seed)
    model, accuracy = None, 0.0
    for cycle, begin in enumerate(range(0, visits, len(HOSPITALS))):
        order = [HOSPITALS[k] for k in rng.permutation(len(HOSPITALS))]
        strategy = cyclic("one cycle", order, min(len(HOSPITALS), visits - begin))
        result = train(strategy, directory, 1000 * seed + cycle, model)
        model, accuracy = result.model, result.rounds[-1].central["accuracy"]
    return accuracy


def print_orders(directory: Path, seeds: range) -> None:
    """Cyclic weight transfer: 15 cycles, and 15 visits, which are the rounds of FLamby's class."""
    print("| order | 15 cycles | deviation | 15 visits | deviation |")
    print("|---|---|---|---|---|")
    lengths = (ROUNDS * len(HOSPITALS), ROUNDS)
    for order in permutations(HOSPITALS):
        found = [accuracies(cyclic("fixed", order, visits), directory, seeds) for visits in lengths]
        print_order(", ".join(order), found)
    found = [[reshuffled(directory, seed, visits) for seed in seeds] for visits in lengths]
    print_order("random in each cycle", found)


def print_order(name: str, found: Sequence[Sequence[float]]) -> None:
    """A row: mean and deviation for each length."""
    print(f"| {name} |" + "".join(f" {np.mean(one):.3f} | {np.std(one):.3f} |" for one in found), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/heart_disease"), help="with UCI's four files")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--orders", action="store_true", help="cyclic weight transfer in every order instead")
    chosen = parser.parse_args()
    if chosen.orders:
        print_orders(chosen.data, range(chosen.seeds))
        return
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
