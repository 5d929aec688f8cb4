"""q-FedAvg: clients with a high loss count more, so that accuracy is spread more evenly over clients (q-FFL).

    F_i = F_i(w), the loss of the model received on the client's training examples;  r_i = F_i/F̄
    client i:   sends r_i^q Δ_i  and  h_i = r_i^q + q r_i^(q−1) ‖Δ_i‖² / (η F̄)
    server:     w ← w + Σ r_i^q Δ_i / Σ h_i

Li, Sanjabi, Beirami, Smith: "Fair Resource Allocation in Federated Learning", ICLR 2020, arXiv:1905.10497, Algorithm 2,
both sums divided by L F̄^q with L = 1/η, which leaves their quotient as it is. F̄ is the largest loss of the last round,
up to a power of two, and at least half of the F̄ before, so that the sums keep within their range; the first round is
there to measure it, and leaves the model as it is. A client that comes later with a far larger loss may be beyond the
range (raise range_bits), and of losses far below F̄ the powers r_i^q keep fewer digits. The trainer must give gradients,
because the loss comes with them. With q = 0 it is FedAvg of clients that count alike.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np

from hansa.aggregators.mean import unweighted
from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg
from hansa.algorithms.local import checked_loss, step_sums
from hansa.algorithms.options import check_not_negative, check_positive
from hansa.algorithms.parts import joined, part
from hansa.arrays import Arrays, apply, scale, subtract
from hansa.messages import Task, Update

__all__ = ["broadcast", "client_update", "qfedavg", "server_update"]

_SCALE = 64.0
"""Of h_i in the exact sum: with the default range_bits, up to 64·64 is summed, to 2^-27."""

_LOWEST, _HIGHEST = -32, 31
"""Losses are from 2^-32 to 2^31: a loss of 0 has no power q − 1, and counts as the smallest."""


def qfedavg(aggregator: Aggregator, *, learning_rate: float, q: float = 1.0) -> Algorithm:
    """learning_rate: η > 0 of the clients, of which 1/L is taken; q ≥ 0: more is fairer."""
    check_positive("qfedavg", "learning_rate", learning_rate)
    check_not_negative("qfedavg", "q", q)
    return Algorithm(
        name="qfedavg",
        init=lambda params: State(params, slots={"reference": Arrays({"loss": np.zeros(())})}),
        broadcast=broadcast,
        client_update=partial(client_update, learning_rate=learning_rate, q=q),
        aggregator=unweighted(aggregator),
        needs_mean=True,
        server_update=server_update,
    )


def broadcast(state: State) -> Arrays:
    """The model under `params/`, F̄ under `reference/`; under `sums/` the scale of h_i and room for powers of two."""
    sums = {"h": np.array(_SCALE), "powers": np.zeros(1 + _HIGHEST - _LOWEST)}
    return joined({"params": state.params, "reference": state.slots["reference"], "sums": sums})


def client_update(trainer: Trainer, model: Arrays, task: Task, *, learning_rate: float, q: float) -> Update:
    """r_i^q Δ_i and h_i, and a 1 for the power of two that is not below F_i; in the first round that alone."""
    params, reference = part(model, "params"), float(part(model, "reference")["loss"])
    computed = trainer.gradient(params, task)
    loss = min(max(checked_loss("qfedavg", computed), 2.0**_LOWEST), 2.0**_HIGHEST)
    if reference:
        r, trained = loss / reference, fedavg.client_update(trainer, params, task)
        moved = [trained.arrays[name] for name in step_sums(trained, params)]
        square = sum(float(np.sum(np.square(delta, dtype=float))) for delta in moved)
        h, change = r**q + q * r ** (q - 1) * square / (learning_rate * reference), scale(trained.arrays, r**q)
    else:
        trained, h, change = computed, 0.0, subtract(params, params)
    powers = np.arange(_LOWEST, _HIGHEST + 1) == math.ceil(math.log2(loss))
    sums = Arrays({"h": np.array(h), "powers": powers.astype(float)})
    told = Arrays({"loss": np.zeros(())})
    return replace(trained, arrays=joined({"params": change, "reference": told, "sums": sums}))


def server_update(state: State, aggregate: Aggregate) -> State:
    """w ← w + Σ r_i^q Δ_i / Σ h_i, and the next F̄."""
    sums, reference = part(aggregate.mean, "sums"), state.slots["reference"]
    h, seen = float(sums["h"]), np.flatnonzero(sums["powers"] > 0)
    if len(seen):
        largest = 2.0 ** (_LOWEST + int(seen[-1]))
        reference = Arrays({"loss": np.maximum(largest, reference["loss"] / 2)})
    change = scale(part(aggregate.mean, "params"), 1 / h if h > 0 else 0.0)
    return State(apply(state.params, change), state.round + 1, {"reference": reference})
