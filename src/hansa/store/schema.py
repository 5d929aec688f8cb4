"""One table for each kind of record, in SQLAlchemy Core and portable between SQLite and PostgreSQL.

The columns are the fields of the record, by name; `hansa.store.rows` carries values across. Beside them every table
but `events` has `seq`, the order of insertion: it breaks ties and is what "oldest first" means. An event's own `id` is
that number. Keys begin with the project, so that a row of one project can neither hide nor replace another's. A row
of the installation (an account, a person's token for all projects) has the project `INSTALLATION`, which is empty.

A change here needs a migration that makes the same change (a test compares the two).
"""

import types
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, TypeAlias, Union, get_args, get_origin

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

from hansa.messages import RunSpec
from hansa.store.records import (
    AccountRecord,
    AnswerRecord,
    AuditRecord,
    ClientRecord,
    CombinerRecord,
    ContributionRecord,
    EvaluationRecord,
    EventRecord,
    HandoverRecord,
    InstallationRecord,
    MemberRecord,
    MetricRecord,
    ModelRecord,
    NodeRecord,
    NoteRecord,
    PackageRecord,
    PredictionRecord,
    ProjectRecord,
    Record,
    RoundRecord,
    SampleRecord,
    SessionRecord,
    SubjectRecord,
    TokenRecord,
)

__all__ = [
    "KEYS",
    "LEASES",
    "METADATA",
    "REMOVALS",
    "TABLES",
    "RecordType",
    "field_types",
    "order_column",
    "project_column",
]

METADATA: Final = MetaData()

RecordType: TypeAlias = type[Any]
"""One of the classes of `Record`; mypy cannot pass a variable of `type[R]` to `type[Record]`, which is a union."""

