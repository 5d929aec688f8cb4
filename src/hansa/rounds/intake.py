"""One aggregation server's view of one phase of a round: which offers it takes.

The server asks `offer` before it receives a byte, folds the update, and then calls `settle`. It waits for the folds
under way (`receiving`) before it calls `seal`, so that what `seal` returns is exactly what its sum holds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from hansa.errors import ConflictError, Reason, UpdateRejectedError
from hansa.messages import Kind

__all__ = ["Admit", "Answer", "Intake", "Repeat", "check_staleness"]


@dataclass(frozen=True, slots=True)
class Admit:
    """Receive the update."""

    client: str
    digest: str
    replaces: str | None = None
    """The digest of an earlier, unfinished offer of this client (it trained again): its bytes can be dropped."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The client repeats itself, for example after a reconnect."""

    client: str
    digest: str
    accepted: bool
    """True: it is in the sum, answer so again. False: it is being received, resume; the first num_examples stands."""


Answer: TypeAlias = Admit | Repeat


class Intake:
    """Admits each invited client's update once, until it is sealed."""

    def __init__(
        self,
        run: str,
        number: int,
        kind: Kind,
        max_weight: int,
        *,
        flows: bool = False,
        max_staleness: int | None = None,
    ) -> None:
        """run, number (of the round), kind: the phase; max_weight: the most examples of an update, from the plan.

        flows: of an asynchronous run, whose clients go on from round to round, and where what is received when one is
        sealed is for the next; max_staleness: of its updates, in rounds; None: any.
        """
        self.run = run
        self.number = number
        self.kind = kind
        self.max_weight = max_weight
        self.max_staleness = max_staleness
        self.flows = flows
        self.sealed = False
        self._invited: dict[str, int] = {}
        """Client → the round whose model it has."""
        self._withdrawn: set[str] = set()
        self._receiving: dict[str, str] = {}
        self._accepted: dict[str, str] = {}

    @property
    def accepted(self) -> frozenset[str]:
        """Clients whose update is in the sum."""
        return frozenset(self._accepted)

    @property
    def receiving(self) -> frozenset[str]:
        """Clients that were admitted and not settled yet."""
        return frozenset(self._receiving)

    @property
    def invited(self) -> frozenset[str]:
        """Clients that may offer."""
        return frozenset(self._invited)

    def base_of(self, client: str) -> int:
        """The round whose model an invited client has."""
        return self._invited[client]

    def invite(self, clients: Iterable[str], base: int | None = None) -> None:
        """These may offer, as well as those before them. base: the round of their model; None: this one."""
        clients = tuple(clients)
        self._invited.update(dict.fromkeys(clients, self.number if base is None else base))
        self._withdrawn.difference_update(clients)

    def withdraw(self, client: str) -> None:
        """Of an asynchronous run: if it delivers in this round, that counts, and later it does not."""
        self._withdrawn.add(client)

    def advance(self, number: int) -> None:
        """Of an asynchronous run: the next round. Who is at work goes on; who was counted or withdrawn is done."""
        for client in (*self._accepted, *self._withdrawn):
            self._invited.pop(client, None)
        self.number, self.sealed = number, False
        self._accepted, self._withdrawn = {}, set()

    def check_task(self, client: str, base: int) -> None:
        """Raise `UpdateRejectedError` unless a client may be counted in this round with an update of this task."""
        if self._invited.get(client) != base:
            raise UpdateRejectedError(
                Reason.NOT_INVITED, f"{client} is not invited to {self._phase}; it takes part when it gets a task"
            )
        check_staleness(self.number - base, self.max_staleness)

    def offer(self, client: str, num_examples: int, digest: str, base: int | None = None) -> Answer:
        """What to do with an offer; raises `UpdateRejectedError` where the update must not be received.

        A repetition of what was accepted is recognised after the seal too. A client that was rejected may offer again.
        base: the round whose model the update was made from; None: this one.
        """
        self.check_task(client, self.number if base is None else base)
        counted = self._accepted.get(client)
        if counted == digest:
            return Repeat(client, digest, accepted=True)
        if counted is not None:
            raise UpdateRejectedError(
                Reason.DUPLICATE,
                f"{client} is counted in {self._phase} already, with the update {counted[:12]}; "
                f"{digest[:12]} is another one, drop it",
            )
        if self.sealed and not self.flows:
            raise UpdateRejectedError(Reason.LATE, f"{self._phase} was sealed before {client} offered its update")
        if not 1 <= num_examples <= self.max_weight:
            raise UpdateRejectedError(
                Reason.WEIGHT,
                f"num_examples of {client} is {num_examples}; it must be 1 to max_weight = {self.max_weight}",
            )
        earlier = self._receiving.get(client)
        if earlier == digest:
            return Repeat(client, digest, accepted=False)
        self._receiving[client] = digest
        return Admit(client, digest, replaces=earlier)

    def settle(self, client: str, accepted: bool, digest: str | None = None) -> None:  # noqa: FBT001 - the verdict
        """What became of an admitted offer: `accepted` when the sum holds it, else the client may offer again.

        digest: which offer, where a later one of the same client may have replaced it; None: the latest. The first
        acceptance stands. Raises `ConflictError` for an acceptance of what was not admitted, or only before the seal.
        """
        if client in self._accepted:
            return
        latest = self._receiving.get(client)
        if not accepted:
            if digest is None or digest == latest:
                self._receiving.pop(client, None)
            return
        if latest is None:
            why = "it was sealed before" if self.sealed else "no offer of it was admitted"
            raise ConflictError(f"{client} cannot be accepted in {self._phase}: {why}; its update must not be summed")
        del self._receiving[client]
        self._accepted[client] = digest if digest is not None else latest

    def seal(self) -> frozenset[str]:
        """Admit no more, forget what is half received, and return whose updates the sum holds."""
        self.sealed = True
        if not self.flows:
            self._receiving.clear()
        return self.accepted

    def reopen(self) -> None:
        """Admit again; what was accepted stays."""
        self.sealed = False

    @property
    def _phase(self) -> str:
        return f"round {self.number} ({self.kind}) of run {self.run}"


def check_staleness(staleness: int, most: int | None) -> None:
    """Raise `UpdateRejectedError` (stale) for an update that is too old. most: None: none is."""
    if most is not None and staleness > most:
        age = f"{staleness} round{'s' if staleness > 1 else ''}"
        raise UpdateRejectedError(Reason.STALE, f"its model is {age} old, and max_staleness is {most}")
