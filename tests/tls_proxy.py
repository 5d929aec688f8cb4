"""Something that ends TLS before a plain port, as nginx's stream module does: it knows nothing of what passes."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

__all__ = ["ending_tls"]


@asynccontextmanager
async def ending_tls(target: str, chain: Path, key: Path, port: int = 0) -> AsyncIterator[str]:
    """The host:port at which it listens. target: host:port of the plain one; port: 0 for a free one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, _, plain = target.rpartition(":")
    passing: set[asyncio.Task[None]] = set()

    async def passed(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either side ends."""
        ends = [writer]
        try:
            inside, outside = await asyncio.open_connection(host, int(plain))
            ends.append(outside)
            ways = [asyncio.create_task(passed(reader, outside)), asyncio.create_task(passed(inside, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in ways:
                    each.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for end in ends:
                end.transport.abort()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(joined(reader, writer))
        passing.add(task)
        task.add_done_callback(passing.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        left = list(passing)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
