"""Clients, combiners, the keys that they have, and the tree that they make."""

from pydantic import Field

from hansa.api.shapes.answer import Shape

__all__ = ["ClientShape", "CombinerShape", "NodeShape", "PlaceShape", "TopologyShape"]


class ClientShape(Shape):
    """A client that has connected at least once."""

    id: str
    project: str
    name: str
    combiner: str
    """The server that it is attached to; empty when it is away."""
    connected: bool
    first_seen: float
    last_seen: float
    labels: dict[str, str]
    """What it says of itself when it connects."""
    version: str
    assigned: dict[str, str] | None
    """Labels that operators gave it, in the place of its own of the same key; null: none."""


class CombinerShape(Shape):
    """A combiner that has connected at least once."""

    id: str
    project: str
    name: str
    parent: str
    address: str
    connected: bool
    first_seen: float
    last_seen: float
    labels: dict[str, str]


class NodeShape(Shape):
    """A client or combiner that has joined, with a key of its own."""

    id: str
    project: str
    name: str = Field(examples=["hospital-north"])
    role: str
    """client or combiner"""
    key: str = Field(examples=["ed25519:" + "0f" * 32])
    """Its public key."""
    token: str
    """Id of the join token with which the key became known."""
    joined_at: float
    revoked: bool
    instance: str
    """The process that has access now; empty: none had it yet."""
    grant: str
    """What the access tokens of this process have in common; no secret."""
    granted_at: float | None
    former: str | None
    """The public key before this one."""
    rotated_at: float | None
    """When this key took the place of the former one."""


class PlaceShape(Shape):
    """A server of the aggregation tree."""

    name: str = Field(examples=["combiner-0"])
    """root: the controller."""
    parent: str
    """Empty: it is the root."""
    address: str
    connected: bool
    last_seen: float
    clients: int
    """Connected to it now."""


class TopologyShape(Shape):
    """The aggregation tree, without its clients one by one."""

    servers: list[PlaceShape]
    connected: int
    """Clients that are connected now."""
    clients: int
    """Clients that have connected at least once."""
    cursor: int
    """The newest event before this was read."""
