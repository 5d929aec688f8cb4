"""Bulyan: Krum again and again chooses updates, and of these each coordinate takes the values around its median.

    S ← {}; θ = n − 2f times   move the update that Krum chooses among those that are left to S
    w_k ← w_k + the mean of the β = θ − 2f values of coordinate k in S that are nearest to their median

El Mhamdi, Guerraoui, Rouault: "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018,
arXiv:1802.07927. Needs n ≥ 4f + 3. Every client counts alike. Of equal scores the first by name is lower; of two values
as near to the median the smaller is nearer.

What holds of every coordinate, whatever the f others send: S has at most f of them, so the median of S and what is
nearest to it lie between honest values. Choosing takes n³ comparisons of numbers, for hundreds of clients seconds.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from hansa.aggregators.columns import middle
from hansa.aggregators.geometry import Gram, gram_of
from hansa.aggregators.krum import scores
from hansa.aggregators.options import check_whole
from hansa.aggregators.spooled import Member, Spooled, SpoolPlan, by_column, mean_of_rows, spooled
from hansa.arrays import Array, Arrays

__all__ = ["around_the_median", "bulyan", "chosen"]


def bulyan(*, max_weight: int = 2**24, range_bits: int = 6, f: int) -> Spooled:
    """f: the most malicious clients in a round, f ≥ 0."""
    check_whole("bulyan", "f", f)
    return spooled(
        "bulyan",
        "gram",
        partial(_reduce, f=f),
        max_weight=max_weight,
        range_bits=range_bits,
        least=4 * f + 3,
        needs=f"n ≥ 4f + 3 updates, with f = {f}",
    )


def chosen(gram: Gram, f: int) -> list[int]:
    """S, sorted: n − 2f updates, one after another by Krum among those that are left."""
    left = list(range(len(gram)))
    taken: list[int] = []
    while len(taken) < len(gram) - 2 * f:
        ranked = scores(gram, f, left)
        best = min(left, key=lambda i: (ranked[i], i))
        left.remove(best)
        taken.append(best)
    return sorted(taken)


def around_the_median(values: Array, *, count: int) -> Array:
    """The mean over the first axis of the `count` values nearest to the median. values: changed."""
    values.sort(axis=0)
    away = np.abs(np.subtract(values, middle(values.copy()), dtype=np.float64))
    nearest = np.argsort(away, axis=0, kind="stable")[:count]
    return mean_of_rows(np.take_along_axis(values, np.sort(nearest, axis=0), axis=0))


def _reduce(plan: SpoolPlan, members: Sequence[Member], *, f: int) -> Arrays:
    selected = [members[i] for i in chosen(gram_of(plan, members), f)]
    return by_column(partial(around_the_median, count=len(selected) - 2 * f))(plan, selected)
