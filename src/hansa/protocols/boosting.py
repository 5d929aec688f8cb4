"""Boosted trees of a library's own: an ensemble is bytes that travel, and grows by bagging or in turn.

Bagging:  in each round every client grows trees on the ensemble, its leaves times p_i = n_i / Σ n, and the server
          appends those of all, in the order of the clients: a step of Σ_i p_i η f_i.
Cyclic:   one client after the other appends trees that it has grown, and hands the ensemble on.

Neither is the ensemble of the joined rows, as `hist-gbdt` is (`hansa.algorithms`): each tree knows the rows of its own
client alone. In return clients send trees, and no sums of gradients. An ensemble is read by the library that has
written it, which was made for files of one's own: let only parties that trust each other grow trees together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hansa.arrays import Array
from hansa.errors import ConfigError
from hansa.messages import ClientInfo
from hansa.protocols.message import message
from hansa.protocols.parts import Data, check_count, examples_of
from hansa.protocols.worker import Program, Worker

__all__ = ["Boosted", "Trees", "bagging", "cyclic"]

SERVER = 0


class Trees(Protocol):
    """A library of boosted trees. An ensemble is bytes of its own format; of no tree it is empty."""

    def grow(self, ensemble: bytes, x: Any, y: Any, share: float) -> bytes:
        """The trees that follow an ensemble, grown on these examples, and they alone. share: their leaves' factor."""

    def joined(self, ensemble: bytes, grown: Sequence[bytes]) -> bytes:
        """The ensemble with these trees after it, in this order."""


@message("boosting.examples")
@dataclass(frozen=True, slots=True)
class Count:
    """How many examples a client has, or all have."""

    num_examples: int


@message("boosting.ensemble")
@dataclass(frozen=True, slots=True)
class Boosted:
    """Trees; what everybody ends with is the whole ensemble."""

    trees: np.ndarray
    """The library's bytes, uint8 of shape (n,)."""

    def __bytes__(self) -> bytes:
        return self.trees.tobytes()


def bagging(trees: Trees, data: Data, *, rounds: int) -> Program:
    """A program for `star(1 + clients)`: worker 0 is the server. data: a client → its examples (x, y)."""
    check_count("rounds", rounds)

    async def program(worker: Worker) -> Boosted:
        if worker.number == SERVER:
            return await _append(worker, trees, rounds)
        x, y = _examples(worker, data, worker.number - 1, worker.size - 1)
        worker.send(SERVER, Count(len(y)))
        share = len(y) / (await worker.receive(SERVER, Count)).num_examples
        for _ in range(rounds):
            ensemble = bytes(await worker.receive(SERVER, Boosted))
            worker.send(SERVER, _told(trees.grow(ensemble, x, y, share)))
        return await worker.receive(SERVER, Boosted)

    return program


def cyclic(trees: Trees, data: Data, *, rounds: int) -> Program:
    """A program for `directed_ring(clients)`. rounds: visits in all, the first at worker 0."""
    check_count("rounds", rounds)

    async def program(worker: Worker) -> Boosted:
        if len(worker.senders) != 1 or len(worker.receivers) != 1:
            raise ConfigError(
                f"trees that grow in turn need a directed ring of at least two clients, not {worker.topology.name}"
            )
        (before,), (after,) = worker.senders, worker.receivers
        x, y = _examples(worker, data, worker.number, worker.size)
        ensemble = _told(b"")
        for _ in range(worker.number, rounds, worker.size):
            if worker.number or ensemble.trees.size:
                ensemble = await worker.receive(before, Boosted)
            so_far = bytes(ensemble)
            ensemble = _told(trees.joined(so_far, [trees.grow(so_far, x, y, 1.0)]))
            worker.send(after, ensemble)
        # The last visit's ensemble goes on around the ring, to all but whom it comes from.
        distance = (worker.number - (rounds - 1)) % worker.size
        if distance:
            ensemble = await worker.receive(before, Boosted)
            if distance < worker.size - 1:
                worker.send(after, ensemble)
        return ensemble

    return program


async def _append(worker: Worker, trees: Trees, rounds: int) -> Boosted:
    counts = await worker.gather(Count)
    worker.broadcast(Count(sum(told.num_examples for told in counts.values())))
    ensemble = b""
    for _ in range(rounds):
        worker.broadcast(_told(ensemble))
        grown = await worker.gather(Boosted)
        ensemble = trees.joined(ensemble, [bytes(grown[client]) for client in sorted(grown)])
    worker.broadcast(_told(ensemble))
    return _told(ensemble)


def _told(ensemble: bytes) -> Boosted:
    return Boosted(np.frombuffer(ensemble, np.uint8))


def _examples(worker: Worker, data: Data, index: int, total: int) -> tuple[Array, Array]:
    info = ClientInfo(f"client-{index}", index, total, worker.settings)
    return examples_of(data(info), info.name, gaps=True)
