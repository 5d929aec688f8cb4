"""FedAdagrad, FedAdam and FedYogi, by hand from Algorithm 2 of the paper."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Aggregate, Algorithm
from hansa.algorithms.fedopt import fedadagrad, fedadam, fedyogi
from hansa.arrays import Arrays
from hansa.errors import ConfigError

ALL = [fedadagrad, fedadam, fedyogi]


def test_two_rounds_of_fedadam_by_hand(mean: WeightedMean, trajectory: Callable[..., list[float]]):
    # v₀ = τ² = 1. Δ = 7: m = 3.5,  v = ½·1 + ½·49 = 25,  w = 12·3.5/(5 + 1) = 7.
    #              Δ = 5: m = 4.25, v = ½·25 + ½·25 = 25, w = 7 + 12·4.25/(5 + 1) = 15.5.
    algorithm = fedadam(mean, learning_rate=12.0, beta1=0.5, beta2=0.5, tau=1.0)
    assert trajectory(algorithm, 7.0, 5.0) == [7.0, 15.5]


def test_two_rounds_of_fedadagrad_by_hand(mean: WeightedMean, trajectory: Callable[..., list[float]]):
    # v₀ = 9. Δ = 4: v = 25, w = 4/(5 + 3) = 0.5. Δ = 12: v = 169, w = 0.5 + 12/(13 + 3) = 1.25.
    assert trajectory(fedadagrad(mean, learning_rate=1.0, tau=3.0), 4.0, 12.0) == [0.5, 1.25]


def test_fedadagrad_may_have_momentum(mean: WeightedMean, trajectory: Callable[..., list[float]]):
    # m = 2, then 1 + 6 = 7: w = 2/8 = 0.25, then 0.25 + 7/16 = 0.6875
    assert trajectory(fedadagrad(mean, learning_rate=1.0, tau=3.0, beta1=0.5), 4.0, 12.0) == [0.25, 0.6875]


def test_two_rounds_of_fedyogi_by_hand(mean: WeightedMean, trajectory: Callable[..., list[float]]):
    # v₀ = 1. Δ = 4: v = 1 − ½·16·(−1) = 9, m = 2, w = 2/(3 + 1) = 0.5.
    #         Δ = 2: v = 9 − ½·4·(+1) = 7, m = 2, w = 0.5 + 2/(√7 + 1). (FedAdam's v would be 6.5.)
    algorithm = fedyogi(mean, learning_rate=1.0, beta1=0.5, beta2=0.5, tau=1.0)
    assert trajectory(algorithm, 4.0, 2.0) == [0.5, 0.5 + 2 / (math.sqrt(7) + 1)]


def test_fedyogi_keeps_v_where_it_is_the_square_of_the_change(
    mean: WeightedMean, trajectory: Callable[..., list[float]]
):
    # v₀ = 4 = Δ²: sign(0) = 0. w = 1/(2 + 2) = 0.25
    assert trajectory(fedyogi(mean, learning_rate=1.0, beta1=0.5, tau=2.0), 2.0) == [0.25]


def test_there_is_no_bias_correction(mean: WeightedMean, trajectory: Callable[..., list[float]]):
    # By default, m = 0.1·1, v = 0.99·10^-6 + 0.01·1, w = 0.01·0.1/(√v + 0.001) = 0.0099; bias correction: 0.00999
    v = 0.99e-6 + 0.01
    assert trajectory(fedadam(mean), 1.0) == pytest.approx([0.001 / (math.sqrt(v) + 0.001)], rel=1e-12)


def test_the_defaults_are_the_paper_s(mean: WeightedMean, trajectory: Callable[..., list[float]]):
    # FedAdagrad: η = 0.1, no momentum, τ = 0.001: 0.1·1/(√(1 + 10^-6) + 0.001)
    assert trajectory(fedadagrad(mean), 1.0) == pytest.approx([0.1 / (math.sqrt(1 + 1e-6) + 0.001)], rel=1e-12)
    # FedYogi's first v is 10^-6 + 0.01, since Δ² is above τ²
    assert trajectory(fedyogi(mean), 1.0) == pytest.approx([0.001 / (math.sqrt(1e-6 + 0.01) + 0.001)], rel=1e-12)


@pytest.mark.parametrize("make", ALL)
def test_without_a_change_the_first_model_stays(
    make: Callable[..., Algorithm], mean: WeightedMean, trajectory: Callable[..., list[float]]
):
    assert trajectory(make(mean), 0.0, 0.0) == [0.0, 0.0]


@pytest.mark.parametrize("make", ALL)
def test_moments_start_at_zero_and_tau_squared(make: Callable[..., Algorithm], mean: WeightedMean):
    state = make(mean, tau=0.5).init(Arrays({"w": np.ones(2), "steps": np.array(3)}))
    assert state.slots == {"m": Arrays({"w": np.zeros(2)}), "v": Arrays({"w": np.full(2, 0.25)})}


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_moments_are_in_the_dtype_of_the_change(make: Callable[..., Algorithm], mean: WeightedMean, dtype: str):
    algorithm = make(mean)
    wide = np.float64 if dtype == "float64" else np.float32
    state = algorithm.init(Arrays({"w": np.ones((), dtype), "n": np.array([5]), "b": np.array([True])}))
    change = Arrays({"w": np.array(0.5, wide), "n": np.array([2]), "b": np.array([-1])})
    for _ in range(2):
        state = algorithm.server_update(state, Aggregate(change, 1, {}))
    assert state.params["w"].dtype == np.dtype(dtype)
    assert state.params["w"].astype(float) > 1
    assert {slot: (list(arrays), arrays["w"].dtype) for slot, arrays in state.slots.items()} == {
        "m": (["w"], np.dtype(wide)),
        "v": (["w"], np.dtype(wide)),
    }
    assert (state.params["n"].tolist(), state.params["b"].tolist()) == ([9], [False]), "integers and bools are FedAvg's"


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rate": 0}, "learning_rate is 0; it must be a number above 0, and finite"),
        ({"tau": 0.0}, "tau is 0.0; it must be a number above 0, and finite"),
        ({"tau": -1e-3}, "tau is -0.001"),
        ({"beta1": 1.0}, "beta1 is 1.0; it must be a number of at least 0 and below 1"),
        ({"beta1": "0.9"}, "beta1 is '0.9'"),
    ],
)
def test_refuses_an_option_by_its_name_and_range(
    make: Callable[..., Algorithm], mean: WeightedMean, options: dict[str, float], said: str
):
    with pytest.raises(ConfigError, match=f"{make.__name__}: {said}"):
        make(mean, **options)


@pytest.mark.parametrize("make", [fedadam, fedyogi])
def test_beta2_has_a_range(make: Callable[..., Algorithm], mean: WeightedMean):
    with pytest.raises(
        ConfigError, match=f"{make.__name__}: beta2 is 1; it must be a number of at least 0 and below 1"
    ):
        make(mean, beta2=1)
