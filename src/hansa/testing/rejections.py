"""Updates that must not be counted: a good one with one thing wrong, and the reason that names it."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from hansa.arrays import Array, Arrays
from hansa.errors import Reason
from hansa.messages import Update

__all__ = ["wrong_updates"]


def wrong_updates(good: Update) -> Iterator[tuple[str, Update, Reason]]:
    """(what is wrong, the update, the reason it must be rejected for), for everything that can be wrong with it."""
    for num_examples in (0, -1, 2**63, -(2**63), 2**70):
        yield f"num_examples {num_examples}", Update(good.arrays, num_examples), Reason.WEIGHT
    for what, arrays in _wrong_structures(good.arrays):
        yield what, Update(arrays, good.num_examples), Reason.STRUCTURE
    for name, array in good.arrays.items():
        if array.size:
            for what, value, reason in _wrong_values(array):
                spoilt = _with(good.arrays, name, partial(_put, value=value))
                yield f"{what} in {name!r}", Update(spoilt, good.num_examples), reason


def _wrong_structures(arrays: Arrays) -> Iterator[tuple[str, Arrays]]:
    items = dict(arrays)
    yield "an unknown tensor", Arrays(items | {"unknown to the model": np.zeros(2, np.float32)})
    if len(items) > 1:
        yield "another order", Arrays(dict(reversed(items.items())))
    for name in items:
        yield f"no {name!r}", Arrays({key: value for key, value in items.items() if key != name})
        yield f"{name!r} renamed", Arrays({(f"{key}'" if key == name else key): v for key, v in items.items()})
        yield f"a dimension more in {name!r}", _with(arrays, name, lambda old: old[np.newaxis])
        yield f"an element more in {name!r}", _with(arrays, name, lambda old: np.append(old, old.dtype.type(0)))
        yield f"another dtype in {name!r}", _with(arrays, name, _other_dtype)


def _wrong_values(array: Array) -> Iterator[tuple[str, float | int, Reason]]:
    if array.dtype.kind == "f":
        for value in (np.nan, np.inf, -np.inf):
            yield str(value), value, Reason.NOT_FINITE
    else:
        for number in (2**63 - 1, -(2**63)):
            yield str(number), number, Reason.OUT_OF_RANGE


def _with(arrays: Arrays, name: str, change: Callable[[Array], Array]) -> Arrays:
    return Arrays({key: change(array) if key == name else array for key, array in arrays.items()})


def _put(array: Array, *, value: float) -> Array:
    spoilt = array.copy()
    spoilt.reshape(-1)[-1] = value
    return spoilt


def _other_dtype(array: Array) -> Array:
    return array.astype(np.float64 if array.dtype == np.float32 else np.float32)
