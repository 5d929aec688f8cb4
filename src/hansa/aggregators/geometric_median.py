"""The geometric median of the updates, by the smoothed Weiszfeld algorithm (RFA).

    z ← Σ p_i Δ_i;  then again and again   β_i = p_i / max(ν, ‖z − Δ_i‖);   z ← Σ β_i Δ_i / Σ β_i

Pillutla, Kakade, Harchaoui: "Robust Aggregation for Federated Learning", IEEE Transactions on Signal Processing 2022,
arXiv:1912.13445, Algorithm 1. p_i = n_i / Σ n as in the paper; with `uniform` every client counts alike, which is what
to take where clients may lie about their examples: what holds, holds for the share of the *weight* that is malicious.

z is always a weighted mean of the updates, so that a step needs their distances and no update again: steps are cheap
here, and go on until z stands. What holds: with a share ρ < ½ of the weight malicious, z is at most 2(1 − ρ)/(1 − 2ρ)
times as far from any point c as the farthest honest update (the breakdown point is ½), up to the smoothing.
"""

import math
from collections.abc import Sequence
from functools import partial

from hansa.aggregators.geometry import distances_to, gram_of
from hansa.aggregators.options import check_count, check_positive
from hansa.aggregators.spooled import Combination, Member, Spooled, SpoolPlan, combined, spooled
from hansa.arrays import Arrays

__all__ = ["geometric_median", "weiszfeld"]

_STANDS = 1e-12
"""The largest change of a coefficient of z after which it is not moved again."""


def geometric_median(
    *,
    max_weight: int = 2**24,
    range_bits: int = 6,
    nu: float = 1e-6,
    iterations: int = 100,
    uniform: bool = False,
) -> Spooled:
    """nu: ν > 0, the distance below which an update pulls no harder; iterations: steps at most, 3 in the paper.

    uniform: whether every client counts alike, whatever its number of examples.
    """
    check_positive("geometric-median", "nu", nu)
    check_count("geometric-median", "iterations", iterations)
    return spooled(
        "geometric-median",
        "gram",
        partial(_reduce, nu=nu, iterations=iterations),
        max_weight=max_weight,
        range_bits=range_bits,
        uniform=uniform,
    )


def weiszfeld(
    squares: Sequence[Sequence[float]], weights: Sequence[float], *, nu: float, iterations: int
) -> list[float]:
    """The coefficients of z, which sum to 1. squares: of the distances; weights: p_i, up to a factor."""
    c = _normalized(weights)
    for _ in range(iterations):
        away = distances_to(c, squares)
        moved = _normalized([weight / max(nu, distance) for weight, distance in zip(weights, away, strict=True)])
        stands = max(abs(new - old) for new, old in zip(moved, c, strict=True)) <= _STANDS
        c = moved
        if stands:
            break
    return c


def _reduce(plan: SpoolPlan, members: Sequence[Member], *, nu: float, iterations: int) -> Arrays:
    weights = [float(member.weight) for member in members]
    c = weiszfeld(gram_of(plan, members).squares(), weights, nu=nu, iterations=iterations)
    return combined(plan, members, Combination(c, math.fsum(c)))


def _normalized(weights: Sequence[float]) -> list[float]:
    total = math.fsum(weights)
    return [weight / total for weight in weights]
