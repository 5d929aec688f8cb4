"""Aggregators that must see every update: a partial keeps one row of bytes for each client, and `report` reads them.

A row holds the change as it was sent, its tensors packed in the order of the plan. A runtime keeps the rows on disk
(`hansa.store.spool`); the aggregator only ever asks for slices of all rows, so that memory holds one slice of every
client and the result.

What is reported depends on the set of rows alone, to the bit, on every machine: members are sorted by name, sums over
clients are added in that order, value by value in float64, and sums over coordinates, where the order of additions is a
library's affair, are exact integers (`hansa.aggregators.geometry`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hansa.aggregators.fixed_point import (
    SumPlan,
    check_announced,
    check_arrays,
    check_new,
    check_settings,
    check_total,
    check_update,
    planned,
    rounded_quotient,
)
from hansa.algorithm import Aggregate, Partial, Shape
from hansa.arrays import DTYPES, Array, Arrays
from hansa.errors import ConfigError, QuorumNotMetError, Reason, UpdateRejectedError
from hansa.messages import Contribution, Update

__all__ = [
    "Combination",
    "Group",
    "Member",
    "Place",
    "Reduce",
    "SpoolPlan",
    "Spooled",
    "by_column",
    "combined",
    "mean_of_rows",
    "pieces",
    "row_of",
    "spooled",
]

_SLICE = 2**19
"""Values of all clients together that a slice has: 4 MiB in float64, however many clients there are."""

_ALIGNMENT = 8
"""Bytes; a row is a multiple of it, so that each row of a file that begins aligned is aligned."""


class Place(NamedTuple):
    """Where a tensor is in a row."""

    start: int
    """Its first byte."""
    stop: int


class Group(NamedTuple):
    """Tensors that lie next to each other in a row, and have one dtype and one quantum."""

    dtype: np.dtype[Any]
    exponent: int
    """The quantum is 2^exponent."""
    start: int
    """The first byte."""
    stop: int


@dataclass(frozen=True, slots=True)
class SpoolPlan:
    """How a round's updates are kept; the same on every server that has the broadcast model."""

    sums: SumPlan
    """What may be counted, and the quanta."""
    places: Mapping[str, Place]
    groups: tuple[Group, ...]
    size: int
    """Bytes of a row."""


class Member(NamedTuple):
    """One client of a round that is reported."""

    client: str
    weight: int
    """Its examples; 1 where clients count alike."""
    row: Array
    """Bytes, uint8 of shape (size,)."""


class Combination(NamedTuple):
    """Σ c_i Δ_i / total; zero where total is 0."""

    coefficients: Sequence[float]
    """c_i, one for each member."""
    total: float


