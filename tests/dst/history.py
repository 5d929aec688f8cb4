"""What really happened in a simulation, as it happened."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hansa.rounds.seats import ABOUT_THE_ROUND
from hansa.wire.frames import Closed, RoundKey, Verdict

__all__ = ["History", "Note"]


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that happened to one node."""

    at: float
    node: str
    what: str
    """kept, forgotten, verdict, closed, commit, fault, booted, exited, log, wrong."""
    key: RoundKey | None = None
    digest: str = ""
    said: str = ""

    def __str__(self) -> str:
        """For people."""
        where = f" {self.key.run} {self.key.round} {self.key.kind.value}" if self.key else ""
        return f"{self.at:9.4f}  {self.node:12} {self.what}{where} {self.digest[:8]} {self.said}"


@dataclass
class History:
    """Notes in order, and what is held where."""

    notes: list[Note] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Violations that were seen as they happened, each with its invariant in front."""
    held: dict[tuple[str, RoundKey], str] = field(default_factory=dict)
    """(client, phase) → digest of the update that lies in its outbox."""
    refused: dict[tuple[str, RoundKey, str], str] = field(default_factory=dict)
    """(client, phase, digest) → why it was refused, or why the round was given up."""
    acknowledged: dict[tuple[str, RoundKey], str] = field(default_factory=dict)
    """(client, phase) → digest of the update that a server said it had accepted."""
    faults: Counter[str] = field(default_factory=Counter)
    """By kind: those that struck."""

    def note(
        self, at: float, node: str, what: str, key: RoundKey | None = None, digest: str = "", said: str = ""
    ) -> None:
        """Write down."""
        self.notes.append(Note(at, node, what, key, digest, said))

    def violated(self, at: float, invariant: str, said: str) -> None:
        """Something that must not be."""
        self.wrong.append(f"{invariant}: {said} (at {at:.3f} s)")
        self.note(at, "", "wrong", said=f"{invariant}: {said}")

    def told(self, at: float, client: str, frame: Verdict | Closed) -> None:
        """A client has heard what became of its update."""
        digest = self.held.get((client, frame.key), "")
        match frame:
            case Verdict():
                said = "accepted" if frame.accepted else f"{frame.reason}: {frame.detail}"
                self.note(at, client, "verdict", frame.key, digest, said)
                if frame.accepted and digest:
                    self.acknowledged[client, frame.key] = digest
                elif not frame.accepted and not frame.reason:
                    self.violated(at, "I1", f"{client} was refused without a reason")
                elif not frame.accepted and frame.reason not in ABOUT_THE_ROUND:
                    self.refused[client, frame.key, digest] = said
            case Closed():
                self.note(at, client, "closed", frame.key, digest, f"{sorted(frame.committed)} {frame.cause}")

    def digest(self) -> str:
        """Of the whole history: equal for equal runs."""
        whole: Any = hashlib.sha256()
        for note in self.notes:
            whole.update(f"{note!r}\n".encode())
        return str(whole.hexdigest())
