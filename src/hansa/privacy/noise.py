"""Noise on the client, so that not even who sums can tell much of one update (local differential privacy).

    gaussian-noise   Δ ← Δ + N(0, (zC)²) for each value, C the norm that the update was clipped to
    laplace-noise    Δ ← Δ + Lap(zC) for each value, C the sum of absolute values that it was clipped to

Dwork, Roth: "The Algorithmic Foundations of Differential Privacy", 2014, sections 3.3 and A. Two updates within C are
2C apart at most, so one release has the privacy of the mechanism with the multiplier z/2 (`privacy.accounting`).

Values and noise are whole numbers of one step, a power of two (`privacy.stream`). Rounding to it moves an update by
half a step for each value at most; C grows by that much before it is multiplied with z. Tensors of whole numbers have
no place in the norm: their change is taken out. The number of examples is, too: a noised update counts as one.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hansa.algorithm import Bound, Noise, Stage, Transform
from hansa.arrays import Array, Arrays, is_floating
from hansa.errors import ConfigError
from hansa.messages import Update
from hansa.privacy.stream import KEY, Stream

__all__ = ["checked_multiplier", "gaussian_noise", "laplace_noise"]

_FINER = {"gaussian": 24, "laplace": 34}
"""Powers of two by which the step is finer than the scale: what rounding adds to C grows with √d and with d."""

_MOST = 2**40
"""Of a multiplier."""

_WHOLE = 48
"""Powers of two of C in steps at most, so that whole numbers of steps are exact in float64."""


def gaussian_noise(before: Bound, *, multiplier: float, seeded: bool = False) -> Transform:
    """multiplier: z ≥ 0; seeded: whether noise follows from the run's seed on a network, too, which protects nothing.

    In a simulation it always does.
    """
    return _noise("gaussian", before, multiplier, seeded=seeded)


def laplace_noise(before: Bound, *, multiplier: float, seeded: bool = False) -> Transform:
    """multiplier: z ≥ 0, of the sum of absolute values; seeded: as in gaussian_noise."""
    return _noise("laplace", before, multiplier, seeded=seeded)


def checked_multiplier(name: str, multiplier: object) -> float:
    """z as a number; raises `ConfigError`."""
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 <= multiplier <= _MOST:
        raise ConfigError(
            f"{name}: multiplier is {multiplier!r:.80}; it must be a number of at least 0, and below 2^40"
        )
    return float(multiplier)


def _noise(distribution: str, before: Bound, multiplier: object, *, seeded: object) -> Transform:
    name = f"{distribution}-noise"
    z = checked_multiplier(name, multiplier)
    if not isinstance(seeded, bool):
        raise ConfigError(f"{name}: seeded is {seeded!r}; it must be true or false")
    order = 1 if distribution == "laplace" else 2

    def apply(update: Update, rng: np.random.Generator) -> Update:
        noised = _noised(update.arrays, distribution, before.norm, z, Stream(rng.bytes(KEY))) if z else _still
        arrays = Arrays(
            {key: noised(array) if is_floating(array) else _zero(array) for key, array in update.arrays.items()}
        )
        return replace(update, arrays=arrays, num_examples=1)

    return Transform(
        name,
        apply,
        Stage.NOISE,
        bound=before if not z else Bound(),
        unbiased=True,
        secret=not seeded,
        noise=Noise(distribution, z, order, seeded=seeded),
    )


def _noised(arrays: Arrays, distribution: str, norm: float, z: float, stream: Stream) -> Callable[[Array], Array]:
    """What adds noise to one tensor after another."""
    step = math.ldexp(1.0, max(_power(z * norm) - _FINER[distribution], _power(norm) - _WHOLE))
    count = sum(array.size for array in arrays.values() if is_floating(array))
    scale = z * (norm + step / 2 * (count if distribution == "laplace" else math.sqrt(count)))

    def noised(array: Array) -> Array:
        flat, made = array.reshape(-1), np.empty(array.size, array.dtype)
        for place, noise in stream.blocks(distribution, array.size):
            whole = np.rint(flat[place].astype(np.float64) / step) + np.rint(noise * (scale / step))
            made[place] = whole * step
        return made.reshape(array.shape)

    return noised


def _still(array: Array) -> Array:
    return array


def _zero(array: Array) -> Array:
    return np.zeros_like(array)


def _power(value: float) -> int:
    """⌊log2 value⌋."""
    return math.frexp(value)[1] - 1
