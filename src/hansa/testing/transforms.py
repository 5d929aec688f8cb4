"""Laws of transforms: what comes out of one is an update of the same model, within its bound, that travels unchanged.

```python
import pytest
from hypothesis import given

from hansa.testing.transforms import LAWS, cases


@pytest.mark.parametrize("law", LAWS)
@given(case=cases())
def test_my_transform(law, case):
    law(lambda before: my_transform(before, strength=2), case)
```
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from hypothesis import strategies as st

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Bound, Transform
from hansa.algorithms.fedavg import fedavg
from hansa.arrays import DTYPES, Arrays, delta_dtype, is_floating, map_floating, norm
from hansa.messages import Update
from hansa.testing.broken import require, require_same
from hansa.testing.federation import task_of
from hansa.testing.linear import LinearTrainer
from hansa.testing.values import models, random_change
from hansa.wire import codec, packing

__all__ = ["LAWS", "Case", "Law", "Make", "cases"]

_DRAWS = 100
"""Applications whose mean is looked at."""

_WITHIN = 0.999
"""Norm of the changes, at most: below the bound by more than rounding."""

_ERRORS = 6.0
"""Standard errors by which a mean may be off: of 10^8 that are right, about one is."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model, and two changes of it in a row."""

    template: Arrays
    order: int
    """Of the norm of which the changes are known to be at most 1."""
    seed: int

    @property
    def updates(self) -> tuple[Update, Update]:
        """Both within the bound."""
        rng = np.random.default_rng(self.seed)
        first, second = (self._within(random_change(self.template, rng)) for _ in range(2))
        return Update(first, 7, {"loss": 0.5}), Update(second, 7)

    @property
    def before(self) -> Bound:
        """What is known of the changes."""
        return Bound(1.0, self.order)

    def _within(self, change: Arrays) -> Arrays:
        length = norm(change, self.order)
        if length <= _WITHIN:
            return change
        return map_floating(lambda array: array * array.dtype.type(_WITHIN / length), change)


Make: TypeAlias = Callable[[Bound], Transform]
"""A transform's factory with its options, as a function of the bound before it."""


def cases() -> st.SearchStrategy[Case]:
    """Models of every dtype, and models with a tensor that is large enough to be packed."""
    large = st.sampled_from(["F32", "F64", "BF16"]).map(_large)
    return st.builds(Case, models() | large, st.sampled_from([1, 2]), st.integers(0, 2**32 - 1))


def structure_is_kept(make: Make, case: Case) -> None:
    """Names, order, shapes and dtypes are those that it says, numbers are finite, and an update counts."""
    transform = make(case.before)
    out = _applied(transform, case)[-1]
    template = transform.structure(case.template)
    require(list(out.arrays) == list(template), "an update has the tensors that are said, in their order")
    for name, array in template.items():
        require(out.arrays[name].shape == array.shape, f"{name!r} has the shape {array.shape}")
        require(out.arrays[name].dtype == delta_dtype(array.dtype), f"{name!r} has the dtype of a change")
        require(bool(np.isfinite(out.arrays[name]).all()), f"{name!r} stays finite")
    require(out.num_examples >= 1, "an update counts for at least one example")


def the_same_random_numbers_give_the_same_bits(make: Make, case: Case) -> None:
    """Whatever was computed in between."""
    transform = make(case.before)
    first, second = _applied(transform, case), _applied(make(case.before), case)
    for one, other in zip(first, second, strict=True):
        require_same(one.arrays, other.arrays, f"{transform.name} is deterministic")
        require(one.memory == other.memory, f"{transform.name} is deterministic in what it keeps")
        require(packing.pack(one) == packing.pack(other), f"{transform.name} is deterministic in what travels")


def nothing_that_was_given_is_changed(make: Make, case: Case) -> None:
    """Neither the update nor the memory."""
    transform, update = make(case.before), case.updates[0]
    before = _copy(update.arrays)
    out = transform.apply(replace(update, memory=None), np.random.default_rng(case.seed))
    require_same(update.arrays, before, f"{transform.name} leaves the update that it was given alone")
    if out.memory is not None:
        kept = _copy(out.memory)
        transform.apply(replace(case.updates[1], memory=out.memory), np.random.default_rng(case.seed))
        require_same(out.memory, kept, f"{transform.name} leaves the memory that it was given alone")


