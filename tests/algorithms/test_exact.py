"""Sums without rounding, against Python's own exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.exact import COUNTS, NUMBERS, STEPS, Places, product, summing
from hansa.arrays import Array
from hansa.errors import ConfigError, InputError

few = settings(derandomize=True, deadline=None, max_examples=25)

MEASURED = st.one_of(st.just(0.0), st.floats(2.0**-100, 2.0**60), st.floats(-(2.0**60), -(2.0**-100)))


def total(digit: Array) -> Array:
    return np.asarray(digit.sum(axis=0))


@few
@given(rows=st.lists(MEASURED, min_size=1, max_size=40), clients=st.integers(1, 5))
@example(rows=[2.0**60, 1.0, 2.0**-100, -(2.0**60)], clients=2)
def test_a_sum_is_that_of_fsum_however_the_rows_are_shared_out(rows: list[float], clients: int):
    shares = [np.array(rows[k::clients]) for k in range(clients)]
    mean = np.mean([NUMBERS.summed(share, total) for share in shares], axis=0)
    assert NUMBERS.floats(mean, clients) == math.fsum(rows)


@few
@given(x=MEASURED, y=MEASURED)
def test_a_product_is_two_numbers_that_are_it_together(x: float, y: float):
    p, e = product(np.array([x]), np.array([y]))
    assert Fraction(p[0]) + Fraction(e[0]) == Fraction(x) * Fraction(y)
    digits = NUMBERS.summed(np.concatenate([p, e]), total)
    assert Fraction(int(NUMBERS.totals(digits, 1))) * Fraction(2) ** (16 * NUMBERS.lowest) == Fraction(x) * Fraction(y)


def test_digits_are_whole_and_of_16_bits_by_hand():
    assert COUNTS.summed(np.array(65536.0 * 3 + 2), lambda digit: digit).tolist() == [2, 3, 0]
    assert COUNTS.summed(np.full(10**5, 7.0), total).tolist() == [700_000 - 10 * 65536, 10, 0]
    assert STEPS.summed(np.array(-0.5), lambda digit: digit).tolist() == [0, -32768, 0, 0]


def test_what_is_finer_than_the_lowest_place_is_cut_off_from_each_value():
    assert COUNTS.floats(COUNTS.summed(np.array([1.75, 1.75, -0.5]), total), 1) == 2


def test_a_number_beyond_the_highest_place_is_an_error_and_no_digit():
    with pytest.raises(InputError, match=r"2\^48 or more"):
        COUNTS.summed(np.array(2.0**48), lambda digit: digit)
    with pytest.raises(InputError, match=r"2\^16 or more"):
        Places(0, 0).summed(np.full(2**13, 8.0), total)


def test_settings_with_which_digits_would_be_rounded_are_refused():
    assert summing("mine", WeightedMean(max_weight=2**40), NUMBERS).uniform
    with pytest.raises(ConfigError, match="mine sums whole numbers, and the settings of this run round to 16384"):
        summing("mine", WeightedMean(max_weight=2**40, range_bits=20), NUMBERS)
