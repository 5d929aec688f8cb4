"""A grid of settings, each with several seeds: a table that is the same however often it was cut off."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

from hansa.app import App
from hansa.errors import ConfigError
from hansa.experiments.cells import Cell
from hansa.experiments.pool import Broken, Progress, run_cells
from hansa.experiments.report import Chart, Fact, Line, Report, write_report
from hansa.experiments.summary import (
    band,
    compact,
    grows,
    main_metric,
    metrics_of,
    spread,
    summed_up,
    value_of,
)
from hansa.messages import RoundRules, RunSpec, Value
from hansa.run import plugin
from hansa.simulation.load import load
from hansa.simulation.record import Record
from hansa.simulation.table import Table, number

__all__ = ["Axis", "Row", "Sweep", "parse_axis", "sweep"]

_MOST_CELLS = 100_000
_LINES = 8
"""Settings in one chart."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting, and the values that it takes."""

    name: str
    """`clients`, `devices`, `engine`; a field of the run (`algorithm`, `rounds`, `aggregator` …) or of its round rules
    (`count`, `fraction` …); `algorithm.OPTION`, `aggregator.OPTION`; else a setting of the app."""
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, and what its seeds gave."""

    settings: Mapping[str, Value]
    """Axis → value; an option that its algorithm does not have is left out."""
    cells: tuple[Cell, ...]
    """One per seed."""
    records: tuple[Record, ...] = ()
    broken: tuple[Broken, ...] = ()
    values: tuple[float, ...] = ()
    """The metric, for each record."""

    @property
    def name(self) -> str:
        """The settings in few words."""
        return " ".join(f"{name}={compact(value)}" for name, value in self.settings.items()) or "as it is"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A finished sweep."""

    rows: tuple[Row, ...]
    metric: str
    best: int | None
    """The position of the best row, by the mean of its seeds; None where none has a number."""

    def table(self) -> Table:
        """A row per setting: mean, deviation, least and greatest over the seeds."""
        names = dict.fromkeys(name for row in self.rows for name in row.settings)
        return Table(
            {name: row.settings.get(name) for name in names}
            | {
                self.metric: summed_up(row.values, "mean"),
                "deviation": spread(row.values),
                "least": min(row.values, default=math.nan),
                "greatest": max(row.values, default=math.nan),
                "seeds": len(row.values),
                "failed": len(row.broken),
                "best": "*" if position == self.best else "",
            }
            for position, row in enumerate(self.rows)
        )

    def runs(self) -> Table:
        """A row per simulation: its settings, its seed, every metric of its last rounds, the hash of its model."""
        metrics = metrics_of([record for row in self.rows for record in row.records])
        return Table(
            {**row.settings, "seed": record.spec.seed}
            | {name: value_of(record, name) if name in metrics_of([record]) else math.nan for name in metrics}
            | {"model_hash": record.manifest["model_hash"], "record": record.folder.name}
            for row in self.rows
            for record in row.records
        )


def parse_axis(text: str) -> Axis:
    """`NAME=VALUE,VALUE`; values are JSON where they are (0.1, true, [1, 2]) and else text."""
    name, equals, listed = text.partition("=")
    if not equals or not name or not listed:
        raise ConfigError(f"--grid {text!r}: write NAME=VALUE,VALUE, for example lr=0.1,0.01")
    try:
        values = tuple(json.loads(f"[{listed}]"))
    except ValueError:
        values = tuple(_value(part) for part in listed.split(","))
    return Axis(name, values)


