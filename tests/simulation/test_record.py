"""A record repeats a simulation to the bit, on what is in it alone."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hansa
from hansa import run as choice
from hansa.errors import AppError, ConfigError, ConflictError, InputError
from hansa.experiments.cells import Cell
from hansa.messages import RoundRules, RunSpec
from hansa.simulation import Dropouts, Instant, replay, simulate
from hansa.simulation.record import app_digest, open_record
from hansa.simulation.traces import Traces, Window
from hansa.wire import codec

FOUR = RoundRules(selection="count", count=4)


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def recorded(app: Path, tmp_path: Path) -> Path:
    """Of twelve clients, some of whom drop out, and one of whom fails."""
    result = simulate(
        app,
        clients=12,
        rounds=3,
        rules=FOUR,
        seed=5,
        devices=Dropouts(0.2),
        tolerate_failures=True,
        config={"client-3": "raise"},
    )
    return result.save_record(tmp_path / "record")


def test_it_repeats_every_hash_and_number_without_the_apps_file(recorded: Path, app: Path) -> None:
    app.unlink()
    again = replay(recorded)
    assert again.same
    assert again.surroundings == {}
    assert [r.model_hash for r in again.result.rounds] == [r["model_hash"] for r in again.record.rounds]
    assert codec.digest(codec.load(recorded / "model.safetensors")) == again.result.model_hash


def test_it_says_where_it_differs_first_and_in_what(recorded: Path) -> None:
    changed(recorded, lambda m: m["rounds"][1]["metrics"].update(draw=0.5) or m["versions"].update(numpy="1.0"))
    again = replay(recorded)
    assert [(d.round, d.what, d.recorded) for d in again.differences] == [(2, "metrics.draw", 0.5)]
    assert again.surroundings == {"numpy": ("1.0", np.__version__)}


def test_each_client_of_a_round_has_a_row_of_what_it_reported_and_measured(recorded: Path, app: Path) -> None:
    result = simulate(app, clients=12, rounds=2, rules=FOUR, seed=5, evaluation=hansa.EvaluationRules(fraction=0.5))
    table, last = result.clients(), result.rounds[-1]
    assert [row["client"] for row in table] == sorted(
        {*last.accepted, *last.evaluated}, key=lambda name: int(name.partition("-")[2])
    )
    rows = {row["client"]: row for row in table}
    for metric, values in last.verdicts.items():
        assert [rows[client][f"clients.{metric}"] for client in last.evaluated] == list(values)
    for metric, values in last.reports.items():
        assert [rows[client][f"train.{metric}"] for client in last.examples] == list(values)
    assert {rows[client]["examples"] for client in {*last.evaluated} - {*last.accepted}} <= {None}
    assert len(open_record(recorded).clients(1)) == 12
    with pytest.raises(InputError, match="there is no round 7; there are 2"):
        result.clients(7)


def test_another_seed_differs_from_the_first_round_on_and_in_a_tensor(recorded: Path) -> None:
    changed(recorded, lambda m: m["spec"].update(seed=6))
    differences = replay(recorded).differences
    assert (differences[0].round, differences[0].what) == (1, "model_hash")
    assert differences[-1].what == "tensor w"


def test_a_run_that_was_stopped_and_began_from_a_model_is_repeated_as_it_was(app: Path, tmp_path: Path) -> None:
    start = {"w": np.full((4, 2), 0.25, np.float32), "steps": np.zeros((), np.int64)}
    result = simulate(app, clients=3, rounds=9, initial_model=start, stop=lambda done: done.round == 2)
    folder = result.save_record(tmp_path / "record", with_model=False)
    again = replay(folder)
    assert again.same
    assert len(again.result.rounds) == 2
    assert not (folder / "model.safetensors").exists()


def test_an_app_in_memory_is_given_again(tmp_path: Path) -> None:
    def made() -> hansa.App:
        app = hansa.App()
        app.model(lambda rng: {"w": rng.normal(size=2)})
        app.train(lambda model, task: hansa.Update({"w": model["w"] + task.rng.normal()}, 1))
        return app

    folder = simulate(made(), clients=2, rounds=2).save_record(tmp_path / "record")
    with pytest.raises(AppError, match="has no app, as it was made in memory"):
        replay(folder)
    assert replay(folder, app=made()).same


@pytest.mark.parametrize("named", [".", "app.py"], ids=["folder", "file"])
def test_an_app_is_recorded_with_what_it_imports(named: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "helper.py").write_text("STEP = 1.5\n")
    (project / "app.py").write_text(
        "import hansa\nimport numpy as np\nfrom helper import STEP\napp = hansa.App()\n"
        "app.model(lambda rng: {'w': np.zeros(1)})\n"
        "app.train(lambda model, task: hansa.Update({'w': model['w'] + STEP}, 1))\n"
    )
    result = simulate(project / named, clients=1, rounds=1)
    folder = result.save_record(tmp_path / "record")
    assert result.given is not None
    os.utime(project / "helper.py", (result.given.since + 1, result.given.since + 1))
    with pytest.raises(AppError, match=r"helper.py has changed since it was simulated"):
        result.save_record(tmp_path / "again")
    shutil.rmtree(project)
    assert replay(folder).same


def test_devices_of_ones_own_are_given_again(app: Path, tmp_path: Path) -> None:
    class Other:
        behave = Instant().behave

    folder = simulate(app, clients=2, rounds=1, devices=Other()).save_record(tmp_path / "record")
    with pytest.raises(InputError, match="are a Other, which is not of hansa: give `devices`"):
        replay(folder)
    assert replay(folder, devices=Other()).same


def test_the_digest_is_of_the_files_wherever_they_lie(app: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(app, elsewhere / "app.py")
    assert app_digest(app) == app_digest(elsewhere / "app.py")
    (elsewhere / "app.py").write_text(app.read_text() + "\n# another\n")
    assert app_digest(app) != app_digest(elsewhere / "app.py")


def test_a_file_that_was_changed_meanwhile_is_not_recorded(app: Path, tmp_path: Path) -> None:
    result = simulate(app, clients=2, rounds=1)
    assert result.given is not None
    os.utime(app, (result.given.since + 1, result.given.since + 1))
    with pytest.raises(AppError, match="has changed since it was simulated"):
        result.save_record(tmp_path / "record")
    assert not (tmp_path / "record").exists()
    assert list(tmp_path.glob(".record*")) == []


def test_nothing_is_overwritten_and_what_is_no_record_is_told(recorded: Path, app: Path, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="give the record a folder of its own"):
        simulate(app, clients=2, rounds=1).save_record(recorded)
    with pytest.raises(InputError, match="there is no record in"):
        open_record(tmp_path)
    changed(recorded, lambda m: m.update(format="hansa.record.v9"))
    with pytest.raises(InputError, match="not a record of this version"):
        open_record(recorded)


def test_an_app_that_is_not_the_recorded_one_is_refused(recorded: Path) -> None:
    changed(recorded, lambda m: m["app"].update(digest="0" * 64))
    with pytest.raises(AppError, match="one of them was changed"):
        replay(recorded)


# ── plug-ins ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PLUG_IN = {
    "my_plug_in-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-plug-in\nVersion: 1.0\n",
    "my_plug_in-1.0.dist-info/entry_points.txt": "[hansa.algorithms]\nmine = my_plug_in:mine\n",
    "my_plug_in-1.0.dist-info/top_level.txt": "my_plug_in\nmy_helper\nmy_other\n",
    "my_plug_in.py": (
        "from dataclasses import replace\n"
        "from hansa.algorithms.fedavg import fedavg\n"
        "from my_helper import NAME\n"
        "def mine(aggregator):\n"
        "    return replace(fedavg(aggregator), name=NAME)\n"
    ),
    "my_helper.py": "NAME = 'mine'\n",
    "my_other.py": "",
}


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that brings an algorithm."""
    folder = tmp_path / "site"
    for name, text in PLUG_IN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    choice._points.cache_clear()
    yield folder
    choice._points.cache_clear()
    for name in ("my_plug_in", "my_helper"):
        sys.modules.pop(name, None)


