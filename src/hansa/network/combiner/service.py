"""The gRPC face of an aggregation server: control streams and transfers, each call bound to an identity."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hansa.errors import ConnectionFailedError, InputError, PermissionDeniedError, WireError
from hansa.network.combiner.children import Child
from hansa.network.combiner.hub import Hub
from hansa.network.combiner.traffic import Traffic
from hansa.wire import chunks, service
from hansa.wire.calls import DownloadRequest
from hansa.wire.channel import Stream, split_address
from hansa.wire.frames import FromNode, Hello, Redirect, Role, ToNode, Welcome
from hansa.wire.service import Authenticate
from hansa.wire.tls import address_of
from hansa.wire.tokens import Identity

__all__ = ["NodeService"]

_BACKLOG = 10_000
"""Frames that wait for a node that does not read; beyond, its stream ends."""

_BURST, _PER_SECOND = 1000, 200
"""Frames that a client may send at once, and then in every second; more are read later: gRPC holds it back."""

_FIRST_WORD = 30.0
"""Seconds within which a node must say hello on its stream."""

_FAREWELL = 1.0
"""Seconds for the last frame to a node that may have stopped reading."""

_MOST_TRANSFERS = 16
"""Uploads and downloads that one node may have under way; ours have two."""

_MOST_LABELS, _LONGEST_LABEL = 64, 256


class NodeService:
    """Serves the children of one or more hubs; which hub is a matter of the identity's project."""

    def __init__(
        self,
        hub: Callable[[Identity], Hub],
        authenticate: Authenticate,
        public_key: Callable[[], str],
        traffic: Traffic | None = None,
    ) -> None:
        """hub: identity → its hub, or raise `PermissionDeniedError`; public_key: PEM, told to combiners below.

        traffic: where to count what passes, for who asks.
        """
        self._hub = hub
        self._authenticate = authenticate
        self._public_key = public_key
        self._traffic = traffic if traffic is not None else Traffic()
        self._transfers: Counter[str] = Counter()
        """How many each node has under way, by what its token is revoked by."""

    def handlers(self) -> tuple[Any, ...]:
        """For `service.create_server`."""
        return (
            service.control_handler(self._attach, self._admitted),
            service.transfer_handler(self._download, self._upload, self._admitted),
        )

    async def _admitted(self, token: str) -> Identity:
        identity = await self._authenticate(token)
        _need_node(identity)
        self._hub(identity).dismissed.check(identity.token_id)
        return identity

    async def _attach(self, identity: Identity, stream: Stream[ToNode, FromNode]) -> None:
        """One control stream from hello to its end."""
        hub = self._hub(identity)
        try:
            async with asyncio.timeout(_FIRST_WORD):
                hello = await stream.receive()
        except TimeoutError as error:
            raise WireError(f"{identity.name} opened a stream and said nothing on it") from error
        if not isinstance(hello, Hello) or hello.role is not identity.role:
            raise WireError(f"{identity.name} must begin with a Hello of the role {identity.role.value}")
        _check_hello(identity.name, hello)
        outbox: asyncio.Queue[ToNode] = asyncio.Queue()
        ended = asyncio.Event()
        why: list[str] = []

        def close(reason: str) -> None:
            why.append(reason)
            ended.set()

        def send(frame: ToNode) -> None:
            if outbox.qsize() < _BACKLOG:
                outbox.put_nowait(frame)
            else:
                close(f"{identity.name} does not read what it is sent")

        now = asyncio.get_running_loop().time()
        child = Child(identity.name, hello, send, close, now, identity.token_id, identity.keys)
        key = self._public_key() if identity.role is Role.COMBINER else ""
        outbox.put_nowait(Welcome(hub.name, hub.children.lease / 3, key))
        hub.join(child)
        try:
            await _first_of(self._write(stream, outbox), self._read(stream, hub, child), ended.wait())
        finally:
            hub.leave(child)
        if why:
            with suppress(ConnectionFailedError, TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await stream.send(Redirect(why[0]))

    async def _write(self, stream: Stream[ToNode, FromNode], outbox: "asyncio.Queue[ToNode]") -> None:
        while True:
            before = stream.sent
            await stream.send(await outbox.get())
            self._traffic.sent(stream.sent - before)

    async def _read(self, stream: Stream[ToNode, FromNode], hub: Hub, child: Child) -> None:
        """Frames as they come; those of a client, who may flood, in their measure (a combiner's are those of many)."""
        loop = asyncio.get_running_loop()
        left, since = float(_BURST), loop.time()
        before = stream.received
        async for frame in stream:
            self._traffic.received(stream.received - before)
            before = stream.received
            if child.role is Role.CLIENT:
                now = loop.time()
                left, since = min(_BURST, left + (now - since) * _PER_SECOND) - 1, now
                if left < 0:
                    await asyncio.sleep(-left / _PER_SECOND)
            hub.receive(child, frame)

    async def _download(self, identity: Identity, request: DownloadRequest) -> AsyncGenerator[bytes, None]:
        hub = self._hub(identity)
        with hub.dismissed.ends(identity.token_id), self._transferring(identity):
            data = await hub.read(request.digest)
            pace = chunks.Pace(asyncio.get_running_loop().time)
            for frame in chunks.split([data], request.offset, pace):
                yield frame
                self._traffic.sent(len(frame))

    async def _upload(self, identity: Identity, name: str, pieces: AsyncIterator[tuple[int, memoryview]]) -> int:
        hub = self._hub(identity)
        with hub.dismissed.ends(identity.token_id), self._transferring(identity):
            return await hub.write(identity.name, name, self._counted(pieces))

    async def _counted(self, pieces: AsyncIterator[tuple[int, memoryview]]) -> AsyncIterator[tuple[int, memoryview]]:
        async for offset, piece in pieces:
            self._traffic.received(len(piece))
            yield offset, piece

    @contextmanager
    def _transferring(self, identity: Identity) -> Iterator[None]:
        """One more transfer of a node; raises `ConnectionFailedError` where it has too many under way."""
        if self._transfers[identity.token_id] >= _MOST_TRANSFERS:
            raise ConnectionFailedError(f"{identity.name} has {_MOST_TRANSFERS} transfers under way; try again later")
        self._transfers[identity.token_id] += 1
        try:
            yield
        finally:
            self._transfers -= Counter((identity.token_id,))


async def _first_of(*jobs: Any) -> None:
    """Run until one ends, cancel the others, and raise what it raised; a lost connection is an ordinary end."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [
        result for task, result in zip(tasks, results, strict=True) if task in done and isinstance(result, Exception)
    ]
    for error in errors:
        if not isinstance(error, ConnectionFailedError):
            raise error


def _check_hello(name: str, hello: Hello) -> None:
    """What a node says of itself goes to tables and to other nodes: it is bounded, and an address is one."""
    long = [key for key, value in hello.labels.items() if max(len(key), len(value)) > _LONGEST_LABEL]
    if len(hello.labels) > _MOST_LABELS or long or max(len(hello.version), len(hello.instance)) > _LONGEST_LABEL:
        raise WireError(
            f"{name} may have {_MOST_LABELS} labels of {_LONGEST_LABEL} characters each; use fewer, shorter ones"
        )
    if hello.role is Role.COMBINER:
        try:
            split_address(address_of(hello.address)[1])
        except InputError as error:
            raise WireError(f"{name} tells its clients to dial {hello.address[:100]!r}: {error}") from error


def _need_node(identity: Identity) -> None:
    if identity.role is Role.PERSON:
        raise PermissionDeniedError(
            f"{identity.name} is a person: nodes need a token of the role client or combiner "
            "(hansa token create --role client)"
        )
