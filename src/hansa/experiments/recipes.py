"""Recipes: settings of a paper with the numbers that it published, as TOML beside an app.

    title, source, setting       what it is, where the numbers are from, what is trained on what, in words
    app = "heart_disease.py"     beside the recipe
    data = "heart_disease"       the folder of its data, in that of all data sets; left out where it needs none
    clients = 4
    seeds = 5
    seed_setting = "partition_seed"  a setting of the app that is the run's seed too; left out where there is none
    [run]                        fields of `hansa.RunSpec`, of all rows
    [target]                     what is measured in all rows: metric, round or last, statistic
    [[rows]]                     name, panel (rows of one chart), run, seeds, clients, devices, and
    [[rows.targets]]             expected, tolerance, and what differs from [target]

What was last measured of the recipes that come with hansa is in `measured.json`.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from hansa.errors import ConfigError, NotFoundError
from hansa.messages import EvaluationRules, RoundRules, RunSpec

__all__ = ["Recipe", "RecipeRow", "Target", "last_measured", "load_recipe", "recipe_names"]

_OWN = Path(str(files("hansa.experiments") / "recipes"))


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
    statistic: str = "mean"
    """Over the seeds: mean or median."""

    @property
    def name(self) -> str:
        """What and when, in few words."""
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
    """Row → target → value, deviation, seeds; empty for recipes of one's own."""
    known: dict[str, Any] = json.loads((_OWN / "measured.json").read_text(encoding="utf-8"))
    return cast("Mapping[str, Mapping[str, Mapping[str, float]]]", known.get(recipe, {}))


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
    _only(path, "a row", row, {"name", "panel", "run", "seeds", "clients", "devices", "targets"})
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
