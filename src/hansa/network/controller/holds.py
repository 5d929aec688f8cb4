"""Which objects are in use in this process, and which are being removed: never one object both."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["Holds"]


class Holds:
    """Whoever reads an object, or writes a row that names it, holds it; whoever removes it claims it first."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._claimed: dict[str, asyncio.Event] = {}

    async def hold(self, digest: str) -> None:
        """Keep an object from being removed until `release`; a removal under way is waited for."""
        while (removed := self._claimed.get(digest)) is not None:
            await removed.wait()
        self._held[digest] += 1

    def release(self, digest: str) -> None:
        """The other half of one `hold`."""
        self._held[digest] -= 1
        if not self._held[digest]:
            del self._held[digest]

    @asynccontextmanager
    async def holding(self, digest: str) -> AsyncIterator[None]:
        """`hold` and `release`."""
        await self.hold(digest)
        try:
            yield
        finally:
            self.release(digest)

    @contextmanager
    def claim(self, digests: Collection[str]) -> Iterator[frozenset[str]]:
        """Those that nobody holds and nobody else claims; nobody can hold them before the block ends."""
        free = frozenset(digest for digest in digests if digest not in self._held and digest not in self._claimed)
        ended = asyncio.Event()
        self._claimed |= dict.fromkeys(free, ended)
        try:
            yield free
        finally:
            for digest in free:
                del self._claimed[digest]
            ended.set()
