"""Sums over all examples of all clients without any rounding: how the examples are shared out cannot change a bit.

A number is cut into digits of 16 bits, x = Σ_p d_p · 2^(16p), which are summed each for itself; what is more than a
digit is carried to the next. A client sends the digits of its sum; the exact sum of the aggregator adds them up, and
its mean times the number of clients is the digit of the total, which is a whole number. So the total is that of the
joined examples, and not of any order or grouping of them: what `math.fsum` computes.

Kulisch: "Computer Arithmetic and Validity", 2nd edition, 2013, chapter 8, keeps a sum of floating-point numbers like
this; Dekker: "A Floating-Point Technique for Extending the Available Precision", 1971, splits a product into two.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.aggregators.mean import unweighted
from hansa.algorithm import Aggregator
from hansa.arrays import Arrays
from hansa.errors import ConfigError, InputError

__all__ = ["COUNTS", "NUMBERS", "STEPS", "Floats", "Places", "Totals", "product", "summing"]

Floats: TypeAlias = npt.NDArray[np.float64]

Totals: TypeAlias = npt.NDArray[Any]
"""Python's integers, of any size."""

_BITS = 16
_BASE = 2.0**_BITS

_SPLITTER = 2.0**27 + 1
"""Dekker's, for float64."""


@dataclass(frozen=True, slots=True)
class Places:
    """Which digits travel: sums of multiples of 2^(16·lowest), less than 2^(16·(highest + 1)) in magnitude."""

    lowest: int
    highest: int

    @property
    def digits(self) -> int:
        """How many."""
        return self.highest - self.lowest + 1

    def room(self, *shape: int) -> Floats:
        """What is broadcast in the place of sums of this shape: it tells the aggregator how large a digit may be."""
        return np.full((*shape, self.digits), _BASE)

    def summed(self, values: Floats, total: Callable[[Floats], Floats], *shape: int) -> Floats:
        """The digits of `total(values)`, shape (*shape, digits).

        total: adds up some of the values, without any rounding as long as they are whole and their sums below 2^53, for
        example `lambda digit: digit.sum(axis=0)`. What is finer than the lowest place is cut off from each value.
        """
        digits = np.zeros((*shape, self.digits))
        for place, digit in self._digits(values):
            digits[..., place - self.lowest] += total(digit)
        for place in range(self.digits - 1):
            carry = np.trunc(digits[..., place] / _BASE)
            digits[..., place] -= carry * _BASE
            digits[..., place + 1] += carry
        if np.abs(digits[..., -1]).max(initial=0) >= _BASE:
            raise self._too_large()
        return digits

    def totals(self, mean: Floats, clients: int) -> Totals:
        """What the clients sent, together, in units of 2^(16·lowest); mean: of their digits, clients counting alike."""
        whole = np.rint(mean * clients).astype(np.int64).astype(object)
        values = np.array([1 << (_BITS * place) for place in range(self.digits)], dtype=object)
        return np.asarray((whole * values).sum(axis=-1), dtype=object)

    def floats(self, mean: Floats, clients: int) -> Floats:
        """The same as numbers, each rounded once."""
        return np.asarray(np.ldexp(self.totals(mean, clients).astype(np.float64), _BITS * self.lowest))

    def _digits(self, values: Floats) -> Iterator[tuple[int, Floats]]:
        """(place, the digit of each value there), from the highest that is not 0 until nothing is left."""
        rest = np.asarray(values, np.float64)
        _, exponent = np.frexp(np.abs(rest).max(initial=0.0))
        place = (int(exponent) - 1) // _BITS
        if place > self.highest:
            raise self._too_large()
        while place >= self.lowest and rest.any():
            digit = np.trunc(np.ldexp(rest, -_BITS * place))
            rest = rest - np.ldexp(digit, _BITS * place)
            yield place, digit
            place -= 1

    def _too_large(self) -> InputError:
        return InputError(
            f"a number, or a sum over a client's examples, is 2^{_BITS * (self.highest + 1)} or more in magnitude: "
            "check the data, or choose a larger unit"
        )


COUNTS = Places(0, 2)
"""Of examples: below 2^48."""

NUMBERS = Places(-20, 10)
"""Numbers of 53 bits from 2^-100 to 2^64 and their products, without any rounding: 31 digits."""

STEPS = Places(-2, 1)
"""Multiples of 2^-32, whose sums are below 2^32."""


def product(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """(p, e): p + e = x·y without any rounding, p the nearest float64, where nothing over- or underflows."""
    p = x * y
    (a, b), (c, d) = _split(x), _split(y)
    return p, ((a * c - p) + a * d + b * c) + b * d


def summing(algorithm: str, aggregator: Aggregator, *places: Places) -> Aggregator:
    """The aggregator with clients that count alike; a `ConfigError` where it would round digits."""
    uniform = unweighted(aggregator)
    quanta = getattr(uniform, "quanta", None)
    if quanta is not None:
        room = Arrays({str(number): each.room() for number, each in enumerate(places)})
        coarse = max(quanta(uniform.plan(room)).values())
        if coarse > 1:
            raise ConfigError(
                f"{algorithm} sums whole numbers, and the settings of this run round to {coarse:g}: lower max_weight "
                "(clients count alike here) or range_bits"
            )
    return uniform


def _split(x: Floats) -> tuple[Floats, Floats]:
    """Two numbers of 26 bits whose sum is x."""
    scaled = _SPLITTER * x
    high = scaled - (scaled - x)
    return high, x - high
