"""What the S3 store promises beyond the port: a service that goes and comes back, damage, a bounded cache."""

import asyncio
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from blake3 import blake3
from servers import SECRET_KEY, Gate, S3Server

from hansa.errors import ConfigError, CorruptionError, NotFoundError, StorageError, StorageUnavailableError
from hansa.store.cache import ObjectCache
from hansa.store.opening import open_objects
from hansa.store.ports import ObjectStore

BODY = bytes(range(256)) * 8192  # 2 MiB
LARGE = BODY * 10  # more than two parts


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.create_bucket()


def a_store(s3: S3Server, bucket: str, cache: Path, port: int | None = None, **options: object) -> ObjectStore:
    return open_objects(s3.url(bucket, cache, port, **options))


async def read(objects: ObjectStore, digest: str, chunk: int = 1 << 20) -> bytes:
    return b"".join([part async for part in objects.read(digest, chunk=chunk)])


async def test_an_object_lies_under_its_digest_and_nothing_else_is_there(s3: S3Server, bucket: str, tmp_path: Path):
    objects = a_store(s3, bucket, tmp_path)

    small, large = await objects.put([b"small"]), await objects.put([LARGE])

    listed = s3.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert {(entry["Key"], entry["Size"]) for entry in listed} == {
        (f"models/{small}", 5),
        (f"models/{large}", len(LARGE)),
    }
    assert s3.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


async def test_a_host_with_an_empty_cache_reads_what_another_has_stored(s3: S3Server, bucket: str, tmp_path: Path):
    digest = await a_store(s3, bucket, tmp_path / "one").put([LARGE])

    other = a_store(s3, bucket, tmp_path / "other")

    assert await read(other, digest) == LARGE
    assert b"".join([part async for part in other.read(digest, len(LARGE) - 7)]) == LARGE[-7:]
    assert (await other.fetch(digest)).read_bytes() == LARGE


async def test_many_who_fetch_the_same_object_at_once_get_it_once(s3: S3Server, bucket: str, tmp_path: Path):
    digest = await a_store(s3, bucket, tmp_path / "one").put([BODY])
    gate = Gate(s3.port)
    await gate.open()
    other = a_store(s3, bucket, tmp_path / "other", gate.port)

    paths = await asyncio.gather(*(other.fetch(digest) for _ in range(10)))

    assert {path.read_bytes() for path in paths} == {BODY}
    assert gate.down < 2 * len(BODY)
    await gate.close()


async def test_bytes_that_the_bucket_has_are_not_sent_again(s3: S3Server, bucket: str, tmp_path: Path):
    digest = await a_store(s3, bucket, tmp_path / "one").put([LARGE])
    gate = Gate(s3.port)
    await gate.open()

    assert await a_store(s3, bucket, tmp_path / "other", gate.port).put([LARGE]) == digest

    assert gate.up < 1 << 20
    await gate.close()


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("damaged", [BODY[:-1], BODY[:-1] + b"?", b"", BODY + b"?"])
async def test_a_damaged_object_is_refused_and_repaired_by_storing_it_again(
    s3: S3Server, bucket: str, tmp_path: Path, damaged: bytes
):
    digest = await a_store(s3, bucket, tmp_path / "one").put([BODY])
    s3.client().put_object(Bucket=bucket, Key=f"models/{digest}", Body=damaged)
    other = a_store(s3, bucket, tmp_path / "other")

    for attempt in (read(other, digest), other.fetch(digest), read(other, digest)):
        with pytest.raises(CorruptionError, match=f"{digest}.* is damaged"):
            await attempt

    assert await other.put([BODY]) == digest
    assert await read(a_store(s3, bucket, tmp_path / "third"), digest) == BODY


async def test_the_last_chunk_of_a_damaged_object_is_withheld(s3: S3Server, bucket: str, tmp_path: Path):
    digest = await a_store(s3, bucket, tmp_path / "one").put([BODY])
    s3.client().put_object(Bucket=bucket, Key=f"models/{digest}", Body=b"?" + BODY[1:])
    reading = a_store(s3, bucket, tmp_path / "other").read(digest, chunk=1 << 20)

    assert len(await anext(reading)) == 1 << 20  # the first of two: the damage is in it
    with pytest.raises(CorruptionError):
        await anext(reading)


async def test_a_damaged_file_of_the_cache_is_fetched_again(s3: S3Server, bucket: str, tmp_path: Path):
    objects = a_store(s3, bucket, tmp_path)
    path = await objects.fetch(await objects.put([BODY]))
    path.chmod(0o644)
    path.write_bytes(b"damaged")

    assert (await objects.fetch(path.name)).read_bytes() == BODY


