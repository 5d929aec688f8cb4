"""One open phase on one server: who is invited here, what is summed, and which combiners below still owe a sum."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from hansa.algorithm import Aggregator, Partial, Plan
from hansa.arrays import Arrays
from hansa.errors import Reason, UpdateRejectedError, WireError
from hansa.messages import Update
from hansa.rounds.intake import Admit, Intake, Repeat
from hansa.run import resolve
from hansa.wire import codec
from hansa.wire.frames import Offer, OpenRound

__all__ = ["Phase"]


class Phase:
    """One `RoundKey` on one server. `accumulate` and `merge` run on the folding thread, the rest on the loop."""

    def __init__(self, opened: OpenRound) -> None:
        """opened: the first `OpenRound` of this key."""
        self.opened = opened
        self.key = opened.key
        key = opened.key
        self.intake = Intake(key.run, key.round, key.kind, opened.spec.max_weight)
        self.sealing = False
        self.partial: Partial | None = None
        self.combiners: dict[str, set[str]] = {}
        """Combiners below that take part, each with the clients invited below it."""
        self.participants: set[str] = set()
        """Children that were sent this phase: they are told when it ends."""
        self.aggregator: Aggregator = resolve(opened.spec).algorithm.aggregator
        self._plan: Plan = None
        self._limit = 0
        self._owed: dict[str, asyncio.Event] = {}
        self._lock = asyncio.Lock()
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def invite(self, clients: Iterable[str], combiners: Mapping[str, Iterable[str]]) -> None:
        """More of them take part; inviting again reopens a sealed phase for them.

        clients: streams that end here; combiners: by name, the invited clients below each.
        """
        clients = tuple(clients)
        self.sealing = False
        self.intake.reopen()
        self.intake.invite(clients)
        for name, below in combiners.items():
            self.combiners.setdefault(name, set()).update(below)
        self.participants.update(clients, combiners)

    def admit(self, offer: Offer) -> Admit | Repeat:
        """Whether an update may be sent; raises `UpdateRejectedError`."""
        contribution = offer.contributions[0]
        self.check_open()
        answer = self.intake.offer(contribution.client, contribution.num_examples, offer.blob.digest)
        if offer.blob.size > self._limit:
            size, limit = f"{offer.blob.size:,}", f"{self._limit:,}"
            raise UpdateRejectedError(
                Reason.TOO_LARGE, f"the update has {size} bytes; a change of this model has at most {limit}"
            )
        return answer

    async def prepare(self, model: memoryview) -> None:
        """Derive the plan of the sum and the size of an update from the broadcast model, once."""
        async with self._lock:
            if self._plan is None:
                self._plan, self._limit = await asyncio.to_thread(self._planned, model)

    def accumulate(self, offer: Offer, data: memoryview) -> None:
        """Check and fold one update; raises `UpdateRejectedError`, and then nothing has changed."""
        contribution = replace(offer.contributions[0], digest=offer.blob.digest)
        arrays = _decoded(data)
        update = Update(arrays, contribution.num_examples, contribution.metrics)
        self.partial = self.aggregator.accumulate(self._plan, self._own_partial(), update, contribution)

    def merge(self, offer: Offer, data: memoryview) -> None:
        """Check and add the sum of a combiner below; raises `UpdateRejectedError`, and then nothing has changed."""
        strangers = [part.client for part in offer.contributions if part.client not in self.combiners[offer.sender]]
        if strangers:
            raise UpdateRejectedError(
                Reason.NOT_INVITED, f"{offer.sender} sums {strangers[:3]}, who are not invited below it"
            )
        try:
            right = codec.decode_partial(data, offer.contributions, offer.weight)
        except WireError as error:
            raise UpdateRejectedError(Reason.MALFORMED, str(error)) from error
        self.partial = self.aggregator.merge(self._plan, self._own_partial(), right)

    def take_partial(self) -> Partial | None:
        """The sum so far; this phase begins a new one, should it be opened again."""
        partial, self.partial = self.partial, None
        return partial

    def check_open(self) -> None:
        """Raise `UpdateRejectedError` (late) once the phase is sealed: the offer waited too long for its turn."""
        if self.sealing:
            raise UpdateRejectedError(Reason.LATE, f"round {self.key.round} closed before the update had its turn")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """An admitted offer is on its way into the sum: a seal waits for it."""
        self._busy += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until every admitted offer is settled."""
        await self._idle.wait()

    def owe(self, combiners: Iterable[str]) -> list[asyncio.Event]:
        """A seal goes to these combiners: events that are set when each has delivered or is lost."""
        self._owed = {name: asyncio.Event() for name in combiners}
        return list(self._owed.values())

    def paid(self, combiner: str) -> None:
        """A combiner has delivered its sum, or is lost and never will."""
        if combiner in self._owed:
            self._owed[combiner].set()

    def _own_partial(self) -> Partial:
        return self.partial if self.partial is not None else self.aggregator.zero(self._plan)

    def _planned(self, model: memoryview) -> tuple[Plan, int]:
        template = codec.decode(model)
        return self.aggregator.plan(template), codec.update_limit(template)


def _decoded(data: memoryview) -> Arrays:
    try:
        return codec.decode(data)
    except WireError as error:
        raise UpdateRejectedError(Reason.MALFORMED, str(error)) from error
