"""Stores that are durable across simulated crashes, slow in virtual time, and fail where a schedule says so.

`MemoryStore` keeps rows in memory by the rules of the real ones: what it checks and how it encodes a row is the code
of `hansa.store`, and it passes their tests. Objects are the real directory store, on a memory file system.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from hansa.errors import ConfigError, ConflictError, NotFoundError, StorageError
from hansa.rounds.eligible import label_pairs
from hansa.store import queries
from hansa.store.audit import chained
from hansa.store.leading import LeaseLeadership
from hansa.store.link import linked, round_link
from hansa.store.ports import Leadership, ObjectStore, Page, Pruned, Query, Release, RoundCommit, StoredObject
from hansa.store.records import (
    AnswerRecord,
    AuditRecord,
    ContributionRecord,
    EventRecord,
    InstallationRecord,
    ModelRecord,
    PackageRecord,
    PredictionRecord,
    ProjectRecord,
    Record,
    RoundRecord,
    SampleRecord,
    SessionRecord,
)
from hansa.store.rounds import check_commit, check_successor
from hansa.store.rows import from_row, to_row
from hansa.store.schema import KEYS, TABLES, RecordType, field_types
from hansa.store.uploads import check_deletable

__all__ = ["Database", "Disk", "MemoryStore", "OldObjects", "SlowObjects"]

T = TypeVar("T")
Row = dict[str, Any]

_NUMBERED = (EventRecord, AuditRecord)
"""Kinds whose key is given by the store."""
_OF_SESSION = frozenset(kind for kind, table in TABLES.items() if table.foreign_keys)


class Disk:
    """What happens around every durable step; this one takes no time and never fails."""

    async def before(self, step: str) -> None:
        """Nothing of the step is done yet."""
        await asyncio.sleep(0)

    async def after(self, step: str) -> None:
        """It is done; nobody knows yet."""
        await asyncio.sleep(0)

    async def reading(self) -> None:
        """Rows or bytes are read."""
        await asyncio.sleep(0)


class Database:
    """The rows themselves: what is on the disk."""

    def __init__(self) -> None:
        self.rows: dict[RecordType, dict[tuple[Any, ...], Row]] = {kind: {} for kind in TABLES}
        """By key, in the order of insertion; a row that is replaced keeps its place."""
        self.events = 0
        """The number of the newest event: never used twice."""
        self.leases: dict[str, tuple[int, str, float]] = {}
        """Name → (epoch, holder, until when)."""
        self.removals: set[str] = set()
        """Objects that are still to be removed."""
        self.on_commit: Callable[[RoundCommit], None] = lambda _commit: None
        """Told of every round that is written."""

    def write(self, records: Sequence[tuple[RecordType, Row]], *, fresh: bool = False) -> None:
        """All or none; fresh: none of them may exist."""
        sessions = {_key(kind, row) for kind, row in records if kind is SessionRecord} | self.rows[SessionRecord].keys()
        for kind, row in records:
            if kind in _OF_SESSION and (row["project"], row["session"]) not in sessions:
                raise NotFoundError("a row belongs to a session that its project does not have")
            if fresh and kind not in _NUMBERED and _key(kind, row) in self.rows[kind]:
                raise ConflictError(f"there is a {_noun(kind)} {row['id']!r} already; choose another id")
        for kind, row in records:
            if kind is EventRecord:
                self.events += 1
                event = from_row(EventRecord, row | {"id": self.events})
                self.rows[kind][self.events,] = row | {"id": self.events, "link": self._linked(event)}
            elif kind is AuditRecord:
                before = self.every(AuditRecord, row["project"])
                line = to_row(chained(before[-1] if before else None, from_row(AuditRecord, row)))
                self.rows[kind][_key(kind, line)] = line
            else:
                self.rows[kind][_key(kind, row)] = row

    def _linked(self, event: EventRecord) -> str | None:
        if not event.session:
            return None
        where = event.project, event.session
        before = reversed(self.rows[EventRecord].values())
        newest = next((row["link"] for row in before if (row["project"], row["session"]) == where), None)
        return linked(newest, event).link

    def commit(self, commit: RoundCommit, session: Row, record: Row, others: Sequence[tuple[RecordType, Row]]) -> None:
        """A round with all its parts, once."""
        project, number = commit.round.project, commit.round.number
        near = [self.rows[RoundRecord].get((project, commit.round.session, n)) for n in (number - 1, number)]
        previous, existing = (None if row is None else from_row(RoundRecord, row) for row in near)
        link = round_link(previous.link if previous else "", commit.round, commit.contributions)
        if check_successor(commit.round, link, previous, existing):
            return
        if (project, commit.session.id) not in self.rows[SessionRecord]:
            raise NotFoundError(
                f"there is no session {commit.session.id!r} in project {project!r} (any more), "
                f"so its round {number} cannot be committed"
            )
        tasks = [(project, part.id) for part in commit.contributions if part.base is not None]
        if twice := [task for task in tasks if task in self.rows[ContributionRecord]]:
            raise ConflictError(f"round {number} cannot be committed: {twice[0]} has ended in an earlier round already")
        self.write([(SessionRecord, session), (RoundRecord, record | {"link": link}), *others])
        self.on_commit(commit)

    def check_leader(self, name: str, epoch: int) -> None:
        """Refuse the write of a former leader."""
        found, holder, _ = self.leases.get(name, (0, "nobody", 0.0))
        if found != epoch:
            raise ConflictError(
                f"nothing was written: this process led {name!r} as epoch {epoch}, but {holder} has led since, as "
                f"epoch {found}"
            )

    def delete_session(self, project: str, session: str) -> None:
        """With everything of it."""
        if (project, session) not in self.rows[SessionRecord]:
            raise NotFoundError(f"there is no session {session!r} in project {project!r}")
        ours = self.rows[SessionRecord][project, session]
        here = {"project": project, "session": session}.items()
        objects = {ours["seed_model"], ours["model"]} - {None}
        objects |= {row["id"] for row in self._unmarked(ModelRecord) if here <= row.items()}
        objects |= {row["state"] for row in self._unmarked(RoundRecord) if here <= row.items()}
        objects |= {row["aggregate"] for row in self._with_aggregates() if here <= row.items()}
        for kind, rows in self.rows.items():
            if "session" in field_types(kind):
                self.rows[kind] = {
                    key: row for key, row in rows.items() if (row["project"], row["session"]) != (project, session)
                }
        del self.rows[SessionRecord][project, session]
        self.queue(objects)

    def delete_upload(self, kind: type[ModelRecord] | type[PackageRecord], project: str, digest: str) -> None:
        """Unless somebody names it."""
        columns: tuple[tuple[RecordType, str, tuple[str, ...]], ...] = (
            (SessionRecord, "session", ("package",) if kind is PackageRecord else ("seed_model", "model")),
            (PredictionRecord, "prediction", ("package",) if kind is PackageRecord else ("model",)),
            (ModelRecord, "model", () if kind is PackageRecord else ("parent",)),
        )
        naming = [
            f"{what} {row['id'] if each is ModelRecord else row['name']}"
            for each, what, names in columns
            for row in self.rows[each].values()
            if row["project"] == project and digest in [row[name] for name in names]
        ]
        found = [
            key
            for key, row in self.rows[kind].items()
            if (row["project"], row["id"]) == (project, digest) and not row.get("session")
        ]
        check_deletable(kind, project, digest, found=bool(found), named_by="".join(naming[:1]))
        for key in found:
            del self.rows[kind][key]
        self.queue({digest})

    def stored_bytes(self, project: str) -> int:
        """Of the objects that the rows of a project hold on to."""
        sizes: dict[str, int] = {}
        for kind, digest, size, pruned in (
            (ModelRecord, "id", "size", "pruned_at"),
            (RoundRecord, "state", "state_size", "state_pruned_at"),
            (RoundRecord, "aggregate", "aggregate_size", "aggregate_pruned_at"),
            (PackageRecord, "id", "size", ""),
        ):
            for row in self.rows[kind].values():
                if row["project"] == project and row[size] is not None and row.get(pruned) is None:
                    sizes[row[digest]] = max(row[size], sizes.get(row[digest], 0))
        return sum(sizes.values())

    def prunable(self, release: Release) -> Pruned:
        """What no row of the project has to hold on to."""
        session = self.rows[SessionRecord].get((release.project, release.session))
        newest = min(release.before, session["round"]) if session else 0

        def is_ours(row: Row) -> bool:
            return (row["project"], row["session"]) == (release.project, release.session)

        def given_up(row: Row) -> bool:
            number = row.get("number", row.get("round"))
            return is_ours(row) and number < newest and number not in release.kept and not row.get("name")

        def gives_up_aggregate(row: Row) -> bool:
            every = release.all_aggregates and session is not None and row["number"] < session["round"]
            return given_up(row) or (every and is_ours(row))

        sessions = [row for row in self.rows[SessionRecord].values() if row["project"] == release.project]
        held = {row[column] for row in sessions for column in ("seed_model", "model")}
        models = [row for row in self._unmarked(ModelRecord) if row["project"] == release.project]
        held |= {row["id"] for row in models if not given_up(row)}
        states = [row for row in self._unmarked(RoundRecord) if row["project"] == release.project]
        held_states = {row["state"] for row in states if not given_up(row)}
        sums = [row for row in self._with_aggregates() if row["project"] == release.project]
        held_sums = {row["aggregate"] for row in sums if not gives_up_aggregate(row)}
        free_sums = [row for row in sums if gives_up_aggregate(row) and row["aggregate"] not in held_sums]
        return Pruned(
            tuple((row["round"], row["id"]) for row in models if given_up(row) and row["id"] not in held),
            tuple((row["number"], row["state"]) for row in states if given_up(row) and row["state"] not in held_states),
            tuple((row["number"], row["aggregate"]) for row in free_sums),
        )

    def prune(self, release: Release, only: Collection[str], at: float, by: str) -> Pruned:
        """Mark it."""
        found = self.prunable(release)
        models = tuple(row for row in found.models if row[1] in only)
        states = tuple(row for row in found.states if row[1] in only)
        for number, digest in models:
            row = self.rows[ModelRecord][release.project, digest, release.session, number]
            row.update(pruned_at=at, pruned_by=by)
        aggregates = tuple(row for row in found.aggregates if row[1] in only)
        for rows, column in ((states, "state_pruned_at"), (aggregates, "aggregate_pruned_at")):
            for number, _ in rows:
                self.rows[RoundRecord][release.project, release.session, number][column] = at
        marked = Pruned(models, states, aggregates)
        self.queue(marked.digests)
        return marked

    def needed(self, digests: Collection[str]) -> frozenset[str]:
        """What a row of any project holds on to."""
        sessions = self.rows[SessionRecord].values()
        held = {row[column] for row in sessions for column in ("seed_model", "model")}
        held |= {row["id"] for row in self._unmarked(ModelRecord)}
        held |= {row["state"] for row in self._unmarked(RoundRecord)}
        held |= {row["aggregate"] for row in self._with_aggregates()}
        held |= {row["id"] for row in self.rows[PackageRecord].values()}
        held |= {row["objects"] for row in self.rows[InstallationRecord].values()}
        return frozenset(held & set(digests))

    def queue(self, digests: Collection[str]) -> None:
        """Have those removed that no row needs."""
        self.removals |= set(digests) - self.needed(digests)

    def _unmarked(self, kind: RecordType) -> Sequence[Row]:
        if kind is ModelRecord:
            return [row for row in self.rows[kind].values() if row["pruned_at"] is None]
        return [row for row in self.rows[kind].values() if row["state"] and row["state_pruned_at"] is None]

    def _with_aggregates(self) -> Sequence[Row]:
        rows = self.rows[RoundRecord].values()
        return [row for row in rows if row["aggregate"] is not None and row["aggregate_pruned_at"] is None]

    def every(self, kind: type[T], project: str) -> list[T]:
        """All records of a kind, oldest first."""
        return [from_row(kind, row) for row in self.rows[kind].values() if _project(kind, row) == project]


@dataclass(slots=True)
class _Shared:
    """What a store and its fenced views have in common."""

    open: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Leases:
    """The rows that say who leads; the loop's time is the database's."""

    def __init__(self, database: Database, disk: Disk) -> None:
        self._rows = database.leases
        self._disk = disk

    async def holder(self, name: str) -> str:
        """Of a lease that has not run out."""
        await self._disk.reading()
        return self._holder(name)

    async def take(self, name: str, holder: str, lease: float) -> int | None:
        """The new epoch."""
        await self._disk.before("lease")
        if self._holder(name):
            return None
        epoch = self._rows.get(name, (0, "", 0.0))[0] + 1
        self._rows[name] = epoch, holder, _clock() + lease
        await self._disk.after("lease")
        return epoch

    async def renew(self, name: str, epoch: int, lease: float) -> bool:
        """From now on."""
        await self._disk.before("lease")
        found, holder, _ = self._rows[name]
        if found != epoch:
            return False
        self._rows[name] = epoch, holder, _clock() + lease
        await self._disk.after("lease")
        return True

    async def await_turn(self, name: str, holder: str, lease: float) -> None:
        """From now on."""
        self._rows[f"{name}/{holder}"] = 0, holder, _clock() + lease

    async def leave_queue(self, name: str, holder: str) -> None:
        """Now."""
        self._rows.pop(f"{name}/{holder}", None)

    async def give_up(self, name: str, epoch: int) -> None:
        """Now."""
        await self._disk.before("lease")
        found, holder, _ = self._rows[name]
        if found == epoch:
            self._rows[name] = epoch, holder, 0.0

    def _holder(self, name: str) -> str:
        _, holder, until = self._rows.get(name, (0, "", 0.0))
        return holder if until > _clock() else ""


def _clock() -> float:
    return asyncio.get_running_loop().time()


class MemoryStore:
    """`MetadataStore` over a `Database` that outlives it."""

    def __init__(self, database: Database, disk: Disk | None = None) -> None:
        """disk: what happens around each durable step."""
        self.database = database
        self._disk = disk or Disk()
        self._shared = _Shared()
        self._fence: tuple[str, int] | None = None

    async def open(self) -> None:
        """Connect."""
        self._shared.open = True

    def leadership(self, name: str, *, lease: float = 3.0) -> Leadership:
        """A claim by a lease that this database counts: the code that does it over PostgreSQL."""
        return LeaseLeadership(_Leases(self.database, self._disk), name, lease)

    async def replicas(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Who leads, and who waits."""
        rows = self.database.leases
        waiting = sorted(
            who for key, (_, who, until) in rows.items() if key.startswith(f"{name}/") and until > _clock()
        )
        return rows.get(name, (0, "", 0.0))[1], tuple(waiting)

    def fenced(self, leadership: Leadership) -> "MemoryStore":
        """The same store for the writes of a leader."""
        if not leadership.held:
            raise ConflictError(f"{leadership.name!r} is not led from here, so nothing can be written as its leader")
        view = copy(self)
        view._fence = leadership.name, leadership.epoch
        return view

    async def close(self) -> None:
        """Wait for the writes that have begun."""
        async with self._shared.turn:
            self._shared.open = False

    async def get(self, kind: type[T], project: str, key: str) -> T:
        """The oldest row with this id."""
        await self._reading()
        wanted: str | int = key
        if kind is EventRecord:
            wanted = int(key) if key.isascii() and key.isdigit() and int(key) < 2**63 else -1
        for row in self.database.rows[kind].values():
            if row["id"] == wanted and _project(kind, row) == project:
                return from_row(kind, row)
        raise NotFoundError(f"there is no {_noun(kind)} {key!r} in project {project!r}")

    async def list(self, kind: type[T], query: Query) -> Page[T]:
        """Rows that match."""
        matches = _matcher(kind, query)
        await self._reading()
        found = [row for row in self.database.rows[kind].values() if matches(row)]
        if query.sort:
            column = query.sort.removeprefix("-")
            present = [row for row in found if row[column] is not None]
            newest = sorted(range(len(present)), key=lambda i: (present[i][column], i), reverse=True)
            if query.sort.startswith("-"):
                found = [*(present[i] for i in newest),
                         *reversed([row for row in found if row[column] is None])]  # fmt: skip
            else:
                found = [*sorted(present, key=lambda row: row[column]), *(r for r in found if r[column] is None)]
        page = found[query.offset : query.offset + query.limit]
        return Page(tuple(from_row(kind, row) for row in page), len(found))

    async def put(self, *records: Record) -> None:
        """Insert or replace by id."""
        rows = [(type(record), to_row(record)) for record in records]
        _check_new(records)
        if rows:
            await self._writing("put", lambda: self.database.write(rows))

    async def create(self, record: Record, *others: Record) -> None:
        """Insert."""
        _check_new([record, *others])
        rows = [(type(row), to_row(row)) for row in (record, *others)]
        await self._writing("create", lambda: self.database.write(rows, fresh=True))

    async def delete_session(self, project: str, session: str, *others: Record) -> None:
        """Remove a session and its rows."""
        rows = [(type(row), to_row(row)) for row in others]

        def delete() -> None:
            self.database.delete_session(project, session)
            self.database.write(rows)

        await self._writing("forget", delete)

    async def delete_upload(
        self, kind: type[ModelRecord] | type[PackageRecord], project: str, digest: str, *others: Record
    ) -> None:
        """Remove an uploaded model, or a package, that nobody names."""
        rows = [(type(row), to_row(row)) for row in others]

        def delete() -> None:
            self.database.delete_upload(kind, project, digest)
            self.database.write(rows)

        await self._writing("forget an upload", delete)

    async def commit_round(self, commit: RoundCommit) -> None:
        """Write a round at once."""
        check_commit(commit)
        _check_new(commit.events)
        others: Sequence[Record] = [commit.model, *commit.contributions, *commit.metrics, *commit.events]
        rows = [(type(other), to_row(other)) for other in others]
        session, record = to_row(commit.session), to_row(commit.round)
        await self._writing("commit", lambda: self.database.commit(commit, session, record, rows))

    async def stored_bytes(self, project: str) -> int:
        """Each object once."""
        await self._reading()
        return self.database.stored_bytes(project)

    async def answered_bytes(self, project: str) -> int:
        """Of all predictions."""
        await self._reading()
        rows = self.database.rows[AnswerRecord].values()
        return sum(len(row["document"] or "") for row in rows if row["project"] == project)

    async def prunable(self, release: Release, limit: int = 500) -> Pruned:
        """What `prune` would mark."""
        await self._reading()
        found = self.database.prunable(release)
        return Pruned(found.models[:limit], found.states[:limit], found.aggregates[:limit])

    async def prune(self, release: Release, only: Collection[str], *, at: float, by: str) -> Pruned:
        """Mark what is given up."""
        return await self._writing("prune", lambda: self.database.prune(release, only, at, by))

    async def needed(self, digests: Collection[str]) -> frozenset[str]:
        """Those that a row needs."""
        await self._reading()
        return self.database.needed(digests)

    async def delete_prediction(self, project: str, prediction: str, *others: Record) -> None:
        """Remove a prediction with its answers."""
        rows = [(type(row), to_row(row)) for row in others]

        def delete() -> None:
            if self.database.rows[PredictionRecord].pop((project, prediction), None) is None:
                raise NotFoundError(f"there is no prediction {prediction!r} in project {project!r}")
            answers = self.database.rows[AnswerRecord]
            for key in [key for key, row in answers.items() if (key[0], row["prediction"]) == (project, prediction)]:
                del answers[key]
            self.database.write(rows)

        await self._writing("forget a prediction", delete)

    async def expire_samples(self, before: float, limit: int = 10_000) -> int:
        """Remove what machines have told before this time."""
        samples = self.database.rows[SampleRecord]

        def delete() -> int:
            old = [key for key, row in samples.items() if not row["session"] and row["at"] < before][:limit]
            for key in old:
                del samples[key]
            return len(old)

        return await self._writing("expire", delete)

    async def removals(self, limit: int = 500) -> Sequence[str]:
        """What is still to be removed."""
        await self._reading()
        return sorted(self.database.removals)[:limit]

    async def removed(self, digests: Collection[str]) -> None:
        """It is."""
        if digests:
            await self._writing("removed", lambda: self.database.removals.difference_update(digests))

    async def ancestors(self, project: str, model: str, limit: int = 1000) -> Sequence[ModelRecord]:
        """The trail up."""
        _check_trail(limit)
        await self.get(ModelRecord, project, model)
        models = self._models(project)
        found: dict[str, None] = {}
        edge = [model]
        while edge and len(found) < limit:
            parents = [row["parent"] for row in models if row["id"] in edge and row["parent"] is not None]
            edge = [each for each in dict.fromkeys(parents) if each not in found and each != model]
            edge = [each for each in edge if any(row["id"] == each for row in models)]
            found |= dict.fromkeys(edge)
        return self._oldest(models, list(found)[:limit])

    async def descendants(self, project: str, model: str, limit: int = 1000) -> Sequence[ModelRecord]:
        """The trail down."""
        _check_trail(limit)
        await self.get(ModelRecord, project, model)
        models = self._models(project)
        children: dict[str, list[str]] = {}
        for row in models:
            children.setdefault(row["parent"] or "", []).append(row["id"])
        found, edge = set(), [model]
        while edge:
            edge = [child for parent in edge for child in children.get(parent, ()) if child not in found]
            found |= set(edge)
        order = dict.fromkeys(row["id"] for row in models if row["id"] in found and row["id"] != model)
        return self._oldest(models, list(order)[:limit])

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _models(self, project: str) -> Sequence[Row]:
        return [row for row in self.database.rows[ModelRecord].values() if row["project"] == project]

    def _oldest(self, models: Sequence[Row], names: Sequence[str]) -> Sequence[ModelRecord]:
        first: dict[str, Row] = {}
        for row in models:
            first.setdefault(row["id"], row)
        return tuple(from_row(ModelRecord, first[name]) for name in names)

    async def _writing(self, step: str, write: Callable[[], T]) -> T:
        """One at a time, in the order in which they were asked for."""
        async with self._shared.turn:
            self._check_open()
            await self._disk.before(step)
            if self._fence is not None:
                self.database.check_leader(*self._fence)
            done = write()
            await self._disk.after(step)
            return done

    async def _reading(self) -> None:
        self._check_open()
        await self._disk.reading()

    def _check_open(self) -> None:
        if not self._shared.open:
            raise StorageError("the database in memory is not open: await its open() first")


