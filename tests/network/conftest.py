from pathlib import Path

import pytest

APP = """
import os
import time

import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": rng.normal(size=SIZE).astype(np.float32), "steps": np.zeros((), np.int64)}


@app.data
def load(client):
    rng = np.random.default_rng(client.index)
    return rng.normal(size=SIZE).astype(np.float32), 10 + client.index


@app.train
def train(model, task):
    target, n = task.data
    if task.config.get("bad") == task.client.name:
        misbehave(task)
    if task.round == 3 and "gate" in task.config:
        while not os.path.exists(task.config["gate"]):
            time.sleep(0.01)
    w = model["w"] + np.float32(0.5) * (target - model["w"]) + task.rng.normal(size=SIZE).astype(np.float32) * 0.01
    return hansa.Update(
        {"w": w.astype(np.float32), "steps": model["steps"] + 1},
        num_examples=n,
        metrics={"loss": float(np.mean((target - w) ** 2))},
    )


@app.evaluate
def evaluate(model, task):
    target, n = task.data
    return hansa.Metrics({"mse": float(np.mean((target - model["w"]) ** 2))}, num_examples=n)


@app.central_evaluate
def central(model, rng):
    return hansa.Metrics({"norm": float(np.linalg.norm(model["w"]))}, num_examples=1)


def misbehave(task):
    how = task.config["how"]
    if how == "raise":
        raise RuntimeError("no such patient")
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        raise SystemExit(4)
    if how == "hang":
        time.sleep(1000)
    if how == "print":
        print("hello from the ward")
"""


@pytest.fixture(scope="session", autouse=True)
def _quick_clients(quick_clients: None) -> None:
    """Of every test here, and of those that come later."""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app with a small model, which misbehaves on the client named in the config, in the way named there."""
    return _written(tmp_path, 50)


@pytest.fixture
def large_app(tmp_path: Path) -> Path:
    """The same with 4 MB of weights, which travel in chunks."""
    return _written(tmp_path, 1_000_000)


@pytest.fixture
def healthy(app: Path, tmp_path: Path) -> Path:
    """The owner's own copy of the app, which does not hang."""
    path = tmp_path / "own" / "app.py"
    path.parent.mkdir()
    path.write_text(app.read_text().replace("time.sleep(1000)", "pass"))
    return path


def _written(folder: Path, size: int) -> Path:
    path = folder / "app.py"
    path.write_text(APP.replace("SIZE", str(size)))
    return path
