"""The weighted mean over an exact integer sum, so that order, grouping, threads and retries cannot change a bit.

Each floating tensor gets a quantum q, a power of two, from the broadcast model alone. An update adds
n_i · rint(Δ_i / q) into int64; integers add n_i · Δ_i. Addition of integers is associative and commutative, and it
cannot overflow: |rint(Δ/q)| ≤ 2^62 / max_weight is checked before anything is added, and Σ n_i ≤ max_weight.

With s = 2^⌈log2 max(1, max|w|)⌉ of the tensor and the default max_weight = 2^24, range_bits = 6: q = 2^-32·s and
|Δ| ≤ 64·s. Doubling max_weight (or adding a range bit) doubles q.

Error of the mean against exact arithmetic on the updates: at most q/2 + 2^-51·|mean| before it is rounded to the
tensor's dtype (each Δ_i moves by at most q/2, a weighted mean of errors is no larger than the largest, then two
roundings of float64). Means of integers and bools are rounded half to even; a tie of bools keeps the old value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from hansa.aggregators.fixed_point import (
    BLOCK,
    SumPlan,
    TensorPlan,
    blocks,
    check_announced,
    check_new,
    check_settings,
    check_stacks,
    check_total,
    check_update,
    planned,
    rounded_quotient,
)
from hansa.algorithm import Aggregate, Aggregator, Partial, Shape
from hansa.arrays import DTYPES, Array, Arrays
from hansa.errors import ConfigError, Reason, UpdateRejectedError
from hansa.messages import Contribution, Update, Updates

__all__ = ["SumPlan", "TensorPlan", "WeightedMean", "unweighted"]


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """Σ n_i Δ_i / Σ n_i over the accepted updates; with `uniform`, every n_i counts as 1."""

    max_weight: int = 2**24
    """The largest Σ n_i, a power of two, at most 2^40."""
    range_bits: int = 6
    """|Δ| ≤ 2^range_bits · s, 0 ≤ range_bits ≤ 20."""
    uniform: bool = False
    shape: ClassVar[Shape] = "sum"
    least: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse settings that leave no precision."""
        check_settings(self.max_weight, self.range_bits)
        if not isinstance(self.uniform, bool):
            raise ConfigError(f"mean: uniform is {self.uniform!r}; it must be true or false")

    def plan(self, template: Arrays) -> SumPlan:
        """Quanta and limits for updates of the template's structure."""
        return planned(template, self.max_weight, self.range_bits)

    def zero(self, plan: SumPlan) -> Partial:
        """Sums of zero."""
        return Partial({name: np.zeros(tensor.shape, np.int64) for name, tensor in plan.tensors.items()})

    def check(self, plan: SumPlan, update: Update) -> None:
        """Structure, weight, finiteness and range; the reason names the tensor."""
        check_update(plan, update)

    def accumulate(self, plan: SumPlan, partial: Partial, update: Update, contribution: Contribution) -> Partial:
        """Add one update; `partial` is changed and returned, or left alone on an error."""
        check_new(partial, (contribution.client,))
        check_announced(update, contribution)
        self.check(plan, update)
        weight = 1 if self.uniform else update.num_examples
        check_total(plan, partial.weight + weight)
        for name, tensor in plan.tensors.items():
            _fold(partial.sums[name], update.arrays[name][np.newaxis], tensor, np.array([weight]), tensor.bound)
        partial.weight += weight
        partial.contributions[contribution.client] = contribution
        return partial

    def accumulate_all(
        self, plan: SumPlan, partial: Partial, updates: Updates, contributions: Sequence[Contribution]
    ) -> Partial:
        """`accumulate` of many at once, to the same bits; where one may not be counted, `partial` is left alone.

        For this class alone: one that is made of it may check each update in its own way.
        """
        check_new(partial, (contribution.client for contribution in contributions))
        largest = check_stacks(plan, updates)
        weights = np.ones(len(updates), np.int64) if self.uniform else np.array(updates.num_examples, np.int64)
        added = int(weights.sum())
        check_total(plan, partial.weight + added)
        for name, tensor in plan.tensors.items():
            _fold(partial.sums[name], updates.arrays[name], tensor, weights, largest[name])
        partial.weight += added
        partial.contributions.update((contribution.client, contribution) for contribution in contributions)
        return partial

    def merge(self, plan: SumPlan, left: Partial, right: Partial) -> Partial:
        """Add the sums of another server; `left` is changed and returned, or left alone on an error."""
        check_new(left, right.contributions)
        self._check_partial(plan, right)
        check_total(plan, left.weight + right.weight)
        for name, sums in left.sums.items():
            np.add(sums, right.sums[name], out=sums)
        left.weight += right.weight
        left.contributions.update(right.contributions)
        return left

    def report(self, plan: SumPlan, partial: Partial) -> Aggregate:
        """The mean in the dtypes of the changes."""
        if partial.weight < 1:
            raise UpdateRejectedError(Reason.WEIGHT, "nothing was summed: a mean needs at least one contribution")
        scratch, weight = _scratch(plan), partial.weight
        means = {name: _mean(partial.sums[name], tensor, weight, scratch) for name, tensor in plan.tensors.items()}
        ordered = dict(sorted(partial.contributions.items()))
        return Aggregate(Arrays(means), partial.weight, ordered)

    def quanta(self, plan: SumPlan) -> dict[str, float]:
        """2^exponent of each floating tensor."""
        return {name: math.ldexp(1.0, each.exponent) for name, each in plan.tensors.items() if each.dtype.kind == "f"}

    def _check_partial(self, plan: SumPlan, partial: Partial) -> None:
        counts = [contribution.num_examples for contribution in partial.contributions.values()]
        weight = len(counts) if self.uniform else sum(counts)
        if partial.weight != weight or any(count < 1 for count in counts):
            raise UpdateRejectedError(
                Reason.WEIGHT, f"a partial sum claims the weight {partial.weight}, but its contributors have {weight}"
            )
        if {name: (sums.shape, sums.dtype) for name, sums in partial.sums.items()} != {
            name: (tensor.shape, DTYPES["I64"]) for name, tensor in plan.tensors.items()
        }:
            raise UpdateRejectedError(Reason.STRUCTURE, "a partial sum has other tensors than the model")
        largest = plan.limit * partial.weight
        for name, sums in partial.sums.items():
            if not all(-largest <= block.min().item() and block.max().item() <= largest for block in blocks(sums)):
                raise UpdateRejectedError(
                    Reason.OUT_OF_RANGE, f"a partial sum of {name!r} is larger than its weight allows"
                )


