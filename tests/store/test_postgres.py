"""What the PostgreSQL store promises beyond the port: a server that goes and comes back, and what it says of it."""

import asyncio
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from servers import PASSWORD, PostgresServer
from sqlalchemy import Connection, insert, text
from store_examples import PROJECT, a_commit, a_session, every

from hansa.errors import ConfigError, StorageError, StorageUnavailableError
from hansa.store import postgres as module
from hansa.store.ports import Query
from hansa.store.postgres import PostgresStore
from hansa.store.records import EventRecord, RoundRecord, SessionRecord
from hansa.store.rows import to_row
from hansa.store.schema import TABLES

Opened = Callable[..., Awaitable[PostgresStore]]
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@pytest.fixture
async def opened(postgres_url: str) -> AsyncIterator[Opened]:
    """A function that opens the database once more."""
    stores: list[PostgresStore] = []

    async def open_again(**options: float) -> PostgresStore:
        store = PostgresStore(postgres_url, **options)
        stores.append(store)
        await store.open()
        return store

    yield open_again
    for store in stores:
        await store.close()


def an_event(message: str) -> EventRecord:
    return EventRecord(0, PROJECT, "", "client.joined", message, 1.0)


async def until_somebody_waits(server: PostgresServer) -> None:
    while server.query(WAITING) == [(0,)]:  # noqa: ASYNC110  # the server tells nobody
        await asyncio.sleep(0.01)


async def test_a_store_goes_on_by_itself_when_a_killed_server_is_back(postgres: PostgresServer, opened: Opened):
    store = await opened()
    await store.put(a_session())
    await store.commit_round(a_commit(a_session(), 1))
    postgres.kill()
    try:
        attempts = (store.commit_round(a_commit(a_session(), 2)), store.list(RoundRecord, Query(PROJECT)))
        for attempt in attempts:
            with pytest.raises(StorageUnavailableError, match=r"at 127\.0\.0\.1:\d+ .*then try again"):
                await attempt
        with pytest.raises(StorageUnavailableError):
            await opened()
    finally:
        postgres.start()

    assert [record.number for record in await every(store, RoundRecord)] == [1]
    await store.commit_round(a_commit(a_session(), 2))
    assert [record.number for record in await every(store, RoundRecord)] == [1, 2]


async def test_a_transaction_that_a_killed_server_takes_along_is_undone(postgres: PostgresServer, opened: Opened):
    store = await opened()

    def interrupted(connection: Connection) -> None:
        connection.execute(insert(TABLES[SessionRecord]), to_row(a_session()))
        postgres.kill()
        connection.execute(insert(TABLES[SessionRecord]), to_row(a_session("s2")))

    try:
        with pytest.raises(StorageUnavailableError):
            await store._write(interrupted)
    finally:
        postgres.start()

    assert await every(store, SessionRecord) == []


async def test_a_session_that_the_server_ends_is_explained(opened: Opened):
    store = await opened()

    def ended(connection: Connection) -> None:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StorageUnavailableError, match="try again"):
        await store._write(ended)

    await store.put(a_session())


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_event_that_was_numbered_first_is_committed_first(postgres: PostgresServer, opened: Opened):
    first, second, reader = await opened(), await opened(), await opened()
    numbered, go_on = threading.Event(), threading.Event()

    def slowly(connection: Connection) -> None:
        connection.execute(insert(TABLES[EventRecord]), to_row(an_event("first")))
        numbered.set()
        go_on.wait()

    writing = asyncio.create_task(first._write(slowly))
    await asyncio.to_thread(numbered.wait)
    overtaking = asyncio.create_task(second.put(an_event("second")))
    await until_somebody_waits(postgres)
    assert (await reader.list(EventRecord, Query(PROJECT))).total == 0
    go_on.set()
    await asyncio.gather(writing, overtaking)

    events = (await reader.list(EventRecord, Query(PROJECT))).items
    assert [event.message for event in events] == ["first", "second"]
    assert events[0].id < events[1].id


async def test_a_writer_that_never_ends_is_told_of(opened: Opened):
    first, second = await opened(), await opened(busy=0.05)
    begun, go_on = threading.Event(), threading.Event()

    def for_ever(_connection: Connection) -> None:
        begun.set()
        go_on.wait()

    writing = asyncio.create_task(first._write(for_ever))
    await asyncio.to_thread(begun.wait)

    with pytest.raises(StorageUnavailableError, match=r"another process has been writing for more than 0\.05 s"):
        await second.put(a_session())

    go_on.set()
    await writing


