"""A network that is cut in two: bottoms where the inputs are, a top where the labels are; each is trained in its place.

Trainers of parts are in `hansa.training`: `numpy_parts`, `torch_parts`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import ClientInfo

__all__ = [
    "Bottom",
    "Data",
    "Join",
    "Parts",
    "Top",
    "VerticalParts",
    "Work",
    "batches",
    "check_count",
    "check_inputs",
    "check_loss",
    "examples_of",
]

Data = Callable[[ClientInfo], Any]
"""A client → its data; `app.load_data` of a `hansa.App` is one."""
Join = Literal["concatenate", "sum"]
"""How the outputs of several bottoms become the input of the top."""


class Bottom(Protocol):
    """The part at the inputs; it keeps its tensors and its optimizer."""

    def arrays(self) -> Arrays:
        """A copy of its tensors."""

    def load(self, arrays: Arrays) -> None:
        """Take these tensors, with an optimizer that starts anew."""

    def forward(self, x: Any) -> Array:
        """The activations of a batch, shape (n, …), in training; it keeps what `backward` needs."""

    def backward(self, slope: Array) -> None:
        """Step its optimizer. slope: ∂L/∂(the activations of the last `forward`), in their shape."""

    def predict(self, x: Any) -> Array:
        """The activations of a batch, not in training."""


class Top(Protocol):
    """The part at the labels; the same."""

    def arrays(self) -> Arrays:
        """A copy of its tensors."""

    def load(self, arrays: Arrays) -> None:
        """Take these tensors, with an optimizer that starts anew."""

    def step(self, activations: Array, y: Any) -> tuple[float, Array]:
        """The mean loss L of a batch and ∂L/∂activations, both before the step of its optimizer that this takes."""

    def predict(self, activations: Array) -> Array:
        """Its outputs, not in training."""


@dataclass(frozen=True, slots=True)
class Parts:
    """How a network that is cut once is made."""

    bottom: Callable[[np.random.Generator], Bottom]
    top: Callable[[np.random.Generator], Top]


@dataclass(frozen=True, slots=True)
class VerticalParts:
    """How a network with a bottom for each party is made."""

    bottom: Callable[[int, np.random.Generator], Bottom]
    """(party, rng) → its bottom; party 0 has the labels."""
    top: Callable[[np.random.Generator], Top]
    join: Join = "concatenate"
    parties: int | None = None
    """For how many it is made, party 0 among them; None: for any number."""


@dataclass(frozen=True, slots=True)
class Work:
    """How much is done; raises `ConfigError` for what is no whole number of at least 1."""

    rounds: int = 1
    epochs: int = 1
    """Passes over the examples in each round."""
    batch_size: int | None = None
    """Examples of a step; None: all of them."""

    def __post_init__(self) -> None:
        """Refuse what does nothing."""
        for name in ("rounds", "epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None or name != "batch_size":
                check_count(name, value)


def check_count(setting: str, value: object) -> None:
    """Raise `ConfigError` unless it is a whole number of at least 1."""
    if type(value) is not int or value < 1:
        raise ConfigError(f"{setting} is {value!r}; it must be a whole number of at least 1")


def batches(num_examples: int, batch_size: int | None, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """One pass over the examples, in the order that trainers draw; None: all of them at once."""
    if batch_size is None or batch_size >= num_examples:
        yield np.arange(num_examples)
        return
    order = rng.permutation(num_examples)
    for start in range(0, num_examples, batch_size):
        yield order[start : start + batch_size]


def check_inputs(x: Array, name: str) -> None:
    """Raise `InputError` unless all inputs are finite."""
    if x.dtype.kind == "f" and not np.all(np.isfinite(x)):
        raise InputError(f"{name} has inputs that are not finite: fill what is missing, or leave it out")


def check_loss(loss: float, what: str) -> float:
    """The loss; raises `AppError` where it is no number, as nothing is learnt of it. what: whose, of which step."""
    if not math.isfinite(loss):
        raise AppError(f"{what} has the loss {loss}, with which nothing is learnt: lower the learning rate")
    return loss


def examples_of(data: Any, name: str, *, gaps: bool = False) -> tuple[Array, Array]:
    """The training examples (x, y) of a client's data, of which it has some: a pair, or what has a pair as `train`.

    gaps: whether inputs may be missing, as NaN; else they must be finite.
    """
    pair = getattr(data, "train", data)
    if not isinstance(pair, tuple) or len(pair) != 2 or not all(getattr(a, "shape", ()) for a in pair):  # noqa: PLR2004
        raise AppError(f"the data of {name} must be a tuple of two arrays, (x, y), not a {type(pair).__name__}")
    x, y = pair
    if len(x) != len(y) or not len(x):
        raise InputError(f"{name} has {len(x)} inputs and {len(y)} labels; it must have as many of both, and some")
    inputs = np.asarray(x)
    if not gaps:
        check_inputs(inputs, name)
    return inputs, np.asarray(y)
