"""Which aggregation server a client is sent to: plug-ins of the group `hansa.balancers`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Asker", "Balancer", "Server", "by_label", "least_loaded"]


@dataclass(frozen=True, slots=True)
class Server:
    """An aggregation server that can take a client."""

    name: str
    address: str
    """host:port"""
    clients: int
    """Connected, or sent there a moment ago."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asker:
    """A client that looks for a server."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


Balancer: TypeAlias = Callable[[Sequence[Server], Asker], Server]
"""(at least one server, asker) → the server for it."""


def least_loaded(servers: Sequence[Server], _asker: Asker) -> Server:
    """The server with the fewest clients; the first by name among equals."""
    return min(servers, key=lambda server: (server.clients, server.name))


def by_label(servers: Sequence[Server], asker: Asker) -> Server:
    """The least loaded of those that share the most labels with the client (region=eu, site=north …)."""
    shared = {server.name: len(server.labels.items() & asker.labels.items()) for server in servers}
    most = max(shared.values())
    return least_loaded([server for server in servers if shared[server.name] == most], asker)
