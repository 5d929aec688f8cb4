"""Statistics of a table whose rows are spread over clients: equal to those of the joined table, to the bit.

Each round is a pass over the rows. Every pass computes, of each column,

    n, Σx and Σx²      without any rounding (`algorithms.exact`), so that the mean Σx/n and the variance
                       (Σx² − (Σx)²/n)/(n − 1) are the exact values, rounded once
    the histogram      over bins of equal width between the bounds of least and largest that the pass before found
    the quantiles      x_(⌈qn⌉), an order statistic: the q-quantile of numpy's method `inverted_cdf`

and over the rows that lack nothing the covariance of all columns, if it is asked for.

A quantile is found by bisection of the range of all float64 into 256 parts per pass: numbers in their order are whole
numbers in their order (the bits of the number, mirrored below 0), of which each pass counts those with the digits that
are known and each next one. After r passes the quantile is in an interval of 2^(64 − 8r) numbers: from the second pass
on it is known to a relative error of 2^(12 − 8r) (2^-4, 2^-12, 2^-20 …), and after eight it is exact. No range is
asked for, and how finely the least and the largest value are told is a choice: they are somebody's. It is selection by
radix (Knuth: "The Art of Computer Programming", volume 3, section 5.2.5), which needs counts of its digits and nothing
else.

Rows without a value (NaN) are counted as missing. Each pass is complete in itself: statistics are of the clients of the
last round; that quantiles get finer needs no more than that their rows are about the same in each.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms.exact import COUNTS, NUMBERS, Floats, Places, product, summing
from hansa.algorithms.parts import joined, part
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import Task, Update

__all__ = ["broadcast", "client_update", "columns_of", "empty", "server_update", "statistics"]

_PARTS = 256
"""Of the interval of a quantile in each pass."""

_PASSES = 8
"""Until a quantile is exact."""

_LARGEST_EDGE = 2.0**200
"""Bounds beyond it are not yet known well enough to have bins between them."""

Keys = npt.NDArray[np.int64]


def statistics(aggregator: Aggregator) -> Algorithm:
    """What is computed, the model says: `hansa.training.tables.TableTrainer`."""
    return Algorithm(
        name="statistics",
        init=_init,
        broadcast=broadcast,
        client_update=client_update,
        aggregator=summing("statistics", aggregator, COUNTS, NUMBERS),
        server_update=server_update,
        sends="exact sums",
    )


def empty(
    columns: Sequence[str], quantiles: Sequence[float] = (), bins: int = 0, *, covariance: bool = False
) -> Arrays:
    """The model before the first round, all 0.

    Of each column, under its name:
    `count` and `missing`, `mean`, `variance`; `quantiles` of shape (Q, 3): q, and the bounds between which the
    quantile is; `edges` of shape (bins + 1,) and `histogram` of shape (bins,). Of all: `covariance` of shape (C, C),
    `complete` rows.
    """
    levels = np.array(quantiles, np.float64).reshape(-1)
    tensors: dict[str, Array] = {}
    for name in columns:
        tensors |= {f"{name}/{what}": np.zeros((), np.int64) for what in ("count", "missing")}
        tensors |= {f"{name}/{what}": np.zeros(()) for what in ("mean", "variance")}
        tensors[f"{name}/quantiles"] = np.stack([levels, np.zeros_like(levels), np.zeros_like(levels)], axis=1)
        tensors |= {f"{name}/edges": np.zeros(bins + 1), f"{name}/histogram": np.zeros(bins, np.int64)}
    if covariance:
        tensors |= {"covariance": np.zeros((len(columns), len(columns))), "complete": np.zeros((), np.int64)}
    return Arrays(tensors)


def columns_of(params: Arrays) -> tuple[str, ...]:
    """The columns of a model of `empty`, in their order; a `ConfigError` where it is another model."""
    columns = tuple(name.removesuffix("/count") for name in params if name.endswith("/count"))
    if not columns or any(f"{name}/quantiles" not in params for name in columns):
        raise ConfigError("statistics needs a table for a model: give hansa.App a TableTrainer (hansa.training.tables)")
    return columns


def _init(params: Arrays) -> State:
    """Every quantile may be any number."""
    lowest = {name: np.full(len(params[f"{name}/quantiles"]), _LOWEST) for name in columns_of(params)}
    return State(params, slots={"search": Arrays(lowest)})


def broadcast(state: State) -> Arrays:
    """How many digits of the quantiles are known, and which; the bounds of bins; and room for the sums."""
    params, tensors = state.params, dict[str, Array]()
    columns = columns_of(params)
    for name in columns:
        searched = len(state.slots["search"][name])
        tensors[f"{name}/grid"] = _keys(_range(params[f"{name}/quantiles"]) if state.round else np.zeros(2))
        tensors[f"{name}/rows"] = COUNTS.room(2)
        tensors[f"{name}/moments"] = NUMBERS.room(2)
        tensors[f"{name}/parts"] = COUNTS.room(searched, 1 + _PARTS)
        tensors[f"{name}/bins"] = COUNTS.room(len(params[f"{name}/histogram"]))
    together: dict[str, Array] = {}
    if "covariance" in params:
        together["rows"], together["sums"] = COUNTS.room(), NUMBERS.room(len(columns))
        together["products"] = NUMBERS.room(len(columns), len(columns))
    known = {"digits": np.array(_known(state.round), np.int64)}
    return joined({"known": known, "search": state.slots["search"], "columns": tensors, "together": together})


def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
    """The sums over this client's rows."""
    del trainer
    known, search, asked, together = (part(model, name) for name in ("known", "search", "columns", "together"))
    table = {name: _column(task, name) for name in search}
    rows = {len(values) for values in table.values()}
    if len(rows) != 1:
        raise InputError(f"{task.client.name} has columns of {sorted(rows)} rows: they must have as many")
    (count,) = rows
    if not count:
        raise InputError(f"{task.client.name} has no rows: leave this client out, or give it data")
    told: dict[str, Array] = {}
    for done, (name, values) in enumerate(table.items()):
        there = values[~np.isnan(values)]
        told[f"{name}/grid"] = np.zeros(2, np.int64)
        told[f"{name}/rows"] = _counts(np.array([len(there), count - len(there)], float))
        told[f"{name}/moments"] = np.stack([_sum(there, axis=0), _sum(np.concatenate(product(there, there)), axis=0)])
        told[f"{name}/parts"] = _counts(_parts(_keys(there), search[name], int(known["digits"])))
        edges = _edges(asked[f"{name}/grid"], asked[f"{name}/bins"].shape[0])
        told[f"{name}/bins"] = _counts(np.histogram(there, edges)[0] if edges.any() else np.zeros(len(edges) - 1))
        task.progress(done + 1, len(table))
    return Update(
        joined(
            {
                "known": {"digits": np.zeros((), np.int64)},
                "search": {name: np.zeros_like(keys) for name, keys in search.items()},
                "columns": told,
                "together": _together(np.stack(list(table.values()), axis=1)) if together else {},
            }
        ),
        count,
    )


