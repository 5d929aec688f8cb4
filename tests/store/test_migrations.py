import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from servers import PostgresServer
from sqlalchemy import Connection, create_engine, insert, inspect, select, text, update
from store_examples import PROJECT, a_session, one_of_each

import hansa.store.migrations
from hansa.errors import StorageError
from hansa.store.migrations import HEAD, REVISIONS, current_revision, downgrade, upgrade
from hansa.store.records import (
    AccountRecord,
    AnswerRecord,
    AuditRecord,
    EvaluationRecord,
    InstallationRecord,
    MemberRecord,
    NodeRecord,
    NoteRecord,
    PredictionRecord,
    ProjectRecord,
    SampleRecord,
    SessionRecord,
    SubjectRecord,
    TokenRecord,
)
from hansa.store.rows import from_row, to_row
from hansa.store.schema import LEASES, METADATA, TABLES
from hansa.store.sqlite import SqliteStore

YOUNGER = {
    "aggregate",
    "aggregate_pruned_at",
    "aggregate_size",
    "aggregate_weight",
    "assigned",
    "broadcast",
    "engine",
    "further",
    "journal",
    "keep",
    "max_clients",
    "max_sessions",
    "max_storage",
    "model_prefix",
    "norm",
    "pruned_at",
    "link",
    "pruned_by",
    "run",
    "signature",
    "signer",
    "state_pruned_at",
    "state_size",
}
"""Columns that the first schema does not have; all may be empty."""


