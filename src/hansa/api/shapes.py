"""What the API gives, as it is documented: OpenAPI, and the route reference, are made from these."""

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from hansa.api.requests import DIGEST
from hansa.messages import Kind
from hansa.rounds.why import RoundState
from hansa.store.records import ProjectRole, SessionState
from hansa.wire.frames import Role

__all__ = [
    "AuditShape",
    "ChoiceShape",
    "ClientShape",
    "CombinerShape",
    "ContributionShape",
    "CurvesShape",
    "EventShape",
    "FailingShape",
    "InitialModelShape",
    "InstalledShape",
    "IssuedTokenShape",
    "ListShape",
    "LoginCodeShape",
    "MeShape",
    "MemberShape",
    "MetricShape",
    "ModelShape",
    "NodeShape",
    "PackageContentsShape",
    "PackageShape",
    "PackedFileShape",
    "ProblemShape",
    "ProjectQuotaShape",
    "ProjectShape",
    "PruneReportShape",
    "ReplicaShape",
    "RoundShape",
    "SampleShape",
    "ServerInfoShape",
    "SessionShape",
    "Shape",
    "SpreadShape",
    "SystemStateShape",
    "TokenShape",
    "TopologyShape",
    "UserShape",
    "WaitingShape",
]

T = TypeVar("T")

_TIME = 1767225600.0


class Shape(BaseModel):
    """An answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ProblemShape(Shape):
    """What went wrong, and what to do (RFC 9457)."""

    type: str = Field(examples=["urn:hansa:problem:not-found"])
    """Stable; what programs should look at."""
    title: str = Field(examples=["There is no such thing"])
    """The kind of problem, for a person."""
    status: int = Field(examples=[404])
    """The HTTP status."""
    detail: str = Field(examples=["there is no session '1234' in project 'default'"])
    """What happened, to whom, and what to do."""
    instance: str = Field(examples=["/api/v1/projects/default/sessions/1234"])
    """The path that was asked for; for a fault of the server, the id under which it is in its log."""
    errors: list[dict[str, str]] = []
    """Of a request that does not fit: the field and what is wrong with it, for each."""


class ListShape(Shape, Generic[T]):
    """One page of a list."""

    items: list[T]
    total: int
    """How many match in all."""
    limit: int
    offset: int
    cursor: int
    """The newest event before this page was read; open the event stream after it and nothing is missed."""


class ProjectShape(Shape):
    """A workspace."""

    id: str
    name: str
    created_at: float = Field(examples=[_TIME])
    """POSIX seconds, as all times."""
    max_sessions: int | None
    """Sessions that may run at once; null: the server's default."""
    max_storage: int | None
    """Bytes that it may hold on to; null: the server's default."""
    max_clients: int | None
    """Clients that may join, or hold a join token; null: the server's default."""


class UseShape(Shape):
    """What a project uses of one quota."""

    used: int
    most: int | None
    """null: any."""
    own: bool
    """Whether the project has a quota of its own, or the server's default."""


class ProjectQuotaShape(Shape):
    """What a project uses of its quotas."""

    sessions: UseShape
    """That run now."""
    storage: UseShape
    """Bytes of models, states of algorithms and packages, each object once."""
    clients: UseShape
    """That have joined, or hold a join token."""


class SessionShape(Shape):
    """A run on the network."""

    id: str = Field(examples=["5d41402abc4b"])
    project: str
    name: str
    spec: dict[str, JsonValue]
    """The whole specification, as in the request to create it."""
    state: SessionState
    """finished, failed and stopped are terminal; failed and stopped can be resumed."""
    created_at: float
    package: str | None
    """Digest of the user's code; null when clients bring their own."""
    seed_model: str | None
    """Digest of the model that it started from."""
    round: int
    """Committed rounds."""
    model: str | None
    """Digest of the newest committed model."""
    cause: str
    """Why it is in a terminal state."""
    started_at: float | None
    ended_at: float | None
    keep: str | None = Field(examples=["last 5, best accuracy max"])
    """The policy by which its old models are pruned; null: the server's default."""
    engine: str | None
    """Of a simulation: what trains its clients; it can be seen, but not started or stopped. null: the network."""
    further: int | None
    """Rounds beyond those of its specification, with which it was continued; null: it was not."""
    model_prefix: str | None = Field(examples=["heart"])
    """What its models are called, before their round's number; null: they have no names."""


