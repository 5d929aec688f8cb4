"""A database as a file: one state of it, while others write, and back into an empty place."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import PASSWORD, PostgresServer
from sqlalchemy import create_engine, text
from store_examples import KINDS, a_commit, a_session, digest, every, fill

from hansa.errors import ConflictError, CorruptionError, InputError, NotFoundError, StorageError
from hansa.store.migrations import REVISIONS, current_revision, upgrade
from hansa.store.opening import open_store
from hansa.store.ports import MetadataStore, Portable
from hansa.store.records import RoundRecord
from hansa.store.sqlite import SqliteStore

HELD = {digest(number) for number in (2, 3, 4, 14)}
"""What one record of each kind holds on to: the others are marked, or were never objects."""


@pytest.fixture(params=["sqlite", "postgres"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """URLs of databases that are not there yet, or empty."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return lambda: server.url(server.create_database())
    numbers = iter(range(9))
    return lambda: f"sqlite:///{tmp_path}/{next(numbers)}/hansa.db"


def portable(store: MetadataStore) -> Portable:
    assert isinstance(store, Portable)
    return store


async def test_a_state_is_written_while_others_write_and_is_the_same_elsewhere(
    places: Callable[[], str], tmp_path: Path
) -> None:
    there, file = open_store(places()), tmp_path / "database"
    await there.open()
    await fill(there)

    assert await portable(there).dump(file) == HELD

    await there.put(a_session("after"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    here = open_store(places())
    await portable(here).load(file)
    await here.open()
    for kind in KINDS:
        expected = [row for row in await every(there, kind) if row.id != "after"]
        assert list(await every(here, kind)) == expected, kind
    await here.commit_round(a_commit(a_session("s1"), 2, model=digest(5)))  # numbers and keys go on where they were
    with pytest.raises(ConflictError, match=r"already"):
        await portable(here).load(file)
    for store in (there, here):
        await store.close()


async def test_a_database_of_an_earlier_version_is_written_as_it_is(places: Callable[[], str], tmp_path: Path) -> None:
    url = places()
    (tmp_path / "0").mkdir(exist_ok=True)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    with pytest.raises(NotFoundError, match=r"is empty|there is no database"):
        await portable(open_store(url)).dump(tmp_path / "database")
    with engine.begin() as connection:
        upgrade(connection, REVISIONS[9])
        connection.execute(
            text("INSERT INTO packages (id, project, name, size, created_at) VALUES ('p', 'x', 'x', 1, 1)")
        )

    assert await portable(open_store(url)).dump(tmp_path / "database") == {"p"}

    with engine.begin() as connection:
        assert current_revision(connection) == REVISIONS[9]
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="schema 9999, written by a newer version"):
        await portable(open_store(url)).dump(tmp_path / "database")
    engine.dispose()


async def test_a_copy_of_sqlite_is_one_file_and_none_is_made_of_a_damaged_one(tmp_path: Path) -> None:
    store, file = SqliteStore(tmp_path / "hansa.db"), tmp_path / "copy" / "hansa.db"
    file.parent.mkdir()
    with pytest.raises(NotFoundError, match="there is no database"):
        await store.dump(file)
    await store.open()
    await store.put(a_session())
    for number in range(1, 30):
        await store.commit_round(a_commit(a_session(), number))
    await store.dump(file)
    assert [path.name for path in file.parent.iterdir()] == ["hansa.db"]
    copy = SqliteStore(file)
    await copy.open()
    assert len(await every(copy, RoundRecord)) == 29
    await copy.close()
    await store.close()

    with store.path.open("r+b") as database:
        database.seek(store.path.stat().st_size // 2)
        database.write(b"\xff" * 8192)
    with pytest.raises(CorruptionError, match="is damaged"):
        await store.dump(file)


async def test_without_pg_dump_the_command_is_told_and_with_it_no_password_is_on_its_command_line(
    postgres: PostgresServer, migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = portable(open_store(postgres.url(migrated)))
    programs, seen = tmp_path / "bin", tmp_path / "seen"
    real = shutil.which("pg_dump")
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(InputError, match=r"pg_dump, which is not installed here.*pg_dump --format custom --file FILE"):
        await store.dump(tmp_path / "database")
    with pytest.raises(InputError, match=r"pg_restore, which is not installed here"):
        await store.check_vacant()

    programs.mkdir()
    (programs / "pg_dump").write_text(f'#!/bin/sh\necho "$@" > {seen}\necho "the disk is full" >&2\nexit 1\n')
    (programs / "pg_dump").chmod(0o700)
    with pytest.raises(StorageError, match=r"pg_dump has failed.*the disk is full") as failed:
        await store.dump(tmp_path / "database")
    assert "--snapshot=" in seen.read_text()
    assert PASSWORD not in seen.read_text() + str(failed.value)
    assert real is not None
    assert os.listdir(tmp_path / "bin") == ["pg_dump"]  # noqa: PTH208
