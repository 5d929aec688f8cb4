"""hansa: federated learning. The same file runs in simulation and in production, to the same bits."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hansa.algorithm import Aggregate, Aggregator, Algorithm, Partial, State, Trainer, Transform
    from hansa.api.client import connect
    from hansa.app import App
    from hansa.arrays import Arrays
    from hansa.errors import HansaError
    from hansa.messages import (
        ClientInfo,
        EvaluationRules,
        GradientCorrection,
        Metrics,
        RoundRules,
        RunSpec,
        Task,
        Update,
    )
    from hansa.simulation import simulate

os.environ.setdefault("MKL_CBWR", "AUTO")  # noqa: TID251 - MKL reads it when it is first used
"""Products of PyTorch's matrices do not depend on where in memory these lie: without it they do, on some processors."""

__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "Aggregator",
    "Algorithm",
    "App",
    "Arrays",
    "ClientInfo",
    "EvaluationRules",
    "GradientCorrection",
    "HansaError",
    "Metrics",
    "Partial",
    "RoundRules",
    "RunSpec",
    "State",
    "Task",
    "Trainer",
    "Transform",
    "Update",
    "__version__",
    "connect",
    "simulate",
]

_HOMES = {
    "hansa.algorithm": ("Aggregate", "Aggregator", "Algorithm", "Partial", "State", "Trainer", "Transform"),
    "hansa.api.client": ("connect",),
    "hansa.app": ("App",),
    "hansa.arrays": ("Arrays",),
    "hansa.errors": ("HansaError",),
    "hansa.messages": (
        "ClientInfo",
        "EvaluationRules",
        "GradientCorrection",
        "Metrics",
        "RoundRules",
        "RunSpec",
        "Task",
        "Update",
    ),
    "hansa.simulation": ("simulate",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_ROOMS = ("data", "distributed", "experiments", "simulation", "training")
"""Of these `hansa.experiments.sweep` works without a further import."""


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used, so that importing hansa costs nothing."""
    if name in _ROOMS:
        return import_module(f"hansa.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'hansa' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What is there to be used, whether or not it has been: notebooks complete by it."""
    return sorted({*globals(), *_HOME_OF, *_ROOMS})