def server_update(state: State, aggregate: Aggregate) -> State:
    """The statistics of this pass, and one digit more of each quantile."""
    clients, sums = len(aggregate.contributions), part(aggregate.mean, "columns")
    found, search, known = dict(state.params), dict[str, Array](), _known(state.round)
    for name in columns_of(state.params):
        count, missing = COUNTS.totals(sums[f"{name}/rows"], clients).tolist()
        moments = _exact(NUMBERS, sums[f"{name}/moments"], clients)
        mean, variance = _moments(count, moments[0], moments[1])
        levels = state.params[f"{name}/quantiles"][:, 0]
        grid = _keys(_range(state.params[f"{name}/quantiles"]) if state.round else np.zeros(2))
        lowest, highest = _narrowed(
            COUNTS.totals(sums[f"{name}/parts"], clients), state.slots["search"][name], levels, count, known
        )
        search[name] = lowest
        found |= {
            f"{name}/count": np.array(count, np.int64),
            f"{name}/missing": np.array(missing, np.int64),
            f"{name}/mean": np.array(mean),
            f"{name}/variance": np.array(variance),
            f"{name}/quantiles": np.stack([levels, _numbers(lowest), _numbers(highest)], axis=1),
            f"{name}/edges": _edges(grid, len(state.params[f"{name}/histogram"])),
            f"{name}/histogram": COUNTS.totals(sums[f"{name}/bins"], clients).astype(np.int64),
        }
    if "covariance" in state.params:
        found |= _covariance(part(aggregate.mean, "together"), clients)
    return State(Arrays(found), state.round + 1, {"search": Arrays(search)})


# ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _column(task: Task, name: str) -> Floats:
    """The values of a column, NaN where there is none."""
    data: Any = task.data
    if not isinstance(data, Mapping) and hasattr(data, "to_dict"):
        data = {str(column): data[column] for column in data}  # a data frame
    if not isinstance(data, Mapping) or name not in data:
        has = f"the columns {', '.join(map(str, data))}" if isinstance(data, Mapping) else f"a {type(data).__name__}"
        raise AppError(
            f"{task.client.name} has no column {name!r}, but {has}: let @app.data return a mapping of name to values"
        )
    given = np.asarray(data[name])
    if given.dtype.kind in "Mmc":
        raise AppError(f"{task.client.name}: the column {name!r} is not of numbers, but {given.dtype}: convert it")
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise AppError(f"{task.client.name}: the column {name!r} is not of numbers: {error}") from error
    if values.ndim != 1 or np.isinf(values).any():
        raise InputError(f"{task.client.name}: the column {name!r} must be a row of finite numbers, or NaN for none")
    return values + 0.0  # no number is −0.0


def _counts(counts: Array) -> Floats:
    return COUNTS.summed(np.asarray(counts, np.float64), lambda digit: digit, *np.shape(counts))


