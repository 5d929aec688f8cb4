"""An object is in use or is being removed, never both."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from hansa.errors import StorageUnavailableError
from hansa.network.controller.holds import Holds
from hansa.network.controller.retention import Retention
from hansa.store.files import DirectoryObjects
from hansa.store.records import PackageRecord
from hansa.store.retention import KEEP_ALL
from hansa.store.sqlite import SqliteStore


def test_what_is_held_cannot_be_claimed_until_each_hold_is_released() -> None:
    async def twice() -> None:
        holds = Holds()
        await holds.hold("a")
        async with holds.holding("a"):
            with holds.claim({"a", "b"}) as claimed:
                assert claimed == {"b"}
        with holds.claim({"a"}) as claimed:
            assert claimed == set()
        holds.release("a")
        with holds.claim({"a"}) as claimed, holds.claim({"a", "b"}) as again:
            assert (claimed, again) == ({"a"}, {"b"})

    asyncio.run(twice())


async def test_who_wants_to_hold_what_is_claimed_waits_until_it_is_not() -> None:
    holds = Holds()
    with holds.claim({"a"}):
        holding = asyncio.create_task(holds.hold("a"))
        await holds.hold("b")
        await asyncio.sleep(0)
        assert not holding.done()
    await holding
    with holds.claim({"a"}) as claimed:
        assert claimed == set()


class Slow(DirectoryObjects):
    """Removes when it is told to, and fails to store where it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.removing, self.go_on = asyncio.Event(), asyncio.Event()
        self.stored = asyncio.Event()
        """Set when an object was stored, or found to be there, while one was being removed."""
        self.puts = 0
        self.fails = 0

    async def delete(self, digest: str) -> None:
        self.removing.set()
        await self.go_on.wait()
        await super().delete(digest)

    async def put(self, parts: Iterable[bytes | memoryview]) -> str:
        self.puts += 1
        if self.puts == self.fails:
            raise StorageUnavailableError("the disk is full")
        digest = await super().put(parts)
        if self.removing.is_set():
            self.stored.set()
        return digest


async def test_an_object_that_is_stored_while_it_is_being_removed_is_there_afterwards(tmp_path: Path) -> None:
    store, objects = SqliteStore(tmp_path / "hansa.db"), Slow(tmp_path / "objects")
    await store.open()
    retention = Retention(store, objects, KEEP_ALL, lambda: True)
    digest = await objects.put([b"bytes"])
    removing = asyncio.create_task(retention.discard(frozenset({digest})))
    await objects.removing.wait()

    putting = asyncio.create_task(retention.put([b"bytes"]))
    await objects.stored.wait()
    objects.go_on.set()

    assert await putting == digest
    assert await removing == set()
    assert await objects.size(digest) == 5
    assert await retention.discard(frozenset({digest})) == {digest}  # it is held
    retention.holds.release(digest)
    await store.put(PackageRecord(digest, "p", "app", 5, 1.0))
    await retention.discard(frozenset({digest}))
    assert await objects.size(digest) == 5  # a row needs it
    await store.close()


async def test_a_put_that_fails_the_second_time_holds_nothing(tmp_path: Path) -> None:
    store, objects = SqliteStore(tmp_path / "hansa.db"), Slow(tmp_path / "objects")
    await store.open()
    retention = Retention(store, objects, KEEP_ALL, lambda: True)
    digest = await objects.put([b"bytes"])
    removing = asyncio.create_task(retention.discard(frozenset({digest})))
    await objects.removing.wait()
    putting = asyncio.create_task(retention.put([b"bytes"]))
    await objects.stored.wait()
    objects.fails = 3
    objects.go_on.set()

    with pytest.raises(StorageUnavailableError):
        await putting
    await removing
    with retention.holds.claim({digest}) as claimed:
        assert claimed == {digest}
    await store.close()
