"""The heart of every aggregation server: it invites the clients below it, folds what they offer, and hands up one sum.

The controller's root and every combiner run the same `Hub`; they differ only in their `Upstream`. A hub runs on one
event loop; numbers are decoded, checked and folded on a thread of its own, in the order of arrival, which does not
matter to the result. Nothing here keeps an update once it is folded: memory is one sum, the broadcast model, and as
many updates as are admitted at once.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog
from blake3 import blake3

from hansa.algorithm import Partial
from hansa.errors import NotFoundError, PermissionDeniedError, Reason, UpdateRejectedError
from hansa.network.combiner.blobs import Blobs
from hansa.network.combiner.children import Child, Children
from hansa.network.combiner.phase import Phase
from hansa.network.combiner.uploads import Upload, Uploads
from hansa.rounds.intake import Repeat
from hansa.wire.frames import (
    Admission,
    Blob,
    Closed,
    Evaluated,
    FromNode,
    Heartbeat,
    Hello,
    LogLine,
    Offer,
    OpenRound,
    Presence,
    Progress,
    Role,
    RoundKey,
    Seal,
    Settled,
    TaskFailed,
    TaskStarted,
    ToNode,
    Verdict,
    Withdraw,
)

__all__ = ["Hub", "Upstream"]

_log = structlog.get_logger(__name__)

_CLOSED_KEPT = 64
"""Closed phases whose end is remembered, to answer a node that missed it."""

_FETCHED_KEPT = 4
"""Objects kept for download after their phase has closed; the next round often wants the same package."""


class Upstream(Protocol):
    """Where a hub's reports and sums go: to the parent over the wire, or to the controller in the same process."""

    def send(self, frame: FromNode) -> None:
        """Queue a report."""

    async def deliver(self, key: RoundKey, partial: Partial | None) -> None:
        """Hand over the sum of a sealed phase; None when nothing was accepted. The hub keeps no copy afterwards."""

    async def fetch(self, blob: Blob) -> memoryview:
        """The bytes of an object that a phase needs."""


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


