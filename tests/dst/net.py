"""A virtual network under the real `hansa.wire`: it takes the place of grpc's own channel and server.

Bytes are framed, tokens checked and errors translated by the code that does it in production; here is only what grpc
and TCP do. A connection is made when a channel is first used. Messages of one call in one direction arrive in order,
each late by its own delay; a sender waits while more than a window is unread. Links between hosts can be

    reset     both ends learn it soon, and what was on its way is lost
    cut       nothing arrives, in both directions or in one; TCP holds it back, and sends it should the link heal before
              an end's keepalive gives the connection up, which each end does at a time of its own (half-open)
    slow      every message takes longer

A process that dies takes its connections with it: its kernel resets them, or, when its host has lost power, its peers
hear nothing until their keepalive does.
"""

import asyncio
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from dst.loop import Process, VirtualLoop
from hansa.wire.channel import Channel
from hansa.wire.transport import Transport

__all__ = ["Network", "Profile", "Tripwire"]

_CONNECTING = 20.0
"""Seconds after which grpc gives up a connection that is not answered."""
_KEEPALIVE = 10.0, 40.0
"""Seconds of a dead link after which an end gives a connection up: at least, at most."""
_TICK = 1e-9
"""Seconds between two messages that arrive in order: timers of one time have none."""
_END = object()
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Profile:
    """How the network is when nothing is wrong with it."""

    latency: float = 0.002
    """Seconds of a message, at least half of it and on average some more."""
    spikes: float = 0.01
    """Share of the messages that take fifty times as long, at most a second."""
    window: int = 1 << 16
    """Bytes that may be on their way, unread, before a sender waits."""


@dataclass(slots=True)
class Tripwire:
    """Something that happens when so many more messages have gone over a link."""

    link: frozenset[str]
    after: int
    action: Callable[["_Connection"], None]
    method: str = ""
    """The end of the method's name, to count its messages only."""


@dataclass(slots=True)
class _Link:
    """Between two hosts."""

    rng: random.Random
    slow: float = 1.0
    cut: str = ""
    """"": whole; "both"; else the host whose messages do not arrive."""
    connections: "dict[_Connection, None]" = field(default_factory=dict)


