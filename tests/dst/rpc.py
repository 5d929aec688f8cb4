"""grpc's channels, calls and servers over the virtual network of `net`.

Bytes are framed, tokens checked and errors translated by the code that does it in production; here is only what grpc
does: a connection is made when a channel is first used, messages of one call in one direction arrive in order, and a
sender waits while more than a window is unread.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio

from dst.loop import Process, VirtualLoop
from dst.net import Connection, Network, Pipe
from hansa.wire.channel import Channel
from hansa.wire.transport import Transport

__all__ = ["transport"]

_END = object()
"""A half-close."""
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def transport(network: Network, process: Process) -> Transport:
    """The network as this process sees it."""
    return Transport(
        dial=lambda address, _trust: _Channel(network, process, address),
        create_server=lambda *handlers: _Server(network, process, handlers),
        bind=lambda server, address, _shown: server.bind(address),
    )


class _Waiting:
    """Lets any number of tasks wait for something to change."""

    __slots__ = ("_loop", "_waiters")

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []

    def changed(self) -> "asyncio.Future[None]":
        """Wait for the next change."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def notify(self) -> None:
        """Something has changed."""
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


class _Channel(Channel):
    """hansa's own, hashed by number: sets of them are walked in the same order in every run."""

    def __init__(self, network: Network, process: Process, address: str) -> None:
        super().__init__(address, _RawChannel(network, process, address))
        self._number = next(network.numbers)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class _RawChannel:
    """In the place of `grpc.aio.Channel`."""

    def __init__(self, network: Network, process: Process, address: str) -> None:
        self._network = network
        self._process = process
        self._address = address
        self._connection: Connection | None = None
        self._closed = False

    def __getattr__(self, kind: str) -> Any:
        """`unary_unary` and so on: a path → what starts a call."""
        if kind not in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            raise AttributeError(kind)

        def start(path: str) -> Any:
            return lambda *request, **options: ClientCall(self._network, self._dialled(), path, kind, request, options)

        return start

    def _dialled(self) -> Connection:
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        at = self._connection
        if at is None or at.lost[True] or (at.open.done() and at.open.exception() is not None):
            self._connection = Connection(self._network, self._process, self._address)
        return self._connection  # type: ignore[return-value]

    async def close(self, _grace: float | None = None) -> None:
        """End it, and its calls."""
        self._closed = True
        if self._connection is not None:
            for call in list(self._connection.calls):
                call.cancel()
            self._connection.close()


