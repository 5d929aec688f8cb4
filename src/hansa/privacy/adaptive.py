"""Clipping to a norm that follows the clients: a quantile γ of the norms of their updates, tracked over the rounds.

    client i:   b_i = 1 where ‖Δ_i‖ ≤ C, else 0;  Δ_i ← Δ_i · min(1, C/‖Δ_i‖)
    server:     C ← C · exp(−η (mean b_i − γ))

Andrew, Thakkar, McMahan, Ramaswamy: "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021,
arXiv:1905.03871, without its noise. C is part of the server's state, so the algorithm is wrapped: C travels with the
model, and b_i with the update. b̄ is the mean of the run's aggregator, which weighs clients as it weighs their updates.

No noise goes with it here: C is another one in every round, and the b_i would need noise of their own.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hansa.algorithm import Aggregate, Algorithm, Bound, Stage, State, Trainer, Transform
from hansa.arrays import Array, Arrays, norm
from hansa.errors import ConfigError
from hansa.messages import Task, Update
from hansa.privacy.clip import checked_norm, clipped

__all__ = ["adaptive_clip"]

_MODEL = "model/"
_NORM = "clip/norm"
_WITHIN = "clip/within"
_SLOT = "adaptive-clip"


def adaptive_clip(before: Bound, *, norm: float = 0.1, quantile: float = 0.5, learning_rate: float = 0.2) -> Transform:
    """norm: C of the first round, above 0, in the paper 0.1; quantile: γ, from 0 to 1; learning_rate: η > 0."""
    del before
    first = checked_norm("adaptive-clip", norm)
    if not math.isfinite(first):
        raise ConfigError("adaptive-clip: norm is infinite; it must be a finite number, from which C is adapted")
    _check("quantile", quantile, 0.0, 1.0)
    _check("learning_rate", learning_rate, 0.0, 100.0)

    def wrap(algorithm: Algorithm) -> Algorithm:
        return _adapting(algorithm, first, quantile, learning_rate)

    return Transform("adaptive-clip", stage=Stage.CLIP, wrap=wrap)


def _adapting(algorithm: Algorithm, first: float, quantile: float, learning_rate: float) -> Algorithm:
    """The algorithm, with C in its state."""

    def init(params: Arrays) -> State:
        state = algorithm.init(params)
        return replace(state, slots={**state.slots, _SLOT: Arrays({"norm": np.array(first)})})

    def broadcast(state: State) -> Arrays:
        own = algorithm.broadcast(_without(state))
        return Arrays(_prefixed(own) | {_NORM: state.slots[_SLOT]["norm"], _WITHIN: np.zeros(())})

    def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
        update = algorithm.client_update(trainer, _own(model), task)
        limit = Bound(float(model[_NORM]))
        within = float(norm(update.arrays) <= limit.norm)
        told = {_NORM: np.zeros(()), _WITHIN: np.array(within)}
        return replace(update, arrays=Arrays(_prefixed(clipped(update.arrays, limit)) | told))

    def server_update(state: State, aggregate: Aggregate) -> State:
        after = algorithm.server_update(_without(state), replace(aggregate, mean=_own(aggregate.mean)))
        within = min(max(float(aggregate.mean[_WITHIN]), 0.0), 1.0)
        adapted = float(state.slots[_SLOT]["norm"]) * math.exp(-learning_rate * (within - quantile))
        return replace(after, slots={**after.slots, _SLOT: Arrays({"norm": np.array(adapted)})})

    return replace(algorithm, init=init, broadcast=broadcast, client_update=client_update, server_update=server_update)


def _check(option: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"adaptive-clip: {option} is {value!r:.80}; it must be a number from {low:g} to {high:g}")


def _prefixed(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {_MODEL + name: array for name, array in arrays.items()}


def _own(arrays: Mapping[str, Array]) -> Arrays:
    """What is the algorithm's."""
    return Arrays({key.removeprefix(_MODEL): array for key, array in arrays.items() if key.startswith(_MODEL)})


def _without(state: State) -> State:
    """The algorithm's own state."""
    return replace(state, slots={name: kept for name, kept in state.slots.items() if name != _SLOT})
