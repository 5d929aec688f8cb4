"""Adaptive federated optimization: FedAdagrad, FedAdam and FedYogi; Δ = Σ p_i Δ_i is used as a pseudo-gradient.

    m ← β₁m + (1 − β₁)Δ
    v ← v + Δ²                             FedAdagrad
    v ← β₂v + (1 − β₂)Δ²                   FedAdam
    v ← v − (1 − β₂)Δ² sign(v − Δ²)        FedYogi
    w ← w + η m / (√v + τ)                 m₀ = 0, v₀ = τ², no bias correction

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: "Adaptive Federated Optimization", ICLR 2021,
arXiv:2003.00295, Algorithm 2. Defaults are the paper's (β₁ = 0.9, β₂ = 0.99, τ = 1e-3, and no momentum in FedAdagrad),
but tune η: the best of its experiments lie between 10^-2.5 and 10^-0.5. The client half is FedAvg's. Only floating
tensors have moments; integers and bools follow FedAvg.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np

from hansa.algorithm import Aggregate, Aggregator, Algorithm, State
from hansa.algorithms.fedavg import client_update
from hansa.algorithms.options import check_fraction, check_positive
from hansa.arrays import Array, Arrays, apply, constant_change, map_floating

__all__ = ["fedadagrad", "fedadam", "fedyogi", "server_update"]

SecondMoment: TypeAlias = Callable[[Array, Array], Array]
"""(v, Δ) → the next v."""


def fedadagrad(
    aggregator: Aggregator, *, learning_rate: float = 0.1, beta1: float = 0.0, tau: float = 1e-3
) -> Algorithm:
    """learning_rate: η > 0; beta1: 0 ≤ β₁ < 1; tau: τ > 0, the degree of adaptivity (smaller adapts more)."""
    return _algorithm(
        "fedadagrad", aggregator, learning_rate=learning_rate, beta1=beta1, tau=tau, second_moment=adagrad
    )


def fedadam(
    aggregator: Aggregator,
    *,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> Algorithm:
    """learning_rate: η > 0; beta1, beta2: 0 ≤ β < 1; tau: τ > 0, the degree of adaptivity (smaller adapts more)."""
    check_fraction("fedadam", "beta2", beta2)
    return _algorithm(
        "fedadam",
        aggregator,
        learning_rate=learning_rate,
        beta1=beta1,
        tau=tau,
        second_moment=partial(adam, beta2=beta2),
    )


def fedyogi(
    aggregator: Aggregator,
    *,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> Algorithm:
    """learning_rate: η > 0; beta1, beta2: 0 ≤ β < 1; tau: τ > 0, the degree of adaptivity (smaller adapts more)."""
    check_fraction("fedyogi", "beta2", beta2)
    return _algorithm(
        "fedyogi",
        aggregator,
        learning_rate=learning_rate,
        beta1=beta1,
        tau=tau,
        second_moment=partial(yogi, beta2=beta2),
    )


def adagrad(v: Array, delta: Array) -> Array:
    """v + Δ²."""
    return np.asarray(v + np.square(delta))


def adam(v: Array, delta: Array, *, beta2: float) -> Array:
    """β₂v + (1 − β₂)Δ²."""
    return np.asarray(beta2 * v + (1 - beta2) * np.square(delta))


def yogi(v: Array, delta: Array, *, beta2: float) -> Array:
    """v − (1 − β₂)Δ² sign(v − Δ²)."""
    square = np.square(delta)
    return np.asarray(v - (1 - beta2) * square * np.sign(v - square))


def init(params: Arrays, *, tau: float) -> State:
    """m₀ = 0, v₀ = τ²."""
    return State(params, slots={"m": constant_change(params, 0.0), "v": constant_change(params, tau**2)})


def server_update(
    state: State,
    aggregate: Aggregate,
    *,
    learning_rate: float,
    beta1: float,
    tau: float,
    second_moment: SecondMoment,
) -> State:
    """One step of Algorithm 2, in the dtypes of the change."""
    m = map_floating(lambda m, delta: beta1 * m + (1 - beta1) * delta, state.slots["m"], aggregate.mean)
    v = map_floating(second_moment, state.slots["v"], aggregate.mean)
    change = map_floating(lambda _, m, v: learning_rate * m / (np.sqrt(v) + tau), aggregate.mean, m, v)
    return State(apply(state.params, change), state.round + 1, {"m": m, "v": v})


def _algorithm(
    name: str, aggregator: Aggregator, *, learning_rate: float, beta1: float, tau: float, second_moment: SecondMoment
) -> Algorithm:
    check_positive(name, "learning_rate", learning_rate)
    check_positive(name, "tau", tau)
    check_fraction(name, "beta1", beta1)
    return Algorithm(
        name=name,
        init=partial(init, tau=tau),
        broadcast=lambda state: state.params,
        client_update=client_update,
        aggregator=aggregator,
        server_update=partial(
            server_update, learning_rate=learning_rate, beta1=beta1, tau=tau, second_moment=second_moment
        ),
    )
