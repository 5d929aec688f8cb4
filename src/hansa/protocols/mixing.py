"""How much of each neighbour's model one takes: mixing matrices, what must be true of them, and how fast they mix.

W[i, j] is the weight with which i takes what j sends. For averages to stay averages, an undirected topology is given a
doubly stochastic W (rows and columns sum to 1) and a directed one a column-stochastic P, with which push-sum works.

Metropolis–Hastings weights: Xiao and Boyd, "Fast linear iterations for distributed averaging", 2004.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, reduce
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array, Arrays, check_same_structure, is_floating
from hansa.errors import ConfigError
from hansa.protocols.topology import AnyTopology, Topology

__all__ = [
    "Matrix",
    "Mixing",
    "check_column_stochastic",
    "check_doubly_stochastic",
    "column_stochastic",
    "mean_distance",
    "mean_model",
    "metropolis",
    "mix",
    "rounded",
    "second_eigenvalue",
    "spectral_gap",
    "uniform",
]

Matrix: TypeAlias = npt.NDArray[np.float64]
"""Shape (n, n)."""
Mixing: TypeAlias = Callable[[Topology], Matrix]
"""Topology → its weights: `metropolis`, `uniform`, `column_stochastic`, or a function of your own."""

_TOLERANCE = 1e-12


@lru_cache(maxsize=256)
def metropolis(topology: Topology) -> Matrix:
    """W_ij = 1 / (1 + max(d_i, d_j)) for neighbours, W_ii the rest to 1: symmetric and doubly stochastic.

    Raises `ConfigError` for a directed topology.
    """
    if not topology.is_symmetric:
        raise ConfigError(
            f"{topology.name} is directed, and Metropolis weights are for undirected topologies: use push-sum, "
            "or a doubly stochastic mixing such as `uniform` where everybody has as many senders as receivers"
        )
    degrees = [len(receivers) for receivers in topology.receivers]
    weights = np.zeros((topology.size, topology.size))
    for i, receivers in enumerate(topology.receivers):
        for j in receivers:
            weights[i, j] = 1 / (1 + max(degrees[i], degrees[j]))
    return _with_rest(weights)


@lru_cache(maxsize=256)
def uniform(topology: Topology) -> Matrix:
    """W_ij = 1 / (1 + d) for oneself and all senders, where everybody has d senders and d receivers: doubly stochastic.

    Raises `ConfigError` for a topology whose degrees differ.
    """
    degrees = {len(edges) for side in (topology.receivers, topology.senders) for edges in side}
    if len(degrees) != 1:
        raise ConfigError(
            f"{topology.name} has degrees of {sorted(degrees)}, and uniform weights need equal ones: "
            "use metropolis, or push-sum"
        )
    return _frozen(column_stochastic(topology))


@lru_cache(maxsize=256)
def column_stochastic(topology: Topology) -> Matrix:
    """P_ij = 1 / (1 + out-degree of j) for oneself and all senders: what one has is shared out evenly, all of it."""
    weights = np.zeros((topology.size, topology.size))
    for j, receivers in enumerate(topology.receivers):
        weights[[j, *receivers], j] = 1 / (1 + len(receivers))
    return _frozen(weights)


def check_doubly_stochastic(weights: Matrix, topology: Topology) -> None:
    """Raise `ConfigError` unless rows and columns sum to 1 (±1e-12), no weight is negative, and none lacks an edge."""
    check_column_stochastic(weights, topology)
    rows = np.abs(weights.sum(axis=1) - 1)
    if rows.max() > _TOLERANCE:
        raise ConfigError(
            f"row {rows.argmax()} of the mixing matrix of {topology.name} sums to "
            f"{weights.sum(axis=1)[rows.argmax()]:.6g}, not 1: "
            "it must be doubly stochastic here; push-sum takes what is column-stochastic alone"
        )


def check_column_stochastic(weights: Matrix, topology: Topology) -> None:
    """Raise `ConfigError` unless columns sum to 1 (±1e-12), no weight is negative, and none lacks an edge."""
    n = topology.size
    if weights.shape != (n, n) or not np.all(weights >= 0):
        raise ConfigError(f"the mixing matrix of {topology.name} must have the shape ({n}, {n}) and no negative weight")
    columns = np.abs(weights.sum(axis=0) - 1)
    if columns.max() > _TOLERANCE:
        raise ConfigError(
            f"column {columns.argmax()} of the mixing matrix of {topology.name} sums to "
            f"{weights.sum(axis=0)[columns.argmax()]:.6g}, not 1: the sum over workers would not be kept"
        )
    for i, j in zip(*(side.tolist() for side in np.nonzero(weights)), strict=True):
        if i != j and i not in topology.receivers[j]:
            raise ConfigError(
                f"the mixing matrix has a weight for worker {i} from {j}, who does not send to it in {topology.name}"
            )


def second_eigenvalue(topology: AnyTopology, mixing: Mixing = metropolis) -> float:
    """|λ₂|, the factor by which each step brings the workers closer to their mean, in the long run; 0 for one worker.

    Of a time-varying topology: that of one period, per step. For a symmetric W it bounds every single step.
    """
    if topology.size == 1:
        return 0.0
    period = reduce(lambda before, phase: mixing(phase) @ before, topology.phases, np.eye(topology.size))
    symmetric = np.array_equal(period, period.T)
    second = np.sort(np.abs(np.linalg.eigvalsh(period) if symmetric else np.linalg.eigvals(period)))[-2]
    return 0.0 if second < _TOLERANCE else float(second ** (1 / len(topology.phases)))


def spectral_gap(topology: AnyTopology, mixing: Mixing = metropolis) -> float:
    """1 − |λ₂|: 1 mixes in one step, 0 never."""
    return 1 - second_eigenvalue(topology, mixing)


def mix(weights: Mapping[int, float], models: Mapping[int, Arrays], change: Arrays | None = None) -> Arrays:
    """Σ_j w_j x_j, plus a change: in float64, in the order of the weights, rounded once to the models' dtypes.

    weights and models: by worker; change: as of `arrays.subtract`.
    """
    first = models[next(iter(weights))]
    for worker in weights:
        check_same_structure(first, models[worker], f"the model of worker {worker}")
    sums = {name: _weighted(list(weights.values()), [models[j][name] for j in weights]) for name in first}
    if change is not None:
        check_same_structure(first, change, "the change")
        sums = {name: total + change[name] for name, total in sums.items()}
    return Arrays({name: rounded(total, first[name]) for name, total in sums.items()})


def mean_model(models: Sequence[Arrays]) -> Arrays:
    """1/n Σ_i x_i, for what is evaluated or deployed after a run."""
    return mix(dict.fromkeys(range(len(models)), 1 / len(models)), dict(enumerate(models)))


def mean_distance(models: Sequence[Arrays]) -> float:
    """How far the workers are from consensus: √(1/n Σ_i ‖x_i − x̄‖²), over all floating tensors."""
    total = 0.0
    for name, first in models[0].items():
        if is_floating(first):
            stack = np.stack([model[name].astype(np.float64) for model in models])
            total += float(np.square(stack - stack.mean(axis=0)).sum())
    return float(np.sqrt(total / len(models)))


def rounded(total: Array, like: Array) -> Array:
    """A float64 tensor in the dtype of another: rounded once; integers to the nearest, booleans to the majority."""
    if is_floating(like):
        with np.errstate(over="ignore"):  # beyond the dtype's range is infinity, which the loss shows
            return total.astype(like.dtype)
    if like.dtype == np.bool_:
        return np.asarray(total > 0.5)  # noqa: PLR2004 - the majority
    limits = np.iinfo(like.dtype)
    return np.asarray(np.clip(np.rint(total), float(limits.min), float(limits.max)).astype(like.dtype))


def _weighted(weights: Sequence[float], arrays: Sequence[Array]) -> Array:
    total = np.zeros(arrays[0].shape)
    for weight, array in zip(weights, arrays, strict=True):
        total += weight * array.astype(np.float64)
    return total


def _with_rest(weights: Matrix) -> Matrix:
    np.fill_diagonal(weights, 1 - weights.sum(axis=1))
    return _frozen(weights)


def _frozen(weights: Matrix) -> Matrix:
    weights.flags.writeable = False
    return weights
