"""Takes what the children of a server offer into the sums of its phases: from the announcement to the verdict.

Numbers are decoded, checked and folded on a thread of its own, in the order of arrival, which does not matter to the
result. Memory is one sum for each phase, and as many updates as are admitted at once; an aggregator that keeps updates
has them on disk.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import structlog
from blake3 import blake3

from hansa.errors import NotFoundError, Reason, UpdateRejectedError
from hansa.network.combiner.blobs import Blobs
from hansa.network.combiner.phase import Phase, Phases
from hansa.network.combiner.signatures import KeysOf
from hansa.network.combiner.uploads import Upload, Uploads
from hansa.network.jobs import Jobs
from hansa.rounds.intake import Repeat
from hansa.rounds.seats import ABOUT_THE_ROUND
from hansa.wire.frames import (
    Admission,
    FromNode,
    LogLine,
    Offer,
    Progress,
    RoundKey,
    Settled,
    TaskFailed,
    ToNode,
    Verdict,
)

__all__ = ["Offers"]

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Taking:
    """An offer on its way into a sum: one at a time for each sender and phase, whatever it sends."""

    offer: Offer
    phase: Phase
    """As it was when the offer came: the same phase may be dropped, and opened anew."""
    successor: Offer | None = None
    """Another offer of the same sender: only the newest waits."""
    gone: bool = False
    """Whether its sender's stream has ended."""


