"""What a round waits for, as a value that a person or a program can read."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from hansa.messages import Kind

__all__ = ["Outstanding", "RoundState", "Why", "far", "listed"]

_SHOWN = 5
"""Names in one sentence."""
_OF_BYTES = frozenset({"download", "upload", "queue", "model"})
"""Activities of hansa's own that are measured in bytes; those of user code are in its own units."""


class RoundState(StrEnum):
    """The life of a round."""

    WAITING = "waiting"
    """For its time, or for enough connected clients."""
    OPEN = "open"
    """Clients work, updates are taken."""
    SEALING = "sealing"
    """No more updates are taken; the servers hand in their sums."""
    CLOSED = "closed"


def far(activity: str, done: float, total: float) -> str:
    """How far something is, for people: 40/100, or 3.2/4.0 MB."""
    return f"{done / 1e6:.1f}/{total / 1e6:.1f} MB" if activity in _OF_BYTES else f"{done:g}/{total:g}"


@dataclass(frozen=True, slots=True)
class Outstanding:
    """One client that the round waits for."""

    name: str
    activity: str
    """What it last said that it does; "invited" before it said anything."""
    done: float
    total: float
    """0 where it is unknown."""
    rate: float | None
    """Units of `done` per second; None until two reports tell it."""
    silent: float
    """Seconds since it was invited or last heard."""
    lease_ends: float
    """The time at which it loses its place unless it is heard before."""
    connected: bool
    staleness: int | None = None
    """Rounds that were committed since it was given its model; None: the round is no asynchronous one."""

    def __str__(self) -> str:
        """For example "b (train 40/100, silent for 3 s, not connected)"."""
        measured = f" {far(self.activity, self.done, self.total)}" if self.total > 0 else ""
        away = "" if self.connected else ", not connected"
        stale = f", its model is {self.staleness} round{'s' * (self.staleness > 1)} old" if self.staleness else ""
        return f"{self.name} ({self.activity}{measured}, silent for {_seconds(self.silent)} s{stale}{away})"


@dataclass(frozen=True, slots=True)
class Why:
    """What a round waits for at the time `now`."""

    now: float
    round: int
    kind: Kind
    state: RoundState
    connected: int
    needed: int
    """Connected clients without which it does not open."""
    invited: int
    """Everyone who was ever invited to it, substitutes too."""
    accepted: int
    examples: int
    """Of the accepted updates."""
    quorum: int
    enough: int | None
    """Accepted updates that close it at once."""
    deadline: float | None
    """The time at which it closes or fails; None before it is due."""
    outstanding: tuple[Outstanding, ...]
    """Who holds a lease, by name."""
    withdrawn: tuple[str, ...]
    """Who lost its lease, by name."""
    rejected: int
    failed: int
    staleness: int | None = None
    """Of an asynchronous round: the largest of the accepted updates; None: it is none, and `enough` no buffer."""
    chosen: str = ""
    """Whom the run chooses, in words; empty: anybody. `connected` counts these alone."""
    present: int | None = None
    """Clients that are connected, chosen or not; None: it is not known here."""

    def __str__(self) -> str:
        """One sentence for a person."""
        if self.kind is Kind.PROGRAM:
            waited = listed(str(party) for party in self.outstanding)
            return f"the program runs: {self.accepted} of {self.invited} parties have ended; it waits for {waited}"
        if self.deadline is None and self.state is RoundState.WAITING:
            return f"round {self.round} is not due yet"
        named = "the prediction" if self.kind is Kind.PREDICT else f"round {self.round}"
        left = "" if self.deadline is None else f"; {_seconds(self.deadline - self.now)} s to its deadline"
        match self.state:
            case RoundState.WAITING:
                return f"{named} waits for clients: {self._matching()}, {self.needed} needed{left}"
            case RoundState.OPEN:
                waited = listed(str(client) for client in self.outstanding) or self._newcomers()
                return f"{named} is open: {self.counts()}; it waits for {waited}{left}"
            case RoundState.SEALING:
                return f"{named} waits for the servers' sums: {self.counts()}"
            case RoundState.CLOSED:
                return f"{named} is closed: {self.counts()}"

    def _matching(self) -> str:
        if not self.chosen:
            return f"{self.connected} connected"
        some = self.connected if self.present is None else f"{self.connected} of {self.present}"
        return f"{some} connected are {self.chosen}"

    def _newcomers(self) -> str:
        settled = ((self.failed, "failed"), (self.rejected, "were refused"))
        gone = " and ".join(f"{count} that {what}" for count, what in settled if count)
        place = f", in the place of {gone}" if gone else ""
        away = listed(self.withdrawn)
        return f"newcomers{place}" + (f", or for those that lost their lease to come back: {away}" if away else "")

    def counts(self) -> str:
        """For example "2 of 4 invited clients delivered, 3 are needed"."""
        if self.staleness is not None:
            oldest = f", the oldest made from a model of {self.staleness} rounds ago" if self.staleness else ""
            return f"{self.accepted} of {self.enough} updates are in its buffer{oldest}"
        return f"{self.accepted} of {self.invited} invited clients delivered, {self.quorum} are needed"


def _seconds(count: float) -> str:
    return f"{count:.0f}" if count >= 100 else f"{count:.3g}"  # noqa: PLR2004 - three digits


def listed(names: Iterable[str]) -> str:
    """The first few, and how many more; empty for nobody."""
    every = list(names)
    rest = len(every) - _SHOWN
    return ", ".join(every[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
