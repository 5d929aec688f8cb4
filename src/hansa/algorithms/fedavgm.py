"""Federated averaging with server momentum: v ← βv + Δ, w ← w + ηv, with Δ = Σ p_i Δ_i.

Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019,
arXiv:1909.06335, section 4.3 (β = 0.9; η = 1 there). The client half is FedAvg's. Only floating tensors have momentum;
integers and bools follow FedAvg.
"""

from functools import partial

from hansa.algorithm import Aggregate, Aggregator, Algorithm, State
from hansa.algorithms.fedavg import client_update
from hansa.algorithms.options import check_fraction, check_positive
from hansa.arrays import Arrays, apply, constant_change, map_floating

__all__ = ["fedavgm", "server_update"]


def fedavgm(aggregator: Aggregator, *, learning_rate: float = 1.0, momentum: float = 0.9) -> Algorithm:
    """learning_rate: η of the server, > 0; momentum: β, 0 ≤ β < 1. With η = 1 and β = 0 it is FedAvg."""
    check_positive("fedavgm", "learning_rate", learning_rate)
    check_fraction("fedavgm", "momentum", momentum)
    return Algorithm(
        name="fedavgm",
        init=init,
        broadcast=lambda state: state.params,
        client_update=client_update,
        aggregator=aggregator,
        server_update=partial(server_update, learning_rate=learning_rate, momentum=momentum),
    )


def init(params: Arrays) -> State:
    """v_0 = 0."""
    return State(params, slots={"v": constant_change(params, 0.0)})


def server_update(state: State, aggregate: Aggregate, *, learning_rate: float, momentum: float) -> State:
    """v ← βv + Δ; w ← w + ηv."""
    v = map_floating(lambda v, delta: momentum * v + delta, state.slots["v"], aggregate.mean)
    change = map_floating(lambda _, v: learning_rate * v, aggregate.mean, v)
    return State(apply(state.params, change), state.round + 1, {"v": v})
