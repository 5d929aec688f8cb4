"""Whole rounds in a few lines and no runtime: every client trains in every round, in this process."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hansa.algorithm import Aggregate, Algorithm, State, Trainer
from hansa.arrays import Arrays
from hansa.messages import ClientInfo, Contribution, Task, Update

__all__ = ["aggregate", "play", "task_of"]


def play(
    algorithm: Algorithm, trainer: Trainer, data: Mapping[str, Any], *, rounds: int, seed: int = 0, work: float = 1.0
) -> Iterator[State]:
    """The states before the first round and after each; data: client → what its tasks carry."""
    state = algorithm.init(trainer.initial_model(np.random.default_rng(seed)))
    kept: dict[str, Arrays | None] = dict.fromkeys(data)
    yield state
    for _ in range(rounds):
        broadcast = algorithm.broadcast(state)
        tasks = {client: task_of(client, data, state.round + 1, seed, work, memory=kept[client]) for client in data}
        sent = {client: algorithm.client_update(trainer, broadcast, task) for client, task in tasks.items()}
        state = algorithm.server_update(state, aggregate(algorithm, broadcast, sent))
        kept |= {client: update.memory for client, update in sent.items() if update.memory is not None}
        yield state


def task_of(
    client: str,
    data: Mapping[str, Any],
    number: int = 1,
    seed: int = 0,
    work: float = 1.0,
    *,
    memory: Arrays | None = None,
) -> Task:
    """The task of one of the clients in `data`."""
    index = list(data).index(client)
    return Task(
        client=ClientInfo(client, index, len(data)),
        round=number,
        rng=np.random.default_rng([seed, number, index]),
        data=data[client],
        work=work,
        memory=memory,
    )


def aggregate(algorithm: Algorithm, broadcast: Arrays, sent: Mapping[str, Update]) -> Aggregate:
    """What one server reports of these updates."""
    aggregator = algorithm.aggregator
    plan = aggregator.plan(broadcast)
    partial = aggregator.zero(plan)
    for client, update in sent.items():
        contribution = Contribution(client, update.num_examples, update.metrics)
        partial = aggregator.accumulate(plan, partial, update, contribution)
    return aggregator.report(plan, partial)
