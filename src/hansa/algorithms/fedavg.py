"""Federated averaging: w ← w + Σ p_i Δ_i, p_i = n_i / Σ n over the accepted clients.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017, arXiv:1602.05629, Algorithm 1.
"""

from dataclasses import replace

from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.arrays import Arrays, apply, subtract
from hansa.messages import Task, Update

__all__ = ["client_update", "fedavg", "server_update"]


def fedavg(aggregator: Aggregator) -> Algorithm:
    """FedAvg has no options."""
    return Algorithm(
        name="fedavg",
        init=State,
        broadcast=lambda state: state.params,
        client_update=client_update,
        aggregator=aggregator,
        server_update=server_update,
    )


def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
    """Δ_i = w_i − w after local training."""
    trained = trainer.fit(model, task)
    return replace(trained, arrays=subtract(trained.arrays, model))


def server_update(state: State, aggregate: Aggregate) -> State:
    """w ← w + Σ p_i Δ_i."""
    return replace(state, params=apply(state.params, aggregate.mean), round=state.round + 1)