_NUMBERED: Final = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the column is an INTEGER."""

_COLUMN_TYPES: Final[Mapping[type, type[TypeEngine[Any]]]] = MappingProxyType(
    {str: Text, bool: Boolean, int: BigInteger, float: Double, dict: JSON, RunSpec: JSON}
)

_MAY_BE_NAN: Final = frozenset({"metrics.value", "samples.value"})
"""NaN is kept as NULL, because SQLite has no NaN."""


def _plain(hint: Any) -> tuple[type, bool]:
    if get_origin(hint) in (Union, types.UnionType):
        inner = [part for part in get_args(hint) if part is not types.NoneType]
        return _plain(inner[0])[0], True
    return (dict if get_origin(hint) is Mapping else hint), False


_FIELDS: Final = {kind: {field.name: _plain(field.type) for field in fields(kind)} for kind in get_args(Record)}


def field_types(record: RecordType) -> Mapping[str, tuple[type, bool]]:
    """Field → (its plain type, whether it may be None); every mapping is `dict`."""
    return MappingProxyType(_FIELDS[record])


def _column(where: str, name: str, plain: type, *, optional: bool) -> Column[Any]:
    kind = Text if issubclass(plain, Enum) else _COLUMN_TYPES[plain]
    return Column(name, kind(), nullable=optional or where in _MAY_BE_NAN)


def _table(name: str, record: RecordType, *indexes: tuple[str, ...], of_session: bool = False) -> Table:
    """The table of a record. indexes: columns searched together; of_session: a row cannot outlive its session."""
    numbered = "id" if record is EventRecord else "seq"
    number: Column[Any] = Column(numbered, _NUMBERED, primary_key=True, autoincrement=True)
    columns = [
        _column(f"{name}.{field}", field, plain, optional=optional)
        for field, (plain, optional) in field_types(record).items()
        if field != numbered
    ]
    constraints: list[UniqueConstraint | ForeignKeyConstraint] = []
    if record in KEYS:
        constraints.append(UniqueConstraint(*KEYS[record], name=f"uq_{name}"))
    if of_session:
        constraints.append(
            ForeignKeyConstraint(
                ["project", "session"],
                ["sessions.project", "sessions.id"],
                name=f"fk_{name}_session",
                deferrable=True,
                initially="DEFERRED",
            )
        )
    return Table(
        name,
        METADATA,
        number,
        *columns,
        *constraints,
        *(Index(f"ix_{name}_{'_'.join(c for c in index if c != 'project')}", *index) for index in indexes),
        sqlite_autoincrement=True,  # a number is never used twice, so that a cursor into the events stays true
    )


KEYS: Final[Mapping[RecordType, tuple[str, ...]]] = MappingProxyType(
    {
        InstallationRecord: ("project", "id"),
        ProjectRecord: ("id",),
        SessionRecord: ("project", "id"),
        RoundRecord: ("project", "session", "number"),
        ContributionRecord: ("project", "id"),
        EvaluationRecord: ("project", "id"),
        ModelRecord: ("project", "id", "session", "round"),
        MetricRecord: ("project", "id"),
        SampleRecord: ("project", "id"),
        PredictionRecord: ("project", "id"),
        AnswerRecord: ("project", "id"),
        ClientRecord: ("project", "id"),
        CombinerRecord: ("project", "id"),
        PackageRecord: ("project", "id"),
        TokenRecord: ("project", "id"),
        NodeRecord: ("project", "id"),
        HandoverRecord: ("project", "id"),
        NoteRecord: ("project", "id"),
        AccountRecord: ("project", "id"),
        MemberRecord: ("project", "id"),
        SubjectRecord: ("project", "id"),
        AuditRecord: ("project", "number"),
    }
)
"""The columns that tell two rows apart; an event is told by the number that it gets."""

TABLES: Final[Mapping[RecordType, Table]] = MappingProxyType(
    {
        InstallationRecord: _table("installations", InstallationRecord),
        ProjectRecord: _table("projects", ProjectRecord),
        SessionRecord: _table("sessions", SessionRecord, ("project", "state")),
        RoundRecord: _table("rounds", RoundRecord, ("project", "id"), ("state",), ("aggregate",), of_session=True),
        ContributionRecord: _table(
            "contributions",
            ContributionRecord,
            ("project", "session", "round"),
            ("project", "client"),
            of_session=True,
        ),
        EvaluationRecord: _table("evaluations", EvaluationRecord, ("project", "session", "round"), of_session=True),
        ModelRecord: _table("models", ModelRecord, ("project", "session", "round"), ("project", "parent"), ("id",)),
        MetricRecord: _table("metrics", MetricRecord, ("project", "session", "round"), of_session=True),
        SampleRecord: _table("samples", SampleRecord, ("project", "session", "round"), ("project", "client", "at")),
        PredictionRecord: _table("predictions", PredictionRecord, ("project", "state"), ("model",)),
        AnswerRecord: _table("answers", AnswerRecord, ("project", "prediction")),
        EventRecord: _table("events", EventRecord, ("project", "session", "id")),
        ClientRecord: _table("clients", ClientRecord),
        CombinerRecord: _table("combiners", CombinerRecord),
        PackageRecord: _table("packages", PackageRecord),
        TokenRecord: _table("tokens", TokenRecord, ("project", "account")),
        NodeRecord: _table("nodes", NodeRecord),
        HandoverRecord: _table("handovers", HandoverRecord, ("project", "node")),
        NoteRecord: _table("notes", NoteRecord, ("project", "kind"), ("project", "session")),
        AccountRecord: _table("accounts", AccountRecord),
        MemberRecord: _table("members", MemberRecord),
        SubjectRecord: _table("subjects", SubjectRecord, ("project", "account")),
        AuditRecord: _table("audit", AuditRecord),
    }
)

LEASES: Final = Table(
    "leases",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("until", Double, nullable=False),
)
"""Who leads what: `epoch` grows with every new leader; `until` is POSIX seconds by the clock of the database."""

REMOVALS: Final = Table("removals", METADATA, Column("digest", Text, primary_key=True))
"""Objects that no row needs any more and that are still to be removed."""


def order_column(table: Table) -> Column[Any]:
    """The column that grows with each insertion."""
    return table.c.seq if "seq" in table.c else table.c.id


def project_column(table: Table) -> Column[Any]:
    """The column that says which project a row is in; a project is in itself."""
    return table.c.project if "project" in table.c else table.c.id
