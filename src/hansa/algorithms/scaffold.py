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

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg
from hansa.algorithms.options import check_count, check_positive
from hansa.arrays import Arrays, apply, constant_change, scale
from hansa.errors import AppError, ConfigError
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["broadcast", "client_update", "scaffold", "server_update"]

_PARAMS = "params/"
_CONTROL = "c/"


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
        aggregator=replace(aggregator, uniform=not weighted) if isinstance(aggregator, WeightedMean) else aggregator,
        server_update=partial(server_update, num_clients=num_clients, learning_rate=learning_rate),
    )


def broadcast(state: State) -> Arrays:
    """The model w under `params/`; c, which only floating tensors have, under `c/`."""
    return _joined(state.params, state.slots["c"])


def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
    """Δw_i and Δc_i; `memory` is c_i⁺. An app that ignores the correction or cannot tell its steps is an `AppError`."""
    params, c = _part(model, _PARAMS), _part(model, _CONTROL)
    c_i = constant_change(params, 0.0) if task.memory is None else task.memory
    offset = Arrays({name: c[name] - c_i[name] for name in c})
    corrected = replace(task, memory=None).corrected_by(GradientCorrection(offset=offset))
    trained = fedavg.client_update(trainer, params, corrected)
    _check_followed(corrected, trained)
    steps = {name: _step_sum(trained, name) for name in c}
    # (w − y) / (K η_l) is a mean of corrected gradients; without the correction, of the client's own.
    kept = {name: -trained.arrays[name] / c[name].dtype.type(k) - offset[name] if k else c_i[name]
            for name, k in steps.items()}  # fmt: skip
    change = {name: np.asarray(kept[name] - c_i[name]) for name in c}
    return replace(trained, arrays=_joined(trained.arrays, change), memory=Arrays(kept))


def server_update(state: State, aggregate: Aggregate, *, num_clients: int, learning_rate: float) -> State:
    """The step of Algorithm 1; more clients than N are a `ConfigError`."""
    taking_part = len(aggregate.contributions)
    if taking_part > num_clients:
        raise ConfigError(f"scaffold: {taking_part} clients took part, but num_clients is {num_clients}: raise it")
    moved = scale(_part(aggregate.mean, _PARAMS), learning_rate)
    control = scale(_part(aggregate.mean, _CONTROL), taking_part / num_clients)
    return State(apply(state.params, moved), state.round + 1, {"c": apply(state.slots["c"], control)})


def _check_followed(task: Task, trained: Update) -> None:
    if task.ignored_correction:
        raise AppError(
            "scaffold corrects every gradient, but the app's train function never read task.correction: add "
            "task.correction.offset[name] to each gradient, or give hansa.App a trainer, which does it, or choose the "
            "algorithm fedavg"
        )
    if not trained.step_sum:
        raise AppError(
            "scaffold divides by the length of the local steps, and local training did not tell it: return "
            "hansa.Update(…, step_sum=steps * learning_rate), or give the trainer plain SGD as its optimizer"
        )
    if trained.memory is not None:
        raise AppError("scaffold keeps the client's memory for its control variate: return no memory of the app's own")


def _step_sum(trained: Update, name: str) -> float:
    steps = trained.step_sum
    return steps.get(name, 0.0) if isinstance(steps, Mapping) else steps


def _joined(params: Mapping[str, np.ndarray], c: Mapping[str, np.ndarray]) -> Arrays:
    named = {f"{_PARAMS}{name}": array for name, array in params.items()}
    return Arrays(named | {f"{_CONTROL}{name}": array for name, array in c.items()})


def _part(arrays: Arrays, prefix: str) -> Arrays:
    return Arrays({name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)})
