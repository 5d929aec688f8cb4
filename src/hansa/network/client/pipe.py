"""Frames between an agent and its worker process: each behind its length, four bytes, over a pair of sockets."""

import asyncio
import socket
import struct
import threading

__all__ = ["FramePipe", "read_frame", "write_frame"]

_LENGTH = struct.Struct("!I")


class FramePipe:
    """The worker's end: blocking reads on one thread, writes from any."""

    def __init__(self, connection: socket.socket) -> None:
        """connection: a connected stream socket."""
        self._connection = connection
        self._reader = connection.makefile("rb")
        self._lock = threading.Lock()

    def read(self) -> bytes | None:
        """The next frame; None when the agent is gone."""
        head = self._reader.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        body = self._reader.read(length)
        return body if len(body) == length else None

    def write(self, frame: bytes) -> None:
        """Send a frame."""
        with self._lock:
            self._connection.sendall(_LENGTH.pack(len(frame)) + frame)


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame at the agent's end; None when the worker is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def write_frame(writer: asyncio.StreamWriter, frame: bytes) -> None:
    """Queue a frame at the agent's end."""
    writer.write(_LENGTH.pack(len(frame)) + frame)
