"""A table whose rows are spread over clients: which statistics of which columns, and how they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hansa.algorithms.statistics import columns_of, empty
from hansa.arrays import Arrays
from hansa.errors import ConfigError, InputError
from hansa.messages import Metrics, Task, Update
from hansa.training.unaveraged import only_by

__all__ = ["TableTrainer", "bin_edges", "summary"]


@dataclass(frozen=True, slots=True)
class TableTrainer:
    """For the algorithm `statistics`. `task.data` is a mapping of column to numbers, or a data frame; NaN is missing.

    Round r is a pass over the rows; what it tells, and how exactly, is in `hansa.algorithms.statistics`.
    """

    columns: Sequence[str]
    """By name; a client may have others, which are not looked at."""
    quantiles: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """0 ≤ q ≤ 1; 0 and 1 are the least and the largest value."""
    bins: int = 0
    """Of each column's histogram, between the bounds of the quantiles 0 and 1, which must be asked for."""
    covariance: bool = False
    """Of all columns, over the rows that lack nothing: columns² sums."""
    can_evaluate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what no table has."""
        if isinstance(self.columns, str) or not self.columns or len(set(self.columns)) < len(self.columns):
            raise ConfigError(f"columns is {self.columns!r}; it must be a list of different names")
        if not all(0 <= q <= 1 for q in self.quantiles):
            raise ConfigError(f"quantiles is {self.quantiles!r}; each must be at least 0 and at most 1")
        if type(self.bins) is not int or self.bins < 0 or (self.bins and not {0, 1} <= set(self.quantiles)):
            raise ConfigError(
                f"bins is {self.bins}: give a whole number, and the quantiles 0 and 1, between which they are"
            )

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """All 0."""
        del rng
        return empty(self.columns, self.quantiles, self.bins, covariance=self.covariance)

    def fit(self, model: Arrays, task: Task) -> Update:
        """Always an `AppError`."""
        del model, task
        raise only_by(self, "statistics")

    def gradient(self, model: Arrays, task: Task) -> Update:
        """Always an `AppError`."""
        del model, task
        raise only_by(self, "statistics")

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """Always an `AppError`."""
        del model, task
        raise only_by(self, "statistics")


def summary(model: Arrays) -> list[dict[str, Any]]:
    """One row per column, which `hansa.simulation.Table` and `pandas.DataFrame` show.

    `min`, `max` and the quantiles (`q0.5`) are the middle of their bounds, and `uncertain` is the largest half
    distance of bounds: 0 after eight rounds. `std` is the root of the variance, NaN for fewer than two rows; of a
    column without a value all are NaN.
    """
    return [_row(name, model) for name in columns_of(model)]


def bin_edges(model: Arrays, columns: Sequence[str] | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The quantiles between 0 and 1 of each column, shape (columns, Q): bins that hold about as many rows each.

    For `hansa.training.trees`: a value between the bounds of each quantile, ascending. columns: all by default. Raises
    `InputError` for a column without a value.
    """
    found = []
    for name in columns if columns is not None else columns_of(model):
        if not int(model[f"{name}/count"]):
            raise InputError(f"nobody has a value in the column {name!r}, which has no bins: leave it out of `columns`")
        q, low, high = model[f"{name}/quantiles"].T
        found.append(np.sort((low / 2 + high / 2)[(q > 0) & (q < 1)]))
    return np.array(found)


def _row(name: str, model: Mapping[str, Any]) -> dict[str, Any]:
    count, missing = int(model[f"{name}/count"]), int(model[f"{name}/missing"])
    names = {0.0: "min", 1.0: "max"}
    row: dict[str, Any] = {"column": name, "count": count, "missing": missing}
    row["mean"] = float(model[f"{name}/mean"]) if count else float("nan")
    row["std"] = float(model[f"{name}/variance"]) ** 0.5 if count > 1 else float("nan")
    widths = [0.0]
    for q, low, high in model[f"{name}/quantiles"].tolist():
        middle = low / 2 + high / 2 if low != high else low
        row[names.get(q, f"q{q:g}")] = middle if count else float("nan")
        widths.append(high / 2 - low / 2)
    row["uncertain"] = max(widths) if count else float("nan")
    return row
