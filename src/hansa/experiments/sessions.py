"""Simulations as sessions of a store, so that they are read, compared and drawn like those of a network.

Rows are written with the kinds, keys and events of a network's session. What a simulation does not keep is not made up:
of its models the last one has bytes, and clients have signed nothing.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from hansa.arrays import Arrays
from hansa.errors import ConflictError, InputError
from hansa.messages import Kind, RunSpec, Sample, Value
from hansa.simulation import RoundRecord as SimulatedRound
from hansa.simulation.record import MANIFEST, Record, open_record, told_number
from hansa.store.completion import completed
from hansa.store.link import ACCEPTED
from hansa.store.ports import MetadataStore, ObjectStore, RoundCommit
from hansa.store.records import (
    ContributionRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    RoundRecord,
    SampleRecord,
    SessionRecord,
    SessionState,
)
from hansa.wire import codec
from hansa.wire.frames import CENTRAL

__all__ = ["SimulatedSession", "find_records", "show_record", "simulated_round"]

_KEPT: Final = "last 1"
"""The policy that says which of its models a simulation has."""
_AT_ONCE: Final = 1000
"""Numbers that clients have logged, in one transaction."""


class SimulatedSession:
    """One simulation, written into a store as it goes on: `begin`, `round` after each round, `end`."""

    def __init__(self, store: MetadataStore, objects: ObjectStore, session: SessionRecord) -> None:
        """session: as it is stored by `begin`."""
        self._store = store
        self._objects = objects
        self.session = session

    @classmethod
    async def begin(
        cls,
        store: MetadataStore,
        objects: ObjectStore,
        *,
        session: str,
        project: str,
        spec: RunSpec,
        clients: int,
        engine: str,
        at: float,
        initial_model: str | None = None,
    ) -> "SimulatedSession":
        """Store a session that runs; raises `ConflictError` where the project has one of this id.

        session: its id; at: when it began, POSIX seconds; initial_model: digest of the model that it was given.
        """
        spec = replace(spec, project=project)
        row = SessionRecord(
            session, project, spec.name, spec, SessionState.RUNNING, at, seed_model=initial_model, started_at=at,
            keep=_KEPT, engine=engine,
        )  # fmt: skip
        begun = cls(store, objects, row)
        said = f"{spec.name} is simulated: {clients} clients, {spec.rounds} rounds, engine {engine}"
        await store.create(row, begun._event("session.started", said, at, clients=clients, engine=engine))
        return begun

    async def round(self, done: SimulatedRound, at: float) -> None:
        """Store a round, in one transaction. at: when it was over, POSIX seconds."""
        before, number = self.session, done.round
        contributions = tuple(_contributions(before, done))
        metrics = tuple(_metrics(before, done, at))
        row = RoundRecord(
            id=f"{before.id}/{number}",
            project=before.project,
            session=before.id,
            number=number,
            parent_model=before.model or before.seed_model or "",
            model=done.model_hash,
            state="",
            accepted=len(done.accepted),
            rejected=len(done.rejected),
            failed=len(done.failed),
            missing=len(done.missing),
            weight=sum(part.num_examples for part in contributions),
            opened_at=at - done.seconds,
            closed_at=at,
            metrics=dict(done.metrics),
        )
        events = [self._committed(row, done, at)]
        shown = {**done.evaluation, **done.central}
        if shown:
            said = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
            events.append(self._event("round.evaluated", f"round {number}: {said}", at, round=number, metrics=shown))
        model = ModelRecord(
            row.model, row.project, row.session, number, row.parent_model or None, 0, at, pruned_at=at, pruned_by=_KEPT
        )
        after = replace(before, round=number, model=row.model)
        commit = RoundCommit(after, row, model, contributions, metrics, tuple(events))
        await completed(self._kept(commit, tuple(_samples(after, done, at))))

    async def _kept(self, commit: RoundCommit, logged: Sequence[SampleRecord]) -> None:
        """Go by what is stored, also where whoever asked is gone meanwhile."""
        await self._store.commit_round(commit)
        self.session = commit.session
        for start in range(0, len(logged), _AT_ONCE):
            await self._store.put(*logged[start : start + _AT_ONCE])

    async def end(self, state: SessionState, cause: str, at: float, model: Arrays | None = None) -> None:
        """Store how it ended, and the last model's bytes where there are any. at: POSIX seconds."""
        ended = replace(self.session, state=state, cause=cause, ended_at=at)
        rows: list[ModelRecord] = []
        if model is not None and ended.model is not None:
            digest = await self._objects.put(codec.encode(model))
            if digest != ended.model:
                raise InputError(f"the model of {ended.name} is {digest}, but its last round has made {ended.model}")
            last = await self._store.get(RoundRecord, ended.project, f"{ended.id}/{ended.round}")
            size = codec.size(model)
            rows.append(
                ModelRecord(
                    digest, ended.project, ended.id, ended.round, last.parent_model or None, size, last.closed_at
                )
            )
        await self._store.put(ended, *rows, self._event(f"session.{state}", cause, at))
        self.session = ended

    def _committed(self, row: RoundRecord, done: SimulatedRound, at: float) -> EventRecord:
        said = f"{row.accepted} accepted, {row.rejected} rejected, {row.failed} failed, {row.missing} missing"
        return self._event(
            "round.committed", f"round {row.number}: {said}", at, round=row.number, model=row.model,
            metrics=dict(row.metrics), accepted=row.accepted, rejected=row.rejected, failed=row.failed,
            missing=list(done.missing), seconds=done.seconds, virtual_seconds=done.virtual_seconds,
        )  # fmt: skip

    def _event(self, kind: str, message: str, at: float, **data: Value) -> EventRecord:
        return EventRecord(0, self.session.project, self.session.id, kind, message, at, data)


