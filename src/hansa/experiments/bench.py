"""Running a recipe: what is measured beside what was published."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from hansa.errors import ConfigError, NotFoundError
from hansa.experiments.cells import DATA, Cell
from hansa.experiments.pool import Broken, Progress, run_cells
from hansa.experiments.recipes import Recipe, RecipeRow, Target
from hansa.experiments.report import Chart, Fact, Line, Report, write_report
from hansa.experiments.summary import band, best_of, rounds_until, spread, summed_up, value_of
from hansa.simulation.record import Record
from hansa.simulation.table import Table, number
from hansa.store.results import mark_results

__all__ = ["Measured", "Verdict", "run_recipe", "table_of"]


class Verdict(StrEnum):
    """Whether a published number came out."""

    REPRODUCED = "reproduced"
    OUTSIDE = "outside"
    NOT_JUDGED = "not judged"
    """Nothing was published, no tolerance is given, or the row that it is compared with was not run."""
    FAILED = "failed"
    """No seed came to its end."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One target of one row."""

    row: RecipeRow
    target: Target
    values: tuple[float, ...]
    """One per seed."""
    broken: tuple[Broken, ...]
    records: tuple[Record, ...]

    @property
    def value(self) -> float:
        """Over the seeds, by the target's statistic."""
        return summed_up(self.values, self.target.statistic)

    @property
    def verdict(self) -> Verdict:
        """Whether it is within the tolerance of what was expected."""
        expected, tolerance = self.target.expected, self.target.tolerance
        if not self.values or math.isnan(self.value):
            return Verdict.NOT_JUDGED if self.target.faster_than else Verdict.FAILED
        if expected is None or tolerance is None:
            return Verdict.NOT_JUDGED
        return Verdict.REPRODUCED if abs(self.value - expected) <= tolerance else Verdict.OUTSIDE


def run_recipe(
    recipe: Recipe,
    *,
    folder: str | Path,
    data: str | Path | None = None,
    seeds: int | None = None,
    rows: Collection[str] = (),
    jobs: int | None = None,
    told: Callable[[Progress], None] = lambda _: None,
) -> list[Measured]:
    """Run it, or go on where it was cut off, and write `table.csv` and `report.html` beside the records in `cells`.

    data: the folder of all data sets. seeds: in place of the recipe's. rows: only these, by name. jobs: processes side
    by side; None: one per core. Raises `NotFoundError` where the data are not there.
    """
    place = Path(folder)
    chosen = _chosen(recipe, rows)
    config = {DATA: str(_data(recipe, data))} if recipe.data else {}
    cells = {row.name: _cells(recipe, row, seeds or row.seeds, config) for row in chosen}
    mark_results(place)
    done = run_cells([cell for each in cells.values() for cell in each], place / "cells", jobs=jobs, told=told)
    outcomes = {name: [done[cell.key] for cell in each] for name, each in cells.items()}
    measured = [_measured(row, target, outcomes) for row in chosen for target in row.targets]
    table_of(measured).to_csv(place / "table.csv")
    write_report(place / "report.html", _report(recipe, measured))
    return measured


def table_of(measured: Sequence[Measured]) -> Table:
    """A row per number: measured, deviation between seeds, expected, verdict."""
    return Table(
        {
            "row": each.row.name,
            "number": each.target.name,
            "measured": each.value,
            "deviation": spread(each.values),
            "least": min(each.values, default=math.nan),
            "greatest": max(each.values, default=math.nan),
            "seeds": len(each.values),
            "statistic": each.target.statistic,
            "expected": each.target.expected,
            "tolerance": each.target.tolerance,
            "verdict": each.verdict.value,
        }
        for each in measured
    )


def _chosen(recipe: Recipe, names: Collection[str]) -> list[RecipeRow]:
    known = [row.name for row in recipe.rows]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"{recipe.name} has no row {unknown[0]!r}; its rows are: {', '.join(known)}")
    return [row for row in recipe.rows if not names or row.name in names]


def _data(recipe: Recipe, folder: str | Path | None) -> Path:
    if folder is None:
        raise NotFoundError(
            f"{recipe.name} needs the data set {recipe.data!r}: give --data or HANSA_DATASETS, a folder in which "
            f"{recipe.data}/ is"
        )
    place = Path(folder).resolve() / recipe.data
    if not place.is_dir():
        raise NotFoundError(f"{recipe.name} needs data in {place}, and there is no such folder")
    return place


def _cells(recipe: Recipe, row: RecipeRow, seeds: int, config: Mapping[str, str]) -> list[Cell]:
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; it must be at least 1")
    made = []
    for seed in range(row.spec.seed, row.spec.seed + seeds):
        own = {recipe.seed_setting: seed} if recipe.seed_setting else {}
        spec = replace(row.spec, seed=seed, config={**row.spec.config, **own, **config})
        made.append(Cell(recipe.app, spec, row.clients, row.devices, row.engine, until=row.until))
    return made


