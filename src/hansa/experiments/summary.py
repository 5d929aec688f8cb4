"""What several seeds of the same settings say together."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import ConfigError, InputError
from hansa.simulation.curves import Curves, curves_of
from hansa.simulation.record import Record

__all__ = [
    "Band",
    "band",
    "best_of",
    "grows",
    "is_reached",
    "main_metric",
    "metrics_of",
    "rounds_until",
    "spread",
    "summed_up",
    "value_of",
]


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
    """Whether more of it is better, by the words of its name: `val_loss`, `valLoss` and `val.logloss` have the same.

    What is counted per something is what counts: more `samples_per_second`, fewer `bits_per_character`. A `neg` turns
    it around, as in scikit-learn's `neg_mean_squared_error`, and more is better of what is `explained`.
    """
    words = [word.lower() for word in _WORDS.findall(metric)]
    if "explained" in words:  # a share of the variance
        return True
    counted = words[: words.index("per")] if "per" in words else words
    less = any(word in _LESS or word.endswith(_LESS_ENDS) for word in counted)
    return less if "neg" in words else not less and "negative log" not in " ".join(words)


_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""Letters that belong together: `valMSE`, `val_mse` and `ValMse` are two words."""
_LESS_ENDS = (
    "loss", "losses", "error", "errors", "distance", "distances", "perplexity", "mse", "mae", "mape", "entropy",
    "divergence", "regret", "deviance", "brier", "latency",
)  # fmt: skip
"""What words end with, crossentropy and RMSE too, of what is better when it is less."""
_LESS = frozenset(
    {
        "nll", "ppl", "wer", "cer", "fid", "lpips", "kl", "err", "rmsle", "ece", "cost", "costs", "risk", "risks",
        "false", "fpr", "fnr", "fdr", "frr", "eer", "misses", "miss", "failures", "variance", "deviation", "std",
        "gap", "gini", "unfairness", "hausdorff", "epsilon", "time", "times", "seconds", "milliseconds", "ms",
        "minutes", "hours", "duration", "delay", "lag", "bytes", "kilobytes", "megabytes", "gigabytes", "kb", "mb",
        "gb", "bits", "traffic", "memory", "flops", "energy", "joules", "watts",
    }
)  # fmt: skip
"""Whole words of the same."""


def value_of(record: Record, metric: str, *, at: int | None = None, last: int = 1) -> float:
    """The metric in round `at`, else its mean over the `last` rounds that measured it.

    Raises `InputError` where it was not measured.
    """
    rounds, values = _curve(record, metric)
    if at is not None:
        chosen = values[rounds == at]
        if not len(chosen):
            raise InputError(f"there is no round {at}; there are {len(values)}")
        return float(chosen[0])
    measured = values[np.isfinite(values)]
    return float(measured[-last:].mean()) if len(measured) else math.nan


def best_of(record: Record, metric: str) -> float:
    """The best value that the metric had in any round; raises `InputError` where it was not measured."""
    measured = _curve(record, metric)[1]
    measured = measured[np.isfinite(measured)]
    return float(measured.max() if grows(metric) else measured.min()) if len(measured) else math.nan


def is_reached(metric: str, value: float, aim: float) -> bool:
    """Whether a value of the metric is as good as the aim."""
    return value >= aim if grows(metric) else value <= aim


def rounds_until(record: Record, metric: str, aim: float) -> float:
    """The rounds that the best value so far takes to the aim, linear between rounds; infinite where it never does.

    McMahan et al. 2017, arXiv:1602.05629, section 3. Raises `InputError` where the metric was not measured.
    """
    rounds, values = _curve(record, metric)
    before: tuple[float, float] | None = None
    for number, value in zip(rounds.tolist(), values.tolist(), strict=True):
        if is_reached(metric, value, aim):
            if before is None or before[1] == value:
                return float(number)
            return float(before[0] + (number - before[0]) * (aim - before[1]) / (value - before[1]))
        if math.isfinite(value):
            before = (number, value if before is None else _better(metric, value, before[1]))
    return math.inf


def spread(values: Sequence[float]) -> float:
    """The sample's deviation between seeds, with n - 1; NaN of fewer than two, and where one is not finite."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan


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


def _curve(record: Record, metric: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The numbers of its rounds, and the metric in each."""
    curves = curves_of(record.rounds)
    if metric not in curves:
        raise InputError(f"there is no metric {metric!r}; there is: {', '.join(metrics_of([record])) or 'none'}")
    return curves["round"], curves[metric]


def _better(metric: str, one: float, other: float) -> float:
    return max(one, other) if grows(metric) else min(one, other)
