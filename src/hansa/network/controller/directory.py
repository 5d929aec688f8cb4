"""Who is on the network, and where a node that asks is sent."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from hansa.errors import ConflictError, NotFoundError, PermissionDeniedError
from hansa.network.controller.balancers import Asker, Balancer, Server
from hansa.wire.frames import ROOT, Presence, Present, Role

__all__ = ["Directory"]

_ON_ITS_WAY = 30.0
"""Seconds after which a client that was sent to a server and has not come counts nowhere."""


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

    def apply(self, presence: Presence) -> None:
        """Take in who came and went."""
        for name in presence.left:
            self.clients.pop(name, None)
            self.combiners.pop(name, None)
        for present in presence.combiners:
            self.combiners[present.client] = present
        for present in presence.joined:
            self.clients[present.client] = present
            self._placed.pop(present.client, None)

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

        now: seconds of a monotonic clock. Raises `NotFoundError` for a combiner whose preferred parent is not connected
        (yet), `ConflictError` for a loop, `PermissionDeniedError` for who is no node.
        """
        if role is Role.PERSON:
            raise PermissionDeniedError(f"{name} is a person: only clients and combiners are given a server")
        servers = self._servers(now)
        if role is Role.COMBINER:
            return self._parent(name, preferred, servers)
        server = servers.get(preferred)
        if server is None:
            leaves = [found for found in servers.values() if found.name != ROOT] or [servers[ROOT]]
            lowest = [found for found in leaves if not self._has_combiners(found.name)] or leaves
            server = self.balancer(lowest, Asker(name, {**labels, **self.assigned.get(name, {})}))
        self._placed[name] = server.name, now
        return server

    def _parent(self, name: str, preferred: str, servers: Mapping[str, Server]) -> Server:
        if not preferred:
            return servers[ROOT]
        if preferred not in servers:
            raise NotFoundError(f"the parent {preferred} of {name} is not connected; start it first")
        if name in self._above(preferred):
            raise ConflictError(f"{name} cannot be a child of {preferred}, which is below it: choose another parent")
        return servers[preferred]

    def _servers(self, now: float) -> dict[str, Server]:
        self._forget(now)
        load = Counter(present.combiner for name, present in self.clients.items() if name not in self._placed)
        load.update(server for server, _ in self._placed.values())
        servers = {ROOT: Server(ROOT, self.root_address, load[ROOT])}
        for name, present in self.combiners.items():
            labels = {key: value for key, value in present.labels.items() if key not in {"address", "version"}}
            servers[name] = Server(name, present.labels.get("address", ""), load[name], labels)
        return servers

    def _forget(self, now: float) -> None:
        for name in [name for name, (_, since) in self._placed.items() if now - since > _ON_ITS_WAY]:
            del self._placed[name]

    def _has_combiners(self, name: str) -> bool:
        return any(present.combiner == name for present in self.combiners.values())

    def _above(self, name: str) -> list[str]:
        """A combiner and its ancestors."""
        chain: list[str] = []
        while name in self.combiners and name not in chain:
            chain.append(name)
            name = self.combiners[name].combiner
        return chain
