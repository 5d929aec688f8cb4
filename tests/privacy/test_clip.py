"""Clipping: one factor for all floating tensors, so that the norm is at most C."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.algorithm import Bound
from hansa.arrays import Arrays, norm
from hansa.errors import ConfigError
from hansa.messages import Update
from hansa.privacy.clip import clip, clipped

RNG = np.random.default_rng(0)


def test_both_tensors_are_scaled_by_c_over_the_norm_of_both():
    update = Update({"w": np.array([3.0, 0.0]), "b": np.array([4.0]), "steps": np.array([9])}, 2)
    out = clip(Bound(), norm=1.0).apply(update, RNG).arrays
    assert [out[name].tolist() for name in out] == [pytest.approx([0.6, 0.0]), pytest.approx([0.8]), [9]]


def test_a_short_update_is_left_alone_to_the_bit():
    update = Update({"w": np.array([-0.0, 0.1], np.float32)}, 1)
    assert clip(Bound(), norm=1.0).apply(update, RNG).arrays == update.arrays


def test_with_order_1_the_sum_of_absolute_values_is_clipped():
    out = clipped(Arrays({"w": np.array([3.0, -1.0])}), Bound(2.0, 1))
    assert out["w"] == pytest.approx([1.5, -0.5])


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.floats(1e-30, 1e30), st.sampled_from([np.float32, np.float64]))
def test_the_norm_is_never_above_c_whatever_rounding_does(seed: int, limit: float, dtype: type):
    values = (np.random.default_rng(seed).normal(size=99) * limit).astype(dtype)
    assert norm(clipped(Arrays({"w": values}), Bound(limit))) <= limit


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_left_to_the_aggregator_to_refuse(bad: float):
    arrays = Arrays({"w": np.array([1.0, bad])})
    assert clipped(arrays, Bound(1.0)) is arrays


def test_the_norm_of_many_blocks_is_that_of_all():
    values = RNG.normal(size=200_001).astype(np.float32)
    assert norm(Arrays({"w": values})) == pytest.approx(np.linalg.norm(values.astype(np.float64)), rel=1e-12)
    assert norm(Arrays({"w": values}), 1) == pytest.approx(np.abs(values.astype(np.float64)).sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"norm": 0}, "clip: norm is 0; it must be a number above 0"),
        ({"norm": "inf"}, "clip: norm is 'inf'; it must be a number above 0"),
        ({"norm": math.nan}, "clip: norm is nan"),
        ({"norm": 1.0, "order": 3}, "clip: order is 3; it must be 1 or 2"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(options: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        clip(Bound(), **options)  # type: ignore[arg-type]  # the point
