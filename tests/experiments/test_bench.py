"""A recipe says what is expected; a run says whether it came out."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from hansa.errors import ConfigError, NotFoundError
from hansa.experiments import Verdict, load_recipe, recipe_names, run_recipe
from hansa.run import resolve
from hansa.simulation.named_devices import devices_of

RECIPE = """
title = "Tiny"
source = "a test"
setting = "rates are summed"
app = "app.py"
clients = 2
seeds = 2

[run]
rounds = 3
config = { scale = 2.0 }

[target]
metric = "central.accuracy"
tolerance = 0.1

[[rows]]
name = "one"
targets = [{ expected = 9.0 }, { round = 1, expected = 3.5 }, { metric = "train.loss", last = 2 }]

[[rows]]
name = "half"
panel = "slow"
run = { config = { lr = 0.5 } }
targets = [{ expected = 4.5, statistic = "median" }]
"""


@pytest.fixture
def recipe(app: Path) -> Path:
    file = app.with_name("tiny.toml")
    file.write_text(RECIPE)
    return file


def test_each_number_has_its_verdict(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    found = run_recipe(load_recipe(recipe), folder=folder, jobs=1)
    # shares are 2 and 4, their mean 3: 9 after three rounds, 3 after one
    assert [(each.row.name, each.verdict) for each in found] == [
        ("one", Verdict.REPRODUCED),
        ("one", Verdict.OUTSIDE),
        ("one", Verdict.NOT_JUDGED),
        ("half", Verdict.REPRODUCED),
    ]
    assert [each.value for each in found] == [pytest.approx(v, abs=0.02) for v in (9, 3, (1 / 2 + 1 / 3) / 2, 4.5)]
    assert all(len(each.values) == 2 for each in found)
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    assert [row["verdict"] for row in rows] == ["reproduced", "outside", "not judged", "reproduced"]
    assert rows[2]["number"] == "train.loss, last 2 rounds"
    assert len(list((folder / "cells").glob("*/manifest.json"))) == 4


def test_one_row_and_other_seeds_can_be_chosen(recipe: Path, tmp_path: Path) -> None:
    (half,) = run_recipe(load_recipe(recipe), folder=tmp_path / "out", jobs=1, rows=["half"], seeds=1)
    assert (half.row.name, len(half.values)) == ("half", 1)
    with pytest.raises(ConfigError, match="tiny has no row 'third'; its rows are: one, half"):
        run_recipe(load_recipe(recipe), folder=tmp_path / "out", rows=["third"])


def test_data_are_looked_for_where_they_are_said_to_be(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("clients = 2", 'clients = 2\ndata = "shells"'))
    with pytest.raises(NotFoundError, match="needs the data set 'shells': give --data or HANSA_DATASETS"):
        run_recipe(load_recipe(recipe), folder=tmp_path / "out")
    with pytest.raises(NotFoundError, match="there is no such folder"):
        run_recipe(load_recipe(recipe), folder=tmp_path / "out", data=tmp_path)
    (tmp_path / "shells").mkdir()
    (half,) = run_recipe(load_recipe(recipe), folder=tmp_path / "out", data=tmp_path, rows=["half"], seeds=1, jobs=1)
    assert half.records[0].spec.config["data"] == str(tmp_path / "shells")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title =", "titel =", "it has 'titel', which is not one of"),
        ('source = "a test"\n', "", "has no source"),
        ('"app.py"', '"none.py"', "names the app none.py, and there is none"),
        ("rounds = 3", "round = 3", "the run of one has 'round'"),
        ("targets = [{ expected = 4.5,", "targets = [{ expects = 4.5,", "a target of half has 'expects'"),
        ('name = "half"', 'name = "one"', "has two rows 'one'"),
        ('metric = "central.accuracy"\n', "", "a target of one without a metric"),
        ("[[rows]]", "[rows", "is not TOML"),
    ],
)
def test_a_recipe_that_is_wrong_says_where(recipe: Path, old: str, new: str, said: str) -> None:
    recipe.write_text(RECIPE.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        load_recipe(recipe)


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(NotFoundError, match=r"there is no recipe 'femnist'; there is: client_drift, .*, or a \.toml"):
        load_recipe("femnist")


# ── the recipes that come with hansa ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_resolved_and_cites_its_source(name: str) -> None:
    recipe = load_recipe(name)
    assert len(recipe.source) > 20
    for row in recipe.rows:
        resolve(row.spec)
        devices_of(row.devices)


def test_what_was_measured_last_is_of_rows_and_numbers_that_there_are() -> None:
    folder = load_recipe(recipe_names()[0]).app.parent
    measured: dict[str, Any] = json.loads((folder / "measured.json").read_text())
    for name, rows in measured.items():
        known = {row.name: {target.name for target in row.targets} for row in load_recipe(name).rows}
        for row, numbers in rows.items():
            assert set(numbers) <= known[row], (name, row)
