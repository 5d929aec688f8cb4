"""One aggregation server on a real port, driven by the test, and nodes that do as the test says."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from blake3 import blake3

from hansa.algorithm import Partial
from hansa.arrays import Arrays
from hansa.errors import AuthenticationError
from hansa.messages import Contribution, Kind, RunSpec
from hansa.network.combiner.hub import Hub
from hansa.network.combiner.service import NodeService
from hansa.network.entrance import Entrance
from hansa.network.link import Link
from hansa.wire import channel, codec, service, tokens
from hansa.wire.calls import AccessToken, Assignment, AssignRequest, Enrolled, EnrollRequest, RotateRequest
from hansa.wire.channel import Stream
from hansa.wire.frames import Blob, FromNode, Hello, Offer, OpenRound, Role, RoundKey, Seal, ToNode, Welcome
from hansa.wire.node_key import check_proof, read_assertion
from hansa.wire.tls import WORLD
from hansa.wire.tokens import Identity
from hansa.wire.transport import GRPC

F = TypeVar("F")

KEY = RoundKey("run", 1, Kind.TRAIN)
MODEL = Arrays({"w": np.zeros(10, np.float32)})
LARGE = Arrays({"w": np.zeros(1 << 20, np.float32)})


def blob_of(arrays: Arrays, *, inline: bool = True) -> Blob:
    data = b"".join(codec.encode(arrays))
    return Blob(blake3(data).hexdigest(), len(data), data if inline else b"")


def parts_of(arrays: Arrays) -> list[memoryview]:
    return [memoryview(part).cast("B") for part in codec.encode(arrays)]


def filled(value: float, like: Arrays = MODEL) -> Arrays:
    return Arrays({name: np.full(array.shape, value, array.dtype) for name, array in like.items()})


@dataclass
class Node:
    """A client or combiner on a real link, which only remembers what it is told."""

    name: str
    link: Link
    frames: "asyncio.Queue[ToNode]" = field(default_factory=asyncio.Queue)
    welcomes: "asyncio.Queue[Welcome]" = field(default_factory=asyncio.Queue)

    def attached(self, welcome: Welcome) -> None:
        self.welcomes.put_nowait(welcome)

    def detached(self, why: str) -> None:
        pass

    def receive(self, frame: ToNode) -> None:
        self.frames.put_nowait(frame)

    def send(self, frame: FromNode) -> None:
        self.link.send(frame)

    async def told(self, kind: type[F]) -> F:
        """The next frame of this kind; others before it are skipped."""
        return await _next(self.frames, kind)

    def offer(self, arrays: Arrays, *, inline: bool = True, key: RoundKey = KEY, num_examples: int = 1) -> Offer:
        offer = Offer(key, self.name, blob_of(arrays, inline=inline), (Contribution(self.name, num_examples),))
        self.send(offer)
        return offer


class Rig:
    """The hub's upstream, its directory and its operator."""

    def __init__(self, slots: int, lease: float, keys: Path) -> None:
        self.key = tokens.new_key()
        self.keys = keys
        self.roles: dict[str, Role] = {}
        """Who has joined."""
        self.hub = Hub("hub", self, slots=slots, lease=lease)
        self.port = 0
        self.proxied = ""
        self.places: dict[str, str] = {}
        self.frames: asyncio.Queue[FromNode] = asyncio.Queue()
        self.sums: asyncio.Queue[Partial | None] = asyncio.Queue()
        self.objects: dict[str, bytes] = {}
        self.broken: Exception | None = None
        self.there = asyncio.Event()
        """Whether objects can be had; else whoever fetches one waits."""
        self.there.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def join(self) -> str:
        """As nodes are given it: tests of TLS make their own networks."""
        return f"tcp://{self.address}"

    # ── what the hub hands up ──

    def send(self, frame: FromNode) -> None:
        self.frames.put_nowait(frame)

    async def deliver(self, key: RoundKey, partial: Partial | None) -> None:
        assert key.run == KEY.run
        self.sums.put_nowait(partial)

    async def fetch(self, blob: Blob) -> memoryview:
        if self.broken is not None:
            raise self.broken
        await self.there.wait()
        return memoryview(self.objects[blob.digest])

    async def told(self, kind: type[F]) -> F:
        """The next report of this kind; others before it are skipped."""
        return await _next(self.frames, kind)

    # ── what the operator does ──

    def open(self, *invited: str, model: Arrays = MODEL, key: RoundKey = KEY, spec: RunSpec | None = None) -> None:
        large = codec.size(model) > 60_000
        blob = blob_of(model, inline=not large)
        self.objects[blob.digest] = b"".join(codec.encode(model))
        self.hub.receive_from_parent(OpenRound(key, spec or RunSpec(name="run"), blob, invited))

    async def sealed(self, key: RoundKey = KEY) -> Partial | None:
        """The one sum that a seal brings."""
        self.hub.receive_from_parent(Seal(key))
        async with asyncio.timeout(20):
            partial = await self.sums.get()
        assert self.sums.empty()
        return partial

    def token(self, name: str, role: Role = Role.CLIENT) -> str:
        return tokens.issue(self.key, name, role, "default")[0]

    def join_token(self, name: str, role: Role = Role.CLIENT) -> str:
        return tokens.issue(self.key, name, role, "default", audience=tokens.JOINING)[0]

    def link(self, node: object, name: str, role: Role, hello: Hello) -> Link:
        entrance = Entrance(self.join, self.join_token(name, role), self.keys / name, WORLD, GRPC)
        return Link(node, entrance=entrance, hello=hello)  # type: ignore[arg-type]

    @asynccontextmanager
    async def node(self, name: str, hello: Hello | None = None) -> AsyncIterator[Node]:
        """A node that stays attached."""
        hello = hello or Hello(Role.CLIENT, f"process of {name}", "0")
        node = Node(name, None)  # type: ignore[arg-type]
        node.link = self.link(node, name, hello.role, hello)
        task = asyncio.create_task(node.link.run())
        try:
            waiting = asyncio.create_task(node.welcomes.get())
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                waiting.cancel()
                await task
            yield node
        finally:
            await stopped(task)

    @asynccontextmanager
    async def dialled(self) -> AsyncIterator[channel.Channel]:
        """A bare connection: for what a link would never do."""
        opened = channel.open_channel(self.address, None)
        try:
            yield opened
        finally:
            await opened.close()

    @asynccontextmanager
    async def stream(self, name: str, role: Role = Role.CLIENT) -> AsyncIterator[Stream[FromNode, ToNode]]:
        """A bare control stream."""
        async with self.dialled() as opened:
            stream = channel.attach(opened, self.token(name, role))
            try:
                yield stream
            finally:
                stream.close()

    # ── its face ──

    async def _authenticate(self, token: str) -> Identity:
        return tokens.verify(tokens.public_key(self.key), token)

    async def _enroll(self, token: str, request: EnrollRequest) -> Enrolled:
        identity = tokens.verify(tokens.public_key(self.key), token, tokens.JOINING)
        check_proof(request.public_key, request.proof, token)
        self.roles[identity.name] = identity.role
        return Enrolled(identity.name)

    async def _access(self, assertion: str) -> AccessToken:
        name = read_assertion(assertion).name
        if name not in self.roles:
            raise AuthenticationError(f"{name} has not joined")
        return AccessToken(self.token(name, self.roles[name]), 900.0)

    async def _rotate(self, _assertion: str, request: RotateRequest) -> Enrolled:
        raise AssertionError(f"nobody changes a key here, and not to {request.public_key}")

    async def _assign(self, identity: Identity, _request: AssignRequest) -> Assignment:
        address = self.places.get(identity.name, self.proxied or self.address)
        return Assignment("hub", f"tcp://{address.removeprefix('tcp://')}")

    async def _certify(self, identity: Identity, request: str) -> str:
        raise AssertionError(f"nobody needs a certificate here, not {identity.name} for {request}")


