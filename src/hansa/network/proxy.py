"""A TCP proxy on loopback that is late, or hangs up: what a network does to its nodes, on purpose."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

import numpy as np

__all__ = ["Proxy"]

_BLOCK = 1 << 16


@dataclass
class Proxy:
    """Passes connections on to `target`; every block waits for up to `delay` seconds, in order within a direction."""

    rng: np.random.Generator
    delay: float = 0.0
    target: str = ""
    """host:port; set it before the first connection."""
    address: str = ""
    """host:port at which it listens."""
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _jobs: set["asyncio.Task[None]"] = field(default_factory=set)

    @classmethod
    @asynccontextmanager
    async def open(cls, rng: np.random.Generator, delay: float = 0.0) -> AsyncIterator[Self]:
        """Listen on a free port."""
        proxy = cls(rng, delay)
        server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
        proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield proxy
        finally:
            server.close()
            proxy.hang_up()
            await asyncio.gather(*proxy._jobs, return_exceptions=True)

    def hang_up(self) -> None:
        """Reset every connection that is open now; new ones are welcome."""
        for writer in self._open:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            above, to_above = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, to_above}
        self._open |= ends
        ways = [asyncio.create_task(self._pass(reader, to_above)), asyncio.create_task(self._pass(above, writer))]
        self._jobs.update(ways)
        try:
            await asyncio.gather(*ways)
        finally:
            self._open -= ends
            self._jobs.difference_update(ways)
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while block := await reader.read(_BLOCK):
                if self.delay:
                    await asyncio.sleep(self.delay * self.rng.random())
                writer.write(block)
                await writer.drain()
            writer.close()
