"""A grid of settings, each with several seeds: a table that is the same however often it was cut off."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hansa.app import App
from hansa.errors import ConfigError, InputError
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
from hansa.messages import RoundRules, RunSpec, Value, value_from
from hansa.run import options_of
from hansa.simulation.attacks import Attack
from hansa.simulation.curves import shown_figure
from hansa.simulation.load import load
from hansa.simulation.record import Record
from hansa.simulation.table import Table, number
from hansa.store.results import mark_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Axis", "Row", "Sweep", "parse_axis", "sweep"]

_MOST_CELLS = 100_000
_LINES = 8
"""Settings in one chart."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting, and the values that it takes."""

    name: str
    """`clients`, `devices`, `engine`, `attack`; a field of the run (`algorithm`, `rounds`, `aggregator` …) or of its
    round rules (`count`, `fraction` …); `algorithm.OPTION`, `aggregator.OPTION`; `transforms`, each value all of a run,
    a list, or one text with spaces between; else a setting of the app. None is for no attack, and no transforms."""
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, and what its seeds gave."""

    settings: Mapping[str, Value]
    """Axis → value; an option that its algorithm or aggregator does not have is left out."""
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

    def __str__(self) -> str:
        """What a person wants to see of it."""
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def cross(self, columns: str, *, digits: int = 3) -> Table:
        """The metric as papers show it: a column per value of one axis, a row per setting of the others.

        A cell is "mean ± deviation" over the seeds, of so many digits; of one seed the number alone. Raises
        `ConfigError` where there is no such axis.
        """
        values = list(dict.fromkeys(compact(row.settings[columns]) for row in self.rows if columns in row.settings))
        if not values:
            there = dict.fromkeys(name for row in self.rows for name in row.settings)
            raise ConfigError(f"the grid has no {columns!r}; it has: {', '.join(there) or 'nothing'}")
        found: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            others = {name: compact(value) for name, value in row.settings.items() if name != columns}
            cells = found.setdefault(repr(others), {**others, **dict.fromkeys(values)})
            cells[compact(row.settings.get(columns))] = _as_in_papers(row.values, digits)
        return Table(found.values())

    def plot(self, *metrics: str) -> "Figure":
        """Curves as a matplotlib figure (`hansa[plot]`): a line per setting, a band over all of its seeds.

        metrics: whole names, one panel for each; by default the one by which settings are compared.
        """
        made, chosen = shown_figure("Sweep.plot"), metrics or (self.metric,)
        known = metrics_of([record for row in self.rows for record in row.records])
        for name in chosen:
            if name not in known:
                raise InputError(f"there is no metric {name}; there is: {', '.join(known)}")
        figure = made(chosen)
        for axes, name in zip(figure.axes, chosen, strict=True):
            for row in self.rows:
                of = band(row.records, name)
                measured = np.isfinite(of.mean)
                (line,) = axes.plot(of.rounds[measured], of.mean[measured], label=row.name)
                axes.fill_between(
                    of.rounds[measured], of.low[measured], of.high[measured], color=line.get_color(), alpha=0.2
                )
            axes.legend()
        return figure

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


def _as_in_papers(values: Sequence[float], digits: int) -> str | None:
    if not values:
        return None
    mean = f"{summed_up(values, 'mean'):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {spread(values):.{digits}f}"


def parse_axis(text: str) -> Axis:
    """`NAME=VALUE,VALUE`; values are JSON where they are (0.1, true, [1, 2]) and else text."""
    name, equals, listed = text.partition("=")
    if not equals or not name or not listed:
        raise ConfigError(f"--grid {text!r}: write NAME=VALUE,VALUE, for example lr=0.1,0.01")
    try:
        values = tuple(json.loads(f"[{listed}]"))
    except ValueError:
        values = tuple(value_from(part) for part in listed.split(","))
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
    attack: str | None = None,
    seeds: int = 3,
    seed_setting: str | None = None,
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
    grown, goes on. grid: see `Axis`. spec, clients, devices, engine, attack: what it does not say. seeds: from the
    spec's own on. seed_setting: a setting of the app that is each seed's number, such as partition_seed. metric: by
    which rows are compared, `central.accuracy`; by default accuracy or loss. last: rounds of which the mean counts.
    jobs: processes side by side. Raises `ConfigError` for what an app or an algorithm does not know, before anything
    runs.
    """
    axes = [_axis(name, values) for name, values in grid.items()] if isinstance(grid, Mapping) else list(grid)
    start = Cell(Path(app).resolve(), spec or RunSpec(), clients, devices, engine, attack)
    rows = _rows(start, axes, seeds, load(start.app), seed_setting)
    place = Path(folder)
    mark_results(place)
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


