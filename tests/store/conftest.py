import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from hansa.messages import RunSpec
from hansa.store.files import DirectoryObjects
from hansa.store.ports import MetadataStore, ObjectStore
from hansa.store.records import SessionRecord, SessionState
from hansa.store.sqlite import SqliteStore

sys.path.append(str(Path(__file__).parent))  # for store_examples, which the processes of these tests import too


def _sqlite(directory: Path) -> MetadataStore:
    return SqliteStore(directory / "hansa.db")


def _directory(directory: Path) -> ObjectStore:
    return DirectoryObjects(directory / "objects")


@pytest.fixture(params=[_sqlite], ids=["sqlite"])
async def reopened(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[], Awaitable[MetadataStore]]]:
    """A function that opens the same database once more; every metadata store is a parameter here."""
    opened: list[MetadataStore] = []

    async def open_again() -> MetadataStore:
        store: MetadataStore = request.param(tmp_path)
        await store.open()
        opened.append(store)
        return store

    yield open_again
    for store in opened:
        await store.close()


@pytest.fixture
async def store(reopened: Callable[[], Awaitable[MetadataStore]]) -> MetadataStore:
    """An open, empty metadata store."""
    return await reopened()


@pytest.fixture(params=[_directory], ids=["directory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty object store; every object store is a parameter here."""
    made: ObjectStore = request.param(tmp_path)
    return made


@pytest.fixture
def sample_session() -> SessionRecord:
    """A session as it is stored."""
    return SessionRecord("s1", "harbour", "digits", RunSpec(), SessionState.RUNNING, created_at=1.0)
