"""What a simulation returns: plain values, one record per round, and the state at the end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hansa.algorithm import State
from hansa.arrays import Arrays
from hansa.messages import RunSpec
from hansa.privacy.accounting import Spent, spent
from hansa.run import resolve_transforms
from hansa.wire import codec

__all__ = ["RoundRecord", "SimulationResult"]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One committed round."""

    round: int
    """From 1."""
    model_hash: str
    """Of the global model after it, as `wire.codec.digest`."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What accepted clients reported of their training, weighted by their examples."""
    evaluation: Mapping[str, float] = field(default_factory=dict)
    """What clients measured of the new model, weighted by their examples; empty where none evaluated."""
    central: Mapping[str, float] = field(default_factory=dict)
    """What `@app.central_evaluate` measured of the new model."""
    num_examples: int = 0
    """The weight of the round: the sum over the accepted."""
    accepted: tuple[str, ...] = ()
    """Clients in the sum, by name."""
    upload_bytes: int = 0
    """Bytes of the accepted updates, as they would travel."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Client → reason and detail."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Client → what its code raised while it trained, where."""
    missing: tuple[str, ...] = ()
    """Invited clients of whom nothing counts: they dropped out, or were late or no longer needed."""
    failed_evaluations: Mapping[str, str] = field(default_factory=dict)
    """Client → what its code raised while it evaluated."""
    virtual_seconds: float = 0.0
    """How long the round took on the virtual clock."""
    seconds: float = 0.0
    """How long it took in reality, evaluation included."""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """A finished simulation."""

    spec: RunSpec
    rounds: tuple[RoundRecord, ...]
    state: State
    engine: str = "inline"
    """What trained: for "auto" what it chose, for "vectorized" another one where clients could not train together."""
    because: str = ""
    """Why, where that is not the engine that was named."""
    malicious: tuple[str, ...] = ()
    """Clients that attacked, by name."""
    profile: Mapping[str, float] = field(default_factory=dict)
    """Seconds by part, as in `hansa.simulation.profile.PARTS`; together those of all rounds."""

    @property
    def model(self) -> Arrays:
        """The global model after the last round."""
        return self.state.params

    @property
    def model_hash(self) -> str:
        """Its content address; the same on a network that accepted the same updates."""
        return self.rounds[-1].model_hash if self.rounds else codec.digest(self.model)

    def privacy(self, delta: float = 1e-5) -> tuple[Spent, ...]:
        """What was spent of a privacy budget up to each round, at this δ (`hansa.privacy.accounting`)."""
        noises = resolve_transforms(self.spec).noises
        return tuple(spent(noises, record.round, delta) for record in self.rounds)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rounds as plain dictionaries, for a table or for JSON."""
        return [asdict(record) for record in self.rounds]

    def save(self, path: str | Path) -> None:
        """Write the model as a safetensors file."""
        codec.save(self.model, path)