def shape(connection: Connection) -> dict[str, Any]:
    """Everything that the database says of its tables, in a fixed order."""
    look = inspect(connection)
    return {
        table: {
            "columns": [(c["name"], str(c["type"]), c["nullable"], str(c["default"])) for c in look.get_columns(table)],
            "key": look.get_pk_constraint(table)["constrained_columns"],
            "unique": sorted((str(u["name"]), tuple(u["column_names"])) for u in look.get_unique_constraints(table)),
            "indexes": sorted((str(i["name"]), tuple(i["column_names"])) for i in look.get_indexes(table)),
            "foreign": json.dumps(look.get_foreign_keys(table), sort_keys=True, default=str),
            "autoincrement": connection.dialect.name == "sqlite"
            and "AUTOINCREMENT"
            in connection.execute(text("SELECT sql FROM sqlite_master WHERE name = :t"), {"t": table}).scalar_one(),
        }
        for table in sorted(look.get_table_names())
        if table != "alembic_version"
    }


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Makes empty databases, and gives their URLs for SQLAlchemy."""
    if request.param == "sqlite":
        return lambda: "sqlite://"
    server: PostgresServer = request.getfixturevalue("postgres")
    return lambda: server.url(server.create_database()).replace("postgresql:", "postgresql+psycopg:")


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = create_engine(url)
    with engine.begin() as made:
        yield made
    engine.dispose()


@pytest.fixture
def connection(empty: Callable[[], str]) -> Iterator[Connection]:
    with connected(empty()) as made:
        yield made


def test_the_migrations_make_the_schema_that_the_software_uses(connection: Connection, empty: Callable[[], str]):
    upgrade(connection)
    with connected(empty()) as fresh:
        METADATA.create_all(fresh)
        declared = shape(fresh)

    assert shape(connection) == declared
    assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_the_list_of_revisions_is_the_one_that_the_files_make():
    script = ScriptDirectory(str(Path(hansa.store.migrations.__file__).parent))

    assert tuple(reversed([step.revision for step in script.walk_revisions()])) == REVISIONS


def test_every_migration_goes_up_and_down_again(connection: Connection):
    shapes: list[dict[str, Any]] = [{}]
    for revision in REVISIONS:
        upgrade(connection, revision)
        assert current_revision(connection) == revision
        shapes.append(shape(connection))
    assert shapes[-1] != {}

    for revision, expected in zip(["base", *REVISIONS][-2::-1], shapes[-2::-1], strict=True):
        downgrade(connection, revision)
        assert shape(connection) == expected

    upgrade(connection)
    assert shape(connection) == shapes[-1]


def test_rows_survive_the_way_down_to_the_first_schema_and_up_again(connection: Connection):
    upgrade(connection)
    for record in one_of_each():
        connection.execute(insert(TABLES[type(record)]), to_row(record))
    connection.execute(insert(LEASES), {"name": "controller", "epoch": 7, "holder": "a process", "until": 1.0})
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))  # as the end of a transaction does

    downgrade(connection, REVISIONS[0])
    upgrade(connection)

    for record in one_of_each():
        rows = connection.execute(select(TABLES[type(record)])).mappings().all()
        if isinstance(
            record,
            AccountRecord
            | AnswerRecord
            | AuditRecord
            | EvaluationRecord
            | InstallationRecord
            | MemberRecord
            | NodeRecord
            | NoteRecord
            | PredictionRecord
            | SampleRecord
            | SubjectRecord
            | TokenRecord,
        ):  # an older version knows none of these
            assert rows == []
            continue
        (row,) = rows
        younger = {f.name: None for f in fields(record) if f.name in YOUNGER and f.default is None}
        assert from_row(type(record), row) == replace(record, **younger)
    assert connection.execute(select(LEASES)).all() == []


def test_tokens_of_former_admins_and_of_nodes_without_keys_hold_no_more(connection: Connection):
    upgrade(connection, "0003")
    old = {"project": PROJECT, "created_at": 1.0, "expires_at": None, "revoked": False}
    tokens = [old | {"id": role, "name": role, "role": role} for role in ("client", "combiner", "admin")]
    connection.execute(
        text("INSERT INTO tokens (id, project, name, role, created_at, expires_at, revoked)"
             " VALUES (:id, :project, :name, :role, :created_at, :expires_at, :revoked)"), tokens
    )  # fmt: skip

    upgrade(connection)

    found = [from_row(TokenRecord, row) for row in connection.execute(select(TABLES[TokenRecord])).mappings()]
    assert {(token.role, token.revoked, token.account) for token in found} == {
        ("client", True, None),
        ("combiner", True, None),
        ("admin", True, None),
    }


def test_projects_and_rounds_survive_the_step_to_quotas_and_back(connection: Connection):
    upgrade(connection, "0005")
    connection.execute(text("INSERT INTO projects (id, name, created_at) VALUES ('old', 'old', 1.0)"))
    upgrade(connection)
    project, accounts = TABLES[ProjectRecord], TABLES[SubjectRecord]
    (row,) = connection.execute(select(project)).mappings().all()
    assert from_row(ProjectRecord, row) == ProjectRecord("old", "old", 1.0)
    connection.execute(update(project).values(max_sessions=2, max_storage=10**10, max_clients=5))
    bound = SubjectRecord("https://id#7", "", "ada", "https://id", "7", 1.0)
    connection.execute(insert(accounts), to_row(bound))

    downgrade(connection, "0005")
    assert connection.execute(text("SELECT id, name, created_at FROM projects")).all() == [("old", "old", 1.0)]
    upgrade(connection)

    (row,) = connection.execute(select(project)).mappings().all()
    assert from_row(ProjectRecord, row) == ProjectRecord("old", "old", 1.0)
    assert connection.execute(select(accounts)).all() == []


async def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path):
    path = tmp_path / "hansa.db"
    store = SqliteStore(path)
    await store.open()
    await store.put(a_session())
    await store.close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    before = path.read_bytes()

    with pytest.raises(StorageError, match=f"schema 9999, written by a newer version.* up to {HEAD}"):
        await SqliteStore(path).open()

    assert path.read_bytes() == before


async def test_a_database_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path):
    path = tmp_path / "recipes.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE recipes (name TEXT)"))
    engine.dispose()

    with pytest.raises(StorageError, match="not hansa's \\(recipes\\)"):
        await SqliteStore(path).open()

    with (engine := create_engine(f"sqlite:///{path}")).connect() as connection:
        assert inspect(connection).get_table_names() == ["recipes"]
    engine.dispose()


async def test_a_migration_that_fails_leaves_an_empty_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "hansa.db"

    def half(connection: Connection) -> None:
        upgrade(connection)
        raise StorageError("the power went")

    monkeypatch.setattr("hansa.store.sqlite.upgrade", half)
    with pytest.raises(StorageError, match="the power went"):
        await SqliteStore(path).open()
    monkeypatch.undo()

    with (engine := create_engine(f"sqlite:///{path}")).connect() as connection:
        assert inspect(connection).get_table_names() == []
    engine.dispose()
    store = SqliteStore(path)
    await store.open()
    await store.put(a_session())
    assert (await store.get(SessionRecord, PROJECT, "s1")).id == "s1"
    await store.close()


def test_only_opening_an_old_or_empty_database_loads_the_migration_tool(tmp_path: Path):
    program = (
        "import asyncio, sys; from hansa.store.sqlite import SqliteStore\n"
        "async def main():\n    store = SqliteStore(sys.argv[1]); await store.open(); await store.close()\n"
        "asyncio.run(main()); print('alembic' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "hansa.db")]

    runs = [subprocess.run(command, capture_output=True, text=True, check=True, timeout=60) for _ in range(2)]

    assert [run.stdout for run in runs] == ["True\n", "False\n"]