class RoundShape(Shape):
    """A committed round."""

    id: str = Field(examples=["5d41402abc4b/3"])
    project: str
    session: str
    number: int
    parent_model: str
    model: str
    state: str
    """Digest of what the algorithm keeps beside the model; empty when it keeps nothing."""
    accepted: int
    rejected: int
    failed: int
    missing: int
    weight: int
    """Examples summed."""
    opened_at: float
    closed_at: float
    metrics: dict[str, float | None]
    """Weighted means of the training metrics of the contributors; null where one was NaN."""
    link: str
    """blake3 over all of the round and the link before."""
    state_pruned_at: float | None
    """When the bytes of the state were given up by the session's policy; null: they are kept."""
    state_size: int | None
    """Bytes of the state; null: there is none, or it was committed before they were kept."""
    broadcast: str | None
    """Digest of what the clients were given; null, as what follows: the round was committed before it was kept."""
    run: str | None
    """blake3 of what the session runs."""
    journal: str | None
    """The link of the session's newest event before the round was committed."""
    signer: str | None
    """The server's public key."""
    signature: str | None
    """The server's, over the link."""
    aggregate: str | None
    """Digest of the mean of the changes that the model was made from; null: the session's policy did not keep it."""
    aggregate_size: int | None
    """Bytes of the aggregate."""
    aggregate_weight: int | None
    """The weight of the mean: the examples that were summed, or the clients where each counts alike."""
    aggregate_pruned_at: float | None
    """When the bytes of the aggregate were given up by the session's policy; null: they are kept, if it was."""


class ContributionShape(Shape):
    """What became of one invited client in one round."""

    id: str = Field(examples=["5d41402abc4b/3/client-0"])
    project: str
    session: str
    round: int
    client: str
    outcome: str
    """accepted, rejected, failed or missing"""
    num_examples: int
    digest: str
    """Content address of the update."""
    reason: str
    """Of a rejection or a failure, for a person."""
    metrics: dict[str, float | None]
    signer: str | None
    """The client's public key; null: it handed in nothing."""
    signature: str | None
    """The client's, over its update."""
    base: int | None
    """Of an asynchronous session: the round whose model it was given; `round` counts it, and the difference is its
    staleness."""
    norm: float | None
    """L2 norm of the update over its floating tensors, as the server that added it has measured; null: it handed in
    nothing, or the session adds noise to sums before it publishes them."""


class ModelShape(Shape):
    """A node of the model trail."""

    id: str = Field(examples=[DIGEST])
    """Content address: blake3 of the safetensors file."""
    project: str
    session: str
    """Empty for an uploaded seed."""
    round: int
    """0 for an initial model."""
    parent: str | None
    size: int
    """Bytes."""
    created_at: float
    name: str
    pruned_at: float | None
    """When the bytes were given up by the session's policy; null: they are kept."""
    pruned_by: str | None
    """The policy that gave them up."""


class InitialModelShape(Shape):
    """What an app begins with."""

    model: ModelShape
    spec: dict[str, JsonValue]
    """As it suits the app: without the evaluations that it has no functions for."""


class MetricShape(Shape):
    """One number of one round."""

    id: str
    project: str
    session: str
    round: int
    kind: Kind
    name: str = Field(examples=["accuracy"])
    value: float | None
    """null where it was NaN."""
    num_examples: int
    client: str
    """Empty: the weighted mean over clients; "central": evaluated beside the server."""
    at: float


class EventShape(Shape):
    """Something that happened."""

    id: int
    """The cursor of the stream."""
    project: str
    session: str
    """Empty for an event of the network."""
    kind: str = Field(examples=["round.committed"])
    message: str
    """One sentence for a person."""
    at: float
    data: dict[str, JsonValue]
    link: str | None
    """Of a session's event: the hash over it and the link before."""


class SampleShape(Shape):
    """One number on the way: of a task, or of a client's machine."""

    id: str
    project: str
    session: str
    """Empty: of a machine."""
    round: int
    task: str
    """train, evaluate or program; empty: of a machine."""
    client: str
    name: str = Field(examples=["loss"])
    step: int
    value: float | None
    """null: not a number, or infinite."""
    at: float
    """By the client's clock."""