async def test_a_process_that_stands_still_in_a_transaction_keeps_nobody_from_writing(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_STANDSTILL", 0.1)
    stopped, other = await opened(), await opened()
    begun, go_on = threading.Event(), threading.Event()

    def stand_still(connection: Connection) -> None:
        connection.execute(insert(TABLES[SessionRecord]), to_row(a_session("lost")))
        begun.set()
        go_on.wait()

    writing = asyncio.create_task(stopped._write(stand_still))
    await asyncio.to_thread(begun.wait)
    await other.put(a_session("kept"))
    go_on.set()

    with pytest.raises(StorageUnavailableError):
        await writing
    assert [session.id for session in await every(other, SessionRecord)] == ["kept"]


async def test_a_commit_waits_for_the_disk_whatever_the_default_of_the_server_is(
    postgres: PostgresServer, opened: Opened
):
    store = await opened()
    database = str(store._url.database)
    postgres.query(f"ALTER DATABASE {database} SET synchronous_commit = off")
    try:
        fresh = await opened()

        def setting(connection: Connection) -> str:
            return str(connection.execute(text("SHOW synchronous_commit")).scalar_one())

        assert await fresh._write(setting) == "on"
        assert await fresh._keep(setting) == "on"
    finally:
        postgres.query(f"ALTER DATABASE {database} RESET synchronous_commit")


async def test_readers_cannot_write(opened: Opened):
    store = await opened()

    with pytest.raises(StorageError, match="read-only"):
        await store._read(lambda connection: connection.execute(insert(TABLES[SessionRecord]), to_row(a_session())))


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("database", "password", "says"),
    [
        ("postgres", "a-wrong-password", "user or password is wrong; correct the URL"),
        ("nowhere", PASSWORD, "there is no such database; make it with createdb"),
    ],
)
async def test_what_no_second_try_can_change_is_said_with_a_remedy_and_without_the_password(
    postgres: PostgresServer, database: str, password: str, says: str
):
    store = PostgresStore(postgres.url(database, password))

    with pytest.raises(StorageError, match=says) as caught:
        await store.open()

    assert not isinstance(caught.value, StorageUnavailableError)
    said = "".join(traceback.format_exception(caught.value)) + repr(store) + repr(store._url)
    assert password not in said
    assert postgres.url("", password).split("@")[0].rpartition(":")[2] not in said


@pytest.mark.parametrize(
    ("sentence", "says"),
    [
        ('database "hansa" does not exist', "there is no such database"),
        ('role "keeper" does not exist', "there is no such user"),
        ('no pg_hba.conf entry for host "::1", user "k", database "hansa", no encryption', "lets nobody in from here"),
        ('permission denied for database "hansa"', "the user may not connect"),
        ('role "keeper" is not permitted to log in', "the user may not connect"),
        ("the database system is starting up", None),
        ("the database system is shutting down", None),
        ("the database system is in recovery mode", None),
        ("the database system is not yet accepting connections", None),
    ],
)
def test_a_server_that_starts_or_stops_is_waited_for_and_each_refusal_has_its_own_remedy(
    sentence: str, says: str | None
):
    said = f'connection failed: connection to server at "127.0.0.1", port 5432 failed: FATAL:  {sentence}'

    error = PostgresStore("postgresql://keeper@host/hansa")._explain_connection(said)

    assert isinstance(error, StorageUnavailableError) == (says is None)
    assert (says or "cannot be reached, or the connection was lost") in str(error)


async def test_a_server_that_takes_no_connections_yet_is_waited_for(postgres: PostgresServer):
    name = postgres.create_database()
    postgres.query(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")

    with pytest.raises(StorageUnavailableError, match="not currently accepting connections"):
        await PostgresStore(postgres.url(name)).open()


async def test_a_database_that_cannot_hold_every_text_is_refused(postgres: PostgresServer):
    store = PostgresStore(postgres.url(postgres.create_database(encoding="SQL_ASCII")))

    with pytest.raises(StorageError, match=r"keeps texts as SQL_ASCII.* make it with ENCODING 'UTF8'"):
        await store.open()


async def test_a_database_that_may_not_be_written_is_told_from_one_that_is_away(
    postgres: PostgresServer, opened: Opened
):
    store = await opened()
    database = str(store._url.database)
    postgres.query(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    try:
        standby = await opened()
        with pytest.raises(StorageUnavailableError, match="it is read-only, as a standby is: connect to the primary"):
            await standby.put(a_session())
    finally:
        postgres.query(f"ALTER DATABASE {database} RESET default_transaction_read_only")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://keeper:s3cret@host", "names no database"),
        ("postgresql://keeper:s3cret@host:port/db", "cannot be read"),
        ("postgresql://keeper@host/db?password=s3cret", "belongs before the @"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str, says: str):
    with pytest.raises(ConfigError, match=says) as caught:
        PostgresStore(url)

    assert "s3cret" not in str(caught.value)


async def test_parameters_of_libpq_in_the_url_are_heard(postgres_url: str):
    store = PostgresStore(f"{postgres_url}?application_name=harbour&options=-c%20work_mem%3D7MB")
    await store.open()

    settings = text("SELECT current_setting('application_name'), current_setting('work_mem')")
    assert await store._read(lambda connection: connection.execute(settings).one()) == ("harbour", "7MB")
    await store.close()
