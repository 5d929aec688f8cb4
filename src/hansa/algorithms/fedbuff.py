"""FedBuff: w ← w + η · mean of s(τ_i) Δ_i over K updates, whoever sends them first; nobody waits for the others.

A client trains on the model that it was given, and τ_i counts the models made since; K updates make a new one.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: "Federated Learning with Buffered Asynchronous Aggregation",
AISTATS 2022, arXiv:2106.06639, Algorithm 1, with s of `staleness`. The paper's clients count alike: give the aggregator
mean the option uniform=true for that; by default they count by their examples, so that nothing but τ_i = 0 for all of
K clients is left between this and FedAvg.
"""

from dataclasses import replace
from functools import partial

from hansa.algorithm import Aggregate, Aggregator, Algorithm, Buffering, State
from hansa.algorithms.fedavg import client_update
from hansa.algorithms.options import check_count, check_positive
from hansa.algorithms.staleness import check_max_staleness, discount, discounted
from hansa.arrays import apply, scale

__all__ = ["fedbuff", "server_update"]


def fedbuff(
    aggregator: Aggregator,
    *,
    buffer: int = 10,
    learning_rate: float = 1.0,
    staleness: str = "polynomial",
    a: float = 0.5,
    b: int = 4,
    max_staleness: int | None = None,
) -> Algorithm:
    """buffer: K ≥ 1; learning_rate: η > 0; staleness: s, polynomial in a, hinge in a and b, or constant.

    max_staleness: an update with a larger τ is rejected; none: however old it is, it counts.
    """
    check_count("fedbuff", "buffer", buffer)
    check_positive("fedbuff", "learning_rate", learning_rate)
    check_max_staleness("fedbuff", max_staleness)
    s = discount("fedbuff", staleness, a, b)
    return Algorithm(
        name="fedbuff",
        init=State,
        broadcast=lambda state: state.params,
        client_update=client_update,
        aggregator=aggregator,
        server_update=partial(server_update, learning_rate=learning_rate),
        buffering=Buffering(buffer, lambda change, tau, *_: discounted(change, s(tau)), max_staleness),
    )


def server_update(state: State, aggregate: Aggregate, *, learning_rate: float) -> State:
    """w ← w + η Δ."""
    change = aggregate.mean if learning_rate == 1.0 else scale(aggregate.mean, learning_rate)
    return replace(state, params=apply(state.params, change), round=state.round + 1)
