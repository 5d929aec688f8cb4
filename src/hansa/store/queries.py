"""From a `Query` to SQL: every column, value and number that a caller gives is checked against the table first."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, Final

from sqlalchemy import JSON, ColumnElement, Select, Table, Text, collate, func, literal, select, union_all

from hansa.errors import ConfigError
from hansa.rounds.eligible import label_pairs
from hansa.store.ports import Query
from hansa.store.records import (
    AnswerRecord,
    ContributionRecord,
    EventRecord,
    ModelRecord,
    PackageRecord,
    ProjectRecord,
    RoundRecord,
)
from hansa.store.schema import TABLES, RecordType, field_types, order_column, project_column

__all__ = ["SEARCH", "SEARCHED", "answered_bytes", "page", "stored_bytes", "trail_down", "trail_up"]

SEARCH: Final = "search"
"""In `Query.where` no column, but a part of a name."""
SEARCHED: Final[Mapping[RecordType, str]] = {
    kind: name for kind in TABLES if (name := "client" if kind is ContributionRecord else "name") in field_types(kind)
}
"""Records that are found by a part of a name → the column that has it."""
MAX_LIMIT: Final = 1000
_TRUTH: Final[Mapping[str, bool]] = {"true": True, "false": False, "1": True, "0": False}
_LARGEST: Final = 2**63
_KEY: Final = re.compile(r"[A-Za-z0-9._/-]{1,200}")


def page(kind: RecordType, query: Query, collation: str) -> tuple[Select[Any], Select[Any]]:
    """(the rows of the page, how many match in all). Raise `ConfigError` for a column or value that cannot be.

    collation: the database's name for the order of bytes, in which texts are sorted whatever its language is.
    """
    table = TABLES[kind]
    if not 1 <= query.limit <= MAX_LIMIT:
        raise ConfigError(f"limit = {query.limit}: a page has 1 to {MAX_LIMIT} rows")
    if not 0 <= query.offset < _LARGEST:
        raise ConfigError(f"offset = {query.offset}: it must be 0 or more")
    conditions = [each for name, wanted in query.where.items() for each in _conditions(kind, name, wanted)]
    if kind is not ProjectRecord or query.project:
        conditions.append(project_column(table) == query.project)
    if query.after is not None:
        if kind is not EventRecord:
            raise ConfigError(f"`after` is for events; a list of {table.name} is paged with `offset`")
        conditions.append(order_column(table) > max(-1, min(query.after, _LARGEST - 1)))
    rows = (
        select(table)
        .where(*conditions)
        .order_by(*_order(kind, query.sort, collation))
        .limit(query.limit)
        .offset(query.offset)
    )
    return rows, select(func.count()).select_from(table).where(*conditions)


def _order(kind: RecordType, sort: str, collation: str) -> tuple[ColumnElement[Any], ...]:
    table = TABLES[kind]
    number = order_column(table)
    if not sort:
        return (number,)
    descending = sort.startswith("-")
    column = _searchable(kind, sort.removeprefix("-"), "sort by")
    if isinstance(column.type, Text):
        column = collate(column, collation)
    if descending:
        return (column.desc().nulls_last(), number.desc())
    return (column.asc().nulls_last(), number)


def _searchable(kind: RecordType, name: str, verb: str) -> ColumnElement[Any]:
    table = TABLES[kind]
    names = [field for field in field_types(kind) if not isinstance(table.c[field].type, JSON)]
    if name not in names:
        raise ConfigError(f"cannot {verb} {name!r}: the columns of {table.name} are {', '.join(names)}")
    return table.c[name]


def _conditions(kind: RecordType, name: str, wanted: object) -> Iterator[ColumnElement[bool]]:
    if name == SEARCH and kind in SEARCHED:
        yield _holds(kind, wanted)
        return
    if name != "label" or "labels" not in field_types(kind):
        yield _condition(kind, name, wanted)
        return
    table = TABLES[kind]
    texts = (wanted,) if isinstance(wanted, str) else wanted
    if not isinstance(texts, Sequence):
        raise ConfigError(f"{table.name}.label cannot be {wanted!r}: it is a text, as region=eu")
    for key, values in label_pairs(tuple(map(str, texts))).items():
        if not _KEY.fullmatch(key):
            raise ConfigError(f"{table.name} cannot be searched by the label {key!r}: use A-Z a-z 0-9 . _ / -")
        own = table.c.labels[key].as_string()
        given = func.coalesce(table.c.assigned[key].as_string(), own) if "assigned" in table.c else own
        yield given.in_(sorted(values))


def _holds(kind: RecordType, wanted: object) -> ColumnElement[bool]:
    """Whether a row's name holds a text, whatever the case of either."""
    table = TABLES[kind]
    if not isinstance(wanted, str):
        raise ConfigError(f"{table.name}.{SEARCH} cannot be {wanted!r}: it is a text, a part of a name")
    return func.lower(table.c[SEARCHED[kind]]).contains(wanted.lower(), autoescape=True)


