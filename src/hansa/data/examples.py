"""What one client holds: examples, some of them kept apart for testing."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array

__all__ = ["Examples", "Split"]


class Examples(NamedTuple):
    """Inputs and targets of the same length, as a pair: `x, y = split.train`; there are `len(split.train.y)`."""

    x: Array
    """Shape (n, …)."""
    y: Array
    """Shape (n,)."""

    def take(self, indices: npt.NDArray[np.int64]) -> "Examples":
        """The examples with these indices, copied."""
        return Examples(self.x[indices], self.y[indices])


@dataclass(frozen=True, slots=True)
class Split:
    """The examples of one owner: `train` to learn from, `test` to be judged on."""

    train: Examples
    test: Examples
