"""Centered clipping: updates are pulled towards a centre until they are near it, and only then averaged.

    v ← 0;  L times   v ← v + (1/n) Σ (Δ_i − v) min(1, τ / ‖Δ_i − v‖)

Karimireddy, He, Jaggi: "Learning from History for Byzantine Robust Optimization", ICML 2021, arXiv:2012.10333, equation
(CC). Every client counts alike. The paper starts from the aggregate of the round before, which it may because clients
send momenta. An aggregator here has no memory, so that a round can be computed anew from what is recorded of it: v
starts at 0 in each round, and more steps L take the place of a good start.

A step reads the updates twice, for ‖Δ_i − v‖ from whole quanta and for v = Σ c_i Δ_i, rounded to the dtype of a change.
Beside v only a number for each client is held, and time grows with their number, not with its square.

What holds: a step moves v by at most τ, so that ‖v‖ ≤ Lτ whatever is sent; and an update moves it by at most τ/n.
"""

import math
from collections.abc import Sequence
from functools import partial

from hansa.aggregators.geometry import distance
from hansa.aggregators.options import check_count, check_positive
from hansa.aggregators.spooled import Combination, Member, Spooled, SpoolPlan, combined, row_of, spooled
from hansa.arrays import Arrays

__all__ = ["centered_clipping"]


def centered_clipping(*, max_weight: int = 2**24, range_bits: int = 6, tau: float, iterations: int = 3) -> Spooled:
    """tau: τ > 0, how far an update may be from the centre and count whole, about an honest update's norm.

    iterations: L ≥ 1.
    """
    check_positive("centered-clipping", "tau", tau)
    check_count("centered-clipping", "iterations", iterations)
    reduce = partial(_reduce, tau=tau, iterations=iterations)
    return spooled("centered-clipping", "gram", reduce, max_weight=max_weight, range_bits=range_bits)


def _reduce(plan: SpoolPlan, members: Sequence[Member], *, tau: float, iterations: int) -> Arrays:
    c, v = [0.0] * len(members), combined(plan, members, Combination([0.0] * len(members), 1.0))
    for _ in range(iterations):
        centre = row_of(plan, v)
        away = [distance(plan, member.row, centre) for member in members]
        pulls = [(tau / length if length > tau else 1.0) / len(members) for length in away]
        stays = 1.0 - math.fsum(pulls)
        c = [stays * old + pull for old, pull in zip(c, pulls, strict=True)]
        v = combined(plan, members, Combination(c, 1.0))
    return v
