"""One phase of one round: who is invited, whose lease ended, when it closes, and with whom.

Events in, commands out (`events`). The states:

    WAITING ──enough are connected──▶ OPEN ──Seal──▶ SEALING ──Sealed: a quorum──▶ CLOSED
       │                               │ ▲              │
       │                               │ └──some lost───┤ (with a server; before the deadline)
       └──deadline──▶ CLOSED ◀─deadline┘                └──too few, after it──▶ CLOSED

Whose updates were lost with a server have them still, and a lease to offer them again, though the rest are a quorum.

Each event is applied first and time passes after it, so that a delivery that the driver hands in together with the
deadline counts. What a duplicate or late event says is known already, or comes too late: it changes nothing.

An evaluation is only a measurement: it ends before its deadline when for a lease too few have connected, or when all
who have not answered are silent for a lease and not connected.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

from hansa.algorithm import Cohort
from hansa.errors import ConfigError, Reason, UpdateRejectedError
from hansa.messages import Kind, RoundRules
from hansa.rounds.events import (
    Abandoned,
    Accepted,
    Cancelled,
    Command,
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
from hansa.rounds.seats import ABOUT_THE_ROUND, Broken, Counted, Lapsed, Refused, Seats, Working
from hansa.rounds.why import RoundState, Why, listed

__all__ = ["Round"]

Choose: TypeAlias = Callable[[Sequence[str]], Cohort | None]


class Round:
    """Training, evaluation and prediction alike: but for `Kind.TRAIN` the reports are what is accepted.

    Where a policy's cohort cannot be used, or it raises, `handle` raises too, and the round is as before `choose`.
    """

    def __init__(self, number: int, kind: Kind, rules: RoundRules, choose: Choose) -> None:
        """number: from 1; rules: as `rules.validate` lets pass.

        choose: the sorted connected clients → the cohort; None: not yet, ask again when something happens.
        """
        self.number = number
        self.kind = kind
        self.rules = rules
        self.state = RoundState.WAITING
        self.outcome: Outcome | None = None
        self._choose = choose
        self._connected: set[str] = set()
        self._cohort = Cohort(())
        self._seats = Seats()
        self._now = -math.inf
        self._deadline: float | None = None
        self._opens_by = math.inf
        """When it is given up that enough clients connect."""
        self._soonest = math.inf
        """Before this time no lease ends and no deadline passes; the exact time is found when it is reached."""
        self._wake = math.inf
        """What the last `WakeAt` asked for."""

    @property
    def invited(self) -> frozenset[str]:
        """Everyone who was ever invited: a sum may hold these and nobody else."""
        return self._seats.names()

    def engages(self, client: str) -> bool:
        """Whether a client is in it, or may be at any moment: whoever is not can be away without being missed."""
        return self.state is RoundState.WAITING or client in self._seats

    def handle(self, event: Event) -> list[Command]:
        """What to do now, in this order; nothing before `Due` (but for `Cancelled`) and nothing after `Finish`."""
        self._now = max(self._now, event.now)
        if self.state is RoundState.CLOSED or (self._deadline is None and not isinstance(event, Due | Cancelled)):
            return []
        return [*self._apply(event), *self._pass_time(), *self._set_alarm(ticked=isinstance(event, Tick))]

    def why(self, now: float) -> Why:
        """What it waits for."""
        lists = self._seats.lists()
        return Why(
            now=now,
            round=self.number,
            kind=self.kind,
            state=self.state,
            connected=len(self._connected),
            needed=self._needed,
            invited=len(self._seats),
            accepted=self._seats.counted,
            examples=sum(seat.num_examples for _, seat in self._seats if isinstance(seat, Counted)),
            quorum=self.rules.quorum,
            enough=self.rules.enough,
            deadline=self._deadline,
            outstanding=tuple(
                seat.outstanding(client, now, lease=self.rules.lease, connected=client in self._connected)
                for client, seat in self._seats.at_work()
            ),
            withdrawn=tuple(client for client, seat in self._seats if isinstance(seat, Lapsed)),
            rejected=len(lists.rejected),
            failed=len(lists.failed),
        )

    # ── an event says something ──────────────────────────────────────────────────────────────────────────────────────

    def _apply(self, event: Event) -> Iterator[Command]:  # noqa: C901, PLR0912 - flat: one case for each event
        match event:
            case Due(now, connected):
                if self._deadline is None:
                    self._connected = set(connected)
                    self._deadline = now + self.rules.deadline
                    self._opens_by = self._soonest = now + self._patience
                    if event.invited:
                        yield from self._go_on_with(event.invited, event.places)
            case Connected(_, client):
                yield from self._connect(client)
            case Disconnected(_, client):
                self._connected.discard(client)
            case Progressed():
                self._progress(event)
            case Accepted(_, client, num_examples):
                if client in self._seats and not isinstance(self._seats.get(client), Counted):
                    self._seats.put(client, Counted(num_examples))
            case Rejected(_, client, reason, detail):
                # Out of date when the round is open (again): the lease decides.
                if not (reason in ABOUT_THE_ROUND and self.state is RoundState.OPEN):
                    self._give_up(client, Refused(reason, detail))
            case Failed(_, client, message):
                self._give_up(client, Broken(message))
            case Tick():
                pass
            case Sealed(_, contributors):
                if self.state is RoundState.SEALING:
                    yield from self._sealed(contributors)
            case Cancelled(_, cause):
                yield self._finish(Abandoned(cause))

    def _go_on_with(self, invited: tuple[str, ...], places: int) -> Iterator[Command]:
        """Everyone may have an update already: who is connected offers it, or begins; the others when they come."""
        self._cohort = Cohort(invited[:places])
        self.state = RoundState.OPEN
        self._invite(invited)
        here = tuple(client for client in sorted(invited) if client in self._connected)
        if here:
            yield Invite(here)

    def _connect(self, client: str) -> Iterator[Command]:
        if client in self._connected:
            return
        self._connected.add(client)
        match self._seats.get(client):
            case Working():
                self._seats.put(client, Working(self._now))
                if self.state is RoundState.OPEN and not self._is_over:
                    yield Invite((client,))
            case Lapsed(since):
                self._seats.put(client, Lapsed(since, alive=True))
            case Counted() | Refused() | Broken() | None:
                pass

    def _progress(self, event: Progressed) -> None:
        match self._seats.get(event.client):
            case Working() as seat:
                self._seats.put(event.client, seat.progressed(event, self._now))
            case Lapsed(since):
                self._seats.put(event.client, Lapsed(since, alive=True))
            case Counted() | Refused() | Broken() | None:
                pass

    def _give_up(self, client: str, seat: Refused | Broken) -> None:
        """The first word of a client stands: what was counted stays counted, what failed has failed."""
        if isinstance(self._seats.get(client), Working | Lapsed):
            self._seats.put(client, seat)

    def _sealed(self, contributors: frozenset[str]) -> Iterator[Command]:
        strangers = sorted(contributors - self._seats.names())
        if strangers:
            raise UpdateRejectedError(
                Reason.NOT_INVITED,
                f"a sum for round {self.number} holds {listed(strangers)}, who took no part in it; drop that sum",
            )
        lost = self._reconcile(contributors)
        quorate = self._seats.counted >= self.rules.quorum
        if quorate and (not lost or self._is_over or self._is_enough):
            yield self._finish(self._seats.lists())
        elif self._is_over:
            yield self._finish(self._not_met(f"with a server the updates of {listed(lost)} were lost"))
        else:
            yield from self._reopen()

    def _reconcile(self, contributors: frozenset[str]) -> list[str]:
        """Make the books agree with the sum; who was counted and is not in it works again."""
        lost = []
        for client, seat in self._seats:
            counted = isinstance(seat, Counted)
            if client in contributors and not counted:
                self._seats.put(client, Counted())
            elif counted and client not in contributors:
                self._seats.put(client, Working(self._now))
                lost.append(client)
        return lost

    def _reopen(self) -> Iterator[Command]:
        """Whoever may still deliver offers (again): the lost, those who came too late, those who still work."""
        self.state = RoundState.OPEN
        for client, seat in self._seats:
            if isinstance(seat, Refused) and seat.reason in ABOUT_THE_ROUND:
                self._seats.put(client, Working(self._now))
        yield from self._end_leases()
        again = tuple(client for client, _ in self._seats.at_work() if client in self._connected)
        if again:
            yield Invite(again)

    # ── time passes ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _pass_time(self) -> Iterator[Command]:
        """What follows from where things stand, whatever the event was."""
        match self.state:
            case RoundState.WAITING:
                yield from self._wait()
            case RoundState.OPEN:
                yield from self._go_on()
            case RoundState.SEALING | RoundState.CLOSED:
                pass

    def _wait(self) -> Iterator[Command]:
        if self._now >= self._opens_by:
            yield self._finish(self._too_few_came())
        elif len(self._connected) >= self._needed:
            chosen = self._choose(sorted(self._connected))
            if chosen is None:
                return
            self._cohort = self._checked(chosen)
            self.state = RoundState.OPEN
            yield self._invite(self._cohort.invited)

    def _go_on(self) -> Iterator[Command]:
        quorate = self._seats.counted >= self.rules.quorum
        if self._is_over:
            yield self._seal() if quorate else self._finish(self._not_met(""))
            return
        if quorate and self._is_enough:
            yield self._seal()
            return
        if self._now >= self._soonest:
            yield from self._end_leases()
        yield from self._fill_places()
        if self._seats.working == 0:
            if quorate:
                yield self._seal()
            elif self._seats.lapsed == 0 and not self.rules.replace_failed:
                why = "nobody is left who could deliver, and `replace_failed` is off"
                yield self._finish(self._not_met(why) if self._seats.counted else self._not_met(why, "mend that first"))
            elif self._seats.lapsed == 0 and self._seats.counted == 0:
                yield self._finish(self._not_met("everyone failed, and nobody else is connected", "mend that first"))
            elif self.kind is not Kind.TRAIN and not self._may_yet_report():
                yield self._finish(
                    self._not_met(f"nobody who was invited is left to {self.kind}", "start clients again")
                )

    def _may_yet_report(self) -> bool:
        return any(isinstance(seat, Lapsed) and client in self._connected for client, seat in self._seats)

    def _end_leases(self) -> Iterator[Command]:
        for client, seat in self._seats.at_work():
            if seat.since + self.rules.lease <= self._now:
                self._seats.put(client, Lapsed(seat.since))
                silent = self._now - seat.since
                yield Withdraw(client, f"no progress for {silent:.3g} s, the lease is {self.rules.lease:g} s")
        earliest = self._seats.earliest()
        self._soonest = min(self._over_at, math.inf if earliest is None else earliest + self.rules.lease)

    def _fill_places(self) -> Iterator[Command]:
        vacant = len(self._cohort.invited) - self._seats.working - self._seats.counted
        if vacant > 0:
            chosen = tuple(islice(self._candidates(vacant), vacant))
            if chosen:
                yield self._invite(chosen)

    def _candidates(self, vacant: int) -> Iterator[str]:
        """Who may take a place, best first: substitutes, newcomers, then those who lost their lease and live."""
        if self.rules.replace_failed:
            named: set[str] = set()
            for name in self._cohort.substitutes:
                if name in self._connected and name not in self._seats and name not in named:
                    named.add(name)
                    yield name
            newcomers = (name for name in self._connected if name not in self._seats and name not in named)
            yield from heapq.nsmallest(vacant, newcomers)
        for client, seat in self._seats:
            if isinstance(seat, Lapsed) and seat.alive and client in self._connected:
                yield client

    def _set_alarm(self, *, ticked: bool) -> Iterator[Command]:
        """Renewed leases leave an earlier alarm standing: it finds nothing to do, and sets the next."""
        if self.state not in {RoundState.WAITING, RoundState.OPEN}:
            return
        if ticked or self._soonest < self._wake:
            self._wake = self._soonest
            yield WakeAt(self._wake)

    # ── commands and their books ─────────────────────────────────────────────────────────────────────────────────────

    def _invite(self, clients: tuple[str, ...]) -> Invite:
        for client in clients:
            self._seats.put(client, Working(self._now))
        self._soonest = min(self._soonest, self._now + self.rules.lease)
        return Invite(clients)

    def _seal(self) -> Seal:
        self.state = RoundState.SEALING
        self._wake = math.inf  # nothing is timed now; if it opens again, the alarm is set anew
        return Seal()

    def _finish(self, outcome: Outcome) -> Finish:
        self.state = RoundState.CLOSED
        self.outcome = outcome
        return Finish(outcome)

    # ── facts and words ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _is_enough(self) -> bool:
        """Whether as many are counted as close the round, whoever is at work still."""
        return self.rules.enough is not None and self._seats.counted >= self.rules.enough

    @property
    def _needed(self) -> int:
        return max(self.rules.min_clients, self.rules.quorum)

    @property
    def _patience(self) -> float:
        """Seconds until enough clients must be connected: an evaluation's are a lease."""
        return min(self.rules.lease, self.rules.deadline) if self.kind is Kind.EVALUATE else self.rules.deadline

    @property
    def _over_at(self) -> float:
        return math.inf if self._deadline is None else self._deadline

    @property
    def _is_over(self) -> bool:
        return self._now >= self._over_at

    def _checked(self, cohort: Cohort) -> Cohort:
        """A plug-in's policy may be wrong: say so rather than wait for clients that are not there."""
        strangers = [client for client in cohort.invited if client not in self._connected]
        said = ""
        if strangers:
            said = f"{listed(strangers)}, who are not connected"
        elif len(set(cohort.invited)) < len(cohort.invited):
            said = "a client twice"
        elif len(cohort.invited) < self.rules.quorum:
            said = f"{len(cohort.invited)} clients, fewer than the quorum of {self.rules.quorum}"
        if said:
            raise ConfigError(f"the policy {self.rules.selection!r} invited {said} to round {self.number}; correct it")
        return cohort

    def _too_few_came(self) -> NotMet:
        here = f" ({listed(sorted(self._connected))})" if self._connected else ""
        rule = "deadline" if self._patience == self.rules.deadline else "lease"
        match self.kind:
            case Kind.TRAIN:
                what = f"round {self.number}"
            case Kind.EVALUATE:
                what = f"the evaluation of round {self.number}"
            case Kind.PREDICT | Kind.PROGRAM:
                what = "the prediction"
        return NotMet(
            f"{what} did not open within its {rule} of {self._patience:g} s: "
            f"{len(self._connected)} clients are connected{here}, {self._needed} are needed; "
            f"start more clients, lengthen `{rule}`, or lower `min_clients` and `quorum`"
        )

    def _not_met(self, also: str, remedy: str = "") -> NotMet:
        by_rules = f"lengthen `deadline` ({self.rules.deadline:g} s) or lower `quorum` ({self.rules.quorum})"
        why, lists = self.why(self._now), self._seats.lists()
        away = [client for client in why.withdrawn if client not in self._connected]
        hung = [client for client in why.withdrawn if client in self._connected]
        said = [
            f"{title} {listed(words)}"
            for title, words in (
                ("still at work:", [str(client) for client in why.outstanding]),
                ("lost its lease and is not connected:", away),
                ("lost its lease while connected:", hung),
                ("rejected:", [f"{name} ({reason}: {text})" for name, (reason, text) in lists.rejected.items()]),
                ("failed:", [f"{name} ({text})" for name, text in lists.failed.items()]),
            )
            if words
        ]
        return NotMet(
            f"round {self.number}: {why.counts()}; {'; '.join([*said, *([also] if also else []), remedy or by_rules])}",
            lists.contributors,
            lists.missing,
            lists.rejected,
            lists.failed,
        )
