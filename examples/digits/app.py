"""Owners of handwritten digits, each with its own mix of labels, train one classifier: softmax regression in numpy."""

from functools import cache

import numpy as np

import hansa
from hansa.data import Examples, digits, partition

DIGITS = digits.read()

app = hansa.App()


@app.data
def share(client: hansa.ClientInfo) -> Examples:
    """One owner's images: every owner draws the same partition, and keeps its own part of it."""
    return DIGITS.train.take(shares(client.total)[client.index])


@cache
def shares(owners: int) -> list[np.ndarray]:
    """Which images each owner has; 0.5 is skewed: some owners lack some digits altogether."""
    return partition.dirichlet(DIGITS.train.y, owners, alpha=0.5, rng=np.random.default_rng(0))


@app.model
def initial_model(_: np.random.Generator) -> dict[str, np.ndarray]:
    """64 pixels → 10 digits, from zeros."""
    return {"weight": np.zeros((64, 10), np.float32), "bias": np.zeros(10, np.float32)}


@app.train
def train(model: hansa.Arrays, task: hansa.Task) -> hansa.Update:
    """Five passes over the owner's images, 16 at a time."""
    weight, bias = model["weight"].copy(), model["bias"].copy()
    x, y = task.data
    for _ in range(5):
        for batch in np.array_split(task.rng.permutation(len(y)), len(y) // 16 + 1):
            error = (probabilities(x[batch] @ weight + bias) - np.eye(10)[y[batch]]) / len(batch)
            weight -= (0.2 * x[batch].T @ error).astype(np.float32)
            bias -= (0.2 * error.sum(axis=0)).astype(np.float32)
    return hansa.Update({"weight": weight, "bias": bias}, num_examples=len(y))


@app.central_evaluate
def evaluate(model: hansa.Arrays, _: np.random.Generator) -> hansa.Metrics:
    """Accuracy and loss on the 359 images that no owner has."""
    x, y = DIGITS.test
    p = probabilities(x @ model["weight"] + model["bias"])
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    return hansa.Metrics({"accuracy": (p.argmax(axis=1) == y).mean(), "loss": loss}, num_examples=len(y))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of each row."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)
