"""Partitions by label: which labels a client sees, and how often."""

from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.parts import (
    Indices,
    Partition,
    check_clients,
    checked_alpha,
    checked_count,
    checked_labels,
    dealt,
    equal_sizes,
    groups,
    proportions,
    whole_parts,
)
from hansa.errors import InputError

__all__ = [
    "dirichlet",
    "dirichlet_by_class",
    "label_count",
    "label_lognormal",
    "long_tail",
    "pachinko",
    "shards",
    "similarity",
]

_ATTEMPTS = 1000
"""Draws of `dirichlet_by_class` before it gives up on `min_size`."""


def dirichlet(labels: npt.ArrayLike, num_clients: int, alpha: float, rng: np.random.Generator) -> Partition:
    """Equal sizes; each client's label mix is q ~ Dir(alpha · K · p), p the frequencies of the K labels in the data.

    labels: shape (n,); alpha > 0, where 0.1 is very skewed and 1000 is nearly IID. For balanced labels this is the
    symmetric Dir(alpha, …, alpha); Hsu et al. write Dir(α · p), so their α is K times this one. Sizes differ by at
    most one. Clients, in random order, draw their label counts from Multinomial(size, q); what a label has run out of
    is drawn again from q over the labels that are left. So the last clients in that order take what remains, which is
    the price of an exact cover.

    Hsu, Qi, Brown 2019, arXiv:1909.06335.
    """
    by_label = groups(labels, rng)
    remaining = np.array([len(group) for group in by_label], np.int64)
    num_samples = int(remaining.sum())
    check_clients(num_samples, num_clients)
    concentration = checked_alpha(alpha) * len(by_label) * remaining / num_samples
    order = rng.permutation(num_clients)
    counts = np.empty((num_clients, len(by_label)), np.int32)
    for row, size in enumerate(equal_sizes(num_samples, num_clients)[order].tolist()):
        drawn = _draw_counts(size, proportions(concentration, rng), remaining, rng)
        remaining = remaining - drawn
        counts[row] = drawn
    owners = np.empty(num_samples, np.int64)
    for label, group in enumerate(by_label):
        owners[group[::-1]] = np.repeat(order, counts[:, label])
    return Partition(owners, num_clients)


def dirichlet_by_class(
    labels: npt.ArrayLike,
    num_clients: int,
    alpha: float,
    rng: np.random.Generator,
    *,
    min_size: int = 0,
    capped: bool = False,
) -> Partition:
    """Unequal sizes; the samples of each label are shared among the clients by proportions ~ Dir(alpha · 1).

    labels: shape (n,); alpha > 0. The whole partition is drawn again until every client has at least `min_size`
    samples, up to 1000 times. capped: a client that already holds n / num_clients samples gets none of the labels
    that follow, as in NIID-Bench.

    Yurochkin et al. 2019, arXiv:1905.12022; Li, Diao, Chen, He 2022 (NIID-Bench), arXiv:2102.02079.
    """
    by_label = groups(labels, rng)
    num_samples = sum(len(group) for group in by_label)
    check_clients(num_samples, num_clients)
    concentration = np.full(num_clients, checked_alpha(alpha))
    if min_size * num_clients > num_samples:
        raise InputError(
            f"{num_clients} clients of at least {min_size} samples need {min_size * num_clients}, but there are "
            f"{num_samples}; lower min_size or the number of clients"
        )
    cap = num_samples / num_clients if capped else np.inf
    for _ in range(_ATTEMPTS):
        counts = _shared_by_class([len(group) for group in by_label], concentration, cap, rng)
        if counts.sum(axis=0).min() >= min_size:
            everybody = np.arange(num_clients)
            return dealt(
                np.concatenate(by_label), np.concatenate([np.repeat(everybody, row) for row in counts]), num_clients
            )
    raise InputError(
        f"no partition with at least {min_size} samples for each of {num_clients} clients in {_ATTEMPTS} draws at "
        f"alpha = {alpha}; lower min_size or the number of clients, or raise alpha"
    )


