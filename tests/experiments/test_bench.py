"""A recipe says what is expected; a run says whether it came out."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansa.errors import ConfigError, NotFoundError
from hansa.experiments import Verdict, load_recipe, recipe_names, run_recipe
from hansa.experiments.summary import best_of, grows, rounds_until, spread
from hansa.run import resolve
from hansa.simulation.named_devices import devices_of
from hansa.simulation.record import Record

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


# ── until something is reached ───────────────────────────────────────────────────────────────────────────────────────

# with a rate of 1 the accuracy is 3, 6, 9 …, with half of it 1.5, 3, 4.5, 6, 7.5
UNTIL = """
title = "Tiny"
source = "a test"
setting = "rates are summed"
app = "app.py"
clients = 2
engine = "processes"
minutes = 50

[run]
rounds = 6
config = { scale = 2.0 }

[target]
metric = "central.accuracy"
tolerance = 0.1

[[rows]]
name = "one"
engine = "inline"
minutes = 25
targets = [
  { reaches = 7.5, expected = 2.5 },
  { reaches = 4.5, expected = 1.5 },
  { reaches = 7.5, faster_than = "half", expected = 2.0 },
]

[[rows]]
name = "half"
run = { config = { lr = 0.5 } }
targets = [{ reaches = 7.5, expected = 5.0 }]

