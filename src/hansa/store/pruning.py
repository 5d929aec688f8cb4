"""What may be given up, and what nobody needs any more: statements, each a step inside its caller's transaction.

A row of `models` or `rounds` without a mark holds on to its bytes. The marks of a project agree: as long as one of its
rows has to hold on to a digest, none with that digest is marked.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Insert,
    Select,
    Table,
    Text,
    and_,
    cast,
    delete,
    exists,
    inspect,
    not_,
    or_,
    select,
    union,
    update,
)

from hansa.errors import NotFoundError
from hansa.store.migrations import check_known
from hansa.store.ports import Pruned, Release
from hansa.store.records import (
    InstallationRecord,
    ModelRecord,
    PackageRecord,
    PredictionRecord,
    RoundRecord,
    SessionRecord,
)
from hansa.store.schema import REMOVALS, TABLES

__all__ = ["digests_of", "forget", "held", "mark", "naming", "needed", "prunable", "queue", "queued"]

_MODELS: Final = TABLES[ModelRecord]
_ROUNDS: Final = TABLES[RoundRecord]
_SESSIONS: Final = TABLES[SessionRecord]
_PACKAGES: Final = TABLES[PackageRecord]
_INSTALLATIONS: Final = TABLES[InstallationRecord]
_PREDICTIONS: Final = TABLES[PredictionRecord]
_AT_ONCE: Final = 500
"""Rounds that are marked in one transaction, and values in one statement."""


@dataclass(frozen=True, slots=True)
class _Holding:
    """A column by which rows hold on to objects, until they are marked."""

    table: Table
    number: str
    """The column of the round's number."""
    digest: str
    mark: str


_HOLDINGS: Final = (
    _Holding(_MODELS, "round", "id", "pruned_at"),
    _Holding(_ROUNDS, "number", "state", "state_pruned_at"),
    _Holding(_ROUNDS, "number", "aggregate", "aggregate_pruned_at"),
)
"""In the order of `Pruned`."""


def prunable(connection: Connection, release: Release, limit: int) -> Pruned:
    """The models, states and aggregates of a release that no row of the project has to hold on to."""
    wanted = exists(_SESSIONS.c.id).where(
        _SESSIONS.c.project == release.project,
        or_(_SESSIONS.c.seed_model == _MODELS.c.id, _SESSIONS.c.model == _MODELS.c.id),
    )
    found: list[tuple[tuple[int, str], ...]] = []
    for holding in _HOLDINGS:
        table, number = holding.table, holding.table.c[holding.number]
        free = [_given_up(table, holding, release), not_(_held(holding, release))]
        free += [not_(wanted)] if table is _MODELS else []
        rows = select(number, table.c[holding.digest]).where(*free).order_by(number).limit(limit)
        found.append(tuple((which, digest) for which, digest in connection.execute(rows)))
    return Pruned(*found)


def mark(connection: Connection, release: Release, only: Collection[str], *, at: float, by: str) -> Pruned:
    """Mark what is prunable and among `only`."""
    found = prunable(connection, release, _AT_ONCE)
    marked: list[tuple[tuple[int, str], ...]] = []
    for holding, rows in zip(_HOLDINGS, (found.models, found.states, found.aggregates), strict=True):
        table = holding.table
        marked.append(tuple(row for row in rows if row[1] in only))
        if marked[-1]:
            chosen = table.c[holding.number].in_([number for number, _ in marked[-1]])
            values = {holding.mark: at} | ({"pruned_by": by} if table is _MODELS else {})
            connection.execute(update(table).where(_given_up(table, holding, release), chosen).values(values))
    return Pruned(*marked)


def digests_of(connection: Connection, project: str, session: str) -> frozenset[str]:
    """Every object that a row of a session holds on to."""
    of_session = select(_SESSIONS).where(_SESSIONS.c.project == project, _SESSIONS.c.id == session).subquery()
    rows = union(
        *(
            _holding(holding).where(holding.table.c.project == project, holding.table.c.session == session)
            for holding in _HOLDINGS
        ),
        select(of_session.c.seed_model),
        select(of_session.c.model),
    )
    return frozenset(digest for (digest,) in connection.execute(rows) if digest)


