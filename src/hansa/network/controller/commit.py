"""From the end of a round to rows, and from rows back to the state that the next round starts from."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

from hansa.algorithm import Aggregate, State
from hansa.errors import ConflictError
from hansa.messages import Kind, Metrics, Signature, Value, merge_metrics
from hansa.network.controller.journal import event
from hansa.rounds.events import Completed, Unused
from hansa.run import Run
from hansa.statements import end_statement, round_statement
from hansa.store.link import ACCEPTED, round_link, run_digest
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, ObjectStore, Query, RoundCommit
from hansa.store.records import (
    ContributionRecord,
    EvaluationRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    RoundRecord,
    SessionRecord,
    SessionState,
)
from hansa.wire import codec
from hansa.wire.frames import CENTRAL, Counted, Evaluated, Receipt

__all__ = [
    "COMMITTED",
    "OPENED",
    "Outcomes",
    "Sign",
    "broadcast_of",
    "evaluation_records",
    "last_counted",
    "last_event",
    "last_invited",
    "last_link",
    "last_memory",
    "last_working",
    "receipt_of",
    "round_commit",
    "sealed",
    "state_of",
]

OPENED: Final = "round.opened"
"""The kind of the events that say who has a place in a round: in the beginning, and in place of others later."""

COMMITTED: Final = "round.committed"

_MISSING: Final = "missing"


Sign = Callable[[bytes], Signature]
"""The server's signature over a statement."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a round came to, once its objects are durable."""

    number: int
    completed: Completed
    aggregate: Aggregate
    model: str
    """Digest of the new model."""
    size: int
    """Bytes of the new model."""
    state: str
    """Digest of the algorithm's slots; empty when it has none."""
    state_size: int
    """Bytes of the slots; 0 when it has none."""
    kept: str | None
    """Digest of the aggregate's mean; None when it is not kept."""
    kept_size: int | None
    """Bytes of the aggregate's mean."""
    opened_at: float
    broadcast: str
    """Digest of what the clients were given."""
    memory: Mapping[str, Value] = field(default_factory=dict)
    """What the app's functions have left for later calls."""
    working: Mapping[str, int] | None = None
    """Of an asynchronous run, who is at work when the round is over, on which round's model; None: it is none."""


async def state_of(session: SessionRecord, run: Run, store: MetadataStore, objects: ObjectStore) -> State:
    """The server's state after the last committed round, or before the first."""
    digest = session.model or session.seed_model
    if digest is None:
        raise ConflictError(f"session {session.name} has no model to start from: create it with a seed model")
    params = codec.load(await objects.fetch(digest))
    last = await _last_round(session, store)
    slots = codec.load(await objects.fetch(last.state)) if last is not None and last.state else None
    return run.restored(params, session.round, slots)


async def last_link(session: SessionRecord, store: MetadataStore) -> str:
    """The link of the session's newest committed round, empty before the first."""
    last = await _last_round(session, store)
    return last.link if last is not None else ""


async def broadcast_of(session: SessionRecord, number: int, store: MetadataStore) -> str:
    """Digest of what the clients were given in a committed round."""
    return (await store.get(RoundRecord, session.project, f"{session.id}/{number}")).broadcast or ""


async def _last_round(session: SessionRecord, store: MetadataStore) -> RoundRecord | None:
    """The newest committed round, None before the first."""
    if session.round == 0:
        return None
    return await store.get(RoundRecord, session.project, f"{session.id}/{session.round}")


async def last_event(session: SessionRecord, store: MetadataStore) -> str:
    """The link of the session's newest event; empty where it has none."""
    query = Query(session.project, {"session": session.id}, sort="-id", limit=1)
    events = (await store.list(EventRecord, query)).items
    return (events[0].link or "") if events else ""


async def sealed(
    session: SessionRecord, state: SessionState, cause: str, store: MetadataStore, sign: Sign
) -> Mapping[str, Value]:
    """What the event of a session's end says of all before it, signed."""
    head, journal = await last_link(session, store), await last_event(session, store)
    signature = sign(end_statement(session.project, session.id, state=state, cause=cause, head=head, journal=journal))
    return {"head": head, "journal": journal, "signer": signature.signer, "signature": signature.value}


async def last_counted(session: SessionRecord, store: MetadataStore) -> dict[str, Counted]:
    """By client, the last committed round of the session that holds its update."""
    found: dict[str, Counted] = {}
    if session.round:
        where = {"session": session.id, "outcome": ACCEPTED}
        async for row in every(store, ContributionRecord, Query(session.project, where, sort="round")):
            found[row.client] = Counted(row.client, row.base or row.round, row.digest)
    return found


