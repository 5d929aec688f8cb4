"""FedBN: normalization layers stay with each client, whose features may be shifted; the other layers are averaged.

Li, Jiang, Zhang, Kamp, Dou: "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021,
arXiv:2102.07623, Algorithm 1. Every client counts alike.

A layer of BatchNorm is known by its running mean: all tensors beside a `running_mean` stay with the client, weight,
bias and statistics. Otherwise it is FedPer.
"""

from collections.abc import Iterable
from functools import partial

from hansa.aggregators.mean import unweighted
from hansa.algorithm import Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg, fedper
from hansa.arrays import Arrays
from hansa.messages import Task, Update

__all__ = ["client_update", "fedbn", "normalization"]


def fedbn(aggregator: Aggregator, *, personal: str = "") -> Algorithm:
    """personal: further tensors that stay with each client, for example "norm*.*" of LayerNorm, as in fedper."""
    others = fedper.matching("fedbn", personal) if personal else None
    return Algorithm(
        name="fedbn",
        init=State,
        broadcast=lambda state: state.params,
        client_update=partial(client_update, others=others),
        aggregator=unweighted(aggregator),
        server_update=fedavg.server_update,
        personal=fedper.own_layers,
    )


def client_update(trainer: Trainer, model: Arrays, task: Task, *, others: fedper.Names | None) -> Update:
    """The change of all but the normalization, which is the memory."""

    def personal(names: Iterable[str]) -> frozenset[str]:
        return normalization(names) | (others(names) if others else frozenset())

    return fedper.client_update(trainer, model, task, algorithm="fedbn", personal=personal)


def normalization(names: Iterable[str]) -> frozenset[str]:
    """All tensors of the layers that have a running mean."""
    every = list(names)
    layers = {name.removesuffix("running_mean") for name in every if name.split(".")[-1] == "running_mean"}
    return frozenset(name for name in every if name.removesuffix(name.split(".")[-1]) in layers)
