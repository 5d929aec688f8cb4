"""FLTrust: an update counts as far as it points where a trusted one points, at the trusted one's length.

    TS_i = max(0, cos(Δ_i, Δ_0));   w ← w + Σ TS_i (‖Δ_0‖ / ‖Δ_i‖) Δ_i / Σ TS_i

Cao, Fang, Liu, Gong: "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021,
arXiv:2012.13995, Algorithm 2. In the paper the server trains on a small clean root dataset to get Δ_0. Here a client
does, which the operator runs and names in `trusted`: so the root data need not be at the aggregation server, the update
is trained, checked, signed and recorded like any other, and a round is still a function of its updates. As in the
paper, Δ_0 is the reference and is not averaged. Every other client counts alike. A round without Δ_0 fails, so select
the trusted client in each: `selection="all"`, or a policy of your own.

Where no update has a positive cosine, nothing is added to the model. What holds: ‖Σ …‖ ≤ ‖Δ_0‖, whatever is sent.
"""

import math
from collections.abc import Sequence
from functools import partial

from hansa.aggregators.geometry import gram_of
from hansa.aggregators.options import check_name
from hansa.aggregators.spooled import Combination, Member, Spooled, SpoolPlan, combined, spooled
from hansa.arrays import Arrays
from hansa.errors import QuorumNotMetError

__all__ = ["fltrust"]


def fltrust(*, max_weight: int = 2**24, range_bits: int = 6, trusted: str) -> Spooled:
    """trusted: the name of the client whose update is the reference."""
    check_name("fltrust", "trusted", trusted)
    return spooled("fltrust", "gram", partial(_reduce, trusted=trusted), max_weight=max_weight, range_bits=range_bits)


def _reduce(plan: SpoolPlan, members: Sequence[Member], *, trusted: str) -> Arrays:
    names = [member.client for member in members]
    if trusted not in names:
        raise QuorumNotMetError(
            f"fltrust needs the update of {trusted!r}, the client that it trusts, and {len(members)} others count in "
            "this round: see that it is connected and invited to every round"
        )
    gram, root = gram_of(plan, members), names.index(trusted)
    trust = [0.0 if i == root else max(0.0, gram.cosine(i, root)) for i in range(len(members))]
    scaled = [score * gram.norm(root) / gram.norm(i) if score else 0.0 for i, score in enumerate(trust)]
    return combined(plan, members, Combination(scaled, math.fsum(trust)))
