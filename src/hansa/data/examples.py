"""What one client holds: examples, some of them kept apart for testing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array
from hansa.errors import InputError

__all__ = ["Examples", "Split", "hold_out", "joined", "pooled"]


class Examples(NamedTuple):
    """Inputs and targets of the same length, as a pair: `x, y = split.train`; there are `len(split.train.y)`."""

    x: Any
    """Shape (n, …); or several inputs by name, a mapping of such arrays: `{"input_ids": …, "attention_mask": …}`."""
    y: Array
    """Shape (n,), or (n, …) where a target is more than a number."""

    def take(self, indices: npt.NDArray[np.int64]) -> "Examples":
        """The examples with these indices, copied; of what pandas holds those at these places, whatever their index."""
        return Examples(_at(self.x, indices), _at(self.y, indices))


def _at(part: Any, indices: npt.NDArray[np.int64]) -> Any:
    """What is at these places; [] of the columns of a table of pandas looks into their index instead."""
    if isinstance(part, Mapping):
        return {name: _at(each, indices) for name, each in part.items()}
    return part.iloc[indices].to_numpy() if hasattr(part, "iloc") else part[indices]


@dataclass(frozen=True, slots=True)
class Split:
    """The examples of one owner: `train` to learn from, `test` to be judged on."""

    train: Examples
    test: Examples


def hold_out(examples: Examples, fraction: float, rng: np.random.Generator) -> Split:
    """A random ⌊fraction · n⌋ of the examples for testing, the others for training, each in their old order.

    0 ≤ fraction < 1.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"the fraction for testing is {fraction}; it must be at least 0 and below 1")
    order = rng.permutation(len(examples.y))
    num_test = int(fraction * len(order))
    return Split(train=examples.take(np.sort(order[num_test:])), test=examples.take(np.sort(order[:num_test])))


def pooled(splits: Sequence[Split]) -> Split:
    """The examples of several owners as one's, in their order. Raises `InputError` where their shapes differ."""
    if len(splits) == 1:
        return splits[0]
    return Split(joined([split.train for split in splits]), joined([split.test for split in splits]))


def joined(several: Sequence[Examples]) -> Examples:
    """All these examples, in their order. Raises `InputError` where their shapes differ."""
    some = [examples for examples in several if len(examples.y)] or several[:1]
    return Examples(_joined([each.x for each in some]), np.concatenate([each.y for each in some]))


def _joined(inputs: Sequence[Any]) -> Any:
    if any(isinstance(each, Mapping) for each in inputs):
        kinds = sorted({", ".join(sorted(each)) if isinstance(each, Mapping) else "one array" for each in inputs})
        if len(kinds) > 1:
            raise InputError(f"examples with different inputs cannot be pooled: {'; '.join(kinds)}")
        return {name: _joined([each[name] for each in inputs]) for name in inputs[0]}
    shapes = {each.shape[1:] for each in inputs}
    if len(shapes) > 1:
        raise InputError(f"examples of different shapes cannot be pooled: {', '.join(map(str, sorted(shapes)))}")
    return np.concatenate(inputs)
