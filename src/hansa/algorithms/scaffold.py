"""SCAFFOLD: control variates c (of the server) and c_i (of each client) take the drift out of the local steps.

    client i of S:   y ← w; K times  y ← y − η_l (g_i(y) − c_i + c)
                     c_i⁺ = c_i − c + (w − y) / (K η_l);  sends y − w and c_i⁺ − c_i, keeps c_i⁺
    server:          w ← w + η_g · mean_S (y − w)
                     c ← c + |S|/N · mean_S (c_i⁺ − c_i)

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
ICML 2020, arXiv:1910.06378, Algorithm 1 with option II. Every client counts alike, unless `weighted`.

All control variates start at 0, so that the first round is FedAvg's, up to the weights. A client that has lost its
memory starts at 0 again; c then keeps what the old c_i had added to it, a bias of c_i/N. K η_l is `Update.step_sum`,
for momentum too: then c_i⁺ is the mean of the local gradients as momentum weighs them. Tensors that are not trained by
gradients (running means of BatchNorm, integers) follow FedAvg, up to the weights.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from hansa.aggregators.mean import unweighted
from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms.local import check_memory_is_free, corrected_change, known_step_sums
from hansa.algorithms.options import check_count, check_positive, check_taking_part
from hansa.algorithms.parts import joined, part
from hansa.arrays import Arrays, apply, constant_change, scale
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["broadcast", "client_update", "scaffold", "server_update"]


def scaffold(
    aggregator: Aggregator, *, num_clients: int, learning_rate: float = 1.0, weighted: bool = False
) -> Algorithm:
    """num_clients: N ≥ 1, all that may ever take part, not those of one round; learning_rate: η_g > 0 of the server.

    weighted: whether clients count by their examples in both means, as in FLamby; in the paper they do not.
    """
    check_count("scaffold", "num_clients", num_clients)
    check_positive("scaffold", "learning_rate", learning_rate)
    return Algorithm(
        name="scaffold",
        init=lambda params: State(params, slots={"c": constant_change(params, 0.0)}),
        broadcast=broadcast,
        client_update=client_update,
        aggregator=aggregator if weighted else unweighted(aggregator),
        server_update=partial(server_update, num_clients=num_clients, learning_rate=learning_rate),
    )


def broadcast(state: State) -> Arrays:
    """The model w under `params/`; c, which only floating tensors have, under `c/`."""
    return joined({"params": state.params, "c": state.slots["c"]})


def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
    """Δw_i and Δc_i; `memory` is c_i⁺. An app that ignores the correction or cannot tell its steps is an `AppError`."""
    params, c = part(model, "params"), part(model, "c")
    c_i = constant_change(params, 0.0) if task.memory is None else task.memory
    offset = Arrays({name: c[name] - c_i[name] for name in c})
    own = replace(task, memory=None)
    trained = corrected_change("scaffold", trainer, params, own, GradientCorrection(offset=offset))
    check_memory_is_free("scaffold", trained, "its control variate")
    sums = known_step_sums("scaffold", trained, params)
    steps = {name: sums.get(name, 0.0) for name in c}
    # (w − y) / (K η_l) is a mean of corrected gradients; without the correction, of the client's own.
    kept = {name: -trained.arrays[name] / c[name].dtype.type(k) - offset[name] if k else c_i[name]
            for name, k in steps.items()}  # fmt: skip
    change = {name: np.asarray(kept[name] - c_i[name]) for name in c}
    return replace(trained, arrays=joined({"params": trained.arrays, "c": change}), memory=Arrays(kept))


def server_update(state: State, aggregate: Aggregate, *, num_clients: int, learning_rate: float) -> State:
    """The step of Algorithm 1; more clients than N are a `ConfigError`."""
    share = check_taking_part("scaffold", aggregate, num_clients)
    moved = scale(part(aggregate.mean, "params"), learning_rate)
    control = scale(part(aggregate.mean, "c"), share)
    return State(apply(state.params, moved), state.round + 1, {"c": apply(state.slots["c"], control)})