def sweep(
    app: str | Path,
    grid: Mapping[str, Sequence[Value]] | Iterable[Axis],
    *,
    folder: str | Path,
    spec: RunSpec | None = None,
    clients: int | None = None,
    devices: str | None = None,
    engine: str = "inline",
    seeds: int = 3,
    metric: str | None = None,
    last: int = 1,
    jobs: int | None = None,
    told: Callable[[Progress], None] = lambda _: None,
) -> Sweep:
    """Simulate every combination of a grid with several seeds, and write `table.csv`, `runs.csv`, `report.html`.

    ```python
    hansa.experiments.sweep("app.py", {"lr": [0.1, 0.01], "algorithm": ["fedavg", "fedprox"]}, folder="sweep")
    ```

    A record of each is in `folder/cells`; those that are there are not run again, so a sweep that was killed, or has
    grown, goes on. grid: see `Axis`. spec, clients, devices, engine: what the grid does not say. seeds: from the
    spec's own on. metric: by which rows are compared, `central.accuracy`; by default accuracy or loss. last: rounds of
    which the mean counts. jobs: processes side by side. Raises `ConfigError` for what an app or an algorithm does not
    know, before anything runs.
    """
    axes = [_axis(name, values) for name, values in grid.items()] if isinstance(grid, Mapping) else list(grid)
    start = Cell(Path(app).resolve(), spec or RunSpec(), clients, devices, engine)
    rows = _rows(start, axes, seeds, load(start.app))
    place = Path(folder)
    outcomes = run_cells([c for row in rows for c in row.cells], place / "cells", jobs=jobs, told=told)
    rows = [_filled(row, outcomes) for row in rows]
    records = [record for row in rows for record in row.records]
    if not records:
        first = next(broken for row in rows for broken in row.broken)
        raise ConfigError(f"no simulation of the sweep came to its end; the first: {first.message}")
    chosen = metric or main_metric(metrics_of(records))
    rows = [replace(row, values=tuple(value_of(record, chosen, last=last) for record in row.records)) for row in rows]
    done = Sweep(tuple(rows), chosen, _best(rows, chosen))
    done.table().to_csv(place / "table.csv")
    done.runs().to_csv(place / "runs.csv")
    write_report(place / "report.html", _report(done, start, axes, seeds))
    return done


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _axis(name: str, values: object) -> Axis:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"the grid has {values!r} for {name}; give a list of values, for example [{values!r}]")
    return Axis(name, tuple(values))


