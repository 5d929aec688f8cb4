"""A round on a virtual clock: the same state machine as on a network, with the devices' behaviour as its events.

`rehearse` costs no training. It asks what became of each client only when its update arrives, so that clients that
vanish, come too late, or are not needed never train; where it is not known yet, it takes the update for accepted and
says so. Training those and rehearsing again, until all is known, is the round.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hansa.rounds import Round
from hansa.rounds.events import (
    Abandoned,
    Accepted,
    Command,
    Completed,
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

__all__ = ["Rehearsal", "rehearse"]


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
    behave: Callable[[Sequence[str]], Mapping[str, Behaviour]]
    outcomes: Mapping[Assignment, Outcome]
    keeps_partial_work: bool
    now: float = 0.0
    wake: float = math.inf
    arrivals: list[tuple[float, int, Assignment]] = field(default_factory=list)
    """A heap: when, and in the order of the invitations where that is the same time."""
    invitations: int = 0
    alive: set[str] = field(default_factory=set)
    """Who was invited, has not delivered, and goes on reporting progress."""
    accepted: list[Assignment] = field(default_factory=list)
    unknown: list[Assignment] = field(default_factory=list)
    ended: Completed | NotMet | Abandoned | None = None


def rehearse(
    machine: Round,
    connected: frozenset[str],
    behave: Callable[[Sequence[str]], Mapping[str, Behaviour]],
    outcomes: Mapping[Assignment, Outcome],
    *,
    keeps_partial_work: bool,
) -> Rehearsal:
    """Play a round to its end, from time 0.

    machine: new; behave: clients invited together → their behaviour, the same for the same client at every call;
    outcomes: of what was trained already.
    """
    stage = _Stage(machine, behave, outcomes, keeps_partial_work)
    _tell(stage, Due(0.0, connected))
    while stage.ended is None:
        if stage.arrivals and stage.arrivals[0][0] <= stage.wake:
            _arrive(stage)
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
            for client, behaviour in stage.behave(clients).items():
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
    deadline = stage.machine.rules.deadline
    in_time = behaviour.seconds <= deadline - stage.now
    work = behaviour.work if in_time else behaviour.work * (deadline - stage.now) / behaviour.seconds
    if work < 1.0 and not stage.keeps_partial_work:
        return
    # Who stops at the deadline delivers before it.
    arrival = min(stage.now + behaviour.seconds, math.nextafter(deadline, 0.0))
    heapq.heappush(stage.arrivals, (arrival, stage.invitations, Assignment(client, work)))
    stage.invitations += 1
