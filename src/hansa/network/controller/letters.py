"""The letters of one program, as files: what every party has sent to every other, in order, until the program is over.

They are a cache, though one that outlives a `kill -9`: a program computes the same whenever it is run, so what is lost
here is sent again by its sender, who runs from the beginning. So they are not synced to the disk, and a file
is believed as far as its digests hold.

But where a sender stays away and its receiver goes on without a letter, nothing computes that again. It is noted, with
a sync, before the receiver is told; in the letter's place lies one and the same letter, `GONE`, whatever comes later.

| bytes | of each letter in a file                  |
|-------|-------------------------------------------|
| 8     | its size, little-endian                   |
| 32    | its blake3                                |
| size  | the encoded message                       |
"""

import io
import os
import shutil
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from blake3 import blake3

from hansa.errors import CorruptionError
from hansa.programs.encoding import encode
from hansa.protocols.worker import Gone
from hansa.store.disk import explained, sync_directory, write_whole

__all__ = ["GONE", "GONE_DIGEST", "Letters", "Pair"]

Pair = tuple[int, int]
"""(sender, receiver)."""

_HEAD: Final = struct.Struct("<Q32s")
_PIECE: Final = 1 << 20
"""Bytes that are read and written at a time."""
_SUFFIX: Final = ".letters"

GONE: Final = encode(Gone())
"""What lies in the place of a letter that is not waited for any more."""
GONE_DIGEST: Final = blake3(GONE).hexdigest()
_NOTES: Final = "gone"
"""The file of what is not waited for any more."""
_NOTE: Final = struct.Struct("<4Q")
"""Sender, receiver and number of a letter, and how many the receiver had sent by then."""


