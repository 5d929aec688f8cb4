"""Hierarchical federated averaging: K averages within each group, then one of all groups, and so on.

w_g ← Σ_{i in g} n_i w_i / Σ_{i in g} n_i, K times; then w ← Σ_g n_g w_g / Σ_g n_g with n_g = Σ_{i in g} n_i. With K = 1
it is FedAvg. Liu et al. 2020, arXiv:1905.06641.
"""

from hansa.arrays import Arrays, apply
from hansa.errors import ConfigError
from hansa.protocols.learner import Learner, LocalClient, Trained
from hansa.protocols.models import Model, Weighted, weighted_mean
from hansa.protocols.parts import check_count
from hansa.protocols.worker import Program, Worker

__all__ = ["hierarchical"]

ROOT = 0
_SHAPE = "hierarchical averaging needs a tree of root, heads and members, not {}"


def hierarchical(learner: Learner, *, rounds: int, inner_rounds: int) -> Program:
    """A program for `hierarchy(groups)`, whose root, heads and members end with the global model.

    The members are the clients, in their order, and end with a `Trained`; root and heads with a `Model`. rounds: global
    averages; inner_rounds: K.
    """
    check_count("rounds", rounds)
    check_count("inner_rounds", inner_rounds)

    async def program(worker: Worker) -> Trained | Model:
        if worker.number == ROOT:
            start = learner.trainer.initial_model(worker.shared_rng("init"))
            return Model(await _lead(worker, start, worker.receivers, rounds))
        if ROOT in worker.senders:
            return Model(await _head(worker, rounds, inner_rounds))
        return await _member(worker, learner, rounds * inner_rounds)

    return program


async def _lead(worker: Worker, model: Arrays, below: tuple[int, ...], rounds: int) -> Arrays:
    if not below or any(len(worker.topology.receivers[head]) < 2 for head in below):  # noqa: PLR2004 - root and a member
        raise ConfigError(_SHAPE.format(worker.topology.name))
    for _ in range(rounds):
        worker.broadcast(Model(model), below)
        model = weighted_mean(await worker.gather(Weighted, below))
    worker.broadcast(Model(model), below)
    return model


async def _head(worker: Worker, rounds: int, inner_rounds: int) -> Arrays:
    members = [number for number in worker.receivers if number != ROOT]
    for _ in range(rounds):
        model = (await worker.receive(ROOT, Model)).arrays
        num_examples = 0
        for _ in range(inner_rounds):
            worker.broadcast(Model(model), members)
            trained = await worker.gather(Weighted, members)
            model = weighted_mean(trained)
            num_examples = sum(each.num_examples for each in trained.values())
        worker.send(ROOT, Weighted(model, num_examples))
    final = await worker.receive(ROOT, Model)
    worker.broadcast(final, members)
    return final.arrays


async def _member(worker: Worker, learner: Learner, steps: int) -> Trained:
    if len(worker.senders) != 1:
        raise ConfigError(_SHAPE.format(worker.topology.name))
    (head,) = worker.senders
    first = 1 + len(worker.topology.receivers[ROOT])
    client = LocalClient(learner, worker, worker.number - first, worker.size - first)
    for number in range(1, steps + 1):
        model = (await worker.receive(head, Model)).arrays
        update = client.fit(model, number)
        worker.send(head, Weighted(apply(model, update.arrays), update.num_examples))
    return client.trained((await worker.receive(head, Model)).arrays)
