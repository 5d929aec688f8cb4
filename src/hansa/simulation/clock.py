"""A round on a virtual clock: the same state machine as on a network, with the devices' behaviour as its events.

`rehearse` costs no training. It asks what became of each client only when its update arrives, so that clients that
vanish, come too late, or are not needed never train; where it is not known yet, it takes the update for accepted and
says so. Training those and rehearsing again, until all is known, is the round.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hansa.rounds import Round
from hansa.rounds.events import (
    Abandoned,
    Accepted,
    Command,
    Completed,
    Connected,
    Disconnected,
    Due,
    Event,
    Finish,
    Invite,
    NotMet,
    Progressed,
    Rejected,
    Seal,
    Sealed,
    Tick,
    WakeAt,
    Withdraw,
)
from hansa.rounds.events import Failed as FailedEvent
from hansa.simulation.devices import Behaviour
from hansa.simulation.fold import Assignment, Failed, Folded, Outcome, Refused

__all__ = ["Attendance", "Rehearsal", "rehearse"]


class Attendance(Protocol):
    """Who comes and goes while a round is played; times are seconds since it was due."""

    watched: frozenset[str]
    """Of whom it is known; the connected clients are among them."""

    def next_change(self, client: str, at: float) -> float:
        """When the client comes or goes for the first time after `at`; infinity: it never does."""


@dataclass(slots=True)
class Rehearsal:
    """How a round goes, as far as is known."""

    ended: Completed | NotMet | Abandoned
    seconds: float
    """Virtual, since it was due."""
    accepted: tuple[Assignment, ...]
    """In the order of their arrival."""
    unknown: tuple[Assignment, ...]
    """Of these, what has not been trained yet."""


@dataclass(slots=True)
class _Stage:
    """What is under way."""

    machine: Round
    behave: Callable[[Sequence[str], float], Mapping[str, Behaviour]]
    outcomes: Mapping[Assignment, Outcome]
    keeps_partial_work: bool
    attendance: Attendance | None
    deadline: float
    """Seconds after the round was due."""
    now: float = 0.0
    wake: float = math.inf
    arrivals: list[tuple[float, int, Assignment]] = field(default_factory=list)
    """A heap: when, and in the order of the invitations where that is the same time."""
    changes: list[tuple[float, str]] = field(default_factory=list)
    """A heap: when who comes or goes next."""
    there: set[str] = field(default_factory=set)
    invitations: int = 0
    alive: set[str] = field(default_factory=set)
    """Who was invited, has not delivered, and goes on reporting progress."""
    accepted: list[Assignment] = field(default_factory=list)
    unknown: list[Assignment] = field(default_factory=list)
    ended: Completed | NotMet | Abandoned | None = None


def rehearse(
    machine: Round,
    connected: frozenset[str],
    behave: Callable[[Sequence[str], float], Mapping[str, Behaviour]],
    outcomes: Mapping[Assignment, Outcome],
    *,
    keeps_partial_work: bool,
    attendance: Attendance | None = None,
    begins: float = 0.0,
) -> Rehearsal:
    """Play a round to its end.

    machine: new; connected: those who are there when it begins; behave: clients invited together, and when → their
    behaviour, the same at every call; outcomes: of what was trained already; attendance: None where nobody comes or
    goes; begins: seconds since the round was due, which the deadline of the machine's rules does not count.
    """
    stage = _Stage(
        machine, behave, outcomes, keeps_partial_work, attendance, begins + machine.rules.deadline, now=begins
    )
    if attendance is not None:
        stage.there = set(connected)
        stage.changes = [(attendance.next_change(client, begins), client) for client in attendance.watched]
        heapq.heapify(stage.changes)
    _tell(stage, Due(begins, connected))
    while stage.ended is None:
        next_change = stage.changes[0][0] if stage.changes else math.inf
        if stage.arrivals and stage.arrivals[0][0] <= min(stage.wake, next_change):
            _arrive(stage)
        elif next_change <= stage.wake and next_change < math.inf:
            _come_or_go(stage)
        else:
            _pass_time(stage)
    return Rehearsal(stage.ended, stage.now, tuple(stage.accepted), tuple(stage.unknown))


def _arrive(stage: _Stage) -> None:
    """The next update arrives."""
    stage.now, _, assignment = heapq.heappop(stage.arrivals)
    client = assignment.client
    stage.alive.discard(client)
    outcome = stage.outcomes.get(assignment)
    match outcome:
        case None | Folded():
            stage.accepted.append(assignment)
            if outcome is None:
                stage.unknown.append(assignment)
            _tell(stage, Accepted(stage.now, client, 1 if outcome is None else outcome.num_examples))
        case Refused(reason, detail):
            _tell(stage, Rejected(stage.now, client, reason, detail))
        case Failed(message):
            _tell(stage, FailedEvent(stage.now, client, message))


def _come_or_go(stage: _Stage) -> None:
    """The next client comes; or it goes, and what it was doing is lost."""
    stage.now, client = stage.changes[0]
    if stage.attendance is not None:
        heapq.heapreplace(stage.changes, (stage.attendance.next_change(client, stage.now), client))
    if client in stage.there:
        stage.there.discard(client)
        stage.alive.discard(client)
        stage.arrivals = [arrival for arrival in stage.arrivals if arrival[2].client != client]
        heapq.heapify(stage.arrivals)
        _tell(stage, Disconnected(stage.now, client))
    else:
        stage.there.add(client)
        _tell(stage, Connected(stage.now, client))


def _pass_time(stage: _Stage) -> None:
    """Nothing arrives before the alarm; who is alive has reported progress just before it."""
    before = math.nextafter(stage.wake, -math.inf)
    for client in sorted(stage.alive):
        _tell(stage, Progressed(before, client, "train", 0.0, 0.0))
    stage.now, stage.wake = stage.wake, math.inf
    _tell(stage, Tick(stage.now))


def _tell(stage: _Stage, event: Event) -> None:
    for command in stage.machine.handle(event):
        _obey(stage, command)


def _obey(stage: _Stage, command: Command) -> None:
    match command:
        case Invite(clients):
            for client, behaviour in stage.behave(clients, stage.now).items():
                _invite(stage, client, behaviour)
        case WakeAt(at):
            stage.wake = at
        case Seal():
            _tell(stage, Sealed(stage.now, frozenset(assignment.client for assignment in stage.accepted)))
        case Withdraw():  # a device that hears nothing and says nothing
            pass
        case Finish(outcome):
            stage.ended = outcome


def _invite(stage: _Stage, client: str, behaviour: Behaviour) -> None:
    """When a client's update will arrive, with how much of the work; never for one that drops out or is too late."""
    if behaviour.drops_out:
        return
    stage.alive.add(client)
    in_time = behaviour.seconds <= stage.deadline - stage.now
    work = behaviour.work if in_time else behaviour.work * (stage.deadline - stage.now) / behaviour.seconds
    if work < 1.0 and not stage.keeps_partial_work:
        return
    # Who stops at the deadline delivers before it.
    arrival = min(stage.now + behaviour.seconds, math.nextafter(stage.deadline, 0.0))
    heapq.heappush(stage.arrivals, (arrival, stage.invitations, Assignment(client, work)))
    stage.invitations += 1
