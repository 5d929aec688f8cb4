"""Files of this host that stand in for objects which lie elsewhere, at most so many bytes of them.

The folder is a `DirectoryObjects`: a file is there whole or not at all, its bytes are checked against its name, and
several processes may share it. What is missing or damaged is simply not there, and is fetched again.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hansa.errors import CorruptionError, InputError, NotFoundError
from hansa.store.disk import explained
from hansa.store.files import DirectoryObjects

__all__ = ["ObjectCache"]


@dataclass(frozen=True, slots=True)
class _Kept:
    """One file of the folder."""

    used: float
    """POSIX seconds."""
    size: int
    path: Path


class ObjectCache:
    """Up to `limit` bytes under `root`; the least recently used are removed first.

    grace: seconds after its last use for which a file stays, so that who has been told its path can open it. Within
    them the folder may hold more than its limit.
    """

    def __init__(self, root: Path, limit: int, *, grace: float = 30.0) -> None:
        if limit < 0:
            raise InputError(f"a cache of {limit} bytes cannot be: 0 keeps as little as there can be")
        self.files: Final = DirectoryObjects(root, durable=False)
        self._limit: Final = limit
        self._grace: Final = grace
        self._used: dict[Path, float] = {}

    async def put(self, parts: Iterable[bytes | memoryview]) -> str:
        """Keep the concatenation and return its digest; `StorageError` of the disk as `DirectoryObjects` has it."""
        return await self._kept(await self.files.put(parts))

    async def put_file(self, path: Path) -> str:
        """The same for a copy of a file's bytes."""
        return await self._kept(await self.files.put_file(path))

    async def find(self, digest: str) -> Path | None:
        """The file with these bytes, verified; None when it has to be fetched."""
        try:
            path = await self.files.fetch(digest)
        except NotFoundError:
            return None
        except CorruptionError:
            await self.files.delete(digest)
            return None
        self._used[path] = time.time()
        return path

    async def drop(self, digest: str) -> None:
        """Remove; harmless when absent."""
        await self.files.delete(digest)

    async def _kept(self, digest: str) -> str:
        self._used[self.files.path(digest)] = time.time()
        await asyncio.to_thread(self._trim)
        return digest

    def _trim(self) -> None:
        with explained("tidy the cache", self.files.root):
            kept = sorted(self._look(), key=lambda file: file.used)
            self._used = {file.path: self._used[file.path] for file in kept if file.path in self._used}
            over = sum(file.size for file in kept) - self._limit
            until = time.time() - self._grace
            for file in kept:
                if over <= 0 or file.used > until:
                    return
                file.path.unlink(missing_ok=True)
                over -= file.size

    def _look(self) -> list[_Kept]:
        found = []
        for path in self.files.root.glob("??/??/*"):
            with suppress(FileNotFoundError):  # another process was faster
                status = path.stat()
                found.append(_Kept(self._used.get(path, status.st_mtime), status.st_size, path))
        return found
