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
from collections.abc import Sequence

from hansa.aggregators.geometry import Gram, gram_of
from hansa.aggregators.spooled import Combination, Member, Spooled, SpoolPlan, combined, spooled
from hansa.arrays import Arrays

__all__ = ["foolsgold", "weights"]


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


def weights(gram: Gram) -> list[float]:
    """α_i, in [0, 1]."""
    ids = range(len(gram))
    cosines = [[gram.cosine(i, j) for j in ids] for i in ids]
    nearest = [max(cosines[i][j] for j in ids if j != i) for i in ids]
    alpha = []
    for i in ids:
        pardoned = (
            cosines[i][j] * (nearest[i] / nearest[j] if nearest[j] > nearest[i] > 0 else 1.0) for j in ids if j != i
        )
        alpha.append(min(1.0, max(0.0, 1.0 - max(pardoned))))
    largest = max(alpha)
    return [_logit(value / largest) for value in alpha] if largest else alpha


def _logit(share: float) -> float:
    if not 0.0 < share < 1.0:
        return share
    return min(1.0, max(0.0, math.log(share / (1.0 - share)) + 0.5))


def _reduce(plan: SpoolPlan, members: Sequence[Member]) -> Arrays:
    alpha = weights(gram_of(plan, members))
    return combined(plan, members, Combination(alpha, math.fsum(alpha)))
