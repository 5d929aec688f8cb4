"""A session under way: rounds one after another, each committed in one transaction after its model is durable."""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import structlog

from hansa.algorithm import Aggregate, Cohort, Partial, Plan, State
from hansa.arrays import Arrays
from hansa.errors import HansaError, NotFoundError, QuorumNotMetError, RunFailedError, StorageUnavailableError
from hansa.messages import Candidate, EvaluationRules, Kind, Metrics, RunSpec, Value
from hansa.network.combiner.hub import Hub
from hansa.network.controller.commit import (
    Outcomes,
    Sign,
    broadcast_of,
    evaluation_records,
    last_counted,
    last_event,
    last_invited,
    last_link,
    last_memory,
    last_working,
    receipt_of,
    round_commit,
    sealed,
    state_of,
)
from hansa.network.controller.functions import AppFunctions
from hansa.network.controller.journal import Journal
from hansa.network.controller.phases import Flow, Phase, PhasePlan
from hansa.network.controller.quotas import Quotas
from hansa.network.controller.retention import Retention
from hansa.network.controller.telling import Telling
from hansa.network.patience import patiently
from hansa.rounds.buffered import Buffered
from hansa.rounds.eligible import chosen
from hansa.rounds.events import Abandoned, Completed, NotMet
from hansa.rounds.why import Why
from hansa.run import Run, resolve, slots_to_arrays
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import MetricRecord, SessionRecord, SessionState
from hansa.store.spool import empty_partial
from hansa.wire import codec
from hansa.wire.chunks import INLINE_LIMIT
from hansa.wire.frames import (
    Blob,
    Closed,
    Counted,
    Evaluated,
    FromNode,
    Presence,
    Receipt,
    RoundKey,
    Settled,
    TaskFailed,
)

__all__ = ["Central", "SessionRunner", "Surroundings"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)

