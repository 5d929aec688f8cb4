"""Numbers on the way, kept: those that tasks log with their session, those of machines for some days."""

import asyncio
import time
from collections import Counter
from typing import Final

import structlog

from hansa.errors import HansaError
from hansa.messages import Log, Sample
from hansa.network.controller.journal import Journal
from hansa.network.patience import patiently
from hansa.store.ports import MetadataStore
from hansa.store.records import SampleRecord
from hansa.wire.frames import Samples

__all__ = ["KEPT_FOR", "SampleKeeper"]

_log = structlog.get_logger(__name__)

KEPT_FOR: Final = 7 * 86_400.0
"""Seconds for which what machines told of themselves is kept, where nobody says it."""

_AT_ONCE: Final = 1000
"""Numbers in one transaction."""
_BACKLOG: Final = 100_000
"""Numbers that wait to be stored; more are dropped while the store is away."""
_PER_MINUTE: Final = 600
"""Numbers that one machine may tell of itself in a minute."""
_EXPIRES: Final = 3600.0
"""Seconds between two looks for what is too old."""


class SampleKeeper:
    """Of one project. What is too much is dropped: these numbers are for people, and nothing is decided by them."""

    def __init__(self, project: str, store: MetadataStore, journal: Journal, kept_for: float = KEPT_FOR) -> None:
        """kept_for: seconds, of what machines tell of themselves."""
        self._project = project
        self._store = store
        self._journal = journal
        self._kept_for = kept_for
        self._waiting: asyncio.Queue[SampleRecord] = asyncio.Queue(_BACKLOG)
        self._taken: Counter[tuple[str, int, str, str]] = Counter()
        """By session, round, task and client."""
        self._minute = 0
        self._told: Counter[str] = Counter()
        """By client, in this minute."""
        self._expired_at = 0.0

    def take(self, frame: Samples) -> None:
        """Store these soon, as far as they may be."""
        now = time.time()
        kept = [record for each in frame.values if (record := self._record(frame, each, now)) is not None]
        for record in kept:
            if self._waiting.full():
                _log.warning("numbers on the way are dropped: the store does not take them", client=frame.client)
                return
            self._waiting.put_nowait(record)
        if kept and frame.key is not None:
            last = {each.name: each.value for each in kept}
            steps = {each.name: each.step for each in kept}
            where = {"round": frame.key.round, "task": frame.key.kind.value}
            self._journal.live(
                self._project, frame.key.run, "client.logged", client=frame.client, values=last, steps=steps, **where
            )

    def forget(self, session: str) -> None:
        """A session is over: what was counted of it is not needed any more."""
        for key in [key for key in self._taken if key[0] == session]:
            del self._taken[key]

    async def run(self) -> None:
        """Store what comes, in batches, for as long as the project is served."""
        while True:
            batch = {(first := await self._waiting.get()).id: first}
            while len(batch) < _AT_ONCE and not self._waiting.empty():
                record = self._waiting.get_nowait()
                batch[record.id] = record
            records = tuple(batch.values())
            try:
                await patiently(lambda: self._store.put(*records), who=f"project {self._project}")  # noqa: B023 - awaited
                await self._expire(time.time())
            except HansaError as error:
                _log.error("numbers on the way could not be stored", project=self._project, why=str(error))

    async def _expire(self, now: float) -> None:
        if now - self._expired_at >= _EXPIRES:
            while await self._store.expire_samples(now - self._kept_for):
                pass
            self._expired_at = now

    def _record(self, frame: Samples, sample: Sample, now: float) -> SampleRecord | None:
        """The row of a number that may be kept, else None."""
        key, client = frame.key, frame.client
        if not 1 <= len(sample.name) <= Log.LONGEST or sample.step < 0:
            return None
        at = sample.at if 0 < sample.at <= now else now
        if key is None:
            minute = int(now // 60)
            if minute != self._minute:
                self._minute, self._told = minute, Counter()
            self._told[client] += 1
            if self._told[client] > _PER_MINUTE:
                return None
            name = f"{client}/{sample.name}/{at!r}"
            return SampleRecord(name, self._project, "", 0, "", client, sample.name, sample.step, sample.value, at)
        counted = (key.run, key.round, key.kind.value, client)
        self._taken[counted] += 1
        if self._taken[counted] > Log.MOST:
            return None
        name = f"{key.run}/{key.round}/{key.kind.value}/{client}/{sample.name}/{sample.step}"
        return SampleRecord(
            name, self._project, key.run, key.round, key.kind.value, client,
            sample.name, sample.step, sample.value, at,
        )  # fmt: skip
