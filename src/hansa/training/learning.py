"""How a model learns on a client, where its user hands over no trainer."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import numpy as np

from hansa.errors import ConfigError

__all__ = ["BATCH", "Learning", "check_descent"]

BATCH = 32
"""Examples per step."""


class Learning(TypedDict, total=False):
    """How a model learns on a client, in one round. What is left out has the default that is given here."""

    loss: Callable[[Any, Any], Any]
    """(outputs, targets) → a mean. PyTorch alone; by default cross-entropy for class numbers, else squared error."""
    optimizer: str | Callable[..., Any]
    """A name or class of `torch.optim`, or a function of the parameters; "sgd". PyTorch alone."""
    learning_rate: float
    """0.1 for SGD, else what the optimizer has by default."""
    momentum: float
    """0."""
    weight_decay: float
    """0."""
    batch_size: int | None
    """32; None: all examples in every step."""
    epochs: int
    """1."""
    steps: int
    """Batches in one round, instead of epochs."""
    drop_last: bool
    """Whether the last batch of a pass is left out where it is smaller, as BatchNorm asks. PyTorch alone."""
    metrics: Mapping[str, Callable[[Any, Any], Any]]
    """(outputs, targets) → a mean, by name, beside the loss; by default accuracy for class numbers. PyTorch alone."""
    bfloat16: bool
    """Whether products are in bfloat16, weights and steps as they are. PyTorch alone."""
    representation: str
    """The submodule whose output MOON compares. PyTorch alone."""
    device: str
    """"cpu". PyTorch alone."""


def check_descent(*, learning_rate: object = 1.0, momentum: object = 0.0, weight_decay: object = 0.0) -> None:
    """Raise `ConfigError` for settings with which nothing is learnt."""
    if not 0 < _number(learning_rate) < math.inf:
        raise ConfigError(f"learning_rate is {learning_rate!r}; it must be a number above 0, and finite")
    if not 0 <= _number(momentum) < 1:
        raise ConfigError(f"momentum is {momentum!r}; it must be a number of at least 0 and below 1")
    if not 0 <= _number(weight_decay) < math.inf:
        raise ConfigError(f"weight_decay is {weight_decay!r}; it must be a number of at least 0, and finite")


def _number(value: object) -> float:
    """The value, or NaN (which is in no range) where it is not a number."""
    return float(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else math.nan
