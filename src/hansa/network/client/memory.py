"""What a client keeps between rounds, on its own disk: one file per update that may be, or is, in a committed model.

A file is named after its update, and is on the disk before the update is offered. Which one is current the server
says with every task, from what it has committed; so the client need not have heard of the commit, and may have died
and come back anywhere in between.
"""

import hashlib
import shutil
from pathlib import Path

from hansa.arrays import Arrays
from hansa.network.client.diary import DIARY, Diary
from hansa.store.disk import explained, make_directory, sync_directory
from hansa.wire import codec
from hansa.wire.frames import Counted, RoundKey

__all__ = ["Memory", "forget_diary"]

_RUNS_KEPT = 32
"""Runs whose memory stays; the one that was idle for longest goes first, and starts from none should it go on."""


class Memory:
    """The memories of one client, by run."""

    def __init__(self, folder: Path) -> None:
        """folder: the client's own; it is made when there is something to keep."""
        self._folder = folder

    def recall(self, key: RoundKey, counted: Counted | None) -> Arrays | None:
        """What was kept with the update that was counted last; None when there is none, or it was lost.

        What was kept with updates of earlier rounds that never counted is deleted.
        """
        run = self._run(key.run)
        if not run.is_dir():
            return None
        current = run / _name(counted.round, counted.digest) if counted is not None else None
        for file in run.glob("*-*.safetensors"):
            if file != current and int(file.name.partition("-")[0]) < key.round:
                file.unlink(missing_ok=True)
        return codec.load(current) if current is not None and current.exists() else None

    def keep(self, key: RoundKey, digest: str, arrays: Arrays) -> None:
        """Write what belongs to the update of this digest, through to the disk."""
        run = self._run(key.run)
        with explained("keep a client's memory in", run):
            make_directory(run)
            file = run / _name(key.round, digest)
            codec.save(arrays, file)
            sync_directory(run)
            self._make_room()

    def diary(self, run: str) -> Diary:
        """What a party keeps while its program is under way; it is made where there is none yet."""
        folder = self._run(run)
        with explained("keep a party's secret in", folder):
            make_directory(folder)
            self._make_room()
            return Diary.open(folder / DIARY)

    def _make_room(self) -> None:
        for idle in sorted(self._folder.iterdir(), key=lambda each: -each.stat().st_mtime)[_RUNS_KEPT:]:
            shutil.rmtree(idle, ignore_errors=True)

    def _run(self, run: str) -> Path:
        return self._folder / _folder_of(run)


def forget_diary(memories: Path, run: str) -> None:
    """A party has ended, and will not be run again. memories: of all packages and of the owner's own app."""
    for file in memories.glob(f"*/{_folder_of(run)}/{DIARY}"):
        file.unlink(missing_ok=True)


def _folder_of(run: str) -> str:
    """A server may name a run as it likes; it names no path."""
    return hashlib.sha256(run.encode()).hexdigest()[:32]


def _name(number: int, digest: str) -> str:
    return f"{number}-{digest}.safetensors"
