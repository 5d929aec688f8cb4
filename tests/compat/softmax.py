"""An app whose model's tensors are called as those that FEDn's clients upload: by their places."""

import numpy as np

import hansa
from hansa.arrays import Array, Arrays
from hansa.messages import ClientInfo, Task

app = hansa.App()


def examples(share: int) -> tuple[Array, Array]:
    """(x, y) of one client: two classes that a line parts."""
    rng = np.random.default_rng(share)
    x = rng.normal(size=(20 + share, 4)).astype(np.float32)
    return x, (x @ np.array([1, -1, 0.5, 0], np.float32) > 0).astype(np.int64)


def step(weights: Array, bias: Array, x: Array, y: Array, rate: float = 0.5) -> tuple[Array, Array]:
    """One step of gradient descent on the cross-entropy, in float32."""
    scores = x @ weights + bias
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    shares[np.arange(len(y)), y] -= 1
    shares /= np.float32(len(y))
    return weights - np.float32(rate) * (x.T @ shares), bias - np.float32(rate) * shares.sum(axis=0)


def accuracy(weights: Array, bias: Array, x: Array, y: Array) -> float:
    return float(((x @ weights + bias).argmax(axis=1) == y).mean())


@app.model
def initial_model(_rng: np.random.Generator) -> dict[str, Array]:
    return {"0": np.zeros((4, 2), np.float32), "1": np.zeros(2, np.float32)}


@app.data
def load(client: ClientInfo) -> tuple[Array, Array]:
    return examples(client.index)


@app.train
def train(model: Arrays, task: Task) -> hansa.Update:
    x, y = task.data
    weights, bias = step(model["0"], model["1"], x, y)
    return hansa.Update({"0": weights, "1": bias}, num_examples=len(y))


@app.evaluate
def evaluate(model: Arrays, task: Task) -> hansa.Metrics:
    x, y = task.data
    return hansa.Metrics({"accuracy": accuracy(model["0"], model["1"], x, y)}, num_examples=1)