@asynccontextmanager
async def rig(*, slots: int = 2, lease: float = 5.0) -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory() as keys:
        async with _served(Rig(slots, lease, Path(keys))) as made:
            yield made


@asynccontextmanager
async def _served(made: Rig) -> AsyncIterator[Rig]:
    face = NodeService(lambda _identity: made.hub, made._authenticate, lambda: tokens.public_key(made.key))
    server = service.create_server(
        *face.handlers(),
        service.directory_handler(
            made._enroll, made._access, made._rotate, made._assign, made._certify, authenticate=made._authenticate
        ),
    )
    made.port = service.bind(server, "127.0.0.1:0", None)
    await server.start()
    watching = asyncio.create_task(made.hub.watch())
    try:
        yield made
    finally:
        await stopped(watching)
        await made.hub.aclose()
        await server.stop(0)


class Proxy:
    """TCP in between: forwards, counts, and once cuts connections after so many bytes in one direction."""

    def __init__(self) -> None:
        self.up = self.down = 0
        self.cuts = 0
        self._cut_up = self._cut_down = float("inf")
        self._alone = False
        self.most = 0
        """The most connections at once."""
        self._open = 0
        self._changed = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def hold(self) -> None:
        """Forward nothing from now on, and close nothing."""
        self._flowing.clear()

    async def connections(self, number: int) -> None:
        """Wait until so many are open."""
        async with asyncio.timeout(20):
            while self._open != number:
                self._changed.clear()
                await self._changed.wait()

    def cut_after(self, *, up: float = float("inf"), down: float = float("inf"), alone: bool = False) -> None:
        """Bytes from now on, to the server or from it; alone: only the connection on which the last of them passes."""
        self._cut_up, self._cut_down, self._alone = self.up + up, self.down + down, alone

    def cut(self, only: Iterable[asyncio.StreamWriter] = ()) -> None:
        self._cut_up = self._cut_down = float("inf")
        self._flowing.set()
        self.cuts += 1
        for writer in tuple(only) or self._writers:
            writer.close()  # what was counted arrives: a reset would take it from the receiver's hands

    async def serve(self, target: int) -> "tuple[asyncio.Server, str]":
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", target)
            ends = {writer, back}
            self._writers |= ends
            self._counted(1)
            with suppress(asyncio.CancelledError):  # at the end of a test
                await asyncio.gather(self._pump(reader, back, ends, up=True), self._pump(there, writer, ends, up=False))
            self._counted(-1)
            self._writers -= ends
            for each in ends:
                each.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def _counted(self, more: int) -> None:
        self._open += more
        self.most = max(self.most, self._open)
        self._changed.set()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: set[asyncio.StreamWriter], *, up: bool
    ) -> None:
        with suppress(ConnectionError):
            while (data := await reader.read(1 << 14)) and not writer.is_closing():
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
                if self.up >= self._cut_up or self.down >= self._cut_down:
                    self.cut(ends if self._alone else ())
        writer.close()


@asynccontextmanager
async def proxy(made: Rig) -> AsyncIterator[Proxy]:
    """Nodes of this rig are sent through a proxy."""
    between = Proxy()
    server, made.proxied = await between.serve(made.port)
    try:
        yield between
    finally:
        between.cut()
        server.close()
        await server.wait_closed()


async def stopped(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _next(queue: "asyncio.Queue[FromNode] | asyncio.Queue[ToNode]", kind: type[F]) -> F:
    async with asyncio.timeout(20):
        while True:
            frame = await queue.get()
            if isinstance(frame, kind):
                return frame