def find_records(folders: Sequence[Path]) -> list[Record]:
    """Every record in these folders, at any depth, the oldest first; raises `InputError` where there is none."""
    found = {file.parent.resolve() for folder in folders for file in folder.rglob(MANIFEST)}
    if not found:
        named = ", ".join(map(str, folders))
        raise InputError(
            f"there is no record of a simulation in {named}: `hansa simulate APP --record FOLDER` makes one"
        )
    return sorted((open_record(folder) for folder in found), key=lambda record: (_ended_at(record), record.folder))


async def show_record(store: MetadataStore, objects: ObjectStore, project: str, record: Record) -> SessionRecord | None:
    """A record as a session that has ended, with an id that follows from its content.

    None where the project has it already. Its times are counted back from when the record was written. Raises
    `InputError` for a model that is not what the record says.
    """
    manifest, spec = record.manifest, record.spec
    rounds = [simulated_round(each) for each in record.rounds]
    at = _ended_at(record) - sum(done.seconds for done in rounds)
    try:
        shown = await SimulatedSession.begin(
            store,
            objects,
            session=blake3(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12],
            project=project,
            spec=spec,
            clients=manifest["clients"],
            engine=manifest["engine"],
            at=at,
            initial_model=manifest["initial_model"],
        )
    except ConflictError:
        return None
    for done in rounds:
        at += done.seconds
        await shown.round(done, at)
    cause = f"{len(rounds)} of {spec.rounds} rounds, as recorded in {record.folder}"
    await shown.end(SessionState.FINISHED, cause, at, record.model)
    return shown.session


def _ended_at(record: Record) -> float:
    return (record.folder / MANIFEST).stat().st_mtime


def simulated_round(told: Mapping[str, Any]) -> SimulatedRound:
    """A round as plain values, of a manifest for example, as `hansa.simulation.record` writes them."""
    numbers = {
        name: {key: math.nan if value is None else value for key, value in told[name].items()}
        for name in ("metrics", "evaluation", "central")
    }
    columns = {
        name: {key: tuple(map(told_number, column)) for key, column in told[name].items()}
        for name in ("reports", "verdicts")
        if name in told
    }
    lists = {name: tuple(told[name]) for name in ("accepted", "missing", "evaluated", "norms") if name in told}
    samples = {
        client: tuple(
            Sample(each["name"], math.nan if each["value"] is None else each["value"], each["step"]) for each in logged
        )
        for client, logged in told.get("samples", {}).items()
    }
    return SimulatedRound(**{**told, **numbers, **columns, **lists, "samples": samples})


def _contributions(session: SessionRecord, done: SimulatedRound) -> Iterator[ContributionRecord]:
    """One row for each client of whom the round tells, two where an asynchronous one tells of two tasks."""
    reports = dict(zip(done.examples, _rows(done.reports), strict=False))
    norms = dict(zip(done.examples, done.norms, strict=False))

    def row(client: str, outcome: str, reason: str = "") -> ContributionRecord:
        stale = done.staleness.get(client) if outcome == ACCEPTED else None
        base = done.bases.get(client) if stale is None else done.round - stale
        key = f"{session.id}/{base or done.round}/{client}"
        return ContributionRecord(
            key, session.project, session.id, done.round, client, outcome, reason=reason, base=base
        )

    for client in done.accepted:
        yield replace(
            row(client, ACCEPTED),
            num_examples=done.examples.get(client, 0),
            metrics=reports.get(client, {}),
            norm=norms.get(client),
        )
    for outcome, clients in (("rejected", done.rejected), ("failed", done.failed)):
        for client, reason in clients.items():
            yield row(client, outcome, reason)
    for client in done.missing:
        yield row(client, "missing", "nothing of it counts: it dropped out, or was late or no longer needed")


def _samples(session: SessionRecord, done: SimulatedRound, at: float) -> Iterator[SampleRecord]:
    """What clients have logged on their way, at the end of their round: a simulation has no other time."""
    for client, logged in done.samples.items():
        for each in logged:
            key = f"{session.id}/{done.round}/{Kind.TRAIN}/{client}/{each.name}/{each.step}"
            yield SampleRecord(
                key, session.project, session.id, done.round, Kind.TRAIN.value, client,
                each.name, each.step, each.value, at,
            )  # fmt: skip


def _rows(columns: Mapping[str, Sequence[float | None]]) -> Iterator[dict[str, float]]:
    """Of each client its metrics, from each metric its clients; what a client has not told is left out."""
    for values in zip(*columns.values(), strict=True):
        yield {name: value for name, value in zip(columns, values, strict=True) if value is not None}


def _metrics(session: SessionRecord, done: SimulatedRound, at: float) -> Iterator[MetricRecord]:
    for kind, client, values in (
        (Kind.TRAIN, "", done.metrics),
        (Kind.EVALUATE, "", done.evaluation),
        (Kind.EVALUATE, CENTRAL, done.central),
        *((Kind.EVALUATE, client, told) for client, told in zip(done.evaluated, _rows(done.verdicts), strict=False)),
    ):
        for name, value in values.items():
            key = f"{session.id}/{done.round}/{kind}/{client}/{name}"
            examples = done.num_examples if kind is Kind.TRAIN else 0
            yield MetricRecord(key, session.project, session.id, done.round, kind, name, value, examples, client, at)
