"""An app whose numbers can be told beforehand: the model is the sum of the rates, times the shares of its clients."""

from pathlib import Path

import pytest

APP = """
import os
import signal
from pathlib import Path

import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(_):
    return {"w": np.zeros(2)}


@app.data
def data(client, *, scale=1.0, data="here"):
    return scale * (client.index + 1)


@app.train
def train(model, task):
    rate = task.config.get("lr", 1.0)
    if rate == "bad":
        raise ValueError("no such rate")
    armed = Path(task.config.get("fuse", "none"))
    if armed.is_file() and rate == 3:
        os.kill(os.getppid(), signal.SIGKILL)  # whoever runs the experiment, in the middle of a cell
        signal.pause()
    noise = task.rng.normal(scale=0.001)
    return hansa.Update({"w": model["w"] + rate * task.data + noise}, 1, {"loss": 1 / task.round})


@app.central_evaluate
def central(model, _):
    return hansa.Metrics({"accuracy": float(model["w"][0])}, 1)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path
