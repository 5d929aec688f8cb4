"""Recipes: settings of a paper with the numbers that it published, as TOML beside an app.

    title, source, setting       what it is, where the numbers are from, what is trained on what, in words
    app = "heart_disease.py"     beside the recipe
    data = "heart_disease"       the folder of its data, in that of all data sets; left out where it needs none
    clients = 4
    seeds = 5
    seed_setting = "partition_seed"  a setting of the app that is the run's seed too; left out where there is none
    engine = "vectorized"        as `hansa.simulate` has it, "inline" where it is left out
    minutes = 40                 of one simulation, about, on an idle core; left out where it is none to speak of
    [run]                        fields of `hansa.RunSpec`, of all rows
    [target]                     what is measured in all rows: metric; round, last, best or reaches; statistic
    [[rows]]                     name, panel (rows of one chart), run, seeds, clients, devices, engine, minutes, and
    [[rows.targets]]             expected, tolerance, and what differs from [target]

A row of which all targets are about when something is reached ends there.

What was last measured of the recipes that come with hansa is in `measured.json`.
"""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from hansa.errors import ConfigError, NotFoundError
from hansa.messages import EvaluationRules, RoundRules, RunSpec

__all__ = ["Recipe", "RecipeRow", "Target", "last_measured", "load_recipe", "recipe_names"]

_OWN = Path(str(files("hansa.experiments") / "recipes"))

_OF_A_ROW = {"name", "panel", "run", "seeds", "clients", "devices", "engine", "minutes", "targets"}


@dataclass(frozen=True, slots=True)
class Target:
    """One number of a row."""

    metric: str
    """By its whole name, `central.accuracy`."""
    expected: float | None = None
    """What was published; None: nobody did."""
    tolerance: float | None = None
    """How far from it still counts as reproduced; None: it is shown, and not judged."""
    round: int | None = None
    """In this round; None: at the end."""
    last: int = 1
    """The mean of so many rounds, at the end."""
    best: bool = False
    """The best of all rounds."""
    reaches: float | None = None
    """The number of rounds until the best so far is as good as this, interpolated between rounds as McMahan et al.
    2017 do; infinite where it never is."""
    faster_than: str = ""
    """With `reaches`: how many times the rounds that this other row takes to it, seed by seed."""
    statistic: str = "mean"
    """Over the seeds: mean or median."""

    @property
    def name(self) -> str:
        """What and when, in few words."""
        if self.reaches is not None:
            rounds = f"rounds until {self.metric} {self.reaches:g}"
            return f"{rounds}, times fewer than {self.faster_than}" if self.faster_than else rounds
        if self.best:
            return f"{self.metric}, best of all rounds"
        if self.round is not None:
            return f"{self.metric}, round {self.round}"
        return f"{self.metric}, last {self.last} rounds" if self.last > 1 else self.metric


@dataclass(frozen=True, slots=True)
class RecipeRow:
    """One run of a recipe."""

    name: str
    spec: RunSpec
    """With the seed of the first run."""
    clients: int | None
    devices: str | None
    seeds: int
    targets: tuple[Target, ...]
    panel: str = ""
    """Rows of one panel are drawn together."""
    engine: str = "inline"
    """As in `hansa.simulate`."""
    minutes: float | None = None
    """That one simulation takes on an idle core, about; None: none to speak of."""

    @property
    def until(self) -> tuple[tuple[str, float], ...]:
        """The metrics and values with which it can end, all reached; empty where it needs all of its rounds."""
        reached = tuple((each.metric, each.reaches) for each in self.targets if each.reaches is not None)
        return reached if len(reached) == len(self.targets) else ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe that was read."""

    name: str
    title: str
    source: str
    """Paper and table."""
    setting: str
    app: Path
    data: str
    """Folder of its data, in that of all data sets; empty where it needs none."""
    seed_setting: str
    rows: tuple[RecipeRow, ...]
    note: str = ""

    @property
    def time(self) -> str:
        """What all of it takes on one idle core, about, as it is told to people."""
        minutes = sum((row.minutes or 0) * row.seeds for row in self.rows)
        if minutes < 2:  # noqa: PLR2004 - nobody plans for less
            return "minutes"
        return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.0f} h"  # noqa: PLR2004 - an hour and a half


def recipe_names() -> list[str]:
    """Those that come with hansa."""
    return sorted(path.stem for path in _OWN.glob("*.toml"))


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by its name, or of a file of one's own; raises `NotFoundError`, or `ConfigError` that says why."""
    path = Path(name)
    if path.suffix != ".toml":
        path = _OWN / f"{name}.toml"
        if str(name) not in recipe_names():
            raise NotFoundError(
                f"there is no recipe {str(name)!r}; there is: {', '.join(recipe_names())}, or a .toml file"
            )
    try:
        text = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFoundError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the recipe {path} is not TOML: {error}") from error
    return _recipe(path, text)


