"""Noise from a key: a cipher's stream of bits, and from it normal and Laplace numbers that are rounded to a grid.

Whoever sees noise, because it knows a coordinate of what was under it, must not be able to tell the rest: the bits are
the output of BLAKE3 under a key of 32 bytes, not of a generator whose state can be computed from what it has drawn.

Noise is a whole number of grid steps, and so is what it is added to. A value and its noise are then added without any
rounding that depends on the value, which is what Mironov ("On Significance of the Least Significant Bits For
Differential Privacy", CCS 2012) reads in the last bits of naive floating-point noise. What is released is a normal
(Laplace) number plus a whole number, rounded: a function of the textbook mechanism's result, and as private as that.

What is not claimed: that the drawn numbers are normal to the last bit. They are computed in float64 from 64 random
bits, so a grid point's probability is off by some 2^-53 · σ/step relatively, normal numbers end at 9.4 σ (beyond which
the mass is below 10^-20) and Laplace numbers at 44 b. Nor is it claimed that drawing takes a time that says nothing.
"""

import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from blake3 import blake3

__all__ = ["BLOCK", "KEY", "Stream"]

KEY = 32
"""Bytes of a key."""

BLOCK = 64 * 1024
"""Numbers drawn at once."""

_WORD = 8
_LABEL = b"hansa noise 1"

Reals: TypeAlias = npt.NDArray[np.float64]


class Stream:
    """Numbers in a row; the same key gives the same ones."""

    def __init__(self, key: bytes) -> None:
        """key: `KEY` bytes."""
        self._hasher = blake3(_LABEL, key=key)
        self._position = 0

    def normal(self, count: int) -> Reals:
        """So many from N(0, 1), by Box and Muller 1958."""
        half = (count + 1) // 2
        radius = np.sqrt(-2 * np.log(self._uniform(half)))
        angle = 2 * math.pi * self._uniform(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def laplace(self, count: int) -> Reals:
        """So many with the density exp(−|x|)/2."""
        words = self._words(count)
        sign = np.where(words & np.uint64(1), 1.0, -1.0)
        return np.asarray(-np.log(_unit(words | np.uint64(1))) * sign)

    def blocks(self, distribution: str, count: int) -> Iterator[tuple[slice, Reals]]:
        """`count` numbers of a distribution, normal or laplace, in blocks, each with its place."""
        draw = {"gaussian": self.normal, "laplace": self.laplace}[distribution]
        for start in range(0, count, BLOCK):
            place = slice(start, min(start + BLOCK, count))
            yield place, draw(place.stop - place.start)

    def _uniform(self, count: int) -> Reals:
        return _unit(self._words(count))

    def _words(self, count: int) -> npt.NDArray[np.uint64]:
        data = self._hasher.digest(length=_WORD * count, seek=self._position)
        self._position += _WORD * count
        return np.frombuffer(data, "<u8")


def _unit(words: npt.NDArray[np.uint64]) -> Reals:
    """Above 0 and at most 1."""
    return np.asarray((words.astype(np.float64) + 1.0) * 2.0**-64)