def test_a_record_names_plug_ins_with_their_code_and_says_what_has_changed(
    app: Path, plug_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = simulate(app, clients=2, rounds=1, algorithm="mine").save_record(tmp_path / "record")
    (brought,) = open_record(folder).manifest["plug_ins"]
    assert {**brought, "code": ""} == {
        "group": "hansa.algorithms", "name": "mine", "package": "my-plug-in", "version": "1.0", "code": ""
    }  # fmt: skip
    (plug_in / "my_other.py").write_text("changed = True\n")  # nobody imports it
    assert replay(folder).surroundings == {}
    (plug_in / "my_helper.py").write_text("NAME = 'mine'  # changed\n")
    ((what, (was, now)),) = replay(folder).surroundings.items()
    assert what == "mine of hansa.algorithms"
    assert was == f"my-plug-in 1.0, code {brought['code']}" != now
    monkeypatch.setattr("sys.path", [place for place in sys.path if place != str(plug_in)])
    choice._points.cache_clear()
    with pytest.raises(ConfigError, match=r"made with 'mine' of my-plug-in 1\.0, which is not installed here"):
        replay(folder)


def test_a_cell_of_a_sweep_is_another_once_the_code_of_its_algorithm_has_changed(app: Path, plug_in: Path) -> None:
    mine, fedavgs = Cell(app, RunSpec(algorithm="mine"), 2), Cell(app, RunSpec(), 2)
    before = mine.key, fedavgs.key
    (plug_in / "my_plug_in.py").write_text(PLUG_IN["my_plug_in.py"] + "# changed\n")
    assert mine.key != before[0]
    assert fedavgs.key == before[1]


def test_devices_of_a_trace_are_in_the_record(app: Path, tmp_path: Path) -> None:
    windows = [Window("a", 0.0, 60.0, 0.5), Window("b", 10.0, 50.0, 0.1, upload=100.0)]
    for name, period in (("laps", 90.0), ("once", float("inf"))):
        traces = Traces(windows, period=period, passes=2)
        result = simulate(app, clients=3, rounds=2, devices=traces, rules=RoundRules(deadline=200.0))
        folder = result.save_record(tmp_path / name)
        again = replay(folder)
        assert (again.same, open_record(folder).devices.period) == (True, period)  # type: ignore[attr-defined]
        assert result.rounds[0].virtual_seconds > 0
