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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.algorithm import Aggregate, Aggregator, Partial
from hansa.arrays import DTYPES, Array, Arrays, delta_dtype, is_floating
from hansa.errors import ConfigError, Reason, UpdateRejectedError
from hansa.messages import Contribution, Update

__all__ = ["SumPlan", "TensorPlan", "WeightedMean", "unweighted"]

_BLOCK = 64 * 1024
"""Elements worked on at once: the scratch of a block, 1 MiB, stays in a core's L2 cache."""

_HEADROOM = 62
"""Bits of an int64 sum, one short of its sign bit."""

_MAX_RANGE_BITS = 20


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How one tensor is summed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """Of the change, by `arrays.delta_dtype`."""
    exponent: int
    """The quantum is 2^exponent; 0 for integers."""
    bound: float
    """The largest |Δ| that is summed: a whole number of quanta, within the range of the dtype."""


@dataclass(frozen=True, slots=True)
class SumPlan:
    """How a round is summed; the same on every server that has the broadcast model."""

    tensors: Mapping[str, TensorPlan]
    max_weight: int
    limit: int
    """The largest magnitude of one value in quanta, 2^62 / max_weight."""
    largest: int
    """Elements of the largest tensor."""


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """Σ n_i Δ_i / Σ n_i over the accepted updates; with `uniform`, every n_i counts as 1."""

    max_weight: int = 2**24
    """The largest Σ n_i, a power of two, at most 2^40."""
    range_bits: int = 6
    """|Δ| ≤ 2^range_bits · s, 0 ≤ range_bits ≤ 20."""
    uniform: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that leave no precision."""
        if not 1 <= self.max_weight <= 2**40 or self.max_weight & (self.max_weight - 1):
            raise ConfigError(f"max_weight is {self.max_weight}; it must be a power of two, at most 2^40")
        if not 0 <= self.range_bits <= _MAX_RANGE_BITS:
            raise ConfigError(f"range_bits is {self.range_bits}; it must be between 0 and {_MAX_RANGE_BITS}")
        if not isinstance(self.uniform, bool):
            raise ConfigError(f"mean: uniform is {self.uniform!r}; it must be true or false")

    def plan(self, template: Arrays) -> SumPlan:
        """Quanta and limits for updates of the template's structure."""
        finest = self.range_bits + self.max_weight.bit_length() - 1 - _HEADROOM
        limit = 2**_HEADROOM // self.max_weight
        return SumPlan(
            tensors={name: _tensor_plan(name, array, finest, limit) for name, array in template.items()},
            max_weight=self.max_weight,
            limit=limit,
            largest=max((array.size for array in template.values()), default=0),
        )

    def zero(self, plan: SumPlan) -> Partial:
        """Sums of zero."""
        return Partial({name: np.zeros(tensor.shape, np.int64) for name, tensor in plan.tensors.items()})

    def check(self, plan: SumPlan, update: Update) -> None:
        """Structure, weight, finiteness and range; the reason names the tensor."""
        if not 1 <= update.num_examples <= plan.max_weight:
            raise UpdateRejectedError(
                Reason.WEIGHT,
                f"num_examples is {update.num_examples}; it must be 1 to max_weight = {plan.max_weight}",
            )
        _check_structure(plan, update.arrays)
        for name, tensor in plan.tensors.items():
            _check_values(name, tensor, update.arrays[name])

    def accumulate(self, plan: SumPlan, partial: Partial, update: Update, contribution: Contribution) -> Partial:
        """Add one update; `partial` is changed and returned, or left alone on an error."""
        _check_new(partial, (contribution.client,))
        if contribution.num_examples != update.num_examples:
            raise UpdateRejectedError(
                Reason.WEIGHT,
                f"{contribution.client} announced {contribution.num_examples} examples and sent {update.num_examples}",
            )
        self.check(plan, update)
        weight = 1 if self.uniform else update.num_examples
        _check_total(plan, partial.weight + weight)
        scratch = _scratch(plan)
        for name, tensor in plan.tensors.items():
            _fold(partial.sums[name], update.arrays[name], tensor, weight, scratch)
        partial.weight += weight
        partial.contributions[contribution.client] = contribution
        return partial

    def merge(self, plan: SumPlan, left: Partial, right: Partial) -> Partial:
        """Add the sums of another server; `left` is changed and returned, or left alone on an error."""
        _check_new(left, right.contributions)
        self._check_partial(plan, right)
        _check_total(plan, left.weight + right.weight)
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
            if not all(-largest <= block.min().item() and block.max().item() <= largest for block in _blocks(sums)):
                raise UpdateRejectedError(
                    Reason.OUT_OF_RANGE, f"a partial sum of {name!r} is larger than its weight allows"
                )


def unweighted(aggregator: Aggregator) -> Aggregator:
    """The mean with `uniform`, for papers in which every client counts alike; another aggregator as it is."""
    return replace(aggregator, uniform=True) if isinstance(aggregator, WeightedMean) else aggregator


