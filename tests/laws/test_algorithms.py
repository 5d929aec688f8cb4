"""Every law of algorithms, over everything registered in `hansa.algorithms`; and the laws between them."""

import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Algorithm
from hansa.algorithms.fedasync import fedasync
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.fedavgm import fedavgm
from hansa.algorithms.fedbuff import fedbuff
from hansa.algorithms.fednova import fednova
from hansa.algorithms.fedprox import fedprox
from hansa.algorithms.fedsgd import fedsgd
from hansa.algorithms.scaffold import scaffold
from hansa.testing.algorithms import LAWS, Case, Law, cases
from hansa.testing.equalities import follows_centralized_descent, same_trajectory
from hansa.testing.linear import LinearTrainer, make_examples
from hansa.training.clusters import KMeansTrainer
from hansa.training.items import ItemsTrainer
from hansa.training.tables import TableTrainer
from hansa.training.trees import BoostedTreesTrainer

REGISTERED = sorted(entry_points(group="hansa.algorithms"), key=lambda point: point.name)

NEEDED: dict[str, dict[str, Any]] = {
    "scaffold": {"num_clients": 4},
    "feddyn": {"num_clients": 4},
    "qfedavg": {"learning_rate": 0.1},
    "afl": {"num_clients": 2},
    "fedper": {"personal": "b*"},
    "fedrep": {"personal": "b*"},
    "fedbn": {"personal": "b*"},
    "fednas": {"architecture": "b*"},
}
"""Options without a default: as many clients as the cases have at most, or shares in what is trained on."""

OF_THEIR_OWN: dict[str, Any] = {
    "statistics": (
        TableTrainer(["b/c"], quantiles=(0, 1), bins=1, covariance=True),
        {"client-1": {"b/c": [1, float("nan"), 3]}},
    ),
    "kmeans": (KMeansTrainer(2, 2), {"client-1": np.array([[0.0, 1.0], [2.0, 2.5], [2.0, 3.0]])}),
    "hist-gbdt": (
        BoostedTreesTrainer([[0.0, 1.0], [0.5, 0.5]], trees=1, depth=2, classes=3),
        {"client-1": (np.array([[0.0, 1.0], [2.0, 0.5], [1.0, 0.0]]), np.array([0, 2, 1]))},
    ),
    "heavy-hitters": (ItemsTrainer(3, 2), {"client-1": ["a", "ab", "ab", "b"]}),
}
"""Algorithms with models of one kind: who has them, and the data of a client."""

MEAN = WeightedMean()

ONE_STEP = LinearTrainer(3, learning_rate=0.05)
"""One full-batch step per round."""

MANY_STEPS = LinearTrainer(3, logistic=True, epochs=3, batch_size=4)

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=5).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)

some_clients = settings(derandomize=True, deadline=None, max_examples=20)


def test_there_is_something_to_hold_to_the_laws():
    with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
        built_in = set(tomllib.load(file)["project"]["entry-points"]["hansa.algorithms"])
    assert built_in <= {point.name for point in REGISTERED}, "pip install -e . registers the built-ins"


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("point", [p for p in REGISTERED if p.name not in OF_THEIR_OWN], ids=lambda point: point.name)
@settings(derandomize=True, deadline=None, max_examples=30)
@given(case=cases())
def test_holds(point: EntryPoint, law: Law, case: Case):
    law(point.load()(MEAN, **NEEDED.get(point.name, {})), case)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("point", [p for p in REGISTERED if p.name in OF_THEIR_OWN], ids=lambda point: point.name)
@settings(derandomize=True, deadline=None, max_examples=6)
@given(drawn=st.data())
def test_holds_of_a_model_of_its_own_kind(point: EntryPoint, law: Law, drawn: st.DataObject):
    law(point.load()(MEAN), drawn.draw(cases(local=OF_THEIR_OWN[point.name])))


@pytest.mark.parametrize("point", REGISTERED, ids=lambda point: point.name)
def test_an_algorithm_has_the_name_that_it_is_registered_under(point: EntryPoint):
    assert point.load()(MEAN, **NEEDED.get(point.name, {})).name == point.name


