"""What the rounds of a run have spent of a privacy budget, as (ε, δ).

The Gaussian mechanism alone is accounted for exactly, T rounds with the multiplier z as one with z/√T: with μ = √T/z

    δ = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)

Balle, Wang: "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018, arXiv:1805.06530, Theorem 8; Dong,
Roth, Su: "Gaussian Differential Privacy", 2019, arXiv:1905.02383. All else, Laplace noise and rounds whose clients are
a secret sample, is accounted for by Google's `dp-accounting`, the extra `privacy`.

Of noise on the client, one client's update is protected, against all who see what it sends: two updates within the norm
are two norms apart, so z counts as z/2. Of noise in the sum, whether one client took part at all is protected, against
those who see the models: its update is one norm long. Where the clients are a secret sample of fixed size, the known
bound (Wang, Balle, Kasiviswanathan 2019, arXiv:1808.00087) is for one client in the place of another, two norms.

Not accounted for is what leaves beside the update: metrics, that a client took part, when it answered.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from hansa.algorithm import Noise
from hansa.errors import InputError, MissingExtraError

__all__ = ["Spent", "gaussian_delta", "gaussian_epsilon", "spent"]

_FAR: Final = -30.0
"""Below, Φ is computed from its logarithm's series."""

_STEPS: Final = 200
"""Of a bisection in float64: more than enough."""


@dataclass(frozen=True, slots=True)
class Spent:
    """The privacy that is left after some rounds: the smaller ε, the more."""

    rounds: int
    """In which the client took part, or, of noise in the sum, all."""
    epsilon: float
    delta: float
    protects: str
    """What, and against whom, as the end of a sentence."""


def spent(noises: Sequence[Noise], rounds: int, delta: float = 1e-5) -> Spent:
    """(ε, δ) after so many rounds. noises: of a run's transforms; delta: 0 < δ < 1, below 1 over the number of clients.

    Infinite where there is no noise. Raises `MissingExtraError` where dp-accounting is needed and not installed.
    """
    if not _is_share(delta):
        raise InputError(f"delta is {delta!r}; it must be above 0 and below 1, for example 1e-5")
    noise = noises[0] if noises else None
    if noise is None:
        return Spent(rounds, math.inf if rounds else 0.0, delta, "nothing: the run adds no noise")
    if noise.local:
        said = "a client's update, against all who see what it sends"
    elif _is_sampled(noise):
        said = "which client took part, one in the place of another, against all who see the models"
    else:
        said = "whether a client took part, against all who see the models"
    if noise.seeded:
        said += ", but not on a network, where the seed tells the noise"
    return Spent(rounds, _epsilon(noise, rounds, delta), delta, said)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least ε of a mechanism that tells N(0, 1) and N(μ, 1) apart; 0 ≤ μ."""
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > delta else (low, middle)
    return high


def gaussian_delta(mu: float, epsilon: float) -> float:
    """The least δ for an ε."""
    if mu == 0:
        return 0.0
    left, right = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    return math.exp(_log_phi(left)) - math.exp(epsilon + _log_phi(right))


def _log_phi(x: float) -> float:
    """log Φ(x)."""
    if x > _FAR:
        return math.log(math.erfc(-x / math.sqrt(2)) / 2)
    series = 1 - 1 / x**2 + 3 / x**4 - 15 / x**6
    return -x * x / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log(series)


def _is_share(given: object) -> bool:
    return isinstance(given, float | int) and 0 < given < 1


def _is_sampled(noise: Noise) -> bool:
    return noise.population is not None and noise.clients < noise.population


@lru_cache(maxsize=4096)
def _epsilon(noise: Noise, rounds: int, delta: float) -> float:
    if rounds == 0:
        return 0.0
    if not noise.multiplier:
        return math.inf
    if _is_sampled(noise):
        return _sampled(noise, rounds, delta)
    apart = 2 if noise.local else 1
    if noise.distribution == "gaussian":
        return gaussian_epsilon(apart * math.sqrt(rounds) / noise.multiplier, delta)
    dp, pld, _ = _library()
    accountant = pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp.LaplaceDpEvent(noise.multiplier / apart), rounds)
    return float(accountant.get_epsilon(delta))


def _sampled(noise: Noise, rounds: int, delta: float) -> float:
    """Clients of a round are drawn without replacement, by Rényi divergences; never worse than without the secret."""
    dp, _, rdp = _library()
    accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    event = dp.GaussianDpEvent(noise.multiplier / 2)
    accountant.compose(dp.SampledWithoutReplacementDpEvent(noise.population, noise.clients, event), rounds)
    return min(float(accountant.get_epsilon(delta)), gaussian_epsilon(2 * math.sqrt(rounds) / noise.multiplier, delta))


def _library() -> tuple[Any, Any, Any]:
    """dp_accounting, and its accountants of privacy losses and of Rényi divergences."""
    try:
        import dp_accounting  # noqa: PLC0415 - an extra
        from dp_accounting import pld, rdp  # noqa: PLC0415 - the same
    except ImportError as error:
        feature = "accounting for Laplace noise, and for rounds whose clients are a secret sample,"
        raise MissingExtraError(feature, "privacy") from error
    return dp_accounting, pld, rdp