[[rows]]
name = "down"
run = { rounds = 3, config = { lr = -1.0 } }
targets = [{ best = true, expected = -3.0 }, { reaches = 1.0, expected = 2.0 }]
"""


def test_rounds_are_counted_until_a_value_is_reached_and_no_more_are_run(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(UNTIL)
    found = run_recipe(load_recipe(recipe), folder=tmp_path / "out", jobs=1)
    said = [(each.row.name, each.target.name, each.value, each.verdict.value) for each in found]
    name = "rounds until central.accuracy"
    assert said == [
        ("one", f"{name} 7.5", pytest.approx(2.5, abs=0.01), "reproduced"),
        ("one", f"{name} 4.5", pytest.approx(1.5, abs=0.01), "reproduced"),
        ("one", f"{name} 7.5, times fewer than half", pytest.approx(2.0, abs=0.01), "reproduced"),
        ("half", f"{name} 7.5", pytest.approx(5.0, abs=0.01), "reproduced"),
        ("down", "central.accuracy, best of all rounds", pytest.approx(-3, abs=0.01), "reproduced"),
        ("down", f"{name} 1", math.inf, "outside"),
    ]
    rounds = {each.row.name: len(each.records[0].rounds) for each in found}
    # half reaches 7.5 in round 5 or, with its noise, in 6; down asks for its best too, and so needs all of its rounds
    assert (rounds["one"], rounds["down"]) == (3, 3)
    assert rounds["half"] in {5, 6}
    assert {each.row.name: each.records[0].manifest["engine"] for each in found} == {
        "one": "inline", "half": "processes", "down": "processes",
    }  # fmt: skip
    table = list(csv.DictReader(io.StringIO((tmp_path / "out" / "table.csv").read_text())))
    assert (table[-1]["measured"], table[-1]["deviation"]) == ("inf", "")
    assert load_recipe(recipe).time == "2 h"


def test_a_row_that_is_compared_with_one_that_was_not_run_is_not_judged(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(UNTIL)
    found = run_recipe(load_recipe(recipe), folder=tmp_path / "out", jobs=1, rows=["one"])
    assert [each.verdict.value for each in found] == ["reproduced", "reproduced", "not judged"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "reaches = 7.5, expected = 2.5",
            "reaches = 7.5, round = 2",
            "a target of one with round and reaches: give one",
        ),
        ("best = true", "best = true, last = 2", "a target of down with last and best: give one"),
        ('faster_than = "half"', 'faster_than = "third"', "faster_than 'third': it needs `reaches`, and that row"),
        ("reaches = 7.5, expected = 5.0", "reaches = 6.0", "faster_than 'half': it needs `reaches`, and that row"),
    ],
)
def test_a_target_that_asks_for_two_things_says_which(recipe: Path, old: str, new: str, said: str) -> None:
    recipe.write_text(UNTIL.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        load_recipe(recipe)


@pytest.mark.parametrize(
    ("metric", "more"),
    [
        *(("central.accuracy", True), ("clients.auc", True), ("central.error_rate", False), ("train.loss", False)),
        *(("central.nll", False), ("central.cross_entropy", False), ("central.val_mape", False)),
        *(("central.answer", True), ("clients.cancer_recall", True), ("central.costly_found", True)),
        *(("central.lossless_share", True), ("central.maestro", True), ("central.glossary_hits", True)),
        *(("train.seconds", False), ("train.bytes_sent", False), ("clients.fpr", False)),
        *(("clients.false_positive_rate", False), ("clients.true_positive_rate", True)),
        *(("central.valLoss", False), ("central.RMSE", False), ("central.logloss", False), ("central.errors", False)),
        *(("train.samples_per_second", True), ("central.bits_per_character", False), ("central.loss_per_word", False)),
        *(("central.neg_mean_squared_error", True), ("central.negative_log_likelihood", False)),
        *(("central.explained_variance", True), ("central.variance", False)),
        *(("central.log_likelihood", True), ("central.MAESTRO", True), ("central.timeliness", True)),
    ],
)
def test_what_is_better_is_told_by_a_metrics_name(metric: str, *, more: bool) -> None:
    assert grows(metric) is more


def test_a_deviation_is_that_of_a_sample_and_of_one_seed_there_is_none() -> None:
    assert spread([1.0, 2.0, 4.0]) == pytest.approx(np.std([1.0, 2.0, 4.0], ddof=1))
    assert math.isnan(spread([1.0]))
    assert math.isnan(spread([1.0, math.inf]))


def test_the_best_so_far_crosses_between_rounds_and_rounds_without_a_measurement_are_passed_over() -> None:
    def record(*values: float | None, metric: str = "accuracy") -> Record:
        measured = [{} if value is None else {metric: value} for value in values]
        rounds = [
            {"round": number, "metrics": {}, "evaluation": {}, "central": each}
            for number, each in enumerate(measured, start=1)
        ]
        return Record(Path("none"), {"rounds": rounds})

    # best so far 0.5, 0.9, 0.9, 0.98: 7/8 of the way from round 3 to round 4
    assert rounds_until(record(0.5, 0.9, 0.8, 0.98), "central.accuracy", 0.97) == pytest.approx(3.875)
    assert rounds_until(record(0.5, None, 0.9), "central.accuracy", 0.7) == pytest.approx(2.0)
    assert rounds_until(record(0.98, 0.5), "central.accuracy", 0.97) == 1
    assert rounds_until(record(4.0, 2.0, metric="loss"), "central.loss", 3.0) == pytest.approx(1.5)
    assert rounds_until(record(0.5, 0.9), "central.accuracy", 0.97) == math.inf
    assert best_of(record(4.0, None, 2.0, 3.0, metric="loss"), "central.loss") == 2


def test_what_is_cut_keeps_the_numbers_of_its_rounds(recipe: Path, app: Path, tmp_path: Path) -> None:
    app.write_text(app.read_text().replace('if rate == "bad"', "if task.round == 3"))
    (half,) = run_recipe(load_recipe(recipe), folder=tmp_path / "out", jobs=1, rows=["half"], seeds=1)
    assert half.verdict is Verdict.FAILED
    (kept,) = (tmp_path / "out" / "cells").glob("*.jsonl")
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [(line["round"], line["central.accuracy"]) for line in lines[1:]] == [
        (1, pytest.approx(1.5, abs=0.01)),
        (2, pytest.approx(3.0, abs=0.01)),
    ]
    app.write_text(app.read_text().replace("if task.round == 3", "if task.round == 4"))
    run_recipe(load_recipe(recipe), folder=tmp_path / "again", jobs=1, rows=["half"], seeds=1)
    assert not list((tmp_path / "again" / "cells").glob("*.jsonl"))


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
