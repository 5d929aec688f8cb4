"""What compression costs in accuracy and saves in bytes: the sklearn digits example, ten owners with unlike labels.

python benchmarks/compression.py [--clients 10] [--rounds 12]
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import hansa
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
    ("clip:norm=3", "gaussian-noise:multiplier=0.02", "quantize:bits=8"),
)


def main() -> None:
    """Print one line for each setting."""
    warnings.simplefilter("ignore")  # scikit-learn says that few epochs are few
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    plain = 0
    print(f"{'transforms':58} {'bytes/update':>12} {'ratio':>6} {'accuracy':>8}")
    for transforms in SETTINGS:
        result = hansa.simulate(APP, clients=given.clients, rounds=given.rounds, seed=1, transforms=transforms)
        sent = sum(record.upload_bytes for record in result.rounds) / (given.rounds * given.clients)
        plain = plain or int(sent)
        last = accuracy(result)
        print(f"{' '.join(transforms) or 'none':58} {sent:12,.0f} {plain / sent:6.1f} {last:8.3f}", flush=True)


def accuracy(result: SimulationResult) -> float:
    """The mean of the last five rounds, of the clients' own test data."""
    last = result.rounds[-5:]
    return sum(record.evaluation["accuracy"] for record in last) / len(last)


if __name__ == "__main__":
    main()
