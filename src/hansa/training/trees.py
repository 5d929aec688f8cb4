"""Boosted trees: how many, how deep, in which bins, and what they predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.algorithms.examples import labelled
from hansa.algorithms.hist_gbdt import empty, losses, scores
from hansa.algorithms.options import check_count, check_whole
from hansa.arrays import Arrays
from hansa.errors import ConfigError, InputError
from hansa.messages import Metrics, Task, Update
from hansa.training.unaveraged import only_by

__all__ = ["BoostedTreesTrainer", "predict"]

_DEEPEST = 12


@dataclass(frozen=True, slots=True, eq=False)
class BoostedTreesTrainer:
    """For the algorithm `hist-gbdt`. `task.data`: as `hansa.training.local` says, x of shape (n, features)."""

    edges: Sequence[Sequence[float]] | npt.NDArray[np.float64]
    """Shape (features, bins − 1), each row ascending: where a node may be split, as from `tables.bin_edges`."""
    trees: int = 50
    depth: int = 4
    """Splits from the root to a leaf at most, 1 to 12."""
    classes: int = 2
    """Targets are whole numbers from 0 to classes − 1; 0: any numbers, and the loss is ½(f − y)²."""

    def __post_init__(self) -> None:
        """Refuse what no tree has."""
        check_count("BoostedTreesTrainer", "trees", self.trees)
        check_count("BoostedTreesTrainer", "depth", self.depth)
        check_whole("BoostedTreesTrainer", "classes", self.classes)
        try:
            table = np.asarray(self.edges, np.float64)
        except ValueError as error:
            raise ConfigError(
                "edges has rows of several lengths; give each feature as many (repeat its last)"
            ) from error
        if self.depth > _DEEPEST or self.classes == 1:
            raise ConfigError(f"depth is {self.depth} and classes {self.classes}: at most {_DEEPEST}, and not 1")
        if table.ndim != 2 or not table.size or not np.isfinite(table).all() or (np.diff(table) < 0).any():  # noqa: PLR2004 - a table
            raise ConfigError(
                f"edges has the shape {table.shape}; give each feature a row of ascending, finite numbers"
            )

    @property
    def rounds(self) -> int:
        """How many rounds grow all of them: one for each level of each tree."""
        return self.trees * self.depth

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """Trees that are leaves of value 0."""
        del rng
        return empty(np.asarray(self.edges), self.trees, self.depth, self.classes)

    def fit(self, model: Arrays, task: Task) -> Update:
        """Always an `AppError`."""
        del model, task
        raise only_by(self, "hist-gbdt")

    def gradient(self, model: Arrays, task: Task) -> Update:
        """Always an `AppError`."""
        del model, task
        raise only_by(self, "hist-gbdt")

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """`loss`, and the `accuracy` of classes."""
        x, y = labelled(task, len(self.edges), evaluation=True)
        measured = {"loss": float(losses(self.classes, scores(model, x), y).mean())}
        if self.classes:
            measured["accuracy"] = float(np.mean(predict(model, x) == y))
        return Metrics(measured, len(x))


def predict(model: Arrays, x: npt.ArrayLike) -> np.ndarray[Any, np.dtype[Any]]:
    """Classes, or numbers where there are none, shape (n,); x: shape (n, features), finite."""
    inputs, features = np.asarray(x, np.float64), len(model["edges"])
    if inputs.ndim != 2 or inputs.shape[1] != features:  # noqa: PLR2004 - a row of each example
        raise InputError(f"x has the shape {inputs.shape}; these trees take (n, {features})")
    if not np.all(np.isfinite(inputs)):
        raise InputError("x has values that are not finite, which these trees have no side for: fill what is missing")
    found = scores(model, inputs)
    if not int(model["classes"]):
        return found[:, 0]
    return (found[:, 0] > 0).astype(np.int64) if found.shape[1] == 1 else found.argmax(axis=1)
