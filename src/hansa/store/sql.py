"""A metadata store over any SQL database: everything that is the same for SQLite and PostgreSQL."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, ClassVar, Final, Self, TypeVar

from sqlalchemy import Connection, Insert, Select, Table, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from hansa.errors import ConfigError, ConflictError, HansaError, NotFoundError, StorageError
from hansa.store import leases, pruning, queries
from hansa.store.audit import chained
from hansa.store.completion import completed
from hansa.store.lanes import Lane
from hansa.store.link import linked, round_link
from hansa.store.ports import Leadership, Page, Pruned, Query, Release, RoundCommit
from hansa.store.records import (
    AnswerRecord,
    AuditRecord,
    ContributionRecord,
    EventRecord,
    ModelRecord,
    PackageRecord,
    PredictionRecord,
    Record,
    RoundRecord,
    SampleRecord,
    SessionRecord,
)
from hansa.store.rounds import check_commit, check_successor
from hansa.store.rows import from_row, to_row
from hansa.store.schema import KEYS, REMOVALS, TABLES, RecordType, order_column, project_column
from hansa.store.uploads import check_deletable

__all__ = ["Lanes", "SqlStore"]

R = TypeVar("R", bound=Record)
T = TypeVar("T")
_ROUNDS: Final = TABLES[RoundRecord]
_CONTRIBUTIONS: Final = TABLES[ContributionRecord]
_SESSIONS: Final = TABLES[SessionRecord]
_SAMPLES: Final = TABLES[SampleRecord]
_AT_ONCE: Final = 500
"""Values in one statement."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """An open database."""

    writer: Lane
    """Its transactions may write, and are given one at a time."""
    reader: Lane
    """Its transactions read one state of the database each, many at once."""
    keeper: Lane
    """Takes and renews leases, so that these need not wait for a long write where the database can do both."""


@dataclass(slots=True)
class _Shared:
    """What a store and its fenced views have in common."""

    lanes: Lanes | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    inserts: dict[RecordType, Insert] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Fence:
    """The leader that a view writes for."""

    name: str
    epoch: int


class SqlStore(ABC):
    """`MetadataStore` over SQLAlchemy; a subclass knows one database: how to connect, migrate, upsert and explain.

    One event loop owns a store. Its writes are done one after the other, in the order in which they were asked for,
    so that events are numbered in commit order.
    """

    def __init__(self, name: str) -> None:
        """name: the database as error messages call it."""
        self._name = name
        self._shared = _Shared()
        self._fence: _Fence | None = None

    _collation: ClassVar[str]
    """The database's name for the order of bytes."""

    @abstractmethod
    def leadership(self, name: str, *, lease: float = 3.0) -> Leadership:
        """A claim that is not made yet, see `MetadataStore`."""

    @abstractmethod
    async def replicas(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Who leads and who waits, see `MetadataStore`."""

    @abstractmethod
    async def _connect(self) -> Lanes:
        """Make the lanes of a database that is migrated to the newest schema."""

    @abstractmethod
    def _insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """INSERT that can say what to do about a row with the same key."""

    @abstractmethod
    def _explain(self, error: DBAPIError) -> HansaError:
        """What the database's error means, and what to do."""

    async def open(self) -> None:
        """Connect and migrate to the newest schema; opening an open store does nothing."""
        async with self._shared.turn:
            if self._shared.lanes is None:
                with self._explained():
                    self._shared.lanes = await self._connect()

    async def close(self) -> None:
        """Wait for the writes that have begun, then release every connection."""
        async with self._shared.turn:
            lanes, self._shared.lanes = self._shared.lanes, None
            if lanes is not None:
                for lane in {lanes.reader, lanes.keeper, lanes.writer}:
                    await lane.aclose()

    def fenced(self, leadership: Leadership) -> Self:
        """The same store for the writes of a leader, see `MetadataStore`."""
        if not leadership.held:
            raise ConflictError(f"{leadership.name!r} is not led from here, so nothing can be written as its leader")
        view = copy(self)
        view._fence = _Fence(leadership.name, leadership.epoch)  # noqa: SLF001  # ours
        return view

    async def get(self, kind: type[R], project: str, key: str) -> R:
        """The row with this id; raise `NotFoundError` when the project has none.

        An event's key is its number in digits. Of a model that was reached more than once it is the oldest record.
        """
        table = TABLES[kind]
        wanted: str | int = key
        if kind is EventRecord:
            wanted = int(key) if key.isascii() and key.isdigit() and int(key) < 2**63 else -1
        rows = select(table).where(project_column(table) == project, table.c.id == wanted)
        first = rows.order_by(order_column(table)).limit(1)
        row = await self._read(lambda connection: connection.execute(first).mappings().first())
        if row is None:
            name = key.removeprefix(f"{project}/")  # of nodes, whose keys begin with their project
            raise NotFoundError(f"there is no {_noun(kind)} {name!r} in project {project!r}")
        return from_row(kind, row)

    async def list(self, kind: type[R], query: Query) -> Page[R]:
        """Rows that match; raise `ConfigError`, listing the columns that there are, for one that there is not."""
        rows, count = queries.page(kind, query, self._collation)

        def page(connection: Connection) -> Page[R]:
            found = connection.execute(rows).mappings().all()
            total = len(found) + query.offset
            if len(found) == query.limit or not found:
                total = connection.execute(count).scalar_one()
            return Page(tuple(from_row(kind, row) for row in found), total)

        return await self._read(page)

    async def put(self, *records: Record) -> None:
        """Insert or replace by id, all or none; a row that is replaced keeps its place in the order.

        Events get the next number; one that has a number already is stored, and a `ConflictError`.
        """
        rows = [(type(record), to_row(record)) for record in records]
        _check_new(records)
        if rows:
            await self._write(lambda connection: self._insert_all(connection, rows))

    async def create(self, record: Record, *others: Record) -> None:
        """Insert; raise `ConflictError` when the id exists. others: put in the same transaction."""
        kind = type(record)
        row = to_row(record)
        rows = [(type(other), to_row(other)) for other in others]
        _check_new([record, *others])

        def insert_row(connection: Connection) -> None:
            try:
                with self._explained():
                    connection.execute(insert(TABLES[kind]), row)
            except ConflictError as error:
                raise ConflictError(f"there is a {_noun(kind)} {record.id!r} already; choose another id") from error
            self._insert_all(connection, rows)

        await self._write(insert_row)

    async def delete_session(self, project: str, session: str, *others: Record) -> None:
        """Remove a session with its rounds, contributions, metrics, events and model rows.

        Its objects that no row needs any more are among the `removals` then. Raise `NotFoundError` when the project
        has no such session. others: put in the same transaction.
        """
        rows = [(type(other), to_row(other)) for other in others]
        _check_new(others)

        def delete_rows(connection: Connection) -> None:
            objects = pruning.digests_of(connection, project, session)
            for table in TABLES.values():
                if "session" in table.c:
                    ours = (table.c.project == project, table.c.session == session)
                    connection.execute(delete(table).where(*ours))
            gone = delete(_SESSIONS).where(_SESSIONS.c.project == project, _SESSIONS.c.id == session)
            if connection.execute(gone).rowcount == 0:
                raise NotFoundError(f"there is no session {session!r} in project {project!r}")
            self._queue(connection, objects)
            self._insert_all(connection, rows)

        await self._write(delete_rows)

    async def delete_prediction(self, project: str, prediction: str, *others: Record) -> None:
        """Remove a prediction with its answers; raise `NotFoundError` when the project has no such.

        others: put in the same transaction.
        """
        rows = [(type(other), to_row(other)) for other in others]
        _check_new(others)

        def delete_rows(connection: Connection) -> None:
            predictions, answers = TABLES[PredictionRecord], TABLES[AnswerRecord]
            connection.execute(delete(answers).where(answers.c.project == project, answers.c.prediction == prediction))
            gone = delete(predictions).where(predictions.c.project == project, predictions.c.id == prediction)
            if connection.execute(gone).rowcount == 0:
                raise NotFoundError(f"there is no prediction {prediction!r} in project {project!r}")
            self._insert_all(connection, rows)

        await self._write(delete_rows)

    async def delete_upload(
        self, kind: type[ModelRecord] | type[PackageRecord], project: str, digest: str, *others: Record
    ) -> None:
        """Remove the row of an uploaded model, or of a package; its bytes are among the `removals` unless needed.

        Raise `NotFoundError` when the project has no such, and `ConflictError`, which says who, when a session, a
        prediction or another model of the project names it. others: put in the same transaction.
        """
        rows = [(type(other), to_row(other)) for other in others]
        _check_new(others)
        table = TABLES[kind]
        ours = [table.c.project == project, table.c.id == digest]
        ours += [table.c.session == ""] if kind is ModelRecord else []

        def delete_row(connection: Connection) -> None:
            gone = connection.execute(delete(table).where(*ours)).rowcount
            named_by = pruning.naming(connection, kind, project, digest)
            check_deletable(kind, project, digest, found=gone > 0, named_by=named_by)
            self._queue(connection, [digest])
            self._insert_all(connection, rows)

        await self._write(delete_row)

    async def commit_round(self, commit: RoundCommit) -> None:
        """Write a round at once. Writing the same round again changes nothing; another one is a `ConflictError`.

        The session must exist (`NotFoundError`) and the round must follow its newest one; an empty `round.link` is
        filled in, any other must be what `round_link` gives (`ConflictError`). `InputError` when the parts of the
        commit contradict each other.
        """
        check_commit(commit)
        session, record = commit.session, commit.round
        _check_new(commit.events)
        session_row = to_row(session)
        others: list[Record] = [commit.model, *commit.contributions, *commit.metrics, *commit.events]
        rows = [(type(other), to_row(other)) for other in others]

        def insert_round(connection: Connection) -> None:
            previous, existing = self._neighbours(connection, record)
            link = round_link(previous.link if previous else "", record, commit.contributions)
            if check_successor(record, link, previous, existing):
                return
            ours = update(_SESSIONS).where(_SESSIONS.c.project == session.project, _SESSIONS.c.id == session.id)
            if connection.execute(ours, session_row).rowcount == 0:
                raise NotFoundError(
                    f"there is no session {session.id!r} in project {session.project!r} (any more), "
                    f"so its round {record.number} cannot be committed"
                )
            self._check_uncounted(connection, commit)
            connection.execute(insert(_ROUNDS), to_row(replace(record, link=link)))
            self._insert_all(connection, rows)

        await self._write(insert_round)

    def _check_uncounted(self, connection: Connection, commit: RoundCommit) -> None:
        """Raise `ConflictError` where an earlier round of an asynchronous run has a row of one of these tasks."""
        tasks = [part.id for part in commit.contributions if part.base is not None]
        table, project = _CONTRIBUTIONS, commit.round.project
        for i in range(0, len(tasks), _AT_ONCE):
            among = table.c.id.in_(tasks[i : i + _AT_ONCE])
            known = select(table.c.id).where(table.c.project == project, among).limit(1)
            if (twice := connection.execute(known).scalar()) is not None:
                raise ConflictError(
                    f"round {commit.round.number} of session {commit.session.id} cannot be committed: "
                    f"the task {twice!r} has ended in an earlier round already"
                )

    async def ancestors(self, project: str, model: str, limit: int = 1000) -> Sequence[ModelRecord]:
        """The trail from this model, which is not in it, back to its seed, nearest first."""
        return await self._trail(queries.trail_up, project, model, limit)

    async def descendants(self, project: str, model: str, limit: int = 1000) -> Sequence[ModelRecord]:
        """Every model that was made from this one, oldest first."""
        return await self._trail(queries.trail_down, project, model, limit)

    async def stored_bytes(self, project: str) -> int:
        """Bytes of what a project's rows hold on to: models, states, aggregates, packages, each object once."""
        total = queries.stored_bytes(project)
        return int(await self._read(lambda connection: connection.execute(total).scalar_one()))

    async def answered_bytes(self, project: str) -> int:
        """Characters of what clients of a project have predicted, as it is kept."""
        total = queries.answered_bytes(project)
        return int(await self._read(lambda connection: connection.execute(total).scalar_one()))

    async def prunable(self, release: Release, limit: int = 500) -> Pruned:
        """What `prune` would mark now, the oldest first; limit: of each kind."""
        return await self._read(lambda connection: pruning.prunable(connection, release, limit))

    async def prune(self, release: Release, only: Collection[str], *, at: float, by: str) -> Pruned:
        """Mark what is `prunable` and among these digests; those that no row needs any more become `removals`."""

        def mark_rows(connection: Connection) -> Pruned:
            marked = pruning.mark(connection, release, only, at=at, by=by)
            self._queue(connection, marked.digests)
            return marked

        return await self._write(mark_rows)

    async def needed(self, digests: Collection[str]) -> frozenset[str]:
        """Those that a row of any project needs."""
        return await self._read(lambda connection: pruning.needed(connection, digests))

    async def expire_samples(self, before: float, limit: int = 10_000) -> int:
        """Remove what machines have told of themselves before this time, of all projects; returns how many.

        limit: the most that are removed at once.
        """

        def remove(connection: Connection) -> int:
            old = select(_SAMPLES.c.seq).where(_SAMPLES.c.session == "", _SAMPLES.c.at < before).limit(limit)
            return connection.execute(delete(_SAMPLES).where(_SAMPLES.c.seq.in_(old))).rowcount

        return await self._write(remove)

    async def removals(self, limit: int = 500) -> Sequence[str]:
        """Objects that are still to be removed."""
        return await self._read(lambda connection: pruning.queued(connection, limit))

    async def removed(self, digests: Collection[str]) -> None:
        """These are no `removals` any more: they are removed, or needed again."""
        if digests:
            await self._write(lambda connection: pruning.forget(connection, digests))

    def _queue(self, connection: Connection, digests: Collection[str]) -> None:
        pruning.queue(connection, self._insert(REMOVALS).on_conflict_do_nothing(), digests)

    async def _trail(
        self, follow: Callable[[str, str, int], Select[Any]], project: str, model: str, limit: int
    ) -> Sequence[ModelRecord]:
        if limit < 1:
            raise ConfigError(f"limit = {limit}: a trail has at least 1 model")
        await self.get(ModelRecord, project, model)
        found = follow(project, model, limit)
        rows = await self._read(lambda connection: connection.execute(found).mappings().all())
        return tuple(from_row(ModelRecord, row) for row in rows)

    def _neighbours(self, connection: Connection, record: RoundRecord) -> tuple[RoundRecord | None, RoundRecord | None]:
        """(the round before, the round with this number), as they are committed."""
        near = select(_ROUNDS).where(
            _ROUNDS.c.project == record.project,
            _ROUNDS.c.session == record.session,
            _ROUNDS.c.number.in_([record.number - 1, record.number]),
        )
        found = [from_row(RoundRecord, row) for row in connection.execute(near).mappings()]
        by_number = {row.number: row for row in found}
        return by_number.get(record.number - 1), by_number.get(record.number)

    def _insert_all(self, connection: Connection, rows: Sequence[tuple[RecordType, Mapping[str, Any]]]) -> None:
        for kind, group in groupby(rows, key=lambda row: row[0]):
            if kind is AuditRecord:
                for _, row in group:
                    self._append(connection, from_row(AuditRecord, row))
                continue
            if kind is EventRecord:
                self._tell(connection, [row for _, row in group])
                continue
            statement = self._shared.inserts.get(kind)
            if statement is None:
                statement = self._shared.inserts[kind] = self._upsert(kind)
            connection.execute(statement, [row for _, row in group])

    def _append(self, connection: Connection, line: AuditRecord) -> None:
        """Chain a line to the newest of its project. Writers take turns, so nobody comes between."""
        table = TABLES[AuditRecord]
        newest = select(table).where(table.c.project == line.project).order_by(table.c.number.desc()).limit(1)
        row = connection.execute(newest).mappings().first()
        previous = from_row(AuditRecord, row) if row is not None else None
        connection.execute(insert(table), to_row(chained(previous, line)))

    def _tell(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Chain events to the newest of their session. Writers take turns, so nobody comes between."""
        table, newest, chain = TABLES[EventRecord], {}, []
        for row in rows:
            where = row["project"], row["session"]
            if not row["session"]:  # the network's own
                chain.append(row)
                continue
            if where not in newest:
                ours = (table.c.project == where[0], table.c.session == where[1])
                last = select(table.c.link).where(*ours).order_by(table.c.id.desc()).limit(1)
                newest[where] = connection.execute(last).scalar_one_or_none()
            event = linked(newest[where], from_row(EventRecord, {"id": 0, **row}))
            newest[where] = event.link
            chain.append({**row, "link": event.link})
        statement = self._shared.inserts.setdefault(EventRecord, insert(table))
        connection.execute(statement, chain)

    def _upsert(self, kind: RecordType) -> Insert:
        """INSERT that replaces the row with the same key, which keeps its place in the order."""
        table, key = TABLES[kind], KEYS[kind]
        statement = self._insert(table)
        replaced = {c.name: statement.excluded[c.name] for c in table.c if c.name not in (*key, "seq")}
        return statement.on_conflict_do_update(index_elements=list(key), set_=replaced)

    async def _write(self, work: Callable[[Connection], T], *, fence: bool = True) -> T:
        """A transaction that is committed, and on the disk, when this returns; an error undoes all of it.

        Whoever is cancelled meanwhile hears of it when it is over.
        """
        async with self._shared.turn:
            return await completed(self._transact(work, self._fence if fence else None))

    async def _transact(self, work: Callable[[Connection], T], fence: _Fence | None) -> T:
        def fenced(connection: Connection) -> T:
            if fence is not None:
                leases.check(connection, fence.name, fence.epoch)
            return work(connection)

        with self._explained():
            return await self._opened().writer.run(fenced)

    async def _keep(self, work: Callable[[Connection], T]) -> T:
        """A transaction about leases, which waits for no turn."""
        with self._explained():
            return await self._opened().keeper.run(work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        """A transaction that sees one state of the database."""
        with self._explained():
            return await self._opened().reader.run(work)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._explain(error) from error
        except SQLAlchemyError as error:
            raise StorageError(f"{self._name}: {error}") from error

    def _opened(self) -> Lanes:
        if self._shared.lanes is None:
            raise StorageError(f"{self._name} is not open: await its open() first")
        return self._shared.lanes


def _check_new(records: Sequence[Record]) -> None:
    for record in records:
        match record:
            case EventRecord() if record.id or record.link:
                raise ConflictError(f"event {record.id} ({record.kind}) is stored already, and events never change")
            case AuditRecord() if record.number or record.link:
                raise ConflictError(f"line {record.number} of the audit record is stored already, and never changes")
            case _:
                pass


def _noun(kind: RecordType) -> str:
    return kind.__name__.removesuffix("Record").lower()
