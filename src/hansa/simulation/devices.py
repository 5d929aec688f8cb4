"""How simulated devices behave: how long they take on the virtual clock, how far they get, and whether they vanish."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from hansa.errors import ConfigError

__all__ = ["Behaviour", "Devices", "Dropouts", "Instant", "LogNormalSpeeds", "RandomFor", "Stragglers", "devices_of"]

RandomFor: TypeAlias = Callable[..., np.random.Generator]
"""`random_for("speed", client)`: random numbers of the run's seed for a purpose and its keys, always the same."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one device does with one training task."""

    seconds: float = 0.0
    """Virtual seconds from the invitation to the arrival of the update, for all of the local work."""
    work: float = 1.0
    """The share of the local work that it manages before the deadline, 0 < work ≤ 1.

    Below 1 the client is a straggler. An algorithm that keeps partial work (FedProx) receives it with `task.work` at
    this share; with any other the update is late, and the client is missing in this round.
    """
    drops_out: bool = False
    """It is never heard of again in this round: no update, and no progress that would renew its lease."""

    def __post_init__(self) -> None:
        """Refuse what no device can do."""
        if not (math.isfinite(self.seconds) and self.seconds >= 0 and 0 < self.work <= 1):
            raise ConfigError(f"{self}: seconds must be at least 0, and work above 0 and at most 1")


class Devices(Protocol):
    """A model of the devices. Deterministic: it draws from `random_for` alone."""

    def behave(self, clients: Sequence[str], number: int, random_for: RandomFor) -> Sequence[Behaviour]:
        """One behaviour per client. clients: those invited together in round `number`, the cohort or a substitute."""


@dataclass(frozen=True, slots=True)
class Instant:
    """Every device answers at once: the default."""

    def behave(self, clients: Sequence[str], number: int, random_for: RandomFor) -> Sequence[Behaviour]:
        """No time passes."""
        del number, random_for
        return [Behaviour()] * len(clients)


@dataclass(frozen=True, slots=True)
class Dropouts:
    """Each invited device vanishes with the probability `rate`, independently; the others answer after `seconds`."""

    rate: float
    """0 ≤ rate ≤ 1."""
    seconds: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        _check_share("Dropouts(rate)", self.rate)

    def behave(self, clients: Sequence[str], number: int, random_for: RandomFor) -> Sequence[Behaviour]:
        """Drawn per client and round."""
        return [
            Behaviour(self.seconds, drops_out=bool(random_for("dropout", number, client).random() < self.rate))
            for client in clients
        ]


@dataclass(frozen=True, slots=True)
class Stragglers:
    """A share of each cohort completes a uniform random part of its local work before the deadline.

    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: "Federated Optimization in Heterogeneous Networks", MLSys 2020,
    arXiv:1812.06127, section 5.2; `fraction` 0.9 is its most heterogeneous setting. FedAvg drops the stragglers,
    FedProx keeps what they did.
    """

    fraction: float = 0.9
    """0 ≤ fraction ≤ 1 of the clients invited together; a broken number is rounded up or down at random."""
    least_work: float = 0.0
    """The share of the local work that a straggler completes is uniform in (least_work, 1]."""
    seconds: float = 1.0
    """Virtual seconds that the others take."""

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        _check_share("Stragglers(fraction)", self.fraction)
        _check_share("Stragglers(least_work)", self.least_work)

    def behave(self, clients: Sequence[str], number: int, random_for: RandomFor) -> Sequence[Behaviour]:
        """Who straggles is drawn from the clients invited together; how far each gets, per client and round."""
        rng = random_for("stragglers", number, *clients[:1])
        count = math.floor(round(self.fraction * len(clients), 9) + rng.random())
        slow = set(rng.permutation(len(clients))[:count].tolist())
        return [
            Behaviour(self.seconds, work=self._work(random_for("work", number, client)) if k in slow else 1.0)
            for k, client in enumerate(clients)
        ]

    def _work(self, rng: np.random.Generator) -> float:
        return float(1.0 - rng.random() * (1.0 - self.least_work))  # random() < 1, so never 0


@dataclass(frozen=True, slots=True)
class LogNormalSpeeds:
    """A device takes `seconds` · exp(sigma·z) · exp(jitter·z'): z is drawn once per device, z' in each round.

    A device that would miss the deadline manages the share deadline / seconds of its work.
    """

    seconds: float = 10.0
    """The median."""
    sigma: float = 0.5
    """How unlike the devices are, ≥ 0; 0.5: one in six takes more than 1.65 times the median."""
    jitter: float = 0.0
    """How unlike the rounds of one device are, ≥ 0."""
    dropout: float = 0.0
    """The probability that a device vanishes in a round."""

    def __post_init__(self) -> None:
        """Refuse what is no scale."""
        if min(self.seconds, self.sigma, self.jitter) < 0:
            raise ConfigError(f"{self}: seconds, sigma and jitter must be at least 0")
        _check_share("LogNormalSpeeds(dropout)", self.dropout)

    def behave(self, clients: Sequence[str], number: int, random_for: RandomFor) -> Sequence[Behaviour]:
        """The speed belongs to the device, the jitter and the drop-out to the round."""
        return [self._one(random_for("speed", client), random_for("round", number, client)) for client in clients]

    def _one(self, device: np.random.Generator, this_round: np.random.Generator) -> Behaviour:
        exponent = self.sigma * device.standard_normal() + self.jitter * this_round.standard_normal()
        return Behaviour(self.seconds * math.exp(exponent), drops_out=bool(this_round.random() < self.dropout))


def devices_of(text: str | None) -> Devices:
    """A model by its kind and number, `stragglers:0.9`; None: `Instant`. Raises `ConfigError` that lists the kinds."""
    if text is None:
        return Instant()
    kind, _, amount = text.partition(":")
    try:
        share = float(amount)
    except ValueError:
        raise ConfigError(f"devices {text}: after the colon comes a number, for example dropouts:0.1") from None
    match kind:
        case "dropouts":
            return Dropouts(share)
        case "stragglers":
            return Stragglers(share)
        case "lognormal":
            return LogNormalSpeeds(sigma=share)
        case _:
            raise ConfigError(f"devices {text}: there is dropouts:RATE, stragglers:SHARE and lognormal:SIGMA")


def _check_share(what: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ConfigError(f"{what} is {share}; it must be between 0 and 1")
