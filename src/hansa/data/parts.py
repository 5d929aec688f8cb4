"""A partition of samples among clients as two arrays, and what all partitions share: checks, groups, least sizes."""

from collections.abc import Sequence
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array
from hansa.errors import InputError

__all__ = [
    "Indices",
    "Partition",
    "at_least",
    "check_clients",
    "check_min_size",
    "checked_alpha",
    "checked_count",
    "checked_labels",
    "dealt",
    "equal_sizes",
    "groups",
    "proportions",
    "whole_parts",
]

Indices: TypeAlias = npt.NDArray[np.int64]

_ALPHAS = (1e-9, 1e9)
"""Outside, alpha tells nothing more, and floating point begins to."""


class Partition(Sequence[Indices]):
    """One ascending array of sample indices per client, together each sample once: `parts[k]` is client k's.

    It is two arrays, whatever the number of clients: 8 bytes for each sample and 8 for each client. An array that it
    gives is a view: copy it before you write into it.
    """

    def __init__(self, owners: npt.ArrayLike, num_clients: int) -> None:
        """owners: shape (n,), the client of each sample, 0 to num_clients − 1."""
        narrow = np.asarray(owners).astype(np.min_scalar_type(max(num_clients - 1, 0)), copy=False)
        self._order = np.argsort(narrow, kind="stable").astype(np.int64, copy=False)
        self._cuts = np.concatenate([[0], np.cumsum(np.bincount(narrow, minlength=num_clients))])

    def __len__(self) -> int:
        return len(self._cuts) - 1

    @overload
    def __getitem__(self, client: int) -> Indices: ...
    @overload
    def __getitem__(self, client: slice) -> Sequence[Indices]: ...
    def __getitem__(self, client: int | slice) -> Indices | Sequence[Indices]:
        if isinstance(client, slice):
            return [self[k] for k in range(*client.indices(len(self)))]
        k = client + len(self) if client < 0 else client
        if not 0 <= k < len(self):
            raise IndexError(f"there are {len(self)} clients; there is no client {client}")
        return self._order[self._cuts[k] : self._cuts[k + 1]]

    def __repr__(self) -> str:
        """How many have how much."""
        sizes = self.sizes
        told = f"{sizes.min():,} to {sizes.max():,}" if len(sizes) else "none"
        return f"Partition of {self.num_samples:,} samples among {len(self):,} clients: {told} each"

    @property
    def num_samples(self) -> int:
        """How many samples are shared."""
        return len(self._order)

    @property
    def sizes(self) -> Indices:
        """How many samples each client has, shape (clients,)."""
        return np.diff(self._cuts)

    @property
    def owners(self) -> Indices:
        """The client of each sample, shape (n,): what the constructor takes."""
        owners = np.empty(len(self._order), np.int64)
        owners[self._order] = np.repeat(np.arange(len(self)), self.sizes)
        return owners


def dealt(order: npt.NDArray[np.integer], clients: npt.ArrayLike, num_clients: int) -> Partition:
    """The sample `order[i]` belongs to `clients[i]`; order: a permutation of all samples."""
    owners = np.empty(len(order), np.int64)
    owners[order] = clients
    return Partition(owners, num_clients)


def at_least(parts: Partition, min_size: int, rng: np.random.Generator) -> Partition:
    """The same partition where every client has `min_size` samples; else the largest give up random ones to those.

    As few samples as possible move: the tallest are cut to one height.
    """
    sizes = parts.sizes
    check_min_size(min_size, parts.num_samples, len(parts))
    missing = np.maximum(min_size - sizes, 0)
    if not missing.any():
        return parts
    height = _height(sizes, int(missing.sum()), min_size)
    surplus = np.maximum(sizes - height, 0)
    spare = int(surplus.sum() - missing.sum())  # of one height, some keep one sample more
    surplus[np.flatnonzero(surplus)[:spare]] -= 1
    owners = parts.owners
    given = np.concatenate([rng.choice(parts[k], surplus[k], replace=False) for k in np.flatnonzero(surplus).tolist()])
    owners[rng.permutation(given)] = np.repeat(np.arange(len(parts)), missing)
    return Partition(owners, len(parts))


def _height(sizes: Indices, needed: int, least: int) -> int:
    """The greatest height, at least `least`, above which there are `needed` samples."""
    low, high = least, int(sizes.max())
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.maximum(sizes - middle, 0).sum()) >= needed:
            low = middle
        else:
            high = middle - 1
    return low


def groups(labels: npt.ArrayLike, rng: np.random.Generator) -> list[Indices]:
    """The indices of each distinct label, shuffled, in the labels' sorted order."""
    _, inverse = np.unique(checked_labels(labels), return_inverse=True)
    parts = Partition(inverse, int(inverse.max(initial=-1)) + 1)
    return [rng.permutation(part) for part in parts]


def proportions(concentration: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """One draw of a Dirichlet distribution, also where alpha is so small that every gamma variate underflows to 0."""
    # log Gamma(a) = log Gamma(a + 1) + log(U) / a keeps the ratios of variates far below the smallest float
    uniform = 1 - rng.random(len(concentration))
    logs = np.log(rng.standard_gamma(concentration + 1)) + np.log(uniform) / concentration
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def whole_parts(total: int, shares: npt.NDArray[np.float64]) -> Indices:
    """`total` in whole parts proportional to `shares` (which sum to 1), by the largest remainder."""
    exact = total * shares
    parts = np.floor(exact).astype(np.int64)
    rest = total - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:rest]] += 1
    return parts


def equal_sizes(total: int, count: int) -> Indices:
    """`total` in `count` parts, the first ones larger by one where that does not come out even."""
    each, more = divmod(total, count)
    return each + (np.arange(count) < more).astype(np.int64)


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_clients(num_samples: int, num_clients: int) -> None:
    """Raise `InputError` unless each client can have a sample."""
    if not _is_whole(num_clients) or num_clients < 1:
        raise InputError(f"the number of clients is {num_clients!r}; it must be a whole number, at least 1")
    if num_samples < num_clients:
        raise InputError(
            f"{num_samples} samples cannot be shared among {num_clients} clients; use at most {num_samples} clients"
        )


def check_min_size(min_size: int, num_samples: int, num_clients: int) -> None:
    """Raise `InputError` unless each client can have so many samples."""
    if not 0 <= min_size * num_clients <= num_samples:
        raise InputError(
            f"min_size is {min_size}; {num_clients} clients share {num_samples} samples, so it must be 0 to "
            f"{num_samples // num_clients}"
        )


def checked_alpha(alpha: float, name: str = "alpha") -> float:
    """The concentration of a Dirichlet distribution."""
    low, high = _ALPHAS
    if not low <= alpha <= high:
        raise InputError(f"{name} is {alpha}; it must be a number above 0 ({low} to {high})")
    return alpha


def checked_count(value: int, name: str) -> int:
    """A number of things, at least one."""
    if value < 1:
        raise InputError(f"{name} is {value}; it must be at least 1")
    return value


def checked_labels(labels: npt.ArrayLike) -> Array:
    """One label per sample."""
    array = np.asarray(labels)
    if array.ndim != 1:
        raise InputError(f"labels have the shape {array.shape}; give one label per sample, shape (n,)")
    return array
