"""Rounds in which nobody waits for the others: a round is over with the K-th update, and whoever works goes on.

`Buffered` is the machine of all rounds of a run, one after another: `Due` opens the next one. A client that is invited
trains on the model of the round that is open then (`base`), and its update counts in the round that is open when it
arrives; their difference is its staleness. As many clients work at once as the selection invites. A free place goes to
a client that has not been given this round's model yet, has no other task, and has no update in this round's sum: so
nobody is in a sum twice, nor is anybody's task given twice. Places are filled by a `Tick`, after all that happens at
the same time: where all clients take equally long, and K of them work at once, a round is one of `Round`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Self

from hansa.algorithm import Cohort
from hansa.errors import Reason
from hansa.messages import RoundRules
from hansa.rounds.events import (
    Abandoned,
    Accepted,
    Cancelled,
    Command,
    Completed,
    Connected,
    Disconnected,
    Due,
    Event,
    Failed,
    Finish,
    Invite,
    NotMet,
    Outcome,
    Progressed,
    Rejected,
    Seal,
    Sealed,
    Tick,
    WakeAt,
    Withdraw,
)
from hansa.rounds.why import listed

__all__ = ["Buffered", "Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """A client at work."""

    base: int
    """The round whose model it has."""
    since: float
    """When it was heard of last."""


@dataclass(slots=True)
class Buffered:
    """Events in, commands out, as `Round`; but it is not over with `Finish`: `Due` opens the next round."""

    rules: RoundRules
    size: int
    """K."""
    max_staleness: int | None
    choose: Callable[[Sequence[str], int], Cohort]
    """(connected clients, sorted; round) → as many as are to work at once, and who follows, in this order."""
    number: int = 0
    """The round that is open, or was last."""
    is_open: bool = False
    at_work: dict[str, Place] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    """Whose updates are in this round's sum → staleness."""
    _connected: frozenset[str] = frozenset()
    _places: int = 0
    _queue: dict[str, None] = field(default_factory=dict)
    """In this order; who comes later is at the end."""
    _given: set[str] = field(default_factory=set)
    """Who was given this round's model."""
    _missing: set[str] = field(default_factory=set)
    _rejected: dict[str, tuple[Reason, str]] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)
    _sealing: bool = False
    _over_at: float = math.inf
    _now: float = 0.0

    def copy(self) -> Self:
        """Another one in the same state."""
        return replace(
            self,
            at_work=dict(self.at_work),
            _queue=dict(self._queue),
            counted=dict(self.counted),
            _given=set(self._given),
            _missing=set(self._missing),
            _rejected=dict(self._rejected),
            _failed=dict(self._failed),
        )

    def refusal(self, client: str) -> tuple[Reason, str] | None:
        """Why an update that a client offers now must not be counted; None: it may be."""
        place = self.at_work.get(client)
        if place is None:
            if client in self.counted:
                return Reason.DUPLICATE, f"{client} is counted in round {self.number} already"
            return Reason.NOT_INVITED, f"{client} has no task; it takes part when it gets one"
        stale = self.number - place.base
        if self.max_staleness is not None and stale > self.max_staleness:
            return Reason.LATE, f"its model is {stale} rounds old, and max_staleness is {self.max_staleness}"
        return None

    def handle(self, event: Event) -> list[Command]:
        """What to do now that this has happened; nothing for what is no news."""
        self._now = max(self._now, event.now)
        match event:
            case Due(_, connected):
                return self._open(connected) if not self.is_open else []
            case Sealed(_, contributors):
                return self._sealed(contributors)
            case Cancelled(_, cause):
                return [self._finish(Abandoned(cause))] if self.is_open else []
            case Progressed(_, client):
                self._renew(client)
                return []  # the earlier alarm stands: it finds nothing to do, and sets the next
            case Connected(_, client):
                self._connected |= {client}
                self._queue.setdefault(client)
                again = [Invite((client,))] if self._renew(client) else []  # what it was doing may be lost
                return [*again, *self._go_on()]
            case Disconnected(_, client):
                self._connected -= {client}
            case Accepted() | Rejected() | Failed():
                self._answered(event)
            case Tick():
                pass
        return list(self._go_on(fill=isinstance(event, Tick)))

    def _renew(self, client: str) -> bool:
        """Begin the lease of a client anew; whether it has a task."""
        place = self.at_work.get(client)
        if place is not None:
            self.at_work[client] = replace(place, since=self._now)
        return place is not None

    def _answered(self, event: Accepted | Rejected | Failed) -> None:
        """What became of a task; nothing for a client that has none, so that nothing counts twice."""
        place = self.at_work.pop(event.client, None)
        if place is None:
            return
        match event:
            case Accepted(_, client):
                self.counted[client] = self.number - place.base
            case Rejected(_, client, reason, detail):
                self._rejected[client] = (reason, detail)
            case Failed(_, client, message):
                self._failed[client] = message

    # ── one round ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, connected: frozenset[str]) -> list[Command]:
        self.number += 1
        self.is_open, self._sealing = True, False
        self._over_at = self._now + self.rules.deadline
        self._connected = connected
        self.counted, self._given, self._missing, self._rejected, self._failed = {}, set(), set(), {}, {}
        cohort = self.choose(sorted(connected), self.number)
        self._places = len(cohort.invited)
        self._queue = dict.fromkeys((*cohort.invited, *cohort.substitutes, *sorted(connected)))
        return list(self._go_on(fill=True))

    def _go_on(self, *, fill: bool = False) -> Iterator[Command]:
        """What follows from where things stand, whatever the event was. fill: free places now, or ask for a `Tick`."""
        if not self.is_open or self._sealing:
            return
        if len(self.counted) >= self.size:
            yield self._seal()
            return
        if self._now >= self._over_at:
            yield self._close("its deadline has passed")
            return
        yield from self._end_leases()
        chosen = self._next(self._places - len(self.at_work))
        if chosen and not fill:
            yield WakeAt(self._now)
            return
        if chosen:
            yield self._invite(chosen)
        if not self.at_work and self._connected and self._connected <= self._given | self.counted.keys():
            yield self._close("nobody is left to train")
            return
        leases = min((place.since for place in self.at_work.values()), default=math.inf) + self.rules.lease
        yield WakeAt(min(self._over_at, leases))

    def _next(self, free: int) -> tuple[str, ...]:
        """Who may take a free place, by name."""
        may = (
            client
            for client in self._queue
            if client in self._connected
            and not (client in self._given or client in self.at_work or client in self.counted)
        )
        return tuple(sorted(islice(may, max(free, 0))))

    def _invite(self, clients: tuple[str, ...]) -> Command:
        self.at_work |= {client: Place(self.number, self._now) for client in clients}
        self._given |= set(clients)
        return Invite(clients)

    def _end_leases(self) -> Iterator[Command]:
        for client, place in list(self.at_work.items()):
            if place.since + self.rules.lease <= self._now:
                del self.at_work[client]
                self._missing.add(client)
                yield Withdraw(client, f"no progress for {self.rules.lease:g} s, its lease")

    def _sealed(self, contributors: frozenset[str]) -> list[Command]:
        if not self._sealing:
            return []
        self._sealing = False
        self._missing |= self.counted.keys() - contributors
        self.counted = {client: stale for client, stale in self.counted.items() if client in contributors}
        over = self._now >= self._over_at or len(self.counted) >= self.size
        if over or (not self.at_work and len(self.counted) >= self.rules.quorum):
            return [self._close("the sum was sealed")] if len(self.counted) < self.rules.quorum else [self._done()]
        return list(self._go_on())

    def _seal(self) -> Command:
        self._sealing = True
        return Seal()

    def _close(self, why: str) -> Command:
        """With what there is, where that is a quorum."""
        return self._seal() if len(self.counted) >= self.rules.quorum else self._finish(self._not_met(why))

    def _done(self) -> Command:
        return self._finish(
            Completed(
                tuple(sorted(self.counted)),
                tuple(sorted(self._missing - self.counted.keys())),
                dict(sorted(self._rejected.items())),
                dict(sorted(self._failed.items())),
            )
        )

    def _finish(self, outcome: Outcome) -> Command:
        self.is_open = False
        return Finish(outcome)

    def _not_met(self, why: str) -> NotMet:
        said = [
            f"{title} {listed(words)}"
            for title, words in (
                ("still at work:", sorted(self.at_work)),
                ("lost their lease:", sorted(self._missing)),
                ("rejected:", [f"{name} ({reason}: {text})" for name, (reason, text) in self._rejected.items()]),
                ("failed:", [f"{name} ({text})" for name, text in self._failed.items()]),
            )
            if words
        ]
        return NotMet(
            f"round {self.number}: {len(self.counted)} of {self.size} updates are in its buffer, the quorum is "
            f"{self.rules.quorum}, and {why}; {'; '.join([*said, f'lengthen `deadline` ({self.rules.deadline:g} s)'])} "
            "or lower `quorum`",
            tuple(sorted(self.counted)),
            tuple(sorted(self._missing)),
            dict(self._rejected),
            dict(self._failed),
        )
