"""Noise: its distribution, its grid, its secrecy. Statistical tests have fixed seeds and bounds of about 5 sigma."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Bound, Partial, Transform
from hansa.arrays import Arrays
from hansa.errors import ConfigError
from hansa.messages import Contribution, Update
from hansa.privacy.central import central_noise
from hansa.privacy.noise import gaussian_noise, laplace_noise
from hansa.privacy.stream import BLOCK, Stream

KEY = bytes(range(32))
MANY = 200_000


def largest_gap(drawn: np.ndarray, cdf: "np.ndarray") -> float:
    """Kolmogorov's distance; drawn: sorted, cdf: of these."""
    ranks = np.arange(1, drawn.size + 1) / drawn.size
    return float(np.max(np.maximum(np.abs(cdf - ranks), np.abs(cdf - ranks + 1 / drawn.size))))


def test_normal_numbers_are_normal():
    drawn = np.sort(Stream(KEY).normal(MANY))
    cdf = np.array([NormalDist().cdf(x) for x in drawn[::10]])
    assert largest_gap(drawn[::10], cdf) < 0.004  # of 200,000 fair draws, 0.004 is exceeded once in 10^5
    assert abs(drawn.mean()) < 5 / math.sqrt(MANY)
    assert drawn.var() == pytest.approx(1, abs=5 * math.sqrt(2 / MANY))


def test_laplace_numbers_have_the_laplace_distribution():
    drawn = np.sort(Stream(KEY).laplace(MANY))
    cdf = np.where(drawn < 0, np.exp(drawn) / 2, 1 - np.exp(-drawn) / 2)
    assert largest_gap(drawn, cdf) < 0.0055
    assert drawn.var() == pytest.approx(2, abs=5 * math.sqrt(20 / MANY))


def test_a_stream_is_the_same_however_it_is_cut_into_blocks():
    whole = np.concatenate([part for _, part in Stream(KEY).blocks("gaussian", BLOCK + 3)])
    assert whole.size == BLOCK + 3
    assert np.array_equal(whole[:BLOCK], Stream(KEY).normal(BLOCK))
    assert not np.array_equal(Stream(KEY).normal(9), Stream(KEY[::-1]).normal(9))


@pytest.mark.parametrize(
    ("make", "variance", "order"), [(gaussian_noise, 1.0, 2), (laplace_noise, 2.0, 1)], ids=["gaussian", "laplace"]
)
def test_every_value_gets_noise_in_proportion_to_the_norm(make: Callable[..., Transform], variance: float, order: int):
    update = Update({"w": np.full(MANY, 0.001, np.float32), "b": np.zeros((2, 3)), "steps": np.array([5])}, 40)
    out = make(Bound(2.0, order), multiplier=0.5).apply(update, np.random.default_rng(1))
    noise = out.arrays["w"].astype(np.float64) - 0.001
    assert noise.var() == pytest.approx(variance, rel=5 * math.sqrt(5 / MANY) + 1e-4)
    assert abs(noise.mean()) < 5 * math.sqrt(variance / MANY)
    assert np.count_nonzero(out.arrays["b"]) == 6
    assert out.arrays["steps"] == 0, "a whole number has no place in the norm, and so none in what leaves"
    assert out.num_examples == 1, "nor has the number of examples"


def test_noised_values_are_on_one_grid_whatever_was_under_the_noise():
    """Mironov 2012: the last bits must not tell the value."""

    def noised(value: float) -> np.ndarray:
        update = Update({"w": np.full(1000, value)}, 1)
        return gaussian_noise(Bound(1.0), multiplier=1.0).apply(update, np.random.default_rng(7)).arrays["w"]

    step = 2.0**-24
    for value in (0.0, 1 / 3, 0.1234567890123):
        assert np.array_equal(noised(value) / step, np.rint(noised(value) / step))
    assert np.array_equal(noised(1 / 3) - noised(0.0), np.full(1000, round(1 / 3 / step) * step))


