"""What a worker process prints, passed on line by line."""

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from typing import BinaryIO

__all__ = ["Printed"]

_AT_ONCE = 1 << 16
"""Bytes that are read in one go."""

_LONGEST_LINE = 1 << 14
"""Bytes of a line after which it is passed on in parts."""


class Printed:
    """The agent's end of a pipe, to which a process and the commands that it starts write."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        """on_line: told each line without its end; what is no UTF-8 in it is replaced."""
        self._on_line = on_line
        self._pipe = -1
        self._pending = b""

    def open(self) -> BinaryIO:
        """The other end, which the caller closes. Lines are passed on by the running loop until `close`."""
        self._pipe, writing = os.pipe()
        os.set_blocking(self._pipe, False)
        asyncio.get_running_loop().add_reader(self._pipe, self._read)
        return os.fdopen(writing, "wb")

    def close(self) -> None:
        """Pass on what has been written until now, and read no more.

        The end of the pipe is not waited for: a daemon that the process has left behind may hold it open for ever.
        """
        if self._pipe == -1:
            return
        (left,) = struct.unpack("i", fcntl.ioctl(self._pipe, termios.FIONREAD, bytes(4)))
        while left > 0:
            left -= self._read()
        self._pass_on([self._pending] if self._pending else [])
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)
        self._pipe, self._pending = -1, b""

    def _read(self) -> int:
        """How many bytes were there."""
        raw = os.read(self._pipe, _AT_ONCE)
        if not raw:  # all who could write are gone
            asyncio.get_running_loop().remove_reader(self._pipe)
        *lines, self._pending = (self._pending + raw).split(b"\n")
        if len(self._pending) > _LONGEST_LINE:
            lines, self._pending = [*lines, self._pending], b""
        self._pass_on(lines)
        return len(raw)

    def _pass_on(self, lines: list[bytes]) -> None:
        for line in lines:
            self._on_line(line.decode(errors="replace"))
