"""A combiner's process: a server to its children, a client of its parent."""

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from blake3 import blake3

import hansa
from hansa.algorithm import Partial
from hansa.errors import (
    AuthenticationError,
    ConnectionFailedError,
    NotFoundError,
    PermissionDeniedError,
    WireError,
)
from hansa.network.combiner.hub import Hub
from hansa.network.combiner.service import NodeService
from hansa.network.files import mapped
from hansa.network.link import Link
from hansa.wire import chunks, codec, service, tokens
from hansa.wire.frames import (
    Admission,
    Blob,
    Closed,
    FromNode,
    Hello,
    Offer,
    OpenRound,
    Role,
    RoundKey,
    Seal,
    ToNode,
    Verdict,
    Welcome,
    Withdraw,
)
from hansa.wire.tokens import Identity

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
    ) -> None:
        """listen: host:port for children; advertise: how they reach it, if that differs; parent: a combiner's name."""
        self.name = name
        self._join, self._token, self._parent = join, token, parent
        self._project = tokens.holder(token).project
        self._listen, self._advertise = listen, advertise
        self._labels = dict(labels or {})
        self._work = work
        self._hub = Hub(name, self, slots=slots, lease=silence)
        self._link: Link | None = None
        self._public_key = ""
        self._sums: dict[RoundKey, tuple[Offer, list[bytes | memoryview]]] = {}
        """Sums that the parent has not taken yet."""
        self._delivered: dict[RoundKey, asyncio.Event] = {}
        self._jobs: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until dismissed; raises `InputError` when the port is taken."""
        self._work.mkdir(parents=True, exist_ok=True)
        face = NodeService(self._hub_of, self._authenticate, lambda: self._public_key)
        server = service.create_server(*face.handlers())
        port = service.bind(server, self._listen)
        await server.start()
        host = self._listen.rpartition(":")[0]
        address = self._advertise or f"{host}:{port}"
        hello = Hello(Role.COMBINER, uuid.uuid4().hex, hansa.__version__, labels=self._labels, address=address)
        self._link = Link(self, join=self._join, token=self._token, hello=hello, preferred=self._parent)
        watching = asyncio.create_task(self._hub.watch())
        _log.info("combiner serves", name=self.name, address=address)
        try:
            await self._link.run()
        finally:
            watching.cancel()
            await self._hub.aclose()
            for job in self._jobs:
                job.cancel()
            await server.stop(0.2)

    # ── the link ─────────────────────────────────────────────────────────────────────────────────────────────────

    def attached(self, welcome: Welcome) -> None:
        """A parent, new or again: it learns who is below, and invites anew."""
        self._public_key = welcome.public_key
        _log.info("connected", combiner=self.name, to=welcome.node)
        self.send(self._hub.children.everyone())

    def detached(self, why: str) -> None:
        """Without a parent nothing here can be counted: begin clean, clients keep what they have learned."""
        _log.warning("parent lost", combiner=self.name, why=why)
        self._sums.clear()
        for event in self._delivered.values():
            event.set()
        self._delivered.clear()
        self._hub.reset()

    def receive(self, frame: ToNode) -> None:
        """A frame from the parent."""
        match frame:
            case OpenRound() | Withdraw() | Seal() | Closed():
                self._hub.receive_from_parent(frame)
            case Admission():
                self._start(self._upload(frame))
            case Verdict():
                self._sums.pop(frame.key, None)
                if frame.key in self._delivered:
                    self._delivered.pop(frame.key).set()
                if not frame.accepted:
                    _log.error("the parent rejected the sum", round=frame.key.round, detail=frame.detail)
            case _:
                pass

    # ── the hub's upstream ───────────────────────────────────────────────────────────────────────────────────────

    def send(self, frame: FromNode) -> None:
        """Pass a report on."""
        if self._link is not None:
            self._link.send(frame)

    async def deliver(self, key: RoundKey, partial: Partial | None) -> None:
        """Offer the sum to the parent, and wait until it has it, or is lost."""
        if partial is None:
            self.send(Offer(key, self.name, Blob("", 0), (), partial=True))
            return
        parts = codec.encode_partial(partial)
        data = [memoryview(part).cast("B") for part in parts]
        size = sum(len(part) for part in data)
        digest = await asyncio.to_thread(_digest, data)
        inline = b"".join(data) if size <= chunks.INLINE_LIMIT else b""
        blob = Blob(digest, size, inline)
        offer = Offer(key, self.name, blob, tuple(partial.contributions.values()), partial=True, weight=partial.weight)
        self._sums[key] = (offer, list(data))
        done = self._delivered[key] = asyncio.Event()
        self.send(offer)
        await done.wait()

    async def fetch(self, blob: Blob) -> memoryview:
        """Bring an object from the parent into a file, and map it."""
        if self._link is None:
            raise ConnectionFailedError("the parent is not connected yet")
        path = await self._link.download(blob, self._work / blob.digest)
        data = await asyncio.to_thread(mapped, path)
        path.unlink(missing_ok=True)  # the mapping keeps the bytes as long as they are needed
        return data

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _upload(self, admission: Admission) -> None:
        if self._link is None or admission.key not in self._sums:
            return
        offer, parts = self._sums[admission.key]
        try:
            await self._link.upload(admission.upload, parts, admission.offset)
        except (ConnectionFailedError, NotFoundError, WireError) as error:
            _log.info("upload interrupted", combiner=self.name, why=str(error))
            if admission.key in self._sums:
                self.send(offer)

    def _hub_of(self, identity: Identity) -> Hub:
        if identity.project != self._project:
            raise PermissionDeniedError(
                f"{identity.name} belongs to the project {identity.project}, this combiner to {self._project}"
            )
        return self._hub

    async def _authenticate(self, token: str) -> Identity:
        if not self._public_key:
            raise ConnectionFailedError(f"combiner {self.name} is not connected to its parent yet; try again")
        try:
            return tokens.verify(self._public_key, token)
        except AuthenticationError as error:
            raise AuthenticationError(f"combiner {self.name}: {error}") from error

    def _start(self, job: Any) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)


def _digest(parts: list[memoryview]) -> str:
    whole = blake3()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()
