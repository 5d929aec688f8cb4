"""Rules of one coordinate at a time, against numpy's and Python's own."""

from statistics import median as median_of

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_of_vectors import reported, round_of

from hansa.aggregators import spooled
from hansa.aggregators.bulyan import around_the_median
from hansa.aggregators.columns import median, trimmed_mean
from hansa.errors import ConfigError

SEEDS = st.integers(0, 2**32 - 1)
some = settings(derandomize=True, deadline=None, max_examples=40)


@some
@given(clients=st.integers(1, 9), size=st.integers(0, 7), seed=SEEDS)
def test_the_median_is_that_of_each_coordinate(clients: int, size: int, seed: int):
    vectors = np.random.default_rng(seed).normal(size=(clients, size)).round(1)  # with ties
    assert reported(median(), vectors).tolist() == [median_of(column) for column in vectors.T.tolist()]


@some
@given(clients=st.integers(1, 11), beta=st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.49]), seed=SEEDS)
def test_the_trimmed_mean_is_the_mean_of_the_middle(clients: int, beta: float, seed: int):
    vectors = np.random.default_rng(seed).normal(size=(clients, 5))
    drop = int(beta * clients)
    expected = np.sort(vectors, axis=0)[drop : clients - drop].mean(axis=0)
    np.testing.assert_allclose(reported(trimmed_mean(beta=beta), vectors), expected, rtol=1e-14)


@some
@given(seed=SEEDS, count=st.integers(1, 6))
def test_the_nearest_to_the_median_are_those_that_sorting_by_distance_gives(seed: int, count: int):
    values = np.random.default_rng(seed).normal(size=(6, 4)).round(1)
    columns = [sorted(column) for column in values.T.tolist()]
    middles = [median_of(column) for column in columns]
    nearest = [
        [v for _, v in sorted((abs(v - m), v) for v in column)[:count]]
        for column, m in zip(columns, middles, strict=True)
    ]
    np.testing.assert_allclose(
        around_the_median(values.copy(), count=count), [np.mean(near) for near in nearest], rtol=1e-12, atol=1e-15
    )


def test_integers_round_half_to_even():
    # Medians of (1, 2) and (2, 3) are 1.5 and 2.5, both → 2; of (-1, 0) -0.5 → 0
    sent = {"ada": ({"n": np.array([1, 2, -1])}, 1), "bo": ({"n": np.array([2, 3, 0])}, 1)}
    for rule in (median(), trimmed_mean(beta=0.4)):
        assert round_of(rule, {"n": np.zeros(3, np.int64)}, sent)["n"].tolist() == [2, 2, 0]


def test_every_client_counts_alike():
    # Of (0, 0, 1) the median is 0, though the third client has a million examples
    sent = {name: ({"w": np.array([v])}, n) for name, v, n in (("a", 0.0, 1), ("b", 0.0, 1), ("c", 1.0, 10**6))}
    assert round_of(median(), {"w": np.zeros(1)}, sent)["w"][0] == 0


def test_slices_join_without_a_seam(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spooled, "_SLICE", 64)
    vectors = np.random.default_rng(0).normal(size=(5, 1001)).astype(np.float32)
    sent = {f"client-{i}": ({"w": v[:1000].reshape(10, 100), "b": v[1000:]}, 1) for i, v in enumerate(vectors)}
    report = round_of(median(), {"w": np.zeros((10, 100), np.float32), "b": np.zeros(1, np.float32)}, sent)
    assert np.array_equal(report["w"].reshape(-1), np.median(vectors[:, :1000], axis=0))
    assert report["b"][0] == np.median(vectors[:, 1000])


@pytest.mark.parametrize("beta", [-0.1, 0.5, 1, True, "0.1", float("nan")])
def test_beta_has_a_range(beta: float):
    with pytest.raises(ConfigError, match="trimmed-mean: beta is"):
        trimmed_mean(beta=beta)
