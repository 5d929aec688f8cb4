"""Objects that the children of a server download: fetched once from above, kept while a phase needs them."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from hansa.errors import HansaError, NotFoundError
from hansa.wire.frames import Blob

__all__ = ["Blobs"]


class Blobs:
    """Objects by digest, each fetched once however many ask for it."""

    def __init__(self, fetch: Callable[[Blob], Awaitable[memoryview]], kept: int) -> None:
        """fetch: brings an object from above; kept: how many unneeded objects stay for the next phase."""
        self._fetch = fetch
        self._kept = kept
        self._needed: dict[str, int] = {}
        self._tasks: OrderedDict[str, asyncio.Task[memoryview]] = OrderedDict()
        self._renewed: set[str] = set()
        """Objects that a phase has come to need while they were being fetched."""

    def want(self, blob: Blob) -> None:
        """A phase needs this object: begin to fetch it, unless it is here or on its way."""
        self._needed[blob.digest] = self._needed.get(blob.digest, 0) + 1
        self._begin(blob)
        self._tasks.move_to_end(blob.digest)

    def release(self, blob: Blob) -> None:
        """A phase needs it no longer."""
        self._needed[blob.digest] -= 1
        if not self._needed[blob.digest]:
            del self._needed[blob.digest]
        idle = [digest for digest in self._tasks if digest not in self._needed]
        for digest in idle[: max(0, len(idle) - self._kept)]:
            self._tasks.pop(digest).cancel()

    def is_coming(self, digest: str) -> bool:
        """Whether it is on its way from above."""
        task = self._tasks.get(digest)
        return task is not None and not task.done()

    async def get(self, digest: str) -> memoryview:
        """The bytes; raises `NotFoundError` unless a phase here has asked for them, else what the fetch raised."""
        task = self._tasks.get(digest)
        if task is None:
            raise NotFoundError(f"the object {digest[:12]}… is not needed by any round that is open here")
        await asyncio.wait([task])  # a waiter that is cancelled leaves the fetch to the others
        if task.cancelled():
            raise NotFoundError(f"the object {digest[:12]}… was given up: the round that needed it is over")
        return task.result()

    async def aclose(self) -> None:
        """Stop fetching."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _begin(self, blob: Blob) -> None:
        task = self._tasks.get(blob.digest)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            self._tasks[blob.digest] = asyncio.create_task(self._fetched(blob))
        elif not task.done():
            self._renewed.add(blob.digest)

    async def _fetched(self, blob: Blob) -> memoryview:
        """The bytes; what is refused because the phase is over above is asked for again when another one is open."""
        if blob.size == len(blob.inline):
            return memoryview(blob.inline)
        try:
            while True:
                self._renewed.discard(blob.digest)
                try:
                    return await self._fetch(blob)
                except HansaError:
                    if blob.digest not in self._renewed:
                        raise
        finally:
            self._renewed.discard(blob.digest)
