"""Accountants against published values, against the definition by brute force, and against Google's library."""

import math

import numpy as np
import pytest

from hansa.algorithm import Noise
from hansa.errors import InputError, MissingExtraError
from hansa.privacy.accounting import gaussian_delta, gaussian_epsilon, spent


def test_delta_at_epsilon_0_is_the_total_variation_distance():
    # Dong, Roth, Su 2019: a μ-GDP mechanism is (0, 2Φ(μ/2) − 1)-DP; 0.38292 for μ = 1 is in every table of Φ.
    assert gaussian_delta(1.0, 0.0) == pytest.approx(0.382925, abs=1e-6)


@pytest.mark.parametrize(("mu", "epsilon"), [(0.5, 0.3), (1.0, 1.0), (2.5, 9.0)])
def test_delta_is_the_integral_of_its_definition(mu: float, epsilon: float):
    """δ = ∫ max(0, p(x) − e^ε q(x)) dx, by the trapezoid rule."""
    x = np.linspace(-15, 15 + mu, 400_001)
    p, q = (np.exp(-((x - centre) ** 2) / 2) / math.sqrt(2 * math.pi) for centre in (mu, 0.0))
    integral = np.trapezoid(np.maximum(0, p - math.exp(epsilon) * q), x)
    assert gaussian_delta(mu, epsilon) == pytest.approx(float(integral), rel=1e-4)


@pytest.mark.parametrize(("z", "rounds", "delta"), [(4.0, 100, 1e-5), (1.0, 1, 1e-6), (0.1, 50, 1e-9), (50.0, 3, 1e-2)])
def test_epsilon_is_the_inverse_of_delta(z: float, rounds: int, delta: float):
    epsilon = spent([Noise("gaussian", z, local=False)], rounds, delta).epsilon
    assert gaussian_delta(math.sqrt(rounds) / z, epsilon) == pytest.approx(delta, rel=1e-6) or epsilon == 0
    assert gaussian_delta(math.sqrt(rounds) / z, epsilon * 0.999) >= delta or epsilon == 0


def test_the_values_that_googles_library_gives_are_met():
    # dp-accounting 0.6.0, PLDAccountant (which is pessimistic in the last digits), GaussianDpEvent(4.0), 100 rounds.
    assert gaussian_epsilon(100**0.5 / 4.0, 1e-5) == pytest.approx(13.206712, abs=1e-4)


def test_noise_on_the_client_protects_between_any_two_updates_which_are_two_norms_apart():
    local, central = (spent([Noise("gaussian", z, local=is_local)], 10) for z, is_local in ((2.0, True), (1.0, False)))
    assert local.epsilon == central.epsilon
    assert local.protects == "a client's update, against all who see what it sends"
    assert central.protects == "whether a client took part, against all who see the models"


def test_more_rounds_spend_more_and_none_spend_nothing():
    spends = [spent([Noise("gaussian", 1.0)], rounds).epsilon for rounds in range(5)]
    assert spends[0] == 0
    assert spends == sorted(set(spends))


def test_a_run_without_noise_promises_nothing():
    assert spent([], 3).epsilon == math.inf
    assert spent([Noise("gaussian", 0.0)], 3).epsilon == math.inf
    assert "the seed tells the noise" in spent([Noise("gaussian", 1.0, seeded=True)], 3).protects
    with pytest.raises(InputError, match="delta is 0; it must be above 0 and below 1"):
        spent([], 3, 0)
    with pytest.raises(InputError, match="delta is '1e-5'"):
        spent([], 3, "1e-5")  # type: ignore[arg-type]


def test_where_the_library_is_needed_and_missing_its_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hansa\[privacy\]'"):
        spent([Noise("laplace", 3.25)], 7)


def test_with_the_library_laplace_and_secret_samples_are_accounted_for():
    dp = pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")
    rdp = pytest.importorskip("dp_accounting.rdp")

    # One release of Laplace noise with b = z·C is (2/z, 0)-DP between any two updates: Dwork, Roth 2014, Theorem 3.6.
    assert spent([Noise("laplace", 4.0)], 1, 1e-12).epsilon == pytest.approx(0.5, rel=1e-3)
    assert 0.5 < spent([Noise("laplace", 4.0)], 20, 1e-5).epsilon < 20 * 0.5

    event = dp.SampledWithoutReplacementDpEvent(10_000, 100, dp.GaussianDpEvent(1.0))
    accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    accountant.compose(event, 100)
    sampled = Noise("gaussian", 2.0, local=False, clients=100, population=10_000)
    assert spent([sampled], 100).epsilon == pytest.approx(accountant.get_epsilon(1e-5))
    known = Noise("gaussian", 2.0, local=False, clients=100)
    assert spent([sampled], 100).epsilon < spent([known], 100).epsilon / 4
    assert spent([sampled], 100).protects.startswith("which client took part, one in the place of another")


def test_with_the_library_the_published_value_of_the_moments_accountant_is_met():
    """Abadi et al. 2016, arXiv:1607.00133, section 3.2: q = 0.01, σ = 4, 10,000 steps, δ = 1e-5 give ε = 1.26."""
    dp = pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")
    rdp = pytest.importorskip("dp_accounting.rdp")

    accountant = rdp.RdpAccountant()
    accountant.compose(dp.PoissonSampledDpEvent(0.01, dp.GaussianDpEvent(4.0)), 10_000)
    theirs = min(
        divergence - math.log(1e-5) / (order - 1)
        for order, divergence in zip(accountant._orders, accountant._rdp, strict=True)
        if order > 1
    )
    assert theirs == pytest.approx(1.26, abs=0.01)
