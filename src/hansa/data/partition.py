"""How one data set is shared among clients.

Every function returns one ascending array of sample indices per client; together they cover the data set exactly, each
sample once. The same generator state gives the same partition, so that clients in separate processes can each compute
it and keep their own part. A request that cannot be met raises `InputError`.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array
from hansa.errors import InputError

__all__ = [
    "Indices",
    "dirichlet",
    "dirichlet_by_class",
    "feature_noise",
    "iid",
    "label_count",
    "natural",
    "quantity_skew",
    "shards",
]

Indices: TypeAlias = npt.NDArray[np.int64]

_ATTEMPTS = 1000
"""Draws of `dirichlet_by_class` before it gives up on `min_size`."""

_ALPHAS = (1e-9, 1e9)
"""Outside, alpha tells nothing more, and floating point begins to."""


def iid(num_samples: int, num_clients: int, rng: np.random.Generator) -> list[Indices]:
    """Samples dealt at random; sizes differ by at most one."""
    _check_clients(num_samples, num_clients)
    return _sorted(np.array_split(rng.permutation(num_samples), num_clients))


def dirichlet(labels: npt.ArrayLike, num_clients: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Equal sizes; each client's label mix is q ~ Dir(alpha · K · p), p the frequencies of the K labels in the data.

    labels: shape (n,); alpha > 0, where 0.1 is very skewed and 1000 is nearly IID. For balanced labels this is the
    symmetric Dir(alpha, …, alpha); Hsu et al. write Dir(α · p), so their α is K times this one. Sizes differ by at
    most one. Clients, in random order, draw their label counts from Multinomial(size, q); what a label has run out of
    is drawn again from q over the labels that are left. So the last clients in that order take what remains, which is
    the price of an exact cover.

    Hsu, Qi, Brown 2019, arXiv:1909.06335.
    """
    groups, _ = _groups(labels, rng)
    remaining = np.array([len(group) for group in groups])
    num_samples = int(remaining.sum())
    _check_clients(num_samples, num_clients)
    concentration = _checked(alpha) * len(groups) * remaining / num_samples
    sizes = [len(part) for part in np.array_split(np.arange(num_samples), num_clients)]
    parts: list[Indices] = [np.empty(0, np.int64)] * num_clients
    for client in rng.permutation(num_clients):
        counts = _draw_counts(sizes[client], _proportions(concentration, rng), remaining, rng)
        ends = remaining.copy()
        remaining = remaining - counts
        parts[client] = np.concatenate(
            [group[start:end] for group, start, end in zip(groups, remaining, ends, strict=True)]
        )
    return _sorted(parts)


def dirichlet_by_class(
    labels: npt.ArrayLike,
    num_clients: int,
    alpha: float,
    rng: np.random.Generator,
    *,
    min_size: int = 0,
    capped: bool = False,
) -> list[Indices]:
    """Unequal sizes; the samples of each label are shared among the clients by proportions ~ Dir(alpha · 1).

    labels: shape (n,); alpha > 0. The whole partition is drawn again until every client has at least `min_size`
    samples, up to 1000 times. capped: a client that already holds n / num_clients samples gets none of the labels
    that follow, as in NIID-Bench.

    Yurochkin et al. 2019, arXiv:1905.12022; Li, Diao, Chen, He 2022 (NIID-Bench), arXiv:2102.02079.
    """
    groups, num_samples = _groups(labels, rng)
    _check_clients(num_samples, num_clients)
    concentration = np.full(num_clients, _checked(alpha))
    if min_size * num_clients > num_samples:
        raise InputError(
            f"{num_clients} clients of at least {min_size} samples need {min_size * num_clients}, but there are "
            f"{num_samples}; lower min_size or the number of clients"
        )
    for _ in range(_ATTEMPTS):
        parts = _shared_by_class(groups, concentration, num_samples / num_clients if capped else np.inf, rng)
        if min(len(part) for part in parts) >= min_size:
            return _sorted(parts)
    raise InputError(
        f"no partition with at least {min_size} samples for each of {num_clients} clients in {_ATTEMPTS} draws at "
        f"alpha = {alpha}; lower min_size or the number of clients, or raise alpha"
    )


