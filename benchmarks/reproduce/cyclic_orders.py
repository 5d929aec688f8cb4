"""Cyclic weight transfer on Fed-Heart-Disease, in every order of the hospitals, and in a new order in each cycle.

The app is that of the recipe `heart_disease` (`hansa bench show heart_disease`); what came out is in
docs/reference/numbers.md. 15 cycles give each hospital the updates that it has in FedAvg, 15 visits are the rounds of
FLamby's class.
"""

import argparse
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

import hansa
from hansa.data.heart_disease import HOSPITALS
from hansa.experiments import load_recipe
from hansa.simulation import SimulationResult

ROUNDS = 15


def train(
    order: Sequence[str], visits: int, data: Path, seed: int, start: hansa.Arrays | None = None
) -> SimulationResult:
    """One run; `start` is its initial model, where it is not drawn from the seed."""
    return hansa.simulate(
        load_recipe("heart_disease").app,
        clients=len(order),
        rounds=visits,
        seed=seed,
        rules=hansa.RoundRules(selection="cyclic"),
        evaluation=hansa.EvaluationRules(every=visits, clients=False),
        config={"data": str(data), "hospitals": list(order), "learning_rate": 0.01},
        initial_model=start,
        progress=False,
    )


def reshuffled(data: Path, seed: int, visits: int) -> float:
    """Accuracy in a new random order in each cycle: a run per cycle, each from the model of the last."""
    rng = np.random.default_rng(seed)
    model, accuracy = None, 0.0
    for cycle, begin in enumerate(range(0, visits, len(HOSPITALS))):
        order = [HOSPITALS[k] for k in rng.permutation(len(HOSPITALS))]
        result = train(order, min(len(HOSPITALS), visits - begin), data, 1000 * seed + cycle, model)
        model, accuracy = result.model, result.rounds[-1].central["accuracy"]
    return accuracy


def main() -> None:
    """Print a row per order: mean and deviation of the accuracy for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with UCI's four files")
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    lengths, seeds = (ROUNDS * len(HOSPITALS), ROUNDS), range(chosen.seeds)
    print("| order | 15 cycles | deviation | 15 visits | deviation |\n|---|---|---|---|---|")
    for order in permutations(HOSPITALS):
        found = [
            [train(order, visits, chosen.data, seed).rounds[-1].central["accuracy"] for seed in seeds]
            for visits in lengths
        ]
        print_order(", ".join(order), found)
    print_order("random in each cycle", [[reshuffled(chosen.data, seed, n) for seed in seeds] for n in lengths])


def print_order(name: str, found: Sequence[Sequence[float]]) -> None:
    """A row."""
    print(f"| {name} |" + "".join(f" {np.mean(one):.3f} | {np.std(one):.3f} |" for one in found), flush=True)


if __name__ == "__main__":
    main()
