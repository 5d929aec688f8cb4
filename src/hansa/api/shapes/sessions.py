"""Sessions and what is kept of their rounds."""

from pydantic import Field, JsonValue

from hansa.api.shapes.answer import Shape
from hansa.messages import Kind
from hansa.store.records import SessionState

__all__ = [
    "ContributionShape",
    "EventShape",
    "MetricShape",
    "RoundShape",
    "SampleShape",
    "SessionShape",
    "VerificationShape",
]


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
