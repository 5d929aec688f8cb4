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
from typing import Any, Protocol

import structlog

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
        self._jobs: set[asyncio.Task[None]] = set()
        self._lease = lease

    # ── children ─────────────────────────────────────────────────────────────────────────────────────────────────

    def join(self, child: Child) -> None:
        """A stream has said hello; raises `ConflictError` while another process holds its name."""
        self._upstream.send(self.children.join(child))

    def leave(self, child: Child) -> None:
        """A stream has ended."""
        presence = self.children.leave(child)
        if presence is None:
            return
        self._uploads.suspend(child.name)
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
                self._check_sender(child, frame.sender, direct=True)
                self._check_offer(child, frame)
                self._start(self._take(child, frame))
            case Settled():
                self._need_combiner(child)
                self._check_sender(child, frame.client)
                self._upstream.send(frame)
            case TaskStarted() | Progress() | TaskFailed() | Evaluated() | LogLine():
                self._check_sender(child, frame.client)
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
                self._start(self._seal(frame.key))
            case Closed():
                self._close(frame)

    def reset(self) -> None:
        """Forget every phase: a server that has lost its parent starts clean, and clients offer again."""
        for key in list(self._phases):
            self._close(Closed(key, (), "the aggregation server lost its parent"), tell=False)

    async def aclose(self) -> None:
        """Stop; streams are closed by the service."""
        self.reset()
        await self._blobs.aclose()
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
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
            upload.write(offset, data)
        return upload.received

    async def watch(self) -> None:
        """Close the streams that have fallen silent; runs as long as the server."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._lease / 3)
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
        for child, names in routes.items():
            child.send(OpenRound(frame.key, frame.spec, frame.model, names, frame.package))

    def _take(self, child: Child, offer: Offer) -> Coroutine[Any, Any, None]:
        phase = self._phases.get(offer.key)
        if phase is None:
            return self._answer_unknown(child, offer)
        return self._take_partial(child, phase, offer) if offer.partial else self._take_update(child, phase, offer)

    async def _answer_unknown(self, child: Child, offer: Offer) -> None:
        """An offer for a phase that is over, or that this server has never heard of."""
        closed = self._closed.get(offer.key)
        if closed is not None and offer.sender in closed.committed:
            child.send(closed)
            return
        reason = Reason.LATE if closed is not None else Reason.UNKNOWN_ROUND
        detail = f"round {offer.key.round} of {offer.key.run} is not open here"
        child.send(Verdict(offer.key, offer.sender, accepted=False, reason=reason, detail=detail))

    async def _take_update(self, child: Child, phase: Phase, offer: Offer) -> None:
        """One client's update, from its announcement to its verdict."""
        key, client = offer.key, offer.sender
        try:
            await phase.prepare(await self._blobs.get(phase.opened.model.digest))
            answer = phase.admit(offer)
            if isinstance(answer, Repeat):
                self._repeat(child, offer, answer)
                return
            folded = await self._fold(child, phase, offer, phase.accumulate)
        except UpdateRejectedError as error:
            phase.intake.settle(client, accepted=False)
            child.send(Verdict(key, client, accepted=False, reason=error.reason, detail=error.detail))
            self._upstream.send(Settled(key, client, accepted=False, reason=error.reason, detail=error.detail))
            return
        if not folded:
            phase.intake.settle(client, accepted=False)
            return
        phase.intake.settle(client, accepted=True)
        child.send(Verdict(key, client, accepted=True))
        num_examples = offer.contributions[0].num_examples
        self._upstream.send(Settled(key, client, accepted=True, num_examples=num_examples))

    def _repeat(self, child: Child, offer: Offer, answer: Repeat) -> None:
        """The same offer again, after a lost connection."""
        upload = self._uploads.of(offer)
        if upload is not None:
            child.send(Admission(offer.key, offer.sender, upload.name, upload.received))
        elif answer.accepted:
            child.send(Verdict(offer.key, offer.sender, accepted=True))

    async def _take_partial(self, child: Child, phase: Phase, offer: Offer) -> None:
        """The sum of a combiner below; without contributions there is nothing to send."""
        try:
            if offer.contributions:
                await self._fold(child, phase, offer, phase.merge)
            child.send(Verdict(offer.key, offer.sender, accepted=True))
        except UpdateRejectedError as error:
            self._log(phase.key, f"the sum of {offer.sender} was rejected: {error}")
            child.send(Verdict(offer.key, offer.sender, accepted=False, reason=error.reason, detail=error.detail))
        phase.paid(child.name)

    async def _fold(self, child: Child, phase: Phase, offer: Offer, fold: Callable[[Offer, memoryview], None]) -> bool:
        """Receive an offer's bytes and fold them; False when its sender fell silent, to offer again or never."""
        if offer.blob.inline:
            with phase.busy():
                await self._folded(phase, offer, fold, memoryview(offer.blob.inline))
            return True

        def announce(upload: Upload) -> None:
            child.send(Admission(offer.key, offer.sender, upload.name, upload.received))

        async with self._uploads.slot():
            if not offer.partial:
                phase.check_open()
            with phase.busy():
                data = await self._uploads.receive(offer, announce)
                if data is not None:
                    await self._folded(phase, offer, fold, data)
        return data is not None

    async def _folded(
        self, phase: Phase, offer: Offer, fold: Callable[[Offer, memoryview], None], data: memoryview
    ) -> None:
        await phase.prepare(await self._blobs.get(phase.opened.model.digest))
        await asyncio.get_running_loop().run_in_executor(self._folding, fold, offer, data)

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
        phase.intake.seal()
        await self._upstream.deliver(key, phase.take_partial())

    def _close(self, frame: Closed, *, tell: bool = True) -> None:
        phase = self._phases.pop(frame.key, None)
        self._closed[frame.key] = frame
        while len(self._closed) > _CLOSED_KEPT:
            self._closed.popitem(last=False)
        if phase is None:
            return
        self._uploads.cancel(frame.key, f"round {frame.key.round} is over")
        for blob in (phase.opened.model, phase.opened.package):
            if blob is not None:
                self._blobs.release(blob)
        if tell:
            for name in phase.participants & self.children.streams.keys():
                self.children.streams[name].send(frame)

    def _log(self, key: RoundKey, line: str) -> None:
        self._upstream.send(LogLine(key, self.name, line, "warning"))

    def _forward(self, frame: ToNode, names: tuple[str, ...]) -> None:
        for child in self.children.route(names):
            child.send(frame)

    def _check_sender(self, child: Child, name: str, *, direct: bool = False) -> None:
        """A client speaks for itself, a combiner for those below it."""
        elsewhere = child.role is Role.CLIENT or not self.children.may_lead_to(child, name)
        if child.name != name and (direct or elsewhere):
            raise PermissionDeniedError(f"{child.name} may not speak for {name}")

    def _check_offer(self, child: Child, offer: Offer) -> None:
        """An update is of the client itself; a sum is a combiner's, of clients below it."""
        names = [contribution.client for contribution in offer.contributions]
        if not offer.partial and names != [child.name]:
            raise PermissionDeniedError(f"{child.name} may not offer an update of {names}")
        if offer.partial:
            self._need_combiner(child)

    def _need_combiner(self, child: Child) -> None:
        if child.role is not Role.COMBINER:
            raise PermissionDeniedError(f"{child.name} is a client: only a combiner reports on others")

    def _start(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a job of the hub failed", server=self.name, exc_info=error)
