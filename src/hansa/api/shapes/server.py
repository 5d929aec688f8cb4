"""The server: what it is, how its installation is, and what is registered on it."""

from pydantic import Field, JsonValue

from hansa.api.shapes.answer import Shape
from hansa.wire.frames import Role

__all__ = [
    "ChoiceShape",
    "FailingShape",
    "InstalledShape",
    "OptionShape",
    "ReplicaShape",
    "ServerInfoShape",
    "SystemStateShape",
]


class ServerInfoShape(Shape):
    """The server, as nodes and people need to know it."""

    version: str
    grpc_address: str = Field(examples=["127.0.0.1:8471"])
    """host:port that clients and combiners join."""
    started_at: float
    uptime: float
    """Seconds."""
    clients: int
    """Connected now, in the projects that the caller knows."""
    combiners: int
    """Connected now, in the projects that the caller knows."""
    ca: str = Field(examples=["sha256:" + "0f" * 32])
    """Fingerprint of the authority by which nodes know the server; empty: by one that the world believes."""


class ReplicaShape(Shape):
    """A server over the installation's database."""

    name: str = Field(examples=["process 812 on north-1"])
    leads: bool
    """Whether it serves; else it waits to take over."""


class FailingShape(Shape):
    """A node that has failed lately, or is away."""

    project: str
    node: str = Field(examples=["hospital-north"])
    role: Role
    connected: bool
    failures: int
    """In the last hour."""
    last_at: float
    """When it failed last, or was seen last."""
    cause: str
    """Of the newest failure, for a person."""


class SystemStateShape(Shape):
    """How the installation is: what its operator looks at."""

    replicas: list[ReplicaShape]
    window: float
    """Seconds that `rounds` and `updates` are of."""
    rounds: int
    """Committed in the window, in all projects."""
    updates: int
    """Accepted in these rounds."""
    sent: int
    """Bytes in the window to the nodes right below this controller: models, and all that is said to them."""
    received: int
    """Bytes in the window from them. What passes between combiners and their own nodes is not in it."""
    stored: int
    """Bytes of models, states and packages of all projects."""
    disk_free: int
    """Bytes that the disk of the server's data folder has left."""
    disk_size: int
    streams: int
    """Event streams that are open."""
    lag: float | None
    """Seconds from an event to its being told, the longest of the newest hundred; null: nobody was told one yet."""
    certificate_ends: float | None
    """When the certificate that the ports show expires; null: they show none."""
    failing: list[FailingShape]
    """Nodes that failed within the last hour or went away within the last day, the newest first."""


class OptionShape(Shape):
    """Something that an algorithm or an aggregator can be given."""

    name: str = Field(examples=["learning_rate"])
    default: JsonValue
    required: bool
    """Whether it must be given: it has no default."""


class ChoiceShape(Shape):
    """An algorithm or an aggregator that sessions can name."""

    name: str = Field(examples=["fedadam"])
    options: list[OptionShape]


class InstalledShape(Shape):
    """What is registered on the server, plug-ins among it."""

    algorithms: list[ChoiceShape]
    aggregators: list[ChoiceShape]
