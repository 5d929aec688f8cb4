"""The object store of a production network: a bucket of any service that speaks S3.

    prefix/abcd…   an object; its name is its blake3 digest, and whatever is written under it again is the same bytes

A digest is known only at the end of the bytes, and a model may have gigabytes. So they are spooled to a file of this
host first, hashed on the way, and uploaded under their name when they are whole: nothing half-written has a name,
bytes that the bucket has already are not sent again, and the file stays in the cache, where whoever made the model
will want it. Writing under another name in the bucket and copying would move everything twice and leave leftovers.

A large object goes up in parts and comes down in ranges, a few of them in memory. What is read from the beginning is
verified as `hansa.store.files` does it. An object is immutable, so a file of the cache is as good as the bucket: it is
read without asking the bucket, even when another process has deleted the object since.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast
from weakref import WeakValueDictionary

import obstore
from blake3 import blake3
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import S3Store

from hansa.errors import (
    ConfigError,
    CorruptionError,
    InputError,
    NotFoundError,
    StorageError,
    StorageUnavailableError,
)
from hansa.store.cache import ObjectCache
from hansa.store.disk import explained
from hansa.store.files import LOST, check_name, is_name
from hansa.store.ports import StoredObject

__all__ = ["S3Objects"]

_PART: Final = 8 << 20
"""Bytes of a part or a range, where the object is not so large that it would have too many."""
_PARTS: Final = 9_000
"""S3 takes 10,000."""
_AT_ONCE: Final = 3
"""Parts of one object that are on their way at a time."""
_TOO_MANY: Final = 429
_TIMEOUT: Final = 408
_SERVER_FAULT: Final = 500
_PATIENCE: Final = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
_CLIENT: Final = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60)}


class S3Objects:
    """`ObjectStore` in the bucket `bucket`, under `prefix`. Any number of processes may share it.

    options: of obstore's `S3Store`, by name (endpoint, region, access_key_id …); what they leave out obstore takes from
    the standard AWS_* variables, and then from the role of the machine. cache: where files are kept for `fetch`.
    """

    def __init__(self, bucket: str, prefix: str, cache: ObjectCache, options: Mapping[str, str]) -> None:
        """Raise `ConfigError` for an option that there is not."""
        self._where: Final = f"the bucket {bucket!r}" + (f" under {prefix!r}" if prefix else "")
        self._cache: Final = cache
        self._seen: set[str] = set()  # uploaded or verified by this process
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        client = {**_CLIENT, "allow_http": options.get("endpoint", "").startswith("http://")}
        try:
            self._store: Final = S3Store(
                bucket,
                prefix=prefix or None,
                config=cast("Any", dict(options)),
                client_options=cast("Any", client),
                retry_config=cast("Any", _PATIENCE),
            )
        except UnknownConfigurationKeyError as error:
            raise ConfigError(f"{self._where}: {_said(error)}; the URL may give endpoint, region and so on") from error
        except (BaseError, ValueError) as error:
            raise ConfigError(f"{self._where} cannot be opened: {_said(error)}; correct the URL") from error

    async def put(self, parts: Iterable[bytes | memoryview]) -> str:
        """Store the concatenation durably and return its digest.

        The parts are drawn from in another thread. Raise `StorageError` when this host's disk or the bucket does not
        take them; nothing is stored then.
        """
        return await self._upload(await self._cache.put(parts))

    async def put_file(self, path: Path) -> str:
        """The same for a copy of a file's bytes, in bounded memory; `InputError` when it cannot be read."""
        return await self._upload(await self._cache.put_file(path))

    async def size(self, digest: str) -> int:
        """Bytes; raise `NotFoundError` when absent."""
        with self._explained("look at", check_name(digest)):
            return (await obstore.head_async(self._store, digest))["size"]

    async def read(self, digest: str, offset: int = 0, chunk: int = 1 << 20) -> AsyncIterator[bytes]:
        """The bytes from an offset, in chunks; raise `NotFoundError` when absent.

        From offset 0 they are verified: `CorruptionError` comes in place of the last chunk of what is damaged.
        """
        if offset < 0 or chunk < 1:
            raise InputError(f"cannot read from offset {offset} in chunks of {chunk}: 0 and 1 are the least")
        cached = await self._cache.find(check_name(digest))
        source = self._cache.files.read if cached else self._read
        async with aclosing(source(digest, offset, chunk)) as parts:
            async for part in parts:
                yield part

    async def fetch(self, digest: str) -> Path:
        """A local file with these bytes, verified, to map into memory; open it soon, read it, never write it.

        Raise `NotFoundError` when absent, `CorruptionError` when the bucket holds other bytes under this name.
        """
        turn = self._turns.setdefault(check_name(digest), asyncio.Lock())
        async with turn:
            path = await self._cache.find(digest)
            if path is None:
                size = await self.size(digest)
                got = await self._cache.put(self._blocks(digest, size))
                if got != digest:
                    await self._cache.drop(got)
                    self._check(digest, got)
                path = await self._cache.find(digest)
        if path is None:
            raise StorageUnavailableError(
                f"object {digest} left the cache at once: make the cache larger, or try again"
            )
        return path

    async def delete(self, digest: str) -> None:
        """Remove; harmless when absent. A process of another host that has it in its cache keeps it for a while."""
        with self._explained("remove", check_name(digest)):
            await obstore.delete_async(self._store, digest)
        self._seen.discard(digest)
        await self._cache.drop(digest)

    async def list(self) -> AsyncGenerator[StoredObject]:
        """Every object, in any order; what is stored or removed meanwhile may be among them or not."""
        pages = obstore.list(self._store)
        while True:
            with self._explained("list", ""):
                page = await anext(pages, None)
            if page is None:
                return
            for each in page:
                if is_name(each["path"]):
                    yield StoredObject(each["path"], each["size"], each["last_modified"].timestamp())

    async def _upload(self, digest: str) -> str:
        """Send the file of the cache, unless the bucket has it whole."""
        path = self._cache.files.path(digest)
        with explained("read", path), path.open("rb") as file:
            size = path.stat().st_size
            if await self._has(digest, size):
                return digest
            with self._explained("store", digest):
                if size > _PART:
                    part = max(_PART, -(-size // _PARTS))
                    await obstore.put_async(
                        self._store, digest, file, use_multipart=True, chunk_size=part, max_concurrency=_AT_ONCE
                    )
                else:
                    body = await asyncio.to_thread(file.read)
                    try:
                        await obstore.put_async(self._store, digest, body, mode="create")
                    except AlreadyExistsError:  # another process was faster, or what is there is damaged
                        if not await self._has(digest, size):
                            await obstore.put_async(self._store, digest, body)
        self._seen.add(digest)
        return digest

    async def _has(self, digest: str, size: int) -> bool:
        """Whether the bucket has these bytes; what this process does not know is read to see."""
        try:
            if await self.size(digest) != size:
                return False
        except NotFoundError:
            return False
        if digest in self._seen:
            return True
        hasher = blake3()
        async for block in self._ranges(digest, 0, size, _PART):
            await asyncio.to_thread(hasher.update, block)
        if hasher.hexdigest() != digest:
            return False
        self._seen.add(digest)
        return True

    async def _read(self, digest: str, offset: int, chunk: int) -> AsyncGenerator[bytes]:
        size = await self.size(digest)
        if offset > size:
            raise InputError(f"cannot read object {digest} from offset {offset}: it has {size} bytes")
        hasher = blake3()
        waiting = b""
        async for block in self._ranges(digest, offset, size, chunk * max(1, _PART // chunk)):
            await asyncio.to_thread(hasher.update, block)
            for start in range(0, len(block), chunk):
                if waiting:
                    yield waiting
                waiting = bytes(block[start : start + chunk])
        if offset == 0:
            self._check(digest, hasher.hexdigest())
        if waiting:
            yield waiting

    async def _ranges(self, digest: str, offset: int, size: int, step: int) -> AsyncIterator[memoryview]:
        for start in range(offset, size, step):
            with self._explained("read", digest):
                end = min(start + step, size)
                yield memoryview(await obstore.get_range_async(self._store, digest, start=start, end=end))

    def _blocks(self, digest: str, size: int) -> Iterator[memoryview]:
        """All bytes, for a thread that writes them down."""
        for start in range(0, size, _PART):
            with self._explained("read", digest):
                block = obstore.get_range(self._store, digest, start=start, end=min(start + _PART, size))
            yield memoryview(block)

    def _check(self, digest: str, actual: str) -> None:
        if actual != digest:
            self._seen.discard(digest)
            raise CorruptionError(
                f"object {digest} in {self._where} is damaged: its bytes have the digest {actual}; restore it from a "
                "backup, or store the same bytes again, which repairs it"
            )

    @contextmanager
    def _explained(self, action: str, digest: str) -> Iterator[None]:
        """Turn an error of the service into what happened, and what to do."""
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise StorageError(f"there is no {self._where[4:]}: make the bucket, or correct the URL") from error
            raise NotFoundError(f"there is no object {digest} in {self._where}: {LOST}") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StorageError(
                f"cannot {action} {_subject(digest)} in {self._where}: access is refused ({_said(error)}); check "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they may list the bucket, and get, put and "
                "delete objects"
            ) from error
        except BaseError as error:
            raise self._explain(action, digest, error) from error

    def _explain(self, action: str, digest: str, error: BaseError) -> StorageError:
        where = f"cannot {action} {_subject(digest)} in {self._where}"
        if "/latest/api/token" in str(error) or "/latest/meta-data" in str(error):
            return StorageError(
                f"{where}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the "
                "machine a role"
            )
        status = int(found[1]) if (found := re.search(r"status code: (\d{3})", str(error))) else _SERVER_FAULT
        if status >= _SERVER_FAULT or status in (_TOO_MANY, _TIMEOUT):
            return StorageUnavailableError(
                f"{where}: the service is away, or too busy ({_said(error)}); check the endpoint, then try again"
            )
        return StorageError(f"{where}: the service refuses it ({_said(error)}); check endpoint, region and bucket")


def _subject(digest: str) -> str:
    return f"object {digest}" if digest else "the objects"


def _said(error: Exception) -> str:
    """What the service said, in a line: without its XML, and without obstore's listing of the cause."""
    text = str(error).partition("\n\nDebug source")[0].strip()
    code = re.search(r"<Code>(\w+)</Code>", text)
    line = text.partition("<?xml")[0].partition("\n")[0].strip().rstrip(":")
    return f"{line}: {code[1]}" if code else line
