"""Federated stochastic gradient descent: w ← w − η Σ p_i g_i, g_i = ∇F_i(w) over all examples of client i.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017, arXiv:1602.05629, section 2 (FedSGD: every client takes one gradient, the server takes the step).
Integers and bools have no gradient and stay as they are.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms.options import check_positive
from hansa.arrays import Arrays, apply, check_same_structure, delta_dtype, is_floating, scale
from hansa.messages import Task, Update

__all__ = ["client_update", "fedsgd", "server_update"]


def fedsgd(aggregator: Aggregator, *, learning_rate: float = 0.1) -> Algorithm:
    """learning_rate: η > 0."""
    check_positive("fedsgd", "learning_rate", learning_rate)
    return Algorithm(
        name="fedsgd",
        init=State,
        broadcast=lambda state: state.params,
        client_update=client_update,
        aggregator=aggregator,
        server_update=partial(server_update, learning_rate=learning_rate),
    )


def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
    """g_i = ∇F_i(w), in the dtypes of a change."""
    computed = trainer.gradient(model, task)
    check_same_structure(model, computed.arrays, "the gradient")
    gradient = {
        name: computed.arrays[name].astype(delta_dtype(array.dtype), copy=False)
        if is_floating(array)
        else np.zeros(array.shape, delta_dtype(array.dtype))
        for name, array in model.items()
    }
    return replace(computed, arrays=Arrays(gradient))


def server_update(state: State, aggregate: Aggregate, *, learning_rate: float) -> State:
    """w ← w − η Σ p_i g_i."""
    return State(apply(state.params, scale(aggregate.mean, -learning_rate)), state.round + 1)
