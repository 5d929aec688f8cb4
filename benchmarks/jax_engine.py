"""The vectorized engines of PyTorch and of JAX, in turns, on the same clients, model and arithmetic.

A perceptron of one hidden layer on made-up examples, clients of unequal size, batches of 10, two epochs, SGD. A run of
each is 30 rounds after 3 that compile and warm up; the table has the median of several, and the first round as well.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import hansa
from hansa.training.jax import JaxTrainer
from hansa.training.torch import TorchTrainer

FEATURES, CLASSES, WARM = 60, 10, 3


def data(client: Any) -> tuple[Any, Any]:
    """20 to 200 examples."""
    rng = np.random.default_rng(client.index)
    x = rng.standard_normal((20 + client.index * 7919 % 181, FEATURES)).astype(np.float32)
    return x, x[:, :CLASSES].argmax(1)


def of_torch(hidden: int) -> Any:
    """The app."""

    def module() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(FEATURES, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, CLASSES))

    return TorchTrainer(
        module, torch.nn.functional.cross_entropy, lambda p: torch.optim.SGD(p, lr=0.05), batch_size=10, epochs=2
    )


def of_jax(hidden: int) -> Any:
    """The same app."""

    def init(key: Any) -> Any:
        first, second = jax.random.split(key)
        scale, scale2 = FEATURES**-0.5, hidden**-0.5
        return {
            "0": {
                "weight": jax.random.uniform(first, (FEATURES, hidden), minval=-scale, maxval=scale),
                "bias": jnp.zeros(hidden),
            },
            "2": {
                "weight": jax.random.uniform(second, (hidden, CLASSES), minval=-scale2, maxval=scale2),
                "bias": jnp.zeros(CLASSES),
            },
        }

    def apply(params: Any, x: Any) -> Any:
        hidden = jax.nn.relu(x @ params["0"]["weight"] + params["0"]["bias"])
        return hidden @ params["2"]["weight"] + params["2"]["bias"]

    def loss(logits: Any, labels: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return JaxTrainer(init, apply, loss, optax.sgd(0.05), batch_size=10, epochs=2)


def run(trainer: Any, clients: int, rounds: int) -> tuple[float, float, float]:
    """(seconds of the first round, median seconds of a later one, loss at the end)."""
    app = hansa.App(trainer)
    app.data(data)
    done = hansa.simulate(
        app, clients=clients, rounds=WARM + rounds, engine="vectorized", progress=False,
        evaluation=hansa.EvaluationRules(every=0),
    ).rounds  # fmt: skip
    return done[0].seconds, statistics.median(each.seconds for each in done[WARM:]), done[-1].metrics["loss"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeat", type=int, default=3)
    given, _ = parser.parse_known_args()
    print(f"{given.clients} clients in every round, {time.strftime('%Y-%m-%d')}")
    print("hidden  engine   first round, s   later rounds, ms   loss   ratio")
    for hidden in (16, 128, 512):
        times: dict[str, list[tuple[float, float, float]]] = {"torch": [], "jax": []}
        for _ in range(given.repeat):
            times["torch"].append(run(of_torch(hidden), given.clients, given.rounds))
            times["jax"].append(run(of_jax(hidden), given.clients, given.rounds))
        median = {
            name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()
        }
        for name, (first, later, loss) in median.items():
            ratio = median["torch"][1] / later
            print(f"{hidden:6}  {name:6} {first:15.2f} {later * 1000:18.1f} {loss:6.3f} {ratio:7.2f}")


if __name__ == "__main__":
    main()
