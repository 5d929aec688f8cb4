"""Ditto: beside the global model of FedAvg each client trains one of its own, which is pulled towards the global one.

    client i:   Δ_i = w_i − w, local training from w, as in FedAvg
                v_i ← local training of F_i(v) + (λ/2)‖v − w‖² from v_i;  keeps v_i

Li, Hu, Beirami, Smith: "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021,
arXiv:2012.04221, Algorithm 1. v_i starts as the first w that the client sees, never travels, and is the model that the
client evaluates. Every local gradient of v gains λ(v − w) = λ(v − v_i) + λ(v_i − w), v_i where the round began. Both
trainings are as long as the trainer's settings say.
"""

from dataclasses import replace
from functools import partial

from hansa.algorithm import Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg
from hansa.algorithms.local import check_memory_is_free, corrected_fit
from hansa.algorithms.options import check_not_negative
from hansa.arrays import Arrays, is_floating, scale, subtract
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["client_update", "ditto", "own_model"]


def ditto(aggregator: Aggregator, *, pull: float = 0.1) -> Algorithm:
    """pull: λ ≥ 0 towards the global model, in the paper 0.05 to 2; with 0 each client trains for itself alone."""
    check_not_negative("ditto", "pull", pull)
    return Algorithm(
        name="ditto",
        init=State,
        broadcast=lambda state: state.params,
        client_update=partial(client_update, pull=pull),
        aggregator=aggregator,
        server_update=fedavg.server_update,
        personal=own_model,
    )


def client_update(trainer: Trainer, model: Arrays, task: Task, *, pull: float) -> Update:
    """Δ_i; `memory` is v_i."""
    alone = replace(task, memory=None)
    trained = fedavg.client_update(trainer, model, alone)
    check_memory_is_free("ditto", trained, "its own model")
    start = own_model(model, task.memory)
    apart = {name: array for name, array in subtract(start, model).items() if is_floating(model[name])}
    correction = GradientCorrection(proximal=pull, offset=scale(Arrays(apart), pull)) if pull else None
    own = corrected_fit("ditto", trainer, start, alone, correction)
    return replace(trained, memory=own.arrays)


def own_model(model: Arrays, memory: Arrays | None) -> Arrays:
    """v_i, or the global model where the client has none yet."""
    return model if memory is None else memory
