"""What nodes say to each other on a control stream, as values; `proto/hansa/v1/control.proto` says the same in bytes.

A node (client or combiner) dials its parent (a combiner, or the controller's root) and opens one stream. Frames of
`FromNode` climb, frames of `ToNode` descend. A combiner passes its children's frames on, so `client` is always the
name of the client that the frame is about.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from hansa.errors import Reason
from hansa.messages import Contribution, Kind, RunSpec, Sample, Signature

__all__ = [
    "CENTRAL",
    "ROOT",
    "SENDS_ON",
    "Admission",
    "Answer",
    "Awaited",
    "Blob",
    "Closed",
    "Counted",
    "Dismiss",
    "Evaluated",
    "FromNode",
    "Heartbeat",
    "Hello",
    "Letter",
    "LogLine",
    "Offer",
    "OpenRound",
    "Predicted",
    "Presence",
    "Present",
    "Progress",
    "Receipt",
    "Redirect",
    "Role",
    "RoundKey",
    "Samples",
    "Seal",
    "SendOn",
    "Settled",
    "TaskFailed",
    "TaskStarted",
    "ToNode",
    "Verdict",
    "Welcome",
    "Withdraw",
]


CENTRAL = "central"
"""The name under which the app's own code beside the server reports; no client may have it."""

ROOT = "root"
"""The name of the controller's own aggregation server; no combiner may have it."""

SENDS_ON = "send-on"
"""The capability of a combiner that knows `SendOn`."""


class Role(StrEnum):
    """What an identity may be."""

    CLIENT = "client"
    COMBINER = "combiner"
    PERSON = "person"
    """No node. What a person may do is for the members of a project to say, not for the token."""


@dataclass(frozen=True, slots=True)
class Blob:
    """An object by content: a model, an update, a partial sum, a package."""

    digest: str
    """blake3 of the bytes, 64 hexadecimal digits."""
    size: int
    """Bytes."""
    inline: bytes = b""
    """The bytes themselves when there are at most `chunks.INLINE_LIMIT` of them, else empty."""


@dataclass(frozen=True, slots=True)
class RoundKey:
    """One training or evaluation phase of one round of one run."""

    run: str
    round: int
    """From 1."""
    kind: Kind


# ── from a node to its parent ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame of a stream. The name and role are those of the token; a frame cannot claim another."""

    role: Role
    instance: str
    """Random per process: tells a reconnect from a second process that uses the same identity."""
    version: str
    """Of the software, for people."""
    capabilities: tuple[str, ...] = ()
    """What the node can do beyond what all can, as `SENDS_ON`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    """Where a combiner's children reach it: host:port, after a scheme (`tls.Scheme`); empty for a client."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing new, still here."""


@dataclass(frozen=True, slots=True)
class Present:
    """One client below a combiner."""

    client: str
    labels: Mapping[str, str] = field(default_factory=dict)
    combiner: str = ""
    """The server that the client's stream ends at."""
    grant: str = ""
    """Of the token that it attached with: the controller dismisses who holds none any more."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Clients and combiners that went, and then those that came, below a combiner: one that moved is in both."""

    joined: tuple[Present, ...] = ()
    left: tuple[str, ...] = ()
    combiners: tuple[Present, ...] = ()
    """Every combiner below the sender, by `client` name, with its address in labels["address"] and its parent."""


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """The client has the model and has begun."""

    key: RoundKey
    client: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Renews the lease: bytes moved or steps trained."""

    key: RoundKey
    client: str
    activity: str
    """What it is doing: download, train, evaluate, upload."""
    done: float
    total: float


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """User code raised, exited or hung, or the app does not fit."""

    key: RoundKey
    client: str
    message: str
    traceback: str = ""
    goes_on: bool = False
    """Of a party's program, which does without what has failed."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The result of an evaluation task."""

    key: RoundKey
    client: str
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    signature: Signature | None = None
    """The client's, over the rest and the model that it evaluated."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A trained update, or a combiner's partial sum, that waits to be fetched or is inline."""

    key: RoundKey
    sender: str
    """The client of an update, the combiner of a partial sum."""
    blob: Blob
    contributions: tuple[Contribution, ...]
    """Exactly one for an update; all that are summed for a partial."""
    partial: bool = False
    weight: int = 0
    """Of a partial: its denominator."""
    base: str = ""
    """Of an update: digest of the model that it was trained from."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A combiner tells its parent what became of one client's offer."""

    key: RoundKey
    client: str
    accepted: bool
    num_examples: int = 0
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that user code printed, or the node's own."""

    key: RoundKey
    client: str
    line: str
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Predicted:
    """The result of a prediction task."""

    key: RoundKey
    client: str
    document: bytes
    """JSON, at most `limits.MAX_DOCUMENT` bytes."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Numbers on the way: of a client's task, or of its machine."""

    client: str
    values: tuple[Sample, ...]
    key: RoundKey | None = None
    """The task; None: its machine."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What one party of a program sends to another: between an agent and its worker process, and by the relay."""

    key: RoundKey
    sender: int
    """Its place among the run's parties, from 0."""
    receiver: int
    """Likewise; the sender itself: its last letter, which says that it has ended."""
    number: int
    """Of the letters from this sender to this receiver, from 0."""
    blob: Blob
    """The encoded message."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """A party goes on once it has this letter."""

    key: RoundKey
    sender: int
    receiver: int
    """Who waits."""
    number: int
    """As of the letter."""
    sent: int = 0
    """Letters that the receiver has sent by now, to all."""
    kept: int = 0
    """How many of these the controller has said that it keeps."""
    dispensable: bool = False
    """The receiver can go on without it: of a sender that stays away, it is told so in the letter's place."""


