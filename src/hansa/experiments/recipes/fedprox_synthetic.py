"""FedProx's Synthetic(1, 1): multinomial logistic regression of 30 devices, judged on everybody's examples."""

import math
from functools import cache

import numpy as np

import hansa
from hansa.data import Examples, Split, synthetic

RATE = 0.01
BATCH = 10
EPOCHS = 20
ONE_HOT = np.eye(10, dtype=np.float32)

app = hansa.App()


@cache
def read(seed: int) -> tuple[list[Split], Examples, Examples]:
    """The devices, and the training and test examples of all."""
    devices = synthetic.generate(1, 1, seed=seed)
    train, test = (
        Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        for parts in ([device.train for device in devices], [device.test for device in devices])
    )
    return devices, train, test


@app.data
def share(client: hansa.ClientInfo, *, data_seed: int = 0) -> Examples:
    """One device's examples, a constant feature among the inputs, targets one-hot."""
    x, y = read(data_seed)[0][client.index].train
    return Examples(with_ones(x), ONE_HOT[y])


@app.model
def initial_model(_: np.random.Generator) -> dict[str, np.ndarray]:
    """Zeros; the last row of the weights is the bias."""
    return {"weight": np.zeros((61, 10), np.float32)}


@app.train
def train(model: hansa.Arrays, task: hansa.Task) -> hansa.Update:
    """SGD, with the proximal term that the algorithm asks for."""
    correction = task.correction or hansa.GradientCorrection()
    return hansa.Update({"weight": sgd(model["weight"], task, correction.proximal)}, num_examples=len(task.data.y))


@app.central_evaluate
def everybody(model: hansa.Arrays, _: np.random.Generator, *, data_seed: int = 0) -> hansa.Metrics:
    """Training loss and test accuracy over all devices' examples."""
    _, learnt, test = read(data_seed)
    logits = with_ones(learnt.x) @ model["weight"]
    logits -= logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(learnt.y)), learnt.y]
    says = (with_ones(test.x) @ model["weight"]).argmax(axis=1)
    return hansa.Metrics({"train_loss": loss.mean(), "accuracy": np.mean(says == test.y)}, len(test.y))


def with_ones(x: np.ndarray) -> np.ndarray:
    """A constant feature, so that the last row of the weights is the bias."""
    return np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)


def sgd(start: np.ndarray, task: hansa.Task, proximal: float) -> np.ndarray:
    """As many of the epochs as the device manages; written out because 200 rounds take two million steps."""
    x, y = task.data
    weight, towards = start.copy(), (RATE * proximal * start).astype(np.float32)
    keep = np.float32(1 - RATE * proximal)
    steps = max(1, math.ceil(task.work * EPOCHS * math.ceil(len(y) / BATCH)))
    while steps > 0:
        order = task.rng.permutation(len(y))
        shuffled_x, shuffled_y = x[order], y[order]
        for begin in range(0, len(y), BATCH)[:steps]:
            batch = shuffled_x[begin : begin + BATCH]
            slope = batch @ weight
            slope -= np.maximum.reduce(slope, axis=1, keepdims=True)
            np.exp(slope, out=slope)
            slope /= np.add.reduce(slope, axis=1, keepdims=True)
            slope -= shuffled_y[begin : begin + BATCH]
            slope *= RATE / len(batch)
            weight *= keep
            weight += towards
            weight -= batch.T @ slope
            steps -= 1
    return weight
