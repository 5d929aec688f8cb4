"""Who was invited to a round, and how each of them stands: the books that `Round` keeps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from hansa.errors import Reason
from hansa.rounds.events import Completed, Progressed
from hansa.rounds.why import Outstanding

__all__ = ["ABOUT_THE_ROUND", "Broken", "Counted", "Lapsed", "Refused", "Seat", "Seats", "Working"]

ABOUT_THE_ROUND = frozenset({Reason.LATE, Reason.UNKNOWN_ROUND, Reason.NOT_INVITED})
"""Reasons that say nothing about the update: when the round is open (again), or the invitation has come to the server
that a client has just moved to, it can still be taken."""


@dataclass(frozen=True, slots=True)
class Working:
    """Holds a lease."""

    since: float
    """When the client was invited or last heard."""
    activity: str = "invited"
    done: float = 0.0
    total: float = 0.0
    began: tuple[float, float] | None = None
    """When the activity was first reported, and `done` then."""

    def progressed(self, event: Progressed, now: float) -> "Working":
        """The same seat after a report; `began` starts anew with another activity, or when the work starts over."""
        same = self.began is not None and event.activity == self.activity and event.done >= self.done
        return Working(now, event.activity, event.done, event.total, self.began if same else (now, event.done))

    @property
    def rate(self) -> float | None:
        """Units of `done` per second since the activity began; None until two reports tell it."""
        if self.began is None:
            return None
        start, before = self.began
        return (self.done - before) / (self.since - start) if self.since > start and self.done > before else None

    def outstanding(
        self, name: str, now: float, *, lease: float, connected: bool, staleness: int | None = None
    ) -> Outstanding:
        """What is waited for here. lease: seconds; staleness: as of `Outstanding`."""
        return Outstanding(
            name=name,
            activity=self.activity,
            done=self.done,
            total=self.total,
            rate=self.rate,
            silent=now - self.since,
            lease_ends=self.since + lease,
            connected=connected,
            staleness=staleness,
        )


@dataclass(frozen=True, slots=True)
class Lapsed:
    """Lost its lease; if it delivers all the same, that counts."""

    since: float
    """When it was last heard before."""
    alive: bool = False
    """Whether it was heard again: it may have its place back while nobody else has it."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Its update is in the sum."""

    num_examples: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """Its update was rejected."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Broken:
    """It cannot deliver."""

    message: str


Seat: TypeAlias = Working | Lapsed | Counted | Refused | Broken


class Seats:
    """Client → how it stands, with running counts, so that an event costs the same in a large cohort."""

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}
        self.working = 0
        self.counted = 0
        self.lapsed = 0

    def __len__(self) -> int:
        return len(self._seats)

    def __contains__(self, client: str) -> bool:
        return client in self._seats

    def __iter__(self) -> Iterator[tuple[str, Seat]]:
        """By name: nothing that a round does depends on the order in which clients came."""
        return iter(sorted(self._seats.items(), key=lambda item: item[0]))

    def get(self, client: str) -> Seat | None:
        """How an invited client stands; None for another."""
        return self._seats.get(client)

    def put(self, client: str, seat: Seat) -> None:
        """Seat a client, or change how it stands."""
        self._count(self._seats.get(client), -1)
        self._count(seat, 1)
        self._seats[client] = seat

    def names(self) -> frozenset[str]:
        """Everyone who was invited."""
        return frozenset(self._seats)

    def at_work(self) -> list[tuple[str, Working]]:
        """Those who hold a lease, by name."""
        return [(client, seat) for client, seat in self if isinstance(seat, Working)]

    def earliest(self) -> float | None:
        """The smallest `since` of those who hold a lease."""
        return min((seat.since for seat in self._seats.values() if isinstance(seat, Working)), default=None)

    def lists(self) -> Completed:
        """Everyone in exactly one list."""
        contributors, missing = [], []
        rejected, failed = {}, {}
        for client, seat in self:
            match seat:
                case Counted():
                    contributors.append(client)
                case Working() | Lapsed():
                    missing.append(client)
                case Refused(reason, detail):
                    rejected[client] = (reason, detail)
                case Broken(message):
                    failed[client] = message
        return Completed(tuple(contributors), tuple(missing), rejected, failed)

    def _count(self, seat: Seat | None, step: int) -> None:
        match seat:
            case Working():
                self.working += step
            case Counted():
                self.counted += step
            case Lapsed():
                self.lapsed += step
            case Refused() | Broken() | None:
                pass
