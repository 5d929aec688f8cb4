"""What the SQLite store promises beyond the port."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from store_examples import PROJECT, a_commit, a_session, every

from hansa.errors import CorruptionError, NotFoundError, StorageError, StorageUnavailableError
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import EventRecord, RoundRecord, SessionRecord
from hansa.store.schema import TABLES, project_column
from hansa.store.sqlite import SqliteStore


async def ask(store: SqliteStore, question: str, *, writer: bool = True) -> object:
    """The answer of a connection of the store to a PRAGMA."""
    lanes = store._opened()
    lane = lanes.writer if writer else lanes.reader
    return await lane.run(lambda connection: connection.execute(text(question)).scalar_one())


@pytest.fixture
async def sqlite(tmp_path: Path):
    store = SqliteStore(tmp_path / "hansa.db", busy=0.2)
    await store.open()
    yield store
    await store.close()


async def test_a_commit_waits_for_the_disk(sqlite: SqliteStore):
    assert await ask(sqlite, "PRAGMA journal_mode") == "wal"
    assert await ask(sqlite, "PRAGMA synchronous") == 2  # FULL
    assert await ask(sqlite, "PRAGMA foreign_keys") == 1


async def test_a_row_is_found_by_its_id_through_an_index_in_every_table(sqlite: SqliteStore):
    for table in TABLES.values():
        where = f"{table.name} WHERE {project_column(table).name} = 'p' AND id = 'x'"
        asked = text(f"EXPLAIN QUERY PLAN SELECT * FROM {where}")  # noqa: S608  # our own names
        plan = await sqlite._read(lambda connection: connection.execute(asked).all())  # noqa: B023  # called at once
        assert [step.detail for step in plan if "SCAN" in step.detail] == [], table.name


async def test_readers_cannot_write(sqlite: SqliteStore):
    assert await ask(sqlite, "PRAGMA query_only", writer=False) == 1


async def test_a_full_disk_is_explained_and_what_was_stored_stays(sqlite: SqliteStore):
    await sqlite.put(a_session())
    await sqlite.commit_round(a_commit(a_session(), 1))
    pages = await ask(sqlite, "PRAGMA page_count")
    assert isinstance(pages, int)
    assert await ask(sqlite, f"PRAGMA max_page_count = {pages + 2}") == pages + 2

    with pytest.raises(StorageUnavailableError, match="the disk is full: free some space"):
        await sqlite.commit_round(a_commit(a_session(), 2, clients=1000))

    assert (await sqlite.get(SessionRecord, PROJECT, "s1")).round == 1
    assert [record.number for record in await every(sqlite, RoundRecord)] == [1]
    await ask(sqlite, "PRAGMA max_page_count = 1000000")
    await sqlite.commit_round(a_commit(a_session(), 2, clients=1000))


async def test_a_file_that_is_not_a_database_is_refused_and_left_as_it_is(tmp_path: Path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear all, " * 1000)

    with pytest.raises(CorruptionError, match=r"letter\.txt is damaged or is another kind of file"):
        await SqliteStore(path).open()

    assert path.read_text() == "Dear all, " * 1000


async def test_a_damaged_database_is_told(tmp_path: Path):
    store = SqliteStore(tmp_path / "hansa.db")
    await store.open()
    await store.put(a_session())
    for number in range(1, 30):
        await store.commit_round(a_commit(a_session(), number))
    await store.close()
    with store.path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (store.path.stat().st_size - 8192))

    with pytest.raises(CorruptionError, match="damaged"):  # noqa: PT012  # whichever notices first
        await store.open()
        await every(store, RoundRecord)
    await store.close()


async def test_a_directory_in_the_place_of_the_file_is_explained(tmp_path: Path):
    with pytest.raises(StorageError, match="cannot be opened: check that the path is a file"):
        await SqliteStore(tmp_path).open()


async def test_a_directory_below_a_file_is_explained(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="is a file, not a directory"):
        await SqliteStore(tmp_path / "file" / "hansa.db").open()


async def test_a_writer_that_never_ends_is_told_of(sqlite: SqliteStore):
    begun, go_on = threading.Event(), threading.Event()

    def for_ever(_connection: Connection) -> None:
        begun.set()
        go_on.wait()

    writing = asyncio.create_task(sqlite._write(for_ever))
    await asyncio.to_thread(begun.wait)
    other = SqliteStore(sqlite.path, busy=0.05)
    with pytest.raises(StorageUnavailableError, match=r"another process has been writing for more than 0\.05 s"):
        await other.open()
    go_on.set()
    await writing


async def test_a_store_that_is_not_open_says_so(tmp_path: Path):
    store = SqliteStore(tmp_path / "hansa.db")

    with pytest.raises(StorageError, match=r"is not open: await its open\(\) first"):
        await store.get(SessionRecord, PROJECT, "s1")
    await store.close()
    assert not store.path.exists()


async def test_a_store_may_be_opened_and_closed_again(sqlite: SqliteStore):
    await sqlite.open()
    await sqlite.close()
    await sqlite.close()

    await sqlite.open()

    await sqlite.put(a_session())


async def test_closing_waits_for_the_writes_that_were_asked_for(sqlite: SqliteStore):
    writes = [asyncio.create_task(sqlite.put(a_session(f"s{i}"))) for i in range(10)]
    await asyncio.sleep(0)

    await sqlite.close()
    await asyncio.gather(*writes)
    await sqlite.open()

    assert len(await every(sqlite, SessionRecord)) == 10


def test_a_process_that_forgets_to_close_its_store_still_ends(tmp_path: Path):
    program = (
        "import asyncio, sys; from hansa.store.sqlite import SqliteStore\nasyncio.run(SqliteStore(sys.argv[1]).open())"
    )

    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "hansa.db")], check=False, timeout=60)

    assert done.returncode == 0


async def test_a_hundred_readers_at_once_all_get_their_answer(store: MetadataStore):
    await store.put(*(EventRecord(0, PROJECT, "", "k", str(i), 1.0) for i in range(10)))

    pages = await asyncio.gather(*(store.list(EventRecord, Query(PROJECT)) for _ in range(100)))

    assert {page.total for page in pages} == {10}
    with pytest.raises(NotFoundError):
        await store.get(SessionRecord, PROJECT, "s1")
