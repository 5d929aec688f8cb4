"""Vertical federated learning: parties have different features of the same people, and one of them has the labels.

z = join_p bottom_p(x_p); party 0 computes the loss L of top(z) and sends ∂L/∂(its output) back to each party, which
steps its bottom. With linear bottoms that are summed it is logistic regression, z = Σ_p x_p·θ_p (Hardy et al. 2017,
arXiv:1711.10677, without their encryption); with networks that are joined it is vertical split learning (Ceballos et
al. 2020, arXiv:2008.04137). Features never travel, outputs of bottoms do, and gradients with which labels can often be
guessed: the parties must trust each other so far.

Records are aligned first, by `alignment`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import ClientInfo
from hansa.protocols.alignment import align
from hansa.protocols.message import message
from hansa.protocols.parts import Data, Join, VerticalParts, Work, batches, check_inputs, check_loss
from hansa.protocols.split import Slope
from hansa.protocols.worker import Program, Worker

__all__ = ["Finished", "Output", "PartyTrained", "Records", "Rows", "joined", "parted", "vertical"]


@dataclass(frozen=True, slots=True)
class Records:
    """What a party has."""

    ids: Any
    """n identifiers, each once."""
    x: Any
    """Shape (n, features), or None for party 0 where it has labels alone."""
    y: Any = None
    """Shape (n,), of party 0 alone."""


@message("vertical.rows")
@dataclass(frozen=True, slots=True)
class Rows:
    """Which of the aligned records are the next batch."""

    values: np.ndarray


@message("vertical.output")
@dataclass(frozen=True, slots=True)
class Output:
    """What a party's bottom makes of a batch: shape (n, …)."""

    values: np.ndarray


@message("vertical.finished")
@dataclass(frozen=True, slots=True)
class Finished:
    """There are no more batches."""


@message("vertical.trained")
@dataclass(frozen=True, slots=True)
class PartyTrained:
    """What a party ends with."""

    bottom: Arrays
    """Empty where it has no features."""
    top: Arrays
    """Of party 0; empty for the others."""
    rows: np.ndarray
    """The rows of its records that all parties have, in the common order."""
    losses: np.ndarray
    """Shape (epochs,), of party 0; each a mean over the examples before their steps."""


def vertical(
    parts: VerticalParts, data: Data, *, salt: bytes, epochs: int = 1, batch_size: int | None = None
) -> Program:
    """A program for `star(parties)`: worker p is party p, and party 0 has the labels.

    data: a client (its index is the party) → its `Records`. salt: what the parties agreed on, see `alignment`.
    """
    work = Work(epochs=epochs, batch_size=batch_size)

    async def program(worker: Worker) -> PartyTrained:
        info = ClientInfo(f"party-{worker.number}", worker.number, worker.size, worker.settings)
        if parts.parties not in {None, worker.size}:
            raise ConfigError(
                f"the parts are for {parts.parties} parties, and {worker.topology.name} has {worker.size}"
            )
        records = _checked(data(info), info)
        rows = await align(worker, records.ids, salt)
        side = None if records.x is None else _Side(parts, worker, np.asarray(records.x)[rows])
        losses, top = np.zeros(0), Arrays()
        if worker.number == 0:
            losses, top = await _lead(worker, parts, side, np.asarray(records.y)[rows], work)
        elif side is not None:
            await _follow(worker, side)
        return PartyTrained(Arrays() if side is None else side.bottom.arrays(), top, rows, losses)

    return program


def _checked(records: Any, party: ClientInfo) -> Records:
    if not isinstance(records, Records):
        raise AppError(f"the data of {party.name} are a {type(records).__name__}; give hansa.distributed.Records")
    if party.index == 0 and records.y is None:
        raise AppError("party 0 has no labels; it is the one that must have them")
    if party.index and records.x is None:
        raise AppError(f"{party.name} has no features; only party 0 may have labels alone")
    for what, values in (("rows of features", records.x), ("labels", records.y)):
        if values is not None and len(values) != len(records.ids):
            raise InputError(f"{party.name} has {len(records.ids)} identifiers and {len(values)} {what}: give as many")
    if records.x is not None:
        check_inputs(np.asarray(records.x), party.name)
    return records


def joined(outputs: dict[int, Array], join: Join) -> Array:
    """The input of the top, from the outputs of the parties by number: side by side, or their sum."""
    if join == "sum":
        return np.asarray(sum(outputs.values()))
    return np.concatenate(list(outputs.values()), axis=1)


def parted(slope: Array, outputs: dict[int, Array], join: Join) -> dict[int, Array]:
    """∂L/∂(each party's output), from that of the top's input."""
    if join == "sum":
        return dict.fromkeys(outputs, slope)
    ends = np.cumsum([output.shape[1] for output in outputs.values()])
    return dict(zip(outputs, np.split(slope, ends[:-1], axis=1), strict=True))


class _Side:
    """The features of a party, and its bottom."""

    def __init__(self, parts: VerticalParts, worker: Worker, x: Array) -> None:
        self.bottom = parts.bottom(worker.number, worker.rng("init", "bottom"))
        self._x = x

    def output(self, rows: np.ndarray) -> Array:
        return self.bottom.forward(self._x[rows])


async def _lead(worker: Worker, parts: VerticalParts, side: _Side | None, y: Array, work: Work) -> tuple[Array, Arrays]:
    if parts.join not in {"concatenate", "sum"}:
        raise ConfigError(f"join is {parts.join!r}; there is: concatenate, sum")
    top = parts.top(worker.rng("init", "top"))
    losses = np.zeros(work.epochs)
    for epoch in range(work.epochs):
        for batch in batches(len(y), work.batch_size, worker.rng("train", epoch + 1)):
            worker.broadcast(Rows(batch))
            outputs = {} if side is None else {0: side.output(batch)}
            outputs |= {party: output.values for party, output in (await worker.gather(Output)).items()}
            loss, slope = top.step(joined(outputs, parts.join), y[batch])
            check_loss(loss, f"a batch of epoch {epoch + 1}")
            losses[epoch] += loss * len(batch) / len(y)
            slopes = parted(slope, outputs, parts.join)
            if side is not None:
                side.bottom.backward(slopes.pop(0))
            for party, each in slopes.items():
                worker.send(party, Slope(each))
    worker.broadcast(Finished())
    return losses, top.arrays()


async def _follow(worker: Worker, side: _Side) -> None:
    while isinstance(said := await worker.receive(0, Rows, Finished), Rows):
        worker.send(0, Output(side.output(said.values)))
        side.bottom.backward((await worker.receive(0, Slope)).values)
