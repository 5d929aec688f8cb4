"""Mime and MimeLite: local steps use the server's momentum m, which stays as it is for the whole round.

    client i of S:   y ← w; K times  y ← y − η (g_i(y) + β m)                           MimeLite
                                     y ← y − η (g_i(y) − g_i(w) + c + β m)              Mime, both g of one batch
    server:          c = mean_S ∇F_i(w);  w ← mean_S y;  m ← β m + c

Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich, Suresh: "Breaking the Centralized Learning Barrier for Cross-Device
Federated Learning" (Mime), NeurIPS 2021, arXiv:2008.03606, Algorithm 1 with momentum as the base algorithm. Every
client counts alike. m has the scale of `torch.optim.SGD`; the paper's is (1 − β) m, and its learning rate η/(1 − β).

Give the trainer plain SGD: the momentum is the algorithm's. It must give gradients. In MimeLite a client sends its step
and its gradient at once. Mime needs c before the steps, so that a round of the paper is two here, an odd one for the
gradients and an even one for the steps; each has the clients that are selected for it. Tensors that are not trained by
gradients follow FedAvg, up to the weights.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from hansa.aggregators.mean import unweighted
from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedsgd
from hansa.algorithms.local import corrected_change
from hansa.algorithms.options import check_fraction
from hansa.algorithms.parts import joined, part
from hansa.arrays import Arrays, add, apply, constant_change, is_floating, scale, subtract, zeros_like
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["mime", "mimelite"]


def mimelite(aggregator: Aggregator, *, momentum: float = 0.9) -> Algorithm:
    """momentum: β, 0 ≤ β < 1; with 0 it is FedAvg of clients that count alike."""
    check_fraction("mimelite", "momentum", momentum)
    return Algorithm(
        name="mimelite",
        init=lambda params: State(params, slots={"m": constant_change(params, 0.0)}),
        broadcast=lambda state: joined({"params": state.params, "m": state.slots["m"]}),
        client_update=partial(mimelite_client_update, momentum=momentum),
        aggregator=unweighted(aggregator),
        server_update=partial(mimelite_server_update, momentum=momentum),
    )


def mimelite_client_update(trainer: Trainer, model: Arrays, task: Task, *, momentum: float) -> Update:
    """Δ_i after local steps with β m, and ∇F_i(w)."""
    params, m = part(model, "params"), part(model, "m")
    gradient = _gradient(trainer, params, task).arrays
    trained = corrected_change("mimelite", trainer, params, task, GradientCorrection(offset=scale(m, momentum)))
    return replace(trained, arrays=joined({"params": trained.arrays, "m": gradient}))


def mimelite_server_update(state: State, aggregate: Aggregate, *, momentum: float) -> State:
    """w ← w + mean Δ; m ← β m + mean ∇F_i(w)."""
    m = add(scale(state.slots["m"], momentum), part(aggregate.mean, "m"))
    return State(apply(state.params, part(aggregate.mean, "params")), state.round + 1, {"m": m})


def mime(aggregator: Aggregator, *, momentum: float = 0.9) -> Algorithm:
    """momentum: β, 0 ≤ β < 1; give an even number of rounds, as each step of the paper takes two."""
    check_fraction("mime", "momentum", momentum)
    return Algorithm(
        name="mime",
        init=lambda params: State(params, slots=dict.fromkeys(("m", "c"), constant_change(params, 0.0))),
        broadcast=partial(mime_broadcast, momentum=momentum),
        client_update=mime_client_update,
        aggregator=unweighted(aggregator),
        server_update=partial(mime_server_update, momentum=momentum),
    )


def mime_broadcast(state: State, *, momentum: float) -> Arrays:
    """The model under `params/`, c + β m under `c/`, and whether the round is one of steps under `steps/`."""
    offset = add(scale(state.slots["m"], momentum), state.slots["c"])
    return joined({"params": state.params, "c": offset, "steps": {"now": np.array(_steps_now(state), np.int64)}})


def mime_client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
    """∇F_i(w), or Δ_i after local steps with variance reduction; zeros for the other."""
    params, c = part(model, "params"), part(model, "c")
    nothing = Arrays({"now": np.zeros((), np.int64)})
    if not part(model, "steps")["now"]:
        computed = _gradient(trainer, params, task)
        still = subtract(params, params)
        return replace(computed, arrays=joined({"params": still, "c": computed.arrays, "steps": nothing}))
    correction = GradientCorrection(offset=c, anchored=True)
    trained = corrected_change("mime", trainer, params, task, correction)
    return replace(trained, arrays=joined({"params": trained.arrays, "c": zeros_like(c), "steps": nothing}))


def mime_server_update(state: State, aggregate: Aggregate, *, momentum: float) -> State:
    """c = mean ∇F_i(w), or w ← w + mean Δ and m ← β m + c."""
    if not _steps_now(state):
        return replace(state, round=state.round + 1, slots=dict(state.slots) | {"c": part(aggregate.mean, "c")})
    m = add(scale(state.slots["m"], momentum), state.slots["c"])
    slots = {"m": m, "c": state.slots["c"]}
    return State(apply(state.params, part(aggregate.mean, "params")), state.round + 1, slots)


def _steps_now(state: State) -> bool:
    return state.round % 2 == 1


def _gradient(trainer: Trainer, params: Arrays, task: Task) -> Update:
    """∇F_i(w) of the floating tensors."""
    computed = fedsgd.client_update(trainer, params, task)
    floating = {name: array for name, array in computed.arrays.items() if is_floating(params[name])}
    return replace(computed, arrays=Arrays(floating))
