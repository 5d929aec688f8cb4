"""Objects that a server fetches for its children."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from hansa.errors import NotFoundError
from hansa.network.combiner.blobs import Blobs
from hansa.wire.frames import Blob

BLOB = Blob("a" * 64, 6)


class Above:
    """Answers each fetch when the test says how."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[asyncio.Future[memoryview]] = asyncio.Queue()

    async def fetch(self, _: Blob) -> memoryview:
        answer: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(answer)
        return await answer


@pytest.fixture
async def above() -> AsyncIterator[tuple[Above, Blobs]]:
    there = Above()
    made = Blobs(there.fetch, kept=1)
    yield there, made
    await made.aclose()


async def test_an_object_is_fetched_once_for_all_who_wait(above: tuple[Above, Blobs]) -> None:
    there, made = above
    made.want(BLOB)
    waiting = [asyncio.create_task(made.get(BLOB.digest)) for _ in range(3)]
    (await there.asked.get()).set_result(memoryview(b"object"))

    assert [bytes(await each) for each in waiting] == [b"object"] * 3
    assert there.asked.empty()


async def test_an_object_that_was_refused_for_a_phase_that_is_over_is_fetched_for_the_next(
    above: tuple[Above, Blobs],
) -> None:
    """The server above has restarted, and is asked again before it has opened the phase again."""
    there, made = above
    made.want(BLOB)
    first = await there.asked.get()
    made.release(BLOB)
    made.want(BLOB)
    first.set_exception(NotFoundError("no round needs it"))
    (await there.asked.get()).set_result(memoryview(b"object"))

    assert bytes(await made.get(BLOB.digest)) == b"object"


async def test_an_object_that_is_not_to_be_had_is_asked_for_once(above: tuple[Above, Blobs]) -> None:
    there, made = above
    made.want(BLOB)
    (await there.asked.get()).set_exception(NotFoundError("no round needs it"))

    with pytest.raises(NotFoundError, match="no round needs it"):
        await made.get(BLOB.digest)
    assert there.asked.empty()
