"""Files as memory: models and updates are read where they lie. Files that user code has left, or may still change."""

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

__all__ = ["created", "left_size", "mapped", "opened", "pieces", "unload"]

_PIECE: Final = 1 << 20


def mapped(path: Path) -> memoryview:
    """The bytes of a file, read-only; they stay readable after the file is unlinked."""
    return _mapped(os.open(path, os.O_RDONLY))


def unload(view: memoryview) -> None:
    """Give back the memory of what was read of a mapped file; it is read again when it is needed."""
    if isinstance(view.obj, mmap.mmap) and hasattr(view.obj, "madvise"):
        view.obj.madvise(mmap.MADV_DONTNEED)


def opened(path: Path) -> memoryview:
    """The same of a file that user code has left, once its process has ended: it could cut off what is mapped.

    Raises an `OSError` where that is a link to another file, or no ordinary file.
    """
    return _mapped(_left(path))


def pieces(path: Path, size: int) -> Iterator[memoryview]:
    """So many bytes of a file that user code has left and may change meanwhile; fewer where it was cut off.

    Raises an `OSError` as `opened`, before the first piece.
    """
    return _pieces(_left(path), size)


def left_size(path: Path) -> int:
    """Bytes of a file that user code has left. Raises an `OSError` as `opened`."""
    descriptor = _left(path)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def created(path: Path) -> BinaryIO:
    """A new file to write, in a folder where user code may have put something of this name before: that goes.

    Raises an `OSError` where it has put it there again.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    return cast("BinaryIO", os.fdopen(descriptor, "wb"))


def _left(path: Path) -> int:
    """The descriptor of an ordinary file that is no link; a pipe is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    return descriptor


def _pieces(descriptor: int, size: int) -> Iterator[memoryview]:
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while size > 0 and (piece := file.read(min(size, _PIECE))):
            size -= len(piece)
            yield memoryview(piece)


def _mapped(descriptor: int) -> memoryview:
    try:
        if not os.fstat(descriptor).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
