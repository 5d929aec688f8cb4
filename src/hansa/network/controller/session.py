"""A session under way: rounds one after another, each committed in one transaction after its model is durable."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

import structlog

from hansa.algorithm import Aggregate, Partial, Plan, State
from hansa.arrays import Arrays
from hansa.errors import QuorumNotMetError
from hansa.messages import Kind, RunSpec
from hansa.network.combiner.hub import Hub
from hansa.network.controller.broadcasts import Broadcasts
from hansa.network.controller.commit import (
    Outcomes,
    Sign,
    last_counted,
    last_event,
    last_invited,
    last_link,
    last_memory,
    receipt_of,
    round_commit,
    state_of,
)
from hansa.network.controller.evaluation import Central, Evaluation
from hansa.network.controller.flow import Flow
from hansa.network.controller.functions import AppFunctions
from hansa.network.controller.journal import Journal
from hansa.network.controller.phases import Phase, PhasePlan
from hansa.network.controller.quotas import Quotas
from hansa.network.controller.retention import Retention
from hansa.network.controller.row import SessionRow, failure
from hansa.network.controller.session_functions import SessionFunctions
from hansa.network.controller.telling import Telling
from hansa.rounds.eligible import chosen
from hansa.rounds.events import Abandoned, Completed, NotMet
from hansa.rounds.why import Why
from hansa.run import Run, resolve, slots_to_arrays
from hansa.store.ports import MetadataStore, ObjectStore
from hansa.store.records import SessionRecord, SessionState
from hansa.store.spool import empty_partial
from hansa.wire import codec
from hansa.wire.frames import (
    Blob,
    Closed,
    Counted,
    FromNode,
    Presence,
    Receipt,
    RoundKey,
    Settled,
    TaskFailed,
)

__all__ = ["SessionRunner", "Surroundings"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session works with."""

    store: MetadataStore
    objects: ObjectStore
    retention: Retention
    journal: Journal
    hub: Hub
    connected: Callable[[], frozenset[str]]
    """Every client that is connected now."""
    may: Callable[[str], bool]
    """Whether the session may invite a client, by its name and its labels as they are now."""
    labels: Callable[[str], Mapping[str, str]]
    """Of a client, as they are now."""
    functions: AppFunctions
    central: Central
    quotas: Quotas
    sign: Sign
    settled: Callable[[], Awaitable[None]]
    """Between two rounds: clients that belong to another server go there, and are waited for."""


@dataclass(frozen=True, slots=True)
class _Trained:
    """What a training phase came to."""

    plan: Plan
    partials: list[Partial]
    outcome: Completed
    broadcast: str
    """Digest of what the clients were given."""


