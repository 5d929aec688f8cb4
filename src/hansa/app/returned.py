"""What an app's functions return, checked and made plain; every flaw is an `AppError` that names the function."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hansa.arrays import Array, Arrays, check_same_structure, is_floating
from hansa.errors import AppError, ArraysMismatchError
from hansa.messages import Metrics, Value

__all__ = ["as_metrics", "kind_of", "like", "remembered", "to_json"]

_MOST_MEMORY = 64 << 10
"""Bytes of JSON that functions beside the server may remember."""


def as_metrics(value: object, role: str) -> Metrics:
    """What a function of this role has measured."""
    if not isinstance(value, Metrics):
        raise AppError(f"{role}() returned {kind_of(value)}; return hansa.Metrics({{'accuracy': a}}, num_examples=n)")
    return value


def like(model: Arrays, trained: Arrays) -> Arrays:
    """The trained arrays in the model's order and dtypes; a loss of kind (a float for an integer) is an error."""
    reordered = Arrays({name: trained[name] for name in model if name in trained} | dict(trained.items()))
    check_same_structure(model, reordered, "what train() returned")
    return Arrays({name: _cast(name, reordered[name], model[name].dtype) for name in model})


def _cast(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Floats round to the model's floats; what would lose its kind or wrap around is an error."""
    if array.dtype == dtype:
        return array
    if is_floating(np.empty(0, dtype)):
        with np.errstate(over="ignore"):  # the aggregator names what is not finite
            return array.astype(dtype)
    if is_floating(array) or (dtype == np.bool_):
        raise ArraysMismatchError(
            f"train() returned {name!r} as {array.dtype}, but the model has {dtype}: convert it with .astype, "
            f"or let the initial model have {array.dtype}"
        )
    cast = array.astype(dtype)
    if not np.array_equal(cast, array):
        raise ArraysMismatchError(
            f"train() returned {name!r} with numbers that {dtype}, the model's dtype, cannot hold"
        )
    return cast


def to_json(value: object, said: Callable[[Exception], str]) -> str:
    """JSON of it, arrays among it as lists. said: why it cannot be, for the `AppError`."""
    try:
        return json.dumps(value, default=_plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise AppError(said(error)) from error


def remembered(memory: Mapping[str, Any], function: str) -> dict[str, Value]:
    """What a function of the app leaves for later calls, as it is kept; raises `AppError` for what JSON cannot hold."""
    text = to_json(dict(memory), lambda flaw: f"{function}() left what cannot be kept in task.memory: {flaw}")
    if len(text) > _MOST_MEMORY:
        raise AppError(f"{function}() left {len(text):,} bytes in task.memory, which may have {_MOST_MEMORY:,} as JSON")
    kept: dict[str, Value] = json.loads(text)
    return kept


def _plain(value: object) -> Any:
    """What JSON holds of an array, or of a number of one."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is none of them")


def kind_of(value: object) -> str:
    """What somebody returned, for the middle of a sentence."""
    return "nothing" if value is None else f"a {type(value).__name__}"
