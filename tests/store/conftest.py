import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from dst.store import Database, Disk, MemoryStore, SlowObjects
from servers import PostgresServer, S3Server
from sqlalchemy import create_engine

from hansa.messages import RunSpec
from hansa.store.migrations import upgrade
from hansa.store.opening import open_objects, open_store
from hansa.store.ports import MetadataStore, ObjectStore
from hansa.store.records import SessionRecord, SessionState
from hansa.store.schema import METADATA

sys.path.append(str(Path(__file__).parent))  # for store_examples, which the processes of these tests import too


@pytest.fixture(scope="session")
def migrated(postgres: PostgresServer) -> str:
    """A PostgreSQL database with the newest schema."""
    name = postgres.create_database()
    engine = create_engine(postgres.url(name).replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        upgrade(connection)
    engine.dispose()
    return name


@pytest.fixture
def postgres_url(postgres: PostgresServer, migrated: str) -> str:
    """An empty database on a real server; emptied, which is much quicker than another one."""
    postgres.query(f"TRUNCATE {', '.join(METADATA.tables)} RESTART IDENTITY", migrated)
    return postgres.url(migrated)


@pytest.fixture
def s3_url(s3: S3Server, tmp_path: Path) -> str:
    """A bucket of its own on a real server, with a cache in the test's folder."""
    return s3.url(s3.create_bucket(), tmp_path / "cache")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with the newest schema: a copy costs a twentieth of another one."""
    file = tmp_path_factory.mktemp("migrated") / "hansa.db"
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        upgrade(connection)
    engine.dispose()
    return file


@pytest.fixture(params=["sqlite", "postgres", "simulated"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, migrated_file: Path) -> str:
    """Where there is an empty metadata store; every kind of them is a parameter here."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    if request.param == "sqlite":
        shutil.copy(migrated_file, tmp_path / "hansa.db")
    return f"{request.param}:///{tmp_path}/hansa.db"


@pytest.fixture(params=["directory", "s3", "simulated"])
def objects_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where there is an empty object store; every kind of them is a parameter here."""
    if request.param in ("directory", "simulated"):
        return f"{'simulated:' if request.param == 'simulated' else ''}{tmp_path}/objects"
    url: str = request.getfixturevalue("s3_url")
    return url


@pytest.fixture
async def reopened(store_url: str) -> AsyncIterator[Callable[[], Awaitable[MetadataStore]]]:
    """A function that opens the same database once more."""
    opened: list[MetadataStore] = []
    database = Database()  # of the deterministic simulation: what is on its disk

    async def open_again() -> MetadataStore:
        store = MemoryStore(database) if store_url.startswith("simulated:") else open_store(store_url)
        opened.append(store)
        await store.open()
        return store

    yield open_again
    for store in opened:
        await store.close()


@pytest.fixture
async def store(reopened: Callable[[], Awaitable[MetadataStore]]) -> MetadataStore:
    """An open, empty metadata store."""
    return await reopened()


@pytest.fixture
def objects(objects_url: str) -> ObjectStore:
    """An empty object store."""
    if objects_url.startswith("simulated:"):
        return SlowObjects(open_objects(objects_url.removeprefix("simulated:")), Disk())
    return open_objects(objects_url)


@pytest.fixture
def sample_session() -> SessionRecord:
    """A session as it is stored."""
    return SessionRecord("s1", "harbour", "digits", RunSpec(), SessionState.RUNNING, created_at=1.0)
