"""Federated k-means: Lloyd's steps on the joined points."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.kmeans import kmeans, lloyd
from hansa.arrays import Array, Arrays
from hansa.data import digits
from hansa.errors import AppError, ConfigError
from hansa.messages import Task
from hansa.testing.federation import play, task_of
from hansa.training.clusters import KMeansTrainer

MEAN = WeightedMean()


class From(KMeansTrainer):
    """From these centres."""

    def __init__(self, centers: Array) -> None:
        super().__init__(*centers.shape)
        object.__setattr__(self, "_start", centers)

    __slots__ = ("_start",)

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        return Arrays(dict(super().initial_model(rng)) | {"centers": self._start})


def one_step(x: Array, centers: Array) -> Array:
    """Lloyd's, as it is written in textbooks."""
    nearest = ((x[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    return np.array([x[nearest == j].mean(axis=0) if (nearest == j).any() else c for j, c in enumerate(centers)])


@settings(derandomize=True, deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), clients=st.integers(1, 5))
def test_it_is_lloyds_algorithm_on_the_joined_points(seed: int, clients: int):
    rng = np.random.default_rng(seed)
    shares = {f"c{k}": rng.normal(3 * k, 1, (int(rng.integers(1, 30)), 2)) for k in range(clients)}
    x, centers = np.concatenate(list(shares.values())), rng.normal(0, 3, (4, 2))
    for state in list(play(kmeans(MEAN, start="model"), From(centers), shares, rounds=4))[1:]:
        centers = one_step(x, centers)
        np.testing.assert_allclose(state.params["centers"], centers, rtol=1e-12, atol=1e-12)
    assert state.params["sizes"].sum() == len(x)


def test_the_sharing_of_the_points_changes_no_bit():
    rng = np.random.default_rng(1)
    x, start = rng.normal(0, 1, (60, 3)), rng.normal(0, 1, (5, 3))

    def after(shares: list[Array]) -> Arrays:
        data = {f"c{k}": share for k, share in enumerate(shares)}
        return list(play(kmeans(MEAN, start="model"), From(start), data, rounds=3))[-1].params

    assert after([x]) == after(np.array_split(x[rng.permutation(60)], 7))


def test_the_first_round_finds_planted_clusters_of_which_no_client_has_all():
    rng = np.random.default_rng(2)
    truth = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]])
    shares = {
        f"c{k}": np.concatenate([rng.normal(truth[j], 1, (20, 2)) for j in (k % 4, (k + 1) % 4)]) for k in range(4)
    }
    first = list(play(kmeans(MEAN), KMeansTrainer(4, 2), shares, rounds=1))[-1].params["centers"]
    assert max(np.linalg.norm(first - center, axis=1).min() for center in truth) < 2


def test_proposers_are_the_first_shares_and_nobody_else():
    shares = {"c0": np.zeros((3, 1)), "c1": np.ones((3, 1)), "c2": np.full((9, 1), 7.0)}
    state = list(play(kmeans(MEAN, proposers=2), KMeansTrainer(2, 1), shares, rounds=1))[-1]
    assert sorted(state.params["centers"].ravel().tolist()) == [0.0, 1.0]


def test_lloyd_stops_where_nothing_moves():
    centers, sizes = lloyd(
        np.array([[0.0], [1.0], [10.0]]), np.array([1.0, 3.0, 1.0]), np.array([[0.0], [9.0], [99.0]])
    )
    assert (centers.tolist(), sizes.tolist()) == ([[0.75], [10.0], [99.0]], [4.0, 1.0, 0.0])


@pytest.mark.slow
def test_on_digits_it_ends_near_scikit_learn_on_the_joined_points():
    sklearn = pytest.importorskip("sklearn.cluster")
    split = digits.read()
    result = hansa.simulate("kmeans", model=KMeansTrainer(10, 64), data=split, partition="dirichlet:0.5", clients=10,
                            rounds=10, evaluation=hansa.EvaluationRules(every=0), progress=False)  # fmt: skip
    x = split.train.x.astype(float)
    best = sklearn.KMeans(10, n_init=4, random_state=0).fit(x).inertia_ / len(x)
    assert result.rounds[-1].metrics["loss"] < 1.03 * best


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="start is 'random'"):
        kmeans(MEAN, start="random")
    with pytest.raises(ConfigError, match="KMeansTrainer"):
        kmeans(MEAN).init(Arrays({"w": np.zeros(2)}))
    algorithm, trainer = kmeans(MEAN), KMeansTrainer(2, 3)
    asked = algorithm.broadcast(algorithm.init(trainer.initial_model(np.random.default_rng(0))))
    task: Task = task_of("c", {"c": np.zeros((4, 2))})
    with pytest.raises(AppError, match="inputs of 2 features, but the model is for 3"):
        algorithm.client_update(trainer, asked, task)
    with pytest.raises(AppError, match="algorithm kmeans"):
        trainer.gradient(asked, task)


def test_points_may_come_with_labels_that_are_not_looked_at():
    algorithm, trainer = kmeans(MEAN, start="model"), KMeansTrainer(2, 2)
    asked = algorithm.broadcast(algorithm.init(trainer.initial_model(np.random.default_rng(0))))
    x = np.random.default_rng(3).normal(0, 1, (6, 2))
    sent: list[Any] = [algorithm.client_update(trainer, asked, task_of("c", {"c": d})) for d in (x, (x, np.zeros(6)))]
    assert sent[0].arrays == sent[1].arrays
