"""Partitions that look at no label: at random, with equal or skewed sizes; and by whoever made the samples."""

import numpy as np
import numpy.typing as npt

from hansa.data.parts import (
    Indices,
    Partition,
    check_clients,
    check_min_size,
    checked_alpha,
    checked_labels,
    dealt,
    equal_sizes,
    proportions,
    whole_parts,
)
from hansa.errors import InputError

__all__ = ["grouped", "iid", "natural", "quantity_dirichlet", "quantity_lognormal", "quantity_skew"]


def iid(num_samples: int, num_clients: int, rng: np.random.Generator) -> Partition:
    """Samples dealt at random; sizes differ by at most one."""
    check_clients(num_samples, num_clients)
    sizes = equal_sizes(num_samples, num_clients)
    return dealt(rng.permutation(num_samples), np.repeat(np.arange(num_clients), sizes), num_clients)


def quantity_skew(
    num_samples: int, num_clients: int, rng: np.random.Generator, *, exponent: float = 1.0, min_size: int = 1
) -> Partition:
    """Random samples, sizes by a power law: the client of rank r has min_size + a share ∝ r^−exponent of the rest.

    exponent ≥ 0, where 0 gives equal sizes and 1 is Zipf's law; the ranks 1 to num_clients are dealt at random.
    Fractions are rounded by the largest remainder. The federated data sets of FedProx (Li et al. 2020,
    arXiv:1812.06127) are spread by a power law.
    """
    check_clients(num_samples, num_clients)
    if not (np.isfinite(exponent) and exponent >= 0):
        raise InputError(f"exponent is {exponent}; it must be a number, at least 0")
    check_min_size(min_size, num_samples, num_clients)
    shares = np.arange(1, num_clients + 1, dtype=np.float64) ** -exponent
    sizes = min_size + whole_parts(num_samples - num_clients * min_size, shares / shares.sum())
    return _of_sizes(rng.permutation(sizes), rng)


def quantity_dirichlet(
    num_samples: int, num_clients: int, rng: np.random.Generator, *, alpha: float = 0.5, min_size: int = 1
) -> Partition:
    """Random samples; a client has min_size and a share of the rest, the shares ~ Dir(alpha · 1).

    alpha > 0: 0.1 is very skewed. NIID-Bench draws with min_size 0 until nobody has fewer than 10.

    Li, Diao, Chen, He 2022 (NIID-Bench, "quantity skew"), arXiv:2102.02079.
    """
    check_clients(num_samples, num_clients)
    check_min_size(min_size, num_samples, num_clients)
    shares = proportions(np.full(num_clients, checked_alpha(alpha)), rng)
    return _of_sizes(min_size + whole_parts(num_samples - num_clients * min_size, shares), rng)


def quantity_lognormal(
    num_samples: int, num_clients: int, rng: np.random.Generator, *, sigma: float = 0.3, min_size: int = 1
) -> Partition:
    """Random samples; a client has min_size and a share of the rest, the shares ∝ LogNormal(0, sigma²).

    sigma ≥ 0, where 0 gives equal sizes; 0.3 are the "unbalanced" data of FedDyn.

    Acar, Zhao, Matas, Mattina, Whatmough, Saligrama 2021, arXiv:2111.04263.
    """
    check_clients(num_samples, num_clients)
    check_min_size(min_size, num_samples, num_clients)
    if not 0 <= sigma <= 100:  # noqa: PLR2004 - exp(100 z) still is a float
        raise InputError(f"sigma is {sigma}; it must be a number, 0 to 100")
    logs = sigma * rng.standard_normal(num_clients)
    shares = np.exp(logs - logs.max())
    return _of_sizes(min_size + whole_parts(num_samples - num_clients * min_size, shares / shares.sum()), rng)


def natural(owners: npt.ArrayLike) -> Partition:
    """One client per distinct owner (a writer, a hospital, a device), in the sorted order of the owners' ids.

    owners: shape (n,), an id for each sample; `numpy.unique(owners)` names the clients of the result.
    """
    _, inverse = np.unique(checked_labels(owners), return_inverse=True)
    if not len(inverse):
        raise InputError("there are no samples to share; give the owner of each sample")
    return Partition(inverse, int(inverse.max()) + 1)


def grouped(owners: npt.ArrayLike, num_clients: int, rng: np.random.Generator) -> Partition:
    """Whole owners dealt at random to fewer clients; their numbers of owners differ by at most one, sizes by more.

    owners: shape (n,), an id for each sample.

    Li, Diao, Chen, He 2022 (NIID-Bench, "real-world feature imbalance": writers to parties), arXiv:2102.02079.
    """
    names, inverse = np.unique(checked_labels(owners), return_inverse=True)
    if len(names) < num_clients or num_clients < 1:
        raise InputError(f"{len(names)} owners cannot be dealt to {num_clients} clients; use 1 to {len(names)} clients")
    return Partition(iid(len(names), num_clients, rng).owners[inverse], num_clients)


def _of_sizes(sizes: Indices, rng: np.random.Generator) -> Partition:
    """Random samples, as many for each client."""
    return dealt(rng.permutation(int(sizes.sum())), np.repeat(np.arange(len(sizes)), sizes), len(sizes))
