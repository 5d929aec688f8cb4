"""A combiner's process: a server to its children, a client of its parent."""

import asyncio
import math
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from blake3 import blake3

import hansa
from hansa.algorithm import Partial
from hansa.errors import (
    AuthenticationError,
    ConnectionFailedError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    WireError,
)
from hansa.network.certificates import watch_end
from hansa.network.combiner.certificate import SignedByNetwork
from hansa.network.combiner.hub import Hub
from hansa.network.combiner.service import NodeService
from hansa.network.entrance import Entrance
from hansa.network.files import mapped
from hansa.network.jobs import Jobs
from hansa.network.link import Link
from hansa.network.patience import patiently
from hansa.store.disk import explained
from hansa.wire import chunks, codec, tokens
from hansa.wire.channel import address_at, is_everywhere, split_address
from hansa.wire.frames import (
    SENDS_ON,
    Admission,
    Blob,
    Closed,
    Dismiss,
    FromNode,
    Hello,
    Offer,
    OpenRound,
    Role,
    RoundKey,
    Seal,
    SendOn,
    ToNode,
    Verdict,
    Welcome,
    Withdraw,
)
from hansa.wire.service import Shown
from hansa.wire.tls import WORLD, Scheme, Trust
from hansa.wire.tokens import Identity
from hansa.wire.transport import GRPC, Transport

__all__ = ["CombinerNode"]

_log = structlog.get_logger(__name__)


