"""Who is on the network, and where a node that asks is sent."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hansa.errors import ConflictError, NotFoundError, PermissionDeniedError
from hansa.network.controller.balancers import Asker, Balancer, Server
from hansa.wire.frames import ROOT, Presence, Present, Role

__all__ = ["Directory"]

_ON_ITS_WAY = 30.0
"""Seconds after which a client that was sent to a server and has not come counts nowhere."""

_IN_VAIN = 2
"""Times that a client asks again, because it did not get to where it was sent, before it is sent somewhere else."""


@dataclass(slots=True)
class Directory:
    """Connected clients and combiners; answers `Assign`."""

    root_address: str
    balancer: Balancer
    clients: dict[str, Present] = field(default_factory=dict)
    combiners: dict[str, Present] = field(default_factory=dict)
    assigned: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Client → the labels that operators gave it, whether it is connected or not."""
    _placed: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Client that is on its way → the server that it was sent to, and when: a crowd that asks at once is spread."""
    _preferred: dict[str, str] = field(default_factory=dict)
    """Client that has asked → the server that it would like; empty: any."""
    _in_vain: dict[str, Counter[str]] = field(default_factory=dict)
    """Client → servers that it was sent to and did not reach, and how often; forgotten when either gets there."""

    def apply(self, presence: Presence) -> None:
        """Take in who came and went."""
        for name in presence.left:
            self.clients.pop(name, None)
            self.combiners.pop(name, None)
        for present in presence.combiners:
            self.combiners[present.client] = present
            for tried in self._in_vain.values():  # it may be reached by now
                tried.pop(present.client, None)
        for present in presence.joined:
            self.clients[present.client] = present
            self._placed.pop(present.client, None)
            self._in_vain.get(present.client, Counter()).pop(present.combiner, None)

    def labels(self, client: str) -> Mapping[str, str]:
        """Of a client that is connected, its own and those that operators gave it."""
        own = self.clients[client].labels if client in self.clients else {}
        given = self.assigned.get(client)
        return own if given is None else {**own, **given}

    def present(self, now: float) -> frozenset[str]:
        """Clients that are connected or on their way. now: seconds of a monotonic clock."""
        self._forget(now)
        return frozenset(self.clients) | frozenset(self._placed)

    def assign(self, name: str, role: Role, preferred: str, labels: Mapping[str, str], now: float) -> Server:
        """The server for a node: the preferred one while it is there; else the balancer's choice, or the root.

        A client that asks again and again has no way to where it was sent, and is sent to another.

        now: seconds of a monotonic clock. Raises `NotFoundError` for a combiner whose preferred parent is not connected
        (yet), `ConflictError` for a loop, `PermissionDeniedError` for who is no node.
        """
        if role is Role.PERSON:
            raise PermissionDeniedError(f"{name} is a person: only clients and combiners are given a server")
        servers = self._servers(now, without=name)
        if role is Role.COMBINER:
            return self._parent(name, preferred, servers)
        self._preferred[name] = preferred
        if name in self._placed:
            self._in_vain.setdefault(name, Counter())[self._placed[name][0]] += 1
        server = self._chosen(name, labels, servers)
        if not self._reaches(name, server.name):  # nor the root: one of them will be there again
            del self._in_vain[name]
        self._placed[name] = server.name, now
        return server

    def strays(self, now: float) -> list[str]:
        """Clients at the root that have come while there was no combiner for them, and now there is one."""
        servers = self._servers(now)
        return [
            name
            for name, present in self.clients.items()
            if present.combiner == ROOT
            and self._preferred.get(name, ROOT) != ROOT  # else it did not ask, or wants to be here
            and self._leaves(name, servers)
        ]

    def misplaced(self, now: float) -> list[str]:
        """Clients below combiners that would be sent to another server if they asked now, and for whom it is better.

        As though one after the other went, after those that are at the root: a crowd is not sent to one server. Where
        only load speaks for another, it must have two clients less, so that none goes back and forth.
        """
        servers = self._servers(now)
        for name in self.strays(now):
            there = self._chosen(name, self.clients[name].labels, servers)
            servers[there.name] = _with(there, 1)
        found = []
        for name, present in sorted(self.clients.items()):
            here = servers.get(present.combiner)
            if here is None or here.name == ROOT or name in self._placed or name not in self._preferred:
                continue
            left = {**servers, here.name: _with(here, -1)}
            there = self._chosen(name, present.labels, left)
            if there.name != here.name and self._is_better(name, left[here.name], there, left):
                found.append(name)
                servers = {**left, there.name: _with(there, 1)}
        return found

    def _is_better(self, client: str, here: Server, there: Server, servers: Mapping[str, Server]) -> bool:
        """Whether a client should go from one server to another, which is the choice for it. servers: without it."""
        wanted = there.name == self._preferred[client]
        if wanted or here not in self._leaves(client, servers) or there.clients < here.clients:
            return True
        after = {**servers, there.name: _with(there, 1)}
        return self._chosen(client, self.clients[client].labels, after).name == there.name

    def _chosen(self, client: str, labels: Mapping[str, str], servers: Mapping[str, Server]) -> Server:
        """The server for a client that has asked: the preferred one while it is there; else the balancer's choice."""
        preferred = servers.get(self._preferred[client])
        if preferred is not None and self._reaches(client, preferred.name):
            return preferred
        open_to = self._leaves(client, servers) or [servers[ROOT]]
        return self.balancer(open_to, Asker(client, {**labels, **self.assigned.get(client, {})}))

    def _leaves(self, client: str, servers: Mapping[str, Server]) -> list[Server]:
        """The combiners that clients are sent to: the lowest ones, but for those that this client does not reach."""
        found = [server for server in servers.values() if server.name != ROOT and self._reaches(client, server.name)]
        above = {present.combiner for present in self.combiners.values()}
        return [server for server in found if server.name not in above] or found

    def _reaches(self, client: str, server: str) -> bool:
        """Whether it is to be tried (again)."""
        return self._in_vain.get(client, Counter())[server] < _IN_VAIN

    def _parent(self, name: str, preferred: str, servers: Mapping[str, Server]) -> Server:
        if not preferred:
            return servers[ROOT]
        if preferred not in servers:
            raise NotFoundError(f"the parent {preferred} of {name} is not connected; start it first")
        if name in self._above(preferred):
            raise ConflictError(f"{name} cannot be a child of {preferred}, which is below it: choose another parent")
        return servers[preferred]

    def _servers(self, now: float, without: str = "") -> dict[str, Server]:
        """With their clients, but for the one that asks: it takes no place from itself."""
        self._forget(now)
        others = {name: present.combiner for name, present in self.clients.items() if name != without}
        others |= {name: server for name, (server, _) in self._placed.items() if name != without}
        load = Counter(others.values())
        servers = {ROOT: Server(ROOT, self.root_address, load[ROOT])}
        for name, present in self.combiners.items():
            labels = {key: value for key, value in present.labels.items() if key not in {"address", "version"}}
            servers[name] = Server(name, present.labels.get("address", ""), load[name], labels)
        return servers

    def _forget(self, now: float) -> None:
        for name in [name for name, (_, since) in self._placed.items() if now - since > _ON_ITS_WAY]:
            del self._placed[name]

    def _above(self, name: str) -> list[str]:
        """A combiner and its ancestors."""
        chain: list[str] = []
        while name in self.combiners and name not in chain:
            chain.append(name)
            name = self.combiners[name].combiner
        return chain


def _with(server: Server, more: int) -> Server:
    return replace(server, clients=server.clients + more)
