"""The numbers of a round: each tensor's quantum and range, from the broadcast model alone, and what may be counted."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hansa.algorithm import Partial
from hansa.arrays import Array, Arrays, delta_dtype, is_floating
from hansa.errors import ConfigError, Reason, UpdateRejectedError
from hansa.messages import Contribution, Update, Updates

__all__ = [
    "BLOCK",
    "SumPlan",
    "TensorPlan",
    "blocks",
    "check_announced",
    "check_arrays",
    "check_new",
    "check_settings",
    "check_stacks",
    "check_total",
    "check_update",
    "planned",
    "rounded_quotient",
]

BLOCK = 64 * 1024
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


def check_settings(max_weight: int, range_bits: int) -> None:
    """Refuse settings that leave no precision."""
    if not 1 <= max_weight <= 2**40 or max_weight & (max_weight - 1):
        raise ConfigError(f"max_weight is {max_weight}; it must be a power of two, at most 2^40")
    if not 0 <= range_bits <= _MAX_RANGE_BITS:
        raise ConfigError(f"range_bits is {range_bits}; it must be between 0 and {_MAX_RANGE_BITS}")


def planned(template: Arrays, max_weight: int, range_bits: int) -> SumPlan:
    """Quanta and limits for updates of the template's structure; see `aggregators.mean`."""
    finest = range_bits + max_weight.bit_length() - 1 - _HEADROOM
    limit = 2**_HEADROOM // max_weight
    return SumPlan(
        tensors={name: _tensor_plan(name, array, finest, limit) for name, array in template.items()},
        max_weight=max_weight,
        limit=limit,
        largest=max((array.size for array in template.values()), default=0),
    )


def check_update(plan: SumPlan, update: Update) -> None:
    """Structure, weight, finiteness and range; the reason names the tensor."""
    _check_examples(plan, update.num_examples)
    check_arrays(plan, update.arrays)


def check_arrays(plan: SumPlan, arrays: Arrays) -> None:
    """Structure, finiteness and range of a change."""
    _check_structure(plan, arrays, ())
    for name, tensor in plan.tensors.items():
        _checked(name, tensor, arrays[name])


def check_stacks(plan: SumPlan, updates: Updates) -> dict[str, float]:
    """`check_update` of many at once; the reason does not say whose. Returns the largest |Δ| of each tensor."""
    for num_examples in updates.num_examples:
        _check_examples(plan, num_examples)
    _check_structure(plan, updates.arrays, (len(updates),))
    return {name: _checked(name, tensor, updates.arrays[name]) for name, tensor in plan.tensors.items()}


def check_announced(update: Update, contribution: Contribution) -> None:
    """Raise `UpdateRejectedError` unless a client has sent as many examples as it had announced."""
    if contribution.num_examples != update.num_examples:
        raise UpdateRejectedError(
            Reason.WEIGHT,
            f"{contribution.client} announced {contribution.num_examples} examples and sent {update.num_examples}",
        )


def check_new(partial: Partial, clients: Iterable[str]) -> None:
    """Raise `UpdateRejectedError` for a client that is in a partial already."""
    again = [client for client in clients if client in partial.contributions]
    if again:
        raise UpdateRejectedError(Reason.DUPLICATE, f"{again[0]} is counted in this round already")


def check_total(plan: SumPlan, weight: int) -> None:
    """Raise `UpdateRejectedError` for more weight than the quanta have room for."""
    if weight > plan.max_weight:
        raise UpdateRejectedError(
            Reason.WEIGHT,
            f"the round would sum {weight} examples with it, more than max_weight = {plan.max_weight}: raise it",
        )


def blocks(array: Array) -> Iterator[Array]:
    """Flat pieces of at most `BLOCK` elements, as views."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]


def rounded_quotient(sums: Array, weight: int) -> Array:
    """sums / weight in integers, half to even."""
    floor, rest = np.divmod(sums, weight)
    twice = 2 * rest
    return np.asarray(floor + ((twice > weight) | ((twice == weight) & (floor % 2 != 0))))


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


def _check_examples(plan: SumPlan, num_examples: int) -> None:
    if not 1 <= num_examples <= plan.max_weight:
        raise UpdateRejectedError(
            Reason.WEIGHT, f"num_examples is {num_examples}; it must be 1 to max_weight = {plan.max_weight}"
        )


def _check_structure(plan: SumPlan, arrays: Arrays, rows: tuple[int, ...]) -> None:
    """rows: of stacks, how many; else nothing."""
    if list(arrays) != list(plan.tensors):
        unknown = [name for name in arrays if name not in plan.tensors]
        missing = [name for name in plan.tensors if name not in arrays]
        raise UpdateRejectedError(
            Reason.STRUCTURE,
            f"the tensors are not the model's in the model's order: unknown {unknown[:3]}, missing {missing[:3]}",
        )
    for name, tensor in plan.tensors.items():
        array = arrays[name]
        if array.shape != rows + tensor.shape or array.dtype != tensor.dtype:
            raise UpdateRejectedError(
                Reason.STRUCTURE,
                f"{name!r} is {array.dtype}{list(array.shape)}, but the change of this model's tensor is "
                f"{tensor.dtype}{list(tensor.shape)}",
            )


def _checked(name: str, tensor: TensorPlan, array: Array) -> float:
    """Finite, and within the bound; one pass, block by block. Returns the largest magnitude."""
    largest = 0.0
    for block in blocks(array):
        low, high = block.min().item(), block.max().item()
        if -tensor.bound <= low and high <= tensor.bound:
            largest = max(largest, -low, high)
            continue
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UpdateRejectedError(
                Reason.NOT_FINITE, f"{name!r} holds NaN or infinity; check the inputs and the learning rate"
            )
        raise UpdateRejectedError(
            Reason.OUT_OF_RANGE,
            f"{name!r} changes by up to {max(-low, high):.3g}, more than {tensor.bound:.3g} is not summed; "
            "check the learning rate, or raise range_bits",
        )
    return largest
