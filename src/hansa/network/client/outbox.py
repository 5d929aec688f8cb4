"""What a client has learned, until it is told what became of it: offers as files, which outlive its process.

A large update's bytes lie in the folder of objects, in a file of its phase: two sessions may learn the same bytes at
the same time, and forgetting one of them must not take the other's.
"""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from hansa.errors import WireError
from hansa.store.completion import completed
from hansa.store.disk import explained, sync_directory
from hansa.wire import codec, framing, packing
from hansa.wire.chunks import INLINE_LIMIT
from hansa.wire.frames import Awaited, Blob, Letter, Offer, RoundKey

__all__ = ["Outbox", "leave", "letter_file", "update_file"]

_KEPT = 16
"""Offers that stay; with more, the oldest are those of runs that ended while this client was away."""


_UNFINISHED = ".unfinished"


class Outbox:
    """Offers by phase, oldest first."""

    def __init__(self, folder: Path, objects: Path) -> None:
        """folder: the offers' own; objects: where updates are left by the worker."""
        self._folder = folder
        self._objects = objects
        self._offers: dict[RoundKey, Offer] = {}
        self._coming: dict[RoundKey, bool] = {}
        """Phases of which an offer is being written → whether it is still wanted."""
        self._turn = asyncio.Lock()
        """Held while one is written."""

    def open(self) -> None:
        """Take up what an earlier process left, and delete the objects that no offer needs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._objects.mkdir(parents=True, exist_ok=True)
        for file in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
            offer = _read(file) if file.name != _UNFINISHED else None  # whole or not: it would never be forgotten
            if offer is not None and (offer.blob.inline or update_file(self._objects, offer.key).exists()):
                self._offers[offer.key] = offer
            else:
                file.unlink()
        needed = {update_file(self._objects, key) for key in self._offers}
        for file in self._objects.iterdir():
            if file not in needed:
                file.unlink()

    def get(self, key: RoundKey) -> Offer | None:
        """What was learned in this phase, and is on the disk."""
        return self._offers.get(key)

    async def settled(self, key: RoundKey) -> Offer | None:
        """The same, once what is being written is on the disk."""
        if key in self._coming:
            async with self._turn:  # behind those that were there before
                pass
        return self.get(key)

    async def keep(self, offer: Offer) -> None:
        """Write an offer through to the disk before it is made: nothing that was learned is learned again.

        A thread waits for the disk, and the event loop for nothing. Who is cancelled meanwhile has it kept all the
        same; what is forgotten meanwhile is not there. Raises `StorageError`.
        """
        self._coming[offer.key] = True  # from now on: what is forgotten before its task begins is not there either
        await completed(self._keep(offer))

    async def _keep(self, offer: Offer) -> None:
        key = offer.key
        try:
            async with self._turn:
                if self._coming.get(key, True):
                    await asyncio.to_thread(self._write, offer)
                    self._offers[key] = offer
        finally:
            if not self._coming.pop(key, True):
                self._offers.pop(key, None)
                self._remove(key)
        for older in list(self._offers)[:-_KEPT]:
            self.forget(older)

    def _write(self, offer: Offer) -> None:
        """Blocking."""
        with explained("keep an update in", self._folder):
            if not offer.blob.inline:
                sync_directory(self._objects)
            unfinished = self._folder / _UNFINISHED
            with unfinished.open("wb") as file:
                file.write(framing.encode_from_node(offer))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._file(offer.key))
            sync_directory(self._folder)

    def forget(self, key: RoundKey) -> None:
        """The phase is over, or has refused it."""
        if key in self._coming:
            self._coming[key] = False
        if self._offers.pop(key, None) is not None:
            self._remove(key)

    def forget_before(self, key: RoundKey) -> None:
        """A later round of the run has begun: what was learned before counts, or never will."""
        for older in [older for older in (*self._offers, *self._coming) if older.run == key.run]:
            if older.round < key.round:
                self.forget(older)

    def _remove(self, key: RoundKey) -> None:
        self._file(key).unlink(missing_ok=True)
        update_file(self._objects, key).unlink(missing_ok=True)

    def _file(self, key: RoundKey) -> Path:
        return self._folder / _name(key)


def update_file(objects: Path, key: RoundKey) -> Path:
    """Where the worker leaves the large update of a phase, in the folder of objects."""
    return objects / f"update-{_name(key)}"


def leave(parts: Sequence[bytes | memoryview], objects: Path, key: RoundKey) -> Blob:
    """A phase's packed update as an object: inline when it is small, else a file in the folder of objects."""
    digest, size = packing.digest(parts), sum(memoryview(part).nbytes for part in parts)
    if size <= INLINE_LIMIT:
        return Blob(digest, size, b"".join(parts))
    codec.write(parts, update_file(objects, key))
    return Blob(digest, size)


def letter_file(objects: Path, letter: Letter | Awaited) -> Path:
    """Where a large letter lies on its way between the agent and the worker, in the folder of objects."""
    return objects / f"letter-{_name(letter.key)}-{letter.sender}-{letter.receiver}-{letter.number}"


def _name(key: RoundKey) -> str:
    """A server may name a run as it likes; it names no path."""
    return hashlib.sha256(f"{key.run}\x1f{key.round}\x1f{key.kind}".encode()).hexdigest()


def _read(file: Path) -> Offer | None:
    try:
        frame = framing.decode_from_node(file.read_bytes())
    except WireError:
        return None
    return frame if isinstance(frame, Offer) else None
