"""Rounds in which nobody waits for the others: a round is over with the K-th update, and whoever works goes on.

`Buffered` is the machine of all rounds of a run, one after another: `Due` opens the next one. A client that is invited
trains on the model of the round that is open then (`base`), and its update counts in the round that is open when it
arrives; their difference is its staleness. As many clients work at once as the selection invites, once as many as the
rules want are connected. A free place goes to a client that has not been given this round's model yet, has no other
task, and has no update in this round's sum: so nobody is in a sum twice, nor is anybody's task given twice. Places are
filled by a `Tick`, after all that happens at the same time: where all clients take equally long, and K of them work at
once, a round is one of `Round`.

Whoever falls silent loses its place: if it delivers before the round is over, that counts. If nobody else wants the
place, it has it again, or, where silence is final, a new one with the newest model. Whose update was lost with a server
has its place again, too.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Self

from hansa.algorithm import Cohort
from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import Kind, RoundRules
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
    Unused,
    WakeAt,
    Withdraw,
)
from hansa.rounds.intake import check_staleness
from hansa.rounds.seats import ABOUT_THE_ROUND, Working
from hansa.rounds.why import RoundState, Why, listed

__all__ = ["Buffered", "Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """A client at work."""

    base: int
    """The round whose model it has."""
    seat: Working

    @property
    def since(self) -> float:
        """When it was heard of last."""
        return self.seat.since


@dataclass(frozen=True, slots=True)
class _Lapsed:
    """A client that has lost its lease in this round."""

    base: int
    alive: bool = False
    """Whether it was heard again."""


@dataclass(slots=True)
class Buffered:
    """Events in, commands out, as `Round`; but it is not over with `Finish`: `Due` opens the next round."""

    rules: RoundRules
    size: int
    """K."""
    max_staleness: int | None
    choose: Callable[[Sequence[str], int], Cohort]
    """(connected clients, sorted; round) → as many as are to work at once, and who follows, in this order."""
    silence_is_final: bool = False
    """Whether nothing comes any more of who has lost its lease, so that it may have the newest model at once."""
    number: int = 0
    """The round that is open, or was last."""
    is_open: bool = False
    at_work: dict[str, Place] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    """Whose updates are in this round's sum → staleness."""
    _connected: frozenset[str] = frozenset()
    _places: int | None = None
    """None: fewer are connected than the rules want."""
    _queue: dict[str, None] = field(default_factory=dict)
    """In this order; who comes later is at the end."""
    _given: set[str] = field(default_factory=set)
    """Who was given this round's model."""
    _lapsed: dict[str, _Lapsed] = field(default_factory=dict)
    _unused: dict[tuple[str, int], Unused] = field(default_factory=dict)
    """(client, base) → what became of a task that is over: a client may have several of them in a round."""
    _returned: dict[str, None] = field(default_factory=dict)
    """Who came back while no updates were taken, and is to have its task again."""
    _examples: int = 0
    _sealing: bool = False
    _over_at: float = math.inf
    _now: float = 0.0

    def copy(self) -> Self:
        """Another one in the same state."""
        return replace(
            self,
            at_work=dict(self.at_work),
            counted=dict(self.counted),
            _queue=dict(self._queue),
            _given=set(self._given),
            _lapsed=dict(self._lapsed),
            _unused=dict(self._unused),
            _returned=dict(self._returned),
        )

    def take_up(self, number: int, bases: Mapping[str, int], now: float) -> None:
        """Go on after a committed round where another one has died. bases: whom it had at work, on which model.

        Their leases begin anew with the next round.
        """
        self.number, self._now = number, now
        self.at_work = {client: Place(base, Working(now)) for client, base in sorted(bases.items())}
        self._returned = dict.fromkeys(self.at_work)

    def go_on(self, number: int, at_work: Mapping[str, tuple[int, float]], now: float) -> None:
        """Go on between two rounds as another one would have, whose leases run on.

        at_work: of whom, the round of its model and when it was heard of last; in the order of the other one's.
        """
        self.number, self._now = number, now
        self.at_work = {client: Place(base, Working(since)) for client, (base, since) in at_work.items()}

    def engages(self, client: str) -> bool:
        """Whether a client is at work, or is counted in a round of which it has not been told; see `Round`."""
        return client in self.at_work or client in self._lapsed or client in self.counted

    def base_of(self, client: str) -> int | None:
        """The round whose model a client has for its task in this round; None: it has none."""
        for tasks in (self.at_work, self._lapsed):
            if client in tasks:
                base: int = tasks[client].base
                return base
        if client in self.counted:
            return self.number - self.counted[client]
        return max((base for name, base in self._unused if name == client), default=None)

    @property
    def bases(self) -> Mapping[str, int]:
        """Who is at work, on which round's model."""
        return {client: place.base for client, place in sorted(self.at_work.items())}

    def refusal(self, client: str) -> tuple[Reason, str] | None:
        """Why an update that a client offers now must not be counted; None: it may be."""
        place = self.at_work.get(client)
        if place is None:
            if client in self.counted:
                return Reason.DUPLICATE, f"{client} is counted in round {self.number} already"
            return Reason.NOT_INVITED, f"{client} has no task; it takes part when it gets one"
        try:
            check_staleness(self.number - place.base, self.max_staleness)
        except UpdateRejectedError as error:
            return error.reason, error.detail
        return None

    def handle(self, event: Event) -> list[Command]:
        """What to do now that this has happened; nothing for what is no news."""
        self._now = max(self._now, event.now)
        match event:
            case Due():
                return self._open(event) if not self.is_open else []
            case Sealed():
                return self._sealed(event)
            case Cancelled(_, cause):
                return [self._finish(Abandoned(cause))] if self.is_open else []
            case Progressed(_, client):
                if client in self.at_work:  # the earlier alarm stands: it finds nothing to do, and sets the next
                    place = self.at_work[client]
                    self.at_work[client] = replace(place, seat=place.seat.progressed(event, self._now))
                    return []
                self._revive(client)
            case Connected(_, client):
                self._connected |= {client}
                self._queue.setdefault(client)
                return [*self._returns(client), *self._go_on()]
            case Disconnected(_, client):
                self._connected -= {client}
            case Accepted() | Rejected() | Failed():
                self._answered(event)
            case Tick():
                pass
        return list(self._go_on(fill=isinstance(event, Tick)))

    def _returns(self, client: str) -> Iterator[Command]:
        """A client came: what it was doing may be lost."""
        self._revive(client)
        if client not in self.at_work:
            return
        self.at_work[client] = Place(self.at_work[client].base, Working(self._now))
        if self.is_open and not self._sealing:
            yield Invite((client,))
        else:
            self._returned[client] = None

    def _revive(self, client: str) -> None:
        if client in self._lapsed:
            self._lapsed[client] = replace(self._lapsed[client], alive=True)

    def _answered(self, event: Accepted | Rejected | Failed) -> None:
        """What became of a task; nothing for a client that has none, so that nothing counts twice."""
        client, base = event.client, self.base_of(event.client)
        match event:
            case Accepted(_, _, num_examples, summed) if client not in self.counted and (summed or base):
                self._count(client, summed or base or 0)
                self._examples += num_examples
            case Accepted():
                pass
            case _ if client not in self.at_work and client not in self._lapsed:
                pass  # the first word of a client stands
            case Rejected(_, _, reason, detail):
                if reason not in ABOUT_THE_ROUND:  # else the lease decides
                    self._refuse(client, detail, reason)
            case Failed(_, _, message):
                self._refuse(client, message)

    def _count(self, client: str, base: int) -> None:
        """Its update for the task with this base is in the sum, whatever that task had come to; it may have a newer."""
        self.counted[client] = self.number - base
        self._unused.pop((client, base), None)
        for tasks in (self.at_work, self._lapsed):
            if client in tasks and tasks[client].base == base:
                del tasks[client]

    def _refuse(self, client: str, message: str, reason: Reason | None = None) -> None:
        task = self.at_work.pop(client, None) or self._lapsed.pop(client)
        self._end(Unused(client, task.base, message, reason))

    def _end(self, task: Unused) -> None:
        self._unused[task.client, task.base] = task

    # ── one round ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, due: Due) -> list[Command]:
        """The next round; due.invited: of one that had begun before its driver died, who was given its model."""
        self.number += 1
        self.is_open, self._sealing = True, False
        self._over_at = self._now + self.rules.deadline
        self._connected = due.connected
        self.counted, self._examples, self._lapsed, self._places = {}, 0, {}, None
        # what had become of their earlier tasks in this round died with the driver; they were given another after it
        for client in due.invited:
            if client in self.at_work:
                self._end(Unused(client, self.at_work[client].base))
        self._queue, self._given = dict.fromkeys(sorted(due.connected)), set(due.invited)
        self.at_work |= {client: Place(self.number, Working(self._now)) for client in due.invited}
        returned, self._returned = {**self._returned, **dict.fromkeys(due.invited)}, {}
        here = [client for client in returned if client in self.at_work and client in due.connected]
        return [*self._invitations(here), *self._go_on(fill=True)]

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
        chosen = self._next()
        if chosen and not fill:
            yield WakeAt(self._now)
            return
        yield from self._invite(chosen)
        if self._nobody_is_left:
            yield self._close("nobody is left to train")
            return
        leases = min((place.since for place in self.at_work.values()), default=math.inf) + self.rules.lease
        yield WakeAt(min(self._over_at, leases))

    def _next(self) -> tuple[str, ...]:
        """Who may take a free place, by name."""
        if self._places is None and len(self._connected) >= max(self.rules.min_clients, self.rules.quorum):
            cohort = self.choose(sorted(self._connected), self.number)
            self._places = len(cohort.invited)
            self._queue = dict.fromkeys((*cohort.invited, *cohort.substitutes, *self._queue))
        free = (self._places or 0) - len(self.at_work)
        if free <= 0:
            return ()
        new = (client for client in self._queue if client in self._connected and self._may_begin(client))
        silent = {client: each for client, each in self._lapsed.items() if client in self._connected}
        again = (client for client, each in silent.items() if each.alive)
        anew = (client for client, each in silent.items() if self._may_begin_anew(each))
        return tuple(sorted(islice(chain(new, again, anew), free)))

    def _may_begin_anew(self, lapsed: _Lapsed) -> bool:
        return self.silence_is_final and not lapsed.alive and lapsed.base < self.number

    def _may_begin(self, client: str) -> bool:
        return not any(client in each for each in (self._given, self.at_work, self.counted, self._lapsed))

    def _invite(self, clients: Iterable[str]) -> Iterator[Command]:
        for client in clients:
            lapsed = self._lapsed.pop(client, None)
            has_its_model = lapsed is not None and lapsed.alive
            base = lapsed.base if lapsed is not None and has_its_model else self.number
            self.at_work[client] = Place(base, Working(self._now))
            if not has_its_model:
                self._given.add(client)
            if lapsed is not None and not has_its_model:
                self._end(Unused(client, lapsed.base))
        yield from self._invitations(clients)

    def _invitations(self, clients: Iterable[str]) -> Iterator[Command]:
        """One for each model."""
        by_base: dict[int, list[str]] = {}
        for client in sorted(clients):
            by_base.setdefault(self.at_work[client].base, []).append(client)
        for _, of_one_model in sorted(by_base.items()):
            yield Invite(tuple(of_one_model))

    def _end_leases(self) -> Iterator[Command]:
        for client, place in list(self.at_work.items()):
            if place.since + self.rules.lease <= self._now:
                del self.at_work[client]
                self._lapsed[client] = _Lapsed(place.base)
                yield Withdraw(client, f"no progress for {self.rules.lease:g} s, its lease")

    @property
    def _nobody_is_left(self) -> bool:
        """Whether no update can come any more; of who has lost its lease one may, if the round needs it."""
        if self._places is None or self.at_work or not self._connected:
            return False
        if len(self.counted) < self.rules.quorum and self._lapsed:
            return False
        return self._connected <= self._given | self.counted.keys() | self._lapsed.keys()

    def _sealed(self, event: Sealed) -> list[Command]:
        if not self._sealing:
            return []
        self._sealing = False
        self._reconcile(event)
        over = self._now >= self._over_at or len(self.counted) >= self.size
        if over or (not self.at_work and len(self.counted) >= self.rules.quorum):
            enough = len(self.counted) >= self.rules.quorum
            return [self._finish(self._lists()) if enough else self._finish(self._not_met("the sum was sealed"))]
        again = [client for client in self.at_work if client in self._connected]
        self._returned = {}
        return [*self._invitations(again), *self._go_on()]

    def _reconcile(self, event: Sealed) -> None:
        """Make the books agree with the sum; who was counted and is not in it has its task again."""
        bases: dict[str, int] = {}
        for client in sorted(event.contributors):
            base = event.bases.get(client, self.base_of(client))
            if base is None:
                raise UpdateRejectedError(
                    Reason.NOT_INVITED,
                    f"a sum for round {self.number} holds {client}, who took no part in it; drop that sum",
                )
            bases[client] = base
        for client in sorted(self.counted.keys() - event.contributors):
            base = self.number - self.counted.pop(client)
            if client in self.at_work or client in self._lapsed:  # with a newer model
                self._end(Unused(client, base))
            else:
                self.at_work[client] = Place(base, Working(self._now))
        for client, base in bases.items():
            self._count(client, base)

    def _seal(self) -> Command:
        self._sealing = True
        return Seal()

    def _close(self, why: str) -> Command:
        """With what there is, where that is a quorum."""
        if len(self.counted) >= self.rules.quorum:
            return self._seal()
        if self._places is None:
            needed = max(self.rules.min_clients, self.rules.quorum)
            why = f"{why}, {len(self._connected)} clients are connected, and {needed} are needed"
        return self._finish(self._not_met(why))

    def _lists(self) -> Completed:
        """Whoever is done with: a client may be counted, and be in one of the other lists with its last task, too."""
        lapsed = {(client, each.base): Unused(client, each.base) for client, each in self._lapsed.items()}
        unused = tuple(each for _, each in sorted((self._unused | lapsed).items()))
        last = {each.client: each for each in unused}
        return Completed(
            tuple(sorted(self.counted)),
            tuple(client for client, each in last.items() if each.message is None),
            {name: (each.reason, each.message or "") for name, each in last.items() if each.reason is not None},
            {name: each.message for name, each in last.items() if each.message is not None and each.reason is None},
            unused,
        )

    def _finish(self, outcome: Outcome) -> Command:
        self.is_open, self._lapsed, self._unused = False, {}, {}  # told; what comes from now on is told with the next
        return Finish(outcome)

    # ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def why(self, now: float) -> Why:
        """What it waits for."""
        lists = self._lists()
        state = RoundState.CLOSED
        if self.is_open:
            state = RoundState.SEALING if self._sealing else RoundState.OPEN
            state = RoundState.WAITING if self._places is None and not self.at_work else state
        return Why(
            now=now,
            round=self.number,
            kind=Kind.TRAIN,
            state=state,
            connected=len(self._connected),
            needed=max(self.rules.min_clients, self.rules.quorum),
            invited=len(self.at_work) + len(self.counted) + len(self._lapsed) + len(self._unused),
            accepted=len(self.counted),
            examples=self._examples,
            quorum=self.rules.quorum,
            enough=self.size,
            deadline=self._over_at if self.is_open else None,
            outstanding=tuple(
                place.seat.outstanding(
                    client,
                    now,
                    lease=self.rules.lease,
                    connected=client in self._connected,
                    staleness=self.number - place.base,
                )
                for client, place in sorted(self.at_work.items())
            ),
            withdrawn=tuple(sorted(self._lapsed)),
            rejected=len(lists.rejected),
            failed=len(lists.failed),
            staleness=max(self.counted.values(), default=0),
        )

    def _not_met(self, why: str) -> NotMet:
        lists = self._lists()
        said = [
            f"{title} {listed(words)}"
            for title, words in (
                ("still at work:", sorted(self.at_work)),
                ("lost their lease:", sorted(self._lapsed)),
                ("rejected:", [f"{name} ({reason}: {text})" for name, (reason, text) in lists.rejected.items()]),
                ("failed:", [f"{name} ({text})" for name, text in lists.failed.items()]),
            )
            if words
        ]
        return NotMet(
            f"round {self.number}: {len(self.counted)} of {self.size} updates are in its buffer, the quorum is "
            f"{self.rules.quorum}, and {why}; {'; '.join([*said, f'lengthen `deadline` ({self.rules.deadline:g} s)'])} "
            "or lower `quorum`",
            lists.contributors,
            lists.missing,
            lists.rejected,
            lists.failed,
        )
