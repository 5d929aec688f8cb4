"""FedBuff, FedAsync, and what an old update counts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Algorithm
from hansa.algorithms.fedasync import fedasync
from hansa.algorithms.fedbuff import fedbuff
from hansa.algorithms.staleness import discount, discounted, moved
from hansa.arrays import Arrays, first_difference
from hansa.errors import ConfigError

MEAN = WeightedMean()


def arrays(*values: float) -> Arrays:
    return Arrays({"w": np.array(values, np.float32), "steps": np.asarray(3, np.int64)})


@pytest.mark.parametrize(
    ("staleness", "a", "b", "expected"),
    [
        ("polynomial", 0.5, 4, [1.0, 2**-0.5, 3**-0.5, 0.5, 5**-0.5, 6**-0.5]),
        ("polynomial", 0.0, 4, [1.0] * 6),
        ("hinge", 10.0, 4, [1.0, 1.0, 1.0, 1.0, 1.0, 1 / 11]),
        ("constant", 0.5, 4, [1.0] * 6),
    ],
)
def test_staleness_is_discounted_as_in_the_paper(staleness: str, a: float, b: int, expected: list[float]):
    s = discount("fedbuff", staleness, a, b)
    assert [s(tau) for tau in range(6)] == pytest.approx(expected, abs=2**-25)
    assert s(0) == 1.0
    assert all(0 <= s(tau) <= 1 and (s(tau) * 2**24).is_integer() for tau in (0, 1, 7, 10**6))


def test_a_fresh_change_is_counted_to_the_bit():
    base, change = arrays(1.0, 2.0), arrays(0.1, 0.2)
    for algorithm in (fedbuff(MEAN), fedasync(MEAN)):
        assert algorithm.buffering is not None
        assert algorithm.buffering.counted(change, 0, base, base) is change


def test_a_stale_change_is_scaled_and_counters_count():
    counted = discounted(arrays(1.0, 3.0), 0.5)
    assert first_difference(counted, arrays(0.5, 1.5)) is None
    assert counted["w"].dtype == np.float32


def test_fedasync_mixes_models():
    old, now, change = arrays(1.0, 2.0), arrays(2.0, 0.0), arrays(0.5, -1.0)
    buffering = fedasync(MEAN, staleness="hinge", a=1.0, b=0).buffering
    assert buffering is not None
    assert buffering.size == 1
    half = buffering.counted(change, 1, old, now)
    np.testing.assert_array_equal(now["w"] + half["w"], 0.5 * now["w"] + 0.5 * (old["w"] + change["w"]))
    np.testing.assert_array_equal(moved(change, old, now)["w"], [-0.5, 1.0])
    assert int(half["steps"]) == 3


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (fedbuff, {"buffer": 0}, "fedbuff: buffer is 0"),
        (fedbuff, {"learning_rate": 0}, "fedbuff: learning_rate is 0"),
        (fedbuff, {"staleness": "linear"}, "there is: polynomial, hinge, constant"),
        (fedbuff, {"a": -1.0}, "fedbuff: a is -1.0"),
        (fedbuff, {"max_staleness": -1}, "fedbuff: max_staleness is -1"),
        (fedasync, {"alpha": 1.5}, "fedasync: alpha is 1.5"),
        (fedasync, {"mu": -1.0}, "fedasync: mu is -1.0"),
        (fedasync, {"staleness": "hinge", "a": 0.0}, "fedasync: a is 0.0"),
        (fedasync, {"b": 0.5}, "fedasync: b is 0.5"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(make: Callable[..., Algorithm], options: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        make(MEAN, **options)
