"""Group knowledge transfer: small networks at clients and a large one at the server teach each other by logits.

Client i: min CE(z_i, y) + α T² KL(softmax(z_s / T) ‖ softmax(z_i / T)) over its extractor and classifier;
server:   min CE(z_s, y) + α T² KL(softmax(z_i / T) ‖ softmax(z_s / T)) on the clients' features H_i.

In the first round clients have no teacher. Features, logits and labels are of single samples and travel with the
sample's number, so that a teacher's logits are those of the very sample, in whatever order it is seen. He et al. 2020,
arXiv:2007.14513. The server sees features and labels of all samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array, Arrays
from hansa.errors import InputError
from hansa.messages import ClientInfo
from hansa.protocols.message import message
from hansa.protocols.parts import Data, batches, check_count, check_loss, examples_of
from hansa.protocols.worker import Program, Worker

__all__ = ["Edge", "EdgeTrained", "Knowledge", "Server", "ServerTrained", "Teams", "by_sample", "fedgkt"]

SERVER = 0


class Edge(Protocol):
    """A client's extractor and classifier; it keeps its tensors and its optimizer."""

    def arrays(self) -> Arrays:
        """A copy of its tensors."""

    def step(self, x: Any, y: Any, teacher: Array | None) -> float:
        """A step on one batch, and the loss before it. teacher: logits, shape (n, classes), of the same samples."""

    def extract(self, x: Any) -> tuple[Array, Array]:
        """(features, logits) of samples, not in training."""


class Server(Protocol):
    """The large network on features; it keeps its tensors and its optimizer."""

    def arrays(self) -> Arrays:
        """A copy of its tensors."""

    def step(self, features: Array, y: Any, teacher: Array) -> float:
        """A step on one batch, and the loss before it. teacher: the clients' logits of the same samples."""

    def logits(self, features: Array) -> Array:
        """Its logits of samples, not in training."""


@dataclass(frozen=True, slots=True)
class Teams:
    """How the networks of both sides are made."""

    edge: Callable[[np.random.Generator], Edge]
    server: Callable[[np.random.Generator], Server]


@message("fedgkt.knowledge")
@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a client tells of its samples, a row for each."""

    samples: np.ndarray
    """Their numbers at the client, shape (n,)."""
    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray


@message("fedgkt.logits")
@dataclass(frozen=True, slots=True)
class Logits:
    """What the server thinks of a client's samples, a row for each."""

    samples: np.ndarray
    logits: np.ndarray


@message("fedgkt.edge")
@dataclass(frozen=True, slots=True)
class EdgeTrained:
    """What a client ends with."""

    model: Arrays
    losses: np.ndarray
    """Shape (rounds,): means over a round's steps."""


@message("fedgkt.server")
@dataclass(frozen=True, slots=True)
class ServerTrained:
    """What the server ends with."""

    model: Arrays
    losses: np.ndarray
    """The same."""


def fedgkt(
    teams: Teams, data: Data, *, rounds: int, epochs: int = 1, server_epochs: int = 1, batch_size: int | None = None
) -> Program:
    """A program for `star(1 + clients)`: worker 0, the server, ends with `ServerTrained`, clients with `EdgeTrained`.

    data: a client → its examples (x, y). epochs, server_epochs: passes over the samples in each round.
    """
    check_count("rounds", rounds)
    check_count("epochs", epochs)
    check_count("server_epochs", server_epochs)

    async def program(worker: Worker) -> ServerTrained | EdgeTrained:
        if worker.number == SERVER:
            server = teams.server(worker.shared_rng("init", "server"))
            return await _serve(worker, server, rounds, _Pace(server_epochs, batch_size))
        info = ClientInfo(f"client-{worker.number - 1}", worker.number - 1, worker.size - 1, worker.settings)
        edge = teams.edge(worker.shared_rng("init", "edge"))
        return await _learn(worker, edge, examples_of(data(info), info.name), rounds, _Pace(epochs, batch_size))

    return program


def by_sample(told: Logits, num_samples: int) -> Array:
    """A teacher's logits in the order of the samples 0 … n − 1; `InputError` unless each is there once."""
    if sorted(told.samples.tolist()) != list(range(num_samples)):
        raise InputError(f"the teacher's logits are not of the samples 0 to {num_samples - 1}, each once")
    return told.logits[np.argsort(told.samples)]


@dataclass(frozen=True, slots=True)
class _Pace:
    epochs: int
    batch_size: int | None

    def rows(self, num_examples: int, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
        """The batches of a round."""
        return [rows for _ in range(self.epochs) for rows in batches(num_examples, self.batch_size, rng)]


async def _learn(worker: Worker, edge: Edge, examples: tuple[Array, Array], rounds: int, pace: _Pace) -> EdgeTrained:
    x, y = examples
    teacher: Array | None = None
    losses = []
    for number in range(1, rounds + 1):
        steps = [
            edge.step(x[rows], y[rows], None if teacher is None else teacher[rows])
            for rows in pace.rows(len(x), worker.rng("train", number))
        ]
        losses.append(check_loss(float(np.mean(steps)), f"round {number} of worker {worker.number}"))
        features, logits = edge.extract(x)
        worker.send(SERVER, Knowledge(np.arange(len(x)), features, logits, y))
        teacher = by_sample(await worker.receive(SERVER, Logits), len(x))
    return EdgeTrained(edge.arrays(), np.array(losses))


async def _serve(worker: Worker, server: Server, rounds: int, pace: _Pace) -> ServerTrained:
    losses = []
    for number in range(1, rounds + 1):
        told = await worker.gather(Knowledge)
        features, teacher, y = (
            np.concatenate([getattr(knowledge, field) for knowledge in told.values()])
            for field in ("features", "logits", "labels")
        )
        steps = [
            server.step(features[rows], y[rows], teacher[rows])
            for rows in pace.rows(len(y), worker.rng("train", number))
        ]
        losses.append(check_loss(float(np.mean(steps)), f"round {number} of the server"))
        for client, knowledge in told.items():
            worker.send(client, Logits(knowledge.samples, server.logits(knowledge.features)))
    return ServerTrained(server.arrays(), np.array(losses))
