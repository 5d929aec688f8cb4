"""How a partition looks, as numbers: who has how much, of which labels, and how far that is from the whole.

Hsieh, Phanishayee, Mutlu, Gibbons 2020, arXiv:1910.00189, and Zhao et al. 2018, arXiv:1806.00582, tell what skew does
to training by numbers of this kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa.data.parts import Partition, checked_labels
from hansa.errors import InputError

__all__ = ["Statistics", "count_labels", "gini", "partition_labels", "statistics"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of a table of counts, clients by labels; clients without examples count for the sizes alone."""

    clients: int
    labels: int
    """Of which there is an example."""
    examples: int
    smallest: int
    median: float
    largest: int
    """Examples of a client."""
    size_gini: float
    """Gini's coefficient of the sizes: 0 where all are equal, near 1 where one client has all."""
    total_variation: float
    """½ Σ |q − p| for a client's label mix q and that of all together, p: 0 to 1; the mean over clients."""
    earth_mover: float
    """Σ |q − p|, the mean over clients: the distance of Zhao et al., twice the total variation."""
    hellinger: float
    """√(½ Σ (√q − √p)²), 0 to 1; the mean over clients."""
    jensen_shannon: float
    """The root of the Jensen-Shannon divergence of q and p in bits, 0 to 1; the mean over clients."""
    effective_labels: float
    """2^entropy of q in bits: how many labels a client sees, rare ones counting less; the mean over clients."""


def statistics(counts: npt.ArrayLike) -> Statistics:
    """counts: shape (clients, labels), how many examples of each label each client has."""
    table = np.asarray(counts, np.float64)
    if table.ndim != 2 or not len(table) or table.min(initial=0) < 0 or not table.sum():  # noqa: PLR2004 - a table
        raise InputError(f"counts are of shape {table.shape}; give clients by labels, at least one example")
    sizes = table.sum(axis=1)
    q = table[sizes > 0] / sizes[sizes > 0, None]
    p = table.sum(axis=0) / sizes.sum()
    variation = 0.5 * np.abs(q - p).sum(axis=1)
    middle = (q + p) / 2
    divergence = 0.5 * (_divergence(q, middle) + _divergence(np.broadcast_to(p, q.shape), middle))
    return Statistics(
        clients=len(table),
        labels=int(np.count_nonzero(p)),
        examples=int(sizes.sum()),
        smallest=int(sizes.min()),
        median=float(np.median(sizes)),
        largest=int(sizes.max()),
        size_gini=gini(sizes),
        total_variation=float(variation.mean()),
        earth_mover=float(2 * variation.mean()),
        hellinger=float(np.sqrt(0.5 * ((np.sqrt(q) - np.sqrt(p)) ** 2).sum(axis=1)).mean()),
        jensen_shannon=float(np.sqrt(np.maximum(divergence, 0)).mean()),
        effective_labels=float((2.0 ** -_divergence(q, np.ones_like(q))).mean()),
    )


def gini(sizes: npt.ArrayLike) -> float:
    """Gini's coefficient: half the mean difference of two, over the mean. sizes: shape (n,), at least 0, not all 0."""
    ascending = np.sort(np.asarray(sizes, np.float64))
    count = len(ascending)
    ranks = 2 * np.arange(1, count + 1) - count - 1
    return float((ranks @ ascending) / (count * ascending.sum()))


def partition_labels(parts: Partition, labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """How many samples of each distinct label each client has, shape (clients, labels), labels in sorted order."""
    _, inverse = np.unique(np.asarray(labels), return_inverse=True)
    width = int(inverse.max(initial=-1)) + 1
    flat = np.bincount(parts.owners * width + inverse, minlength=len(parts) * width)
    return flat.reshape(len(parts), width)


def count_labels(targets: Sequence[npt.ArrayLike]) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """The distinct labels, sorted, and how many of each each client has; targets: one array per client, shape (n,)."""
    arrays = [checked_labels(target) for target in targets]
    filled = [array for array in arrays if len(array)]
    if not filled:
        raise InputError("no client has an example")
    known, inverse = np.unique(np.concatenate(filled), return_inverse=True)
    owners = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    flat = np.bincount(owners * len(known) + inverse, minlength=len(arrays) * len(known))
    return tuple(str(label) for label in known.tolist()), flat.reshape(len(arrays), len(known))


def _divergence(q: Floats, p: Floats) -> Floats:
    """Σ q log₂(q / p) of each row, 0 where q is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(q > 0, q * np.log2(q / p), 0.0).sum(axis=1))