def _condition(kind: RecordType, name: str, wanted: object) -> ColumnElement[bool]:
    column = _searchable(kind, name, "filter by")
    plain = field_types(kind)[name][0]
    where = f"{TABLES[kind].name}.{name}"
    if wanted is None:
        return column.is_(None)
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return column.in_([_value(plain, item, where) for item in wanted])
    return column == _value(plain, wanted, where)


def _value(plain: type, wanted: object, where: str) -> str | int | float | bool:
    """The wanted value as the column's type; a number or a truth value may come as text, as it does in a URL."""
    with suppress(ValueError):
        if issubclass(plain, Enum):
            return str(plain(wanted).value)
        match wanted:
            case bool() if plain is bool:
                return wanted
            case str() if plain is bool and wanted.lower() in _TRUTH:
                return _TRUTH[wanted.lower()]
            case str() if plain is str:
                return str(wanted)
            case str() | int() | float() if plain is float and not isinstance(wanted, bool):
                return float(wanted)
            case str() | int() if plain is int and not isinstance(wanted, bool) and abs(int(wanted)) < _LARGEST:
                return int(wanted)
    raise ConfigError(f"{where} cannot be {wanted!r}: it is {_described(plain)}")


def _described(plain: type) -> str:
    if issubclass(plain, Enum):
        return "one of " + ", ".join(str(member.value) for member in plain)
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(plain, "a text")


def trail_up(project: str, model: str, limit: int) -> Select[Any]:
    """The records of every model that this one was made from, nearest first, one for each.

    A round may leave the model as it is, and two sessions may reach the same one, so the trail can join itself; it is
    followed for at most `limit` steps.
    """
    models = TABLES[ModelRecord]
    here = (models.c.project == project, models.c.parent.is_not(None))
    start = select(models.c.parent.label("id"), literal(1).label("depth")).where(*here, models.c.id == model)
    trail = start.cte("trail", recursive=True)
    step = select(models.c.parent, trail.c.depth + 1).where(*here, models.c.id == trail.c.id, trail.c.depth < limit)
    trail = trail.union(step)
    nearest = select(trail.c.id, func.min(trail.c.depth).label("depth")).group_by(trail.c.id).subquery("nearest")
    return (
        select(models)
        .join(nearest, models.c.id == nearest.c.id)
        .where(models.c.project == project, models.c.id != model, _is_first_record(models))
        .order_by(nearest.c.depth, models.c.seq)
        .limit(limit)
    )


def trail_down(project: str, model: str, limit: int) -> Select[Any]:
    """The records of every model that was made from this one, oldest first, one for each."""
    models = TABLES[ModelRecord]
    start = select(models.c.id).where(models.c.project == project, models.c.parent == model)
    trail = start.cte("trail", recursive=True)
    trail = trail.union(select(models.c.id).where(models.c.project == project, models.c.parent == trail.c.id))
    return (
        select(models)
        .where(models.c.project == project, models.c.id != model, models.c.id.in_(select(trail.c.id)))
        .where(_is_first_record(models))
        .order_by(models.c.seq)
        .limit(limit)
    )


def _is_first_record(models: Table) -> ColumnElement[bool]:
    """Whether a row is the oldest of its model."""
    same = models.alias("same")
    oldest = select(func.min(same.c.seq)).where(same.c.project == models.c.project, same.c.id == models.c.id)
    return models.c.seq == oldest.scalar_subquery()


def stored_bytes(project: str) -> Select[Any]:
    """The bytes that a project holds on to: an object that several rows name is one object."""
    models, rounds, packages = TABLES[ModelRecord], TABLES[RoundRecord], TABLES[PackageRecord]
    named = union_all(
        select(models.c.id.label("digest"), models.c.size.label("size")).where(
            models.c.project == project, models.c.pruned_at.is_(None)
        ),
        select(rounds.c.state, rounds.c.state_size).where(
            rounds.c.project == project, rounds.c.state_pruned_at.is_(None), rounds.c.state_size.is_not(None)
        ),
        select(rounds.c.aggregate, rounds.c.aggregate_size).where(
            rounds.c.project == project, rounds.c.aggregate_pruned_at.is_(None), rounds.c.aggregate.is_not(None)
        ),
        select(packages.c.id, packages.c.size).where(packages.c.project == project),
    ).subquery()
    each = select(func.max(named.c.size).label("size")).group_by(named.c.digest).subquery()
    return select(func.coalesce(func.sum(each.c.size), 0))


def answered_bytes(project: str) -> Select[Any]:
    """How long the predictions of a project's clients are together."""
    answers = TABLES[AnswerRecord]
    length = func.coalesce(func.sum(func.length(answers.c.document)), 0)
    return select(length).where(answers.c.project == project)
