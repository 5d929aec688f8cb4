import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import compare
import environments
import job
import numpy as np
import pytest
import table
from table import Measured, Row


def measured(seconds: Sequence[float] = (0.2, 0.1, 0.3), first: float = 2.0, loss: float = 0.64) -> Measured:
    return Measured(first, seconds, 100.0, loss, 0.9, "a version")


def a_row(way: str, seconds: float = 0.1, start_up: float = 1.0, loss: float = 0.64) -> Row:
    return Row(way, seconds, seconds, start_up, 100.0, loss, 0.9, "a version")


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("workload", ["L", "F"])
def test_a_job_is_read_as_it_was_written(workload: str, tmp_path: Path):
    made, x, y = job.make(workload, {"0.weight": np.ones((2, 3), np.float32)})
    made.write(tmp_path / "job.npz")
    read = job.Job.read(tmp_path / "job.npz")
    shape = job.JOBS[workload]
    assert (read.workload, read.shape) == (workload, shape)
    assert read.x.shape == (shape.clients, shape.examples, *shape.inputs)
    assert read.x.dtype == np.float32
    assert np.array_equal(read.x, made.x)
    assert np.array_equal(read.y, made.y)
    assert np.array_equal(read.initial["0.weight"], np.ones((2, 3)))
    assert x.shape == (2000, *shape.inputs)
    assert y.max() < shape.classes


def test_data_of_a_job_are_the_same_wherever_they_are_made():
    assert np.array_equal(job.make("L", {})[0].x, job.make("L", {})[0].x)


def test_a_run_tells_its_rounds_and_hands_over_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    initial = {"weight": np.zeros((10, 60), np.float32)}
    job.make("L", initial)[0].write(tmp_path / "job.npz")
    clock = iter([3.0, 3.5, 4.5])
    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: next(clock)))  # not of other threads, too
    given = [str(tmp_path / "job.npz"), str(tmp_path / "model.npz"), "--rounds", "3", "--began", "1.0"]
    monkeypatch.setattr(sys, "argv", ["run", *given])
    run = job.Run()
    for _ in range(3):
        run.round_done()
    run.finish({"weight": np.ones((10, 60), np.float32)}, "a version")
    told = json.loads(capsys.readouterr().out)
    assert (told["first"], told["seconds"], told["about"]) == (2.0, [0.5, 1.0], "a version")
    with np.load(tmp_path / "model.npz") as model:
        assert model["weight"].sum() == 600


def test_a_run_that_noted_too_few_rounds_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job.make("L", {})[0].write(tmp_path / "job.npz")
    given = [str(tmp_path / "job.npz"), str(tmp_path / "model.npz"), "--rounds", "3", "--began", "1.0"]
    monkeypatch.setattr(sys, "argv", ["run", *given])
    with pytest.raises(RuntimeError, match="0 rounds were noted, 3 were asked for"):
        job.Run().finish({})


# ── rows and tables ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_has_the_median_of_all_rounds_and_a_start_up_without_the_first_round():
    found = table.row("FedLab", [measured((0.2, 0.1, 0.3), first=2.2), measured((0.4, 0.4, 0.4), first=3.4)])
    assert found.seconds == pytest.approx(0.35)  # of 0.1 0.2 0.3 0.4 0.4 0.4
    assert found.fastest == 0.1
    assert found.start_up == pytest.approx(2.5)  # of 2.0 and 3.0


def test_a_loss_agrees_within_a_share_of_what_the_loop_has_achieved():
    assert table.agrees("L", 0.64 + 0.019 * 2, reference=0.64, initial=2.64)
    assert not table.agrees("L", 0.64 + 0.021 * 2, reference=0.64, initial=2.64)
    assert not table.agrees("L", 0.64 - 0.021 * 2, reference=0.64, initial=2.64)
    assert not table.agrees("L", float("nan"), reference=0.64, initial=2.64)