def _rows(start: Cell, axes: Sequence[Axis], seeds: int, app: App, seed_setting: str | None) -> list[Row]:
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
    _check([*axes, *([Axis(seed_setting, ())] if seed_setting else [])], start, app)
    for attack in [start.attack, *(v for axis in axes if axis.name == "attack" for v in axis.values)]:
        if attack:
            Attack.parse(str(attack))
    rows: dict[str, Row] = {}
    for values in itertools.product(*(axis.values for axis in axes)):
        settings = _taken({axis.name: value for axis, value in zip(axes, values, strict=True)}, start)
        cell = start
        for name, value in settings.items():
            cell = _with(cell, name, value)
        row = Row(settings, ())
        cell = replace(cell, spec=replace(cell.spec, name=f"{cell.spec.name}: {row.name}"))
        numbers = range(cell.spec.seed, cell.spec.seed + seeds)
        cells = tuple(replace(cell, spec=_seeded(cell.spec, seed, seed_setting)) for seed in numbers)
        rows.setdefault(repr(settings), replace(row, cells=cells))
    return list(rows.values())


def _seeded(spec: RunSpec, seed: int, setting: str | None) -> RunSpec:
    return replace(spec, seed=seed, config={**spec.config, **({setting: seed} if setting else {})})


def _check(axes: Sequence[Axis], start: Cell, app: App) -> None:
    """Refuse a setting that nobody reads, as its values would make no difference."""
    by_name = {axis.name: axis for axis in axes}
    for axis in axes:
        group, dot, option = axis.name.partition(".")
        if dot and group in _PLUG_INS:
            there = by_name[group].values if group in by_name else [getattr(start.spec, group)]
            if not any(_has_option(group, name, option) for name in there):
                raise ConfigError(f"no {group} of {', '.join(map(str, there))} has the option {option!r}")
        elif axis.name not in {*_KNOWN, *app.settings} and not app.reads_config:
            raise ConfigError(
                f"the app has no setting {axis.name!r}; its own are: {', '.join(app.settings) or 'none'} (of "
                "a function that makes the trainer, given to `hansa.App`, the parameters are settings); others: "
                f"{', '.join(_KNOWN)}, algorithm.OPTION, aggregator.OPTION"
            )


_PLUG_INS = ("algorithm", "aggregator")
"""Fields of the run that name what has options of its own."""


def _has_option(kind: str, name: Value, option: str) -> bool:
    return option in options_of(f"hansa.{kind}s", str(name))


def _taken(settings: Mapping[str, Value], start: Cell) -> dict[str, Value]:
    chosen = {kind: settings.get(kind, getattr(start.spec, kind)) for kind in _PLUG_INS}

    def has(name: str) -> bool:
        kind, dot, option = name.partition(".")
        return not dot or kind not in chosen or _has_option(kind, chosen[kind], option)

    return {name: value for name, value in settings.items() if has(name)}


_RULES = tuple(each.name for each in fields(RoundRules))
_OF_RUN = ("algorithm", "aggregator", "rounds", "max_weight", "range_bits")
_OF_CELL = ("clients", "devices", "engine", "attack")
_KNOWN = (*_OF_CELL, *_OF_RUN, "transforms", *_RULES)


def _with(cell: Cell, name: str, value: Any) -> Cell:
    return (
        replace(cell, **{name: value}) if name in _OF_CELL else replace(cell, spec=_spec_with(cell.spec, name, value))
    )


def _spec_with(spec: RunSpec, name: str, value: Any) -> RunSpec:
    kind, dot, option = name.partition(".")
    if name == "transforms":
        given: dict[str, Any] = {name: value.split() if isinstance(value, str) else value or ()}
        return replace(spec, **given)
    if name in _OF_RUN:
        return replace(spec, **{name: value})
    if name in _RULES:
        rules = replace(spec.rules, **{name: value})
        if name in {"count", "fraction"} and rules.selection == "all":
            rules = replace(rules, selection=name)
        return replace(spec, rules=rules)
    if dot and kind in _PLUG_INS:
        given = {f"{kind}_options": {**getattr(spec, f"{kind}_options"), option: value}}
        return replace(spec, **given)
    return replace(spec, config={**spec.config, name: value})


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


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _report(done: Sweep, start: Cell, axes: Sequence[Axis], seeds: int) -> Report:
    table, names = done.table(), {name for row in done.rows for name in row.settings}
    runs = sum(len(row.records) for row in done.rows)
    failed = sum(len(row.broken) for row in done.rows)
    facts = [Fact("Settings", str(len(done.rows)), ", ".join(f"{axis.name} × {len(axis.values)}" for axis in axes))]
    facts.append(Fact("Simulations", f"{runs:,}", f"{failed} failed" if failed else f"{seeds} per setting"))
    if done.best is not None:
        best = done.rows[done.best]
        told = f"± {number(spread(best.values))} between seeds" if len(best.values) > 1 else "one seed"
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