def last_measured(recipe: str) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Row → target → value, deviation, seeds; empty for recipes of one's own.

    A value is infinite where it was never reached, and then there is no deviation.
    """
    known: dict[str, Any] = json.loads((_OWN / "measured.json").read_text(encoding="utf-8"))
    never = {"measured": math.inf, "deviation": math.nan}
    return {
        row: {
            target: {name: never[name] if value is None else value for name, value in numbers.items()}
            for target, numbers in targets.items()
        }
        for row, targets in known.get(recipe, {}).items()
    }


def _recipe(path: Path, text: dict[str, Any]) -> Recipe:
    _only(
        path,
        "it",
        text,
        {
            "title",
            "source",
            "setting",
            "note",
            "app",
            "data",
            "clients",
            "seeds",
            "seed_setting",
            "engine",
            "minutes",
            "run",
            "target",
            "rows",
        },
    )
    for needed in ("title", "source", "setting", "app", "rows"):
        if needed not in text:
            raise ConfigError(f"the recipe {path} has no {needed}")
    app = path.parent / text["app"]
    if not app.exists():
        raise ConfigError(f"the recipe {path} names the app {text['app']}, and there is none beside it")
    rows = tuple(_row(path, text, row) for row in text["rows"])
    twice = [row.name for row in rows if [other.name for other in rows].count(row.name) > 1]
    if twice:
        raise ConfigError(f"the recipe {path} has two rows {twice[0]!r}")
    for row in rows:
        for target in row.targets:
            _check_target(path, rows, row, target)
    return Recipe(
        path.stem,
        text["title"],
        text["source"],
        text["setting"],
        app.resolve(),
        text.get("data", ""),
        text.get("seed_setting", ""),
        rows,
        text.get("note", ""),
    )


def _row(path: Path, recipe: Mapping[str, Any], row: Mapping[str, Any]) -> RecipeRow:
    _only(path, "a row", row, _OF_A_ROW)
    if "name" not in row or not row.get("targets"):
        raise ConfigError(f"the recipe {path} has a row without a name, or without targets")
    known = {each.name for each in fields(Target)}
    targets = [{**recipe.get("target", {}), **target} for target in row["targets"]]
    for target in targets:
        _only(path, f"a target of {row['name']}", target, known)
        if "metric" not in target:
            raise ConfigError(f"the recipe {path} has a target of {row['name']} without a metric")
    return RecipeRow(
        row["name"],
        _spec(path, row["name"], _merged(recipe.get("run", {}), row.get("run", {}))),
        row.get("clients", recipe.get("clients")),
        row.get("devices"),
        row.get("seeds", recipe.get("seeds", 1)),
        tuple(Target(**target) for target in targets),
        row.get("panel", ""),
        row.get("engine", recipe.get("engine", "inline")),
        row.get("minutes", recipe.get("minutes")),
    )


def _check_target(path: Path, rows: Sequence[RecipeRow], row: RecipeRow, target: Target) -> None:
    """Raise `ConfigError` where it asks for two things at once, or is told by a row that does not tell."""
    asked = {
        "round": target.round is not None,
        "last": target.last > 1,
        "best": target.best,
        "reaches": target.reaches is not None,
    }
    several = [name for name, given in asked.items() if given]
    if len(several) > 1:
        raise ConfigError(f"the recipe {path} has a target of {row.name} with {several[0]} and {several[1]}: give one")
    if not target.faster_than:
        return
    same = [other for other in rows if other.name == target.faster_than for each in other.targets
            if (each.metric, each.reaches, each.faster_than) == (target.metric, target.reaches, "")]  # fmt: skip
    if target.reaches is None or not same:
        raise ConfigError(
            f"the recipe {path} has a target of {row.name} that is faster_than {target.faster_than!r}: it needs "
            "`reaches`, and that row a target with the same"
        )


def _spec(path: Path, name: str, run: dict[str, Any]) -> RunSpec:
    _only(path, f"the run of {name}", run, {each.name for each in fields(RunSpec)})
    rules, evaluation = run.pop("rules", {}), run.pop("evaluation", {})
    _only(path, f"the rules of {name}", rules, {each.name for each in fields(RoundRules)})
    _only(path, f"the evaluation of {name}", evaluation, {each.name for each in fields(EvaluationRules)})
    given = {"name": name, **run}
    return RunSpec(rules=RoundRules(**rules), evaluation=EvaluationRules(**evaluation), **given)


def _merged(general: Mapping[str, Any], special: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(general)
    for name, value in special.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _only(path: Path, what: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ConfigError(
            f"the recipe {path}: {what} has {unknown[0]!r}, which is not one of {', '.join(sorted(known))}"
        )