class PredictionShape(Shape):
    """A question to clients: what does this model predict of your data?"""

    id: str = Field(examples=["5d41402abc4b"])
    project: str
    name: str
    model: str
    """Digest."""
    package: str | None
    """Digest of the user's code; null when clients bring their own."""
    spec: dict[str, JsonValue]
    """Whom it asks (`rules`), and what is handed to user code (`config`)."""
    state: SessionState
    """running, finished, failed or stopped."""
    created_at: float
    asked: int
    """Clients that were invited."""
    answered: int
    """Clients whose predictions are kept."""
    cause: str
    """Why it is over."""
    ended_at: float | None


class AnswerShape(Shape):
    """What one client predicted, or why it did not."""

    id: str
    project: str
    prediction: str
    client: str
    at: float
    document: str | None
    """JSON; null: it failed, or refused."""
    reason: str
    """Why there is none."""


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


class PackageShape(Shape):
    """User code that sessions ship to clients."""

    id: str = Field(examples=[DIGEST])
    """blake3 of the archive."""
    project: str
    name: str
    size: int
    created_at: float


class PackedFileShape(Shape):
    """A file of a package."""

    size: int
    """Bytes."""
    blake3: str = Field(examples=[DIGEST])
    executable: bool


class PackageContentsShape(Shape):
    """What a package holds, who has signed it, and what a client would start."""

    id: str = Field(examples=[DIGEST])
    """blake3 of the archive."""
    digest: str = Field(examples=[DIGEST])
    """blake3 of the manifest: what is signed, and what a data owner allows."""
    name: str
    signer: str | None = Field(examples=["ed25519:" + "3d" * 32])
    """The public key of who signed it; null: nobody has."""
    runs: list[str]
    """A line for each thing that a client would start."""
    requirements: list[str]
    """Names and versions that a client would install."""
    files: dict[str, PackedFileShape]
    """By their paths."""


class TokenShape(Shape):
    """A token that was issued; the token itself is not kept."""

    id: str
    project: str
    name: str
    """The node's identity; of a person's token what it is called."""
    role: str
    """client, combiner; of a person's token the role that bounds it, or person: all that they may do."""
    created_at: float
    expires_at: float | None
    revoked: bool
    account: str | None
    """The person that it acts for; null: a node's."""
    used_at: float | None
    """When a node joined with it: it is spent then."""


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


class IssuedTokenShape(Shape):
    """A new token."""

    token: str
    """Shown this once; empty where a browser keeps it in a cookie."""
    record: TokenShape


class LoginCodeShape(Shape):
    """A code to log in with, once."""

    code: str
    """Shown this once."""
    expires_at: float


class UserShape(Shape):
    """A person who may log in."""

    name: str = Field(examples=["ada"])
    created_at: float
    admin: bool
    """Whether they are a site administrator, who may do everything in every project."""
    disabled: bool
    password: bool
    """Whether they have one."""
    subject: str | None = Field(examples=["https://id.example.org#248289761001"])
    """Whom an OpenID provider knows them as: issuer#subject; null: they do not log in by one."""


class MemberShape(Shape):
    """A person in a project."""

    id: str = Field(examples=["ada"])
    """The user's name."""
    project: str
    role: ProjectRole
    created_at: float
    removed: bool


class AuditShape(Shape):
    """Who did what: a line that is chained to the one before it."""

    id: str
    project: str
    """Empty: it concerns no project, or one that the actor does not know."""
    number: int
    """From 1, without a gap."""
    at: float
    actor: str
    """The user or the node; "hansa": the server by itself."""
    action: str = Field(examples=["member.put"])
    target: str
    """What it was done to."""
    outcome: str
    """done, failed or refused"""
    detail: str
    link: str
    """The hash over the line and the link before it."""


class MeShape(Shape):
    """Whom the server takes the caller for."""

    name: str
    role: Role
    project: str
    token_id: str
    admin: bool
    """Whether they are a site administrator, by a token that is not bounded."""
    roles: dict[str, str] = Field(examples=[{"cardiology": "owner"}])
    """Of a person: project → what they are there."""
    may: dict[str, list[str]] = Field(examples=[{"cardiology": ["read", "run"]}])
    """Of a person: project → what they may do there."""


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


class CurveShape(Shape):
    """One metric, round by round: `rounds` and `values` are of one length."""

    kind: Kind
    name: str = Field(examples=["accuracy"])
    client: str
    """Empty: the weighted mean over clients; "central": evaluated beside the server."""
    rounds: list[int]
    values: list[float | None]
    """null where it was NaN."""


