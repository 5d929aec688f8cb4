"""The heart of every aggregation server: it invites the clients below it, folds what they offer, and hands up one sum.

The controller's root and every combiner run the same `Hub`; they differ only in their `Upstream`. A hub runs on one
event loop, and knows who is below and which phases are open; what is offered is the affair of its `Offers`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from hansa.algorithm import Partial
from hansa.errors import NotFoundError, PermissionDeniedError, Reason
from hansa.network.combiner.blobs import Blobs
from hansa.network.combiner.children import Child, Children
from hansa.network.combiner.dismissed import Dismissed
from hansa.network.combiner.offers import Offers
from hansa.network.combiner.phase import Phase, Phases
from hansa.network.combiner.signatures import KeysOf
from hansa.network.combiner.uploads import Uploads
from hansa.network.jobs import Jobs
from hansa.rounds.seats import ABOUT_THE_ROUND
from hansa.wire.frames import (
    SENDS_ON,
    Awaited,
    Blob,
    Closed,
    Dismiss,
    Evaluated,
    FromNode,
    Heartbeat,
    Hello,
    Letter,
    LogLine,
    Offer,
    OpenRound,
    Predicted,
    Presence,
    Present,
    Progress,
    Role,
    RoundKey,
    Samples,
    Seal,
    SendOn,
    Settled,
    TaskFailed,
    TaskStarted,
    ToNode,
    Verdict,
    Withdraw,
)

__all__ = ["Hub", "Upstream"]

_log = structlog.get_logger(__name__)

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

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        *,
        slots: int = 2,
        lease: float = 15.0,
        keys_of: KeysOf | None = None,
        refusal: Callable[[Present], str] = lambda _: "",
        spool: Path | None = None,
        uploaded: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """slots: updates held in memory at once; lease: seconds of silence after which a child or an upload is lost.

        keys_of: what clients sign with; None: as the access tokens of its own children say. refusal: why one that a
        combiner says is below it is none of the network; empty: it is, or nobody knows here. spool: folder for updates
        of aggregators that keep them; None: the system's for temporary files. uploaded: told of each upload how many
        seconds it took from its admission to its last byte.
        """
        self.name = name
        self.keys_of = keys_of if keys_of is not None else self._keys_of_child
        self.children = Children(name, lease)
        self.dismissed = Dismissed()
        self._upstream = upstream
        self._blobs = Blobs(upstream.fetch, _FETCHED_KEPT)
        self._uploads = Uploads(slots, lease, spool, uploaded)
        self.slot = self._uploads.slots
        """Held by whoever works on an update in this process, as uploads hold it."""
        self.spool = spool
        self._phases = Phases(spool)
        self._offers = Offers(
            self._phases, self._blobs, self._uploads, upstream.send, self._answer, keys_of=self.keys_of, server=name
        )
        self._jobs = Jobs()
        self._lease = lease
        self._refusal = refusal

    @property
    def pending(self) -> int:
        """Offered updates and sums that are being received, or wait for a slot."""
        return len(self._offers)

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
        self._offers.gone(child.name)
        for phase in self._phases.open.values():
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
                self._upstream.send(self.children.relay(child, self._believed(child, frame)))
            case Offer():
                self._check_offer(child, frame)
                self._offers.take(frame)
            case Settled():
                self._need_combiner(child)
                self._pass_on_settled(child, frame)
            case TaskStarted() | Progress() | TaskFailed() | Evaluated() | LogLine() | Samples() | Predicted():
                if self._speaks_for(child, frame.client):
                    self._pass_on(frame)
            case Letter() | Awaited():
                raise PermissionDeniedError(f"{child.name} gives its server a letter: letters go to the relay")

    def _pass_on_settled(self, child: Child, frame: Settled) -> None:
        phase = self._phases.find(frame.key)
        if phase is None or frame.client not in phase.combiners.get(child.name, ()):
            return
        if not frame.accepted and frame.reason not in ABOUT_THE_ROUND:
            phase.withdraw(frame.client, frame.key)
        self._upstream.send(frame)

    def _pass_on(self, frame: TaskStarted | Progress | TaskFailed | Evaluated | LogLine | Samples | Predicted) -> None:
        if isinstance(frame, TaskFailed) and (phase := self._phases.find(frame.key)) is not None:
            phase.withdraw(frame.client, frame.key)
        self._upstream.send(frame)

    # ── phases, driven from above ────────────────────────────────────────────────────────────────────────────────

    def receive_from_parent(self, frame: OpenRound | Withdraw | Seal | Closed | Dismiss | SendOn) -> None:
        """A command from above; the root's driver calls this too."""
        match frame:
            case OpenRound():
                self._open(frame)
            case Withdraw():
                if (phase := self._phases.find(frame.key)) is not None:
                    phase.withdraw(frame.client, frame.key)
                self._forward(frame, (frame.client,))
            case Seal():
                self._start_seal(frame.key)
            case Closed():
                self._close(frame)
            case Dismiss():
                self._dismiss(frame)
            case SendOn():
                self._send_on(frame)

    def drop(self, key: RoundKey, why: str) -> None:
        """Forget a phase whose sum goes nowhere, here and in the combiners below; clients keep what they learned."""
        phase = self._phases.find(key)
        if phase is None:
            return
        self._close(Closed(key, (), why), tell=False)
        for name in phase.combiners:
            self._answer(name, Verdict(key, name, accepted=False, reason=Reason.LATE, detail=why))

    def reset(self) -> None:
        """Forget every phase: a server that has lost its parent starts clean, and clients offer again."""
        for key in list(self._phases.open):
            self.drop(key, "the aggregation server lost its parent")

    def dismiss(self, why: str) -> None:
        """Send every child away, to ask the controller for another server."""
        for child in list(self.children.streams.values()):
            child.close(why)

    async def aclose(self) -> None:
        """Stop; streams are closed by the service."""
        self.reset()
        await self._offers.aclose()
        await self._jobs.aclose()
        await self._blobs.aclose()

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
        phase = self._phases.find(frame.key)
        if phase is None:
            phase = self._phases.begin(frame)
            for blob in (None if phase.flows else frame.model, frame.package):
                if blob is not None:
                    self._blobs.want(blob)
        routes = dict(self.children.route(frame.invited))
        if phase.flows:
            needed, unneeded = phase.advance(frame)
            for blob in needed:
                self._blobs.want(blob)
            for blob in unneeded:
                self._blobs.release(blob)
            if not frame.invited:  # a round begins: it is news to whoever has clients at work, too
                streams = (self.children.streams.get(name) for name in phase.combiners)
                routes = {child: () for child in streams if child is not None}
        clients = [child.name for child in routes if child.role is Role.CLIENT]
        phase.invite(
            clients=clients,
            combiners={child.name: names for child, names in routes.items() if child.role is Role.COMBINER},
            base=frame.key.round,
        )
        before = {each.client: each for each in frame.counted}
        task = replace(frame, open=0, current=None)
        for child, names in routes.items():
            counted = tuple(before[name] for name in names if name in before)
            child.send(replace(task if child.role is Role.CLIENT else frame, invited=names, counted=counted))
        if clients and self._blobs.is_coming(frame.model.digest):
            self._jobs.start(self._vouch(phase, frame, clients), partial(self._not_vouched, frame.key))

    async def _vouch(self, phase: Phase, frame: OpenRound, clients: Collection[str]) -> None:
        """They wait for this server to have the model: meanwhile their leases are renewed."""
        model, every = frame.model, frame.spec.rules.lease / 3
        while True:
            await asyncio.sleep(every)
            if phase.closed or not self._blobs.is_coming(model.digest):
                return
            for client in clients:
                if client in self.children.streams:
                    self._upstream.send(Progress(frame.key, client, "model", 0, model.size))

    def _not_vouched(self, key: RoundKey, error: BaseException) -> None:
        _log.error("leases could not be renewed", server=self.name, session=key.run, round=key.round, exc_info=error)

    async def _seal(self, key: RoundKey) -> None:
        phase = self._phases.find(key)
        if phase is None or phase.key != key:
            await self._upstream.deliver(key, None)
            return
        phase.sealing = True
        if not phase.flows:  # else what is on its way is for the next round
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
        phase = self._phases.find(frame.key)
        if phase is None:
            self._phases.end(frame)
            return
        told = phase.commit(frame) if phase.flows else {}
        if tell:
            self._tell_closed(phase, frame, told)
        if phase.flows and not frame.cause:  # that round is over, and the run goes on
            return
        self._phases.end(frame)
        phase.close(frame.cause or "it is committed")
        for key in dict.fromkeys((frame.key, *phase.tasks().values())):
            self._uploads.cancel(key, f"round {key.round} is over")
        for blob in (*(phase.models.values() if phase.flows else (phase.opened.model,)), phase.opened.package):
            if blob is not None:
                self._blobs.release(blob)

    def _tell_closed(self, phase: Phase, frame: Closed, told: Mapping[str, Closed]) -> None:
        """Each child learns of those below it: a frame with everybody, for everybody, would be quadratic.

        told: clients of an asynchronous run that are counted, and what they learn; others do when the run is over.
        """
        committed, tasks = frozenset(frame.committed), phase.tasks() if phase.flows else {}
        for name in phase.participants:
            if not phase.flows or name in phase.combiners:
                below = phase.combiners.get(name, (name,))
                self._answer(name, replace(frame, committed=tuple(sorted(committed.intersection(below)))))
            elif name in told:
                self._answer(name, told[name])
            elif frame.cause and name in tasks:
                self._answer(name, Closed(tasks[name], (), frame.cause))

    def _answer(self, name: str, frame: ToNode) -> None:
        """To a child's own stream, the newest; one that is gone is told when it is back and asks."""
        child = self.children.streams.get(name)
        if child is not None:
            child.send(frame)

    def _keys_of_child(self, name: str) -> Collection[str] | None:
        child = self.children.streams.get(name)
        return (child.keys or None) if child is not None else None

    def _dismiss(self, frame: Dismiss) -> None:
        """Here or below: where the node has been by this grant, or may come with it."""
        self.dismissed.add(frame.grant, frame.why)
        child = self.children.streams.get(frame.client)
        if child is None:
            self._forward(frame, (frame.client,))
        elif child.grant == frame.grant:
            child.close(frame.why)

    def _send_on(self, frame: SendOn) -> None:
        """Here or below, as far as the combiners on the way know how."""
        child = self.children.streams.get(frame.client)
        if child is not None:
            child.close(frame.why)
            return
        for below in self.children.route((frame.client,)):
            if SENDS_ON in below.hello.capabilities:
                below.send(frame)

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

    def _believed(self, child: Child, presence: Presence) -> Presence:
        """Without those who are not what a combiner says they are: nobody is taken from another server by a claim."""

        def is_one(present: Present) -> bool:
            why = self._refusal(present)
            if why:
                child.send(Dismiss(present.client, present.grant, why))
            return not why

        return replace(
            presence,
            joined=tuple(filter(is_one, presence.joined)),
            combiners=tuple(filter(is_one, presence.combiners)),
        )

    def _need_combiner(self, child: Child) -> None:
        if child.role is not Role.COMBINER:
            raise PermissionDeniedError(f"{child.name} is a client: only a combiner reports on others")

    def _start_seal(self, key: RoundKey) -> None:
        self._jobs.start(self._seal(key), partial(self._not_sealed, key))

    def _not_sealed(self, key: RoundKey, error: BaseException) -> None:
        """Whoever waits for the sum gets one, even if it is empty."""
        _log.error("a sum could not be handed up", server=self.name, session=key.run, round=key.round, exc_info=error)
        if self._phases.find(key) is not None:
            line = f"{self.name} could not hand up its sum: {type(error).__name__}: {error}"
            self._upstream.send(LogLine(key, self.name, line, "warning"))
            self.drop(key, "its sum could not be handed up")
            self._start_seal(key)
