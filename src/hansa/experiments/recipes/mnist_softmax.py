"""Softmax regression on MNIST, from zeros: 100 clients with an equal part each, judged on the test images."""

from functools import cache
from pathlib import Path

import numpy as np

import hansa
from hansa.data import Examples, mnist
from hansa.data.partition import Partition
from hansa.data.partition import partition as partitioned
from hansa.training.numpy import NumpyTrainer, softmax_regression

PIXELS = 28 * 28


def local(learning_rate: float = 0.05, batch_size: int = 10, epochs: int = 1) -> NumpyTrainer:
    """Mini-batch SGD."""
    return NumpyTrainer(softmax_regression(PIXELS, 10), learning_rate, batch_size=batch_size, epochs=epochs)


app = hansa.App(local)


@cache
def read(folder: str) -> tuple[Examples, Examples]:
    """Train and test, pixels as float32 from 0 to 1, shape (n, 784)."""
    split = mnist.read(Path(folder))
    train, test = (Examples(part.x.reshape(-1, PIXELS) / np.float32(255), part.y) for part in (split.train, split.test))
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
def evaluate(model: hansa.Arrays, _: np.random.Generator, *, data: str = "data/mnist") -> hansa.Metrics:
    """Accuracy on the test images."""
    test = read(data)[1]
    says = (test.x @ model["weight"] + model["bias"]).argmax(axis=1)
    return hansa.Metrics({"accuracy": np.mean(says == test.y)}, num_examples=len(test.y))
