"""Predictions over the network: clients are asked what a model says of their data, and what they answer is kept."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from hansa.algorithm import Cohort
from hansa.errors import HansaError
from hansa.messages import Kind
from hansa.network.combiner.hub import Hub
from hansa.network.controller.holds import Holds
from hansa.network.controller.journal import Journal, event
from hansa.network.controller.phases import Phase, PhasePlan
from hansa.network.patience import patiently
from hansa.rounds.eligible import chosen
from hansa.rounds.events import Abandoned, Accepted, Completed, Event, Failed, NotMet, Outcome, Rejected
from hansa.rounds.why import Why
from hansa.run import resolve
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import AnswerRecord, PredictionRecord, SessionState
from hansa.wire.frames import Blob, Closed, FromNode, Presence, RoundKey, TaskFailed

__all__ = ["PredictionRunner", "PredictionSurroundings"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PredictionSurroundings:
    """What a prediction works with."""

    store: MetadataStore
    objects: ObjectStore
    holds: Holds
    journal: Journal
    hub: Hub
    connected: Callable[[], frozenset[str]]
    """Every client that is connected now."""
    may: Callable[[str], bool]
    """Whether a client may be asked, by its name and its labels as they are now."""


class PredictionRunner:
    """Drives one prediction to a terminal state, which always has a cause. An answer is kept as soon as it comes."""

    def __init__(self, prediction: PredictionRecord, around: PredictionSurroundings) -> None:
        """prediction: as stored. Raises `ConfigError`."""
        self.prediction = prediction
        self._around = around
        self._run = resolve(prediction.spec)
        self._key = RoundKey(prediction.id, 1, Kind.PREDICT)
        self._answered: frozenset[str] = frozenset()
        """Those whose answers were kept before a controller died."""
        self._asked_of: set[str] = set()
        self._phase: Phase | None = None
        self._keeping: list[asyncio.Task[None]] = []
        self._stopped = ""
        self._leaving = asyncio.Event()

    async def run(self) -> PredictionRecord:
        """Run to the end; returns the prediction as it is then."""
        try:
            outcome = await self._asked()
        except asyncio.CancelledError:  # the controller leaves: it goes on when it is back
            self._leaving.set()
            await asyncio.gather(*self._keeping, return_exceptions=True)
            raise
        except HansaError as error:
            return await self._end(SessionState.FAILED, f"{type(error).__name__}: {error}")
        match outcome:
            case Completed() | None:
                return await self._end(SessionState.FINISHED, "")
            case NotMet(cause):
                return await self._end(SessionState.FAILED, cause)
            case Abandoned(cause):
                return await self._end(SessionState.STOPPED, cause)

    def receive(self, frame: FromNode) -> None:
        """A report of a client."""
        if self._phase is not None and getattr(frame, "key", None) == self._key:
            self._phase.receive(frame)

    def takes_part(self, client: str) -> bool:
        """Whether this client was asked, by this controller."""
        return client in self._asked_of

    def engages(self, client: str) -> bool:
        """Whether a client has something to do in it."""
        return self._phase is not None and self._phase.engages(client)

    def presence(self, presence: Presence) -> None:
        """Clients came or went."""
        if self._phase is not None:
            self._phase.presence(presence)

    def dismissed(self, client: str, why: str) -> None:
        """A client is a member of the network no more."""
        self.receive(TaskFailed(self._key, client, why))

    def stop(self, cause: str) -> None:
        """Ask no more; what was answered is kept."""
        self._stopped = cause
        if self._phase is not None:
            self._phase.stop(cause)

    def why(self) -> Why | None:
        """What it waits for; None before it asks."""
        found = self._phase.why() if self._phase is not None else None
        whom = chosen(self.prediction.spec.rules)
        return found if found is None else replace(found, chosen=whom, present=len(self._around.connected()))

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _asked(self) -> Outcome | None:
        """How the phase ended; None where a controller that died had every answer already."""
        around, prediction = self._around, self.prediction
        query = Query(prediction.project, {"prediction": prediction.id})

        async def answered() -> frozenset[str]:
            return frozenset([answer.client async for answer in every(around.store, AnswerRecord, query)])

        self._answered = await self._patiently(answered)
        if prediction.asked and len(self._answered) >= prediction.asked:
            return None
        rules = replace(prediction.spec.rules, replace_failed=False)
        if self._answered:
            rules = replace(rules, min_clients=1, quorum=1)
        async with around.holds.holding(prediction.model):
            package = prediction.package
            self._phase = Phase(
                PhasePlan(
                    key=self._key,
                    spec=prediction.spec,
                    rules=rules,
                    model=await self._blob(prediction.model),
                    package=await self._blob(package) if package is not None else None,
                    choose=self._choose,
                    counted={},
                ),
                around.hub,
                around.connected,
                lambda client: client not in self._answered and around.may(client),
                self._happened,
                self._invited,
            )
            if self._stopped:
                self._phase.stop(self._stopped)
            return await self._phase.run()

    def _choose(self, available: Sequence[str]) -> Cohort:
        return self._run.cohort(available, 1)

    async def _blob(self, digest: str) -> Blob:
        return Blob(digest, await self._patiently(lambda: self._around.objects.size(digest)))

    def _invited(self, clients: tuple[str, ...]) -> None:
        self._asked_of.update(clients)
        self._keep(asked=self.prediction.asked + len(clients))

    def _happened(self, what: Event) -> None:
        """An answer is kept, or why there is none."""
        match what:
            case Accepted(client=client) if self._phase is not None and client in self._phase.predictions:
                self._keep_answer(client, self._phase.predictions[client].document.decode(), "")
            case Failed(client=client, message=message):
                self._keep_answer(client, None, message)
            case Rejected(client=client, reason=reason, detail=detail):
                self._keep_answer(client, None, f"{reason}: {detail}")
            case _:
                pass

    def _keep_answer(self, client: str, document: str | None, reason: str) -> None:
        prediction = self.prediction
        key = f"{prediction.id}/{client}"
        answer = AnswerRecord(key, prediction.project, prediction.id, client, time.time(), document, reason)
        self._keep(answer, answered=prediction.answered + (document is not None))
        self._around.journal.live(
            prediction.project, "", "prediction.answered",
            prediction=prediction.id, client=client, answered=document is not None,
        )  # fmt: skip

    def _keep(self, *answers: AnswerRecord, **changes: int) -> None:
        """Store the prediction with these changes, one after another."""
        self.prediction = record = replace(self.prediction, **changes)  # type: ignore[arg-type]  # counts
        before = tuple(self._keeping[-1:])

        async def write() -> None:
            await asyncio.gather(*before, return_exceptions=True)
            await self._patiently(lambda: self._around.store.put(record, *answers))

        self._keeping.append(asyncio.create_task(write()))

    async def _end(self, state: SessionState, cause: str) -> PredictionRecord:
        for flaw in await asyncio.gather(*self._keeping, return_exceptions=True):
            if flaw is not None:
                state, cause = SessionState.FAILED, f"answers could not be stored: {flaw}"
        counts = f"{self.prediction.answered} of {self.prediction.asked} clients have answered"
        said = f"{cause}; {counts}" if cause else counts
        ended = replace(self.prediction, state=state, cause=said, ended_at=time.time())
        named = {"prediction": ended.id, "name": ended.name}
        told = event(ended.project, "", f"prediction.{state}", f"prediction {ended.name}: {said}", **named)
        await self._patiently(lambda: self._around.store.put(ended, told))  # if done twice, it is told twice
        self._around.journal.notify(told)
        self._around.hub.receive_from_parent(Closed(self._key, (), said.partition("\n")[0]))
        self.prediction = ended
        _log.info("prediction ended", prediction=ended.id, state=state.value, cause=said)
        return ended

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await patiently(ask, who=f"prediction {self.prediction.id}", leaving=self._leaving)
