"""Inner products of updates, exact: the geometry that Krum, geometric medians and similarity rules need, and no more.

A value is counted in quanta, rint(Δ/q) with the q of its tensor (`aggregators.mean`), an integer v with |v| < 2^62. It
is cut into limbs, v = Σ_k l_k 2^(20k) with |l_k| ≤ 2^19. Products of limbs are below 2^38, and 2^13 of them are below
2^51, so that a matrix product in float64 of 2^13 coordinates is exact in whatever order its library adds. What blocks
add up to is kept in integers. So ⟨Δ_i, Δ_j⟩ depends neither on the machine nor on its threads, and equal updates have
the distance 0.

Only floating tensors are in the geometry: a counter of batches would outweigh every weight of a model.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.aggregators.spooled import Member, SpoolPlan, pieces
from hansa.arrays import Array

__all__ = ["Gram", "Tile", "cosines", "distance", "distances_to", "gram_of", "inner_products"]

_LIMB = 20
"""Bits; a limb and its sign have so many."""

_COORDINATES = 2**13
"""In one matrix product."""

_SLICE = 2**19
"""Values of all clients together that are held in float64 at once, of each limb."""

_TILE = 64
"""Members on one side of a square of inner products."""

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
        return _cosine(self.products[i][j], self.products[i][i], self.products[j][j])

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
    return inner_products(_floating(plan, [member.row for member in members]), len(members), plan.sums.limit)


class Tile(NamedTuple):
    """cos(Δ_i, Δ_j) for i and j in two ranges of the members, float64 of shape (rows, columns)."""

    rows: range
    columns: range
    cosines: npt.NDArray[np.float64]


def cosines(plan: SpoolPlan, members: Sequence[Member]) -> Iterator[Tile]:
    """Of all pairs i ≤ j, a square of them at a time: memory does not grow with the members."""
    starts = range(0, len(members), _TILE)
    ranges = [range(start, min(start + _TILE, len(members))) for start in starts]
    limit = plan.sums.limit
    squares = [_summed(_with_itself(_floating(plan, [row])), (1, 1), limit)[0][0][0] for _, _, row in members]
    for at, rows in enumerate(ranges):
        for columns in ranges[at:]:
            left, right = (_floating(plan, [members[i].row for i in ids]) for ids in (rows, columns))
            parts = ((exponent, flats, others) for (exponent, flats), (_, others) in zip(left, right, strict=True))
            products, _ = _summed(parts, (len(rows), len(columns)), limit)
            found = [
                [_cosine(product, squares[i], squares[j]) for j, product in zip(columns, row, strict=True)]
                for i, row in zip(rows, products, strict=True)
            ]
            yield Tile(rows, columns, np.array(found))


def distance(plan: SpoolPlan, row: Array, other: Array) -> float:
    """‖Δ − v‖ of two rows, from whole quanta of their difference."""
    differences = (
        (exponent, [np.subtract(mine[start : start + _SLICE], theirs[start : start + _SLICE], dtype=np.float64)])
        for exponent, (mine, theirs) in _floating(plan, [row, other])
        for start in range(0, mine.size, _SLICE)
    )
    return inner_products(differences, 1, 2 * plan.sums.limit).norm(0)


def inner_products(parts: Iterable[tuple[int, Sequence[Array]]], count: int, limit: int) -> Gram:
    """The inner products of `count` vectors, which come in parts: (exponent of the quantum, a flat array of each).

    limit: the largest magnitude of a value in quanta.
    """
    return Gram(*_summed(_with_itself(parts), (count, count), limit))


def _cosine(product: int, mine: int, theirs: int) -> float:
    if not mine or not theirs:
        return 0.0
    # Times 2^64, so that what the whole root leaves out does not matter; equal updates have exactly 1.
    return (product << 64) / math.isqrt(mine * theirs << 128)


_Pairs: TypeAlias = Iterable[tuple[int, Sequence[Array], Sequence[Array]]]
"""(exponent of the quantum, a flat array of each on the left, and of each on the right)."""


def _with_itself(parts: Iterable[tuple[int, Sequence[Array]]]) -> _Pairs:
    return ((exponent, flats, flats) for exponent, flats in parts)


def _floating(plan: SpoolPlan, rows: Sequence[Array]) -> Iterator[tuple[int, list[Array]]]:
    """The floating groups of each row."""
    return ((group.exponent, pieces(group, rows)) for group in plan.groups if group.dtype.kind == "f")


def _summed(parts: _Pairs, shape: tuple[int, int], limit: int) -> tuple[tuple[tuple[int, ...], ...], int]:
    """(the products of all on the left with all on the right, the exponent of what they count)."""
    limbs = 1
    while limit > 2 ** (_LIMB * limbs - 1) - 2 ** (_LIMB * (limbs - 1)):
        limbs += 1
    sums: dict[int, _Integers] = {}
    for exponent, left, right in parts:
        scaled = _products(left, right, math.ldexp(1.0, -exponent), limbs)
        sums[exponent] = sums[exponent] + scaled if exponent in sums else scaled
    finest = min(sums, default=0)
    total: _Integers = np.zeros(shape, object)
    for exponent, products in sums.items():
        total = total + products * 4 ** (exponent - finest)
    return tuple(tuple(row) for row in total.tolist()), 2 * finest


def _products(left: Sequence[Array], right: Sequence[Array], inverse: float, limbs: int) -> _Integers:
    """Of one part, in squares of its quantum; of the same arrays on both sides, each product of limbs once."""
    shape, size = (len(left), len(right)), left[0].size if left else 0
    width = min(_COORDINATES, max(1, _SLICE // max(1, *shape)), size)
    mine = _Limbs(left, inverse, limbs, width)
    theirs = mine if right is left else _Limbs(right, inverse, limbs, width)
    total: _Integers = np.zeros(shape, object)
    held = np.zeros((2 * limbs - 1, *shape), np.int64)
    for block, start in enumerate(range(0, size, max(1, width)), 1):
        a = mine.at(start)
        b = a if theirs is mine else theirs.at(start)
        for low in range(limbs):
            for high in range(low if a is b else 0, limbs):
                product = a[low] @ b[high].T
                held[low + high] += (product if low == high or a is not b else product + product.T).astype(np.int64)
        if block % _MANY == 0:
            total, held = total + _joined(held), np.zeros_like(held)
    return total + _joined(held)


class _Limbs:
    """Slices of arrays, cut into limbs in the same room again and again."""

    def __init__(self, flats: Sequence[Array], inverse: float, limbs: int, width: int) -> None:
        self._flats, self._inverse, self._width = flats, inverse, width
        self._values, self._cut = np.empty((len(flats), width)), np.empty((limbs, len(flats), width))

    def at(self, start: int) -> npt.NDArray[np.float64]:
        """The limbs of the slice that begins there, shape (limbs, arrays, length)."""
        length = min(self._width, self._flats[0].size - start)
        for row, flat in zip(self._values, self._flats, strict=True):
            np.multiply(flat[start : start + length], self._inverse, out=row[:length], dtype=np.float64)
        _cut(self._values[:, :length], self._cut[:, :, :length])
        return self._cut[:, :, :length]


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
