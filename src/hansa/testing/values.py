"""Hypothesis strategies for models and for what clients send: every dtype, no dimension, no element, no tensor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hansa.arrays import DTYPES, Array, Arrays, delta_dtype, is_floating
from hansa.messages import Update

__all__ = ["changes", "models", "random_change", "tensors", "updates"]

_LARGEST_CHANGE = 16.0
"""Within the range that every aggregator must accept of any model, 2^range_bits ≥ 1 times 2^4."""

_LARGEST_WEIGHT = 1000.0


def models(dtypes: Sequence[str] = tuple(DTYPES), max_tensors: int = 4) -> st.SearchStrategy[Arrays]:
    """Models of up to `max_tensors` tensors of up to three dimensions; dtypes: safetensors names, such as "BF16"."""
    names = st.text("abcxyz._/0", min_size=1, max_size=5)
    return st.dictionaries(names, st.sampled_from(dtypes).flatmap(tensors), max_size=max_tensors).map(Arrays)


def tensors(dtype: str) -> st.SearchStrategy[Array]:
    """Tensors of a dtype by its safetensors name; some have no dimension, some have no element."""
    kind = DTYPES[dtype]
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    if dtype in {"F16", "BF16"}:
        wide = hnp.arrays(np.float32, shapes, elements=st.floats(-_LARGEST_WEIGHT, _LARGEST_WEIGHT, width=16))
        return wide.map(lambda array: array.astype(kind))
    if kind.kind == "f":
        return hnp.arrays(kind, shapes, elements=_floats(kind, _LARGEST_WEIGHT))
    return hnp.arrays(kind, shapes)


def changes(template: Arrays) -> st.SearchStrategy[Arrays]:
    """Changes of a model that may be counted, in the dtypes of `arrays.delta_dtype`."""
    drawn = st.fixed_dictionaries({name: _change(array) for name, array in template.items()})
    return drawn.map(lambda items: Arrays({name: items[name] for name in template}))


def updates(template: Arrays, max_examples: int = 1000) -> st.SearchStrategy[Update]:
    """Updates of a model that may be counted."""
    return st.builds(Update, changes(template), st.integers(1, max_examples))


def random_change(template: Arrays, rng: np.random.Generator, scale: float = 0.1) -> Arrays:
    """A change with normal values of this scale, and -1, 0 or 1 for integers; much faster than `changes`."""

    def draw(array: Array) -> Array:
        dtype = delta_dtype(array.dtype)
        if is_floating(array):
            return np.asarray(rng.normal(0, scale, array.shape), dtype)
        return np.asarray(rng.integers(-1, 2, array.shape), dtype)

    return Arrays({name: draw(array) for name, array in template.items()})


def _change(array: Array) -> st.SearchStrategy[Array]:
    dtype: np.dtype[Any] = delta_dtype(array.dtype)
    if dtype.kind == "f":
        return hnp.arrays(dtype, array.shape, elements=_floats(dtype, _LARGEST_CHANGE))
    return hnp.arrays(dtype, array.shape, elements=st.integers(-1000, 1000))


def _floats(dtype: np.dtype[Any], largest: float) -> st.SearchStrategy[float]:
    return st.floats(-largest, largest, width=32 if dtype == DTYPES["F32"] else 64)