# ── a service that is away ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_store_goes_on_by_itself_when_the_service_is_back(s3: S3Server, bucket: str, tmp_path: Path):
    gate = Gate(s3.port)
    await gate.open()
    objects = a_store(s3, bucket, tmp_path / "one", gate.port)
    digest = await objects.put([BODY])
    elsewhere = await a_store(s3, bucket, tmp_path / "other").put([b"elsewhere"])
    await gate.close()

    for attempt in (objects.put([b"new"]), objects.size(digest), read(objects, elsewhere), objects.fetch(elsewhere)):
        with pytest.raises(StorageUnavailableError, match=f"the bucket '{bucket}'.* check the endpoint, then try"):
            await attempt
    assert (await objects.fetch(digest)).read_bytes() == BODY  # it is in the cache

    await gate.open()
    assert await read(objects, await objects.put([b"new"])) == b"new"
    assert await read(objects, elsewhere) == b"elsewhere"
    await gate.close()


@asynccontextmanager
async def answering(status: str, code: str = "Trouble") -> AsyncIterator[int]:
    """The port of a service that gives everybody the same answer."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No.</Message></Error>"
    answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer_one, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        ("503 Slow Down", StorageUnavailableError, "the service is away, or too busy"),
        ("500 Internal Server Error", StorageUnavailableError, "the service is away, or too busy"),
        ("403 Forbidden", StorageError, r"access is refused .*check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("400 Bad Request", StorageError, "the service refuses it .*check endpoint, region and bucket"),
    ],
)
async def test_what_the_service_refuses_is_said_with_a_remedy_and_without_the_key(
    s3: S3Server, tmp_path: Path, status: str, kind: type[StorageError], says: str
):
    async with answering(status) as port:
        objects = a_store(s3, "harbour", tmp_path, port)
        for attempt in (objects.size("0" * 64), objects.put([b"x"]), read(objects, "0" * 64)):
            with pytest.raises(StorageError, match=says) as caught:
                await attempt
            assert type(caught.value) is kind
            assert SECRET_KEY not in "".join(traceback.format_exception(caught.value)) + repr(objects)


async def test_a_bucket_that_is_not_there_is_told_from_an_object_that_is_not(s3: S3Server, bucket: str, tmp_path: Path):
    with pytest.raises(NotFoundError, match=f"there is no object {'0' * 64} in the bucket '{bucket}'"):
        await a_store(s3, bucket, tmp_path).fetch("0" * 64)
    with pytest.raises(StorageError, match=r"there is no bucket 'nowhere' .*make the bucket, or correct the URL"):
        await a_store(s3, "nowhere", tmp_path).put([b"x"])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3:///prefix", "names no bucket"),
        ("s3://key:s3cret@bucket/prefix", "names no bucket"),
        ("s3://bucket?secret=s3cret", "secret"),
        ("s3://bucket?cache_bytes=lots&secret_access_key=s3cret", "a whole number of bytes"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_key(url: str, says: str):
    with pytest.raises(ConfigError, match=says) as caught:
        open_objects(url)

    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def kept(cache: ObjectCache) -> set[str]:
    return {path.name for path in cache.files.root.glob("??/??/*")}


async def test_a_cache_keeps_what_was_used_last_within_its_bytes(tmp_path: Path):
    cache = ObjectCache(tmp_path, limit=250, grace=0)
    first, second = await cache.put([b"1" * 100]), await cache.put([b"2" * 100])
    await cache.find(first)

    third = await cache.put([b"3" * 100])

    assert kept(cache) == {first, third}
    assert await cache.find(second) is None


async def test_a_cache_leaves_a_file_to_whom_it_was_just_given(tmp_path: Path):
    cache = ObjectCache(tmp_path, limit=0, grace=3600)

    digest = await cache.put([b"x"])

    path = await cache.find(digest)
    assert path is not None
    assert path.read_bytes() == b"x"


async def test_a_cache_takes_up_what_an_earlier_process_left(tmp_path: Path):
    old = await ObjectCache(tmp_path, limit=150, grace=0).put([b"1" * 100])
    again = ObjectCache(tmp_path, limit=150, grace=0)
    assert await again.find(old) is not None

    new = await again.put([b"2" * 100])

    assert kept(again) == {new}


PROGRAM = """
import asyncio, resource, sys
from pathlib import Path
from hansa.store.opening import open_objects

MIB = 1 << 20

async def main(url, cache):
    objects = open_objects(f"{url}&cache={cache}/one")
    await objects.put([bytes(20 * MIB)])  # threads, buffers and libraries that stay
    await open_objects(f"{url}&cache={cache}/two").fetch(await objects.put([bytes(20 * MIB)]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    digest = await objects.put(bytes([i]) * MIB for i in range(128))
    async for _ in open_objects(f"{url}&cache={cache}/three").read(digest):
        pass
    await open_objects(f"{url}&cache={cache}/four").fetch(digest)
    print(digest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

asyncio.run(main(*sys.argv[1:]))
"""


def test_an_object_is_written_and_read_in_bounded_memory(s3: S3Server, bucket: str, tmp_path: Path):
    url = s3.url(bucket, tmp_path).rpartition("&cache=")[0]

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, str(tmp_path)], capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == 0, done.stderr
    digest, grown = done.stdout.split()
    assert digest == blake3(b"".join(bytes([i]) * (1 << 20) for i in range(128))).hexdigest()
    assert int(grown) < 64 * 1024  # KiB, of 128 MiB