class RoundColumnsShape(Shape):
    """Committed rounds, a column for each of their numbers."""

    number: list[int]
    opened_at: list[float]
    closed_at: list[float]
    accepted: list[int]
    rejected: list[int]
    failed: list[int]
    missing: list[int]
    weight: list[int]
    """Examples summed."""
    model: list[str]


class CurvesShape(Shape):
    """What a session has come to, round by round."""

    curves: list[CurveShape]
    rounds: RoundColumnsShape
    cursor: int
    """The newest event before this was read."""


class BandShape(Shape):
    """How far apart the clients are in one metric, by nearest rank."""

    kind: Kind
    name: str = Field(examples=["accuracy"])
    rounds: list[int]
    low: list[float]
    """A tenth of the clients are at or below it."""
    middle: list[float]
    high: list[float]
    """Nine tenths of the clients are at or below it."""
    clients: list[int]
    """That reported it."""


class SpreadShape(Shape):
    """How far apart a session's clients are, round by round."""

    bands: list[BandShape]


class OutstandingShape(Shape):
    """A client that a round waits for."""

    name: str
    activity: str
    done: float | None
    total: float | None
    """0 where it is unknown."""
    rate: float | None
    silent: float | None
    """Seconds since it was invited or last heard."""
    lease_ends: float | None
    connected: bool
    staleness: int | None
    """Rounds committed since it was given its model; null: of no asynchronous session."""


class PhaseShape(Shape):
    """The phase under way; its times are on the server's monotonic clock, `now` among them."""

    now: float
    round: int
    kind: Kind
    state: RoundState
    connected: int
    needed: int
    invited: int
    accepted: int
    examples: int
    quorum: int
    enough: int | None
    deadline: float | None
    outstanding: list[OutstandingShape]
    withdrawn: list[str]
    rejected: int
    failed: int
    staleness: int | None
    """Of an asynchronous session: the largest of the accepted updates, of which `enough` close the round."""


class VerificationShape(Shape):
    """What of a session was found whole: everything that is recorded."""

    session: str
    rounds: int
    contributions: int
    objects: int
    """Models, states and aggregates whose bytes were read and have the digest that is recorded."""
    bytes: int
    """Bytes of these objects."""
    head: str
    """The link of the last round: who keeps it elsewhere can tell later that no round was lost or rewritten since."""
    pruned: int
    """Models, states and aggregates whose bytes were given up by the session's policy, and so could not be read."""
    updates: int
    """Accepted updates that their clients have signed."""
    reports: int
    """Evaluations that their clients have signed."""
    unsigned: int
    """Accepted updates and evaluations that nobody has signed: of rounds before hansa did."""
    events: int
    handovers: int
    """Changes of clients' keys, each signed with both."""
    sealed: bool
    """Whether the session is over, and the server has signed its end."""
    servers: list[str]
    """Public keys that have signed for the server."""
    clients: dict[str, list[str]]
    """Client → public keys that have signed for it."""
    recomputed: int
    """Rounds whose models were computed anew from what was added to the one before, and are what was committed."""
    not_recomputed: int
    """Rounds whose models were not: what they were made from was not kept, or for the cause in `obstacle`."""
    obstacle: str
    """Why no model could be computed though there is all that it takes; empty when nothing was in the way."""


class PrunedSessionShape(Shape):
    """What one session's policy gave up."""

    session: str
    name: str
    keep: str
    """The policy."""
    models: list[int]
    """The rounds whose models it was."""
    states: list[int]
    """The rounds whose states of the algorithm it was."""
    aggregates: list[int]
    """The rounds of which it was what they had added to the model."""


class PruneReportShape(Shape):
    """What was pruned; in a dry run what would be."""

    dry_run: bool
    sessions: list[PrunedSessionShape]
    """Those whose policies gave something up; one that runs does so itself, after each round."""
    objects: int
    """Objects that were removed."""
    bytes: int
    """Bytes of these objects."""
    unreferenced: int
    """How many of them were named by no row: of rounds that were never committed, or of deleted sessions."""
    waiting: int
    """Objects that are still to be removed, because they are in use."""


class WaitingShape(Shape):
    """What a session waits for."""

    session: str
    state: SessionState
    sentence: str = Field(examples=["round 3 is open: 2 of 4 invited clients delivered, 3 are needed"])
    phase: PhaseShape | None
    """null when the session does not run, or is between phases."""