Reduce: TypeAlias = Callable[[SpoolPlan, Sequence[Member]], Arrays]
"""(plan, members by name) → what the round changes, in the structure of a change."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """An `Aggregator` that keeps each update until the report; `spooled` makes one."""

    rule: str
    """Its name, for messages."""
    shape: Shape
    reduce: Reduce
    least: int
    needs: str
    """What it takes to report, as the object of a sentence, for example "n > 2f + 2 updates, with f = 1"."""
    max_weight: int
    range_bits: int
    uniform: bool = True
    """Whether every client counts as 1, and not by its examples."""

    def plan(self, template: Arrays) -> SpoolPlan:
        """Quanta, limits and places for updates of the template's structure."""
        sums = planned(template, self.max_weight, self.range_bits)
        # By size of a value first: then every tensor of a row is aligned.
        key = {
            name: (-tensor.dtype.itemsize, tensor.dtype.str, tensor.exponent) for name, tensor in sums.tensors.items()
        }
        places: dict[str, Place] = {}
        groups: list[Group] = []
        end = 0
        for (_, _, exponent), names in groupby(sorted(key, key=lambda name: key[name]), key=lambda name: key[name]):
            start = end
            for name in names:
                tensor = sums.tensors[name]
                places[name] = Place(end, end + math.prod(tensor.shape) * tensor.dtype.itemsize)
                end = places[name].stop
            groups.append(Group(sums.tensors[name].dtype, exponent, start, end))
        return SpoolPlan(sums, places, tuple(groups), end + -end % _ALIGNMENT)

    def zero(self, plan: SpoolPlan) -> Partial:
        """No rows."""
        del plan
        return Partial({})

    def check(self, plan: SpoolPlan, update: Update) -> None:
        """Structure, weight, finiteness and range, as the mean's."""
        check_update(plan.sums, update)

    def accumulate(self, plan: SpoolPlan, partial: Partial, update: Update, contribution: Contribution) -> Partial:
        """Keep one update; `partial` is changed and returned, or left alone on an error."""
        check_new(partial, (contribution.client,))
        check_announced(update, contribution)
        self.check(plan, update)
        weight = 1 if self.uniform else update.num_examples
        check_total(plan.sums, partial.weight + weight)
        partial.sums[contribution.client] = row_of(plan, update.arrays)
        partial.weight += weight
        partial.contributions[contribution.client] = contribution
        return partial

    def merge(self, plan: SpoolPlan, left: Partial, right: Partial) -> Partial:
        """Keep the rows of another server too; `left` is changed and returned, or left alone on an error."""
        check_new(left, right.contributions)
        self._check_partial(plan, right)
        check_total(plan.sums, left.weight + right.weight)
        for client in sorted(right.contributions):
            left.sums[client] = right.sums[client]
        left.weight += right.weight
        left.contributions.update(right.contributions)
        return left

    def kept(self, plan: SpoolPlan, partial: Partial, client: str) -> Arrays:
        """The change of one client, as views of its row; raises `UpdateRejectedError` where that is none."""
        row = partial.sums.get(client)
        if row is None or row.shape != (plan.size,) or row.dtype != DTYPES["U8"]:
            raise UpdateRejectedError(Reason.STRUCTURE, f"{client} has no row of {plan.size} bytes in a partial")
        return _unpacked(plan, row)

    def report(self, plan: SpoolPlan, partial: Partial) -> Aggregate:
        """What the rule makes of the rows; raises `QuorumNotMetError` for fewer than `least`."""
        ordered = dict(sorted(partial.contributions.items()))
        if not ordered:
            raise UpdateRejectedError(Reason.WEIGHT, f"nothing was kept: {self.rule} needs at least one contribution")
        if len(ordered) < self.least:
            raise QuorumNotMetError(
                f"{len(ordered)} updates count in this round, and {self.rule} needs {self.needs}: at least "
                f"{self.least}. Invite more clients, or set `quorum` to {self.least} so that no round closes with fewer"
            )
        members = [
            Member(client, 1 if self.uniform else part.num_examples, partial.sums[client])
            for client, part in ordered.items()
        ]
        with np.errstate(over="ignore"):  # beyond the range of the dtype is infinity, and the next check names it
            return Aggregate(self.reduce(plan, members), partial.weight, ordered)

    def _check_partial(self, plan: SpoolPlan, partial: Partial) -> None:
        counts = [contribution.num_examples for contribution in partial.contributions.values()]
        weight = len(counts) if self.uniform else sum(counts)
        if partial.weight != weight or any(count < 1 for count in counts):
            raise UpdateRejectedError(
                Reason.WEIGHT, f"a partial claims the weight {partial.weight}, but its contributors have {weight}"
            )
        if set(partial.sums) - set(partial.contributions):
            raise UpdateRejectedError(Reason.STRUCTURE, "a partial has rows of others than its contributors")
        for client in partial.contributions:
            check_arrays(plan.sums, self.kept(plan, partial, client))