@some_clients
@given(sizes=SIZES, seed=SEEDS)
def test_fedavg_with_one_full_batch_step_is_centralized_gradient_descent(sizes: tuple[int, ...], seed: int):
    data = make_examples(np.random.default_rng(seed), sizes, 3)
    follows_centralized_descent(fedavg(MEAN), ONE_STEP, data, tolerance=1e-6)


@some_clients
@given(sizes=SIZES, seed=SEEDS)
def test_fedsgd_is_centralized_gradient_descent(sizes: tuple[int, ...], seed: int):
    data = make_examples(np.random.default_rng(seed), sizes, 3)
    follows_centralized_descent(fedsgd(MEAN, learning_rate=0.05), ONE_STEP, data, tolerance=1e-6)


@some_clients
@given(sizes=SIZES, seed=SEEDS)
def test_fedsgd_is_fedavg_with_one_full_batch_step(sizes: tuple[int, ...], seed: int):
    data = make_examples(np.random.default_rng(seed), sizes, 3)
    same_trajectory((fedsgd(MEAN, learning_rate=0.05), ONE_STEP), (fedavg(MEAN), ONE_STEP), data, tolerance=1e-6)


@pytest.mark.parametrize(
    "same",
    [
        fedprox(MEAN, mu=0.0),
        fedavgm(MEAN, momentum=0.0, learning_rate=1.0),
        fedbuff(MEAN),
        fedasync(MEAN, alpha=1.0),
    ],
    ids=["fedprox with mu 0", "fedavgm without momentum", "fedbuff of fresh updates", "fedasync with alpha 1"],
)
@some_clients
@given(sizes=SIZES, seed=SEEDS)
def test_is_fedavg_to_the_bit(same: Algorithm, sizes: tuple[int, ...], seed: int):
    data = make_examples(np.random.default_rng(seed), sizes, 3, logistic=True)
    same_trajectory((same, MANY_STEPS), (fedavg(MEAN), MANY_STEPS), data)


@some_clients
@given(clients=st.integers(1, 5), size=st.integers(1, 30), seed=SEEDS)
def test_the_first_round_of_scaffold_is_fedavgs_of_equal_clients_to_the_bit(clients: int, size: int, seed: int):
    data = make_examples(np.random.default_rng(seed), (size,) * clients, 3, logistic=True)
    same_trajectory((scaffold(MEAN, num_clients=clients), MANY_STEPS), (fedavg(MEAN), MANY_STEPS), data, rounds=1)


@some_clients
@given(clients=st.integers(1, 5), size=st.integers(1, 30), seed=SEEDS)
def test_scaffold_of_equal_clients_with_one_full_batch_step_is_centralized_descent(clients: int, size: int, seed: int):
    data = make_examples(np.random.default_rng(seed), (size,) * clients, 3)
    follows_centralized_descent(scaffold(MEAN, num_clients=clients), ONE_STEP, data, tolerance=1e-6)


@pytest.mark.parametrize(
    ("same", "other"),
    [(fednova(MEAN), fedavg(MEAN)), (fednova(MEAN, mu=0.5), fedprox(MEAN, mu=0.5))],
    ids=["fedavg", "fedprox"],
)
@some_clients
@given(clients=st.integers(1, 5), size=st.integers(1, 30), seed=SEEDS)
def test_fednova_of_equal_steps_is(same: Algorithm, other: Algorithm, clients: int, size: int, seed: int):
    data = make_examples(np.random.default_rng(seed), (size,) * clients, 3, logistic=True)
    same_trajectory((same, MANY_STEPS), (other, MANY_STEPS), data, tolerance=1e-6)


def test_the_laws_between_algorithms_can_fail():
    data = make_examples(np.random.default_rng(1), (5, 9), 3, logistic=True)
    with pytest.raises(AssertionError, match="fedprox and fedavg agree to the bit after round 1"):
        same_trajectory((fedprox(MEAN, mu=1.0), MANY_STEPS), (fedavg(MEAN), MANY_STEPS), data)
    with pytest.raises(AssertionError, match="fedavg and descent, after round 1: the models differ by"):
        follows_centralized_descent(fedavg(MEAN), LinearTrainer(3, epochs=2), data)
