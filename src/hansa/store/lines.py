"""Files of lines that are only ever appended to, by whichever thread or process has something to add."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["appending"]

_PIECE: Final = 1 << 12
"""Bytes that are looked through at a time for the end of a line."""


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """The file, at its end, for its caller alone, in whatever thread or process others want it too.

    A line without its end is cut off first: whoever wrote it was killed, or the disk was full.
    """
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        whole = _end_of_lines(file, end)
        if whole < end:
            file.truncate(whole)
        file.seek(whole)
        yield file


def _end_of_lines(file: BinaryIO, end: int) -> int:
    """Where the last whole line ends."""
    while end:
        begin = max(0, end - _PIECE)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
