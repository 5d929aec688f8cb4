"""The embedded object store: a directory of files named by what they hold.

    root/ab/cd/abcd…   an object; the name is its blake3 digest, the file is never changed
    root/incoming/…    what is being written; its writer holds a lock on it

An object is written under `incoming`, on the disk, and then renamed to its place: it is there whole or not at all.
What a crash leaves in `incoming` is removed before the next write, known by nobody holding its lock.

Corruption (a flipped bit, a truncated file) raises `CorruptionError`: `read` from offset 0 hashes what it reads and
withholds the last chunk until the digest is right; `fetch` hashes a file that this process has not written or hashed
before, and again when its size or times have changed. A `read` from a later offset cannot know: whoever joins the
parts verifies the digest.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from io import FileIO
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import BinaryIO, Final

from blake3 import blake3

from hansa.errors import CorruptionError, InputError, NotFoundError
from hansa.store.disk import explained, make_directory, sync_directory
from hansa.store.ports import StoredObject

__all__ = ["LOST", "DirectoryObjects", "check_name", "is_name"]

LOST: Final = "it was removed by hand, or a backup was restored without it; copy it back"
"""What is said of an object that is not there: whoever lets go of one in order says so in the database."""

_BLOCK: Final = 1 << 20
"""Bytes hashed and written at a time: small enough to stay in the cache between the two."""
_DIGITS: Final = frozenset("0123456789abcdef")
_DIGEST_LENGTH: Final = 64
_PART: Final = 2
"""Digits that name a folder."""


class DirectoryObjects:
    """`ObjectStore` in the directory `root`, which is made by the first write. Any number of processes may share it.

    durable: False for a copy of what is kept elsewhere: a write does not wait for the disk.
    """

    def __init__(self, root: Path | str, *, durable: bool = True) -> None:
        self.root: Final = Path(root)
        self._sync: Final = durable
        self._incoming: Final = self.root / "incoming"
        self._prepared = False
        self._verified: dict[str, tuple[int, ...]] = {}
        self._durable: set[Path] = set()

    def prepare(self) -> None:
        """Make the directory and remove what a crash left half-written; the first write does it too."""
        with explained("prepare the object store", self.root):
            make_directory(self._incoming)
            for leftover in self._incoming.iterdir():
                _remove_unless_locked(leftover)
        self._prepared = True

    async def put(self, parts: Iterable[bytes | memoryview]) -> str:
        """Store the concatenation durably and return its digest.

        The parts are hashed and written in one pass, off the event loop: an iterator is drawn from in another thread.
        Raise `StorageError` when the disk is full or may not be written; nothing is stored then.
        """
        return await asyncio.to_thread(self._put, parts)

    async def put_file(self, path: Path) -> str:
        """The same for a copy of a file's bytes, in bounded memory; `InputError` when it cannot be read."""
        return await asyncio.to_thread(self._put, _read_blocks(path))

    async def size(self, digest: str) -> int:
        """Bytes; raise `NotFoundError` when absent."""
        return (await asyncio.to_thread(self._stat, digest)).st_size

    async def read(self, digest: str, offset: int = 0, chunk: int = _BLOCK) -> AsyncGenerator[bytes]:
        """The bytes from an offset, in chunks; raise `NotFoundError` when absent, `CorruptionError` as said above."""
        if offset < 0 or chunk < 1:
            raise InputError(f"cannot read from offset {offset} in chunks of {chunk}: 0 and 1 are the least")
        with closing(await asyncio.to_thread(self._open, digest, offset)) as reader:
            waiting = await asyncio.to_thread(reader.next, chunk)
            while following := await asyncio.to_thread(reader.next, chunk):
                yield waiting
                waiting = following
            if reader.hasher is not None:
                _check(reader.hasher.hexdigest(), digest, self.path(digest))
            if waiting:
                yield waiting

    async def fetch(self, digest: str) -> Path:
        """A local file with these bytes, verified, to map into memory; read it, never write it."""
        return await asyncio.to_thread(self._fetch, digest)

    async def delete(self, digest: str) -> None:
        """Remove; harmless when absent. A process that has it open or mapped keeps it until it is done."""
        await asyncio.to_thread(self._delete, digest)

    async def list(self) -> AsyncGenerator[StoredObject]:
        """Every object, in any order; what is stored or removed meanwhile may be among them or not."""
        for folder in await asyncio.to_thread(self._folders):
            for found in await asyncio.to_thread(self._look, folder):
                yield found

    def path(self, digest: str) -> Path:
        """Where the object lies if it is there; raise `NotFoundError` for what cannot be a name."""
        check_name(digest)
        return self.root / digest[:2] / digest[2:4] / digest

    @contextmanager
    def _existing(self, digest: str) -> Iterator[Path]:
        path = self.path(digest)
        with explained("read the object", path):
            try:
                yield path
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFoundError(f"there is no object {digest} in {self.root}: {LOST}") from error

    def _put(self, parts: Iterable[bytes | memoryview]) -> str:
        with explained("store an object in", self.root), self._new_file() as (file, path):
            hasher = blake3()
            for part in parts:
                view = memoryview(part)
                for block in _blocks(view.cast("B") if view.nbytes else view):
                    hasher.update(block)
                    file.write(block)
            file.flush()
            digest = hasher.hexdigest()
            self._settle(file, path, digest)
        return digest

    @contextmanager
    def _new_file(self) -> Iterator[tuple[BinaryIO, Path]]:
        """A file of our own in `incoming`, gone at the end of the block unless it was renamed."""
        if not self._prepared:
            self.prepare()
        while True:
            path = self._incoming / token_hex(16)
            with open(path, "xb", opener=_never_changed) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file.fileno()).st_nlink:  # else another process took it for a leftover before it was locked
                    try:
                        yield file, path
                    finally:
                        path.unlink(missing_ok=True)
                    return

    def _settle(self, file: BinaryIO, path: Path, digest: str) -> None:
        """Give the file its name, durably. A whole object that is there already stays; a corrupt one is replaced."""
        target = self.path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or _digest_of(target) != digest:
            if self._sync:
                os.fsync(file.fileno())
            path.replace(target)
        if self._sync:
            self._settle_name(target)
        self._verified[digest] = _signature(target)

    def _settle_name(self, target: Path) -> None:
        sync_directory(target.parent)
        for directory in (target.parent, target.parent.parent):
            if directory not in self._durable:  # this process has not seen its name reach the disk
                sync_directory(directory.parent)
                self._durable.add(directory)

    def _open(self, digest: str, offset: int) -> "_Reader":
        with self._existing(digest) as path:
            size = path.stat().st_size
            if offset > size:
                raise InputError(f"cannot read object {digest} from offset {offset}: it has {size} bytes")
            file = path.open("rb", buffering=0)
            file.seek(offset)
            return _Reader(file, path, blake3() if offset == 0 else None)

    def _stat(self, digest: str) -> os.stat_result:
        with self._existing(digest) as path:
            return path.stat()

    def _fetch(self, digest: str) -> Path:
        with self._existing(digest) as path:
            signature = _signature(path)
            if self._verified.get(digest) != signature:
                _check(_digest_of(path), digest, path)
                self._verified[digest] = signature
            return path

    def _folders(self) -> Sequence[str]:
        """The folders that there are for the first two digits of a digest."""
        with explained("list the objects in", self.root), suppress(FileNotFoundError), os.scandir(self.root) as entries:
            return [entry.path for entry in entries if len(entry.name) == _PART and _DIGITS.issuperset(entry.name)]
        return []

    def _look(self, folder: str) -> Sequence[StoredObject]:
        """The objects in one of them."""
        found = []
        with explained("list the objects in", self.root), os.scandir(folder) as seconds:
            for second in seconds:
                with suppress(NotADirectoryError), os.scandir(second.path) as entries:
                    for entry in entries:
                        if is_name(entry.name):
                            with suppress(FileNotFoundError):  # removed meanwhile
                                status = entry.stat()
                                found.append(StoredObject(entry.name, status.st_size, status.st_mtime))
        return found

    def _delete(self, digest: str) -> None:
        path = self.path(digest)
        self._verified.pop(digest, None)
        with explained("remove the object", path), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def is_name(digest: str) -> bool:
    """Whether an object can have this name."""
    return len(digest) == _DIGEST_LENGTH and _DIGITS.issuperset(digest)