class SessionRunner:
    """Drives one session from its last committed round to a terminal state, which always has a cause."""

    def __init__(self, session: SessionRecord, around: Surroundings) -> None:
        """session: as stored."""
        self.row = SessionRow(session, around.store, around.journal, around.sign)
        self._is_resumed = session.state is SessionState.RUNNING
        """Whether a controller has died under it: the round that was open goes on with those who were in it."""
        self._around = around
        self._run: Run = resolve(session.spec)
        self._package: Blob | None = None
        self._link = ""
        self._counted: dict[str, Counted] = {}
        self._invited: Sequence[Sequence[str]] = ()
        """Who has a place in the round that a controller that died had opened, until it is open again."""
        self._taking_part: set[str] = set()
        """Everyone who was invited to anything: what they log is heard, and of nobody else."""
        self._noting: list[asyncio.Task[None]] = []
        """Invitations that are being stored."""
        self._phase: Phase | None = None
        """Of training."""
        self._flow = Flow.of(session, self._run)
        self._stopped = ""
        self._telling = Telling(session.project, session.id, around.journal)
        self._functions = SessionFunctions(self.row, around.functions, around.labels)
        self._broadcasts = Broadcasts(self.row, around.retention)
        self._evaluation = Evaluation(
            self._run,
            self.row,
            self._broadcasts,
            store=around.store,
            journal=around.journal,
            telling=self._telling,
            central=around.central,
            open_phase=partial(self._open, Kind.EVALUATE),
            close_phase=lambda phase, cause: self._close(phase, (), cause),
        )

    @property
    def session(self) -> SessionRecord:
        """As it is stored now."""
        return self.row.session

    @property
    def calls(self) -> str:
        """Which of the app's functions it waits for; empty while there is none."""
        return self._functions.calls

    async def run(self) -> SessionRecord:
        """Run to the end; returns the session as it is then."""
        try:
            await self._begin()
            await self._rounds()
        except asyncio.CancelledError:  # the controller leaves: the session goes on when it is back
            self.row.leaving.set()
            beside = (self._evaluation.aclose(), self._broadcasts.aclose())
            await asyncio.gather(*beside, *self._noting, return_exceptions=True)
            if self._flow is not None:
                await self._flow.aclose()
            raise
        except Exception as error:  # noqa: BLE001 - a plug-in's policy or algorithm may raise anything: it is the cause
            return await self._end(SessionState.FAILED, failure(error, self.session.id))
        if self._stopped:
            return await self._end(SessionState.STOPPED, self._stopped)
        return await self._end(SessionState.FINISHED, f"all {self.session.rounds} rounds are committed")

    def receive(self, frame: FromNode) -> None:
        """A report about a phase of this session."""
        key, client = getattr(frame, "key", None), getattr(frame, "client", "")
        summed = isinstance(frame, Settled) and frame.accepted
        for phase in self._phases:
            if isinstance(key, RoundKey) and phase.takes(key, client, summed=summed):
                if isinstance(frame, TaskFailed) and phase.expects(client):
                    self._telling.failed(frame)
                phase.receive(frame)

    def takes_part(self, client: str) -> bool:
        """Whether this client was invited, by this controller or to the round that one before had opened."""
        return client in self._taking_part

    def engages(self, client: str) -> bool:
        """Whether a client has something to do in what is open, or has not been told what became of it."""
        return any(phase.engages(client) for phase in self._phases)

    def presence(self, presence: Presence) -> None:
        """Clients came or went."""
        for phase in self._phases:
            phase.presence(presence)

    def dismissed(self, client: str, why: str) -> None:
        """A client is a member of the network no more."""
        for phase in self._phases:
            self.receive(TaskFailed(phase.task_of(client), client, why))

    @property
    def _phases(self) -> Sequence[Phase]:
        """Those that are under way, the training first."""
        return [phase for phase in (self._phase, self._evaluation.phase) if phase is not None]

    def delivered(self, key: RoundKey, partial: Partial | None) -> None:
        """The tree's sum."""
        if self._phase is not None and self._phase.plan.key == key:
            self._phase.delivered(partial)

    def stop(self, cause: str) -> None:
        """End after what is committed; the round under way is dropped."""
        self._stopped = cause
        if self._phase is not None:
            self._phase.stop(cause)
        self._evaluation.stop(cause)

    def why(self) -> Why | None:
        """What the session waits for; None between phases."""
        found = next((phase.why() for phase in self._phases), None)
        whom = chosen(self.session.spec.rules)
        return found if found is None else replace(found, chosen=whom, present=len(self._around.connected()))

    # ── rounds ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin(self) -> None:
        last = self.session.round
        message = f"{self.session.name} goes on after round {last}" if last else f"{self.session.name} begins"
        await self.row.begin(message)
        if self.session.package is not None:
            package = self.session.package
            self._package = Blob(package, await self.row.patiently(lambda: self._around.objects.size(package)))

    async def _rounds(self) -> None:
        patiently, store, objects = self.row.patiently, self._around.store, self._around.objects
        state = await patiently(lambda: state_of(self.session, self._run, store, objects))
        self._link = await patiently(lambda: last_link(self.session, store))
        self._counted = await patiently(lambda: last_counted(self.session, store))
        self._functions.memory = await patiently(lambda: last_memory(self.session, store))
        if self._is_resumed:
            self._invited, self._functions.recalled = await patiently(lambda: last_invited(self.session, store))
            self._taking_part.update(*self._invited)
            if self._flow is not None:
                self._taking_part |= await self._flow.take_up(self.row, store, objects, self._around.retention.holds)
        if await self._evaluation.is_owed():
            await self._evaluate(state, self.session.round)
        for number in range(self.session.round + 1, self.session.rounds + 1):
            await self._around.settled()
            if self._stopped:
                break
            advanced = await self._round(state, number)
            if advanced is None:
                break
            state = advanced
            self._broadcasts.prune_soon(self._evaluation.settled)
            await self._evaluate(state, number)
        await self._evaluation.over()

    async def _evaluate(self, state: State, number: int) -> None:
        """Where it is due; of an asynchronous run beside the rounds that follow, since nobody waits for who trains."""
        if self._stopped or not self._evaluation.is_due(number):
            return
        if self._flow is None:
            await self._evaluation.run(state, number)
        else:
            await self._evaluation.start(state, number)

    async def _round(self, state: State, number: int) -> State | None:
        """What a round makes of a state; None when the session was stopped. Its sums are gone when it ends."""
        opened_at = time.time()
        trained = await self._train(state, number)
        return None if trained is None else await self._commit(state, number, opened_at, trained)

    def _planned(self, broadcast: Arrays) -> Plan:
        """How the updates of a round are summed."""
        return self._run.algorithm.aggregator.plan(self._run.template(broadcast))

    async def _train(self, state: State, number: int) -> _Trained | None:
        """The training phase; None when the session was stopped meanwhile."""
        broadcast = self._run.algorithm.broadcast(state)
        async with AsyncExitStack() as held:
            blob = await held.enter_async_context(self._broadcasts.of(broadcast, state.params))
            if self._flow is not None:
                self._flow.hold(number, blob, held.pop_all())
            spec = await self._functions.configured(number, broadcast)
            if self._stopped:
                return None
            self._functions.recall()
            planning = asyncio.create_task(asyncio.to_thread(self._planned, broadcast))
            phase = self._phase = self._open(Kind.TRAIN, number, blob, spec, self._invited)
            self._invited = ()
            try:
                outcome = await phase.run()
                plan = await planning
                noting, self._noting = self._noting, []
                await asyncio.gather(*noting)
            finally:
                planning.cancel()  # nothing to cancel once it is done
        match outcome:
            case Completed():
                return _Trained(plan, phase.take_partials(), outcome, blob.digest)
            case NotMet():
                raise QuorumNotMetError(f"{outcome.cause}{self._telling.first_traceback(outcome.failed)}")
            case Abandoned():
                return None

    async def _commit(self, state: State, number: int, opened_at: float, trained: _Trained) -> State | None:
        """The server's half, the model made durable, and then everything about the round in one transaction.

        None when the session was stopped while there was no room for what the round makes.
        """
        aggregate = await self._aggregated(state, trained)
        advanced = await asyncio.to_thread(self._run.finish, state, aggregate)
        slots = slots_to_arrays(advanced.slots)
        size, state_size = codec.size(advanced.params), codec.size(slots) if slots else 0
        keeps = self._around.retention.policy(self.session).aggregates
        kept_size = codec.size(aggregate.mean) if keeps else None
        async with AsyncExitStack() as held:
            if not await self._has_room(size + state_size + (kept_size or 0), held):
                return None
            outcomes = Outcomes(
                number=number,
                completed=trained.outcome,
                aggregate=aggregate,
                model=await self._broadcasts.stored(codec.encode(advanced.params), held),
                size=size,
                state=await self._broadcasts.stored(codec.encode(slots), held) if slots else "",
                state_size=state_size,
                working=self._flow.machine.bases if self._flow is not None else None,
                kept=await self._broadcasts.stored(codec.encode(aggregate.mean), held) if keeps else None,
                kept_size=kept_size,
                opened_at=opened_at,
                broadcast=trained.broadcast,
                memory=dict(self._functions.memory),
            )
            journal = await self.row.patiently(lambda: last_event(self.session, self._around.store))
            commit = await self.row.commit(
                lambda session: round_commit(session, outcomes, self._link, journal, self._around.sign)
            )
            self._link = commit.round.link
        for client, part in aggregate.contributions.items():
            self._counted[client] = Counted(client, part.base or number, part.digest)
        if self._phase is not None:
            over = self._flow is not None and number == self.session.rounds
            cause = f"all {number} rounds are committed" if over else ""  # whoever is at work may stop
            self._close(self._phase, tuple(aggregate.contributions), cause, receipt_of(commit.round))
        if self._flow is not None:
            await self._flow.give_up()
        return advanced

    async def _has_room(self, size: int, held: AsyncExitStack) -> bool:
        """Wait for room in the project's quota, which these bytes have until `held` ends; False: it was stopped."""
        quotas, project = self._around.quotas, self.session.project

        async def reserve() -> bool:
            if not self._stopped:
                await quotas.reserve(project, size)
                held.callback(quotas.release, project, size)
            return not self._stopped

        return await self.row.patiently(reserve)

    async def _aggregated(self, state: State, trained: _Trained) -> Aggregate:
        """What the round's updates come to, by the app's own function where it has one."""
        total = await asyncio.to_thread(self._total, trained)
        number, run = state.round + 1, self._run
        if not self._functions.has("aggregate"):
            return await asyncio.to_thread(run.report, trained.plan, total, number, private=True)
        model, kept = run.algorithm.broadcast(state), run.kept(trained.plan, total)
        made = await self._functions.aggregated(number, model, kept)
        return run.aggregate_of(trained.plan, total, made)

    def _total(self, trained: _Trained) -> Partial:
        aggregator = self._run.algorithm.aggregator
        if len(trained.partials) == 1:
            return trained.partials[0]
        total = empty_partial(aggregator, trained.plan, self._around.hub.spool)
        for part in trained.partials:
            total = aggregator.merge(trained.plan, total, part)
        return total

    # ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, kind: Kind, number: int, blob: Blob, spec: RunSpec, before: Sequence[Sequence[str]] = ()) -> Phase:
        """spec: of the phase, with its rules."""
        session, run = self.session, self._run
        selects = self._functions.has("select")
        choose = run.cohort if kind is Kind.TRAIN else run.evaluation_cohort
        plan = PhasePlan(
            key=self._key(kind, number),
            spec=replace(spec, rules=session.spec.rules),
            rules=spec.rules,
            model=blob,
            package=self._package,
            choose=lambda available: choose(available, number),
            counted=self._counted,
            before=before,
            select=partial(self._functions.selected, number) if kind is Kind.TRAIN and selects else None,
        )

        def note_invited(clients: tuple[str, ...]) -> None:
            """Stored while they work, before the round is committed: a controller that dies goes on with them."""
            self._taking_part.update(clients)
            if kind is Kind.TRAIN:
                memory = self._functions.memory if selects else None
                told = self._telling.invited(number, clients, memory)
                storing = self.row.patiently(lambda: self._around.journal.record(told))
                self._noting.append(asyncio.create_task(storing))

        phase = Phase(
            plan,
            self._around.hub,
            self._around.connected,
            self._around.may,
            partial(self._telling.happened, plan.key),
            note_invited,
            self._flow if kind is Kind.TRAIN else None,
        )
        if self._stopped:
            phase.stop(self._stopped)
        self._telling.opened(plan.key)
        return phase

    def _close(self, phase: Phase, committed: tuple[str, ...], cause: str, receipt: Receipt | None = None) -> None:
        self._around.hub.receive_from_parent(Closed(phase.plan.key, committed, cause, receipt))
        if phase is self._phase and (self._flow is None or cause):  # else whoever is at work goes on
            self._phase = None

    def _key(self, kind: Kind, number: int) -> RoundKey:
        return RoundKey(self.session.id, number, kind)

    async def _end(self, state: SessionState, cause: str) -> SessionRecord:
        await self._evaluation.abandoned(cause)
        unstored = await self._evaluation.settled()
        if unstored is not None and state is SessionState.FINISHED:
            state, cause = SessionState.FAILED, f"metrics could not be stored: {unstored}"
        await asyncio.gather(*self._noting, return_exceptions=True)
        if self._flow is not None:
            await self._flow.aclose()
        await self._broadcasts.prune()
        await self.row.end(state, cause)
        for phase in self._phases:  # not before: clients then forget what they have learned for a round that is open
            self._close(phase, (), cause.partition("\n")[0])
        return self.session