def shards(
    labels: npt.ArrayLike, num_clients: int, rng: np.random.Generator, *, shards_per_client: int = 2
) -> Partition:
    """Samples sorted by label, cut into equal shards, `shards_per_client` of them dealt to each client at random.

    labels: shape (n,). With 2 shards most clients have two labels. Shard sizes differ by at most one.

    McMahan et al. 2017, arXiv:1602.05629, section 3.
    """
    sorted_by_label = np.argsort(checked_labels(labels), kind="stable")
    check_clients(len(sorted_by_label), num_clients)
    count = num_clients * checked_count(shards_per_client, "shards_per_client")
    if count > len(sorted_by_label):
        raise InputError(
            f"{num_clients} clients × {shards_per_client} shards are {count}, but there are {len(sorted_by_label)} "
            "samples; lower one of them"
        )
    owners = np.empty(count, np.int64)
    owners[rng.permutation(count)] = np.repeat(np.arange(num_clients), shards_per_client)
    return dealt(sorted_by_label, np.repeat(owners, equal_sizes(len(sorted_by_label), count)), num_clients)


def similarity(labels: npt.ArrayLike, num_clients: int, rng: np.random.Generator, *, share: float) -> Partition:
    """A share of the samples, drawn at random, is dealt IID; the rest is sorted by label, and each client gets a piece.

    labels: shape (n,); 0 ≤ share ≤ 1, where 0 is one shard for each client and 1 is IID. Sizes differ by at most two.

    Hsu, Qi, Brown 2019, arXiv:1909.06335; Karimireddy et al. 2020 (SCAFFOLD, "s% similarity"), arXiv:1910.06378.
    """
    array = checked_labels(labels)
    check_clients(len(array), num_clients)
    if not 0 <= share <= 1:
        raise InputError(f"share is {share}; it must be between 0 and 1")
    shuffled = rng.permutation(len(array))
    alike, rest = np.split(shuffled, [round(share * len(array))])
    rest = rest[np.argsort(array[rest], kind="stable")]
    pieces = rng.permutation(num_clients)
    owners = np.empty(len(array), np.int64)
    owners[alike] = np.repeat(np.arange(num_clients)[::-1], equal_sizes(len(alike), num_clients))
    owners[rest] = np.repeat(pieces, equal_sizes(len(rest), num_clients))
    return Partition(owners, num_clients)


def label_count(labels: npt.ArrayLike, num_clients: int, labels_per_client: int, rng: np.random.Generator) -> Partition:
    """Each client has samples of exactly `labels_per_client` labels; a label is split evenly among those who have it.

    labels: shape (n,). Clients, in random order, take the labels with the fewest owners so far (ties at random), so
    that the numbers of owners differ by at most one. Sizes differ.

    Li, Diao, Chen, He 2022 (NIID-Bench, "#C = k"), arXiv:2102.02079.
    """
    by_label = groups(labels, rng)
    whose = _owners_of_labels(by_label, num_clients, labels_per_client, rng)
    owners = [np.repeat(who, equal_sizes(len(group), len(who))) for group, who in zip(by_label, whose, strict=True)]
    return dealt(np.concatenate(by_label), np.concatenate(owners), num_clients)


def label_lognormal(
    labels: npt.ArrayLike,
    num_clients: int,
    labels_per_client: int,
    rng: np.random.Generator,
    *,
    sigma: float = 2.0,
) -> Partition:
    """As `label_count`, with skewed sizes: those who have a label get one sample and a share ∝ LogNormal(0, sigma²).

    labels: shape (n,); sigma ≥ 0. Two labels and sigma 2 are how FedProx makes its MNIST of 1,000 devices, whose sizes
    "follow a power law".

    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, arXiv:1812.06127; Li et al. 2020, arXiv:1907.02189.
    """
    if not 0 <= sigma <= 100:  # noqa: PLR2004 - exp(100 z) still is a float
        raise InputError(f"sigma is {sigma}; it must be a number, 0 to 100")
    by_label = groups(labels, rng)
    owners = []
    whose = _owners_of_labels(by_label, num_clients, labels_per_client, rng)
    for group, who in zip(by_label, whose, strict=True):
        logs = sigma * rng.standard_normal(len(who))
        shares = np.exp(logs - logs.max())
        owners.append(np.repeat(who, 1 + whole_parts(len(group) - len(who), shares / shares.sum())))
    return dealt(np.concatenate(by_label), np.concatenate(owners), num_clients)


