"""Clipping to a norm that follows the clients: a quantile γ of the norms of their updates, tracked over the rounds.

    client i:   b_i = 1 where ‖Δ_i‖ ≤ C, else 0
                sends u_i = Δ_i / max(C, ‖Δ_i‖)  and  (b_i − ½) · 2√β
    server:     Δ = C ū;  C ← C · exp(−η (b̄ − γ))

Andrew, Thakkar, McMahan, Ramaswamy: "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021,
arXiv:1905.03871. C is part of the server's state, so the algorithm is wrapped: C travels with the model, and b_i with
the update. b̄ is the mean of the run's aggregator, which weighs clients as it weighs their updates.

What is sent has in every round the norm √(1 + β) at most, whatever C is, and noise that is added to it covers Δ_i
and b_i together. That is the paper's mechanism: its noise z_Δ on the update and σ_b on Σ b_i, with the multiplier z of
both, 1/z² = 1/z_Δ² + 1/(2σ_b)² (its theorem 1), are here z_Δ = z √(1 + β) and σ_b = z √(1 + 1/β)/2. The paper's σ_b is
a twentieth of the clients of a round: β = 0.01 for 100 of them and z = 1.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hansa.algorithm import Aggregate, Algorithm, Bound, Stage, State, Trainer, Transform
from hansa.arrays import Array, Arrays, map_floating, norm
from hansa.errors import ConfigError
from hansa.messages import Task, Update
from hansa.privacy.clip import checked_norm, clipped

__all__ = ["adaptive_clip"]

_MODEL = "model/"
_NORM = "clip/norm"
_WITHIN = "clip/within"
_SLOT = "adaptive-clip"

_LEAST, _MOST = 2.0**-64, 2.0**64
"""Of C: where all updates are 0 for a thousand rounds, it must not vanish."""


def adaptive_clip(
    before: Bound, *, norm: float = 0.1, quantile: float = 0.5, learning_rate: float = 0.2, indicator: float = 0.01
) -> Transform:
    """norm: C of the first round, from 2^-64 to 2^64, in the paper 0.1; quantile: γ, from 0 to 1; learning_rate: η > 0.

    indicator: β, above 0 and at most 1, what b_i takes of the squared norm: more tells C better where there is noise,
    and takes more of the noise for it.
    """
    del before
    first = checked_norm("adaptive-clip", norm)
    if not _LEAST <= first <= _MOST:
        raise ConfigError(f"adaptive-clip: norm is {first:g}; C is adapted from it, between 2^-64 and 2^64")
    _check("quantile", quantile, 0.0, 1.0)
    _check("learning_rate", learning_rate, 0.0, 100.0)
    _check("indicator", indicator, 0.0, 1.0)
    if not indicator:
        raise ConfigError("adaptive-clip: indicator is 0; it must be above 0, since it tells who was clipped")
    half = math.sqrt(indicator)

    def wrap(algorithm: Algorithm) -> Algorithm:
        return _adapting(algorithm, first, half, quantile, learning_rate)

    return Transform("adaptive-clip", stage=Stage.CLIP, bound=Bound(math.hypot(1, half)), wrap=wrap)


def _adapting(algorithm: Algorithm, first: float, half: float, quantile: float, learning_rate: float) -> Algorithm:
    """The algorithm, with C in its state. half: √β."""

    def init(params: Arrays) -> State:
        state = algorithm.init(params)
        return replace(state, slots={**state.slots, _SLOT: Arrays({"norm": np.array(first)})})

    def broadcast(state: State) -> Arrays:
        own = algorithm.broadcast(_without(state))
        return Arrays(_prefixed(own) | {_NORM: state.slots[_SLOT]["norm"], _WITHIN: np.array(half)})

    def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
        update = algorithm.client_update(trainer, _own(model), task)
        limit = float(model[_NORM])
        length = norm(update.arrays)
        told = half if length <= limit else -half
        if not math.isfinite(length):  # no server counts it, and its values say why
            length = limit
        sent = clipped(_scaled(update.arrays, 1 / max(limit, length)), Bound(1.0))
        return replace(update, arrays=Arrays(_prefixed(sent) | {_NORM: np.zeros(()), _WITHIN: np.array(told)}))

    def server_update(state: State, aggregate: Aggregate) -> State:
        limit = float(state.slots[_SLOT]["norm"])
        mean = _scaled(_own(aggregate.mean), limit)
        after = algorithm.server_update(_without(state), replace(aggregate, mean=mean))
        within = min(max(float(aggregate.mean[_WITHIN]) / (2 * half) + 0.5, 0.0), 1.0)
        adapted = min(max(limit * math.exp(-learning_rate * (within - quantile)), _LEAST), _MOST)
        return replace(after, slots={**after.slots, _SLOT: Arrays({"norm": np.array(adapted)})})

    return replace(algorithm, init=init, broadcast=broadcast, client_update=client_update, server_update=server_update)


def _check(option: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"adaptive-clip: {option} is {value!r:.80}; it must be a number from {low:g} to {high:g}")


def _scaled(arrays: Arrays, factor: float) -> Arrays:
    """The floating tensors times a number, rounded once."""
    return map_floating(lambda array: (array.astype(np.float64) * factor).astype(array.dtype), arrays)


def _prefixed(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {_MODEL + name: array for name, array in arrays.items()}


def _own(arrays: Mapping[str, Array]) -> Arrays:
    """What is the algorithm's."""
    return Arrays({key.removeprefix(_MODEL): array for key, array in arrays.items() if key.startswith(_MODEL)})


def _without(state: State) -> State:
    """The algorithm's own state."""
    return replace(state, slots={name: kept for name, kept in state.slots.items() if name != _SLOT})
