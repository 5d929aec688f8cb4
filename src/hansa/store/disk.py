"""Directories that survive a power cut, and what the operating system's errors mean."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from hansa.errors import ConflictError, StorageError, StorageUnavailableError

__all__ = [
    "alone_in",
    "bytes_in",
    "explained",
    "make_directory",
    "sync_directory",
    "whole_copy",
    "whole_file",
    "write_whole",
]

_REMEDIES: Final[Mapping[int, str]] = {
    errno.ENOSPC: "the disk is full: free some space or choose another disk, then try again",
    errno.EDQUOT: "the disk quota is used up: free some space or raise the quota, then try again",
    errno.EFBIG: "the file would be larger than the system allows: raise the limit (ulimit -f)",
    errno.EACCES: "permission denied: give this user the right to write there",
    errno.EPERM: "not permitted: give this user the right to write there",
    errno.EROFS: "the disk is read-only: mount it for writing or choose another",
    errno.EIO: "the disk reports an input/output error: check it, and restore a backup if it is failing",
    errno.ENOTDIR: "a part of this path is a file, not a directory: choose another path",
    errno.EEXIST: "a part of this path is a file, not a directory: choose another path",
    errno.EISDIR: "this is a directory, not a file: choose another path",
    errno.EMFILE: "this process has too many files open: raise the limit (ulimit -n)",
}

_PASSING: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}
)
"""What can be over when the call is made again."""


_BLOCK: Final = 512
"""Bytes of a block, as `st_blocks` counts them."""
_HIDDEN: Final = 1 << 62
"""Bytes, for what cannot be counted."""


@contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that says what was being done, where, and what to do.

    It is a `StorageUnavailableError` where the same call can succeed later: a full disk, a used-up quota, an I/O error.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, error.strerror or str(error))
        kind = StorageUnavailableError if error.errno in _PASSING else StorageError
        raise kind(f"cannot {action} {path}: {remedy}") from error


def make_directory(path: Path) -> None:
    """Make a directory and those above it, so that they are still there after a power cut."""
    missing = []
    place = path
    while not place.is_dir() and place != place.parent:
        missing.append(place)
        place = place.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def write_whole(path: Path, data: bytes | memoryview, mode: int = 0o600) -> None:
    """Write a file that is there whole or not at all, also after a power cut; by default its owner alone reads it."""
    with _durable(path, mode) as file:
        file.write(data)


def whole_copy(source: Path, path: Path) -> None:
    """The same with the bytes of another file, in bounded memory."""
    with source.open("rb") as origin, _durable(path, 0o600) as file:
        shutil.copyfileobj(origin, file, 1 << 20)


@contextmanager
def _durable(path: Path, mode: int) -> Iterator[BinaryIO]:
    part = path.with_name(f"{path.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_directory(path.parent)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which has its name when the block ends without an error; else nothing is left of it."""
    with (
        explained("write", path),
        tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file,
    ):
        part = Path(file.name)
        try:
            yield cast("BinaryIO", file)
            file.close()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, busy: str) -> Iterator[None]:
    """Make a folder, and hold it until the block ends, or the process.

    Raise `ConflictError(busy)` while another process holds it, `StorageError`. A file `.lock` stays in it.
    """
    with ExitStack() as held:
        with explained("lock", folder):
            make_directory(folder)
            # A file and not the folder itself, and open for writing: NFS locks nothing else for one process alone.
            lock = os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT, 0o600)
            held.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConflictError(busy) from error
        yield


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def bytes_in(folder: Path) -> int:
    """On the disk, of all files below a folder; links are not followed, and what goes meanwhile is left out.

    A path that is too long to be looked at counts as more than any disk has: somebody hides there.
    """
    total = 0

    def failed(error: OSError) -> None:
        nonlocal total
        total += _HIDDEN if error.errno == errno.ENAMETOOLONG else 0

    for place, _, files in os.walk(folder, onerror=failed):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * _BLOCK  # noqa: PTH118 - a path of each takes long
            except OSError as error:
                failed(error)
    return total