def _measured(row: RecipeRow, target: Target, outcomes: Mapping[str, Sequence[Record | Broken]]) -> Measured:
    """outcomes: of each row, in the order of its seeds."""
    own = outcomes[row.name]
    records = tuple(each for each in own if isinstance(each, Record))
    if target.faster_than:
        pairs = zip(own, outcomes.get(target.faster_than, ()), strict=False)
        values = tuple(
            _divided(_value(other, target), _value(each, target))
            for each, other in pairs
            if isinstance(each, Record) and isinstance(other, Record)
        )
    else:
        values = tuple(_value(record, target) for record in records)
    return Measured(row, target, values, tuple(each for each in own if isinstance(each, Broken)), records)


def _value(record: Record, target: Target) -> float:
    """What one seed says."""
    if target.reaches is not None:
        return rounds_until(record, target.metric, target.reaches)
    if target.best:
        return best_of(record, target.metric)
    return value_of(record, target.metric, at=target.round, last=target.last)


def _divided(one: float, other: float) -> float:
    """One by the other; NaN where the other was never reached, and so nothing can be said."""
    return one / other if math.isfinite(other) else math.nan


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────────

_SEVERAL = "mean over seeds, band from the least to the greatest"
_MARKS = {
    Verdict.REPRODUCED: "✔ reproduced",
    Verdict.OUTSIDE: "✘ outside",
    Verdict.NOT_JUDGED: "– not judged",
    Verdict.FAILED: "✘ failed",
}


def _report(recipe: Recipe, measured: Sequence[Measured]) -> Report:
    judged = [each for each in measured if each.verdict in {Verdict.REPRODUCED, Verdict.OUTSIDE}]
    good = sum(each.verdict is Verdict.REPRODUCED for each in judged)
    rows = {each.row.name: each for each in measured}
    records = [record for each in rows.values() for record in each.records]
    seeds = sorted({len(each.values) for each in measured})
    far = max((each for each in judged if math.isfinite(each.value)), key=_distance, default=None)
    facts = [
        Fact("Reproduced", f"{good} / {len(judged)}", "numbers that are within their band"),
        Fact("Simulations", f"{len(records):,}", f"seeds per row: {', '.join(map(str, seeds))}"),
        Fact("Rounds", f"{sum(len(record.rounds) for record in records):,}", "in all"),
    ]
    if far is not None:
        told = f"{far.row.name}: {number(far.value)} for {number(far.target.expected)}"
        facts.append(Fact("Farthest", f"{_distance(far):.0%} of its tolerance", told))
    return Report(
        title=recipe.title,
        subtitle=recipe.source,
        facts=facts,
        charts=_charts(measured),
        table=[
            {
                "row": each.row.name,
                "number": each.target.name,
                "measured": each.value,
                "± seeds": spread(each.values),
                "expected": each.target.expected,
                "± band": each.target.tolerance if each.target.expected is not None else None,
                "difference": None
                if each.target.expected is None or not math.isfinite(each.value)
                else f"{each.value - each.target.expected:+.4f}".replace("-", "−"),
                "seeds": len(each.values),
                "verdict": _MARKS[each.verdict],
            }
            for each in measured
        ],
        notes=[recipe.setting, *([recipe.note] if recipe.note else [])]
        + [f"{each.row.name}: {broken.message}" for each in rows.values() for broken in each.broken],
        files={"table.csv": "this table", "cells": "a record of each simulation, for hansa replay"},
    )


def _distance(each: Measured) -> float:
    """From what was expected, in tolerances."""
    expected, tolerance = each.target.expected or 0.0, each.target.tolerance or math.inf
    return abs(each.value - expected) / tolerance if tolerance else math.inf


def _charts(measured: Sequence[Measured]) -> list[Chart]:
    drawn: dict[tuple[str, str], dict[str, Measured]] = {}
    for each in measured:
        if each.records:
            drawn.setdefault((each.target.metric, each.row.panel), {})[each.row.name] = each
    return [
        Chart(
            f"{metric}, {panel}" if panel else metric,
            _SEVERAL if any(len(each.records) > 1 for each in lines.values()) else "one seed",
            [Line(_without(name, panel), band(each.records, metric)) for name, each in lines.items()],
        )
        for (metric, panel), lines in drawn.items()
    ]


def _without(name: str, panel: str) -> str:
    """A row's name in its panel, whose name need not be said again."""
    return name.removesuffix(panel).rstrip(", ") or name
