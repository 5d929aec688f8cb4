"""FoolsGold: clients whose updates point the same way, as those of one attacker with many names do, count less.

    v_i = max_{j≠i} cos(Δ_i, Δ_j);   s_ij = cos(Δ_i, Δ_j) · min(1, v_i / v_j)           pardoning
    α_i = 1 − max_j s_ij, clipped to [0, 1], divided by max α;   α_i ← ln(α_i / (1 − α_i)) + ½, clipped to [0, 1]
    w ← w + Σ α_i Δ_i / Σ α_i

Fung, Yoon, Beschastnikh: "The Limitations of Federated Learning in Sybil Settings", RAID 2020, arXiv:1808.04866,
Algorithm 1, with κ = 1. Two differences. The paper compares what each client has sent in all rounds; an aggregator here
has no memory, so that a round can be computed anew from what is recorded of it, and compares what was sent in this
round: noise is then more, and honest clients with equal data look like sybils sooner. And the paper adds the sum of SGD
steps, where here as everywhere a mean is reported. Every client counts alike.

It needs no number f, and withstands a majority of sybils. It does not withstand one attacker alone, nor sybils that
decorrelate. Where nobody keeps any weight, nothing is added to the model. The logarithm is the one of the machine's
library, which may differ in its last bit between libraries.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.aggregators.geometry import Tile, cosines
from hansa.aggregators.spooled import Combination, Member, Spooled, SpoolPlan, combined, spooled
from hansa.arrays import Arrays

__all__ = ["foolsgold", "weights"]

_KEPT = 1024
"""Clients whose cosines are held, 4 MB; of more they are computed twice, so that memory does not grow with them."""

_Numbers: TypeAlias = npt.NDArray[np.float64]


def foolsgold(*, max_weight: int = 2**24, range_bits: int = 6) -> Spooled:
    """FoolsGold has no options."""
    return spooled(
        "foolsgold",
        "gram",
        _reduce,
        max_weight=max_weight,
        range_bits=range_bits,
        least=2,
        needs="n ≥ 2 updates to compare",
    )


def weights(count: int, compared: Callable[[], Iterable[Tile]]) -> list[float]:
    """α_i, in [0, 1]. compared: the cosines of all pairs of `count` clients, which are looked at twice."""
    nearest, likeness = np.full(count, -np.inf), np.full(count, -np.inf)
    for each in compared():
        _keep_larger(nearest, each, each.cosines, each.cosines)
    for each in compared():
        mine, theirs = nearest[each.rows, np.newaxis], nearest[each.columns]
        with np.errstate(divide="ignore", invalid="ignore"):
            pardoned = np.where((theirs > mine) & (mine > 0), mine / theirs, 1.0)
            pardons = np.where((mine > theirs) & (theirs > 0), theirs / mine, 1.0)
        _keep_larger(likeness, each, each.cosines * pardoned, each.cosines * pardons)
    alpha = np.clip(1.0 - likeness, 0.0, 1.0)
    largest = alpha.max()
    return [_logit(float(value)) for value in (alpha / largest if largest else alpha)]


def _keep_larger(largest: _Numbers, tile: Tile, of_rows: _Numbers, of_columns: _Numbers) -> None:
    """The largest number of each client with another one, in place."""
    if tile.rows == tile.columns:
        of_rows = np.where(np.eye(len(tile.rows), dtype=np.bool_), -np.inf, of_rows)
        of_columns = of_rows
    rows, columns = slice(tile.rows.start, tile.rows.stop), slice(tile.columns.start, tile.columns.stop)
    np.maximum(largest[rows], of_rows.max(axis=1), out=largest[rows])
    if tile.rows != tile.columns:
        np.maximum(largest[columns], of_columns.max(axis=0), out=largest[columns])


def _logit(share: float) -> float:
    if not 0.0 < share < 1.0:
        return share
    return min(1.0, max(0.0, math.log(share / (1.0 - share)) + 0.5))


def _reduce(plan: SpoolPlan, members: Sequence[Member]) -> Arrays:
    kept = list(cosines(plan, members)) if len(members) <= _KEPT else None
    alpha = weights(len(members), lambda: cosines(plan, members) if kept is None else kept)
    return combined(plan, members, Combination(alpha, math.fsum(alpha)))
