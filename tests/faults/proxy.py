"""TCP in between, on a thread of its own: it forwards, and holds, slows, cuts or swallows as it is told."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Proxy", "Weather"]

_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True)
class Weather:
    """How the network is now."""

    up: bool = True
    """Whether bytes towards the server pass; else they are held back."""
    down: bool = True
    delay: float = 0.0
    """Seconds for each block."""
    rate: float = float("inf")
    """Bytes per second, of each connection and direction."""


class Proxy:
    """One server behind it."""

    def __init__(self, port: int, target: int) -> None:
        """port: its own; target: the server's, which may come and go. On loopback, both."""
        self.weather = Weather()
        self.bytes = 0
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._cut_at = float("inf")
        self._loop = asyncio.new_event_loop()
        self._fair = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(port,), name=f"proxy {port}")
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait()

    def change(self, weather: Weather) -> None:
        """Let it be so from now on."""
        self._tell(lambda: self._changed(weather))

    def reset(self) -> None:
        """Reset every connection at once."""
        self._tell(self._cut)

    def reset_after(self, more: int) -> None:
        """Reset every connection once so many bytes have passed."""
        self._tell(lambda: setattr(self, "_cut_at", self.bytes + more))

    def close(self) -> None:
        """End it."""
        self._tell(self._loop.stop)
        self._thread.join()

    # ── on its thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, what: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(what)

    def _changed(self, weather: Weather) -> None:
        self.weather = weather
        self._fair.set()

    def _run(self, port: int) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", port))
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._cut()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        ours = {writer, back}
        self._writers |= ours
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, back, "up"))
                both.create_task(self._pump(there, writer, "down"))
        except* OSError:
            pass
        finally:
            self._writers -= ours
            for each in ours:
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        while data := await reader.read(_BLOCK):
            while not getattr(self.weather, way):
                self._fair.clear()
                await self._fair.wait()
            wait = self.weather.delay + len(data) / self.weather.rate
            if wait:
                await asyncio.sleep(wait)
            if writer.is_closing():
                return
            writer.write(data)
            self.bytes += len(data)
            if self.bytes >= self._cut_at:
                self._cut()
            await writer.drain()
        if not writer.is_closing():
            writer.close()

    def _cut(self) -> None:
        self._cut_at = float("inf")
        for writer in self._writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, as a machine does that has forgotten the connection."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
