"""The rows that hansa keeps: frozen values, each in one project or of the installation. Times: POSIX seconds, UTC."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

from hansa.messages import Kind, RunSpec, Value

__all__ = [
    "INSTALLATION",
    "AccountRecord",
    "AnswerRecord",
    "AuditRecord",
    "ClientRecord",
    "CombinerRecord",
    "ContributionRecord",
    "EvaluationRecord",
    "EventRecord",
    "HandoverRecord",
    "InstallationRecord",
    "MemberRecord",
    "MetricRecord",
    "ModelRecord",
    "NodeRecord",
    "NoteRecord",
    "PackageRecord",
    "PredictionRecord",
    "ProjectRecord",
    "ProjectRole",
    "Record",
    "RoundRecord",
    "SampleRecord",
    "SessionRecord",
    "SessionState",
    "SubjectRecord",
    "TokenRecord",
]

INSTALLATION: Final = ""
"""The project of a row that belongs to the whole installation; no project can have this name."""


class ProjectRole(StrEnum):
    """What a person is in a project; `hansa.api.permissions` says what each may do."""

    OWNER = "owner"
    MAINTAINER = "maintainer"
    DATA_SCIENTIST = "data-scientist"
    VIEWER = "viewer"
    AUDITOR = "auditor"


class SessionState(StrEnum):
    """The life of a session. FINISHED, FAILED and STOPPED are terminal; FAILED and STOPPED can be resumed."""

    CREATED = "created"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class InstallationRecord:
    """Which network this is the database of. There is one row, since the first start of a version that knows it."""

    id: str
    """Made up once; the folder `keys` and the objects say it too (`hansa.network.controller.installation`)."""
    project: str
    """Always `INSTALLATION`."""
    key: str
    """The public key that signed for the server when it last started: `ed25519:` and 64 hexadecimal digits."""
    created_at: float
    objects: str | None = None
    """Digest of the object that says the id; None: the object store has been away ever since."""


@dataclass(frozen=True, slots=True)
class ProjectRecord:
    """A workspace."""

    id: str
    name: str
    created_at: float
    max_sessions: int | None = None
    """Sessions that may run at once; None: the server's default."""
    max_storage: int | None = None
    """Bytes of the objects that its rows hold on to, each counted once; None: the server's default."""
    max_clients: int | None = None
    """Clients that may join, or hold a join token; None: the server's default."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A run on the network."""

    id: str
    project: str
    name: str
    spec: RunSpec
    state: SessionState
    created_at: float
    package: str | None = None
    """Digest of the user's code; None when clients bring their own."""
    seed_model: str | None = None
    """Digest of the model that it starts from; None: the app's initial model."""
    round: int = 0
    """Committed rounds."""
    model: str | None = None
    """Digest of the newest committed model."""
    cause: str = ""
    """Why it is in a terminal state."""
    started_at: float | None = None
    ended_at: float | None = None
    keep: str | None = None
    """The policy by which old models are pruned, as `hansa.store.retention` reads it; None: the server's default."""
    engine: str | None = None
    """Of a simulation: what trains its clients; it can be seen, but not started or stopped. None: the network."""
    further: int | None = None
    """Rounds beyond those of its specification, with which it was continued; None: it was not."""
    model_prefix: str | None = None
    """What its models are called before "-" and their round's number; None: they have no names."""

    @property
    def rounds(self) -> int:
        """Rounds that it is to commit in all."""
        return self.spec.rounds + (self.further or 0)


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A committed round. Its `link` chains model ← round ← contributors ← parent model, verifiable offline."""

    id: str
    """session/number"""
    project: str
    session: str
    number: int
    parent_model: str
    model: str
    state: str
    """Digest of the algorithm's whole state after the round (params and slots)."""
    accepted: int
    rejected: int
    failed: int
    missing: int
    weight: int
    """Examples summed."""
    opened_at: float
    closed_at: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Weighted means of the training metrics of the contributors."""
    link: str = ""
    """blake3 over all of the round and the link before, see `hansa.store.link`."""
    state_pruned_at: float | None = None
    """When the bytes of the state were given up by the session's policy; None: they are kept."""
    state_size: int | None = None
    """Bytes of the state; None: there is none, or it was committed before they were kept."""
    broadcast: str | None = None
    """Digest of what the clients were given; None, as what follows: the round was committed before it was kept."""
    run: str | None = None
    """blake3 of what the session runs, see `hansa.store.link`."""
    journal: str | None = None
    """The link of the session's newest event before the round was committed."""
    signer: str | None = None
    """The server's public key: `ed25519:` and 64 hexadecimal digits."""
    signature: str | None = None
    """The server's, over the link; 128 hexadecimal digits."""
    aggregate: str | None = None
    """Digest of the mean of the changes that the model was made from; None: the session's policy did not keep it."""
    aggregate_size: int | None = None
    """Bytes of the aggregate."""
    aggregate_weight: int | None = None
    """The weight of the mean: the examples that were summed, or the clients where each counts alike."""
    aggregate_pruned_at: float | None = None
    """When the bytes of the aggregate were given up by the session's policy; None: they are kept, if it was."""


