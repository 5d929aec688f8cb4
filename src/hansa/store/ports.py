"""What hansa asks of a metadata store and of an object store, and of who may lead over them.

SQLite, PostgreSQL, a directory and S3 answer here; others by plug-in.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar, runtime_checkable

from hansa.store.records import (
    ContributionRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    PackageRecord,
    Record,
    RoundRecord,
    SessionRecord,
)

__all__ = [
    "Leadership",
    "MetadataStore",
    "ObjectStore",
    "Page",
    "Portable",
    "Pruned",
    "Query",
    "Release",
    "RoundCommit",
    "StoredObject",
]

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Query:
    """What to list, always within one project."""

    project: str
    """Empty: all projects, in a list of `ProjectRecord` only."""
    where: Mapping[str, str | int | float | bool | Sequence[str] | None] = field(default_factory=dict)
    """Column → the value that it equals, or the values it may have; None: it has none. An unknown column is a
    `ConfigError`.

    `search` is a part of the name, in any case, of records that have one.
    """
    after: int | None = None
    """Events only: those with a larger id."""
    sort: str = ""
    """A column, with a leading "-" for descending; empty: oldest first."""
    limit: int = 100
    """1 to 1000."""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """One page of a list."""

    items: tuple[R, ...]
    total: int
    """How many match in all."""


@dataclass(frozen=True, slots=True)
class RoundCommit:
    """Everything that one round changes, written in one transaction after its objects are durable."""

    session: SessionRecord
    """As it is after the round."""
    round: RoundRecord
    model: ModelRecord
    contributions: tuple[ContributionRecord, ...]
    metrics: tuple[MetricRecord, ...] = ()
    events: tuple[EventRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """What a session's policy gives up: the bytes of its rounds before `before`, but for `kept`.

    What is needed is not given up whatever is asked: what the newest round of a session made, a session's seed, a model
    that a person has named, and an object that another row of the project holds on to as the same.
    """

    project: str
    session: str
    before: int
    kept: frozenset[int] = frozenset()
    all_aggregates: bool = False
    """Whether no round keeps its aggregate, kept or not."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """Models, states and aggregates that are given up, as (round, digest)."""

    models: tuple[tuple[int, str], ...] = ()
    states: tuple[tuple[int, str], ...] = ()
    aggregates: tuple[tuple[int, str], ...] = ()

    @property
    def digests(self) -> frozenset[str]:
        """Of all."""
        return frozenset(digest for _, digest in (*self.models, *self.states, *self.aggregates))


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What an object store says of an object."""

    digest: str
    size: int
    """Bytes."""
    stored_at: float
    """POSIX seconds, by the clock of the store."""


