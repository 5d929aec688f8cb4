"""What every trainer agrees on: what `task.data` may be, and how local work is cut into steps.

`@app.data` returns one of

- `(x, y)`: examples to train on and to evaluate on;
- `(train, test)`, each of them `(x, y)`: examples to train on, and others to evaluate on;
- an object with the attributes `train` and `test`, each `(x, y)`, as `hansa.data.Split` is.

`x` and `y` are arrays or tensors of the same length, one example after the other; the pairs are tuples. For PyTorch, x
may be several inputs by name, a mapping of such.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.algorithms.examples import evaluation_examples, training_examples
from hansa.errors import ConfigError
from hansa.messages import Task

__all__ = [
    "Batch",
    "Filled",
    "LocalWork",
    "count",
    "evaluation_examples",
    "filled",
    "known_distance",
    "padded",
    "training_examples",
]

Batch: TypeAlias = "slice | npt.NDArray[np.intp]"
"""Which examples a step uses: their indices, or a slice where they are neighbours in the data."""

Filled: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Batches as rows, (steps, size) indices of examples, and how many of each count, (steps,); the others fill up."""

_NEARLY = 1e-9
"""A share of the work this little above a whole number of steps is that number: 0.7 · 10 is 7.000000000000001."""


@dataclass(frozen=True, slots=True)
class LocalWork:
    """How much a client does in one round: `epochs` passes over its examples, or `steps` batches."""

    batch_size: int | None = None
    """Examples per step; None: all of them in every step."""
    epochs: int | None = None
    """Passes over the examples, each in a new random order; 1 when neither is given."""
    steps: int | None = None
    """Batches, from as many passes as that takes."""
    drop_last: bool = False
    """Leave out the last batch of a pass when it is smaller than the others (BatchNorm refuses a batch of one)."""

    def __post_init__(self) -> None:
        """Refuse what is not a positive whole number."""
        for name in ("batch_size", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} is {value!r}; it must be a whole number, at least 1")
        if self.epochs is not None and self.steps is not None:
            raise ConfigError(f"epochs = {self.epochs} and steps = {self.steps} are both given; give one of them")

    def planned(self, num_examples: int, share: float = 1.0) -> int:
        """Steps that this share of the work takes, ⌈share · all⌉ and at least 1."""
        whole = self.steps or (self.epochs or 1) * self._per_pass(num_examples)
        return max(1, math.ceil(share * whole - _NEARLY))

    def batches(self, num_examples: int, task: Task) -> Iterator[Batch]:
        """The examples of each step, as far as `task.work` goes, in an order drawn from `task.rng`.

        Each batch reports progress when the next one is asked for, that is, when its step is done.
        """
        planned = self.planned(num_examples, task.work)
        done = 0
        while done < planned:
            for batch in self._pass(num_examples, task.rng):
                yield batch
                done += 1
                task.progress(done, planned)
                if done == planned:
                    return

    def largest(self, num_examples: int) -> int:
        """Examples in the first batch, which is the largest."""
        return min(num_examples, self.batch_size or num_examples)

    def drawn(self, sizes: Sequence[int], tasks: Sequence[Task], room: Callable[[int], int]) -> list[Filled]:
        """All of `batches` of each client at once, as `filled`: the same numbers are drawn, progress is reported once.

        sizes: how many examples each has; room: the examples of a client → of its batches, filled up.
        """
        alike: dict[tuple[int, float], list[int]] = {}
        for number, (size, task) in enumerate(zip(sizes, tasks, strict=True)):
            alike.setdefault((size, task.work), []).append(number)
        found: dict[int, Filled] = {}
        for (size, share), numbers in alike.items():
            index, counts = self._drawn(size, share, [tasks[number].rng for number in numbers], room(size))
            found |= {number: (of_client, counts) for number, of_client in zip(numbers, index, strict=True)}
            for number in numbers:
                tasks[number].progress(len(counts), len(counts))
        return [found[number] for number in range(len(tasks))]

    def _drawn(
        self, num_examples: int, share: float, rngs: Sequence[np.random.Generator], room: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Of clients with so many examples: indices of shape (clients, steps, room), and counts of all, (steps,)."""
        step, per_pass = self.largest(num_examples), self._per_pass(num_examples)
        planned = self.planned(num_examples, share)
        passes = -(-planned // per_pass)
        order = np.broadcast_to(np.arange(num_examples), (len(rngs), passes, num_examples))
        if step < num_examples:  # the rows of `permuted` are drawn as by `permutation`, one after the other
            order = np.stack([rng.permuted(rows, axis=1) for rng, rows in zip(rngs, order, strict=True)])
        lacks = max(0, per_pass * step - num_examples)
        order = _widened(order[:, :, : per_pass * step], lacks, (per_pass - 1) * step)
        counts = np.full(planned, step)
        counts[per_pass - 1 :: per_pass] -= lacks
        return _widened(order.reshape(len(rngs), -1, step)[:, :planned], room - step, 0), counts

    def _per_pass(self, num_examples: int) -> int:
        if self.batch_size is None or self.batch_size >= num_examples:
            return 1
        return num_examples // self.batch_size if self.drop_last else -(-num_examples // self.batch_size)

    def _pass(self, num_examples: int, rng: np.random.Generator) -> Iterator[Batch]:
        if self.batch_size is None or self.batch_size >= num_examples:
            yield slice(0, num_examples)
            return
        order = rng.permutation(num_examples)
        for start in range(0, self._per_pass(num_examples) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]


def count(batch: Batch) -> int:
    """How many examples a batch has."""
    return batch.stop - batch.start if isinstance(batch, slice) else len(batch)


def padded(largest: int, batch_size: int | None) -> int:
    """Examples in a batch of the stack that a client belongs to, whose largest batch has so many.

    That is `batch_size` where its batches are full; else the next of 1, 2, 3, 4, 6, 8, 12, 16, 24 …, so that clients of
    nearly the same size share a stack. Nobody else's examples play a part in it.
    """
    if largest == batch_size:
        return largest
    power = 1 << (largest - 1).bit_length()
    return power * 3 // 4 if largest <= power * 3 // 4 and power >= 4 else power  # noqa: PLR2004 - ¾ of 4 is whole


def filled(batches: Sequence[Batch], size: int) -> Filled:
    """Batches as rows, and how many each has; one that is smaller is filled up with its first example."""
    arrays = [np.arange(each.start, each.stop) if isinstance(each, slice) else each for each in batches]
    flat: npt.NDArray[np.int64] = np.concatenate(arrays)
    if len(flat) == len(batches) * size:
        return flat.reshape(-1, size), np.full(len(batches), size)
    counts = np.array([len(each) for each in arrays])
    begins, place = np.cumsum(counts) - counts, np.arange(size)
    return np.take(flat, begins[:, None] + np.where(place < counts[:, None], place, 0)), counts


def _widened(rows: npt.NDArray[np.int64], more: int, column: int) -> npt.NDArray[np.int64]:
    """Rows, along the last axis, with so many columns more, all like this one."""
    return np.concatenate([rows, np.repeat(rows[..., column, None], more, axis=-1)], axis=-1) if more else rows


def known_distance(step_sum: float) -> float:
    """`Update.step_sum`, or 0, unknown, where a proximal pull with ημ > 2 has made the steps swing ever further."""
    return step_sum if 0 < step_sum < math.inf else 0.0
