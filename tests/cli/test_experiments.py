"""`hansa simulate --record`, `hansa replay`, `hansa sweep` and `hansa bench` as they are typed."""

from collections.abc import Callable
from pathlib import Path

from commandline import TINY, json_lines
from typer.testing import Result

RECIPE = """
title = "Tiny"
source = "a test"
setting = "nothing is learnt"
app = "app.py"
clients = 3
target = { metric = "clients.sum", tolerance = 0.1 }

[[rows]]
name = "sum"
run = { rounds = 2 }
targets = [{ expected = 12.0 }, { round = 1, expected = 9.0 }]
"""


def test_a_record_is_written_replayed_and_found_changed(
    hansa: Callable[..., Result], tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "record"
    done = hansa("simulate", tiny, "--clients", 3, "--rounds", 2, "--record", folder, "--track", f"csv:{folder}.csv")
    assert done.exit_code == 0, done.output
    assert f"hansa replay {folder}" in done.stdout
    assert (tmp_path / "record.csv").read_text().splitlines()[-1] == "2,clients.sum,12.0"

    again = hansa("replay", folder)
    assert again.exit_code == 0, again.output
    assert "round 2/2  sum 12.0000  3 accepted" in again.stdout
    assert "The same to the last bit: " in again.stdout
    (summed,) = json_lines(hansa("replay", folder, "--json").stdout)
    assert (summed["same"], summed["differences"]) == (True, [])

    tiny.write_text(TINY.replace("1 + task", "2 + task"))
    other = hansa("replay", folder, "--app", tiny)
    assert other.exit_code == 1
    assert "It differs from round 1 on:" in other.stdout
    assert "round 1  evaluation.sum: 6.0 → 9.0" in other.stdout


def test_an_app_that_knows_its_clients_needs_no_number(
    hansa: Callable[..., Result], write_app: Callable[[str], Path]
) -> None:
    app = write_app(
        "import numpy as np, hansa\nfrom hansa.training.numpy import softmax_regression\n"
        "own = [(np.ones((4, 2), np.float32), np.zeros(4, np.int64))] * 3\n"
        "app = hansa.App.of(softmax_regression(2, 2), own)\n"
    )
    assert json_lines(hansa("simulate", app, "--rounds", 1, "--json").stdout)[-1]["clients"] == 3


def test_a_sweep_prints_a_row_per_setting_and_where_its_report_is(
    hansa: Callable[..., Result], tiny: Path, tmp_path: Path
) -> None:
    arguments = ("sweep", tiny, "-g", "rounds=1,2", "--seeds", 1, "-n", 3, "-j", 1, "-o", tmp_path / "sweep")
    done = hansa(*arguments)
    assert done.exit_code == 0, done.output
    assert "rounds, 1 seed\n" in done.output
    lines = done.stdout.splitlines()
    assert any(line.split()[:2] == ["rounds", "clients.sum"] for line in lines)
    best = next(line for line in lines if line.endswith("*"))
    assert best.split()[:2] == ["2", "12"]
    assert f"report   {tmp_path / 'sweep' / 'report.html'}" in lines
    rows = json_lines(hansa(*arguments, "--json").stdout)
    assert [row["clients.sum"] for row in rows] == [6.0, 12.0]


def test_a_benchmark_tells_what_came_out_and_ends_with_1_where_it_did_not(
    hansa: Callable[..., Result], tiny: Path, tmp_path: Path
) -> None:
    recipe = tiny.with_name("tiny.toml")
    recipe.write_text(RECIPE)
    done = hansa("bench", "run", recipe, "-o", tmp_path / "out", "-j", 1)
    assert done.exit_code == 1, done.output
    verdicts = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("sum ")]
    assert verdicts == ["reproduced", "outside"]
    recipe.write_text(RECIPE.replace("9.0", "6.0"))
    good = hansa("bench", "run", recipe, "-o", tmp_path / "out", "-j", 1, "--json")
    assert good.exit_code == 0
    assert [row["verdict"] for row in json_lines(good.stdout)] == ["reproduced"] * 2


def test_recipes_are_listed_and_shown(hansa: Callable[..., Result]) -> None:
    listed = json_lines(hansa("bench", "list", "--json").stdout)
    assert {"heart_disease", "mnist_softmax", "fedprox_synthetic", "client_drift"} <= {row["name"] for row in listed}
    assert {row["name"]: row["time"] for row in listed}["niid_bench"] == "6 h"  # nine rows of 38 minutes
    shown = hansa("bench", "show", "heart_disease").stdout
    assert "arXiv:2210.04620" in shown
    assert "hansa bench run heart_disease --data FOLDER" in shown
    assert "not measured" in hansa("bench", "show", "emnist_fedopt").stdout
    missing = hansa("bench", "run", "heart_disease", HANSA_DATASETS="")
    assert missing.exit_code == 1
    assert "give --data or HANSA_DATASETS" in missing.stderr
