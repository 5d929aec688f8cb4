"""What FEDn's clients and scripts tell that hansa itself has no place for: documents, kept in the metadata store."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

import structlog

from hansa.errors import HansaError, NotFoundError
from hansa.network.patience import patiently
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import NoteRecord

__all__ = ["Notes"]

_log = structlog.get_logger(__name__)

_BATCH: Final = 500
_WAITING: Final = 20_000
"""Notes that wait to be stored; more are dropped, and that is said."""
_PAGE: Final = 1000


class Notes:
    """Documents of one project, by kind and id. What is told is stored a moment later, many at once."""

    def __init__(self, store: MetadataStore, project: str) -> None:
        """store: of the controller that leads."""
        self._store = store
        self._project = project
        self._waiting: asyncio.Queue[NoteRecord] = asyncio.Queue(_WAITING)
        self._writing: asyncio.Task[None] | None = None
        self._dropped = 0

    def open(self) -> None:
        """Begin to store."""
        self._writing = asyncio.create_task(self._write())

    async def aclose(self) -> None:
        """Store what waits still."""
        if self._writing is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._waiting.join()
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    def tell(self, kind: str, data: Mapping[str, Any], *, session: str = "", name: str = "") -> NoteRecord:
        """Keep a document, a moment later; name: of one that takes the place of its former self."""
        note = self._note(kind, data, session, name)
        try:
            self._waiting.put_nowait(note)
        except asyncio.QueueFull:
            self._dropped += 1
            if self._dropped == 1 or self._dropped % _PAGE == 0:
                _log.warning("what FEDn's clients tell is more than can be stored; left out", left_out=self._dropped)
        return note

    async def put(self, kind: str, data: Mapping[str, Any], *, session: str = "", name: str = "") -> NoteRecord:
        """Keep a document now; one that is there keeps the time at which it was made."""
        note = self._note(kind, data, session, name)
        with suppress(NotFoundError):
            note = replace(note, created_at=(await self.get(kind, name)).created_at)
        await self._store.put(note)
        return note

    async def get(self, kind: str, name: str) -> NoteRecord:
        """One document; raises `NotFoundError`."""
        await self._waiting.join()
        return await self._store.get(NoteRecord, self._project, f"{kind}/{name}")

    async def settled(self) -> None:
        """Wait until all that was told is stored."""
        await self._waiting.join()

    async def every(self, kind: str) -> AsyncIterator[NoteRecord]:
        """All documents of a kind, oldest first."""
        await self._waiting.join()
        offset, total = 0, 1
        while offset < total:
            page = await self._store.list(NoteRecord, Query(self._project, {"kind": kind}, limit=_PAGE, offset=offset))
            for note in page.items:
                yield note
            offset, total = offset + _PAGE, page.total

    def _note(self, kind: str, data: Mapping[str, Any], session: str, name: str) -> NoteRecord:
        now = time.time()
        name = name or str(uuid.uuid4())
        return NoteRecord(f"{kind}/{name}", self._project, kind, name, session, now, now, dict(data))

    async def _write(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            newest = {note.id: note for note in batch}
            try:
                await patiently(partial(self._store.put, *newest.values()), who="FEDn's notes")
            except HansaError as error:
                _log.error("what FEDn's clients told could not be stored", notes=len(batch), why=str(error))
            finally:
                for _ in batch:
                    self._waiting.task_done()
