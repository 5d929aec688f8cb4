"""All that is recorded of one session, as one value."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from hansa.messages import Kind
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import (
    ContributionRecord,
    EvaluationRecord,
    EventRecord,
    HandoverRecord,
    MetricRecord,
    ModelRecord,
    Record,
    RoundRecord,
    SessionRecord,
    SessionState,
)

__all__ = ["Evidence", "gather"]

R = TypeVar("R", bound=Record)

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Evidence:
    """The rows of one session, each kind in the order in which it was stored; rounds by their number."""

    session: SessionRecord
    rounds: tuple[RoundRecord, ...]
    contributions: tuple[ContributionRecord, ...]
    evaluations: tuple[EvaluationRecord, ...]
    metrics: tuple[MetricRecord, ...]
    models: tuple[ModelRecord, ...]
    events: tuple[EventRecord, ...]
    handovers: tuple[HandoverRecord, ...] = ()
    """Changes of the keys of its clients, before, in and after it."""

    @property
    def objects(self) -> dict[str, str]:
        """Digest → what it is, of every model, state and aggregate that is named."""
        named: dict[str, str] = {}
        if self.session.seed_model:
            named[self.session.seed_model] = "the seed model"
        for row in self.rounds:
            for digest, what in (
                (row.model, "model"),
                (row.state, "state of the algorithm"),
                (row.aggregate, "aggregate"),
            ):
                if digest:
                    named.setdefault(digest, f"the {what} of round {row.number}")
        return named

    @property
    def kept(self) -> frozenset[str]:
        """Those that must be there: all that are not marked as pruned, the newest and the seed in any case."""
        pruned = {row.round for row in self.models if row.pruned_at is not None}
        kept = {row.model for row in self.rounds if row.number not in pruned}
        kept |= {row.state for row in self.rounds if row.state_pruned_at is None}
        kept |= {row.aggregate or "" for row in self.rounds if row.aggregate_pruned_at is None}
        if self.rounds:
            kept |= {self.rounds[-1].model, self.rounds[-1].state}
        return frozenset(kept | {self.session.seed_model or ""}) & self.objects.keys()

    def _model_of(self, number: int) -> str | None:
        return self.rounds[number - 1].model if 1 <= number <= len(self.rounds) else None

    def until(self, number: int) -> "Evidence":
        """What was recorded up to a round: of a session that runs, more may be stored while it is read."""
        session = self.session
        if number < session.round:
            session = replace(session, round=number, model=self._model_of(number))
        return replace(
            self,
            session=session,
            rounds=tuple(row for row in self.rounds if row.number <= number),
            contributions=tuple(row for row in self.contributions if row.round <= number),
            evaluations=tuple(row for row in self.evaluations if row.round <= number),
            metrics=tuple(row for row in self.metrics if row.round <= number),
            models=tuple(row for row in self.models if row.round <= number),
        )


async def gather(store: MetadataStore, project: str, session: str) -> Evidence:
    """All rows of a session; raises `NotFoundError` for no such session.

    More may be stored while they are read. Events come first: what one tells was stored with it, and is read after it.
    """
    record = await store.get(SessionRecord, project, session)

    async def rows(kind: type[R], sort: str) -> tuple[R, ...]:
        return tuple([row async for row in _all(store, kind, project, {"session": session}, sort)])

    events = await rows(EventRecord, "id")
    found = Evidence(
        record,
        await rows(RoundRecord, "number"),
        await rows(ContributionRecord, "id"),
        await rows(EvaluationRecord, "id"),
        await rows(MetricRecord, "id"),
        await rows(ModelRecord, "round"),
        events,
    )
    found = replace(found, handovers=await _handovers(store, project, found))
    return _told(found).until(record.round) if record.state is SessionState.RUNNING else found


def _told(found: Evidence) -> Evidence:
    """Without what was evaluated since the events were read."""
    told = {event.data.get("round") for event in found.events if event.kind == "round.evaluated"}
    return replace(
        found,
        evaluations=tuple(row for row in found.evaluations if row.round in told),
        metrics=tuple(row for row in found.metrics if row.kind is not Kind.EVALUATE or row.round in told),
    )


async def _handovers(store: MetadataStore, project: str, found: Evidence) -> tuple[HandoverRecord, ...]:
    """Those of whoever has signed in a session."""
    signed = {part.client for part in found.contributions if part.signer is not None}
    signed |= {report.client for report in found.evaluations if report.signer is not None}
    return tuple([row async for row in _all(store, HandoverRecord, project, {}, "at") if row.node in signed])


async def _all(
    store: MetadataStore, kind: type[R], project: str, where: Mapping[str, str], sort: str
) -> AsyncIterator[R]:
    """Every row of a kind."""
    offset, total = 0, 1
    while offset < total:
        page = await store.list(kind, Query(project, where, sort=sort, limit=_PAGE, offset=offset))
        for row in page.items:
            yield row
        offset, total = offset + _PAGE, page.total