@runtime_checkable
class Leadership(Protocol):
    """One candidate's claim to lead over a store: of all that have its name, at most one holds it.

    `async with leadership:` waits until it is held, and releases it at the end. `held` is what this process may
    believe: one that was stopped can find itself superseded at its next write. So what only a leader may write goes
    through `store.fenced(leadership)`: there the database itself refuses a former leader.
    """

    name: str
    lost: asyncio.Event
    """Set when what was held is not any more, by any cause but `release()`: stop leading."""

    @property
    def held(self) -> bool:
        """Whether this process leads now, by its own clock."""

    @property
    def epoch(self) -> int:
        """The number of the acquisition, larger than any before it; 0 when there was none."""

    @property
    def cause(self) -> str:
        """Why it was lost, as one sentence; empty before."""

    async def acquire(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # a candidate waits by polling
        """Wait until it is held. timeout: seconds, None for ever, 0 for one try.

        Raise `ConflictError`, naming who holds it, after the timeout, and when this object holds it already;
        `StorageUnavailableError` when the store is away: ask again.
        """

    async def release(self) -> None:
        """Let the next candidate have it at once; harmless when it is not held."""

    async def __aenter__(self) -> Self:
        """`acquire()`."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """`release()`."""


@runtime_checkable
class MetadataStore(Protocol):
    """Rows. Every method is one transaction, durable when it returns.

    While the database is away, restarting, full or busy they raise `StorageUnavailableError`: the same call may
    succeed later. Whether a write that raised it was done is unknown. To repeat `commit_round`, or `put` of anything
    but events, is harmless.
    """

    async def open(self) -> None:
        """Connect and migrate to the newest schema."""

    async def close(self) -> None:
        """Release every connection."""

    async def get(self, kind: type[R], project: str, key: str) -> R:
        """The row with this id; raise `NotFoundError` when the project has none."""

    async def list(self, kind: type[R], query: Query) -> Page[R]:
        """Rows that match."""

    async def put(self, *records: Record) -> None:
        """Insert or replace by id, all or none.

        Events get the next id, lines of the audit record the next number and their link; one that has it already is a
        `ConflictError`.
        """

    async def create(self, record: Record, *others: Record) -> None:
        """Insert; raise `ConflictError` when the id exists. others: put in the same transaction."""

    async def delete_session(self, project: str, session: str, *others: Record) -> None:
        """Remove a session with its rounds, contributions, metrics, events and model rows.

        Its objects that no row needs any more are among the `removals` then. Raise `NotFoundError` when the project
        has no such session. others: put in the same transaction.
        """

    async def delete_prediction(self, project: str, prediction: str, *others: Record) -> None:
        """Remove a prediction with its answers; raise `NotFoundError` when the project has no such.

        others: put in the same transaction.
        """

    async def delete_upload(
        self, kind: type[ModelRecord] | type[PackageRecord], project: str, digest: str, *others: Record
    ) -> None:
        """Remove the row of an uploaded model, or of a package; its bytes are among the `removals` unless needed.

        Raise `NotFoundError` when the project has no such, and `ConflictError`, which says who, when a session, a
        prediction or another model of the project names it. others: put in the same transaction.
        """

    async def commit_round(self, commit: RoundCommit) -> None:
        """Write a round at once. Writing the same round again changes nothing; another one is a `ConflictError`.

        The session must exist (`NotFoundError`) and the round must follow its newest one; an empty `round.link` is
        filled in, any other must be what `link.round_link` gives (`ConflictError`). `InputError` when the parts of
        the commit contradict each other.
        """

    async def ancestors(self, project: str, model: str, limit: int = 1000) -> Sequence[ModelRecord]:
        """The trail from this model, which is not in it, back to its seed, nearest first."""

    async def descendants(self, project: str, model: str, limit: int = 1000) -> Sequence[ModelRecord]:
        """Every model that was made from this one, oldest first."""

    async def answered_bytes(self, project: str) -> int:
        """Characters of what clients of a project have predicted, as it is kept."""

    async def stored_bytes(self, project: str) -> int:
        """Bytes of what a project's rows hold on to: models, states, aggregates, packages, each object once."""

    async def prunable(self, release: Release, limit: int = 500) -> Pruned:
        """What `prune` would mark now, the oldest first; limit: of each kind."""

    async def prune(self, release: Release, only: Collection[str], *, at: float, by: str) -> Pruned:
        """Mark what is `prunable` and among these digests; those that no row needs any more become `removals`.

        at: POSIX seconds; by: the policy, for people.
        """

    async def needed(self, digests: Collection[str]) -> frozenset[str]:
        """Those that a row of any project needs.

        Of models, states and aggregates those without a mark; a session's seed and newest model; a package.
        """

    async def expire_samples(self, before: float, limit: int = 10_000) -> int:
        """Remove what machines have told of themselves before this time, of all projects; returns how many.

        limit: the most that are removed at once.
        """

    async def removals(self, limit: int = 500) -> Sequence[str]:
        """Objects that are still to be removed."""

    async def removed(self, digests: Collection[str]) -> None:
        """These are no `removals` any more: they are removed, or needed again."""

    def leadership(self, name: str, *, lease: float = 3.0) -> Leadership:
        """A claim that is not made yet, under a name of a-z, 0-9 and "-" (else `InputError`).

        lease: seconds for which nobody takes over from a leader that says nothing, if the store counts time.
        """

    async def replicas(self, name: str) -> tuple[str, tuple[str, ...]]:
        """(who leads or led last under a name, empty for nobody; who waits to), as they call themselves."""

    def fenced(self, leadership: Leadership) -> "MetadataStore":
        """The same store for the writes of a leader, as of the epoch that it holds now (else `ConflictError`).

        Each write checks in its own transaction that nobody has led since; a former leader's is a `ConflictError`
        and changes nothing. Opening and closing it is opening and closing the store.
        """


@runtime_checkable
class Portable(Protocol):
    """A metadata store that can be copied to a file, and made of one again. For both it need not be open."""

    engine: str
    """What such a file is of: only a store of the same engine can load it."""

    async def dump(self, file: Path) -> frozenset[str]:
        """Write one state of the database to a file that its owner alone reads, while others may write to the database.

        Returns the objects that rows hold on to in that state. What is in the file already is replaced; the database
        itself is neither changed nor migrated. Raise `NotFoundError` when there is none.
        """

    async def check_vacant(self) -> None:
        """Raise `ConflictError` where there is a database already, `InputError` where none can be made of a file."""

    async def load(self, file: Path) -> None:
        """Make the database of such a file, all or nothing; errors as of `check_vacant`."""


@runtime_checkable
class ObjectStore(Protocol):
    """Immutable bytes by content. A digest is blake3, 64 hexadecimal digits.

    While the store is away or full they raise `StorageUnavailableError`; every call may be repeated.
    """

    async def put(self, parts: Iterable[bytes | memoryview]) -> str:
        """Store the concatenation durably and return its digest: it survives a power cut; twice is harmless."""

    async def put_file(self, path: Path) -> str:
        """The same for a file's bytes, in bounded memory."""

    async def size(self, digest: str) -> int:
        """Bytes; raise `NotFoundError` when absent."""

    def read(self, digest: str, offset: int = 0, chunk: int = 1 << 20) -> AsyncIterator[bytes]:
        """The bytes from an offset, in chunks; raise `NotFoundError` when absent."""

    async def fetch(self, digest: str) -> Path:
        """A local file with these bytes, to map into memory; the store keeps it."""

    async def delete(self, digest: str) -> None:
        """Remove; harmless when absent."""

    def list(self) -> AsyncIterator[StoredObject]:
        """Every object, in any order; what is stored or removed meanwhile may be among them or not."""
