"""Asynchronous rounds on the virtual clock: what is under way when one ends is under way when the next begins.

As in `clock`, a round is rehearsed, whom it counts is trained, and it is rehearsed again with what came of it, until
nothing is unknown. A client trains only when its update arrives, on the model that it was given then: its task, its
random numbers and its memory are those of that round. Arrivals at the same time come in the order of their models, and
then by name.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hansa.arrays import Arrays
from hansa.errors import ConfigError, RunFailedError
from hansa.messages import Value
from hansa.rounds.buffered import Buffered
from hansa.rounds.events import (
    Accepted,
    Completed,
    Connected,
    Disconnected,
    Due,
    Event,
    Finish,
    Invite,
    Progressed,
    Rejected,
    Seal,
    Sealed,
    Tick,
    WakeAt,
    Withdraw,
)
from hansa.rounds.events import Failed as FailedEvent
from hansa.rounds.events import Outcome as Ended
from hansa.run import Run
from hansa.simulation.attacks import Attackers
from hansa.simulation.attendance import RoundAttendance
from hansa.simulation.devices import Behaviour
from hansa.simulation.fold import Assignment, Engine, Failed, Folded, Outcome, Refused

__all__ = ["Between", "Flow", "Played", "check_asynchronous"]

Behave: TypeAlias = Callable[[int, int, Sequence[str], float], Sequence[Behaviour]]
"""(round, bytes of its model, clients invited together, virtual seconds since the run began) → their behaviour."""

_Remembered: TypeAlias = Callable[[int, tuple[str, ...], float], Sequence[Behaviour]]


def check_asynchronous(run: Run, clients: int, attackers: Attackers | None) -> None:
    """Raise `ConfigError` for what an asynchronous run cannot do; nothing for other runs."""
    buffering = run.algorithm.buffering
    if buffering is None:
        return
    if buffering.size > clients:
        raise ConfigError(
            f"buffer is {buffering.size}, and there are {clients} clients, who count once in a round each: lower it"
        )
    if attackers is not None and attackers.collude:
        raise ConfigError(
            f"{run.spec.algorithm} has no cohorts, of which colluding attackers would know the updates: choose an "
            "attack that each client does by itself"
        )


@dataclass(slots=True)
class _Stage:
    """Where things stand; copied, to be rehearsed."""

    machine: Buffered
    now: float = 0.0
    """Virtual seconds since the run began."""
    wake: float = math.inf
    arrivals: list[tuple[float, int, str, Assignment]] = field(default_factory=list)
    """A heap: when, of which round's model, whose."""
    changes: list[tuple[float, str]] = field(default_factory=list)
    """A heap: when who comes or goes next."""
    there: set[str] = field(default_factory=set)
    """Where clients come and go."""
    alive: set[str] = field(default_factory=set)
    """Who is at work and goes on reporting progress."""
    accepted: list[Assignment] = field(default_factory=list)
    """In this round, in the order of their arrival."""
    unknown: list[Assignment] = field(default_factory=list)
    ended: Ended | None = None

    def copy(self) -> "_Stage":
        return _Stage(
            self.machine.copy(),
            self.now,
            self.wake,
            list(self.arrivals),
            list(self.changes),
            set(self.there),
            set(self.alive),
        )


@dataclass(frozen=True, slots=True)
class Between:
    """What is under way between two rounds."""

    now: float
    """Virtual seconds since the run began."""
    wake: float
    at_work: Mapping[str, tuple[int, float]]
    """As of `Buffered.go_on`."""
    arrivals: Sequence[tuple[float, int, str, float]]
    """When, of which round's model, whose, with how much of the work; a heap, as `changes` is."""
    changes: Sequence[tuple[float, str]]
    there: Sequence[str]
    alive: Sequence[str]
    models: Mapping[int, Arrays]
    """Of the rounds on which somebody is at work."""


@dataclass(frozen=True, slots=True)
class Played:
    """How a round went."""

    ended: Ended
    outcomes: Mapping[Assignment, Outcome]
    """Of all that was trained for it."""
    accepted: tuple[Assignment, ...]
    staleness: Mapping[str, int]
    """Of the accepted, by client."""
    seconds: float
    """Virtual, since the round before it was over."""


