"""The convolutional network of McMahan et al. 2017 (arXiv:1602.05629) on MNIST, in PyTorch."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hansa
from hansa.data import Examples, Split, mnist, partition
from hansa.training.torch import TorchTrainer


def cnn() -> nn.Module:
    """Two 5 × 5 convolutions with 32 and 64 channels, each with 2 × 2 max pooling, and 512 hidden units: 1,663,370."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, 10)),
    )


app = hansa.App(
    trainer=TorchTrainer(cnn, nn.CrossEntropyLoss(), lambda p: torch.optim.SGD(p, lr=0.1), batch_size=10, epochs=1)
)


@app.data
def share(client: hansa.ClientInfo) -> Split:
    """One client's part of MNIST, IID: images as float32 of shape (n, 1, 28, 28), 0 to 1."""
    train, test = everything(client.settings.get("data", "data/mnist"))
    return Split(train=part_of(train, client), test=part_of(test, client))


@cache
def everything(folder: str) -> tuple[Examples, Examples]:
    """MNIST from the folder that the owner set, or from the first place that has it."""
    beside = [parent / "shared" / "data" / "mnist" for parent in Path(__file__).resolve().parents]
    whole = mnist.read(next((place for place in (Path(folder), *beside) if place.is_dir()), folder))
    return whole.train, whole.test


def part_of(examples: Examples, client: hansa.ClientInfo) -> Examples:
    """This client's share; `partition.shards(examples.y, client.total, rng)` gives the paper's non-IID one."""
    x, y = examples.take(partition.iid(len(examples.y), client.total, np.random.default_rng(0))[client.index])
    return Examples(x[:, None] / np.float32(255), y.astype(np.int64))
