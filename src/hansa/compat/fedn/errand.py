"""What is asked of a FEDn client, and what it answers."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hansa.wire.frames import RoundKey

__all__ = ["Answer", "Errand", "Gradients"]


@dataclass(slots=True, eq=False)
class Gradients:
    """What a client fetches for a backward pass, in the place of a model."""

    file: Path
    keep: Callable[[], Awaitable[None]]
    """Writes down that it was fetched."""
    fetched: bool = False
    """It has them all: what it does with them it does once, and its word that it is done may be lost."""

    async def note(self) -> None:
        """It has them."""
        if not self.fetched:
            self.fetched = True
            await self.keep()


@dataclass(frozen=True, slots=True)
class Errand:
    """A task, as a FEDn client gets it."""

    id: str
    """The correlation id."""
    key: RoundKey
    session: str
    """What the client calls the session that it is of; of a prediction the id that its asker has given it."""
    model: str
    """Digest of the model; of a pass an id of its own."""
    helper: str
    """The format that it is fetched in."""
    data: str
    """JSON: the round's configuration, of which every value is text; empty for a validation."""
    gradients: Gradients | None = None
    """Of a backward pass."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client made of an errand."""

    model: str
    """Of the errand."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """num_examples and whatever else it tells of its training; of a validation its metrics."""
    document: str = ""
    """What it predicts, as JSON."""
    file: Path | None = None
    """The trained model, or the output of a forward pass; whoever takes the answer deletes it."""

    def drop(self) -> None:
        """Nobody takes it."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