def _rows(start: Cell, axes: Sequence[Axis], seeds: int, app: App) -> list[Row]:
    """The combinations, those that are the same but for an option that their algorithm lacks only once."""
    if not _is_whole(seeds) or seeds < 1:
        raise ConfigError(f"seeds is {seeds!r}; it must be a whole number, at least 1")
    for axis in axes:
        if not isinstance(axis, Axis):
            raise ConfigError(f'{axis!r} is no axis of a grid; write for example {{"learning_rate": [0.1, 0.01]}}')
    twice = [name for name in (axis.name for axis in axes) if [axis.name for axis in axes].count(name) > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is in the grid twice: list all its values once")
    if math.prod(len(axis.values) for axis in axes) * seeds > _MOST_CELLS:
        raise ConfigError(f"the grid has more than {_MOST_CELLS:,} simulations; make it smaller")
    _check(axes, start, app)
    rows: dict[str, Row] = {}
    for values in itertools.product(*(axis.values for axis in axes)):
        settings = _taken({axis.name: value for axis, value in zip(axes, values, strict=True)}, start)
        cell = start
        for name, value in settings.items():
            cell = _with(cell, name, value)
        row = Row(settings, ())
        cell = replace(cell, spec=replace(cell.spec, name=f"{cell.spec.name}: {row.name}"))
        cells = tuple(replace(cell, spec=replace(cell.spec, seed=cell.spec.seed + seed)) for seed in range(seeds))
        rows.setdefault(repr(settings), replace(row, cells=cells))
    return list(rows.values())


def _check(axes: Sequence[Axis], start: Cell, app: App) -> None:
    """Refuse a setting that nobody reads, as its values would make no difference."""
    by_name = {axis.name: axis for axis in axes}
    algorithms = [str(a) for a in by_name["algorithm"].values] if "algorithm" in by_name else [start.spec.algorithm]
    for axis in axes:
        group, dot, option = axis.name.partition(".")
        if dot and group == "algorithm":
            if not any(_has_option(name, option) for name in algorithms):
                raise ConfigError(f"no algorithm of {', '.join(algorithms)} has the option {option!r}")
        elif not (dot and group == "aggregator") and axis.name not in {*_KNOWN, *app.settings} and not app.reads_config:
            raise ConfigError(
                f"the app has no setting {axis.name!r}; its own are: {', '.join(app.settings) or 'none'} (of "
                "a function that makes the trainer, given to `hansa.App`, the parameters are settings); others: "
                f"{', '.join(_KNOWN)}, algorithm.OPTION, aggregator.OPTION"
            )


def _has_option(algorithm: str, option: str) -> bool:
    return option in signature(plugin("hansa.algorithms", algorithm)).parameters


def _taken(settings: Mapping[str, Value], start: Cell) -> dict[str, Value]:
    algorithm = str(settings.get("algorithm", start.spec.algorithm))
    return {
        name: value
        for name, value in settings.items()
        if not name.startswith("algorithm.") or _has_option(algorithm, name.partition(".")[2])
    }


_RULES = tuple(each.name for each in fields(RoundRules))
_OF_RUN = ("algorithm", "aggregator", "rounds", "max_weight", "range_bits")
_KNOWN = ("clients", "devices", "engine", *_OF_RUN, *_RULES)


def _with(cell: Cell, name: str, value: Any) -> Cell:
    group, dot, option = name.partition(".")
    spec = cell.spec
    if name in {"clients", "devices", "engine"}:
        return replace(cell, **{name: value})
    if name in _OF_RUN:
        return replace(cell, spec=replace(spec, **{name: value}))
    if name in _RULES:
        rules = replace(spec.rules, **{name: value})
        if name in {"count", "fraction"} and rules.selection == "all":
            rules = replace(rules, selection=name)
        return replace(cell, spec=replace(spec, rules=rules))
    if dot and group == "algorithm":
        return replace(cell, spec=replace(spec, algorithm_options={**spec.algorithm_options, option: value}))
    if dot and group == "aggregator":
        return replace(cell, spec=replace(spec, aggregator_options={**spec.aggregator_options, option: value}))
    return replace(cell, spec=replace(spec, config={**spec.config, name: value}))


def _filled(row: Row, outcomes: Mapping[str, Record | Broken]) -> Row:
    found = [outcomes[cell.key] for cell in row.cells]
    return replace(
        row,
        records=tuple(each for each in found if isinstance(each, Record)),
        broken=tuple(each for each in found if isinstance(each, Broken)),
    )


def _best(rows: Sequence[Row], metric: str) -> int | None:
    """Of the rows all of whose seeds have a number, the one with the best mean; the first of equals."""
    whole = {
        position: summed_up(row.values, "mean")
        for position, row in enumerate(rows)
        if row.values and not row.broken and all(map(math.isfinite, row.values))
    }
    if not whole:
        return None
    choose = max if grows(metric) else min
    return choose(whole, key=lambda position: whole[position])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _report(done: Sweep, start: Cell, axes: Sequence[Axis], seeds: int) -> Report:
    table, names = done.table(), {name for row in done.rows for name in row.settings}
    runs = sum(len(row.records) for row in done.rows)
    failed = sum(len(row.broken) for row in done.rows)
    facts = [Fact("Settings", str(len(done.rows)), ", ".join(f"{axis.name} × {len(axis.values)}" for axis in axes))]
    facts.append(Fact("Simulations", f"{runs:,}", f"{failed} failed" if failed else f"{seeds} per setting"))
    if done.best is not None:
        best = done.rows[done.best]
        told = f"± {number(spread(best.values))} between seeds"
        facts.insert(0, Fact(f"Best {done.metric}", number(summed_up(best.values, "mean")), told))
        facts.append(Fact("Best setting", best.name, ""))
    order = sorted(
        (position for position, row in enumerate(done.rows) if row.values),
        key=lambda k: summed_up(done.rows[k].values, "mean") * (-1 if grows(done.metric) else 1),
    )
    shown = order[:_LINES]
    note = f"the best {len(shown)} of {len(done.rows)} settings" if len(done.rows) > len(shown) else ""
    charts = [
        Chart(
            metric,
            (f"mean of {seeds} seeds, band from the least to the greatest" if seeds > 1 else "one seed")
            + (f"; {note}" if note else ""),
            [Line(done.rows[k].name, band(done.rows[k].records, metric)) for k in shown],
        )
        for metric in dict.fromkeys([done.metric, *metrics_of([r for row in done.rows for r in row.records])])
    ]
    trouble = [f"{row.name}: {broken.message}" for row in done.rows for broken in row.broken]
    spec = start.spec
    return Report(
        title=f"{spec.name}: a sweep",
        subtitle=f"{start.app.name}, {spec.rounds} rounds, seeds {spec.seed} to {spec.seed + seeds - 1}",
        facts=facts,
        charts=charts,
        table=[
            {name: compact(value) if name in names else value for name, value in row.items()}
            | {"best": "★ best" if row["best"] else ""}
            for row in table
        ],
        strong=done.best,
        notes=trouble,
        files={"table.csv": "this table", "runs.csv": "every simulation", "cells": "their records, for hansa replay"},
    )
