"""Median and trimmed mean of each coordinate: whoever is extreme there is not heard, whatever its size.

    median:         w_k ← the middle of the n values of coordinate k, the mean of the middle two where n is even
    trimmed mean:   w_k ← the mean of what is left without the ⌊βn⌋ largest and the ⌊βn⌋ smallest

Yin, Chen, Ramchandran, Bartlett: "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018,
arXiv:1803.01498, Definitions 1 and 2. Every client counts alike: who lies about its update lies about its examples too.

What holds of every coordinate, whatever the f others send: the median lies between two honest values while 2f < n, the
trimmed mean while f ≤ ⌊βn⌋. Integers and bools follow the same rule, rounded half to even.
"""

from functools import partial

from hansa.aggregators.options import check_fraction
from hansa.aggregators.spooled import Spooled, by_column, mean_of_rows, spooled
from hansa.arrays import Array
from hansa.errors import ConfigError

__all__ = ["median", "middle", "trimmed", "trimmed_mean"]


def median(*, max_weight: int = 2**24, range_bits: int = 6) -> Spooled:
    """Median of each coordinate: the mean of the middle two where n is even. It has no options."""
    return spooled("median", "column", by_column(middle), max_weight=max_weight, range_bits=range_bits)


def trimmed_mean(*, max_weight: int = 2**24, range_bits: int = 6, beta: float = 0.2) -> Spooled:
    """Mean of each coordinate without the largest and the smallest ⌊βn⌋ values.

    beta: β, the share that is dropped at each end, at least that of the malicious clients, 0 ≤ β < 0.5.
    """
    check_fraction("trimmed-mean", "beta", beta)
    if beta >= 0.5:  # noqa: PLR2004 - at both ends
        raise ConfigError(f"trimmed-mean: beta is {beta!r}; it must be a number of at least 0 and below 0.5")
    rule = by_column(partial(trimmed, beta=beta))
    return spooled("trimmed-mean", "column", rule, max_weight=max_weight, range_bits=range_bits)


def middle(values: Array) -> Array:
    """The median over the first axis. values: changed."""
    count = len(values)
    low, high = (count - 1) // 2, count // 2
    values.partition((low, high), axis=0)
    return mean_of_rows(values[low : high + 1])


def trimmed(values: Array, *, beta: float) -> Array:
    """The mean over the first axis without ⌊βn⌋ at each end. values: changed."""
    drop = int(beta * len(values))
    values.sort(axis=0)
    return mean_of_rows(values[drop : len(values) - drop])