class Hub:
    """Children below, one `Upstream` above, and the phases that are open."""

    def __init__(self, name: str, upstream: Upstream, *, slots: int = 2, lease: float = 15.0) -> None:
        """slots: updates held in memory at once; lease: seconds of silence after which a child or an upload is lost."""
        self.name = name
        self.children = Children(name, lease)
        self._upstream = upstream
        self._blobs = Blobs(upstream.fetch, _FETCHED_KEPT)
        self._uploads = Uploads(slots, lease)
        self._phases: dict[RoundKey, Phase] = {}
        self._closed: OrderedDict[RoundKey, Closed] = OrderedDict()
        self._folding = ThreadPoolExecutor(1, thread_name_prefix=f"fold-{name}")
        self._taking: dict[tuple[RoundKey, str], _Taking] = {}
        self._jobs: set[asyncio.Task[None]] = set()
        self._lease = lease

    # ── children ─────────────────────────────────────────────────────────────────────────────────────────────────

    def join(self, child: Child) -> None:
        """A stream has said hello; raises `ConflictError` while another process holds its name."""
        held = self.children.held(child)
        if held is not None:
            held.close("the same node has connected again")
            self.leave(held)
        self._upstream.send(self.children.join(child))

    def leave(self, child: Child) -> None:
        """A stream has ended."""
        presence = self.children.leave(child)
        if presence is None:
            return
        self._uploads.suspend(child.name)
        for taking in self._taking.values():
            taking.gone = taking.gone or taking.offer.sender == child.name
        for phase in self._phases.values():
            phase.paid(child.name)
        self._upstream.send(presence)

    def receive(self, child: Child, frame: FromNode) -> None:
        """A frame from a child; raises `PermissionDeniedError` when it speaks for somebody else."""
        child.last_heard = asyncio.get_running_loop().time()
        match frame:
            case Heartbeat():
                pass
            case Hello():
                raise PermissionDeniedError(f"{child.name} said hello twice on one stream")
            case Presence():
                self._need_combiner(child)
                self._upstream.send(self.children.relay(child, frame))
            case Offer():
                self._check_offer(child, frame)
                self._offered(frame)
            case Settled():
                self._need_combiner(child)
                phase = self._phases.get(frame.key)
                if phase is not None and frame.client in phase.combiners.get(child.name, ()):
                    self._upstream.send(frame)
            case TaskStarted() | Progress() | TaskFailed() | Evaluated() | LogLine():
                if self._speaks_for(child, frame.client):
                    self._upstream.send(frame)

    # ── phases, driven from above ────────────────────────────────────────────────────────────────────────────────

    def receive_from_parent(self, frame: OpenRound | Withdraw | Seal | Closed) -> None:
        """A command from above; the root's driver calls this too."""
        match frame:
            case OpenRound():
                self._open(frame)
            case Withdraw():
                self._forward(frame, (frame.client,))
            case Seal():
                self._start(self._seal(frame.key), frame.key)
            case Closed():
                self._close(frame)

    def drop(self, key: RoundKey, why: str) -> None:
        """Forget a phase whose sum goes nowhere, here and in the combiners below; clients keep what they learned."""
        phase = self._phases.get(key)
        if phase is None:
            return
        self._close(Closed(key, (), why), tell=False)
        for name in phase.combiners:
            self._answer(name, Verdict(key, name, accepted=False, reason=Reason.LATE, detail=why))

    def reset(self) -> None:
        """Forget every phase: a server that has lost its parent starts clean, and clients offer again."""
        for key in list(self._phases):
            self.drop(key, "the aggregation server lost its parent")

    def dismiss(self, why: str) -> None:
        """Send every child away, to ask the controller for another server."""
        for child in list(self.children.streams.values()):
            child.close(why)

    async def aclose(self) -> None:
        """Stop; streams are closed by the service."""
        self.reset()
        for taking in self._taking.values():
            taking.successor = None
        jobs = [*self._jobs]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await self._blobs.aclose()
        self._folding.shutdown(wait=False, cancel_futures=True)

    # ── transfers ────────────────────────────────────────────────────────────────────────────────────────────────

    async def read(self, digest: str) -> memoryview:
        """The bytes of an object of an open phase; raises `NotFoundError` otherwise."""
        return await self._blobs.get(digest)

    async def write(self, child_name: str, name: str, chunks: AsyncIterator[tuple[int, memoryview]]) -> int:
        """Chunks (offset, data) of an admitted upload; returns the bytes held. Raises `NotFoundError`, `WireError`."""
        upload = self._uploads.get(name)
        if upload is None or upload.sender != child_name:
            raise NotFoundError(f"{child_name} has no upload {name!r} here: offer the update again")
        async for offset, data in chunks:
            if self._uploads.get(name) is not upload:
                raise NotFoundError(f"{child_name} was too slow, its turn went to another: offer the update again")
            upload.write(offset, data)
        return upload.received

    async def watch(self) -> None:
        """Close the streams that have fallen silent; runs as long as the server."""
        loop = asyncio.get_running_loop()
        every = self._lease / 3
        while True:
            due = loop.time() + every
            await asyncio.sleep(every)
            if loop.time() > due + every:  # this process itself stood still: what the children sent is not read yet
                continue
            for child in self.children.silent_since(loop.time()):
                child.close(f"nothing was heard for {self._lease:.0f} seconds")

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, frame: OpenRound) -> None:
        phase = self._phases.get(frame.key)
        if phase is None:
            self._closed.pop(frame.key, None)
            phase = self._phases[frame.key] = Phase(frame)
            for blob in (frame.model, frame.package):
                if blob is not None:
                    self._blobs.want(blob)
        routes = self.children.route(frame.invited)
        phase.invite(
            clients=[child.name for child in routes if child.role is Role.CLIENT],
            combiners={child.name: names for child, names in routes.items() if child.role is Role.COMBINER},
        )
        before = {each.client: each for each in frame.counted}
        for child, names in routes.items():
            counted = tuple(before[name] for name in names if name in before)
            child.send(OpenRound(frame.key, frame.spec, frame.model, names, frame.package, counted))

    def _offered(self, offer: Offer) -> None:
        """Take an offer, go on with one that is being taken, or let it wait for an older one of the same sender."""
        place = offer.key, offer.sender
        taking = self._taking.get(place)
        if offer.key not in self._phases:
            self._answer_unknown(offer)
        elif taking is None:
            taking = self._taking[place] = _Taking(offer, self._phases[offer.key])
            self._start(self._take(taking), offer.key, offer.sender)
        elif taking.phase is not self._phases[offer.key]:  # that one ends as late; this is for the open one
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

    def _answer_unknown(self, offer: Offer) -> None:
        """An offer for a phase that is over, or that this server has never heard of."""
        closed = self._closed.get(offer.key)
        if closed is not None and offer.sender in closed.committed:
            self._answer(offer.sender, replace(closed, committed=(offer.sender,)))
            return
        reason = Reason.LATE if closed is not None else Reason.UNKNOWN_ROUND
        detail = f"round {offer.key.round} of {offer.key.run} is not open here"
        self._answer(offer.sender, Verdict(offer.key, offer.sender, accepted=False, reason=reason, detail=detail))

    async def _take(self, taking: _Taking) -> None:
        """An offer from its announcement to its verdict."""
        offer, phase = taking.offer, taking.phase
        try:
            if self._phases.get(offer.key) is not phase:
                self._answer_unknown(offer)
            elif offer.partial:
                await self._take_partial(phase, taking)
            else:
                await self._take_update(phase, taking)
        except NotFoundError:  # the round is over above, or not open again yet: this server will hear of it
            self._answer_unknown(offer)
        finally:
            del self._taking[offer.key, offer.sender]
            if taking.successor is not None:
                self._offered(taking.successor)

    async def _take_update(self, phase: Phase, taking: _Taking) -> None:
        offer, intake = taking.offer, phase.intake
        key, client = offer.key, offer.sender
        folded = False
        try:
            await phase.prepare(await self._blobs.get(phase.opened.model.digest))
            answer = phase.admit(offer)
            if isinstance(answer, Repeat):
                self._answer(client, Verdict(key, client, accepted=answer.accepted))
                return
            folded = await self._fold(phase, taking, phase.accumulate)
            phase.check_alive()
        except UpdateRejectedError as error:
            self._answer(client, Verdict(key, client, accepted=False, reason=error.reason, detail=error.detail))
            self._upstream.send(Settled(key, client, accepted=False, reason=error.reason, detail=error.detail))
            return
        finally:
            intake.settle(client, accepted=folded)
        if folded:
            self._answer(client, Verdict(key, client, accepted=True))
            num_examples = offer.contributions[0].num_examples
            self._upstream.send(Settled(key, client, accepted=True, num_examples=num_examples))

    async def _take_partial(self, phase: Phase, taking: _Taking) -> None:
        """The sum of a combiner below; without contributions there is nothing to send."""
        offer = taking.offer
        try:
            await phase.prepare(await self._blobs.get(phase.opened.model.digest))
            phase.admit_sum(offer)
            phase.check_arrived(offer, not offer.contributions or await self._fold(phase, taking, phase.merge))
        except UpdateRejectedError as error:
            self._log(phase.key, f"the sum of {offer.sender} was rejected, its clients offer again: {error}")
            verdict = Verdict(offer.key, offer.sender, accepted=False, reason=error.reason, detail=error.detail)
            self._answer(offer.sender, verdict)
        else:
            self._answer(offer.sender, Verdict(offer.key, offer.sender, accepted=True))
        finally:
            phase.paid(offer.sender)

    async def _fold(self, phase: Phase, taking: _Taking, fold: Callable[[Offer, memoryview], None]) -> bool:
        """Receive an offer's bytes and fold them; False when its sender fell silent, to offer again or never."""
        offer = taking.offer
        if offer.blob.inline:
            if blake3(offer.blob.inline).hexdigest() != offer.blob.digest:
                raise UpdateRejectedError(Reason.DIGEST, "the bytes are not those of the digest; send them again")
            with phase.busy():
                await self._folded(offer, fold, memoryview(offer.blob.inline))
            return True

        def announce(upload: Upload) -> None:
            self._answer(offer.sender, Admission(offer.key, offer.sender, upload.name, upload.received))

        async with self._vouched(phase, offer), self._uploads.slot():
            if taking.gone or taking.successor is not None:
                return False
            if offer.partial:
                phase.check_alive()
            else:
                phase.check_open()
            with phase.busy():
                data = await self._uploads.receive(offer, announce)
                if data is not None:
                    await self._folded(offer, fold, data)
        return data is not None

    async def _folded(self, offer: Offer, fold: Callable[[Offer, memoryview], None], data: memoryview) -> None:
        """On the folding thread, which also frees the bytes: whoever waits for the slot finds the memory free."""

        def fold_and_free() -> None:
            with data:
                fold(offer, data)

        await asyncio.get_running_loop().run_in_executor(self._folding, fold_and_free)

    @asynccontextmanager
    async def _vouched(self, phase: Phase, offer: Offer) -> AsyncIterator[None]:
        """Meanwhile its lease is renewed: whoever waits for a turn here, or is sending, is not idle."""
        if offer.partial:
            yield
            return
        vouching = asyncio.create_task(self._vouch(offer, phase.opened.spec.rules.lease / 3))
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
                self._upstream.send(Progress(offer.key, offer.sender, activity, received, offer.blob.size))
            before = received if upload is not None else -1
            await asyncio.sleep(every)

    async def _seal(self, key: RoundKey) -> None:
        phase = self._phases.get(key)
        if phase is None:
            await self._upstream.deliver(key, None)
            return
        phase.sealing = True
        self._uploads.cancel(key, f"round {key.round} closed while the update was on its way")
        combiners = [name for name in phase.combiners if name in self.children.streams]
        owed = phase.owe(combiners)
        for name in combiners:
            self.children.streams[name].send(Seal(key))
        for event in owed:
            await event.wait()
        await phase.idle()
        if not phase.closed:  # else nobody waits for it
            phase.intake.seal()
            await self._upstream.deliver(key, phase.take_partial())

    def _close(self, frame: Closed, *, tell: bool = True) -> None:
        phase = self._phases.pop(frame.key, None)
        self._closed[frame.key] = frame
        while len(self._closed) > _CLOSED_KEPT:
            self._closed.popitem(last=False)
        if phase is None:
            return
        phase.close(frame.cause or "it is committed")
        self._uploads.cancel(frame.key, f"round {frame.key.round} is over")
        for blob in (phase.opened.model, phase.opened.package):
            if blob is not None:
                self._blobs.release(blob)
        if tell:
            self._tell_closed(phase, frame)

    def _tell_closed(self, phase: Phase, frame: Closed) -> None:
        """Each child learns of those below it: a frame with everybody, for everybody, would be quadratic."""
        committed = frozenset(frame.committed)
        for name in phase.participants:
            below = phase.combiners.get(name, (name,))
            self._answer(name, replace(frame, committed=tuple(sorted(committed.intersection(below)))))

    def _answer(self, name: str, frame: ToNode) -> None:
        """To a child's own stream, the newest; one that is gone is told when it is back and asks."""
        child = self.children.streams.get(name)
        if child is not None:
            child.send(frame)

    def _log(self, key: RoundKey, line: str) -> None:
        self._upstream.send(LogLine(key, self.name, line, "warning"))

    def _forward(self, frame: ToNode, names: tuple[str, ...]) -> None:
        for child in self.children.route(names):
            child.send(frame)

    def _speaks_for(self, child: Child, name: str) -> bool:
        """Whether a frame about a client counts. What a combiner still says of one that has moved on does not."""
        if child.role is Role.CLIENT and child.name != name:
            raise PermissionDeniedError(f"{child.name} may not speak for {name}")
        return child.name == name or self.children.may_lead_to(child, name)

    def _check_offer(self, child: Child, offer: Offer) -> None:
        """An update is of the client itself; a sum is a combiner's own, of clients below it."""
        names = [contribution.client for contribution in offer.contributions]
        if offer.sender != child.name or (not offer.partial and names != [child.name]):
            raise PermissionDeniedError(f"{child.name} may not offer an update of {offer.sender} {names[:3]}")
        if offer.partial:
            self._need_combiner(child)

    def _need_combiner(self, child: Child) -> None:
        if child.role is not Role.COMBINER:
            raise PermissionDeniedError(f"{child.name} is a client: only a combiner reports on others")

    def _start(self, job: Coroutine[Any, Any, None], key: RoundKey, sender: str = "") -> None:
        """sender: whose offer it is about; empty for a seal."""
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(lambda done: self._ended(done, key, sender))

    def _ended(self, task: asyncio.Task[None], key: RoundKey, sender: str) -> None:
        """Nothing dies in silence: whoever waits for the job's result gets one."""
        self._jobs.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error("a job of the hub failed", server=self.name, round=key.round, about=sender, exc_info=error)
        said = f"{type(error).__name__}: {error}"
        if sender:
            self._upstream.send(TaskFailed(key, sender, f"{self.name} could not take the update: {said}"))
        elif key in self._phases:
            self._log(key, f"{self.name} could not hand up its sum: {said}")
            self.drop(key, "its sum could not be handed up")
            self._start(self._seal(key), key)
