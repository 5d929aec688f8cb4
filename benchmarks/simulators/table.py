"""From what was measured to a table: medians, ratios, targets, and whether final models are equally good."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LOOP", "OURS", "START_UP", "TARGETS", "TOLERANCE", "Measured", "Row", "agrees", "row", "table"]

OURS = "hansa"
LOOP = "PyTorch loop"

TOLERANCE = {"L": 0.02, "S": 0.02, "F": 0.05, "C": 0.05}
"""A loss may differ from the loop's by this share of what the loop has brought it down, for each shuffles anew: that
moves the loop's own by 0.02 of it for F, and by less than 0.001 for L and S."""

START_UP = 1.5
"""hansa starts in so many times the start-up of the loop at the most."""

_PFL = ("pfl-research", "pfl-research, a rank a core")
TARGETS: dict[str, dict[str, float]] = {
    "L": dict.fromkeys(_PFL, 25),
    "S": {**dict.fromkeys(_PFL, 15), "FedLab": 20, "FedML": 20, "Flower": 40, "JAX by hand": 1},
    "F": {**dict.fromkeys(_PFL, 1.5), "Flower": 3},
    "C": {**dict.fromkeys(_PFL, 1.5), "Flower": 3},
}
"""How many times hansa's time for a round each of these is to take, at least."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one way, in a process of its own."""

    first: float
    """Seconds from the start of the process to the end of the first round."""
    seconds: Sequence[float]
    """Of each later round."""
    megabytes: float
    """The most that the process and all that it started held at one time."""
    loss: float
    """Of the final model, on data that nobody trained on."""
    accuracy: float
    about: str
    """Versions and setting."""


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of all runs of one way."""

    way: str
    seconds: float
    fastest: float
    """The fastest round of all."""
    start_up: float
    """Seconds before the first round could begin: those to its end, less an ordinary round."""
    megabytes: float
    loss: float
    accuracy: float
    about: str


def row(way: str, runs: Sequence[Measured]) -> Row:
    """runs: at least one, each of at least two rounds."""
    rounds = [seconds for run in runs for seconds in run.seconds]
    return Row(
        way,
        statistics.median(rounds),
        min(rounds),
        statistics.median(max(0.0, run.first - statistics.median(run.seconds)) for run in runs),
        max(run.megabytes for run in runs),
        statistics.median(run.loss for run in runs),
        statistics.median(run.accuracy for run in runs),
        runs[-1].about,
    )


def agrees(workload: str, loss: float, reference: float, initial: float) -> bool:
    """Whether a final loss is that of the reference, up to `TOLERANCE`."""
    return math.isfinite(loss) and abs(loss - reference) <= TOLERANCE[workload] * abs(initial - reference)


def table(workload: str, title: str, results: Sequence[Row | tuple[str, str]], initial: float) -> str:
    """As Markdown. results: a row for each way, or its name and why it has none; initial: the loss before round 1."""
    rows = {each.way: each for each in results if isinstance(each, Row)}
    ours, loop = rows.get(OURS), rows.get(LOOP)
    lines = [
        f"{workload}: {title}. The loss was {initial:.3f} before the first round.",
        "",
        "| | seconds a round | fastest | of hansa's | target | start-up, s | memory, MB | loss | accuracy | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        if isinstance(each, Row):
            lines.append(_line(workload, each, ours, loop, initial))
        else:
            way, why = each
            lines.append(f"| {way} | – | – | – | – | – | – | – | – | {why.replace('|', '/')} |")
    if ours is not None and loop is not None:
        ratio = ours.start_up / loop.start_up if loop.start_up else math.inf
        verdict = "met" if ratio <= START_UP else "missed"
        lines += ["", f"hansa starts in {ratio:.2f} times the loop's time; target ≤ {START_UP}: {verdict}."]
    return "\n".join(lines)


def _line(workload: str, each: Row, ours: Row | None, loop: Row | None, initial: float) -> str:
    target = TARGETS[workload].get(each.way)
    ratio = math.nan if ours is None else each.seconds / ours.seconds
    notes = [each.about]
    if loop is None:
        notes.append("**no loop to compare its loss with**")
    elif not agrees(workload, each.loss, loop.loss, initial):
        notes.append(f"**its loss differs from the loop's by {each.loss - loop.loss:+.3f}**")
    against = "" if target is None else f"≥ {target:g}: {'met' if ratio >= target else 'missed'}"
    cells = [
        each.way,
        f"{each.seconds:.3g}",
        f"{each.fastest:.3g}",
        "" if ours is None else f"{ratio:.3g}",
        against,
        f"{each.start_up:.1f}",
        f"{each.megabytes:.0f}",
        f"{each.loss:.4f}",
        f"{each.accuracy:.3f}",
        "; ".join(notes),
    ]
    return f"| {' | '.join(cells)} |"
