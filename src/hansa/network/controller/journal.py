"""What happens, told as it happens: stored events in commit order, and live progress that nobody keeps."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from hansa.messages import Value
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import EventRecord

__all__ = ["Journal", "Live", "event"]

_log = structlog.get_logger(__name__)

_BACKLOG = 1000
"""Live items that a slow reader may fall behind by; older ones are dropped, stored events never."""
_LAGS = 100
"""Events of which it is remembered how long it took to tell them."""


@dataclass(frozen=True, slots=True)
class Live:
    """Something that is only true now: who has started, how far a client is. Not stored, without a cursor."""

    project: str
    session: str
    kind: str
    """For example round.opened, client.progress, update.accepted."""
    data: Mapping[str, Value] = field(default_factory=dict)
    at: float = 0.0


class Journal:
    """Writes events, and wakes those who follow them."""

    def __init__(self, store: MetadataStore, watch: Callable[[EventRecord | Live], None] = lambda _: None) -> None:
        """store: where events are kept; watch: is shown all that this controller tells, of every project, at once."""
        self._store = store
        self._watches = [watch]
        self._followers: set[asyncio.Queue[Live | None]] = set()
        self._pending: set[asyncio.Task[None]] = set()
        self._lags: deque[float] = deque(maxlen=_LAGS)

    @property
    def lag(self) -> float | None:
        """The longest time, in seconds, that passed lately until followers were told an event; None: none was told."""
        return max(self._lags, default=None)

    @property
    def following(self) -> int:
        """How many follow now."""
        return len(self._followers)

    def watched_by(self, watch: Callable[[EventRecord | Live], None]) -> None:
        """Show all that is told, at once, to this one too: it must not wait."""
        self._watches.append(watch)

    async def record(self, *events: EventRecord) -> None:
        """Store events in one transaction and tell the followers."""
        await self._store.put(*events)
        self.notify(*events)

    def later(self, record: EventRecord) -> None:
        """Store an event soon, without waiting; `aclose` waits for it."""
        task = asyncio.create_task(self.record(record))
        self._pending.add(task)
        task.add_done_callback(self._stored)

    async def aclose(self) -> None:
        """Wait for the events that are being stored."""
        await asyncio.gather(*self._pending, return_exceptions=True)

    def _stored(self, task: asyncio.Task[None]) -> None:
        self._pending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("an event could not be stored", exc_info=error)

    def notify(self, *events: EventRecord) -> None:
        """Events were stored (with a round, in its transaction)."""
        for told in events:
            self._tell(told)
        for queue in self._followers:
            _push(queue, None)

    def live(self, project: str, session: str, kind: str, **data: Value) -> None:
        """Tell the followers, and nobody later."""
        told = Live(project, session, kind, data, time.time())
        self._tell(told)
        for queue in self._followers:
            _push(queue, told)

    def _tell(self, told: EventRecord | Live) -> None:
        for watch in self._watches:
            watch(told)

    async def follow(self, project: str, after: int, session: str = "") -> AsyncIterator[EventRecord | Live]:
        """Stored events with an id above `after`, then new ones and live ones as they happen, without a gap.

        session: only this session's, and the network's own; empty: the whole project's.
        """
        queue: asyncio.Queue[Live | None] = asyncio.Queue(_BACKLOG)
        self._followers.add(queue)
        try:
            wanted = {session, ""} if session else None
            catching_up = True
            while True:
                page = await self._store.list(EventRecord, Query(project, after=after, limit=1000))
                for stored in page.items:
                    after = stored.id
                    if not catching_up:
                        self._lags.append(max(0.0, time.time() - stored.at))
                    if wanted is None or stored.session in wanted:
                        yield stored
                if page.total > len(page.items):
                    continue
                catching_up = False
                while (item := await queue.get()) is not None:
                    if item.project == project and (wanted is None or item.session in wanted):
                        yield item
        finally:
            self._followers.discard(queue)


def event(project: str, session: str, kind: str, message: str, **data: Value) -> EventRecord:
    """An event that happens now and is not stored yet."""
    return EventRecord(0, project, session, kind, message, time.time(), data)


def _push(queue: asyncio.Queue[Live | None], item: Live | None) -> None:
    """Queue an item; a full queue loses its oldest live item, and never the last call to look at the store."""
    if queue.full():
        dropped = queue.get_nowait()
        if dropped is None and item is not None:
            item = None
    queue.put_nowait(item)
