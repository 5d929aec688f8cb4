"""The weighted mean against exact rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.aggregators.mean import SumPlan, WeightedMean
from hansa.algorithm import Aggregate, Partial
from hansa.arrays import Arrays
from hansa.errors import ConfigError
from hansa.messages import Contribution, Update


def fold(aggregator: WeightedMean, plan: SumPlan, changes: list[tuple[Arrays, int]], first: int = 0) -> Partial:
    partial = aggregator.zero(plan)
    for index, (change, n) in enumerate(changes):
        aggregator.accumulate(plan, partial, Update(change, n), Contribution(f"client-{first + index}", n))
    return partial


def mean_of(aggregator: WeightedMean, model: Arrays, changes: list[tuple[Arrays, int]]) -> Aggregate:
    plan = aggregator.plan(model)
    return aggregator.report(plan, fold(aggregator, plan, changes))


@st.composite
def rounds(draw: st.DrawFn, dtype: type[np.floating]) -> tuple[WeightedMean, Arrays, list[tuple[float, int]]]:
    """Any settings, a model of any magnitude, and changes up to the very bound with any weights."""
    aggregator = WeightedMean(max_weight=2 ** draw(st.integers(0, 40)), range_bits=draw(st.integers(0, 20)))
    width = np.finfo(dtype).bits
    model = Arrays({"w": np.array([draw(st.floats(width=width, allow_nan=False, allow_infinity=False))], dtype)})
    bound = aggregator.plan(model).tensors["w"].bound
    largest = float(np.nextafter(dtype(bound), dtype(0))) if dtype(bound) > bound else float(dtype(bound))
    clients = draw(st.integers(1, min(8, aggregator.max_weight)))
    weight = st.integers(1, aggregator.max_weight // clients)
    values = st.one_of(st.floats(-largest, largest, width=width), st.sampled_from([largest, -largest, 0.0]))
    return aggregator, model, draw(st.lists(st.tuples(values, weight), min_size=clients, max_size=clients))


def exact_mean(changes: list[tuple[float, int]]) -> Fraction:
    return sum((Fraction(value) * n for value, n in changes), Fraction(0)) / sum(n for _, n in changes)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(case=rounds(np.float64))
def test_a_float64_mean_is_within_half_a_quantum_and_two_roundings(
    case: tuple[WeightedMean, Arrays, list[tuple[float, int]]],
):
    aggregator, model, changes = case
    sent = [(Arrays({"w": np.array([value])}), n) for value, n in changes]
    mean = Fraction(float(mean_of(aggregator, model, sent).mean["w"][0]))
    quantum = Fraction(2) ** aggregator.plan(model).tensors["w"].exponent
    assert abs(mean - exact_mean(changes)) <= quantum / 2 + Fraction(2) ** -51 * abs(mean)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(case=rounds(np.float32))
def test_a_float32_mean_adds_one_rounding_to_float32(case: tuple[WeightedMean, Arrays, list[tuple[float, int]]]):
    aggregator, model, changes = case
    sent = [(Arrays({"w": np.array([value], np.float32)}), n) for value, n in changes]
    got = float(mean_of(aggregator, model, sent).mean["w"][0])
    # 24 bits: a float32 of 2^(e-1) to 2^e is a multiple of 2^(e-24), and rounding to it moves by at most half of that
    mean, half_ulp = Fraction(got), Fraction(2) ** (math.frexp(got)[1] - 25) if got else Fraction(0)
    quantum = Fraction(2) ** aggregator.plan(model).tensors["w"].exponent
    assert abs(mean - exact_mean(changes)) <= quantum / 2 + Fraction(2) ** -50 * abs(mean) + half_ulp


@settings(derandomize=True, deadline=None, max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(-(2**38), 2**38), st.integers(1, 2**20)), min_size=1, max_size=8))
def test_a_mean_of_integers_is_exact_and_rounds_half_to_even(changes: list[tuple[int, int]]):
    model = Arrays({"n": np.zeros(1, np.int64)})
    sent = [(Arrays({"n": np.array([value])}), n) for value, n in changes]
    exact = Fraction(sum(value * n for value, n in changes), sum(n for _, n in changes))
    assert mean_of(WeightedMean(), model, sent).mean["n"][0] == round(exact)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.floats(-64, 64, width=32), st.integers(1, 2**20)), min_size=2, max_size=8))
def test_a_sum_is_the_sum_of_the_rounded_changes_to_the_last_bit(changes: list[tuple[float, int]]):
    # q = 2^-32 for a model within ±1, so that the sum must be Σ n · rint(Δ · 2^32).
    aggregator = WeightedMean()
    plan = aggregator.plan(Arrays({"w": np.zeros(1, np.float32)}))
    partial = fold(aggregator, plan, [(Arrays({"w": np.array([value], np.float32)}), n) for value, n in changes])
    assert int(partial.sums["w"][0]) == sum(n * round(Fraction(value) * 2**32) for value, n in changes)


@pytest.mark.parametrize(
    ("largest", "exponent"),
    [(0.0, -32), (1.0, -32), (1.5, -31), (2.0, -31), (-2.0, -31), (2.001, -30), (-1000.0, -22), (2.0**-20, -32)],
)
def test_the_quantum_follows_the_largest_weight_of_the_tensor(largest: float, exponent: int):
    # q = 2^-32 · 2^⌈log2 max(1, |w|)⌉
    plan = WeightedMean().plan(Arrays({"w": np.array([largest, 0.0], np.float32)}))
    assert plan.tensors["w"].exponent == exponent
    assert plan.tensors["w"].bound == 64 * 2.0 ** (exponent + 32)


def test_more_weight_or_more_range_costs_precision():
    model = Arrays({"w": np.zeros(1)})
    assert WeightedMean(max_weight=2**25).plan(model).tensors["w"].exponent == -31
    assert WeightedMean(range_bits=8).plan(model).tensors["w"].exponent == -30
    assert WeightedMean(range_bits=8).plan(model).tensors["w"].bound == 256


@pytest.mark.parametrize("max_weight", [0, -1, 3, 2**24 - 1, 2**41])
def test_max_weight_must_be_a_power_of_two_up_to_2_40(max_weight: int):
    with pytest.raises(ConfigError, match=rf"max_weight is {max_weight}; it must be a power of two"):
        WeightedMean(max_weight=max_weight)


@pytest.mark.parametrize("range_bits", [-1, 21])
def test_range_bits_has_a_range(range_bits: int):
    with pytest.raises(ConfigError, match=rf"range_bits is {range_bits}; it must be between 0 and 20"):
        WeightedMean(range_bits=range_bits)


def test_two_combiners_with_1_and_99_examples_give_the_weighted_mean():
    # (1·1 + 99·2)/100 = 1.99; the mean of the two means would be 1.5.
    aggregator = WeightedMean()
    plan = aggregator.plan(Arrays({"w": np.zeros(1, np.float32)}))
    one = fold(aggregator, plan, [(Arrays({"w": np.ones(1, np.float32)}), 1)])
    many = fold(aggregator, plan, [(Arrays({"w": np.full(1, 2, np.float32)}), 33)] * 3, first=1)
    report = aggregator.report(plan, aggregator.merge(plan, one, many))
    assert report.weight == 100
    assert report.mean["w"][0] == np.float32(1.99)
    assert list(report.contributions) == ["client-0", "client-1", "client-2", "client-3"]


def test_a_uniform_mean_counts_every_client_as_one():
    # (1 + 2)/2 = 1.5, whatever the examples.
    aggregator = WeightedMean(uniform=True)
    sent = [(Arrays({"w": np.ones(1)}), 1), (Arrays({"w": np.full(1, 2.0)}), 99)]
    report = mean_of(aggregator, Arrays({"w": np.zeros(1)}), sent)
    assert report.weight == 2
    assert report.mean["w"][0] == 1.5