class Flow:
    """The training of an asynchronous run."""

    def __init__(
        self,
        machine: Buffered,
        engine: Engine,
        behave: Behave,
        connected: Callable[[int], frozenset[str]],
        here: tuple[Sequence[str], RoundAttendance | None],
        *,
        config: Mapping[str, Value],
        keeps_partial_work: bool,
    ) -> None:
        """machine: new; connected: round → whom it may invite, where nobody comes or goes; here: all, and who does.

        config: what clients are told.
        """
        self._config = config
        self._engine = engine
        self._behave = behave
        self._connected = connected
        self._clients, self._attendance = here
        self._keeps_partial_work = keeps_partial_work
        self._stage = _Stage(machine)
        self._began = False
        self._models: Mapping[int, Arrays] = {}
        """Of the rounds on which somebody is at work."""

    def between(self) -> Between:
        """Where things stand after a round."""
        stage = self._stage
        places = stage.machine.at_work
        return Between(
            stage.now,
            stage.wake,
            {client: (place.base, place.since) for client, place in places.items()},
            [(at, base, client, task.work) for at, base, client, task in stage.arrivals],
            list(stage.changes),
            sorted(stage.there),
            sorted(stage.alive),
            {base: self._models[base] for base in sorted({place.base for place in places.values()})},
        )

    def go_on(self, number: int, between: Between) -> None:
        """Go on after this round, where another one stood so; the engine has begun nothing yet."""
        stage, self._began, self._models = self._stage, True, between.models
        stage.machine.go_on(number, between.at_work, between.now)
        stage.now, stage.wake = between.now, between.wake
        stage.arrivals = [
            (at, base, client, Assignment(client, work, base)) for at, base, client, work in between.arrivals
        ]
        stage.changes, stage.there, stage.alive = list(between.changes), set(between.there), set(between.alive)
        for base, model in sorted(between.models.items()):
            self._engine.begin(base, model, self._config, frozenset(between.models))

    def play(self, number: int, broadcast: Arrays) -> Played:
        """The next round, from the end of the one before. Afterwards the engine's sum is of whom it accepted."""
        began = self._stage.now
        if not self._began:
            self._begin()
        needed = frozenset(place.base for place in self._stage.machine.at_work.values())
        self._models = {base: self._models[base] for base in needed} | {number: broadcast}
        known: dict[tuple[int, tuple[str, ...], float], Sequence[Behaviour]] = {}

        def behave(base: int, clients: tuple[str, ...], at: float) -> Sequence[Behaviour]:
            key = (base, clients, at)
            if key not in known:
                known[key] = self._behave(base, broadcast.nbytes, clients, at)
            return known[key]

        outcomes: dict[Assignment, Outcome] = {}
        trained: dict[str, Assignment] = {}
        self._engine.begin(number, broadcast, self._config, needed)
        while True:
            stage = self._stage.copy()
            ended = self._rehearse(stage, number, behave, outcomes)
            if not stage.unknown:
                break
            if any(isinstance(outcomes.get(trained.get(each.client, each)), Folded) for each in stage.unknown):
                # A failure has moved who was invited when: whose update was summed has another task now.
                self._engine.begin(number, broadcast, self._config, needed)
                trained.clear()
            before = {client: outcomes[task] for client, task in trained.items()}
            trained |= {each.client: each for each in stage.unknown}
            results = self._engine.train(stage.unknown)
            told = {each.client: before[each.client] for each in stage.unknown if each.client in before}
            outcomes |= {trained[client]: outcome for client, outcome in {**told, **results}.items()}
        folded = {task for task in trained.values() if isinstance(outcomes[task], Folded)}
        if isinstance(ended, Completed) and folded != set(stage.accepted):
            self._fold_again(number, broadcast, needed, stage.accepted, outcomes)
        self._stage = stage
        staleness = {each.client: number - each.round for each in sorted(stage.accepted, key=lambda each: each.client)}
        return Played(ended, outcomes, tuple(stage.accepted), staleness, stage.now - began)

    def _begin(self) -> None:
        """Where clients come and go, wait until enough are there."""
        self._began = True
        if self._attendance is None:
            return
        stage, rules = self._stage, self._stage.machine.rules
        stage.now = self._attendance.wait(max(rules.min_clients, rules.quorum), rules.deadline)
        stage.there = set(self._attendance.present(stage.now))
        stage.changes = [(self._attendance.next_change(client, stage.now), client) for client in self._clients]
        heapq.heapify(stage.changes)

    def _fold_again(
        self,
        number: int,
        broadcast: Arrays,
        needed: frozenset[int],
        accepted: Sequence[Assignment],
        outcomes: Mapping[Assignment, Outcome],
    ) -> None:
        """Sum the accepted anew: a failure has moved who is counted."""
        self._engine.begin(number, broadcast, self._config, needed)
        results = self._engine.train(accepted)
        for each in accepted:
            if results[each.client] != outcomes[each]:
                raise RunFailedError(
                    f"{each.client} was trained twice in round {number}, with two results: {outcomes[each]} and "
                    f"{results[each.client]}; draw from task.rng alone, and change nothing outside the function"
                )

    # ── the virtual clock ────────────────────────────────────────────────────────────────────────────────────────────

    def _rehearse(
        self, stage: _Stage, number: int, behave: _Remembered, outcomes: Mapping[Assignment, Outcome]
    ) -> Ended:
        """Play a round to its end; what has no outcome yet is in `stage.unknown` then."""
        connected = frozenset(stage.there) if self._attendance is not None else self._connected(number)
        self._tell(stage, Due(stage.now, connected), behave)
        while stage.ended is None:
            next_change = stage.changes[0][0] if stage.changes else math.inf
            if stage.arrivals and stage.arrivals[0][0] <= min(stage.wake, next_change):
                self._tell(stage, _arrived(stage, outcomes), behave)
            elif next_change <= stage.wake and next_change < math.inf:
                self._tell(stage, self._came_or_went(stage), behave)
            else:
                self._pass_time(stage, behave)
        return stage.ended

    def _pass_time(self, stage: _Stage, behave: _Remembered) -> None:
        """Nothing arrives before the alarm; who is alive has reported progress just before it."""
        before = math.nextafter(stage.wake, -math.inf)
        for client in sorted(stage.alive):
            self._tell(stage, Progressed(before, client, "train", 0.0, 0.0), behave)
        stage.now, stage.wake = stage.wake, math.inf
        self._tell(stage, Tick(stage.now), behave)

    def _tell(self, stage: _Stage, event: Event, behave: _Remembered) -> None:
        for command in stage.machine.handle(event):
            match command:
                case Invite(clients):
                    self._invite(stage, clients, behave)
                case WakeAt(at):
                    stage.wake = at
                case Withdraw(client):
                    stage.alive.discard(client)
                case Seal():
                    held = frozenset(each.client for each in stage.accepted)
                    self._tell(stage, Sealed(stage.now, held), behave)
                case Finish(outcome):
                    stage.ended = outcome

    def _invite(
        self,
        stage: _Stage,
        clients: tuple[str, ...],
        behave: _Remembered,
    ) -> None:
        """When each update will arrive: of who manages a part of the work in some time, all of it in more time."""
        base = stage.machine.at_work[clients[0]].base  # those who are invited together have one model
        for client, behaviour in zip(clients, behave(base, clients, stage.now), strict=True):
            if behaviour.drops_out:
                continue
            keeps = self._keeps_partial_work
            seconds = behaviour.seconds if keeps else behaviour.seconds / behaviour.work
            task = Assignment(client, behaviour.work if keeps else 1.0, base)
            stage.alive.add(client)
            heapq.heappush(stage.arrivals, (stage.now + seconds, base, client, task))

    def _came_or_went(self, stage: _Stage) -> Event:
        """The next client comes; or it goes, and what it was doing is lost."""
        assert self._attendance is not None  # noqa: S101 - there are changes
        stage.now, client = stage.changes[0]
        heapq.heapreplace(stage.changes, (self._attendance.next_change(client, stage.now), client))
        if client not in stage.there:
            stage.there.add(client)
            return Connected(stage.now, client)
        stage.there.discard(client)
        stage.alive.discard(client)
        stage.arrivals = [arrival for arrival in stage.arrivals if arrival[2] != client]
        heapq.heapify(stage.arrivals)
        return Disconnected(stage.now, client)


def _arrived(stage: _Stage, outcomes: Mapping[Assignment, Outcome]) -> Event:
    """The next update arrives; where it is not known what comes of it, it is taken for accepted."""
    stage.now, _, client, task = heapq.heappop(stage.arrivals)
    stage.alive.discard(client)
    refusal = stage.machine.refusal(client)
    if refusal is not None:
        return Rejected(stage.now, client, *refusal)
    outcome = outcomes.get(task)
    match outcome:
        case None | Folded():
            stage.accepted.append(task)
            if outcome is None:
                stage.unknown.append(task)
            return Accepted(stage.now, client, 1 if outcome is None else outcome.num_examples)
        case Refused(reason, detail):
            return Rejected(stage.now, client, reason, detail)
        case Failed(message):
            return FailedEvent(stage.now, client, message)
