"""Laws between algorithms: where two papers describe the same computation, both give the same models."""

from collections.abc import Mapping

import numpy as np

from hansa.algorithm import Algorithm, Trainer
from hansa.arrays import Arrays
from hansa.testing.broken import LawBrokenError, require_same
from hansa.testing.federation import play, task_of
from hansa.testing.linear import Examples, LinearTrainer

__all__ = ["follows_centralized_descent", "largest_difference", "same_trajectory"]


def same_trajectory(
    left: tuple[Algorithm, Trainer],
    right: tuple[Algorithm, Trainer],
    data: Mapping[str, Examples],
    *,
    rounds: int = 5,
    tolerance: float = 0.0,
) -> None:
    """Both algorithms give the same model after every round: to the bit, or within an absolute tolerance."""
    names = f"{left[0].name} and {right[0].name}"
    for mine, theirs in zip(play(*left, data, rounds=rounds), play(*right, data, rounds=rounds), strict=True):
        if not tolerance:
            require_same(mine.params, theirs.params, f"{names} agree to the bit after round {mine.round}")
        _require_near(mine.params, theirs.params, tolerance, f"{names}, after round {mine.round}")


def follows_centralized_descent(
    algorithm: Algorithm,
    trainer: LinearTrainer,
    data: Mapping[str, Examples],
    *,
    rounds: int = 20,
    tolerance: float = 1e-6,
) -> None:
    """Every round is one step of gradient descent, at the trainer's learning rate, on the clients' data together."""
    x = np.concatenate([part for part, _ in data.values()])
    y = np.concatenate([part for _, part in data.values()])
    pooled: dict[str, Examples] = {"everybody": (x, y)}
    params: Arrays | None = None
    for state in play(algorithm, trainer, data, rounds=rounds):
        params = state.params if params is None else _descended(trainer, params, pooled)
        _require_near(state.params, params, tolerance, f"{algorithm.name} and descent, after round {state.round}")


def largest_difference(left: Arrays, right: Arrays) -> float:
    """The largest absolute difference of two values of the same place."""
    return max(
        (float(np.max(np.abs(left[name].astype(np.float64) - right[name].astype(np.float64)))) for name in left),
        default=0.0,
    )


def _descended(trainer: LinearTrainer, params: Arrays, pooled: Mapping[str, Examples]) -> Arrays:
    gradient = trainer.gradient(params, task_of("everybody", pooled)).arrays
    return Arrays({name: array - trainer.learning_rate * gradient[name] for name, array in params.items()})


def _require_near(left: Arrays, right: Arrays, tolerance: float, what: str) -> None:
    difference = largest_difference(left, right)
    if not difference <= tolerance:
        raise LawBrokenError(f"{what}: the models differ by {difference:.3g}, more than {tolerance:.3g}")
