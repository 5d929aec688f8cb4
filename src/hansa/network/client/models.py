"""The models that a client was given: downloaded once, and kept while a task needs them."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from hansa.network.link import Link
from hansa.wire.frames import Blob

__all__ = ["Fetch", "Models"]

Fetch: TypeAlias = Callable[[Blob, Path], Awaitable[bool]]
"""Puts an object into a file that is not there yet, or is whole; False: it has it not."""

_KEPT = 3
"""Downloaded models that stay: the one that is evaluated is the one that is trained from next."""

_PROGRESS = 5.0
"""Seconds between two reports of a download that goes on; a third of the lease where that is less."""


class Models:
    """Broadcast models, in the folder of objects."""

    def __init__(self, work: Path, objects: Path, link: Link, fetch: Fetch | None = None) -> None:
        """work: where they are while they are not whole; fetch: tried before the network; None: nobody has them."""
        self._work = work
        self._objects = objects
        self._link = link
        self._fetch = fetch
        self._there: list[str] = []
        self._needed: Counter[str] = Counter()
        """Models of tasks that are in hand, or wait for their turn."""

    @contextmanager
    def needed(self, model: Blob) -> Iterator[None]:
        """Once it is there, it stays until the block ends."""
        self._needed[model.digest] += 1
        try:
            yield
        finally:
            self._needed -= Counter((model.digest,))

    async def find(self, model: Blob, progress: Callable[[str, float, float], None], lease: float) -> None:
        """Have it in the folder of objects, unless it came inline. progress: see `Telling.progress`.

        lease: seconds of the task's, which a download keeps as long as bytes come, however slowly.
        """
        if model.inline or not model.size:
            return
        clock, every = asyncio.get_running_loop().time, min(_PROGRESS, lease / 3)
        reported = clock()

        def on_progress(have: int) -> None:
            nonlocal reported
            if clock() - reported >= every or have == model.size:
                reported = clock()
                progress("download", have, model.size)

        target = self._objects / model.digest
        if self._fetch is None or not await self._fetch(model, target):
            await self._link.download(model, target, on_progress, aside=self._work)
        if model.digest in self._there:
            self._there.remove(model.digest)
        self._there.append(model.digest)
        for digest in self._there[:-_KEPT]:
            if not self._needed[digest]:
                (self._objects / digest).unlink(missing_ok=True)
                self._there.remove(digest)
