"""How much an update counts that was trained on an older model: s(τ), τ the models made since.

    polynomial   (1 + τ)^-a
    hinge        1 up to τ = b, then 1 / (a(τ − b) + 1)
    constant     1

Xie, Koyejo, Gupta: "Asynchronous Federated Optimization", arXiv:1903.03934, section 5.2. s(0) is 1.
"""

from collections.abc import Callable

import numpy as np

from hansa.algorithms.options import check_not_negative, check_positive, check_whole
from hansa.arrays import Array, Arrays, is_floating
from hansa.errors import ConfigError

__all__ = ["check_max_staleness", "discount", "discounted", "moved"]

_STEPS = 2**24
"""s is a whole number of these parts of 1, so that mathematical libraries that differ in the last bit agree.

The product with a float32 is exact in float64, before it is rounded to float32 again.
"""


def discount(owner: str, staleness: str, a: float, b: int) -> Callable[[int], float]:
    """τ → s(τ), 0 ≤ s ≤ 1, a whole number of 2^-24. owner: the algorithm, for the error of a wrong option."""
    check_whole(owner, "b", b)
    match staleness:
        case "polynomial":
            check_not_negative(owner, "a", a)
            return lambda tau: round((1 + tau) ** -a * _STEPS) / _STEPS
        case "hinge":
            check_positive(owner, "a", a)
            return lambda tau: 1.0 if tau <= b else round(_STEPS / (a * (tau - b) + 1)) / _STEPS
        case "constant":
            return lambda _: 1.0
        case _:
            raise ConfigError(f"{owner}: staleness is {staleness!r}; there is: polynomial, hinge, constant")


def check_max_staleness(owner: str, value: object) -> None:
    """Raise `ConfigError` unless it is None or a whole number ≥ 0."""
    if value is not None:
        check_whole(owner, "max_staleness", value)


def discounted(change: Arrays, factor: float) -> Arrays:
    """factor · Δ of floating tensors, in float64 and rounded once; integers and bools as they are, as in FedAvg."""
    return change if factor == 1.0 else Arrays({name: _times(array, factor) for name, array in change.items()})


def moved(change: Arrays, base: Arrays, current: Arrays) -> Arrays:
    """(base + Δ) − current of floating tensors, in float64 and rounded once: from the current model to the trained one.

    Integers and bools as they are.
    """
    if base is current:
        return change
    return Arrays({name: _from(array, base[name], current[name]) for name, array in change.items()})


def _times(array: Array, factor: float) -> Array:
    if not is_floating(array):
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array.astype(np.float64) * factor).astype(array.dtype)


def _from(array: Array, base: Array, current: Array) -> Array:
    if not is_floating(array):
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.asarray(base.astype(np.float64) - current.astype(np.float64))
        return np.asarray(array.astype(np.float64) + apart).astype(array.dtype)