class CombinerNode:
    """Runs a `Hub`; its `Upstream` is the link to the parent."""

    def __init__(
        self,
        name: str,
        *,
        join: str,
        token: str,
        work: Path,
        listen: str = "127.0.0.1:0",
        advertise: str = "",
        parent: str = "",
        labels: Mapping[str, str] | None = None,
        slots: int = 2,
        silence: float = 15.0,
        trust: Trust = WORLD,
        shown: Shown | None = None,
        transport: Transport = GRPC,
        key_age: float = math.inf,
    ) -> None:
        """listen: host:port for children; advertise: how they reach it, if that differs; parent: a combiner's name.

        join, token, trust, key_age: see `Entrance`; shown: a certificate of its own, in the place of one that the
        network signs.
        """
        self.name = name
        self._entrance = Entrance(join, token, work, trust, transport, key_age=key_age)
        self._shown = shown
        self._parent = parent
        self._listen, self._advertise = listen, advertise
        self._labels = dict(labels or {})
        self._work = work
        self._transport = transport
        self._hub = Hub(name, self, slots=slots, lease=silence, spool=work)
        self._link: Link | None = None
        self._public_key = ""
        self._sums: dict[RoundKey, tuple[Offer, list[bytes | memoryview], asyncio.Event]] = {}
        """Sums that the parent has not answered yet, each with an event for its answer."""
        self._attachments = 0
        self._orphaned: asyncio.TimerHandle | None = None
        self._jobs = Jobs()

    async def run(self) -> None:
        """Serve until dismissed; raises `InputError` when the port is taken, or nobody could dial the address."""
        await asyncio.to_thread(_emptied, self._work)
        host, _ = split_address(self._listen)
        if is_everywhere(host) and not self._advertise:
            raise InputError(
                f"combiner {self.name} listens at every address of this machine ({self._listen}), which tells clients "
                "none that they could dial: say how they reach it, with --advertise HOST:PORT"
            )
        face = NodeService(self._hub_of, self._authenticate, lambda: self._public_key)
        server = self._transport.create_server(*face.handlers())
        scheme, shown = await self._certificate()
        port = self._transport.bind(server, self._listen, shown)
        await server.start()
        if shown is not None:
            self._start(watch_end(shown.certificate))
        address = (f"{scheme}://" if scheme else "") + (self._advertise or address_at(host, port))
        hello = Hello(
            Role.COMBINER,
            self._entrance.identity.instance,
            hansa.__version__,
            (SENDS_ON,),
            labels=self._labels,
            address=address,
        )
        self._link = Link(self, entrance=self._entrance, hello=hello, preferred=self._parent)
        self._start(self._hub.watch())
        _log.info("combiner serves", name=self.name, address=address)
        try:
            await self._link.run()
        finally:
            await self._hub.aclose()
            if self._orphaned is not None:
                self._orphaned.cancel()
            await self._jobs.aclose()
            await server.stop(0.2)

    # ── the link ─────────────────────────────────────────────────────────────────────────────────────────────────

    def attached(self, welcome: Welcome) -> None:
        """A parent, new or again: it learns who is below, and invites anew."""
        self._public_key = welcome.public_key
        self._attachments += 1
        if self._orphaned is not None:
            self._orphaned.cancel()
        _log.info("connected", combiner=self.name, to=welcome.node)
        self.send(self._hub.children.everyone())

    def detached(self, why: str) -> None:
        """Without a parent nothing here can be counted: begin clean, clients keep what they have learned.

        While the parent stays away for longer than a silence, the children are sent to look for another server.
        """
        _log.warning("parent lost", combiner=self.name, why=why)
        self._forget_sums(list(self._sums))
        self._hub.reset()
        loop = asyncio.get_running_loop()
        self._orphaned = loop.call_later(self._hub.children.lease, self._hub.dismiss, f"{self.name} lost its parent")

    def receive(self, frame: ToNode) -> None:
        """A frame from the parent."""
        match frame:
            case OpenRound() | Withdraw() | Seal() | Closed() | Dismiss() | SendOn():
                self._hub.receive_from_parent(frame)
            case Admission():
                self._start(self._upload(frame))
            case Verdict() if not frame.digest or self._holds(frame):  # else of a sum that is no more
                if not frame.accepted:
                    _log.error(
                        "the parent rejected the sum", session=frame.key.run, round=frame.key.round, detail=frame.detail
                    )
                    self._hub.drop(frame.key, f"its sum was not taken: {frame.detail}")
                self._forget_sums([frame.key])
            case _:
                pass

    # ── the hub's upstream ───────────────────────────────────────────────────────────────────────────────────────

    def send(self, frame: FromNode) -> None:
        """Pass a report on."""
        if self._link is not None:
            self._link.send(frame)

    async def deliver(self, key: RoundKey, partial: Partial | None) -> None:
        """Offer the sum to the parent, and wait until it is taken, refused (the hub then drops the phase) or lost."""
        if partial is None:
            self.send(Offer(key, self.name, Blob(_digest([]), 0), (), partial=True))
            return
        attachment = self._attachments
        parts = codec.encode_partial(partial)
        data = [memoryview(part).cast("B") for part in parts]
        size = sum(len(part) for part in data)
        digest = await asyncio.to_thread(_digest, data)
        if attachment != self._attachments or self._link is None or not self._link.connected:
            return  # the parent that asked for it is gone
        inline = b"".join(data) if size <= chunks.INLINE_LIMIT else b""
        blob = Blob(digest, size, inline)
        offer = Offer(key, self.name, blob, tuple(partial.contributions.values()), partial=True, weight=partial.weight)
        answered = asyncio.Event()
        self._sums[key] = (offer, list(data), answered)
        self.send(offer)
        await answered.wait()

    async def fetch(self, blob: Blob) -> memoryview:
        """Bring an object from the parent into a file, and map it; a disk that is full is waited for."""
        return await patiently(lambda: self._fetched(blob), who=f"combiner {self.name}")

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _certificate(self) -> tuple[Scheme, Shown | None]:
        """How children dial this server, and what it shows them."""
        if self._shown is not None:
            return Scheme.TLS, self._shown
        if self._entrance.scheme is Scheme.PLAIN:
            return Scheme.PLAIN, None
        signed = await SignedByNetwork.first(self._entrance, who=f"combiner {self.name}")
        self._start(signed.stay())
        return Scheme.NETWORK, Shown(lambda: signed.certificate)

    async def _fetched(self, blob: Blob) -> memoryview:
        if self._link is None:
            raise ConnectionFailedError("the parent is not connected yet")
        path = await self._link.download(blob, self._work / blob.digest)
        with explained("read a model in", self._work):
            data = await asyncio.to_thread(mapped, path)
            path.unlink(missing_ok=True)  # the mapping keeps the bytes as long as they are needed
        return data

    async def _upload(self, admission: Admission) -> None:
        sum_ = self._sums.get(admission.key)
        if self._link is None or sum_ is None:
            return
        offer, parts, _ = sum_
        try:
            await self._link.upload(admission.upload, parts, admission.offset)
        except (ConnectionFailedError, NotFoundError, WireError) as error:
            _log.info("upload interrupted", combiner=self.name, why=str(error))
            if self._sums.get(admission.key) is sum_:  # another one has been offered itself
                self.send(offer)

    def _holds(self, verdict: Verdict) -> bool:
        """Whether the parent speaks of the sum in hand: of one that was offered twice, it may speak once too often."""
        sum_ = self._sums.get(verdict.key)
        return sum_ is not None and sum_[0].blob.digest == verdict.digest

    def _forget_sums(self, keys: Iterable[RoundKey]) -> None:
        for key in keys:
            if key in self._sums:
                self._sums.pop(key)[2].set()

    def _hub_of(self, identity: Identity) -> Hub:
        project = self._entrance.identity.holder.project
        if identity.project != project:
            raise PermissionDeniedError(
                f"{identity.name} belongs to the project {identity.project}, this combiner to {project}"
            )
        return self._hub

    async def _authenticate(self, token: str) -> Identity:
        if not self._public_key:
            raise ConnectionFailedError(f"combiner {self.name} is not connected to its parent yet; try again")
        try:
            return tokens.verify(self._public_key, token)
        except AuthenticationError as error:
            raise AuthenticationError(f"combiner {self.name}: {error}") from error

    def _start(self, job: Coroutine[Any, Any, None]) -> None:
        def failed(error: BaseException) -> None:
            _log.error("a job of the combiner failed", combiner=self.name, exc_info=error)

        self._jobs.start(job, failed)


def _emptied(folder: Path) -> None:
    """Make the folder; what an earlier process left in it nobody needs."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in (*folder.glob("*.part"), *folder.glob("?" * 64)):
        left.unlink(missing_ok=True)


def _digest(parts: list[memoryview]) -> str:
    whole = blake3()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()
