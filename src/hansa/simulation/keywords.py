"""What `simulate` takes as keywords: the fields of a `RunSpec`, and how a model learns that is handed over."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from hansa.messages import EvaluationRules, RoundRules, TransformSpec, Value
from hansa.training.learning import Learning

__all__ = ["Keywords", "Settings", "parted"]


class Settings(TypedDict, total=False):
    """The fields of `RunSpec`, as keywords."""

    name: str
    project: str
    algorithm: str
    algorithm_options: Mapping[str, Value]
    aggregator: str
    aggregator_options: Mapping[str, Value]
    rounds: int
    seed: int
    rules: RoundRules
    evaluation: EvaluationRules
    max_weight: int
    range_bits: int
    config: Mapping[str, Value]
    transforms: Sequence[str | TransformSpec]
    parties: Sequence[str]
    functions: Sequence[str]


class OneLine(Learning, total=False):
    """What `hansa.App.of` takes beside a model and data."""

    partition: str
    partition_seed: int


class Keywords(Settings, OneLine, total=False):
    """Both."""


def parted(given: Keywords) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords that are of the run, and those that are of `App.of`."""
    learning = {name: value for name, value in given.items() if name in OneLine.__annotations__}
    return {name: value for name, value in given.items() if name not in learning}, learning
