"""Decentralized SGD: everybody has a model, and mixes it with its neighbours' while it trains. There is no server.

Combine, then adapt:  x_i ← Σ_j W_ij x_j − η∇f_i(x_i), as in Lian et al., arXiv:1705.09056.
Adapt, then combine:  x_i ← Σ_j W_ij (x_j − η∇f_j(x_j)), as in Koloskova et al., arXiv:2003.10422.

W is doubly stochastic, so that the mean model takes the step −η · mean_i ∇f_i(x_i) in both. The local step is what the
app's training makes of a model: with one full-batch step of SGD it is the paper's; more local steps are local SGD.
"""

from typing import Literal

from hansa.arrays import Arrays
from hansa.errors import ConfigError
from hansa.protocols.gossip import Watch, row, share
from hansa.protocols.learner import Learner, LocalClient, Trained
from hansa.protocols.mixing import Mixing, metropolis, mix
from hansa.protocols.parts import check_count
from hansa.protocols.worker import Program, Worker

__all__ = ["Order", "dsgd"]

Order = Literal["combine-then-adapt", "adapt-then-combine"]


def dsgd(
    learner: Learner,
    *,
    rounds: int,
    mixing: Mixing = metropolis,
    order: Order = "combine-then-adapt",
    watch: Watch | None = None,
) -> Program:
    """A program whose workers each end with a `Trained`: their own model.

    learner: a `hansa.App`; worker i is its client i of n. mixing: doubly stochastic weights of the topology, else it is
    refused with a `ConfigError`. watch: is told each worker's model after each round.
    """
    check_count("rounds", rounds)
    if order not in ("combine-then-adapt", "adapt-then-combine"):
        raise ConfigError(f"order is {order!r}; there is: combine-then-adapt, adapt-then-combine")

    async def program(worker: Worker) -> Trained:
        client = LocalClient(learner, worker, worker.number, worker.size)
        model = client.initial_model()
        for step in range(rounds):
            weights = row(worker, step, mixing)
            change = client.fit(model, step + 1).arrays
            if order == "combine-then-adapt":
                model = combine_then_adapt(weights, await share(worker, step, model), change)
            else:
                model = mix(weights, await share(worker, step, adapt(model, change)))
            if watch is not None:
                watch(worker.number, step, model)
        return client.trained(model)

    return program


def combine_then_adapt(weights: dict[int, float], models: dict[int, Arrays], change: Arrays) -> Arrays:
    """Σ_j W_ij x_j + Δ_i, rounded once; Δ_i = −η∇f_i(x_i) is the local change from x_i."""
    return mix(weights, models, change)


def adapt(model: Arrays, change: Arrays) -> Arrays:
    """x_i + Δ_i."""
    return mix({0: 1.0}, {0: model}, change)
