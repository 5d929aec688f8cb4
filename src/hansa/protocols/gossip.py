"""Average consensus: x_i ← Σ_j W_ij x_j brings all workers to their mean, at the rate |λ₂| of W.

Xiao and Boyd, "Fast linear iterations for distributed averaging", Systems & Control Letters 2004.
"""

from collections.abc import Callable, Mapping
from typing import Any

from hansa.arrays import Arrays
from hansa.protocols.mixing import Matrix, Mixing, check_doubly_stochastic, metropolis, mix
from hansa.protocols.models import Model
from hansa.protocols.parts import check_count
from hansa.protocols.topology import check_connected
from hansa.protocols.worker import Program, Worker

__all__ = ["Watch", "gossip", "row", "share"]

Watch = Callable[[int, int, Arrays], None]
"""(worker, step, model): called after each step, for the workers of this process."""


def gossip(
    start: Callable[[int], Mapping[str, Any]],
    *,
    steps: int,
    mixing: Mixing = metropolis,
    watch: Watch | None = None,
) -> Program:
    """Each worker ends with a `Model`: the mean of all starts, after enough steps.

    start: worker → its tensors, of the same names and shapes. mixing: doubly stochastic weights.
    """
    check_count("steps", steps)

    async def program(worker: Worker) -> Model:
        arrays = Arrays(start(worker.number))
        for step in range(steps):
            weights = row(worker, step, mixing)
            arrays = mix(weights, await share(worker, step, arrays))
            if watch is not None:
                watch(worker.number, step, arrays)
        return Model(arrays)

    return program


def row(worker: Worker, step: int, mixing: Mixing) -> dict[int, float]:
    """The weights with which a worker takes what it and its neighbours have, by worker, ascending."""
    if step == 0:
        check_connected(worker.topology)
    topology = worker.topology.at(step)
    weights: Matrix = mixing(topology)
    if step < len(worker.topology.phases):
        check_doubly_stochastic(weights, topology)
    mine = weights[worker.number]
    return {j: float(mine[j]) for j in sorted({worker.number, *topology.senders[worker.number]})}


async def share(worker: Worker, step: int, arrays: Arrays) -> dict[int, Arrays]:
    """What it and its neighbours of this step have, by worker, after all have told each other."""
    topology = worker.topology.at(step)
    worker.broadcast(Model(arrays), topology.receivers[worker.number])
    told = await worker.gather(Model, topology.senders[worker.number])
    return {worker.number: arrays} | {sender: model.arrays for sender, model in told.items()}
