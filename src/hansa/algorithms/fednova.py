"""FedNova: clients that take unequally many steps are averaged by the direction of their changes, not by their length.

    client i:   d_i = Δ_i / s_i,  s_i = η‖a_i‖₁  (sends d_i and s_i)
    server:     Δ = Σ p_i s_i · Σ p_i d_i
                v ← ρ v + Δ;  w ← w + v

Wang, Liu, Liang, Joshi, Poor: "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
NeurIPS 2020, arXiv:2007.07481, section 4, with τ_eff = Σ p_i ‖a_i‖₁, so that equal work gives FedAvg.

s_i is `Update.step_sum`, which trainers count as they step: for τ steps of SGD ‖a‖₁ = τ, with momentum ρ
[τ − ρ(1 − ρ^τ)/(1 − ρ)]/(1 − ρ), with a proximal term μ [1 − (1 − ημ)^τ]/(ημ). Half of the work of a straggler is what
the paper is about, and counts. Tensors that are not trained by gradients (running means of BatchNorm, integers) follow
FedAvg.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavgm
from hansa.algorithms.local import corrected_change, known_step_sums
from hansa.algorithms.options import check_fraction, check_not_negative
from hansa.algorithms.parts import joined, part
from hansa.arrays import Array, Arrays, is_floating
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["broadcast", "client_update", "fednova", "server_update"]

_SCALE = 64.0
"""Of s_i in the exact sum: with the default range_bits, up to 64·64 is summed, to 2^-27."""


def fednova(aggregator: Aggregator, *, mu: float = 0.0, momentum: float = 0.0) -> Algorithm:
    """mu: μ ≥ 0 of a proximal term in the clients, as in FedProx; momentum: ρ of the server, 0 ≤ ρ < 1."""
    check_not_negative("fednova", "mu", mu)
    check_fraction("fednova", "momentum", momentum)
    return Algorithm(
        name="fednova",
        init=fedavgm.init,
        broadcast=broadcast,
        client_update=partial(client_update, mu=mu),
        aggregator=aggregator,
        server_update=partial(server_update, momentum=momentum),
        keeps_partial_work=True,
        needs_mean=True,
    )


def broadcast(state: State) -> Arrays:
    """The model w under `params/`; under `sums/` the scale of what comes back, one s_i for each floating tensor."""
    return joined({"params": state.params, "sums": {"s": np.full(len(state.slots["v"]), _SCALE)}})


def client_update(trainer: Trainer, model: Arrays, task: Task, *, mu: float) -> Update:
    """d_i and s_i; for a tensor without gradients Δ_i and 1."""
    params = part(model, "params")
    correction = GradientCorrection(proximal=mu) if mu else None
    trained = corrected_change("fednova", trainer, params, task, correction)
    known = known_step_sums("fednova", trained, params)
    sums = {name: known.get(name) or 1.0 for name, array in params.items() if is_floating(array)}
    directions = {name: _times(delta, 1 / sums[name]) if name in sums else delta
                  for name, delta in trained.arrays.items()}  # fmt: skip
    return replace(trained, arrays=joined({"params": directions, "sums": {"s": np.array(list(sums.values()), float)}}))


def server_update(state: State, aggregate: Aggregate, *, momentum: float) -> State:
    """Δ = Σ p_i s_i · Σ p_i d_i, then FedAvg with server momentum."""
    directions, sums = part(aggregate.mean, "params"), part(aggregate.mean, "sums")["s"]
    lengths = dict(zip(state.slots["v"], sums.tolist(), strict=True))
    change = {name: _times(d, lengths[name]) if name in lengths else d for name, d in directions.items()}
    return fedavgm.server_update(state, replace(aggregate, mean=Arrays(change)), learning_rate=1.0, momentum=momentum)


def _times(array: Array, factor: float) -> Array:
    return np.asarray(array * array.dtype.type(factor))