class Network:
    """Hosts by name; a host runs one process at a time."""

    def __init__(self, loop: VirtualLoop, seed: object, profile: Profile) -> None:
        """seed: of every delay; a link's own do not depend on what happens on others."""
        self.loop = loop
        self.profile = profile
        self.counts: Counter[str] = Counter()
        self.tripwires: list[Tripwire] = []
        self.errors: list[str] = []
        """What a handler raised that is no error of hansa."""
        self._seed = seed
        self._listening: dict[str, _Server] = {}
        self._links: dict[frozenset[str], _Link] = {}
        self._away: set[str] = set()
        self._ports = itertools.count(40000)

    def transport(self, process: Process) -> Transport:
        """The network as this process sees it."""
        return Transport(
            dial=lambda address: _Channel(address, _RawChannel(self, process, address)),
            create_server=lambda *handlers: _Server(self, process, handlers),
            bind=lambda server, address: server.bind(address),
        )

    # ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────

    def reset(self, one: str, other: str) -> None:
        """Every connection between two hosts."""
        for connection in list(self.link(one, other).connections):
            connection.reset()

    def cut(self, one: str, other: str, only_from: str = "") -> None:
        """Until `heal`. only_from: the host whose messages are lost; else both."""
        link = self.link(one, other)
        link.cut = only_from or "both"
        for connection in list(link.connections):
            connection.doubt()

    def heal(self, one: str, other: str) -> None:
        """As before."""
        link = self.link(one, other)
        link.cut = ""
        for connection in list(link.connections):
            connection.heal()

    def slow(self, one: str, other: str, factor: float) -> None:
        """Every delay times a factor; 1 is as before."""
        self.link(one, other).slow = factor

    def died(self, process: Process, *, power: bool = False) -> None:
        """A process is gone. power: with its host, so that nobody says so."""
        for address in [a for a, server in self._listening.items() if server.process is process]:
            del self._listening[address]
        if power:
            self._away.add(process.name)
        for connection in self._connections():
            if process in (connection.client, connection.server):
                flush = connection.link.rng.random() < 0.5
                connection.vanish() if power else connection.reset(flush=flush)

    def returned(self, name: str) -> None:
        """A host is up again: it knows nothing of the connections that it had."""
        self._away.discard(name)
        for connection in self._connections():
            if connection.gone and name in connection.pair:
                connection.heal()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _connections(self) -> "list[_Connection]":
        return [connection for link in self._links.values() for connection in link.connections]

    def link(self, one: str, other: str) -> _Link:
        """Between two hosts, in no direction."""
        pair = frozenset((one, other))
        if pair not in self._links:
            self._links[pair] = _Link(random.Random(f"{self._seed}:{'-'.join(sorted(pair))}"))  # noqa: S311 - a simulation
        return self._links[pair]

    def delay(self, link: _Link) -> float:
        """Of the next message."""
        rng, profile = link.rng, self.profile
        seconds = profile.latency * (0.5 + rng.expovariate(2.0)) * link.slow
        return min(seconds * 50, max(seconds, 1.0)) if rng.random() < profile.spikes else seconds

    def server(self, address: str) -> "_Server | None":
        """Who listens there now."""
        return self._listening.get(address)

    def listen(self, server: "_Server", address: str) -> int:
        """The port."""
        host, _, port = address.rpartition(":")
        number = int(port) or next(self._ports)
        server.address = f"{host}:{number}"
        return number

    def opened(self, server: "_Server") -> None:
        """It takes calls now; with its address it takes over what its predecessor knew nothing of any more."""
        self._listening[server.address] = server
        for connection in self._connections():
            if connection.gone and connection.address == server.address:
                connection.heal()

    def closed(self, server: "_Server") -> None:
        """It does not any more."""
        if self._listening.get(server.address) is server:
            del self._listening[server.address]

    def is_away(self, host: str) -> bool:
        """Whether a host is without power."""
        return host in self._away

    def passed(self, connection: "_Connection", method: str) -> None:
        """A message goes over a link: whatever waits for it happens."""
        self.counts["messages"] += 1
        for wire in self.tripwires:
            if wire.link == connection.pair and method.endswith(wire.method):
                wire.after -= 1
                if wire.after == 0:
                    self.loop.at(self.loop.now, wire.action, connection)


