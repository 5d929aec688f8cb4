"""pFedMe: the global model minimizes the clients' Moreau envelopes; each client's own model is the envelope's argmin.

    client i:   w_i ← w; R times  θ_i ≈ argmin F_i(θ) + (λ/2)‖θ − w_i‖², by local training from w_i
                                  w_i ← w_i − ηλ(w_i − θ_i);  sends w_i − w, keeps θ_i
    server:     w ← (1 − β) w + β mean w_i

Dinh, Tran, Nguyen: "Personalized Federated Learning with Moreau Envelopes", NeurIPS 2020, arXiv:2006.08848,
Algorithm 1. Every client counts alike. θ_i never travels, and is the model that the client evaluates. Each of the R
trainings is as long as the trainer says, at a learning rate well below 2/λ. Integers are those of the last θ_i.
"""

from dataclasses import replace
from functools import partial

from hansa.aggregators.mean import unweighted
from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms.ditto import own_model
from hansa.algorithms.local import check_memory_is_free, corrected_fit
from hansa.algorithms.options import check_count, check_positive
from hansa.arrays import Arrays, apply, scale, subtract
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["client_update", "pfedme", "server_update"]


def pfedme(
    aggregator: Aggregator,
    *,
    penalty: float = 15.0,
    learning_rate: float = 0.005,
    local_rounds: int = 20,
    beta: float = 1.0,
) -> Algorithm:
    """penalty: λ > 0; learning_rate: η > 0 of w_i; local_rounds: R ≥ 1; beta: β > 0 of the server, may be above 1."""
    check_positive("pfedme", "penalty", penalty)
    check_positive("pfedme", "learning_rate", learning_rate)
    check_count("pfedme", "local_rounds", local_rounds)
    check_positive("pfedme", "beta", beta)
    return Algorithm(
        name="pfedme",
        init=State,
        broadcast=lambda state: state.params,
        client_update=partial(client_update, penalty=penalty, learning_rate=learning_rate, local_rounds=local_rounds),
        aggregator=unweighted(aggregator),
        server_update=partial(server_update, beta=beta),
        personal=own_model,
    )


def client_update(
    trainer: Trainer, model: Arrays, task: Task, *, penalty: float, learning_rate: float, local_rounds: int
) -> Update:
    """w_i − w; `memory` is θ_i."""
    own, alone, correction = model, replace(task, memory=None), GradientCorrection(proximal=penalty)
    for _ in range(local_rounds):
        trained = corrected_fit("pfedme", trainer, own, alone, correction)
        check_memory_is_free("pfedme", trained, "its own model")
        own = apply(own, scale(subtract(trained.arrays, own), learning_rate * penalty))
    return replace(trained, arrays=subtract(own, model), memory=trained.arrays)


def server_update(state: State, aggregate: Aggregate, *, beta: float) -> State:
    """w ← w + β mean (w_i − w)."""
    return State(apply(state.params, scale(aggregate.mean, beta)), state.round + 1)
