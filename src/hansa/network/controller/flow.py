"""What outlives the rounds of an asynchronous session: who is at work, and on which models."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import structlog

from hansa.errors import NotFoundError
from hansa.network.controller.commit import broadcast_of, last_working
from hansa.network.controller.holds import Holds
from hansa.network.controller.row import SessionRow
from hansa.rounds.buffered import Buffered
from hansa.rounds.events import Event
from hansa.run import Run
from hansa.store.ports import MetadataStore, ObjectStore
from hansa.store.records import SessionRecord
from hansa.wire.frames import Blob

__all__ = ["Flow"]

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Flow:
    """Of one session."""

    machine: Buffered
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    models: dict[int, Blob] = field(default_factory=dict)
    """By round: what is broadcast in this one, and what those who are at work were given in theirs."""
    _held: dict[int, AsyncExitStack] = field(default_factory=dict)

    @classmethod
    def of(cls, session: SessionRecord, run: Run) -> Self | None:
        """From the last committed round on; None: the session is no asynchronous one."""
        buffering = run.algorithm.buffering
        if buffering is None:
            return None
        machine = Buffered(session.spec.rules, buffering.size, buffering.max_staleness, run.queue)
        machine.number = session.round
        return cls(machine)

    async def take_up(
        self, row: SessionRow, store: MetadataStore, objects: ObjectStore, holds: Holds
    ) -> frozenset[str]:
        """Go on with those who were at work when a controller died, as far as their models are there; returns them."""
        session = row.session
        bases = dict(await row.patiently(lambda: last_working(session, store)))
        for number in sorted(set(bases.values())):
            digest = await row.patiently(partial(broadcast_of, session, number, store))
            async with AsyncExitStack() as held:
                await held.enter_async_context(holds.holding(digest))
                try:
                    size = await row.patiently(partial(objects.size, digest))
                except NotFoundError:
                    _log.warning("clients begin anew: their model is gone", session=session.id, round=number)
                    continue
                self.hold(number, Blob(digest, size), held.pop_all())
        there = {client: base for client, base in bases.items() if base in self.models}
        self.machine.take_up(session.round, there, asyncio.get_running_loop().time())
        return frozenset(there)

    def hold(self, number: int, model: Blob, held: AsyncExitStack) -> None:
        """A model of a round. held: keeps its object from being removed."""
        self.models[number], self._held[number] = model, held

    async def give_up(self) -> None:
        """Let go of models that nobody works on any more."""
        for number in self.models.keys() - set(self.machine.bases.values()):
            del self.models[number]
            await self._held.pop(number).aclose()

    async def aclose(self) -> None:
        """Let go of all."""
        while self._held:
            await self._held.popitem()[1].aclose()
