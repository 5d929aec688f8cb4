"""What the phases of a session broadcast, as objects that are there until they are over, and what is given up then."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from hansa.arrays import Arrays
from hansa.errors import HansaError, StorageUnavailableError
from hansa.network.controller.retention import Retention
from hansa.network.controller.row import SessionRow
from hansa.wire import codec
from hansa.wire.chunks import INLINE_LIMIT
from hansa.wire.frames import Blob

__all__ = ["Broadcasts"]

_log = structlog.get_logger(__name__)


class Broadcasts:
    """The objects of one session under way."""

    def __init__(self, row: SessionRow, retention: Retention) -> None:
        self._row = row
        self._retention = retention
        self._over: frozenset[str] = frozenset()
        """Objects that only a phase that is over has needed."""
        self._pruning: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def of(self, arrays: Arrays, newest: Arrays) -> AsyncIterator[Blob]:
        """What a phase needs, as an object that is there until it is over; small ones travel inline too.

        newest: the session's model, which is an object already once a round is committed.
        """
        parts = codec.encode(arrays)
        size = codec.size(arrays)
        async with AsyncExitStack() as held:
            if arrays is newest and self._row.session.model is not None:
                digest = self._row.session.model
                await held.enter_async_context(self._retention.holds.holding(digest))
            else:
                digest = await self.stored(parts, held)
                self._over |= {digest}
            yield Blob(digest, size, b"".join(parts) if size <= INLINE_LIMIT else b"")

    async def stored(self, parts: Sequence[bytes | memoryview], held: AsyncExitStack) -> str:
        """Store an object that nobody removes before `held` ends."""
        digest = await self._row.patiently(lambda: self._retention.put(parts))
        held.callback(self._retention.holds.release, digest)
        return digest

    def prune_soon(self, settled: Callable[[], Awaitable[object]]) -> None:
        """Remove what the last round has made unnecessary, beside the next one.

        settled: returns once all that is known of earlier rounds is stored: by that models are kept.
        """
        if self._pruning is None or self._pruning.done():
            self._pruning = asyncio.create_task(self._prune_after(settled))

    async def prune(self) -> None:
        """Remove it now, once nothing is being removed."""
        if self._pruning is not None:
            await asyncio.wait([self._pruning])
        await self._prune()

    async def aclose(self) -> None:
        """Remove no more."""
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.gather(self._pruning, return_exceptions=True)

    async def _prune_after(self, settled: Callable[[], Awaitable[object]]) -> None:
        await settled()
        await self._prune()

    async def _prune(self) -> None:
        """A store that is away is asked again after another round."""
        over, self._over = self._over, frozenset()
        session = self._row.session
        try:
            over = await self._retention.discard(over)
            await self._retention.prune(session)
        except StorageUnavailableError as error:
            _log.warning("nothing is pruned while a store is away", session=session.id, why=str(error))
        except HansaError as error:
            _log.error("old models could not be pruned", session=session.id, why=str(error))
        self._over |= over