def check_name(digest: str) -> str:
    """The digest; raise `NotFoundError` when no object can have this name."""
    if not is_name(digest):
        raise NotFoundError(f"there is no object {digest!r}: an object's name is {_DIGEST_LENGTH} digits of 0-9a-f")
    return digest


class _Reader:
    """One object, read in threads: a read that is under way ends before the file is closed."""

    def __init__(self, file: FileIO, path: Path, hasher: blake3 | None) -> None:
        """hasher: hashes what is read; None when the read does not begin at the beginning."""
        self.hasher = hasher
        self._file = file
        self._path = path
        self._lock = Lock()

    def next(self, chunk: int) -> bytes:
        """The next bytes, at most `chunk`; none at the end."""
        with self._lock, explained("read the object", self._path):
            block = self._file.read(chunk)
            if self.hasher is not None:
                self.hasher.update(block)
            return block

    def close(self) -> None:
        with self._lock:
            self._file.close()


def _blocks(view: memoryview) -> Iterator[memoryview]:
    return (view[start : start + _BLOCK] for start in range(0, view.nbytes, _BLOCK))


def _read_blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give a file that this user may read") from error


def _digest_of(path: Path) -> str:
    hasher = blake3()
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.hexdigest()


def _check(actual: str, digest: str, path: Path) -> None:
    if actual != digest:
        raise CorruptionError(
            f"the object {path} is damaged: its bytes have the digest {actual}; restore it from a backup, "
            "or store the same bytes again, which repairs it"
        )


def _signature(path: Path) -> tuple[int, ...]:
    """Changes whenever the file's bytes are written."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _never_changed(path: str, flags: int) -> int:
    return os.open(path, flags, 0o444)


def _remove_unless_locked(leftover: Path) -> None:
    with suppress(FileNotFoundError, BlockingIOError), leftover.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        leftover.unlink()
