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
    return {"w": rng.normal(size=50).astype(np.float32)}


@app.train
def train(model, task):
    while task.round == 3 and not os.path.exists(task.config.get("gate", "/")):
        time.sleep(0.01)
    w = model["w"] + task.rng.normal(size=50).astype(np.float32)
    return hansa.Update({"w": w}, num_examples=3, metrics={"loss": float(np.mean(w * w))})


@app.evaluate
def evaluate(model, task):
    return hansa.Metrics({"mean": float(np.mean(model["w"])), "odd": float("nan")}, num_examples=5)


@app.central_evaluate
def central(model, rng):
    return hansa.Metrics({"norm": float(np.linalg.norm(model["w"]))}, num_examples=1)
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("app") / "app.py"
    path.write_text(APP)
    return path
