"""What a simulation returns: plain values, one record per round, and the state at the end."""

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hansa.algorithm import State
from hansa.arrays import Arrays
from hansa.errors import InputError
from hansa.messages import RunSpec, Sample
from hansa.privacy.accounting import Spent, spent
from hansa.run import resolve_transforms
from hansa.simulation.curves import Curves, curves_of, numbers_of, plot
from hansa.simulation.each import clients_of
from hansa.simulation.given import Given
from hansa.simulation.table import Table
from hansa.wire import codec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RoundRecord", "SimulationResult"]

_ROWS_SHOWN = 10


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
    examples: Mapping[str, int] = field(default_factory=dict)
    """Accepted client → its examples."""
    reports: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Metric → what each client of `examples` reported of its training, in that order; None: it reported none."""
    norms: tuple[float, ...] = field(default=(), compare=False)
    """L2 norm of each one's update, in the same order, to six digits; empty where the sum is published with noise."""
    upload_bytes: int = 0
    """Bytes of the accepted updates, as they would travel."""
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Client → reason and detail."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Client → what its code raised while it trained, where."""
    missing: tuple[str, ...] = ()
    """Invited clients of whom nothing counts: they dropped out, or were late or no longer needed."""
    staleness: Mapping[str, int] = field(default_factory=dict)
    """Of an asynchronous run: accepted client → rounds committed while it trained; else empty."""
    bases: Mapping[str, int] = field(default_factory=dict)
    """Of an asynchronous run: client that is rejected, failed or missing → the round whose model it had; else empty."""
    evaluated: tuple[str, ...] = ()
    """Clients that evaluated the new model, by name."""
    verdicts: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Metric → what each of `evaluated` measured, in that order; None: it measured none."""
    failed_evaluations: Mapping[str, str] = field(default_factory=dict)
    """Client → what its code raised while it evaluated."""
    samples: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    """Accepted client → what it has logged on its way (`task.log`); only those that have."""
    virtual_seconds: float = 0.0
    """How long the round took on the virtual clock."""
    seconds: float = 0.0
    """How long it took in reality, evaluation included."""

    @property
    def mean_staleness(self) -> float:
        """Of the accepted, each counting alike; 0 where all train on the same model."""
        return sum(self.staleness.values()) / len(self.staleness) if self.staleness else 0.0

    @property
    def max_staleness(self) -> int:
        """The largest of the accepted; 0 where all train on the same model."""
        return max(self.staleness.values(), default=0)


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """A finished simulation. `print` and a notebook show its newest rounds."""

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
    given: Given | None = field(default=None, repr=False)
    """What it was given beside the spec."""
    rank: int = 0
    """Of this process among those of `mpirun`; rank 0 alone writes files, the others have the same result."""

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
        """The rounds as plain dictionaries, for JSON."""
        return [asdict(record) for record in self.rounds]

    @property
    def curves(self) -> Curves:
        """Metric → an array with its value in each round, NaN where it was not measured; `round` has their numbers.

        A metric is called by who measured it: `train.loss` is what clients reported of their training, `clients.…`
        what they measured of the new model, `central.…` what `@app.central_evaluate` did.
        """
        return curves_of(self.history)

    def table(self) -> Table:
        """One row per round: its metrics as in `curves`, how many clients, how stale if at all, its model's hash."""
        stale = any(record.staleness for record in self.rounds)
        return Table(
            {"round": record["round"]}
            | numbers_of(record)
            | {name: len(record[name]) for name in ("accepted", "rejected", "failed", "missing")}
            | ({"mean_staleness": each.mean_staleness, "max_staleness": each.max_staleness} if stale else {})
            | {name: record[name] for name in ("num_examples", "virtual_seconds", "seconds", "model_hash")}
            for each, record in zip(self.rounds, self.history, strict=True)
        )

    def clients(self, round: int | None = None) -> Table:  # noqa: A002 - the field's word
        """One row per client of a round, by default the last: its examples, and what it reported and measured.

        Metrics are called as in `curves`: `train.…` of its training, `clients.…` of the new model, or of its own where
        the algorithm gives it one. Raises `InputError` where there is no such round.
        """
        return clients_of(self.history, round)

    def plot(self, *metrics: str) -> "Figure":
        """The curves as a matplotlib figure (`hansa[plot]`), which `savefig` writes as PNG, SVG or PDF.

        metrics: whole names, as in `curves`; all when none is given.
        """
        return plot(self.curves, metrics, f"{self.spec.name}: {self.spec.algorithm}, seed {self.spec.seed}")

    def save(self, path: str | Path) -> None:
        """Write the model as a safetensors file; only rank 0 does."""
        if self.rank == 0:
            codec.save(self.model, path)

    def save_record(self, folder: str | Path, *, with_model: bool = True) -> Path:
        """Write what repeats this simulation, to the bit, and what came out, into a new folder.

        `hansa replay FOLDER` or `hansa.simulation.replay(folder)` repeats it and compares. See
        `hansa.simulation.record` for what is in the folder. Raises `ConflictError` where it is not empty, `AppError`
        where the app's file has changed since. Only rank 0 writes.
        """
        from hansa.simulation.record import write_record  # noqa: PLC0415 - it loads what packages need

        if self.given is None:
            raise InputError("this result was put together by hand: only what `simulate` returns can be recorded")
        if self.rank:
            return Path(folder)
        return write_record(
            folder,
            self.given,
            self.spec,
            rounds=self.rounds,
            model=self.model,
            engine=self.engine,
            with_model=with_model,
        )

    def __str__(self) -> str:
        """What a person wants to see of it: the run, its newest rounds, its model."""
        table, spec = self.table(), self.spec
        said = f"{spec.name}: {spec.algorithm}, {len(table)} rounds, seed {spec.seed}, {self.engine}\n"
        dots = f"… the last {_ROWS_SHOWN} of {len(table)} rounds\n" if len(table) > _ROWS_SHOWN else ""
        return f"{said}{dots}{table[-_ROWS_SHOWN:]}\nmodel {self.model_hash}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self.table()
        told = (
            f"{self.spec.name}: {self.spec.algorithm}, {len(self.rounds)} rounds, seed {self.spec.seed}, {self.engine}"
        )
        dots = f"<p>… the last {_ROWS_SHOWN} of {len(table)} rounds</p>" if len(table) > _ROWS_SHOWN else ""
        shown = table[-_ROWS_SHOWN:]
        return f"<p><b>{html.escape(told)}</b><br>model <code>{self.model_hash}</code></p>{dots}{shown._repr_html_()}"