class _Connection:
    """Between a client's process and a server's; each end has its own idea of whether it is alive."""

    _numbers = itertools.count()

    def __init__(self, network: Network, client: Process, address: str) -> None:
        self.network = network
        self.client = client
        self.address = address
        host = address.rpartition(":")[0]
        self.pair = frozenset((client.name, host))
        self.host = host
        self.link = network.link(client.name, host)
        self.server: Process | None = None
        self.open: asyncio.Future[None] = network.loop.create_future()
        self.lost = {True: False, False: False}
        """By end (True: the client's): whether it knows that the connection is gone."""
        self.broken = False
        """Whether nothing arrives any more."""
        self.gone = False
        """Whether one end's host is without power."""
        self.calls: dict[ClientCall, None] = {}
        self.served: dict[ServerCall, None] = {}
        self.held: list[Callable[[], None]] = []
        self._doubts = 0
        self._latest = 0.0
        self._number = next(self._numbers)
        self.link.connections[self] = None
        loop = network.loop
        loop.at(loop.now + network.delay(self.link), self._syn, process=client)
        loop.at(loop.now + _CONNECTING, self._refuse, "timed out", process=client)

    def __hash__(self) -> int:
        """By number: walked in the same order in every run."""
        return self._number

    def __eq__(self, other: object) -> bool:
        """By identity."""
        return self is other

    @property
    def dark(self) -> bool:
        """Whether nothing passes now, in some direction."""
        return bool(self.link.cut) or self.gone

    # ── making ──

    def _syn(self) -> None:
        if self.open.done():
            return
        server = self.network.server(self.address)
        loop = self.network.loop
        if self.dark:
            self.held.append(self._syn)
            return
        if server is None and self.network.is_away(self.host):
            loop.at(loop.now + 1.0, self._syn, process=self.client)  # as TCP does: it asks again
            return
        if server is None or not server.process.alive:
            loop.at(loop.now + self.network.delay(self.link), self._refuse, "Connection refused", process=self.client)
            return
        if server.process.paused:  # the kernel takes it, the process does not answer
            loop.at(loop.now + 0.5, self._syn, process=self.client)
            return
        self.server, self.accepted = server.process, server
        loop.at(loop.now + self.network.delay(self.link), self._established, process=self.client)

    def _established(self) -> None:
        if not self.open.done():
            self.network.counts["connections"] += 1
            self.open.set_result(None)

    def _refuse(self, why: str) -> None:
        if not self.open.done():
            self.open.set_exception(ConnectionRefusedError(why))
            self.open.exception()  # whoever waits is told; if nobody does, that is no error
            self._forget()

    # ── carrying ──

    def carry(self, pipe: "_Pipe", deliver: Callable[[], None]) -> None:
        """Towards an end, after the delays and the cuts that there are."""
        if self.broken:
            return
        sender = self.host if pipe.to_client else self.client.name
        if self.gone or self.link.cut in ("both", sender):
            self.held.append(lambda: self.carry(pipe, deliver))
            return
        loop = self.network.loop
        pipe.latest = max(pipe.latest + _TICK, loop.now + self.network.delay(self.link))
        self._latest = max(self._latest, pipe.latest)
        receiver = self.client if pipe.to_client else self.server
        loop.at(pipe.latest, self._arrive, deliver, pipe.to_client, process=receiver)

    def _arrive(self, deliver: Callable[[], None], to_client: bool) -> None:  # noqa: FBT001 - which end
        if not self.broken and not self.lost[to_client]:
            deliver()

    # ── breaking ──

    def reset(self, *, flush: bool = False) -> None:
        """Both ends learn it. flush: what is on its way arrives before."""
        loop = self.network.loop
        if not self.open.done():
            self._refuse("Connection reset by peer")
            return
        self.network.counts["connections reset"] += 1
        self.broken = self.broken or self.dark or not flush
        at = max(loop.now, self._latest if flush else 0.0) + self.network.delay(self.link)
        if self.dark:  # nobody is told; keepalive finds out
            self.doubt()
            return
        for end in (True, False):
            loop.at(at, self.lose, end, process=self.client if end else self.server)

    def vanish(self) -> None:
        """The host of one end has lost its power."""
        self.gone = True
        self.doubt()

    def doubt(self) -> None:
        """The link is dark: each end gives up at a time of its own, unless it heals before."""
        self._doubts += 1
        loop, rng = self.network.loop, self.link.rng
        for end in (True, False):
            at = loop.now + rng.uniform(*_KEEPALIVE)
            loop.at(at, self._give_up, end, self._doubts, process=self.client if end else self.server)

    def _give_up(self, end: bool, doubt: int) -> None:  # noqa: FBT001 - which end
        if doubt == self._doubts and (self.dark or self.broken):
            self.lose(end)

    def heal(self) -> None:
        """What was held back goes on, unless an end has given up: then the other is told."""
        if self.link.cut:
            return
        self._doubts += 1
        loop, rng = self.network.loop, self.link.rng
        was_gone, self.gone = self.gone, False
        held, self.held = self.held, []
        if self.open.done() and (was_gone or self.broken or any(self.lost.values())):
            self.broken = True
            for end in (True, False):
                wait = self.network.delay(self.link) + (0.0 if held else rng.uniform(0.0, 30.0))
                loop.at(loop.now + wait, self.lose, end, process=self.client if end else self.server)
            return
        for again in held:
            again()

    def lose(self, end: bool) -> None:  # noqa: FBT001 - which end
        """This end knows that the connection is gone."""
        if self.lost[end]:
            return
        self.lost[end] = True
        calls: list[ClientCall | ServerCall] = list(self.calls if end else self.served)
        for call in calls:
            call.lost()
        if not self.dark and self.server is not None:
            loop = self.network.loop
            other = self.server if end else self.client
            at = max(loop.now, self._latest) + self.network.delay(self.link)
            loop.at(at, self.lose, not end, process=other)
        if all(self.lost.values()) or not (self.client.alive and self.server is not None and self.server.alive):
            self._forget()

    def close(self) -> None:
        """The client leaves in good order: what it has sent arrives."""
        if not self.open.done():
            self._refuse("closed")
            return
        self.lose(True)

    def _forget(self) -> None:
        self.link.connections.pop(self, None)


