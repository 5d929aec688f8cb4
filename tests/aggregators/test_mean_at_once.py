"""Many updates in one sum, against one after another and against whole numbers of any size."""

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.arrays import Arrays, subtract, subtract_from_each
from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import Contribution, Updates

RNG = np.random.default_rng(0)
MODEL = Arrays(
    {
        "w": RNG.standard_normal((7, 3)).astype(np.float32),
        "d": RNG.standard_normal(4),
        "i": np.arange(5),
        "none": np.zeros((0, 2), np.float32),
    }
)


def updates(clients: int, scale: float, most: int, seed: int = 1) -> tuple[Updates, list[Contribution]]:
    """Changes of up to `scale` by clients with up to `most` examples."""
    rng = np.random.default_rng(seed)
    arrays = {
        "w": rng.uniform(-scale, scale, (clients, 7, 3)).astype(np.float32),
        "d": rng.uniform(-scale, scale, (clients, 4)),
        "i": rng.integers(-99, 99, (clients, 5)),
        "none": np.zeros((clients, 0, 2), np.float32),
    }
    counts = rng.integers(1, most, clients).tolist()
    contributions = [Contribution(f"client-{k}", n, {"loss": float(k)}) for k, n in enumerate(counts)]
    return Updates(arrays, counts, [each.metrics for each in contributions], [0.0] * clients), contributions


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize(("scale", "most"), [(1e-3, 50), (1.0, 1000), (60.0, 100_000)])  # the last is beyond 2^53
def test_many_at_once_are_one_after_another_and_exact(scale: float, most: int, *, uniform: bool) -> None:
    mean = WeightedMean(uniform=uniform)
    plan = mean.plan(MODEL)
    some, contributions = updates(100, scale, most)
    together = mean.accumulate_all(plan, mean.zero(plan), some, contributions)
    alone = mean.zero(plan)
    for update, contribution in zip(some, contributions, strict=True):
        mean.accumulate(plan, alone, update, contribution)
    assert (together.weight, together.contributions) == (alone.weight, alone.contributions)
    for name in MODEL:
        assert together.sums[name].dtype == np.int64
        np.testing.assert_array_equal(together.sums[name], alone.sums[name])
    quantum = 2.0 ** plan.tensors["w"].exponent
    weights = [1 if uniform else n for n in some.num_examples]
    first = sum(w * round(float(x) / quantum) for w, x in zip(weights, some.arrays["w"][:, 0, 0], strict=True))
    assert int(together.sums["w"][0, 0]) == first


def test_sums_go_on_beyond_what_float64_counts() -> None:
    """Σ is near 2^53 and beyond: what is added is exact, and so is what it is added to."""
    mean = WeightedMean()
    plan = mean.plan(MODEL)
    partial = mean.zero(plan)
    partial.sums["w"][:] = 2**53 + 1
    some, contributions = updates(3, 1e-3, 9)
    added = mean.accumulate_all(plan, mean.zero(plan), some, contributions).sums["w"]
    mean.accumulate_all(plan, partial, some, contributions)
    np.testing.assert_array_equal(partial.sums["w"] - (2**53 + 1), added)


def test_where_one_may_not_be_counted_the_sum_is_as_it_was() -> None:
    mean = WeightedMean(max_weight=256)
    plan = mean.plan(MODEL)

    def refused(some: Updates, contributions: list[Contribution]) -> Reason:
        partial = mean.zero(plan)
        mean.accumulate_all(plan, partial, *updates(2, 1.0, 9, seed=3))
        before = {name: sums.copy() for name, sums in partial.sums.items()}
        with pytest.raises(UpdateRejectedError) as caught:
            mean.accumulate_all(plan, partial, some, contributions)
        assert len(partial.contributions) == 2
        for name, sums in partial.sums.items():
            np.testing.assert_array_equal(sums, before[name])
        return caught.value.reason

    some, _ = updates(4, 1.0, 9)
    new = [Contribution(f"other-{k}", n) for k, n in enumerate(some.num_examples)]
    broken = {name: stack.copy() for name, stack in some.arrays.items()}
    broken["w"][2, 1, 1] = np.nan
    assert refused(some.changed(broken), new) is Reason.NOT_FINITE
    broken["w"][2, 1, 1] = 1e6
    assert refused(some.changed(broken), new) is Reason.OUT_OF_RANGE
    assert refused(some.changed({**some.arrays, "w": some.arrays["w"][:, :2]}), new) is Reason.STRUCTURE
    assert refused(some, [Contribution("client-1", 1), *new[1:]]) is Reason.DUPLICATE
    assert refused(Updates(some.arrays, [1, 0, 1, 1], some.metrics, some.step_sums), new) is Reason.WEIGHT
    assert refused(Updates(some.arrays, [200] * 4, some.metrics, some.step_sums), new) is Reason.WEIGHT


def test_a_row_is_an_update_and_a_slice_has_some_of_them() -> None:
    some, contributions = updates(5, 1.0, 9)
    third = some[2]
    assert (third.num_examples, third.metrics) == (contributions[2].num_examples, {"loss": 2.0})
    np.testing.assert_array_equal(third.arrays["d"], some.arrays["d"][2])
    assert [each.arrays for each in some[1:3]] == [some[1].arrays, some[2].arrays]
    assert len(list(some)) == 5


def test_a_model_is_subtracted_from_each_as_from_one() -> None:
    model = Arrays({**MODEL, "flag": np.array([True, False]), "u": np.array([0, 255], np.uint8)})
    stacks = {
        **{name: stack.copy() for name, stack in updates(3, 2.0, 9)[0].arrays.items()},
        "flag": np.array([[True, True], [False, False], [False, True]]),
        "u": np.array([[255, 0], [1, 254], [0, 255]], np.uint8),
    }
    stacks["w"][1] = np.float32(3e38)
    together = subtract_from_each(stacks, model)
    for row in range(3):
        alone = subtract(Arrays({name: stack[row] for name, stack in stacks.items()}), model)
        assert Arrays({name: stack[row] for name, stack in together.items()}) == alone
