"""SplitFed, version 1: split learning in parallel, whose bottoms and tops are averaged after each round as in FedAvg.

Every client trains its bottom against a copy of the top of its own; after the round, the main server averages its tops
and the fed server the bottoms, both weighted by examples. Together that is FedAvg of the whole network. The two servers
are two workers, because who has a bottom and its activations can compute much of the inputs.

Thapa et al. 2022, arXiv:2004.12088.
"""

import numpy as np

from hansa.arrays import Arrays
from hansa.errors import ConfigError
from hansa.messages import ClientInfo
from hansa.protocols.models import Model, Weighted, weighted_mean
from hansa.protocols.parts import Data, Parts, Top, Work, batches, examples_of
from hansa.protocols.split import Activations, SplitBottom, SplitTop, TurnOver, serve_batch, train_bottom
from hansa.protocols.worker import Program, Worker

__all__ = ["splitfed"]

MAIN, FED = 0, 1


def splitfed(parts: Parts, data: Data, *, rounds: int = 1, epochs: int = 1, batch_size: int | None = None) -> Program:
    """A program for `hubs(2, 2 + clients)`: worker 0 has the tops, worker 1 averages bottoms, worker i is client i − 2.

    Worker 0 ends with a `SplitTop`, worker 1 and the clients with the same `SplitBottom`. epochs: passes of a client
    over its examples in each round.
    """
    work = Work(rounds, epochs, batch_size)

    async def program(worker: Worker) -> SplitTop | SplitBottom:
        if worker.size < 3:  # noqa: PLR2004 - two servers and a client
            raise ConfigError(f"SplitFed needs two servers and a client, more than {worker.topology.name} has")
        if worker.number == MAIN:
            return await _serve(worker, parts, rounds)
        if worker.number == FED:
            return await _average(worker, parts.bottom(worker.shared_rng("init", "bottom")).arrays(), rounds)
        return await _train(worker, parts, data, work)

    return program


async def _serve(worker: Worker, parts: Parts, rounds: int) -> SplitTop:
    clients = _clients(worker)
    tops: dict[int, Top] = {client: parts.top(worker.shared_rng("init", "top")) for client in clients}
    model = tops[clients[0]].arrays()
    losses = np.zeros(rounds)
    for number in range(rounds):
        for top in tops.values():
            top.load(model)
        examples: dict[int, int] = {}
        seen = 0
        while len(examples) < len(clients):
            for client in clients:
                if client in examples:
                    continue
                said = await worker.receive(client, Activations, TurnOver)
                if isinstance(said, TurnOver):
                    examples[client] = said.num_examples
                    continue
                total, slope = serve_batch(tops[client], said, client)
                worker.send(client, slope)
                losses[number] += total
                seen += len(said.labels)
        losses[number] /= seen
        model = weighted_mean({client: Weighted(tops[client].arrays(), examples[client]) for client in clients})
    return SplitTop(model, losses)


async def _average(worker: Worker, model: Arrays, rounds: int) -> SplitBottom:
    clients = _clients(worker)
    for _ in range(rounds):
        worker.broadcast(Model(model), clients)
        model = weighted_mean(await worker.gather(Weighted, clients))
    worker.broadcast(Model(model), clients)
    return SplitBottom(model)


async def _train(worker: Worker, parts: Parts, data: Data, work: Work) -> SplitBottom:
    info = ClientInfo(f"client-{worker.number - 2}", worker.number - 2, worker.size - 2, worker.settings)
    x, y = examples_of(data(info), info.name)
    bottom = parts.bottom(worker.shared_rng("init", "bottom"))
    for number in range(1, work.rounds + 1):
        bottom.load((await worker.receive(FED, Model)).arrays)
        rng = worker.shared_rng("train", number, info.name)
        for _ in range(work.epochs):
            for rows in batches(len(x), work.batch_size, rng):
                await train_bottom(worker, MAIN, bottom, x[rows], y[rows])
        worker.send(MAIN, TurnOver(len(x)))
        worker.send(FED, Weighted(bottom.arrays(), len(x)))
    return SplitBottom((await worker.receive(FED, Model)).arrays)


def _clients(worker: Worker) -> list[int]:
    return [number for number in worker.senders if number not in {MAIN, FED}]