def needed(connection: Connection, digests: Collection[str]) -> frozenset[str]:
    """Those that a row of any project holds on to."""
    found: set[str] = set()
    for some in _batches(sorted(digests)):
        rows = union(*(column.where(column.selected_columns[0].in_(some)) for _, column in _everything()))
        found.update(digest for (digest,) in connection.execute(rows))
    return frozenset(found)


def held(connection: Connection) -> frozenset[str]:
    """Every object that a row of any project holds on to; also of a database that an earlier version has written.

    Raise `NotFoundError` when the database is empty, `StorageError` when only a newer version knows it.
    """
    if check_known(connection) is None:
        raise NotFoundError("the database is empty: no server has started on it")
    known = inspect(connection).get_table_names()
    rows = union(*(column for table, column in _everything() if table.name in known))
    return frozenset(digest for (digest,) in connection.execute(rows) if digest)


def naming(connection: Connection, kind: type[ModelRecord] | type[PackageRecord], project: str, digest: str) -> str:
    """Who of the project names an uploaded model, or a package, for a sentence; empty: nobody."""
    if kind is PackageRecord:
        columns = [("session", _SESSIONS.c.name, _SESSIONS.c.package)]
        columns += [("prediction", _PREDICTIONS.c.name, _PREDICTIONS.c.package)]
    else:
        columns = [("session", _SESSIONS.c.name, column) for column in (_SESSIONS.c.seed_model, _SESSIONS.c.model)]
        columns += [("prediction", _PREDICTIONS.c.name, _PREDICTIONS.c.model)]
        columns += [("model", _MODELS.c.id, _MODELS.c.parent)]
    for what, name, column in columns:
        ours = select(name).where(name.table.c.project == project, column == digest).order_by(name).limit(1)
        found = connection.execute(ours).scalar()
        if found is not None:
            return f"{what} {found}"
    return ""


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


def _everything() -> Iterator[tuple[Table, Select[Any]]]:
    """The digests that rows hold on to, column by column, each with its table."""
    yield from ((holding.table, _holding(holding)) for holding in _HOLDINGS)
    columns = (_SESSIONS.c.seed_model, _SESSIONS.c.model, _PACKAGES.c.id, _INSTALLATIONS.c.objects)
    yield from ((column.table, select(column)) for column in columns)


def _holding(holding: _Holding) -> Select[tuple[str]]:
    """The digests that unmarked rows hold on to."""
    table = holding.table
    return select(table.c[holding.digest]).where(table.c[holding.mark].is_(None))


def _given_up(table: FromClause, holding: _Holding, release: Release) -> ColumnElement[bool]:
    """Whether a row is of a round that is given up, older than the session's newest, and not marked yet.

    table: the holding's, or an alias of it.
    """
    newest = select(_SESSIONS.c.round).where(_SESSIONS.c.project == release.project, _SESSIONS.c.id == release.session)
    number = table.c[holding.number]
    every = holding.digest == "aggregate" and release.all_aggregates
    return and_(
        table.c.project == release.project,
        table.c.session == release.session,
        table.c[holding.mark].is_(None),
        number < newest.scalar_subquery(),
        *(() if every else (number < release.before, number.not_in(sorted(release.kept)))),
        _unnamed(table, number, release) if "name" in table.c else table.c[holding.digest] != "",
    )


def _unnamed(table: FromClause, number: ColumnElement[int], release: Release) -> ColumnElement[bool]:
    """Whether nobody gave a model a name of its own: all of a session have those that begin with its prefix."""
    prefix = (
        select(_SESSIONS.c.model_prefix)
        .where(_SESSIONS.c.project == release.project, _SESSIONS.c.id == release.session)
        .scalar_subquery()
    )
    return or_(table.c.name == "", table.c.name == prefix + "-" + cast(number, Text))


def _held(holding: _Holding, release: Release) -> ColumnElement[bool]:
    """Whether another row of the project, one that is not given up, has the same digest."""
    table, other = holding.table, holding.table.alias("other")
    same = (other.c.project == release.project) & (other.c[holding.digest] == table.c[holding.digest])
    unmarked = other.c[holding.mark].is_(None)
    return exists(other.c.project).where(same, unmarked, not_(_given_up(other, holding, release)))


def _batches(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    return (digests[start : start + _AT_ONCE] for start in range(0, len(digests), _AT_ONCE))
