"""The letters of one program, as files: what every party has sent to every other, in order, until the program is over.

They are a cache, though one that outlives a `kill -9`: a program computes the same whenever it is run, so what is lost
here is sent again by its sender, who runs from the beginning. So nothing is synced to the disk, and a file is believed
as far as its digests hold.

| bytes | of each letter in a file                  |
|-------|-------------------------------------------|
| 8     | its size, little-endian                   |
| 32    | its blake3                                |
| size  | the encoded message                       |
"""

import shutil
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from blake3 import blake3

from hansa.errors import CorruptionError
from hansa.store.disk import explained

__all__ = ["Letters", "Pair"]

Pair = tuple[int, int]
"""(sender, receiver)."""

_HEAD: Final = struct.Struct("<Q32s")
_PIECE: Final = 1 << 20
"""Bytes that are read and written at a time."""
_SUFFIX: Final = ".letters"


class Letters:
    """Blocking: called in threads, one writer at a time; `count`, `sent` and `pairs` at any time."""

    def __init__(self, folder: Path) -> None:
        """folder: of this program alone; it is made by `open`."""
        self.folder = folder
        self.size = 0
        """Bytes of all that is kept."""
        self._ends: dict[Pair, array[int]] = {}
        """Where each letter of a file ends."""

    def open(self) -> None:
        """Take up what an earlier process has kept, up to the first letter that is not whole. It may be repeated."""
        self._ends, self.size = {}, 0
        with explained("keep letters in", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in self.folder.glob(f"*{_SUFFIX}"):
                sender, _, receiver = file.stem.partition("-")
                ends = self._ends[int(sender), int(receiver)] = array("Q", _whole(file))
                self.size += ends[-1] if ends else 0

    def remove(self) -> None:
        """Nobody needs them any more."""
        self._ends, self.size = {}, 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def count(self, pair: Pair) -> int:
        """How many there are of one sender to one receiver."""
        return len(self._ends.get(pair, ()))

    def sent(self, sender: int) -> int:
        """How many there are of one sender to the others."""
        return sum(self.count(pair) for pair in self.pairs() if pair[0] == sender != pair[1])

    def pairs(self) -> tuple[Pair, ...]:
        """Those who have written to each other, as of now: another thread may be writing a first letter."""
        return tuple(self._ends)

    def digest(self, pair: Pair, number: int) -> str:
        """Of a letter that is there."""
        with explained("read letters in", self.folder), self._file(pair).open("rb") as file:
            return _head(file, self._begin(pair, number))[1]

    def append(self, pair: Pair, size: int, digest: str, letter: BinaryIO) -> None:
        """Keep the next one. letter: a file of `size` bytes; what an append that failed has left is overwritten."""
        begin = self._begin(pair, self.count(pair))
        with explained("keep letters in", self.folder), self._file(pair).open("ab") as file:
            file.truncate(begin)
            file.seek(begin)
            file.write(_HEAD.pack(size, bytes.fromhex(digest)))
            letter.seek(0)
            shutil.copyfileobj(letter, file, _PIECE)
        self._ends.setdefault(pair, array("Q")).append(begin + _HEAD.size + size)
        self.size += _HEAD.size + size

    def read(self, pair: Pair, number: int) -> Iterator[bytes]:
        """A letter in pieces; raises `CorruptionError` in place of the last one where the disk has changed it."""
        return self._read(pair, number, self._begin(pair, number))

    def forget(self, pair: Pair, number: int) -> None:
        """A letter is lost, and those behind it with it: they are to be sent again. Not while one is written."""
        self.size -= self._ends[pair][-1] - self._begin(pair, number)
        del self._ends[pair][number:]

    def _read(self, pair: Pair, number: int, begin: int) -> Iterator[bytes]:
        with explained("read letters in", self.folder), self._file(pair).open("rb") as file:
            left, digest = _head(file, begin)
            seen = blake3()
            while left:
                piece = file.read(min(_PIECE, left))
                left -= len(piece)
                seen.update(piece)
                if not piece or (not left and seen.hexdigest() != digest):
                    raise CorruptionError(f"letter {number} in {file.name} is not the one that was kept")
                yield piece

    def _begin(self, pair: Pair, number: int) -> int:
        return self._ends[pair][number - 1] if number else 0

    def _file(self, pair: Pair) -> Path:
        return self.folder / f"{pair[0]}-{pair[1]}{_SUFFIX}"


def _head(file: BinaryIO, begin: int) -> tuple[int, str]:
    file.seek(begin)
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise CorruptionError(f"{file.name} ends before byte {begin + _HEAD.size}, where a letter was kept")
    size, digest = _HEAD.unpack(head)
    return size, digest.hex()


def _whole(path: Path) -> Iterator[int]:
    """Where the letters of a file end that are whole."""
    end, length = 0, path.stat().st_size
    with path.open("rb") as file:
        while end + _HEAD.size <= length:
            size, digest = _head(file, end)
            end += _HEAD.size + size
            if end > length:
                return
            seen = blake3()
            while size:
                piece = file.read(min(_PIECE, size))
                seen.update(piece)
                size -= len(piece)
            if seen.hexdigest() != digest:
                return
            yield end
