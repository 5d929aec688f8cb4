"""Apps whose clients remember, as files: what a simulation, its worker processes and a network must agree on."""

from pathlib import Path

DRIFTING = """
import numpy as np

import hansa
from hansa.training.numpy import NumpyTrainer, softmax_regression

app = hansa.App(NumpyTrainer(softmax_regression(6, 3), learning_rate=0.2, batch_size=4, epochs=2, momentum=0.5))


@app.data
def data(client):
    rng = np.random.default_rng(client.index)
    x = rng.normal(loc=client.index % 3, size=(12 + client.index, 6)).astype(np.float32)
    return x, (x[:, 0] * (1 + client.index) > x[:, 1]).astype(int) + client.index % 2
"""
"""For SCAFFOLD: clients that disagree, a model that travels inline."""

CONTRASTING = """
import numpy as np
from torch import nn, optim

import hansa
from hansa.training.torch import TorchTrainer


def network():
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


app = hansa.App(
    TorchTrainer(network, nn.CrossEntropyLoss(), lambda p: optim.SGD(p, lr=0.2), batch_size=6, representation="2")
)


@app.data
def data(client):
    rng = np.random.default_rng(client.index)
    x = rng.normal(loc=client.index % 3, size=(12, 6)).astype(np.float32)
    return x, rng.integers(0, 3, 12)
"""
"""For MOON and FedBN: representations, and layers of BatchNorm."""

COUNTING = """
import os

import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.zeros(2)}


@app.train
def train(model, task):
    times = 0 if task.memory is None else int(task.memory["times"])
    fault = task.config.get(f"{task.client.name}/{task.round}", "")
    w = model["w"] + [1, times]
    if fault == "nan":
        w = w * np.nan
    if fault == "exit":
        os._exit(7)
    return hansa.Update({"w": w}, num_examples=1, metrics={"times": times}, memory={"times": np.int64(times + 1)})


@app.evaluate
def evaluate(model, task):
    times = 0 if task.memory is None else int(task.memory["times"])
    return hansa.Metrics({"times": times}, num_examples=1)
"""
"""Each client counts the rounds that its updates were in; `config={"client-1/2": "nan"}` spoils one of them."""


def written(folder: Path, text: str) -> Path:
    """The app, in a file."""
    path = folder / "app.py"
    path.write_text(text, encoding="utf-8")
    return path
