import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # served.py is a module of the tests

from served import Served

APP = """
import os
import time

import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": rng.normal(size=40).astype(np.float32)}


@app.data
def load(client):
    return np.random.default_rng(client.index).normal(size=40).astype(np.float32), 10 + client.index


@app.train
def train(model, task):
    while task.round == 2 and "gate" in task.config and not os.path.exists(task.config["gate"]):
        time.sleep(0.01)
    target, n = task.data
    w = model["w"] + np.float32(0.5) * (target - model["w"])
    loss = float("nan") if task.config.get("nan") else float(np.mean((target - w) ** 2))
    return hansa.Update({"w": w}, num_examples=n, metrics={"loss": loss})


@app.evaluate
def evaluate(model, task):
    target, n = task.data
    return hansa.Metrics({"mse": float(np.mean((target - model["w"]) ** 2))}, num_examples=n)
"""


@pytest.fixture(scope="session", autouse=True)
def _quick_clients(quick_clients: None) -> None:
    """Of every test here, and of those that come later."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Served]:
    """A server of the test's own."""
    made = Served(tmp_path)
    yield made
    made.close()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "wards" / "app.py"
    path.parent.mkdir()
    path.write_text(APP)
    return path


@pytest.fixture(scope="module")
def admin(served: Served) -> str:
    """A site administrator's token for the module's server."""
    return served.admin()