def test_a_table_has_ratios_beside_targets():
    rows = [a_row("hansa", 0.1), a_row("PyTorch loop", 1.0), a_row("pfl-research", 1.4), a_row("FedLab", 2.1)]
    text = table.table("S", "an MLP", rows, initial=2.6)
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert "| 14 | ≥ 15: missed |" in lines["pfl-research"]
    assert "| 21 | ≥ 20: met |" in lines["FedLab"]
    assert "| 10 |  |" in lines["PyTorch loop"]


def test_a_table_tells_a_loss_that_differs_and_hides_no_row():
    rows = [a_row("hansa"), a_row("PyTorch loop"), a_row("FedML", loss=0.9), ("Flower", "cannot be installed: a | b")]
    text = table.table("L", "logistic regression", rows, initial=2.6)
    assert "**its loss differs from the loop's by +0.260**" in text
    assert "| Flower | – | – | – | – | – | – | – | – | cannot be installed: a / b |" in text
    assert text.count("differs") == 1
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {11}


def test_a_table_without_a_loop_says_that_nothing_was_compared():
    text = table.table("L", "logistic regression", [a_row("hansa")], initial=2.6)
    assert "**no loop to compare its loss with**" in text


@pytest.mark.parametrize(("start_up", "verdict"), [(1.4, "met"), (1.6, "missed")])
def test_start_up_is_held_against_the_loop(start_up: float, verdict: str):
    text = table.table("L", "", [a_row("hansa", start_up=start_up), a_row("PyTorch loop")], initial=2.6)
    assert text.endswith(f"hansa starts in {start_up:.2f} times the loop's time; target ≤ 1.5: {verdict}.")


def test_every_target_is_of_a_way_that_is_measured():
    names = {way.name for way in compare.WAYS}
    assert {way for targets in table.TARGETS.values() for way in targets} <= names
    assert {table.OURS, table.LOOP} <= names


# ── ways and environments ────────────────────────────────────────────────────────────────────────────────────────────


def test_every_way_has_a_program_and_an_environment():
    for way in compare.WAYS:
        assert (compare.HERE / f"run_{way.program}.py").exists()
        assert way.environment in {"hansa", *environments.PACKAGES}


def test_a_command_starts_a_rank_for_each_core():
    bench = compare.Bench(Path("envs"), Path("jobs"), cores=4, timeout=1)
    way = next(way for way in compare.WAYS if way.ranks)
    command = bench.command(way, "L", 3)
    assert command[0] == "envs/pfl/bin/python"
    assert command[command.index("--nproc-per-node") + 1] == "4"
    assert command[-4:] == ["--cores", "4", "--setting", ""]


def test_the_last_words_of_a_traceback_are_its_error():
    said = "Traceback (most recent call last):\n  File …\nImportError: no ray\n\nWARNING: Location 'x' is ignored\n"
    assert environments.last_words(said) == "ImportError: no ray"
    assert environments.last_words("") == "it said nothing"


def test_what_cannot_be_installed_has_the_error_in_its_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def prepare(_: Path, name: str) -> None:
        if name == "flower":
            raise environments.BrokenError("ERROR: no such release")

    monkeypatch.setattr(compare, "prepare", prepare)
    results = compare.Results()
    compare.prepared(compare.Bench(tmp_path, tmp_path, 1, 1.0), compare.WAYS, ["L"], results)
    assert results.failed == {("L", "Flower"): "cannot be installed: ERROR: no such release"}


def test_what_fails_is_not_tried_again_and_what_ran_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked: list[str] = []

    def measure(_bench: compare.Bench, way: compare.Way, *_: object) -> Measured:
        asked.append(way.name)
        if way.name == "FedML":
            raise compare.FailedError("failed: KeyError")
        return measured()

    monkeypatch.setattr(compare.Bench, "measure", measure)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    ways = [way for way in compare.WAYS if way.name in {"hansa", "FedML"}]
    results, bench = compare.Results(), compare.Bench(tmp_path, tmp_path, 1, 1.0)
    for _ in range(2):
        compare.played(bench, ways, {"L": (3, (np.zeros(1), np.zeros(1)))}, results)
    assert asked == ["hansa", "FedML", "hansa"]
    assert "failed: KeyError" in results.table("L", ways, 2.6)
    assert len(json.loads(results.json())["runs"]["L hansa"]) == 2