async def last_invited(
    session: SessionRecord, store: MetadataStore
) -> tuple[Sequence[Sequence[str]], Mapping[str, Value] | None]:
    """Whom a controller that died had invited to the round after the last committed one, one invitation after another.

    And what the app's functions remembered then; None: there is nothing to recall. Nobody was invited to a round that
    ended without it: a session that was stopped, or has failed, begins that round anew.
    """
    invitations: list[Sequence[str]] = []
    memory: Mapping[str, Value] | None = None
    ends = [f"session.{state}" for state in (SessionState.STOPPED, SessionState.FAILED)]
    where = {"session": session.id, "kind": [OPENED, *ends]}
    offset, total = 0, 1
    while offset < total:
        page = await store.list(EventRecord, Query(session.project, where, sort="-id", limit=100, offset=offset))
        for told in page.items:
            if told.kind in ends or told.data["round"] != session.round + 1:
                return invitations[::-1], memory
            if not invitations and isinstance(told.data.get("memory"), Mapping):
                memory = cast("Mapping[str, Value]", told.data["memory"])
            invitations.append([str(name) for name in cast("Sequence[Value]", told.data["invited"])])
        offset, total = offset + len(page.items), page.total
    return invitations[::-1], memory


async def last_memory(session: SessionRecord, store: MetadataStore) -> dict[str, Value]:
    """What the app's functions had left for later calls when the last committed round was over."""
    where = {"session": session.id, "kind": COMMITTED}
    events = (await store.list(EventRecord, Query(session.project, where, sort="-id", limit=1))).items
    told = events[0].data.get("memory") if events else None
    return dict(told) if isinstance(told, Mapping) else {}


async def last_working(session: SessionRecord, store: MetadataStore) -> Mapping[str, int]:
    """Of an asynchronous run, who was at work when the last committed round was over → the round of its model."""
    where = {"session": session.id, "kind": COMMITTED}
    events = (await store.list(EventRecord, Query(session.project, where, sort="-id", limit=1))).items
    told = events[0].data.get("working") if events else None
    return {name: base for name, base in told.items() if isinstance(base, int)} if isinstance(told, Mapping) else {}


def round_commit(session: SessionRecord, outcomes: Outcomes, previous: str, journal: str, sign: Sign) -> RoundCommit:
    """Everything that the round changes, signed.

    previous: the link of the round before it; journal: of the session's newest event.
    """
    number, model, state, opened_at = outcomes.number, outcomes.model, outcomes.state, outcomes.opened_at
    now = time.time()
    contributions = tuple(_contributions(session, number, outcomes))
    became = Counter(part.outcome for part in contributions)
    aggregate = outcomes.aggregate
    reports = [(part.metrics, part.num_examples) for part in aggregate.contributions.values()]
    metrics = {name: merged.values[name] for name, merged in merge_metrics(reports).items()}
    parent = session.model or session.seed_model or ""
    record = RoundRecord(
        id=f"{session.id}/{number}",
        project=session.project,
        session=session.id,
        number=number,
        parent_model=parent,
        model=model,
        state=state,
        accepted=len(aggregate.contributions),
        rejected=became["rejected"],
        failed=became["failed"],
        missing=became[_MISSING],
        weight=sum(part.num_examples for part in aggregate.contributions.values()),
        opened_at=opened_at,
        closed_at=now,
        metrics=metrics,
        state_size=outcomes.state_size if state else None,
        broadcast=outcomes.broadcast,
        run=run_digest(session),
        journal=journal,
        aggregate=outcomes.kept,
        aggregate_size=outcomes.kept_size,
        aggregate_weight=aggregate.weight if outcomes.kept is not None else None,
    )
    link = round_link(previous, record, contributions)
    signature = sign(round_statement(link))
    record = replace(record, link=link, signer=signature.signer, signature=signature.value)
    summary = _summary(record, contributions)
    working = {"working": dict(outcomes.working)} if outcomes.working is not None else {}
    committed = event(
        session.project, session.id, COMMITTED, summary, round=number, model=model, metrics=metrics,
        accepted=record.accepted, rejected=record.rejected, failed=record.failed,
        missing=[part.client for part in contributions if part.outcome == _MISSING],
        seconds=now - opened_at, **working, **({"memory": dict(outcomes.memory)} if outcomes.memory else {}),
    )  # fmt: skip
    return RoundCommit(
        session=replace(session, round=number, model=model),
        round=record,
        model=ModelRecord(
            model,
            session.project,
            session.id,
            number,
            parent or None,
            outcomes.size,
            now,
            "" if session.model_prefix is None else f"{session.model_prefix}-{number}",
        ),
        contributions=contributions,
        metrics=tuple(_metrics(session, record)),
        events=(committed,),
    )


