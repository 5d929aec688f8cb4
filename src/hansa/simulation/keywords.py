"""What `simulate` takes as keywords: the fields of a `RunSpec`, and how a model learns that is handed over."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypedDict

from hansa.errors import ConfigError
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
    test_fraction: float


class Keywords(Settings, OneLine, total=False):
    """Both."""


_ELSEWHERE = {
    "lr": "learning_rate",
    "num_clients": "clients",
    "n_clients": "clients",
    "local_steps": "steps",
    "test_size": "test_fraction",
}
"""What others call it."""


def _instead_of(name: str) -> str:
    """What somebody may have meant."""
    if name in {each.name for each in fields(RoundRules)}:
        return f"it is one of the rules, as in rules=hansa.RoundRules({name}=…)"
    alike = [_ELSEWHERE[name]] if name in _ELSEWHERE else get_close_matches(name, Keywords.__annotations__, n=1)
    said = f"do you mean {alike[0]}? " if alike else ""
    return f"{said}An option of the algorithm goes into algorithm_options, a setting of the app into config"


def parted(given: Keywords) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords that are of the run, and those that are of `App.of`; raises `ConfigError` for any other."""
    for name in given.keys() - Keywords.__annotations__.keys():
        raise ConfigError(f"simulate takes no {name!r}: {_instead_of(name)}")
    learning = {name: value for name, value in given.items() if name in OneLine.__annotations__}
    return {name: value for name, value in given.items() if name not in learning}, learning
