"""The phases on one server: who is invited here, what is summed, and which combiners below still owe a sum."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

from hansa.algorithm import Aggregator, Keeping, Partial, Plan
from hansa.arrays import Arrays
from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import Update
from hansa.network.combiner.signatures import KeysOf, check_offer
from hansa.network.files import unload
from hansa.rounds.intake import Admit, Intake, Repeat
from hansa.run import resolve
from hansa.store.spool import empty_partial, scratch
from hansa.wire import codec, packing
from hansa.wire.frames import Blob, Closed, Offer, OpenRound, RoundKey

__all__ = ["LONGEST_METRIC", "Phase", "Phases"]

LONGEST_METRIC = 200
"""Characters of a metric's name."""

_CLOSED_KEPT = 64
"""Phases whose end is remembered, to answer a node that missed it."""


class Phase:
    """One `RoundKey` on one server. `accumulate` and `merge` run on the folding thread, the rest on the loop.

    Of an asynchronous run one after another: it `flows`. Whoever is at work in one round is in the next, and what has
    come while one is sealed is added to the next; `models` are those that clients have.
    """

    def __init__(self, opened: OpenRound, spool: Path | None = None) -> None:
        """opened: the first `OpenRound` of this key, or run; spool: as `Hub`'s."""
        self.opened = opened
        self._run = resolve(opened.spec)
        buffering = self._run.algorithm.buffering
        self.flows = buffering is not None and opened.open > 0
        self.key = replace(opened.key, round=opened.open or opened.key.round)
        self.intake = Intake(
            self.key.run,
            self.key.round,
            self.key.kind,
            opened.spec.max_weight,
            flows=self.flows,
            max_staleness=buffering.max_staleness if buffering is not None else None,
        )
        self._most = buffering.size if buffering is not None else None
        """Updates of a round."""
        self._turns = 0
        self._changed = asyncio.Event()
        self.models: dict[int, Blob] = {}
        """By round: what is broadcast in this one, and what those who are at work were given in theirs."""
        self._arrays: dict[int, Arrays] = {}
        self.settled: dict[str, Closed] = {}
        """By client, of an asynchronous run: how its last task here that was counted ended."""
        self.sealing = False
        self.closed = ""
        """Why this phase takes nothing any more; empty while it may."""
        self.partial: Partial | None = None
        self._handed_up: set[str] = set()
        """Whose updates are in sums that were taken from here before."""
        self.combiners: dict[str, dict[str, int]] = {}
        """Combiners below that take part, each with the clients invited below it, and the rounds of their models."""
        self._withdrawn: set[str] = set()
        """Of an asynchronous run, clients below combiners whose tasks end with this round."""
        self.participants: set[str] = set()
        """Children that were sent this phase, or had something for it: they are told when it ends."""
        self.aggregator: Aggregator = self._run.algorithm.aggregator
        self._keeps = self.aggregator.shape != "sum"
        """Whether it keeps each client's update."""
        self._spool = spool
        self._plan: Plan = None
        self._outline: packing.Outline = {}
        self._limit = 0
        self._owed: dict[str, asyncio.Event] = {}
        self._lock = asyncio.Lock()
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def invite(self, clients: Iterable[str], combiners: Mapping[str, Iterable[str]], base: int) -> None:
        """More of them take part; inviting again reopens a sealed phase for them.

        clients: streams that end here; combiners: by name, the invited clients below each; base: the round of their
        model.
        """
        clients = tuple(clients)
        self.sealing = False
        self.intake.reopen()
        self.intake.invite(clients, base)
        for name, below in combiners.items():
            self.combiners.setdefault(name, {}).update(dict.fromkeys(below, base))
            self._withdrawn.difference_update(below)
        self.participants.update(clients, combiners)
        self._changed.set()

    def withdraw(self, client: str, key: RoundKey) -> None:
        """Of an asynchronous run: this task of a client has come to nothing, unless it delivers before the seal."""
        if not self.flows:
            return
        if client in self.intake.invited and self.intake.base_of(client) == key.round:
            self.intake.withdraw(client)
        if any(below.get(client) == key.round for below in self.combiners.values()):
            self._withdrawn.add(client)

    def advance(self, opened: OpenRound) -> tuple[Sequence[Blob], Sequence[Blob]]:
        """Of an asynchronous run, to the round that is open: (models that are needed now, those needed no longer)."""
        number = opened.open
        known = dict(self.models)
        if number > self.key.round:
            self.key = replace(self.key, round=number)
            self.intake.advance(number)
            self._plan, self._handed_up = None, set()
            for below in self.combiners.values():
                for client in self._withdrawn:
                    below.pop(client, None)
            self._withdrawn = set()
            at_work = {self.intake.base_of(client) for client in self.intake.invited}
            at_work.update(*(below.values() for below in self.combiners.values()))
            self.models = {base: blob for base, blob in known.items() if base in at_work}
            self._arrays = {base: arrays for base, arrays in self._arrays.items() if base in at_work}
        self.models |= {opened.key.round: opened.model, number: opened.current or opened.model}
        new = [blob for base, blob in self.models.items() if base not in known]
        return new, [blob for base, blob in known.items() if base not in self.models]

    def commit(self, closed: Closed) -> Mapping[str, Closed]:
        """Of an asynchronous run, that a round is committed: what each client that is counted in it is told."""
        told = {}
        for client in sorted(self.intake.accepted.intersection(closed.committed)):
            receipt = replace(closed.receipt, round=closed.key.round) if closed.receipt is not None else None
            key = replace(closed.key, round=self.intake.base_of(client))
            told[client] = Closed(key, (client,), closed.cause, receipt)
        self._withdrawn.update(closed.committed)
        self.settled |= told
        return told

    def tasks(self) -> Mapping[str, RoundKey]:
        """Of an asynchronous run, what the clients whose streams end here are at, as far as is known."""
        invited = sorted(self.intake.invited)
        return {client: replace(self.key, round=self.intake.base_of(client)) for client in invited}

    def admit(self, offer: Offer) -> Admit | Repeat:
        """Whether an update may be sent; raises `UpdateRejectedError`."""
        contribution = offer.contributions[0]
        self.participants.add(contribution.client)
        base = offer.key.round if self.flows else None
        answer = self.intake.offer(contribution.client, contribution.num_examples, offer.blob.digest, base)
        if isinstance(answer, Admit):
            (self.check_alive if self.flows else self.check_open)()
            self._check_announced(offer)
        return answer

    def check_signed(self, offer: Offer, keys_of: KeysOf) -> None:
        """Raise `UpdateRejectedError` unless those who are in an offer have signed it."""
        earlier = {base: blob.digest for base, blob in self.models.items()} if self.flows else None
        check_offer(offer, self.opened.spec.project, self.opened.model.digest, keys_of, earlier)

    @property
    def broadcast(self) -> Blob:
        """What is broadcast in this round."""
        return self.models[self.key.round] if self.flows else self.opened.model

    def base(self, offer: Offer) -> Blob:
        """Of an asynchronous run, the model that an update was made from, which counts in this round if it may.

        Raises `UpdateRejectedError`.
        """
        self.intake.check_task(offer.sender, offer.key.round)
        return self.models[offer.key.round]

    async def measure(self, model: memoryview) -> None:
        """Derive the size of an update, once; the models of an asynchronous run have one structure."""
        if not self._limit:
            template = self._run.template(codec.decode(model))
            self._limit, self._outline = codec.update_limit(template), packing.outline(template)

    async def prepare(self, model: memoryview, base: tuple[int, memoryview] | None = None) -> None:
        """Derive the plan of the sum and the size of an update from the broadcast model, once.

        base: of an asynchronous run, the round and the bytes of the model that an update was made from.
        """
        async with self._lock:
            if self._plan is None:
                self._plan, self._limit, self._outline, broadcast = await asyncio.to_thread(self._planned, model)
                self._arrays[self.key.round] = broadcast
                unload(model)
        if base is not None and base[0] not in self._arrays:
            self._arrays[base[0]] = codec.decode(base[1])

    async def ready(self) -> None:
        """Wait until an asynchronous round takes an update; raises `UpdateRejectedError` (late) when it is all over."""
        while not self.closed and (self.sealing or self._is_full):
            self._changed.clear()
            await self._changed.wait()
        self.check_alive()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until an update may be added to the sum of an asynchronous round, of which K are; then it is `busy`."""
        await self.ready()
        self._turns += 1
        try:
            with self.busy():
                yield
        finally:
            self._turns -= 1
            self._changed.set()

    @property
    def _is_full(self) -> bool:
        return self._most is not None and self._turns + len(self.intake.accepted) >= self._most

    def accumulate(self, offer: Offer, data: memoryview) -> None:
        """Check and fold one update; raises `UpdateRejectedError`, and then nothing has changed."""
        contribution = replace(offer.contributions[0], digest=offer.blob.digest)
        update = Update(packing.unpack(data, self._outline), contribution.num_examples, contribution.metrics)
        self._run.check(update)
        contribution = replace(contribution, norm=self._run.measured(update))
        if self.flows:
            base, now = offer.key.round, self.key.round
            update = self._run.counted(self._plan, update, now - base, self._arrays[base], self._arrays[now])
            contribution = replace(contribution, base=base)
        if self._keeps and codec.digest(update.arrays) != contribution.digest:
            raise UpdateRejectedError(
                Reason.MALFORMED,
                f"{self.opened.spec.aggregator} keeps updates, and servers above check them against what clients have "
                "signed: the bytes must be canonical, as `hansa.wire.codec` writes them, and not packed",
            )
        with _room_on_disk():
            self.partial = self.aggregator.accumulate(self._plan, self._own_partial(), update, contribution)

    def admit_sum(self, offer: Offer) -> None:
        """Raise `UpdateRejectedError` unless this sum is awaited, and may be what it claims to be."""
        owed = self._owed.get(offer.sender)
        if owed is None or owed.is_set() or self.closed:
            raise UpdateRejectedError(Reason.LATE, f"no sum of {offer.sender} is awaited in round {self.key.round}")
        self._check_size(offer)
        names, below = {part.client for part in offer.contributions}, self.combiners[offer.sender]
        strangers = sorted(names - below.keys())
        if self.flows:
            strangers += sorted(part.client for part in offer.contributions if part.base != below.get(part.client))
        if strangers:
            raise UpdateRejectedError(
                Reason.NOT_INVITED, f"{offer.sender} sums {strangers[:3]}, who are not invited below it"
            )
        again = sorted(names & self._handed_up)
        if again:
            raise UpdateRejectedError(
                Reason.DUPLICATE, f"{offer.sender} sums {again[:3]}, who are counted in this round already"
            )

    def merge(self, offer: Offer, data: memoryview) -> None:
        """Check and add the sum of a combiner below; raises `UpdateRejectedError`, and then nothing has changed."""
        right = codec.decode_partial(data, offer.contributions, offer.weight)
        self._check_kept(right)
        with _room_on_disk():
            self.partial = self.aggregator.merge(self._plan, self._own_partial(), right)

    def holds_updates(self, offer: Offer) -> bool:
        """Whether an offer is of many updates, whose bytes are for the disk."""
        return offer.partial and self._keeps

    def room(self, offer: Offer) -> memoryview:
        """Bytes on disk for an offer; it may wait for the disk."""
        with _room_on_disk():
            return scratch(offer.blob.size, self._spool)

    def take_partial(self) -> Partial | None:
        """The sum so far; this phase begins a new one, should it be opened again."""
        partial, self.partial = self.partial, None
        if partial is not None:
            self._handed_up.update(partial.contributions)
        return partial

    def check_open(self) -> None:
        """Raise `UpdateRejectedError` (late) once the phase is sealed: the offer waited too long for its turn."""
        self.check_alive()
        if self.sealing:
            raise UpdateRejectedError(Reason.LATE, f"round {self.key.round} closed before the update had its turn")

    def check_alive(self) -> None:
        """Raise `UpdateRejectedError` (late) once the phase is over here: its sum goes nowhere."""
        if self.closed:
            raise UpdateRejectedError(Reason.LATE, f"round {self.key.round} ended here: {self.closed}")

    def check_arrived(self, offer: Offer, arrived: bool) -> None:  # noqa: FBT001 - a fact, not a mode
        """Raise `UpdateRejectedError` (late) when a sum did not come, or came too late to go anywhere."""
        self.check_alive()
        if not arrived:
            raise UpdateRejectedError(Reason.LATE, f"{offer.sender} fell silent while it sent its sum")

    def close(self, why: str) -> None:
        """It is over: nobody waits for anything here."""
        self.closed = why
        self._changed.set()
        for owed in self._owed.values():
            owed.set()

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

    def _check_announced(self, offer: Offer) -> None:
        """What can be refused before a byte is taken."""
        self._check_size(offer)
        name = max(offer.contributions[0].metrics, key=len, default="")
        if len(name) > LONGEST_METRIC:
            raise UpdateRejectedError(
                Reason.TOO_LARGE, f"the metric {name[:20]!r}… has a name of {len(name)} characters; give it a short one"
            )

    def _check_size(self, offer: Offer) -> None:
        updates = len({part.client for part in offer.contributions}) if self.holds_updates(offer) else 1
        most = self._limit * updates
        if offer.blob.size > most:
            size, limit = f"{offer.blob.size:,}", f"{most:,}"
            raise UpdateRejectedError(
                Reason.TOO_LARGE, f"it has {size} bytes; a change of this model has at most {limit}"
            )

    def _check_kept(self, partial: Partial) -> None:
        """Raise `UpdateRejectedError` unless each update that is kept is the one that its client has signed."""
        if not self._keeps:
            return
        aggregator = cast("Keeping", self.aggregator)
        for client, part in partial.contributions.items():
            if codec.digest(aggregator.kept(self._plan, partial, client)) != part.digest:
                raise UpdateRejectedError(Reason.DIGEST, f"the update of {client} is not the one that it has signed")

    def _own_partial(self) -> Partial:
        return self.partial if self.partial is not None else empty_partial(self.aggregator, self._plan, self._spool)

    def _planned(self, model: memoryview) -> tuple[Plan, int, packing.Outline, Arrays]:
        broadcast = codec.decode(model)
        template = self._run.template(broadcast)
        return self.aggregator.plan(template), codec.update_limit(template), packing.outline(template), broadcast


class Phases:
    """The phases that are open on one server, and how the last ones ended."""

    def __init__(self, spool: Path | None = None) -> None:
        """None is open. spool: as `Hub`'s."""
        self._spool = spool
        self.open: dict[RoundKey, Phase] = {}
        self.closed: OrderedDict[RoundKey, Closed] = OrderedDict()

    def begin(self, opened: OpenRound) -> Phase:
        """Open one, which may have been closed before."""
        phase = Phase(opened, self._spool)
        place = _of_all_rounds(phase.key) if phase.flows else phase.key
        self.closed.pop(place, None)
        self.open[place] = phase
        return phase

    def find(self, key: RoundKey) -> Phase | None:
        """The open phase that takes what is of this key: of an asynchronous run there is one for all rounds."""
        return self.open.get(key) or self.open.get(_of_all_rounds(key))

    def ended(self, key: RoundKey) -> Closed | None:
        """How the phase that took what was of this key has ended; None: there is one, or it is forgotten."""
        return self.closed.get(key) or self.closed.get(_of_all_rounds(key))

    def end(self, closed: Closed) -> Phase | None:
        """Remember how it ended; the phase, if it was open here."""
        place = closed.key if closed.key in self.open else _of_all_rounds(closed.key)
        self.closed[place if place in self.open else closed.key] = closed
        while len(self.closed) > _CLOSED_KEPT:
            self.closed.popitem(last=False)
        return self.open.pop(place, None)


def _of_all_rounds(key: RoundKey) -> RoundKey:
    """Where the phase of an asynchronous run is kept."""
    return replace(key, round=0)


@contextmanager
def _room_on_disk() -> Iterator[None]:
    """Raise `UpdateRejectedError` where the disk cannot keep an update."""
    try:
        yield
    except OSError as error:
        raise UpdateRejectedError(
            Reason.TOO_LARGE, f"the disk of the aggregation server cannot keep it: {error.strerror or error}"
        ) from error
