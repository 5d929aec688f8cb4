"""A virtual network: hosts, the links between them, and connections that are made, carry messages, and break.

It does what TCP does; what grpc does over it is in `rpc`. Messages of one call in one direction arrive in order, each
late by its own delay. Links between hosts can be

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
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from typing import Any, Protocol

from dst.loop import Process, VirtualLoop

__all__ = ["Call", "Connection", "Network", "Pipe", "Profile", "Server", "Tripwire"]

_CONNECTING = 20.0
"""Seconds after which grpc gives up a connection that is not answered."""
_KEEPALIVE = 10.0, 40.0
"""Seconds of a dead link after which an end gives a connection up: at least, at most."""
_TICK = 1e-9
"""Seconds between two messages that arrive in order: timers of one time have none."""


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
    action: Callable[["Connection"], None]
    method: str = ""
    """The end of the method's name, to count its messages only."""


class Server(Protocol):
    """Who listens at an address."""

    process: Process
    address: str


class Call(Protocol):
    """One end of a call on a connection."""

    def lost(self) -> None:
        """The connection is."""


@dataclass(slots=True)
class _Link:
    """Between two hosts."""

    rng: random.Random
    slow: float = 1.0
    cut: str = ""
    """"": whole; "both"; else the host whose messages do not arrive."""
    connections: "dict[Connection, None]" = field(default_factory=dict)


class Network:
    """Hosts by name; a host runs one process at a time."""

    def __init__(self, loop: VirtualLoop, seed: object, profile: Profile) -> None:
        """seed: of every delay; a link's own do not depend on what happens on others."""
        self.loop = loop
        self.profile = profile
        self.messages = 0
        self.numbers = itertools.count()
        """Of connections, channels and calls: sets of them are walked in the same order in every run."""
        self.tripwires: list[Tripwire] = []
        self.errors: list[str] = []
        """What a handler raised that is no error of hansa."""
        self._seed = seed
        self._listening: dict[str, Server] = {}
        self._links: dict[frozenset[str], _Link] = {}
        self._away: set[str] = set()
        self._ports = itertools.count(40000)

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

    def _connections(self) -> "list[Connection]":
        return [connection for link in self._links.values() for connection in link.connections]

    def link(self, one: str, other: str) -> _Link:
        """Between two hosts, in no direction."""
        pair = frozenset((one, other))
        if pair not in self._links:
            self._links[pair] = _Link(random.Random(f"{self._seed}:{'-'.join(sorted(pair))}"))  # noqa: S311 - a simulation
        return self._links[pair]

    def delay(self, link: _Link) -> float:
        """Of the next message."""
        draw, profile = link.rng.random, self.profile
        seconds = profile.latency * (0.5 - log(1.0 - draw()) / 2.0) * link.slow  # half of it, and an exponential share
        return min(seconds * 50, max(seconds, 1.0)) if draw() < profile.spikes else seconds

    def server(self, address: str) -> Server | None:
        """Who listens there now."""
        return self._listening.get(address)

    def listen(self, server: Server, address: str) -> int:
        """The port."""
        host, _, port = address.rpartition(":")
        number = int(port) or next(self._ports)
        server.address = f"{host}:{number}"
        return number

    def opened(self, server: Server) -> None:
        """It takes calls now; with its address it takes over what its predecessor knew nothing of any more."""
        self._listening[server.address] = server
        for connection in self._connections():
            if connection.gone and connection.address == server.address:
                connection.heal()

    def closed(self, server: Server) -> None:
        """It does not any more."""
        if self._listening.get(server.address) is server:
            del self._listening[server.address]

    def hung_up(self, process: Process) -> None:
        """A server has stopped: its connections end."""
        for connection in self._connections():
            if connection.server is process and connection.open.done():
                connection.lose(False)

    def is_away(self, host: str) -> bool:
        """Whether a host is without power."""
        return host in self._away

    def passed(self, connection: "Connection", method: str) -> None:
        """A message goes over a link: whatever waits for it happens."""
        self.messages += 1
        for wire in self.tripwires:
            if wire.link == connection.pair and method.endswith(wire.method):
                wire.after -= 1
                if wire.after == 0:
                    self.loop.at(self.loop.now, wire.action, connection)


class Connection:
    """Between a client's process and a server's; each end has its own idea of whether it is alive."""

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
        self.calls: dict[Call, None] = {}
        self.served: dict[Call, None] = {}
        self.held: list[tuple[bool | None, Callable[[], None]]] = []
        """What waits for the link: whether it is on its way to the client, and what is done then."""
        self._doubts = 0
        self._latest = 0.0
        self._number = next(network.numbers)
        self.link.connections[self] = None
        loop = network.loop
        loop.at(loop.now + network.delay(self.link), self._syn, process=client)
        self._patience = loop.at(loop.now + _CONNECTING, self._refuse, "timed out", process=client)

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
            self.held.append((None, self._syn))
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
        if self.open.done():
            return
        if self.server is not None and not self.server.alive and not self.dark:
            self._refuse("Connection reset by peer")  # its host is up again, and knows nothing of it
            return
        self._patience.cancel()
        self.open.set_result(None)

    def _refuse(self, why: str) -> None:
        if not self.open.done():
            self.open.set_exception(ConnectionRefusedError(why))
            self.open.exception()  # whoever waits is told; if nobody does, that is no error
            self._forget()

    # ── carrying ──

    def carry(self, pipe: "Pipe", item: Any, arrived: Callable[[Any], None]) -> None:
        """Towards an end, after the delays and the cuts that there are."""
        if self.broken:
            return
        to_client, cut = pipe.to_client, self.link.cut
        is_cut = cut and cut in ("both", self.host if to_client else self.client.name)
        if self.gone or is_cut or any(way is to_client for way, _ in self.held):  # nothing overtakes what waits
            self.held.append((to_client, lambda: self.carry(pipe, item, arrived)))
            return
        loop = self.network.loop
        at = pipe.latest = max(pipe.latest + _TICK, loop.now + self.network.delay(self.link))
        self._latest = max(self._latest, at)
        loop.at(at, self._arrive, item, arrived, to_client, process=self.client if to_client else self.server)

    def _arrive(self, item: Any, arrived: Callable[[Any], None], to_client: bool) -> None:  # noqa: FBT001 - which end
        if not self.broken and not self.lost[to_client]:
            arrived(item)

    # ── breaking ──

    def reset(self, *, flush: bool = False) -> None:
        """Both ends learn it. flush: what is on its way arrives before."""
        loop = self.network.loop
        if not self.open.done():
            self._refuse("Connection reset by peer")
            return
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
        for _, again in held:
            again()

    def lose(self, end: bool) -> None:  # noqa: FBT001 - which end
        """This end knows that the connection is gone."""
        if self.lost[end]:
            return
        self.lost[end] = True
        for call in list(self.calls if end else self.served):
            call.lost()
        if not self.dark and self.server is not None:
            loop = self.network.loop
            other = self.server if end else self.client
            at = max(loop.now, self._latest) + self.network.delay(self.link)
            if not self.lost[not end]:
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


class Pipe:
    """The messages of one call in one direction."""

    def __init__(self, connection: Connection, *, to_client: bool, method: str) -> None:
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
        self._connection.carry(self, item, arrived)

    def taken(self, item: bytes) -> None:
        """The receiver has read it."""
        self.unread -= len(item)