def the_norm_is_within_the_bound(make: Make, case: Case) -> None:
    """Of what comes out, in every round, where the transform says that there is a bound."""
    transform = make(case.before)
    for out in _wrapped(transform, case) if transform.wrap is not None else _applied(transform, case):
        length = norm(out.arrays, transform.bound.order)
        require(length <= transform.bound.norm * (1 + 1e-9), f"the norm {length} is at most {transform.bound.norm}")


def memory_is_kept_where_it_is_said(make: Make, case: Case) -> None:
    """A transform without memory of its own returns none."""
    transform = make(case.before)
    kept = _applied(transform, case)[-1].memory
    require(
        (kept is not None) == transform.keeps_memory, f"{transform.name} keeps memory, and says so, or does neither"
    )


def packing_loses_nothing(make: Make, case: Case) -> None:
    """What is unpacked has the bits of what came out, and what travels is no larger than without packing."""
    transform = make(case.before)
    for out in _applied(transform, case):
        data = b"".join(packing.pack(out))
        outline = packing.outline(transform.structure(case.template))
        require_same(packing.unpack(data, outline), out.arrays, "an update travels without loss")
        require(len(data) == packing.packed_size(out), "the size that is told is that of the bytes")
        plain = codec.size(out.arrays)
        require(len(data) <= plain + 256, f"{len(data)} bytes are no more than the {plain} of the plain update")


def the_mean_is_right_where_it_is_said(make: Make, case: Case) -> None:
    """The mean over random numbers, along one random direction, is what went in, within six standard errors."""
    transform, update = make(case.before), case.updates[0]
    if not transform.unbiased:
        return
    rng = np.random.default_rng(case.seed)
    direction = {name: rng.normal(size=array.shape) for name, array in update.arrays.items() if is_floating(array)}

    def along(arrays: Arrays) -> float:
        return sum(float(np.sum(arrays[name] * each)) for name, each in direction.items())

    drawn = np.array([along(transform.apply(update, rng).arrays) for _ in range(_DRAWS)])
    error = float(drawn.std(ddof=1)) / _DRAWS**0.5
    off = abs(float(drawn.mean()) - along(update.arrays))
    require(off <= _ERRORS * error + 1e-6, f"{transform.name} is right in the mean, which is off by {off:.3g}")


Law = Callable[[Make, Case], None]

LAWS: tuple[Law, ...] = (
    structure_is_kept,
    the_same_random_numbers_give_the_same_bits,
    nothing_that_was_given_is_changed,
    the_norm_is_within_the_bound,
    memory_is_kept_where_it_is_said,
    packing_loses_nothing,
    the_mean_is_right_where_it_is_said,
)


def _large(dtype: str) -> Arrays:
    return Arrays(
        {"w": np.zeros((23, 47), DTYPES[dtype]), "b": np.zeros(5, DTYPES[dtype]), "n": np.zeros((), np.int64)}
    )


def _applied(transform: Transform, case: Case) -> list[Update]:
    """Two rounds of one client."""
    first, second = case.updates
    out = transform.apply(first, np.random.default_rng([case.seed, 1]))
    return [out, transform.apply(replace(second, memory=out.memory), np.random.default_rng([case.seed, 2]))]


def _wrapped(transform: Transform, case: Case) -> list[Update]:
    """What leaves a client of a wrapped algorithm whose client half has made these updates."""
    assert transform.wrap is not None  # noqa: S101 - who calls has looked
    sent = []
    for update in case.updates:
        plain = replace(fedavg(WeightedMean()), client_update=lambda *_, made=update: made)
        algorithm = transform.wrap(plain)
        model = algorithm.broadcast(algorithm.init(case.template))
        made = algorithm.client_update(LinearTrainer(1), model, task_of("client-0", {"client-0": None}))
        sent.append(transform.apply(made, np.random.default_rng(case.seed)))
    return sent


def _copy(arrays: Arrays) -> Arrays:
    return Arrays({name: array.copy() for name, array in arrays.items()})
