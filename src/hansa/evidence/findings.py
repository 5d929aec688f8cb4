"""What whoever verifies a session knows before, and knows afterwards."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hansa.evidence.receipts import Receipt

__all__ = ["Known", "Verification"]


@dataclass(frozen=True, slots=True)
class Known:
    """What whoever verifies knows from elsewhere; without it a record that was made up as a whole cannot be told."""

    head: str | None = None
    """A link that the chain of rounds must contain."""
    server: Collection[str] = ()
    """Public keys of the server; empty: any is believed."""
    clients: Mapping[str, str] = field(default_factory=dict)
    """Client → a public key of its: one that it has now, or had before it handed over to another."""
    receipts: Sequence[Receipt] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found whole."""

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
    """Models, states and aggregates whose bytes were not read: given up by a policy, or not in the bundle."""
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
    servers: tuple[str, ...]
    """Public keys that have signed for the server."""
    clients: Mapping[str, Sequence[str]]
    """Client → public keys that have signed for it."""
    recomputed: int
    """Rounds whose models were computed anew from what was added to the one before, and are what was committed."""
    not_recomputed: int
    """Rounds whose models were not: what they were made from was not kept, or for the cause in `obstacle`."""
    obstacle: str
    """Why no model could be computed though there is all that it takes; empty when nothing was in the way."""

    def with_objects(self, sizes: Mapping[str, int], recomputed: int, obstacle: str) -> "Verification":
        """The same, once bytes were read too. sizes: bytes, by digest, of the objects that were read."""
        known = self.objects + self.pruned
        return replace(
            self,
            objects=len(sizes),
            bytes=sum(sizes.values()),
            pruned=known - len(sizes),
            recomputed=recomputed,
            not_recomputed=self.rounds - recomputed,
            obstacle=obstacle,
        )
