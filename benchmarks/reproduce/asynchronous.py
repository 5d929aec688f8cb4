"""How long a model takes to get good where devices are unlike: FedAvg, FedBuff and FedAsync on the virtual clock.

Softmax regression on the handwritten digits of scikit-learn, split among 100 clients by Dirichlet(0.3) of the labels;
20 train at once, one pass in batches of 10 at learning rate 0.5. A device takes a log-normal time (median 10 s, sigma
1: one in six takes more than 27 s, one in forty more than 71 s). Virtual seconds until the test loss is at most 0.6,
with the updates that were summed until then, and their staleness; means over seeds.

    python benchmarks/reproduce/asynchronous.py
    python benchmarks/reproduce/asynchronous.py --sigma 0.5 --seeds 5
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import hansa
from hansa.data import digits
from hansa.messages import EvaluationRules, RoundRules
from hansa.simulation import LogNormalSpeeds, RoundRecord
from hansa.training.numpy import softmax_regression

AT_ONCE = 20
TARGET = 0.6


@dataclass(frozen=True)
class Way:
    """An algorithm, as it is compared."""

    name: str
    algorithm: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rules: RoundRules = field(default_factory=lambda: RoundRules(selection="count", count=AT_ONCE))


WAYS = (
    Way("FedAvg, 20 of 100", "fedavg"),
    Way(
        "FedAvg, the first 16 of 20",
        "fedavg",
        rules=RoundRules(selection="count", count=AT_ONCE, enough=16),
    ),
    Way("FedBuff, K = 10", "fedbuff", {"buffer": 10}),
    Way("FedBuff, K = 5", "fedbuff", {"buffer": 5}),
    Way("FedAsync, α = 0.6", "fedasync", {"alpha": 0.6}),
    Way("FedAsync, α = 0.2", "fedasync", {"alpha": 0.2}),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sigma", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=3000, help="the most that are summed in a run")
    given = parser.parse_args()
    print("| | virtual seconds | models | updates | staleness, mean | largest |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        runs = [reached(way, given.sigma, seed, given.updates) for seed in range(1, given.seeds + 1)]
        means = np.mean(runs, axis=0)
        print(f"| {way.name} | {means[0]:,.0f} | {means[1]:,.0f} | {means[2]:,.0f} | {means[3]:.1f} | {means[4]:.0f} |")


def reached(way: Way, sigma: float, seed: int, updates: int) -> tuple[float, float, float, float, float]:
    """(virtual seconds, models, updates, mean staleness, largest) until the target; infinity where it was not met."""
    size = way.rules.enough or way.options.get("buffer", 1 if way.algorithm == "fedasync" else AT_ONCE)

    def met(record: RoundRecord) -> bool:
        return record.central["loss"] <= TARGET

    result = hansa.simulate(
        way.algorithm,
        model=softmax_regression(64, 10),
        data=digits.read(),
        partition="dirichlet:0.3",
        learning_rate=0.5,
        batch_size=10,
        clients=100,
        rounds=updates // size,
        seed=seed,
        rules=way.rules,
        evaluation=EvaluationRules(clients=False),
        algorithm_options=way.options,
        devices=LogNormalSpeeds(sigma=sigma),
        stop=met,
    )
    stale = [each for record in result.rounds for each in record.staleness.values()] or [0]
    seconds = sum(record.virtual_seconds for record in result.rounds) if met(result.rounds[-1]) else np.inf
    return (
        seconds,
        len(result.rounds),
        sum(len(record.accepted) for record in result.rounds),
        float(np.mean(stale)),
        max(stale),
    )


if __name__ == "__main__":
    main()
