"""A process of an app's code beside the server: within walls and limits, and with what it prints kept away from it.

It runs a stranger's code, which may write what it likes to its own folder, links to the server's files among it: what
it leaves there is read by `hansa.network.files.opened`, and never by its path alone.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from hansa.errors import RunFailedError
from hansa.network.client.confinement import Confinement
from hansa.network.client.limits import Limits
from hansa.store.disk import bytes_in

__all__ = ["ConfinedProcess", "beside_server", "running", "worker_beside_server"]

_LOOK: Final = 0.5
"""Seconds between two looks at what it uses."""
_SHOWN: Final = 4096
"""Bytes of what it has printed that are told."""
_PROCESSES: Final = 4096
"""Processes and threads of one; a bomb of them ends there."""
_LONGEST_LINE: Final = 1 << 26
"""Bytes of a line on its standard output."""


def beside_server(wall: float | None, memory: int) -> Limits:
    """Limits of one process here. wall: seconds; memory: bytes of address space, and of what it may write."""
    return Limits(wall=wall, memory=memory, file_size=memory, disk=memory, processes=_PROCESSES)


def worker_beside_server(memory: int) -> Limits:
    """Limits of a worker process here, which may take its time. memory: bytes of what it may write."""
    return Limits(file_size=memory, disk=memory, processes=_PROCESSES)


@dataclass(frozen=True, slots=True)
class ConfinedProcess:
    """One at work."""

    process: asyncio.subprocess.Process
    limits: Limits
    _folder: Path
    _printed: BinaryIO
    _before: int
    """Bytes in its folder when it began."""

    async def wait(self) -> int:
        """Its exit code, once it has ended; raises `RunFailedError` where it uses more than it may, and was ended."""
        loop, limits = asyncio.get_running_loop(), self.limits
        begun = loop.time()
        ending = asyncio.ensure_future(self.process.wait())
        try:
            while not (await asyncio.wait({ending}, timeout=self._look(loop.time() - begun)))[0]:
                if limits.wall is not None and loop.time() - begun >= limits.wall:
                    self._end(f"it took longer than {limits.wall:g} seconds, and was ended")
                if limits.disk is not None and await asyncio.to_thread(self._wrote) > limits.disk:
                    self._end(f"it wrote more than {limits.disk:,} bytes, and was ended")
            return ending.result()
        finally:
            ending.cancel()

    def words(self) -> str:
        """The end of what it has printed."""
        self._printed.seek(max(0, self._printed.seek(0, os.SEEK_END) - _SHOWN))
        return self._printed.read(_SHOWN).decode(errors="replace").strip()

    def kill(self) -> None:
        """End it, and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _look(self, took: float) -> float:
        return _LOOK if self.limits.wall is None else max(0.0, min(_LOOK, self.limits.wall - took))

    def _wrote(self) -> int:
        return bytes_in(self._folder) - self._before + os.fstat(self._printed.fileno()).st_size

    def _end(self, why: str) -> None:
        self.kill()
        raise RunFailedError(why)


@asynccontextmanager
async def running(
    rules: Confinement,
    limits: Limits,
    arguments: Sequence[str],
    *,
    folder: Path,
    readable: Sequence[Path] = (),
    printed: Path,
    speaks: bool = False,
) -> AsyncIterator[ConfinedProcess]:
    """A process that ends with the block, with all that it has started; it binds itself to `limits`.

    folder: all that it may write to; readable: what it may read besides; printed: a file out of its reach, for its
    standard error, and for its standard output unless it `speaks` there to the block.
    """
    before = await asyncio.to_thread(bytes_in, folder)
    with printed.open("w+b") as output:
        process = await asyncio.create_subprocess_exec(
            *rules.command(arguments, writable=(folder,), readable=readable),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if speaks else output, stderr=output,
            start_new_session=True, env=dict(rules.environment(folder)), limit=_LONGEST_LINE,
        )  # fmt: skip
        started = ConfinedProcess(process, limits, folder, output, before)
        try:
            yield started
        finally:
            started.kill()
            await process.wait()
