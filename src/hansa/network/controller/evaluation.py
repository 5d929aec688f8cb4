"""Evaluations of a session's models, on clients and beside the server: each is told, and none ends the session."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from hansa.algorithm import State
from hansa.errors import HansaError
from hansa.messages import EvaluationRules, Kind, Metrics, RunSpec
from hansa.network.controller.broadcasts import Broadcasts
from hansa.network.controller.commit import evaluation_records
from hansa.network.controller.journal import Journal
from hansa.network.controller.phases import Phase
from hansa.network.controller.row import SessionRow
from hansa.network.controller.telling import Telling
from hansa.rounds.events import NotMet
from hansa.run import Run
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import MetricRecord, SessionRecord
from hansa.wire.frames import Blob, Evaluated, RoundKey

__all__ = ["Central", "Evaluation"]

Central = Callable[[SessionRecord, RoundKey, Blob], Awaitable[Metrics]]
"""Evaluation beside the server: (session, evaluation phase, model) → metrics; raises `UserCodeError`."""


class Evaluation:
    """Evaluates the models of one session, where its rules say it."""

    def __init__(
        self,
        run: Run,
        row: SessionRow,
        broadcasts: Broadcasts,
        *,
        store: MetadataStore,
        journal: Journal,
        telling: Telling,
        central: Central,
        open_phase: Callable[[int, Blob, RunSpec], Phase],
        close_phase: Callable[[Phase, str], None],
    ) -> None:
        """open_phase: of a round, with a model and a specification; close_phase: with why it failed, or nothing."""
        self.phase: Phase | None = None
        """On clients, that is under way."""
        self._run = run
        self._row = row
        self._broadcasts = broadcasts
        self._store = store
        self._journal = journal
        self._telling = telling
        self._beside = central
        self._open = open_phase
        self._close = close_phase
        self._central: asyncio.Task[Metrics | None] | None = None
        self._running: asyncio.Task[None] | None = None
        """The evaluation that is under way beside the rounds of an asynchronous session."""
        self._recording: asyncio.Task[None] | None = None
        """The metrics of the newest that is over."""

    def is_due(self, number: int) -> bool:
        """Whether the model of a round is evaluated."""
        return self._run.evaluates(number, last=self._row.session.rounds)

    async def is_owed(self) -> bool:
        """Whether the session ended, or its controller died, between the last commit and what follows it."""
        session = self._row.session
        number = session.round
        if not number or not self.is_due(number):
            return False
        query = Query(session.project, {"session": session.id, "round": number, "kind": Kind.EVALUATE.value}, limit=1)
        page = await self._row.patiently(lambda: self._store.list(MetricRecord, query))
        return not page.items

    async def start(self, state: State, number: int) -> None:
        """Evaluate beside the rounds that follow, once the evaluation before is over."""
        if self._running is not None:
            await self._running
        self._running = asyncio.create_task(self.run(state, number))
        await asyncio.sleep(0)  # it begins with the model that is the newest now

    async def run(self, state: State, number: int) -> None:
        """On clients and beside the server, at once; what they say is stored soon."""
        rules = self._row.session.spec.evaluation
        key = RoundKey(self._row.session.id, number, Kind.EVALUATE)
        async with self._broadcasts.of(state.params, state.params) as blob:
            central = self._central = asyncio.create_task(self._centrally(key, blob, rules))
            try:
                reports = await self._by_clients(number, blob, rules) if rules.clients else {}
                await asyncio.wait([central])
            finally:
                central.cancel()  # nothing to cancel once it is done
        if self._recording is not None:
            await self._recording
        beside = None if central.cancelled() else central.result()
        self._recording = asyncio.create_task(self._record(key, blob.digest, reports, beside))

    def stop(self, cause: str) -> None:
        """End what is under way; its phase on clients is abandoned."""
        if self._central is not None:
            self._central.cancel()
        if self.phase is not None:
            self.phase.stop(cause)

    async def settled(self) -> BaseException | None:
        """Wait until the metrics of what is over are stored; returns why they could not be."""
        if self._recording is None:
            return None
        await asyncio.wait([self._recording])
        return self._recording.exception()

    async def over(self) -> None:
        """Wait until all is over and stored; raises what an evaluation has."""
        if self._running is not None:
            await self._running
        if self._recording is not None:
            await self._recording

    async def abandoned(self, cause: str) -> None:
        """Wait until nothing is under way, of which nobody waits for the end."""
        if self._running is not None:
            if self.phase is not None:
                self.phase.stop(cause)
            await asyncio.gather(self._running, return_exceptions=True)

    async def aclose(self) -> None:
        """Leave: what is under way is evaluated anew by whoever goes on with the session."""
        if self._running is not None:
            self._running.cancel()
        await asyncio.gather(*filter(None, (self._running, self._recording)), return_exceptions=True)

    async def _record(
        self, key: RoundKey, model: str, reports: Mapping[str, Evaluated], central: Metrics | None
    ) -> None:
        number = key.round
        records, shown = evaluation_records(self._row.session, number, model, reports, central)
        if records:
            said = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
            evaluated = self._telling.event("round.evaluated", f"round {number}: {said}", round=number, metrics=shown)
            await self._row.patiently(lambda: self._store.put(*records, evaluated))
            self._journal.notify(evaluated)

    async def _by_clients(self, number: int, blob: Blob, rules: EvaluationRules) -> Mapping[str, Evaluated]:
        spec = self._row.session.spec
        cohort = replace(spec.rules, selection="fraction", fraction=rules.fraction, count=None)
        measured = replace(cohort, min_clients=1, quorum=1, enough=None, replace_failed=False)
        phase = self.phase = self._open(number, blob, replace(spec, rules=measured))
        try:
            outcome = await phase.run()
        except HansaError as error:  # a policy's cohort that cannot be used
            cause = f"{type(error).__name__}: {error}"
        else:
            cause = outcome.cause if isinstance(outcome, NotMet) else ""
        self.phase = None
        self._close(phase, cause)
        if cause:
            await self._note_failed(number, f"round {number} was not evaluated: {cause}")
        return phase.reports

    async def _centrally(self, key: RoundKey, blob: Blob, rules: EvaluationRules) -> Metrics | None:
        session = self._row.session
        if not rules.central or session.package is None:
            return None
        try:
            return await self._beside(session, key, blob)
        except HansaError as error:
            await self._note_failed(key.round, f"round {key.round} was not evaluated beside the server: {error}")
            return None

    async def _note_failed(self, number: int, message: str) -> None:
        failed = self._telling.event("evaluation.failed", message, round=number)
        await self._row.patiently(lambda: self._journal.record(failed))  # if done twice, it is told twice