class ClientCall:
    """In the place of a call of `grpc.aio`, on the client's side."""

    def __init__(
        self,
        network: Network,
        connection: Connection,
        path: str,
        kind: str,
        request: tuple[bytes, ...],
        options: dict[str, Any],
    ) -> None:
        self._number = next(network.numbers)
        self._network = network
        self._connection = connection
        self._kind = kind
        self._down = Pipe(connection, to_client=True, method=path)
        self._up = Pipe(connection, to_client=False, method=path)
        self._change = _Waiting(network.loop)
        self._status: tuple[Any, str] | None = None
        self._cancelled = False
        self._begun = False
        self._half_closed = bool(request)
        self._callbacks: list[Callable[[Any], None]] = []
        self._peer: ServerCall | None = None
        self._head = path, kind, tuple(options.get("metadata") or ()), request
        connection.calls[self] = None
        self._expires = None
        if options.get("timeout") is not None:
            loop = network.loop
            self._expires = loop.at(loop.now + options["timeout"], self._expire, process=connection.client)
        connection.open.add_done_callback(self._opened, context=connection.client.context)
        if connection.open.done():
            self._opened(connection.open)

    def __hash__(self) -> int:
        """By number."""
        return self._number

    def __eq__(self, other: object) -> bool:
        """By identity."""
        return self is other

    # ── what hansa.wire.channel uses ──

    async def wait_for_connection(self) -> None:
        """Or raise why there is none."""
        while not self._begun and self._status is None:
            await self._changed()
        if self._status is not None:
            self._raise()

    async def read(self) -> Any:
        """The next message, or `EOF`."""
        while not self._down.inbox and self._status is None:
            await self._changed()
        if self._down.inbox:
            data = self._down.inbox.popleft()
            self._down.taken(data)
            if self._peer is not None and self._down.unread + len(data) > self._network.profile.window:
                self._peer.credit()
            return data
        self._raise()
        return grpc.aio.EOF

    async def write(self, data: bytes) -> None:
        """Send a message; waits for the window."""
        while not self._begun and self._status is None:
            await self._changed()
        if self._status is not None or self._half_closed:
            raise asyncio.InvalidStateError("RPC already finished.")
        self._up.send(bytes(data), self._deliver_up)
        while self._up.unread > self._network.profile.window and self._status is None:
            await self._changed()
        if self._status is not None and self._status[0] is not grpc.StatusCode.OK:
            raise asyncio.InvalidStateError("RPC already finished.")

    async def done_writing(self) -> None:
        """Half-close."""
        if self._status is None and not self._half_closed:
            self._half_closed = True
            self._up.send(_END, self._deliver_up)

    def __await__(self) -> Any:
        """The one response."""
        return self._response().__await__()

    def done(self) -> bool:
        """Whether it has a status."""
        return self._status is not None

    def cancel(self) -> bool:
        """End it here; the server is told."""
        if self._status is not None:
            return False
        self._cancelled = True
        if self._begun:
            self._up.send(None, self._deliver_up)
        self._end(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", keep=False)
        return True

    def cancelled(self) -> bool:
        """Whether it was ended here."""
        return self._cancelled

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Called with the call."""
        if self._status is not None:
            callback(self)
        else:
            self._callbacks.append(callback)

    async def code(self) -> Any:
        """Once it has ended."""
        while self._status is None:
            await self._change.changed()
        return self._status[0]

    async def details(self) -> str:
        """Once it has ended."""
        while self._status is None:
            await self._change.changed()
        return self._status[1]

    # ── what the network does ──

    def lost(self) -> None:
        """The connection is."""
        self._end(_UNAVAILABLE, "Connection reset by peer", keep=False)

    def arrived(self, item: Any) -> None:
        """From the server: a message, or the status."""
        if self._status is not None:
            return
        if isinstance(item, bytes):
            self._down.inbox.append(item)
            self._change.notify()
        else:
            self._end(*item, keep=True)

    def credit(self) -> None:
        """The server has read something."""
        self._change.notify()

    @property
    def down(self) -> Pipe:
        """Towards here."""
        return self._down

    @property
    def up(self) -> Pipe:
        """From here."""
        return self._up

    def _opened(self, open_: "asyncio.Future[None]") -> None:
        if self._begun or self._status is not None or open_.cancelled():
            return
        error = open_.exception()
        if error is not None:
            detail = f"failed to connect to all addresses; last error: UNKNOWN: {self._connection.address}: {error}"
            self._end(_UNAVAILABLE, detail, keep=False)
            return
        self._begun = True
        self._up.send(self._head, self._serve)
        for message in self._head[3]:
            self._up.send(message, self._deliver_up)
        if self._half_closed:
            self._up.send(_END, self._deliver_up)
        self._change.notify()

    def _serve(self, head: Any) -> None:
        """The call arrives at the server."""
        self._peer = ServerCall(self._network, self._connection, self, head[2])
        self._peer.serve(head[0], head[1])

    def _deliver_up(self, item: Any) -> None:
        if self._peer is not None:
            self._peer.arrived(item)

    async def _response(self) -> bytes:
        try:
            data = await self.read()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if data is grpc.aio.EOF:
            raise AssertionError("a unary response without a response")
        while self._status is None:
            await self._changed()
        self._raise()
        return bytes(data)

    def _expire(self) -> None:
        if self._status is None:
            if self._begun:
                self._up.send(None, self._deliver_up)
            self._end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", keep=False)

    def _end(self, code: Any, details: str, *, keep: bool) -> None:
        """keep: what has arrived can still be read."""
        if self._status is not None:
            return
        self._status = code, details
        if self._expires is not None:
            self._expires.cancel()
        if not keep:
            self._down.inbox.clear()
        self._connection.calls.pop(self, None)
        self._change.notify()
        for callback in self._callbacks:
            callback(self)

    def _raise(self) -> None:
        code, details = self._status or (None, "")
        if self._cancelled:
            raise asyncio.CancelledError
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)

    async def _changed(self) -> None:
        """As grpc has it: whoever cancels a task that waits for a call ends the call."""
        try:
            await self._change.changed()
        except asyncio.CancelledError:
            self.cancel()
            raise


class _Details(NamedTuple):
    """In the place of `grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: Any


class ServerCall:
    """In the place of `grpc.aio.ServicerContext`."""

    def __init__(self, network: Network, connection: Connection, client: ClientCall, metadata: Any) -> None:
        self._number = next(network.numbers)
        self._network = network
        self._connection = connection
        self._client = client
        self._metadata = metadata
        self._change = _Waiting(network.loop)
        self._task: asyncio.Task[None] | None = None
        self._half_closed = False
        self._gone = False
        connection.served[self] = None

    def __hash__(self) -> int:
        """By number."""
        return self._number

    def __eq__(self, other: object) -> bool:
        """By identity."""
        return self is other

    def serve(self, path: str, kind: str) -> None:
        """Find the handler and run it as a task of the server."""
        server = self._connection.accepted
        details = _Details(path, self._metadata)
        found = next((h for handler in server.handlers if (h := handler.service(details)) is not None), None)
        if found is None:
            self._finish(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        self._task = server.process.start(self._run(getattr(found, kind), kind))
        server.tasks[self._task] = None
        self._task.add_done_callback(lambda task: server.tasks.pop(task, None))

    async def _run(self, handler: Any, kind: str) -> None:
        try:
            if kind.startswith("unary"):
                request = await self.read()
                if request is grpc.aio.EOF:
                    return
                response = await handler(request, self)
            else:
                response = await handler(self, self)
        except asyncio.CancelledError:
            self._finish(grpc.StatusCode.CANCELLED, "the server has stopped")
            raise
        except grpc.aio.AbortError:
            return
        except Exception as error:  # noqa: BLE001 - as grpc does, it answers with UNKNOWN
            self._network.errors.append(f"a handler raised {type(error).__name__}: {error}")
            self._finish(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")
            return
        if kind.endswith("unary"):
            self._send(bytes(response))
        self._finish(grpc.StatusCode.OK, "")

    # ── what hansa.wire.service uses ──

    async def read(self) -> Any:
        """The next message, or `EOF`."""
        up = self._client.up
        while not up.inbox and not self._half_closed and not self._gone:
            await self._change.changed()
        if up.inbox:
            data = up.inbox.popleft()
            up.taken(data)
            if up.unread + len(data) > self._network.profile.window:
                loop = self._network.loop
                loop.at(loop.now, self._client.credit, process=self._connection.client)
            return data
        return grpc.aio.EOF

    async def write(self, data: bytes) -> None:
        """Send a message; waits for the window."""
        if self._gone:
            raise asyncio.InvalidStateError("RPC already finished.")
        self._send(bytes(data))
        while self._client.down.unread > self._network.profile.window and not self._gone:
            await self._change.changed()

    async def abort(self, code: Any, details: str = "") -> None:
        """End it with a status."""
        self._finish(code, details)
        raise grpc.aio.AbortError

    def invocation_metadata(self) -> Any:
        """Pairs."""
        return self._metadata

    # ── what the network does ──

    def arrived(self, item: Any) -> None:
        """From the client: a message, its half-close, or (None) that it has cancelled."""
        if self._gone:
            return
        if item is None:
            self.lost()
        elif item is _END:
            self._half_closed = True
        else:
            self._client.up.inbox.append(item)
        self._change.notify()

    def credit(self) -> None:
        """The client has read something."""
        loop = self._network.loop
        if self._connection.server is not None:
            loop.at(loop.now, self._change.notify, process=self._connection.server)

    def lost(self) -> None:
        """The client is gone."""
        if not self._gone:
            self._gone = True
            self._connection.served.pop(self, None)
            if self._task is not None:
                self._task.cancel()

    def _send(self, item: bytes) -> None:
        if not self._gone:
            self._client.down.send(item, self._client.arrived)

    def _finish(self, code: Any, details: str) -> None:
        if not self._gone:
            self._client.down.send((code, details), self._client.arrived)
            self._gone = True
            self._connection.served.pop(self, None)
            self._change.notify()


class _Server:
    """In the place of `grpc.aio.Server`."""

    def __init__(self, network: Network, process: Process, handlers: tuple[Any, ...]) -> None:
        self.process = process
        self.handlers = list(handlers)
        self.address = ""
        self.tasks: dict[asyncio.Task[None], None] = {}
        self._network = network

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        """Serve these too."""
        self.handlers.extend(handlers)

    def bind(self, address: str) -> int:
        """The port."""
        return self._network.listen(self, address)

    async def start(self) -> None:
        """Take calls."""
        self._network.opened(self)

    async def stop(self, grace: float | None) -> None:
        """Take none, and end those that are under way after a while."""
        self._network.closed(self)
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=grace or 0)
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._network.hung_up(self.process)
