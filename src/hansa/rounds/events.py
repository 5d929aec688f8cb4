"""What happens to a round, what it asks for, and how it ends.

`Round.handle` takes an event and returns commands, which its driver carries out in order. Every event carries `now`, in
seconds of the driver's clock: monotonic on a network, virtual in a simulation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from hansa.errors import Reason

__all__ = [
    "Abandoned",
    "Accepted",
    "Cancelled",
    "Command",
    "Completed",
    "Connected",
    "Disconnected",
    "Due",
    "Event",
    "Failed",
    "Finish",
    "Invite",
    "NotMet",
    "Outcome",
    "Progressed",
    "Rejected",
    "Seal",
    "Sealed",
    "Tick",
    "WakeAt",
    "Withdraw",
]


# ── events: what happened ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Due:
    """The round should begin; its deadline counts from here. A round that has begun ignores it."""

    now: float
    connected: frozenset[str]
    """Every client that is connected now; `Connected` and `Disconnected` change it from here on."""
    invited: tuple[str, ...] = ()
    """Of a round that had begun before its driver died: those who had a place in it, in the order of their invitations.

    They keep their places, and their leases begin anew; nobody is chosen again.
    """
    places: int = 0
    """How many of them were invited at once, in the beginning: the others took places that had become free."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A client came, or came back. A client whose stream was replaced is disconnected first."""

    now: float
    client: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A client went; it keeps its place until its lease ends."""

    now: float
    client: str


@dataclass(frozen=True, slots=True)
class Progressed:
    """A client has begun, or got further: renews its lease."""

    now: float
    client: str
    activity: str
    """What it is doing, for example download, train, evaluate, upload."""
    done: float
    total: float
    """In the activity's own unit, for example bytes or steps; 0 where it is unknown."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A client's update was folded into a sum, or its evaluation report was taken."""

    now: float
    client: str
    num_examples: int
    base: int = 0
    """Of an asynchronous run, the round whose model it was made from; 0: that of the task that it has."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A client's update was refused."""

    now: float
    client: str
    reason: Reason
    detail: str
    """One sentence for a person."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A client cannot deliver: its code raised, exited or hung."""

    now: float
    client: str
    message: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed: the answer to `WakeAt`. More of them, or early ones, are harmless."""

    now: float


@dataclass(frozen=True, slots=True)
class Sealed:
    """The one answer to each `Seal`: whose updates the sum really holds. A lost server may have made them fewer."""

    now: float
    contributors: frozenset[str]
    bases: Mapping[str, int] = field(default_factory=dict)
    """Of an asynchronous run, by contributor: the round whose model its update was made from, where that is known."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run was stopped."""

    now: float
    cause: str


Event: TypeAlias = (
    Due | Connected | Disconnected | Progressed | Accepted | Rejected | Failed | Tick | Sealed | Cancelled
)


# ── outcomes: how it ended; every invited client is in exactly one of the four lists ─────────────────────────────────


@dataclass(frozen=True, slots=True)
class Unused:
    """A task of an asynchronous round that has come to nothing: it was rejected, failed, or its client fell silent."""

    client: str
    base: int
    """The round whose model it had."""
    message: str | None = None
    """Of a rejection or a failure; None: nothing was heard."""
    reason: Reason | None = None
    """Of a rejection."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The sum holds at least a quorum."""

    contributors: tuple[str, ...]
    """Whose updates the sum holds, by name, as are the others."""
    missing: tuple[str, ...] = ()
    """Who was invited and delivered nothing that counts, or whose update was lost with a server."""
    rejected: Mapping[str, tuple[Reason, str]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    """Client → message."""
    unused: tuple[Unused, ...] = ()
    """Of an asynchronous round, by client and base: where a client had several tasks, the lists have the last of them.

    There a client may be counted, too, whose earlier task came to nothing in the same round.
    """


@dataclass(frozen=True, slots=True)
class NotMet:
    """The quorum was not met; nothing of the round is used."""

    cause: str
    """What happened, who was missing, and what to do."""
    contributors: tuple[str, ...] = ()
    """Whose updates were held when the round ended."""
    missing: tuple[str, ...] = ()
    rejected: Mapping[str, tuple[Reason, str]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The run was stopped while the round was under way."""

    cause: str


Outcome: TypeAlias = Completed | NotMet | Abandoned


# ── commands: what the driver is asked to do ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Invite:
    """Give the task to these clients, and take their updates.

    It comes again for a client that reconnects while its task is open, and after `Seal` when the round opens again:
    the servers then take updates again, and a client that has its update still offers that one.
    """

    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell a client to stop. If it delivers all the same before the seal, that counts."""

    client: str
    why: str


@dataclass(frozen=True, slots=True)
class Seal:
    """Take no more updates, gather the sums, and answer with `Sealed` in any case, be it with nobody."""


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a `Tick` at or after this time; the newest replaces older ones."""

    at: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The round is over, for every client that still works on it too. It is the last command."""

    outcome: Outcome


Command: TypeAlias = Invite | Withdraw | Seal | WakeAt | Finish
