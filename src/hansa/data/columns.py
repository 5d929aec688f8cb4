"""What the columns of a table mean, whatever its format: which are inputs, which is the target, and as what numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hansa.arrays import Array
from hansa.data.examples import Examples
from hansa.errors import InputError

__all__ = ["Columns", "values_of"]

_MISSING = frozenset({"", "?", "NA"})
"""Cells without a value."""
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Columns:
    """Inputs are float32, one column each, or one for each category; targets are int64 classes, or float32 numbers.

    Nothing is guessed from the values, which would differ from owner to owner: text without its categories, a cell
    without a value and a broken number for a class are errors that name the column and the cell.
    """

    target: str
    """The column of the targets."""
    features: Sequence[str] | None = None
    """The columns of the inputs, in this order; None: all others, in the table's order."""
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Column → its values, for text inputs: column k of its one-hot is 1 where the cell is the k-th of them."""
    classes: Sequence[str] | None = None
    """The values of a text target: the class is the number of the cell's value among them."""
    regression: bool = False
    """Targets are any numbers, float32; else whole numbers, int64."""
    missing: float | None = None
    """What takes the place of a cell that is empty, `?` or `NA` among the inputs; None: such a cell is an error."""

    def __post_init__(self) -> None:
        """Refuse one text in the place of several, whose letters would be names."""
        several = {"features": self.features, "classes": self.classes} | {
            f"categories[{name!r}]": values for name, values in self.categories.items()
        }
        for name, given in several.items():
            if isinstance(given, str):
                raise InputError(f"{name} is {given!r}; it must be a list, for example [{given!r}]")
            if given is not None and len({str(each) for each in given}) < len(given):
                raise InputError(f"{name} is {list(given)!r}, which has one of them twice")
        if self.target in (self.features or ()):
            raise InputError(f"the target {self.target!r} is among the features, from which it is to be learnt")
        if self.missing is not None and not _is_number(self.missing):
            raise InputError(f"missing is {self.missing!r}; it must be a finite number, or None")

    def inputs(self, header: Sequence[str], where: str, besides: Sequence[str | None] = ()) -> list[str]:
        """The columns that are inputs; besides: columns that are something else. Raises where one is not there."""
        twice = [name for k, name in enumerate(header) if name in header[:k]]
        if twice:
            raise InputError(f"{where} has two columns {twice[0]!r}; rename one of them")
        chosen = self.features
        if chosen is None:
            chosen = [name for name in header if name != self.target and name not in besides]
        for name in (self.target, *chosen, *self.categories, *(b for b in besides if b is not None)):
            if name not in header:
                raise InputError(f"{where} has no column {name!r}; it has {', '.join(header)}")
        if not chosen:
            raise InputError(f"{where} has no column for the inputs beside the target {self.target!r}")
        return list(chosen)

    def examples(self, table: Mapping[str, Array], inputs: Sequence[str], where: str) -> Examples:
        """Inputs float32 of shape (n, columns) and targets of shape (n,).

        table: column → its cells, numbers, or objects that are `str`, or None where there is no value.
        """
        count = len(table[self.target])
        if not count:
            raise InputError(f"{where} has no rows")
        made = [self._input(table[name], name, where) for name in inputs]
        return Examples(np.concatenate(made, axis=1).reshape(count, -1), self._target(table[self.target], where))

    def _input(self, cells: Array, name: str, where: str) -> Array:
        if name in self.categories:
            return np.eye(len(self.categories[name]), dtype=np.float32)[
                values_of(cells, self.categories[name], f"{where}, column {name!r}")
            ]
        numbers = _numbers(cells, f"{where}, column {name!r}", self.missing, f"categories={{{name!r}: […]}}")
        return _narrowed(numbers, f"{where}, column {name!r}")[:, None]

    def _target(self, cells: Array, where: str) -> Array:
        what = f"{where}, column {self.target!r}"
        if self.classes is not None:
            return values_of(cells, self.classes, what)
        numbers = _numbers(cells, what, None, "classes=[…]")
        if self.regression:
            return _narrowed(numbers, what)
        whole = np.abs(numbers) < 2**53
        if not np.all(whole & (numbers == np.trunc(numbers))):
            broken = numbers[~(whole & (numbers == np.trunc(numbers)))][0]
            raise InputError(f"{what} has {broken:g}, no whole number for a class; for numbers give regression=True")
        return numbers.astype(np.int64)


def values_of(cells: Array, known: Sequence[str], what: str) -> Array:
    """The number of each cell's value among those that are known, int64 of shape (n,)."""
    places = {str(value): place for place, value in enumerate(known)}
    texts = [_text(cell) for cell in cells.tolist()]
    unknown = next((text for text in texts if text not in places), None)
    if unknown is not None:
        raise InputError(f"{what} has {unknown!r}, which is none of {', '.join(map(repr, places))}")
    return np.array([places[text] for text in texts], np.int64)


def _numbers(cells: Array, what: str, missing: float | None, remedy: str) -> Array:
    if cells.dtype.kind in "biuf":
        numbers = cells.astype(np.float64)
        gone = np.isnan(numbers)
    else:
        texts = [_text(cell) for cell in cells.tolist()]
        gone = np.array([text in _MISSING for text in texts], bool)
        try:
            numbers = np.array([0.0 if text in _MISSING else float(text) for text in texts], np.float64)
        except ValueError as error:
            raise InputError(f"{what}: {error}; give {remedy}, or leave the column out") from error
    if gone.any() and missing is None:
        raise InputError(f"{what} lacks a value in {int(gone.sum())} of {len(cells)} rows; fill it, or give missing=")
    numbers = np.where(gone, missing if missing is not None else 0.0, numbers)
    if not np.isfinite(numbers).all():
        raise InputError(f"{what} has a number that is not finite; give numbers")
    return numbers


def _narrowed(numbers: Array, what: str) -> Array:
    """Numbers as float32, in which 1e39 would be infinite."""
    beyond = numbers[np.abs(numbers) > _LARGEST]
    if beyond.size:
        raise InputError(f"{what} has {beyond[0]:g}, which float32 cannot hold; choose a larger unit")
    return numbers.astype(np.float32)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def _text(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None else str(cell).strip()