def shards(
    labels: npt.ArrayLike, num_clients: int, rng: np.random.Generator, *, shards_per_client: int = 2
) -> list[Indices]:
    """Samples sorted by label, cut into equal shards, `shards_per_client` of them dealt to each client at random.

    labels: shape (n,). With 2 shards most clients have two labels. Shard sizes differ by at most one.

    McMahan et al. 2017, arXiv:1602.05629, section 3.
    """
    sorted_by_label = np.argsort(_labels(labels), kind="stable")
    _check_clients(len(sorted_by_label), num_clients)
    count = num_clients * _at_least_one(shards_per_client, "shards_per_client")
    if count > len(sorted_by_label):
        raise InputError(
            f"{num_clients} clients × {shards_per_client} shards are {count}, but there are {len(sorted_by_label)} "
            "samples; lower one of them"
        )
    pieces = np.array_split(sorted_by_label, count)
    dealt = rng.permutation(count).reshape(num_clients, shards_per_client)
    return _sorted([np.concatenate([pieces[shard] for shard in mine]) for mine in dealt])


def label_count(
    labels: npt.ArrayLike, num_clients: int, labels_per_client: int, rng: np.random.Generator
) -> list[Indices]:
    """Each client has samples of exactly `labels_per_client` labels; a label is split evenly among those who have it.

    labels: shape (n,). Clients, in random order, take the labels with the fewest owners so far (ties at random), so
    that the numbers of owners differ by at most one. Sizes differ.

    Li, Diao, Chen, He 2022 (NIID-Bench, "#C = k"), arXiv:2102.02079.
    """
    groups, num_samples = _groups(labels, rng)
    _check_clients(num_samples, num_clients)
    if not 1 <= labels_per_client <= len(groups):
        raise InputError(f"labels_per_client is {labels_per_client}; the data have {len(groups)} labels: use 1 to that")
    if num_clients * labels_per_client < len(groups):
        raise InputError(
            f"{num_clients} clients × {labels_per_client} labels leave some of the {len(groups)} labels to nobody; "
            "raise one of them"
        )
    owners: list[list[int]] = [[] for _ in groups]
    for client in rng.permutation(num_clients):
        fewest = np.lexsort((rng.random(len(groups)), np.array([len(who) for who in owners])))
        for label in fewest[:labels_per_client]:
            owners[label].append(int(client))
    parts: list[list[Indices]] = [[] for _ in range(num_clients)]
    for group, who in zip(groups, owners, strict=True):
        if len(group) < len(who):
            raise InputError(f"a label with {len(group)} samples has {len(who)} owners; lower the number of clients")
        for client, piece in zip(who, np.array_split(group, len(who)), strict=True):
            parts[client].append(piece)
    return _sorted([np.concatenate(pieces) for pieces in parts])


def quantity_skew(
    num_samples: int, num_clients: int, rng: np.random.Generator, *, exponent: float = 1.0, min_size: int = 1
) -> list[Indices]:
    """Random samples, sizes by a power law: the client of rank r has min_size + a share ∝ r^−exponent of the rest.

    exponent ≥ 0, where 0 gives equal sizes and 1 is Zipf's law; the ranks 1 to num_clients are dealt at random.
    Fractions are rounded by the largest remainder. The federated data sets of FedProx (Li et al. 2020,
    arXiv:1812.06127) are spread by a power law.
    """
    _check_clients(num_samples, num_clients)
    if not (np.isfinite(exponent) and exponent >= 0):
        raise InputError(f"exponent is {exponent}; it must be a number, at least 0")
    spare = num_samples - num_clients * min_size
    if min_size < 0 or spare < 0:
        raise InputError(
            f"min_size is {min_size}; {num_clients} clients share {num_samples} samples, so it must be 0 to "
            f"{num_samples // num_clients}"
        )
    shares = np.arange(1, num_clients + 1, dtype=np.float64) ** -exponent
    sizes = min_size + _whole_parts(spare, shares / shares.sum())
    cuts = np.cumsum(rng.permutation(sizes))[:-1]
    return _sorted(np.split(rng.permutation(num_samples), cuts))


