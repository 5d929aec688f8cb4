"""Partitions by the features themselves, and features that differ from client to client."""

from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array
from hansa.data.parts import Indices, Partition, at_least, check_clients, checked_count
from hansa.errors import InputError

__all__ = ["clusters", "feature_noise", "octants"]

_LEARNT_FROM = 20_000
"""Samples that k-means looks at; the others go to the nearest centre."""

_AT_ONCE = 1 << 22
"""Distances that are held at once: 32 MB."""

_CUBE = 3
_PAIRS = 4


def clusters(
    x: npt.ArrayLike, num_clients: int, rng: np.random.Generator, *, min_size: int = 1, iterations: int = 20
) -> Partition:
    """Each client has a region of the feature space: one of num_clients clusters of k-means. Sizes differ.

    x: shape (n, …), numbers; each feature counts by its value, so scale them first, or give embeddings in their place.
    k-means++ begins, at most `iterations` steps follow, on 20,000 samples drawn at random. A client with fewer than
    `min_size` samples is given random ones of the largest.

    Arthur, Vassilvitskii 2007 (k-means++). Clusters of features as clients: Yuan, Morningstar, Ning, Singhal 2022,
    arXiv:2110.14216, who cluster the embeddings of each label.
    """
    rows = _rows(x)
    check_clients(len(rows), num_clients)
    checked_count(iterations, "iterations")
    chosen = rows[np.sort(rng.permutation(len(rows))[: max(_LEARNT_FROM, 4 * num_clients)])].astype(np.float64)
    centres = _seeded(chosen, num_clients, rng)
    for _ in range(iterations):
        nearest = _nearest(chosen, centres)
        counts = np.bincount(nearest, minlength=num_clients)
        order = np.argsort(nearest, kind="stable")
        moved = centres.copy()
        filled = np.flatnonzero(counts)
        firsts = (np.cumsum(counts) - counts)[filled]
        moved[filled] = np.add.reduceat(chosen[order], firsts, axis=0) / counts[filled, None]
        if np.array_equal(moved, centres):
            break
        centres = moved
    return at_least(Partition(_nearest(rows, centres), num_clients), min_size, rng)


def octants(x: npt.ArrayLike, num_clients: int, rng: np.random.Generator) -> Partition:
    """The FCUBE of NIID-Bench: each of four clients has two octants of a cube that lie opposite each other.

    x: shape (n, 3), numbers around 0. With 4 · m clients, the samples of a pair are dealt at random to m of them. The
    plane x₀ = 0 that tells the labels apart cuts every pair, so that labels are balanced and features are not.

    Li, Diao, Chen, He 2022 (NIID-Bench, "synthetic feature imbalance"), arXiv:2102.02079; the data are
    `hansa.data.synthetic.cube`.
    """
    rows = _rows(x)
    if rows.shape[1] != _CUBE:
        raise InputError(f"x has {rows.shape[1]} features; octants are of three: shape (n, 3)")
    if num_clients < 1 or num_clients % _PAIRS:
        raise InputError(f"the number of clients is {num_clients}; four pairs of octants go to 4, 8, 12 … clients")
    check_clients(len(rows), num_clients)
    positive = rows > 0
    signs = positive ^ positive[:, :1]  # an octant and the one opposite have the same last two
    pair = 2 * signs[:, 1].astype(np.int64) + signs[:, 2]
    place = rng.permutation(len(rows))
    order = place[np.argsort(pair[place], kind="stable")]
    sizes = np.bincount(pair, minlength=_PAIRS)
    each = num_clients // _PAIRS
    within = np.concatenate([np.arange(size) % each for size in sizes])
    owners = np.empty(len(rows), np.int64)
    owners[order] = np.repeat(np.arange(_PAIRS) * each, sizes) + within
    return Partition(owners, num_clients)


def feature_noise(
    x: npt.ArrayLike, client: int, num_clients: int, variance: float, rng: np.random.Generator
) -> npt.NDArray[Any]:
    """A copy of one client's features with its own level of noise: + N(0, variance · (client + 1) / num_clients).

    x: shape (n, …), floating; client: 0 to num_clients − 1; variance ≥ 0, that of the noisiest client. Combine it with
    a partition, usually `iid`.

    Li, Diao, Chen, He 2022 (NIID-Bench, "noise-based feature imbalance"), arXiv:2102.02079.
    """
    features = np.asarray(x)
    if features.dtype.kind != "f":
        raise InputError(f"feature noise needs floating features, not {features.dtype}; convert them first")
    if not 0 <= client < num_clients:
        raise InputError(f"client is {client}; it must be 0 to {num_clients - 1}")
    if not (np.isfinite(variance) and variance >= 0):
        raise InputError(f"variance is {variance}; it must be a number, at least 0")
    level = np.sqrt(variance * (client + 1) / num_clients)
    return np.asarray(features + level * rng.standard_normal(features.shape), features.dtype)


def _rows(x: npt.ArrayLike) -> Array:
    features = np.asarray(x)
    if features.ndim < 2 or features.dtype.kind not in "biuf":  # noqa: PLR2004 - samples and features
        raise InputError(f"x is {features.dtype} of shape {features.shape}; give numbers, shape (n, …)")
    if features.dtype.kind == "f" and not np.all(np.isfinite(features)):
        raise InputError("x has values that are not finite: fill what is missing, or take another partition")
    return features.reshape(len(features), -1)


def _seeded(rows: npt.NDArray[np.float64], count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """k-means++: each further centre is a sample, drawn in proportion to its squared distance from the nearest."""
    centres = rows[[int(rng.integers(len(rows)))]]
    distances = ((rows - centres[0]) ** 2).sum(axis=1)
    for _ in range(count - 1):
        total = distances.sum()
        place = int(rng.integers(len(rows))) if total == 0 else int(rng.choice(len(rows), p=distances / total))
        centres = np.concatenate([centres, rows[[place]]])
        distances = np.minimum(distances, ((rows - rows[place]) ** 2).sum(axis=1))
    return centres


def _nearest(rows: Array, centres: npt.NDArray[np.float64]) -> Indices:
    """The number of the nearest centre for each row, the first of equals."""
    step = max(1, _AT_ONCE // max(len(centres), rows.shape[1]))
    norms = (centres**2).sum(axis=1)
    found = [
        (norms - 2 * (rows[start : start + step].astype(np.float64) @ centres.T)).argmin(axis=1)
        for start in range(0, len(rows), step)
    ]
    return np.concatenate(found)
