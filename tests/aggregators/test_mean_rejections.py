"""What must not be counted: rejected with the right reason, and neither sum nor weight moves by a bit."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Partial
from hansa.arrays import Arrays
from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import Contribution, Update
from hansa.testing.broken import bits

MEAN = WeightedMean()
MODEL = Arrays({"w": np.zeros(3, np.float32), "v": np.zeros((2, 2)), "n": np.zeros(1, np.int64)})
GOOD = {"w": np.full(3, 0.5, np.float32), "v": np.ones((2, 2)), "n": np.full(1, 7)}


def partial_of(*clients: str, aggregator: WeightedMean = MEAN, n: int = 5) -> Partial:
    plan = aggregator.plan(MODEL)
    partial = aggregator.zero(plan)
    for client in clients:
        aggregator.accumulate(plan, partial, Update(GOOD, n), Contribution(client, n))
    return partial


def rejection(arrays: dict[str, np.ndarray], n: int = 5, model: Arrays = MODEL) -> UpdateRejectedError:
    """The rejection of an update by `check` and by `accumulate`, which both leave a partial alone."""
    plan = MEAN.plan(model)
    partial = MEAN.zero(plan) if model is not MODEL else partial_of("ada", "bo")
    before = bits(partial)
    with pytest.raises(UpdateRejectedError) as checked:
        MEAN.check(plan, Update(arrays, n))
    with pytest.raises(UpdateRejectedError) as rejected:
        MEAN.accumulate(plan, partial, Update(arrays, n), Contribution("eve", n))
    assert rejected.value.reason == checked.value.reason
    assert bits(partial) == before
    return rejected.value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["w", "v"])
def test_rejects_a_value_that_is_not_finite(name: str, value: float):
    spoilt = GOOD[name].copy()
    spoilt.reshape(-1)[1] = value
    error = rejection(GOOD | {name: spoilt})
    assert error.reason == Reason.NOT_FINITE
    assert error.detail == f"{name!r} holds NaN or infinity; check the inputs and the learning rate"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rejects_infinity_where_the_model_is_as_large_as_its_dtype(value: float):
    model = Arrays({"w": np.array([3e38], np.float32)})
    assert rejection({"w": np.array([value], np.float32)}, model=model).reason == Reason.NOT_FINITE


@pytest.mark.parametrize("position", [0, 70_000, 200_000 - 1])
def test_looks_at_every_block_of_a_large_tensor(position: int):
    spoilt = np.zeros(200_000, np.float32)
    spoilt[position] = np.nan
    model = Arrays({"w": np.zeros(200_000, np.float32)})
    assert rejection({"w": spoilt}, model=model).reason == Reason.NOT_FINITE


@pytest.mark.parametrize("n", [0, -1, 2**63, 2**24 + 1])
def test_rejects_a_number_of_examples_out_of_range(n: int):
    error = rejection(GOOD, n)
    assert error.reason == Reason.WEIGHT
    assert error.detail == f"num_examples is {n}; it must be 1 to max_weight = 16777216"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (GOOD | {"u": np.zeros(1)}, "unknown ['u'], missing []"),
        ({"w": GOOD["w"], "v": GOOD["v"]}, "unknown [], missing ['n']"),
        ({"v": GOOD["v"], "w": GOOD["w"], "n": GOOD["n"]}, "in the model's order"),
        (
            GOOD | {"w": np.zeros(4, np.float32)},
            "'w' is float32[4], but the change of this model's tensor is float32[3]",
        ),
        (GOOD | {"v": np.zeros(4)}, "'v' is float64[4]"),
        (GOOD | {"w": np.zeros(3)}, "'w' is float64[3]"),
        (GOOD | {"n": np.zeros(1, np.int32)}, "'n' is int32[1]"),
        (GOOD | {"n": np.zeros(1)}, "'n' is float64[1]"),
        ({}, "missing ['w', 'v', 'n']"),
    ],
    ids=["unknown", "missing", "order", "shape", "dimensions", "wider", "narrower", "kind", "nothing"],
)
def test_rejects_another_structure(arrays: dict[str, np.ndarray], said: str):
    error = rejection(arrays)
    assert error.reason == Reason.STRUCTURE
    assert said in error.detail


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_change_is_summed_and_the_next_number_is_rejected(sign: int):
    # 2^range_bits · s = 64 for a model within ±1
    plan = MEAN.plan(MODEL)
    edge = GOOD | {"w": np.array([0, sign * 64, 0], np.float32)}
    partial = MEAN.accumulate(plan, MEAN.zero(plan), Update(edge, 2**24), Contribution("ada", 2**24))
    assert MEAN.report(plan, partial).mean["w"][1] == sign * 64
    beyond = GOOD | {"w": np.array([0, sign * np.nextafter(np.float32(64), np.float32(65)), 0], np.float32)}
    error = rejection(beyond)
    assert error.reason == Reason.OUT_OF_RANGE
    assert "more than 64 is not summed" in error.detail


@pytest.mark.parametrize("n", [2**38 + 1, -(2**38) - 1, 2**63 - 1, -(2**63)])
def test_rejects_an_integer_that_changes_too_much(n: int):
    assert rejection(GOOD | {"n": np.array([n])}).reason == Reason.OUT_OF_RANGE


def test_an_integer_just_beyond_2_62_is_rejected_though_float64_cannot_tell_it():
    aggregator = WeightedMean(max_weight=1)
    plan = aggregator.plan(Arrays({"n": np.zeros(1, np.int64)}))
    aggregator.check(plan, Update({"n": np.array([2**62])}, 1))
    with pytest.raises(UpdateRejectedError, match="out-of-range"):
        aggregator.check(plan, Update({"n": np.array([2**62 + 1])}, 1))


def test_1e308_is_out_of_range_of_an_ordinary_model():
    assert rejection(GOOD | {"v": np.full((2, 2), 1e308)}).reason == Reason.OUT_OF_RANGE


def test_1e308_is_summed_exactly_in_a_model_of_that_size():
    # Two clients move 1e308 to 0; the weights 99 and 1 would overflow if they multiplied first.
    model = Arrays({"v": np.array([1e308])})
    plan = MEAN.plan(model)
    partial = MEAN.zero(plan)
    for client, n in (("ada", 99), ("bo", 1)):
        MEAN.accumulate(plan, partial, Update({"v": np.array([-1e308])}, n), Contribution(client, n))
    quantum = 2.0 ** plan.tensors["v"].exponent
    assert abs(MEAN.report(plan, partial).mean["v"][0] + 1e308) <= quantum / 2 + 1e308 * 2.0**-51


def test_the_mean_of_the_largest_changes_that_are_summed_is_finite():
    for dtype in (np.float32, np.float64):
        for aggregator in (MEAN, WeightedMean(max_weight=2**40, range_bits=20)):
            plan = aggregator.plan(Arrays({"v": np.array([np.finfo(dtype).max])}))
            largest = np.array([plan.tensors["v"].bound], dtype)
            n = aggregator.max_weight
            partial = aggregator.accumulate(
                plan, aggregator.zero(plan), Update({"v": largest}, n), Contribution("ada", n)
            )
            assert np.array_equal(aggregator.report(plan, partial).mean["v"], largest)


def test_denormals_are_summed_as_zero():
    plan = MEAN.plan(MODEL)
    tiny = GOOD | {"w": np.full(3, 1e-45, np.float32), "v": np.full((2, 2), 5e-324)}
    partial = MEAN.accumulate(plan, MEAN.zero(plan), Update(tiny, 3), Contribution("ada", 3))
    assert not partial.sums["w"].any()
    assert not partial.sums["v"].any()
    assert partial.weight == 3


def test_a_model_that_is_not_finite_has_no_plan():
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        for value in (np.nan, np.inf, -np.inf):
            model = Arrays({"fine": np.zeros(2), "w": np.array([0.0, value]).astype(np.float32).astype(dtype)})
            with pytest.raises(UpdateRejectedError, match="'w' of the global model itself holds NaN or infinity"):
                MEAN.plan(model)


def test_rejects_more_examples_than_max_weight_in_all():
    aggregator = WeightedMean(max_weight=8)
    plan, partial = aggregator.plan(MODEL), partial_of("ada", aggregator=aggregator)
    before = bits(partial)
    with pytest.raises(UpdateRejectedError, match="would sum 9 examples with it, more than max_weight = 8") as error:
        aggregator.accumulate(plan, partial, Update(GOOD, 4), Contribution("bo", 4))
    assert error.value.reason == Reason.WEIGHT
    with pytest.raises(UpdateRejectedError, match="would sum 10 examples"):
        aggregator.merge(plan, partial, partial_of("bo", aggregator=aggregator))
    assert bits(partial) == before
    aggregator.accumulate(plan, partial, Update(GOOD, 3), Contribution("bo", 3))
    assert partial.weight == 8


def test_rejects_a_client_that_reports_twice():
    plan, partial = MEAN.plan(MODEL), partial_of("ada", "bo")
    before = bits(partial)
    with pytest.raises(UpdateRejectedError, match="bo is counted in this round already") as error:
        MEAN.accumulate(plan, partial, Update(GOOD, 5), Contribution("bo", 5))
    assert error.value.reason == Reason.DUPLICATE
    with pytest.raises(UpdateRejectedError, match="bo is counted in this round already"):
        MEAN.merge(plan, partial, partial_of("cy", "bo"))
    assert bits(partial) == before


def test_rejects_an_update_with_another_number_of_examples_than_its_contribution():
    plan, partial = MEAN.plan(MODEL), partial_of("ada")
    before = bits(partial)
    with pytest.raises(UpdateRejectedError, match="bo announced 50 examples and sent 5") as error:
        MEAN.accumulate(plan, partial, Update(GOOD, 5), Contribution("bo", 50))
    assert error.value.reason == Reason.WEIGHT
    assert bits(partial) == before


def heavier(partial: Partial) -> None:
    partial.weight += 1


def weightless(partial: Partial) -> None:
    partial.weight = 0


def minus_one(partial: Partial) -> None:
    partial.contributions["cy"] = replace(partial.contributions["cy"], num_examples=11)
    partial.contributions["di"] = replace(partial.contributions["di"], num_examples=-1)


def nobody(partial: Partial) -> None:
    partial.contributions.clear()
    partial.weight = 0


def too_large(partial: Partial) -> None:
    partial.sums["w"][2] = (10 << 38) + 1


def too_small(partial: Partial) -> None:
    partial.sums["n"][0] = np.iinfo(np.int64).min


def extra(partial: Partial) -> None:
    partial.sums["u"] = np.zeros(1, np.int64)


def lacking(partial: Partial) -> None:
    del partial.sums["w"]


def shaped(partial: Partial) -> None:
    partial.sums["w"] = np.zeros(4, np.int64)


def floating(partial: Partial) -> None:
    partial.sums["w"] = np.zeros(3)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (heavier, Reason.WEIGHT),
        (weightless, Reason.WEIGHT),
        (minus_one, Reason.WEIGHT),
        (nobody, Reason.OUT_OF_RANGE),
        (too_large, Reason.OUT_OF_RANGE),
        (too_small, Reason.OUT_OF_RANGE),
        (extra, Reason.STRUCTURE),
        (lacking, Reason.STRUCTURE),
        (shaped, Reason.STRUCTURE),
        (floating, Reason.STRUCTURE),
    ],
)
def test_rejects_a_partial_that_lies(lie: Callable[[Partial], None], reason: Reason):
    plan, left, right = MEAN.plan(MODEL), partial_of("ada", "bo"), partial_of("cy", "di")
    lie(right)
    before = bits(left), bits(right)
    with pytest.raises(UpdateRejectedError) as error:
        MEAN.merge(plan, left, right)
    assert error.value.reason == reason
    assert (bits(left), bits(right)) == before


def test_a_uniform_partial_has_the_weight_of_its_clients():
    aggregator = WeightedMean(uniform=True)
    plan = aggregator.plan(MODEL)
    left, right = partial_of("ada", aggregator=aggregator), partial_of("bo", aggregator=aggregator)
    right.weight = 5
    with pytest.raises(UpdateRejectedError, match="claims the weight 5, but its contributors have 1"):
        aggregator.merge(plan, left, right)
    right.weight = 1
    assert aggregator.merge(plan, left, right).weight == 2


def test_an_empty_sum_has_no_mean():
    plan = MEAN.plan(MODEL)
    with pytest.raises(UpdateRejectedError, match="a mean needs at least one contribution"):
        MEAN.report(plan, MEAN.zero(plan))