def natural(owners: npt.ArrayLike) -> list[Indices]:
    """One client per distinct owner (a writer, a hospital, a device), in the sorted order of the owners' ids.

    owners: shape (n,), an id for each sample; `numpy.unique(owners)` names the clients of the result.
    """
    _, inverse = np.unique(_labels(owners), return_inverse=True)
    if not len(inverse):
        raise InputError("there are no samples to share; give the owner of each sample")
    order = np.argsort(inverse, kind="stable").astype(np.int64)
    return _sorted(np.split(order, np.cumsum(np.bincount(inverse))[:-1]))


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


def _sorted(parts: Sequence[Array]) -> list[Indices]:
    return [np.sort(part).astype(np.int64, copy=False) for part in parts]


def _check_clients(num_samples: int, num_clients: int) -> None:
    if num_clients < 1:
        raise InputError(f"the number of clients is {num_clients}; it must be at least 1")
    if num_samples < num_clients:
        raise InputError(
            f"{num_samples} samples cannot be shared among {num_clients} clients; use at most {num_samples} clients"
        )


def _checked(alpha: float) -> float:
    low, high = _ALPHAS
    if not low <= alpha <= high:
        raise InputError(f"alpha is {alpha}; it must be a number above 0 ({low} to {high})")
    return alpha


def _at_least_one(value: int, name: str) -> int:
    if value < 1:
        raise InputError(f"{name} is {value}; it must be at least 1")
    return value


def _labels(labels: npt.ArrayLike) -> Array:
    array = np.asarray(labels)
    if array.ndim != 1:
        raise InputError(f"labels have the shape {array.shape}; give one label per sample, shape (n,)")
    return array


def _groups(labels: npt.ArrayLike, rng: np.random.Generator) -> tuple[list[Indices], int]:
    """The indices of each distinct label, shuffled, in the labels' sorted order; and the number of samples."""
    parts = natural(labels) if len(_labels(labels)) else []
    return [rng.permutation(part) for part in parts], sum(len(part) for part in parts)


def _proportions(concentration: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """One draw of a Dirichlet distribution, also where alpha is so small that every gamma variate underflows to 0."""
    # log Gamma(a) = log Gamma(a + 1) + log(U) / a keeps the ratios of variates far below the smallest float
    uniform = 1 - rng.random(len(concentration))
    logs = np.log(rng.standard_gamma(concentration + 1)) + np.log(uniform) / concentration
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def _draw_counts(
    size: int, mix: npt.NDArray[np.float64], remaining: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """How many samples of each label, `size` in all, none above what remains; `size` ≤ sum of `remaining`."""
    counts = np.zeros_like(remaining)
    while (missing := size - int(counts.sum())) > 0:
        left = remaining - counts
        weights = np.where(left > 0, mix, 0.0)
        if weights.sum() == 0:  # the client wants only labels that have run out: it takes what there is
            weights = left.astype(np.float64)
        counts += np.minimum(rng.multinomial(missing, weights / weights.sum()), left)
    return counts


def _shared_by_class(
    groups: Sequence[Indices], concentration: npt.NDArray[np.float64], cap: float, rng: np.random.Generator
) -> list[Indices]:
    parts: list[list[Indices]] = [[] for _ in concentration]
    sizes = np.zeros(len(concentration), np.int64)
    for group in groups:
        shares = np.where(sizes < cap, _proportions(concentration, rng), 0.0)
        if shares.sum() == 0:
            shares = (sizes < cap).astype(np.float64)
        cuts = np.rint(np.cumsum(shares / shares.sum())[:-1] * len(group)).astype(np.int64)
        for client, piece in enumerate(np.split(group, cuts)):
            parts[client].append(piece)
            sizes[client] += len(piece)
    return [np.concatenate(pieces) for pieces in parts]


def _whole_parts(total: int, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """`total` in whole parts proportional to `shares` (which sum to 1), by the largest remainder."""
    exact = total * shares
    parts = np.floor(exact).astype(np.int64)
    rest = total - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:rest]] += 1
    return parts
