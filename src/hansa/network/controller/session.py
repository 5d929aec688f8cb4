"""A session under way: rounds one after another, each committed in one transaction after its model is durable."""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from hansa.algorithm import Aggregate, Partial, Plan, State
from hansa.arrays import Arrays
from hansa.errors import HansaError, QuorumNotMetError, RunFailedError
from hansa.messages import EvaluationRules, Kind, Metrics, RoundRules, Value, merge_metrics
from hansa.network.combiner.hub import Hub
from hansa.network.controller.commit import Outcomes, last_counted, last_link, round_commit, state_of
from hansa.network.controller.journal import Journal, event
from hansa.network.controller.phases import Phase, PhasePlan
from hansa.network.patience import patiently
from hansa.rounds.events import Abandoned, Accepted, Completed, Event, Failed, NotMet, Progressed, Rejected
from hansa.rounds.why import Why
from hansa.run import Run, resolve, slots_to_arrays
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import EventRecord, MetricRecord, SessionRecord, SessionState
from hansa.wire import codec
from hansa.wire.chunks import INLINE_LIMIT
from hansa.wire.frames import CENTRAL, Blob, Closed, Counted, FromNode, Presence, RoundKey, TaskFailed

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
    journal: Journal
    hub: Hub
    connected: Callable[[], frozenset[str]]
    """Every client that is connected now."""
    central: Central


@dataclass(frozen=True, slots=True)
class _Trained:
    """What a training phase came to."""

    plan: Plan
    partials: list[Partial]
    outcome: Completed


