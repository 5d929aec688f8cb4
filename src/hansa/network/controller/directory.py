"""Who is on the network, and where a node that asks is sent."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hansa.errors import ConflictError, NotFoundError
from hansa.network.controller.balancers import Asker, Balancer, Server
from hansa.wire.frames import Presence, Present, Role

__all__ = ["ROOT", "Directory"]

ROOT = "root"
"""The name of the controller's own aggregation server."""


@dataclass(slots=True)
class Directory:
    """Connected clients and combiners; answers `Assign`."""

    root_address: str
    balancer: Balancer
    clients: dict[str, Present] = field(default_factory=dict)
    combiners: dict[str, Present] = field(default_factory=dict)
    _placed: dict[str, str] = field(default_factory=dict)
    """Client → server that it was sent to last, so that a crowd that asks at once is spread."""

    def apply(self, presence: Presence) -> None:
        """Take in who came and went."""
        for name in presence.left:
            self.clients.pop(name, None)
            self.combiners.pop(name, None)
            self._placed.pop(name, None)
        for present in presence.combiners:
            self.combiners[present.client] = present
        for present in presence.joined:
            self.clients[present.client] = present
            self._placed[present.client] = present.combiner

    def assign(self, name: str, role: Role, preferred: str, labels: Mapping[str, str]) -> Server:
        """The server for a node: the preferred one while it is there; else the balancer's choice, or the root.

        Raises `NotFoundError` for a combiner whose preferred parent is not connected (yet), `ConflictError` for a loop.
        """
        servers = self._servers()
        if preferred and preferred in servers:
            if role is Role.COMBINER and name in self._above(preferred):
                raise ConflictError(
                    f"{name} cannot be a child of {preferred}, which is below it: choose another parent"
                )
            return self._place(name, servers[preferred])
        if role is Role.COMBINER:
            if preferred:
                raise NotFoundError(f"the parent {preferred} of {name} is not connected; start it first")
            return servers[ROOT]
        leaves = [server for server in servers.values() if server.name != ROOT] or [servers[ROOT]]
        lowest = [server for server in leaves if not self._has_combiners(server.name)] or leaves
        return self._place(name, self.balancer(lowest, Asker(name, labels)))

    def _servers(self) -> dict[str, Server]:
        load: dict[str, int] = {}
        for server in self._placed.values():
            load[server] = load.get(server, 0) + 1
        servers = {ROOT: Server(ROOT, self.root_address, load.get(ROOT, 0))}
        for name, present in self.combiners.items():
            labels = {key: value for key, value in present.labels.items() if key not in {"address", "version"}}
            servers[name] = Server(name, present.labels.get("address", ""), load.get(name, 0), labels)
        return servers

    def _place(self, name: str, server: Server) -> Server:
        self._placed[name] = server.name
        return server

    def _has_combiners(self, name: str) -> bool:
        return any(present.combiner == name for present in self.combiners.values())

    def _above(self, name: str) -> list[str]:
        """A combiner and its ancestors."""
        chain: list[str] = []
        while name in self.combiners and name not in chain:
            chain.append(name)
            name = self.combiners[name].combiner
        return chain
