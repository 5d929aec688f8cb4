"""Split learning: clients have the inputs and the bottom of a network, the server has its top.

A client sends activations and labels of a batch; the server steps its top and sends ∂L/∂activations back; the client
steps its bottom. Clients take turns, and each hands its bottom on to the next one, not through the server. So the
network is trained as if all examples were in one place, in the order of the turns.

Gupta and Raskar 2018, arXiv:1810.06060; Vepakomma et al. 2018, arXiv:1812.00564. The server sees labels and
activations, from which inputs can often be guessed: this saves clients work, it is no promise of privacy.
"""

from dataclasses import dataclass

import numpy as np

from hansa.arrays import Array, Arrays
from hansa.errors import ConfigError
from hansa.messages import ClientInfo
from hansa.protocols.message import message
from hansa.protocols.models import Model
from hansa.protocols.parts import Bottom, Data, Parts, Top, Work, batches, check_loss, examples_of
from hansa.protocols.worker import Program, Worker

__all__ = [
    "Activations",
    "Slope",
    "SplitBottom",
    "SplitTop",
    "TurnOver",
    "serve_batch",
    "split_learning",
    "train_bottom",
]

SERVER = 0


@message("split.activations")
@dataclass(frozen=True, slots=True)
class Activations:
    """What a batch is where the network is cut."""

    values: np.ndarray
    """Shape (n, …)."""
    labels: np.ndarray
    """Shape (n, …)."""


@message("split.slope")
@dataclass(frozen=True, slots=True)
class Slope:
    """∂L/∂activations, in their shape."""

    values: np.ndarray


@message("split.turn-over")
@dataclass(frozen=True, slots=True)
class TurnOver:
    """A client has no more batches in this round."""

    num_examples: int


@message("split.bottom")
@dataclass(frozen=True, slots=True)
class SplitBottom:
    """What a client ends with: the bottom, the same for all of them."""

    model: Arrays


@message("split.top")
@dataclass(frozen=True, slots=True)
class SplitTop:
    """What the server ends with."""

    model: Arrays
    losses: np.ndarray
    """Shape (rounds,): the mean over the examples of a round, each before its step."""


def split_learning(parts: Parts, data: Data, *, rounds: int = 1, batch_size: int | None = None) -> Program:
    """A program for `wheel(1 + clients)`: worker 0 is the server, worker i the client i − 1.

    Worker 0 ends with a `SplitTop`, the clients with the same `SplitBottom`. data: a client → its examples (x, y). In
    a round, every client has one turn, a pass over its examples. A bottom's optimizer starts anew when it is handed on.
    """
    work = Work(rounds=rounds, batch_size=batch_size)

    async def program(worker: Worker) -> SplitTop | SplitBottom:
        if worker.size < 2:  # noqa: PLR2004 - a server and a client
            raise ConfigError(f"split learning needs a server and a client, but {worker.topology.name} has one worker")
        if worker.number == SERVER:
            return await _serve(worker, parts.top(worker.shared_rng("init", "top")), rounds)
        return await _take_turns(worker, parts.bottom(worker.shared_rng("init", "bottom")), data, work)

    return program


async def train_bottom(worker: Worker, server: int, bottom: Bottom, inputs: Array, labels: Array) -> None:
    """One batch of a client."""
    worker.send(server, Activations(bottom.forward(inputs), labels))
    bottom.backward((await worker.receive(server, Slope)).values)


def serve_batch(top: Top, activations: Activations, client: int) -> tuple[float, Slope]:
    """One batch of a client, which is a worker, at the server: the sum of its losses, and what the client gets back."""
    loss, slope = top.step(activations.values, activations.labels)
    check_loss(loss, f"a batch of worker {client}")
    return loss * len(activations.labels), Slope(slope)


async def _serve(worker: Worker, top: Top, rounds: int) -> SplitTop:
    losses = np.zeros(rounds)
    for number in range(rounds):
        seen = 0
        for client in worker.senders:
            while isinstance(said := await worker.receive(client, Activations, TurnOver), Activations):
                total, slope = serve_batch(top, said, client)
                losses[number] += total
                worker.send(client, slope)
            seen += said.num_examples
        losses[number] /= seen
    return SplitTop(top.arrays(), losses)


async def _take_turns(worker: Worker, bottom: Bottom, data: Data, work: Work) -> SplitBottom:
    index, clients = worker.number - 1, worker.size - 1
    before, after = (index - 1) % clients + 1, (index + 1) % clients + 1
    info = ClientInfo(f"client-{index}", index, clients, worker.settings)
    x, y = examples_of(data(info), info.name)
    for number in range(1, work.rounds + 1):
        if clients > 1 and (number, index) != (1, 0):
            bottom.load((await worker.receive(before, Model)).arrays)
        for rows in batches(len(x), work.batch_size, worker.shared_rng("train", number, info.name)):
            await train_bottom(worker, SERVER, bottom, x[rows], y[rows])
        worker.send(SERVER, TurnOver(len(x)))
        if clients > 1:
            worker.send(after, Model(bottom.arrays()))
    if clients > 1:  # what the last one has made goes round once more
        last = await worker.receive(before, Model) if index != clients - 1 else None
        if last is not None:
            bottom.load(last.arrays)
            if index < clients - 2:
                worker.send(after, last)
    return SplitBottom(bottom.arrays())
