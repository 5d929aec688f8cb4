"""What the API answers beside the records of `hansa.store.records`: the same values on the server and in the client."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hansa.messages import Kind, RunSpec, Value
from hansa.network.controller.quotas import Use
from hansa.rounds.why import Why
from hansa.store.records import ModelRecord, SessionState, TokenRecord
from hansa.wire.frames import Role

__all__ = [
    "Band",
    "Choice",
    "Curve",
    "Curves",
    "DeviceState",
    "Failing",
    "InitialModel",
    "Installed",
    "IssuedToken",
    "Listing",
    "LoginCode",
    "LoginWays",
    "Me",
    "Option",
    "Place",
    "ProjectQuota",
    "Replica",
    "RoundColumns",
    "ServerInfo",
    "Spread",
    "SystemState",
    "Topology",
    "User",
    "Waiting",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """One page of a list; iterating it gives the items."""

    items: tuple[T, ...]
    total: int
    """How many match in all."""
    cursor: int
    """The newest event of the project before this page was read: a stream opened after it misses nothing."""

    def __iter__(self) -> Iterator[T]:
        """The items."""
        return iter(self.items)

    def __len__(self) -> int:
        """How many items are on this page."""
        return len(self.items)

    def __getitem__(self, index: int) -> T:
        """An item of this page."""
        return self.items[index]


@dataclass(frozen=True, slots=True)
class Me:
    """Whom the server takes the caller for."""

    name: str
    role: Role
    project: str
    """That the token is for; empty: a person's, for every project that they know."""
    token_id: str
    admin: bool = False
    """Whether they are a site administrator, by a token that is not bounded."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Of a person: project → what they are there."""
    may: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a person: project → what they may do there, by the names of `hansa.api.permissions`."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server, as nodes and people need to know it."""

    version: str
    grpc_address: str
    """host:port that clients and combiners join."""
    started_at: float
    uptime: float
    """Seconds."""
    clients: int
    """Connected now, in the projects that the caller knows."""
    combiners: int
    """Connected now, in the projects that the caller knows."""
    ca: str = ""
    """Fingerprint of the authority by which nodes know the server; empty: by one that the world believes."""


@dataclass(frozen=True, slots=True)
class Option:
    """Something that an algorithm or an aggregator can be given."""

    name: str
    default: Value
    required: bool
    """Whether it must be given: it has no default."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An algorithm or an aggregator that sessions can name."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """What is registered on the server, plug-ins among it."""

    algorithms: tuple[Choice, ...]
    aggregators: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token; it is shown this once and never kept."""

    token: str
    record: TokenRecord


@dataclass(frozen=True, slots=True)
class User:
    """A person who may log in."""

    name: str
    created_at: float
    admin: bool
    """Whether they are a site administrator."""
    disabled: bool
    password: bool
    """Whether they have one."""
    subject: str | None = None
    """Whom an OpenID provider knows them as: issuer#subject; None: they do not log in by one."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """How far a login on another device is."""

    issued: IssuedToken | None
    """None: the person has not approved yet."""
    wait: float
    """Seconds until the next question."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric, round by round: `rounds` and `values` are of one length."""

    kind: Kind
    name: str
    client: str
    """Empty: the weighted mean over clients; "central": evaluated beside the server."""
    rounds: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RoundColumns:
    """Committed rounds, a column for each of their numbers."""

    number: tuple[int, ...]
    opened_at: tuple[float, ...]
    closed_at: tuple[float, ...]
    accepted: tuple[int, ...]
    rejected: tuple[int, ...]
    failed: tuple[int, ...]
    missing: tuple[int, ...]
    weight: tuple[int, ...]
    model: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """What a session has come to, round by round."""

    curves: tuple[Curve, ...]
    rounds: RoundColumns


@dataclass(frozen=True, slots=True)
class Band:
    """How far apart the clients are in one metric: by nearest rank, the tenth of them, half, and nine tenths."""

    kind: Kind
    name: str
    rounds: tuple[int, ...]
    low: tuple[float, ...]
    middle: tuple[float, ...]
    high: tuple[float, ...]
    clients: tuple[int, ...]
    """That reported it."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How far apart a session's clients are."""

    bands: tuple[Band, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A server of the aggregation tree: the controller, whose name is `root`, or a combiner."""

    name: str
    parent: str
    """Empty: it is the root."""
    address: str
    connected: bool
    last_seen: float
    clients: int
    """Connected to it now."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The aggregation tree, without its clients one by one."""

    servers: tuple[Place, ...]
    connected: int
    """Clients that are connected now."""
    clients: int
    """Clients that have connected at least once."""


@dataclass(frozen=True, slots=True)
class InitialModel:
    """What an app begins with."""

    model: ModelRecord
    spec: RunSpec
    """As it suits the app: without the evaluations that it has no functions for."""


@dataclass(frozen=True, slots=True)
class LoginCode:
    """A code to log in with, once."""

    code: str = field(repr=False)
    """Shown this once."""
    expires_at: float


@dataclass(frozen=True, slots=True)
class LoginWays:
    """How one may log in at the Studio, beside name and password, tokens and links."""

    openid: str
    """Where browsers come back to from the OpenID provider; empty: there is none for the Studio."""


@dataclass(frozen=True, slots=True)
class ProjectQuota:
    """What a project uses of its quotas."""

    sessions: Use
    """That run now."""
    storage: Use
    """Bytes of models, states of algorithms and packages, each object once."""
    clients: Use
    """That have joined, or hold a join token."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a session waits for."""

    session: str
    state: SessionState
    sentence: str
    """For a person."""
    phase: Why | None
    """The phase under way; None when the session does not run, or is between phases."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A server over the installation's database."""

    name: str
    """As it calls itself: its process and its host."""
    leads: bool
    """Whether it serves; else it waits to take over."""


@dataclass(frozen=True, slots=True)
class Failing:
    """A node that has failed lately, or is away."""

    project: str
    node: str
    role: Role
    connected: bool
    failures: int
    """In the last hour."""
    last_at: float
    """When it failed last, or was seen last."""
    cause: str
    """Of the newest failure, for a person."""


@dataclass(frozen=True, slots=True)
class SystemState:
    """How the installation is: what its operator looks at."""

    replicas: tuple[Replica, ...]
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
    """Seconds from an event to its being told, the longest of the newest hundred; None: nobody was told one yet."""
    certificate_ends: float | None
    """When the certificate that the ports show expires; None: they show none."""
    failing: tuple[Failing, ...]
    """Nodes that failed within the last hour or went away within the last day, the newest first."""
