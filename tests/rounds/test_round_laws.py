"""What holds for a round whatever happens, in whatever order."""

import os
import subprocess
import sys
from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hansa.algorithm import Cohort
from hansa.errors import Reason
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
    Progressed,
    Rejected,
    Seal,
    Sealed,
    Tick,
    WakeAt,
    Withdraw,
)
from hansa.rounds.round import Round
from hansa.rounds.why import RoundState

CLIENTS = tuple("abcdefg")
client = st.sampled_from(CLIENTS)
subset = st.frozensets(client)
TIMED_STATES = {RoundState.WAITING, RoundState.OPEN}


class AnyRound(RuleBasedStateMachine):
    """A driver that does anything that a network may do, and checks every command against its own books."""

    @initialize(
        quorum=st.integers(1, 4),
        min_clients=st.integers(1, 4),
        enough=st.none() | st.integers(1, 5),
        deadline=st.sampled_from([50.0, 2000.0]),
        lease=st.sampled_from([5.0, 20.0, 3000.0]),
        replace_failed=st.booleans(),
        order=st.permutations(CLIENTS),
        size=st.integers(0, 6),
        with_substitutes=st.booleans(),
        connected=st.none() | subset | st.just(frozenset(CLIENTS)),
        kind=st.sampled_from(Kind),
    )
    def begin(
        self,
        *,
        quorum: int,
        min_clients: int,
        enough: int | None,
        deadline: float,
        lease: float,
        replace_failed: bool,
        order: list[str],
        size: int,
        with_substitutes: bool,
        connected: frozenset[str] | None,
        kind: Kind,
    ):
        def choose(available: Sequence[str]) -> Cohort:
            assert list(available) == sorted(self.connected)
            ordered = [name for name in order if name in available]
            cut = max(size, quorum)
            return Cohort(tuple(ordered[:cut]), tuple(order if with_substitutes else ()))

        self.rules = RoundRules(
            min_clients=min_clients,
            quorum=quorum,
            enough=enough,
            deadline=deadline,
            lease=lease,
            replace_failed=replace_failed,
        )
        self.round = Round(1, kind, self.rules, choose)
        self.now = 0.0
        self.deadline: float | None = None
        self.alarm: float | None = None
        self.connected: set[str] = set()
        self.invited: set[str] = set()
        self.accepted: set[str] = set()
        self.sealed: frozenset[str] = frozenset()
        self.finished: list[Finish] = []
        if connected is not None:
            self.due(connected)

    # ── the driver ───────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, event: Event):
        if isinstance(event, Tick):
            self.alarm = None  # the strictest driver: a timer that fired is gone, even one that fired early
        if isinstance(event, Accepted) and event.client in self.invited:
            self.accepted.add(event.client)
        if isinstance(event, Sealed) and self.round.state is RoundState.SEALING:
            self.sealed = event.contributors
        an_answer_to_nothing = isinstance(event, Sealed) and self.round.state is not RoundState.SEALING
        commands = self.round.handle(event)
        assert not (self.finished and commands), "a command after the end"
        for command in commands:
            self.check(command)
        assert sum(isinstance(command, Finish) for command in commands) == 0 or isinstance(commands[-1], Finish)
        if an_answer_to_nothing:
            return  # time passed with it and may have sealed the round: a second one would be the answer
        again = self.round.handle(event)
        assert [command for command in again if not isinstance(command, WakeAt)] == [], "a duplicate changed something"

    def check(self, command: Command):
        match command:
            case Invite(clients):
                assert clients
                assert len(set(clients)) == len(clients)
                assert self.connected.issuperset(clients)
                if not self.invited:
                    assert len(self.connected) >= max(self.rules.min_clients, self.rules.quorum)
                self.invited.update(clients)
            case Withdraw(name):
                assert name in self.invited
            case Seal():
                assert len(self.accepted) >= self.rules.quorum
            case WakeAt(at):
                self.alarm = at
            case Finish():
                self.finished.append(command)

    @property
    def begun(self) -> bool:
        return self.deadline is not None

    # ── what may happen ──────────────────────────────────────────────────────────────────────────────────────────────

    @rule(connected=subset)
    def due(self, connected: frozenset[str]):
        if not self.begun:
            self.connected = set(connected)
            self.deadline = self.now + self.rules.deadline
        self.send(Due(self.now, frozenset(self.connected)))

    @precondition(lambda self: not self.begun)
    @rule(connected=subset, before=subset.filter(bool), places=st.integers(1, 9))
    def due_again(self, connected: frozenset[str], before: frozenset[str], places: int):
        """It had begun before its driver died."""
        self.connected = set(connected)
        self.deadline = self.now + self.rules.deadline
        if self.round.state is RoundState.WAITING:  # it may have been stopped before it began
            self.invited.update(before)
        self.send(Due(self.now, connected, tuple(before), min(places, len(before))))

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.0, 19.0]))
    def wait(self, seconds: float):
        self.now += seconds

    @rule()
    def tick(self):
        self.send(Tick(self.now))

    @precondition(lambda self: self.alarm is not None)
    @rule()
    def ring(self):
        self.now = max(self.now, self.alarm)
        self.send(Tick(self.now))

    @rule(name=client)
    def connect(self, name: str):
        if self.begun:
            self.connected.add(name)
        self.send(Connected(self.now, name))

    @rule(name=client)
    def disconnect(self, name: str):
        self.connected.discard(name)
        self.send(Disconnected(self.now, name))

    @rule(name=client, done=st.integers(0, 3))
    def progress(self, name: str, done: int):
        self.send(Progressed(self.now, name, "train", done, 3))

    @rule(name=client)
    def accept(self, name: str):
        self.send(Accepted(self.now, name, 1))

    @precondition(lambda self: self.round.state is RoundState.OPEN and self.round.why(self.now).outstanding)
    @rule(keep=subset)
    def deliver(self, keep: frozenset[str]):
        for waited in self.round.why(self.now).outstanding:
            if waited.name not in keep:
                self.send(Accepted(self.now, waited.name, 1))

    @precondition(lambda self: self.round.state is RoundState.SEALING)
    @rule(lost=client)
    def lose(self, lost: str):
        self.send(Sealed(self.now, frozenset(self.accepted) - {lost}))

    @rule(name=client, reason=st.sampled_from([Reason.NOT_FINITE, Reason.LATE, Reason.DUPLICATE]))
    def reject(self, name: str, reason: Reason):
        self.send(Rejected(self.now, name, reason, "detail"))

    @rule(name=client)
    def fail(self, name: str):
        self.send(Failed(self.now, name, "message"))

    @rule(kept=subset)
    def seal(self, kept: frozenset[str]):
        self.send(Sealed(self.now, kept & frozenset(self.accepted)))

    @precondition(lambda self: self.round.state is RoundState.SEALING)
    @rule()
    def seal_everything(self):
        self.send(Sealed(self.now, frozenset(self.accepted)))

    @rule(name=client, really=st.integers(0, 19))
    def cancel(self, name: str, really: int):
        if not really:
            self.send(Cancelled(self.now, f"{name} stopped it"))

    # ── what holds ───────────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def an_alarm_is_set_while_it_waits_or_is_open(self):
        if self.begun and self.round.state in TIMED_STATES:
            assert self.alarm is not None
            assert self.alarm <= self.deadline
            assert all(self.alarm <= outstanding.lease_ends for outstanding in self.round.why(self.now).outstanding)

    @invariant()
    def an_evaluation_waits_for_somebody_or_a_lease(self):
        if not self.begun or self.round.kind is not Kind.EVALUATE:
            return
        if self.round.state is RoundState.WAITING:
            assert self.alarm <= self.deadline - self.rules.deadline + self.rules.lease
        if self.round.state is RoundState.OPEN:
            why = self.round.why(self.now)
            assert why.outstanding or self.connected.intersection(why.withdrawn)

    @invariant()
    def its_books_agree_with_the_drivers(self):
        why = self.round.why(self.now)
        assert self.round.invited == self.invited
        assert why.invited == len(self.invited)
        assert why.accepted <= len(self.accepted)
        assert len(why.outstanding) + len(why.withdrawn) + why.accepted + why.rejected + why.failed == why.invited
        assert str(why)

    @invariant()
    def it_ends_once_and_everyone_is_in_exactly_one_list(self):
        assert len(self.finished) == (self.round.state is RoundState.CLOSED)
        if not self.finished:
            return
        outcome = self.finished[0].outcome
        assert outcome == self.round.outcome
        match outcome:
            case Completed():
                assert frozenset(outcome.contributors) == self.sealed
                assert len(outcome.contributors) >= self.rules.quorum
            case NotMet(cause):
                assert cause
                assert len(outcome.contributors) < self.rules.quorum
            case Abandoned():
                return
        assert self.accepted.issuperset(outcome.contributors)
        everyone = [*outcome.contributors, *outcome.missing, *outcome.rejected, *outcome.failed]
        assert sorted(everyone) == sorted(self.invited)

    def teardown(self):
        """Whatever happened: a driver that only obeys its alarms reaches the end, by the deadline."""
        if not hasattr(self, "round"):
            return
        if not self.begun:
            self.due(frozenset())
        for _ in range(1000):
            if self.round.state is RoundState.SEALING:
                self.seal_everything()
            elif self.round.state is not RoundState.CLOSED:
                self.ring()
                self.an_alarm_is_set_while_it_waits_or_is_open()
        assert self.round.state is RoundState.CLOSED
        self.it_ends_once_and_everyone_is_in_exactly_one_list()


