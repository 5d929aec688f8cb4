"""What compression costs in accuracy and saves in bytes: the sklearn digits example, ten owners with unlike labels.

python benchmarks/compression.py [--clients 10] [--rounds 12]

With --data FOLDER, in which `mnist` is, instead: softmax regression on MNIST, 1,000 clients of which 10 take part in a
round, so that hardly anybody comes twice in 60 rounds; accuracy on the test images, mean of the last ten.
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import hansa
from hansa.experiments import recipes
from hansa.messages import EvaluationRules, RoundRules
from hansa.simulation import SimulationResult

APP = Path(__file__).parents[1] / "examples" / "sklearn_digits" / "app.py"

SETTINGS: Sequence[Sequence[str]] = (
    (),
    ("quantize:bits=8",),
    ("quantize:bits=4",),
    ("top-k:share=0.1",),
    ("top-k:share=0.1,feedback=false",),
    ("top-k:share=0.02", "quantize:bits=8"),
    ("random-mask:share=0.25", "quantize:bits=8"),
    ("count-sketch:share=0.2,rows=1",),
    ("count-sketch:share=0.5,rows=1,keep=0.2", "quantize:bits=8"),
    ("clip:norm=3", "gaussian-noise:multiplier=0.02", "quantize:bits=8"),
)


SELDOM: Sequence[Sequence[str]] = (
    (),
    ("top-k:share=0.05",),
    ("random-mask:share=0.1",),
    ("random-mask:share=0.4", "quantize:bits=8"),
    ("count-sketch:share=0.1,rows=1",),
    ("count-sketch:share=0.1,rows=3",),
    ("count-sketch:share=0.4,rows=1,keep=0.2", "quantize:bits=8"),
)


def main() -> None:
    """Print one line for each setting."""
    warnings.simplefilter("ignore")  # scikit-learn says that few epochs are few
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    if given.data is not None:
        seldom(given.data / "mnist")
        return
    plain = 0
    print(f"{'transforms':58} {'bytes/update':>12} {'ratio':>6} {'accuracy':>8}")
    for transforms in SETTINGS:
        result = hansa.simulate(APP, clients=given.clients, rounds=given.rounds, seed=1, transforms=transforms)
        sent = sum(record.upload_bytes for record in result.rounds) / (given.rounds * given.clients)
        plain = plain or int(sent)
        last = accuracy(result)
        print(f"{' '.join(transforms) or 'none':58} {sent:12,.0f} {plain / sent:6.1f} {last:8.3f}", flush=True)


def seldom(folder: Path) -> None:
    """One line for each setting, both partitions."""
    app = Path(recipes.__file__).parent / "recipes" / "mnist_softmax.py"
    fixed = {"clients": 1000, "rounds": 60, "seed": 1, "rules": RoundRules("count", 10)}
    print(f"{'transforms':58} {'bytes/update':>12} {'IID':>8} {'2 shards':>8}")
    for transforms in SELDOM:
        reached = []
        for partition in ("iid", "shards:2"):
            config = {"data": str(folder), "partition": partition}
            result = hansa.simulate(
                app, **fixed, config=config, evaluation=EvaluationRules(clients=False), transforms=transforms
            )
            reached.append(sum(record.central["accuracy"] for record in result.rounds[-10:]) / 10)
        sent = sum(record.upload_bytes for record in result.rounds) / 600
        print(f"{' '.join(transforms) or 'none':58} {sent:12,.0f} {reached[0]:8.3f} {reached[1]:8.3f}", flush=True)


def accuracy(result: SimulationResult) -> float:
    """The mean of the last five rounds, of the clients' own test data."""
    last = result.rounds[-5:]
    return sum(record.evaluation["accuracy"] for record in last) / len(last)


if __name__ == "__main__":
    main()
