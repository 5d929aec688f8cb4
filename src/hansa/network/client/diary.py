"""A party's secret while its program is under way, and what it has said under it: in another run it says no more.

A party that dies is run again from its beginning, and its secret must be the one of before, or its letters would be
others. Then a server could have it run again and tell it something else, so that it says two things under one secret,
the difference of which tells what the secret hides. So each letter is noted before it is sent, and in another run each
must be the one of before. What a party was told is not noted: where it makes no difference to what it says, it may
differ.

| bytes   | on its own disk, for its owner alone              |
|---------|---------------------------------------------------|
| 32      | the secret, drawn at random                       |
| 32 each | blake3 of a letter's receiver and digest, in turn |
"""

import os
from pathlib import Path
from secrets import token_bytes
from typing import Final

from blake3 import blake3

from hansa.errors import RunFailedError
from hansa.statements import number, text
from hansa.store.disk import write_whole

__all__ = ["DIARY", "Diary"]

DIARY: Final = "party.diary"
"""The name of the file."""
_SIZE: Final = 32


class Diary:
    """Of one party in one run of its program."""

    def __init__(self, file: Path, secret: bytes, notes: bytes) -> None:
        """notes: of letters that an earlier run has sent; see `open`."""
        self.secret = secret
        """32 bytes."""
        self._file = file
        self._notes = notes
        self._sent = 0

    @classmethod
    def open(cls, file: Path) -> "Diary":
        """That of an earlier run of the party, or a new one with a new secret."""
        if not file.exists():
            write_whole(file, token_bytes(_SIZE))
        content = file.read_bytes()
        whole = len(content) - len(content) % _SIZE  # the last note may be torn: its letter was not sent
        return cls(file, content[:_SIZE], content[_SIZE:whole])

    def note(self, receiver: int, digest: str) -> None:
        """Before a letter is sent. Raises `RunFailedError` where an earlier run has sent another in its place."""
        own, before = _note(receiver, digest), self._next()
        if not before:
            self._append(own)
        elif before != own:
            raise RunFailedError(
                f"it was run again and says something else to party {receiver} than before, under the same secret, "
                "which would tell what the secret hides: nothing was sent; a program must compute the same whenever it "
                "is run, and is told the same: draw random numbers from worker.rng, and look at no clock"
            )
        self._sent += 1

    def foresees(self, receiver: int, digest: str) -> bool:
        """Whether an earlier run has sent just this letter next."""
        return self._next() == _note(receiver, digest)

    def _next(self) -> bytes:
        """What is noted of the letter that is next; empty where no run has come to it."""
        return self._notes[_SIZE * self._sent : _SIZE * (self._sent + 1)]

    def _append(self, note: bytes) -> None:
        with self._file.open("r+b") as file:
            file.truncate(_SIZE + len(self._notes))
            file.seek(0, os.SEEK_END)
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        self._notes += note


def _note(receiver: int, digest: str) -> bytes:
    return blake3(number(receiver) + text(digest)).digest()
