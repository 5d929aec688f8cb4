"""A small app in a file: what worker processes need, and what says where randomness and faults come from."""

from collections.abc import Callable
from pathlib import Path

import pytest

APP = """
import os
import sys

import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": rng.normal(size=(4, 2)).astype(np.float32), "steps": np.zeros((), np.int64)}


@app.data
def data(client):
    rng = np.random.default_rng(client.index)
    return rng.normal(size=(10 + client.index % 7, 4))


@app.train
def train(model, task):
    fault = task.config.get(task.client.name, "")
    if fault == "raise":
        raise ValueError("the sensor is off")  # the user's line
    if fault == "exit":
        os._exit(7)
    if fault == "sys.exit":
        sys.exit("enough")
    n = {"nothing": 0, "all": 2**24}.get(fault, len(task.data))
    x = task.data + task.rng.normal(scale=0.1, size=task.data.shape)
    w = model["w"] - task.work * (x.T @ (x @ model["w"])).astype(np.float32) / len(x)
    if fault == "nan":
        w = w * np.float32("nan")
    return hansa.Update(
        {"w": w, "steps": model["steps"] + 3}, num_examples=n, metrics={"draw": task.rng.random(), "work": task.work}
    )


@app.evaluate
def evaluate(model, task):
    if task.config.get(task.client.name) == "blind":
        raise OSError("no test set")
    if task.config.get(task.client.name) == "exit-blind":
        os._exit(3)
    norm = float(np.abs(task.data @ model["w"]).mean())
    return hansa.Metrics({"norm": norm, "draw": task.rng.random()}, num_examples=len(task.data))


@app.central_evaluate
def central(model, rng):
    return hansa.Metrics({"size": float(np.abs(model["w"]).sum()), "draw": rng.random()}, num_examples=1)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Path of an app whose clients fail as `config={client: fault}` says."""
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


@pytest.fixture
def write_app(tmp_path: Path) -> Callable[[str], Path]:
    """Another app, from its text."""

    def write(text: str) -> Path:
        path = tmp_path / "other.py"
        path.write_text(text)
        return path

    return write
