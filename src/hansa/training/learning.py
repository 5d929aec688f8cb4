"""How a model learns on a client, where its user hands over no trainer."""

from collections.abc import Callable
from typing import Any, TypedDict

__all__ = ["BATCH", "Learning"]

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
    representation: str
    """The submodule whose output MOON compares. PyTorch alone."""
    device: str
    """"cpu". PyTorch alone."""
