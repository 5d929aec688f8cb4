"""A sweep is a table, the same however often it was cut off."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hansa.errors import ConfigError, ConflictError, InputError
from hansa.experiments.cells import Cell, cell_from, cell_to
from hansa.experiments.pool import Progress, run_cells
from hansa.experiments.sweep import Axis, parse_axis, sweep
from hansa.messages import RunSpec
from hansa.simulation import replay

SPEC = RunSpec(name="tiny", rounds=2)


def test_every_combination_has_its_seeds_and_the_best_is_marked(app: Path, tmp_path: Path) -> None:
    grid = {"lr": [1, 2], "algorithm": ["fedavg", "fedavgm"], "algorithm.momentum": [0.0, 0.5]}
    done = sweep(app, grid, folder=tmp_path / "sweep", spec=SPEC, clients=3, seeds=2, jobs=1)
    table = done.table()
    # FedAvg has no momentum: it is there once for each rate
    assert [(row["lr"], row["algorithm"], row["algorithm.momentum"]) for row in table] == [
        (lr, *rest) for lr in (1, 2) for rest in (("fedavg", None), ("fedavgm", 0.0), ("fedavgm", 0.5))
    ]
    # the mean of 1, 2, 3 is 2, times the rate: two rounds of it, and of the first half as much again by momentum
    assert [round(row["central.accuracy"]) for row in table] == [4, 4, 5, 8, 8, 10]
    assert [row["best"] for row in table] == ["", "", "", "", "", "*"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "sweep" / "runs.csv").read_text())))
    assert len(rows) == 12
    assert [row["seed"] for row in rows] == ["0", "1"] * 6
    assert (tmp_path / "sweep" / "table.csv").read_text() == table.csv()
    # each number can be replayed from its record
    again = replay(tmp_path / "sweep" / "cells" / rows[0]["record"])
    assert (again.same, again.result.model_hash) == (True, rows[0]["model_hash"])


def test_rules_attacks_and_transforms_are_axes_and_their_table_and_curves_those_of_a_paper(
    app: Path, tmp_path: Path
) -> None:
    grid = ["aggregator=mean,trimmed-mean", "aggregator.beta=0.4", "attack=null,free-rider:0.3"]
    grid += ['transforms=null,"clip:norm=0.1 quantize:bits=8"']
    done = sweep(app, map(parse_axis, grid), folder=tmp_path / "sweep", spec=SPEC, clients=3, seeds=2, jobs=1)
    assert [row.settings.get("aggregator.beta") for row in done.rows] == [None] * 4 + [0.4] * 4
    assert [bool(row.records[0].manifest["attack"]) for row in done.rows] == [False, False, True, True] * 2
    assert [len(row.records[0].spec.transforms) for row in done.rows] == [0, 2] * 4
    # clients move by 1, 2 and 3 in each of two rounds; who rides free, by 0; clipped to 0.1, both values share that
    crossed = done.cross("transforms", digits=1)
    assert crossed.columns == ("aggregator", "attack", "—", "clip:norm=0.1 quantize:bits=8", "aggregator.beta")
    assert [row["—"] for row in crossed] == ["4.0 ± 0.0", crossed[1]["—"], "4.0 ± 0.0", crossed[3]["—"]]
    assert all(str(row["clip:norm=0.1 quantize:bits=8"]).startswith("0.1") for row in crossed)
    latex = crossed.latex()
    assert latex.startswith(
        "\\begin{tabular}{lllll}\n\\toprule\naggregator & attack & -- & clip:norm=0.1 quantize:bits=8"
    )
    assert "mean & -- & 4.0 $\\pm$ 0.0 &" in latex
    with pytest.raises(ConfigError, match="the grid has no 'lr'; it has: aggregator, attack, transforms"):
        done.cross("lr")
    pytest.importorskip("matplotlib")
    (axes,) = done.plot().axes
    assert (len(axes.lines), len(axes.collections)) == (8, 8)
    with pytest.raises(InputError, match="there is no metric accuracy; there is: "):
        done.plot("accuracy")


def test_a_sweep_that_was_killed_goes_on_to_the_identical_tables(app: Path, tmp_path: Path) -> None:
    fuse, broken, whole = tmp_path / "fuse", tmp_path / "broken", tmp_path / "whole"
    fuse.write_text("")
    command = [
        *(sys.executable, "-m", "hansa.cli", "sweep", app, "--grid", "lr=1,2,3", "--set", f"fuse={fuse}"),
        *("--seeds", "2", "--rounds", "2", "--clients", "2", "--jobs", "1", "-o", broken),
    ]
    killed = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert killed.returncode == -9
    assert not (broken / "table.csv").exists()
    records = [folder for folder in (broken / "cells").iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    assert len(records) == 4  # two rates, two seeds; of the fifth there are only its rounds, and it began none
    (rounds,) = (broken / "cells").glob("*.jsonl")
    assert len(rounds.read_text().splitlines()) == 1
    assert all(json.loads((record / "manifest.json").read_text())["rounds"] for record in records)
    written = {record: record.stat().st_mtime_ns for record in records}

    fuse.unlink()
    told: list[Progress] = []
    spec = RunSpec(name=tmp_path.name, rounds=2, config={"fuse": str(fuse)})
    for folder in (broken, whole):
        sweep(app, {"lr": [1, 2, 3]}, folder=folder, spec=spec, clients=2, seeds=2, jobs=1, told=told.append)
    assert told[0].found == 4
    assert {record: record.stat().st_mtime_ns for record in records} == written
    for name in ("table.csv", "runs.csv", "report.html"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_sweep_goes_on_where_it_lies_in_its_apps_folder(app: Path) -> None:
    for found in (0, 1):
        told: list[Progress] = []
        sweep(app.parent, {"lr": [1]}, folder=app.parent / "s", spec=SPEC, clients=1, seeds=1, told=told.append)
        assert told[0].found == found


def test_an_app_may_write_into_its_folder_meanwhile(app: Path, tmp_path: Path) -> None:
    def write(progress: Progress) -> None:
        (app.parent / "cache.npy").write_bytes(bytes(progress.finished))

    done = sweep(app.parent, {"lr": [1]}, folder=tmp_path / "s", spec=SPEC, clients=1, seeds=2, jobs=1, told=write)
    assert not done.rows[0].broken


def test_an_app_that_is_changed_meanwhile_gives_no_more_numbers(app: Path, tmp_path: Path) -> None:
    app.with_name("rates.py").write_text("ONE = 1\n")
    app.write_text("import rates\n" + app.read_text())

    def change(progress: Progress) -> None:
        if progress.cell is not None:
            app.with_name("rates.py").write_text("ONE = 2\n")

    done = sweep(app, {"lr": [1]}, folder=tmp_path / "s", spec=SPEC, clients=1, seeds=2, jobs=1, told=change)
    assert len(done.rows[0].values) == 1
    assert "has changed since the experiment began" in done.rows[0].broken[0].message


def test_what_fails_is_told_and_tried_again(app: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    done = sweep(
        app, [parse_axis("lr=bad,2")], folder=tmp_path, spec=SPEC, clients=1, seeds=1, jobs=1, told=told.append
    )
    failed, good = done.rows
    assert "ValueError: no such rate" in failed.broken[0].message
    assert (failed.values, done.best) == ((), 1)
    assert len(good.values) == 1
    assert told[-1].finished == 2
    again: list[Progress] = []
    sweep(app, [parse_axis("lr=bad,2")], folder=tmp_path, spec=SPEC, clients=1, seeds=1, jobs=1, told=again.append)
    assert again[0].found == 1


def test_two_at_one_folder_are_refused(tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        del progress
        with pytest.raises(ConflictError, match="another process is at work"):
            run_cells([], tmp_path / "cells", jobs=1, told=lambda _: None)

    run_cells([], tmp_path / "cells", jobs=1, told=second)


def test_each_seed_may_have_a_setting_of_its_own(app: Path, tmp_path: Path) -> None:
    done = sweep(app, {"lr": [1]}, folder=tmp_path / "s", spec=SPEC, clients=1, seeds=2, seed_setting="scale", jobs=1)
    assert [round(value) for value in done.rows[0].values] == [0, 2]  # two rounds of the scale


# ── what a cell is called ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cells_name_is_of_what_decides_its_result_alone(app: Path) -> None:
    cell = Cell(app, RunSpec(config={"lr": 1, "data": "/here"}), 3)
    assert cell.key == Cell(app, RunSpec(name="other", config={"data": "/there", "lr": 1}), 3).key
    others = [Cell(app, RunSpec(config={"lr": 2}), 3), Cell(app, RunSpec(config={"lr": 1}, seed=1), 3)]
    others += [Cell(app, RunSpec(config={"lr": 1}), 4), Cell(app, RunSpec(config={"lr": 1}), 3, "dropouts:0.1")]
    assert len({cell.key, *(other.key for other in others)}) == 5
    trace = app.with_name("phones.csv")
    trace.write_text("client,start,end\na,0,60\n")
    traced = Cell(app, RunSpec(), 3, f"trace:{trace}")
    one = traced.key
    trace.write_text("client,start,end\na,0,90\n")
    assert traced.key != one
    app.with_name("rates.py").write_text("ONE = 1\n")
    assert Cell(app, cell.spec, 3).key == cell.key
    app.write_text(app.read_text() + "\nimport rates\n")
    importing = Cell(app, cell.spec, 3)
    app.with_name("rates.py").write_text("ONE = 2\n")
    assert len({cell.key, importing.key, Cell(app, cell.spec, 3).key}) == 3
    assert cell_from(cell_to(importing)) == importing


# ── the grid ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("lr=0.1,1e-2", Axis("lr", (0.1, 0.01))),
        ("algorithm=fedavg,fedprox", Axis("algorithm", ("fedavg", "fedprox"))),
        ("sizes=[64, 10],[64, 32, 10]", Axis("sizes", ([64, 10], [64, 32, 10]))),
        ("partition=iid,dirichlet:0.1", Axis("partition", ("iid", "dirichlet:0.1"))),
        ("mixed=true,none,3", Axis("mixed", (True, "none", 3))),
    ],
)
def test_values_are_json_where_they_are(text: str, axis: Axis) -> None:
    assert parse_axis(text) == axis


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"grid": {"lr": 0.1}}, r"the grid has 0\.1 for lr; give a list of values, for example \[0\.1\]"),
        ({"grid": {"algorithm": "fedavg"}}, "the grid has 'fedavg' for algorithm; give a list"),
        ({"grid": [("lr", [0.1])]}, "is no axis of a grid"),
        ({"grid": {"lr": [0.1]}, "seeds": "3"}, "seeds is '3'; it must be a whole number, at least 1"),
    ],
)
def test_what_is_no_grid_is_told_before_anything_runs(
    app: Path, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep(app, folder=tmp_path / "sweep", clients=2, **given)


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (["lr"], r"--grid 'lr': write NAME=VALUE"),
        (["lr=1", "lr=2"], "lr is in the grid twice"),
        (["algorithm.mu=1"], "no algorithm of fedavg has the option 'mu'"),
        (["attack=sign_flip:0.2"], r"there is no attack sign_flip; .*; do you mean sign-flip\?"),
        (["aggregator.f=1"], "no aggregator of mean has the option 'f'"),
        (["rounds=1,2", "x=" + ",".join(map(str, range(100_001)))], "more than 100,000 simulations"),
    ],
)
def test_a_grid_that_makes_no_sense_is_told_before_anything_runs(
    app: Path, tmp_path: Path, grid: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep(app, [parse_axis(text) for text in grid], folder=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_setting_that_nobody_reads_is_told(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text(
        "import hansa\nfrom hansa.data import digits\nfrom hansa.training.numpy import softmax_regression\n"
        "app = hansa.App.of(softmax_regression(64, 10), digits.read())\n"
    )
    with pytest.raises(ConfigError, match="the app has no setting 'lr'; its own are: learning_rate"):
        sweep(file, {"lr": [0.1]}, folder=tmp_path / "sweep")
