"""FedAvgM."""

from collections.abc import Callable

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Aggregate
from hansa.algorithms.fedavgm import fedavgm
from hansa.arrays import Arrays
from hansa.errors import ConfigError


def test_three_rounds_by_hand(mean: WeightedMean, trajectory: Callable[..., list[float]]):
    # v ← ½v + Δ: 1, 1.5, -1.25; w ← w + 2v: 2, 5, 2.5
    assert trajectory(fedavgm(mean, learning_rate=2.0, momentum=0.5), 1.0, 1.0, -2.0) == [2.0, 5.0, 2.5]


def test_the_defaults_are_the_paper_s(mean: WeightedMean, trajectory: Callable[..., list[float]]):
    # β = 0.9, η = 1: v = 1, then 0.9 + 1 = 1.9: w = 1, then 2.9
    assert trajectory(fedavgm(mean), 1.0, 1.0) == pytest.approx([1.0, 2.9], abs=1e-15)


def test_momentum_is_of_floating_tensors_in_the_dtype_of_their_change(mean: WeightedMean):
    # The counter goes 5 → 7 → 9 without momentum, the bool follows its majority.
    algorithm = fedavgm(mean, momentum=0.5)
    state = algorithm.init(
        Arrays({"h": np.ones(1, np.float16), "steps": np.array(5), "seen": np.array([False]), "d": np.ones(1)})
    )
    assert state.slots["v"] == Arrays({"h": np.zeros(1, np.float32), "d": np.zeros(1)})
    change = Arrays({"h": np.ones(1, np.float32), "steps": np.array(2), "seen": np.array([1]), "d": np.ones(1)})
    for _ in range(2):
        state = algorithm.server_update(state, Aggregate(change, 1, {}))
    assert state.params == Arrays(
        {"h": np.array([3.5], np.float16), "steps": np.array(9), "seen": np.array([True]), "d": np.array([3.5])}
    )
    assert state.slots["v"] == Arrays({"h": np.array([1.5], np.float32), "d": np.array([1.5])})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rate": 0.0}, "fedavgm: learning_rate is 0.0; it must be a number above 0, and finite"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"learning_rate": True}, "learning_rate is True"),
        ({"momentum": 1.0}, "fedavgm: momentum is 1.0; it must be a number of at least 0 and below 1"),
        ({"momentum": -0.1}, "momentum is -0.1"),
        ({"momentum": None}, "momentum is None"),
    ],
)
def test_refuses_an_option_by_its_name_and_range(mean: WeightedMean, options: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        fedavgm(mean, **options)
