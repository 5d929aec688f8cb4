"""Messages that several protocols share: a model, and one with its weight."""

from collections.abc import Mapping
from dataclasses import dataclass

from hansa.arrays import Arrays
from hansa.protocols.message import message
from hansa.protocols.mixing import mix

__all__ = ["Model", "Weighted", "weighted_mean"]


@message("model")
@dataclass(frozen=True, slots=True)
class Model:
    """The tensors that a worker tells others, or ends with."""

    arrays: Arrays


@message("weighted-model")
@dataclass(frozen=True, slots=True)
class Weighted:
    """A model and the number of examples that it was trained on."""

    arrays: Arrays
    num_examples: int


def weighted_mean(models: Mapping[int, Weighted]) -> Arrays:
    """Σ_i n_i x_i / Σ_i n_i, in the order of the workers."""
    total = sum(model.num_examples for model in models.values())
    weights = {i: model.num_examples / total for i, model in models.items()}
    return mix(weights, {i: model.arrays for i, model in models.items()})
