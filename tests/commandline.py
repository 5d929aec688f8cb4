"""What the tests of the command line share: a small app, and how output is read."""

import json
from pathlib import Path
from typing import Any

TINY = """
import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.zeros(3, np.float32)}


@app.train
def train(model, task):
    return hansa.Update({"w": model["w"] + np.float32(1 + task.client.index)}, num_examples=10)


@app.evaluate
def evaluate(model, task):
    return hansa.Metrics({"sum": float(model["w"].sum())}, num_examples=10)
"""


def written(folder: Path, source: str) -> Path:
    path = folder / "app.py"
    path.write_text(source, encoding="utf-8")
    return path


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
