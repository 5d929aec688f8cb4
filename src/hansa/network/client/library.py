"""The packages that sessions brought to a client: downloaded and checked once, ready to be run."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from hansa.errors import CorruptionError
from hansa.network.client.code import Code
from hansa.network.client.environments import environment_with
from hansa.packages.package import SUFFIX
from hansa.wire.frames import Blob

__all__ = ["Library"]


_KEPT = 16
"""Archives of earlier sessions that stay."""


class Library:
    """Packages by id, in a folder of archives; and the environments that they ask for, in another."""

    def __init__(self, work: Path, download: Callable[[Blob, Path], Awaitable[Path]]) -> None:
        """work: the client's folder; download: fetches an object, whose digest it checks, to a file."""
        self._archives = work / "packages"
        self._environments = work / "environments"
        self._download = download
        self._codes: dict[str, Code] = {}
        self._downloading = asyncio.Lock()
        self._preparing: dict[str, asyncio.Task[Code]] = {}
        """By digest. It goes on where whoever asked for it is gone: its thread would, too."""
        self._building = asyncio.Lock()

    def open(self) -> None:
        """Clear away what an earlier process had half downloaded, and all but the newest archives."""
        if self._archives.is_dir():
            files = sorted(self._archives.iterdir(), key=lambda file: -file.stat().st_mtime)
            whole = [file for file in files if file.suffix == SUFFIX]
            for file in {*files} - {*whole[:_KEPT]}:
                file.unlink(missing_ok=True)

    async def find(self, package: Blob) -> Code:
        """The package's code, ready to run. Raises `AppError`, `UserCodeError` or `StorageError` where it is not."""
        async with self._downloading:
            if package.digest not in self._codes and package.digest not in self._preparing:
                code = Code(self._archives / f"{package.digest}{SUFFIX}", package.digest)
                self._archives.mkdir(parents=True, exist_ok=True)
                await self._download(package, code.path)
                preparing = self._preparing[package.digest] = asyncio.create_task(self._prepared(code))
                preparing.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody asks
        if package.digest in self._codes:
            return self._codes[package.digest]
        return await asyncio.shield(self._preparing[package.digest])

    async def _prepared(self, code: Code) -> Code:
        """One at a time: two packages may ask for the same environment."""
        try:
            async with self._building:
                ready = self._codes[code.package] = await asyncio.to_thread(self._ready, code)
            return ready
        finally:
            del self._preparing[code.package]

    def _ready(self, code: Code) -> Code:
        try:
            opened = code.opened()
        except CorruptionError:
            code.path.unlink(missing_ok=True)  # it is downloaded again
            raise
        lock = opened.manifest.requirements
        if lock is None:
            return code
        return Code(code.path, code.package, environment_with(opened.files[lock].content, self._environments))
