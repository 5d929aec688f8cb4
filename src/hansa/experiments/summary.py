"""What several seeds of the same settings say together."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import ConfigError, InputError
from hansa.simulation.curves import Curves, curves_of
from hansa.simulation.record import Record

__all__ = ["Band", "band", "grows", "main_metric", "metrics_of", "spread", "summed_up", "value_of"]


@dataclass(frozen=True, slots=True)
class Band:
    """One metric by round over several seeds; each array of shape (rounds,), NaN where nobody measured."""

    rounds: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    """The least of the seeds."""
    high: npt.NDArray[np.float64]
    """The greatest."""


def metrics_of(records: Sequence[Record]) -> list[str]:
    """The metrics that any of the records has, in the order of their first appearance."""
    return [name for name in dict.fromkeys(name for r in records for name in curves_of(r.rounds)) if name != "round"]


def main_metric(known: Sequence[str]) -> str:
    """What people look at first: accuracy, then loss; the central one, then the clients', then training's."""
    kinds, parts = ("accuracy", "loss"), ("central", "clients", "train")
    wanted = [f"{part}.{kind}" for kind in kinds for part in parts]
    found = [name for name in wanted if name in known]
    central = [name for part in parts for name in known if name.startswith(f"{part}.")]
    if not central:
        raise InputError("no metric was measured: let train() return metrics, or give the app an evaluation")
    return (found or central)[0]


def grows(metric: str) -> bool:
    """Whether more of it is better, by its name."""
    return not any(word in metric.lower() for word in ("loss", "error", "distance", "perplexity", "mse", "mae"))


def value_of(record: Record, metric: str, *, at: int | None = None, last: int = 1) -> float:
    """The metric in round `at`, else its mean over the `last` rounds that measured it.

    Raises `InputError` where it was not measured.
    """
    curves = curves_of(record.rounds)
    if metric not in curves:
        raise InputError(f"there is no metric {metric!r}; there is: {', '.join(metrics_of([record])) or 'none'}")
    values = curves[metric]
    if at is not None:
        chosen = values[curves["round"] == at]
        if not len(chosen):
            raise InputError(f"there is no round {at}; there are {len(values)}")
        return float(chosen[0])
    measured = values[np.isfinite(values)]
    return float(measured[-last:].mean()) if len(measured) else math.nan


def spread(values: Sequence[float]) -> float:
    """The deviation between seeds, about their own mean; 0 of one."""
    return statistics.pstdev(values) if values else math.nan


def summed_up(values: Sequence[float], statistic: str) -> float:
    """Their mean or median; NaN of none."""
    match statistic:
        case "mean":
            return statistics.fmean(values) if values else math.nan
        case "median":
            return statistics.median(values) if values else math.nan
        case _:
            raise ConfigError(f"statistic is {statistic!r}; there is mean and median")


def band(records: Sequence[Record], metric: str) -> Band:
    """The metric over the seeds, as far as the longest of them goes."""
    curves: list[Curves] = [curves_of(record.rounds) for record in records]
    longest = max((len(each["round"]) for each in curves), default=0)
    values = np.full((max(len(curves), 1), longest), np.nan)
    for row, each in enumerate(curves):
        if metric in each:
            values[row, : len(each["round"])] = each[metric]
    some = np.isfinite(values).any(axis=0)
    mean, low, high = (np.full(longest, np.nan) for _ in range(3))
    mean[some] = np.nanmean(values[:, some], axis=0)
    low[some], high[some] = np.nanmin(values[:, some], axis=0), np.nanmax(values[:, some], axis=0)
    return Band(np.arange(1, longest + 1, dtype=np.float64), mean, low, high)


def compact(value: Any) -> str:
    """A setting as it is typed: 0.1, fedavg, [1, 2]."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={compact(item)}" for name, item in value.items())
    return str(value).lower() if isinstance(value, bool) else "—" if value is None else str(value)