class SlowObjects:
    """`ObjectStore` around another, with what happens on a disk around its durable steps."""

    def __init__(self, objects: ObjectStore, disk: Disk) -> None:
        """objects: what keeps the bytes."""
        self._objects = objects
        self._disk = disk

    async def put(self, parts: Iterable[bytes | memoryview]) -> str:
        """Store the concatenation."""
        return await self._writing("object", self._objects.put(parts))

    async def put_file(self, path: Path) -> str:
        """The same for a file's bytes."""
        return await self._writing("object", self._objects.put_file(path))

    async def size(self, digest: str) -> int:
        """Bytes."""
        await self._disk.reading()
        return await self._objects.size(digest)

    async def read(self, digest: str, offset: int = 0, chunk: int = 1 << 20) -> AsyncIterator[bytes]:
        """The bytes from an offset."""
        await self._disk.reading()
        async for part in self._objects.read(digest, offset, chunk):
            yield part

    async def fetch(self, digest: str) -> Path:
        """A local file."""
        await self._disk.reading()
        return await self._objects.fetch(digest)

    async def delete(self, digest: str) -> None:
        """Remove."""
        await self._writing("delete", self._objects.delete(digest))

    async def list(self) -> AsyncIterator[StoredObject]:
        """Every object."""
        await self._disk.reading()
        async for found in self._objects.list():
            yield found

    async def _writing(self, step: str, storing: Awaitable[T]) -> T:
        try:
            await self._disk.before(step)
        except BaseException:
            storing.close()  # type: ignore[attr-defined]  # a coroutine that is not awaited any more
            raise
        done = await storing
        await self._disk.after(step)
        return done