def pachinko(
    labels: npt.ArrayLike,
    coarse: npt.ArrayLike,
    num_clients: int,
    rng: np.random.Generator,
    *,
    alpha: float = 0.1,
    beta: float = 10.0,
) -> Partition:
    """Equal sizes; a client mixes coarse labels by Dir(alpha · 1), and the labels under each of them by Dir(beta · 1).

    labels, coarse: shape (n,), the fine and the coarse label of each sample; a fine label is under one coarse label.
    Clients, in random order, draw label counts; a label that runs out leaves its share to its siblings, and a coarse
    label of which nothing is left to the other coarse ones. Sizes differ by at most one. 500 clients with alpha 0.1
    and beta 10 are the federated CIFAR-100.

    Li, McCallum 2006 (the pachinko allocation); Reddi et al. 2021, arXiv:2003.00295, appendix C.1.
    """
    fine, above = checked_labels(labels), checked_labels(coarse)
    if len(fine) != len(above):
        raise InputError(f"there are {len(fine)} labels and {len(above)} coarse ones; give both for each sample")
    check_clients(len(fine), num_clients)
    _, first, inverse = np.unique(fine, return_index=True, return_inverse=True)
    parents, parent = np.unique(above[first], return_inverse=True)
    if not np.array_equal(above, above[first][inverse]):
        broken = fine[np.flatnonzero(above != above[first][inverse])[0]]
        raise InputError(f"the label {broken} is under two coarse labels; give each label one")
    by_label = groups(fine, rng)
    remaining = np.array([len(group) for group in by_label], np.int64)
    order = rng.permutation(num_clients)
    counts = np.empty((num_clients, len(by_label)), np.int32)
    for row, size in enumerate(equal_sizes(len(fine), num_clients)[order].tolist()):
        over = proportions(np.full(len(parents), checked_alpha(alpha)), rng)
        under = np.empty(len(parent))
        for k in range(len(parents)):
            siblings = parent == k
            under[siblings] = proportions(np.full(int(siblings.sum()), checked_alpha(beta, "beta")), rng)
        drawn = np.zeros_like(remaining)
        while (missing := size - int(drawn.sum())) > 0:
            left = remaining - drawn
            mix = _renormalized(over, under, parent, left)
            drawn += np.minimum(rng.multinomial(missing, mix), left)
        remaining = remaining - drawn
        counts[row] = drawn
    owners = np.empty(len(fine), np.int64)
    for label, group in enumerate(by_label):
        owners[group] = np.repeat(order, counts[:, label])
    return Partition(owners, num_clients)


def long_tail(labels: npt.ArrayLike, factor: float, rng: np.random.Generator, *, kind: str = "exponential") -> Indices:
    """Which samples to keep for a globally long-tailed data set: ascending indices, `take` them and then partition.

    labels: shape (n,); factor ≥ 1: the most frequent label has so many times the samples of the least frequent. The
    k-th of K labels, in sorted order, keeps n₀ · factor^(−k / (K − 1)) of its samples ("exponential"), n₀ those of the
    smallest label; or the second half of the labels keeps n₀ / factor ("step"). Each keeps at least one.

    Cao et al. 2019 (LDAM), arXiv:1906.07413; Cui et al. 2019, arXiv:1901.05555; in federations: Shang et al. 2022
    (CReFF), arXiv:2204.13399.
    """
    if not (np.isfinite(factor) and factor >= 1):
        raise InputError(f"factor is {factor}; it must be a number, at least 1")
    if kind not in {"exponential", "step"}:
        raise InputError(f"kind is {kind!r}; there is: exponential, step")
    by_label = groups(labels, rng)
    if not by_label:
        raise InputError("there are no labels; give one for each sample")
    most = min(len(group) for group in by_label)
    place = np.arange(len(by_label)) / max(len(by_label) - 1, 1)
    exponent = place if kind == "exponential" else (np.arange(len(by_label)) >= len(by_label) / 2).astype(float)
    kept = np.maximum(np.floor(most * factor**-exponent), 1).astype(int).tolist()
    return np.sort(np.concatenate([group[:count] for group, count in zip(by_label, kept, strict=True)]))


