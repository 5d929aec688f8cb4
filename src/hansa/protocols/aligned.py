"""Vertical split learning where all parties have the same records in the same order already: each pass is over all.

z = concat_p bottom_p(x_p), p ≥ 1; worker 0 has the labels and the top. In a round it asks each party for what its
bottom makes of the training records, steps the top, and sends ∂L/∂(its output) back to each, which steps its bottom;
then, if there are test records, it asks for those of them and measures. So a bottom is stepped by the gradient of the
whole loss L(top(z), y), as in Gupta and Raskar 2018, arXiv:1810.06060, with one pass over all examples a step.

`vertical` aligns records, and has batches; here no identifier is asked for, and parties have no say in the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from hansa.arrays import Array, Arrays
from hansa.errors import AppError, InputError
from hansa.messages import ClientInfo
from hansa.protocols.message import message
from hansa.protocols.parts import Bottom, Data, Top, check_count, check_inputs, check_loss
from hansa.protocols.split import Slope
from hansa.protocols.vertical import Finished, Output, joined, parted
from hansa.protocols.worker import Program, Worker

__all__ = ["AlignedTrained", "Pass", "Score", "Split", "aligned_vertical"]

Score: TypeAlias = Callable[[Array, Array], tuple[float, float]]
"""(outputs of the top, labels) → (mean loss, accuracy)."""


@dataclass(frozen=True, slots=True)
class Split:
    """What a party has: its columns of the records, or of worker 0 the labels."""

    train: Any
    """Of n records, in the order that all have."""
    test: Any = None
    """Of others; None: nothing is measured."""


@message("aligned.pass")
@dataclass(frozen=True, slots=True)
class Pass:
    """A party is to say what its bottom makes of its records."""

    testing: bool
    """Of those for testing, of which no gradient comes."""


@message("aligned.trained")
@dataclass(frozen=True, slots=True)
class AlignedTrained:
    """What a worker ends with."""

    part: Arrays
    """The top of worker 0; the bottom of a party."""
    losses: np.ndarray
    """Shape (rounds,), of worker 0: before each step."""
    test_losses: np.ndarray
    """Shape (rounds,), of worker 0 where it has labels for testing: after each step."""
    accuracies: np.ndarray
    """The same."""


def aligned_vertical(
    top: Callable[[int, np.random.Generator], Top],
    data: Data,
    *,
    score: Score,
    bottom: Callable[[int, np.random.Generator], Bottom] | None = None,
    rounds: int = 1,
) -> Program:
    """A program for `star(1 + parties)`.

    top: (numbers that the parties' outputs have together for a record, rng) → a new one; data: a client → its `Split`;
    bottom: (party, from 1, rng) → a new one; None: every party brings its own, as clients of other systems do.
    """
    check_count("rounds", rounds)

    async def program(worker: Worker) -> AlignedTrained:
        info = ClientInfo(f"party-{worker.number}", worker.number, worker.size, worker.settings)
        if worker.number and bottom is None:
            raise AppError(f"{info.name} has no bottom: give one, or name a client that brings its own")
        records = data(info)
        if not isinstance(records, Split):
            raise AppError(f"the data of {info.name} are a {type(records).__name__}; give hansa.distributed.Split")
        if worker.number and isinstance(records.train, np.ndarray):
            check_inputs(records.train, info.name)
        if worker.number == 0:
            return await _lead(worker, top, records, score, rounds)
        assert bottom is not None  # noqa: S101 - refused above
        return await _follow(worker, bottom(worker.number, worker.rng("init", "bottom")), records)

    return program


async def _lead(
    worker: Worker, make: Callable[[int, np.random.Generator], Top], labels: Split, score: Score, rounds: int
) -> AlignedTrained:
    if not len(labels.train):
        raise InputError("party-0 has no labels to train with")
    made: Top | None = None
    losses, tests = np.zeros(rounds), np.zeros((rounds if labels.test is not None else 0, 2))
    for number in range(rounds):
        outputs = await _asked(worker, len(labels.train), testing=False)
        z = joined(outputs, "concatenate")
        top = made = make(z.shape[1], worker.rng("init", "top")) if made is None else made
        loss, slope = top.step(z, labels.train)
        losses[number] = check_loss(loss, f"round {number + 1}")
        for party, each in parted(slope, outputs, "concatenate").items():
            worker.send(party, Slope(np.ascontiguousarray(each)))
        if labels.test is not None:
            outputs = await _asked(worker, len(labels.test), testing=True)
            tests[number] = score(top.predict(joined(outputs, "concatenate")), labels.test)
    worker.broadcast(Finished())
    part = Arrays() if made is None else made.arrays()
    return AlignedTrained(part, losses, np.ascontiguousarray(tests[:, 0]), np.ascontiguousarray(tests[:, 1]))


async def _asked(worker: Worker, records: int, *, testing: bool) -> dict[int, Array]:
    """What each party's bottom makes of all records, by party."""
    worker.broadcast(Pass(testing))
    outputs = {party: output.values for party, output in (await worker.gather(Output)).items()}
    for party, values in outputs.items():
        if values.ndim != 2 or len(values) != records:  # noqa: PLR2004 - records and numbers of each
            whose = f"{'testing' if testing else 'training'} records"
            raise InputError(
                f"party {party} sends an output of shape {values.shape} for {whose}, and {records} have labels: "
                "one row for each, in the order that all parties have"
            )
    return outputs


async def _follow(worker: Worker, bottom: Bottom, records: Split) -> AlignedTrained:
    while isinstance(asked := await worker.receive(0, Pass, Finished), Pass):
        if asked.testing:
            worker.send(0, Output(bottom.predict(records.test)))
        else:
            worker.send(0, Output(bottom.forward(records.train)))
            bottom.backward((await worker.receive(0, Slope)).values)
    return AlignedTrained(bottom.arrays(), np.zeros(0), np.zeros(0), np.zeros(0))
