"""Krum and multi-Krum: the updates that have the nearest neighbours.

    score_i = Σ of ‖Δ_i − Δ_j‖² over the n − f − 2 nearest j ≠ i
    Krum:         w ← w + Δ_i with the lowest score
    multi-Krum:   w ← w + the mean of the m with the lowest scores

Blanchard, El Mhamdi, Guerraoui, Stainer: "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
NeurIPS 2017, arXiv:1703.02757. Needs n > 2f + 2. Every client counts alike. Of equal scores the first by name is lower.

What holds: with D the largest distance of two honest updates, whatever the f others send, the update that Krum chooses
is at most D √((n − f − 2) / (n − 2f − 1)) from an honest one. It can still be biased in a few coordinates (`bulyan`).
"""

from collections.abc import Iterable, Sequence
from functools import partial

from hansa.aggregators.geometry import Gram, gram_of
from hansa.aggregators.options import check_count, check_whole
from hansa.aggregators.spooled import Combination, Member, Spooled, SpoolPlan, combined, spooled
from hansa.arrays import Arrays
from hansa.errors import ConfigError

__all__ = ["krum", "multi_krum", "scores"]


def krum(*, max_weight: int = 2**24, range_bits: int = 6, f: int) -> Spooled:
    """Krum: the one update whose nearest neighbours are the nearest. Needs n > 2f + 2.

    f: the most malicious clients in a round, f ≥ 0; more makes it robust against more, and compare with fewer.
    """
    return _krum("krum", max_weight, range_bits, f, 1)


def multi_krum(*, max_weight: int = 2**24, range_bits: int = 6, f: int, m: int | None = None) -> Spooled:
    """Multi-Krum: the mean of the m updates whose nearest neighbours are the nearest. Needs n > 2f + 2.

    f: as Krum's; m: how many are averaged, 1 ≤ m; by default n − f − 2, the most that any proof covers.
    With m above n − f − 2 a round needs more clients: it fails with fewer than m + f + 2.
    """
    if m is not None:
        check_count("multi-krum", "m", m)
    return _krum("multi-krum", max_weight, range_bits, f, m)


def scores(gram: Gram, f: int, among: Iterable[int] | None = None) -> dict[int, int]:
    """Update → its score among these (None: all), exact, in units of 2^exponent.

    Where n − f − 2 is below 1, as in the last steps of Bulyan, the nearest neighbour alone counts.
    """
    ids = list(range(len(gram)) if among is None else among)
    nearest = max(1, len(ids) - f - 2)
    return {i: sum(sorted(gram.square(i, j) for j in ids if j != i)[:nearest]) for i in ids}


def _krum(rule: str, max_weight: int, range_bits: int, f: int, m: int | None) -> Spooled:
    check_whole(rule, "f", f)
    least, needs = 2 * f + 3, f"n > 2f + 2 updates, with f = {f}"
    if m is not None and m + f + 2 > least:
        least, needs = m + f + 2, f"n ≥ m + f + 2 updates, with m = {m} and f = {f}"
    reduce = partial(_reduce, f=f, m=m)
    return spooled(rule, "gram", reduce, max_weight=max_weight, range_bits=range_bits, least=least, needs=needs)


def _reduce(plan: SpoolPlan, members: Sequence[Member], *, f: int, m: int | None) -> Arrays:
    ranked = scores(gram_of(plan, members), f)
    count = len(members) - f - 2 if m is None else m
    if not 1 <= count <= len(members):  # pragma: no cover - `least` sees to it
        raise ConfigError(f"m is {count}, of {len(members)} updates")
    best = set(sorted(ranked, key=lambda i: (ranked[i], i))[:count])
    return combined(plan, members, Combination([float(i in best) for i in range(len(members))], float(count)))
