"""Character recognition on federated EMNIST: a client per writer, 62 classes, judged on all writers' test images."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hansa
from hansa.data import Examples, FederatedData, Split, tff
from hansa.data.examples import joined
from hansa.training.torch import TorchTrainer

TRAIN, TEST = "fed_emnist_train.h5", "fed_emnist_test.h5"


def cnn() -> nn.Module:
    """3×3 convolutions of 32 and 64 channels, 2×2 max-pooling, 128 units, dropout of a quarter and of a half."""
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 28)), nn.Conv2d(1, 32, 3), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Dropout(0.25), nn.Flatten()),
        *(nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 62)),
    )


def local(learning_rate: float = 0.1) -> TorchTrainer:
    """One epoch in batches of 20."""
    return TorchTrainer(
        cnn,
        nn.functional.cross_entropy,
        lambda parameters: torch.optim.SGD(parameters, lr=learning_rate),
        batch_size=20,
        epochs=1,
    )


app = hansa.App(local)


@cache
def writers(folder: str) -> FederatedData:
    """The examples of each, pixels float32 of shape (n, 28, 28), labels from 0 to 61; read when they are asked for."""
    return tff.read_clients(Path(folder) / TRAIN, Path(folder) / TEST)


@cache
def test(folder: str) -> Examples:
    """The test images of all."""
    return joined([each.train for each in tff.read_clients(Path(folder) / TEST).values()])


@app.data
def share(client: hansa.ClientInfo, *, data: str = "data/emnist") -> Split:
    """One writer's images."""
    return writers(data).share(client)


@app.central_evaluate
def evaluate(model: hansa.Arrays, rng: np.random.Generator, *, data: str = "data/emnist") -> hansa.Metrics:
    """Loss and accuracy on the test images of all."""
    return local().evaluate(model, hansa.Task(hansa.ClientInfo("test"), 1, rng, test(data)))
