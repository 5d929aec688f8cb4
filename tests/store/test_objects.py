"""What every object store must do, wherever it keeps its bytes."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from hansa.errors import InputError, NotFoundError
from hansa.store.ports import ObjectStore

ABSENT = "0" * 64


async def read(objects: ObjectStore, digest: str, offset: int = 0, chunk: int = 1 << 20) -> list[bytes]:
    return [part async for part in objects.read(digest, offset, chunk)]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"one"],
        [b"one", b"", b"two"],
        [bytearray(b"one"), memoryview(b"two")],
        [b"x" * (1 << 20), b"y" * ((1 << 20) + 1), b"z"],
        [np.arange(6, dtype="<f8").reshape(2, 3).data, np.empty((0, 3)).data, np.array(1.5).data],
    ],
    ids=["nothing", "empty", "one", "three", "buffers", "more than a block", "arrays"],
)
async def test_an_object_is_the_concatenation_of_its_parts_named_by_its_digest(
    objects: ObjectStore, parts: list[bytes | memoryview]
):
    whole = b"".join(memoryview(part).tobytes() for part in parts)

    digest = await objects.put(parts)

    assert digest == blake3(whole).hexdigest()
    assert await objects.size(digest) == len(whole)
    assert b"".join(await read(objects, digest)) == whole
    assert (await objects.fetch(digest)).read_bytes() == whole


async def test_the_parts_may_come_from_an_iterator_that_is_read_once(objects: ObjectStore):
    digest = await objects.put(bytes([i]) * 1000 for i in range(100))

    assert await objects.size(digest) == 100_000


@pytest.mark.parametrize(
    ("offset", "chunk", "lengths"),
    [(0, 4, [4, 4, 2]), (0, 5, [5, 5]), (0, 100, [10]), (3, 4, [4, 3]), (9, 4, [1]), (10, 4, []), (0, 1, [1] * 10)],
)
async def test_a_read_gives_the_bytes_from_an_offset_in_chunks(
    objects: ObjectStore, offset: int, chunk: int, lengths: list[int]
):
    digest = await objects.put([b"0123456789"])

    chunks = await read(objects, digest, offset, chunk)

    assert b"".join(chunks) == b"0123456789"[offset:]
    assert [len(part) for part in chunks] == lengths


@pytest.mark.parametrize(("offset", "chunk"), [(-1, 4), (11, 4), (0, 0)])
async def test_a_read_from_outside_the_object_is_refused(objects: ObjectStore, offset: int, chunk: int):
    digest = await objects.put([b"0123456789"])

    with pytest.raises(InputError, match=f"offset {offset}"):
        await read(objects, digest, offset, chunk)


async def test_a_read_may_stop_early(objects: ObjectStore):
    digest = await objects.put([b"0123456789"])

    reading = objects.read(digest, chunk=2)
    first = await anext(reading)
    await reading.aclose()

    assert first == b"01"


async def test_an_object_may_be_stored_twice(objects: ObjectStore):
    first = await objects.put([b"same"])

    assert await objects.put([b"sa", b"me"]) == first
    assert b"".join(await read(objects, first)) == b"same"


async def test_many_may_store_the_same_object_at_once(objects: ObjectStore):
    parts = [b"x" * 100_000] * 10

    digests = await asyncio.gather(*(objects.put(parts) for _ in range(8)))

    assert len(set(digests)) == 1
    assert (await objects.fetch(digests[0])).stat().st_size == 1_000_000


async def test_a_file_is_stored_by_its_bytes_and_left_alone(objects: ObjectStore, tmp_path: Path):
    source = tmp_path / "model.safetensors"
    source.write_bytes(b"w" * 3_000_000)

    digest = await objects.put_file(source)

    assert digest == blake3(source.read_bytes()).hexdigest()
    assert await objects.size(digest) == 3_000_000


async def test_a_file_that_is_not_there_is_refused_by_name(objects: ObjectStore, tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot read .*missing\.bin"):
        await objects.put_file(tmp_path / "missing.bin")


async def test_an_error_of_the_producer_reaches_the_caller_and_stores_nothing(objects: ObjectStore):
    def parts() -> Iterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await objects.put(parts())

    with pytest.raises(NotFoundError):
        await objects.size(blake3(b"half").hexdigest())


async def test_a_deleted_object_is_gone_and_can_be_stored_again(objects: ObjectStore):
    digest = await objects.put([b"bytes"])
    other = await objects.put([b"other"])

    await objects.delete(digest)
    await objects.delete(digest)

    with pytest.raises(NotFoundError):
        await objects.fetch(digest)
    assert await objects.size(other) == 5
    assert await objects.put([b"bytes"]) == digest
    assert await objects.size(digest) == 5


async def test_every_object_is_listed_with_its_size_and_its_age(objects: ObjectStore):
    assert [found async for found in objects.list()] == []
    before = time.time() - 2  # a store may count whole seconds
    sizes = {await objects.put([b"x" * size]): size for size in range(1, 20)}
    gone = await objects.put([b"gone"])
    await objects.delete(gone)

    found = [each async for each in objects.list()]

    assert {each.digest: each.size for each in found} == sizes
    assert len(found) == len(sizes)
    assert all(before <= each.stored_at <= time.time() + 2 for each in found)


@pytest.mark.parametrize(
    "digest", [ABSENT, "", "..", "../../etc/passwd", "A" * 64, "é" * 64, "0" * 63, "0" * 62 + "/x"]
)
async def test_an_object_that_is_not_there_is_not_found_whatever_its_name(objects: ObjectStore, digest: str):
    await objects.put([b"something"])

    for failing in (objects.size(digest), objects.fetch(digest), read(objects, digest)):
        with pytest.raises(NotFoundError, match=r"there is no object .*: (.* copy it back|an object's name is)"):
            await failing


async def test_deleting_by_a_name_that_no_object_has_is_refused(objects: ObjectStore):
    with pytest.raises(NotFoundError):
        await objects.delete("../../etc/passwd")
    await objects.delete(ABSENT)
