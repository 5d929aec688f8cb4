"""`hansa up` where a store is away when it starts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog
from servers import free_port

from hansa.cli.up import _serve
from hansa.errors import StorageUnavailableError
from hansa.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    pytest.importorskip("psycopg")
    nobody = f"postgresql://keeper:secret@127.0.0.1:{free_port()}/hansa"
    return Settings(data=tmp_path, store=nobody, port=0, grpc_port=0, credentials=tmp_path / "credentials.json")


async def test_a_controller_that_comes_back_before_its_database_waits_for_it(settings: Settings):
    waits, said = asyncio.Event(), []

    def heard(_logger: Any, _method: str, entry: Any) -> Any:
        said.append(entry)
        waits.set()
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[heard])
    try:
        serving = asyncio.create_task(_serve(settings, first=False, as_json=True))
        await asyncio.wait([serving, told := asyncio.create_task(waits.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert not serving.done()
        assert told.done()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    finally:
        structlog.configure(**before)
    assert said[0]["event"] == "a store is away, and waited for"
    assert "check that the server runs" in said[0]["why"]


async def test_a_first_start_ends_where_no_database_answers(settings: Settings):
    with pytest.raises(StorageUnavailableError, match=r"cannot be reached.*check that the server runs"):
        await _serve(settings, first=True, as_json=True)
