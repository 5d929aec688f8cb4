"""A whole federation in one process, `hansa.network.local.LocalNetwork`, with what tests ask it."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import cradle

from hansa.network.local import PROJECT, LocalNetwork
from hansa.store.ports import Query
from hansa.store.records import ContributionRecord, EventRecord, MetricRecord, RoundRecord, SessionRecord

__all__ = ["PROJECT", "Federation", "federation"]


class Federation(LocalNetwork):
    """The controller, what was started below it, and the records of what happened."""

    async def rounds(self, session: SessionRecord) -> tuple[RoundRecord, ...]:
        page = await self.controller.store.list(
            RoundRecord, Query(PROJECT, where={"session": session.id}, sort="number")
        )
        return page.items

    async def contributions(self, session: SessionRecord) -> tuple[ContributionRecord, ...]:
        query = Query(PROJECT, where={"session": session.id}, sort="client")
        return (await self.controller.store.list(ContributionRecord, query)).items

    async def metrics(self, session: SessionRecord, **where: str | int) -> tuple[MetricRecord, ...]:
        query = Query(PROJECT, where={"session": session.id, **where})
        return (await self.controller.store.list(MetricRecord, query)).items

    async def events(self, session: SessionRecord, kind: str) -> tuple[EventRecord, ...]:
        query = Query(PROJECT, where={"session": session.id, "kind": kind})
        return (await self.controller.store.list(EventRecord, query)).items


@asynccontextmanager
async def federation(
    folder: Path, combiners: Iterable[str] = (), central_data: Path | None = None
) -> AsyncIterator[Federation]:
    """A controller on free ports, with these combiners below the root; everything is stopped at the end."""
    with cradle.workers():
        async with Federation.open(folder, combiners, silence=5.0, central_data=central_data) as network:
            yield network