class _Pipe:
    """The messages of one call in one direction."""

    def __init__(self, connection: _Connection, *, to_client: bool, method: str) -> None:
        self.to_client = to_client
        self.latest = 0.0
        self.inbox: deque[Any] = deque()
        self.unread = 0
        self._connection = connection
        self._method = method

    def send(self, item: Any, arrived: Callable[[Any], None]) -> None:
        """A message (bytes), or a sign of the end; `arrived` is called at the other end."""
        if isinstance(item, bytes):
            self.unread += len(item)
        self._connection.network.passed(self._connection, self._method)
        self._connection.carry(self, lambda: arrived(item))

    def taken(self, item: bytes) -> None:
        """The receiver has read it."""
        self.unread -= len(item)


class _Waiting:
    """Lets any number of tasks wait for something to change."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []

    async def changed(self) -> None:
        """Wait for the next change."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def notify(self) -> None:
        """Something has changed."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class _Channel(Channel):
    """hansa's own, hashed by number: sets of them are walked in the same order in every run."""

    _numbers = itertools.count()

    def __init__(self, address: str, raw: Any) -> None:
        super().__init__(address, raw)
        self._number = next(self._numbers)

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
        self._connection: _Connection | None = None
        self._closed = False

    def __getattr__(self, kind: str) -> Any:
        """`unary_unary` and so on: a path → what starts a call."""
        if kind not in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            raise AttributeError(kind)

        def start(path: str) -> Any:
            return lambda *request, **options: ClientCall(self._network, self._dialled(), path, kind, request, options)

        return start

    def _dialled(self) -> _Connection:
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        at = self._connection
        if at is None or at.lost[True] or (at.open.done() and at.open.exception() is not None):
            self._connection = _Connection(self._network, self._process, self._address)
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

    _numbers = itertools.count()

    def __init__(
        self,
        network: Network,
        connection: _Connection,
        path: str,
        kind: str,
        request: tuple[bytes, ...],
        options: dict[str, Any],
    ) -> None:
        self._number = next(self._numbers)
        self._network = network
        self._connection = connection
        self._kind = kind
        self._down = _Pipe(connection, to_client=True, method=path)
        self._up = _Pipe(connection, to_client=False, method=path)
        self._change = _Waiting(network.loop)
        self._status: tuple[Any, str] | None = None
        self._cancelled = False
        self._begun = False
        self._half_closed = bool(request)
        self._callbacks: list[Callable[[Any], None]] = []
        self._peer: ServerCall | None = None
        self._head = path, kind, tuple(options.get("metadata") or ()), request
        connection.calls[self] = None
        if options.get("timeout") is not None:
            loop = network.loop
            loop.at(loop.now + options["timeout"], self._expire, process=connection.client)
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
            await self._cancelling(self._change.changed())
        if self._status is not None:
            self._raise()

    async def read(self) -> Any:
        """The next message, or `EOF`."""
        while not self._down.inbox and self._status is None:
            await self._cancelling(self._change.changed())
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
            await self._cancelling(self._change.changed())
        if self._status is not None or self._half_closed:
            raise asyncio.InvalidStateError("RPC already finished.")
        self._up.send(bytes(data), self._deliver_up)
        while self._up.unread > self._network.profile.window and self._status is None:
            await self._cancelling(self._change.changed())
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
    def down(self) -> _Pipe:
        """Towards here."""
        return self._down

    @property
    def up(self) -> _Pipe:
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
            await self._cancelling(self._change.changed())
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

    async def _cancelling(self, waiting: Any) -> None:
        """As grpc has it: whoever cancels a task that waits for a call ends the call."""
        try:
            await waiting
        except asyncio.CancelledError:
            self.cancel()
            raise


class ServerCall:
    """In the place of `grpc.aio.ServicerContext`."""

    _numbers = itertools.count()

    def __init__(self, network: Network, connection: _Connection, client: ClientCall, metadata: Any) -> None:
        self._number = next(self._numbers)
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
        details = type("Details", (), {"method": path, "invocation_metadata": self._metadata})()
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
        for link in list(self._network._links.values()):
            for connection in list(link.connections):
                if connection.server is self.process and connection.open.done():
                    connection.lose(False)