def _sum(values: Floats, axis: int) -> Floats:
    return NUMBERS.summed(values, lambda digit: np.asarray(digit.sum(axis=axis)), *np.delete(values.shape, axis))


def _exact(places: Places, mean: Floats, clients: int) -> list[Any]:
    """Fractions, in nested lists of the shape of the sums."""
    unit = Fraction(2) ** (16 * places.lowest)
    exact: list[Any] = np.asarray(places.totals(mean, clients) * unit, dtype=object).tolist()
    return exact


def _moments(count: int, total: Fraction, squares: Fraction) -> tuple[float, float]:
    """Mean and variance, 0 where there are too few rows."""
    mean = float(total / count) if count > 0 else 0.0
    return mean, float((squares - total * total / count) / (count - 1)) if count > 1 else 0.0


def _together(rows: Floats) -> dict[str, Array]:
    """Over the rows that lack nothing: their number, the sums of columns and of products. rows: shape (n, C)."""
    rows = rows[~np.isnan(rows).any(axis=1)]
    products = [_sum(np.concatenate(product(rows, rows[:, [k]])), axis=0) for k in range(rows.shape[1])]
    return {"rows": _counts(np.array(float(len(rows)))), "sums": _sum(rows, axis=0), "products": np.stack(products)}


def _covariance(sums: Arrays, clients: int) -> dict[str, Array]:
    count = int(COUNTS.totals(sums["rows"], clients))
    totals, products = (_exact(NUMBERS, sums[name], clients) for name in ("sums", "products"))
    size = len(totals)
    matrix = np.zeros((size, size))
    for i, j in np.ndindex(size, size) if count > 1 else ():
        matrix[i, j] = float((products[i][j] - totals[i] * totals[j] / count) / (count - 1))
    return {"covariance": matrix, "complete": np.array(count, np.int64)}


def _range(quantiles: Floats) -> Floats:
    """Bounds of the least and the largest value, from those of the quantiles 0 and 1."""
    return np.array([quantiles[:, 1].min(), quantiles[:, 2].max()]) if len(quantiles) else np.zeros(2)


def _edges(grid: Keys, bins: int) -> Floats:
    """Of bins of equal width; all 0 where their bounds are not known yet."""
    low, high = _numbers(grid)
    if not bins or not max(abs(low), abs(high)) < _LARGEST_EDGE:
        return np.zeros(bins + 1)
    return np.linspace(low, high, bins + 1)


# ── the search ───────────────────────────────────────────────────────────────────────────────────────────────────────

_MIRROR = np.int64(2**63 - 1)
_LOWEST = np.int64(-(2**63))
_EDGE = np.finfo(np.float64).max


def _known(rounds: int) -> int:
    """Digits of quantiles that are known when a pass begins: the last pass may be repeated."""
    return min(rounds, _PASSES - 1)


def _keys(values: Array) -> Keys:
    """Whole numbers in the order of these float64, neighbours where they are."""
    bits = np.asarray(values, np.float64).view(np.int64)
    return np.where(bits < 0, bits ^ _MIRROR, bits)


def _numbers(keys: Keys) -> Floats:
    """The inverse; what lies beyond all finite numbers is the last of them."""
    inside = np.clip(keys, _keys(np.array(-_EDGE)), _keys(np.array(_EDGE)))
    return np.where(inside < 0, inside ^ _MIRROR, inside).view(np.float64)


def _started(search: Keys, known: int) -> Keys:
    """The first key that has the digits that are known."""
    rest = np.int64(64 - 8 * known)
    return np.full_like(search, _LOWEST) if not known else (search >> rest) << rest


def _parts(keys: Keys, search: Keys, known: int) -> Floats:
    """How many values are below the interval of each quantile, and in each part of it; shape (Q, 1 + parts)."""
    ordered = np.sort(keys)
    edges = _started(search, known)[:, None] + (np.arange(_PARTS, dtype=np.int64) << np.int64(56 - 8 * known))
    below = np.searchsorted(ordered, edges.reshape(-1)).reshape(edges.shape)
    last = edges[:, -1:] + np.int64(2 ** (56 - 8 * known) - 1)
    until = np.searchsorted(ordered, last.reshape(-1), side="right")[:, None]
    return np.diff(np.concatenate([np.zeros_like(until), below, until], axis=1), axis=1).astype(np.float64)


def _narrowed(parts: Array, search: Keys, levels: Floats, count: int, known: int) -> tuple[Keys, Keys]:
    """The first and the last key of the part that each quantile is in."""
    ranks = np.clip(np.ceil(levels * max(count, 0)), 1, None)
    reached = (
        np.cumsum(parts.astype(np.float64), axis=1)[:, 1:] >= ranks[:, None] if len(parts) else np.zeros((0, 1), bool)
    )
    chosen = np.where(reached.any(axis=1), reached.argmax(axis=1), _PARTS - 1).astype(np.int64)
    rest = np.int64(56 - 8 * known)
    lowest = _started(search, known) + (chosen << rest)
    return lowest, lowest + np.int64(2 ** int(rest) - 1)