def unweighted(aggregator: Aggregator) -> Aggregator:
    """The same with `uniform`, for papers in which every client counts alike; as it is where it has no such option."""
    return replace(cast("Any", aggregator), uniform=True) if hasattr(aggregator, "uniform") else aggregator


_EXACT = 2.0**52
"""Half of that from which whole numbers have gaps in float64."""

_Scratch: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


def _scratch(plan: SumPlan) -> _Scratch:
    """Room for one block, used again for every block of every tensor."""
    size = min(BLOCK, plan.largest)
    return np.empty(size, np.float64), np.empty(size, np.int64)


def _fold(total: Array, stack: Array, tensor: TensorPlan, weights: npt.NDArray[np.int64], largest: float) -> None:
    """`total` += Σ weights[i] · rint(stack[i] / 2^exponent), in place and exactly; largest: |Δ| at the most.

    Whole numbers whose magnitudes sum to less than 2^53 add up in float64 without rounding, in whatever order; where
    they are not known to, they are added in int64.
    """
    flat, sums = stack.reshape(len(stack), -1), total.reshape(-1)
    inverse, column = math.ldexp(1.0, -tensor.exponent), weights[:, np.newaxis]
    fits = largest * inverse * int(weights.sum()) < _EXACT
    width = max(1, BLOCK // len(stack))
    scratch = np.empty((len(stack), min(width, sums.size)))
    for start in range(0, sums.size, width):
        block = flat[:, start : start + width]
        if tensor.dtype.kind == "f":
            whole: Array = scratch[:, : block.shape[1]]
            np.multiply(block, inverse, out=whole)
            np.rint(whole, out=whole)
            whole = whole if fits else whole.astype(np.int64)
            np.multiply(whole, column, out=whole)
        else:
            whole = np.multiply(block, column)
        added = np.add.reduce(whole, axis=0) if len(whole) > 1 else whole[0]
        sums[start : start + width] += added.astype(np.int64, copy=False)


def _mean(total: Array, tensor: TensorPlan, weight: int, scratch: _Scratch) -> Array:
    """total / weight · 2^exponent: the quotient first, so that nothing overflows that the mean itself does not."""
    mean = np.empty(tensor.shape, tensor.dtype)
    quantum = math.ldexp(1.0, tensor.exponent)
    for sums, block in zip(blocks(total), blocks(mean), strict=True):
        if tensor.dtype.kind == "f":
            quotient = scratch[0][: block.size]
            np.divide(sums, weight, out=quotient)
            np.multiply(quotient, quantum, out=quotient)
            np.copyto(block, quotient, casting="same_kind")
        else:
            np.copyto(block, rounded_quotient(sums, weight))
    return mean