def test_without_a_multiplier_nothing_is_added():
    update = Update({"w": np.array([0.1, -0.0], np.float32)}, 3)
    out = gaussian_noise(Bound(), multiplier=0).apply(update, np.random.default_rng(1))
    assert out.arrays == update.arrays


def test_noise_is_secret_unless_it_is_asked_to_follow_from_the_seed():
    assert gaussian_noise(Bound(1.0), multiplier=1).secret
    assert not gaussian_noise(Bound(1.0), multiplier=1, seeded=True).secret
    assert central_noise(Bound(1.0), multiplier=1, clients=3).secret


# ── at the server ────────────────────────────────────────────────────────────────────────────────────────────────────

MEAN = WeightedMean(uniform=True)


def summed(*values: float, size: int = 1) -> tuple[object, Partial]:
    template = Arrays({"w": np.zeros(size, np.float32), "steps": np.zeros(1, np.int64)})
    plan = MEAN.plan(template)
    partial = MEAN.zero(plan)
    for k, value in enumerate(values):
        update = Update({"w": np.full(size, value, np.float32), "steps": np.array([4])}, 10)
        partial = MEAN.accumulate(plan, partial, update, Contribution(f"c{k}", 10))
    return plan, partial


def test_the_sum_is_divided_by_the_expected_clients_whoever_takes_part():
    plan, partial = summed(0.5, 0.25)
    transform = central_noise(Bound(1.0), multiplier=0, clients=4)
    released = transform.release(partial, MEAN.quanta(plan), np.random.default_rng(0))  # type: ignore[misc]
    assert MEAN.report(plan, released).mean["w"].tolist() == [0.75 / 4]


def test_noise_of_z_c_over_the_clients_is_added_once_to_each_value():
    plan, partial = summed(0.5, 0.25, size=MANY)
    transform = central_noise(Bound(2.0), multiplier=0.5, clients=4)
    released = transform.release(partial, MEAN.quanta(plan), np.random.default_rng(0))  # type: ignore[misc]
    mean = MEAN.report(plan, released).mean
    noise = mean["w"].astype(np.float64) - 0.75 / 4
    assert noise.std() == pytest.approx(0.5 * 2.0 / 4, rel=5 / math.sqrt(2 * MANY))
    assert abs(noise.mean()) < 5 * 0.25 / math.sqrt(MANY)
    assert mean["steps"] == 0, "a whole number has no place in the norm: its change is no client's secret any more"


def test_noise_that_the_exact_sum_cannot_hold_is_refused():
    plan, partial = summed(0.5)
    transform = central_noise(Bound(1e12), multiplier=1, clients=1)
    with pytest.raises(ConfigError, match=r"central-noise: σ is 1e\+12, too large for the exact sum of 'w'"):
        transform.release(partial, MEAN.quanta(plan), np.random.default_rng(0))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"multiplier": -1, "clients": 2}, "central-noise: multiplier is -1; it must be a number of at least 0"),
        ({"multiplier": 1, "clients": 0}, "central-noise: clients is 0; it must be a whole number of at least 1"),
        ({"multiplier": 1, "clients": 5, "population": 4}, "population is 4, fewer than the 5 clients of a round"),
        ({"multiplier": 1, "clients": 5, "seeded": 1}, "central-noise: seeded is 1; it must be true or false"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(options: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        central_noise(Bound(1.0), **options)  # type: ignore[arg-type]  # the point


def test_local_noise_refuses_wrong_options_too():
    with pytest.raises(ConfigError, match="laplace-noise: multiplier is inf; it must be a number"):
        laplace_noise(Bound(1.0, 1), multiplier=math.inf)
    with pytest.raises(ConfigError, match="laplace-noise: multiplier is 1000"):
        laplace_noise(Bound(1.0, 1), multiplier=10**400)
    with pytest.raises(ConfigError, match="gaussian-noise: seeded is 'no'; it must be true or false"):
        gaussian_noise(Bound(1.0), multiplier=1, seeded="no")  # type: ignore[arg-type]  # the point
