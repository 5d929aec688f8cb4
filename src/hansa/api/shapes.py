"""What the API takes and gives, as it is documented: OpenAPI, and the route reference, are made from these."""

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from hansa.messages import Kind
from hansa.rounds.why import RoundState
from hansa.store.records import SessionState
from hansa.wire.frames import Role

__all__ = [
    "ClientShape",
    "CombinerShape",
    "ContributionShape",
    "EventShape",
    "IssuedTokenShape",
    "ListShape",
    "MeShape",
    "MetricShape",
    "ModelShape",
    "NewProject",
    "NewProjectShape",
    "NewSession",
    "NewToken",
    "PackageShape",
    "ProblemShape",
    "ProjectShape",
    "RoundShape",
    "ServerShape",
    "SessionShape",
    "Strict",
    "TokenShape",
    "WaitingShape",
]

T = TypeVar("T")

_DIGEST = "3f0c7a1e9d52b8846bd1e0a5c97f24e3a8d6410b7c5f92e8d3a1b0496e7c8d25"
_TIME = 1767225600.0


class Strict(BaseModel):
    """A request: a field that it does not have is an error that lists those that it has."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, given: Any) -> Any:
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        if unknown:
            raise ValueError(f"there is no {unknown[0]!r}; there is: {', '.join(cls.model_fields)}")
        return given


class Shape(BaseModel):
    """An answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Rules(Strict):
    """Who takes part in a round, and when it closes."""

    model_config = ConfigDict(strict=True)
    selection: str = "all"
    """A selection policy: all, count, fraction, cyclic, or a plug-in's."""
    count: int | None = Field(default=None, lt=2**63)
    """Clients in the cohort, for the policy `count`."""
    fraction: float | None = None
    """0 < fraction ≤ 1 of the connected clients, for the policy `fraction`."""
    min_clients: int = Field(default=1, lt=2**63)
    """Connected clients that a round waits for before it opens."""
    quorum: int = Field(default=1, lt=2**63)
    """Updates without which a round fails."""
    enough: int | None = Field(default=None, lt=2**63)
    """Accepted updates that close the round at once; null: it waits for all who are invited."""
    deadline: float = Field(default=3600.0, le=1e9)
    """Seconds after the round is due; it closes with the quorum, or fails."""
    lease: float = Field(default=60.0, le=1e9)
    """Seconds without any progress after which a client's place is offered to another."""
    replace_failed: bool = True
    """Whether a client that fails is replaced by one that was not invited."""


class Evaluation(Strict):
    """What is evaluated after a round."""

    model_config = ConfigDict(strict=True)
    every: int = Field(default=1, lt=2**63)
    """Evaluate after every n-th round and after the last; 0: never."""
    fraction: float = 1.0
    """0 < fraction ≤ 1 of the connected clients evaluate."""
    clients: bool = True
    """Clients evaluate with `@app.evaluate`, or with the app's trainer."""
    central: bool = True
    """Also run `@app.central_evaluate` beside the server."""


class Spec(Strict):
    """Everything that decides the result of a run."""

    model_config = ConfigDict(
        strict=True, json_schema_extra={"examples": [{"name": "digits", "algorithm": "fedavg", "rounds": 20}]}
    )
    name: str = "run"
    """1 to 100 of A-Z a-z 0-9 . _ -"""
    project: str | None = None
    """The project of the path, or nothing."""
    algorithm: str = "fedavg"
    """A name of the entry-point group hansa.algorithms."""
    algorithm_options: dict[str, JsonValue] = {}
    """For example {"learning_rate": 0.01} for fedadam."""
    rounds: int = 10
    """1 to 1,000,000."""
    seed: int = 0
    """0 to 2^63 − 1."""
    rules: Rules = Rules()
    evaluation: Evaluation = Evaluation()
    max_weight: int = Field(default=2**24, ge=1, lt=2**63)
    """The most examples that one round may sum; a power of two."""
    range_bits: int = Field(default=6, ge=0, le=1024)
    """A client may change a value by up to 2^range_bits times the tensor's scale."""
    config: dict[str, JsonValue] = {}
    """Handed to user code as `task.config`."""


class NewSession(Strict):
    """A session to create."""

    spec: Spec
    seed_model: str = Field(examples=[_DIGEST])
    """Digest of the model that it starts from; upload it first."""
    package: str | None = Field(default=None, examples=[_DIGEST])
    """Digest of the user code that travels to the clients; null: they bring their own."""


class NewToken(Strict):
    """A token to issue."""

    name: str = Field(examples=["hospital-north"])
    """The identity, unique in the project."""
    role: Role
    expires_in: float | None = Field(default=None, gt=0, le=1e9, examples=[86400])
    """Seconds; null: it holds until it is revoked."""


class NewProject(Strict):
    """A project to create."""

    name: str = Field(examples=["cardiology"])
    """1 to 100 of A-Z a-z 0-9 . _ -"""


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    """blake3 over the previous link, the models and the contributors."""


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


class ModelShape(Shape):
    """A node of the model trail."""

    id: str = Field(examples=[_DIGEST])
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
    version: str


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

    id: str = Field(examples=[_DIGEST])
    """blake3 of the archive."""
    project: str
    name: str
    size: int
    created_at: float


class TokenShape(Shape):
    """A token that was issued; the token itself is not kept."""

    id: str
    project: str
    name: str
    """The identity."""
    role: str
    created_at: float
    expires_at: float | None
    revoked: bool


class IssuedTokenShape(Shape):
    """A new token."""

    token: str
    """Shown this once."""
    record: TokenShape


class NewProjectShape(Shape):
    """A new project, with a token for its first admin."""

    project: ProjectShape
    token: str
    """Shown this once."""
    record: TokenShape


class MeShape(Shape):
    """Whom the server takes the caller for."""

    name: str
    role: Role
    project: str
    token_id: str


class ServerShape(Shape):
    """The server, as nodes and people need to know it."""

    version: str
    grpc_address: str = Field(examples=["127.0.0.1:8471"])
    """host:port that clients and combiners join."""
    project: str
    started_at: float
    uptime: float
    """Seconds."""
    clients: int
    """Connected now, in the caller's project."""
    combiners: int
    """Connected now, in the caller's project."""


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


class WaitingShape(Shape):
    """What a session waits for."""

    session: str
    state: SessionState
    sentence: str = Field(examples=["round 3 is open: 2 of 4 invited clients delivered, 3 are needed"])
    phase: PhaseShape | None
    """null when the session does not run, or is between phases."""