AnyRound.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
TestAnyRound = AnyRound.TestCase


HISTORY = """
import random
from hansa.algorithm import Cohort
from hansa.messages import Kind, RoundRules
from hansa.rounds.events import *
from hansa.rounds.round import Round

names = [f"client-{i}" for i in range(40)]
for seed in range(20):
    rng = random.Random(seed)
    rules = RoundRules(min_clients=5, quorum=3, enough=25, lease=20.0, deadline=300.0)
    round_ = Round(1, Kind.TRAIN, rules, lambda available: Cohort(tuple(available[:10]), tuple(available[10:15])))
    print(round_.handle(Due(0.0, frozenset(rng.sample(names, 20)))))
    for step in range(400):
        now, name = float(step), rng.choice(names)
        event = rng.choice([
            Connected(now, name), Disconnected(now, name), Failed(now, name, "boom"), Accepted(now, name, 1),
            Progressed(now, name, "train", step, 400), Tick(now),
            Sealed(now, frozenset(rng.sample(sorted(round_.invited), 2)) if round_.invited else frozenset()),
        ])
        print(round_.handle(event), round_.why(now))
"""


def test_commands_do_not_depend_on_the_order_of_sets():
    histories = {
        subprocess.run(
            [sys.executable, "-c", HISTORY],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},  # noqa: TID251 - the hash seed is the experiment
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1")
    }
    (history,) = histories
    assert all(command in history for command in ("Invite(", "Withdraw(", "Seal()", "Finish("))
