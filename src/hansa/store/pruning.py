"""What may be given up, and what nobody needs any more: statements, each a step inside its caller's transaction.

A row of `models` or `rounds` without a mark holds on to its bytes. The marks of a project agree: as long as one of its
rows has to hold on to a digest, none with that digest is marked.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Insert,
    Table,
    and_,
    delete,
    exists,
    not_,
    or_,
    select,
    union,
    update,
)

from hansa.store.ports import Pruned, Release
from hansa.store.records import ModelRecord, PackageRecord, RoundRecord, SessionRecord
from hansa.store.schema import REMOVALS, TABLES

__all__ = ["digests_of", "forget", "mark", "needed", "prunable", "queue", "queued"]

_MODELS: Final = TABLES[ModelRecord]
_ROUNDS: Final = TABLES[RoundRecord]
_SESSIONS: Final = TABLES[SessionRecord]
_PACKAGES: Final = TABLES[PackageRecord]
_AT_ONCE: Final = 500
"""Rounds that are marked in one transaction, and values in one statement."""


def prunable(connection: Connection, release: Release, limit: int) -> Pruned:
    """The models and states of a release that no row of the project has to hold on to."""
    wanted = exists(_SESSIONS.c.id).where(
        _SESSIONS.c.project == release.project,
        or_(_SESSIONS.c.seed_model == _MODELS.c.id, _SESSIONS.c.model == _MODELS.c.id),
    )
    models = (
        select(_MODELS.c.round, _MODELS.c.id)
        .where(_given_up(_MODELS, release), not_(_held(_MODELS, release)), not_(wanted))
        .order_by(_MODELS.c.round)
        .limit(limit)
    )
    states = (
        select(_ROUNDS.c.number, _ROUNDS.c.state)
        .where(_given_up(_ROUNDS, release), not_(_held(_ROUNDS, release)))
        .order_by(_ROUNDS.c.number)
        .limit(limit)
    )
    found = [tuple((number, digest) for number, digest in connection.execute(rows)) for rows in (models, states)]
    return Pruned(*found)


def mark(connection: Connection, release: Release, only: Collection[str], *, at: float, by: str) -> Pruned:
    """Mark what is prunable and among `only`."""
    found = prunable(connection, release, _AT_ONCE)
    models = tuple(row for row in found.models if row[1] in only)
    states = tuple(row for row in found.states if row[1] in only)
    for table, rows, values in (
        (_MODELS, models, {"pruned_at": at, "pruned_by": by}),
        (_ROUNDS, states, {"state_pruned_at": at}),
    ):
        if rows:
            chosen = _number(table).in_([number for number, _ in rows])
            connection.execute(update(table).where(_given_up(table, release), chosen).values(values))
    return Pruned(models, states)


def digests_of(connection: Connection, project: str, session: str) -> frozenset[str]:
    """Every object that a row of a session holds on to."""
    of_session = select(_SESSIONS).where(_SESSIONS.c.project == project, _SESSIONS.c.id == session).subquery()
    rows = union(
        *(
            select(column).where(table.c.project == project, table.c.session == session, _unmarked(table))
            for table, column in ((_MODELS, _MODELS.c.id), (_ROUNDS, _ROUNDS.c.state))
        ),
        select(of_session.c.seed_model),
        select(of_session.c.model),
    )
    return frozenset(digest for (digest,) in connection.execute(rows) if digest)


def needed(connection: Connection, digests: Collection[str]) -> frozenset[str]:
    """Those that a row of any project holds on to."""
    found: set[str] = set()
    for some in _batches(sorted(digests)):
        rows = union(
            select(_MODELS.c.id).where(_MODELS.c.id.in_(some), _MODELS.c.pruned_at.is_(None)),
            select(_ROUNDS.c.state).where(_ROUNDS.c.state.in_(some), _ROUNDS.c.state_pruned_at.is_(None)),
            *(select(column).where(column.in_(some)) for column in (_SESSIONS.c.seed_model, _SESSIONS.c.model)),
            select(_PACKAGES.c.id).where(_PACKAGES.c.id.in_(some)),
        )
        found.update(digest for (digest,) in connection.execute(rows))
    return frozenset(found)


def queue(connection: Connection, insert: Insert, digests: Collection[str]) -> None:
    """Have those removed that no row needs. insert: into `REMOVALS`, doing nothing about one that is there."""
    unneeded = set(digests) - needed(connection, digests)
    if unneeded:
        connection.execute(insert, [{"digest": digest} for digest in sorted(unneeded)])


def queued(connection: Connection, limit: int) -> Sequence[str]:
    """What is still to be removed."""
    rows = select(REMOVALS.c.digest).order_by(REMOVALS.c.digest).limit(limit)
    return connection.execute(rows).scalars().all()


def forget(connection: Connection, digests: Collection[str]) -> None:
    """Take them out of what is still to be removed."""
    for some in _batches(sorted(digests)):
        connection.execute(delete(REMOVALS).where(REMOVALS.c.digest.in_(some)))


def _given_up(table: Any, release: Release) -> ColumnElement[bool]:
    """Whether a row is of a round that is given up, older than the session's newest, and not marked yet."""
    newest = select(_SESSIONS.c.round).where(_SESSIONS.c.project == release.project, _SESSIONS.c.id == release.session)
    number = _number(table)
    return and_(
        table.c.project == release.project,
        table.c.session == release.session,
        _unmarked(table),
        number < release.before,
        number < newest.scalar_subquery(),
        number.not_in(sorted(release.kept)),
        table.c.name == "" if "name" in table.c else table.c.state != "",
    )


def _held(table: Table, release: Release) -> ColumnElement[bool]:
    """Whether another row of the project, one that is not given up, has the same digest."""
    other = table.alias("other")
    digest = "id" if table is _MODELS else "state"
    same = (other.c.project == release.project) & (other.c[digest] == table.c[digest])
    return exists(other.c.project).where(same, _unmarked(other), not_(_given_up(other, release)))


def _number(table: Any) -> Column[int]:
    column: Column[int] = table.c.round if "round" in table.c else table.c.number
    return column


def _unmarked(table: Any) -> ColumnElement[bool]:
    column: Column[float] = table.c.pruned_at if "pruned_at" in table.c else table.c.state_pruned_at
    return column.is_(None)


def _batches(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    return (digests[start : start + _AT_ONCE] for start in range(0, len(digests), _AT_ONCE))
