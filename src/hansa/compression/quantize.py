"""Stochastic quantization: each value is rounded up or down to a whole number of steps, at random, right in the mean.

    s = max|x| / L over 512 values in a row, L = 2^(bits−1) − 1
    Q(x) = s · (⌊x/s⌋ + b),  b ~ Bernoulli(x/s − ⌊x/s⌋),  so that E Q(x) = x

Alistarh, Grubic, Li, Tomioka, Vojnovic: "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding",
NeurIPS 2017, arXiv:1610.02132, with the largest value of a bucket as its scale, as in their experiments.

s is rounded up to 16 binary digits, so that s times a level is exact in float32 and the mean is right but for the 53
random bits behind b. Of an update of which only some values travel (top-k, random-mask) a tensor is one bucket.
"""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hansa.algorithm import Bound, Stage, Transform
from hansa.arrays import Array, Arrays, is_floating, norm
from hansa.compression.options import checked_flag
from hansa.errors import ConfigError
from hansa.messages import Packing, Update

__all__ = ["BUCKET", "quantize"]

BUCKET = 512
"""Elements in a row that share a step."""

_DIGITS = 16
"""Binary digits of a step."""

_SHRINK = 1 - 2.0**-14
"""More than a step grows when it is rounded up."""

_SMALLEST = 2.0**-120
"""Of a step: its multiples are no denormal numbers."""


def quantize(before: Bound, *, bits: int = 8, keep_norm: bool = False) -> Transform:
    """bits: 8 or 4 for each value. A bound on the norm is lost: rounding may lengthen an update.

    keep_norm: whether an update that rounding has made longer than its bound is shortened to that, by shorter steps:
    then the bound is kept, and the mean is right but for this.
    """
    keeps = checked_flag("quantize", "keep_norm", keep_norm) and before.norm < math.inf
    if isinstance(bits, bool) or bits not in {4, 8}:
        raise ConfigError(f"quantize: bits is {bits!r}; it must be 8 or 4")

    def apply(update: Update, rng: np.random.Generator) -> Update:
        arrays, packing = dict(update.arrays), dict(update.packing)
        for name, array in update.arrays.items():
            if is_floating(array) and array.size and np.isfinite(array).all():
                known = packing.get(name, Packing())
                arrays[name], steps = _quantized(array, bits, rng, whole=known.sparse or bool(known.seed))
                packing[name] = replace(known, bits=bits, steps=steps)
        while keeps and (length := norm(arrays, before.order)) > before.norm:
            factor = before.norm / length * _SHRINK
            for name, how in packing.items():
                if how.steps is not None:
                    arrays[name], steps = _shortened(arrays[name], how.steps, factor)
                    packing[name] = replace(how, steps=steps)
        return replace(update, arrays=Arrays(arrays), packing=packing)

    return Transform("quantize", apply, Stage.QUANTIZE, bound=before if keeps else Bound(), unbiased=not keeps)


def _quantized(array: Array, bits: int, rng: np.random.Generator, *, whole: bool) -> tuple[Array, Array]:
    """(the rounded tensor, its steps); whole: whether it is one bucket."""
    flat = array.reshape(-1)
    starts = [0] if whole else np.arange(0, flat.size, BUCKET)
    steps = _rounded_up(np.maximum.reduceat(np.abs(flat), starts).astype(np.float64) / (2 ** (bits - 1) - 1))
    each = _of_each(steps, flat.size)
    scaled = flat / each
    low = np.floor(scaled)
    levels = low + (rng.random(flat.size) < scaled - low)
    return (levels * each).astype(array.dtype).reshape(array.shape), steps.astype(array.dtype)


def _shortened(array: Array, steps: Array, factor: float) -> tuple[Array, Array]:
    """The same levels of shorter steps."""
    flat, former = array.reshape(-1), steps.astype(np.float64)
    shorter = _rounded_up(former * factor)
    levels = np.rint(flat / _of_each(former, flat.size))
    return (levels * _of_each(shorter, flat.size)).astype(array.dtype).reshape(array.shape), shorter.astype(array.dtype)


def _of_each(steps: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """The step of each element."""
    return steps if len(steps) == 1 else np.repeat(steps, BUCKET)[:size]


def _rounded_up(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The next number of `_DIGITS` binary digits."""
    mantissas, exponents = np.frexp(np.maximum(values, _SMALLEST))
    return np.asarray(np.ldexp(np.ceil(np.ldexp(mantissas, _DIGITS)), exponents - _DIGITS))
