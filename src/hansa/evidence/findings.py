"""What whoever verifies a session knows before, and knows afterwards."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from hansa.evidence.record import Evidence

__all__ = ["Findings", "Known", "Receipt", "Verification"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a client has kept of a round that holds its update (`hansa.network.client.receipts`)."""

    session: str
    round: int
    client: str
    num_examples: int
    update: str
    link: str
    signer: str
    signature: str


@dataclass(frozen=True, slots=True)
class Known:
    """What whoever verifies knows from elsewhere; without it a record that was made up as a whole cannot be told."""

    head: str | None = None
    """A link that the chain of rounds must contain."""
    server: Collection[str] = ()
    """Public keys of the server; empty: any is believed."""
    clients: Mapping[str, str] = field(default_factory=dict)
    """Client → its public key."""
    receipts: Sequence[Receipt] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found whole."""

    head: str
    """The link of the last round."""
    servers: tuple[str, ...]
    """Public keys that have signed for the server."""
    clients: Mapping[str, tuple[str, ...]]
    """Client → public keys that have signed for it."""
    updates: int
    """Accepted updates whose signature holds."""
    reports: int
    """Evaluations whose signature holds."""
    unsigned: int
    """Accepted updates and evaluations that nobody has signed: of rounds before hansa did."""
    events: int
    sealed: bool
    """Whether the server has signed the end of the session, and it is the end."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found whole, with the bytes."""

    session: str
    rounds: int
    contributions: int
    objects: int
    """Models and states whose bytes were read and have the digest that is recorded."""
    bytes: int
    """Bytes of these objects."""
    head: str
    """The link of the last round: who keeps it elsewhere can tell later that no round was lost or rewritten since."""
    pruned: int
    """Models and states whose bytes were given up by the session's policy, and so could not be read."""
    updates: int
    """Accepted updates that their clients have signed."""
    reports: int
    """Evaluations that their clients have signed."""
    unsigned: int
    """Accepted updates and evaluations that nobody has signed: of rounds before hansa did."""
    events: int
    sealed: bool
    """Whether the session is over, and the server has signed its end."""
    servers: tuple[str, ...]
    """Public keys that have signed for the server."""
    clients: Mapping[str, Sequence[str]]
    """Client → public keys that have signed for it."""

    @classmethod
    def of(cls, evidence: Evidence, found: Findings, sizes: Mapping[str, int]) -> "Verification":
        """sizes: bytes, by digest, of the objects that were read."""
        return cls(
            evidence.session.id,
            len(evidence.rounds),
            len(evidence.contributions),
            len(sizes),
            sum(sizes.values()),
            found.head,
            len(evidence.objects) - len(sizes),
            found.updates,
            found.reports,
            found.unsigned,
            found.events,
            found.sealed,
            found.servers,
            found.clients,
        )