def spooled(
    rule: str,
    shape: Shape,
    reduce: Reduce,
    *,
    max_weight: int,
    range_bits: int,
    least: int = 1,
    needs: str = "an update",
    uniform: bool = True,
) -> Spooled:
    """An aggregator that keeps updates and reduces all of them at once; the fields are `Spooled`'s."""
    check_settings(max_weight, range_bits)
    if not isinstance(uniform, bool):
        raise ConfigError(f"{rule}: uniform is {uniform!r}; it must be true or false")
    return Spooled(rule, shape, reduce, least, needs, max_weight, range_bits, uniform)


def by_column(rule: Callable[[Array], Array]) -> Reduce:
    """Reduce one slice of coordinates at a time.

    rule: values of shape (clients, coordinates), by client's name, in the dtype of the change, which it may overwrite →
    one value for each coordinate, float64 for floating tensors (each is rounded once) and int64 for integers.
    """

    def reduce(plan: SpoolPlan, members: Sequence[Member]) -> Arrays:
        result = np.zeros(plan.size, np.uint8)
        width = max(1, _SLICE // len(members))
        for group in plan.groups:
            out, flats = pieces(group, [result])[0], pieces(group, [member.row for member in members])
            scratch = np.empty(len(members) * min(width, out.size), group.dtype)
            for start in range(0, out.size, width):
                count = min(width, out.size - start)
                values = scratch[: len(members) * count].reshape(len(members), count)
                for mine, flat in zip(values, flats, strict=True):
                    np.copyto(mine, flat[start : start + count])
                np.copyto(out[start : start + count], rule(values), casting="same_kind")
        return _unpacked(plan, result)

    return reduce


def mean_of_rows(values: Array) -> Array:
    """The mean over the first axis: rows are added one after another in float64; integers are exact, half to even."""
    total = np.zeros(values.shape[1:], np.float64 if values.dtype.kind == "f" else np.int64)
    for row in values:
        np.add(total, row, out=total)
    return total / len(values) if values.dtype.kind == "f" else rounded_quotient(total, len(values))


def combined(plan: SpoolPlan, members: Sequence[Member], combination: Combination) -> Arrays:
    """Σ c_i Δ_i / total, added in float64 in the order of the members, each value rounded once.

    Integers and bools are combined by the same coefficients, and rounded to the nearest, half to even.
    """
    result = np.zeros(plan.size, np.uint8)
    parts = [(c, member.row) for c, member in zip(combination.coefficients, members, strict=True) if c]
    if not parts or not combination.total:
        return _unpacked(plan, result)
    for group in plan.groups:
        out, flats = pieces(group, [result])[0], pieces(group, [row for _, row in parts])
        for start in range(0, out.size, _SLICE):
            block = out[start : start + _SLICE]
            total, term = np.zeros(block.size), np.empty(block.size)
            for (c, _), flat in zip(parts, flats, strict=True):
                np.multiply(flat[start : start + _SLICE], c, out=term, dtype=np.float64)
                np.add(total, term, out=total)
            np.divide(total, combination.total, out=total)
            if group.dtype.kind != "f":
                np.rint(total, out=total)
            np.copyto(block, total, casting="same_kind" if group.dtype.kind == "f" else "unsafe")
    return _unpacked(plan, result)


def pieces(group: Group, rows: Sequence[Array]) -> list[Array]:
    """A group of each row as a flat view in its dtype."""
    return [row[group.start : group.stop].view(group.dtype) for row in rows]


def row_of(plan: SpoolPlan, arrays: Arrays) -> Array:
    """A change as a row of bytes."""
    row = np.zeros(plan.size, np.uint8)
    for name, place in plan.places.items():
        array = arrays[name]
        np.copyto(row[place.start : place.stop].view(array.dtype), array.reshape(-1))
    return row


def _unpacked(plan: SpoolPlan, row: Array) -> Arrays:
    """The tensors, in the model's order, as views of the row."""
    return Arrays(
        {
            name: row[place.start : place.stop].view(tensor.dtype).reshape(tensor.shape)
            for name, tensor in plan.sums.tensors.items()
            for place in (plan.places[name],)
        }
    )
