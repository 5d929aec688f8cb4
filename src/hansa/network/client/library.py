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
        self._lock = asyncio.Lock()

    def open(self) -> None:
        """Clear away what an earlier process had half downloaded, and all but the newest archives."""
        if self._archives.is_dir():
            files = sorted(self._archives.iterdir(), key=lambda file: -file.stat().st_mtime)
            whole = [file for file in files if file.suffix == SUFFIX]
            for file in {*files} - {*whole[:_KEPT]}:
                file.unlink(missing_ok=True)

    async def find(self, package: Blob) -> Code:
        """The package's code, ready to run. Raises `AppError`, `UserCodeError` or `StorageError` where it is not."""
        async with self._lock:
            if package.digest not in self._codes:
                code = Code(self._archives / f"{package.digest}{SUFFIX}", package.digest)
                self._archives.mkdir(parents=True, exist_ok=True)
                await self._download(package, code.path)
                self._codes[package.digest] = await asyncio.to_thread(self._ready, code)
        return self._codes[package.digest]

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
