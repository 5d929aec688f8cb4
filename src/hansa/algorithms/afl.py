"""Agnostic federated learning: the model for the worst mixture λ of clients, min_w max_λ Σ λ_k F_k(w).

    client k:   sends λ_k ∇F_k(w) and F_k(w)
    server:     w ← w − γ_w Σ λ_k ∇F_k(w)
                λ ← Π(λ + γ_λ (F_1(w), …, F_N(w))),  Π the projection onto the simplex

Mohri, Sivek, Suresh: "Agnostic Federated Learning", ICML 2019, arXiv:1902.00146, Figure 2, with gradients over all
examples of a client. λ starts uniform. The model is the last iterate; the paper's bounds are of the mean of iterates.

A client is the k of its share (`ClientInfo.index` of `total` = N), so that each needs a share of its own. Where only
some take part, λ keeps the sum that they have together, and the step is that of their λ divided by this sum.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from hansa.aggregators.mean import unweighted
from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedsgd
from hansa.algorithms.local import checked_loss
from hansa.algorithms.options import check_count, check_positive
from hansa.algorithms.parts import joined, part
from hansa.arrays import Arrays, apply, scale
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update

__all__ = ["afl", "broadcast", "client_update", "projected", "server_update"]


def afl(
    aggregator: Aggregator, *, num_clients: int, learning_rate: float = 0.1, mixture_rate: float = 0.1
) -> Algorithm:
    """num_clients: N ≥ 1, all shares; learning_rate: γ_w > 0; mixture_rate: γ_λ > 0."""
    check_count("afl", "num_clients", num_clients)
    check_positive("afl", "learning_rate", learning_rate)
    check_positive("afl", "mixture_rate", mixture_rate)
    uniform = Arrays({"lambda": np.full(num_clients, 1 / num_clients)})
    return Algorithm(
        name="afl",
        init=lambda params: State(params, slots={"mixture": uniform}),
        broadcast=broadcast,
        client_update=client_update,
        aggregator=unweighted(aggregator),
        needs_mean=True,
        server_update=partial(server_update, learning_rate=learning_rate, mixture_rate=mixture_rate),
    )


def broadcast(state: State) -> Arrays:
    """The model under `params/`; λ under `mixture/`, with room for who is there."""
    mixture = state.slots["mixture"]["lambda"]
    return joined({"params": state.params, "mixture": {"lambda": mixture, "there": np.zeros_like(mixture)}})


def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
    """λ_k ∇F_k(w); F_k(w) in the place of λ_k, and a 1 for being there."""
    mixture, k = part(model, "mixture")["lambda"], task.client.index
    if not 0 <= k < len(mixture) or task.client.total != len(mixture):
        raise AppError(
            f"afl has a weight for each of {len(mixture)} shares, but {task.client.name} has share {k} of "
            f"{task.client.total}: give num_clients={task.client.total}, or each client a share of its own"
        )
    computed = fedsgd.client_update(trainer, part(model, "params"), task)
    only = np.arange(len(mixture)) == k
    told = {"lambda": only * checked_loss("afl", computed), "there": only.astype(float)}
    return replace(computed, arrays=joined({"params": scale(computed.arrays, float(mixture[k])), "mixture": told}))


def server_update(state: State, aggregate: Aggregate, *, learning_rate: float, mixture_rate: float) -> State:
    """A step of descent on w and of ascent on λ, for those who are there."""
    count, told, mixture = (
        len(aggregate.contributions),
        part(aggregate.mean, "mixture"),
        state.slots["mixture"]["lambda"],
    )
    there = np.rint(count * told["there"]).astype(int)
    if there.max(initial=0) > 1:
        raise ConfigError(f"afl: {there.max()} clients have share {there.argmax()}; give each a share of its own")
    present = there == 1
    mass = float(mixture[present].sum())
    step = scale(part(aggregate.mean, "params"), -learning_rate * count / mass if mass > 0 else 0.0)
    after = mixture.copy()
    after[present] = projected(mixture[present] + mixture_rate * count * told["lambda"][present], mass)
    return State(apply(state.params, step), state.round + 1, {"mixture": Arrays({"lambda": after})})


def projected(point: npt.NDArray[np.float64], mass: float) -> npt.NDArray[np.float64]:
    """The nearest point with values ≥ 0 that sum to `mass`: max(point − θ, 0).

    Wang, Carreira-Perpiñán 2013, arXiv:1309.1541.
    """
    ordered = np.sort(point)[::-1]
    thresholds = (np.cumsum(ordered) - mass) / np.arange(1, len(point) + 1)
    theta = thresholds[ordered > thresholds][-1] if mass > 0 else np.inf
    return np.maximum(point - theta, 0)
