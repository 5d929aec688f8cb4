"""Clipping: Δ ← Δ · min(1, C/‖Δ‖), over all floating tensors together, so that one client moves the model by C at most.

McMahan, Ramage, Talwar, Zhang: "Learning Differentially Private Recurrent Language Models", ICLR 2018,
arXiv:1710.06963, "flat clipping".
"""

import math
from dataclasses import replace

import numpy as np

from hansa.algorithm import Bound, Stage, Transform
from hansa.arrays import Arrays, map_floating, norm
from hansa.errors import ConfigError
from hansa.messages import Update

__all__ = ["checked_norm", "clip", "clipped"]

_SHRINK = 1 - 2.0**-20
"""What a scaled update is scaled by again, should the rounding of its values have left it longer than C."""


def clip(before: Bound, *, norm: float, order: int = 2) -> Transform:
    """norm: C > 0, infinity for none; order: 2 for the Euclidean norm, 1 for the sum of absolute values.

    Tensors of whole numbers are left as they are, and so is an update that is not finite, which no server counts.
    """
    del before
    if isinstance(order, bool) or order not in {1, 2}:
        raise ConfigError(f"clip: order is {order!r}; it must be 1 or 2")
    limit = Bound(checked_norm("clip", norm), order)

    def apply(update: Update, _rng: np.random.Generator) -> Update:
        return replace(update, arrays=clipped(update.arrays, limit))

    return Transform("clip", apply, Stage.CLIP, bound=limit)


def checked_norm(name: str, value: object) -> float:
    """A number above 0, which may be infinite; raises `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{name}: norm is {value!r}; it must be a number above 0")
    return float(min(value, math.inf if isinstance(value, float) else 2**1000))


def clipped(arrays: Arrays, limit: Bound) -> Arrays:
    """The change, scaled so that its norm is at most C; the same arrays where it is already."""
    length = norm(arrays, limit.order)
    if not limit.norm < length < math.inf:
        return arrays
    factor = limit.norm / length
    while True:
        scaled = map_floating(lambda array: array * array.dtype.type(factor), arrays)  # noqa: B023 - called at once
        if norm(scaled, limit.order) <= limit.norm:
            return scaled
        factor *= _SHRINK
