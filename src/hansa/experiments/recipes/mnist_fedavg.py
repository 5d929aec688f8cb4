"""The two networks of FedAvg's paper on MNIST: 100 clients with 600 images each, judged on the test images."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hansa
from hansa.data import Examples, mnist
from hansa.data.partition import Partition
from hansa.data.partition import partition as partitioned
from hansa.training.torch import TorchTrainer


def two_hidden_layers() -> nn.Module:
    """Of 200 units each: 199,210 parameters."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    )


def cnn() -> nn.Module:
    """Padded 5×5 convolutions of 32 and 64 channels, 2×2 max-pooling, 512 units: 1,663,370 parameters.

    A ReLU before the pooling would be the same function, on four times as many numbers.
    """
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, 10)),
    )


def local(
    network: str = "2nn", learning_rate: float = 0.1, batch_size: int | None = None, epochs: int = 1
) -> TorchTrainer:
    """SGD; without a batch_size, the paper's B = ∞, a step is on all that a client has."""
    return TorchTrainer(
        {"2nn": two_hidden_layers, "cnn": cnn}[network],
        nn.functional.cross_entropy,
        lambda parameters: torch.optim.SGD(parameters, lr=learning_rate),
        batch_size=batch_size,
        epochs=epochs,
        channels_last=network == "cnn",
    )


app = hansa.App(local)


@cache
def read(folder: str) -> tuple[Examples, Examples]:
    """Train and test, pixels as float32 from 0 to 1, shape (n, 1, 28, 28)."""
    split = mnist.read(Path(folder))
    train, test = (Examples(part.x[:, None] / np.float32(255), part.y) for part in (split.train, split.test))
    return train, test


@cache
def parts(folder: str, partition: str, total: int, seed: int) -> Partition:
    """The indices of each client's images."""
    return partitioned(partition, read(folder)[0].y, total, np.random.default_rng(seed))


@app.data
def share(
    client: hansa.ClientInfo, *, data: str = "data/mnist", partition: str = "iid", partition_seed: int = 0
) -> Examples:
    """One client's images."""
    return read(data)[0].take(parts(data, partition, client.total, partition_seed)[client.index])


@app.central_evaluate
def evaluate(
    model: hansa.Arrays, rng: np.random.Generator, *, data: str = "data/mnist", network: str = "2nn"
) -> hansa.Metrics:
    """Loss and accuracy on the test images."""
    return local(network).evaluate(model, hansa.Task(hansa.ClientInfo("test"), 1, rng, read(data)[1]))