def _tensor_plan(name: str, array: Array, finest: int, limit: int) -> TensorPlan:
    dtype = delta_dtype(array.dtype)
    if not is_floating(array):
        return TensorPlan(array.shape, dtype, 0, limit)
    with np.errstate(invalid="ignore"):
        largest = max(float(np.max(array)), -float(np.min(array)), 1.0) if array.size else 1.0
    if not math.isfinite(largest):
        raise UpdateRejectedError(Reason.NOT_FINITE, f"{name!r} of the global model itself holds NaN or infinity")
    mantissa, power = math.frexp(largest)
    exponent = finest + (power - 1 if mantissa == 0.5 else power)  # noqa: PLR2004 - an exact power of two
    representable = int(np.finfo(dtype).max) >> max(exponent, 0)
    return TensorPlan(array.shape, dtype, exponent, math.ldexp(min(limit, representable), exponent))


def _check_new(partial: Partial, clients: Mapping[str, Contribution] | tuple[str, ...]) -> None:
    again = [client for client in clients if client in partial.contributions]
    if again:
        raise UpdateRejectedError(Reason.DUPLICATE, f"{again[0]} is counted in this round already")


def _check_total(plan: SumPlan, weight: int) -> None:
    if weight > plan.max_weight:
        raise UpdateRejectedError(
            Reason.WEIGHT,
            f"the round would sum {weight} examples with it, more than max_weight = {plan.max_weight}: raise it",
        )


def _check_structure(plan: SumPlan, arrays: Arrays) -> None:
    if list(arrays) != list(plan.tensors):
        unknown = [name for name in arrays if name not in plan.tensors]
        missing = [name for name in plan.tensors if name not in arrays]
        raise UpdateRejectedError(
            Reason.STRUCTURE,
            f"the tensors are not the model's in the model's order: unknown {unknown[:3]}, missing {missing[:3]}",
        )
    for name, tensor in plan.tensors.items():
        array = arrays[name]
        if array.shape != tensor.shape or array.dtype != tensor.dtype:
            raise UpdateRejectedError(
                Reason.STRUCTURE,
                f"{name!r} is {array.dtype}{list(array.shape)}, but the change of this model's tensor is "
                f"{tensor.dtype}{list(tensor.shape)}",
            )


def _check_values(name: str, tensor: TensorPlan, array: Array) -> None:
    """Finite, and within the bound; one pass, block by block."""
    for block in _blocks(array):
        low, high = block.min().item(), block.max().item()
        if -tensor.bound <= low and high <= tensor.bound:
            continue
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UpdateRejectedError(Reason.NOT_FINITE, f"{name!r} holds NaN or infinity")
        raise UpdateRejectedError(
            Reason.OUT_OF_RANGE,
            f"{name!r} changes by up to {max(-low, high):.3g}, more than {tensor.bound:.3g} is not summed; "
            "check the learning rate, or raise range_bits",
        )


_Scratch: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


def _scratch(plan: SumPlan) -> _Scratch:
    """Room for one block, used again for every block of every tensor."""
    size = min(_BLOCK, plan.largest)
    return np.empty(size, np.float64), np.empty(size, np.int64)


def _fold(total: Array, array: Array, tensor: TensorPlan, weight: int, scratch: _Scratch) -> None:
    """`total` += weight · rint(array / 2^exponent), in place and exactly."""
    inverse = math.ldexp(1.0, -tensor.exponent)
    for block, sums in zip(_blocks(array), _blocks(total), strict=True):
        scaled, whole = scratch[0][: block.size], scratch[1][: block.size]
        if tensor.dtype.kind == "f":
            np.copyto(scaled, block)
            np.multiply(scaled, inverse, out=scaled)
            np.rint(scaled, out=scaled)
            np.copyto(whole, scaled, casting="unsafe")
            np.multiply(whole, weight, out=whole)
        else:
            np.multiply(block, weight, out=whole)
        np.add(sums, whole, out=sums)


def _mean(total: Array, tensor: TensorPlan, weight: int, scratch: _Scratch) -> Array:
    """total / weight · 2^exponent: the quotient first, so that nothing overflows that the mean itself does not."""
    mean = np.empty(tensor.shape, tensor.dtype)
    quantum = math.ldexp(1.0, tensor.exponent)
    for sums, block in zip(_blocks(total), _blocks(mean), strict=True):
        if tensor.dtype.kind == "f":
            quotient = scratch[0][: block.size]
            np.divide(sums, weight, out=quotient)
            np.multiply(quotient, quantum, out=quotient)
            np.copyto(block, quotient, casting="same_kind")
        else:
            np.copyto(block, _rounded_quotient(sums, weight))
    return mean


def _rounded_quotient(sums: Array, weight: int) -> Array:
    """sums / weight in integers, half to even."""
    floor, rest = np.divmod(sums, weight)
    twice = 2 * rest
    return np.asarray(floor + ((twice > weight) | ((twice == weight) & (floor % 2 != 0))))


def _blocks(array: Array) -> Iterator[Array]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        yield flat[start : start + _BLOCK]
