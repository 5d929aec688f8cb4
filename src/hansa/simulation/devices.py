"""How simulated devices behave: how long they take on the virtual clock, how far they get, and whether they vanish.

A model of your own has the one method of `Devices`; where devices come and go, those of `ComingAndGoing` too. Devices
with a measured or generated trace are `hansa.simulation.traces`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from hansa.errors import ConfigError

__all__ = [
    "Behaviour",
    "ComingAndGoing",
    "Devices",
    "Dropouts",
    "Instant",
    "Invitation",
    "LogNormalSpeeds",
    "RandomFor",
    "Stragglers",
]

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


def _unknown(client: str) -> int:
    raise ConfigError(f"how many examples {client} has is not known here")


@dataclass(frozen=True, slots=True)
class Invitation:
    """What clients are invited to, and when."""

    round: int
    """From 1."""
    at: float = 0.0
    """Virtual seconds since the run began."""
    download: int = 0
    """Bytes of what the server sends to each client."""
    upload: int = 0
    """Bytes of what each client sends back, as far as is known before it has trained: as many as it downloads."""
    examples: Callable[[str], int] = _unknown
    """Client → how many examples it trains on; this loads the client's data."""


class Devices(Protocol):
    """A model of the devices. Deterministic: it draws from `random_for` alone."""

    def behave(self, clients: Sequence[str], invitation: Invitation, random_for: RandomFor) -> Sequence[Behaviour]:
        """One behaviour per client. clients: those invited together, the cohort or a substitute."""


@runtime_checkable
class ComingAndGoing(Protocol):
    """What `Devices` have as well when they are not always there.

    A round invites only clients that are there; it waits, up to its deadline, until `min_clients` and `quorum` are. A
    client that leaves before its update has arrived has lost its work, and its place when its lease ends; one that
    comes back begins anew, and one that comes may take a place that is free.
    """

    def present(self, numbers: npt.NDArray[np.int64], at: float) -> npt.NDArray[np.bool_]:
        """Who is there at this virtual time, shape (n,). numbers: shape (n,), 7 for client-7."""

    def next_change(self, number: int, at: float) -> float:
        """When the client comes or goes for the first time after `at`; infinity: it never does."""


@dataclass(frozen=True, slots=True)
class Instant:
    """Every device answers at once: the default."""

    def behave(self, clients: Sequence[str], invitation: Invitation, random_for: RandomFor) -> Sequence[Behaviour]:
        """No time passes."""
        del invitation, random_for
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

    def behave(self, clients: Sequence[str], invitation: Invitation, random_for: RandomFor) -> Sequence[Behaviour]:
        """Drawn per client and round."""
        return [
            Behaviour(
                self.seconds, drops_out=bool(random_for("dropout", invitation.round, client).random() < self.rate)
            )
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

    def behave(self, clients: Sequence[str], invitation: Invitation, random_for: RandomFor) -> Sequence[Behaviour]:
        """Who straggles is drawn from the clients invited together; how far each gets, per client and round."""
        rng = random_for("stragglers", invitation.round, *clients[:1])
        count = math.floor(round(self.fraction * len(clients), 9) + rng.random())
        slow = set(rng.permutation(len(clients))[:count].tolist())
        return [
            Behaviour(self.seconds, work=self._work(random_for("work", invitation.round, client)) if k in slow else 1.0)
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
        for each in (self.seconds, self.sigma, self.jitter):
            if not _is_number(each) or not 0 <= each < math.inf:
                raise ConfigError(f"{self}: seconds, sigma and jitter must be numbers of at least 0, and finite")
        _check_share("LogNormalSpeeds(dropout)", self.dropout)

    def behave(self, clients: Sequence[str], invitation: Invitation, random_for: RandomFor) -> Sequence[Behaviour]:
        """The speed belongs to the device, the jitter and the drop-out to the round."""
        return [
            self._one(random_for("speed", client), random_for("round", invitation.round, client)) for client in clients
        ]

    def _one(self, device: np.random.Generator, this_round: np.random.Generator) -> Behaviour:
        exponent = self.sigma * device.standard_normal() + self.jitter * this_round.standard_normal()
        return Behaviour(self.seconds * math.exp(exponent), drops_out=bool(this_round.random() < self.dropout))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_share(what: str, share: float) -> None:
    if not _is_number(share) or not 0 <= share <= 1:
        raise ConfigError(f"{what} is {share!r}; it must be a number between 0 and 1")
