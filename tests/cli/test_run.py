"""`hansa run`: entry points one by one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commandline import written
from typer.testing import Result

from hansa.wire import codec

Hansa = Callable[..., Result]

APP = """
import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.zeros(3, np.float32)}


@app.train
def train(model, task):
    task.log({"loss": 0.5}, step=7)
    step = task.config.get("step", 1) + task.client.index
    return hansa.Update({"w": model["w"] + np.float32(step)}, num_examples=10, metrics={"loss": 0.5})


@app.evaluate
def evaluate(model, task):
    return hansa.Metrics({"sum": float(model["w"].sum())}, num_examples=4)


@app.predict
def predict(model, task):
    return {"who": task.client.name, "w": model["w"], "set": dict(task.client.settings)}
"""

TOML = f"""
build = [{json.dumps(sys.executable)}, "-c", "open('built', 'a').write('b')"]
init = [{json.dumps(sys.executable)}, "init.py", "{{model_out}}"]
startup = [{json.dumps(sys.executable)}, "-c", "open('started', 'a').write('{{client}} {{settings.data}} ')"]
train = "true {{model_in}} {{model_out}} {{metrics_out}}"

[settings]
data = "here"
"""


@pytest.fixture
def black_box(tmp_path: Path) -> Path:
    folder = tmp_path / "black"
    folder.mkdir()
    (folder / "hansa.toml").write_text(TOML)
    (folder / "init.py").write_text(
        "import sys, numpy as np\nfrom safetensors.numpy import save_file\nsave_file({'w': np.ones(2)}, sys.argv[1])\n"
    )
    return folder


def test_an_app_is_tried_from_its_initial_model_to_what_it_predicts(hansa: Hansa, tmp_path: Path) -> None:
    app, seed, out = written(tmp_path, APP), tmp_path / "seed.safetensors", tmp_path / "out.safetensors"
    assert hansa("run", "init", app, "--output", seed).exit_code == 0
    trained = hansa(
        "run", "train", app, "--in", seed, "--output", out, "--index", 1, "--total", 2, "--set", "step=3", "--json"
    )
    assert json.loads(trained.stdout) == {"model": str(out), "num_examples": 10, "metrics": {"loss": 0.5}}
    assert "loss 0.5  step 7" in trained.stderr
    assert np.array_equal(codec.load(out)["w"], np.full(3, 4, np.float32))
    evaluated = hansa("run", "evaluate", app, "--in", out, "--json")
    assert json.loads(evaluated.stdout) == {"num_examples": 4, "metrics": {"sum": 12.0}}
    predicted = hansa("run", "predict", app, "--client", "ward", "--client-set", "data=/d", "--in", out)
    assert json.loads(predicted.stdout) == {"who": "ward", "w": [4.0, 4.0, 4.0], "set": {"data": "/d"}}
    refused = hansa("run", "startup", app)
    assert refused.exit_code != 0
    assert "importing it is its build" in refused.stderr


def test_commands_of_a_black_box_are_tried_one_by_one(hansa: Hansa, black_box: Path, tmp_path: Path) -> None:
    assert hansa("run", "build", black_box).exit_code == 0
    assert (black_box / "built").read_text() == "b"
    assert hansa("run", "startup", black_box, "--client", "north").exit_code == 0
    assert (black_box / "started").read_text() == "north here "
    made = hansa("run", "init", black_box, "--output", tmp_path / "seed", "--json")
    assert json.loads(made.stdout)["tensors"] == 1
    missing = hansa("run", "predict", black_box)
    assert "the app has no predict command" in missing.stderr
