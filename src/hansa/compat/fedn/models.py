"""Model files on their way to and from FEDn's clients, on disk: in memory is no more than a piece of each."""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from hansa.arrays import Arrays
from hansa.compat.fedn.formats import helper_of, write_model
from hansa.errors import ConnectionFailedError, InputError, NotFoundError
from hansa.store.disk import explained

__all__ = ["Files", "Room", "Uploads"]

_FILES_KEPT: Final = 8
"""Model files that stay, each in one helper's format; a round needs one or two."""
_UPLOADS_KEPT: Final = 4
"""Uploads of one client that nothing was made of yet; an older one was of a task that is over."""


class Room:
    """Memory that work on models may take at once: who would take more waits, unless nobody else works."""

    def __init__(self, limit: int, slot: asyncio.Semaphore) -> None:
        """limit: bytes; slot: one of those of the server in whose process this is, for each update."""
        self._limit = limit
        self._slot = slot
        self._taken = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        """Room for an update for which so many bytes are needed."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._limit)
            self._taken += size
        try:
            async with self._slot:
                yield
        finally:
            async with self._changed:
                self._taken -= size
                self._changed.notify_all()


class Files:
    """Models as a helper writes them: made once, however many clients fetch them."""

    def __init__(self, folder: Path) -> None:
        """folder: their own; what an earlier process left in it goes."""
        self._folder = _emptied(folder)
        self._known: OrderedDict[tuple[str, str], Path] = OrderedDict()
        self._turn = asyncio.Lock()
        self.largest = 0
        """Bytes of the largest one that was made."""

    def find(self, model: str, helper: str) -> Path | None:
        """The file of a model, by its digest; None: it was not made, or is no more."""
        return self._known.get((model, helper))

    async def make(self, model: str, helper: str, load: Callable[[], Arrays]) -> Path:
        """The same, made if need be; load: called in a thread. Raises what it raises, and `ConfigError`."""
        async with self._turn:
            file = self._known.get((model, helper))
            if file is None:
                file = self._folder / uuid.uuid4().hex
                await asyncio.to_thread(self._write, file, helper, load)
                self._known[model, helper] = file
            self._known.move_to_end((model, helper))
            while len(self._known) > _FILES_KEPT:
                _, old = self._known.popitem(last=False)
                old.unlink(missing_ok=True)  # who reads it has it open
        return file

    def _write(self, file: Path, helper: str, load: Callable[[], Arrays]) -> None:
        with explained("keep a model for FEDn's clients in", self._folder):
            made = helper_of(helper)
            with file.open("wb") as out:
                write_model(load(), made, out)
                self.largest = max(self.largest, out.tell())


class Uploads:
    """What clients have sent, until they say what it is."""

    def __init__(self, folder: Path, limit: int) -> None:
        """folder: their own; limit: bytes of all uploads that wait, of whichever client."""
        self._folder = _emptied(folder)
        self._limit = limit
        self._held = 0
        """Bytes that are here, or on their way."""
        self._whole: dict[str, OrderedDict[str, Path]] = {}

    async def receive(self, client: str, pieces: AsyncIterator[tuple[str, bytes]], most: int) -> str:
        """Keep the bytes of the pieces (name of the upload, data); returns the name. most: bytes.

        A client that sends the same again, whole or after a break, has its last whole one kept. Raises `InputError`,
        and `ConnectionFailedError` while there is no room for more.
        """
        file, name, size = self._folder / uuid.uuid4().hex, "", 0
        whole = False
        try:
            with explained("keep an upload in", self._folder), file.open("wb") as out:
                async for given, data in pieces:
                    name, size, self._held = name or given, size + len(data), self._held + len(data)
                    if given and given != name:
                        raise InputError(f"one upload has two names, {name[:64]!r} and {given[:64]!r}")
                    if size > most:
                        raise InputError(f"an upload has more than the {most:,} bytes that it may have")
                    if self._held > self._limit:
                        raise ConnectionFailedError("uploads of other clients fill the room that there is: try again")
                    out.write(data)
            if not name:
                raise InputError("an upload has no id")
            whole = True
        finally:
            if not whole:
                self._held -= size
                file.unlink(missing_ok=True)
        kept = self._whole.setdefault(client, OrderedDict())
        for old in (kept.pop(name, None), kept.popitem(last=False)[1] if len(kept) >= _UPLOADS_KEPT else None):
            if old is not None:
                self._held -= old.stat().st_size
                old.unlink(missing_ok=True)
        kept[name] = file
        return name

    def take(self, client: str, name: str) -> Path:
        """The file of an upload, which is the caller's from now on; raises `NotFoundError`."""
        file = self._whole.get(client, OrderedDict()).pop(name, None)
        if file is None:
            raise NotFoundError(f"there is no upload {name[:64]!r} of {client}: send the model first")
        self._held -= file.stat().st_size
        return file


def _emptied(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        left.unlink()
    return folder