class OldObjects(SlowObjects):
    """The same on a virtual clock: a file's own time is real, so all are said to be old enough for whatever asks."""

    async def list(self) -> AsyncIterator[StoredObject]:
        """Every object."""
        async for found in super().list():
            yield replace(found, stored_at=0.0)


def _matcher(kind: RecordType, query: Query) -> Callable[[Row], bool]:  # noqa: C901 - flat: one condition after another
    """The conditions of a query, checked as the real stores check them."""
    if not 1 <= query.limit <= queries.MAX_LIMIT:
        raise ConfigError(f"limit = {query.limit}: a page has 1 to {queries.MAX_LIMIT} rows")
    if not 0 <= query.offset < 2**63:
        raise ConfigError(f"offset = {query.offset}: it must be 0 or more")
    if query.sort:
        queries._searchable(kind, query.sort.removeprefix("-"), "sort by")
    if query.after is not None and kind is not EventRecord:
        raise ConfigError(f"`after` is for events; a list of {TABLES[kind].name} is paged with `offset`")
    wanted: dict[str, tuple[Any, ...]] = {}
    labels: Mapping[str, frozenset[str]] = {}
    searched: tuple[str, str] | None = None
    for name, value in query.where.items():
        if name == queries.SEARCH and kind in queries.SEARCHED:
            list(queries._conditions(kind, name, value))
            searched = (queries.SEARCHED[kind], cast("str", value).lower())
            continue
        if name == "label" and "labels" in field_types(kind):
            list(queries._conditions(kind, name, value))  # what cannot be asked is refused alike
            texts = (value,) if isinstance(value, str) else cast("Sequence[str]", value)
            labels = label_pairs(tuple(texts))
            continue
        queries._searchable(kind, name, "filter by")
        plain, where = field_types(kind)[name][0], f"{TABLES[kind].name}.{name}"
        several = isinstance(value, Sequence) and not isinstance(value, str)
        values: Iterable[Any] = value if several else (value,)  # type: ignore[assignment]
        wanted[name] = (None,) if value is None else tuple(queries._value(plain, each, where) for each in values)
    any_project = kind is ProjectRecord and not query.project

    def matches(row: Mapping[str, Any]) -> bool:
        if query.after is not None and row["id"] <= query.after:
            return False
        if not any_project and _project(kind, row) != query.project:
            return False
        has = {**row["labels"], **(row.get("assigned") or {})} if labels else {}
        if not all(has.get(key) in values for key, values in labels.items()):
            return False
        if searched is not None and searched[1] not in row[searched[0]].lower():
            return False
        return all(row[name] in values for name, values in wanted.items())

    return matches


def _key(kind: RecordType, row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEYS[kind])


def _project(kind: RecordType, row: Mapping[str, Any]) -> str:
    project: str = row["id"] if kind is ProjectRecord else row["project"]
    return project


def _noun(kind: RecordType) -> str:
    return kind.__name__.removesuffix("Record").lower()


def _check_new(records: Iterable[Record]) -> None:
    for record in records:
        if isinstance(record, EventRecord) and record.id:
            raise ConflictError(f"event {record.id} ({record.kind}) is stored already, and events never change")
        if isinstance(record, AuditRecord) and record.number:
            raise ConflictError(f"line {record.number} of the audit record is stored already, and never changes")


def _check_trail(limit: int) -> None:
    if limit < 1:
        raise ConfigError(f"limit = {limit}: a trail has at least 1 model")
