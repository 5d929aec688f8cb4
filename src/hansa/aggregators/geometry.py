"""Inner products of updates, exact: the geometry that Krum, geometric medians and similarity rules need, and no more.

A value is counted in quanta, rint(Δ/q) with the q of its tensor (`aggregators.mean`), an integer v with |v| < 2^62. It
is cut into limbs, v = Σ_k l_k 2^(20k) with |l_k| ≤ 2^19. Products of limbs are below 2^38, and 2^13 of them are below
2^51, so that a matrix product in float64 of 2^13 coordinates is exact in whatever order its library adds. What blocks
add up to is kept in integers. So ⟨Δ_i, Δ_j⟩ depends neither on the machine nor on its threads, and equal updates have
the distance 0.

Only floating tensors are in the geometry: a counter of batches would outweigh every weight of a model.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.aggregators.spooled import Member, SpoolPlan, pieces
from hansa.arrays import Array

__all__ = ["Gram", "distances_to", "gram_of", "inner_products"]

_LIMB = 20
"""Bits; a limb and its sign have so many."""

_COORDINATES = 2**13
"""In one matrix product."""

_SLICE = 2**19
"""Values of all clients together that are held in float64 at once, of each limb."""

_MANY = 1000
"""Matrix products that an int64 can add: each has entries below 2^52."""

_Integers: TypeAlias = npt.NDArray[Any]
"""An object array of Python's integers, which do not overflow."""


@dataclass(frozen=True, slots=True)
class Gram:
    """⟨Δ_i, Δ_j⟩ for all i and j, as integers times 2^exponent."""

    products: tuple[tuple[int, ...], ...]
    exponent: int

    def __len__(self) -> int:
        """How many updates."""
        return len(self.products)

    def square(self, i: int, j: int) -> int:
        """‖Δ_i − Δ_j‖², exact, in units of 2^exponent."""
        return self.products[i][i] + self.products[j][j] - 2 * self.products[i][j]

    def product(self, i: int, j: int) -> float:
        """⟨Δ_i, Δ_j⟩, rounded."""
        return self._rounded(self.products[i][j])

    def norm(self, i: int) -> float:
        """‖Δ_i‖."""
        return math.sqrt(self.product(i, i))

    def cosine(self, i: int, j: int) -> float:
        """cos(Δ_i, Δ_j); 0 where one of them is 0."""
        mine, theirs = self.products[i][i], self.products[j][j]
        if not mine or not theirs:
            return 0.0
        # Times 2^64, so that what the whole root leaves out does not matter; equal updates have exactly 1.
        return (self.products[i][j] << 64) / math.isqrt(mine * theirs << 128)

    def squares(self, *, origin: bool = False) -> list[list[float]]:
        """‖Δ_i − Δ_j‖² for all i and j; origin: with one more point, the last, at 0."""
        count = range(len(self))
        table = [[self._rounded(self.square(i, j)) for j in count] for i in count]
        if origin:
            norms = [self.product(i, i) for i in count]
            table = [[*row, norm] for row, norm in zip(table, norms, strict=True)] + [[*norms, 0.0]]
        return table

    def _rounded(self, number: int) -> float:
        excess = max(0, number.bit_length() - 1000)
        try:
            return math.ldexp(float(number >> excess), self.exponent + excess)
        except OverflowError:
            return math.copysign(math.inf, number)


def distances_to(coefficients: Sequence[float], squares: Sequence[Sequence[float]]) -> list[float]:
    """‖z − x_i‖ of each point x_i from z = Σ c_j x_j with Σ c_j = 1, from the squares of the points' distances.

    ‖z − x_i‖² = Σ_j c_j d_ij² − ½ Σ_jk c_j c_k d_jk²; sums are rounded once (`math.fsum`), on every machine alike.
    """
    towards = [math.fsum(c * square for c, square in zip(coefficients, row, strict=True)) for row in squares]
    spread = math.fsum(c * toward for c, toward in zip(coefficients, towards, strict=True)) / 2
    return [math.sqrt(max(0.0, toward - spread)) for toward in towards]


def gram_of(plan: SpoolPlan, members: Sequence[Member]) -> Gram:
    """The inner products of the members' floating tensors."""
    rows = [member.row for member in members]
    floating = [group for group in plan.groups if group.dtype.kind == "f"]
    return inner_products(((group.exponent, pieces(group, rows)) for group in floating), len(rows), plan.sums.limit)


def inner_products(parts: Iterable[tuple[int, Sequence[Array]]], count: int, limit: int) -> Gram:
    """The inner products of `count` vectors, which come in parts: (exponent of the quantum, a flat array of each).

    limit: the largest magnitude of a value in quanta.
    """
    limbs = 1
    while limit > 2 ** (_LIMB * limbs - 1) - 2 ** (_LIMB * (limbs - 1)):
        limbs += 1
    sums: dict[int, _Integers] = {}
    for exponent, flats in parts:
        scaled = _products(flats, math.ldexp(1.0, -exponent), limbs)
        sums[exponent] = sums[exponent] + scaled if exponent in sums else scaled
    finest = min(sums, default=0)
    total: _Integers = np.zeros((count, count), object)
    for exponent, products in sums.items():
        total = total + products * 4 ** (exponent - finest)
    return Gram(tuple(tuple(row) for row in total.tolist()), 2 * finest)


def _products(flats: Sequence[Array], inverse: float, limbs: int) -> _Integers:
    """Of one part, in squares of its quantum."""
    count, size = len(flats), flats[0].size if flats else 0
    total: _Integers = np.zeros((count, count), object)
    width = min(_COORDINATES, max(1, _SLICE // max(1, count)), size)
    values, cut = np.empty((count, width)), np.empty((limbs, count, width))
    held = np.zeros((2 * limbs - 1, count, count), np.int64)
    for block, start in enumerate(range(0, size, max(1, width)), 1):
        length = min(width, size - start)
        for row, flat in zip(values, flats, strict=True):
            np.multiply(flat[start : start + length], inverse, out=row[:length], dtype=np.float64)
        _cut(values[:, :length], cut[:, :, :length])
        for low in range(limbs):
            for high in range(low, limbs):
                product = cut[low, :, :length] @ cut[high, :, :length].T
                held[low + high] += (product if low == high else product + product.T).astype(np.int64)
        if block % _MANY == 0:
            total, held = total + _joined(held), np.zeros_like(held)
    return total + _joined(held)


def _cut(values: npt.NDArray[np.float64], out: npt.NDArray[np.float64]) -> None:
    """Whole numbers into limbs, all of it exact: the last limb takes what is left. values: changed."""
    np.rint(values, out=values)
    for limb in out[:-1]:
        np.multiply(values, 2.0**-_LIMB, out=limb)
        np.rint(limb, out=limb)
        np.multiply(limb, 2.0**_LIMB, out=limb)
        np.subtract(values, limb, out=limb)  # the lowest 20 bits, between -2^19 and 2^19
        np.subtract(values, limb, out=values)
        np.multiply(values, 2.0**-_LIMB, out=values)
    np.copyto(out[-1], values)


def _joined(held: npt.NDArray[np.int64]) -> _Integers:
    total: _Integers = np.zeros(held.shape[1:], object)
    for power, part in enumerate(held):
        total = total + part.astype(object) * 2 ** (_LIMB * power)
    return total
