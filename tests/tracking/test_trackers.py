"""Trackers are told of every round, and of the end however it comes."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hansa
from hansa.errors import ConfigError, MissingExtraError
from hansa.messages import RunSpec
from hansa.simulation import simulate


def app(fails_in: int = 0) -> hansa.App:
    made = hansa.App()
    made.model(lambda _: {"w": np.zeros(1)})

    @made.train
    def train(model: Any, task: hansa.Task) -> hansa.Update:
        if task.round == fails_in:
            raise RuntimeError("the sensor is off")
        loss = math.inf if task.round == 2 else 1 / task.round
        return hansa.Update({"w": model["w"] + 1}, 1, {"loss": loss, 'a,"b"': 2.0})

    @made.central_evaluate
    def central(model: Any, _rng: Any) -> hansa.Metrics:
        return hansa.Metrics({"w": model["w"][0]}, 1)

    return made


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def begin(self, spec: RunSpec, clients: int) -> None:
        self.events.append(("begin", spec.algorithm, clients))

    def round(self, number: int, metrics: Mapping[str, float]) -> None:
        self.events.append((number, dict(metrics)))

    def end(self, *, failed: bool) -> None:
        self.events.append(("end", failed))


def test_a_tracker_hears_the_beginning_each_round_and_the_end() -> None:
    told = Told()
    simulate(app(), clients=2, rounds=1, tracker=told)
    begin, first, end = told.events
    assert begin == ("begin", "fedavg", 2)
    assert first == (1, {'train.a,"b"': 2.0, "train.loss": 1.0, "central.w": 1.0})
    assert end == ("end", False)


def test_it_hears_that_the_run_failed() -> None:
    told = Told()
    with pytest.raises(RuntimeError, match="the sensor"):
        simulate(app(fails_in=2), clients=1, rounds=3, tracker=[told])
    assert [event[0] for event in told.events] == ["begin", 1, "end"]
    assert told.events[-1] == ("end", True)


def test_csv_has_a_line_per_number(tmp_path: Path) -> None:
    file = tmp_path / "new" / "out.csv"
    simulate(app(), clients=1, rounds=3, tracker=f"csv:{file}")
    lines = file.read_text().splitlines()
    assert lines[:4] == ["round,metric,value", '1,"train.a,""b""",2.0', "1,train.loss,1.0", "1,central.w,1.0"]
    assert lines[-1] == "3,central.w,3.0"


def test_json_lines_have_the_run_and_then_each_round_and_are_there_while_it_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    seen = []
    simulate(
        app(),
        clients=1,
        rounds=2,
        tracker=f"jsonl:{file}",
        on_round=lambda _: seen.append(file.read_text().count("\n")),
    )
    assert seen == [2, 3]
    run, first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert (run["run"]["algorithm"], run["clients"]) == ("fedavg", 1)
    assert (first["round"], first["train.loss"]) == (1, 1.0)
    assert second["train.loss"] is None  # infinite


def test_an_unknown_tracker_or_one_without_a_file_is_told() -> None:
    with pytest.raises(ConfigError, match=r"there is no 'tsv' in hansa\.trackers; there is: csv, jsonl, mlflow"):
        simulate(app(), clients=1, tracker="tsv:x")
    with pytest.raises(ConfigError, match="needs its path, for example csv:out"):
        simulate(app(), clients=1, tracker="csv")


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb", "wandb")]
)
def test_a_tracker_that_is_not_installed_names_its_extra(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.tracking", None)
    with pytest.raises(MissingExtraError, match=rf"hansa\[{name}\]"):
        simulate(app(), clients=1, tracker=f"{name}:")


# ── other projects' own readers ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_tensorboard_files_hold_every_scalar(tmp_path: Path) -> None:
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    record = pytest.importorskip("tensorboardX.record_writer")
    simulate(app(), clients=1, rounds=3, tracker=f"tensorboard:{tmp_path}")
    (file,) = tmp_path.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), {}
    while data:
        length = int.from_bytes(data[:8], "little")
        body, data = data[12 : 12 + length], data[16 + length :]
        event = proto.Event.FromString(body)
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    assert record is not None
    assert [found["train/loss", step] for step in (1, 3)] == [1.0, pytest.approx(1 / 3)]
    assert found["central/w", 2] == 2.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own use of SQLAlchemy
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow does with its database
def test_an_address_that_mlflow_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    pytest.importorskip("mlflow.tracking")
    with pytest.raises(ConfigError, match=r"MLflow does not take the numbers of a run at 'nowhere:"):
        simulate(app(), clients=1, rounds=1, tracker=f"mlflow:nowhere:{tmp_path}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow does with its database
def test_mlflow_has_the_run_its_settings_and_every_number(tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    simulate(app(), clients=1, rounds=3, name="mine", tracker=f"mlflow:{uri}")
    client = tracking.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("default").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["algorithm"]) == ("mine", "FINISHED", "fedavg")
    assert [m.value for m in client.get_metric_history(run.info.run_id, "central.w")] == [1, 2, 3]


@pytest.mark.slow
def test_wandb_writes_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    simulate(app(), clients=1, rounds=2, tracker="wandb:hansa-tests")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"central.w" in file.read_bytes()