@dataclass(frozen=True, slots=True)
class ContributionRecord:
    """What became of one invited client in one round; of an asynchronous run, of one task that ended in it."""

    id: str
    """session/number/client; of an asynchronous run with the number of the round whose model it was given, so that
    nothing that was made from one model is counted twice, and of what is missing there with that of its round behind:
    it may count in a later one."""
    project: str
    session: str
    round: int
    client: str
    outcome: str
    """accepted, rejected, failed or missing"""
    num_examples: int = 0
    digest: str = ""
    reason: str = ""
    """Of a rejection or a failure, for a person."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    signer: str | None = None
    """The client's public key: `ed25519:` and 64 hexadecimal digits; None: it handed in nothing, or did not sign."""
    signature: str | None = None
    """The client's, over its update; 128 hexadecimal digits."""
    base: int | None = None
    """Of an asynchronous run: the round whose model it was given. `round` is that in which it counts, or ended."""
    norm: float | None = None
    """L2 norm of the update, as the server that added it has measured: it is in no link, and nobody has signed it."""


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """What one client reported of one evaluation, as it has signed it."""

    id: str
    """session/number/client"""
    project: str
    session: str
    round: int
    client: str
    num_examples: int
    model: str
    """Digest of the model that was evaluated."""
    at: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    signer: str | None = None
    """The client's public key: `ed25519:` and 64 hexadecimal digits; None: it did not sign."""
    signature: str | None = None
    """The client's, over the report; 128 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A node of the model trail."""

    id: str
    """Content address: blake3 of the safetensors file. A model reached twice is one object with several records."""
    project: str
    session: str
    """Empty for an uploaded seed."""
    round: int
    """0 for an initial model."""
    parent: str | None
    size: int
    """Bytes."""
    created_at: float
    name: str = ""
    pruned_at: float | None = None
    """When the bytes were given up by the session's policy; None: they are kept."""
    pruned_by: str | None = None
    """The policy that gave them up."""


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """One number of one round: of a client, or merged over clients (`client` empty), or central (`central`)."""

    id: str
    project: str
    session: str
    round: int
    kind: Kind
    name: str
    value: float
    num_examples: int
    client: str = ""
    """Empty: the weighted mean over clients; "central": evaluated beside the aggregation."""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One number on the way: what user code has logged in a task, or a client's machine has measured of itself."""

    id: str
    """session/round/task/client/name/step; of a machine client/name/at: what is told twice is kept once."""
    project: str
    session: str
    """Empty: of a machine."""
    round: int
    """0: of a machine."""
    task: str
    """train, evaluate or program; empty: of a machine."""
    client: str
    name: str
    step: int
    value: float
    at: float
    """By the client's clock."""


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """A question to clients: what does this model predict of your data?"""

    id: str
    project: str
    name: str
    model: str
    """Digest."""
    package: str | None
    """Digest of the user's code; None when clients bring their own."""
    spec: RunSpec
    """Whom it asks, for how long, and what is handed to user code."""
    state: SessionState
    created_at: float
    asked: int = 0
    """Clients that were invited."""
    answered: int = 0
    """Clients whose predictions are kept."""
    cause: str = ""
    """Why it is in a terminal state."""
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """What one client predicted, or why it did not."""

    id: str
    """prediction/client"""
    project: str
    prediction: str
    client: str
    at: float
    document: str | None
    """JSON; None: it failed, or refused."""
    reason: str = ""
    """Why there is none."""

    @property
    def value(self) -> Any:
        """What the document holds; None where there is none."""
        return None if self.document is None else json.loads(self.document)


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened, in order; the live stream is these."""

    id: int
    """Grows by commit order; the cursor of the stream. 0 before it is stored."""
    project: str
    session: str
    """Empty for an event of the network."""
    kind: str
    """For example session.started, round.opened, task.failed, round.committed, session.finished."""
    message: str
    """One sentence for a person."""
    at: float
    data: Mapping[str, Value] = field(default_factory=dict)
    link: str | None = None
    """Of a session's event: the hash over it and the link before (`hansa.store.link`); the store fills it in."""


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A client that has connected at least once."""

    id: str
    """project/name"""
    project: str
    name: str
    combiner: str
    """The server that its stream ends at; empty when it is away."""
    connected: bool
    first_seen: float
    last_seen: float
    labels: Mapping[str, str] = field(default_factory=dict)
    """What it says of itself when it connects."""
    version: str = ""
    assigned: Mapping[str, str] | None = None
    """Labels that operators gave it, in the place of its own of the same key; None: none."""

    @property
    def all_labels(self) -> Mapping[str, str]:
        """Its own labels, and those that operators gave it."""
        return {**self.labels, **(self.assigned or {})}


@dataclass(frozen=True, slots=True)
class CombinerRecord:
    """A combiner that has connected at least once."""

    id: str
    """project/name"""
    project: str
    name: str
    parent: str
    address: str
    connected: bool
    first_seen: float
    last_seen: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PackageRecord:
    """User code that sessions ship to clients."""

    id: str
    """blake3 of the archive."""
    project: str
    name: str
    size: int
    created_at: float


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token that was issued; the token itself is not kept."""

    id: str
    """The token's jti."""
    project: str
    """`INSTALLATION`: a person's, in every project that they are a member of."""
    name: str
    """The node's identity; of a person's token what it is called."""
    role: str
    """client, combiner; of a person's token the project role that bounds it, or person: all that they may do."""
    created_at: float
    expires_at: float | None = None
    revoked: bool = False
    account: str | None = None
    """The person that it acts for; None: a node's."""
    used_at: float | None = None
    """When a node joined with it: it is spent then."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A client or combiner that has joined: the key by which it is known, and the process that holds its name."""

    id: str
    """project/name"""
    project: str
    name: str
    role: str
    """client or combiner"""
    key: str
    """Its public key: `ed25519:` and 64 hexadecimal digits."""
    token: str
    """Id of the join token with which the key became known."""
    joined_at: float
    revoked: bool = False
    instance: str = ""
    """The process that has access now; empty: none had it yet."""
    grant: str = ""
    """What the access tokens of this process have in common."""
    granted_at: float | None = None
    former: str | None = None
    """The public key before this one; None: it is known by the key that it has joined with."""
    rotated_at: float | None = None
    """When this key took the place of the former one."""


