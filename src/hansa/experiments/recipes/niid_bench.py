"""NIID-Bench on MNIST: ten clients with IID or Dir(0.5) parts, a small CNN, judged on the test images."""

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


def cnn() -> nn.Module:
    """5×5 convolutions of 6 and 16 channels, each with 2×2 max-pooling and a ReLU, then 120 and 84 units.

    A ReLU before the pooling would be the same function, on four times as many numbers.
    """
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(16 * 4 * 4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def local(learning_rate: float = 0.01, epochs: int = 10) -> TorchTrainer:
    """Batches of 64, momentum 0.9 that begins anew in every round, weight decay 1e-5."""
    return TorchTrainer(
        cnn,
        nn.functional.cross_entropy,
        lambda parameters: torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=1e-5),
        batch_size=64,
        epochs=epochs,
        channels_last=True,
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
def evaluate(model: hansa.Arrays, rng: np.random.Generator, *, data: str = "data/mnist") -> hansa.Metrics:
    """Loss and accuracy on the test images."""
    return local().evaluate(model, hansa.Task(hansa.ClientInfo("test"), 1, rng, read(data)[1]))
