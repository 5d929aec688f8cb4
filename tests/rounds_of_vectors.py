"""A round in which clients send vectors: what an aggregator reports of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hansa.algorithm import Aggregator
from hansa.arrays import Arrays
from hansa.messages import Contribution, Update

Vectors = npt.NDArray[np.float64]
"""Shape (clients, coordinates)."""


def reported(aggregator: Aggregator, vectors: Vectors, examples: Sequence[int] | None = None) -> Vectors:
    """Of a model of one float64 tensor of zeros."""
    sent = {f"client-{i:03}": ({"w": vector}, 1) for i, vector in enumerate(vectors)}
    if examples is not None:
        sent = {name: (arrays, n) for (name, (arrays, _)), n in zip(sent.items(), examples, strict=True)}
    return round_of(aggregator, {"w": np.zeros(vectors.shape[1])}, sent)["w"]


def round_of(
    aggregator: Aggregator, model: Mapping[str, np.ndarray], sent: Mapping[str, tuple[Mapping[str, np.ndarray], int]]
) -> Arrays:
    """sent: client → its change and its examples."""
    plan = aggregator.plan(Arrays(model))
    partial = aggregator.zero(plan)
    for client, (arrays, n) in sent.items():
        aggregator.accumulate(plan, partial, Update(arrays, n), Contribution(client, n))
    return aggregator.report(plan, partial).mean


def on_a_grid(vectors: npt.ArrayLike) -> Vectors:
    """Rounded to multiples of 2^-20, which quanta hold exactly."""
    return np.asarray(np.rint(np.asarray(vectors, np.float64) * 2**20) / 2**20)