def _owners_of_labels(
    by_label: list[Indices], num_clients: int, labels_per_client: int, rng: np.random.Generator
) -> list[list[int]]:
    """Who has each label: clients, in random order, take those with the fewest owners so far."""
    check_clients(sum(len(group) for group in by_label), num_clients)
    if not 1 <= labels_per_client <= len(by_label):
        raise InputError(
            f"labels_per_client is {labels_per_client}; the data have {len(by_label)} labels: use 1 to that"
        )
    if num_clients * labels_per_client < len(by_label):
        raise InputError(
            f"{num_clients} clients × {labels_per_client} labels leave some of the {len(by_label)} labels to nobody; "
            "raise one of them"
        )
    owners: list[list[int]] = [[] for _ in by_label]
    numbers = np.zeros(len(by_label), np.int64)
    for client in rng.permutation(num_clients).tolist():
        fewest = np.lexsort((rng.random(len(by_label)), numbers))[:labels_per_client]
        numbers[fewest] += 1
        for label in fewest.tolist():
            owners[label].append(client)
    for group, who in zip(by_label, owners, strict=True):
        if len(group) < len(who):
            raise InputError(f"a label with {len(group)} samples has {len(who)} owners; lower the number of clients")
    return owners


def _draw_counts(size: int, mix: npt.NDArray[np.float64], remaining: Indices, rng: np.random.Generator) -> Indices:
    """How many samples of each label, `size` in all, none above what remains; `size` ≤ sum of `remaining`."""
    counts = np.zeros_like(remaining)
    while (missing := size - int(counts.sum())) > 0:
        left = remaining - counts
        weights = np.where(left > 0, mix, 0.0)
        if weights.sum() == 0:  # the client wants only labels that have run out: it takes what there is
            weights = left.astype(np.float64)
        counts += np.minimum(rng.multinomial(missing, weights / weights.sum()), left)
    return counts


def _renormalized(
    over: npt.NDArray[np.float64], under: npt.NDArray[np.float64], parent: Indices, left: Indices
) -> npt.NDArray[np.float64]:
    """The mix of fine labels of which something is left, shape (labels,), as `pachinko` says."""
    inner = _sharing(under, left, parent)
    outer = _sharing(over, np.bincount(parent, left, len(over)), np.zeros(len(over), np.int64))
    mix = outer[parent] * inner
    return np.asarray(mix / mix.sum())


def _sharing(weights: npt.NDArray[np.float64], left: npt.NDArray[Any], family: Indices) -> npt.NDArray[np.float64]:
    """Weights of what is left, summing to 1 in each family; by what is left where all weights are 0 by now."""
    live = np.where(left > 0, weights, 0.0)
    totals = np.bincount(family, live)[family]
    sums = np.maximum(np.bincount(family, left)[family], 1)
    return np.where(totals > 0, live / np.where(totals > 0, totals, 1.0), left / sums)


def _shared_by_class(
    sizes_of_labels: list[int], concentration: npt.NDArray[np.float64], cap: float, rng: np.random.Generator
) -> Indices:
    """How many samples of each label each client gets, shape (labels, clients)."""
    counts = np.empty((len(sizes_of_labels), len(concentration)), np.int64)
    sizes = np.zeros(len(concentration), np.int64)
    for row, size in enumerate(sizes_of_labels):
        shares = np.where(sizes < cap, proportions(concentration, rng), 0.0)
        if shares.sum() == 0:
            shares = (sizes < cap).astype(np.float64)
        cuts = np.rint(np.cumsum(shares / shares.sum())[:-1] * size).astype(np.int64)
        counts[row] = np.diff(cuts, prepend=0, append=size)
        sizes += counts[row]
    return counts