# ── from a parent to a node ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to `Hello`."""

    node: str
    """The name of the server."""
    heartbeat: float
    """Seconds between the node's heartbeats."""
    public_key: str = ""
    """PEM; with it a combiner verifies its children's tokens."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The last update of a client that is in a committed model of the run: what it kept with it is its memory."""

    client: str
    round: int
    digest: str
    """Of the update's bytes."""


@dataclass(frozen=True, slots=True)
class OpenRound:
    """A phase opens, or more clients are invited to one that is open. To a client: this is your task."""

    key: RoundKey
    spec: RunSpec
    model: Blob
    """What the algorithm broadcasts, as safetensors."""
    invited: tuple[str, ...]
    """The clients below the receiver that take part; for a client, itself."""
    package: Blob | None = None
    """The user's code; None when clients bring their own."""
    counted: tuple[Counted, ...] = ()
    """Of those who are invited, who was counted before; only committed rounds."""
    open: int = 0
    """Of an asynchronous run: the round that is open now, in which the update counts if it comes; 0: `key`'s round."""
    current: Blob | None = None
    """Of an asynchronous run: what is broadcast in that round; None: `model`."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Stop working on a task."""

    key: RoundKey
    client: str
    why: str


@dataclass(frozen=True, slots=True)
class Admission:
    """There is room: send the offered bytes from `offset`."""

    key: RoundKey
    sender: str
    upload: str
    """The name of the upload for the Upload call."""
    offset: int
    """Bytes that the server has already."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an offer: folded into the sum, or rejected with a reason."""

    key: RoundKey
    client: str
    accepted: bool
    reason: Reason | None = None
    detail: str = ""
    digest: str = ""
    """Of the sum that it is about; empty for a client's update, and when all that a combiner holds is dropped."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Take no more updates for this phase, and send up the partial sum."""

    key: RoundKey


@dataclass(frozen=True, slots=True)
class Receipt:
    """The server's word that a round was committed as it is recorded."""

    link: str
    """Of the round: it covers all that is in it, and every round before (`hansa.store.link`)."""
    signature: Signature
    """The server's, over the link."""
    round: int = 0
    """The round that was committed; 0: that of the key."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The phase is over. `committed` names the clients whose update is in the committed model.

    Of an asynchronous run: to a combiner that this round is committed, and with a `cause` that the run is over; to a
    client that its task of this key is.
    """

    key: RoundKey
    committed: tuple[str, ...] = ()
    cause: str = ""
    """Why the round was not committed; empty when it was."""
    receipt: Receipt | None = None
    """Of a training round that was committed: for the clients in it to keep."""


@dataclass(frozen=True, slots=True)
class Dismiss:
    """A node below the receiver is no member of the network any more: its stream and its transfers end."""

    client: str
    """Or a combiner."""
    grant: str
    """The token of this grant is refused from now on."""
    why: str


@dataclass(frozen=True, slots=True)
class SendOn:
    """A client below the receiver is to ask the controller for a server: there is a better one for it now.

    To combiners that say `SENDS_ON` of themselves.
    """

    client: str
    why: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """Leave this stream: ask the controller for another server, or stop when `final`."""

    why: str
    final: bool = False


Answer: TypeAlias = Offer | Evaluated | Predicted
"""What comes of a task."""

FromNode: TypeAlias = (
    Hello
    | Heartbeat
    | Presence
    | TaskStarted
    | Progress
    | TaskFailed
    | Evaluated
    | Offer
    | Settled
    | LogLine
    | Letter
    | Awaited
    | Samples
    | Predicted
)
ToNode: TypeAlias = (
    Welcome | OpenRound | Withdraw | Admission | Verdict | Seal | Closed | Redirect | Dismiss | SendOn | Letter
)
