"""Agnostic federated learning."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from bowls import BOWLS, Bowl, BowlTrainer
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.afl import afl, projected
from hansa.algorithms.fedsgd import fedsgd
from hansa.arrays import Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import ClientInfo, Task
from hansa.testing.federation import aggregate, play, task_of


def onto_the_simplex(point: np.ndarray, mass: float) -> np.ndarray:
    """By bisection of θ in Σ max(point − θ, 0) = mass, which needs no sorting."""
    low, high = point.min() - mass, point.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(point - middle, 0).sum() > mass else (low, middle)
    return np.maximum(point - low, 0)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(0.01, 2))
def test_the_projection_is_that_of_bisection(values: list[float], mass: float):
    found = projected(np.array(values), mass)
    np.testing.assert_allclose(found, onto_the_simplex(np.array(values), mass), rtol=0, atol=1e-9)
    assert found.sum() == pytest.approx(mass)


def test_follows_the_paper(mean: WeightedMean):
    w, mixture = np.zeros(2), np.full(3, 1 / 3)
    for state in play(afl(mean, num_clients=3, mixture_rate=0.05), BowlTrainer(), BOWLS, rounds=12):
        np.testing.assert_allclose(state.params["w"], w, rtol=0, atol=1e-7)
        np.testing.assert_allclose(state.slots["mixture"]["lambda"], mixture, rtol=0, atol=1e-7)
        losses = np.array([bowl.loss(w) for bowl in BOWLS.values()])
        w = w - 0.1 * sum(lam * bowl.gradient(w) for lam, bowl in zip(mixture, BOWLS.values(), strict=True))
        mixture = onto_the_simplex(mixture + 0.05 * losses, 1.0)


def test_where_only_some_take_part_lambda_keeps_what_they_have_together(mean: WeightedMean):
    algorithm = afl(mean, num_clients=3, mixture_rate=0.05)
    state = replace(
        algorithm.init(Arrays({"w": np.zeros(2)})), slots={"mixture": Arrays({"lambda": np.array([0.2, 0.5, 0.3])})}
    )
    broadcast = algorithm.broadcast(state)
    sent = {name: algorithm.client_update(BowlTrainer(), broadcast, task_of(name, BOWLS)) for name in ("ada", "cy")}
    after = algorithm.server_update(state, aggregate(algorithm, broadcast, sent))
    ada, cy, zero = BOWLS["ada"], BOWLS["cy"], np.zeros(2)
    step = 0.1 * (0.2 * ada.gradient(zero) + 0.3 * cy.gradient(zero)) / 0.5
    np.testing.assert_allclose(after.params["w"], -step, rtol=0, atol=1e-8)
    ascended = np.array([0.2 + 0.05 * ada.loss(zero), 0.3 + 0.05 * cy.loss(zero)])
    expected = np.insert(onto_the_simplex(ascended, 0.5), 1, 0.5)
    np.testing.assert_allclose(after.slots["mixture"]["lambda"], expected, rtol=0, atol=1e-8)


def test_the_worst_loss_is_below_that_of_the_mean_and_the_mean_above(mean: WeightedMean):
    data = {f"c{i}": Bowl(np.ones(2), np.full(2, 1.0 if i else -2.0), n=1, steps=1) for i in range(4)}
    found = {}
    for algorithm in (afl(mean, num_clients=4, mixture_rate=0.03), fedsgd(mean)):
        *_, last = play(algorithm, BowlTrainer(), data, rounds=500)
        losses = [bowl.loss(last.params["w"]) for bowl in data.values()]
        found[algorithm.name] = max(losses), np.mean(losses)
    assert found["afl"][0] == pytest.approx(2.25, rel=0.05)  # halfway between 1 and −2, for everybody
    assert found["fedsgd"][0] == pytest.approx(5.0625, rel=0.01)  # at ¼: 2.25²
    assert found["afl"][1] > found["fedsgd"][1]


def test_two_clients_of_one_share_are_an_error(mean: WeightedMean):
    algorithm = afl(mean, num_clients=3)
    state = algorithm.init(Arrays({"w": np.zeros(2)}))
    broadcast = algorithm.broadcast(state)
    update = algorithm.client_update(BowlTrainer(), broadcast, task_of("bo", BOWLS))
    with pytest.raises(ConfigError, match="afl: 2 clients have share 1; give each a share of its own"):
        algorithm.server_update(state, aggregate(algorithm, broadcast, {"bo": update, "twin": update}))


def test_a_client_whose_share_has_no_weight_is_told_what_to_do(mean: WeightedMean, task: Callable[..., Task]):
    algorithm, one = afl(mean, num_clients=3), task(0.0)
    one.client = ClientInfo("ada")
    with pytest.raises(AppError, match="afl has a weight for each of 3 shares, but ada has share 0 of 1: give"):
        algorithm.client_update(BowlTrainer(), algorithm.broadcast(algorithm.init(Arrays({"w": np.zeros(2)}))), one)


@pytest.mark.parametrize("options", [{"num_clients": 0}, {"learning_rate": 0}, {"mixture_rate": -1}])
def test_refuses_an_option_by_its_name_and_range(mean: WeightedMean, options: dict[str, int]):
    (name,) = options
    with pytest.raises(ConfigError, match=f"afl: {name} is "):
        afl(mean, **({"num_clients": 2} | options))