class Offers:
    """The offers of one server's children."""

    def __init__(
        self,
        phases: Phases,
        blobs: Blobs,
        uploads: Uploads,
        report: Callable[[FromNode], None],
        answer: Callable[[str, ToNode], None],
        *,
        keys_of: KeysOf,
        server: str,
    ) -> None:
        """report: to whoever is above; answer: to a child by name; keys_of: what clients sign with.

        server: the name of this one.
        """
        self._keys_of = keys_of
        self._server = server
        self._phases = phases
        self._blobs = blobs
        self._uploads = uploads
        self._answer = answer
        self._report = report
        self._folding = ThreadPoolExecutor(1, thread_name_prefix=f"fold-{server}")
        self._taking: dict[tuple[RoundKey, str], _Taking] = {}
        self._jobs = Jobs()

    def __len__(self) -> int:
        """How many are being taken, or wait for that."""
        return len(self._taking)

    def take(self, offer: Offer) -> None:
        """Take an offer, go on with one that is being taken, or let it wait for an older one of the same sender."""
        place = offer.key, offer.sender
        taking, phase = self._taking.get(place), self._phases.find(offer.key)
        if phase is None:
            self._answer_unknown(offer)
        elif taking is None:
            taking = self._taking[place] = _Taking(offer, phase)
            self._jobs.start(self._take(taking), partial(self._failed, offer))
        elif taking.phase is not phase:  # that one ends as late; this is for the open one
            taking.successor = offer
        elif taking.offer.blob.digest != offer.blob.digest or taking.successor is not None:
            taking.successor = offer
            self._uploads.suspend(offer.sender, offer.key)
        else:
            upload = self._uploads.of(offer)
            if upload is None:  # it waits for its turn, or is being folded
                taking.gone = False
            elif taking.gone:
                taking.successor = offer
            else:
                self._answer(offer.sender, Admission(offer.key, offer.sender, upload.name, upload.received))

    def gone(self, sender: str) -> None:
        """Its stream has ended: whoever waits for its bytes waits no longer."""
        self._uploads.suspend(sender)
        for taking in self._taking.values():
            taking.gone = taking.gone or taking.offer.sender == sender

    async def aclose(self) -> None:
        """Drop what is being taken."""
        for taking in self._taking.values():
            taking.successor = None
        await self._jobs.aclose()
        self._folding.shutdown(wait=False, cancel_futures=True)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer_unknown(self, offer: Offer) -> None:
        """An offer for a phase that is over, or that this server has never heard of."""
        closed = self._phases.ended(offer.key)
        if closed is not None and closed.key == offer.key and offer.sender in closed.committed:
            self._answer(offer.sender, replace(closed, committed=(offer.sender,)))
            return
        reason = Reason.LATE if closed is not None else Reason.UNKNOWN_ROUND
        detail = f"round {offer.key.round} of {offer.key.run} is not open here"
        digest = offer.blob.digest if offer.partial else ""
        self._answer(
            offer.sender, Verdict(offer.key, offer.sender, accepted=False, reason=reason, detail=detail, digest=digest)
        )

    async def _take(self, taking: _Taking) -> None:
        """An offer from its announcement to its verdict."""
        offer, phase = taking.offer, taking.phase
        try:
            if self._phases.find(offer.key) is not phase:
                self._answer_unknown(offer)
            elif offer.partial:
                await self._take_partial(taking)
            else:
                await self._take_update(taking)
        except NotFoundError:  # the round is over above, or not open again yet: this server will hear of it
            self._answer_unknown(offer)
        finally:
            del self._taking[offer.key, offer.sender]
            if taking.successor is not None:
                self.take(taking.successor)

    async def _take_update(self, taking: _Taking) -> None:
        offer, phase = taking.offer, taking.phase
        key, client = offer.key, offer.sender
        folded = False
        before = phase.settled.get(client)
        if before is not None and before.key == key:
            self._answer(client, before)
            return
        try:
            phase.check_signed(offer, self._keys_of)
            if phase.flows:
                await phase.measure(await self._blobs.get(phase.base(offer).digest))
            else:
                await phase.prepare(await self._blobs.get(phase.broadcast.digest))
            answer = phase.admit(offer)
            if isinstance(answer, Repeat):
                self._answer(client, Verdict(key, client, accepted=answer.accepted))
                return
            folded = await self._fold(taking, phase.accumulate)
            phase.check_alive()
        except UpdateRejectedError as error:
            if error.reason not in ABOUT_THE_ROUND:
                phase.withdraw(client, key)
            self._answer(client, Verdict(key, client, accepted=False, reason=error.reason, detail=error.detail))
            self._report(Settled(key, client, accepted=False, reason=error.reason, detail=error.detail))
            return
        finally:
            phase.intake.settle(client, accepted=folded)
        if folded:
            self._answer(client, Verdict(key, client, accepted=True))
            num_examples = offer.contributions[0].num_examples
            self._report(Settled(key, client, accepted=True, num_examples=num_examples))

    async def _take_partial(self, taking: _Taking) -> None:
        """The sum of a combiner below; without contributions there is nothing to send."""
        offer, phase = taking.offer, taking.phase
        digest = offer.blob.digest
        try:
            await phase.prepare(await self._blobs.get(phase.broadcast.digest))
            phase.admit_sum(offer)
            await asyncio.to_thread(phase.check_signed, offer, self._keys_of)
            phase.check_arrived(offer, not offer.contributions or await self._fold(taking, phase.merge))
        except UpdateRejectedError as error:
            line = f"the sum of {offer.sender} was rejected, its clients offer again: {error}"
            self._report(LogLine(phase.key, self._server, line, "warning"))
            reason, detail = error.reason, error.detail
            self._answer(offer.sender, Verdict(offer.key, offer.sender, False, reason, detail, digest))
        else:
            self._answer(offer.sender, Verdict(offer.key, offer.sender, accepted=True, digest=digest))
        finally:
            phase.paid(offer.sender)

    async def _fold(self, taking: _Taking, fold: Callable[[Offer, memoryview], None]) -> bool:
        """Receive an offer's bytes and fold them; False when its sender fell silent, to offer again or never."""
        offer, phase = taking.offer, taking.phase
        if offer.blob.inline:
            if blake3(offer.blob.inline).hexdigest() != offer.blob.digest:
                raise UpdateRejectedError(Reason.DIGEST, "the bytes are not those of the digest; send them again")
            async with self._adding(taking):
                await self._folded(offer, fold, memoryview(offer.blob.inline))
            return True

        def announce(upload: Upload) -> None:
            self._answer(offer.sender, Admission(offer.key, offer.sender, upload.name, upload.received))

        if phase.flows and not offer.partial:
            async with self._vouched(taking):
                data = await self._received(taking, announce)
                if data is not None:
                    async with self._adding(taking):
                        await self._folded(offer, fold, data)
                return data is not None
        async with self._vouched(taking), self._uploads.turn() as turn:
            if taking.gone or taking.successor is not None:
                return False
            if offer.partial:
                phase.check_alive()
            else:
                phase.check_open()
            with phase.busy():
                room = partial(phase.room, offer) if phase.holds_updates(offer) else None
                data = await self._uploads.receive(offer, announce, turn, room)
                if data is not None:
                    await self._folded(offer, fold, data)
        return data is not None

    async def _received(self, taking: _Taking, announce: Callable[[Upload], None]) -> memoryview | None:
        """The bytes of an update for an asynchronous round; None when its sender fell silent.

        They are not in a slot while they wait for their turn: they may wait for a sum that needs one. So none is
        admitted before the round takes updates, and of those that wait there are no more than there are slots.
        """
        await taking.phase.ready()
        async with self._uploads.turn() as turn:
            if taking.gone or taking.successor is not None:
                return None
            taking.phase.check_alive()
            return await self._uploads.receive(taking.offer, announce, turn)

    @asynccontextmanager
    async def _adding(self, taking: _Taking) -> AsyncIterator[None]:
        """A seal waits meanwhile. Of an asynchronous run it is the sum of the round that takes updates next."""
        offer, phase = taking.offer, taking.phase
        if not phase.flows or offer.partial:
            with phase.busy():
                yield
            return
        async with phase.turn():
            base = phase.base(offer)
            theirs = await self._blobs.get(base.digest)
            await phase.prepare(await self._blobs.get(phase.broadcast.digest), (offer.key.round, theirs))
            yield

    async def _folded(self, offer: Offer, fold: Callable[[Offer, memoryview], None], data: memoryview) -> None:
        """On the folding thread, which also frees the bytes: whoever waits for the slot finds the memory free."""

        def fold_and_free() -> None:
            with data:
                fold(offer, data)

        await asyncio.get_running_loop().run_in_executor(self._folding, fold_and_free)

    @asynccontextmanager
    async def _vouched(self, taking: _Taking) -> AsyncIterator[None]:
        """Meanwhile its lease is renewed: whoever waits for a turn here, or is sending, is not idle."""
        if taking.offer.partial:
            yield
            return
        vouching = asyncio.create_task(self._vouch(taking.offer, taking.phase.opened.spec.rules.lease / 3))
        try:
            yield
        finally:
            vouching.cancel()

    async def _vouch(self, offer: Offer, every: float) -> None:
        before = -1
        while True:
            upload = self._uploads.of(offer)
            received = upload.received if upload is not None else 0
            if upload is None or received > before:  # an upload that stands still is its sender's own affair
                activity = "upload" if upload is not None else "queue"
                self._report(Progress(offer.key, offer.sender, activity, received, offer.blob.size))
            before = received if upload is not None else -1
            await asyncio.sleep(every)

    def _failed(self, offer: Offer, error: BaseException) -> None:
        """Whoever waits for the update gets an answer, even to what nobody expected."""
        _log.error("an offer could not be taken", server=self._server, about=offer.sender, exc_info=error)
        said = f"{self._server} could not take the update: {type(error).__name__}: {error}"
        self._report(TaskFailed(offer.key, offer.sender, said))