@dataclass(frozen=True, slots=True)
class HandoverRecord:
    """One change of a node's key, which both keys have signed: whoever knows one of them can believe the other."""

    id: str
    """project/name/number, from 1"""
    project: str
    node: str
    """Its name."""
    former: str
    """The public key until then: `ed25519:` and 64 hexadecimal digits."""
    key: str
    """The one that took its place."""
    by_former: str
    """Signature of the statement with the former one; 128 hexadecimal digits."""
    by_key: str
    """The same with the new one."""
    at: float


@dataclass(frozen=True, slots=True)
class NoteRecord:
    """A document that an adapter for another system's clients keeps, since hansa itself has no place for it."""

    id: str
    """kind/name"""
    project: str
    kind: str
    """What it is, in the other system's words."""
    name: str
    """Which of its kind it is."""
    session: str
    """The session that it goes with; empty: none."""
    created_at: float
    updated_at: float
    data: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """A person who may log in. It belongs to the installation, and is disabled rather than deleted."""

    id: str
    """The name."""
    project: str
    """Always `INSTALLATION`."""
    created_at: float
    admin: bool = False
    """Whether they are a site administrator, who may do everything in every project."""
    disabled: bool = False
    password: str = field(default="", repr=False)
    """Its argon2id hash; empty: nobody can log in with one."""


@dataclass(frozen=True, slots=True)
class SubjectRecord:
    """The account of whom an OpenID provider means by a subject. One that is unbound keeps the row, which says so."""

    id: str
    """issuer#subject: an issuer has no fragment, so no two pairs are written alike."""
    project: str
    """Always `INSTALLATION`."""
    account: str
    issuer: str
    subject: str
    created_at: float
    removed: bool = False


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A person in a project. One who is removed keeps the row, which then says so."""

    id: str
    """The account's name."""
    project: str
    role: ProjectRole
    created_at: float
    removed: bool = False


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Who did what: a line that is never changed, chained to the one before it (`hansa.store.audit`)."""

    id: str
    """The number, in digits; the store fills in both, and the link."""
    project: str
    """`INSTALLATION`: it concerns no project, or one that the actor does not know."""
    number: int
    """From 1, without a gap in the project."""
    at: float
    actor: str
    """The account or the node; of a failed login the name that was tried; "hansa": the server by itself."""
    action: str
    """For example login, token.issue, member.add, session.start, model.download."""
    target: str
    """What it was done to: a name or an id."""
    outcome: str
    """done, failed or refused"""
    detail: str = ""
    link: str = ""
    """The hash over the line and the link before it."""


Record: TypeAlias = (
    InstallationRecord
    | ProjectRecord
    | SessionRecord
    | RoundRecord
    | ContributionRecord
    | EvaluationRecord
    | ModelRecord
    | MetricRecord
    | SampleRecord
    | PredictionRecord
    | AnswerRecord
    | EventRecord
    | ClientRecord
    | CombinerRecord
    | PackageRecord
    | TokenRecord
    | NodeRecord
    | HandoverRecord
    | NoteRecord
    | AccountRecord
    | MemberRecord
    | SubjectRecord
    | AuditRecord
)
