"""FedDyn: each client's loss is regularized by its own gradient h_i, so that local optima agree with the global one.

    client i of S:   θ_i = argmin F_i(θ) − ⟨h_i, θ⟩ + (α/2)‖θ − w‖², by local training from w
                     h_i ← h_i − α(θ_i − w);  sends θ_i − w, keeps h_i
    server:          h ← h − (α/N) Σ_S (θ_i − w)
                     w ← mean_S θ_i − h/α

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama: "Federated Learning Based on Dynamic Regularization", ICLR
2021, arXiv:2111.04263, Algorithm 1. Every client counts alike. All h start at 0; a client that has lost its memory
starts at 0 again.

Every local gradient gains α(θ − w) − h_i. Local training should come near the optimum: many steps, with any optimizer.
Tensors that are not trained by gradients (running means of BatchNorm, integers) follow FedAvg, up to the weights.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from hansa.aggregators.mean import unweighted
from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms.local import check_memory_is_free, corrected_change, step_sums
from hansa.algorithms.options import check_count, check_positive, check_taking_part
from hansa.algorithms.parts import joined, part
from hansa.arrays import Arrays, apply, constant_change, scale
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["broadcast", "client_update", "feddyn", "server_update"]


def feddyn(aggregator: Aggregator, *, num_clients: int, alpha: float = 0.01) -> Algorithm:
    """num_clients: N ≥ 1, all that may ever take part; alpha: α > 0, in the paper 0.001 to 0.1."""
    check_count("feddyn", "num_clients", num_clients)
    check_positive("feddyn", "alpha", alpha)
    return Algorithm(
        name="feddyn",
        init=lambda params: State(params, slots={"h": constant_change(params, 0.0)}),
        broadcast=broadcast,
        client_update=partial(client_update, alpha=alpha),
        aggregator=unweighted(aggregator),
        server_update=partial(server_update, num_clients=num_clients, alpha=alpha),
    )


def broadcast(state: State) -> Arrays:
    """The model w under `params/`; under `trained/` room for a 1 per tensor of h that gradients train, else 0."""
    return joined({"params": state.params, "trained": {"by_gradients": np.zeros(len(state.slots["h"]))}})


def client_update(trainer: Trainer, model: Arrays, task: Task, *, alpha: float) -> Update:
    """θ_i − w, and which tensors have a gradient; `memory` is h_i."""
    params = part(model, "params")
    h_i = constant_change(params, 0.0) if task.memory is None else task.memory
    correction = GradientCorrection(proximal=alpha, offset=scale(h_i, -1))
    trained = corrected_change("feddyn", trainer, params, replace(task, memory=None), correction)
    check_memory_is_free("feddyn", trained, "its gradient")
    moved = step_sums(trained, params)
    kept = {name: h - h.dtype.type(alpha) * trained.arrays[name] if name in moved else h for name, h in h_i.items()}
    flags = np.array([float(name in moved) for name in h_i], float)
    sent = joined({"params": trained.arrays, "trained": {"by_gradients": flags}})
    return replace(trained, arrays=sent, memory=Arrays(kept))


def server_update(state: State, aggregate: Aggregate, *, num_clients: int, alpha: float) -> State:
    """h ← h − α |S|/N · mean Δ; w ← w + mean Δ − h/α."""
    share = check_taking_part("feddyn", aggregate, num_clients)
    change, flags = part(aggregate.mean, "params"), part(aggregate.mean, "trained")["by_gradients"]
    moved = {name for name, flag in zip(state.slots["h"], flags, strict=True) if flag > 0}
    h = {name: old - old.dtype.type(alpha * share) * change[name] if name in moved else old
         for name, old in state.slots["h"].items()}  # fmt: skip
    beyond = {name: delta - h[name] / delta.dtype.type(alpha) if name in moved else delta
              for name, delta in change.items()}  # fmt: skip
    return State(apply(state.params, Arrays(beyond)), state.round + 1, {"h": Arrays(h)})