Central = Callable[[SessionRecord, RoundKey, Blob], Awaitable[Metrics]]
"""Evaluation beside the server: (session, evaluation phase, model) → metrics; raises `UserCodeError`."""


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
        self.session = session
        self._is_resumed = session.state is SessionState.RUNNING
        """Whether a controller has died under it: the round that was open goes on with those who were in it."""
        self._around = around
        self.under_way = asyncio.Event()
        """Set when the session is stored as running."""
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
        self._evaluation: Phase | None = None
        """Of an asynchronous run, beside the rounds after the one that is evaluated."""
        self._flow = self._new_flow()
        self._stopped = ""
        self._leaving = asyncio.Event()
        self.away = ""
        """Which store it waits for, and what to do about it; empty while there is none."""
        self._memory: dict[str, Value] = {}
        """What the app's functions have left for later calls."""
        self._recalled: Mapping[str, Value] | None = None
        """The same when the round was opened that a controller that died had under way, until it is open again."""
        self.calls = ""
        """Which of the app's functions it waits for; empty while there is none."""
        self._telling = Telling(session.project, session.id, around.journal)
        self._central: asyncio.Task[Metrics | None] | None = None
        self._afterwards: asyncio.Task[None] | None = None
        self._evaluating: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        """Held from reading `session` to storing what follows from it."""
        self._pruning: asyncio.Task[None] | None = None
        self._broadcasts: frozenset[str] = frozenset()
        """Objects that only a phase that is over has needed."""

    async def run(self) -> SessionRecord:
        """Run to the end; returns the session as it is then."""
        try:
            await self._begin()
            await self._rounds()
        except asyncio.CancelledError:  # the controller leaves: the session goes on when it is back
            self._leaving.set()
            if self._pruning is not None:
                self._pruning.cancel()
            if self._evaluating is not None:
                self._evaluating.cancel()
            beside = filter(None, (self._afterwards, self._pruning, self._evaluating))
            await asyncio.gather(*beside, *self._noting, return_exceptions=True)
            if self._flow is not None:
                await self._flow.aclose()
            raise
        except RunFailedError as error:
            return await self._end(SessionState.FAILED, str(error))
        except HansaError as error:
            return await self._end(SessionState.FAILED, f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - a plug-in's policy or algorithm may raise anything: it is the cause
            _log.error("a session failed in a plug-in, or in hansa itself", session=self.session.id, exc_info=error)
            said = "".join(traceback.format_exception(error))
            return await self._end(SessionState.FAILED, f"{type(error).__name__}: {error}\n{said}")
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
        return [phase for phase in (self._phase, self._evaluation) if phase is not None]

    def delivered(self, key: RoundKey, partial: Partial | None) -> None:
        """The tree's sum."""
        if self._phase is not None and self._phase.plan.key == key:
            self._phase.delivered(partial)

    def stop(self, cause: str) -> None:
        """End after what is committed; the round under way is dropped."""
        self._stopped = cause
        if self._central is not None:
            self._central.cancel()
        for phase in self._phases:
            phase.stop(cause)

    async def keep(self, policy: str | None) -> None:
        """Keep models by another policy from now on."""
        async with self._changing:
            kept = replace(self.session, keep=policy)
            await self._around.store.put(kept)
            self.session = kept

    def why(self) -> Why | None:
        """What the session waits for; None between phases."""
        found = next((phase.why() for phase in self._phases), None)
        whom = chosen(self.session.spec.rules)
        return found if found is None else replace(found, chosen=whom, present=len(self._around.connected()))

    # ── rounds ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin(self) -> None:
        last = self.session.round
        message = f"{self.session.name} goes on after round {last}" if last else f"{self.session.name} begins"
        running = {"state": SessionState.RUNNING, "started_at": time.time(), "cause": "", "ended_at": None}
        await self._note("session.started", message, running)
        self.under_way.set()
        if self.session.package is not None:
            package = self.session.package
            self._package = Blob(package, await self._patiently(lambda: self._around.objects.size(package)))

    async def _rounds(self) -> None:
        store, objects = self._around.store, self._around.objects
        state = await self._patiently(lambda: state_of(self.session, self._run, store, objects))
        self._link = await self._patiently(lambda: last_link(self.session, store))
        self._counted = await self._patiently(lambda: last_counted(self.session, store))
        self._memory = await self._patiently(lambda: last_memory(self.session, store))
        if self._is_resumed:
            self._invited, self._recalled = await self._patiently(lambda: last_invited(self.session, store))
            self._taking_part.update(*self._invited)
            await self._take_up()
        if await self._owes_an_evaluation():
            await self._evaluate_in_turn(state, self.session.round)
        for number in range(self.session.round + 1, self.session.rounds + 1):
            if self._stopped:
                break
            advanced = await self._round(state, number)
            if advanced is None:
                break
            state = advanced
            self._prune_soon()
            await self._evaluate_in_turn(state, number)
        if self._evaluating is not None:
            await self._evaluating
        if self._afterwards is not None:
            await self._afterwards

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
            blob = await held.enter_async_context(self._broadcast(broadcast, state))
            if self._flow is not None:
                self._flow.hold(number, blob, held.pop_all())
            spec = await self._configured(number, broadcast)
            if self._stopped:
                return None
            if self._recalled is not None:  # whoever selected is not asked again, and has left what it had to leave
                self._memory, self._recalled = dict(self._recalled), None
            planning = asyncio.create_task(asyncio.to_thread(self._planned, broadcast))
            phase = self._open(Kind.TRAIN, number, blob, spec, self._invited)
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
                model=await self._stored(codec.encode(advanced.params), held),
                size=size,
                state=await self._stored(codec.encode(slots), held) if slots else "",
                state_size=state_size,
                working=self._flow.machine.bases if self._flow is not None else None,
                kept=await self._stored(codec.encode(aggregate.mean), held) if keeps else None,
                kept_size=kept_size,
                opened_at=opened_at,
                broadcast=trained.broadcast,
                memory=dict(self._memory),
            )
            journal = await self._patiently(lambda: last_event(self.session, self._around.store))
            async with self._changing:
                commit = round_commit(self.session, outcomes, self._link, journal, self._around.sign)
                await self._patiently(lambda: self._around.store.commit_round(commit))
                self.session, self._link = commit.session, commit.round.link
        for client, part in aggregate.contributions.items():
            self._counted[client] = Counted(client, part.base or number, part.digest)
        self._around.journal.notify()
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

        return await self._patiently(reserve)

    async def _aggregated(self, state: State, trained: _Trained) -> Aggregate:
        """What the round's updates come to, by the app's own function where it has one."""
        total = await asyncio.to_thread(self._total, trained)
        number, run = state.round + 1, self._run
        if "aggregate" not in run.spec.functions:
            return await asyncio.to_thread(run.report, trained.plan, total, number, private=True)
        model, kept = run.algorithm.broadcast(state), run.kept(trained.plan, total)
        with self._calling("aggregate"):
            made = await self._around.functions.aggregate(self.session, number, model, kept, self._memory)
        return run.aggregate_of(trained.plan, total, made)

    def _total(self, trained: _Trained) -> Partial:
        aggregator = self._run.algorithm.aggregator
        if len(trained.partials) == 1:
            return trained.partials[0]
        total = empty_partial(aggregator, trained.plan, self._around.hub.spool)
        for part in trained.partials:
            total = aggregator.merge(trained.plan, total, part)
        return total

    async def _configured(self, number: int, broadcast: Arrays) -> RunSpec:
        """What clients are told in a round: the specification, with settings of the app's own function."""
        spec = self.session.spec
        if "configure" not in spec.functions:
            return spec
        with self._calling("configure"):
            functions, memory = self._around.functions, self._memory
            told = await functions.configure(self.session, number, broadcast, memory)
        return replace(spec, config=told)

    async def _selected(self, number: int, available: Sequence[str]) -> Cohort:
        """Whom the app's own function invites."""
        clients = [Candidate(name, dict(self._around.labels(name))) for name in available]
        with self._calling("select"):
            return Cohort(await self._around.functions.select(self.session, number, clients, self._memory))

    @contextmanager
    def _calling(self, function: str) -> Iterator[None]:
        self.calls = function
        try:
            yield
        finally:
            self.calls = ""

    # ── asynchronous rounds ──────────────────────────────────────────────────────────────────────────────────────

    def _new_flow(self) -> Flow | None:
        buffering = self._run.algorithm.buffering
        if buffering is None:
            return None
        rules = self.session.spec.rules
        machine = Buffered(rules, buffering.size, buffering.max_staleness, self._run.queue)
        machine.number = self.session.round
        return Flow(machine)

    async def _take_up(self) -> None:
        """Go on with those who were at work when a controller died, as far as their models are there."""
        flow, session, objects = self._flow, self.session, self._around.objects
        if flow is None or not self._is_resumed:
            return
        bases = dict(await self._patiently(lambda: last_working(session, self._around.store)))
        for number in sorted(set(bases.values())):
            digest = await self._patiently(partial(broadcast_of, session, number, self._around.store))
            async with AsyncExitStack() as held:
                await held.enter_async_context(self._around.retention.holds.holding(digest))
                try:
                    size = await self._patiently(partial(objects.size, digest))
                except NotFoundError:
                    _log.warning("clients begin anew: their model is gone", session=session.id, round=number)
                    continue
                flow.hold(number, Blob(digest, size), held.pop_all())
        there = {client: base for client, base in bases.items() if base in flow.models}
        self._taking_part.update(there)
        flow.machine.take_up(session.round, there, asyncio.get_running_loop().time())

    async def _evaluate_in_turn(self, state: State, number: int) -> None:
        """Where it is due; of an asynchronous run beside the rounds that follow, since nobody waits for who trains."""
        if self._stopped or not self._evaluates(number):
            return
        if self._flow is None:
            await self._evaluate(state, number)
            return
        if self._evaluating is not None:
            await self._evaluating
        self._evaluating = asyncio.create_task(self._evaluate(state, number))
        await asyncio.sleep(0)  # it begins with the model that is the newest now

    # ── evaluation ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _owes_an_evaluation(self) -> bool:
        """Whether the session ended, or its controller died, between the last commit and what follows it."""
        number = self.session.round
        if not number or not self._evaluates(number):
            return False
        session = self.session
        query = Query(session.project, {"session": session.id, "round": number, "kind": Kind.EVALUATE.value}, limit=1)
        page = await self._patiently(lambda: self._around.store.list(MetricRecord, query))
        return not page.items

    def _evaluates(self, number: int) -> bool:
        return self._run.evaluates(number, last=self.session.rounds)

    async def _evaluate(self, state: State, number: int) -> None:
        """On clients and beside the server, at once. A failed evaluation is reported and does not end the session."""
        rules = self.session.spec.evaluation
        key = self._key(Kind.EVALUATE, number)
        async with self._broadcast(state.params, state) as blob:
            central = self._central = asyncio.create_task(self._centrally(key, blob, rules))
            try:
                reports = await self._by_clients(number, blob, rules) if rules.clients else {}
                await asyncio.wait([central])
            finally:
                central.cancel()  # nothing to cancel once it is done
        if self._afterwards is not None:
            await self._afterwards
        beside = None if central.cancelled() else central.result()
        self._afterwards = asyncio.create_task(self._record_metrics(key, blob.digest, reports, beside))

    async def _record_metrics(
        self, key: RoundKey, model: str, reports: Mapping[str, Evaluated], central: Metrics | None
    ) -> None:
        number = key.round
        records, shown = evaluation_records(self.session, number, model, reports, central)
        if records:
            said = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
            evaluated = self._telling.event("round.evaluated", f"round {number}: {said}", round=number, metrics=shown)
            await self._patiently(lambda: self._around.store.put(*records, evaluated))
            self._around.journal.notify()

    async def _by_clients(self, number: int, blob: Blob, rules: EvaluationRules) -> Mapping[str, Evaluated]:
        spec = self.session.spec
        cohort = replace(spec.rules, selection="fraction", fraction=rules.fraction, count=None)
        measured = replace(cohort, min_clients=1, quorum=1, enough=None, replace_failed=False)
        phase = self._open(Kind.EVALUATE, number, blob, replace(spec, rules=measured))
        cause = ""
        try:
            outcome = await phase.run()
        except HansaError as error:  # a policy's cohort that cannot be used
            cause = f"{type(error).__name__}: {error}"
        else:
            cause = outcome.cause if isinstance(outcome, NotMet) else ""
        self._close(phase, (), cause)
        if cause:
            await self._note_unevaluated(number, f"round {number} was not evaluated: {cause}")
        return phase.reports

    async def _centrally(self, key: RoundKey, blob: Blob, rules: EvaluationRules) -> Metrics | None:
        if not rules.central or self.session.package is None:
            return None
        try:
            return await self._around.central(self.session, key, blob)
        except HansaError as error:
            await self._note_unevaluated(key.round, f"round {key.round} was not evaluated beside the server: {error}")
            return None

    async def _note_unevaluated(self, number: int, message: str) -> None:
        failed = self._telling.event("evaluation.failed", message, round=number)
        await self._patiently(lambda: self._around.journal.record(failed))  # if done twice, it is told twice

    # ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, kind: Kind, number: int, blob: Blob, spec: RunSpec, before: Sequence[Sequence[str]] = ()) -> Phase:
        """spec: of the phase, with its rules."""
        session, run = self.session, self._run
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
            select=partial(self._selected, number) if kind is Kind.TRAIN and "select" in run.spec.functions else None,
        )

        def note_invited(clients: tuple[str, ...]) -> None:
            """Stored while they work, before the round is committed: a controller that dies goes on with them."""
            self._taking_part.update(clients)
            if kind is Kind.TRAIN:
                memory = self._memory if "select" in run.spec.functions else None
                invited = self._telling.invited(number, clients, memory)
                self._noting.append(asyncio.create_task(self._patiently(lambda: self._around.journal.record(invited))))

        phase = Phase(
            plan,
            self._around.hub,
            self._around.connected,
            self._around.may,
            partial(self._telling.happened, plan.key),
            note_invited,
            self._flow if kind is Kind.TRAIN else None,
        )
        if self._flow is not None and kind is Kind.EVALUATE:
            self._evaluation = phase
        else:
            self._phase = phase
        if self._stopped:
            phase.stop(self._stopped)
        self._telling.opened(plan.key)
        return phase

    def _close(self, phase: Phase, committed: tuple[str, ...], cause: str, receipt: Receipt | None = None) -> None:
        self._around.hub.receive_from_parent(Closed(phase.plan.key, committed, cause, receipt))
        if phase is self._evaluation:
            self._evaluation = None
        elif self._flow is None or cause:  # else the round is over, and whoever is at work goes on
            self._phase = None

    def _key(self, kind: Kind, number: int) -> RoundKey:
        return RoundKey(self.session.id, number, kind)

    @asynccontextmanager
    async def _broadcast(self, arrays: Arrays, state: State) -> AsyncIterator[Blob]:
        """What a phase needs, as an object that is there until it is over; small ones travel inline too."""
        parts = codec.encode(arrays)
        size = codec.size(arrays)
        async with AsyncExitStack() as held:
            if arrays is state.params and self.session.model is not None:
                digest = self.session.model
                await held.enter_async_context(self._around.retention.holds.holding(digest))
            else:
                digest = await self._stored(parts, held)
                self._broadcasts |= {digest}
            yield Blob(digest, size, b"".join(parts) if size <= INLINE_LIMIT else b"")

    # ── objects ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _stored(self, parts: Sequence[bytes | memoryview], held: AsyncExitStack) -> str:
        """Store an object that nobody removes before `held` ends."""
        retention = self._around.retention
        digest = await self._patiently(lambda: retention.put(parts))
        held.callback(retention.holds.release, digest)
        return digest

    def _prune_soon(self) -> None:
        """Remove what the last round has made unnecessary, beside the next one."""
        if self._pruning is None or self._pruning.done():
            self._pruning = asyncio.create_task(self._prune())

    async def _prune(self) -> None:
        """Once what is known of earlier rounds is stored. A store that is away is asked again after another round."""
        if self._afterwards is not None:
            await asyncio.wait([self._afterwards])
        over, self._broadcasts = self._broadcasts, frozenset()
        try:
            over = await self._around.retention.discard(over)
            await self._around.retention.prune(self.session)
        except StorageUnavailableError as error:
            _log.warning("nothing is pruned while a store is away", session=self.session.id, why=str(error))
        except HansaError as error:
            _log.error("old models could not be pruned", session=self.session.id, why=str(error))
        self._broadcasts |= over

    # ── storing ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        def tell(away: str) -> None:
            self.away = away

        return await patiently(ask, who=f"session {self.session.id}", leaving=self._leaving, tell=tell)

    async def _note(self, kind: str, message: str, changes: Mapping[str, Any], **data: Value) -> None:
        told = self._telling.event(kind, message, **data)
        async with self._changing:
            session = replace(self.session, **changes)
            await self._patiently(lambda: self._around.store.put(session, told))  # if done twice, it is told twice
            self.session = session
        self._around.journal.notify()

    async def _end(self, state: SessionState, cause: str) -> SessionRecord:
        if self._evaluating is not None:
            if self._evaluation is not None and state is not SessionState.FINISHED:
                self._evaluation.stop(cause)
            await asyncio.gather(self._evaluating, return_exceptions=True)
        if self._afterwards is not None:
            await asyncio.wait([self._afterwards])
            if self._afterwards.exception() is not None and state is SessionState.FINISHED:
                state, cause = SessionState.FAILED, f"metrics could not be stored: {self._afterwards.exception()}"
        self._afterwards = None
        await asyncio.gather(*self._noting, return_exceptions=True)
        if self._flow is not None:
            await self._flow.aclose()
        if self._pruning is not None:
            await asyncio.wait([self._pruning])
        await self._prune()
        seal = await self._patiently(lambda: sealed(self.session, state, cause, self._around.store, self._around.sign))
        changes = {"state": state, "cause": cause, "ended_at": time.time()}
        await self._note(f"session.{state}", cause, changes, **seal)
        if self._phase is not None:  # not before: clients then forget what they have learned for a round that is open
            self._close(self._phase, (), cause.partition("\n")[0])
        _log.info("session ended", session=self.session.id, state=state.value, cause=cause)
        return self.session