class Letters:
    """Blocking: called in threads, one writer at a time; `count`, `sent` and `pairs` at any time."""

    def __init__(self, folder: Path) -> None:
        """folder: of this program alone; it is made by `open`."""
        self.folder = folder
        self.size = 0
        """Bytes of all that is kept."""
        self._ends: dict[Pair, array[int]] = {}
        """Where each letter of a file ends."""
        self._digests: dict[Pair, bytearray] = {}
        """Of each letter of a file, 32 bytes: a disk may change what it says of itself, too."""
        self._gone: dict[tuple[Pair, int], int] = {}
        """Letters that are not waited for any more → how many their receiver had sent by then."""
        self._unsaid: dict[int, set[tuple[Pair, int]]] = {}
        """By sender, those of them that it has not come with in this process."""

    def open(self) -> None:
        """Take up what an earlier process has kept, up to the first letter that is not whole. It may be repeated."""
        self._ends, self._digests, self.size = {}, {}, 0
        with explained("keep letters in", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in self.folder.glob(f"*{_SUFFIX}"):
                sender, _, receiver = file.stem.partition("-")
                for end, digest in _whole(file):
                    self._note((int(sender), int(receiver)), end, digest)
        self._gone = dict(self._noted())
        for pair in self.pairs():
            for number in range(self.count(pair)):
                if self.digest(pair, number) == GONE_DIGEST and not self.is_gone(pair, number):
                    self.forget(pair, number)  # it is waited for again, and a power cut has brought the file back
                    break
        self._unsaid = {}
        for place in self._gone:
            self._note_unsaid(place)
        for pair in {pair for pair, _ in self._gone}:
            self._fill(pair)

    def remove(self) -> None:
        """Nobody needs them any more."""
        self._ends, self._digests, self._gone, self.size = {}, {}, {}, 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def count(self, pair: Pair) -> int:
        """How many there are of one sender to one receiver."""
        return len(self._ends.get(pair, ()))

    def sent(self, sender: int) -> int:
        """How many there are of one sender to the others, which it has sent itself."""
        unsaid = sum(number < self.count(pair) for pair, number in tuple(self._unsaid.get(sender, ())))
        return sum(self.count(pair) for pair in self.pairs() if pair[0] == sender != pair[1]) - unsaid

    def pairs(self) -> tuple[Pair, ...]:
        """Those who have written to each other, as of now: another thread may be writing a first letter."""
        return tuple(self._ends)

    def digest(self, pair: Pair, number: int) -> str:
        """Of a letter that is there."""
        return self._digests[pair][32 * number : 32 * number + 32].hex()

    def append(self, pair: Pair, size: int, digest: str, letter: BinaryIO) -> None:
        """Keep the next one. letter: a file of `size` bytes; what an append that failed has left is overwritten."""
        begin = self._begin(pair, self.count(pair))
        with explained("keep letters in", self.folder), self._file(pair).open("ab") as file:
            file.truncate(begin)
            file.seek(begin)
            file.write(_HEAD.pack(size, bytes.fromhex(digest)))
            letter.seek(0)
            shutil.copyfileobj(letter, file, _PIECE)
        self._note(pair, begin + _HEAD.size + size, bytes.fromhex(digest))
        self._fill(pair)

    def go_without(self, pair: Pair, sent: int) -> None:
        """Nobody waits for the next letter of a pair any more, for good. sent: letters of its receiver by now."""
        number = self.count(pair)
        if not self.is_gone(pair, number):
            with explained("note who stays away in", self.folder), (self.folder / _NOTES).open("ab") as file:
                file.truncate(_NOTE.size * len(self._gone))  # what a note that failed has left
                file.write(_NOTE.pack(*pair, number, sent))
                file.flush()
                os.fsync(file.fileno())
                sync_directory(self.folder)
            self._gone[pair, number] = sent
            self._note_unsaid((pair, number))
        self._fill(pair)

    def is_gone(self, pair: Pair, number: int) -> bool:
        """Whether a letter is not waited for any more."""
        return (pair, number) in self._gone

    def away(self) -> frozenset[int]:
        """Of whom letters are not waited for."""
        return frozenset(pair[0] for pair, _ in tuple(self._gone))

    def said_late(self, pair: Pair, number: int) -> None:
        """The sender of a letter that is not waited for any more has come with it."""
        self._unsaid.get(pair[0], set()).discard((pair, number))

    def wait_again(self) -> None:
        """Wait again for those letters after which their receivers have said nothing: nothing rests on them yet.

        Not for those of a sender that has ended: it came with them late, and is not run again.
        """
        again = [
            ((sender, receiver), number)
            for ((sender, receiver), number), sent in self._gone.items()
            if sent == self.sent(receiver) and not self.count((sender, sender))
        ]
        if not again:
            return
        for pair, number in sorted(again, reverse=True):
            if self.count(pair) > number:
                self.forget(pair, number)
                with explained("shorten letters in", self.folder):
                    os.truncate(self._file(pair), self._begin(pair, number))
            del self._gone[pair, number]
            self.said_late(pair, number)
        notes = [_NOTE.pack(*pair, number, sent) for (pair, number), sent in self._gone.items()]
        with explained("note who stays away in", self.folder):
            write_whole(self.folder / _NOTES, b"".join(notes))

    def read(self, pair: Pair, number: int) -> Iterator[bytes]:
        """A letter in pieces; raises `CorruptionError` in place of the last one where the disk has changed it."""
        begin = self._begin(pair, number) + _HEAD.size
        return self._read(pair, number, begin, self._ends[pair][number] - begin, self.digest(pair, number))

    def forget(self, pair: Pair, number: int) -> None:
        """A letter is lost, and those behind it with it: they are to be sent again. Not while one is written."""
        self.size -= self._ends[pair][-1] - self._begin(pair, number)
        del self._ends[pair][number:]
        del self._digests[pair][32 * number :]

    def _read(self, pair: Pair, number: int, begin: int, size: int, digest: str) -> Iterator[bytes]:
        with explained("read letters in", self.folder), self._file(pair).open("rb") as file:
            file.seek(begin)
            seen = blake3()
            while size:
                piece = file.read(min(_PIECE, size))
                size -= len(piece)
                seen.update(piece)
                if not piece or (not size and seen.hexdigest() != digest):
                    raise CorruptionError(f"letter {number} in {file.name} is not the one that was kept")
                yield piece

    def _note(self, pair: Pair, end: int, digest: bytes) -> None:
        self.size += end - self._begin(pair, self.count(pair))
        self._digests.setdefault(pair, bytearray()).extend(digest)
        self._ends.setdefault(pair, array("Q")).append(end)  # last: by it the letter is there

    def _note_unsaid(self, place: tuple[Pair, int]) -> None:
        self._unsaid.setdefault(place[0][0], set()).add(place)

    def _fill(self, pair: Pair) -> None:
        """Put `GONE` in the place of what is not waited for."""
        if self.is_gone(pair, self.count(pair)):
            self.append(pair, len(GONE), GONE_DIGEST, io.BytesIO(GONE))

    def _noted(self) -> Iterator[tuple[tuple[Pair, int], int]]:
        """Letters that are not waited for, as they are noted on the disk."""
        file = self.folder / _NOTES
        if not file.exists():
            return
        content = file.read_bytes()
        for sender, receiver, number, sent in _NOTE.iter_unpack(content[: len(content) // _NOTE.size * _NOTE.size]):
            yield ((sender, receiver), number), sent

    def _begin(self, pair: Pair, number: int) -> int:
        return self._ends[pair][number - 1] if number else 0

    def _file(self, pair: Pair) -> Path:
        return self.folder / f"{pair[0]}-{pair[1]}{_SUFFIX}"


def _whole(path: Path) -> Iterator[tuple[int, bytes]]:
    """(where it ends, its digest) of the letters of a file that are whole."""
    end, length = 0, path.stat().st_size
    with path.open("rb") as file:
        while end + _HEAD.size <= length:
            size, digest = _HEAD.unpack(file.read(_HEAD.size))
            end += _HEAD.size + size
            if end > length:
                return
            seen = blake3()
            while size:
                piece = file.read(min(_PIECE, size))
                seen.update(piece)
                size -= len(piece)
            if seen.digest() != digest:
                return
            yield end, digest