class SessionRunner:
    """Drives one session from its last committed round to a terminal state, which always has a cause."""

    def __init__(self, session: SessionRecord, around: Surroundings) -> None:
        """session: as stored."""
        self.session = session
        self._around = around
        self.under_way = asyncio.Event()
        """Set when the session is stored as running."""
        self._run: Run = resolve(session.spec)
        self._package: Blob | None = None
        self._link = ""
        self._counted: dict[str, Counted] = {}
        self._phase: Phase | None = None
        self._stopped = ""
        self._leaving = asyncio.Event()
        self.away = ""
        """Which store it waits for, and what to do about it; empty while there is none."""
        self._tracebacks: dict[str, str] = {}
        self._central: asyncio.Task[Metrics | None] | None = None
        self._afterwards: asyncio.Task[None] | None = None

    async def run(self) -> SessionRecord:
        """Run to the end; returns the session as it is then."""
        try:
            await self._begin()
            await self._rounds()
        except asyncio.CancelledError:  # the controller leaves: the session goes on when it is back
            self._leaving.set()
            if self._afterwards is not None:
                await asyncio.gather(self._afterwards, return_exceptions=True)
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
        return await self._end(SessionState.FINISHED, f"all {self.session.spec.rounds} rounds are committed")

    def receive(self, frame: FromNode) -> None:
        """A report about a phase of this session."""
        phase = self._phase
        if phase is None or getattr(frame, "key", None) != phase.plan.key:
            return
        if isinstance(frame, TaskFailed) and phase.expects(frame.client):
            self._record_failure(frame)
        phase.receive(frame)

    def presence(self, presence: Presence) -> None:
        """Clients came or went."""
        if self._phase is not None:
            self._phase.presence(presence)

    def delivered(self, key: RoundKey, partial: Partial | None) -> None:
        """The tree's sum."""
        if self._phase is not None and self._phase.plan.key == key:
            self._phase.delivered(partial)

    def stop(self, cause: str) -> None:
        """End after what is committed; the round under way is dropped."""
        self._stopped = cause
        if self._central is not None:
            self._central.cancel()
        if self._phase is not None:
            self._phase.stop(cause)

    def why(self) -> Why | None:
        """What the session waits for; None between phases."""
        return self._phase.why() if self._phase is not None else None

    # ── rounds ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin(self) -> None:
        started = replace(self.session, state=SessionState.RUNNING, started_at=time.time(), cause="", ended_at=None)
        await self._note(started, "session.started", f"{started.name} goes on after round {started.round}")
        self.under_way.set()
        if self.session.package is not None:
            package = self.session.package
            self._package = Blob(package, await self._patiently(lambda: self._around.objects.size(package)))

    async def _rounds(self) -> None:
        store, objects = self._around.store, self._around.objects
        state = await self._patiently(lambda: state_of(self.session, self._run, store, objects))
        self._link = await self._patiently(lambda: last_link(self.session, store))
        self._counted = await self._patiently(lambda: last_counted(self.session, store))
        if await self._owes_an_evaluation():
            await self._evaluate(state, self.session.round)
        for number in range(self.session.round + 1, self.session.spec.rounds + 1):
            if self._stopped:
                break
            opened_at = time.time()
            trained = await self._train(state, number)
            if trained is None:
                break
            state = await self._commit(state, number, opened_at, trained)
            if self._run.evaluates(number) and not self._stopped:
                await self._evaluate(state, number)
        if self._afterwards is not None:
            await self._afterwards

    async def _train(self, state: State, number: int) -> _Trained | None:
        """The training phase; None when the session was stopped meanwhile."""
        broadcast = self._run.algorithm.broadcast(state)
        blob = await self._blob(broadcast, state)
        planning = asyncio.create_task(asyncio.to_thread(self._run.algorithm.aggregator.plan, broadcast))
        phase = self._open(Kind.TRAIN, number, blob, self.session.spec.rules)
        try:
            outcome = await phase.run()
            plan = await planning
        finally:
            planning.cancel()  # nothing to cancel once it is done
        match outcome:
            case Completed():
                return _Trained(plan, phase.partials, outcome)
            case NotMet():
                raise QuorumNotMetError(f"{outcome.cause}{self._first_traceback(outcome.failed)}")
            case Abandoned():
                return None

    async def _commit(self, state: State, number: int, opened_at: float, trained: _Trained) -> State:
        """The server's half, the model made durable, and then everything about the round in one transaction."""
        aggregate, advanced = await asyncio.to_thread(self._advanced, state, trained)
        objects = self._around.objects
        model = await self._patiently(lambda: objects.put(codec.encode(advanced.params)))
        slots = slots_to_arrays(advanced.slots)
        state_digest = await self._patiently(lambda: objects.put(codec.encode(slots))) if slots else ""
        outcomes = Outcomes(
            number=number,
            completed=trained.outcome,
            aggregate=aggregate,
            model=model,
            size=codec.size(advanced.params),
            state=state_digest,
            opened_at=opened_at,
        )
        commit = round_commit(self.session, outcomes, self._link)
        await self._patiently(lambda: self._around.store.commit_round(commit))
        self.session, self._link = commit.session, commit.round.link
        for client, part in aggregate.contributions.items():
            self._counted[client] = Counted(client, number, part.digest)
        self._around.journal.notify()
        if self._phase is not None:
            self._close(self._phase, tuple(aggregate.contributions), "")
        return advanced

    def _advanced(self, state: State, trained: _Trained) -> tuple[Aggregate, State]:
        aggregator = self._run.algorithm.aggregator
        total = aggregator.zero(trained.plan) if len(trained.partials) != 1 else trained.partials[0]
        for partial in trained.partials if len(trained.partials) != 1 else ():
            total = aggregator.merge(trained.plan, total, partial)
        aggregate = aggregator.report(trained.plan, total)
        return aggregate, self._run.finish(state, aggregate)

    # ── evaluation ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _owes_an_evaluation(self) -> bool:
        """Whether the session ended, or its controller died, between the last commit and what follows it."""
        number = self.session.round
        if not number or not self._run.evaluates(number):
            return False
        session = self.session
        query = Query(session.project, {"session": session.id, "round": number, "kind": Kind.EVALUATE.value}, limit=1)
        page = await self._patiently(lambda: self._around.store.list(MetricRecord, query))
        return not page.items

    async def _evaluate(self, state: State, number: int) -> None:
        """On clients and beside the server, at once. A failed evaluation is reported and does not end the session."""
        rules = self.session.spec.evaluation
        blob = await self._blob(state.params, state)
        key = self._key(Kind.EVALUATE, number)
        central = self._central = asyncio.create_task(self._centrally(key, blob, rules))
        try:
            reports = await self._by_clients(number, blob, rules) if rules.clients else {}
            await asyncio.wait([central])
        finally:
            central.cancel()  # nothing to cancel once it is done
        if self._afterwards is not None:
            await self._afterwards
        beside = None if central.cancelled() else central.result()
        self._afterwards = asyncio.create_task(self._record_metrics(number, reports, beside))

    async def _by_clients(self, number: int, blob: Blob, rules: EvaluationRules) -> Mapping[str, Metrics]:
        spec = self.session.spec
        cohort = replace(spec.rules, selection="fraction", fraction=rules.fraction, count=None)
        phase = self._open(
            Kind.EVALUATE, number, blob, replace(cohort, min_clients=1, quorum=1, enough=None, replace_failed=False)
        )
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
        failed = self._event("evaluation.failed", message, round=number)
        await self._patiently(lambda: self._around.journal.record(failed))  # if done twice, it is told twice

    async def _record_metrics(self, number: int, reports: Mapping[str, Metrics], central: Metrics | None) -> None:
        merged = merge_metrics((report.values, report.num_examples) for report in reports.values())
        records = [self._metric(number, "", merged[name], name) for name in merged]
        for client, report in reports.items():
            records += [self._metric(number, client, report, name) for name in report.values]
        if central is not None:
            records += [self._metric(number, CENTRAL, central, name) for name in central.values]
        if not records:
            return
        shown: dict[str, float] = {name: metrics.values[name] for name, metrics in merged.items()}
        shown |= central.values if central is not None else {}
        said = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        evaluated = self._event("round.evaluated", f"round {number}: {said}", round=number, metrics=shown)
        await self._patiently(lambda: self._around.store.put(*records, evaluated))
        self._around.journal.notify()

    def _metric(self, number: int, client: str, metrics: Metrics, name: str) -> MetricRecord:
        session = self.session
        key = f"{session.id}/{number}/{Kind.EVALUATE}/{client}/{name}"
        value, examples = metrics.values[name], metrics.num_examples
        return MetricRecord(
            key, session.project, session.id, number, Kind.EVALUATE, name, value, examples, client, time.time()
        )

    # ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, kind: Kind, number: int, blob: Blob, rules: RoundRules) -> Phase:
        session, run = self.session, self._run
        choose = run.cohort if kind is Kind.TRAIN else run.evaluation_cohort
        plan = PhasePlan(
            key=self._key(kind, number),
            spec=session.spec,
            rules=rules,
            model=blob,
            package=self._package,
            choose=lambda available: choose(available, number),
            counted=self._counted,
        )
        self._phase = Phase(plan, self._around.hub, self._around.connected, self._show)
        if self._stopped:
            self._phase.stop(self._stopped)
        self._around.journal.live(session.project, session.id, f"{kind}.opened", round=number)
        return self._phase

    def _close(self, phase: Phase, committed: tuple[str, ...], cause: str) -> None:
        self._around.hub.receive_from_parent(Closed(phase.plan.key, committed, cause))
        self._phase = None

    def _key(self, kind: Kind, number: int) -> RoundKey:
        return RoundKey(self.session.id, number, kind)

    async def _blob(self, arrays: Arrays, state: State) -> Blob:
        """What is broadcast, as a stored object; small ones travel inline."""
        parts = codec.encode(arrays)
        size = codec.size(arrays)
        if arrays is state.params and self.session.model is not None:
            digest = self.session.model
        else:
            digest = await self._patiently(lambda: self._around.objects.put(parts))
        return Blob(digest, size, b"".join(parts) if size <= INLINE_LIMIT else b"")

    # ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _show(self, happened: Event) -> None:
        """The live view of a phase."""
        phase = self._phase
        if phase is None:
            return
        session, key = self.session, phase.plan.key
        where = {"round": key.round, "phase": key.kind.value}
        live = self._around.journal.live
        match happened:
            case Progressed():
                live(session.project, session.id, "client.progress", client=happened.client, activity=happened.activity,
                     done=happened.done, total=happened.total, **where)  # fmt: skip
            case Accepted():
                live(session.project, session.id, "client.accepted", client=happened.client, **where)
            case Rejected():
                live(session.project, session.id, "client.rejected", client=happened.client,
                     reason=happened.reason.value, detail=happened.detail, **where)  # fmt: skip
            case Failed():
                live(session.project, session.id, "client.failed", client=happened.client, message=happened.message,
                     **where)  # fmt: skip
            case _:
                pass

    def _record_failure(self, frame: TaskFailed) -> None:
        """Keep what went wrong, with its traceback, before anybody asks."""
        self._tracebacks[frame.client] = frame.traceback
        message = f"{frame.client} failed to {frame.key.kind} in round {frame.key.round}: {frame.message}"
        failed = self._event(
            "task.failed", message, round=frame.key.round, client=frame.client, traceback=frame.traceback
        )
        self._around.journal.later(failed)

    def _first_traceback(self, failed: Mapping[str, str]) -> str:
        """The traceback of the first client that failed: what a person wants to see in the cause."""
        told = [client for client in failed if self._tracebacks.get(client)]
        return f"\n{told[0]} said:\n{self._tracebacks[told[0]]}" if told else ""

    def _event(self, kind: str, message: str, **data: Value) -> EventRecord:
        return event(self.session.project, self.session.id, kind, message, **data)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        def tell(away: str) -> None:
            self.away = away

        return await patiently(ask, who=f"session {self.session.id}", leaving=self._leaving, tell=tell)

    async def _note(self, session: SessionRecord, kind: str, message: str) -> None:
        told = event(session.project, session.id, kind, message)
        await self._patiently(lambda: self._around.store.put(session, told))  # if done twice, it is told twice
        self.session = session
        self._around.journal.notify()

    async def _end(self, state: SessionState, cause: str) -> SessionRecord:
        if self._afterwards is not None:
            await asyncio.wait([self._afterwards])
            if self._afterwards.exception() is not None and state is SessionState.FINISHED:
                state, cause = SessionState.FAILED, f"metrics could not be stored: {self._afterwards.exception()}"
        self._afterwards = None
        ended = replace(self.session, state=state, cause=cause, ended_at=time.time())
        await self._note(ended, f"session.{state}", cause)
        if self._phase is not None:  # not before: clients then forget what they have learned for a round that is open
            self._close(self._phase, (), cause.partition("\n")[0])
        _log.info("session ended", session=ended.id, state=state.value, cause=cause)
        return ended