def receipt_of(record: RoundRecord) -> Receipt:
    """What the clients in a round may keep of it."""
    return Receipt(record.link, Signature(record.signer or "", record.signature or ""))


def evaluation_records(
    session: SessionRecord, number: int, model: str, reports: Mapping[str, Evaluated], central: Metrics | None
) -> tuple[Sequence[MetricRecord | EvaluationRecord], Mapping[str, float]]:
    """(records of an evaluation, what is shown of it): merged over the clients, by client, and beside the server.

    model: digest of what was evaluated.
    """
    merged = merge_metrics((report.metrics, report.num_examples) for report in reports.values())
    told = [("", metrics, name) for name, metrics in merged.items()]
    told += [
        (client, Metrics(report.metrics, report.num_examples), name)
        for client, report in reports.items()
        for name in report.metrics
    ]
    told += [(CENTRAL, central, name) for name in central.values] if central is not None else []
    now = time.time()

    def record(client: str, metrics: Metrics, name: str) -> MetricRecord:
        key = f"{session.id}/{number}/{Kind.EVALUATE}/{client}/{name}"
        value, examples = metrics.values[name], metrics.num_examples
        return MetricRecord(key, session.project, session.id, number, Kind.EVALUATE, name, value, examples, client, now)

    signed = [_evaluation(session, number, model, report, now) for report in reports.values()]
    shown = {name: metrics.values[name] for name, metrics in merged.items()}
    return [*signed, *(record(*each) for each in told)], shown | (dict(central.values) if central is not None else {})


def _evaluation(session: SessionRecord, number: int, model: str, report: Evaluated, at: float) -> EvaluationRecord:
    signature = report.signature
    return EvaluationRecord(
        f"{session.id}/{number}/{report.client}",
        session.project,
        session.id,
        number,
        report.client,
        report.num_examples,
        model,
        at,
        dict(report.metrics),
        signature.signer if signature is not None else None,
        signature.value if signature is not None else None,
    )


def _summary(record: RoundRecord, contributions: Sequence[ContributionRecord]) -> str:
    counts = f"{record.accepted} accepted, {record.rejected} rejected, {record.failed} failed, {record.missing} missing"
    stale = [part.round - part.base for part in contributions if part.outcome == ACCEPTED and part.base is not None]
    said = f"; staleness {sum(stale) / len(stale):.3g} on average, {max(stale)} at most" if stale else ""
    return f"round {record.number}: {counts}{said}"


def _contributions(session: SessionRecord, number: int, outcomes: Outcomes) -> Iterator[ContributionRecord]:
    """One row for each task that is done with."""
    completed, flows = outcomes.completed, outcomes.working is not None

    def row(client: str, outcome: str, reason: str = "", base: int = 0) -> ContributionRecord:
        key = f"{session.id}/{base or number}/{client}"
        if flows and outcome == _MISSING:
            key = f"{key}/{number}"  # a sum of a later round may hold its update, from a server that knew nothing of it
        of = (base or number) if flows else None
        return ContributionRecord(key, session.project, session.id, number, client, outcome, reason=reason, base=of)

    for client, part in outcomes.aggregate.contributions.items():
        yield replace(
            row(client, ACCEPTED, base=part.base if flows else 0),
            num_examples=part.num_examples,
            digest=part.digest,
            metrics=dict(part.metrics),
            signer=part.signature.signer if part.signature is not None else None,
            signature=part.signature.value if part.signature is not None else None,
            norm=part.norm,
        )
    if flows:
        for task in completed.unused:
            yield row(task.client, *_became(task), task.base)
        return
    for client, (reason, detail) in completed.rejected.items():
        yield row(client, "rejected", f"{reason}: {detail}")
    for client, message in completed.failed.items():
        yield row(client, "failed", message)
    for client in completed.missing:
        yield row(client, _MISSING, "nothing arrived before the round closed")


def _became(task: Unused) -> tuple[str, str]:
    """(outcome, reason) of a task of an asynchronous round of which nothing counts."""
    if task.message is None:
        return _MISSING, "its lease ended, and nothing arrived before the round closed"
    return ("failed", task.message) if task.reason is None else ("rejected", f"{task.reason}: {task.message}")


def _metrics(session: SessionRecord, record: RoundRecord) -> Iterator[MetricRecord]:
    """The training metrics, merged over the contributors."""
    for name, value in record.metrics.items():
        key = f"{session.id}/{record.number}/{Kind.TRAIN}//{name}"
        yield MetricRecord(
            key,
            session.project,
            session.id,
            record.number,
            Kind.TRAIN,
            name,
            value,
            record.weight,
            "",
            record.closed_at,
        )
